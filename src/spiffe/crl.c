#include "svid_int.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/objects.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdlib.h>

/* A list that we would read wrong denies too little: it voids the update. */
static bool
is_known(const X509_EXTENSION *ext)
{
	switch (OBJ_obj2nid(
	    X509_EXTENSION_get_object((X509_EXTENSION *)(uintptr_t)ext))) {
	case NID_authority_key_identifier:
	case NID_crl_number:
	case NID_issuing_distribution_point:
	case NID_freshest_crl:
	case NID_crl_reason:
	case NID_invalidity_date:
		return true;
	default: /* a library's numbers, not an enum of ours */
		return false;
	}
}

static bool
is_unknown_critical(const X509_EXTENSION *ext)
{
	return X509_EXTENSION_get_critical(ext) != 0 && !is_known(ext);
}

static bool
says_indirect(const X509_CRL *crl)
{
	ISSUING_DIST_POINT *idp = X509_CRL_get_ext_d2i(
	    crl, NID_issuing_distribution_point, NULL, NULL);
	bool indirect = idp != NULL && idp->indirectCRL > 0;

	ISSUING_DIST_POINT_free(idp);
	ERR_clear_error();
	return indirect;
}

static enum fault
check_list(const X509_CRL *crl, struct why *why)
{
	long version = X509_CRL_get_version(crl);

	if (version != 0 && version != 1)
		return fail(why, FAULT_MALFORMED,
		    "crl: neither version 1 nor version 2");
	if (X509_CRL_get_ext_by_NID(crl, NID_delta_crl, -1) >= 0)
		return fail(why, FAULT_MALFORMED, "crl: a delta list");
	if (says_indirect(crl))
		return fail(why, FAULT_MALFORMED, "crl: an indirect list");
	for (int i = 0; i < X509_CRL_get_ext_count(crl); i++) {
		if (is_unknown_critical(X509_CRL_get_ext(crl, i)))
			return fail(why, FAULT_MALFORMED,
			    "crl: an unknown critical extension");
	}
	return FAULT_NONE;
}

static enum fault
check_entry(const X509_REVOKED *entry, struct why *why)
{
	if (X509_REVOKED_get_ext_by_NID(entry, NID_certificate_issuer, -1) >= 0)
		return fail(
		    why, FAULT_MALFORMED, "crl: an entry of an indirect list");
	for (int i = 0; i < X509_REVOKED_get_ext_count(entry); i++) {
		if (is_unknown_critical(X509_REVOKED_get_ext(entry, i)))
			return fail(why, FAULT_MALFORMED,
			    "crl: an unknown critical extension of an entry");
	}
	return FAULT_NONE;
}

static int
by_serial(const void *a, const void *b)
{
	return span_compare(*(const struct span *)a, *(const struct span *)b);
}

/* *SERIALS_R is given: N spans, sorted, which borrow from CRL. */
static enum fault
collect_serials(
    X509_CRL *crl, struct span **serials_r, size_t *n_r, struct why *why)
{
	STACK_OF(X509_REVOKED) *entries = X509_CRL_get_REVOKED(crl);
	int n = entries == NULL ? 0 : sk_X509_REVOKED_num(entries);
	AUTO(mem_free) struct span *serials = NULL;

	serials = calloc((size_t)n + 1, sizeof(*serials));
	if (serials == NULL)
		return fail(why, FAULT_NOMEM, "crl: out of memory");
	for (int i = 0; i < n; i++) {
		const X509_REVOKED *entry = sk_X509_REVOKED_value(entries, i);
		const ASN1_INTEGER *serial =
		    X509_REVOKED_get0_serialNumber(entry);
		enum fault f = check_entry(entry, why);

		if (f != FAULT_NONE)
			return f;
		serials[i] = span_of(ASN1_STRING_get0_data(serial),
		    (size_t)ASN1_STRING_length(serial));
	}
	qsort(serials, (size_t)n, sizeof(*serials), by_serial);
	*serials_r = serials;
	*n_r = (size_t)n;
	serials = NULL; /* given to the caller */
	return FAULT_NONE;
}

static bool
add_bytes(EVP_MD_CTX *md, struct span bytes)
{
	uint64_t len = bytes.len;

	return EVP_DigestUpdate(md, &len, sizeof(len)) == 1 &&
	       EVP_DigestUpdate(md, bytes.data, bytes.len) == 1;
}

static bool
add_header(EVP_MD_CTX *md, const X509_CRL *crl)
{
	int64_t next = x509_time(X509_CRL_get0_nextUpdate(crl));
	int at = X509_CRL_get_ext_by_NID(crl, NID_authority_key_identifier, -1);
	const unsigned char *name;
	size_t len;

	if (X509_NAME_get0_der(X509_CRL_get_issuer(crl), &name, &len) != 1 ||
	    !add_bytes(md, span_of(name, len)) ||
	    !add_bytes(md, span_of(&next, sizeof(next))))
		return false;
	if (at >= 0) {
		const ASN1_OCTET_STRING *key =
		    X509_EXTENSION_get_data(X509_CRL_get_ext(crl, at));

		return add_bytes(md, span_of(ASN1_STRING_get0_data(key),
		                         (size_t)ASN1_STRING_length(key)));
	}
	return true;
}

/* Not the signature, number or time: a list signed anew says nothing new. */
static enum fault
digest_content(const X509_CRL *crl, const struct span *serials, size_t n,
    struct crl_digest *digest_r, struct why *why)
{
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	bool ok = md != NULL &&
	          EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1 &&
	          add_header(md, crl);
	uint8_t content[EVP_MAX_MD_SIZE];

	for (size_t i = 0; ok && i < n; i++)
		ok = add_bytes(md, serials[i]);
	ok = ok && EVP_DigestFinal_ex(md, content, NULL) == 1;
	EVP_MD_CTX_free(md);
	if (!ok) {
		ERR_clear_error();
		return fail(why, FAULT_NOMEM, "crl: out of memory");
	}
	digest_r->entries = n;
	for (size_t i = 0; i < DIGEST_LEN; i++)
		digest_r->content[i] = content[i];
	return FAULT_NONE;
}

static enum fault
digest_list(X509_CRL *crl, struct crl_digest *digest_r, struct why *why)
{
	AUTO(mem_free) struct span *serials = NULL;
	enum fault f = check_list(crl, why);
	size_t n = 0;

	if (f == FAULT_NONE)
		f = collect_serials(crl, &serials, &n, why);
	if (f != FAULT_NONE)
		return f;
	return digest_content(crl, serials, n, digest_r, why);
}

enum fault
crl_parse(struct span der, struct crl_digest *digest_r, struct why *why)
{
	const unsigned char *at = der.data;
	X509_CRL *crl = NULL;
	enum fault f;

	if (der.len != 0 && der.len <= INT32_MAX)
		crl = d2i_X509_CRL(NULL, &at, (long)der.len);
	ERR_clear_error();
	if (crl == NULL)
		return fail(why, FAULT_MALFORMED, "crl: not DER");
	if (at != der.data + der.len)
		f = fail(why, FAULT_MALFORMED, "crl: bytes after the list");
	else
		f = digest_list(crl, digest_r, why);
	X509_CRL_free(crl);
	return f;
}
