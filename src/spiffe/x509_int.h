#ifndef POSTERN_X509_INT_H
#define POSTERN_X509_INT_H

/* What svid.c, bundle.c and verify.c ask of a certificate. */

#include <openssl/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "spiffe.h"

#define DIGEST_LEN 32 /* SHA-256 */

#define RSA_BITS_MIN 2048
#define RSA_BITS_MAX 4096 /* beyond: our CPU, at the peer's will */

/* The next certificate of S, which moves on; NULL: not DER. */
X509 *x509_take(struct span *s);

/* SHA-256 of the whole certificate. False: no memory. */
bool x509_digest(const X509 *x, uint8_t digest_r[DIGEST_LEN]);

/* Seconds since 1970; 0 where the encoding is broken. */
int64_t x509_time(const ASN1_TIME *t);
int64_t x509_not_before(const X509 *x);
int64_t x509_not_after(const X509 *x);

/* Lower case hex of at most 20 octets; false: longer. */
bool x509_serial(const X509 *x, char serial_r[SVID_SERIAL_MAX]);

/* May it sign certificates: v3, CA:TRUE, keyCertSign if keyUsage is there? */
bool x509_is_ca(X509 *x);
bool x509_has_key_cert_sign(X509 *x); /* keyUsage is there, with this bit */
bool x509_rsa_is_too_large(X509 *x);

/* ---- The leaf's own rules: X509-SVID sections 2 to 5.2 ---- */

struct leaf {
	char *id_text; /* heap; borrowed by ID */
	struct spiffe_id id;
};

enum leaf_fault {
	LEAF_GOOD,
	LEAF_NOMEM,
	LEAF_BROKEN, /* not a well-formed certificate: a chain's fault */
	LEAF_BAD,    /* breaks a rule of X509-SVID */
};

/*
 * All that can be said of the leaf alone. libcrypto asks for none of this. On
 * LEAF_GOOD *LEAF_R is given (leaf_fini). On LEAF_BAD *CLAIMED_R (may be NULL)
 * gets a heap copy of its one URI, if it has one.
 */
enum leaf_fault leaf_check(
    X509 *x, struct leaf *leaf_r, char **claimed_r, struct why *why);
void leaf_fini(struct leaf *leaf);

#endif
