#include "unit.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sys.h"

/* A supervisor's socket at ADDRESS ("@x" is abstract). */
static int
supervisor(const char *address)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	size_t len = strlen(address);

	memcpy(sa.sun_path, address, len);
	if (address[0] == '@')
		sa.sun_path[0] = '\0';
	else
		(void)unlink(address);
	assert_int_equal(bind(fd, (struct sockaddr *)&sa,
	                     (socklen_t)(sizeof(sa.sun_family) + len)),
	    0);
	return fd;
}

/* systemd uses both forms of address. */
static void
test_notify_reaches_both_kinds_of_address(void **state)
{
	char path[64], abstract[64];
	const char *const both[] = {path, abstract};

	(void)state;
	(void)snprintf(path, sizeof(path), "/tmp/postern-sys-%d", getpid());
	(void)snprintf(abstract, sizeof(abstract), "@postern-sys-%d", getpid());
	for (size_t i = 0; i < 2; i++) {
		int fd = supervisor(both[i]);
		char buf[64] = {0};

		assert_int_equal(setenv("NOTIFY_SOCKET", both[i], 1), 0);
		assert_true(sys_notify("READY=1"));
		assert_int_equal(recv(fd, buf, sizeof(buf), 0), 7);
		assert_string_equal(buf, "READY=1");
		(void)close(fd);
	}
	(void)unlink(path);
}

/* No supervisor, or one that is gone, changes nothing. */
static void
test_notify_without_a_listener_is_false(void **state)
{
	(void)state;
	assert_int_equal(unsetenv("NOTIFY_SOCKET"), 0);
	assert_false(sys_notify("READY=1"));
	assert_int_equal(setenv("NOTIFY_SOCKET", "/nonexistent", 1), 0);
	assert_false(sys_notify("READY=1"));
	assert_int_equal(setenv("NOTIFY_SOCKET", "relative", 1), 0);
	assert_false(sys_notify("READY=1"));
	assert_int_equal(unsetenv("NOTIFY_SOCKET"), 0);
}

/* A watchdog that is meant for another process is not fed by us. */
static void
test_watchdog_only_for_this_process(void **state)
{
	char pid[16];

	(void)state;
	assert_int_equal(unsetenv("WATCHDOG_USEC"), 0);
	assert_int_equal(sys_watchdog_us(), 0);
	assert_int_equal(setenv("WATCHDOG_USEC", "30000000", 1), 0);
	assert_int_equal(sys_watchdog_us(), 30000000);
	assert_int_equal(setenv("WATCHDOG_PID", "1", 1), 0);
	assert_int_equal(sys_watchdog_us(), 0);
	(void)snprintf(pid, sizeof(pid), "%d", getpid());
	assert_int_equal(setenv("WATCHDOG_PID", pid, 1), 0);
	assert_int_equal(sys_watchdog_us(), 30000000);
}

/* Sockets that were passed to another process are not ours. */
static void
test_listen_fds_only_for_this_process(void **state)
{
	struct sys_inherited list[SYS_INHERITED_MAX];

	(void)state;
	assert_int_equal(setenv("LISTEN_PID", "1", 1), 0);
	assert_int_equal(setenv("LISTEN_FDS", "1", 1), 0);
	assert_int_equal(sys_listen_fds(list), 0);
	assert_null(getenv("LISTEN_FDS"));
}

/* Run in a child, whose descriptors 3 and 4 are the passed ones. */
static int
inherit_two(void)
{
	struct sys_inherited list[SYS_INHERITED_MAX];
	char pid[16];

	if (dup2(0, 3) == -1 || dup2(0, 4) == -1)
		return 1;
	(void)snprintf(pid, sizeof(pid), "%d", getpid());
	(void)setenv("LISTEN_PID", pid, 1);
	(void)setenv("LISTEN_FDS", "2", 1);
	(void)setenv("LISTEN_FDNAMES", "orders", 1);
	if (sys_listen_fds(list) != 2)
		return 2;
	if (list[0].fd != 3 || strcmp(list[0].name, "orders") != 0)
		return 3;
	if (list[1].fd != 4 || strcmp(list[1].name, "unknown") != 0)
		return 4;
	if ((fcntl(3, F_GETFD) & FD_CLOEXEC) == 0)
		return 5;
	return (fcntl(4, F_GETFL) & O_NONBLOCK) == 0 ? 6 : 0;
}

static int
in_child(int (*run)(void))
{
	int status = 0;
	pid_t pid = fork();

	if (pid == 0)
		_exit(run());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Names match by position, one that is missing is "unknown". */
static void
test_listen_fds_are_named_and_closed_on_exec(void **state)
{
	(void)state;
	assert_int_equal(in_child(inherit_two), 0);
}

static int
drop(void)
{
	uid_t r, e, s;

	if (sys_drop_to(NULL, 61999, 61998, NULL) != FAULT_NONE)
		return 1;
	if (getresuid(&r, &e, &s) != 0 || r != 61999 || s != 61999)
		return 2;
	if (getgroups(0, NULL) != 0)
		return 3;
	return setuid(0) == 0 ? 4 : 0;
}

/* Rights are gone for good: no way back, no group left. */
static void
test_drop_leaves_nothing_to_go_back_with(void **state)
{
	(void)state;
	if (geteuid() != 0)
		skip();
	assert_int_equal(in_child(drop), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_notify_reaches_both_kinds_of_address),
	    cmocka_unit_test(test_notify_without_a_listener_is_false),
	    cmocka_unit_test(test_watchdog_only_for_this_process),
	    cmocka_unit_test(test_listen_fds_only_for_this_process),
	    cmocka_unit_test(test_listen_fds_are_named_and_closed_on_exec),
	    cmocka_unit_test(test_drop_leaves_nothing_to_go_back_with),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
