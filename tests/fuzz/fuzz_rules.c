/*
 * The input is lines: the first an ID, the others rules, denies with a '-'.
 * The compiled policy and the rules one by one must agree.
 */

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "policy.h"

#define RULES_MAX 32

struct set {
	struct rule rules[RULES_MAX];
	const struct rule *lists[2][RULES_MAX]; /* allow, deny */
	size_t n, count[2];
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct span
take_line(struct span *s)
{
	const uint8_t *nl = s->len > 0 ? memchr(s->data, '\n', s->len) : NULL;
	size_t n = nl == NULL ? s->len : (size_t)(nl - s->data);
	struct span line = span_of(s->data, n);

	n += nl != NULL;
	*s = span_of(s->data + n, s->len - n);
	return line;
}

static void
add(struct set *set, struct span line)
{
	bool is_deny = line.len > 0 && line.data[0] == '-';
	struct span dash;
	enum spiffe_id_error e;

	if (is_deny)
		(void)span_take(&line, 1, &dash);
	if (set->n == RULES_MAX ||
	    rule_parse(line, &set->rules[set->n], &e) != RULE_OK)
		return;
	set->lists[is_deny][set->count[is_deny]++] = &set->rules[set->n++];
}

static const struct rule *
first_match(const struct set *set, int list, const struct spiffe_id *id)
{
	for (size_t i = 0; i < set->count[list]; i++)
		if (rule_matches(set->lists[list][i], id))
			return set->lists[list][i];
	return NULL;
}

static void
compare(const struct set *set, const struct spiffe_id *id)
{
	const struct rule *deny = first_match(set, 1, id);
	const struct rule *allow = first_match(set, 0, id);
	struct policy *p = NULL;
	struct verdict v;
	unsigned int segment;

	if (policy_compile(set->lists[0], set->count[0], set->lists[1],
	        set->count[1], &p, NULL) != FAULT_NONE)
		abort();
	v = policy_decide(p, id);
	assert(v.rule == (deny != NULL ? deny : allow));
	assert(
	    (v.decision == DECISION_ALLOW) == (deny == NULL && allow != NULL));
	(void)policy_nearest(p, id, &segment);
	policy_free(&p);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct span rest = span_of(data, size);
	struct span first = take_line(&rest);
	struct set set = {0};
	struct spiffe_id id;

	while (rest.len > 0)
		add(&set, take_line(&rest));
	if (spiffe_id_parse(first, &id) == SPIFFE_ID_OK && id.path.len > 0)
		compare(&set, &id);
	for (size_t i = 0; i < set.n; i++)
		rule_fini(&set.rules[i]);
	return 0;
}
