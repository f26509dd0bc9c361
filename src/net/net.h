#ifndef POSTERN_NET_H
#define POSTERN_NET_H

/*
 * Listening sockets and connects in progress. Sockets are opened by control
 * and served by workers; a dial lives on one worker's loop.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "addr.h"
#include "err.h"

struct event;
struct event_base;

/* Which side of a connection a socket is on: their options differ. */
enum net_side {
	SIDE_MESH,
	SIDE_PLAIN, /* zero linger from the first moment, urgent byte in line */
};

/* ---- Listening sockets ---- */

struct listen_args {
	struct addr addr;
	enum net_side side;
	uint32_t keepalive_s; /* 0: off */
	mode_t unix_mode;
	bool unix_group; /* grant UNIX_GID by an access list on the socket */
	gid_t unix_gid;
};

/*
 * Bind, without listening yet. Control thread. A stale unix socket file is
 * replaced only after a connect to it was refused; anything else at the path
 * is never removed. TCP sockets get SO_REUSEPORT, IP_FREEBIND, IPV6_V6ONLY and
 * every option that accepted sockets inherit.
 */
enum fault net_bind(const struct listen_args *args, int *fd_r, struct why *why);
enum fault net_listen(int fd, uint32_t backlog, struct why *why);
/* Options of NET_BIND on a descriptor that was inherited. */
void net_adopt_listener(int fd, const struct listen_args *args);

/* Accepts per wake: a storm must not starve the loop. */
#define ACCEPTS_PER_WAKE 4

enum accept_status {
	ACCEPT_DONE,
	ACCEPT_EMPTY,  /* queue is empty, or the caller was gone again */
	ACCEPT_FULL,   /* out of descriptors or memory: pause the listener */
	ACCEPT_BROKEN, /* the listener itself */
};

/* Non-blocking, close-on-exec. *ERROR_R: errno of FULL and BROKEN. */
enum accept_status net_accept(
    int listen_fd, int *fd_r, struct addr *from_r, int *error_r);

/* ---- Socket facts and endings ---- */

/* Arm or disarm zero linger: armed, a close is a reset (N4). */
void net_linger_zero(int fd, bool armed);
/* Bytes that the other kernel has not acknowledged; 0 if unknown. */
size_t net_unacked(int fd);

enum net_gone { NET_HERE, NET_ABORTED, NET_CLOSED };
/*
 * Has the other end of a socket that is not read yet gone away? ABORTED on TCP
 * by an error or a reset, CLOSED on unix sockets, where a hang-up is no more
 * than an end. Consumes nothing.
 */
enum net_gone net_poll_gone(int fd, bool is_unix);

/* Read and drop up to MAX bytes. True when the end was read, or an error. */
bool net_discard(int fd, size_t max, size_t *dropped_r);

/*
 * Is the peer of FD dead? Bytes in flight, no ACK for TIMEOUT_MS, and probes
 * unanswered (reliability: a paused reader answers its window probes).
 */
bool net_peer_is_dead(int fd, uint64_t timeout_ms);

/* ---- Dialling ---- */

/* Addresses that failed lately, per worker: not dialled again for a second. */
struct breaker;
struct breaker *breaker_new(void); /* NULL: no memory */
void breaker_free(struct breaker **b);

enum dial_reason {
	DIAL_OK,
	DIAL_REFUSED,
	DIAL_TIMEOUT,
	DIAL_UNREACHABLE,
	DIAL_DNS, /* no address yet */
	DIAL_RESET,
	DIAL_BREAKER,   /* every address failed within the last second */
	DIAL_LOOP,      /* the address is a listener of ours */
	DIAL_NO_SOCKET, /* no descriptor or no memory */
	DIAL_PORTS,     /* EADDRNOTAVAIL: no source port is left */
};

/* "refused": label of postern_target_failures_total and of `reason`. */
const char *dial_reason_label(enum dial_reason r);
enum { DIAL_REASON_COUNT = DIAL_PORTS + 1 };

struct dial_args {
	struct event_base *base;
	const struct addr *addrs; /* copied */
	size_t n_addrs;
	size_t first; /* index to begin with; the rest follows cyclically */
	enum net_side side;
	uint32_t keepalive_s;
	struct breaker *breaker;
	/* An attempt changed: call dial_step() soon. Never from dial_start(). */
	void (*wake)(void *arg);
	void *arg;
};

enum dial_state { DIAL_WAIT, DIAL_CONNECTED, DIAL_FAILED };

struct dial;

/* At most this long alone before the next address is tried beside it. */
#define DIAL_STAGGER_MS 250

/*
 * Begin. NULL: no memory. At most two attempts are in flight; refused or
 * unreachable moves on at once (RFC 8305, section 5).
 */
struct dial *dial_start(const struct dial_args *args, int64_t now_ms);
enum dial_state dial_step(struct dial *d, int64_t now_ms);
/* When to call dial_step() without a wake; INT64_MAX: never. */
int64_t dial_next_ms(const struct dial *d);
/* CONNECTED: the descriptor, given; *ADDR_R which address. */
int dial_take(struct dial *d, struct addr *addr_r);
/*
 * CONNECTED on the plain side: ECONNRESET or EPIPE if the app has reset the
 * connection since, else 0. The kernel tells it once, and it was told here.
 */
int dial_error(const struct dial *d);
/* FAILED: of the last attempt. *ADDR_R: the address that it was made to. */
enum dial_reason dial_why(const struct dial *d, struct addr *addr_r);
void dial_free(struct dial **d);

#endif
