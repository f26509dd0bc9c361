#include "peers_int.h"
#include "svid_int.h"

#include "text.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>

#define PATH_DEPTH_MAX 5
#define NAMESAKES_MAX  8 /* anchors tried for one name */
#define AUTH_LEVEL_MIN 2 /* no RSA below 2048 bits, no SHA-1 */

/* ---- Anchors ---- */

struct anchor_set {
	char *trust_domain;
	size_t trust_domain_len;
	uint64_t generation;
	STACK_OF(X509) * certs; /* copies of this worker's own */
};

struct anchors {
	struct anchor_set *sets; /* by trust domain */
	size_t n;
};

static X509 *
copy_certificate(X509 *x, OSSL_LIB_CTX *libctx)
{
	unsigned char *der = NULL;
	const unsigned char *at;
	int len = i2d_X509(x, &der);
	X509 *copy = len > 0 ? X509_new_ex(libctx, NULL) : NULL;

	at = der;
	if (copy != NULL && d2i_X509(&copy, &at, len) == NULL) {
		X509_free(copy);
		copy = NULL;
	}
	OPENSSL_free(der);
	if (copy != NULL)
		(void)X509_check_purpose(copy, -1, 0);
	ERR_clear_error();
	return copy;
}

static bool
fill_set(struct anchor_set *set, const struct bundle *b, OSSL_LIB_CTX *libctx)
{
	set->trust_domain = span_dup(bundle_trust_domain(b));
	set->trust_domain_len = bundle_trust_domain(b).len;
	set->generation = bundle_generation(b);
	set->certs = sk_X509_new_null();
	if (set->trust_domain == NULL || set->certs == NULL)
		return false;
	for (size_t i = 0; i < bundle_authorities(b); i++) {
		X509 *copy = copy_certificate(bundle_certificate(b, i), libctx);

		if (copy == NULL)
			return false;
		if (sk_X509_push(set->certs, copy) == 0) {
			X509_free(copy);
			return false;
		}
	}
	return true;
}

enum fault
anchors_new(const struct identity *id, OSSL_LIB_CTX *libctx,
    struct anchors **anchors_r, struct why *why)
{
	AUTO(anchors_free) struct anchors *a = calloc(1, sizeof(*a));
	size_t n = id == NULL ? 0 : identity_bundle_count(id);

	if (a != NULL)
		a->sets = calloc(n + 1, sizeof(*a->sets));
	if (a == NULL || a->sets == NULL)
		return fail(why, FAULT_NOMEM, "anchors: out of memory");
	for (size_t i = 0; i < n; i++) {
		a->n++;
		if (!fill_set(&a->sets[i], identity_bundle(id, i), libctx))
			return fail(why, FAULT_NOMEM, "anchors: out of memory");
	}
	*anchors_r = a;
	a = NULL; /* given to the caller */
	return FAULT_NONE;
}

void
anchors_free(struct anchors **anchors)
{
	struct anchors *a = *anchors;

	if (a == NULL)
		return;
	for (size_t i = 0; i < a->n; i++) {
		sk_X509_pop_free(a->sets[i].certs, X509_free);
		free(a->sets[i].trust_domain);
	}
	free(a->sets);
	free(a);
	*anchors = NULL;
}

static int
by_trust_domain(const void *key, const void *set)
{
	const struct anchor_set *s = set;

	return span_compare(*(const struct span *)key,
	    span_of(s->trust_domain, s->trust_domain_len));
}

/* Identities keep their bundles sorted, so these sets are. */
static struct anchor_set *
find_set(const struct anchors *a, struct span trust_domain)
{
	return bsearch(
	    &trust_domain, a->sets, a->n, sizeof(*a->sets), by_trust_domain);
}

bool
anchors_know(const struct anchors *a, struct span trust_domain)
{
	return find_set(a, trust_domain) != NULL;
}

/* ---- One verification ---- */

struct verification {
	X509_STORE_CTX *ctx;
	const struct verify_args *args;
	X509 *leaf;
	struct peer_facts facts;
	const struct anchor_set *set;
	char *claimed; /* what a refused leaf says it is */
	struct why *why;
};

/* ERROR becomes the alert (spiffe.md 8.1's table is libssl's own mapping). */
static enum deny_reason
refuse(struct verification *v, enum deny_reason reason, int error)
{
	X509_STORE_CTX_set_error(v->ctx, error);
	ERR_clear_error();
	return reason;
}

static enum deny_reason
refuse_no_memory(struct verification *v)
{
	(void)fail(v->why, FAULT_NOMEM, "verify: out of memory");
	return refuse(v, DENY_LIMIT, X509_V_ERR_UNSPECIFIED);
}

static enum deny_reason
check_leaf(struct verification *v)
{
	switch (leaf_check(v->leaf, &v->facts.leaf, &v->claimed, v->why)) {
	case LEAF_GOOD:
		(void)x509_serial(v->leaf, v->facts.serial);
		return DENY_NOT;
	case LEAF_NOMEM:
		return refuse_no_memory(v);
	case LEAF_BROKEN:
		return refuse(v, DENY_BAD_CHAIN, X509_V_ERR_CERT_REJECTED);
	case LEAF_BAD:
		return refuse(v, DENY_BAD_ID, X509_V_ERR_CERT_REJECTED);
	}
	return refuse(v, DENY_BAD_ID, X509_V_ERR_CERT_REJECTED);
}

/* Before any signature is checked with them: our CPU, at the peer's will. */
static enum deny_reason
check_key_sizes(struct verification *v)
{
	STACK_OF(X509) *sent = X509_STORE_CTX_get0_untrusted(v->ctx);
	bool too_large = x509_rsa_is_too_large(v->leaf);

	for (int i = 0; sent != NULL && i < sk_X509_num(sent); i++)
		too_large |= x509_rsa_is_too_large(sk_X509_value(sent, i));
	if (!too_large)
		return DENY_NOT;
	(void)fail(v->why, FAULT_UNTRUSTED,
	    "verify: an RSA key is over %d bits", RSA_BITS_MAX);
	return refuse(v, DENY_BAD_CHAIN, X509_V_ERR_CERT_REJECTED);
}

static enum deny_reason
find_anchors(struct verification *v)
{
	struct span td = v->facts.leaf.id.trust_domain;

	v->set =
	    v->args->anchors == NULL ? NULL : find_set(v->args->anchors, td);
	if (v->set != NULL)
		return DENY_NOT;
	(void)fail(v->why, FAULT_UNTRUSTED,
	    "verify: no bundle for the trust domain %.*s", (int)td.len,
	    (const char *)td.data);
	return refuse(v, DENY_UNKNOWN_TRUST_DOMAIN,
	    X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY);
}

/* ---- The cache's key ---- */

static bool
add_certificate(EVP_MD_CTX *md, const X509 *x)
{
	uint8_t digest[DIGEST_LEN];

	return x509_digest(x, digest) &&
	       EVP_DigestUpdate(md, digest, sizeof(digest)) == 1;
}

/*
 * Everything that the verdict depends on, but for the time: the chain as it
 * was sent, the purpose, the one switch, the trust domain and the number of
 * its bundle.
 */
static bool
compute_key(struct verification *v)
{
	STACK_OF(X509) *sent = X509_STORE_CTX_get0_untrusted(v->ctx);
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	uint8_t head[2] = {
	    (uint8_t)v->args->role, v->args->ignore_intermediate_eku ? 1 : 0};
	struct span td = v->facts.leaf.id.trust_domain;
	bool ok = md != NULL &&
	          EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1 &&
	          EVP_DigestUpdate(md, head, sizeof(head)) == 1 &&
	          EVP_DigestUpdate(md, &v->set->generation,
	              sizeof(v->set->generation)) == 1 &&
	          EVP_DigestUpdate(md, &td.len, sizeof(td.len)) == 1 &&
	          EVP_DigestUpdate(md, td.data, td.len) == 1 &&
	          add_certificate(md, v->leaf);

	for (int i = 0; ok && sent != NULL && i < sk_X509_num(sent); i++)
		ok = add_certificate(md, sk_X509_value(sent, i));
	ok = ok && EVP_DigestFinal_ex(md, v->facts.key, NULL) == 1;
	EVP_MD_CTX_free(md);
	return ok;
}

/* ---- The path ---- */

/*
 * libcrypto ends a validity one second early: RFC 5280, 4.1.2.5 counts the
 * ends in.
 */
static bool
is_last_second(X509_STORE_CTX *ctx)
{
	time_t now = X509_VERIFY_PARAM_get_time(X509_STORE_CTX_get0_param(ctx));

	return X509_STORE_CTX_get_error(ctx) == X509_V_ERR_CERT_HAS_EXPIRED &&
	       x509_not_after(X509_STORE_CTX_get_current_cert(ctx)) == now;
}

static int
pass_last_second(int ok, X509_STORE_CTX *ctx)
{
	if (ok != 0 || !is_last_second(ctx))
		return ok;
	X509_STORE_CTX_set_error(ctx, X509_V_OK);
	return 1;
}

/* `eku = ignore`: on authorities only, never on the leaf. */
static int
pass_authority_purpose(int ok, X509_STORE_CTX *ctx)
{
	if (ok != 0 || X509_STORE_CTX_get_error_depth(ctx) == 0 ||
	    X509_STORE_CTX_get_error(ctx) != X509_V_ERR_INVALID_PURPOSE)
		return pass_last_second(ok, ctx);
	X509_STORE_CTX_set_error(ctx, X509_V_OK);
	return 1;
}

static void
prepare(struct verification *v, X509_STORE_CTX *ctx, STACK_OF(X509) * trusted)
{
	X509_VERIFY_PARAM *param = X509_STORE_CTX_get0_param(ctx);
	int level = X509_VERIFY_PARAM_get_auth_level(param);

	X509_STORE_CTX_set0_trusted_stack(ctx, trusted);
	/* Authorities of a bundle need not be self-signed: X509 section 6.1. */
	(void)X509_VERIFY_PARAM_set_flags(param, X509_V_FLAG_PARTIAL_CHAIN);
	/* A CN that looks like a DNS name is none: spiffe.md row 57. */
	X509_VERIFY_PARAM_set_hostflags(
	    param, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
	X509_VERIFY_PARAM_set_depth(param, PATH_DEPTH_MAX);
	/* A context of one's own starts at -1, which takes SHA-1. */
	X509_VERIFY_PARAM_set_auth_level(
	    param, level > AUTH_LEVEL_MIN ? level : AUTH_LEVEL_MIN);
	X509_VERIFY_PARAM_set_time(param, (time_t)v->args->now_s);
	(void)X509_VERIFY_PARAM_set_purpose(
	    param, v->args->role == PEER_IS_CLIENT ? X509_PURPOSE_SSL_CLIENT
	                                           : X509_PURPOSE_SSL_SERVER);
	X509_STORE_CTX_set_verify_cb(ctx, v->args->ignore_intermediate_eku
	                                      ? pass_authority_purpose
	                                      : pass_last_second);
}

static const char *
time_text(const ASN1_TIME *t, char *buf, size_t size)
{
	BIO *bio = BIO_new(BIO_s_mem());
	int n = -1;

	if (bio != NULL && ASN1_TIME_print(bio, t) == 1)
		n = BIO_read(bio, buf, (int)size - 1);
	BIO_free(bio);
	buf[n < 0 ? 0 : n] = '\0';
	return buf;
}

/* Both clocks are named: the usual cause is that they differ. */
static enum deny_reason
refuse_time(struct verification *v, int error, int depth)
{
	X509 *x = X509_STORE_CTX_get_current_cert(v->ctx);
	ASN1_TIME *now = ASN1_TIME_set(NULL, (time_t)v->args->now_s);
	bool late = error == X509_V_ERR_CERT_HAS_EXPIRED;
	const ASN1_TIME *bound =
	    late ? X509_get0_notAfter(x) : X509_get0_notBefore(x);
	char ours[40] = "?";
	char theirs[40];

	if (now != NULL)
		(void)time_text(now, ours, sizeof(ours));
	(void)fail(v->why, FAULT_EXPIRED,
	    "verify: certificate %d of the chain is %s %s, it is %s here",
	    depth + 1, late ? "valid until" : "not valid before",
	    time_text(bound, theirs, sizeof(theirs)), ours);
	ASN1_TIME_free(now);
	return refuse(v, DENY_EXPIRED, error);
}

/* In a rotation of authorities this is the usual one: say whose are missing. */
static enum deny_reason
refuse_anchor(struct verification *v)
{
	(void)fail(v->why, FAULT_UNTRUSTED,
	    "verify: no anchor of %d of trust domain %.*s matches the chain",
	    sk_X509_num(v->set->certs), (int)v->set->trust_domain_len,
	    v->set->trust_domain);
	return refuse(
	    v, DENY_BAD_CHAIN, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY);
}

/* libcrypto's word for what failed, in ours. */
static enum deny_reason
refuse_path(struct verification *v)
{
	int error = X509_STORE_CTX_get_error(v->ctx);
	int depth = X509_STORE_CTX_get_error_depth(v->ctx);
	enum deny_reason reason = DENY_BAD_CHAIN;

	switch (error) {
	case X509_V_ERR_CERT_HAS_EXPIRED:
	case X509_V_ERR_CERT_NOT_YET_VALID:
		return refuse_time(v, error, depth);
	case X509_V_ERR_OUT_OF_MEM:
		return refuse_no_memory(v);
	case X509_V_OK: /* never leave a failure without its code */
		error = X509_V_ERR_UNSPECIFIED;
		break;
	case X509_V_ERR_INVALID_PURPOSE:
		if (depth == 0)
			reason = DENY_BAD_ID;
		break;
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
	case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
	case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
	case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
		return refuse_anchor(v);
	default: /* a library's numbers, not an enum of ours */
		break;
	}
	(void)fail(v->why, FAULT_UNTRUSTED,
	    "verify: certificate %d of the chain: %s", depth + 1,
	    X509_verify_cert_error_string(error));
	return refuse(v, reason, error);
}

static void
set_window(struct verification *v, X509_STORE_CTX *ctx)
{
	STACK_OF(X509) *path = X509_STORE_CTX_get0_chain(ctx);

	v->facts.not_before = INT64_MIN;
	v->facts.not_after = INT64_MAX;
	for (int i = 0; i < sk_X509_num(path); i++) {
		int64_t from = x509_not_before(sk_X509_value(path, i));
		int64_t to = x509_not_after(sk_X509_value(path, i));

		if (from > v->facts.not_before)
			v->facts.not_before = from;
		if (to < v->facts.not_after)
			v->facts.not_after = to;
	}
}

/*
 * libcrypto takes the first anchor whose name fits and does not look for
 * another one when its signature does not: authorities of one name and
 * without key identifiers need a second try without it. ANCHORS loses what
 * was tried.
 */
static bool
try_without_last_anchor(struct verification *v, X509_STORE_CTX *tried,
    STACK_OF(X509) * anchors, X509_STORE_CTX **next_r)
{
	STACK_OF(X509) *path = X509_STORE_CTX_get0_chain(tried);
	X509 *anchor = sk_X509_num(path) == 0
	                   ? NULL
	                   : sk_X509_value(path, sk_X509_num(path) - 1);
	int at = anchor == NULL ? -1 : sk_X509_find(anchors, anchor);
	X509_STORE_CTX *next = at < 0 ? NULL : X509_STORE_CTX_new();

	if (next == NULL)
		return false;
	(void)sk_X509_delete(anchors, at);
	if (X509_STORE_CTX_init(next, NULL, v->leaf,
	        X509_STORE_CTX_get0_untrusted(v->ctx)) == 1) {
		prepare(v, next, anchors);
		if (X509_verify_cert(next) == 1) {
			set_window(v, next);
			X509_STORE_CTX_free(next);
			return true;
		}
	}
	*next_r = next;
	return false;
}

static bool
try_other_anchors(struct verification *v)
{
	STACK_OF(X509) *anchors = sk_X509_dup(v->set->certs);
	X509_STORE_CTX *tried = v->ctx;
	bool found = false;

	for (int i = 0; anchors != NULL && i < NAMESAKES_MAX && !found; i++) {
		X509_STORE_CTX *next = NULL;

		if (X509_STORE_CTX_get_error(tried) !=
		    X509_V_ERR_CERT_SIGNATURE_FAILURE)
			break;
		found = try_without_last_anchor(v, tried, anchors, &next);
		if (tried != v->ctx)
			X509_STORE_CTX_free(tried);
		tried = next;
		if (tried == NULL)
			break;
	}
	if (tried != NULL && tried != v->ctx)
		X509_STORE_CTX_free(tried);
	sk_X509_free(anchors);
	return found;
}

static enum deny_reason
verify_path(struct verification *v, struct peer **peer_r)
{
	struct peer *p;

	prepare(v, v->ctx, v->set->certs);
	if (X509_verify_cert(v->ctx) == 1)
		set_window(v, v->ctx);
	else if (!try_other_anchors(v))
		return refuse_path(v);
	ERR_clear_error();
	p = peer_table_add(v->args->peers, &v->facts);
	if (p == NULL)
		return refuse_no_memory(v);
	X509_STORE_CTX_set_error(v->ctx, X509_V_OK);
	*peer_r = p;
	return DENY_NOT;
}

static enum deny_reason
run(struct verification *v, struct peer **peer_r)
{
	enum deny_reason reason = check_leaf(v);
	struct peer *known = NULL;

	if (reason == DENY_NOT)
		reason = check_key_sizes(v);
	if (reason == DENY_NOT)
		reason = find_anchors(v);
	if (reason != DENY_NOT)
		return reason;
	if (!compute_key(v))
		return refuse_no_memory(v);
	if (v->args->peers != NULL)
		known = peer_table_find(
		    v->args->peers, v->facts.key, v->args->now_s);
	if (known == NULL)
		return verify_path(v, peer_r);
	X509_STORE_CTX_set_error(v->ctx, X509_V_OK);
	*peer_r = known;
	return DENY_NOT;
}

enum deny_reason
verify_peer(X509_STORE_CTX *ctx, const struct verify_args *args,
    struct peer **peer_r, char **claimed_r, struct why *why)
{
	struct verification v = {.ctx = ctx,
	    .args = args,
	    .leaf = X509_STORE_CTX_get0_cert(ctx),
	    .why = why};
	enum deny_reason reason;

	if (v.leaf == NULL) {
		(void)fail(why, FAULT_UNTRUSTED, "verify: no certificate");
		return refuse(
		    &v, DENY_NO_CLIENT_CERT, X509_V_ERR_CERT_REJECTED);
	}
	reason = run(&v, peer_r);
	if (reason != DENY_NOT && v.claimed == NULL &&
	    v.facts.leaf.id_text != NULL) {
		v.claimed = v.facts.leaf.id_text;
		v.facts.leaf.id_text = NULL;
	}
	leaf_fini(&v.facts.leaf);
	if (reason != DENY_NOT && claimed_r != NULL)
		*claimed_r = v.claimed;
	else
		free(v.claimed);
	return reason;
}
