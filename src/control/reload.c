#include "control_int.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "log.h"
#include "tls.h"

/* A verdict that does not come within this time is said to be missing. */
#define VERDICT_MS 10000
/* How often names that did not resolve are looked for. */
#define PENDING_MS 5000

void
conf_args(const struct control *k, struct conf_load_args *a)
{
	*a = (struct conf_load_args){
	    .files = k->args->files,
	    .n_files = k->args->n_files,
	    .strict_files = true,
	    .strict_environment = true,
	    .names_may_pend = k->conf == NULL,
	};
}

static const char *
severity_word(enum diag_severity s)
{
	switch (s) {
	case DIAG_ERROR:
		return "error";
	case DIAG_WARNING:
		return "warning";
	case DIAG_NOTE:
		return "note";
	}
	return "?";
}

/* As `check` prints them, without the source line. */
void
diags_print(const struct diags *d, struct text *out)
{
	for (size_t i = 0; i < d->n; i++) {
		const struct diag *x = &d->list[i];

		if (x->file[0] != '\0')
			text_add(out, "%s:", x->file);
		if (x->line != 0)
			text_add(out, "%u:", x->line);
		if (x->column != 0)
			text_add(out, "%u:", x->column);
		text_add(out, "%s%s[%s]: %s\n",
		    out->len == 0 || out->data[out->len - 1] == '\n' ? "" : " ",
		    severity_word(x->severity), x->code, x->message);
		if (x->hint != NULL)
			text_add(out, "    %s\n", x->hint);
	}
}

/* ---- What outlives configurations ---- */

static struct shared_entry *
shared_find(struct control *k, const char *name, enum direction direction)
{
	LIST_EACH (it, &k->shared) {
		struct shared_entry *e =
		    CONTAINER_OF(it, struct shared_entry, node);

		if (e->direction == direction && strcmp(e->name, name) == 0)
			return e;
	}
	return NULL;
}

static struct shared_entry *
shared_add(struct control *k, const char *name, enum direction direction)
{
	struct shared_entry *e = calloc(1, sizeof(*e));
	size_t n = k->workers.n_workers;
	/* Counters of two workers never share a cache line. */
	size_t bytes = n * sizeof(struct service_counters);

	if (e == NULL)
		return NULL;
	e->name = strdup(name);
	e->shared.workers = aligned_alloc(64, (bytes + 63) & ~(size_t)63);
	if (e->name == NULL || e->shared.workers == NULL) {
		free(e->name);
		free(e->shared.workers);
		free(e);
		return NULL;
	}
	memset(e->shared.workers, 0, bytes);
	e->shared.n_workers = n;
	e->direction = direction;
	node_init(&e->node);
	list_add_tail(&k->shared, &e->node);
	return e;
}

bool
shared_attach(struct control *k, struct conf *c)
{
	for (size_t i = 0; i < c->n_services; i++) {
		struct service *s = &c->services[i];
		struct shared_entry *e = shared_find(k, s->name, s->direction);

		if (e == NULL)
			e = shared_add(k, s->name, s->direction);
		if (e == NULL)
			return false;
		s->shared = &e->shared;
	}
	return true;
}

/* ---- The diff that the operator sees ---- */

/* The same renderer as `dump`: what it prints alike is alike. */
static bool
is_same_service(const struct conf *a, const struct service *x,
    const struct conf *b, const struct service *y)
{
	struct text ta, tb;
	bool same;

	text_init(&ta);
	text_init(&tb);
	conf_dump_service(a, x->index, &ta);
	conf_dump_service(b, y->index, &tb);
	same = !ta.failed && !tb.failed &&
	       span_equal(span_of(ta.data, ta.len), span_of(tb.data, tb.len));
	text_fini(&ta);
	text_fini(&tb);
	return same;
}

static const char *
direction_name(const struct service *s)
{
	return s->direction == INBOUND ? "inbound" : "outbound";
}

static const struct service *
same_name(const struct conf *c, const struct service *s)
{
	const struct service *o = conf_service(c, span_of_str(s->name));

	return o != NULL && o->direction == s->direction ? o : NULL;
}

static void
diff(const struct conf *old, const struct conf *new, struct text *out)
{
	for (size_t i = 0; i < new->n_services; i++) {
		const struct service *s = &new->services[i];
		const struct service *o = same_name(old, s);
		const char *word = "added";

		if (o != NULL)
			word = is_same_service(old, o, new, s) ? "kept"
			                                       : "changed";
		text_add(out, "%s [%s %s]\n", word, direction_name(s), s->name);
	}
	for (size_t i = 0; i < old->n_services; i++) {
		const struct service *s = &old->services[i];

		if (same_name(new, s) == NULL)
			text_add(out, "removed [%s %s]: drains\n",
			    direction_name(s), s->name);
	}
	if (old->global.threads != new->global.threads)
		text_add(out, "threads: needs a restart, kept as it is\n");
	if (old->global.dumpable != new->global.dumpable)
		text_add(out, "dumpable: needs a restart, kept as it is\n");
	if (old->global.start_gate_identity != new->global.start_gate_identity)
		text_add(out, "start_gate: needs a restart, kept as it is\n");
}

/* ---- Build all, then swap ---- */

static bool
same_str(const char *a, const char *b)
{
	if (a == NULL || b == NULL)
		return a == b;
	return strcmp(a, b) == 0;
}

static uint64_t
max_connections(const struct control *k, const struct conf *c)
{
	if (c->global.max_connections != 0)
		return c->global.max_connections;
	return (k->workers.descriptors_max - 32) / 2;
}

static void
apply_limits(struct control *k, const struct conf *c)
{
	atomic_store_explicit(&k->workers.max_connections,
	    max_connections(k, c), memory_order_relaxed);
	atomic_store_explicit(&k->workers.log_level, (int)c->global.log_level,
	    memory_order_relaxed);
	log_set_level(c->global.log_level);
	log_sink_configure(k->log, c);
}

static bool
tls_changed(const struct conf *a, const struct conf *b)
{
	return !same_str(a->global.ciphersuites, b->global.ciphersuites) ||
	       !same_str(a->global.groups, b->global.groups);
}

static bool
source_changed(const struct conf *a, const struct conf *b)
{
	if (!same_str(a->global.workload_api, b->global.workload_api) ||
	    a->global.n_workload_api_uids != b->global.n_workload_api_uids)
		return true;
	return a->global.n_workload_api_uids != 0 &&
	       memcmp(a->global.workload_api_uids, b->global.workload_api_uids,
	           a->global.n_workload_api_uids * sizeof(uid_t)) != 0;
}

/* What follows from a new configuration besides services. */
static void
apply_globals(struct control *k, const struct conf *old)
{
	const struct conf_global *g = &k->conf->global;
	const struct keeper_conf kc = {
	    .trust_domain = g->trust_domain == NULL
	                        ? span_of(NULL, 0)
	                        : span_of_str(g->trust_domain),
	    .grace_ms = g->redaction_grace_ms,
	};
	struct why why;

	apply_limits(k, k->conf);
	if (tls_changed(old, k->conf)) {
		k->posted_key_type = NULL; /* asks for new contexts */
		if (publish_material(k, &why) != FAULT_NONE)
			log_say(LOG_LEVEL_ERROR, "config-refused",
			    "TLS settings: %s", why.text);
	}
	keeper_did(k,
	    keeper_configure(k->keeper, &kc, clock_wall_s(), control_now_ms()),
	    "configuration");
	if (source_changed(old, k->conf) && source_start(k, &why) != FAULT_NONE)
		log_say(LOG_LEVEL_ERROR, "agent-down", "%s", why.text);
	metrics_http_commit(k, &g->metrics);
}

static enum fault
check_limits(const struct control *k, const struct conf *c, struct why *why)
{
	uint64_t can = (k->workers.descriptors_max - 32) / 2;

	if (max_connections(k, c) > can)
		return fail(why, FAULT_CONF,
		    "C135: max_connections = %u needs more descriptors than "
		    "RLIMIT_NOFILE allows: at most %llu",
		    c->global.max_connections, (unsigned long long)can);
	return FAULT_NONE;
}

static enum fault
check_tls(const struct conf *c, struct why *why)
{
	const struct tls_settings s = {
	    .ciphersuites = c->global.ciphersuites,
	    .groups = c->global.groups,
	};

	return tls_settings_check(&s, why);
}

/* Everything that may fail, and none of it visible until the end. */
static enum fault
build(struct control *k, struct conf *c, struct why *why)
{
	enum fault f = check_limits(k, c, why);

	if (f == FAULT_NONE)
		f = check_tls(c, why);
	if (f == FAULT_NONE && !shared_attach(k, c))
		f = fail(why, FAULT_NOMEM, "reload: out of memory");
	if (f == FAULT_NONE)
		f = listeners_prepare(k, c, why);
	if (f == FAULT_NONE)
		f = metrics_http_prepare(k, &c->global.metrics, why);
	if (f == FAULT_NONE)
		f = listeners_listen(k, c, why);
	return f;
}

static enum fault
swap(struct control *k, struct conf *c, struct why *why)
{
	struct old_conf *o = calloc(1, sizeof(*o));

	if (o == NULL)
		return fail(why, FAULT_NOMEM, "reload: out of memory");
	c->generation = ++k->conf_generations;
	hosts_use(k, c);
	if (!publish_conf(k, c)) {
		free(o);
		return fail(why, FAULT_NOMEM, "reload: out of memory");
	}
	node_init(&o->node);
	o->conf = k->conf;
	o->replaced_by = c->generation;
	o->drain_until_ms = control_now_ms() + c->global.drain_timeout_ms;
	list_add_tail(&k->old_confs, &o->node);
	k->conf = c;
	k->conf_loaded_s = clock_wall_s();
	listeners_commit(k);
	return FAULT_NONE;
}

/*
 * systemd shows the unit as reloading from here until READY=1, which therefore
 * follows on every path.
 */
static void
say_reloading(void)
{
	struct text t;

	text_init(&t);
	text_add(&t, "RELOADING=1\nMONOTONIC_USEC=%lld",
	    (long long)clock_monotonic_us());
	(void)sys_notify(t.data);
	text_fini(&t);
}

static void
answer(struct control *k, int code)
{
	struct reload_wait *r = k->reload;

	(void)sys_notify("READY=1");
	if (r->client != NULL) {
		r->client->awaited = 0;
		admin_done(r->client, code); /* frees one that left meanwhile */
	}
	free(r->diff);
	free(r);
	k->reload = NULL;
}

/* Nothing in force has changed. */
static void
refuse(
    struct control *k, struct admin_client *client, const char *text, int code)
{
	k->last_reload_ok = false;
	k->last_reload_s = clock_wall_s();
	text_clear(&k->refused);
	text_add(&k->refused, "%s", text);
	audit_config(k, "config-refused", text, LOG_LEVEL_ERROR);
	if (client == NULL)
		return;
	text_add(&client->out, "%srunning configuration unchanged\n", text);
	admin_done(client, code);
}

static void
await(struct control *k, struct admin_client *client, const struct conf *old)
{
	struct reload_wait *r = calloc(1, sizeof(*r));
	struct text d;

	text_init(&d);
	diff(old, k->conf, &d);
	k->last_reload_ok = true;
	k->last_reload_s = clock_wall_s();
	audit_config(k, "config-loaded", d.data, LOG_LEVEL_INFO);
	if (client != NULL) {
		text_add_span(&client->out, span_of(d.data, d.len));
		client->awaited = 1;
	}
	text_fini(&d);
	if (r == NULL) {
		(void)sys_notify("READY=1");
		if (client != NULL) {
			client->awaited = 0;
			admin_done(client, 0);
		}
		return;
	}
	r->client = client;
	r->generation = k->conf->generation;
	r->since_ms = control_now_ms();
	k->reload = r;
}

void
reload_start(struct control *k, struct admin_client *client)
{
	const struct conf *old = k->conf;
	struct conf_load_args args;
	struct conf *c = NULL;
	struct diags d;
	struct text text;
	struct why why;

	if (k->reload != NULL || k->stopping) {
		if (client != NULL) {
			text_add(&client->out, "busy: %s\n",
			    k->stopping ? "the daemon is stopping"
			                : "another reload is under way");
			admin_done(client, 1);
		}
		return;
	}
	conf_args(k, &args);
	diags_init(&d);
	text_init(&text);
	if (conf_load(&args, &c, &d) != FAULT_NONE) {
		diags_print(&d, &text);
		refuse(k, client, text.data, 3);
	} else if (build(k, c, &why) != FAULT_NONE ||
	           swap(k, c, &why) != FAULT_NONE) {
		listeners_rollback(k);
		metrics_http_free(&k->http_next);
		conf_free(&c);
		text_add(&text, "%s\n", why.text);
		refuse(k, client, text.data, 1);
	} else {
		if (client != NULL)
			diags_print(&d, &client->out);
		say_reloading();
		apply_globals(k, old);
		await(k, client, old);
	}
	text_fini(&text);
	diags_fini(&d);
}

void
reload_tick(struct control *k)
{
	struct reload_wait *r = k->reload;

	if (r == NULL)
		return;
	if (publish_is_seen(k, r->generation)) {
		answer(k, 0);
	} else if (control_now_ms() >= r->since_ms + VERDICT_MS) {
		if (r->client != NULL)
			text_add(&r->client->out,
			    "not every worker has adopted it within 10 s\n");
		answer(k, 1);
	}
}

/*
 * A user or group that did not resolve at the start is looked for again, and
 * the configuration loaded anew once all of them are there.
 */
void
pending_tick(struct control *k)
{
	struct conf_load_args args;
	struct conf *c = NULL;
	struct diags d;
	bool resolved;

	if (!k->conf->pending || k->reload != NULL || k->stopping ||
	    control_now_ms() < k->pending_next_ms)
		return;
	k->pending_next_ms = control_now_ms() + PENDING_MS;
	conf_args(k, &args);
	args.names_may_pend = true;
	diags_init(&d);
	resolved = conf_load(&args, &c, &d) == FAULT_NONE && !c->pending;
	diags_fini(&d);
	conf_free(&c);
	if (resolved)
		reload_start(k, NULL);
}
