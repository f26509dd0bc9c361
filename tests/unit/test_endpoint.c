/* Where the Workload API may be, row by row of the conformance matrix. */

#include <string.h>

#include "unit.h"

#include "conf_int.h"

static bool
accepts(const char *text)
{
	bool is_remote;
	struct why why = {{0}};
	enum fault f = endpoint_check(span_of_str(text), &is_remote, &why);

	if (f != FAULT_NONE)
		assert_true(strlen(why.text) > 0);
	return f == FAULT_NONE;
}

static void
all_refused(const char *const *texts)
{
	for (; *texts != NULL; texts++)
		if (accepts(*texts))
			fail_msg("%s accepted", *texts);
}

/* Another scheme would be another protocol. */
static void
test_row_114_other_schemes_refused(void **state)
{
	static const char *const bad[] = {"http://127.0.0.1:1", "/run/a.sock",
	    "unix-abstract:name", "UNIX:///a", "a.sock", "", "tcp:127.0.0.1:1",
	    NULL};

	(void)state;
	all_refused(bad);
}

/* A host in a unix URL once was taken for the path. */
static void
test_row_115_unix_needs_absolute_path_alone(void **state)
{
	static const char *const bad[] = {"unix://host/p", "unix:p", "unix://",
	    "unix:", "unix:/", "unix:///", "unix:///p?q", "unix:///p#f",
	    "unix://u@/p", "unix:///p%41", "unix:///p q", NULL};

	(void)state;
	assert_true(accepts("unix:///p"));
	assert_true(accepts("unix:/p"));
	assert_true(accepts("unix:///run/spire/agent/api.sock"));
	all_refused(bad);
}

/* A path that a socket cannot take must not be cut. */
static void
test_row_115_unix_path_107_bytes_accepted_108_refused(void **state)
{
	char text[128] = "unix://";

	(void)state;
	memset(text + 7, 'a', 108);
	text[7] = '/';
	text[7 + 107] = '\0';
	assert_true(accepts(text));
	text[7 + 107] = 'a';
	text[7 + 108] = '\0';
	assert_false(accepts(text));
}

/* Names would be resolved by whoever answers first. */
static void
test_row_116_tcp_needs_address_and_port_alone(void **state)
{
	static const char *const bad[] = {"tcp://localhost:1",
	    "tcp://127.0.0.1", "tcp://127.0.0.1:0", "tcp://127.0.0.1:65536",
	    "tcp://127.0.0.1:1/", "tcp://127.0.0.1:1/p", "tcp://::1:1",
	    "tcp://unix:/a", NULL};

	(void)state;
	assert_true(accepts("tcp://127.0.0.1:8000"));
	assert_true(accepts("tcp://[::1]:8000"));
	all_refused(bad);
}

/* Beyond loopback nothing vouches for the agent. */
static void
test_row_117_tcp_beyond_loopback_is_marked(void **state)
{
	bool is_remote = true;

	(void)state;
	assert_int_equal(
	    endpoint_check(span_of_str("tcp://127.0.0.1:1"), &is_remote, NULL),
	    FAULT_NONE);
	assert_false(is_remote);
	assert_int_equal(
	    endpoint_check(span_of_str("tcp://10.0.0.1:1"), &is_remote, NULL),
	    FAULT_NONE);
	assert_true(is_remote);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_row_114_other_schemes_refused),
	    cmocka_unit_test(test_row_115_unix_needs_absolute_path_alone),
	    cmocka_unit_test(
	        test_row_115_unix_path_107_bytes_accepted_108_refused),
	    cmocka_unit_test(test_row_116_tcp_needs_address_and_port_alone),
	    cmocka_unit_test(test_row_117_tcp_beyond_loopback_is_marked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
