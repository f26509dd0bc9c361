#include "issuer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "clock.h"
#include "spiffe.h"

/* ---- Domains ---- */

static enum fault
make_intermediate(struct domain *d, const struct issuer *is, struct why *why)
{
	const struct ca_options options = {
	    .cert = {.key_type =
	                 is->key_type == CA_ED25519 ? CA_P256 : is->key_type},
	};

	ca_free(&d->intermediate);
	if (!is->with_intermediate)
		return FAULT_NONE;
	return ca_new(d->root, &options, &d->intermediate, why);
}

static void
domain_free(struct domain *d)
{
	ca_free(&d->root);
	ca_free(&d->next_root);
	ca_free(&d->intermediate);
	node_remove(&d->node);
	free(d->name);
	free(d);
}

static struct domain *
find_domain(const struct issuer *is, struct span name)
{
	LIST_EACH (it, &is->domains) {
		struct domain *d = CONTAINER_OF(it, struct domain, node);

		if (span_equal_str(name, d->name))
			return d;
	}
	return NULL;
}

static bool
ends_in_test(struct span name)
{
	static const char suffix[] = ".test";
	size_t n = sizeof(suffix) - 1;

	return name.len > n && memcmp(name.data + name.len - n, suffix, n) == 0;
}

struct domain *
issuer_domain(struct issuer *is, struct span name, struct why *why)
{
	static const struct ca_options options;
	struct domain *d = find_domain(is, name);
	enum spiffe_id_error e = spiffe_trust_domain_check(name);

	if (d != NULL)
		return d;
	if (e != SPIFFE_ID_OK) {
		(void)fail(why, FAULT_CONF, "%s", spiffe_id_error_text(e));
		return NULL;
	}
	if (!ends_in_test(name) && !is->any_domain) {
		(void)fail(why, FAULT_CONF,
		    "trust domain %.*s does not end in .test: this issuer is "
		    "for development; --i-know overrides",
		    (int)name.len, (const char *)name.data);
		return NULL;
	}
	d = calloc(1, sizeof(*d));
	if (d == NULL)
		return NULL;
	node_init(&d->node);
	d->name = span_dup(name);
	if (d->name == NULL ||
	    ca_new(NULL, &options, &d->root, why) != FAULT_NONE ||
	    make_intermediate(d, is, why) != FAULT_NONE) {
		domain_free(d);
		return NULL;
	}
	list_add_tail(&is->domains, &d->node);
	return d;
}

enum fault
domain_add_root(struct domain *d, struct why *why)
{
	static const struct ca_options options;

	if (d->next_root != NULL)
		return fail(why, FAULT_CONF, "a new root is there already");
	return ca_new(NULL, &options, &d->next_root, why);
}

enum fault
domain_switch_root(struct domain *d, const struct issuer *is, struct why *why)
{
	if (d->next_root == NULL)
		return fail(why, FAULT_CONF, "no new root: root-add first");
	ca_free(&d->root);
	d->root = d->next_root;
	d->next_root = NULL;
	return make_intermediate(d, is, why);
}

/* ---- Entries ---- */

static void
entry_free(struct entry *e)
{
	node_remove(&e->node);
	ca_svid_free(&e->svid);
	free(e->id);
	free(e->hint);
	free(e);
}

static void
entries_free(struct node *list)
{
	while (!list_is_empty(list))
		entry_free(CONTAINER_OF(list->next, struct entry, node));
}

static struct entry *
entry_new(struct node *list, struct span id, struct span hint)
{
	struct entry *e = calloc(1, sizeof(*e));

	if (e == NULL)
		return NULL;
	node_init(&e->node);
	e->id = span_dup(id);
	e->hint = span_dup(hint);
	if (e->id == NULL || e->hint == NULL) {
		entry_free(e);
		return NULL;
	}
	list_add_tail(list, &e->node);
	return e;
}

struct place *
issuer_place(struct issuer *is, const char *path)
{
	struct place *p;

	LIST_EACH (it, &is->places) {
		p = CONTAINER_OF(it, struct place, node);
		if (strcmp(p->path, path) == 0)
			return p;
	}
	p = calloc(1, sizeof(*p));
	if (p == NULL)
		return NULL;
	p->issuer = is;
	p->fd = -1;
	p->path = span_dup(span_of_str(path));
	p->with_crl = is->with_crl;
	node_init(&p->node);
	node_init(&p->entries);
	node_init(&p->made);
	node_init(&p->conns);
	list_add_tail(&is->places, &p->node);
	return p;
}

enum fault
place_add(struct place *p, const char *text, struct why *why)
{
	const char *comma = strchr(text, ',');
	size_t len = comma == NULL ? strlen(text) : (size_t)(comma - text);
	AUTO(text_fini) struct text full;
	struct spiffe_id id;
	enum spiffe_id_error e;

	text_init(&full);
	if (text[0] == '/')
		text_add(&full, "spiffe://%s", p->issuer->trust_domain);
	text_add_span(&full, span_of(text, len));
	e = spiffe_id_parse(span_of(full.data, full.len), &id);
	if (e != SPIFFE_ID_OK)
		return fail(why, FAULT_CONF, "\"%s\": %s", full.data,
		    spiffe_id_error_text(e));
	if (issuer_domain(p->issuer, id.trust_domain, why) == NULL)
		return FAULT_CONF;
	if (entry_new(&p->entries, id.text,
	        span_of_str(comma == NULL ? "" : comma + 1)) == NULL)
		return fail(why, FAULT_NOMEM, "out of memory");
	return FAULT_NONE;
}

bool
place_remove(struct place *p, const char *id)
{
	LIST_EACH_SAFE (it, &p->entries) {
		struct entry *e = CONTAINER_OF(it, struct entry, node);

		if (strcmp(e->id, id) == 0) {
			entry_free(e);
			return true;
		}
	}
	return false;
}

/* ---- Issuing ---- */

static struct domain *
domain_of(const struct place *p, const struct entry *e)
{
	struct spiffe_id id = {0};

	(void)spiffe_id_parse(span_of_str(e->id), &id);
	return find_domain(p->issuer, id.trust_domain);
}

static void
set_dates(const struct place *p, struct ca_svid_options *o)
{
	int64_t now_s = clock_wall_s();

	o->cert.not_before = now_s - 10;
	o->cert.not_after = now_s + p->issuer->ttl_s;
	if (p->bend == BEND_EXPIRED) {
		o->cert.not_before = now_s - 3600;
		o->cert.not_after = now_s - 60;
	} else if (p->bend == BEND_FUTURE) {
		o->cert.not_before = now_s + p->future_s;
		o->cert.not_after = o->cert.not_before + p->issuer->ttl_s;
	}
}

static enum fault
lengthen(struct entry *e, struct why *why)
{
	size_t len = strlen(e->id);
	char *longer = malloc(SPIFFE_ID_MAX + 1);

	if (longer == NULL)
		return fail(why, FAULT_NOMEM, "out of memory");
	memcpy(longer, e->id, len);
	memset(longer + len, 'x', SPIFFE_ID_MAX - len);
	longer[len] = '/';
	longer[SPIFFE_ID_MAX] = '\0';
	free(e->id);
	e->id = longer;
	return FAULT_NONE;
}

static enum fault
issue(struct place *p, struct entry *e, struct why *why)
{
	struct domain *d = domain_of(p, e);
	struct ca_svid_options o = {.cert = {.key_type = p->issuer->key_type}};
	struct ca_svid *svid = NULL;
	enum fault fault = FAULT_NONE;

	if (p->bend == BEND_LONG_ID && strlen(e->id) < SPIFFE_ID_MAX - 1)
		fault = lengthen(e, why);
	if (fault != FAULT_NONE)
		return fault;
	o.id = span_of_str(e->id);
	set_dates(p, &o);
	fault = ca_issue(d->intermediate != NULL ? d->intermediate : d->root,
	    &o, &svid, why);
	if (fault != FAULT_NONE)
		return fault;
	ca_svid_free(&e->svid);
	e->svid = svid;
	return FAULT_NONE;
}

static enum fault
make_copies(struct place *p, struct why *why)
{
	struct entry *first;

	entries_free(&p->made);
	if (p->copies == 0 || list_is_empty(&p->entries))
		return FAULT_NONE;
	first = CONTAINER_OF(p->entries.next, struct entry, node);
	for (size_t i = 0; i < p->copies; i++) {
		char id[SPIFFE_ID_MAX + 32];

		(void)snprintf(id, sizeof(id), "%s-%zu", first->id, i + 2);
		if (entry_new(&p->made, span_of_str(id), span_of_str("")) ==
		    NULL)
			return fail(why, FAULT_NOMEM, "out of memory");
	}
	return FAULT_NONE;
}

enum fault
place_issue(struct place *p, struct why *why)
{
	enum fault fault = make_copies(p, why);

	LIST_EACH (it, &p->entries) {
		if (fault == FAULT_NONE)
			fault =
			    issue(p, CONTAINER_OF(it, struct entry, node), why);
	}
	LIST_EACH (it, &p->made) {
		if (fault == FAULT_NONE)
			fault =
			    issue(p, CONTAINER_OF(it, struct entry, node), why);
	}
	return fault;
}

/* ---- Messages: protobuf's wire form, see proto/workload.proto ---- */

static void
add_varint(struct text *t, size_t n)
{
	for (; n >= 0x80; n >>= 7)
		text_add_char(t, (char)(n | 0x80));
	text_add_char(t, (char)n);
}

static void
add_bytes(struct text *t, unsigned int number, struct span s)
{
	add_varint(t, number << 3 | 2);
	add_varint(t, s.len);
	text_add_span(t, s);
}

static void
add_text(struct text *t, unsigned int number, const struct text *inner)
{
	add_bytes(t, number, span_of(inner->data, inner->len));
}

static void
add_bundle(struct text *t, const struct domain *d, bool reversed)
{
	if (reversed && d->next_root != NULL)
		text_add_span(t, ca_certificate(d->next_root));
	text_add_span(t, ca_certificate(d->root));
	if (!reversed && d->next_root != NULL)
		text_add_span(t, ca_certificate(d->next_root));
}

static void
add_pair(struct text *out, unsigned int number, const char *name,
    const struct text *value)
{
	AUTO(text_fini) struct text pair;
	AUTO(text_fini) struct text key;

	text_init(&pair);
	text_init(&key);
	text_add(&key, "spiffe://%s", name);
	add_text(&pair, 1, &key);
	add_text(&pair, 2, value);
	add_text(out, number, &pair);
}

static void
add_svid(struct text *out, const struct place *p, const struct entry *e,
    const struct ca_svid *other)
{
	AUTO(text_fini) struct text svid;
	AUTO(text_fini) struct text bundle;
	bool wrong = p->bend == BEND_WRONG_KEY;

	text_init(&svid);
	text_init(&bundle);
	add_bundle(&bundle, domain_of(p, e), p->reversed);
	add_bytes(&svid, 1, span_of_str(e->id));
	add_bytes(&svid, 2, ca_svid_chain(e->svid));
	add_bytes(&svid, 3, ca_svid_key_der(wrong ? other : e->svid));
	add_text(&svid, 4, &bundle);
	if (e->hint[0] != '\0')
		add_bytes(&svid, 5, span_of_str(e->hint));
	add_text(out, 1, &svid);
	key_memory_wipe(svid.data, svid.len);
}

/* Is D the domain of one of the place's own SVIDs? */
static bool
is_own(const struct place *p, const struct domain *d)
{
	LIST_EACH (it, &p->entries) {
		if (domain_of(p, CONTAINER_OF(it, struct entry, node)) == d)
			return true;
	}
	return false;
}

static void
add_domain(struct text *out, const struct place *p, const struct domain *d,
    unsigned int number, bool with_own)
{
	AUTO(text_fini) struct text value;
	bool own = is_own(p, d);

	text_init(&value);
	if (own ? !with_own : !d->federated)
		return;
	add_bundle(&value, d, p->reversed);
	add_pair(out, number, d->name, &value);
}

static void
add_domains(
    struct text *out, const struct place *p, unsigned int number, bool with_own)
{
	const struct node *all = &p->issuer->domains;

	for (struct node *it = p->reversed ? all->prev : all->next; it != all;
	     it = p->reversed ? it->prev : it->next)
		add_domain(out, p, CONTAINER_OF(it, struct domain, node),
		    number, with_own);
}

#define FILLERS 800

/* Foreign bundles of FILLER bytes in all: one authority, many times. */
static void
add_filler(struct text *out, const struct place *p)
{
	AUTO(text_fini) struct text value;
	struct span cert;
	char name[32];

	text_init(&value);
	if (p->filler == 0 || list_is_empty(&p->issuer->domains))
		return;
	cert = ca_certificate(
	    CONTAINER_OF(p->issuer->domains.next, struct domain, node)->root);
	while (value.len < p->filler / FILLERS)
		text_add_span(&value, cert);
	for (unsigned int i = 0; i < FILLERS; i++) {
		(void)snprintf(name, sizeof(name), "filler-%u.test", i);
		add_pair(out, 3, name, &value);
	}
}

/* One list per domain, as if signed by whoever issues there. */
static enum fault
add_crls(struct text *out, const struct place *p, unsigned int number,
    struct why *why)
{
	struct span serials[16];
	enum fault fault = FAULT_NONE;

	LIST_EACH (it, &p->issuer->domains) {
		struct domain *d = CONTAINER_OF(it, struct domain, node);
		struct ca_crl_options o = {.serials = serials};
		uint8_t *der = NULL;
		size_t len = 0;

		if (fault != FAULT_NONE || !is_own(p, d))
			continue;
		LIST_EACH (jt, &p->entries) {
			struct entry *e = CONTAINER_OF(jt, struct entry, node);

			if (p->revoke && domain_of(p, e) == d &&
			    o.n_serials < ARRAY_LEN(serials))
				serials[o.n_serials++] =
				    ca_svid_serial(e->svid);
		}
		fault =
		    ca_crl(d->intermediate != NULL ? d->intermediate : d->root,
		        &o, &der, &len, why);
		if (fault == FAULT_NONE)
			add_bytes(out, number, span_of(der, len));
		mem_free(&der);
	}
	return fault;
}

static const struct ca_svid *
first_svid_but(const struct place *p, const struct entry *e)
{
	LIST_EACH (it, &p->entries) {
		struct entry *other = CONTAINER_OF(it, struct entry, node);

		if (other != e)
			return other->svid;
	}
	return NULL;
}

/* Somebody else's key, for the wrong-key knob; *MADE_R is given. */
static const struct ca_svid *
other_svid(const struct place *p, const struct entry *e,
    struct ca_svid **made_r, struct why *why)
{
	const struct ca_svid *other = first_svid_but(p, e);
	struct ca_svid_options o = {
	    .id = span_of_str(e->id),
	    .cert = {.key_type = p->issuer->key_type},
	};

	if (other != NULL || p->bend != BEND_WRONG_KEY)
		return other;
	if (ca_issue(domain_of(p, e)->root, &o, made_r, why) != FAULT_NONE)
		return NULL;
	return *made_r;
}

static enum fault
add_svids(struct text *out, const struct place *p, const struct node *list,
    struct why *why)
{
	LIST_EACH (it, list) {
		struct entry *e = CONTAINER_OF(it, struct entry, node);
		AUTO(ca_svid_free) struct ca_svid *made = NULL;
		const struct ca_svid *other = other_svid(p, e, &made, why);

		if (p->bend == BEND_WRONG_KEY && other == NULL)
			return FAULT_NOMEM;
		add_svid(out, p, e, other);
	}
	return FAULT_NONE;
}

static enum fault
settle(const struct text *t, struct why *why)
{
	return t->failed ? fail(why, FAULT_NOMEM, "out of memory") : FAULT_NONE;
}

enum fault
place_svid_message(const struct place *p, struct text *bytes_r, struct why *why)
{
	enum fault fault = add_svids(bytes_r, p, &p->entries, why);

	if (fault == FAULT_NONE)
		fault = add_svids(bytes_r, p, &p->made, why);
	if (fault == FAULT_NONE && p->with_crl)
		fault = add_crls(bytes_r, p, 2, why);
	if (fault != FAULT_NONE)
		return fault;
	add_domains(bytes_r, p, 3, false);
	add_filler(bytes_r, p);
	return settle(bytes_r, why);
}

enum fault
place_bundle_message(
    const struct place *p, struct text *bytes_r, struct why *why)
{
	if (p->with_crl) {
		enum fault fault = add_crls(bytes_r, p, 1, why);

		if (fault != FAULT_NONE)
			return fault;
	}
	add_domains(bytes_r, p, 2, true);
	return settle(bytes_r, why);
}

void
issuer_free_entries(struct issuer *is)
{
	while (!list_is_empty(&is->places)) {
		struct place *p =
		    CONTAINER_OF(is->places.next, struct place, node);

		place_stop(p);
		entries_free(&p->entries);
		entries_free(&p->made);
		node_remove(&p->node);
		free(p->path);
		free(p);
	}
	while (!list_is_empty(&is->domains))
		domain_free(
		    CONTAINER_OF(is->domains.next, struct domain, node));
}
