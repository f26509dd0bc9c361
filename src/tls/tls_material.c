#include "tls_int.h"

#include "mem.h"
#include "spiffe.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <stdlib.h>

/* A worker's own: no count of a certificate is shared between threads. */
static X509 *
copy_certificate(X509 *x)
{
	unsigned char *der = NULL;
	const unsigned char *at;
	int len = i2d_X509(x, &der);
	X509 *copy = NULL;

	at = der;
	if (len > 0)
		copy = d2i_X509(NULL, &at, len);
	OPENSSL_free(der);
	return copy;
}

static bool
copy_chain(struct tls_material *m, const STACK_OF(X509) * chain)
{
	m->chain = sk_X509_new_null();
	if (m->chain == NULL)
		return false;
	for (int i = 0; i < sk_X509_num(chain); i++) {
		X509 *copy = copy_certificate(sk_X509_value(chain, i));

		if (copy == NULL)
			return false;
		if (sk_X509_push(m->chain, copy) == 0) {
			X509_free(copy);
			return false;
		}
	}
	return true;
}

static bool
copy_svid(struct tls_material *m, const struct svid *own)
{
	m->leaf = copy_certificate(svid_leaf(own));
	m->own_id = span_dup(svid_id(own)->text);
	m->not_before = svid_not_before(own);
	m->not_after = svid_not_after(own);
	if (EVP_PKEY_up_ref(svid_key(own)) != 1)
		return false;
	m->key = svid_key(own);
	return m->leaf != NULL && m->own_id != NULL &&
	       copy_chain(m, svid_chain(own));
}

bool
tls_material_install(const struct tls_material *m, SSL_CTX *ctx)
{
	return SSL_CTX_use_cert_and_key(ctx, m->leaf, m->key, m->chain, 1) == 1;
}

/* What libssl will not take must be known here, not on a worker. */
static enum fault
try_on_scratch(const struct tls_material *m, struct why *why)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_method());
	bool ok = ctx != NULL && tls_material_install(m, ctx);

	SSL_CTX_free(ctx);
	if (ok)
		return FAULT_NONE;
	return fail(why, FAULT_UNTRUSTED,
	    "tls: the SVID cannot be used here: %s", tls_error_take());
}

enum fault
tls_material_build(const struct identity *id, const struct svid *own,
    uint64_t generation, struct tls_material **material_r, struct why *why)
{
	AUTO(tls_material_free) struct tls_material *m = calloc(1, sizeof(*m));
	enum fault f;

	if (m == NULL)
		return fail(why, FAULT_NOMEM, "tls: out of memory");
	m->generation = generation;
	if (own != NULL && !copy_svid(m, own)) {
		ERR_clear_error();
		return fail(why, FAULT_NOMEM, "tls: out of memory");
	}
	if (own != NULL) {
		f = try_on_scratch(m, why);
		if (f != FAULT_NONE)
			return f;
	}
	f = anchors_new(id, NULL, &m->anchors, why);
	if (f != FAULT_NONE)
		return f;
	*material_r = m;
	m = NULL; /* given to the caller */
	return FAULT_NONE;
}

void
tls_material_free(struct tls_material **material)
{
	struct tls_material *m = *material;

	if (m == NULL)
		return;
	X509_free(m->leaf);
	sk_X509_pop_free(m->chain, X509_free);
	EVP_PKEY_free(m->key);
	anchors_free(&m->anchors);
	free(m->own_id);
	free(m);
	*material = NULL;
}

bool
tls_material_needs_set(
    const struct tls_material *old, const struct tls_material *new)
{
	/* Nothing was there: whatever comes finds an empty slot. */
	if (old->key == NULL)
		return false;
	/* A context cannot be emptied: the old key would stay in it. */
	if (new->key == NULL)
		return true;
	return EVP_PKEY_get_base_id(old->key) != EVP_PKEY_get_base_id(new->key);
}
