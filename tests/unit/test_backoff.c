#include "unit.h"

#include "source.h"

#define FIRST 0u

/* Middle of the jitter, whatever the width: width / 2. */
static int64_t
middle_wait(struct backoff *b, enum backoff_cause cause, int64_t nominal,
    unsigned int percent)
{
	uint32_t half = (uint32_t)(nominal * (int64_t)percent / 100);

	return backoff_wait(b, cause, 0, 0, half);
}

/* Row 101: an agent that restarts has us back at once, once. */
static void
test_row_101_end_after_a_message_reconnects_at_once(void **state)
{
	struct backoff b = {0};

	(void)state;
	backoff_opened(&b, 0);
	backoff_message(&b);
	assert_in_range(backoff_wait(&b, BACKOFF_ENDED, 1000, 0, 50), 0, 50);
	backoff_opened(&b, 1050);
	assert_in_range(backoff_wait(&b, BACKOFF_ENDED, 1050, 0, 0), 80, 120);
}

/* A failing agent is asked less and less often, every 5 s at least. */
static void
test_backoff_ended_doubles_to_its_cap(void **state)
{
	static const int64_t waits[] = {
	    100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000};
	struct backoff b = {0};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(waits); i++)
		assert_int_equal(
		    middle_wait(&b, BACKOFF_ENDED, waits[i], 20), waits[i]);
}

/* Row 121: refusals have a slower class of their own. */
static void
test_row_121_refused_doubles_from_a_second(void **state)
{
	static const int64_t waits[] = {1000, 2000, 4000, 8000, 10000, 10000};
	struct backoff b = {0};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(waits); i++)
		assert_int_equal(
		    middle_wait(&b, BACKOFF_REFUSED, waits[i], 20), waits[i]);
}

/* What will repeat for certain is asked for least. */
static void
test_backoff_slow_doubles_to_a_minute(void **state)
{
	static const int64_t waits[] = {
	    5000, 10000, 20000, 40000, 60000, 60000};
	struct backoff b = {0};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(waits); i++)
		assert_int_equal(
		    middle_wait(&b, BACKOFF_SLOW, waits[i], 20), waits[i]);
}

/* An agent that comes back is found within a second, however long it was
 * away. */
static void
test_backoff_absent_has_no_steps(void **state)
{
	struct backoff b = {0};

	(void)state;
	for (int i = 0; i < 1000; i++)
		assert_int_equal(
		    backoff_wait(&b, BACKOFF_ABSENT, i, 0, (uint32_t)i), 500);
}

/* A full backlog is tried again within 10 to 50 ms. */
static void
test_backoff_busy_is_short(void **state)
{
	struct backoff b = {0};

	(void)state;
	for (uint32_t r = 0; r < 1000; r++)
		assert_in_range(
		    backoff_wait(&b, BACKOFF_BUSY, 0, 0, r), 10, 50);
}

/* No wait is longer than its cap and a fifth, nor shorter than four fifths. */
static void
test_backoff_jitter_stays_within_a_fifth(void **state)
{
	(void)state;
	for (uint32_t r = 0; r < 5000; r++) {
		struct backoff b = {0};

		assert_in_range(
		    backoff_wait(&b, BACKOFF_REFUSED, 0, 0, r), 800, 1200);
	}
}

/* Waiting never eats the last of an SVID's life. */
static void
test_backoff_wait_is_a_tenth_of_the_life_at_most(void **state)
{
	struct backoff b = {.steps = {[BACKOFF_ENDED] = 10}};

	(void)state;
	assert_int_equal(
	    backoff_wait(&b, BACKOFF_ENDED, 1000, 21000, 500), 2000);
	assert_int_equal(backoff_wait(&b, BACKOFF_ENDED, 1000, 1500, 500), 100);
	/* Expired: the caps again. */
	assert_in_range(
	    backoff_wait(&b, BACKOFF_ENDED, 2000, 1500, 500), 4000, 6000);
}

/* Only a valid message shows that the agent is well. */
static void
test_backoff_only_a_message_resets_the_steps(void **state)
{
	struct backoff b = {0};

	(void)state;
	for (int i = 0; i < 10; i++) {
		backoff_opened(&b, i * 6000);
		(void)backoff_wait(&b, BACKOFF_ENDED, i * 6000, 0, FIRST);
	}
	assert_int_equal(middle_wait(&b, BACKOFF_ENDED, 5000, 20), 5000);
	backoff_message(&b);
	(void)backoff_wait(&b, BACKOFF_ENDED, 0, 0, FIRST);
	assert_int_equal(middle_wait(&b, BACKOFF_ENDED, 100, 20), 100);
}

/* An agent that serves and hangs up each time does not spin us. */
static void
test_backoff_guard_caps_streams_per_minute(void **state)
{
	struct backoff b = {0};

	(void)state;
	for (int i = 0; i < 119; i++) {
		backoff_opened(&b, i);
		backoff_message(&b);
		assert_in_range(
		    backoff_wait(&b, BACKOFF_ENDED, i, 0, FIRST), 0, 50);
	}
	backoff_opened(&b, 119);
	backoff_message(&b);
	assert_in_range(
	    backoff_wait(&b, BACKOFF_ENDED, 119, 0, FIRST), 4000, 6000);
	/* A minute later the window is empty. */
	backoff_message(&b);
	assert_in_range(
	    backoff_wait(&b, BACKOFF_ENDED, 60200, 0, FIRST), 0, 50);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(
	        test_row_101_end_after_a_message_reconnects_at_once),
	    cmocka_unit_test(test_backoff_ended_doubles_to_its_cap),
	    cmocka_unit_test(test_row_121_refused_doubles_from_a_second),
	    cmocka_unit_test(test_backoff_slow_doubles_to_a_minute),
	    cmocka_unit_test(test_backoff_absent_has_no_steps),
	    cmocka_unit_test(test_backoff_busy_is_short),
	    cmocka_unit_test(test_backoff_jitter_stays_within_a_fifth),
	    cmocka_unit_test(test_backoff_wait_is_a_tenth_of_the_life_at_most),
	    cmocka_unit_test(test_backoff_only_a_message_resets_the_steps),
	    cmocka_unit_test(test_backoff_guard_caps_streams_per_minute),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
