#ifndef POSTERN_WORKER_INT_H
#define POSTERN_WORKER_INT_H

/* What the files of worker share. */

#include <event2/event_struct.h>
#include <pthread.h>

#include "worker.h"

struct caller_env;

/* Connections per turn of a pass over all of them. */
#define SLICE_CONNS 1000
/* Ready connections stepped per turn, before mail and timers come again. */
#define READY_PER_TURN 512
#define GROUP_CACHE    64

struct worker_listener {
	struct listener conf;
	struct event *event; /* NULL while paused */
	struct worker *worker;
};

struct group_entry {
	struct local_caller facts;
	int64_t until_ms;
};

/*
 * A pass over all connections, a slice a turn. NEXT is the connection to go on
 * with; whoever removes that one moves NEXT on.
 */
struct pass {
	struct node node; /* in worker.passes */
	struct node *next;
	struct mail *mail;        /* KILL or QUERY; NULL: judge again */
	uint64_t conf_generation; /* judge again: seen afterwards */
};

struct worker {
	struct worker_shared *shared;
	struct worker_public *public;
	unsigned int index;
	struct mailbox *mailbox;
	struct event_base *base;
	pthread_t thread;
	bool started;
	bool stopping;

	struct conn_env env;
	struct spill_pool spills;
	struct wheel wheel;
	struct ring *traffic;
	struct ring *denials;
	uint64_t next_conn;
	uint32_t sampled;

	const struct conf *conf;
	struct worker_listener *listeners;
	size_t n_listeners;
	bool listening;    /* events are on, unless paused */
	bool paused;       /* out of descriptors or connections */
	int64_t resume_ms; /* paused: try again */
	struct mail_targets *targets;

	struct node all;     /* every connection, oldest first */
	struct node ready;   /* to be stepped */
	struct node heavy;   /* wait for a handshake step, FIFO */
	struct node linger;  /* asked again each 10 ms */
	struct node starved; /* wait for a spill buffer */
	struct node dead;    /* freed at the end of the turn */
	struct node passes;
	size_t n_conns;

	struct event *mail_event;
	struct event *tick_event;
	bool tick_on;
	bool fast_tick; /* 10 ms: somebody lingers */
	struct group_entry groups[GROUP_CACHE];
};

/* worker.c */
void worker_enqueue(void *owner, struct conn *c);
struct conn *worker_find(struct worker *w, uint64_t id);

/* listen.c */
void worker_listeners_adopt(
    struct worker *w, const struct listener *list, size_t n);
void worker_listeners_stop(struct worker *w);
void worker_listeners_resume(struct worker *w);
void worker_take_handoff(struct worker *w, struct mail_handoff *m);

/* slices.c */
void worker_pass_start(
    struct worker *w, struct mail *mail, uint64_t conf_generation);
/* One slice of the oldest pass; true while passes are left. */
bool worker_pass_step(struct worker *w);
/* C leaves the list of connections. */
void worker_pass_forget(struct worker *w, struct conn *c);

/* mail.c */
void worker_take_mail(struct worker *w);

#endif
