/*
 * A worker on its thread, with loopback listeners and a mesh side whose
 * handshake is one step. The test is its control thread.
 */

#include "made.h"

#include <errno.h>
#include <openssl/x509_vfy.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "worker_int.h"

#define WEB         "spiffe://a.test/web"
#define BOT         "spiffe://a.test/bot"
#define DEADLINE_MS 20000

/* ---- A link that is up at once, or never ---- */

struct mesh_link {
	struct stream stream;
	struct link_judge *judge;
	struct peer *peer;
	bool up;
};

/* Set before the worker starts; the peers take turns. */
static struct {
	bool silent;
	struct peer *peers[2];
	size_t made;
} plan;

static enum io_status
idle_read(struct stream *s, void *buf, size_t len, size_t *n_r)
{
	(void)s;
	(void)buf;
	(void)len;
	(void)n_r;
	return IO_WANT_READ;
}

static enum io_status
idle_write(
    struct stream *s, const void *buf, size_t len, bool more, size_t *n_r)
{
	(void)s;
	(void)buf;
	(void)more;
	*n_r = len;
	return IO_DONE;
}

static enum io_status
idle_finish(struct stream *s)
{
	(void)s;
	return IO_DONE;
}

static void
idle_abort(struct stream *s)
{
	(void)s;
}

static const struct stream_ops idle_ops = {
    .read = idle_read,
    .write = idle_write,
    .finish = idle_finish,
    .abort = idle_abort,
};

static struct mesh_link *
fake_new(int fd, const struct link_conf *conf, struct link_judge *judge)
{
	struct mesh_link *l = calloc(1, sizeof(*l));

	(void)fd;
	(void)conf;
	if (l == NULL)
		return NULL;
	l->stream.ops = &idle_ops;
	l->judge = judge;
	l->peer = plan.peers[plan.made++ % 2];
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
	if (l->up)
		return LINK_STREAM;
	if (plan.silent)
		return LINK_WAIT;
	if (!may_be_heavy)
		return LINK_HEAVY;
	l->up = l->judge->judge(l->judge, l->peer) == DENY_NOT;
	return l->up ? LINK_UP : LINK_FAILED;
}

static struct peer *
fake_peer(const struct mesh_link *l)
{
	return l->peer;
}

static const struct link_failure *
fake_failure(const struct mesh_link *l)
{
	static const struct link_failure none;

	(void)l;
	return &none;
}

static void
fake_facts(const struct mesh_link *l, struct link_facts *facts_r)
{
	(void)l;
	*facts_r = (struct link_facts){
	    .tls_version = "-", .cipher = "-", .group = "-"};
}

static struct stream *
fake_next_stream(struct mesh_link *l, struct addr *asked_r)
{
	*asked_r = (struct addr){0};
	return &l->stream;
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

/* ---- The world of one worker ---- */

struct rig {
	struct worker_shared shared;
	struct worker_public *public;
	struct worker *w;
	struct worker *workers[1];
	struct service_shared counters[2];
	struct service services[2];
	struct conf confs[4];
	uint64_t generation;
	struct rule rules[2];
	const struct rule *list[2];
	struct policy *policy;
	struct peer_table *peers;
	struct anchors *anchors;
	int listen_fds[2];
	struct addr addrs[2];
	int app_fd;
};

static void
make_peers(struct rig *r)
{
	AUTO(ca_free) struct ca *ca = made_ca(NULL, NULL);
	struct bundle_raw bundle = {.trust_domain = span_of_str("a.test"),
	    .authorities = ca_certificate(ca)};
	AUTO(identity_free)
	struct identity *identity = made_identity(NULL, &bundle, 1);
	static const char *const ids[] = {WEB, BOT};

	r->peers = peer_table_new();
	assert_int_equal(
	    anchors_new(identity, NULL, &r->anchors, NULL), FAULT_NONE);
	for (size_t i = 0; i < 2; i++) {
		AUTO(ca_svid_free)
		struct ca_svid *svid = made_svid_of(ca, ids[i]);
		struct verify_args args = {.role = PEER_IS_CLIENT,
		    .now_s = (int64_t)time(NULL),
		    .anchors = r->anchors,
		    .peers = r->peers};
		X509_STORE_CTX *ctx = X509_STORE_CTX_new();

		X509_STORE_CTX_init(
		    ctx, NULL, ca_svid_leaf(svid), ca_svid_above(svid));
		assert_int_equal(
		    verify_peer(ctx, &args, &plan.peers[i], NULL, NULL),
		    DENY_NOT);
		X509_STORE_CTX_free(ctx);
	}
}

static void
make_policy(struct rig *r)
{
	static const char *const ids[] = {WEB, BOT};
	enum spiffe_id_error e;

	for (size_t i = 0; i < 2; i++) {
		assert_int_equal(
		    rule_parse(span_of_str(ids[i]), &r->rules[i], &e), RULE_OK);
		r->rules[i].file = "t.ini";
		r->list[i] = &r->rules[i];
	}
	assert_int_equal(
	    policy_compile(r->list, 2, NULL, 0, &r->policy, NULL), FAULT_NONE);
}

static int
listening(struct addr *addr_r)
{
	struct listen_args args = {.side = SIDE_MESH};
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	int fd;

	assert_int_equal(
	    addr_parse(span_of_str("127.0.0.1:1"), &args.addr, NULL),
	    FAULT_NONE);
	args.addr.sa.in.sin_port = 0;
	assert_int_equal(net_bind(&args, &fd, NULL), FAULT_NONE);
	assert_int_equal(net_listen(fd, 64, NULL), FAULT_NONE);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&ss, &len), 0);
	addr_set(addr_r, (struct sockaddr *)&ss, len);
	return fd;
}

static void
make_services(struct rig *r)
{
	static const char *const names[] = {"api", "web"};
	struct addr app;

	/* The app never accepts: its queue is enough for a connection. */
	r->app_fd = listening(&app);
	for (size_t i = 0; i < 2; i++) {
		r->listen_fds[i] = listening(&r->addrs[i]);
		r->counters[i].n_workers = 1;
		r->counters[i].workers =
		    calloc(1, sizeof(*r->counters[i].workers));
		assert_non_null(r->counters[i].workers);
		r->services[i] = (struct service){.name = names[i],
		    .index = (unsigned int)i,
		    .direction = INBOUND,
		    .forward = app,
		    .policy = r->policy,
		    .handshake_timeout_ms = 60000,
		    .connect_timeout_ms = 60000,
		    .log_sample = 1,
		    .shared = &r->counters[i]};
	}
}

static void
rig_init(struct rig *r, uint64_t max_connections, bool silent)
{
	memset(r, 0, sizeof(*r));
	memset(&plan, 0, sizeof(plan));
	plan.silent = silent;
	make_peers(r);
	make_policy(r);
	make_services(r);
	r->public = aligned_alloc(64, sizeof(*r->public));
	assert_non_null(r->public);
	memset(r->public, 0, sizeof(*r->public));
	r->shared.n_workers = 1;
	r->shared.workers = r->workers;
	r->shared.public = r->public;
	r->shared.control = mailbox_new();
	r->shared.max_connections = max_connections;
	r->shared.log_level = LOG_LEVEL_INFO;
	r->shared.descriptors_max = 1024;
	r->shared.spill_max_bytes = 1 << 20;
	r->w = r->workers[0] = worker_new(&r->shared, 0);
	assert_non_null(r->w);
	r->w->env.transport = &fake_transport;
	assert_int_equal(worker_start(r->w, NULL), FAULT_NONE);
}

static void *
message(size_t size, unsigned int kind)
{
	struct mail *m = calloc(1, size);

	assert_non_null(m);
	m->kind = kind;
	return m;
}

static void
stop(struct rig *r)
{
	struct mail *m = message(sizeof(*m), MAIL_STOP);

	(void)worker_post(r->w, m);
	worker_join(r->w);
}

static void
rig_fini(struct rig *r)
{
	struct node list;
	struct node *n;

	stop(r);
	worker_free(&r->w);
	node_init(&list);
	mail_take(r->shared.control, &list);
	while ((n = list_pop(&list)) != NULL) {
		struct mail *m = CONTAINER_OF(n, struct mail, node);

		worker_mail_free(&m);
	}
	mailbox_free(&r->shared.control);
	for (size_t i = 0; i < 2; i++) {
		free(r->counters[i].workers);
		(void)close(r->listen_fds[i]);
		peer_release(&plan.peers[i]);
	}
	(void)close(r->app_fd);
	free(r->public);
	peer_table_free(&r->peers);
	anchors_free(&r->anchors);
	policy_free(&r->policy);
	for (size_t i = 0; i < 2; i++)
		rule_fini(&r->rules[i]);
}

/* A condition that another thread brings about. */
#define WAIT_FOR(condition)                                                    \
	do {                                                                   \
		int64_t until = clock_boot_ms() + DEADLINE_MS;                 \
		while (!(condition)) {                                         \
			if (clock_boot_ms() > until)                           \
				fail_msg("never: %s", #condition);             \
			(void)poll(NULL, 0, 1);                                \
		}                                                              \
	} while (0)

/* A configuration of the first N services, and which of them listen. */
static void
post_conf(struct rig *r, size_t n_services, size_t n_listeners)
{
	struct mail_conf *m = message(sizeof(*m), MAIL_CONF);
	struct conf *c = &r->confs[r->generation];

	*c = (struct conf){.generation = ++r->generation,
	    .services = r->services,
	    .n_services = n_services};
	m->mail.slot = MAIL_CONF;
	m->conf = c;
	m->n_listeners = n_listeners;
	m->listeners = calloc(n_listeners + 1, sizeof(*m->listeners));
	assert_non_null(m->listeners);
	for (size_t i = 0; i < n_listeners; i++)
		m->listeners[i] = (struct listener){.fd = r->listen_fds[i],
		    .service = (unsigned int)i,
		    .addr = r->addrs[i]};
	(void)worker_post(r->w, &m->mail);
	WAIT_FOR(counter_get(&r->public->seen_conf) == r->generation);
}

static void
post_listen(struct rig *r, bool off)
{
	struct mail_listen *m = message(sizeof(*m), MAIL_LISTEN);
	struct mail_ping *ping = message(sizeof(*ping), MAIL_PING);
	uint64_t beat = counter_get(&r->public->heartbeat_ms) + 1;

	m->stop = off;
	(void)worker_post(r->w, &m->mail);
	/* In order: when the ping is answered, the other was taken. */
	ping->posted_ms = (int64_t)beat;
	(void)worker_post(r->w, &ping->mail);
	WAIT_FOR(counter_get(&r->public->heartbeat_ms) == beat);
}

static int
dial(struct rig *r, size_t service)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(
	    connect(fd, &r->addrs[service].sa.any, r->addrs[service].len), 0);
	return fd;
}

/* Mail of that kind that came back; others are freed. */
static struct mail *
answer(struct rig *r, unsigned int kind)
{
	struct pollfd p = {
	    .fd = mailbox_fd(r->shared.control), .events = POLLIN};
	struct mail *found = NULL;

	while (found == NULL) {
		struct node list;
		struct node *n;

		assert_int_equal(poll(&p, 1, DEADLINE_MS), 1);
		node_init(&list);
		mail_take(r->shared.control, &list);
		while ((n = list_pop(&list)) != NULL) {
			struct mail *m = CONTAINER_OF(n, struct mail, node);

			if (m->kind == kind && found == NULL)
				found = m;
			else
				worker_mail_free(&m);
		}
	}
	return found;
}

static char *
copy_of(const char *s)
{
	return s == NULL ? NULL : strdup(s);
}

static struct mail_query *
query(struct rig *r, const char *service, const char *peer, uint64_t id)
{
	struct mail_query *m = message(sizeof(*m), MAIL_QUERY);

	m->request = 9;
	m->service = copy_of(service);
	m->peer = copy_of(peer);
	m->conn_id = id;
	(void)worker_post(r->w, &m->mail);
	m = CONTAINER_OF(answer(r, MAIL_QUERY), struct mail_query, mail);
	assert_int_equal(m->request, 9);
	assert_false(m->failed);
	return m;
}

static size_t
rows_of(struct rig *r, const char *service, const char *peer, uint64_t id)
{
	struct mail_query *m = query(r, service, peer, id);
	struct mail *mail = &m->mail;
	size_t n = m->n_rows;

	worker_mail_free(&mail);
	return n;
}

static uint64_t
killed(struct rig *r, const char *service, const char *peer, uint64_t id)
{
	struct mail_kill *m = message(sizeof(*m), MAIL_KILL);
	struct mail *mail;
	uint64_t ended;

	m->reason = CLOSE_ADMIN;
	m->service = copy_of(service);
	m->peer = copy_of(peer);
	m->conn_id = id;
	(void)worker_post(r->w, &m->mail);
	mail = answer(r, MAIL_KILL);
	ended = CONTAINER_OF(mail, struct mail_kill, mail)->ended;
	worker_mail_free(&mail);
	return ended;
}

static size_t
relaying(struct rig *r)
{
	struct mail_query *m = query(r, NULL, NULL, 0);
	struct mail *mail = &m->mail;
	size_t n = 0;

	for (size_t i = 0; i < m->n_rows; i++)
		n += m->rows[i].state == CONN_RELAY;
	worker_mail_free(&mail);
	return n;
}

/* One more, connected up to the app. */
static int
dial_relayed(struct rig *r, size_t service)
{
	size_t before = relaying(r);
	int fd = dial(r, service);

	WAIT_FOR(relaying(r) == before + 1);
	return fd;
}

/* How the connection ends for its client: 0 an end, or the error. */
static int
end_of(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	char byte;

	assert_int_equal(poll(&p, 1, DEADLINE_MS), 1);
	return recv(fd, &byte, 1, 0) == -1 ? errno : 0;
}

static bool
is_alive(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, 0) == 0;
}

/* ---- Stories ---- */

/* Nobody is served before a configuration came, everybody afterwards. */
static void
test_worker_conf_is_adopted_and_said_to_be_seen(void **state)
{
	struct rig r;
	int early, fd;

	(void)state;
	rig_init(&r, 100, false);
	early = dial(&r, 0);
	assert_int_equal(counter_get(&r.public->seen_conf), 0);
	assert_int_equal(rows_of(&r, NULL, NULL, 0), 0);
	post_conf(&r, 2, 2);
	WAIT_FOR(relaying(&r) == 1);
	fd = dial_relayed(&r, 1);
	assert_int_equal(rows_of(&r, "api", NULL, 0), 1);
	assert_int_equal(rows_of(&r, "web", NULL, 0), 1);
	WAIT_FOR(counter_get(&r.public->connections) == 2);
	assert_int_equal(counter_get(&r.public->unproven), 0);
	(void)close(early);
	(void)close(fd);
	rig_fini(&r);
}

/* The watchdog asks each second: who does not answer is taken for stuck. */
static void
test_worker_ping_is_answered_with_its_own_time(void **state)
{
	struct mail_ping *m;
	struct rig r;
	uint64_t n = 0;

	(void)state;
	rig_init(&r, 100, false);
	m = message(sizeof(*m), MAIL_PING);
	m->posted_ms = 4711;
	m->posted_ns = clock_boot_ns();
	(void)worker_post(r.w, &m->mail);
	WAIT_FOR(counter_get(&r.public->heartbeat_ms) == 4711);
	for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++)
		n += counter_get(&r.public->lag.bucket[i]);
	assert_int_equal(n, 1);
	rig_fini(&r);
}

/* `connections` shows who it is, from where, and for how long. */
static void
test_worker_query_shows_the_row_of_a_connection(void **state)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	char src[ADDR_TEXT_MAX];
	struct mail_query *m;
	struct mail *mail;
	struct addr own;
	struct rig r;
	int fd;

	(void)state;
	rig_init(&r, 100, false);
	post_conf(&r, 2, 2);
	fd = dial_relayed(&r, 1);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&ss, &len), 0);
	addr_set(&own, (struct sockaddr *)&ss, len);
	m = query(&r, "web", WEB, 0);
	assert_int_equal(m->n_rows, 1);
	assert_string_equal(m->rows[0].service, "web");
	assert_string_equal(m->rows[0].peer, WEB);
	assert_string_equal(m->rows[0].src, addr_format(&own, src));
	assert_true(m->rows[0].inbound);
	assert_true(m->rows[0].id != 0);
	mail = &m->mail;
	worker_mail_free(&mail);
	(void)close(fd);
	rig_fini(&r);
}

/* An operator ends what he names, and nothing beside it. */
static void
test_worker_kill_ends_what_was_named_only(void **state)
{
	struct mail_query *m;
	struct mail *mail;
	struct rig r;
	uint64_t id;
	int fds[4];

	(void)state;
	rig_init(&r, 100, false);
	post_conf(&r, 2, 2);
	/* The peers take turns: WEB, BOT, WEB, BOT. */
	for (size_t i = 0; i < 4; i++)
		fds[i] = dial_relayed(&r, i / 2);
	assert_int_equal(killed(&r, "none", NULL, 0), 0);
	assert_int_equal(killed(&r, "api", BOT, 0), 1);
	assert_int_equal(end_of(fds[1]), ECONNRESET);
	assert_int_equal(rows_of(&r, NULL, BOT, 0), 1);
	assert_int_equal(killed(&r, NULL, BOT, 0), 1);
	assert_int_equal(end_of(fds[3]), ECONNRESET);
	assert_int_equal(rows_of(&r, NULL, NULL, 0), 2);
	m = query(&r, "web", NULL, 0);
	assert_int_equal(m->n_rows, 1);
	id = m->rows[0].id;
	mail = &m->mail;
	worker_mail_free(&mail);
	assert_int_equal(killed(&r, "api", NULL, id), 0);
	assert_int_equal(killed(&r, NULL, NULL, id), 1);
	assert_int_equal(end_of(fds[2]), ECONNRESET);
	assert_true(is_alive(fds[0]));
	assert_int_equal(killed(&r, "api", NULL, 0), 1);
	assert_int_equal(end_of(fds[0]), ECONNRESET);
	WAIT_FOR(counter_get(&r.public->connections) == 0);
	for (size_t i = 0; i < 4; i++)
		(void)close(fds[i]);
	rig_fini(&r);
}

/*
 * A listener that goes refuses who waits in its queue, or they would wait for
 * ever; live connections of its service go on.
 */
static void
test_worker_removed_listener_resets_its_queue(void **state)
{
	struct rig r;
	int live, waits, other;

	(void)state;
	rig_init(&r, 100, false);
	post_conf(&r, 2, 2);
	live = dial_relayed(&r, 1);
	post_listen(&r, true);
	waits = dial(&r, 1);
	other = dial(&r, 0);
	assert_true(is_alive(waits));
	post_conf(&r, 1, 1);
	assert_int_equal(end_of(waits), ECONNRESET);
	/* The kept listener keeps its queue, and serves it later. */
	assert_true(is_alive(other));
	assert_true(is_alive(live));
	post_listen(&r, false);
	WAIT_FOR(rows_of(&r, "api", NULL, 0) == 1);
	(void)close(live);
	(void)close(waits);
	(void)close(other);
	rig_fini(&r);
}

/* At its limit it leaves callers in the queue, and takes them by and by. */
static void
test_worker_at_max_connections_pauses_until_one_ends(void **state)
{
	struct rig r;
	int fds[3];

	(void)state;
	rig_init(&r, 2, false);
	post_conf(&r, 2, 2);
	fds[0] = dial_relayed(&r, 0);
	fds[1] = dial_relayed(&r, 0);
	fds[2] = dial(&r, 1);
	/* It looked at the queue when the pause is noted: 2 and no more. */
	assert_int_equal(rows_of(&r, NULL, NULL, 0), 2);
	assert_int_equal(rows_of(&r, "web", NULL, 0), 0);
	assert_int_equal(killed(&r, "api", WEB, 0), 1);
	WAIT_FOR(rows_of(&r, "web", NULL, 0) == 1);
	assert_int_equal(rows_of(&r, NULL, NULL, 0), 2);
	for (size_t i = 0; i < 3; i++)
		(void)close(fds[i]);
	rig_fini(&r);
}

/* Told to listen again while it is full, it must not forget to. */
static void
test_worker_that_listens_again_while_full_resumes_later(void **state)
{
	struct rig r;
	int first, second;

	(void)state;
	rig_init(&r, 100, false);
	post_conf(&r, 2, 2);
	first = dial_relayed(&r, 0);
	/* A reload lowers it, while the listeners are on. */
	atomic_store(&r.shared.max_connections, 1);
	post_listen(&r, true);
	second = dial(&r, 1);
	post_listen(&r, false);
	assert_int_equal(killed(&r, "api", NULL, 0), 1);
	WAIT_FOR(rows_of(&r, "web", NULL, 0) == 1);
	(void)close(first);
	(void)close(second);
	rig_fini(&r);
}

/* Silent strangers hold a quarter of the slots at most. */
static void
test_worker_too_many_unproven_are_refused_and_counted(void **state)
{
	struct rig r;
	int fds[4];

	(void)state;
	rig_init(&r, 8, true);
	post_conf(&r, 2, 2);
	for (size_t i = 0; i < 4; i++)
		fds[i] = dial(&r, 0);
	assert_int_equal(end_of(fds[3]), ECONNRESET);
	assert_int_equal(rows_of(&r, NULL, NULL, 0), 3);
	assert_int_equal(counter_get(&r.public->unproven), 3);
	assert_int_equal(counter_get(&r.counters[0].workers->rejected), 1);
	assert_int_equal(
	    counter_get(&r.counters[0].workers->reasons[DENY_LIMIT]), 1);
	/* Ended by an operator, they give their slots back all the same. */
	assert_int_equal(killed(&r, "api", NULL, 0), 3);
	WAIT_FOR(counter_get(&r.public->connections) == 0);
	assert_int_equal(counter_get(&r.public->unproven), 0);
	for (size_t i = 0; i < 4; i++)
		(void)close(fds[i]);
	rig_fini(&r);
}

/* A stop ends every state that a connection may be in, each with its line. */
static void
test_worker_stop_ends_everything(void **state)
{
	struct fields f;
	struct rig r;
	size_t lines = 0;
	int fds[3];

	(void)state;
	rig_init(&r, 100, false);
	post_conf(&r, 2, 2);
	for (size_t i = 0; i < 3; i++)
		fds[i] = dial_relayed(&r, i % 2);
	stop(&r);
	for (size_t i = 0; i < 3; i++) {
		assert_int_equal(end_of(fds[i]), ECONNRESET);
		(void)close(fds[i]);
	}
	assert_int_equal(counter_get(&r.public->connections), 0);
	while (ring_read(worker_traffic_ring(r.w), &f, sizeof(f)) != 0) {
		struct span v;

		assert_true(fields_get(&f, FIELD_close, &v));
		assert_true(span_equal_str(v, close_reason_label(CLOSE_DRAIN)));
		lines++;
	}
	assert_int_equal(lines, 3);
	rig_fini(&r);
}

/* The same when none of them has shown who it is. */
static void
test_worker_stop_ends_unfinished_handshakes(void **state)
{
	struct rig r;
	int fds[3];

	(void)state;
	rig_init(&r, 100, true);
	post_conf(&r, 2, 2);
	for (size_t i = 0; i < 3; i++)
		fds[i] = dial(&r, i % 2);
	WAIT_FOR(rows_of(&r, NULL, NULL, 0) == 3);
	stop(&r);
	for (size_t i = 0; i < 3; i++) {
		assert_int_equal(end_of(fds[i]), ECONNRESET);
		(void)close(fds[i]);
	}
	assert_int_equal(counter_get(&r.public->connections), 0);
	assert_int_equal(counter_get(&r.public->unproven), 0);
	rig_fini(&r);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_worker_conf_is_adopted_and_said_to_be_seen),
	    cmocka_unit_test(test_worker_ping_is_answered_with_its_own_time),
	    cmocka_unit_test(test_worker_query_shows_the_row_of_a_connection),
	    cmocka_unit_test(test_worker_kill_ends_what_was_named_only),
	    cmocka_unit_test(test_worker_removed_listener_resets_its_queue),
	    cmocka_unit_test(
	        test_worker_at_max_connections_pauses_until_one_ends),
	    cmocka_unit_test(
	        test_worker_that_listens_again_while_full_resumes_later),
	    cmocka_unit_test(
	        test_worker_too_many_unproven_are_refused_and_counted),
	    cmocka_unit_test(test_worker_stop_ends_everything),
	    cmocka_unit_test(test_worker_stop_ends_unfinished_handshakes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
