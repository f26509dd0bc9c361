/* The program's promises: what it refuses, and that help and manual agree. */

#include "unit.h"

#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mem.h"
#include "text.h"

/* Run the issuer with ARGS, stdout and stderr into *OUT; its exit status. */
static int
run_issuer(struct text *out, const char *a, const char *b, const char *c)
{
	int ends[2], status = 0;
	char buf[4096];
	ssize_t n;
	pid_t pid;

	assert_int_equal(pipe(ends), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		(void)dup2(ends[1], STDOUT_FILENO);
		(void)dup2(ends[1], STDERR_FILENO);
		close(ends[0]);
		close(ends[1]);
		execl(DEV_ISSUER, DEV_ISSUER, a, b, c, (char *)NULL);
		_exit(127);
	}
	close(ends[1]);
	while ((n = read(ends[0], buf, sizeof(buf))) > 0)
		text_add_span(out, span_of(buf, (size_t)n));
	close(ends[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

/* A trust domain that somebody may own is refused. */
static void
test_dev_issuer_real_trust_domain_is_refused(void **state)
{
	AUTO(text_fini) struct text out;

	(void)state;
	text_init(&out);
	assert_int_equal(
	    run_issuer(&out, "--serve", "/tmp/x=spiffe://example.org/a", NULL),
	    2);
	assert_non_null(strstr(out.data, "--i-know"));
	assert_non_null(strstr(out.data, "NOT FOR PRODUCTION"));
}

/* A bad ID is refused, and the sentence says why. */
static void
test_dev_issuer_bad_id_is_refused(void **state)
{
	AUTO(text_fini) struct text out;

	(void)state;
	text_init(&out);
	assert_int_equal(
	    run_issuer(&out, "--serve", "/tmp/x=spiffe://Demo.test/a", NULL),
	    2);
	assert_non_null(strstr(out.data, "lower case"));
}

/* Without a socket there is nothing to do, and the help is named. */
static void
test_dev_issuer_without_sockets_names_the_help(void **state)
{
	AUTO(text_fini) struct text out;

	(void)state;
	text_init(&out);
	assert_int_equal(run_issuer(&out, NULL, NULL, NULL), 2);
	assert_non_null(strstr(out.data, "--help"));
}

/* It does not serve as root, even where it is told to. */
static void
test_dev_issuer_run_as_root_is_refused(void **state)
{
	AUTO(text_fini) struct text out;

	(void)state;
	text_init(&out);
	assert_int_equal(run_issuer(&out, "--run-as", "0", NULL), 1);
	assert_non_null(strstr(out.data, "--run-as"));
}

/* Every word of the help is in the manual: neither drifts from the other. */
static void
test_dev_issuer_manual_knows_the_help(void **state)
{
	AUTO(text_fini) struct text out;
	AUTO(text_fini) struct text man;
	FILE *f = fopen(MANUAL, "r");
	char buf[4096];
	size_t n;
	unsigned int options = 0;

	(void)state;
	text_init(&out);
	text_init(&man);
	assert_non_null(f);
	while ((n = fread(buf, 1, sizeof(buf), f)) > 0)
		text_add_span(&man, span_of(buf, n));
	assert_int_equal(fclose(f), 0);
	assert_int_equal(run_issuer(&out, "--help", NULL, NULL), 0);
	for (const char *at = out.data; (at = strstr(at, "\n  --")) != NULL;
	     at++) {
		char option[64];

		assert_int_equal(sscanf(at + 5, "%50[a-z-]", option + 2), 1);
		memcpy(option, "\\-", 2);
		if (strstr(man.data, option) == NULL)
			fail_msg("%s is not in the manual", option);
		options++;
	}
	assert_true(options > 10);
}

/* ---- The toy service ---- */

static unsigned short
free_port(void)
{
	struct sockaddr_in in = {
	    .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(in);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(bind(fd, (const struct sockaddr *)&in, len), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&in, &len), 0);
	close(fd);
	return ntohs(in.sin_port);
}

static int
connect_port(unsigned short port)
{
	struct sockaddr_in in = {.sin_family = AF_INET,
	    .sin_port = htons(port),
	    .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

	for (unsigned int i = 0; i < 1000; i++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);

		if (connect(fd, (const struct sockaddr *)&in, sizeof(in)) == 0)
			return fd;
		close(fd);
		(void)poll(NULL, 0, 10);
	}
	fail_msg("nobody at port %u", port);
	return -1;
}

static void
ask(unsigned short port, const char *request, struct text *answer)
{
	int fd = connect_port(port);
	char buf[4096];
	ssize_t n;

	text_clear(answer);
	assert_int_equal(
	    send(fd, request, strlen(request), 0), strlen(request));
	while ((n = recv(fd, buf, sizeof(buf), 0)) > 0)
		text_add_span(answer, span_of(buf, (size_t)n));
	close(fd);
}

/* The demo's legacy service: a page, a stream of bytes, an upload. */
static void
test_toy_answers_pages_bytes_and_uploads(void **state)
{
	AUTO(text_fini) struct text answer;
	unsigned short port = free_port();
	char listen_at[32];
	pid_t pid;

	(void)state;
	text_init(&answer);
	(void)snprintf(listen_at, sizeof(listen_at), "127.0.0.1:%u", port);
	pid = fork();
	if (pid == 0) {
		execl(DEV_ISSUER, DEV_ISSUER, "toy", "--listen", listen_at,
		    (char *)NULL);
		_exit(127);
	}
	ask(port, "GET /hello HTTP/1.0\r\n\r\n", &answer);
	assert_non_null(strstr(answer.data, "200 OK"));
	assert_non_null(strstr(answer.data, "path: /hello"));
	ask(port, "GET /bytes/100000 HTTP/1.0\r\n\r\n", &answer);
	assert_true(answer.len > 100000 && answer.len < 100300);
	ask(port, "PUT /x HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello", &answer);
	assert_non_null(strstr(answer.data, "received 5 bytes"));
	ask(port, "DELETE / HTTP/1.0\r\n\r\n", &answer);
	assert_non_null(strstr(answer.data, "405"));
	assert_int_equal(kill(pid, SIGTERM), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_dev_issuer_real_trust_domain_is_refused),
	    cmocka_unit_test(test_dev_issuer_bad_id_is_refused),
	    cmocka_unit_test(test_dev_issuer_without_sockets_names_the_help),
	    cmocka_unit_test(test_dev_issuer_run_as_root_is_refused),
	    cmocka_unit_test(test_dev_issuer_manual_knows_the_help),
	    cmocka_unit_test(test_toy_answers_pages_bytes_and_uploads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
