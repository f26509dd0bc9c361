#include "x509_int.h"

#include <openssl/asn1.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

X509 *
x509_take(struct span *s)
{
	const unsigned char *at = s->data;
	struct span taken;
	X509 *x;

	if (s->len == 0 || s->len > INT32_MAX)
		return NULL;
	x = d2i_X509(NULL, &at, (long)s->len);
	if (x == NULL) {
		ERR_clear_error();
		return NULL;
	}
	(void)span_take(s, (size_t)(at - s->data), &taken);
	/* Computes the cached flags now: anchors are read by one thread. */
	(void)X509_check_purpose(x, -1, 0);
	ERR_clear_error();
	return x;
}

bool
x509_digest(const X509 *x, uint8_t digest_r[DIGEST_LEN])
{
	unsigned len;

	if (X509_digest(x, EVP_sha256(), digest_r, &len) == 1)
		return true;
	ERR_clear_error();
	return false;
}

int64_t
x509_time(const ASN1_TIME *t)
{
	struct tm tm;

	if (t == NULL || ASN1_TIME_to_tm(t, &tm) != 1) {
		ERR_clear_error();
		return 0;
	}
	return timegm(&tm);
}

int64_t
x509_not_before(const X509 *x)
{
	return x509_time(X509_get0_notBefore(x));
}

int64_t
x509_not_after(const X509 *x)
{
	return x509_time(X509_get0_notAfter(x));
}

bool
x509_serial(const X509 *x, char serial_r[SVID_SERIAL_MAX])
{
	static const char hex[] = "0123456789abcdef";
	const ASN1_INTEGER *serial = X509_get0_serialNumber(x);
	const unsigned char *bytes = ASN1_STRING_get0_data(serial);
	int len = ASN1_STRING_length(serial);

	if (len > (SVID_SERIAL_MAX - 1) / 2)
		return false;
	for (int i = 0; i < len; i++) {
		*serial_r++ = hex[bytes[i] >> 4];
		*serial_r++ = hex[bytes[i] & 15];
	}
	*serial_r = '\0';
	return true;
}

bool
x509_has_key_cert_sign(X509 *x)
{
	/* Without the extension the library answers all ones. */
	return (X509_get_extension_flags(x) & EXFLAG_KUSAGE) != 0 &&
	       (X509_get_key_usage(x) & KU_KEY_CERT_SIGN) != 0;
}

bool
x509_is_ca(X509 *x)
{
	uint32_t flags = X509_get_extension_flags(x);

	/* X509_check_ca() also takes version 1 and a lone keyUsage. */
	if ((flags & EXFLAG_INVALID) != 0 || X509_get_version(x) != 2)
		return false;
	if ((flags & EXFLAG_CA) == 0)
		return false;
	return (flags & EXFLAG_KUSAGE) == 0 || x509_has_key_cert_sign(x);
}

bool
x509_rsa_is_too_large(X509 *x)
{
	EVP_PKEY *key = X509_get0_pubkey(x);

	if (key == NULL) {
		ERR_clear_error();
		return false;
	}
	return EVP_PKEY_get_base_id(key) == EVP_PKEY_RSA &&
	       EVP_PKEY_get_bits(key) > RSA_BITS_MAX;
}

/* ---- The leaf ---- */

static enum leaf_fault
bad(struct why *why, const char *sentence)
{
	(void)fail(why, FAULT_MALFORMED, "svid: %s", sentence);
	return LEAF_BAD;
}

/*
 * RFC 5280, 4.2: each extension once. The library finds a second one only by
 * the way, and then says that the issuer is missing.
 */
static bool
has_duplicate_extension(const X509 *x, char *name_r, size_t size)
{
	int n = X509_get_ext_count(x);

	for (int i = 0; i < n; i++) {
		ASN1_OBJECT *oid =
		    X509_EXTENSION_get_object(X509_get_ext(x, i));

		if (X509_get_ext_by_OBJ(x, oid, i) < 0)
			continue;
		(void)OBJ_obj2txt(name_r, (int)size, oid, 0);
		return true;
	}
	return false;
}

/* The bytes of the one URI among NAMES; more than one, or none: false. */
static bool
one_uri(const GENERAL_NAMES *names, struct span *uri_r, size_t *n_r)
{
	size_t n = 0;

	for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
		const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
		const ASN1_IA5STRING *uri = name->d.uniformResourceIdentifier;

		if (name->type != GEN_URI)
			continue;
		n++;
		/* The length is ASN.1's: a NUL inside is a byte as any. */
		*uri_r = span_of(ASN1_STRING_get0_data(uri),
		    (size_t)ASN1_STRING_length(uri));
	}
	*n_r = n;
	return n == 1;
}

static enum leaf_fault
check_uri(
    struct span uri, struct leaf *leaf_r, char **claimed_r, struct why *why)
{
	enum spiffe_id_error e;
	struct leaf leaf;

	leaf.id_text = span_dup(uri);
	if (leaf.id_text == NULL)
		return LEAF_NOMEM;
	e = spiffe_id_parse(span_of(leaf.id_text, uri.len), &leaf.id);
	if (e == SPIFFE_ID_OK && leaf.id.path.len != 0) {
		*leaf_r = leaf;
		return LEAF_GOOD;
	}
	/* A claim with a NUL would be read wrong: it is cut there for logs. */
	if (claimed_r != NULL)
		*claimed_r = leaf.id_text;
	else
		free(leaf.id_text);
	if (e == SPIFFE_ID_OK)
		return bad(why, "the SPIFFE ID of a leaf must have a path");
	(void)fail(why, FAULT_MALFORMED, "svid: the URI is no SPIFFE ID: %s",
	    spiffe_id_error_text(e));
	return LEAF_BAD;
}

static enum leaf_fault
check_names(X509 *x, struct leaf *leaf_r, char **claimed_r, struct why *why)
{
	GENERAL_NAMES *names =
	    X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
	enum leaf_fault f;
	struct span uri;
	size_t n = 0;

	ERR_clear_error();
	if (names == NULL)
		return bad(why, "no URI in the certificate's names");
	if (one_uri(names, &uri, &n))
		f = check_uri(uri, leaf_r, claimed_r, why);
	else if (n == 0)
		f = bad(why, "no URI in the certificate's names");
	else
		f = bad(why, "more than one URI in the certificate's names");
	GENERAL_NAMES_free(names);
	return f;
}

/* X509-SVID sections 4.1 and 4.3. */
static enum leaf_fault
check_usage(X509 *x, struct why *why)
{
	uint32_t flags = X509_get_extension_flags(x);
	uint32_t usage = X509_get_key_usage(x);
	char serial[SVID_SERIAL_MAX];

	if ((flags & EXFLAG_CA) != 0)
		return bad(why, "the leaf is an authority (CA:TRUE)");
	if ((flags & EXFLAG_KUSAGE) == 0)
		return bad(why, "the leaf has no keyUsage");
	if ((usage & KU_KEY_CERT_SIGN) != 0)
		return bad(why, "the leaf's keyUsage has keyCertSign");
	if ((usage & KU_CRL_SIGN) != 0)
		return bad(why, "the leaf's keyUsage has cRLSign");
	if ((usage & KU_DIGITAL_SIGNATURE) == 0)
		return bad(why, "the leaf's keyUsage lacks digitalSignature");
	if (!x509_serial(x, serial))
		return bad(why, "the serial number is over 20 octets");
	return LEAF_GOOD;
}

enum leaf_fault
leaf_check(X509 *x, struct leaf *leaf_r, char **claimed_r, struct why *why)
{
	char name[80] = "";
	enum leaf_fault f;
	struct leaf leaf;

	if (has_duplicate_extension(x, name, sizeof(name))) {
		(void)fail(why, FAULT_MALFORMED,
		    "svid: the extension %s is there twice", name);
		return LEAF_BROKEN;
	}
	/* Also computes the flags that check_usage() reads. */
	(void)X509_check_purpose(x, -1, 0);
	ERR_clear_error();
	if ((X509_get_extension_flags(x) & EXFLAG_INVALID) != 0) {
		(void)fail(why, FAULT_MALFORMED,
		    "svid: an extension of the leaf does not parse");
		return LEAF_BROKEN;
	}
	f = check_names(x, &leaf, claimed_r, why);
	if (f != LEAF_GOOD)
		return f;
	f = check_usage(x, why);
	if (f == LEAF_GOOD) {
		*leaf_r = leaf;
		return f;
	}
	if (claimed_r != NULL)
		*claimed_r = leaf.id_text;
	else
		free(leaf.id_text);
	return f;
}

void
leaf_fini(struct leaf *leaf)
{
	mem_free(&leaf->id_text);
}
