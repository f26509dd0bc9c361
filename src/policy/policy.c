#include "policy_int.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/*
 * The compiled form. Exact IDs lie in a hash with their final verdict, denies
 * by wider rules included. All others form one trie: the root's children are
 * trust domains, their children segments. Edges of all nodes lie in one hash,
 * keyed by parent and text; children with a '*' are on a list besides, since
 * an ID cannot look them up.
 */

#define NO_RULE UINT32_MAX

enum { ROOT = 0, NO_NODE = 0 }; /* the root is nobody's child */

/* First matching rule of each list, as an index; the lowest wins. */
struct match {
	uint32_t deny;
	uint32_t allow;
};

static const struct match no_match = {NO_RULE, NO_RULE};

struct trie_node {
	struct span segment; /* borrowed from a rule's text */
	uint32_t parent;
	uint32_t patterns;     /* head of the children that have a '*' */
	uint32_t next_pattern; /* on the parent's list */
	bool is_pattern;
	struct match here;  /* rules that end here */
	struct match below; /* with one or more further segments */
};

struct exact {
	uint64_t tag;
	struct span id; /* empty: free slot */
	struct match first;
	struct verdict verdict;
};

struct policy {
	const struct rule *const *allow; /* borrowed */
	const struct rule *const *deny;
	size_t n_allow, n_deny;
	uint64_t key[2];
	struct exact *exacts;
	size_t exact_mask;
	struct trie_node *nodes;
	size_t n_nodes;
	size_t node_cap;
	uint32_t *edges; /* open addressing; NO_NODE: free slot */
	size_t edge_mask;
};

/* ---- Hash: SipHash-1-3 (Aumasson, Bernstein), keyed per policy ---- */

static uint64_t
rotate(uint64_t x, int bits)
{
	return (x << bits) | (x >> (64 - bits));
}

static void
sip_round(uint64_t v[4])
{
	v[0] += v[1];
	v[1] = rotate(v[1], 13) ^ v[0];
	v[0] = rotate(v[0], 32);
	v[2] += v[3];
	v[3] = rotate(v[3], 16) ^ v[2];
	v[0] += v[3];
	v[3] = rotate(v[3], 21) ^ v[0];
	v[2] += v[1];
	v[1] = rotate(v[1], 17) ^ v[2];
	v[2] = rotate(v[2], 32);
}

static void
sip_word(uint64_t v[4], uint64_t word)
{
	v[3] ^= word;
	sip_round(v);
	v[0] ^= word;
}

/*
 * Keyed, since peers choose the IDs that are looked up: none of them can aim
 * at a crowded part of the table.
 */
static uint64_t
hash(const struct policy *p, uint64_t salt, struct span s)
{
	uint64_t v[4] = {p->key[0] ^ 0x736f6d6570736575,
	    p->key[1] ^ 0x646f72616e646f6d, p->key[0] ^ 0x6c7967656e657261,
	    p->key[1] ^ 0x7465646279746573};
	uint64_t last = (uint64_t)s.len << 56;
	size_t i;

	sip_word(v, salt);
	for (i = 0; i + 8 <= s.len; i += 8) {
		uint64_t word;

		memcpy(&word, s.data + i, 8);
		sip_word(v, word);
	}
	for (size_t shift = 0; i < s.len; i++, shift += 8)
		last |= (uint64_t)s.data[i] << shift;
	sip_word(v, last);
	v[2] ^= 0xff;
	for (int n = 0; n < 3; n++)
		sip_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* Slots for N entries so that at least half of them stay free. */
static size_t
table_size(size_t n)
{
	size_t size = 4;

	while (size < 2 * n + 2)
		size *= 2;
	return size;
}

/* ---- Trie ---- */

/* The slot of an edge: of the child that is there, or a free one. */
static size_t
edge_slot(const struct policy *p, uint32_t parent, struct span segment)
{
	size_t slot = hash(p, parent, segment) & p->edge_mask;

	for (;; slot = (slot + 1) & p->edge_mask) {
		uint32_t child = p->edges[slot];

		if (child == NO_NODE)
			return slot;
		if (p->nodes[child].parent == parent &&
		    span_equal(p->nodes[child].segment, segment))
			return slot;
	}
}

static uint32_t
trie_child(const struct policy *p, uint32_t parent, struct span segment)
{
	return p->edges[edge_slot(p, parent, segment)];
}

static uint32_t
trie_add(struct policy *p, uint32_t parent, struct span segment)
{
	size_t slot = edge_slot(p, parent, segment);
	struct trie_node *node;
	uint32_t new;

	if (p->edges[slot] != NO_NODE)
		return p->edges[slot];
	assert(p->n_nodes < p->node_cap);
	new = (uint32_t)p->n_nodes++;
	node = &p->nodes[new];
	*node = (struct trie_node){.segment = segment,
	    .parent = parent,
	    .here = no_match,
	    .below = no_match};
	if (memchr(segment.data, '*', segment.len) != NULL) {
		node->is_pattern = true;
		node->next_pattern = p->nodes[parent].patterns;
		p->nodes[parent].patterns = new;
	}
	p->edges[slot] = new;
	return new;
}

static void
match_add(struct match *m, const struct match *more)
{
	if (more->deny < m->deny)
		m->deny = more->deny;
	if (more->allow < m->allow)
		m->allow = more->allow;
}

static struct match
match_of(bool is_deny, size_t index)
{
	struct match m = no_match;

	if (is_deny)
		m.deny = (uint32_t)index;
	else
		m.allow = (uint32_t)index;
	return m;
}

/* Where the trie keeps what a rule says. */
static struct match *
trie_place(struct policy *p, const struct rule *rule)
{
	uint32_t node = trie_add(p, ROOT, rule_trust_domain(rule));
	struct span path;
	struct span segment;

	if (rule->kind == RULE_TRUST_DOMAIN)
		return &p->nodes[node].below; /* every leaf has a path */
	path = rule_path(rule);
	while (path_next(&path, &segment)) {
		if (span_equal_str(segment, "**"))
			return &p->nodes[node].below;
		node = trie_add(p, node, segment);
	}
	return &p->nodes[node].here;
}

/* An ID cut at its borders; segment 0 is the trust domain. */
struct cut {
	size_t n;
	uint16_t off[SEGMENTS_MAX + 2];
	uint16_t len[SEGMENTS_MAX + 2];
	const uint8_t *base;
};

static void
cut_id(const struct spiffe_id *id, struct cut *cut)
{
	struct span path = id->path;
	struct span segment = id->trust_domain;

	cut->base = id->text.data;
	cut->n = 0;
	do {
		assert(cut->n < ARRAY_LEN(cut->off));
		cut->off[cut->n] = (uint16_t)(segment.data - cut->base);
		cut->len[cut->n] = (uint16_t)segment.len;
		cut->n++;
	} while (path_next(&path, &segment));
}

static struct span
cut_segment(const struct cut *cut, size_t i)
{
	return span_of(cut->base + cut->off[i], cut->len[i]);
}

/* The first pattern from NODE on along its list that SEGMENT fits. */
static uint32_t
matching_pattern(const struct policy *p, uint32_t node, struct span segment)
{
	while (node != NO_NODE &&
	       !segment_matches(p->nodes[node].segment, segment))
		node = p->nodes[node].next_pattern;
	return node;
}

/*
 * The next child of PARENT that SEGMENT fits, after child LAST (NO_NODE: the
 * first): the patterns in the order of their list, then the literal one.
 */
static uint32_t
next_child(
    const struct policy *p, uint32_t parent, uint32_t last, struct span segment)
{
	uint32_t child;

	if (last != NO_NODE && !p->nodes[last].is_pattern)
		return NO_NODE;
	child = last == NO_NODE ? p->nodes[parent].patterns
	                        : p->nodes[last].next_pattern;
	child = matching_pattern(p, child, segment);
	if (child != NO_NODE)
		return child;
	return trie_child(p, parent, segment);
}

/*
 * Collect every rule of the trie that matches. Walks the tree of fitting nodes
 * by its parent links, visiting each once: no recursion, no memory of its own,
 * and no more steps than there are nodes. It does not stop at the first allow,
 * since a deny may still come.
 */
static struct match
trie_match(const struct policy *p, const struct spiffe_id *id)
{
	struct match found = no_match;
	struct cut cut;
	uint32_t node = ROOT;
	uint32_t last = NO_NODE; /* child of NODE that was visited last */
	size_t depth = 0;        /* segments that NODE stands for */

	cut_id(id, &cut);
	for (;;) {
		uint32_t child = NO_NODE;

		if (depth < cut.n)
			child =
			    next_child(p, node, last, cut_segment(&cut, depth));
		if (child != NO_NODE) {
			node = child;
			last = NO_NODE;
			depth++;
			match_add(&found, depth == cut.n
			                      ? &p->nodes[node].here
			                      : &p->nodes[node].below);
		} else if (node == ROOT) {
			return found;
		} else {
			last = node;
			node = p->nodes[node].parent;
			depth--;
		}
	}
}

/* ---- Exact IDs ---- */

static struct exact *
exact_slot(const struct policy *p, struct span id)
{
	uint64_t tag = hash(p, 0, id);
	size_t slot = tag & p->exact_mask;

	for (;; slot = (slot + 1) & p->exact_mask) {
		struct exact *e = &p->exacts[slot];

		if (e->id.len == 0) {
			e->tag = tag;
			return e;
		}
		if (e->tag == tag && span_equal(e->id, id))
			return e;
	}
}

static const struct exact *
exact_find(const struct policy *p, struct span id)
{
	uint64_t tag = hash(p, 0, id);
	size_t slot = tag & p->exact_mask;

	for (;; slot = (slot + 1) & p->exact_mask) {
		const struct exact *e = &p->exacts[slot];

		if (e->id.len == 0)
			return NULL;
		if (e->tag == tag && span_equal(e->id, id))
			return e;
	}
}

static struct match *
exact_place(struct policy *p, const struct rule *rule)
{
	struct exact *e = exact_slot(p, span_of_str(rule->text));

	if (e->id.len == 0) {
		e->id = span_of_str(rule->text);
		e->first = no_match;
	}
	return &e->first;
}

/* ---- Compile ---- */

static struct verdict
verdict_of(const struct policy *p, const struct match *m)
{
	if (m->deny != NO_RULE)
		return (struct verdict){
		    DECISION_DENY, DENY_DENY_RULE, p->deny[m->deny]};
	if (m->allow != NO_RULE)
		return (struct verdict){
		    DECISION_ALLOW, DENY_NOT, p->allow[m->allow]};
	return (struct verdict){DECISION_DENY, DENY_NO_RULE, NULL};
}

static void
count_rules(
    const struct rule *const *rules, size_t n, size_t *n_exact, size_t *n_nodes)
{
	for (size_t i = 0; i < n; i++) {
		const char *s = rules[i]->text;

		if (rules[i]->kind == RULE_EXACT) {
			(*n_exact)++;
			continue;
		}
		*n_nodes += 2; /* no fewer than its slashes need */
		while ((s = strchr(s, '/')) != NULL) {
			(*n_nodes)++;
			s++;
		}
	}
}

static void
place_rules(
    struct policy *p, bool is_deny, const struct rule *const *rules, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct match m = match_of(is_deny, i);

		switch (rules[i]->kind) {
		case RULE_NONE:
			break;
		case RULE_EXACT:
			match_add(exact_place(p, rules[i]), &m);
			break;
		case RULE_PATTERN:
		case RULE_TRUST_DOMAIN:
			match_add(trie_place(p, rules[i]), &m);
			break;
		}
	}
}

/* Merge what the patterns say, so that a lookup that hits is an answer. */
static void
judge_exacts(struct policy *p)
{
	for (size_t i = 0; i <= p->exact_mask; i++) {
		struct exact *e = &p->exacts[i];
		struct spiffe_id id;
		struct match m;

		if (e->id.len == 0)
			continue;
		if (spiffe_id_parse(e->id, &id) != SPIFFE_ID_OK)
			abort(); /* rule_parse() checked it */
		m = trie_match(p, &id);
		match_add(&m, &e->first);
		e->verdict = verdict_of(p, &m);
	}
}

enum fault
policy_compile(const struct rule *const *allow, size_t n_allow,
    const struct rule *const *deny, size_t n_deny, struct policy **policy_r,
    struct why *why)
{
	AUTO(policy_free) struct policy *p = calloc(1, sizeof(*p));
	size_t n_exact = 0;
	size_t n_nodes = 1; /* the root */

	if (p == NULL)
		return fail(why, FAULT_NOMEM, "policy: out of memory");
	if (n_allow >= NO_RULE || n_deny >= NO_RULE)
		return fail(why, FAULT_LIMIT, "policy: too many rules");
	if (getrandom(p->key, sizeof(p->key), 0) != sizeof(p->key))
		return fail(why, FAULT_IO, "policy: no random bytes");
	*p = (struct policy){.allow = allow,
	    .deny = deny,
	    .n_allow = n_allow,
	    .n_deny = n_deny,
	    .key = {p->key[0], p->key[1]}};
	count_rules(allow, n_allow, &n_exact, &n_nodes);
	count_rules(deny, n_deny, &n_exact, &n_nodes);
	if (n_nodes >= NO_RULE)
		return fail(why, FAULT_LIMIT, "policy: too many rules");
	p->exact_mask = table_size(n_exact) - 1;
	p->edge_mask = table_size(n_nodes) - 1;
	p->node_cap = n_nodes;
	p->exacts = calloc(p->exact_mask + 1, sizeof(*p->exacts));
	p->edges = calloc(p->edge_mask + 1, sizeof(*p->edges));
	p->nodes = calloc(p->node_cap, sizeof(*p->nodes));
	if (p->exacts == NULL || p->edges == NULL || p->nodes == NULL)
		return fail(why, FAULT_NOMEM, "policy: out of memory");
	p->n_nodes = 1;
	p->nodes[ROOT].here = no_match;
	p->nodes[ROOT].below = no_match;
	place_rules(p, true, deny, n_deny);
	place_rules(p, false, allow, n_allow);
	judge_exacts(p);
	*policy_r = p;
	p = NULL; /* given to the caller */
	return FAULT_NONE;
}

void
policy_free(struct policy **p)
{
	if (*p == NULL)
		return;
	free((*p)->exacts);
	free((*p)->nodes);
	free((*p)->edges);
	free(*p);
	*p = NULL;
}

struct verdict
policy_decide(const struct policy *p, const struct spiffe_id *id)
{
	const struct exact *e = exact_find(p, id->text);
	struct match m;

	if (e != NULL)
		return e->verdict;
	m = trie_match(p, id);
	return verdict_of(p, &m);
}

/* ---- Nearest rule ---- */

struct nearness {
	unsigned int segments; /* that matched, from the front */
	size_t differing;      /* bytes of the first that did not */
};

/* Bytes at which two segments differ, position by position. */
static size_t
differing_bytes(struct span a, struct span b)
{
	size_t shorter = a.len < b.len ? a.len : b.len;
	size_t n = a.len + b.len - 2 * shorter;

	for (size_t i = 0; i < shorter; i++)
		n += a.data[i] != b.data[i];
	return n;
}

static struct nearness
nearness_of(const struct rule *rule, const struct spiffe_id *id)
{
	struct nearness near = {0, 0};
	struct span pattern = rule_path(rule);
	struct span path = id->path;
	const struct span nothing = {0};

	for (;;) {
		struct span want = nothing;
		struct span have = nothing;
		bool wanted = path_next(&pattern, &want);
		bool had = path_next(&path, &have);

		if (wanted && had &&
		    (span_equal_str(want, "**") ||
		        segment_matches(want, have))) {
			near.segments++;
			continue;
		}
		near.differing = differing_bytes(want, have);
		return near;
	}
}

const struct rule *
policy_nearest(
    const struct policy *p, const struct spiffe_id *id, unsigned int *segment_r)
{
	const struct rule *best = NULL;
	struct nearness best_near = {0, 0};

	for (size_t i = 0; i < p->n_allow; i++) {
		const struct rule *rule = p->allow[i];
		struct nearness near;

		if (rule->kind == RULE_NONE ||
		    !span_equal(rule_trust_domain(rule), id->trust_domain))
			continue;
		near = nearness_of(rule, id);
		if (best != NULL &&
		    (near.segments < best_near.segments ||
		        (near.segments == best_near.segments &&
		            near.differing >= best_near.differing)))
			continue;
		best = rule;
		best_near = near;
	}
	if (best != NULL)
		*segment_r = best_near.segments + 1;
	return best;
}

/* ---- Findings ---- */

/* Above this many patterns the quadratic search is left out. */
#define FIND_PATTERNS_MAX 4000

/* The first rule of a list that says the same as RULE. */
static const struct rule *
first_of_its_text(const struct policy *p, bool is_deny, const struct rule *rule)
{
	const struct rule *const *rules = is_deny ? p->deny : p->allow;
	size_t n = is_deny ? p->n_deny : p->n_allow;

	if (rule->kind == RULE_EXACT) {
		const struct exact *e = exact_find(p, span_of_str(rule->text));

		return rules[is_deny ? e->first.deny : e->first.allow];
	}
	for (size_t i = 0; i < n; i++)
		if (strcmp(rules[i]->text, rule->text) == 0)
			return rules[i];
	return rule;
}

/* A rule of the list that is wider than RULE, other than itself. */
static const struct rule *
covering(const struct policy *p, bool is_deny, const struct rule *rule)
{
	const struct rule *const *rules = is_deny ? p->deny : p->allow;
	size_t n = is_deny ? p->n_deny : p->n_allow;
	struct spiffe_id id;

	if (rule->kind == RULE_EXACT &&
	    spiffe_id_parse(span_of_str(rule->text), &id) == SPIFFE_ID_OK) {
		struct match m = trie_match(p, &id);
		uint32_t i = is_deny ? m.deny : m.allow;

		return i == NO_RULE ? NULL : rules[i];
	}
	for (size_t i = 0; i < n; i++)
		if (rules[i] != rule && rules[i]->kind != RULE_EXACT &&
		    strcmp(rules[i]->text, rule->text) != 0 &&
		    rule_covers(rules[i], rule))
			return rules[i];
	return NULL;
}

/* A deny that leaves nothing of an allow. */
static const struct rule *
shadowing(const struct policy *p, const struct rule *rule)
{
	if (rule->kind == RULE_EXACT) {
		const struct exact *e = exact_find(p, span_of_str(rule->text));

		return e->verdict.decision == DECISION_DENY ? e->verdict.rule
		                                            : NULL;
	}
	for (size_t i = 0; i < p->n_deny; i++)
		if (rule_covers(p->deny[i], rule))
			return p->deny[i];
	return NULL;
}

static bool
find_about(const struct policy *p, bool is_deny, const struct rule *rule,
    struct rule_finding *finding_r)
{
	const struct rule *by = first_of_its_text(p, is_deny, rule);

	if (by != rule) {
		*finding_r = (struct rule_finding){RULE_DUPLICATE, rule, by};
		return true;
	}
	if (rule->kind == RULE_NONE)
		return false;
	by = is_deny ? NULL : shadowing(p, rule);
	if (by != NULL) {
		*finding_r = (struct rule_finding){RULE_SHADOWED, rule, by};
		return true;
	}
	by = covering(p, is_deny, rule);
	if (by == NULL)
		return false;
	*finding_r = (struct rule_finding){RULE_COVERED, rule, by};
	return true;
}

static size_t
count_patterns(const struct rule *const *rules, size_t n)
{
	size_t patterns = 0;

	for (size_t i = 0; i < n; i++)
		patterns += rules[i]->kind != RULE_EXACT;
	return patterns;
}

void
policy_find(const struct policy *p, rule_finding_fn *fn, void *arg)
{
	bool few = count_patterns(p->allow, p->n_allow) +
	               count_patterns(p->deny, p->n_deny) <=
	           FIND_PATTERNS_MAX;

	for (size_t i = 0; i < p->n_allow + p->n_deny; i++) {
		bool is_deny = i >= p->n_allow;
		const struct rule *rule =
		    is_deny ? p->deny[i - p->n_allow] : p->allow[i];
		struct rule_finding finding;

		if ((few || rule->kind == RULE_EXACT) &&
		    find_about(p, is_deny, rule, &finding))
			fn(arg, &finding);
	}
}
