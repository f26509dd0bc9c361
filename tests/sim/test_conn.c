/*
 * A connection's life on a scripted mesh: no TLS, no network but socket pairs
 * and unix sockets of this process, and a clock that is told.
 */

#include "made.h"

#include <event2/event.h>
#include <openssl/x509_vfy.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "caller.h"
#include "conn_int.h"
#include "scripted.h"
#include "tls.h"

#define WEB "spiffe://a.test/web"

/* ---- A link that does what the test says ---- */

struct mesh_link {
	struct scripted stream;
	struct link_judge *judge;
	struct link_failure failure;
	bool up;
	bool streamed;
};

/* What the next link is to do; one test at a time. */
static struct {
	const char *script; /* of the mesh side */
	bool silent;        /* the handshake never ends */
	enum link_failure_kind fails;
	struct peer *peer;
	struct mesh_link *made;
} plan;

static struct mesh_link *
fake_new(int fd, const struct link_conf *conf, struct link_judge *judge)
{
	struct mesh_link *l = calloc(1, sizeof(*l));

	(void)fd;
	(void)conf;
	assert_non_null(l);
	scripted_init(&l->stream, plan.script, 60000);
	l->judge = judge;
	plan.made = l;
	return l;
}

static void
fake_ready(struct mesh_link *l, bool readable, bool writable, bool hup)
{
	(void)l;
	(void)readable;
	(void)writable;
	(void)hup;
}

static enum link_event
fake_step(struct mesh_link *l, bool may_be_heavy)
{
	if (l->up) {
		l->streamed = true;
		return LINK_STREAM;
	}
	if (plan.silent)
		return LINK_WAIT;
	if (!may_be_heavy)
		return LINK_HEAVY;
	l->failure.kind = plan.fails;
	if (plan.fails == LINK_OK) {
		l->failure.reason = l->judge->judge(l->judge, plan.peer);
		if (l->failure.reason != DENY_NOT)
			l->failure.kind = LINK_REFUSED;
	}
	l->up = l->failure.kind == LINK_OK;
	return l->up ? LINK_UP : LINK_FAILED;
}

static struct peer *
fake_peer(const struct mesh_link *l)
{
	(void)l;
	return plan.peer;
}

static const struct link_failure *
fake_failure(const struct mesh_link *l)
{
	return &l->failure;
}

static void
fake_facts(const struct mesh_link *l, struct link_facts *facts_r)
{
	(void)l;
	*facts_r = (struct link_facts){
	    .tls_version = "TLSv1.3", .cipher = "-", .group = "-"};
}

static struct stream *
fake_next_stream(struct mesh_link *l, struct addr *asked_r)
{
	*asked_r = (struct addr){0};
	return &l->stream.s;
}

static void
fake_drain(struct mesh_link *l)
{
	(void)l;
}

static void
fake_free(struct mesh_link **l)
{
	free(*l);
	*l = NULL;
	plan.made = NULL;
}

static const struct transport_ops fake_transport = {
    .name = "fake",
    .accept = fake_new,
    .connect = fake_new,
    .ready = fake_ready,
    .step = fake_step,
    .peer = fake_peer,
    .failure = fake_failure,
    .facts = fake_facts,
    .next_stream = fake_next_stream,
    .drain = fake_drain,
    .free = fake_free,
};

/* ---- A worker's worth of environment ---- */

struct rig {
	struct conn_env env;
	struct spill_pool spills;
	struct wheel wheel;
	uint8_t scratch[SCRATCH_BYTES];
	struct service service;
	struct service_shared shared;
	struct service_counters counters;
	struct policy *policy;
	struct rule rule;
	const struct rule *rules[1]; /* outlives the policy */
	struct target_list targets;
	struct peer_table *peers;
	struct anchors *anchors;
	struct addr app; /* a listening unix socket */
	int app_fd;
	int outer; /* the test's end of the accepted socket */
	struct conn *c;
	struct fields record;
	size_t records;
	bool denial;
	bool queued;
	size_t resolves;
};

static void
on_enqueue(void *owner, struct conn *c)
{
	(void)c;
	((struct rig *)owner)->queued = true;
}

static const struct target_list *
on_targets(void *owner, const struct service *s)
{
	(void)s;
	return &((struct rig *)owner)->targets;
}

static void
on_resolve(void *owner, const struct service *s)
{
	(void)s;
	((struct rig *)owner)->resolves++;
}

static void
on_record(void *owner, const struct fields *f, bool denial)
{
	struct rig *r = owner;

	r->record = *f;
	r->denial = denial;
	r->records++;
}

static bool
on_sample(void *owner, const struct service *s)
{
	(void)owner;
	(void)s;
	return true;
}

static void
allow(struct rig *r, const char *text)
{
	enum spiffe_id_error e;

	assert_int_equal(rule_parse(span_of_str(text), &r->rule, &e), RULE_OK);
	r->rule.file = "test.ini";
	r->rule.line = 7;
	r->rules[0] = &r->rule;
	assert_int_equal(
	    policy_compile(r->rules, 1, NULL, 0, &r->policy, NULL), FAULT_NONE);
	r->service.policy = r->policy;
}

static struct peer *
peer_of(struct rig *r, const char *id)
{
	AUTO(ca_free) struct ca *ca = made_ca(NULL, NULL);
	AUTO(ca_svid_free) struct ca_svid *svid = made_svid_of(ca, id);
	struct bundle_raw bundle = {.trust_domain = span_of_str("a.test"),
	    .authorities = ca_certificate(ca)};
	AUTO(identity_free)
	struct identity *identity = made_identity(NULL, &bundle, 1);
	struct verify_args args = {.role = PEER_IS_CLIENT, .now_s = 0};
	X509_STORE_CTX *ctx = X509_STORE_CTX_new();
	struct peer *p = NULL;

	r->peers = peer_table_new();
	assert_int_equal(
	    anchors_new(identity, NULL, &r->anchors, NULL), FAULT_NONE);
	args.anchors = r->anchors;
	args.peers = r->peers;
	args.now_s = (int64_t)time(NULL);
	X509_STORE_CTX_init(ctx, NULL, ca_svid_leaf(svid), ca_svid_above(svid));
	assert_int_equal(verify_peer(ctx, &args, &p, NULL, NULL), DENY_NOT);
	X509_STORE_CTX_free(ctx);
	return p;
}

static void
listen_app(struct rig *r)
{
	char path[64];
	struct text uri;

	(void)snprintf(path, sizeof(path), "/tmp/postern-sim-%d", getpid());
	(void)unlink(path);
	text_init(&uri);
	text_add(&uri, "unix:%s", path);
	assert_int_equal(
	    addr_parse(span_of(uri.data, uri.len), &r->app, NULL), FAULT_NONE);
	text_fini(&uri);
	r->app_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	assert_int_equal(bind(r->app_fd, &r->app.sa.any, r->app.len), 0);
	assert_int_equal(listen(r->app_fd, 8), 0);
}

static void
rig_init(struct rig *r, enum direction direction, const char *script)
{
	memset(r, 0, sizeof(*r));
	memset(&plan, 0, sizeof(plan));
	plan.script = script;
	listen_app(r);
	assert_true(spill_pool_init(&r->spills, 1 << 20));
	wheel_init(&r->wheel, 1000000);
	r->shared.n_workers = 1;
	r->shared.workers = &r->counters;
	r->service = (struct service){.name = "a",
	    .direction = direction,
	    .forward = r->app,
	    .handshake_timeout_ms = 10000,
	    .connect_timeout_ms = 5000,
	    .half_close_timeout_ms = 60000,
	    .log_sample = 1,
	    .shared = &r->shared};
	r->targets = (struct target_list){.addrs = &r->app, .n = 1};
	r->env = (struct conn_env){.base = event_base_new(),
	    .scratch = {.data = r->scratch, .spills = &r->spills},
	    .transport = &fake_transport,
	    .breaker = breaker_new(),
	    .wheel = &r->wheel,
	    .now_ms = 1000000,
	    .conf_generation = 1,
	    .owner = r,
	    .enqueue = on_enqueue,
	    .targets = on_targets,
	    .resolve = on_resolve,
	    .record = on_record,
	    .sample = on_sample};
	allow(r, WEB);
	plan.peer = peer_of(r, WEB);
}

/* The test holds one end of a socket pair, the connection the other. */
static void
begin(struct rig *r)
{
	struct addr from = {0};
	int pair[2];

	assert_int_equal(
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
	from.sa.any.sa_family = AF_UNIX;
	from.len = sizeof(sa_family_t);
	r->outer = pair[0];
	r->c = conn_new(&r->env, &r->service, pair[1], &from, 1);
	assert_non_null(r->c);
}

/* Steps and edges until it waits; handshake steps are granted. */
static enum conn_verdict
settle(struct rig *r)
{
	enum conn_verdict v = CONN_WAIT;

	for (int i = 0; i < 50; i++) {
		(void)event_base_loop(r->env.base, EVLOOP_NONBLOCK);
		r->queued = false;
		r->c->may_be_heavy = v == CONN_HEAVY;
		v = conn_step(r->c);
		if (v == CONN_OVER)
			break;
	}
	return v;
}

static void
rig_fini(struct rig *r)
{
	if (r->c != NULL) {
		conn_abort(r->c, CLOSE_ADMIN);
		conn_free(&r->c);
	}
	(void)close(r->outer);
	(void)close(r->app_fd);
	(void)unlink(r->app.sa.un.sun_path);
	spill_pool_fini(&r->spills);
	breaker_free(&r->env.breaker);
	event_base_free(r->env.base);
	policy_free(&r->policy);
	rule_fini(&r->rule);
	peer_release(&plan.peer);
	peer_table_free(&r->peers);
	anchors_free(&r->anchors);
	tls_env_free(&r->env.tls);
}

static void
assert_field(const struct rig *r, enum log_field field, const char *want)
{
	struct span v;

	if (!fields_get(&r->record, field, &v))
		fail_msg("no field %s", log_field_name(field));
	if (!span_equal_str(v, want))
		fail_msg("%s is %.*s, not %s", log_field_name(field),
		    (int)v.len, (const char *)v.data, want);
}

static int
accept_app(struct rig *r)
{
	struct pollfd p = {.fd = r->app_fd, .events = POLLIN};

	return poll(&p, 1, 0) == 1 ? accept(r->app_fd, NULL, NULL) : -1;
}

/* ---- Stories ---- */

/* The whole life: judged, dialled, relayed, ended, and one line about it. */
static void
sim_conn_inbound_allowed_is_relayed_and_logged(void **state)
{
	struct rig r;
	char buf[16];
	int app;

	(void)state;
	rig_init(&r, INBOUND, "hello.");
	begin(&r);
	assert_int_equal(settle(&r), CONN_WAIT);
	assert_int_equal(r.c->state, CONN_RELAY);
	app = accept_app(&r);
	assert_int_equal(read(app, buf, sizeof(buf)), 5);
	assert_memory_equal(buf, "hello", 5);
	assert_int_equal(read(app, buf, sizeof(buf)), 0);
	assert_int_equal(write(app, "bye", 3), 3);
	(void)close(app);
	assert_int_equal(settle(&r), CONN_OVER);
	assert_int_equal(r.records, 1);
	assert_false(r.denial);
	assert_field(&r, FIELD_event, "close");
	assert_field(&r, FIELD_close, "mesh-fin");
	assert_field(&r, FIELD_bytes_in, "5");
	assert_field(&r, FIELD_bytes_out, "3");
	assert_field(&r, FIELD_rule, "test.ini:7");
	assert_int_equal(counter_get(&r.counters.allowed), 1);
	rig_fini(&r);
	assert_int_equal(counter_get(&r.counters.opened), 1);
	assert_int_equal(counter_get(&r.counters.closed), 1);
}

/* A refused peer never costs the app a connection. */
static void
sim_conn_inbound_denied_is_never_dialled(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, INBOUND, "x");
	policy_free(&r.policy);
	rule_fini(&r.rule);
	allow(&r, "a.test/other");
	begin(&r);
	assert_int_equal(settle(&r), CONN_TICK);
	assert_int_equal(r.c->state, CONN_LINGER);
	(void)close(r.outer);
	assert_int_equal(settle(&r), CONN_OVER);
	assert_int_equal(accept_app(&r), -1);
	assert_true(r.denial);
	assert_field(&r, FIELD_event, "deny");
	assert_field(&r, FIELD_reason, "no_rule");
	assert_int_equal(counter_get(&r.counters.denied), 1);
	assert_int_equal(counter_get(&r.counters.allowed), 0);
	rig_fini(&r);
}

/* A rule that goes between the handshake and its end still refuses. */
static void
sim_conn_rule_withdrawn_before_authorize_refuses(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, INBOUND, "x");
	begin(&r);
	(void)conn_step(r.c);
	r.c->may_be_heavy = true;
	plan.silent = true;
	(void)conn_step(r.c);
	plan.silent = false;
	/* The judge answers under the old generation ... */
	assert_int_equal(r.c->judge.judge(&r.c->judge, plan.peer), DENY_NOT);
	plan.made->up = true;
	/* ... and a new configuration comes before the handshake is over. */
	policy_free(&r.policy);
	rule_fini(&r.rule);
	allow(&r, "a.test/other");
	r.env.conf_generation = 2;
	assert_int_equal(settle(&r), CONN_OVER);
	assert_int_equal(accept_app(&r), -1);
	assert_field(&r, FIELD_reason, "no_rule");
	rig_fini(&r);
}

/*
 * The worker knows the new generation before its pass comes to a connection:
 * what the old rules said meanwhile is no verdict of the new ones.
 */
static void
sim_conn_verdict_of_the_old_service_is_given_again(void **state)
{
	struct service other;
	struct rig r;

	(void)state;
	rig_init(&r, INBOUND, "x");
	begin(&r);
	plan.silent = true;
	(void)settle(&r);
	plan.silent = false;
	r.env.conf_generation = 2;
	assert_int_equal(r.c->judge.judge(&r.c->judge, plan.peer), DENY_NOT);
	policy_free(&r.policy);
	rule_fini(&r.rule);
	allow(&r, "a.test/other");
	other = r.service;
	assert_true(conn_rejudge(r.c, &other));
	plan.made->up = true;
	assert_int_equal(settle(&r), CONN_OVER);
	assert_int_equal(accept_app(&r), -1);
	assert_field(&r, FIELD_reason, "no_rule");
	rig_fini(&r);
}

/* Audit lets pass, and says what it would have done. */
static void
sim_conn_audit_passes_and_says_so(void **state)
{
	struct rig r;
	int app;

	(void)state;
	rig_init(&r, INBOUND, ".");
	policy_free(&r.policy);
	rule_fini(&r.rule);
	allow(&r, "a.test/other");
	r.service.mode = MODE_AUDIT;
	begin(&r);
	assert_int_equal(settle(&r), CONN_WAIT);
	app = accept_app(&r);
	assert_int_not_equal(app, -1);
	(void)close(app);
	assert_int_equal(settle(&r), CONN_OVER);
	assert_true(r.denial);
	assert_field(&r, FIELD_event, "audit-deny");
	assert_field(&r, FIELD_reason, "no_rule");
	assert_int_equal(counter_get(&r.counters.audit), 1);
	assert_int_equal(counter_get(&r.counters.denied), 0);
	rig_fini(&r);
}

/*
 * Outbound, audit is about the local program: that the server is the expected
 * one must not hide that this program would be refused, or nobody dares to
 * enforce.
 */
static void
sim_conn_audit_of_a_local_program_survives_the_server(void **state)
{
	struct caller_rule rule = {0};
	struct service enforced;
	struct rig r;

	(void)state;
	rig_init(&r, OUTBOUND, "");
	assert_int_equal(
	    caller_rule_parse(span_of_str("uid 4294967290"), &rule, NULL),
	    FAULT_NONE);
	r.service.callers = &rule;
	r.service.n_callers = 1;
	r.service.mode = MODE_AUDIT;
	assert_int_equal(caller_env_new(&r.env.caller, NULL), FAULT_NONE);
	begin(&r);
	assert_int_equal(conn_judge_caller(r.c), CALLER_YES);
	assert_int_equal(conn_judge_id(r.c, plan.peer), DENY_NOT);
	assert_true(r.c->audit_denied);
	assert_int_equal(r.c->deny, DENY_LOCAL_CALLER);
	/* And with the trial over, it may not stay. */
	r.c->state = CONN_RELAY;
	enforced = r.service;
	enforced.mode = MODE_ENFORCE;
	assert_false(conn_rejudge(r.c, &enforced));
	assert_field(&r, FIELD_close, "policy");
	assert_field(&r, FIELD_reason, "local_caller");
	assert_int_equal(counter_get(&r.counters.denied), 1);
	caller_rule_fini(&rule);
	caller_env_free(&r.env.caller);
	rig_fini(&r);
}

/* The deadline of the handshake is absolute: edges do not extend it. */
static void
sim_conn_handshake_deadline_is_absolute(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, INBOUND, "");
	plan.silent = true;
	begin(&r);
	for (int i = 0; i < 9; i++) {
		r.env.now_ms += 1100;
		assert_int_equal(write(r.outer, "x", 1), 1);
		assert_int_equal(settle(&r), CONN_WAIT);
	}
	r.env.now_ms += 200;
	assert_int_equal(settle(&r), CONN_OVER);
	assert_field(&r, FIELD_close, "handshake-timeout");
	assert_int_equal(counter_get(&r.counters.handshake_failures[3]), 1);
	rig_fini(&r);
}

/* An app that is not there is an abort with its reason. */
static void
sim_conn_app_refuses_is_a_failed_dial(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, INBOUND, "x");
	(void)unlink(r.app.sa.un.sun_path);
	begin(&r);
	assert_int_equal(settle(&r), CONN_OVER);
	assert_field(&r, FIELD_close, "dial-failed");
	assert_field(&r, FIELD_reason, "refused");
	rig_fini(&r);
}

/* Idleness ends only what is idle: each byte restarts it. */
static void
sim_conn_idle_timeout_is_restarted_by_bytes(void **state)
{
	struct rig r;
	int app;

	(void)state;
	rig_init(&r, INBOUND, "");
	r.service.idle_timeout_ms = 5000;
	begin(&r);
	assert_int_equal(settle(&r), CONN_WAIT);
	app = accept_app(&r);
	for (int i = 0; i < 5; i++) {
		r.env.now_ms += 4000;
		assert_int_equal(write(app, "x", 1), 1);
		assert_int_equal(settle(&r), CONN_WAIT);
	}
	r.env.now_ms += 5000;
	assert_int_equal(settle(&r), CONN_OVER);
	assert_field(&r, FIELD_close, "idle");
	(void)close(app);
	rig_fini(&r);
}

/* One end said, the other idle: its own deadline, restarted by bytes. */
static void
sim_conn_half_close_timeout_bounds_only_idleness(void **state)
{
	struct rig r;
	int app;

	(void)state;
	rig_init(&r, INBOUND, ".");
	begin(&r);
	assert_int_equal(settle(&r), CONN_WAIT);
	app = accept_app(&r);
	for (int i = 0; i < 3; i++) {
		r.env.now_ms += 50000;
		assert_int_equal(write(app, "x", 1), 1);
		assert_int_equal(settle(&r), CONN_WAIT);
	}
	r.env.now_ms += 60000;
	assert_int_equal(settle(&r), CONN_OVER);
	assert_field(&r, FIELD_close, "half-close-idle");
	assert_field(&r, FIELD_half_closed, "mesh");
	(void)close(app);
	rig_fini(&r);
}

/* A live connection whose rule is gone is aborted, with its reason. */
static void
sim_conn_rejudged_without_its_rule_is_aborted(void **state)
{
	struct service other;
	struct rig r;
	int app;

	(void)state;
	rig_init(&r, INBOUND, "");
	begin(&r);
	assert_int_equal(settle(&r), CONN_WAIT);
	app = accept_app(&r);
	other = r.service;
	r.env.conf_generation = 2;
	assert_true(conn_rejudge(r.c, &other));
	policy_free(&r.policy);
	rule_fini(&r.rule);
	allow(&r, "a.test/other");
	other = r.service;
	assert_false(conn_rejudge(r.c, &other));
	assert_int_equal(settle(&r), CONN_OVER);
	assert_field(&r, FIELD_close, "policy");
	assert_int_equal(counter_get(&r.counters.reauthorized), 1);
	(void)close(app);
	rig_fini(&r);
}

/* No identity to show: the local program is refused before any dial. */
static void
sim_conn_outbound_without_identity_is_never_dialled(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, OUTBOUND, "");
	r.env.tls = tls_env_new();
	assert_int_equal(caller_env_new(&r.env.caller, NULL), FAULT_NONE);
	begin(&r);
	assert_int_equal(settle(&r), CONN_OVER);
	assert_int_equal(accept_app(&r), -1);
	assert_field(&r, FIELD_reason, "no_identity");
	caller_env_free(&r.env.caller);
	rig_fini(&r);
}

/* A probe that ends before its first byte is no failure. */
static void
sim_conn_probe_is_counted_apart(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, INBOUND, "");
	plan.fails = LINK_NOBODY;
	begin(&r);
	assert_int_equal(settle(&r), CONN_OVER);
	assert_int_equal(counter_get(&r.counters.probes), 1);
	assert_int_equal(counter_get(&r.counters.failed), 0);
	assert_int_equal(r.record.level, LOG_LEVEL_DEBUG);
	rig_fini(&r);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(sim_conn_inbound_allowed_is_relayed_and_logged),
	    cmocka_unit_test(sim_conn_inbound_denied_is_never_dialled),
	    cmocka_unit_test(sim_conn_rule_withdrawn_before_authorize_refuses),
	    cmocka_unit_test(
	        sim_conn_verdict_of_the_old_service_is_given_again),
	    cmocka_unit_test(sim_conn_audit_passes_and_says_so),
	    cmocka_unit_test(
	        sim_conn_audit_of_a_local_program_survives_the_server),
	    cmocka_unit_test(sim_conn_handshake_deadline_is_absolute),
	    cmocka_unit_test(sim_conn_app_refuses_is_a_failed_dial),
	    cmocka_unit_test(sim_conn_idle_timeout_is_restarted_by_bytes),
	    cmocka_unit_test(sim_conn_half_close_timeout_bounds_only_idleness),
	    cmocka_unit_test(sim_conn_rejudged_without_its_rule_is_aborted),
	    cmocka_unit_test(
	        sim_conn_outbound_without_identity_is_never_dialled),
	    cmocka_unit_test(sim_conn_probe_is_counted_apart),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
