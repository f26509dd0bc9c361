#include "ca.h"

#include "clock.h"

#include <openssl/asn1.h>
#include <openssl/bn.h>
#include <openssl/conf.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>

#define BACKDATE_S    10
#define CA_LIFE_S     (24 * 3600)
#define SVID_LIFE_S   3600
#define SERIAL_OCTETS 16

struct ca {
	EVP_PKEY *key;
	X509 *cert;
	STACK_OF(X509) * above; /* issuers of CERT, nearest first */
	unsigned char *der;
	size_t der_len;
};

struct ca_svid {
	EVP_PKEY *key;
	X509 *leaf;
	STACK_OF(X509) * above;
	unsigned char *chain;
	size_t chain_len;
	unsigned char *key_der;
	size_t key_der_len;
	uint8_t serial[20];
	size_t serial_len;
};

/* What the library said goes into the sentence, and leaves its queue empty. */
static enum fault
refuse(struct why *why, const char *what)
{
	const char *reason = ERR_reason_error_string(ERR_peek_error());

	ERR_clear_error();
	return fail(why, FAULT_CONF, "issuer: %s: %s", what,
	    reason == NULL ? "no reason given" : reason);
}

/* ---- Keys ---- */

static EVP_PKEY *
generate_rsa_pss(void)
{
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_id(EVP_PKEY_RSA_PSS, NULL);
	EVP_PKEY *key = NULL;

	if (ctx != NULL && EVP_PKEY_keygen_init(ctx) == 1)
		(void)EVP_PKEY_keygen(ctx, &key);
	EVP_PKEY_CTX_free(ctx);
	return key;
}

static EVP_PKEY *
generate(enum ca_key_type type)
{
	switch (type) {
	case CA_P256:
		return EVP_EC_gen("P-256");
	case CA_P384:
		return EVP_EC_gen("P-384");
	case CA_P521:
		return EVP_EC_gen("P-521");
	case CA_SECP256K1:
		return EVP_EC_gen("secp256k1");
	case CA_RSA1024:
		return EVP_RSA_gen(1024);
	case CA_RSA2048:
		return EVP_RSA_gen(2048);
	case CA_RSA5120:
		return EVP_RSA_gen(5120);
	case CA_RSA_PSS:
		return generate_rsa_pss();
	case CA_ED25519:
		return EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
	case CA_X25519:
		return EVP_PKEY_Q_keygen(NULL, NULL, "X25519");
	}
	return NULL;
}

static EVP_PKEY *
key_for(const struct ca_cert_options *o)
{
	if (o->key == NULL)
		return generate(o->key_type);
	return EVP_PKEY_up_ref(o->key) == 1 ? o->key : NULL;
}

/* Ed25519 brings its own digest. */
static const EVP_MD *
digest_for(EVP_PKEY *key, bool sha1)
{
	if (EVP_PKEY_get_base_id(key) == EVP_PKEY_ED25519)
		return NULL;
	return sha1 ? EVP_sha1() : EVP_sha256();
}

/* ---- Parts of a certificate ---- */

static bool
set_serial(X509 *cert, struct span serial)
{
	uint8_t random[SERIAL_OCTETS];
	BIGNUM *number;
	bool ok;

	if (serial.len == 0) {
		if (RAND_bytes(random, sizeof(random)) != 1)
			return false;
		random[0] = (random[0] & 0x3f) | 0x40; /* positive, 16 octets */
		serial = span_of(random, sizeof(random));
	}
	number = BN_bin2bn(serial.data, (int)serial.len, NULL);
	ok = number != NULL &&
	     BN_to_ASN1_INTEGER(number, X509_get_serialNumber(cert)) != NULL;
	BN_free(number);
	return ok;
}

static bool
add_name(X509_NAME *name, const char *field, const char *value)
{
	return X509_NAME_add_entry_by_txt(name, field, MBSTRING_ASC,
	           (const unsigned char *)value, -1, -1, 0) == 1;
}

static bool
set_subject(X509 *cert, const struct ca_cert_options *o, const char *cn)
{
	X509_NAME *name = X509_get_subject_name(cert);

	if (o->empty_subject)
		return true;
	if (!o->no_marker && !add_name(name, "O", CA_MARKER))
		return false;
	if (o->common_name != NULL)
		cn = o->common_name;
	return cn == NULL || add_name(name, "CN", cn);
}

static bool
set_times(X509 *cert, const struct ca_cert_options *o, int64_t life_s)
{
	time_t now = clock_wall_s();
	time_t from = o->not_before == 0 ? now - BACKDATE_S : o->not_before;
	time_t to = o->not_after == 0 ? now + life_s : o->not_after;

	return ASN1_TIME_set(X509_getm_notBefore(cert), from) != NULL &&
	       ASN1_TIME_set(X509_getm_notAfter(cert), to) != NULL;
}

/* Not X509V3_add1_i2d: duplicates are among what tests ask for. */
static bool
add_extension(X509 *cert, X509 *issuer, const char *name, const char *value)
{
	X509V3_CTX ctx;
	X509_EXTENSION *ext;
	bool ok;

	if (value[0] == '\0')
		return true;
	X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
	X509V3_set_ctx_nodb(&ctx);
	ext = X509V3_EXT_nconf(NULL, &ctx, name, value);
	ok = ext != NULL && X509_add_ext(cert, ext, -1) == 1;
	X509_EXTENSION_free(ext);
	return ok;
}

static const char *
or_default(const char *value, const char *otherwise)
{
	return value == NULL ? otherwise : value;
}

static bool
add_extras(X509 *cert, X509 *issuer, const struct ca_extension *extra)
{
	for (; extra != NULL && extra->name != NULL; extra++) {
		if (!add_extension(cert, issuer, extra->name, extra->value))
			return false;
	}
	return true;
}

/* SKI comes first: a self-signed AKI is copied from it. */
static bool
add_common_extensions(X509 *cert, X509 *issuer, const struct ca_cert_options *o)
{
	if (!o->no_key_ids) {
		if (!add_extension(
		        cert, issuer, "subjectKeyIdentifier", "hash") ||
		    !add_extension(
		        cert, issuer, "authorityKeyIdentifier", "keyid"))
			return false;
	}
	return add_extras(cert, issuer, o->extra);
}

static bool
sign(X509 *cert, EVP_PKEY *key, const struct ca_cert_options *o)
{
	const ASN1_BIT_STRING *signature;
	unsigned char *bytes;

	if (X509_sign(cert, key, digest_for(key, o->sha1)) == 0)
		return false;
	if (!o->bad_signature)
		return true;
	X509_get0_signature(&signature, NULL, cert);
	bytes = (unsigned char *)(uintptr_t)ASN1_STRING_get0_data(signature);
	bytes[ASN1_STRING_length(signature) - 1] ^= 1;
	return true;
}

/* All but subjectAltName, which differs, and the signature. */
static X509 *
draft(const struct ca_cert_options *o, EVP_PKEY *key, const char *cn,
    int64_t life_s)
{
	X509 *cert = X509_new();

	if (cert != NULL && X509_set_version(cert, o->version_1 ? 0 : 2) == 1 &&
	    set_serial(cert, o->serial) && set_subject(cert, o, cn) &&
	    set_times(cert, o, life_s) && X509_set_pubkey(cert, key) == 1)
		return cert;
	X509_free(cert);
	return NULL;
}

static bool
encode(X509 *cert, unsigned char **der, size_t *len)
{
	int n = i2d_X509(cert, der);

	if (n <= 0)
		return false;
	*len = (size_t)n;
	return true;
}

/* ---- Authorities ---- */

static bool
add_ca_extensions(X509 *cert, X509 *issuer, const struct ca_options *o)
{
	const struct ca_cert_options *c = &o->cert;

	if (c->version_1)
		return true;
	if (!add_extension(cert, issuer, "basicConstraints",
	        or_default(c->basic_constraints, "critical,CA:TRUE")) ||
	    !add_extension(cert, issuer, "keyUsage",
	        or_default(c->key_usage, "critical,keyCertSign,cRLSign")) ||
	    !add_extension(cert, issuer, "extendedKeyUsage",
	        or_default(c->ext_key_usage, "")))
		return false;
	if (o->uri != NULL) {
		char san[2100];

		(void)snprintf(san, sizeof(san), "URI:%s", o->uri);
		if (!add_extension(cert, issuer, "subjectAltName", san))
			return false;
	}
	return add_common_extensions(cert, issuer, c);
}

/* ISSUER's own certificate, then those above it; empty for a root. */
static STACK_OF(X509) * certificates_above(const struct ca *issuer)
{
	STACK_OF(X509) *above = sk_X509_new_null();

	if (above == NULL || issuer == NULL)
		return above;
	if (X509_add_cert(above, issuer->cert, X509_ADD_FLAG_UP_REF) == 1 &&
	    X509_add_certs(above, issuer->above, X509_ADD_FLAG_UP_REF) == 1)
		return above;
	sk_X509_pop_free(above, X509_free);
	return NULL;
}

enum fault
ca_new(const struct ca *issuer, const struct ca_options *options,
    struct ca **ca_r, struct why *why)
{
	AUTO(ca_free) struct ca *ca = calloc(1, sizeof(*ca));
	X509 *issuer_cert;
	EVP_PKEY *signer;

	if (ca == NULL)
		return fail(why, FAULT_NOMEM, "issuer: out of memory");
	ca->key = key_for(&options->cert);
	if (ca->key == NULL)
		return refuse(why, "no key");
	ca->above = certificates_above(issuer);
	ca->cert = draft(&options->cert, ca->key,
	    issuer == NULL ? "authority" : "intermediate", CA_LIFE_S);
	if (ca->cert == NULL || ca->above == NULL)
		return refuse(why, "no certificate");
	issuer_cert = issuer == NULL ? ca->cert : issuer->cert;
	signer = issuer == NULL ? ca->key : issuer->key;
	if (X509_set_issuer_name(
	        ca->cert, X509_get_subject_name(issuer_cert)) != 1 ||
	    !add_ca_extensions(ca->cert, issuer_cert, options))
		return refuse(why, "an extension of the authority");
	if (!sign(ca->cert, signer, &options->cert) ||
	    !encode(ca->cert, &ca->der, &ca->der_len))
		return refuse(why, "signing the authority");
	*ca_r = ca;
	ca = NULL; /* given to the caller */
	return FAULT_NONE;
}

void
ca_free(struct ca **ca)
{
	struct ca *c = *ca;

	if (c == NULL)
		return;
	EVP_PKEY_free(c->key);
	X509_free(c->cert);
	sk_X509_pop_free(c->above, X509_free);
	OPENSSL_free(c->der);
	free(c);
	*ca = NULL;
}

struct span
ca_certificate(const struct ca *ca)
{
	return span_of(ca->der, ca->der_len);
}

X509 *
ca_x509(const struct ca *ca)
{
	return ca->cert;
}

EVP_PKEY *
ca_key(const struct ca *ca)
{
	return ca->key;
}

/* ---- SVIDs ---- */

static bool
add_uri(GENERAL_NAMES *names, struct span uri)
{
	GENERAL_NAME *name = GENERAL_NAME_new();
	ASN1_IA5STRING *text = ASN1_IA5STRING_new();

	if (name != NULL && text != NULL &&
	    ASN1_STRING_set(text, uri.data, (int)uri.len) == 1) {
		GENERAL_NAME_set0_value(name, GEN_URI, text);
		if (sk_GENERAL_NAME_push(names, name) > 0)
			return true;
		text = NULL; /* the name's */
	}
	ASN1_IA5STRING_free(text);
	GENERAL_NAME_free(name);
	return false;
}

/* "DNS:a,IP:1.2.3.4" as names; an empty list for NULL. */
static GENERAL_NAMES *
parse_names(const char *text)
{
	X509V3_CTX ctx;
	X509_EXTENSION *ext;
	GENERAL_NAMES *names;

	if (text == NULL)
		return sk_GENERAL_NAME_new_null();
	X509V3_set_ctx(&ctx, NULL, NULL, NULL, NULL, X509V3_CTX_TEST);
	X509V3_set_ctx_nodb(&ctx);
	ext = X509V3_EXT_nconf(NULL, &ctx, "subjectAltName", text);
	names = ext == NULL ? NULL : X509V3_EXT_d2i(ext);
	X509_EXTENSION_free(ext);
	return names;
}

static GENERAL_NAMES *
names_of(const struct ca_svid_options *o)
{
	GENERAL_NAMES *names = parse_names(o->other_names);
	bool ok = names != NULL;

	if (ok && o->id.len != 0)
		ok = add_uri(names, o->id);
	for (const char *const *u = o->uris; ok && u != NULL && *u != NULL; u++)
		ok = add_uri(names, span_of_str(*u));
	if (ok)
		return names;
	GENERAL_NAMES_free(names);
	return NULL;
}

static bool
add_san(X509 *leaf, const struct ca_svid_options *o)
{
	GENERAL_NAMES *names = names_of(o);
	bool critical = o->san_critical ||
	                (o->cert.empty_subject && !o->san_never_critical);
	X509_EXTENSION *ext = NULL;
	bool ok = names != NULL;

	if (ok && sk_GENERAL_NAME_num(names) > 0) {
		ext = X509V3_EXT_i2d(NID_subject_alt_name, critical, names);
		ok = ext != NULL && X509_add_ext(leaf, ext, -1) == 1;
		if (ok && o->second_san)
			ok = X509_add_ext(leaf, ext, -1) == 1;
	}
	X509_EXTENSION_free(ext);
	GENERAL_NAMES_free(names);
	return ok;
}

static bool
add_leaf_extensions(X509 *leaf, X509 *issuer, const struct ca_svid_options *o)
{
	const struct ca_cert_options *c = &o->cert;

	if (c->version_1)
		return true;
	return add_extension(leaf, issuer, "basicConstraints",
	           or_default(c->basic_constraints, "critical,CA:FALSE")) &&
	       add_extension(leaf, issuer, "keyUsage",
	           or_default(c->key_usage,
	               "critical,digitalSignature,keyEncipherment,"
	               "keyAgreement")) &&
	       add_extension(leaf, issuer, "extendedKeyUsage",
	           or_default(c->ext_key_usage, "serverAuth,clientAuth")) &&
	       add_san(leaf, o) && add_common_extensions(leaf, issuer, c);
}

static bool
is_self_issued(X509 *cert)
{
	return X509_NAME_cmp(X509_get_subject_name(cert),
	           X509_get_issuer_name(cert)) == 0;
}

/* The chain to send: leaf, intermediates, and the root if asked for. */
static bool
encode_chain(struct ca_svid *s, bool with_root)
{
	unsigned char *at;
	size_t len = 0;
	int n;

	if (!with_root && sk_X509_num(s->above) > 0) {
		X509 *last = sk_X509_value(s->above, sk_X509_num(s->above) - 1);

		if (is_self_issued(last))
			X509_free(sk_X509_pop(s->above));
	}
	n = i2d_X509(s->leaf, NULL);
	for (int i = -1; n > 0; i++) {
		len += (size_t)n;
		if (i + 1 >= sk_X509_num(s->above))
			break;
		n = i2d_X509(sk_X509_value(s->above, i + 1), NULL);
	}
	at = s->chain = OPENSSL_malloc(len);
	if (n <= 0 || s->chain == NULL)
		return false;
	s->chain_len = len;
	(void)i2d_X509(s->leaf, &at);
	for (int i = 0; i < sk_X509_num(s->above); i++)
		(void)i2d_X509(sk_X509_value(s->above, i), &at);
	return true;
}

static bool
encode_key(struct ca_svid *s)
{
	PKCS8_PRIV_KEY_INFO *info = EVP_PKEY2PKCS8(s->key);
	int n = info == NULL ? -1 : i2d_PKCS8_PRIV_KEY_INFO(info, &s->key_der);

	PKCS8_PRIV_KEY_INFO_free(info);
	if (n <= 0)
		return false;
	s->key_der_len = (size_t)n;
	return true;
}

static bool
copy_serial(struct ca_svid *s)
{
	const ASN1_INTEGER *serial = X509_get0_serialNumber(s->leaf);

	s->serial_len = (size_t)ASN1_STRING_length(serial);
	if (s->serial_len > sizeof(s->serial))
		return false;
	memcpy(s->serial, ASN1_STRING_get0_data(serial), s->serial_len);
	return true;
}

enum fault
ca_issue(const struct ca *issuer, const struct ca_svid_options *options,
    struct ca_svid **svid_r, struct why *why)
{
	AUTO(ca_svid_free) struct ca_svid *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return fail(why, FAULT_NOMEM, "issuer: out of memory");
	s->key = key_for(&options->cert);
	if (s->key == NULL)
		return refuse(why, "no key");
	s->above = certificates_above(issuer);
	s->leaf = draft(&options->cert, s->key, NULL, SVID_LIFE_S);
	if (s->leaf == NULL || s->above == NULL)
		return refuse(why, "no certificate");
	if (X509_set_issuer_name(
	        s->leaf, X509_get_subject_name(issuer->cert)) != 1 ||
	    !add_leaf_extensions(s->leaf, issuer->cert, options))
		return refuse(why, "an extension of the SVID");
	if (!sign(s->leaf, issuer->key, &options->cert) || !copy_serial(s))
		return refuse(why, "signing the SVID");
	if (!encode_chain(s, options->with_root) || !encode_key(s))
		return refuse(why, "encoding the SVID");
	*svid_r = s;
	s = NULL; /* given to the caller */
	return FAULT_NONE;
}

void
ca_svid_free(struct ca_svid **svid)
{
	struct ca_svid *s = *svid;

	if (s == NULL)
		return;
	EVP_PKEY_free(s->key);
	X509_free(s->leaf);
	sk_X509_pop_free(s->above, X509_free);
	OPENSSL_free(s->chain);
	OPENSSL_clear_free(s->key_der, s->key_der_len);
	free(s);
	*svid = NULL;
}

struct span
ca_svid_chain(const struct ca_svid *s)
{
	return span_of(s->chain, s->chain_len);
}

struct span
ca_svid_key_der(const struct ca_svid *s)
{
	return span_of(s->key_der, s->key_der_len);
}

struct span
ca_svid_serial(const struct ca_svid *s)
{
	return span_of(s->serial, s->serial_len);
}

X509 *
ca_svid_leaf(const struct ca_svid *s)
{
	return s->leaf;
}

STACK_OF(X509) * ca_svid_above(const struct ca_svid *s)
{
	return s->above;
}

EVP_PKEY *
ca_svid_key(const struct ca_svid *s)
{
	return s->key;
}

/* ---- Revocation lists ---- */

/* The entry says that it speaks for another authority: RFC 5280, 5.3.3. */
static bool
add_certificate_issuer(X509_REVOKED *entry)
{
	GENERAL_NAMES *names = parse_names("DNS:elsewhere.test");
	bool ok = names != NULL &&
	          X509_REVOKED_add1_ext_i2d(entry, NID_certificate_issuer,
	              names, 1, X509V3_ADD_DEFAULT) == 1;

	GENERAL_NAMES_free(names);
	return ok;
}

static bool
add_entry(
    X509_CRL *crl, struct span serial, const ASN1_TIME *when, bool indirect)
{
	X509_REVOKED *entry = X509_REVOKED_new();
	BIGNUM *number = BN_bin2bn(serial.data, (int)serial.len, NULL);
	ASN1_INTEGER *value =
	    number == NULL ? NULL : BN_to_ASN1_INTEGER(number, NULL);
	bool ok = entry != NULL && value != NULL &&
	          X509_REVOKED_set_serialNumber(entry, value) == 1 &&
	          X509_REVOKED_set_revocationDate(
	              entry, (ASN1_TIME *)(uintptr_t)when) == 1 &&
	          (!indirect || add_certificate_issuer(entry));

	ASN1_INTEGER_free(value);
	BN_free(number);
	if (ok && X509_CRL_add0_revoked(crl, entry) == 1)
		return true;
	X509_REVOKED_free(entry);
	return false;
}

static bool
set_crl_times(X509_CRL *crl, const struct ca_crl_options *o)
{
	ASN1_TIME *t = ASN1_TIME_new();
	bool ok = t != NULL;

	/* Go writes a zero time so, and no nextUpdate: so does tbot. */
	if (ok && o->year_1)
		ok = ASN1_GENERALIZEDTIME_set_string(t, "00010101000000Z") == 1;
	else if (ok)
		ok = ASN1_TIME_set(t, o->this_update == 0
		                          ? clock_wall_s()
		                          : o->this_update) != NULL;
	ok = ok && X509_CRL_set1_lastUpdate(crl, t) == 1;
	if (ok && o->next_update != 0)
		ok = ASN1_TIME_set(t, o->next_update) != NULL &&
		     X509_CRL_set1_nextUpdate(crl, t) == 1;
	ASN1_TIME_free(t);
	return ok;
}

static bool
add_crl_extension(X509_CRL *crl, const char *name, const char *value)
{
	X509V3_CTX ctx;
	X509_EXTENSION *ext;
	bool ok;

	X509V3_set_ctx(&ctx, NULL, NULL, NULL, crl, 0);
	X509V3_set_ctx_nodb(&ctx);
	ext = X509V3_EXT_nconf(NULL, &ctx, name, value);
	ok = ext != NULL && X509_CRL_add_ext(crl, ext, -1) == 1;
	X509_EXTENSION_free(ext);
	return ok;
}

static bool
add_crl_extensions(X509_CRL *crl, X509 *issuer, const struct ca_crl_options *o)
{
	const ASN1_OCTET_STRING *key_id = X509_get0_subject_key_id(issuer);

	if (key_id != NULL) {
		AUTHORITY_KEYID *aki = AUTHORITY_KEYID_new();
		bool ok = aki != NULL;

		if (ok) {
			aki->keyid = ASN1_OCTET_STRING_dup(key_id);
			ok = aki->keyid != NULL &&
			     X509_CRL_add1_ext_i2d(crl,
			         NID_authority_key_identifier, aki, 0,
			         X509V3_ADD_DEFAULT) == 1;
		}
		AUTHORITY_KEYID_free(aki);
		if (!ok)
			return false;
	}
	if (o->number != 0) {
		ASN1_INTEGER *number = ASN1_INTEGER_new();
		bool ok = number != NULL &&
		          ASN1_INTEGER_set_int64(number, o->number) == 1 &&
		          X509_CRL_add1_ext_i2d(crl, NID_crl_number, number, 0,
		              X509V3_ADD_DEFAULT) == 1;

		ASN1_INTEGER_free(number);
		if (!ok)
			return false;
	}
	for (const struct ca_extension *e = o->extra;
	     e != NULL && e->name != NULL; e++) {
		if (!add_crl_extension(crl, e->name, e->value))
			return false;
	}
	return true;
}

static bool
fill_crl(X509_CRL *crl, const struct ca *issuer, const struct ca_crl_options *o)
{
	if (X509_CRL_set_version(crl, 1) != 1 ||
	    X509_CRL_set_issuer_name(
	        crl, X509_get_subject_name(issuer->cert)) != 1 ||
	    !set_crl_times(crl, o))
		return false;
	for (size_t i = 0; i < o->n_serials; i++) {
		if (!add_entry(crl, o->serials[i],
		        X509_CRL_get0_lastUpdate(crl),
		        i == 0 && o->indirect_entry))
			return false;
	}
	return X509_CRL_sort(crl) == 1 &&
	       add_crl_extensions(crl, issuer->cert, o);
}

enum fault
ca_crl(const struct ca *issuer, const struct ca_crl_options *options,
    uint8_t **der_r, size_t *len_r, struct why *why)
{
	X509_CRL *crl = X509_CRL_new();
	unsigned char *der = NULL;
	uint8_t *copy = NULL;
	int n = -1;

	if (crl != NULL && fill_crl(crl, issuer, options) &&
	    X509_CRL_sign(crl, issuer->key, digest_for(issuer->key, false)) !=
	        0)
		n = i2d_X509_CRL(crl, &der);
	X509_CRL_free(crl);
	if (n > 0)
		copy = malloc((size_t)n);
	if (copy == NULL) {
		OPENSSL_free(der);
		return refuse(why, "the revocation list");
	}
	memcpy(copy, der, (size_t)n);
	OPENSSL_free(der);
	*der_r = copy;
	*len_r = (size_t)n;
	return FAULT_NONE;
}
