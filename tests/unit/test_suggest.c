/* "Did you mean": the right word, or none. */

#include "unit.h"

#include "conf.h"

static const char *const words[] = {
    "allow", "deny", "listen", "listen_mode", "forward", "eku", NULL};

static void
check(const char *word, const char *want)
{
	const char *got = conf_suggest(span_of_str(word), words);

	if (want == NULL)
		assert_null(got);
	else if (got == NULL)
		fail_msg("%s: nothing", word);
	else
		assert_string_equal(got, want);
}

/* Each kind of typing mistake is understood. */
static void
test_suggest_two_mistakes_understood(void **state)
{
	(void)state;
	check("alow", "allow");
	check("alloww", "allow");
	check("ellow", "allow");
	check("lalow", "allow");
	check("lisetn", "listen");
	check("lsietn", "listen");
	check("listen_node", "listen_mode");
	check("forwrad", "forward");
}

/* A guess that is no guess confuses. */
static void
test_suggest_far_words_get_nothing(void **state)
{
	(void)state;
	check("connect", NULL);
	check("fo", NULL);
	check("", NULL);
	check("xxx", NULL);
	check("an_extremely_long_word_that_nobody_would_write_as_a_key", NULL);
}

/* The nearest wins, not the first. */
static void
test_suggest_nearest_wins(void **state)
{
	static const char *const close[] = {"abcx", "abcd", NULL};

	(void)state;
	assert_string_equal(conf_suggest(span_of_str("abcdd"), close), "abcd");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_suggest_two_mistakes_understood),
	    cmocka_unit_test(test_suggest_far_words_get_nothing),
	    cmocka_unit_test(test_suggest_nearest_wins),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
