#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "workload.h"
#include "workload_int.h"

static void
check_fine(const char *text, const char *shown)
{
	char buf[ADDR_TEXT_MAX];
	struct endpoint e;
	struct why why;

	if (workload_endpoint_parse(span_of_str(text), &e, &why) != FAULT_NONE)
		fail_msg("%s", why.text);
	assert_string_equal(addr_format(&e.addr, buf), shown);
	assert_int_equal(e.is_unix, strncmp(text, "unix:", 5) == 0);
}

static void
check_bad(const char *text)
{
	struct why why = {.text = ""};

	if (workload_endpoint_check(span_of_str(text), &why) == FAULT_NONE)
		fail_msg("\"%s\" was taken", text);
	assert_true(why.text[0] != '\0');
}

/* Row 115: an absolute path in either form, and nothing else. */
static void
test_row_115_unix_endpoints(void **state)
{
	static const char *const bad[] = {"unix://host/p", "unix:p", "unix://",
	    "unix:", "unix:/", "unix:///p?q", "unix:///p#f", "unix:///p%20q",
	    "UNIX:/p"};

	(void)state;
	check_fine("unix:///run/agent.sock", "unix:/run/agent.sock");
	check_fine("unix:/run/agent.sock", "unix:/run/agent.sock");
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		check_bad(bad[i]);
}

/* Row 116: an IP and a port, nothing else. */
static void
test_row_116_tcp_endpoints(void **state)
{
	static const char *const bad[] = {"tcp://localhost:8000",
	    "tcp://127.0.0.1", "tcp://127.0.0.1:8000/", "tcp://127.0.0.1:0",
	    "tcp://127.0.0.1:65536", "tcp:127.0.0.1:8000", "tcp://unix:/p",
	    "tcp://", "tcp://::1:8000"};

	(void)state;
	check_fine("tcp://127.0.0.1:8000", "127.0.0.1:8000");
	check_fine("tcp://[::1]:8000", "[::1]:8000");
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		check_bad(bad[i]);
}

/* Row 114: other schemes get a sentence that says what to write. */
static void
test_row_114_other_schemes_are_refused(void **state)
{
	static const char *const bad[] = {"", "/run/agent.sock",
	    "http://127.0.0.1:8000", "unix-abstract:name", "agent.sock"};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct why why;

		check_bad(bad[i]);
		(void)workload_endpoint_check(span_of_str(bad[i]), &why);
		assert_non_null(strstr(why.text, "unix:///path"));
	}
}

/* A path that the kernel would cut is refused, not cut. */
static void
test_endpoint_path_of_108_bytes_is_refused(void **state)
{
	char text[200] = "unix:";

	(void)state;
	memset(text + 5, 'p', 107);
	text[5] = '/';
	text[5 + 107] = '\0';
	assert_int_equal(
	    workload_endpoint_check(span_of_str(text), NULL), FAULT_NONE);
	text[5 + 107] = 'p';
	text[5 + 108] = '\0';
	check_bad(text);
}

/* A NUL in the environment's value is no end of the path. */
static void
test_endpoint_nul_in_the_path_is_refused(void **state)
{
	static const char text[] = "unix:///run\0/x";

	(void)state;
	assert_int_equal(
	    workload_endpoint_check(span_of(text, sizeof(text) - 1), NULL),
	    FAULT_MALFORMED);
}

struct place {
	char dir[64];
	char path[80];
};

static void
make_place(struct place *p)
{
	FILE *f;

	(void)snprintf(p->dir, sizeof(p->dir), "/tmp/endpoint.XXXXXX");
	assert_non_null(mkdtemp(p->dir));
	(void)snprintf(p->path, sizeof(p->path), "%s/sock", p->dir);
	f = fopen(p->path, "w");
	assert_non_null(f);
	assert_int_equal(fclose(f), 0);
}

static void
remove_place(struct place *p)
{
	assert_int_equal(unlink(p->path), 0);
	assert_int_equal(rmdir(p->dir), 0);
}

/* Row 125a: root and we ourselves may be the agent, in a decent place. */
static void
test_row_125a_root_and_we_may_be_the_agent(void **state)
{
	struct place p;
	struct why why;

	(void)state;
	make_place(&p);
	assert_int_equal(
	    workload_agent_check(p.path, 0, NULL, 0, &why), FAULT_NONE);
	assert_int_equal(
	    workload_agent_check(p.path, geteuid(), NULL, 0, &why), FAULT_NONE);
	remove_place(&p);
}

/* Row 125a: another user's socket is refused, and the remedy named. */
static void
test_row_125a_foreign_uid_is_refused_unless_named(void **state)
{
	const uid_t allowed[] = {4000, 4242};
	struct place p;
	struct why why;

	(void)state;
	make_place(&p);
	assert_int_equal(
	    workload_agent_check(p.path, 4242, NULL, 0, &why), FAULT_UNTRUSTED);
	assert_non_null(strstr(why.text, "workload_api_user = 4242"));
	assert_int_equal(
	    workload_agent_check(p.path, 4242, allowed, 2, &why), FAULT_NONE);
	remove_place(&p);
}

/* Row 125a: where everybody may write, everybody may be the agent. */
static void
test_row_125a_open_directory_is_refused_unless_sticky(void **state)
{
	struct place p;
	struct why why;

	(void)state;
	make_place(&p);
	assert_int_equal(chmod(p.dir, 0777), 0);
	assert_int_equal(workload_agent_check(p.path, geteuid(), NULL, 0, &why),
	    FAULT_UNTRUSTED);
	assert_int_equal(chmod(p.dir, 01777), 0);
	assert_int_equal(
	    workload_agent_check(p.path, geteuid(), NULL, 0, &why), FAULT_NONE);
	remove_place(&p);
}

/* Row 125a: a foreign directory's owner may replace the socket. */
static void
test_row_125a_foreign_directory_is_refused(void **state)
{
	const uid_t allowed[] = {4242};
	struct place p;
	struct why why;

	(void)state;
	make_place(&p);
	if (chown(p.dir, 4242, (gid_t)-1) != 0) {
		remove_place(&p);
		skip(); /* needs root */
	}
	assert_int_equal(
	    workload_agent_check(p.path, 0, NULL, 0, &why), FAULT_UNTRUSTED);
	assert_int_equal(
	    workload_agent_check(p.path, 0, allowed, 1, &why), FAULT_NONE);
	remove_place(&p);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_row_114_other_schemes_are_refused),
	    cmocka_unit_test(test_row_115_unix_endpoints),
	    cmocka_unit_test(test_row_116_tcp_endpoints),
	    cmocka_unit_test(test_endpoint_path_of_108_bytes_is_refused),
	    cmocka_unit_test(test_endpoint_nul_in_the_path_is_refused),
	    cmocka_unit_test(test_row_125a_root_and_we_may_be_the_agent),
	    cmocka_unit_test(test_row_125a_foreign_uid_is_refused_unless_named),
	    cmocka_unit_test(
	        test_row_125a_open_directory_is_refused_unless_sticky),
	    cmocka_unit_test(test_row_125a_foreign_directory_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
