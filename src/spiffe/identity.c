#include "svid_int.h"

#include "text.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_NAME_MAX 320 /* an escaped trust domain */

struct identity {
	struct svid **svids;
	size_t n_svids;
	bool svids_broken;
	struct bundle **bundles; /* by trust domain, each once */
	size_t n_bundles;
	struct crl_digest *crls; /* by content */
	size_t n_crls;
};

/* ---- Bundles while they are collected ---- */

struct draft {
	struct bundle *bundle;
	struct span spelling; /* as the message names it */
	bool is_own;
};

struct drafts {
	struct draft *at;
	size_t n;
};

static void
drafts_fini(struct drafts *d)
{
	for (size_t i = 0; i < d->n; i++)
		bundle_free(&d->at[i].bundle);
	free(d->at);
}

static struct draft *
find_draft(const struct drafts *d, struct span trust_domain)
{
	for (size_t i = 0; i < d->n; i++) {
		if (span_equal(
		        bundle_trust_domain(d->at[i].bundle), trust_domain))
			return &d->at[i];
	}
	return NULL;
}

/* "td" or "spiffe://td"; a path, a port or nothing at all is none. */
static enum fault
trust_domain_of(struct span key, struct span *td_r, struct why *why)
{
	struct spiffe_id id;

	if (spiffe_id_parse(key, &id) == SPIFFE_ID_OK && id.path.len == 0) {
		*td_r = id.trust_domain;
		return FAULT_NONE;
	}
	if (spiffe_trust_domain_check(key) == SPIFFE_ID_OK) {
		*td_r = key;
		return FAULT_NONE;
	}
	return fail(why, FAULT_MALFORMED, "bundle: its key is no trust domain");
}

/* The last of one key wins, as for any map; two spellings are a conflict. */
static enum fault
merge_federated(
    struct draft *d, struct bundle **b, struct span spelling, struct why *why)
{
	char name[TEXT_NAME_MAX];

	/* The own bundle wins: WA section 5.2.1 names it the domain's own. */
	if (d->is_own)
		return FAULT_NONE;
	if (!span_equal(d->spelling, spelling))
		return fail(why, FAULT_MISMATCH,
		    "bundle: two spellings of the trust domain %s",
		    text_escape(bundle_trust_domain(*b), name, sizeof(name)));
	bundle_free(&d->bundle);
	d->bundle = *b;
	*b = NULL;
	return FAULT_NONE;
}

static enum fault
merge_own(struct draft *d, const struct bundle *b, struct why *why)
{
	char name[TEXT_NAME_MAX];

	if (bundle_equal(d->bundle, b))
		return FAULT_NONE;
	return fail(why, FAULT_MISMATCH,
	    "bundle: two SVIDs of %s with different bundles",
	    text_escape(bundle_trust_domain(b), name, sizeof(name)));
}

static enum fault
add_bundle(struct drafts *d, struct span td, const struct bundle_raw *raw,
    bool is_own, struct why *why)
{
	AUTO(bundle_free) struct bundle *b = NULL;
	struct draft *there = find_draft(d, td);
	enum fault f = bundle_parse(td, raw->authorities, &b, why);

	if (f != FAULT_NONE)
		return f;
	if (there != NULL && is_own)
		return merge_own(there, b, why);
	if (there != NULL)
		return merge_federated(there, &b, raw->trust_domain, why);
	if (d->n == IDENTITY_TRUST_DOMAINS_MAX)
		return fail(why, FAULT_LIMIT, "bundle: over %d trust domains",
		    IDENTITY_TRUST_DOMAINS_MAX);
	d->at[d->n++] = (struct draft){
	    .bundle = b, .spelling = raw->trust_domain, .is_own = is_own};
	b = NULL; /* given to the drafts */
	return FAULT_NONE;
}

/* minispire's way: nothing in `bundle`, the CA among the federated ones. */
static bool
is_among_federated(const struct identity_raw *raw, struct span td)
{
	for (size_t i = 0; i < raw->n_federated; i++) {
		struct span key;

		if (trust_domain_of(raw->federated[i].trust_domain, &key,
		        NULL) == FAULT_NONE &&
		    span_equal(key, td) &&
		    raw->federated[i].authorities.len != 0)
			return true;
	}
	return false;
}

static enum fault
add_own_bundle(
    struct drafts *d, const struct identity_raw *raw, size_t i, struct why *why)
{
	const struct bundle_raw *own = &raw->own_bundles[i];
	struct spiffe_id id;
	struct span td;

	if (spiffe_id_parse(raw->svids[i].id, &id) != SPIFFE_ID_OK)
		return fail(
		    why, FAULT_MALFORMED, "svid: spiffe_id is no SPIFFE ID");
	if (own->trust_domain.len != 0) {
		enum fault f = trust_domain_of(own->trust_domain, &td, why);

		if (f != FAULT_NONE)
			return f;
		if (!span_equal(td, id.trust_domain))
			return fail(why, FAULT_MISMATCH,
			    "bundle: not of the SVID's trust domain");
	}
	if (own->authorities.len != 0)
		return add_bundle(d, id.trust_domain, own, true, why);
	if (is_among_federated(raw, id.trust_domain))
		return FAULT_NONE;
	return fail(why, FAULT_MALFORMED, "bundle: the own one is empty");
}

static enum fault
collect_bundles(
    struct drafts *d, const struct identity_raw *raw, struct why *why)
{
	for (size_t i = 0; i < raw->n_svids; i++) {
		enum fault f = add_own_bundle(d, raw, i, why);

		if (f != FAULT_NONE)
			return f;
	}
	for (size_t i = 0; i < raw->n_federated; i++) {
		const struct bundle_raw *b = &raw->federated[i];
		struct span td;
		enum fault f = trust_domain_of(b->trust_domain, &td, why);

		if (f == FAULT_NONE)
			f = add_bundle(d, td, b, false, why);
		if (f != FAULT_NONE)
			return f;
	}
	return FAULT_NONE;
}

/* ---- Bundles as they stay ---- */

static int
by_trust_domain(const void *a, const void *b)
{
	const struct bundle *const *x = a;
	const struct bundle *const *y = b;

	return span_compare(bundle_trust_domain(*x), bundle_trust_domain(*y));
}

static struct bundle *
find_equal(const struct identity *id, const struct bundle *b)
{
	for (size_t i = 0; id != NULL && i < id->n_bundles; i++) {
		if (bundle_equal(id->bundles[i], b))
			return id->bundles[i];
	}
	return NULL;
}

/* What did not change is the previous one's, certificates and number. */
static enum fault
settle_bundles(struct identity *id, struct drafts *d,
    const struct identity *previous, uint64_t *next, struct why *why)
{
	id->bundles = calloc(d->n + 1, sizeof(struct bundle *));
	if (id->bundles == NULL)
		return fail(why, FAULT_NOMEM, "identity: out of memory");
	for (size_t i = 0; i < d->n; i++) {
		struct bundle *same = find_equal(previous, d->at[i].bundle);

		if (same != NULL) {
			id->bundles[i] = bundle_hold(same);
		} else {
			id->bundles[i] = bundle_hold(d->at[i].bundle);
			bundle_set_generation(id->bundles[i], (*next)++);
		}
		id->n_bundles++;
	}
	qsort(id->bundles, id->n_bundles, sizeof(struct bundle *),
	    by_trust_domain);
	return FAULT_NONE;
}

/* ---- Lists ---- */

static int
by_content(const void *a, const void *b)
{
	const struct crl_digest *x = a;
	const struct crl_digest *y = b;

	return memcmp(x->content, y->content, DIGEST_LEN);
}

static enum fault
take_crls(struct identity *id, const struct identity_raw *raw, struct why *why)
{
	id->crls = calloc(raw->n_crls + 1, sizeof(*id->crls));
	if (id->crls == NULL)
		return fail(why, FAULT_NOMEM, "identity: out of memory");
	for (size_t i = 0; i < raw->n_crls; i++) {
		enum fault f = crl_parse(raw->crls[i], &id->crls[i], why);

		if (f != FAULT_NONE)
			return f;
		id->n_crls++;
	}
	qsort(id->crls, id->n_crls, sizeof(*id->crls), by_content);
	return FAULT_NONE;
}

/* ---- SVIDs ---- */

/* A quarter of the heap stays free, or no thread could make a handshake. */
static bool
keys_fill_the_heap(void)
{
	size_t size = key_memory_size();

	return size != 0 && key_memory_used() > size / 4 * 3;
}

/*
 * All of them or none: using the valid ones could hide that one was withdrawn.
 * *FOREIGN_R as svid_build().
 */
static enum fault
take_svids(struct identity *id, const struct identity_raw *raw, bool *foreign_r,
    struct why *why)
{
	*foreign_r = false;
	id->svids = calloc(raw->n_svids + 1, sizeof(struct svid *));
	if (id->svids == NULL)
		return fail(why, FAULT_NOMEM, "identity: out of memory");
	for (size_t i = 0; i < raw->n_svids; i++) {
		enum fault f =
		    svid_build(&raw->svids[i], &id->svids[i], foreign_r, why);

		if (f != FAULT_NONE)
			return f;
		id->n_svids++;
		if (raw->is_dev)
			svid_mark_dev(id->svids[i]);
		if (keys_fill_the_heap())
			return fail(why, FAULT_LIMIT,
			    "svid: over three quarters of the key memory are "
			    "used");
	}
	return FAULT_NONE;
}

static void
drop_svids(struct identity *id)
{
	for (size_t i = 0; i < id->n_svids; i++)
		svid_free(&id->svids[i]);
	id->n_svids = 0;
	id->svids_broken = true;
}

/* The first broken one may hide a later one whose bundle has no owner. */
static bool
any_is_foreign(const struct identity_raw *raw, struct why *why)
{
	for (size_t i = 0; i < raw->n_svids; i++) {
		AUTO(svid_free) struct svid *s = NULL;
		bool foreign;

		(void)svid_build(&raw->svids[i], &s, &foreign, why);
		if (foreign)
			return true;
	}
	return false;
}

static enum fault
settle_svids(
    struct identity *id, const struct identity_raw *raw, struct why *why)
{
	struct why other;
	bool foreign;
	enum fault f = take_svids(id, raw, &foreign, why);

	if (f == FAULT_NONE || f == FAULT_NOMEM)
		return f;
	if (foreign)
		return f;
	if (any_is_foreign(raw, &other)) {
		*why = other;
		return FAULT_MISMATCH;
	}
	drop_svids(id);
	return FAULT_NONE;
}

/* ---- The whole ---- */

static enum fault
check_mandatory(const struct svid_raw *s, struct why *why)
{
	/* Workload Endpoint section 4.5: a field at its default is missing. */
	if (s->id.len == 0)
		return fail(why, FAULT_MALFORMED, "svid: no spiffe_id");
	if (s->chain.len == 0)
		return fail(why, FAULT_MALFORMED, "svid: no certificate");
	if (s->key.len == 0)
		return fail(why, FAULT_MALFORMED, "svid: no key");
	if (s->chain.len > SVID_CHAIN_MAX)
		return fail(why, FAULT_LIMIT, "svid: chain over %d bytes",
		    SVID_CHAIN_MAX);
	if (s->key.len > SVID_KEY_MAX)
		return fail(why, FAULT_LIMIT, "svid: the key is over %d bytes",
		    SVID_KEY_MAX);
	return FAULT_NONE;
}

static enum fault
check_limits(const struct identity_raw *raw, struct why *why)
{
	size_t keys = 0;

	if (raw->n_svids > IDENTITY_SVIDS_MAX)
		return fail(why, FAULT_LIMIT, "identity: over %d SVIDs",
		    IDENTITY_SVIDS_MAX);
	if (raw->n_crls > IDENTITY_CRLS_MAX)
		return fail(why, FAULT_LIMIT, "identity: over %d CRLs",
		    IDENTITY_CRLS_MAX);
	if (raw->n_federated > IDENTITY_TRUST_DOMAINS_MAX)
		return fail(why, FAULT_LIMIT, "identity: over %d bundles",
		    IDENTITY_TRUST_DOMAINS_MAX);
	for (size_t i = 0; i < raw->n_svids; i++) {
		enum fault f = check_mandatory(&raw->svids[i], why);

		if (f != FAULT_NONE)
			return f;
		keys += raw->svids[i].key.len;
	}
	if (keys > SVID_KEYS_MAX)
		return fail(why, FAULT_LIMIT, "identity: over %d bytes of keys",
		    SVID_KEYS_MAX);
	return FAULT_NONE;
}

static enum fault
take_trust(struct identity *id, const struct identity_raw *raw,
    const struct identity *previous, uint64_t *next, struct why *why)
{
	AUTO(drafts_fini) struct drafts d = {NULL, 0};
	enum fault f;

	d.at = calloc(raw->n_svids + raw->n_federated + 1, sizeof(*d.at));
	if (d.at == NULL)
		return fail(why, FAULT_NOMEM, "identity: out of memory");
	f = collect_bundles(&d, raw, why);
	if (f == FAULT_NONE)
		f = settle_bundles(id, &d, previous, next, why);
	if (f == FAULT_NONE)
		f = take_crls(id, raw, why);
	return f;
}

enum fault
identity_new(const struct identity_raw *raw, const struct identity *previous,
    uint64_t *next_generation, struct identity **id_r, struct why *why)
{
	AUTO(identity_free) struct identity *id = calloc(1, sizeof(*id));
	uint64_t next = *next_generation;
	struct why reason = {.text = ""};
	enum fault f;

	if (id == NULL)
		return fail(why, FAULT_NOMEM, "identity: out of memory");
	f = check_limits(raw, &reason);
	if (f == FAULT_NONE)
		f = take_trust(id, raw, previous, &next, &reason);
	if (f == FAULT_NONE)
		f = settle_svids(id, raw, &reason);
	if (why != NULL && (f != FAULT_NONE || id->svids_broken))
		*why = reason;
	if (f != FAULT_NONE)
		return f;
	*next_generation = next;
	*id_r = id;
	id = NULL; /* given to the caller */
	return FAULT_NONE;
}

void
identity_free(struct identity **identity)
{
	struct identity *id = *identity;

	if (id == NULL)
		return;
	for (size_t i = 0; i < id->n_svids; i++)
		svid_free(&id->svids[i]);
	for (size_t i = 0; i < id->n_bundles; i++)
		bundle_free(&id->bundles[i]);
	free(id->svids);
	free(id->bundles);
	free(id->crls);
	free(id);
	*identity = NULL;
}

bool
identity_svids_broken(const struct identity *id)
{
	return id->svids_broken;
}

size_t
identity_svid_count(const struct identity *id)
{
	return id->n_svids;
}

const struct svid *
identity_svid(const struct identity *id, size_t i)
{
	assert(i < id->n_svids);
	return id->svids[i];
}

size_t
identity_bundle_count(const struct identity *id)
{
	return id->n_bundles;
}

const struct bundle *
identity_bundle(const struct identity *id, size_t i)
{
	assert(i < id->n_bundles);
	return id->bundles[i];
}

size_t
identity_crl_count(const struct identity *id)
{
	return id->n_crls;
}

size_t
identity_crl_entries(const struct identity *id)
{
	size_t n = 0;

	for (size_t i = 0; i < id->n_crls; i++)
		n += id->crls[i].entries;
	return n;
}

static size_t
times_in(const struct identity *id, const struct svid *s)
{
	size_t n = 0;

	for (size_t i = 0; i < id->n_svids; i++)
		n += svid_equal(id->svids[i], s) ? 1 : 0;
	return n;
}

/* Equal as multisets: an agent may list one SVID under several hints. */
static bool
same_svids(const struct identity *a, const struct identity *b)
{
	if (a->n_svids != b->n_svids || a->svids_broken != b->svids_broken)
		return false;
	for (size_t i = 0; i < a->n_svids; i++) {
		if (times_in(a, a->svids[i]) != times_in(b, a->svids[i]))
			return false;
	}
	return true;
}

bool
identity_equal(const struct identity *a, const struct identity *b)
{
	if (a->n_bundles != b->n_bundles || a->n_crls != b->n_crls)
		return false;
	for (size_t i = 0; i < a->n_bundles; i++) {
		if (!bundle_equal(a->bundles[i], b->bundles[i]))
			return false;
	}
	for (size_t i = 0; i < a->n_crls; i++) {
		if (by_content(&a->crls[i], &b->crls[i]) != 0)
			return false;
	}
	return same_svids(a, b);
}
