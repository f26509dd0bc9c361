/*
 * Load for the benchmark: plain TCP only, so that the generator favours no TLS
 * stack. One thread, epoll.
 *
 *   load sink PORT                     serve until SIGTERM
 *   load up PORT STREAMS MIB           upload MIB per stream
 *   load down PORT STREAMS MIB         download MIB per stream
 *   load echo PORT STREAMS COUNT SIZE  COUNT request/response per stream
 *   load conn PORT PARALLEL COUNT      connect, echo one byte, close
 *   load idle PORT COUNT               hold COUNT connections until stdin ends
 *
 * The first byte of a connection says what the sink does: 'U' discard,
 * 'D' + 8 bytes of length: send so many, 'E' echo.
 */

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BUF ((size_t)256 * 1024)

struct flow {
	int fd;
	char mode;      /* 0: not known yet */
	uint64_t left;  /* bytes still to send, or to receive */
	uint64_t total; /* of the whole job */
	size_t owed;    /* echo: bytes of the current message not sent yet */
	size_t got;     /* echo: bytes of the answer */
	bool opened;
};

static char buf[BUF];
static int ep;
static uint64_t done_units;
static size_t message_size;

static _Noreturn void
die(const char *what)
{
	perror(what);
	exit(1);
}

static struct sockaddr_in
loopback(int port, uint32_t host)
{
	return (struct sockaddr_in){
	    .sin_family = AF_INET,
	    .sin_port = htons((uint16_t)port),
	    .sin_addr.s_addr = htonl(0x7f000000u + host),
	};
}

static void
watch(struct flow *f)
{
	struct epoll_event ev = {
	    .events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = f};

	if (epoll_ctl(ep, EPOLL_CTL_ADD, f->fd, &ev) == -1)
		die("epoll_ctl");
}

static struct flow *
flow_new(int fd)
{
	struct flow *f = calloc(1, sizeof(*f));
	int one = 1;

	if (f == NULL)
		die("calloc");
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	f->fd = fd;
	watch(f);
	return f;
}

static void
flow_end(struct flow *f)
{
	(void)close(f->fd);
	f->fd = -1;
}

/* ---- Sink ---- */

static bool
send_some(struct flow *f)
{
	while (f->left > 0) {
		size_t n = f->left < BUF ? (size_t)f->left : BUF;
		ssize_t w = send(f->fd, buf, n, MSG_NOSIGNAL);

		if (w <= 0)
			return w == -1 && errno == EAGAIN;
		f->left -= (uint64_t)w;
	}
	return false;
}

static bool
echo_some(struct flow *f)
{
	for (;;) {
		ssize_t n = recv(f->fd, buf, 65536, 0);

		if (n <= 0)
			return n == -1 && errno == EAGAIN;
		for (ssize_t off = 0; off < n;) {
			ssize_t w = send(
			    f->fd, buf + off, (size_t)(n - off), MSG_NOSIGNAL);

			if (w == -1 && errno == EAGAIN)
				continue; /* small messages: never for long */
			if (w <= 0)
				return false;
			off += w;
		}
	}
}

static bool
discard_some(struct flow *f)
{
	for (;;) {
		ssize_t n = recv(f->fd, buf, BUF, 0);

		if (n == 0) {
			/* All arrived: say so, then end. */
			(void)send(f->fd, "k", 1, MSG_NOSIGNAL);
			return false;
		}
		if (n == -1)
			return errno == EAGAIN;
	}
}

static bool
read_mode(struct flow *f)
{
	char head[9];
	ssize_t n = recv(f->fd, head, sizeof(head), MSG_PEEK);

	if (n <= 0)
		return n == -1 && errno == EAGAIN;
	if (head[0] == 'D' && n < 9)
		return true;
	f->mode = head[0];
	if (f->mode == 'D') {
		memcpy(&f->left, head + 1, 8);
		(void)recv(f->fd, head, 9, 0);
	} else {
		(void)recv(f->fd, head, 1, 0);
	}
	return true;
}

static bool
serve(struct flow *f)
{
	if (f->mode == 0 && !read_mode(f))
		return false;
	switch (f->mode) {
	case 'U':
		return discard_some(f);
	case 'D':
		return send_some(f);
	case 'E':
		return echo_some(f);
	default:
		return true;
	}
}

static void
sink(int port)
{
	struct sockaddr_in sa = loopback(port, 1);
	struct epoll_event ev[256];
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&sa, sizeof(sa)) == -1 ||
	    listen(fd, 4096) == -1)
		die("sink");
	ev[0] = (struct epoll_event){.events = EPOLLIN, .data.ptr = NULL};
	if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev[0]) == -1)
		die("epoll_ctl");
	for (;;) {
		int n = epoll_wait(ep, ev, 256, -1);

		for (int i = 0; i < n; i++) {
			struct flow *f = ev[i].data.ptr;

			if (f != NULL) {
				if (f->fd != -1 && !serve(f)) {
					flow_end(f);
					free(f);
				}
				continue;
			}
			for (int a; (a = accept4(
			                 fd, NULL, NULL, SOCK_NONBLOCK)) != -1;)
				(void)flow_new(a);
		}
	}
}

/* ---- Generators ---- */

/* 28,000 ports per pair of addresses: the source address moves on. */
static struct flow *
dial(int port, size_t index)
{
	struct sockaddr_in to = loopback(port, 1);
	struct sockaddr_in from = loopback(0, 2 + (uint32_t)(index / 20000));
	int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
	struct flow *f;

	if (fd == -1)
		die("socket");
	(void)setsockopt(
	    fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&from, sizeof(from)) == -1)
		die("bind");
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) == -1)
		die("connect");
	f = calloc(1, sizeof(*f));
	if (f == NULL)
		die("calloc");
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	f->fd = fd;
	return f;
}

static void
put(struct flow *f, const void *bytes, size_t n)
{
	if (send(f->fd, bytes, n, MSG_NOSIGNAL) != (ssize_t)n)
		die("send");
}

static void
nonblocking(struct flow *f)
{
	const struct timeval none = {0};

	(void)setsockopt(f->fd, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof(none));
	watch(f);
}

static ssize_t
try_recv(struct flow *f, size_t n)
{
	return recv(f->fd, buf, n, MSG_DONTWAIT);
}

/* True while there is more to do. */
static bool
step_up(struct flow *f)
{
	while (f->left > 0) {
		size_t n = f->left < BUF ? (size_t)f->left : BUF;
		ssize_t w = send(f->fd, buf, n, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (w == -1 && errno == EAGAIN)
			return true;
		if (w <= 0)
			die("upload");
		f->left -= (uint64_t)w;
		if (f->left == 0)
			(void)shutdown(f->fd, SHUT_WR);
	}
	/* The sink's byte proves that everything arrived. */
	switch (try_recv(f, 1)) {
	case 1:
		done_units += f->total;
		return false;
	case -1:
		return errno == EAGAIN;
	default:
		die("upload was cut");
	}
}

static bool
step_down(struct flow *f)
{
	for (;;) {
		ssize_t n = try_recv(f, BUF);

		if (n == -1 && errno == EAGAIN)
			return true;
		if (n <= 0)
			die("download was cut");
		f->left -= (uint64_t)n;
		if (f->left == 0) {
			done_units += f->total;
			return false;
		}
	}
}

static bool
step_echo(struct flow *f)
{
	for (;;) {
		ssize_t n = try_recv(f, message_size - f->got);

		if (n == -1 && errno == EAGAIN)
			return true;
		if (n <= 0)
			die("echo was cut");
		f->got += (size_t)n;
		if (f->got < message_size)
			continue;
		f->got = 0;
		done_units++;
		if (--f->left == 0)
			return false;
		put(f, buf, message_size);
	}
}

static void
run(size_t flows, bool (*step)(struct flow *))
{
	struct epoll_event ev[256];

	while (flows > 0) {
		int n = epoll_wait(ep, ev, 256, 60000);

		if (n == 0)
			die("nothing moves");
		for (int i = 0; i < n; i++) {
			struct flow *f = ev[i].data.ptr;

			if (f->fd == -1 || step(f))
				continue;
			flow_end(f);
			flows--;
		}
	}
}

static void
bulk(int port, size_t streams, uint64_t mib, char mode)
{
	uint64_t bytes = mib << 20;

	for (size_t i = 0; i < streams; i++) {
		struct flow *f = dial(port, i);
		char head[9] = {mode};

		f->left = f->total = bytes;
		memcpy(head + 1, &bytes, 8);
		put(f, head, mode == 'D' ? 9 : 1);
		nonblocking(f);
	}
	run(streams, mode == 'U' ? step_up : step_down);
}

static void
echo(int port, size_t streams, uint64_t count, size_t size)
{
	message_size = size;
	for (size_t i = 0; i < streams; i++) {
		struct flow *f = dial(port, i);

		f->left = count;
		put(f, "E", 1);
		put(f, buf, size);
		nonblocking(f);
	}
	run(streams, step_echo);
}

/* One after another in each of PARALLEL lanes. */
static void
connections(int port, size_t parallel, size_t count)
{
	struct epoll_event ev[256];
	size_t started = 0, ended = 0;

	message_size = 1;
	while (ended < count) {
		int n;

		while (started < count && started - ended < parallel) {
			struct flow *f = dial(port, started++);

			f->left = 1;
			put(f, "Ex", 2);
			nonblocking(f);
		}
		n = epoll_wait(ep, ev, 256, 60000);
		if (n == 0)
			die("nothing moves");
		for (int i = 0; i < n; i++) {
			struct flow *f = ev[i].data.ptr;

			if (f->fd == -1 || step_echo(f))
				continue;
			flow_end(f);
			ended++;
		}
	}
}

static void
idle(int port, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		struct flow *f = dial(port, i);
		char byte;

		put(f, "Ex", 2);
		if (recv(f->fd, &byte, 1, 0) != 1)
			die("idle");
	}
	(void)printf("{\"held\": %zu}\n", count);
	(void)fflush(stdout);
	while (getchar() != EOF)
		continue;
}

static double
now(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

int
main(int argc, char **argv)
{
	struct rlimit rl;
	double start = now();
	int port;

	if (argc < 3)
		return 2;
	(void)getrlimit(RLIMIT_NOFILE, &rl);
	rl.rlim_cur = rl.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &rl);
	ep = epoll_create1(0);
	port = atoi(argv[2]);
	if (strcmp(argv[1], "sink") == 0)
		sink(port);
	if (argc < 4)
		return 2;
	if (strcmp(argv[1], "up") == 0)
		bulk(port, (size_t)atol(argv[3]), (uint64_t)atol(argv[4]), 'U');
	else if (strcmp(argv[1], "down") == 0)
		bulk(port, (size_t)atol(argv[3]), (uint64_t)atol(argv[4]), 'D');
	else if (strcmp(argv[1], "echo") == 0)
		echo(port, (size_t)atol(argv[3]), (uint64_t)atol(argv[4]),
		    (size_t)atol(argv[5]));
	else if (strcmp(argv[1], "conn") == 0)
		connections(port, (size_t)atol(argv[3]), (size_t)atol(argv[4]));
	else if (strcmp(argv[1], "idle") == 0)
		idle(port, (size_t)atol(argv[3]));
	else
		return 2;
	(void)printf("{\"units\": %llu, \"seconds\": %.3f}\n",
	    (unsigned long long)done_units, now() - start);
	return 0;
}
