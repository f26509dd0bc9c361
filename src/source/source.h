#ifndef POSTERN_SOURCE_H
#define POSTERN_SOURCE_H

/*
 * Where identities come from, and the keeper that judges and holds them.
 *
 * A source parses and offers; the keeper decides: grace, watchdog, fence,
 * pinning and "last good" are written once, for all sources. Control thread.
 * The keeper has no clock and does no I/O: it is told the time.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "err.h"
#include "mem.h"

struct event_base;
struct identity;
struct svid;

/* A source speaks to the keeper in these words only. */
struct source_sink {
	void *arg;
	void (*offer)(void *arg, struct identity **full);  /* all; taken */
	void (*refused)(void *arg, const struct why *why); /* "no identity" */
	void (*down)(void *arg, const struct why *why, bool will_retry);
	/* A message was dropped whole, or its SVIDs were; REASON is a label. */
	void (*discarded)(void *arg, const char *reason, const struct why *why);
	/* The identity now in force, for identity_new(); NULL before. */
	const struct identity *(*current)(void *arg);
	/* Counter of bundle generations. */
	uint64_t *(*next_generation)(void *arg);
};

struct source_conf {
	const char
	    *endpoint; /* checked: unix:///path, unix:/path, tcp://IP:port */
	const uid_t *agent_uids; /* who may be the agent, besides 0 and us */
	size_t n_agent_uids;
};

/* What `status`, `identity` and the metrics show of a source. */
enum source_state {
	SOURCE_BACKOFF, /* waiting to reconnect */
	SOURCE_CONNECTING,
	SOURCE_WAITING, /* stream open, no message yet; no deadline */
	SOURCE_LIVE,    /* at least one valid message on this stream */
	SOURCE_STOPPED, /* no retry until a reload or a new socket */
};

#define SOURCE_GRPC_CODES 17

struct source_status {
	enum source_state state;
	int64_t last_message_ms; /* boot clock; 0: none yet */
	int64_t next_try_ms;     /* boot clock; BACKOFF */
	bool agent_uid_known;
	uid_t agent_uid;
	struct why last_error;                     /* "" if none */
	uint64_t stream_errors[SOURCE_GRPC_CODES]; /* by gRPC status */
	uint64_t lock_failures; /* receive buffers that could not be locked */
};

struct source;

struct source_ops {
	const char *name;
	enum fault (*start)(struct source **s_r, const struct source_conf *conf,
	    struct event_base *base, const struct source_sink *sink,
	    struct why *why);
	void (*reopen)(struct source *s); /* up, but nothing new for too long */
	/* How long the SVID lasts (boot ms, 0 none): bounds the back-off. */
	void (*deadline)(struct source *s, int64_t svid_end_ms);
	void (*status)(const struct source *s, struct source_status *st_r);
	void (*stop)(struct source **s);
};

/* Embedded first in each kind of source. */
struct source {
	const struct source_ops *ops;
};

/* ---- Back-off: how long to wait before the agent is asked again ---- */

enum backoff_cause {
	BACKOFF_ENDED,   /* the stream ended, or failed, in any other way */
	BACKOFF_REFUSED, /* PermissionDenied */
	BACKOFF_SLOW,    /* will repeat: oversize message, EACCES, EPERM */
	BACKOFF_ABSENT,  /* nobody listens: ENOENT, ECONNREFUSED */
	BACKOFF_BUSY,    /* the agent's backlog is full: EAGAIN */
};
#define BACKOFF_CAUSES 5

/* Streams that may be opened in BACKOFF_WINDOW_MS before the cap applies. */
#define BACKOFF_OPENINGS  120
#define BACKOFF_WINDOW_MS 60000

/* Zeroed is ready. Pure: the time and the dice are arguments. */
struct backoff {
	unsigned int steps[BACKOFF_CAUSES];
	bool had_message; /* of the present stream, a valid one */
	int64_t opened_ms[BACKOFF_OPENINGS];
	size_t openings;
};

void backoff_opened(struct backoff *b, int64_t boot_ms);
void backoff_message(struct backoff *b); /* a valid one */
/*
 * Milliseconds to wait now. SVID_END_MS (boot clock, 0: none) bounds the wait
 * to a tenth of what the SVID has left; RANDOM is any 32 bits.
 */
int64_t backoff_wait(struct backoff *b, enum backoff_cause cause,
    int64_t boot_ms, int64_t svid_end_ms, uint32_t random);

/* ---- Keeper ---- */

struct keeper;

struct keeper_conf {
	struct span trust_domain; /* pin; empty: none */
	int64_t grace_ms;         /* redaction_grace */
};

/* What the keeper asks of its owner after an event. Bits. */
enum keeper_act {
	KEEPER_PUBLISH = 1,   /* render keeper_identity(), keeper_svid() anew */
	KEEPER_REOPEN = 2,    /* ask the source for a second stream */
	KEEPER_STALE = 4,     /* 75 % of the SVID's life without a newer one */
	KEEPER_GRACE = 8,     /* redaction grace began */
	KEEPER_FENCED = 16,   /* the identity may no longer be presented */
	KEEPER_ACQUIRED = 32, /* first SVID, or the first after a fence */
	KEEPER_ROTATED = 64,  /* a newer SVID of the same ID */
	KEEPER_TRUST = 128,   /* bundles or lists changed */
	/* With FENCED: not for its age, so what was made with it ends too. */
	KEEPER_WITHDRAWN = 256,
};

struct keeper *keeper_new(const struct keeper_conf *conf); /* NULL: memory */
void keeper_free(struct keeper **k);
unsigned int keeper_configure(struct keeper *k, const struct keeper_conf *conf,
    int64_t now_s, int64_t boot_ms);

/*
 * Each returns a set of keeper_act bits. NOW_S is the wall clock, BOOT_MS the
 * boot clock. FULL is taken.
 */
unsigned int keeper_offer(struct keeper *k, struct identity **full,
    int64_t now_s, int64_t boot_ms, struct why *why);
unsigned int keeper_refused(struct keeper *k, int64_t now_s, int64_t boot_ms);
unsigned int keeper_down(struct keeper *k, int64_t now_s, int64_t boot_ms);
/* Time passed, or jumped. At least once a second. */
unsigned int keeper_tick(struct keeper *k, int64_t now_s, int64_t boot_ms);

/* What is in force: trust, and the SVID to present or NULL (fenced, none). */
const struct identity *keeper_identity(const struct keeper *k);
const struct svid *keeper_svid(const struct keeper *k);
/*
 * The newest identity whose SVIDs were sound, for services that name theirs by
 * id or hint; NULL: none yet. Its dates are the caller's to judge.
 */
const struct identity *keeper_svids(const struct keeper *k);
/* Moves with every KEEPER_PUBLISH. */
uint64_t keeper_generation(const struct keeper *k);
uint64_t *keeper_next_bundle_generation(struct keeper *k);

enum keeper_state {
	KEEPER_EMPTY, /* before the first SVID */
	KEEPER_GOOD,
	KEEPER_IN_GRACE,
	KEEPER_EXPIRED,  /* fenced by time */
	KEEPER_REDACTED, /* fenced by the agent */
};

struct keeper_status {
	enum keeper_state state;
	bool stale;
	uint64_t rotations;
	int64_t last_rotation_s; /* wall clock, 0 never */
	int64_t denied_since_ms; /* boot clock; 0: no streak of refusals */
	bool
	    several_svids; /* more than one offered and none selected by name */
};

void keeper_status(const struct keeper *k, struct keeper_status *st_r);

#endif
