/*
 * The plain stream on real sockets: what Linux says once is kept.
 */

#include "unit.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "stream.h"

/* A connected TCP pair on loopback, both non-blocking. */
static void
tcp_pair(int fds[2])
{
	struct sockaddr_in sa = {
	    .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(sa);
	int l = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(bind(l, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(l, 1), 0);
	assert_int_equal(getsockname(l, (struct sockaddr *)&sa, &len), 0);
	fds[0] = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(
	    connect(fds[0], (struct sockaddr *)&sa, sizeof(sa)), 0);
	fds[1] = accept4(l, NULL, NULL, SOCK_NONBLOCK);
	assert_int_not_equal(fds[1], -1);
	(void)close(l);
}

static void
reset(int fd)
{
	const struct linger zero = {.l_onoff = 1, .l_linger = 0};

	assert_int_equal(
	    setsockopt(fd, SOL_SOCKET, SO_LINGER, &zero, sizeof(zero)), 0);
	assert_int_equal(close(fd), 0);
}

static void
await(int fd, short events)
{
	struct pollfd p = {.fd = fd, .events = events};

	assert_int_equal(poll(&p, 1, 20000), 1);
}

/* A short read proves the socket empty: no call is made before an edge. */
static void
test_plain_short_read_waits_for_an_edge(void **state)
{
	struct stream_plain p;
	char buf[16];
	size_t n;
	int fds[2];

	(void)state;
	tcp_pair(fds);
	stream_plain_init(&p, fds[1], false);
	assert_int_equal(write(fds[0], "abc", 3), 3);
	await(fds[1], POLLIN);
	assert_int_equal(stream_read(&p.stream, buf, sizeof(buf), &n), IO_DONE);
	assert_int_equal(n, 3);
	assert_false(p.stream.readable);
	assert_int_equal(
	    stream_read(&p.stream, buf, sizeof(buf), &n), IO_WANT_READ);
	(void)close(fds[0]);
	(void)close(fds[1]);
}

/* An end announced with the bytes has no edge of its own: it is read on. */
static void
test_plain_end_behind_a_short_read_is_seen(void **state)
{
	struct stream_plain p;
	char buf[16];
	size_t n;
	int fds[2];

	(void)state;
	tcp_pair(fds);
	stream_plain_init(&p, fds[1], false);
	assert_int_equal(write(fds[0], "abc", 3), 3);
	assert_int_equal(shutdown(fds[0], SHUT_WR), 0);
	await(fds[1], POLLRDHUP);
	p.hup = true;
	assert_int_equal(stream_read(&p.stream, buf, sizeof(buf), &n), IO_DONE);
	assert_int_equal(stream_read(&p.stream, buf, sizeof(buf), &n), IO_END);
	assert_int_equal(stream_read(&p.stream, buf, sizeof(buf), &n), IO_END);
	(void)close(fds[0]);
	(void)close(fds[1]);
}

/*
 * After a send that met the reset the kernel says 0 to a read, which looks
 * like a clean end: what was seen first is kept, and the bytes come before it.
 */
static void
test_plain_error_seen_by_a_send_is_no_end_for_a_read(void **state)
{
	struct stream_plain p;
	char buf[16];
	size_t n;
	int fds[2];

	(void)state;
	tcp_pair(fds);
	stream_plain_init(&p, fds[1], false);
	assert_int_equal(write(fds[0], "last", 4), 4);
	reset(fds[0]);
	await(fds[1], POLLERR);
	assert_int_equal(stream_write(&p.stream, "x", 1, false, &n), IO_ABORT);
	assert_int_equal(stream_read(&p.stream, buf, sizeof(buf), &n), IO_DONE);
	assert_int_equal(n, 4);
	assert_int_equal(
	    stream_read(&p.stream, buf, sizeof(buf), &n), IO_ABORT);
	assert_int_equal(p.stream.broken, STREAM_RESET);
	(void)close(fds[1]);
}

/* A reset with bytes before it: the bytes, then the abort, for ever. */
static void
test_plain_reset_delivers_what_came_before(void **state)
{
	struct stream_plain p;
	char buf[16];
	size_t n;
	int fds[2];

	(void)state;
	tcp_pair(fds);
	stream_plain_init(&p, fds[1], false);
	assert_int_equal(write(fds[0], "last", 4), 4);
	reset(fds[0]);
	await(fds[1], POLLERR);
	p.hup = true;
	assert_int_equal(stream_read(&p.stream, buf, sizeof(buf), &n), IO_DONE);
	assert_int_equal(
	    stream_read(&p.stream, buf, sizeof(buf), &n), IO_ABORT);
	assert_int_equal(
	    stream_read(&p.stream, buf, sizeof(buf), &n), IO_ABORT);
	(void)close(fds[1]);
}

/* finish() is one FIN, and reading goes on after it. */
static void
test_plain_finish_is_a_half_close(void **state)
{
	struct stream_plain p;
	char buf[16];
	size_t n;
	int fds[2];

	(void)state;
	tcp_pair(fds);
	stream_plain_init(&p, fds[1], false);
	assert_int_equal(stream_finish(&p.stream), IO_DONE);
	assert_int_equal(stream_finish(&p.stream), IO_DONE);
	assert_int_equal(read(fds[0], buf, sizeof(buf)), 0);
	assert_int_equal(write(fds[0], "late", 4), 4);
	await(fds[1], POLLIN);
	assert_int_equal(stream_read(&p.stream, buf, sizeof(buf), &n), IO_DONE);
	(void)close(fds[0]);
	(void)close(fds[1]);
}

/* abort() makes the close a reset, also when everything was said. */
static void
test_plain_abort_is_a_reset(void **state)
{
	struct stream_plain p;
	char buf[4];
	int fds[2];

	(void)state;
	tcp_pair(fds);
	stream_plain_init(&p, fds[1], false);
	stream_abort(&p.stream);
	(void)close(fds[1]);
	await(fds[0], POLLIN);
	assert_int_equal(read(fds[0], buf, sizeof(buf)), -1);
	(void)close(fds[0]);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_plain_short_read_waits_for_an_edge),
	    cmocka_unit_test(test_plain_end_behind_a_short_read_is_seen),
	    cmocka_unit_test(
	        test_plain_error_seen_by_a_send_is_no_end_for_a_read),
	    cmocka_unit_test(test_plain_reset_delivers_what_came_before),
	    cmocka_unit_test(test_plain_finish_is_a_half_close),
	    cmocka_unit_test(test_plain_abort_is_a_reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
