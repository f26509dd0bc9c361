#include "workload_int.h"

#include <stdlib.h>
#include <string.h>

#include "workload.pb-c.h"

/* ---- An arena for protobuf-c: what is left of the message is public ---- */

/* 1 MiB and twice the message: what 128 SVIDs and 1,024 domains need. */
#define ARENA_EXTRA (1024 * 1024)
#define ARENA_ALIGN 16

struct arena {
	uint8_t *bytes;
	size_t used;
	size_t cap;
	bool full; /* unpack() returns NULL for this and for malformed alike */
};

static void *
arena_alloc(void *arg, size_t size)
{
	struct arena *a = arg;
	size_t aligned = (size + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
	void *at = a->bytes + a->used;

	if (aligned < size || aligned > a->cap - a->used) {
		a->full = true;
		return NULL;
	}
	a->used += aligned;
	return at;
}

static void
arena_free(void *arg, void *at)
{
	/* All at once, in the end. */
	(void)arg;
	(void)at;
}

static void
arena_fini(struct arena *a)
{
	free(a->bytes);
	a->bytes = NULL;
}

/* ---- Checks of what protobuf-c does not ---- */

/* Length of the UTF-8 sequence at S, 0 if it is none (RFC 3629). */
static size_t
utf8_length(struct span s)
{
	static const struct {
		uint8_t lead_min, lead_max, len, second_min, second_max;
	} rows[] = {
	    {0x00, 0x7f, 1, 0, 0},
	    {0xc2, 0xdf, 2, 0x80, 0xbf},
	    {0xe0, 0xe0, 3, 0xa0, 0xbf},
	    {0xe1, 0xec, 3, 0x80, 0xbf},
	    {0xed, 0xed, 3, 0x80, 0x9f},
	    {0xee, 0xef, 3, 0x80, 0xbf},
	    {0xf0, 0xf0, 4, 0x90, 0xbf},
	    {0xf1, 0xf3, 4, 0x80, 0xbf},
	    {0xf4, 0xf4, 4, 0x80, 0x8f},
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		if (s.data[0] < rows[i].lead_min ||
		    s.data[0] > rows[i].lead_max || s.len < rows[i].len)
			continue;
		if (rows[i].len > 1 && (s.data[1] < rows[i].second_min ||
		                           s.data[1] > rows[i].second_max))
			return 0;
		for (size_t j = 2; j < rows[i].len; j++)
			if ((s.data[j] & 0xc0) != 0x80)
				return 0;
		return rows[i].len;
	}
	return 0;
}

static bool
is_utf8(struct span s)
{
	struct span part;
	size_t len;

	while (s.len > 0) {
		len = utf8_length(s);
		if (len == 0)
			return false;
		(void)span_take(&s, len, &part);
	}
	return true;
}

/* ---- From the unpacked message to an identity ---- */

struct draft {
	struct svid_raw svids[IDENTITY_SVIDS_MAX];
	struct bundle_raw own[IDENTITY_SVIDS_MAX];
	struct bundle_raw federated[IDENTITY_TRUST_DOMAINS_MAX];
	struct span crls[IDENTITY_CRLS_MAX];
};

static struct span
span_of_field(ProtobufCBinaryData b)
{
	return span_of(b.data, b.len);
}

/* "spiffe://td/path" -> "td"; a bad ID is refused whole by identity_new(). */
static struct span
trust_domain_of(struct span id)
{
	struct spiffe_id parsed;

	if (spiffe_id_parse(id, &parsed) != SPIFFE_ID_OK)
		return span_of(NULL, 0);
	return parsed.trust_domain;
}

static enum fault
draft_svids(struct draft *d, const X509SVIDResponse *m, const struct scanned *s,
    struct why *why)
{
	/* In the place of a key that found no room: no key at all. */
	static const uint8_t no_key[] = {0};

	for (size_t i = 0; i < s->n_svids; i++) {
		const X509SVID *from = m->svids[i];
		const struct scanned_key *key = &s->keys[i];

		d->svids[i] = (struct svid_raw){
		    .id = span_of_field(from->spiffe_id),
		    .chain = span_of_field(from->x509_svid),
		    .key = key->no_room ? span_of(no_key, sizeof(no_key))
		                        : span_of(key->bytes, key->len),
		    .hint = span_of_field(from->hint),
		};
		d->own[i] = (struct bundle_raw){
		    .trust_domain = trust_domain_of(d->svids[i].id),
		    .authorities = span_of_field(from->bundle),
		};
		if (!is_utf8(d->svids[i].hint))
			return fail(
			    why, FAULT_MALFORMED, "message: hint is not UTF-8");
	}
	return FAULT_NONE;
}

static void
draft_trust(struct draft *d, const X509SVIDResponse *m)
{
	for (size_t i = 0; i < m->n_crl; i++)
		d->crls[i] = span_of_field(m->crl[i]);
	for (size_t i = 0; i < m->n_federated_bundles; i++)
		d->federated[i] = (struct bundle_raw){
		    .trust_domain = span_of_field(m->federated_bundles[i]->key),
		    .authorities =
		        span_of_field(m->federated_bundles[i]->value),
		};
}

static bool
any_without_room(const struct scanned *s)
{
	for (size_t i = 0; i < s->n_svids; i++)
		if (s->keys[i].no_room)
			return true;
	return false;
}

static enum fault
build(const X509SVIDResponse *m, const struct scanned *s,
    const struct identity *previous, uint64_t *next_generation,
    struct identity **id_r, struct why *why)
{
	AUTO(mem_free) struct draft *d = calloc(1, sizeof(*d));
	struct identity_raw raw;
	enum fault fault;

	if (d == NULL)
		return fail(why, FAULT_NOMEM, "message: out of memory");
	fault = draft_svids(d, m, s, why);
	if (fault != FAULT_NONE)
		return fault;
	draft_trust(d, m);
	raw = (struct identity_raw){
	    .svids = d->svids,
	    .own_bundles = d->own,
	    .n_svids = s->n_svids,
	    .federated = d->federated,
	    .n_federated = m->n_federated_bundles,
	    .crls = d->crls,
	    .n_crls = m->n_crl,
	};
	fault = identity_new(&raw, previous, next_generation, id_r, why);
	if (fault == FAULT_NONE && any_without_room(s))
		(void)fail(why, FAULT_LIMIT,
		    "svid: %zu bytes of keys would leave less than a quarter "
		    "of the key memory free",
		    s->key_bytes);
	return fault;
}

static enum fault
unpack_failed(const struct arena *a, struct why *why)
{
	if (a->full)
		return fail(why, FAULT_LIMIT,
		    "message: needs more than %zu bytes to decode", a->cap);
	return fail(why, FAULT_MALFORMED, "message: does not decode");
}

enum fault
workload_decode(struct span message, const struct identity *previous,
    uint64_t *next_generation, struct identity **id_r, struct why *why)
{
	AUTO(scanned_fini) struct scanned s = {0};
	AUTO(arena_fini) struct arena a = {0};
	ProtobufCAllocator allocator = {
	    .alloc = arena_alloc,
	    .free = arena_free,
	    .allocator_data = &a,
	};
	X509SVIDResponse *m;
	enum fault fault = workload_scan(message, &s, why);

	if (fault != FAULT_NONE)
		return fault;
	/* Workload API section 4.5: a field at its default is missing. */
	if (s.n_svids == 0)
		return fail(why, FAULT_MALFORMED, "message: no SVID");
	a.cap = 2 * s.len + ARENA_EXTRA;
	a.bytes = malloc(a.cap);
	if (a.bytes == NULL)
		return fail(why, FAULT_NOMEM, "message: out of memory");
	m = x509_svidresponse__unpack(&allocator, s.len, s.bytes);
	if (m == NULL)
		return unpack_failed(&a, why);
	return build(m, &s, previous, next_generation, id_r, why);
}
