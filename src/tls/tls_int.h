#ifndef POSTERN_TLS_INT_H
#define POSTERN_TLS_INT_H

/* What the files of this module know of each other. */

#include "tls.h"
#include "tls_stream.h"

#include <openssl/bio.h>

struct tls_material {
	X509 *leaf; /* NULL: nothing to present */
	STACK_OF(X509) * chain;
	EVP_PKEY *key; /* shared by its count with the master and the others */
	char *own_id;
	int64_t not_before;
	int64_t not_after;
	uint64_t generation;
	struct anchors *anchors;
};

enum tls_direction { TLS_OUTBOUND, TLS_INBOUND, TLS_DIRECTIONS };
enum tls_floor { TLS_FLOOR_13, TLS_FLOOR_12, TLS_FLOORS };

struct tls_set {
	SSL_CTX *ctx[TLS_DIRECTIONS][TLS_FLOORS];
};

struct tls_env {
	struct tls_set *set;
	struct tls_material *material;
	struct peer_table *peers;
	BIO_METHOD *bio_method;
};

/* The SVID of M on CTX: leaf, key and chain together, or nothing. */
bool tls_material_install(const struct tls_material *m, SSL_CTX *ctx);

/* ---- tls_bio.c ---- */

BIO_METHOD *tls_bio_method_new(void);
/* A BIO over T's descriptor; NULL: no memory. */
BIO *tls_bio_new(struct tls_stream *t);
/* Send what the handshake owes. False: the socket takes no more now. */
bool tls_wire_flush(struct tls_stream *t);

/* ---- tls_stream.c: callbacks, set on every context ---- */

int tls_on_certificate(X509_STORE_CTX *ctx, void *arg);
int tls_on_client_hello(SSL *ssl, int *alert, void *arg);
void tls_on_message(int is_write, int version, int content_type,
    const void *bytes, size_t len, SSL *ssl, void *arg);

/* ---- tls_error.c ---- */

/* "bad_certificate": the name in RFC 8446, section 6; a constant. */
const char *tls_alert_name(int alert);
/* The alert of the first error in the queue, or -1. */
int tls_error_alert(void);
/* A sentence from the first error in the queue; the queue is empty then. */
const char *tls_error_take(void);
/* libcrypto's code for our refusal: libssl makes the alert of it. */
int tls_error_of_reason(enum deny_reason reason);

#endif
