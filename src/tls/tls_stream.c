#include "tls_int.h"

#include "clock.h"
#include "mem.h"

#include <assert.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define RECORD_MAX 16384 /* RFC 8446, section 5.1 */

/* Control records that one connection may cost us. */
#define FLOOD_BURST        100
#define FLOOD_PER_S        16
#define FLOOD_CREDIT_BYTES (1024 * 1024) /* of data: buys one more */

static struct tls_stream *
stream_of(const SSL *ssl)
{
	return SSL_get_app_data(ssl);
}

static struct tls_stream *
from_stream(struct stream *s)
{
	return CONTAINER_OF(s, struct tls_stream, stream);
}

/* ---- Failures of the handshake: the first one counts ---- */

static void
set_failure(
    struct tls_stream *t, enum tls_failure_kind kind, const char *sentence)
{
	if (t->failure.kind != TLS_OK)
		return;
	t->failure.kind = kind;
	(void)fail(&t->failure.why, FAULT_IO, "tls: %s", sentence);
}

static void
set_refusal(struct tls_stream *t, enum deny_reason reason)
{
	if (t->failure.kind != TLS_OK)
		return;
	t->failure.kind = TLS_REFUSED;
	t->failure.reason = reason;
	if (t->failure.why.text[0] == '\0')
		(void)fail(&t->failure.why, FAULT_UNTRUSTED, "tls: %s",
		    deny_reason_sentence(reason));
}

/* ---- Callbacks from libssl ---- */

static enum deny_reason
judge_peer(struct tls_stream *t, X509_STORE_CTX *ctx)
{
	const struct verify_args args = {
	    .anchors = t->conf.env->material->anchors,
	    .peers = t->conf.env->peers,
	    .role = t->conf.is_server ? PEER_IS_CLIENT : PEER_IS_SERVER,
	    .ignore_intermediate_eku = t->conf.ignore_intermediate_eku,
	    .now_s = clock_wall_s(),
	};
	enum deny_reason reason = verify_peer(
	    ctx, &args, &t->peer, &t->failure.claimed_id, &t->failure.why);

	if (reason != DENY_NOT)
		return reason;
	reason = t->conf.judge(t->conf.judge_arg, t->peer);
	if (reason == DENY_NOT)
		return reason;
	X509_STORE_CTX_set_error(ctx, tls_error_of_reason(reason));
	t->failure.claimed_id = span_dup(peer_id(t->peer)->text);
	peer_release(&t->peer);
	return reason;
}

/*
 * An allow is provisional: the peer has shown a certificate, and not yet that
 * the key is its own.
 */
int
tls_on_certificate(X509_STORE_CTX *ctx, void *arg)
{
	SSL *ssl = X509_STORE_CTX_get_ex_data(
	    ctx, SSL_get_ex_data_X509_STORE_CTX_idx());
	struct tls_stream *t = stream_of(ssl);
	enum deny_reason reason;

	(void)arg;
	/* Once per connection: nothing may change who the peer is. */
	if (t->peer != NULL || t->is_up) {
		X509_STORE_CTX_set_error(ctx, X509_V_ERR_UNSPECIFIED);
		return 0;
	}
	reason = judge_peer(t, ctx);
	if (reason == DENY_NOT)
		return 1;
	set_refusal(t, reason);
	return 0;
}

/*
 * SSL_new() copied what was current then. A client that spoke late must see
 * what is current now, and an expired one never.
 */
static bool
present_current(SSL *ssl, const struct tls_material *m)
{
	if (SSL_get_certificate(ssl) == m->leaf)
		return true;
	/* One slot per key type: another type's would stay selectable. */
	SSL_certs_clear(ssl);
	return SSL_use_cert_and_key(ssl, m->leaf, m->key, m->chain, 1) == 1;
}

/* Before any operation with the key, and without telling a policy. */
int
tls_on_client_hello(SSL *ssl, int *alert, void *arg)
{
	struct tls_stream *t = stream_of(ssl);
	const struct tls_env *env = t->conf.env;

	(void)arg;
	if (!tls_env_can_present(env, clock_wall_s())) {
		set_refusal(t, DENY_NO_IDENTITY);
		*alert = SSL_AD_INTERNAL_ERROR;
		return SSL_CLIENT_HELLO_ERROR;
	}
	if (present_current(ssl, env->material))
		return SSL_CLIENT_HELLO_SUCCESS;
	set_failure(t, TLS_INTERNAL, "out of memory");
	*alert = SSL_AD_INTERNAL_ERROR;
	return SSL_CLIENT_HELLO_ERROR;
}

static void
pay_for_control_record(struct tls_stream *t)
{
	int64_t now_ms = clock_boot_ms();
	uint64_t credit = (uint64_t)(now_ms - t->flood_ms) * FLOOD_PER_S / 1000;
	uint64_t bought =
	    (t->stream.read_bytes - t->flood_read_mark) / FLOOD_CREDIT_BYTES;

	if (credit > 0) {
		t->flood_ms = now_ms;
		t->flood_spent -=
		    credit < t->flood_spent ? credit : t->flood_spent;
	}
	t->flood_read_mark += bought * FLOOD_CREDIT_BYTES;
	t->flood_spent -= bought < t->flood_spent ? bought : t->flood_spent;
	if (++t->flood_spent > FLOOD_BURST)
		t->is_flooded = true;
}

/* libssl bounds empty records and warnings, but not KeyUpdates. */
void
tls_on_message(int is_write, int version, int content_type, const void *bytes,
    size_t len, SSL *ssl, void *arg)
{
	struct tls_stream *t = stream_of(ssl);

	(void)version;
	(void)bytes;
	(void)len;
	(void)arg;
	if (is_write != 0 || t == NULL || !t->is_up)
		return;
	if (content_type == SSL3_RT_HANDSHAKE ||
	    content_type == SSL3_RT_ALERT ||
	    content_type == SSL3_RT_CHANGE_CIPHER_SPEC)
		pay_for_control_record(t);
}

/* ---- One wrapper for every call that may do I/O ---- */

enum ssl_call {
	CALL_HANDSHAKE,
	CALL_READ,
	CALL_WRITE,
	CALL_SHUTDOWN,
};

/*
 * SSL_get_error() reads the thread's queue: what was left there by another
 * connection must not be taken for this one's.
 */
static int
call_ssl(struct tls_stream *t, enum ssl_call call, void *buf, size_t len)
{
	if (ERR_peek_error() != 0)
		ERR_clear_error();
	switch (call) {
	case CALL_HANDSHAKE:
		return SSL_do_handshake(t->ssl);
	case CALL_READ:
		return SSL_read(t->ssl, buf, (int)len);
	case CALL_WRITE:
		return SSL_write(t->ssl, buf, (int)len);
	case CALL_SHUTDOWN:
		return SSL_shutdown(t->ssl);
	}
	return -1;
}

/* ---- The handshake ---- */

static SSL *
new_ssl(struct tls_stream *t)
{
	enum tls_direction d = t->conf.is_server ? TLS_INBOUND : TLS_OUTBOUND;
	enum tls_floor v = t->conf.tls12 ? TLS_FLOOR_12 : TLS_FLOOR_13;
	SSL *ssl = SSL_new(t->conf.env->set->ctx[d][v]);
	BIO *bio = ssl == NULL ? NULL : tls_bio_new(t);

	if (bio == NULL) {
		SSL_free(ssl);
		return NULL;
	}
	SSL_set_bio(ssl, bio, bio); /* takes it */
	(void)SSL_set_app_data(ssl, t);
	if (t->conf.is_server)
		SSL_set_accept_state(ssl);
	else
		SSL_set_connect_state(ssl);
	if (t->conf.sni != NULL && !t->conf.is_server &&
	    SSL_set_tlsext_host_name(ssl, (char *)(uintptr_t)t->conf.sni) !=
	        1) {
		SSL_free(ssl);
		return NULL;
	}
	return ssl;
}

/* Is there a first byte? An SSL for every silent connect would cost memory. */
static bool
has_first_byte(struct tls_stream *t)
{
	char byte;
	ssize_t n;

	if (!t->stream.readable)
		return false;
	do {
		n = recv(t->wire.fd, &byte, sizeof(byte), MSG_PEEK);
	} while (n < 0 && errno == EINTR);
	if (n > 0)
		return true;
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		t->stream.readable = false;
	else
		set_failure(t, TLS_NOBODY, "ended before its first byte");
	return false;
}

static void
make_ssl(struct tls_stream *t)
{
	/* Outbound, check, SSL_new() and first flight are one step. */
	if (!t->conf.is_server &&
	    !tls_env_can_present(t->conf.env, clock_wall_s())) {
		set_refusal(t, DENY_NO_IDENTITY);
		return;
	}
	if (t->conf.env->set != NULL)
		t->ssl = new_ssl(t);
	ERR_clear_error();
	if (t->ssl == NULL)
		set_failure(t, TLS_INTERNAL, "out of memory");
}

/* What ended the handshake, unless a callback knew better. */
static void
classify_handshake(struct tls_stream *t)
{
	int alert = tls_error_alert();
	unsigned long e = ERR_peek_error();

	if (alert >= 0) {
		t->failure.alert = tls_alert_name(alert);
		set_failure(t, TLS_ALERT, "the peer refused us");
	} else if (ERR_GET_REASON(e) ==
	           SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE) {
		set_refusal(t, DENY_NO_CLIENT_CERT);
	} else if (t->wire.error != 0) {
		set_failure(t, TLS_RESET, strerrordesc_np(t->wire.error));
	} else if (t->wire.eof) {
		set_failure(t, TLS_EOF, "ended within the handshake");
	} else if (ERR_GET_REASON(e) == ERR_R_MALLOC_FAILURE) {
		set_failure(t, TLS_INTERNAL, "out of memory");
	} else {
		set_failure(t, TLS_PROTOCOL, tls_error_take());
	}
	ERR_clear_error();
}

static void
complete_handshake(struct tls_stream *t)
{
	const char *own = tls_env_own_id(t->conf.env);

	if (SSL_session_reused(t->ssl) == 1) {
		set_failure(t, TLS_RESUMED, "a session was resumed");
		return;
	}
	if (t->peer == NULL) {
		set_refusal(t, DENY_NO_CLIENT_CERT);
		return;
	}
	t->own_id = own == NULL ? NULL : span_dup(span_of_str(own));
	/* Or the old key would live as long as its oldest connection. */
	SSL_certs_clear(t->ssl);
	t->is_up = true;
	t->flood_ms = clock_boot_ms();
}

static void
do_handshake(struct tls_stream *t)
{
	int ret = call_ssl(t, CALL_HANDSHAKE, NULL, 0);
	int error = SSL_get_error(t->ssl, ret);

	if (ret == 1)
		complete_handshake(t);
	else if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE)
		classify_handshake(t);
	ERR_clear_error();
	if (t->failure.kind != TLS_OK)
		peer_release(&t->peer);
}

static enum tls_step
answer(struct tls_stream *t)
{
	if (!tls_wire_flush(t))
		return TLS_WAIT;
	if (t->failure.kind != TLS_OK)
		return TLS_FAILED;
	return t->is_up ? TLS_UP : TLS_WAIT;
}

enum tls_step
tls_stream_step(struct tls_stream *t, bool may_be_heavy)
{
	bool is_first = t->ssl == NULL;
	enum tls_step step = answer(t);

	if (step != TLS_WAIT || t->wire.owed_len > 0)
		return step;
	if (is_first && t->conf.is_server && !has_first_byte(t))
		return answer(t);
	if (!is_first && !t->stream.readable)
		return TLS_WAIT;
	if (!may_be_heavy)
		return TLS_HEAVY;
	if (is_first)
		make_ssl(t);
	if (t->failure.kind == TLS_OK)
		do_handshake(t);
	return answer(t);
}

/* ---- The stream ---- */

static enum io_status
break_with(struct tls_stream *t, enum stream_end how, const char *text)
{
	/* The first counts, but an alert says why a write had failed. */
	if (t->stream.broken == STREAM_OPEN ||
	    (t->stream.broken == STREAM_RESET && how == STREAM_ALERT)) {
		t->stream.broken = how;
		t->stream.broken_text = text;
	}
	ERR_clear_error();
	return IO_ABORT;
}

/* The wire's own memory decides, not errno: an error is told only once. */
static enum io_status
classify_break(struct tls_stream *t)
{
	int alert = tls_error_alert();

	if (t->is_flooded)
		return break_with(t, STREAM_FLOOD, "too many control records");
	if (alert >= 0)
		return break_with(t, STREAM_ALERT, tls_alert_name(alert));
	if (t->wire.error != 0)
		return break_with(
		    t, STREAM_RESET, strerrorname_np(t->wire.error));
	if (t->wire.eof)
		return break_with(t, STREAM_TRUNCATED, "no close_notify");
	return break_with(t, STREAM_PROTOCOL, "protocol error");
}

/* `missing_close_notify = end`: only between two records, and counted. */
static enum io_status
end_without_close_notify(struct tls_stream *t)
{
	if (t->wire.error != 0 || SSL_has_pending(t->ssl) == 1)
		return break_with(t, STREAM_TRUNCATED, "cut within a record");
	t->missing_close_notify++;
	t->has_ended = true;
	return IO_END;
}

static enum io_status
classify(struct tls_stream *t, int ret)
{
	int error = SSL_get_error(t->ssl, ret);

	switch (error) {
	case SSL_ERROR_WANT_READ:
		if (t->wire.eof)
			return end_without_close_notify(t);
		return IO_WANT_READ;
	case SSL_ERROR_WANT_WRITE:
		return IO_WANT_WRITE;
	case SSL_ERROR_ZERO_RETURN:
		t->has_ended = true;
		return IO_END;
	default: /* a library's numbers, not an enum of ours */
		return classify_break(t);
	}
}

/* Nothing can have changed since the last call waited for this. */
static bool
still_waits(const struct tls_stream *t, enum io_status wanted)
{
	if (wanted == IO_WANT_READ)
		return !t->stream.readable && !t->wire.eof;
	return wanted == IO_WANT_WRITE && !t->stream.writable;
}

static bool
is_over(const struct tls_stream *t)
{
	return t->is_aborted || t->stream.broken != STREAM_OPEN;
}

static enum io_status
tls_read(struct stream *s, void *buf, size_t len, size_t *n_r)
{
	struct tls_stream *t = from_stream(s);
	int n;

	if (t->has_ended && !t->is_aborted)
		return IO_END;
	/* After our own write failed, what came before it is still read. */
	if (t->is_aborted || (is_over(t) && s->broken != STREAM_RESET))
		return IO_ABORT;
	if (still_waits(t, t->read_wants))
		return t->read_wants;
	n = call_ssl(
	    t, CALL_READ, buf, len < RECORD_MAX ? len : (size_t)RECORD_MAX);
	if (n > 0) {
		s->read_bytes += (uint64_t)n;
		*n_r = (size_t)n;
		t->read_wants = IO_DONE;
		return IO_DONE;
	}
	t->read_wants = classify(t, n);
	/* An end behind a failed write is none. */
	if (t->read_wants == IO_END && s->broken != STREAM_OPEN) {
		t->has_ended = false;
		return IO_ABORT;
	}
	return t->read_wants;
}

/* One record. What was refused is repeated with exactly its length. */
static enum io_status
write_record(struct tls_stream *t, const uint8_t *buf, size_t len, bool more,
    size_t *n_r)
{
	size_t take = len < RECORD_MAX ? len : (size_t)RECORD_MAX;
	int n;

	if (t->refused_len != 0) {
		assert(len >= t->refused_len);
		take = t->refused_len;
	}
	t->wire.more = more || len > take;
	n = call_ssl(t, CALL_WRITE, (void *)(uintptr_t)buf, take);
	t->wire.more = false; /* alerts and KeyUpdates go out at once */
	if (n > 0) {
		t->refused_len = 0;
		*n_r = (size_t)n;
		return IO_DONE;
	}
	t->refused_len = take;
	return classify(t, n);
}

static enum io_status
tls_write(struct stream *s, const void *buf, size_t len, bool more, size_t *n_r)
{
	struct tls_stream *t = from_stream(s);
	size_t taken = 0;

	assert(!t->is_finished);
	if (is_over(t))
		return IO_ABORT;
	if (still_waits(t, t->write_wants))
		return t->write_wants;
	t->write_wants = IO_DONE;
	while (taken < len && t->write_wants == IO_DONE) {
		size_t n = 0;

		t->write_wants = write_record(
		    t, (const uint8_t *)buf + taken, len - taken, more, &n);
		taken += n;
	}
	if (taken == 0)
		return t->write_wants;
	s->written_bytes += taken;
	*n_r = taken;
	return IO_DONE;
}

static enum io_status
tls_finish(struct stream *s)
{
	struct tls_stream *t = from_stream(s);
	enum io_status status;
	int ret;

	if (is_over(t))
		return IO_ABORT;
	if (t->is_finished)
		return IO_DONE;
	ret = call_ssl(t, CALL_SHUTDOWN, NULL, 0);
	if (ret >= 0) {
		t->is_finished = true; /* 0: ours is out, theirs is not in */
		return IO_DONE;
	}
	status = classify(t, ret);
	return status == IO_END ? IO_DONE : status;
}

static void
tls_abort(struct stream *s)
{
	struct tls_stream *t = from_stream(s);
	const struct linger reset = {.l_onoff = 1, .l_linger = 0};

	t->is_aborted = true;
	(void)setsockopt(
	    t->wire.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
}

static const struct stream_ops tls_stream_ops = {
    .read = tls_read,
    .write = tls_write,
    .finish = tls_finish,
    .abort = tls_abort,
};

void
tls_stream_init(
    struct tls_stream *t, int fd, const struct tls_stream_conf *conf)
{
	*t = (struct tls_stream){
	    .stream = {.ops = &tls_stream_ops,
	        .readable = true,
	        .writable = true},
	    .conf = *conf,
	    .wire = {.fd = fd},
	    .read_wants = IO_DONE,
	    .write_wants = IO_DONE,
	};
}

void
tls_stream_fini(struct tls_stream *t)
{
	/* Never a close_notify that nobody decided. */
	if (t->ssl != NULL)
		SSL_set_quiet_shutdown(t->ssl, 1);
	SSL_free(t->ssl);
	t->ssl = NULL;
	ERR_clear_error();
	peer_release(&t->peer);
	mem_free(&t->failure.claimed_id);
	mem_free(&t->own_id);
	mem_free(&t->wire.owed);
}

/* ---- Facts ---- */

const char *
tls_stream_version(const struct tls_stream *t)
{
	return t->is_up ? SSL_get_version(t->ssl) : NULL;
}

const char *
tls_stream_cipher(const struct tls_stream *t)
{
	return t->is_up ? SSL_get_cipher_name(t->ssl) : NULL;
}

const char *
tls_stream_group(const struct tls_stream *t)
{
	int nid = t->is_up ? (int)SSL_get_negotiated_group(t->ssl) : 0;

	return nid == 0 ? NULL : SSL_group_to_name(t->ssl, nid);
}
