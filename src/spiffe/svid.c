#include "svid_int.h"

#include "key_memory_int.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/objects.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>

/* What the development issuer writes into O= of its names. */
#define DEV_MARKER "Postern development issuer - not for production"

struct svid {
	X509 *leaf;
	STACK_OF(X509) * chain; /* without LEAF */
	EVP_PKEY *key;
	struct leaf names;
	char *hint;
	size_t hint_len;
	char serial[SVID_SERIAL_MAX];
	int64_t not_before;
	int64_t not_after;
	bool is_dev;
};

/* ---- The key: PKCS#8, nothing else, nothing after it ---- */

static EVP_PKEY *
decode_pkcs8(struct span der)
{
	const unsigned char *at = der.data;
	PKCS8_PRIV_KEY_INFO *info;
	EVP_PKEY *key = NULL;

	/*
	 * d2i_AutoPrivateKey() also takes SEC1 and PKCS#1, and leaves trailing
	 * bytes unseen.
	 */
	info = d2i_PKCS8_PRIV_KEY_INFO(NULL, &at, (long)der.len);
	if (info != NULL && at == der.data + der.len)
		key = EVP_PKCS82PKEY(info);
	PKCS8_PRIV_KEY_INFO_free(info);
	ERR_clear_error();
	return key;
}

static bool
is_served_curve(EVP_PKEY *key)
{
	static const int nids[] = {
	    NID_X9_62_prime256v1, NID_secp384r1, NID_secp521r1};
	char name[64];
	size_t len;
	int nid;

	if (EVP_PKEY_get_group_name(key, name, sizeof(name), &len) != 1)
		return false;
	nid = OBJ_sn2nid(name);
	for (size_t i = 0; i < ARRAY_LEN(nids); i++) {
		if (nids[i] == nid)
			return true;
	}
	return false;
}

/* libcrypto parses more types than those that can or should serve. */
static bool
is_served_key(EVP_PKEY *key)
{
	int bits = EVP_PKEY_get_bits(key);

	switch (EVP_PKEY_get_base_id(key)) {
	case EVP_PKEY_EC:
		return is_served_curve(key);
	case EVP_PKEY_RSA:
		return bits >= RSA_BITS_MIN && bits <= RSA_BITS_MAX;
	case EVP_PKEY_ED25519:
		return true;
	default: /* a library's numbers, not an enum of ours */
		return false;
	}
}

static enum fault
take_key(struct svid *s, struct span der, struct why *why)
{
	int fits;

	if (der.len == 0)
		return fail(why, FAULT_MALFORMED, "svid: no key");
	if (der.len > SVID_KEY_MAX)
		return fail(why, FAULT_LIMIT, "svid: the key is over %d bytes",
		    SVID_KEY_MAX);
	key_memory_wipe_freed(true);
	s->key = decode_pkcs8(der);
	key_memory_wipe_freed(false);
	if (s->key == NULL)
		return fail(why, FAULT_MALFORMED,
		    "svid: the key is not unencrypted PKCS#8");
	if (!is_served_key(s->key))
		return fail(why, FAULT_UNTRUSTED,
		    "svid: keys of this type are not used (EC P-256, P-384, "
		    "P-521, RSA 2048 to 4096, Ed25519 are)");
	fits = X509_check_private_key(s->leaf, s->key);
	ERR_clear_error();
	if (fits != 1)
		return fail(why, FAULT_MISMATCH, "svid: key is not the leaf's");
	return FAULT_NONE;
}

/* ---- The chain ---- */

static enum fault
take_intermediate(struct svid *s, struct span *der, struct why *why)
{
	X509 *x = x509_take(der);

	if (x == NULL)
		return fail(why, FAULT_MALFORMED,
		    "svid: certificate %d of the chain is not DER",
		    sk_X509_num(s->chain) + 2);
	if (sk_X509_push(s->chain, x) == 0) {
		X509_free(x);
		return fail(why, FAULT_NOMEM, "svid: out of memory");
	}
	if (sk_X509_num(s->chain) >= SVID_CHAIN_CERTS)
		return fail(why, FAULT_LIMIT,
		    "svid: over %d certificates in the chain",
		    SVID_CHAIN_CERTS);
	/* X509-SVID section 4: both, on every signing certificate. */
	if (!x509_is_ca(x) || !x509_has_key_cert_sign(x))
		return fail(why, FAULT_UNTRUSTED,
		    "svid: certificate %d of the chain may not sign",
		    sk_X509_num(s->chain) + 1);
	return FAULT_NONE;
}

static enum fault
take_chain(struct svid *s, struct span der, struct why *why)
{
	if (der.len == 0)
		return fail(why, FAULT_MALFORMED, "svid: no certificate");
	if (der.len > SVID_CHAIN_MAX)
		return fail(why, FAULT_LIMIT, "svid: chain over %d bytes",
		    SVID_CHAIN_MAX);
	s->chain = sk_X509_new_null();
	if (s->chain == NULL)
		return fail(why, FAULT_NOMEM, "svid: out of memory");
	s->leaf = x509_take(&der);
	if (s->leaf == NULL)
		return fail(why, FAULT_MALFORMED, "svid: leaf is not DER");
	while (der.len != 0) {
		enum fault f = take_intermediate(s, &der, why);

		if (f != FAULT_NONE)
			return f;
	}
	return FAULT_NONE;
}

static void
narrow(struct svid *s, const X509 *x)
{
	int64_t from = x509_not_before(x);
	int64_t to = x509_not_after(x);

	if (from > s->not_before)
		s->not_before = from;
	if (to < s->not_after)
		s->not_after = to;
}

static void
set_window(struct svid *s)
{
	s->not_before = INT64_MIN;
	s->not_after = INT64_MAX;
	narrow(s, s->leaf);
	for (int i = 0; i < sk_X509_num(s->chain); i++)
		narrow(s, sk_X509_value(s->chain, i));
}

static bool
name_has_marker(const X509_NAME *name)
{
	int at = X509_NAME_get_index_by_NID(name, NID_organizationName, -1);
	const ASN1_STRING *o;

	if (at < 0)
		return false;
	o = X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at));
	return span_equal_str(
	    span_of(ASN1_STRING_get0_data(o), (size_t)ASN1_STRING_length(o)),
	    DEV_MARKER);
}

/* ---- Rules on the whole ---- */

static enum fault
check_leaf(struct svid *s, struct why *why)
{
	switch (leaf_check(s->leaf, &s->names, NULL, why)) {
	case LEAF_GOOD:
		return FAULT_NONE;
	case LEAF_NOMEM:
		return fail(why, FAULT_NOMEM, "svid: out of memory");
	case LEAF_BROKEN:
		return FAULT_MALFORMED;
	case LEAF_BAD:
		return FAULT_UNTRUSTED;
	}
	return FAULT_UNTRUSTED;
}

static enum fault
take_hint(struct svid *s, struct span hint, struct why *why)
{
	s->hint = span_dup(hint);
	s->hint_len = hint.len;
	if (s->hint == NULL)
		return fail(why, FAULT_NOMEM, "svid: out of memory");
	return FAULT_NONE;
}

enum fault
svid_build(const struct svid_raw *raw, struct svid **svid_r, bool *foreign_r,
    struct why *why)
{
	AUTO(svid_free) struct svid *s = calloc(1, sizeof(*s));
	struct spiffe_id field;
	enum fault f;

	*foreign_r = false;
	if (s == NULL)
		return fail(why, FAULT_NOMEM, "svid: out of memory");
	if (spiffe_id_parse(raw->id, &field) != SPIFFE_ID_OK)
		return fail(
		    why, FAULT_MALFORMED, "svid: spiffe_id is no SPIFFE ID");
	f = take_chain(s, raw->chain, why);
	if (f == FAULT_NONE)
		f = check_leaf(s, why);
	if (f != FAULT_NONE)
		return f;
	*foreign_r = !span_equal(field.trust_domain, s->names.id.trust_domain);
	if (!span_equal(field.text, s->names.id.text))
		return fail(why, FAULT_MISMATCH,
		    "svid: spiffe_id is not the certificate's URI");
	f = take_key(s, raw->key, why);
	if (f == FAULT_NONE)
		f = take_hint(s, raw->hint, why);
	if (f != FAULT_NONE)
		return f;
	(void)x509_serial(s->leaf, s->serial); /* leaf_check() saw it fit */
	set_window(s);
	s->is_dev = name_has_marker(X509_get_subject_name(s->leaf)) ||
	            name_has_marker(X509_get_issuer_name(s->leaf));
	*svid_r = s;
	s = NULL; /* given to the caller */
	return FAULT_NONE;
}

enum fault
svid_parse(const struct svid_raw *raw, struct svid **svid_r, struct why *why)
{
	bool foreign;

	return svid_build(raw, svid_r, &foreign, why);
}

void
svid_free(struct svid **svid)
{
	struct svid *s = *svid;

	if (s == NULL)
		return;
	X509_free(s->leaf);
	sk_X509_pop_free(s->chain, X509_free);
	EVP_PKEY_free(s->key);
	leaf_fini(&s->names);
	free(s->hint);
	free(s);
	*svid = NULL;
}

const struct spiffe_id *
svid_id(const struct svid *s)
{
	return &s->names.id;
}

struct span
svid_hint(const struct svid *s)
{
	return span_of(s->hint, s->hint_len);
}

const char *
svid_serial(const struct svid *s)
{
	return s->serial;
}

int64_t
svid_not_before(const struct svid *s)
{
	return s->not_before;
}

int64_t
svid_not_after(const struct svid *s)
{
	return s->not_after;
}

bool
svid_is_dev(const struct svid *s)
{
	return s->is_dev;
}

void
svid_mark_dev(struct svid *s)
{
	s->is_dev = true;
}

const char *
svid_key_type(const struct svid *s)
{
	switch (EVP_PKEY_get_base_id(s->key)) {
	case EVP_PKEY_RSA:
		return "RSA";
	case EVP_PKEY_ED25519:
		return "ED25519";
	default: /* is_served_key() lets no other in */
		return "EC";
	}
}

X509 *
svid_leaf(const struct svid *s)
{
	return s->leaf;
}

const STACK_OF(X509) * svid_chain(const struct svid *s)
{
	return s->chain;
}

EVP_PKEY *
svid_key(const struct svid *s)
{
	return s->key;
}

/* The key is the leaf's, so the certificates say it all. */
bool
svid_equal(const struct svid *a, const struct svid *b)
{
	int n = sk_X509_num(a->chain);

	if (!span_equal(svid_hint(a), svid_hint(b)))
		return false;
	if (X509_cmp(a->leaf, b->leaf) != 0 || sk_X509_num(b->chain) != n)
		return false;
	for (int i = 0; i < n; i++) {
		if (X509_cmp(sk_X509_value(a->chain, i),
		        sk_X509_value(b->chain, i)) != 0)
			return false;
	}
	return true;
}
