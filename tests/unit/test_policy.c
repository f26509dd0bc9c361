/* Many rules: the compiled form, the nearest rule, useless rules. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "unit.h"

#include "policy.h"

#define RULES_MAX 64

/* A policy with all that it borrows. */
struct set {
	struct rule rules[RULES_MAX];
	const struct rule *allow[RULES_MAX];
	const struct rule *deny[RULES_MAX];
	size_t n, n_allow, n_deny;
	struct policy *policy;
};

/* "+td/a" allows, "-td/b" denies. */
static void
add(struct set *s, const char *text)
{
	struct rule *rule = &s->rules[s->n];
	enum spiffe_id_error e;

	assert_int_equal(rule_parse(span_of_str(text + 1), rule, &e), RULE_OK);
	rule->line = (unsigned int)++s->n;
	if (text[0] == '+')
		s->allow[s->n_allow++] = rule;
	else
		s->deny[s->n_deny++] = rule;
}

static void
compile(struct set *s)
{
	struct why why;

	assert_int_equal(policy_compile(s->allow, s->n_allow, s->deny,
	                     s->n_deny, &s->policy, &why),
	    FAULT_NONE);
}

static void
make(struct set *s, const char *const *texts)
{
	memset(s, 0, sizeof(*s));
	for (; *texts != NULL; texts++)
		add(s, *texts);
	compile(s);
}

#define MAKE(s, ...) make((s), (const char *const[]){__VA_ARGS__, NULL})

static void
drop(struct set *s)
{
	policy_free(&s->policy);
	for (size_t i = 0; i < s->n; i++)
		rule_fini(&s->rules[i]);
}

static struct verdict
decide(const struct set *s, const char *text)
{
	struct spiffe_id id;

	assert_int_equal(spiffe_id_parse(span_of_str(text), &id), SPIFFE_ID_OK);
	return policy_decide(s->policy, &id);
}

/* Line of the deciding rule, negative for a denial, 0 for no rule. */
static int
line(const struct set *s, const char *text)
{
	struct verdict v = decide(s, text);

	if (v.rule == NULL) {
		assert_int_equal(v.decision, DECISION_DENY);
		assert_int_equal(v.reason, DENY_NO_RULE);
		return 0;
	}
	assert_int_equal(
	    v.reason, v.decision == DECISION_ALLOW ? DENY_NOT : DENY_DENY_RULE);
	return v.decision == DECISION_ALLOW ? (int)v.rule->line
	                                    : -(int)v.rule->line;
}

/* A service without rules must let nobody in. */
static void
test_policy_decide_without_rules_denies(void **state)
{
	struct set s = {0};

	(void)state;
	compile(&s);
	assert_int_equal(line(&s, "spiffe://td/x"), 0);
	drop(&s);
	MAKE(&s, "+none");
	assert_int_equal(line(&s, "spiffe://td/x"), 0);
	drop(&s);
}

/* A deny that is wider, or stands later, must still win. */
static void
test_policy_decide_deny_wins_over_any_allow(void **state)
{
	struct set s;

	(void)state;
	MAKE(&s, "+td/a", "+td/ns/**", "+trust-domain od", "-td/*",
	    "-td/ns/old", "-od/x/**");
	assert_int_equal(line(&s, "spiffe://td/a"), -4);
	assert_int_equal(line(&s, "spiffe://td/ns/old"), -5);
	assert_int_equal(line(&s, "spiffe://td/ns/new"), 2);
	assert_int_equal(line(&s, "spiffe://od/x"), 3);
	assert_int_equal(line(&s, "spiffe://od/x/y"), -6);
	drop(&s);
}

/* The log names the rule that comes first in the file. */
static void
test_policy_decide_several_match_first_named(void **state)
{
	struct set s;

	(void)state;
	MAKE(&s, "+td/a/**", "+td/a/b", "+td/a/*", "+td/a/b");
	assert_int_equal(line(&s, "spiffe://td/a/b"), 1);
	assert_int_equal(line(&s, "spiffe://td/a/c"), 1);
	drop(&s);
	MAKE(&s, "+td/a/b", "+td/a/*", "-td/c/**", "-td/c/d");
	assert_int_equal(line(&s, "spiffe://td/a/b"), 1);
	assert_int_equal(line(&s, "spiffe://td/c/d"), -3);
	drop(&s);
}

/* An ID as deep as IDs get is walked without falling off. */
static void
test_policy_decide_deepest_id_is_walked(void **state)
{
	char text[2049] = "spiffe://t";
	struct set s;

	(void)state;
	MAKE(&s, "+t/*/*/x/**", "+t/*/**", "-u/**");
	while (strlen(text) + 2 <= 2048)
		strcat(text, "/x");
	assert_int_equal(line(&s, text), 1);
	drop(&s);
}

static unsigned int
next_random(unsigned int *seed)
{
	*seed = *seed * 1103515245u + 12345u;
	return *seed >> 16;
}

static void
random_path(
    unsigned int *seed, const char *const *words, size_t n_words, char *out)
{
	size_t depth = 1 + next_random(seed) % 4;

	for (size_t i = 0; i < depth; i++) {
		strcat(out, "/");
		strcat(out, words[next_random(seed) % n_words]);
	}
}

static void
random_rule(unsigned int *seed, char *out)
{
	static const char *const words[] = {
	    "a", "b", "ab", "ba", "aba", "*", "a*", "*b", "a*a", "*-*"};

	strcpy(out, next_random(seed) % 3 == 0 ? "-" : "+");
	if (next_random(seed) % 16 == 0) {
		strcat(out, "trust-domain t2");
		return;
	}
	strcat(out, next_random(seed) % 4 == 0 ? "t2" : "t1");
	random_path(seed, words, 10, out);
	if (next_random(seed) % 5 == 0)
		strcat(out, "/**");
}

/* What the rules say, one by one, without any compiled form. */
static int
reference(const struct set *s, const char *text)
{
	struct spiffe_id id;

	assert_int_equal(spiffe_id_parse(span_of_str(text), &id), SPIFFE_ID_OK);
	for (size_t i = 0; i < s->n_deny; i++)
		if (rule_matches(s->deny[i], &id))
			return -(int)s->deny[i]->line;
	for (size_t i = 0; i < s->n_allow; i++)
		if (rule_matches(s->allow[i], &id))
			return (int)s->allow[i]->line;
	return 0;
}

static void
random_set(unsigned int *seed, struct set *s)
{
	size_t n = 1 + next_random(seed) % 20;

	memset(s, 0, sizeof(*s));
	for (size_t i = 0; i < n; i++) {
		char text[128];

		random_rule(seed, text);
		add(s, text);
	}
	compile(s);
}

/* The quick form and the plain reading of the rules never disagree. */
static void
test_policy_decide_random_rules_as_reference(void **state)
{
	static const char *const words[] = {
	    "a", "b", "ab", "ba", "aba", "a-b", "c"};
	unsigned int seed = 1;
	unsigned int outcomes[3] = {0};

	(void)state;
	for (int round = 0; round < 3000; round++) {
		struct set s;

		random_set(&seed, &s);
		for (int i = 0; i < 40; i++) {
			char id[128] = "spiffe://t1";
			int want;

			id[10] = next_random(&seed) % 4 == 0 ? '2' : '1';
			random_path(&seed, words, 7, id);
			want = reference(&s, id);
			if (line(&s, id) != want)
				fail_msg("round %d: %s", round, id);
			outcomes[want < 0 ? 0 : want == 0 ? 1 : 2]++;
		}
		drop(&s);
	}
	for (int i = 0; i < 3; i++)
		assert_true(outcomes[i] > 1000);
}

static int
nearest(const char *const *texts, const char *text, unsigned int *segment)
{
	struct set s;
	struct spiffe_id id;
	const struct rule *rule;
	int n;

	make(&s, texts);
	assert_int_equal(spiffe_id_parse(span_of_str(text), &id), SPIFFE_ID_OK);
	rule = policy_nearest(s.policy, &id, segment);
	n = rule == NULL ? 0 : (int)rule->line;
	drop(&s);
	return n;
}

#define RULES(...) ((const char *const[]){__VA_ARGS__, NULL})

/* The operator is shown the rule that he meant, and where it failed. */
static void
test_policy_nearest_most_segments_then_fewest_bytes(void **state)
{
	unsigned int segment = 99;

	(void)state;
	assert_int_equal(
	    nearest(RULES("+td/web", "+td/ns/batch/*", "+td/ns/other/*"),
	        "spiffe://td/ns/batch2/job7", &segment),
	    2);
	assert_int_equal(segment, 2);
	assert_int_equal(
	    nearest(RULES("+td/abc", "+td/abd"), "spiffe://td/abe", &segment),
	    1);
	assert_int_equal(segment, 1);
	assert_int_equal(
	    nearest(RULES("+td/a/b/c"), "spiffe://td/a/b", &segment), 1);
	assert_int_equal(segment, 3);
	assert_int_equal(
	    nearest(RULES("+td/a"), "spiffe://td/a/b", &segment), 1);
	assert_int_equal(segment, 2);
}

/* A rule of another domain is no help. */
static void
test_policy_nearest_other_domain_is_none(void **state)
{
	unsigned int segment = 99;

	(void)state;
	assert_int_equal(nearest(RULES("+td/web", "+none", "-od/web"),
	                     "spiffe://od/web", &segment),
	    0);
	assert_int_equal(segment, 99);
}

static void
on_finding(void *arg, const struct rule_finding *f)
{
	static const char letters[] = {[RULE_DUPLICATE] = 'D',
	    [RULE_SHADOWED] = 'S',
	    [RULE_COVERED] = 'C'};
	char *out = arg;

	sprintf(out + strlen(out), "%u%c%u ", f->rule->line, letters[f->kind],
	    f->by->line);
}

static void
check_findings(const char *const *texts, const char *want)
{
	char got[512] = "";
	struct set s;

	make(&s, texts);
	policy_find(s.policy, on_finding, got);
	drop(&s);
	assert_string_equal(got, want);
}

/* A rule that does nothing is named, with the one that makes it so. */
static void
test_policy_find_useless_rules_named(void **state)
{
	(void)state;
	check_findings(RULES("+td/a", "+td/b", "+td/a"), "3D1 ");
	check_findings(RULES("+td/a*", "+spiffe://td/a*"), "2D1 ");
	check_findings(RULES("+td/a", "-td/a"), "1S2 ");
	check_findings(RULES("+td/a", "-td/*"), "1S2 ");
	check_findings(RULES("+td/a/*", "-td/a/**"), "1S2 ");
	check_findings(RULES("+td/x", "-trust-domain td"), "1S2 ");
	check_findings(RULES("+td/a/b", "+td/a/*"), "1C2 ");
	check_findings(RULES("+td/a/prod-*", "+td/a/*"), "1C2 ");
	check_findings(RULES("+td/**", "+trust-domain td"), "1C2 2C1 ");
	check_findings(
	    RULES("+td/q", "-td/a", "-td/a", "-td/a/**", "-td/a/b/*"),
	    "3D2 5C4 ");
}

/* Rules that overlap only in part are all of use. */
static void
test_policy_find_overlapping_rules_not_named(void **state)
{
	(void)state;
	check_findings(RULES("+td/a*", "+td/*b", "-td/ab", "-td/a/**"), "");
	check_findings(RULES("+td/a/*", "+td/a", "+td/a/*/c"), "");
	check_findings(RULES("+td/a/**", "-td/a/*"), "");
	check_findings(RULES("+none"), "");
}

/* Whatever ID the useless rule matches, its better decides the same. */
static void
check_sound(void *arg, const struct rule_finding *f)
{
	static const char *const words[] = {"a", "b", "ab", "ba", "aba", "a-b"};
	unsigned int *checked = arg;
	unsigned int seed = 7;

	for (int i = 0; i < 60; i++) {
		char text[128] = "spiffe://t1";
		struct spiffe_id id;

		text[10] = next_random(&seed) % 2 == 0 ? '2' : '1';
		random_path(&seed, words, 6, text);
		assert_int_equal(
		    spiffe_id_parse(span_of_str(text), &id), SPIFFE_ID_OK);
		if (!rule_matches(f->rule, &id))
			continue;
		(*checked)++;
		if (!rule_matches(f->by, &id))
			fail_msg(
			    "%s: %s, %s", text, f->rule->text, f->by->text);
	}
}

/* A finding that is not true would make the operator delete a needed rule. */
static void
test_policy_find_random_findings_are_true(void **state)
{
	unsigned int seed = 5;
	unsigned int checked = 0;

	(void)state;
	for (int round = 0; round < 500; round++) {
		struct set s;

		random_set(&seed, &s);
		policy_find(s.policy, check_sound, &checked);
		drop(&s);
	}
	assert_true(checked > 1000);
}

/* Ten thousand rules are found as surely as one. */
static void
test_policy_decide_many_rules_each_found(void **state)
{
	enum { N = 10000 };
	struct rule *rules = calloc(N, sizeof(*rules));
	const struct rule **allow = calloc(N, sizeof(*allow));
	struct policy *p = NULL;
	struct why why;

	(void)state;
	for (int i = 0; i < N; i++) {
		char text[64];
		enum spiffe_id_error e;

		snprintf(text, sizeof(text),
		    i % 2 ? "td/ns/n%d/sa/%d" : "td/ns/n%d/%d/**", i / 10, i);
		assert_int_equal(
		    rule_parse(span_of_str(text), &rules[i], &e), RULE_OK);
		allow[i] = &rules[i];
	}
	assert_int_equal(
	    policy_compile(allow, N, NULL, 0, &p, &why), FAULT_NONE);
	for (int i = 0; i < N; i++) {
		char text[64];
		struct spiffe_id id;

		snprintf(text, sizeof(text),
		    i % 2 ? "spiffe://td/ns/n%d/sa/%d"
		          : "spiffe://td/ns/n%d/%d/x",
		    i / 10, i);
		assert_int_equal(
		    spiffe_id_parse(span_of_str(text), &id), SPIFFE_ID_OK);
		assert_ptr_equal(policy_decide(p, &id).rule, &rules[i]);
	}
	policy_free(&p);
	for (int i = 0; i < N; i++)
		rule_fini(&rules[i]);
	free(allow);
	free(rules);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_policy_decide_without_rules_denies),
	    cmocka_unit_test(test_policy_decide_deny_wins_over_any_allow),
	    cmocka_unit_test(test_policy_decide_several_match_first_named),
	    cmocka_unit_test(test_policy_decide_deepest_id_is_walked),
	    cmocka_unit_test(test_policy_decide_random_rules_as_reference),
	    cmocka_unit_test(test_policy_decide_many_rules_each_found),
	    cmocka_unit_test(
	        test_policy_nearest_most_segments_then_fewest_bytes),
	    cmocka_unit_test(test_policy_nearest_other_domain_is_none),
	    cmocka_unit_test(test_policy_find_useless_rules_named),
	    cmocka_unit_test(test_policy_find_overlapping_rules_not_named),
	    cmocka_unit_test(test_policy_find_random_findings_are_true),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
