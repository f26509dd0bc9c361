#ifndef POSTERN_CONN_H
#define POSTERN_CONN_H

/*
 * One connection, from accept to its line in the log.
 *
 * Every cause (an edge, a deadline, mail, a finished look-up) sets a bit and
 * queues the connection; conn_step() is the only place where a state changes.
 * It returns what it waits for, and only the worker frees. One worker owns a
 * connection for its whole life.
 *
 * It knows transports, policy and dialling; it does not know TLS.
 */

#include <event2/event_struct.h>
#include <stdbool.h>
#include <stdint.h>

#include "addr.h"
#include "conf.h"
#include "conn_states.def"
#include "counters.h"
#include "fields.h"
#include "net.h"
#include "policy.h"
#include "queue.h"
#include "reasons.h"
#include "relay.h"
#include "stream.h"
#include "transport.h"
#include "wheel.h"

struct caller_env;
struct conn;
struct peer;
struct tls_env;

enum conn_state {
#define X(state, deadline, reason) CONN_##state,
	CONN_STATES(X)
#undef X
};
#define X(state, deadline, reason) +1
enum { CONN_STATE_COUNT = 0 CONN_STATES(X) };
#undef X

const char *conn_state_name(enum conn_state s);

/* ---- Counters ---- */

/* Counters of one service on one worker. */
struct service_counters {
	struct counter allowed;
	struct counter denied;
	struct counter failed;
	struct counter rejected; /* before a verdict: a limit, a full table */
	struct counter opened;   /* active = opened - closed */
	struct counter closed;
	struct counter
	    half_opened; /* half closed = half_opened - half_closed */
	struct counter half_closed;
	struct counter reasons[DENY_REASON_COUNT];
	struct counter audit;
	struct counter closes[CLOSE_REASON_COUNT];
	struct counter handshake_failures[6]; /* by handshake_failure_label() */
	struct counter probes;
	struct counter missing_close_notify;
	struct counter peer_closed_before_data;
	struct counter received[2]; /* by enum net_side */
	struct counter sent[2];
	struct counter discarded[2];
	struct counter target_failures[DIAL_REASON_COUNT];
	struct counter reauthorized;
	struct histogram handshake;
	struct histogram connect;
};

/* "alert", "eof", "reset", "timeout", "protocol", "internal"; by index. */
const char *handshake_failure_label(size_t i);
enum { HANDSHAKE_FAILURE_COUNT = 6 };

/*
 * What outlives the configurations: made by control once per service name and
 * direction. LAST_TARGET is the one thing that workers share and change: a
 * hash of the address that worked last (0: none yet), relaxed, at dials only.
 */
struct service_shared {
	_Atomic uint64_t last_target;
	_Atomic uint64_t last_error_ms; /* wall clock of LAST_ERROR */
	size_t n_workers;
	struct service_counters *workers; /* one each, cache-line aligned */
};

/* ---- Targets ---- */

/* Addresses of one outbound service, in the order of its lines. */
struct target_list {
	struct addr *addrs;
	size_t n;
};

/* ---- The worker's side ---- */

/* What a worker lends to each call. Borrowed for the call. */
struct conn_env {
	struct event_base *base;
	struct scratch scratch;
	const struct transport_ops *transport;
	struct tls_env *tls;
	struct caller_env *caller;
	struct breaker *breaker;
	struct wheel *wheel;
	unsigned int worker; /* index */
	int64_t now_ms;      /* boot clock of this turn */
	int64_t now_s;       /* wall clock of this turn */
	uint64_t conf_generation;
	void *owner;
	/* Queue for a step in this turn or the next. */
	void (*enqueue)(void *owner, struct conn *c);
	/* Addresses of an outbound service now. */
	const struct target_list *(*targets)(
	    void *owner, const struct service *s);
	/* A dial found no address that works: have the names looked up. */
	void (*resolve)(void *owner, const struct service *s);
	/* Have the groups of UID looked up; conn_groups() brings the answer. */
	void (*ask_groups)(void *owner, struct conn *c, uid_t uid);
	/* A finished record; DENIAL goes to the ring that traffic cannot fill. */
	void (*record)(void *owner, const struct fields *f, bool denial);
	/* May a line of an allowed connection be written? Counts as one. */
	bool (*sample)(void *owner, const struct service *s);
};

/* What a step leaves its worker to do. */
enum conn_verdict {
	CONN_WAIT,    /* nothing more without an event or a deadline */
	CONN_AGAIN,   /* turn's share used up: tail of the ready list */
	CONN_HEAVY,   /* next is a handshake step: handshake queue */
	CONN_TICK,    /* lingers: ask again in 10 ms, besides events */
	CONN_STARVED, /* waits for a spill buffer, besides events */
	CONN_OVER,    /* state is CLOSED: move to the dead list */
};

/* The queue of the worker that a connection is in. */
enum conn_queue {
	QUEUE_NONE,
	QUEUE_READY,
	QUEUE_HEAVY,
	QUEUE_LINGER,
	QUEUE_STARVED,
	QUEUE_DEAD,
};

/*
 * MESH_FD and PLAIN_FD are -1 until they exist; both are closed by conn_free.
 * A connection is in exactly one queue of its worker, or in none.
 */
struct conn {
	struct node all;   /* worker: every connection */
	struct node queue; /* worker: by QUEUED */
	enum conn_queue queued;
	struct timer timer;
	struct conn_env *env;
	const struct service *service;
	uint64_t id;
	enum conn_state state;

	int mesh_fd;
	int plain_fd;
	struct event mesh_event;
	struct event plain_event;
	bool mesh_event_on;
	bool plain_event_on;
	bool mesh_hup; /* an end was announced before there was a link */

	const struct transport_ops *transport;
	struct link_conf link_conf;
	struct link_judge judge;
	struct mesh_link *link;
	struct stream *mesh;
	struct stream_plain plain;
	struct relay relay;
	struct dial *dial;

	struct peer *peer;           /* held once the handshake is complete */
	struct local_caller *caller; /* outbound: facts asked at accept */
	bool groups_asked;
	bool groups_came;
	bool may_be_heavy; /* the worker grants one handshake step */
	bool unproven;     /* the worker counts it as such */
	bool counted_allowed;
	bool audit_denied; /* `mode = audit` let it pass */
	bool half_counted;
	bool mesh_ended_first;
	bool own_id_shown;

	enum deny_reason deny;
	const struct rule *rule;
	const struct caller_rule *caller_rule;
	uint64_t judged_generation;

	enum close_reason close;
	enum dial_reason dial_reason;
	const char *reason_text; /* constant: alert or errno name */
	struct why *why;         /* heap, only when there is a sentence */
	char *claimed_id;        /* heap: what a refused leaf claims */

	bool linger_abort;  /* LINGER: ends as a reset, else cleanly */
	bool linger_drain;  /* LINGER: read out what still comes (a denial) */
	size_t linger_read; /* bytes dropped so far */
	struct pump *linger_pump; /* whose bytes are still owed */
	int64_t state_ms;         /* when this state began */
	int64_t deadline_ms;
	int64_t accepted_ms;
	int64_t active_ms; /* last byte */
	int64_t half_ms;   /* when the first direction ended; 0 */
	int64_t dial_ns;
	int64_t handshake_ns;
	int64_t connect_ms; /* durations for the line; -1: did not happen */
	int64_t handshake_ms;
	int64_t first_byte_ms;
	int64_t recheck_ms;    /* look for an error; 0: not planned */
	int64_t dead_check_ms; /* look for a dead leg; 0: not planned */

	struct addr src;
	struct addr dst;
};

/* An accepted descriptor (taken). NULL: no memory, the descriptor is reset. */
struct conn *conn_new(struct conn_env *env, const struct service *service,
    int fd, const struct addr *from, uint64_t id);

/* Advance as far as it goes without blocking. */
enum conn_verdict conn_step(struct conn *c);

/* The timer came: find the true deadline, and queue a step if it passed. */
void conn_timer(struct conn *c);

/* Answer to ask_groups: FACTS is borrowed; NULL: no answer within a second. */
void conn_groups(struct conn *c, const struct local_caller *facts);

/*
 * Judge again under SERVICE (the one of the same name in the configuration
 * now in force). False: no longer allowed, and conn_abort() was called.
 */
bool conn_rejudge(struct conn *c, const struct service *service);

/* End it as an abort for REASON; the reason that came first stays. */
void conn_abort(struct conn *c, enum close_reason reason);

/* Closes both sides and gives everything back. State must be CLOSED. */
void conn_free(struct conn **c);

struct service_counters *conn_counters(const struct conn *c);

/* "1f3b...": the name of a connection in logs and on the command line. */
#define CONN_ID_TEXT 17
const char *conn_id_text(uint64_t id, char buf[CONN_ID_TEXT]);

#endif
