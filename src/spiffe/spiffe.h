#ifndef POSTERN_SPIFFE_H
#define POSTERN_SPIFFE_H

/*
 * SPIFFE: IDs, X509-SVIDs, bundles, identities, and the verification of a
 * peer's chain. No I/O and no clock of its own: the time is an argument.
 *
 * Master objects (svid, bundle, identity) belong to the control thread.
 * A peer table belongs to one worker.
 */

#include <openssl/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "err.h"
#include "mem.h"
#include "queue.h"
#include "reasons.h"

/* ---- SPIFFE IDs: SPIFFE-ID sections 2 to 2.4 ---- */

#define SPIFFE_ID_MAX           2048 /* bytes, scheme included */
#define SPIFFE_TRUST_DOMAIN_MAX 255

/*
 * A checked ID. All three spans borrow the bytes that were parsed. PATH begins
 * with '/', or is empty for the ID of a trust domain.
 */
struct spiffe_id {
	struct span text;
	struct span trust_domain;
	struct span path;
};

enum spiffe_id_error {
	SPIFFE_ID_OK,
	SPIFFE_ID_NO_SCHEME,   /* does not begin with spiffe:// */
	SPIFFE_ID_SCHEME_CASE, /* SPIFFE://, Spiffe:// */
	SPIFFE_ID_TD_EMPTY,
	SPIFFE_ID_TD_CASE, /* upper case in the trust domain */
	SPIFFE_ID_TD_CHAR, /* outside a-z 0-9 . - _ */
	SPIFFE_ID_TD_LONG, /* over 255 bytes */
	SPIFFE_ID_USERINFO,
	SPIFFE_ID_PORT,
	SPIFFE_ID_PERCENT,
	SPIFFE_ID_QUERY,
	SPIFFE_ID_FRAGMENT,
	SPIFFE_ID_TRAILING_SLASH,
	SPIFFE_ID_EMPTY_SEGMENT,
	SPIFFE_ID_DOT_SEGMENT, /* "." or ".." */
	SPIFFE_ID_PATH_CHAR,   /* outside a-z A-Z 0-9 . - _ */
	SPIFFE_ID_LONG,        /* over 2048 bytes */
};

/*
 * Strict parse of spiffe://TD[/path]. Nothing is folded, decoded or trimmed.
 * On SPIFFE_ID_OK *ID_R borrows TEXT; else *ID_R is untouched.
 */
enum spiffe_id_error spiffe_id_parse(struct span text, struct spiffe_id *id_r);

/* The same rules on a trust domain name alone (never the SPIFFE ID form). */
enum spiffe_id_error spiffe_trust_domain_check(struct span name);

/* A sentence without the ID: "trust domain must be lower case". */
const char *spiffe_id_error_text(enum spiffe_id_error e);

/* ---- SVIDs ---- */

#define SVID_HINT_MAX   1024
#define SVID_SERIAL_MAX 41 /* hex digits of 20 octets, and NUL */

struct svid;

/* One SVID as a source delivers it: all spans borrowed. */
struct svid_raw {
	struct span id;    /* spiffe_id field; must equal the URI SAN */
	struct span chain; /* DER certificates back to back, leaf first */
	struct span key;   /* DER PKCS#8, unencrypted, nothing after it */
	struct span hint;  /* may be empty */
};

/*
 * Check and build (spiffe.md rows 68 to 74; X509-SVID section 4). On
 * FAULT_NONE *SVID_R is given. KEY is borrowed; whoever received it cleanses
 * it. Dates are not judged here. Ordinary faults leave *SVID_R untouched.
 */
enum fault svid_parse(
    const struct svid_raw *raw, struct svid **svid_r, struct why *why);
void svid_free(struct svid **svid);

const struct spiffe_id *svid_id(const struct svid *s);
struct span svid_hint(const struct svid *s);
const char *svid_serial(const struct svid *s); /* lower case hex */
int64_t svid_not_before(const struct svid *s); /* latest of the chain */
int64_t svid_not_after(const struct svid *s);  /* earliest of the chain */
bool svid_is_dev(const struct svid *s);        /* made by postern-dev-issuer */
const char *svid_key_type(const struct svid *s); /* "EC", "RSA", "ED25519" */

/* Borrowed from the SVID, for who renders it. */
X509 *svid_leaf(const struct svid *s);
const STACK_OF(X509) * svid_chain(const struct svid *s); /* without the leaf */
EVP_PKEY *svid_key(const struct svid *s);

/* ---- Bundles ---- */

struct bundle;

/* The authorities of one trust domain as a source delivers them. */
struct bundle_raw {
	/* Name or trust-domain SPIFFE ID. Beside an SVID it may be empty. */
	struct span trust_domain;
	struct span authorities; /* DER certificates back to back */
};

void bundle_free(struct bundle **b);
struct span bundle_trust_domain(const struct bundle *b);
size_t bundle_authorities(const struct bundle *b); /* usable ones */
size_t bundle_dropped(const struct bundle *b);     /* parsed, but no CA */
uint64_t bundle_generation(const struct bundle *b);
int64_t bundle_not_after(const struct bundle *b); /* latest; 0 if none */

/* ---- Identity: everything of one full update ---- */

#define IDENTITY_SVIDS_MAX         128
#define IDENTITY_TRUST_DOMAINS_MAX 1024
#define IDENTITY_CRLS_MAX          64

struct identity;

/* A full update. Arrays and spans borrowed. */
struct identity_raw {
	const struct svid_raw *svids;
	const struct bundle_raw *own_bundles; /* one per entry of SVIDS */
	size_t n_svids;
	const struct bundle_raw *federated;
	size_t n_federated;
	const struct span *crls; /* DER CertificateList each */
	size_t n_crls;
	bool is_dev; /* the source is for development: svid_is_dev() */
};

/*
 * Build an identity: trust (bundles, lists) whole or nothing, SVIDs likewise.
 *
 * FAULT_NONE: *ID_R is given. identity_svids_broken() says whether its SVIDs
 * were void while its trust is good (NO-SVID); then WHY holds the reason.
 * Any other result: discard the message (spiffe.md 4.3), outputs untouched.
 * PREVIOUS (may be NULL) is the identity in force: bundles that did not change
 * keep their generation and share their certificates with it; a changed one
 * gets *NEXT_GENERATION, which is then incremented.
 */
enum fault identity_new(const struct identity_raw *raw,
    const struct identity *previous, uint64_t *next_generation,
    struct identity **id_r, struct why *why);
void identity_free(struct identity **id);

bool identity_svids_broken(const struct identity *id);
size_t identity_svid_count(const struct identity *id);
const struct svid *identity_svid(const struct identity *id, size_t i);
size_t identity_bundle_count(const struct identity *id);
const struct bundle *identity_bundle(const struct identity *id, size_t i);
size_t identity_crl_count(const struct identity *id);
size_t identity_crl_entries(const struct identity *id);

/* Same material, whatever the order and the encoding (spiffe.md 4.3). */
bool identity_equal(const struct identity *a, const struct identity *b);

/* ---- Anchors: bundles rendered for one worker ---- */

struct anchors;

/*
 * One set of certificates per trust domain, with copies of its own, so that no
 * count is shared between threads. Control thread builds, one worker owns.
 */
enum fault anchors_new(const struct identity *id, OSSL_LIB_CTX *libctx,
    struct anchors **anchors_r, struct why *why);
void anchors_free(struct anchors **a);
bool anchors_know(const struct anchors *a, struct span trust_domain);

/* ---- Peers ---- */

/* A verified chain, interned per worker. Plain count, one thread. */
struct peer;
struct peer_table;

#define PEER_TABLE_MAX 4096 /* entries without a live connection */

struct peer_table *peer_table_new(void);     /* NULL: no memory */
void peer_table_free(struct peer_table **t); /* all peers released */

struct peer *peer_hold(struct peer *p);
void peer_release(struct peer **p);
const struct spiffe_id *peer_id(const struct peer *p);
const char *peer_serial(const struct peer *p); /* leaf, lower case hex */
int64_t peer_not_after(const struct peer *p);

/* Which of the two we are in the handshake. */
enum peer_role {
	PEER_IS_CLIENT, /* inbound: the peer presents a client certificate */
	PEER_IS_SERVER, /* outbound */
};

struct verify_args {
	const struct anchors *anchors;
	struct peer_table *peers;
	enum peer_role role;
	bool ignore_intermediate_eku; /* `eku = ignore` */
	int64_t now_s;                /* wall clock */
};

/*
 * The only door to "this peer is who": SPIFFE leaf rules, path building
 * against the anchors of the peer's own trust domain, cache (performance.md
 * 10). CTX is what libssl hands to the verify callback; on refusal its error
 * is set so that the alert says something true (spiffe.md 8.1).
 *
 * DENY_NOT: *PEER_R is held for the caller. Else the reason, WHY a sentence
 * with foreign text escaped, *PEER_R untouched; *CLAIMED_R (may be NULL) gets
 * a heap copy of the ID that the leaf claims, or NULL.
 */
enum deny_reason verify_peer(X509_STORE_CTX *ctx,
    const struct verify_args *args, struct peer **peer_r, char **claimed_r,
    struct why *why);

/* ---- Keys ---- */

/*
 * Wiping allocator and secure heap of SIZE bytes (a power of two). Before any
 * other OpenSSL call of the process. *LOCKED_R: the heap could be locked in
 * memory.
 */
enum fault key_memory_init(size_t size, bool *locked_r, struct why *why);
size_t key_memory_used(void);
size_t key_memory_size(void);
/* Draw one random byte, so that this thread's DRBG stands in the heap. */
void key_memory_thread_start(void);
/* Secure-heap bytes for a raw key; NULL if full. Freed and wiped by the
 * second. */
uint8_t *key_memory_alloc(size_t len);
void key_memory_free(uint8_t *bytes, size_t len);
/* explicit_bzero, by its reason. */
void key_memory_wipe(void *bytes, size_t len);

/* "OpenSSL 3.0.19 ..." as it runs. */
const char *spiffe_library_version(void);

#endif
