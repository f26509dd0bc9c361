#ifndef POSTERN_SVID_INT_H
#define POSTERN_SVID_INT_H

/* What identity.c knows of SVIDs and bundles beyond their public face. */

#include "spiffe.h"
#include "x509_int.h"

#define SVID_CHAIN_MAX   (64 * 1024)
#define SVID_CHAIN_CERTS 10
#define SVID_KEY_MAX     (16 * 1024)
#define SVID_KEYS_MAX    (256 * 1024) /* of one update */
#define BUNDLE_MAX       (4 * 1024 * 1024)
#define BUNDLE_CERTS_MAX 1024

/*
 * As svid_parse(). *FOREIGN_R: the leaf's trust domain is not that of the ID
 * field, so that the bundle beside it has no owner.
 */
enum fault svid_build(const struct svid_raw *raw, struct svid **svid_r,
    bool *foreign_r, struct why *why);
void svid_mark_dev(struct svid *s);
bool svid_equal(const struct svid *a, const struct svid *b);

/* TRUST_DOMAIN: a checked name. The bundle has one reference and no number. */
enum fault bundle_parse(struct span trust_domain, struct span authorities,
    struct bundle **b_r, struct why *why);
struct bundle *bundle_hold(struct bundle *b);
void bundle_set_generation(struct bundle *b, uint64_t generation);
/* The same domain and the same authorities, whatever their order. */
bool bundle_equal(const struct bundle *a, const struct bundle *b);
X509 *bundle_certificate(const struct bundle *b, size_t i);

/* One list of revoked certificates, checked for its form. */
struct crl_digest {
	size_t entries;
	uint8_t content[DIGEST_LEN]; /* issuer, serials, nextUpdate */
};
enum fault crl_parse(
    struct span der, struct crl_digest *digest_r, struct why *why);

#endif
