#ifndef POSTERN_MADE_H
#define POSTERN_MADE_H

/* Certificates for tests: the issuer's calls, which may not fail here. */

#include "ca.h"
#include "spiffe.h"

#include <string.h>

#include "unit.h"

static inline struct ca *
made_ca(const struct ca *issuer, const struct ca_options *o)
{
	static const struct ca_options none;
	struct why why = {.text = ""};
	struct ca *ca = NULL;

	if (ca_new(issuer, o == NULL ? &none : o, &ca, &why) != FAULT_NONE)
		fail_msg("%s", why.text);
	return ca;
}

static inline struct ca_svid *
made_svid(const struct ca *ca, const struct ca_svid_options *o)
{
	struct why why = {.text = ""};
	struct ca_svid *svid = NULL;

	if (ca_issue(ca, o, &svid, &why) != FAULT_NONE)
		fail_msg("%s", why.text);
	return svid;
}

static inline struct ca_svid *
made_svid_of(const struct ca *ca, const char *id)
{
	struct ca_svid_options o = {.id = span_of_str(id)};

	return made_svid(ca, &o);
}

/* As a source would deliver it. */
static inline struct svid_raw
made_raw(const struct ca_svid *svid, const char *id)
{
	return (struct svid_raw){.id = span_of_str(id),
	    .chain = ca_svid_chain(svid),
	    .key = ca_svid_key_der(svid)};
}

/* An identity of one SVID (or none: NULL) and N bundles, the first its own. */
static inline struct identity *
made_identity(
    const struct svid_raw *svid, const struct bundle_raw *bundles, size_t n)
{
	uint64_t generation = 1;
	struct why why = {.text = ""};
	struct identity *id = NULL;
	size_t own = svid == NULL ? 0 : 1;
	struct identity_raw raw = {.svids = svid,
	    .own_bundles = bundles,
	    .n_svids = own,
	    .federated = bundles + own,
	    .n_federated = n - own};

	if (identity_new(&raw, NULL, &generation, &id, &why) != FAULT_NONE)
		fail_msg("%s", why.text);
	if (identity_svids_broken(id))
		fail_msg("%s", why.text);
	return id;
}

#endif
