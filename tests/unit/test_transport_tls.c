/*
 * Real handshakes over loopback sockets, both ends in this process and moved
 * by hand. Peers that we do not write ourselves are plain OpenSSL.
 */

#include "clock.h"
#include "made.h"
#include "spiffe.h"
#include "stream.h"
#include "tls.h"
#include "transport.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SERVER_ID "spiffe://a.test/server"
#define CLIENT_ID "spiffe://a.test/client"

/* ---- The clock, in place of base's ---- */

static int64_t wall_shift_s;

int64_t
clock_wall_s(void)
{
	return time(NULL) + wall_shift_s;
}

int64_t
clock_wall_ms(void)
{
	return clock_wall_s() * 1000;
}

int64_t
clock_boot_ms(void)
{
	return 1000000;
}

int64_t
clock_boot_ns(void)
{
	return clock_boot_ms() * 1000000;
}

/* ---- Identities ---- */

static struct ca *root;
static struct tls_env *server_env;
static struct tls_env *client_env;

static struct tls_material *
material_of(const struct ca_svid *svid, const char *id, uint64_t generation)
{
	struct svid_raw raw = {0};
	struct bundle_raw bundle = {
	    span_of_str("a.test"), ca_certificate(root)};
	struct tls_material *m = NULL;
	struct identity *identity;
	struct why why = {.text = ""};

	if (svid != NULL)
		raw = made_raw(svid, id);
	identity = made_identity(svid == NULL ? NULL : &raw, &bundle, 1);
	if (tls_material_build(identity,
	        svid == NULL ? NULL : identity_svid(identity, 0), generation,
	        &m, &why) != FAULT_NONE)
		fail_msg("%s", why.text);
	identity_free(&identity);
	return m;
}

static struct tls_material *
fresh_material(const char *id, enum ca_key_type type, int64_t not_after)
{
	struct ca_svid_options o = {.id = span_of_str(id),
	    .cert = {.key_type = type, .not_after = not_after}};
	struct ca_svid *svid = made_svid(root, &o);
	struct tls_material *m = material_of(svid, id, 7);

	ca_svid_free(&svid);
	return m;
}

static struct tls_set *
set_for(const struct tls_material *m)
{
	struct tls_settings none = {NULL, NULL};
	struct tls_set *set = NULL;
	struct why why = {.text = ""};

	if (tls_set_build(&none, m, &set, &why) != FAULT_NONE)
		fail_msg("%s", why.text);
	return set;
}

static void
adopt_with_set(struct tls_env *env, struct tls_material *m)
{
	struct tls_set *set = set_for(m);

	assert_int_equal(tls_env_adopt(env, &set, &m, NULL), FAULT_NONE);
	assert_null(set);
	assert_null(m);
}

static void
adopt_in_place(struct tls_env *env, struct tls_material *m)
{
	assert_int_equal(tls_env_adopt(env, NULL, &m, NULL), FAULT_NONE);
}

static int
setup(void **state)
{
	(void)state;
	wall_shift_s = 0;
	server_env = tls_env_new();
	client_env = tls_env_new();
	adopt_with_set(server_env, fresh_material(SERVER_ID, CA_P256, 0));
	adopt_with_set(client_env, fresh_material(CLIENT_ID, CA_P256, 0));
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	tls_env_free(&server_env);
	tls_env_free(&client_env);
	return 0;
}

static int
setup_group(void **state)
{
	bool locked;

	(void)state;
	if (key_memory_init(1 << 20, &locked, NULL) != FAULT_NONE)
		return -1;
	root = made_ca(NULL, NULL);
	return 0;
}

static int
teardown_group(void **state)
{
	(void)state;
	ca_free(&root);
	return 0;
}

/* ---- Links moved by hand ---- */

struct end {
	struct link_judge judge; /* first */
	enum deny_reason says;
	int judged;
	int fd;
	struct link_conf conf;
	struct mesh_link *link;
	enum link_event last;
	struct stream *stream;
};

static enum deny_reason
judge_as_told(struct link_judge *self, struct peer *peer)
{
	struct end *e = (struct end *)(void *)self;

	assert_non_null(peer);
	e->judged++;
	return e->says;
}

static void
end_init(struct end *e, int fd, struct tls_env *env)
{
	*e = (struct end){.judge = {judge_as_told},
	    .fd = fd,
	    .conf = {.tls = env},
	    .last = LINK_WAIT};
}

static void
end_fini(struct end *e)
{
	transport_tls()->free(&e->link);
	if (e->fd >= 0)
		close(e->fd);
	e->fd = -1;
}

static void
make_pair(int fds[2])
{
	struct sockaddr_in addr = {
	    .sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t len = sizeof(addr);
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	int one = 1;

	assert_int_equal(
	    bind(listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(listener, 1), 0);
	assert_int_equal(
	    getsockname(listener, (struct sockaddr *)&addr, &len), 0);
	fds[0] = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(
	    connect(fds[0], (struct sockaddr *)&addr, sizeof(addr)), 0);
	fds[1] = accept(listener, NULL, NULL);
	close(listener);
	for (int i = 0; i < 2; i++) {
		setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		fcntl(fds[i], F_SETFL, O_NONBLOCK);
	}
}

/* What the descriptor is ready for is told as an edge would. */
static void
tell_ready(struct end *e, int timeout_ms)
{
	struct pollfd p = {.fd = e->fd, .events = POLLIN | POLLOUT | POLLRDHUP};

	(void)poll(&p, 1, timeout_ms);
	transport_tls()->ready(e->link,
	    (p.revents & (POLLIN | POLLHUP | POLLERR)) != 0,
	    (p.revents & POLLOUT) != 0,
	    (p.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0);
}

static enum link_event
advance(struct end *e)
{
	tell_ready(e, 0);
	e->last = transport_tls()->step(e->link, true);
	if (e->last == LINK_UP) {
		assert_int_equal(
		    transport_tls()->step(e->link, true), LINK_STREAM);
		e->stream = transport_tls()->next_stream(e->link, NULL);
	}
	return e->last;
}

static bool
is_settled(const struct end *e)
{
	return e->stream != NULL || e->last == LINK_FAILED;
}

static void
settle(struct end *a, struct end *b)
{
	for (int i = 0; i < 100000 && !(is_settled(a) && is_settled(b)); i++) {
		if (!is_settled(a))
			(void)advance(a);
		if (!is_settled(b))
			(void)advance(b);
	}
	assert_true(is_settled(a) && is_settled(b));
}

static void
open_ends(struct end *client, struct end *server)
{
	int fds[2];

	make_pair(fds);
	end_init(client, fds[0], client_env);
	end_init(server, fds[1], server_env);
}

static void
start(struct end *client, struct end *server)
{
	const struct transport_ops *t = transport_tls();

	client->link = t->connect(client->fd, &client->conf, &client->judge);
	server->link = t->accept(server->fd, &server->conf, &server->judge);
}

static void
connect_ends(struct end *client, struct end *server)
{
	open_ends(client, server);
	start(client, server);
	settle(client, server);
	assert_non_null(client->stream);
	assert_non_null(server->stream);
}

/* Ask again until something other than waiting comes. */
static enum io_status
read_some(struct end *e, void *buf, size_t len, size_t *n_r)
{
	enum io_status s = IO_WANT_READ;

	for (int i = 0; i < 1000; i++) {
		s = stream_read(e->stream, buf, len, n_r);
		if (s != IO_WANT_READ && s != IO_WANT_WRITE)
			break;
		tell_ready(e, 10);
	}
	return s;
}

static void
expect_text(struct end *e, const char *text)
{
	char buf[64] = "";
	size_t n = 0;

	assert_int_equal(read_some(e, buf, sizeof(buf), &n), IO_DONE);
	assert_int_equal(n, strlen(text));
	assert_memory_equal(buf, text, n);
}

static void
expect_read(struct end *e, enum io_status expected)
{
	char buf[64];
	size_t n;
	enum io_status s = read_some(e, buf, sizeof(buf), &n);

	if (s != expected)
		fail_msg("read: %d, broken %d (%s)", (int)s,
		    (int)e->stream->broken,
		    e->stream->broken_text ? e->stream->broken_text : "-");
}

static void
write_text(struct end *e, const char *text)
{
	size_t n = 0;

	assert_int_equal(
	    stream_write(e->stream, text, strlen(text), false, &n), IO_DONE);
	assert_int_equal(n, strlen(text));
}

static const struct link_failure *
failure_of(const struct end *e)
{
	assert_int_equal(e->last, LINK_FAILED);
	return transport_tls()->failure(e->link);
}

/* ---- A peer of plain OpenSSL ---- */

struct raw {
	int fd;
	SSL_CTX *ctx;
	SSL *ssl;
	int alert; /* the last one that came in; -1: none */
	int tickets;
};

static void
on_raw_message(int is_write, int version, int type, const void *bytes,
    size_t len, SSL *ssl, void *arg)
{
	struct raw *r = arg;
	const uint8_t *b = bytes;

	(void)version;
	(void)ssl;
	if (is_write != 0)
		return;
	if (type == SSL3_RT_ALERT && len == 2)
		r->alert = b[1];
	if (type == SSL3_RT_HANDSHAKE && len > 0 &&
	    b[0] == SSL3_MT_NEWSESSION_TICKET)
		r->tickets++;
}

static void
raw_init(struct raw *r, int fd, const struct ca_svid *svid, int max_version)
{
	*r = (struct raw){.fd = fd, .alert = -1};
	r->ctx = SSL_CTX_new(TLS_client_method());
	SSL_CTX_set_security_level(r->ctx, 1);
	SSL_CTX_set_max_proto_version(r->ctx, max_version);
	SSL_CTX_set_session_cache_mode(r->ctx, SSL_SESS_CACHE_CLIENT);
	if (svid != NULL)
		assert_int_equal(
		    SSL_CTX_use_cert_and_key(r->ctx, ca_svid_leaf(svid),
		        ca_svid_key(svid), ca_svid_above(svid), 1),
		    1);
	r->ssl = SSL_new(r->ctx);
	SSL_set_fd(r->ssl, fd);
	SSL_set_connect_state(r->ssl);
	SSL_set_msg_callback(r->ssl, on_raw_message);
	SSL_set_msg_callback_arg(r->ssl, r);
}

static void
raw_fini(struct raw *r)
{
	SSL_free(r->ssl);
	SSL_CTX_free(r->ctx);
	if (r->fd >= 0)
		close(r->fd);
	ERR_clear_error();
}

/* One attempt: handshake, then a read that may bring a late alert. */
static bool
raw_step(struct raw *r)
{
	char byte;
	bool is_up = SSL_do_handshake(r->ssl) == 1;

	if (is_up)
		(void)SSL_read(r->ssl, &byte, 1);
	ERR_clear_error();
	return is_up;
}

/* RAW against a server of ours that decides as SERVER is told. */
static void
meet(struct raw *r, struct end *server, const struct ca_svid *svid,
    int max_version)
{
	int fds[2];
	bool tls12 = server->conf.tls12;
	enum deny_reason says = server->says;

	make_pair(fds);
	end_init(server, fds[1], server_env);
	server->conf.tls12 = tls12;
	server->says = says;
	server->link =
	    transport_tls()->accept(fds[1], &server->conf, &server->judge);
	raw_init(r, fds[0], svid, max_version);
	for (int i = 0; i < 100000; i++) {
		bool raw_up = raw_step(r);

		if (!is_settled(server))
			(void)advance(server);
		if (server->last == LINK_FAILED && r->alert >= 0)
			break;
		if (server->stream != NULL && raw_up)
			break;
	}
	(void)raw_step(r);
}

/* ---- Handshakes ---- */

/* The whole purpose: each side learns who the other is, and bytes pass. */
static void
test_link_mutual_handshake_names_both_sides(void **state)
{
	struct end client;
	struct end server;
	struct link_facts facts;

	(void)state;
	connect_ends(&client, &server);
	assert_true(span_equal_str(
	    peer_id(transport_tls()->peer(server.link))->text, CLIENT_ID));
	assert_true(span_equal_str(
	    peer_id(transport_tls()->peer(client.link))->text, SERVER_ID));
	assert_int_equal(client.judged, 1);
	assert_int_equal(server.judged, 1);
	transport_tls()->facts(server.link, &facts);
	assert_string_equal(facts.tls_version, "TLSv1.3");
	assert_non_null(facts.cipher);
	assert_non_null(facts.group);
	assert_string_equal(facts.own_id, SERVER_ID);
	assert_false(facts.resumed);
	write_text(&client, "ping");
	expect_text(&server, "ping");
	write_text(&server, "pong");
	expect_text(&client, "pong");
	end_fini(&client);
	end_fini(&server);
}

/* Cryptography waits for its turn, or a flood would starve the relays. */
static void
test_link_asks_before_each_heavy_step(void **state)
{
	struct end client;
	struct end server;
	const struct transport_ops *t = transport_tls();

	(void)state;
	open_ends(&client, &server);
	start(&client, &server);
	assert_int_equal(t->step(server.link, false), LINK_WAIT);
	assert_int_equal(t->step(client.link, false), LINK_HEAVY);
	assert_int_equal(t->step(client.link, true), LINK_WAIT);
	assert_int_equal(t->step(client.link, false), LINK_WAIT);
	tell_ready(&server, 1000);
	assert_int_equal(t->step(server.link, false), LINK_HEAVY);
	end_fini(&client);
	end_fini(&server);
}

/* A load balancer's probe is not an attack, and must not look like one. */
static void
test_link_end_before_the_first_byte_is_nobody(void **state)
{
	struct end client;
	struct end server;

	(void)state;
	open_ends(&client, &server);
	start(&client, &server);
	end_fini(&client);
	tell_ready(&server, 1000);
	(void)advance(&server);
	assert_int_equal(failure_of(&server)->kind, LINK_NOBODY);
	end_fini(&server);
}

/* What is not TLS, or is cut off, has its own word in the log. */
static void
test_link_garbage_and_cuts_are_told_apart(void **state)
{
	static const char half[] = "\x16\x03\x01\x02\x00\x01";
	struct end client;
	struct end server;

	(void)state;
	open_ends(&client, &server);
	start(&client, &server);
	assert_int_equal(write(client.fd, "GET / HTTP/1.1\r\n\r\n", 18), 18);
	for (int i = 0; i < 1000 && !is_settled(&server); i++)
		(void)advance(&server);
	assert_int_equal(failure_of(&server)->kind, LINK_PROTOCOL);
	end_fini(&client);
	end_fini(&server);

	open_ends(&client, &server);
	start(&client, &server);
	assert_int_equal(write(client.fd, half, 6), 6);
	end_fini(&client);
	for (int i = 0; i < 1000 && !is_settled(&server); i++)
		(void)advance(&server);
	assert_int_equal(failure_of(&server)->kind, LINK_EOF);
	end_fini(&server);
}

/* The alert is all that a refused peer's operator will see. */
static void
test_link_refusals_send_the_alert_of_their_reason(void **state)
{
	static const struct {
		enum deny_reason reason;
		int alert;
	} rows[] = {
	    {DENY_NO_RULE, SSL_AD_HANDSHAKE_FAILURE},
	    {DENY_DENY_RULE, SSL_AD_HANDSHAKE_FAILURE},
	    {DENY_REVOKED, SSL_AD_CERTIFICATE_REVOKED},
	    {DENY_LIMIT, SSL_AD_INTERNAL_ERROR},
	};
	AUTO(ca_svid_free) struct ca_svid *svid = made_svid_of(root, CLIENT_ID);

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct end server = {.says = rows[i].reason};
		struct raw r;

		meet(&r, &server, svid, TLS1_3_VERSION);
		assert_int_equal(failure_of(&server)->kind, LINK_REFUSED);
		assert_int_equal(failure_of(&server)->reason, rows[i].reason);
		assert_string_equal(failure_of(&server)->claimed_id, CLIENT_ID);
		assert_null(transport_tls()->peer(server.link));
		assert_int_equal(r.alert, rows[i].alert);
		raw_fini(&r);
		end_fini(&server);
	}
}

/* The same for certificates that are not good enough. */
static void
test_link_bad_certificates_send_their_alert(void **state)
{
	AUTO(ca_free) struct ca *unknown = made_ca(NULL, NULL);
	const struct {
		const struct ca *ca;
		struct ca_svid_options o;
		enum deny_reason reason;
		int alert;
	} rows[] = {
	    {unknown, {.id = span_of_str(CLIENT_ID)}, DENY_BAD_CHAIN,
	        SSL_AD_UNKNOWN_CA},
	    {root, {.id = span_of_str("spiffe://b.test/x")},
	        DENY_UNKNOWN_TRUST_DOMAIN, SSL_AD_UNKNOWN_CA},
	    {root, {.other_names = "DNS:a.test"}, DENY_BAD_ID,
	        SSL_AD_BAD_CERTIFICATE},
	    {root,
	        {.id = span_of_str(CLIENT_ID),
	            .cert.ext_key_usage = "serverAuth"},
	        DENY_BAD_ID, SSL_AD_UNSUPPORTED_CERTIFICATE},
	    {root,
	        {.id = span_of_str(CLIENT_ID),
	            .cert = {.not_before = 1, .not_after = 2}},
	        DENY_EXPIRED, SSL_AD_CERTIFICATE_EXPIRED},
	    {root,
	        {.id = span_of_str(CLIENT_ID),
	            .cert = {.not_before = time(NULL) + 1000,
	                .not_after = time(NULL) + 2000}},
	        DENY_EXPIRED, SSL_AD_BAD_CERTIFICATE},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		AUTO(ca_svid_free)
		struct ca_svid *svid = made_svid(rows[i].ca, &rows[i].o);
		struct end server = {.says = DENY_NOT};
		struct raw r;

		meet(&r, &server, svid, TLS1_3_VERSION);
		assert_int_equal(failure_of(&server)->reason, rows[i].reason);
		assert_int_equal(r.alert, rows[i].alert);
		assert_int_equal(server.judged, 0);
		raw_fini(&r);
		end_fini(&server);
	}
}

/* Row 63: TLS is mutual, always. */
static void
test_row_063_link_no_client_certificate_is_refused(void **state)
{
	struct end server = {.says = DENY_NOT};
	struct raw r;

	(void)state;
	meet(&r, &server, NULL, TLS1_3_VERSION);
	assert_int_equal(failure_of(&server)->reason, DENY_NO_CLIENT_CERT);
	assert_int_equal(r.alert, SSL_AD_CERTIFICATE_REQUIRED);
	raw_fini(&r);
	end_fini(&server);
}

/* In TLS 1.3 a client is up before it is judged: the verdict comes late. */
static void
test_link_late_refusal_is_an_alert_on_the_stream(void **state)
{
	struct end client;
	struct end server;

	(void)state;
	open_ends(&client, &server);
	server.says = DENY_NO_RULE;
	start(&client, &server);
	settle(&client, &server);
	assert_int_equal(failure_of(&server)->kind, LINK_REFUSED);
	assert_non_null(client.stream);
	expect_read(&client, IO_ABORT);
	assert_int_equal(client.stream->broken, STREAM_ALERT);
	assert_string_equal(client.stream->broken_text, "handshake_failure");
	end_fini(&client);
	end_fini(&server);
}

/* A server that is not the expected one gets no byte, and is told so. */
static void
test_link_client_refuses_an_unexpected_server(void **state)
{
	struct end client;
	struct end server;

	(void)state;
	open_ends(&client, &server);
	client.says = DENY_NO_RULE;
	start(&client, &server);
	settle(&client, &server);
	assert_int_equal(failure_of(&client)->kind, LINK_REFUSED);
	assert_string_equal(failure_of(&client)->claimed_id, SERVER_ID);
	assert_int_equal(failure_of(&server)->kind, LINK_ALERT);
	assert_string_equal(failure_of(&server)->alert, "handshake_failure");
	assert_int_equal(server.judged, 0);
	end_fini(&client);
	end_fini(&server);
}

/* Row 65: a resumed session would skip every check. */
static void
test_row_065_link_resumption_is_impossible(void **state)
{
	static const int versions[] = {TLS1_3_VERSION, TLS1_2_VERSION};
	AUTO(ca_svid_free) struct ca_svid *svid = made_svid_of(root, CLIENT_ID);

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(versions); i++) {
		struct end server = {.says = DENY_NOT, .conf.tls12 = true};
		SSL_SESSION *session;
		struct raw r;

		meet(&r, &server, svid, versions[i]);
		assert_non_null(server.stream);
		write_text(&server, "x");
		(void)raw_step(&r);
		assert_int_equal(r.tickets, 0);
		session = SSL_get1_session(r.ssl);
		assert_int_equal(SSL_SESSION_is_resumable(session), 0);
		SSL_SESSION_free(session);
		raw_fini(&r);
		end_fini(&server);
	}
}

/* TLS 1.2 is one service's choice, and never the default. */
static void
test_link_tls12_only_where_it_is_allowed(void **state)
{
	AUTO(ca_svid_free) struct ca_svid *svid = made_svid_of(root, CLIENT_ID);
	struct end server = {.says = DENY_NOT};
	struct link_facts facts;
	struct raw r;

	(void)state;
	meet(&r, &server, svid, TLS1_2_VERSION);
	assert_int_equal(failure_of(&server)->kind, LINK_PROTOCOL);
	assert_int_equal(r.alert, SSL_AD_PROTOCOL_VERSION);
	raw_fini(&r);
	end_fini(&server);

	server.conf.tls12 = true;
	meet(&r, &server, svid, TLS1_2_VERSION);
	assert_non_null(server.stream);
	transport_tls()->facts(server.link, &facts);
	assert_string_equal(facts.tls_version, "TLSv1.2");
	raw_fini(&r);
	end_fini(&server);
}

/* An alert that found the socket full must still arrive, and before the end. */
static void
test_link_alert_waits_for_room_in_the_socket(void **state)
{
	AUTO(ca_svid_free) struct ca_svid *svid = made_svid_of(root, CLIENT_ID);
	static const char junk[4096];
	struct end server;
	size_t filled = 0;
	struct raw r;
	ssize_t n;
	int fds[2];

	(void)state;
	wall_shift_s = 7200; /* fenced: the alert is the first that we send */
	/* A unix pair: how much TCP takes depends on its timers. */
	assert_int_equal(
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	end_init(&server, fds[1], server_env);
	server.link =
	    transport_tls()->accept(fds[1], &server.conf, &server.judge);
	raw_init(&r, fds[0], svid, TLS1_3_VERSION);
	SSL_set0_rbio(r.ssl, BIO_new(BIO_s_null()));
	(void)raw_step(&r);
	tell_ready(&server, 1000);
	while ((n = send(fds[1], junk, sizeof(junk), MSG_NOSIGNAL)) > 0)
		filled += (size_t)n;
	while ((n = send(fds[1], junk, 1, MSG_NOSIGNAL)) > 0)
		filled += (size_t)n;
	transport_tls()->ready(server.link, true, true, false);
	assert_int_equal(transport_tls()->step(server.link, true), LINK_WAIT);
	assert_int_equal(transport_tls()->failure(server.link)->kind, LINK_OK);
	while (filled > 0) {
		char sink[4096];

		n = read(fds[0], sink,
		    filled < sizeof(sink) ? filled : sizeof(sink));
		filled -= n > 0 ? (size_t)n : 0;
	}
	for (int i = 0; i < 100000 && !is_settled(&server); i++)
		(void)advance(&server);
	assert_int_equal(failure_of(&server)->reason, DENY_NO_IDENTITY);
	(void)poll(&(struct pollfd){.fd = fds[0], .events = POLLIN}, 1, 1000);
	{
		uint8_t record[7] = {0};

		assert_int_equal(read(fds[0], record, 7), 7);
		assert_int_equal(record[0], SSL3_RT_ALERT);
		assert_int_equal(record[6], SSL_AD_INTERNAL_ERROR);
	}
	raw_fini(&r);
	end_fini(&server);
}

/* Slow networks cut anywhere: every byte may be the last for now. */
static void
test_link_handshake_byte_by_byte(void **state)
{
	struct end client;
	struct end server;
	int near[2];
	int far[2];

	(void)state;
	make_pair(near);
	make_pair(far);
	end_init(&client, near[0], client_env);
	end_init(&server, far[1], server_env);
	start(&client, &server);
	for (int i = 0; i < 200000; i++) {
		char byte;

		if (!is_settled(&client))
			(void)advance(&client);
		if (read(near[1], &byte, 1) == 1)
			assert_int_equal(write(far[0], &byte, 1), 1);
		if (!is_settled(&server))
			(void)advance(&server);
		if (read(far[0], &byte, 1) == 1)
			assert_int_equal(write(near[1], &byte, 1), 1);
		if (is_settled(&client) && is_settled(&server))
			break;
	}
	assert_non_null(client.stream);
	assert_non_null(server.stream);
	close(near[1]);
	close(far[0]);
	end_fini(&client);
	end_fini(&server);
}

/* ---- Ends ---- */

/* A request, its end, and then the answer: N3 and N7. */
static void
test_stream_half_close_leaves_the_other_direction_open(void **state)
{
	struct end client;
	struct end server;

	(void)state;
	for (int turn = 0; turn < 2; turn++) {
		struct end *first = turn == 0 ? &client : &server;
		struct end *second = turn == 0 ? &server : &client;

		connect_ends(&client, &server);
		write_text(first, "request");
		assert_int_equal(stream_finish(first->stream), IO_DONE);
		expect_text(second, "request");
		expect_read(second, IO_END);
		write_text(second, "answer");
		assert_int_equal(stream_finish(second->stream), IO_DONE);
		expect_text(first, "answer");
		expect_read(first, IO_END);
		expect_read(first, IO_END);
		end_fini(&client);
		end_fini(&server);
	}
}

/* A cut must never look like the end of a file. */
static void
test_stream_end_without_close_notify_is_a_truncation(void **state)
{
	struct end client;
	struct end server;

	(void)state;
	connect_ends(&client, &server);
	write_text(&client, "half");
	shutdown(client.fd, SHUT_WR);
	expect_text(&server, "half");
	expect_read(&server, IO_ABORT);
	assert_int_equal(server.stream->broken, STREAM_TRUNCATED);
	expect_read(&server, IO_ABORT);
	end_fini(&client);
	end_fini(&server);
}

/* The FIN may come with the last bytes, and bring no edge of its own. */
static void
test_stream_end_behind_a_short_read_is_seen(void **state)
{
	struct end client;
	struct end server;
	char buf[64];
	size_t n;

	(void)state;
	connect_ends(&client, &server);
	write_text(&client, "half");
	shutdown(client.fd, SHUT_WR);
	(void)poll(
	    &(struct pollfd){.fd = server.fd, .events = POLLRDHUP}, 1, 1000);
	tell_ready(&server, 0);
	assert_int_equal(
	    stream_read(server.stream, buf, sizeof(buf), &n), IO_DONE);
	assert_int_equal(
	    stream_read(server.stream, buf, sizeof(buf), &n), IO_ABORT);
	end_fini(&client);
	end_fini(&server);
}

/* Peers that never say goodbye are served where that was allowed. */
static void
test_stream_missing_close_notify_can_be_an_end(void **state)
{
	struct end client;
	struct end server;
	struct link_facts facts;

	(void)state;
	open_ends(&client, &server);
	server.conf.end_without_close_notify = true;
	start(&client, &server);
	settle(&client, &server);
	write_text(&client, "all");
	shutdown(client.fd, SHUT_WR);
	expect_text(&server, "all");
	expect_read(&server, IO_END);
	expect_read(&server, IO_END);
	write_text(&server, "answer");
	expect_text(&client, "answer");
	transport_tls()->facts(server.link, &facts);
	assert_int_equal(facts.missing_close_notify, 1);
	end_fini(&client);
	end_fini(&server);
}

/* Even there, a record cut in its middle is a cut. */
static void
test_stream_missing_close_notify_within_a_record_is_a_cut(void **state)
{
	static const char half[] = "\x17\x03\x03\x00\x40half";
	struct end client;
	struct end server;

	(void)state;
	open_ends(&client, &server);
	server.conf.end_without_close_notify = true;
	start(&client, &server);
	settle(&client, &server);
	assert_int_equal(write(client.fd, half, 9), 9);
	shutdown(client.fd, SHUT_WR);
	expect_read(&server, IO_ABORT);
	assert_int_equal(server.stream->broken, STREAM_TRUNCATED);
	end_fini(&client);
	end_fini(&server);
}

/* N4: an abort arrives as a reset, and stays one. */
static void
test_stream_abort_is_a_reset_on_the_other_side(void **state)
{
	struct end client;
	struct end server;

	(void)state;
	connect_ends(&client, &server);
	stream_abort(client.stream);
	expect_read(&client, IO_ABORT);
	end_fini(&client);
	expect_read(&server, IO_ABORT);
	assert_int_equal(server.stream->broken, STREAM_RESET);
	assert_string_equal(server.stream->broken_text, "ECONNRESET");
	end_fini(&server);
}

/* N1: a sink that fills up in mid-record loses and repeats nothing. */
static void
test_stream_bulk_through_a_full_socket_keeps_every_byte(void **state)
{
	enum { TOTAL = 3 * 1024 * 1024, STEP = 40000 };
	uint8_t *out = malloc(TOTAL);
	uint8_t *in = malloc(TOTAL);
	struct end client;
	struct end server;
	size_t sent = 0;
	size_t got = 0;
	int refused = 0;
	int small = 131072;

	(void)state;
	for (size_t i = 0; i < TOTAL; i++)
		out[i] = (uint8_t)(i * 31 + (i >> 12));
	connect_ends(&client, &server);
	setsockopt(client.fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	for (int i = 0; i < 1000000 && got < TOTAL; i++) {
		size_t left = TOTAL - sent;
		size_t n = 0;

		if (left > 0 &&
		    stream_write(client.stream, out + sent,
		        left < STEP ? left : STEP, left > STEP, &n) == IO_DONE)
			sent += n;
		else if (left > 0)
			refused++;
		tell_ready(&client, 0);
		/* The reader is slow: it sleeps for long, then drinks. */
		if (i % 200 < 150 && left > 0)
			continue;
		tell_ready(&server, 0);
		if (stream_read(server.stream, in + got, TOTAL - got, &n) ==
		    IO_DONE)
			got += n;
	}
	assert_int_equal(got, TOTAL);
	assert_true(refused > 0);
	assert_memory_equal(in, out, TOTAL);
	assert_int_equal(client.stream->written_bytes, TOTAL);
	assert_int_equal(server.stream->read_bytes, TOTAL);
	free(out);
	free(in);
	end_fini(&client);
	end_fini(&server);
}

static void
send_key_updates(struct raw *r, int n)
{
	for (int i = 0; i < n; i++) {
		assert_int_equal(
		    SSL_key_update(r->ssl, SSL_KEY_UPDATE_NOT_REQUESTED), 1);
		assert_int_equal(SSL_do_handshake(r->ssl), 1);
	}
}

/* KeyUpdates cost us and move nothing: a few are honest, a storm is not. */
static void
test_stream_flood_of_key_updates_is_an_abort(void **state)
{
	AUTO(ca_svid_free) struct ca_svid *svid = made_svid_of(root, CLIENT_ID);
	struct end server = {.says = DENY_NOT};
	struct raw r;

	(void)state;
	meet(&r, &server, svid, TLS1_3_VERSION);
	send_key_updates(&r, 90);
	assert_int_equal(SSL_write(r.ssl, "still", 5), 5);
	expect_text(&server, "still");
	send_key_updates(&r, 90);
	expect_read(&server, IO_ABORT);
	assert_int_equal(server.stream->broken, STREAM_FLOOD);
	raw_fini(&r);
	end_fini(&server);
}

/* ---- The own SVID ---- */

static X509 *
leaf_seen_by(const struct raw *r)
{
	return SSL_get0_peer_certificate(r->ssl);
}

/* The old key must go at the swap, not with the oldest connection. */
static void
test_env_swap_frees_the_old_key_under_live_connections(void **state)
{
	struct end client;
	struct end server;
	size_t before;

	(void)state;
	connect_ends(&client, &server);
	before = key_memory_used();
	adopt_in_place(server_env, fresh_material(SERVER_ID, CA_P256, 0));
	assert_int_equal(key_memory_used(), before);
	write_text(&client, "on");
	expect_text(&server, "on");
	write_text(&server, "on");
	expect_text(&client, "on");
	end_fini(&client);
	end_fini(&server);
}

/* A rotation in the middle of a handshake breaks none. */
static void
test_env_swap_during_a_handshake_at_any_step(void **state)
{
	(void)state;
	for (int swap_at = 0; swap_at < 6; swap_at++) {
		struct end client;
		struct end server;

		open_ends(&client, &server);
		start(&client, &server);
		for (int i = 0; i < 100; i++) {
			if (i == swap_at) {
				adopt_in_place(server_env,
				    fresh_material(SERVER_ID, CA_P256, 0));
				adopt_in_place(client_env,
				    fresh_material(CLIENT_ID, CA_P256, 0));
			}
			if (!is_settled(&client))
				(void)advance(&client);
			if (!is_settled(&server))
				(void)advance(&server);
		}
		settle(&client, &server);
		assert_non_null(client.stream);
		assert_non_null(server.stream);
		end_fini(&client);
		end_fini(&server);
	}
}

/* Send the first part of a ClientHello, do SOMETHING, send the rest. */
static void
interrupted(struct raw *r, struct end *server, void (*something)(void))
{
	AUTO(ca_svid_free) struct ca_svid *svid = made_svid_of(root, CLIENT_ID);
	BIO *out = BIO_new(BIO_s_mem());
	int fds[2];
	char *hello;
	long len;

	make_pair(fds);
	end_init(server, fds[1], server_env);
	server->link =
	    transport_tls()->accept(fds[1], &server->conf, &server->judge);
	raw_init(r, fds[0], svid, TLS1_3_VERSION);
	SSL_set0_wbio(r->ssl, out);
	(void)SSL_do_handshake(r->ssl);
	len = BIO_get_mem_data(out, &hello);
	assert_int_equal(write(fds[0], hello, 20), 20);
	tell_ready(server, 1000);
	assert_int_equal(advance(server), LINK_WAIT);
	something();
	assert_int_equal(write(fds[0], hello + 20, (size_t)len - 20), len - 20);
	SSL_set0_wbio(r->ssl, BIO_new_socket(fds[0], BIO_NOCLOSE));
	for (int i = 0; i < 100000 && !is_settled(server); i++) {
		(void)raw_step(r);
		(void)advance(server);
	}
	(void)raw_step(r);
}

static X509 *current_leaf;

static void
rotate(void)
{
	struct ca_svid *svid = made_svid_of(root, SERVER_ID);

	current_leaf = X509_dup(ca_svid_leaf(svid));
	adopt_in_place(server_env, material_of(svid, SERVER_ID, 8));
	ca_svid_free(&svid);
}

static void
rotate_to_rsa(void)
{
	struct ca_svid_options o = {
	    .id = span_of_str(SERVER_ID), .cert.key_type = CA_RSA2048};
	struct ca_svid *svid = made_svid(root, &o);

	current_leaf = X509_dup(ca_svid_leaf(svid));
	adopt_with_set(server_env, material_of(svid, SERVER_ID, 9));
	ca_svid_free(&svid);
}

static void
let_it_expire(void)
{
	wall_shift_s = 7200;
}

/* A client that dawdled sees the SVID of now, of whatever key type. */
static void
test_env_late_client_hello_sees_the_current_svid(void **state)
{
	static void (*const ways[])(void) = {rotate, rotate_to_rsa};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(ways); i++) {
		struct end server;
		struct raw r;

		interrupted(&r, &server, ways[i]);
		assert_non_null(server.stream);
		assert_int_equal(X509_cmp(leaf_seen_by(&r), current_leaf), 0);
		X509_free(current_leaf);
		raw_fini(&r);
		end_fini(&server);
	}
}

/* An expired SVID is never shown, also to who began in time. */
static void
test_env_expired_svid_is_never_shown(void **state)
{
	struct end client;
	struct end server;
	struct raw r;

	(void)state;
	interrupted(&r, &server, let_it_expire);
	assert_int_equal(failure_of(&server)->kind, LINK_REFUSED);
	assert_int_equal(failure_of(&server)->reason, DENY_NO_IDENTITY);
	assert_int_equal(r.alert, SSL_AD_INTERNAL_ERROR);
	assert_null(leaf_seen_by(&r));
	raw_fini(&r);
	end_fini(&server);

	/* Outbound not a byte leaves. */
	assert_false(tls_env_can_present(client_env, clock_wall_s()));
	open_ends(&client, &server);
	start(&client, &server);
	(void)advance(&client);
	assert_int_equal(failure_of(&client)->reason, DENY_NO_IDENTITY);
	assert_int_equal(
	    recv(server.fd, &(char){0}, 1, MSG_PEEK | MSG_DONTWAIT), -1);
	end_fini(&client);
	end_fini(&server);
}

/* Fenced: the trust stays, the SVID is gone, and so is its key. */
static void
test_env_without_an_svid_presents_nothing(void **state)
{
	struct tls_material *old = fresh_material(SERVER_ID, CA_P256, 0);
	struct tls_material *none = material_of(NULL, NULL, 3);
	AUTO(ca_svid_free) struct ca_svid *svid = made_svid_of(root, CLIENT_ID);
	struct end server = {.says = DENY_NOT};
	struct raw r;

	(void)state;
	assert_true(tls_material_needs_set(old, none));
	tls_material_free(&old);
	adopt_with_set(server_env, none);
	assert_int_equal(tls_env_generation(server_env), 3);
	assert_null(tls_env_own_id(server_env));
	meet(&r, &server, svid, TLS1_3_VERSION);
	assert_int_equal(failure_of(&server)->reason, DENY_NO_IDENTITY);
	assert_int_equal(r.alert, SSL_AD_INTERNAL_ERROR);
	raw_fini(&r);
	end_fini(&server);
	/* And back: an empty context takes any key in place. */
	adopt_in_place(server_env, fresh_material(SERVER_ID, CA_RSA2048, 0));
	meet(&r, &server, svid, TLS1_3_VERSION);
	assert_non_null(server.stream);
	raw_fini(&r);
	end_fini(&server);
}

/* A second slot in a context would show the old SVID to who prefers it. */
static void
test_env_key_type_change_needs_a_fresh_set(void **state)
{
	struct tls_material *ec = fresh_material(SERVER_ID, CA_P256, 0);
	struct tls_material *ec384 = fresh_material(SERVER_ID, CA_P384, 0);
	struct tls_material *rsa = fresh_material(SERVER_ID, CA_RSA2048, 0);

	(void)state;
	assert_false(tls_material_needs_set(ec, ec384));
	assert_true(tls_material_needs_set(ec, rsa));
	assert_true(tls_material_needs_set(rsa, ec));
	tls_material_free(&ec);
	tls_material_free(&ec384);
	tls_material_free(&rsa);
}

/* A misspelt suite is said by `check`, not found out by a peer. */
static void
test_settings_unknown_names_are_refused(void **state)
{
	struct why why = {.text = ""};

	(void)state;
	assert_int_equal(
	    tls_settings_check(
	        &(struct tls_settings){"TLS_AES_128_GCM_SHA256", "X25519"},
	        &why),
	    FAULT_NONE);
	assert_int_equal(
	    tls_settings_check(&(struct tls_settings){"TLS_NONE", NULL}, &why),
	    FAULT_CONF);
	assert_int_equal(
	    tls_settings_check(&(struct tls_settings){NULL, "P-999"}, &why),
	    FAULT_CONF);
	assert_non_null(strstr(why.text, "groups"));
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(
	        test_link_mutual_handshake_names_both_sides, setup, teardown),
	    cmocka_unit_test_setup_teardown(
	        test_link_asks_before_each_heavy_step, setup, teardown),
	    cmocka_unit_test_setup_teardown(
	        test_link_end_before_the_first_byte_is_nobody, setup, teardown),
	    cmocka_unit_test_setup_teardown(
	        test_link_garbage_and_cuts_are_told_apart, setup, teardown),
	    cmocka_unit_test_setup_teardown(
	        test_link_refusals_send_the_alert_of_their_reason, setup,
	        teardown),
	    cmocka_unit_test_setup_teardown(
	        test_link_bad_certificates_send_their_alert, setup, teardown),
	    cmocka_unit_test_setup_teardown(
	        test_row_063_link_no_client_certificate_is_refused, setup,
	        teardown),
	    cmocka_unit_test_setup_teardown(
	        test_link_late_refusal_is_an_alert_on_the_stream, setup,
	        teardown),
	    cmocka_unit_test_setup_teardown(
	        test_link_client_refuses_an_unexpected_server, setup, teardown),
	    cmocka_unit_test_setup_teardown(
	        test_row_065_link_resumption_is_impossible, setup, teardown),
	    cmocka_unit_test_setup_teardown(
	        test_link_tls12_only_where_it_is_allowed, setup, teardown),
	    cmocka_unit_test_setup_teardown(
	        test_link_alert_waits_for_room_in_the_socket, setup, teardown),
	    cmocka_unit_test_setup_teardown(
	        test_link_handshake_byte_by_byte, setup, teardown),
	    cmocka_unit_test_setup_teardown(
	        test_stream_half_close_leaves_the_other_direction_open, setup,
	        teardown),
	    cmocka_unit_test_setup_teardown(
	        test_stream_end_without_close_notify_is_a_truncation, setup,
	        teardown),
	    cmocka_unit_test_setup_teardown(
	        test_stream_end_behind_a_short_read_is_seen, setup, teardown),
	    cmocka_unit_test_setup_teardown(
	        test_stream_missing_close_notify_can_be_an_end, setup,
	        teardown),
	    cmocka_unit_test_setup_teardown(
	        test_stream_missing_close_notify_within_a_record_is_a_cut,
	        setup, teardown),
	    cmocka_unit_test_setup_teardown(
	        test_stream_abort_is_a_reset_on_the_other_side, setup,
	        teardown),
	    cmocka_unit_test_setup_teardown(
	        test_stream_bulk_through_a_full_socket_keeps_every_byte, setup,
	        teardown),
	    cmocka_unit_test_setup_teardown(
	        test_stream_flood_of_key_updates_is_an_abort, setup, teardown),
	    cmocka_unit_test_setup_teardown(
	        test_env_swap_frees_the_old_key_under_live_connections, setup,
	        teardown),
	    cmocka_unit_test_setup_teardown(
	        test_env_swap_during_a_handshake_at_any_step, setup, teardown),
	    cmocka_unit_test_setup_teardown(
	        test_env_late_client_hello_sees_the_current_svid, setup,
	        teardown),
	    cmocka_unit_test_setup_teardown(
	        test_env_expired_svid_is_never_shown, setup, teardown),
	    cmocka_unit_test_setup_teardown(
	        test_env_without_an_svid_presents_nothing, setup, teardown),
	    cmocka_unit_test_setup_teardown(
	        test_env_key_type_change_needs_a_fresh_set, setup, teardown),
	    cmocka_unit_test_setup_teardown(
	        test_settings_unknown_names_are_refused, setup, teardown),
	};

	return cmocka_run_group_tests(tests, setup_group, teardown_group);
}
