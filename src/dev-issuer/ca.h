#ifndef POSTERN_CA_H
#define POSTERN_CA_H

/*
 * A certificate authority in memory, for development and for tests: the only
 * code of the repository that signs certificates.
 *
 * Every option struct may be all zeros: that makes a correct authority, SVID
 * or list. Each member bends one rule, so that refusals can be provoked one by
 * one. Strings of extensions are those of x509v3_config(5): NULL is the
 * default, "" leaves the extension out. Not for production: keys are neither
 * locked nor wiped. One thread at a time.
 */

#include <openssl/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "err.h"
#include "mem.h"

/* In O= of every name made here; svid_is_dev() looks for it. */
#define CA_MARKER "Postern development issuer - not for production"

enum ca_key_type {
	CA_P256,
	CA_P384,
	CA_P521,
	CA_RSA2048,
	CA_ED25519,
	/* Those that nobody should take. */
	CA_RSA1024,
	CA_RSA5120,
	CA_RSA_PSS,
	CA_SECP256K1,
	CA_X25519, /* cannot sign: leaf only */
};

/* One more extension: {"nameConstraints", "permitted;URI:example.org"}. */
struct ca_extension {
	const char *name; /* or a dotted OID, with a "DER:" value */
	const char *value;
};

/* What every certificate can be bent in. Arrays end with a NULL or {NULL}. */
struct ca_cert_options {
	enum ca_key_type key_type;
	EVP_PKEY *key;           /* use this one instead; borrowed */
	const char *common_name; /* CN; authorities have a default */
	bool empty_subject;
	bool no_marker;     /* names without CA_MARKER */
	int64_t not_before; /* seconds since 1970; 0: 10 s ago */
	int64_t not_after;  /* 0: in a day (authorities), an hour (SVIDs) */
	struct span serial; /* empty: 16 random octets */
	const char *key_usage;
	const char *ext_key_usage;
	const char *basic_constraints;
	const struct ca_extension *extra;
	bool version_1;  /* no extensions at all */
	bool no_key_ids; /* neither SKI nor AKI */
	bool sha1;       /* the signature's digest */
	bool bad_signature;
};

/* ---- Authorities ---- */

struct ca;

struct ca_options {
	struct ca_cert_options cert;
	const char *uri; /* its own SPIFFE ID; NULL: none */
};

/* ISSUER NULL: self-signed. Else an intermediate; ISSUER may be freed. */
enum fault ca_new(const struct ca *issuer, const struct ca_options *options,
    struct ca **ca_r, struct why *why);
void ca_free(struct ca **ca);

struct span ca_certificate(const struct ca *ca); /* DER, borrowed */
X509 *ca_x509(const struct ca *ca);              /* borrowed */
EVP_PKEY *ca_key(const struct ca *ca);           /* borrowed */

/* ---- SVIDs ---- */

struct ca_svid;

struct ca_svid_options {
	struct ca_cert_options cert;
	struct span id;          /* the URI SAN; any bytes; empty: none */
	const char *const *uris; /* further URI SANs */
	const char *other_names; /* "DNS:a.test,IP:192.0.2.1" */
	bool san_critical;       /* always so under an empty subject */
	bool san_never_critical; /* not even there */
	bool second_san;         /* the SAN extension twice */
	bool with_root;          /* the chain ends with its root */
};

enum fault ca_issue(const struct ca *issuer,
    const struct ca_svid_options *options, struct ca_svid **svid_r,
    struct why *why);
void ca_svid_free(struct ca_svid **svid);

/* All borrowed. The chain is DER back to back, leaf first. */
struct span ca_svid_chain(const struct ca_svid *s);
struct span ca_svid_key_der(const struct ca_svid *s); /* PKCS#8 */
struct span ca_svid_serial(const struct ca_svid *s);  /* big-endian */
X509 *ca_svid_leaf(const struct ca_svid *s);
STACK_OF(X509) * ca_svid_above(const struct ca_svid *s); /* without leaf */
EVP_PKEY *ca_svid_key(const struct ca_svid *s);

/* ---- Revocation lists ---- */

struct ca_crl_options {
	const struct span *serials; /* big-endian */
	size_t n_serials;
	int64_t this_update; /* 0: now */
	int64_t next_update; /* 0: none */
	bool year_1;         /* thisUpdate is 00010101000000Z, as tbot's */
	int64_t number;      /* cRLNumber; 0: none */
	bool indirect_entry; /* the first entry names another issuer */
	const struct ca_extension *extra;
};

/* *DER_R is given: free it with mem_free(). */
enum fault ca_crl(const struct ca *issuer, const struct ca_crl_options *options,
    uint8_t **der_r, size_t *len_r, struct why *why);

#endif
