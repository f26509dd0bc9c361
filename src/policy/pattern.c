#include "policy_int.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "text.h"

#define SCHEME       "spiffe://"
#define TRUST_DOMAIN "trust-domain"

bool
path_next(struct span *path, struct span *segment_r)
{
	size_t end = 1;

	if (path->len == 0)
		return false;
	assert(path->data[0] == '/');
	while (end < path->len && path->data[end] != '/')
		end++;
	*segment_r = span_of(path->data + 1, end - 1);
	*path = span_of(path->data + end, path->len - end);
	return true;
}

/*
 * The last '*' is the only one that may have to take more bytes: what stood
 * before it matched already, and no longer choice there could help. So the
 * cost is the product of the two lengths at worst, never exponential.
 */
bool
segment_matches(struct span pattern, struct span segment)
{
	size_t p = 0;
	size_t s = 0;
	size_t star = SIZE_MAX; /* the last '*' met */
	size_t taken = 0;       /* up to where it reaches */

	while (s < segment.len) {
		if (p < pattern.len && pattern.data[p] == '*') {
			star = p++;
			taken = ++s;
		} else if (p < pattern.len &&
		           pattern.data[p] == segment.data[s]) {
			p++;
			s++;
		} else if (star != SIZE_MAX) {
			p = star + 1;
			s = ++taken;
		} else {
			return false;
		}
	}
	return p == pattern.len;
}

static bool
begins_with(struct span s, const char *word)
{
	size_t len = strlen(word);

	return s.len >= len && memcmp(s.data, word, len) == 0;
}

struct span
rule_trust_domain(const struct rule *rule)
{
	struct span text = span_of_str(rule->text);
	struct span skipped;
	const uint8_t *slash;

	assert(rule->kind != RULE_NONE);
	if (rule->kind == RULE_TRUST_DOMAIN) {
		(void)span_take(&text, strlen(TRUST_DOMAIN " "), &skipped);
		return text;
	}
	(void)span_take(&text, strlen(SCHEME), &skipped);
	slash = memchr(text.data, '/', text.len);
	assert(slash != NULL);
	return span_of(text.data, (size_t)(slash - text.data));
}

struct span
rule_path(const struct rule *rule)
{
	struct span text = span_of_str(rule->text);
	struct span td = rule_trust_domain(rule);
	const uint8_t *start = td.data + td.len;

	return span_of(start, text.len - (size_t)(start - text.data));
}

static bool
is_stars(struct span segment)
{
	return span_equal_str(segment, "**");
}

static bool
path_matches(struct span pattern, struct span path)
{
	struct span want;
	struct span have;

	while (path_next(&pattern, &want)) {
		if (!path_next(&path, &have))
			return false;
		if (is_stars(want)) /* the last one, see check_stars() */
			return true;
		if (!segment_matches(want, have))
			return false;
	}
	return path.len == 0;
}

bool
rule_matches(const struct rule *rule, const struct spiffe_id *id)
{
	switch (rule->kind) {
	case RULE_NONE:
		return false;
	case RULE_EXACT:
		return span_equal(span_of_str(rule->text), id->text);
	case RULE_TRUST_DOMAIN:
		return span_equal(rule_trust_domain(rule), id->trust_domain);
	case RULE_PATTERN:
		return span_equal(rule_trust_domain(rule), id->trust_domain) &&
		       path_matches(rule_path(rule), id->path);
	}
	return false;
}

/*
 * Segment by segment. A pattern is matched against the other pattern's text:
 * a '*' there stands for one or more bytes, and only a '*' here takes it.
 */
static bool
path_covers(struct span a, struct span b)
{
	struct span wide;
	struct span narrow;

	while (path_next(&a, &wide)) {
		if (!path_next(&b, &narrow))
			return false;
		if (is_stars(wide))
			return true;
		if (is_stars(narrow) || !segment_matches(wide, narrow))
			return false;
	}
	return b.len == 0;
}

bool
rule_covers(const struct rule *a, const struct rule *b)
{
	if (a->kind == RULE_NONE || b->kind == RULE_NONE)
		return false;
	if (!span_equal(rule_trust_domain(a), rule_trust_domain(b)))
		return false;
	if (a->kind == RULE_TRUST_DOMAIN)
		return true;
	if (b->kind == RULE_TRUST_DOMAIN)
		/* Every leaf has a path, so TD and all below are one. */
		return span_equal_str(rule_path(a), "/**");
	return path_covers(rule_path(a), rule_path(b));
}

static bool
is_blank(uint8_t c)
{
	return c == ' ' || c == '\t';
}

static enum rule_error
give(struct rule *rule_r, enum rule_kind kind, struct text *text)
{
	char *canonical = text_take(text);

	if (canonical == NULL)
		return RULE_NOMEM;
	*rule_r = (struct rule){.kind = kind, .text = canonical};
	return RULE_OK;
}

static enum rule_error
parse_trust_domain(
    struct span text, struct rule *rule_r, enum spiffe_id_error *id_error_r)
{
	AUTO(text_fini) struct text canonical;
	struct span skipped;
	enum spiffe_id_error e;

	text_init(&canonical);
	(void)span_take(&text, strlen(TRUST_DOMAIN), &skipped);
	while (text.len > 0 && is_blank(text.data[0]))
		(void)span_take(&text, 1, &skipped);
	if (text.len > 0 && memchr(text.data, '*', text.len) != NULL)
		return RULE_TD_WILDCARD;
	e = spiffe_trust_domain_check(text);
	if (e != SPIFFE_ID_OK) {
		*id_error_r = e;
		return RULE_ID;
	}
	text_add(&canonical, TRUST_DOMAIN " ");
	text_add_span(&canonical, text);
	return give(rule_r, RULE_TRUST_DOMAIN, &canonical);
}

/* Where may stars stand? The ID around them is known to be good. */
static enum rule_error
check_stars(struct span path)
{
	struct span segment;

	while (path_next(&path, &segment)) {
		if (is_stars(segment)) {
			if (path.len != 0)
				return RULE_STARS_NOT_LAST;
			continue;
		}
		for (size_t i = 1; i < segment.len; i++)
			if (segment.data[i - 1] == '*' &&
			    segment.data[i] == '*')
				return RULE_STARS_IN_WORD;
	}
	return RULE_OK;
}

static bool
is_only_stars(struct span s)
{
	for (size_t i = 0; i < s.len; i++)
		if (s.data[i] != '*' && s.data[i] != '/')
			return false;
	return true;
}

/*
 * A scheme that is there must be right; one that is not is added. `spiffe:/td`
 * would else pass for a trust domain with a port.
 */
static bool
has_scheme(struct span s)
{
	return memmem(s.data, s.len, "://", 3) != NULL ||
	       (s.len >= 7 &&
	           strncasecmp((const char *)s.data, "spiffe:", 7) == 0);
}

/*
 * Check the ID around the stars: with a letter in the place of each, so that
 * one parser decides what an ID is.
 */
static enum spiffe_id_error
check_id(const struct text *canonical, struct spiffe_id *id_r)
{
	AUTO(text_fini) struct text probe;
	struct spiffe_id id;
	enum spiffe_id_error e;

	text_init(&probe);
	for (size_t i = 0; i < canonical->len; i++) {
		char c = canonical->data[i];

		text_add_char(&probe, c == '*' ? 'x' : c);
	}
	e = spiffe_id_parse(span_of(probe.data, probe.len), &id);
	if (e != SPIFFE_ID_OK)
		return e;
	id_r->text = span_of(canonical->data, canonical->len);
	id_r->trust_domain =
	    span_of(canonical->data + strlen(SCHEME), id.trust_domain.len);
	id_r->path = span_of(
	    canonical->data + canonical->len - id.path.len, id.path.len);
	return SPIFFE_ID_OK;
}

enum rule_error
rule_parse(
    struct span text, struct rule *rule_r, enum spiffe_id_error *id_error_r)
{
	AUTO(text_fini) struct text canonical;
	struct spiffe_id id;
	enum spiffe_id_error e;
	enum rule_error star_error;
	bool has_star;

	text_init(&canonical);
	*id_error_r = SPIFFE_ID_OK;
	if (text.len == 0)
		return RULE_EMPTY;
	if (span_equal_str(text, "none")) {
		text_add(&canonical, "none");
		return give(rule_r, RULE_NONE, &canonical);
	}
	if (span_equal_str(text, TRUST_DOMAIN) ||
	    begins_with(text, TRUST_DOMAIN " ") ||
	    begins_with(text, TRUST_DOMAIN "\t"))
		return parse_trust_domain(text, rule_r, id_error_r);
	if (is_only_stars(text))
		return RULE_ONLY_STAR;
	if (!has_scheme(text))
		text_add(&canonical, SCHEME);
	text_add_span(&canonical, text);
	if (canonical.failed)
		return RULE_NOMEM;
	e = check_id(&canonical, &id);
	if (e != SPIFFE_ID_OK) {
		*id_error_r = e;
		return RULE_ID;
	}
	if (memchr(id.trust_domain.data, '*', id.trust_domain.len) != NULL)
		return RULE_TD_WILDCARD;
	if (id.path.len == 0)
		return RULE_NO_PATH;
	star_error = check_stars(id.path);
	if (star_error != RULE_OK)
		return star_error;
	has_star = memchr(id.path.data, '*', id.path.len) != NULL;
	return give(rule_r, has_star ? RULE_PATTERN : RULE_EXACT, &canonical);
}

void
rule_fini(struct rule *rule)
{
	free(rule->text);
	*rule = (struct rule){0};
}

const char *
rule_error_text(enum rule_error e)
{
	switch (e) {
	case RULE_OK:
		return "no error";
	case RULE_EMPTY:
		return "rule is empty";
	case RULE_ID:
		return "SPIFFE ID is malformed";
	case RULE_TD_WILDCARD:
		return "'*' is not allowed in the trust domain";
	case RULE_STARS_NOT_LAST:
		return "'**' must be the last segment";
	case RULE_STARS_IN_WORD:
		return "'**' must be a segment of its own";
	case RULE_ONLY_STAR:
		return "a rule needs a trust domain; nothing matches all of "
		       "them";
	case RULE_NO_PATH:
		return "a trust domain alone is no ID of a workload";
	case RULE_NOMEM:
		return "out of memory";
	}
	return "unknown";
}
