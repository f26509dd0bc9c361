/* One rule: how it is written, and what it matches. */

#include <stdlib.h>
#include <string.h>

#include "unit.h"

#include "policy.h"

static enum rule_error
parse(const char *text, struct rule *rule, enum spiffe_id_error *id_error)
{
	return rule_parse(span_of_str(text), rule, id_error);
}

static bool
matches(const char *rule_text, const char *id_text)
{
	struct rule rule;
	struct spiffe_id id;
	enum spiffe_id_error e;
	bool result;

	assert_int_equal(parse(rule_text, &rule, &e), RULE_OK);
	assert_int_equal(
	    spiffe_id_parse(span_of_str(id_text), &id), SPIFFE_ID_OK);
	result = rule_matches(&rule, &id);
	rule_fini(&rule);
	return result;
}

/* Two spellings of one rule must not look like two rules. */
static void
test_rule_parse_without_scheme_gains_it(void **state)
{
	struct rule rule;
	enum spiffe_id_error e;

	(void)state;
	assert_int_equal(parse("example.org/web", &rule, &e), RULE_OK);
	assert_int_equal(rule.kind, RULE_EXACT);
	assert_string_equal(rule.text, "spiffe://example.org/web");
	rule_fini(&rule);
	assert_int_equal(parse("trust-domain \t td", &rule, &e), RULE_OK);
	assert_int_equal(rule.kind, RULE_TRUST_DOMAIN);
	assert_string_equal(rule.text, "trust-domain td");
	rule_fini(&rule);
	assert_int_equal(parse("none", &rule, &e), RULE_OK);
	assert_int_equal(rule.kind, RULE_NONE);
	rule_fini(&rule);
}

/* A domain may be called like the keyword. */
static void
test_rule_parse_domain_named_like_keyword_is_id(void **state)
{
	struct rule rule;
	enum spiffe_id_error e;

	(void)state;
	assert_int_equal(parse("trust-domain/x", &rule, &e), RULE_OK);
	assert_string_equal(rule.text, "spiffe://trust-domain/x");
	rule_fini(&rule);
	assert_int_equal(parse("none/x", &rule, &e), RULE_OK);
	assert_int_equal(rule.kind, RULE_EXACT);
	rule_fini(&rule);
}

/* Each mistake is told apart, so that the hint says what to write. */
static void
test_rule_parse_mistakes_told_apart(void **state)
{
	static const struct {
		const char *text;
		enum rule_error want;
		enum spiffe_id_error id_error;
	} cases[] = {
	    {"", RULE_EMPTY, SPIFFE_ID_OK},
	    {"*", RULE_ONLY_STAR, SPIFFE_ID_OK},
	    {"**", RULE_ONLY_STAR, SPIFFE_ID_OK},
	    {"*/**", RULE_ONLY_STAR, SPIFFE_ID_OK},
	    {"*.example.org/web", RULE_TD_WILDCARD, SPIFFE_ID_OK},
	    {"spiffe://*/web", RULE_TD_WILDCARD, SPIFFE_ID_OK},
	    {"trust-domain *.org", RULE_TD_WILDCARD, SPIFFE_ID_OK},
	    {"td/**/web", RULE_STARS_NOT_LAST, SPIFFE_ID_OK},
	    {"td/a**", RULE_STARS_IN_WORD, SPIFFE_ID_OK},
	    {"td/***", RULE_STARS_IN_WORD, SPIFFE_ID_OK},
	    {"td", RULE_NO_PATH, SPIFFE_ID_OK},
	    {"spiffe://td", RULE_NO_PATH, SPIFFE_ID_OK},
	    {"spiffe:/td/x", RULE_ID, SPIFFE_ID_NO_SCHEME},
	    {"spiffe:td/x", RULE_ID, SPIFFE_ID_NO_SCHEME},
	    {"https://td/x", RULE_ID, SPIFFE_ID_NO_SCHEME},
	    {"SPIFFE://td/x", RULE_ID, SPIFFE_ID_SCHEME_CASE},
	    {"spiffe://Td/x", RULE_ID, SPIFFE_ID_TD_CASE},
	    {"Td/x", RULE_ID, SPIFFE_ID_TD_CASE},
	    {"td:8443/x", RULE_ID, SPIFFE_ID_PORT},
	    {"td/x/", RULE_ID, SPIFFE_ID_TRAILING_SLASH},
	    {"td/*/", RULE_ID, SPIFFE_ID_TRAILING_SLASH},
	    {"td/x y", RULE_ID, SPIFFE_ID_PATH_CHAR},
	    {"td/..", RULE_ID, SPIFFE_ID_DOT_SEGMENT},
	    {"trust-domain", RULE_ID, SPIFFE_ID_TD_EMPTY},
	    {"trust-domain TD", RULE_ID, SPIFFE_ID_TD_CASE},
	    {"trust-domain spiffe://td", RULE_ID, SPIFFE_ID_PORT},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct rule rule = {.text = NULL};
		enum spiffe_id_error id_error;
		enum rule_error got = parse(cases[i].text, &rule, &id_error);

		if (got != cases[i].want || id_error != cases[i].id_error)
			fail_msg("%s: %d/%d", cases[i].text, (int)got,
			    (int)id_error);
		assert_null(rule.text);
	}
}

/* A rule of 2048 bytes is a rule, one of 2049 is not. */
static void
test_rule_parse_length_counts_scheme(void **state)
{
	char buf[2050];
	struct rule rule;
	enum spiffe_id_error e;

	(void)state;
	memset(buf, 'a', sizeof(buf));
	memcpy(buf, "td/", 3);
	assert_int_equal(
	    rule_parse(span_of(buf, 2048 - 9), &rule, &e), RULE_OK);
	rule_fini(&rule);
	assert_int_equal(
	    rule_parse(span_of(buf, 2049 - 9), &rule, &e), RULE_ID);
	assert_int_equal(e, SPIFFE_ID_LONG);
}

/* The table of the manual, line by line. */
static void
test_rule_matches_as_documented(void **state)
{
	static const struct {
		const char *rule;
		const char *id;
		bool want;
	} cases[] = {
	    {"example.org/web", "spiffe://example.org/web", true},
	    {"example.org/web", "spiffe://example.org/Web", false},
	    {"example.org/web", "spiffe://example.org/web2", false},
	    {"example.org/web", "spiffe://example.com/web", false},
	    {"td/ns/*/web", "spiffe://td/ns/a/web", true},
	    {"td/ns/*/web", "spiffe://td/ns/web", false},
	    {"td/ns/*/web", "spiffe://td/ns/a/b/web", false},
	    {"td/ns/prod-*", "spiffe://td/ns/prod-a", true},
	    {"td/ns/prod-*", "spiffe://td/ns/prod", false},
	    {"td/ns/prod-*", "spiffe://td/ns/prod-", false},
	    {"td/ns/prod-*", "spiffe://td/ns/prod-a/x", false},
	    {"td/orders/**", "spiffe://td/orders/x", true},
	    {"td/orders/**", "spiffe://td/orders/x/y/z", true},
	    {"td/orders/**", "spiffe://td/orders", false},
	    {"td/orders/**", "spiffe://td/orders-old/x", false},
	    {"td/**", "spiffe://td/x", true},
	    {"td/**", "spiffe://td", false},
	    {"td/pay/**", "spiffe://td/payments", false},
	    {"trust-domain td", "spiffe://td/any/thing", true},
	    {"trust-domain td", "spiffe://td.x/any", false},
	    {"td/*-*", "spiffe://td/a-b", true},
	    {"td/*-*", "spiffe://td/-b", false},
	    {"td/*-*", "spiffe://td/a-", false},
	    {"td/*-*", "spiffe://td/---", true},
	    {"td/a*a*b", "spiffe://td/axaab", true},
	    {"td/a*b", "spiffe://td/ab", false},
	    {"none", "spiffe://td/x", false},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (matches(cases[i].rule, cases[i].id) != cases[i].want)
			fail_msg("%s against %s", cases[i].rule, cases[i].id);
}

/* Written straight from the definition: one or more bytes for each star. */
static bool
slow_glob(const char *p, const char *s)
{
	if (*p == '\0')
		return *s == '\0';
	if (*p == '*') {
		for (const char *end = s; *end != '\0'; end++)
			if (slow_glob(p + 1, end + 1))
				return true;
		return false;
	}
	return *p == *s && slow_glob(p + 1, s + 1);
}

static void
spell(size_t n, const char *alphabet, size_t len, char *out)
{
	size_t base = strlen(alphabet);

	for (size_t i = 0; i < len; i++, n /= base)
		out[i] = alphabet[n % base];
	out[len] = '\0';
}

static size_t
power(size_t base, size_t exponent)
{
	return exponent == 0 ? 1 : base * power(base, exponent - 1);
}

static void
compare_with_slow_glob(const struct rule *rule)
{
	for (size_t len = 1; len <= 5; len++)
		for (size_t n = 0; n < power(2, len); n++) {
			char word[8];
			char text[32] = "spiffe://t/";
			struct spiffe_id id;

			spell(n, "ab", len, word);
			strcat(text, word);
			assert_int_equal(
			    spiffe_id_parse(span_of_str(text), &id),
			    SPIFFE_ID_OK);
			if (rule_matches(rule, &id) !=
			    slow_glob(rule->text + 11, word))
				fail_msg("%s, %s", rule->text, word);
		}
}

/* No choice of an early star may hide a match, nor invent one. */
static void
test_rule_matches_all_short_words_as_defined(void **state)
{
	(void)state;
	for (size_t len = 1; len <= 5; len++)
		for (size_t n = 0; n < power(3, len); n++) {
			char word[8];
			char text[16] = "t/";
			struct rule rule;
			enum spiffe_id_error e;

			spell(n, "ab*", len, word);
			strcat(text, word);
			if (strstr(text, "**") != NULL)
				continue;
			assert_int_equal(parse(text, &rule, &e), RULE_OK);
			compare_with_slow_glob(&rule);
			rule_fini(&rule);
		}
}

/* A pattern of many stars may not take exponential time. */
static void
test_rule_matches_many_stars_is_quick(void **state)
{
	char pattern[512] = "td/";
	char id[2048] = "spiffe://td/";

	(void)state;
	for (int i = 0; i < 100; i++)
		strcat(pattern, "*a");
	strcat(pattern, "b");
	memset(id + strlen(id), 'a', 1500);
	assert_false(matches(pattern, id));
}

/* Each mistake has a sentence of its own. */
static void
test_rule_error_text_each_is_unique(void **state)
{
	(void)state;
	for (int a = RULE_OK; a <= RULE_NOMEM; a++)
		for (int b = RULE_OK; b < a; b++)
			assert_string_not_equal(
			    rule_error_text((enum rule_error)a),
			    rule_error_text((enum rule_error)b));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_rule_parse_without_scheme_gains_it),
	    cmocka_unit_test(test_rule_parse_domain_named_like_keyword_is_id),
	    cmocka_unit_test(test_rule_parse_mistakes_told_apart),
	    cmocka_unit_test(test_rule_parse_length_counts_scheme),
	    cmocka_unit_test(test_rule_matches_as_documented),
	    cmocka_unit_test(test_rule_matches_all_short_words_as_defined),
	    cmocka_unit_test(test_rule_matches_many_stars_is_quick),
	    cmocka_unit_test(test_rule_error_text_each_is_unique),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
