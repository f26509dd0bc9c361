#include "net.h"

#include <assert.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <event2/event.h>

#include "net_int.h"

#define BREAKER_MS    1000
#define BREAKER_SLOTS 64

/* A unix target whose backlog is full is tried again at this pace. */
#define UNIX_RETRY_MS 100

const char *
dial_reason_label(enum dial_reason r)
{
	switch (r) {
	case DIAL_OK:
		return "-";
	case DIAL_REFUSED:
		return "refused";
	case DIAL_TIMEOUT:
		return "timeout";
	case DIAL_UNREACHABLE:
		return "unreachable";
	case DIAL_DNS:
		return "dns";
	case DIAL_RESET:
		return "reset";
	case DIAL_BREAKER:
		return "breaker";
	case DIAL_LOOP:
		return "loop";
	case DIAL_NO_SOCKET:
		return "no_socket";
	case DIAL_PORTS:
		return "EADDRNOTAVAIL";
	}
	return "-";
}

/* ---- Breaker: the last failures, oldest overwritten ---- */

struct breaker {
	struct {
		struct addr addr;
		int64_t until_ms;
	} slot[BREAKER_SLOTS];
	size_t next;
};

struct breaker *
breaker_new(void)
{
	return calloc(1, sizeof(struct breaker));
}

void
breaker_free(struct breaker **b)
{
	free(*b);
	*b = NULL;
}

static bool
breaker_is_open(const struct breaker *b, const struct addr *a, int64_t now_ms)
{
	for (size_t i = 0; i < BREAKER_SLOTS; i++) {
		if (b->slot[i].until_ms > now_ms &&
		    addr_equal(&b->slot[i].addr, a))
			return true;
	}
	return false;
}

static void
breaker_trip(struct breaker *b, const struct addr *a, int64_t now_ms)
{
	b->slot[b->next].addr = *a;
	b->slot[b->next].until_ms = now_ms + BREAKER_MS;
	b->next = (b->next + 1) % BREAKER_SLOTS;
}

/* ---- Attempts ---- */

struct attempt {
	int fd; /* -1: none */
	size_t index;
	int64_t started_ms;
	struct event *event;
};

/* NEXT counts addresses from FIRST on; all are tried when it is N_ADDRS. */
struct dial {
	struct dial_args args;
	struct attempt attempt[2]; /* [0] is the older one */
	size_t next;
	size_t tried;
	int64_t retry_ms; /* unix backlog: when to try again; 0: not */
	bool has_edge;
	int won_fd;
	int won_error; /* met since it connected; 0: none */
	size_t won;
	enum dial_reason why;
	size_t why_index;
	struct addr addrs[];
};

static void
attempt_end(struct attempt *a)
{
	if (a->event != NULL)
		event_free(a->event);
	if (a->fd != -1)
		(void)close(a->fd);
	a->event = NULL;
	a->fd = -1;
}

void
dial_free(struct dial **d)
{
	if (*d == NULL)
		return;
	attempt_end(&(*d)->attempt[0]);
	attempt_end(&(*d)->attempt[1]);
	if ((*d)->won_fd != -1)
		(void)close((*d)->won_fd);
	free(*d);
	*d = NULL;
}

static enum dial_reason
reason_of(int error)
{
	switch (error) {
	case ECONNREFUSED:
	case ENOENT:
		return DIAL_REFUSED;
	case ETIMEDOUT:
		return DIAL_TIMEOUT;
	case ECONNRESET:
	case EPIPE:
		return DIAL_RESET;
	case EMFILE:
	case ENFILE:
	case ENOBUFS:
	case ENOMEM:
		return DIAL_NO_SOCKET;
	case EADDRNOTAVAIL:
		return DIAL_PORTS;
	default:
		return DIAL_UNREACHABLE;
	}
}

static void
failed(struct dial *d, size_t index, int error, int64_t now_ms)
{
	d->why = reason_of(error);
	d->why_index = index;
	/* Our own shortage says nothing about the target. */
	if (d->why != DIAL_NO_SOCKET && d->why != DIAL_PORTS)
		breaker_trip(d->args.breaker, &d->addrs[index], now_ms);
}

static void
on_edge(evutil_socket_t fd, short what, void *arg)
{
	struct dial *d = arg;

	(void)fd;
	(void)what;
	d->has_edge = true;
	d->args.wake(d->args.arg);
}

/* Where the attempt goes: a slot is always free when this is called. */
static struct attempt *
free_slot(struct dial *d)
{
	if (d->attempt[0].fd == -1)
		return &d->attempt[0];
	assert(d->attempt[1].fd == -1);
	return &d->attempt[1];
}

/* Start one connect; false when it failed at once, or has to wait. */
static bool
attempt_start(struct dial *d, size_t index, int64_t now_ms)
{
	const struct addr *addr = &d->addrs[index];
	struct attempt *a = free_slot(d);
	int fd =
	    net_socket(addr_family(addr), d->args.side, d->args.keepalive_s);
	int error;

	if (fd == -1) {
		failed(d, index, errno, now_ms);
		return false;
	}
	error = connect(fd, &addr->sa.any, addr->len) == 0 ? 0 : errno;
	if (error == EAGAIN && addr_family(addr) == AF_UNIX) {
		/* The backlog is full, and no event ever follows. */
		(void)close(fd);
		d->retry_ms = now_ms + UNIX_RETRY_MS;
		d->why = DIAL_TIMEOUT;
		d->why_index = index;
		return false;
	}
	if (error != 0 && error != EINPROGRESS) {
		(void)close(fd);
		failed(d, index, error, now_ms);
		return false;
	}
	/* Added after connect(): before it a spurious hang-up edge shows. */
	a->event = event_new(
	    d->args.base, fd, EV_WRITE | EV_ET | EV_PERSIST, on_edge, d);
	if (a->event == NULL || event_add(a->event, NULL) == -1) {
		(void)close(fd);
		if (a->event != NULL)
			event_free(a->event);
		a->event = NULL;
		failed(d, index, ENOMEM, now_ms);
		return false;
	}
	a->fd = fd;
	a->index = index;
	a->started_ms = now_ms;
	return true;
}

/* Next address that the breaker lets through; false: the list is through. */
static bool
start_next(struct dial *d, int64_t now_ms)
{
	while (d->next < d->args.n_addrs) {
		size_t index = (d->args.first + d->next) % d->args.n_addrs;

		d->next++;
		if (breaker_is_open(d->args.breaker, &d->addrs[index], now_ms))
			continue;
		d->tried++;
		if (attempt_start(d, index, now_ms) || d->retry_ms != 0)
			return true;
	}
	return false;
}

struct dial *
dial_start(const struct dial_args *args, int64_t now_ms)
{
	struct dial *d =
	    calloc(1, sizeof(*d) + args->n_addrs * sizeof(d->addrs[0]));

	if (d == NULL)
		return NULL;
	d->args = *args;
	d->args.addrs = d->addrs;
	if (args->n_addrs != 0)
		memcpy(
		    d->addrs, args->addrs, args->n_addrs * sizeof(d->addrs[0]));
	d->attempt[0].fd = d->attempt[1].fd = d->won_fd = -1;
	d->why = args->n_addrs == 0 ? DIAL_DNS : DIAL_BREAKER;
	(void)start_next(d, now_ms);
	return d;
}

/*
 * A refused SYN is ECONNREFUSED: these two come only after the connect. The
 * app took the caller, and may have spoken before it hung up.
 */
static bool
was_connected(const struct dial *d, int error)
{
	return d->args.side == SIDE_PLAIN &&
	       (error == ECONNRESET || error == EPIPE);
}

/* Has this attempt connected? Sets why if it has failed. */
static bool
attempt_check(struct dial *d, struct attempt *a, int64_t now_ms)
{
	int error = 0;
	socklen_t len = sizeof(error);

	if (a->fd == -1)
		return false;
	if (!net_is_writable(a->fd))
		return false;
	if (getsockopt(a->fd, SOL_SOCKET, SO_ERROR, &error, &len) == -1)
		error = errno;
	if (error == 0 || was_connected(d, error)) {
		event_free(a->event);
		a->event = NULL;
		d->won_error = error;
		d->won_fd = a->fd;
		d->won = a->index;
		a->fd = -1;
		return true;
	}
	failed(d, a->index, error, now_ms);
	attempt_end(a);
	return false;
}

static bool
is_idle(const struct dial *d)
{
	return d->attempt[0].fd == -1 && d->attempt[1].fd == -1;
}

/* 250 ms without an answer: another beside it; a third ends the oldest. */
static void
stagger(struct dial *d, int64_t now_ms)
{
	struct attempt *newest =
	    d->attempt[1].fd != -1 ? &d->attempt[1] : &d->attempt[0];

	if (newest->fd == -1 || d->next >= d->args.n_addrs ||
	    now_ms < newest->started_ms + DIAL_STAGGER_MS)
		return;
	if (d->attempt[0].fd != -1 && d->attempt[1].fd != -1) {
		failed(d, d->attempt[0].index, ETIMEDOUT, now_ms);
		attempt_end(&d->attempt[0]);
		d->attempt[0] = d->attempt[1];
		d->attempt[1] = (struct attempt){.fd = -1};
	}
	(void)start_next(d, now_ms);
}

enum dial_state
dial_step(struct dial *d, int64_t now_ms)
{
	if (d->won_fd != -1)
		return DIAL_CONNECTED;
	d->has_edge = false;
	if (attempt_check(d, &d->attempt[0], now_ms) ||
	    attempt_check(d, &d->attempt[1], now_ms)) {
		attempt_end(&d->attempt[0]);
		attempt_end(&d->attempt[1]);
		return DIAL_CONNECTED;
	}
	if (d->attempt[0].fd == -1) {
		/* The older one has failed: the other is the older one now. */
		d->attempt[0] = d->attempt[1];
		d->attempt[1] = (struct attempt){.fd = -1};
	}
	if (d->retry_ms != 0) {
		if (now_ms < d->retry_ms)
			return DIAL_WAIT;
		d->retry_ms = 0;
		if (attempt_start(d, d->why_index, now_ms) || d->retry_ms != 0)
			return DIAL_WAIT;
	}
	stagger(d, now_ms);
	if (is_idle(d) && !start_next(d, now_ms))
		return DIAL_FAILED;
	return DIAL_WAIT;
}

int64_t
dial_next_ms(const struct dial *d)
{
	const struct attempt *newest =
	    d->attempt[1].fd != -1 ? &d->attempt[1] : &d->attempt[0];

	if (d->retry_ms != 0)
		return d->retry_ms;
	if (is_idle(d))
		return 0; /* it has failed: dial_step() says so */
	if (d->next >= d->args.n_addrs)
		return INT64_MAX;
	return newest->started_ms + DIAL_STAGGER_MS;
}

int
dial_take(struct dial *d, struct addr *addr_r)
{
	int fd = d->won_fd;

	assert(fd != -1);
	*addr_r = d->addrs[d->won];
	d->won_fd = -1;
	return fd;
}

int
dial_error(const struct dial *d)
{
	return d->won_error;
}

enum dial_reason
dial_why(const struct dial *d, struct addr *addr_r)
{
	*addr_r = (struct addr){0};
	if (d->args.n_addrs != 0)
		*addr_r =
		    d->addrs[d->tried == 0 ? d->args.first % d->args.n_addrs
		                           : d->why_index];
	return d->why;
}
