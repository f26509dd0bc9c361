/*
 * Listening sockets and dials on loopback and unix sockets of this process.
 */

#include "unit.h"

#include <event2/event.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"
#include "net.h"

#define PATH_MAX_HERE 64

static struct addr
parsed(const char *text)
{
	struct addr a;

	assert_int_equal(addr_parse(span_of_str(text), &a, NULL), FAULT_NONE);
	return a;
}

static struct addr
unix_addr(char path[PATH_MAX_HERE])
{
	char uri[PATH_MAX_HERE + 8];

	(void)snprintf(path, PATH_MAX_HERE, "/tmp/postern-net-%d", getpid());
	(void)snprintf(uri, sizeof(uri), "unix:%s", path);
	(void)unlink(path);
	return parsed(uri);
}

/* A listening TCP socket on a port that the kernel chose. */
static int
listening(enum net_side side, struct addr *addr_r)
{
	struct listen_args args = {.side = side, .keepalive_s = 30};
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	int fd;

	args.addr = parsed("127.0.0.1:1");
	args.addr.sa.in.sin_port = 0;
	assert_int_equal(net_bind(&args, &fd, NULL), FAULT_NONE);
	assert_int_equal(net_listen(fd, 8, NULL), FAULT_NONE);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&ss, &len), 0);
	addr_set(addr_r, (struct sockaddr *)&ss, len);
	return fd;
}

static int
accept_one(int listen_fd)
{
	struct pollfd p = {.fd = listen_fd, .events = POLLIN};
	struct addr from;
	int fd, error;

	assert_int_equal(poll(&p, 1, 20000), 1);
	assert_int_equal(
	    net_accept(listen_fd, &fd, &from, &error), ACCEPT_DONE);
	return fd;
}

static int
int_option(int fd, int level, int name)
{
	int value = -1;
	socklen_t len = sizeof(value);

	assert_int_equal(getsockopt(fd, level, name, &value, &len), 0);
	return value;
}

/* ---- Listening ---- */

/*
 * Accepted sockets inherit what keeps bytes honest: zero linger and the urgent
 * byte in line on the plain side, and only there.
 */
static void
test_listen_options_are_inherited(void **state)
{
	(void)state;
	for (enum net_side side = SIDE_MESH; side <= SIDE_PLAIN; side++) {
		struct addr a;
		int l = listening(side, &a);
		int c = socket(AF_INET, SOCK_STREAM, 0);
		struct linger linger = {0};
		socklen_t len = sizeof(linger);
		int s;

		assert_int_equal(connect(c, &a.sa.any, a.len), 0);
		s = accept_one(l);
		assert_int_equal(int_option(s, IPPROTO_TCP, TCP_NODELAY), 1);
		assert_int_equal(int_option(s, IPPROTO_TCP, TCP_KEEPIDLE), 30);
		assert_int_equal(int_option(s, SOL_SOCKET, SO_OOBINLINE),
		    side == SIDE_PLAIN);
		assert_int_equal(
		    getsockopt(s, SOL_SOCKET, SO_LINGER, &linger, &len), 0);
		assert_int_equal(linger.l_onoff, side == SIDE_PLAIN);
		assert_int_equal(linger.l_linger, 0);
		(void)close(s);
		(void)close(c);
		(void)close(l);
	}
}

/* A port that is not ours is an error that names it. */
static void
test_listen_foreign_port_is_named(void **state)
{
	struct listen_args args = {.side = SIDE_MESH};
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	struct addr any = parsed("127.0.0.1:1");
	char text[ADDR_TEXT_MAX];
	struct why why;
	int other = socket(AF_INET, SOCK_STREAM, 0);
	int fd;

	(void)state;
	any.sa.in.sin_port = 0;
	assert_int_equal(bind(other, &any.sa.any, any.len), 0);
	assert_int_equal(listen(other, 1), 0);
	assert_int_equal(getsockname(other, (struct sockaddr *)&ss, &len), 0);
	addr_set(&args.addr, (struct sockaddr *)&ss, len);
	assert_int_equal(net_bind(&args, &fd, &why), FAULT_IO);
	assert_non_null(strstr(why.text, addr_format(&args.addr, text)));
	(void)close(other);
}

/* A stale socket file is replaced; a live owner's and a stranger's are not. */
static void
test_listen_unix_replaces_only_stale_sockets(void **state)
{
	char path[PATH_MAX_HERE];
	struct listen_args args = {
	    .addr = unix_addr(path), .side = SIDE_PLAIN, .unix_mode = 0600};
	struct stat st;
	struct why why;
	int first, second;
	FILE *f;

	(void)state;
	assert_int_equal(net_bind(&args, &first, &why), FAULT_NONE);
	assert_int_equal(net_listen(first, 8, &why), FAULT_NONE);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(net_bind(&args, &second, &why), FAULT_IO);
	assert_non_null(strstr(why.text, "another process listens"));
	(void)close(first);
	assert_int_equal(net_bind(&args, &second, &why), FAULT_NONE);
	(void)close(second);
	(void)unlink(path);
	f = fopen(path, "w");
	assert_non_null(f);
	(void)fclose(f);
	assert_int_equal(net_bind(&args, &second, &why), FAULT_IO);
	assert_int_equal(stat(path, &st), 0);
	(void)unlink(path);
}

/* ---- Who is gone ---- */

/* Before the relay nothing is read: poll alone tells a reset from an end. */
static void
test_poll_gone_tells_reset_from_end(void **state)
{
	struct addr a;
	int l = listening(SIDE_PLAIN, &a);
	int c = socket(AF_INET, SOCK_STREAM, 0);
	struct pollfd p;
	char buf[8];
	int s;

	(void)state;
	assert_int_equal(connect(c, &a.sa.any, a.len), 0);
	s = accept_one(l);
	assert_int_equal(net_poll_gone(s, false), NET_HERE);
	assert_int_equal(send(c, "abc", 3, 0), 3);
	assert_int_equal(shutdown(c, SHUT_WR), 0);
	p = (struct pollfd){.fd = s, .events = POLLRDHUP};
	assert_int_equal(poll(&p, 1, 20000), 1);
	assert_int_equal(net_poll_gone(s, false), NET_HERE);
	net_linger_zero(c, true);
	(void)close(c);
	p = (struct pollfd){.fd = s, .events = 0};
	assert_int_equal(poll(&p, 1, 20000), 1);
	assert_int_equal(net_poll_gone(s, false), NET_ABORTED);
	/* The error was not eaten, and neither were the bytes. */
	assert_int_equal(recv(s, buf, sizeof(buf), 0), 3);
	(void)close(s);
	(void)close(l);
}

/* ---- Dialling ---- */

struct rig {
	struct event_base *base;
	struct breaker *breaker;
	size_t wakes;
};

static void
on_wake(void *arg)
{
	((struct rig *)arg)->wakes++;
}

static struct dial *
dial(struct rig *r, const struct addr *addrs, size_t n, size_t first)
{
	struct dial_args args = {.base = r->base,
	    .addrs = addrs,
	    .n_addrs = n,
	    .first = first,
	    .side = SIDE_MESH,
	    .breaker = r->breaker,
	    .wake = on_wake,
	    .arg = r};
	struct dial *d = dial_start(&args, 1000);

	assert_non_null(d);
	return d;
}

static enum dial_state
settle(struct rig *r, struct dial *d, int64_t now_ms)
{
	enum dial_state st = dial_step(d, now_ms);
	int64_t until = clock_boot_ms() + 20000;

	while (st == DIAL_WAIT && clock_boot_ms() < until) {
		(void)event_base_loop(r->base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
		st = dial_step(d, now_ms);
	}
	return st;
}

static void
rig_init(struct rig *r)
{
	*r = (struct rig){.base = event_base_new(), .breaker = breaker_new()};
}

static void
rig_fini(struct rig *r)
{
	breaker_free(&r->breaker);
	event_base_free(r->base);
}

/* A port on which nobody listens. */
static struct addr
closed_port(void)
{
	struct addr a;
	int fd = listening(SIDE_MESH, &a);

	(void)close(fd);
	return a;
}

/* A dead first target costs no waiting: the second is tried at once. */
static void
test_dial_refused_moves_on(void **state)
{
	struct addr addrs[2] = {closed_port()};
	struct addr won;
	int l = listening(SIDE_MESH, &addrs[1]);
	struct rig r;
	struct dial *d;
	int fd;

	(void)state;
	rig_init(&r);
	d = dial(&r, addrs, 2, 0);
	assert_int_equal(settle(&r, d, 1000), DIAL_CONNECTED);
	fd = dial_take(d, &won);
	assert_true(addr_equal(&won, &addrs[1]));
	(void)close(fd);
	dial_free(&d);
	(void)close(l);
	rig_fini(&r);
}

/* The list is gone through once, cyclically from where it began. */
static void
test_dial_all_refused_fails_with_the_last_reason(void **state)
{
	struct addr addrs[2] = {closed_port(), closed_port()};
	struct addr last;
	struct rig r;
	struct dial *d;

	(void)state;
	rig_init(&r);
	d = dial(&r, addrs, 2, 1);
	assert_int_equal(settle(&r, d, 1000), DIAL_FAILED);
	assert_int_equal(dial_why(d, &last), DIAL_REFUSED);
	assert_true(addr_equal(&last, &addrs[0]));
	dial_free(&d);
	/* Within a second nobody asks again; afterwards it is tried anew. */
	d = dial(&r, addrs, 2, 0);
	assert_int_equal(settle(&r, d, 1500), DIAL_FAILED);
	assert_int_equal(dial_why(d, &last), DIAL_BREAKER);
	dial_free(&d);
	rig_fini(&r);
}

/* No address yet is a reason of its own: the name does not resolve. */
static void
test_dial_without_addresses_is_dns(void **state)
{
	struct addr last;
	struct rig r;
	struct dial *d;

	(void)state;
	rig_init(&r);
	d = dial(&r, NULL, 0, 0);
	assert_int_equal(settle(&r, d, 1000), DIAL_FAILED);
	assert_int_equal(dial_why(d, &last), DIAL_DNS);
	dial_free(&d);
	rig_fini(&r);
}

/* A unix target whose backlog is full makes no event: it is tried again. */
static void
test_dial_unix_backlog_full_is_tried_again(void **state)
{
	char path[PATH_MAX_HERE];
	struct listen_args args = {
	    .addr = unix_addr(path), .side = SIDE_PLAIN, .unix_mode = 0600};
	struct addr won;
	struct rig r;
	struct dial *d;
	int l, fd, fill[8];
	size_t n = 0;

	(void)state;
	assert_int_equal(net_bind(&args, &l, NULL), FAULT_NONE);
	assert_int_equal(net_listen(l, 1, NULL), FAULT_NONE);
	for (; n < 8; n++) {
		fill[n] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
		if (connect(fill[n], &args.addr.sa.any, args.addr.len) != 0)
			break;
	}
	assert_true(n < 8);
	rig_init(&r);
	d = dial(&r, &args.addr, 1, 0);
	assert_int_equal(dial_step(d, 1000), DIAL_WAIT);
	assert_int_equal(dial_next_ms(d), 1100);
	(void)close(accept_one(l));
	assert_int_equal(dial_step(d, 1099), DIAL_WAIT);
	assert_int_equal(settle(&r, d, 1100), DIAL_CONNECTED);
	fd = dial_take(d, &won);
	(void)close(fd);
	dial_free(&d);
	for (size_t i = 0; i <= n; i++)
		(void)close(fill[i]);
	(void)close(l);
	(void)unlink(path);
	rig_fini(&r);
}

/* A listener whose queue is full drops SYNs: a connect to it hangs. */
static int
silent(struct addr *addr_r, int *filler_r)
{
	int l = listening(SIDE_MESH, addr_r);

	assert_int_equal(listen(l, 0), 0);
	*filler_r = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(*filler_r, &addr_r->sa.any, addr_r->len), 0);
	return l;
}

/*
 * The first address refuses late, while the second is tried: the third gets
 * its own 250 ms, or a target that answers would be called dead.
 */
static void
test_dial_attempt_after_a_late_refusal_has_its_time(void **state)
{
	struct addr addrs[4];
	int l[4], fillers[4];
	struct rig r;
	struct dial *d;
	int64_t until = clock_boot_ms() + 20000;

	(void)state;
	rig_init(&r);
	for (size_t i = 0; i < 4; i++)
		l[i] = silent(&addrs[i], &fillers[i]);
	d = dial(&r, addrs, 4, 0);
	assert_int_equal(dial_step(d, 1250), DIAL_WAIT);
	/* The kernel's next SYN to the first is answered by a reset. */
	(void)close(l[0]);
	while (
	    dial_why(d, &addrs[0]) != DIAL_REFUSED && clock_boot_ms() < until) {
		(void)event_base_loop(r.base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
		assert_int_equal(dial_step(d, 1300), DIAL_WAIT);
	}
	assert_int_equal(dial_step(d, 1500), DIAL_WAIT);
	assert_int_equal(dial_next_ms(d), 1750);
	assert_int_equal(dial_step(d, 1501), DIAL_WAIT);
	assert_int_equal(dial_next_ms(d), 1750);
	dial_free(&d);
	for (size_t i = 0; i < 4; i++) {
		(void)close(fillers[i]);
		if (i != 0)
			(void)close(l[i]);
	}
	rig_fini(&r);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_listen_options_are_inherited),
	    cmocka_unit_test(test_listen_foreign_port_is_named),
	    cmocka_unit_test(test_listen_unix_replaces_only_stale_sockets),
	    cmocka_unit_test(test_poll_gone_tells_reset_from_end),
	    cmocka_unit_test(test_dial_refused_moves_on),
	    cmocka_unit_test(test_dial_all_refused_fails_with_the_last_reason),
	    cmocka_unit_test(test_dial_without_addresses_is_dns),
	    cmocka_unit_test(test_dial_unix_backlog_full_is_tried_again),
	    cmocka_unit_test(
	        test_dial_attempt_after_a_late_refusal_has_its_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
