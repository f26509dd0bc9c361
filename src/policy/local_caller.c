#include "policy.h"

#include <stdlib.h>
#include <string.h>

#include "text.h"

/* ---- Parse ---- */

static bool
is_blank(uint8_t c)
{
	return c == ' ' || c == '\t';
}

/* The next word; false at the end of the line. */
static bool
next_word(struct span *s, struct span *word_r)
{
	struct span skipped;
	size_t n = 0;

	while (s->len > 0 && is_blank(s->data[0]))
		(void)span_take(s, 1, &skipped);
	while (n < s->len && !is_blank(s->data[n]))
		n++;
	return n > 0 && span_take(s, n, word_r);
}

/*
 * A uid or gid from the front. (uint32_t)-1 is no id but "leave it alone" in
 * the kernel's calls, so it is refused like any larger number.
 */
static bool
take_id(struct span *s, uint32_t *id_r)
{
	uint64_t n = 0;
	size_t digits = 0;
	struct span taken;

	while (digits < s->len && s->data[digits] >= '0' &&
	       s->data[digits] <= '9') {
		n = n * 10 + (uint64_t)(s->data[digits] - '0');
		if (n >= UINT32_MAX)
			return false;
		digits++;
	}
	if (digits == 0)
		return false;
	(void)span_take(s, digits, &taken);
	*id_r = (uint32_t)n;
	return true;
}

static bool
parse_range(struct span s, bool may_be_range, struct caller_selector *sel)
{
	struct span dash;

	if (!take_id(&s, &sel->first))
		return false;
	sel->last = sel->first;
	if (s.len == 0)
		return true;
	if (!may_be_range || s.data[0] != '-')
		return false;
	(void)span_take(&s, 1, &dash);
	return take_id(&s, &sel->last) && s.len == 0 && sel->first <= sel->last;
}

static enum fault
parse_selector(struct span word, struct span *rest, struct caller_selector *sel,
    struct why *why)
{
	bool is_uid = span_equal_str(word, "uid");
	bool is_gid = span_equal_str(word, "gid");
	bool is_user = span_equal_str(word, "user");
	bool is_group = span_equal_str(word, "group");
	struct span value;
	char shown[64];

	if (!is_uid && !is_gid && !is_user && !is_group)
		return fail(why, FAULT_MALFORMED,
		    "'%s' is none of: any, user NAME, uid N, uid N-M, "
		    "group NAME, gid N",
		    text_escape(word, shown, sizeof(shown)));
	text_escape(word, shown, sizeof(shown));
	if (!next_word(rest, &value))
		return fail(why, FAULT_MALFORMED, "'%s' needs a value", shown);
	sel->kind = is_uid || is_user ? CALLER_UID : CALLER_GID;
	if (is_user || is_group) {
		sel->pending = true;
		sel->name = span_dup(value);
		return sel->name == NULL
		           ? fail(why, FAULT_NOMEM, "out of memory")
		           : FAULT_NONE;
	}
	if (!parse_range(value, is_uid, sel))
		return fail(why, FAULT_MALFORMED,
		    is_uid ? "write 'uid N', or 'uid N-M' with N not above M"
		           : "write 'gid N'");
	return FAULT_NONE;
}

/* A zeroed selector more at the end of RULE; NULL if out of memory. */
static struct caller_selector *
add_selector(struct caller_rule *rule)
{
	struct caller_selector *grown = reallocarray(
	    rule->selectors, rule->n_selectors + 1, sizeof(*grown));

	if (grown == NULL)
		return NULL;
	rule->selectors = grown;
	grown += rule->n_selectors++;
	*grown = (struct caller_selector){0};
	return grown;
}

enum fault
caller_rule_parse(struct span text, struct caller_rule *rule_r, struct why *why)
{
	AUTO(caller_rule_fini)
	struct caller_rule rule = {.text = span_dup(text)};
	struct span word;

	if (rule.text == NULL)
		return fail(why, FAULT_NOMEM, "out of memory");
	while (next_word(&text, &word)) {
		struct caller_selector *sel = add_selector(&rule);
		enum fault f;

		if (sel == NULL)
			return fail(why, FAULT_NOMEM, "out of memory");
		if (span_equal_str(word, "any")) {
			sel->kind = CALLER_ANY;
			continue;
		}
		f = parse_selector(word, &text, sel, why);
		if (f != FAULT_NONE)
			return f;
	}
	if (rule.n_selectors == 0)
		return fail(why, FAULT_MALFORMED, "caller is empty");
	for (size_t i = 0; i < rule.n_selectors; i++)
		if (rule.selectors[i].kind == CALLER_ANY &&
		    rule.n_selectors > 1)
			return fail(
			    why, FAULT_MALFORMED, "'any' must stand alone");
	*rule_r = rule;
	rule = (struct caller_rule){0}; /* given to the caller */
	return FAULT_NONE;
}

void
caller_rule_fini(struct caller_rule *rule)
{
	for (size_t i = 0; i < rule->n_selectors; i++)
		free(rule->selectors[i].name);
	free(rule->selectors);
	free(rule->text);
	*rule = (struct caller_rule){0};
}

/* ---- Decide ---- */

enum answer { ANSWER_NO, ANSWER_ASK, ANSWER_YES };

static bool
in_range(const struct caller_selector *sel, uint32_t id)
{
	return id >= sel->first && id <= sel->last;
}

static enum answer
answer_gid(const struct caller_selector *sel, const struct local_caller *c)
{
	if (c->gid_known && in_range(sel, c->gid))
		return ANSWER_YES;
	if (!c->groups_known)
		return ANSWER_ASK;
	for (size_t i = 0; i < c->n_groups; i++)
		if (in_range(sel, c->groups[i]))
			return ANSWER_YES;
	return ANSWER_NO;
}

static enum answer
answer_selector(const struct caller_selector *sel, const struct local_caller *c)
{
	if (sel->kind == CALLER_ANY)
		return ANSWER_YES; /* whoever it is, even if nobody knows */
	if (!c->known || sel->pending)
		return ANSWER_NO;
	switch (sel->kind) {
	case CALLER_UID:
		return in_range(sel, c->uid) ? ANSWER_YES : ANSWER_NO;
	case CALLER_GID:
		return answer_gid(sel, c);
	case CALLER_ANY:
		break;
	}
	return ANSWER_NO;
}

/* All selectors must hold: the least of their answers. */
static enum answer
answer_rule(const struct caller_rule *rule, const struct local_caller *c)
{
	enum answer least = ANSWER_YES;

	for (size_t i = 0; i < rule->n_selectors; i++) {
		enum answer a = answer_selector(&rule->selectors[i], c);

		if (a < least)
			least = a;
	}
	return rule->n_selectors == 0 ? ANSWER_NO : least;
}

struct caller_verdict
policy_decide_caller(const struct caller_rule *rules, size_t n_rules,
    const struct local_caller *caller)
{
	struct caller_verdict verdict = {0};

	for (size_t i = 0; i < n_rules; i++) {
		enum answer a = answer_rule(&rules[i], caller);

		if (a == ANSWER_YES)
			return (struct caller_verdict){
			    DECISION_ALLOW, false, &rules[i]};
		if (a == ANSWER_ASK)
			verdict.needs_groups = true;
	}
	return verdict;
}
