#ifndef POSTERN_WORKER_H
#define POSTERN_WORKER_H

/*
 * One thread, one loop, its listeners and its connections.
 *
 * A worker shares nothing that changes. What it needs arrives by mail, as an
 * object that is its own from then on or never changes again; what others may
 * read of it are counters with one writer. worker_new() and worker_start()
 * are called by control before any thread runs.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "conf.h"
#include "conn.h"
#include "counters.h"
#include "mailbox.h"
#include "ring.h"

struct tls_material;
struct tls_set;
struct worker;

#define WORKERS_MAX 256

/* What every worker publishes; one writer each, relaxed but for seen_*. */
struct worker_public {
	_Alignas(64) struct counter connections;
	struct counter unproven; /* inbound, no identity shown yet */
	struct counter turns;
	struct counter seen_conf;     /* newest generation it is done with */
	struct counter seen_material; /* the same of materials */
	struct counter heartbeat_ms;  /* boot clock of the last answered ping */
	struct counter accept_errors;
	struct histogram lag;
};

/* What all workers of a process may read; made by control, outlives them. */
struct worker_shared {
	size_t n_workers;
	struct worker **workers;
	struct worker_public *public; /* one each */
	struct mailbox *control;
	_Atomic uint64_t max_connections;
	_Atomic int log_level;     /* enum log_level */
	_Atomic bool logs_pending; /* control was told that rings hold lines */
	uint64_t descriptors_max;  /* RLIMIT_NOFILE */
	size_t spill_max_bytes;    /* per worker */
};

/* ---- Mail to a worker ---- */

enum worker_mail {
	/* Slots: the newest wins. */
	MAIL_CONF = 1,
	MAIL_MATERIAL = 2,
	MAIL_TARGETS = 3,
	/* In order. */
	MAIL_PING,
	MAIL_LISTEN,
	MAIL_KILL,
	MAIL_QUERY,
	MAIL_GROUPS,
	MAIL_HANDOFF,
	MAIL_STOP,
};

/* One listening descriptor of one worker; descriptors belong to control. */
struct listener {
	int fd;
	unsigned int service; /* index in conf.services */
	struct addr addr;
};

struct mail_conf {
	struct mail mail;
	const struct conf *conf;
	struct listener *listeners; /* owned by the message */
	size_t n_listeners;
};

struct mail_material {
	struct mail mail;
	uint64_t generation;
	struct tls_set *set; /* NULL: swap in place */
	struct tls_material *material;
};

struct mail_targets {
	struct mail mail;
	uint64_t conf_generation;
	size_t n_services;
	struct target_list *lists; /* by service index; owned */
};

struct mail_ping {
	struct mail mail;
	int64_t posted_ns;
	int64_t posted_ms;
};

/* Stop accepting (or go on). What waits in the queues stays there. */
struct mail_listen {
	struct mail mail;
	bool stop;
};

/* End connections; comes back to control with the number. */
struct mail_kill {
	struct mail mail;
	uint64_t request; /* control's; 0: nobody waits */
	unsigned int worker;
	enum close_reason reason;
	bool departed;    /* only of services that are no longer in force */
	char *service;    /* NULL: any; owned */
	char *peer;       /* NULL: any; owned */
	uint64_t conn_id; /* 0: any */
	uint64_t ended;
};

/* A connection as `connections` shows it. */
struct conn_row {
	uint64_t id;
	enum conn_state state;
	char service[33];
	bool inbound;
	char src[ADDR_TEXT_MAX];
	char dst[ADDR_TEXT_MAX];
	char *peer; /* NULL: none proved; owned */
	uint64_t bytes_in, bytes_out;
	int64_t age_ms, idle_ms;
	bool half_closed;
};

struct mail_query {
	struct mail mail;
	uint64_t request; /* as above */
	unsigned int worker;
	char *service; /* NULL: any; owned */
	char *peer;    /* NULL: any; owned */
	uint64_t conn_id;
	struct conn_row *rows;
	size_t n_rows, cap_rows;
	bool failed; /* out of memory: not all are here */
};

/* Worker to control, and back. */
struct mail_groups {
	struct mail mail;
	unsigned int worker;
	uint64_t conn_id;
	struct local_caller facts; /* uid asked; groups answered */
};

struct mail_handoff {
	struct mail mail;
	int fd;
	struct addr from;
	enum direction direction; /* one name may change sides */
	char service[33];
};

/* Worker to control. */
enum control_mail {
	NOTE_SWAP_FAILED = 100, /* struct mail_note */
	NOTE_RESOLVE,           /* struct mail_note: SERVICE needs its names */
	NOTE_LOGS,              /* struct mail: rings hold lines */
};

struct mail_note {
	struct mail mail;
	unsigned int worker;
	unsigned int service;
	uint64_t conf_generation;
	struct why why;
};

/* Any kind, unread or answered: give everything back. */
void worker_mail_free(struct mail **m);

/* ---- Life ---- */

/* A loop without locks, for one thread. NULL: no memory. */
struct event_base *worker_base_new(void);

/* Control, before any thread starts. NULL: no memory or descriptors. */
struct worker *worker_new(struct worker_shared *shared, unsigned int index);
enum fault worker_start(struct worker *w, struct why *why);
/* After MAIL_STOP. */
void worker_join(struct worker *w);
/* Joined, or never started. */
void worker_free(struct worker **w);

/* Any thread; as mail_post(). */
struct mail *worker_post(struct worker *w, struct mail *m);
void worker_post_pair(struct worker *w, struct mail *a, struct mail *b);

/* Control: lines of allowed traffic, and denials, which it cannot crowd out. */
struct ring *worker_traffic_ring(struct worker *w);
struct ring *worker_denial_ring(struct worker *w);

/* "2.1.12-stable", of the libevent that runs. */
const char *worker_library_version(void);

#endif
