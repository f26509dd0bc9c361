#ifndef POSTERN_TLS_STREAM_H
#define POSTERN_TLS_STREAM_H

/*
 * One TLS connection: its handshake, then a byte stream. For `transport`.
 *
 * Called on the worker that owns the descriptor and the environment. Never
 * blocks, never closes the descriptor, never frees itself.
 */

#include <openssl/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "err.h"
#include "reasons.h"
#include "spiffe.h"
#include "stream.h"
#include "tls.h"

struct tls_stream;

/* Borrowed for the life of the stream. */
struct tls_stream_conf {
	struct tls_env *env;
	bool is_server;
	bool tls12; /* 1.2 is offered, and taken */
	bool ignore_intermediate_eku;
	bool end_without_close_notify;
	const char *sni; /* client; NULL: none */
	/* Asked once, inside the handshake. DENY_NOT allows. */
	enum deny_reason (*judge)(void *judge_arg, struct peer *peer);
	void *judge_arg;
};

enum tls_failure_kind {
	TLS_OK,
	TLS_NOBODY,   /* the end came before the first byte */
	TLS_EOF,      /* the end came inside the handshake */
	TLS_RESET,    /* the transport broke inside the handshake */
	TLS_REFUSED,  /* by us: see `reason` */
	TLS_ALERT,    /* by the peer: see `alert` */
	TLS_PROTOCOL, /* not TLS, or no common parameters */
	TLS_RESUMED,  /* must never occur */
	TLS_INTERNAL, /* no memory */
};

struct tls_failure {
	enum tls_failure_kind kind;
	enum deny_reason reason;
	const char *alert; /* constant */
	struct why why;
	char *claimed_id; /* heap, the stream's; what a refused leaf claims */
};

enum tls_step {
	TLS_WAIT,  /* for the descriptor */
	TLS_HEAVY, /* next is cryptography: ask again when it may run */
	TLS_UP,
	TLS_FAILED, /* also: the alert is out, as far as it will ever be */
};

/* What the custom BIO saw of the descriptor: the truth about an end. */
struct tls_wire {
	int fd;         /* borrowed */
	bool eof;       /* FIN was read */
	int error;      /* first errno of any call, latched; 0: none */
	bool more;      /* further plaintext follows in this turn */
	bool is_corked; /* the last send said so */
	bool hup;       /* an end was announced: see transport.h, ready() */
	uint8_t *owed;  /* of a handshake: taken from libssl, not yet sent */
	size_t owed_len;
	uint64_t in_bytes;
};

struct tls_stream {
	struct stream stream; /* first: it is the stream */
	struct tls_stream_conf conf;
	SSL *ssl; /* NULL: inbound, before the first byte */
	struct tls_wire wire;
	struct peer *peer; /* held; provisional until TLS_UP */
	struct tls_failure failure;
	char *own_id; /* heap: the SPIFFE ID that was shown */
	bool is_up;
	bool is_aborted;
	bool is_flooded;
	bool is_finished;          /* close_notify is out */
	bool has_ended;            /* IO_END was said once */
	enum io_status read_wants; /* what the last call waited for */
	enum io_status write_wants;
	size_t refused_len; /* of the SSL_write that must be repeated */
	uint64_t missing_close_notify;
	int64_t flood_ms;         /* when the budget was last filled */
	uint64_t flood_spent;     /* control records on the account */
	uint64_t flood_read_mark; /* read_bytes that already bought credit */
};

/* FD is borrowed and connected. */
void tls_stream_init(
    struct tls_stream *t, int fd, const struct tls_stream_conf *conf);
void tls_stream_fini(struct tls_stream *t);

/* One step of the handshake. */
enum tls_step tls_stream_step(struct tls_stream *t, bool may_be_heavy);

const char *tls_stream_version(const struct tls_stream *t);
const char *tls_stream_cipher(const struct tls_stream *t);
const char *tls_stream_group(const struct tls_stream *t);

#endif
