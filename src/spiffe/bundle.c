#include "svid_int.h"

#include <assert.h>
#include <openssl/err.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>

struct authority {
	uint8_t digest[DIGEST_LEN];
	X509 *cert;
};

/* Shared by generations of identities, on the control thread alone. */
struct bundle {
	int refs;
	char *trust_domain;
	size_t trust_domain_len;
	struct authority *authorities; /* by digest, each once */
	size_t n;
	size_t dropped;
	uint64_t generation;
	int64_t not_after;
};

static int
by_digest(const void *a, const void *b)
{
	const struct authority *x = a;
	const struct authority *y = b;

	return memcmp(x->digest, y->digest, DIGEST_LEN);
}

/* Takes X. Room for one more is there. */
static enum fault
add_authority(struct bundle *b, X509 *x, struct why *why)
{
	struct authority *a = &b->authorities[b->n];

	/*
	 * With X509_V_FLAG_PARTIAL_CHAIN every listed certificate vouches for
	 * itself, a leaf too: only authorities may get in.
	 */
	if (!x509_is_ca(x)) {
		b->dropped++;
		X509_free(x);
		return FAULT_NONE;
	}
	if (!x509_digest(x, a->digest)) {
		X509_free(x);
		return fail(why, FAULT_NOMEM, "bundle: out of memory");
	}
	a->cert = x;
	b->n++;
	return FAULT_NONE;
}

static enum fault
take_authorities(struct bundle *b, struct span der, struct why *why)
{
	size_t taken = 0;

	while (der.len != 0) {
		X509 *x = x509_take(&der);
		enum fault f;

		taken++;
		if (x == NULL)
			return fail(why, FAULT_MALFORMED,
			    "bundle of %s: certificate %zu is not DER",
			    b->trust_domain, taken);
		if (taken > BUNDLE_CERTS_MAX) {
			X509_free(x);
			return fail(why, FAULT_LIMIT,
			    "bundle of %s: over %d certificates",
			    b->trust_domain, BUNDLE_CERTS_MAX);
		}
		if ((taken & (taken - 1)) == 0) {
			struct authority *more = reallocarray(
			    b->authorities, 2 * taken, sizeof(*b->authorities));

			if (more == NULL) {
				X509_free(x);
				return fail(
				    why, FAULT_NOMEM, "bundle: out of memory");
			}
			b->authorities = more;
		}
		f = add_authority(b, x, why);
		if (f != FAULT_NONE)
			return f;
	}
	return FAULT_NONE;
}

/* The order and the repetitions of a message mean nothing. */
static void
sort_and_deduplicate(struct bundle *b)
{
	size_t kept = 0;

	if (b->n == 0)
		return;
	qsort(b->authorities, b->n, sizeof(*b->authorities), by_digest);
	for (size_t i = 1; i < b->n; i++) {
		if (by_digest(&b->authorities[kept], &b->authorities[i]) == 0)
			X509_free(b->authorities[i].cert);
		else
			b->authorities[++kept] = b->authorities[i];
	}
	b->n = kept + 1;
}

enum fault
bundle_parse(struct span trust_domain, struct span authorities,
    struct bundle **b_r, struct why *why)
{
	AUTO(bundle_free) struct bundle *b = calloc(1, sizeof(*b));
	enum fault f;

	if (b == NULL)
		return fail(why, FAULT_NOMEM, "bundle: out of memory");
	b->refs = 1;
	b->trust_domain = span_dup(trust_domain);
	b->trust_domain_len = trust_domain.len;
	if (b->trust_domain == NULL)
		return fail(why, FAULT_NOMEM, "bundle: out of memory");
	if (authorities.len > BUNDLE_MAX)
		return fail(why, FAULT_LIMIT, "bundle of %s: over %d bytes",
		    b->trust_domain, BUNDLE_MAX);
	f = take_authorities(b, authorities, why);
	if (f != FAULT_NONE)
		return f;
	sort_and_deduplicate(b);
	for (size_t i = 0; i < b->n; i++) {
		int64_t end = x509_not_after(b->authorities[i].cert);

		if (end > b->not_after)
			b->not_after = end;
	}
	*b_r = b;
	b = NULL; /* given to the caller */
	return FAULT_NONE;
}

struct bundle *
bundle_hold(struct bundle *b)
{
	b->refs++;
	return b;
}

void
bundle_free(struct bundle **bundle)
{
	struct bundle *b = *bundle;

	*bundle = NULL;
	if (b == NULL || --b->refs > 0)
		return;
	for (size_t i = 0; i < b->n; i++)
		X509_free(b->authorities[i].cert);
	free(b->authorities);
	free(b->trust_domain);
	free(b);
}

struct span
bundle_trust_domain(const struct bundle *b)
{
	return span_of(b->trust_domain, b->trust_domain_len);
}

size_t
bundle_authorities(const struct bundle *b)
{
	return b->n;
}

size_t
bundle_dropped(const struct bundle *b)
{
	return b->dropped;
}

uint64_t
bundle_generation(const struct bundle *b)
{
	return b->generation;
}

void
bundle_set_generation(struct bundle *b, uint64_t generation)
{
	b->generation = generation;
}

int64_t
bundle_not_after(const struct bundle *b)
{
	return b->not_after;
}

X509 *
bundle_certificate(const struct bundle *b, size_t i)
{
	assert(i < b->n);
	return b->authorities[i].cert;
}

bool
bundle_equal(const struct bundle *a, const struct bundle *b)
{
	if (!span_equal(bundle_trust_domain(a), bundle_trust_domain(b)))
		return false;
	if (a->n != b->n || a->dropped != b->dropped)
		return false;
	for (size_t i = 0; i < a->n; i++) {
		if (by_digest(&a->authorities[i], &b->authorities[i]) != 0)
			return false;
	}
	return true;
}
