#ifndef POSTERN_RELAY_H
#define POSTERN_RELAY_H

/*
 * Bytes from one stream to another, then the end: a pump is one direction, a
 * relay is two.
 *
 * Called by conn on the worker that owns both streams. Never blocks, never
 * waits for events, never frees a stream, has never heard of TLS, and holds no
 * buffer of its own while the sink keeps up.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "queue.h"

struct stream;

/* ---- Buffers ---- */

#define SCRATCH_BYTES ((size_t)64 * 1024)

/* What a slow sink left: bytes [OFF, LEN) are owed, in order. */
struct spill {
	struct node node; /* in the pool's free list */
	size_t size;
	size_t off;
	size_t len;
	uint8_t data[];
};

/*
 * Spill buffers of one worker. One spare of full size is always kept, so that
 * nothing is read that could not be kept; while there is none, no pump reads.
 */
struct spill_pool {
	struct spill *spare;
	struct node free; /* full-size buffers */
	size_t n_free;
	size_t used_bytes; /* spare and free ones included */
	size_t max_bytes;
	bool starved; /* somebody was refused: wake them on the next return */
};

/* MAX_BYTES bounds all buffers together, never below one spare. False: no
 * memory. */
bool spill_pool_init(struct spill_pool *pool, size_t max_bytes);
/* Every buffer was given back. */
void spill_pool_fini(struct spill_pool *pool);
/* May a pump read? Tries to make the spare if it is missing. */
bool spill_pool_ready(struct spill_pool *pool);

/* A worker's buffer for one turn; nothing points into it afterwards. */
struct scratch {
	uint8_t *data; /* SCRATCH_BYTES */
	struct spill_pool *spills;
};

/* ---- One direction ---- */

enum pump_end {
	PUMP_OPEN,     /* the source may still deliver */
	PUMP_DRAINING, /* source ended; bytes or the end are still owed */
	PUMP_ENDED,    /* end passed on: neither stream is touched again */
	PUMP_BROKEN,   /* source or sink aborted */
};

/*
 * While SPILL holds bytes the source is not read. TAKEN counts what was read,
 * GIVEN what the sink took: they differ by the spill, and at the end by what
 * an abort dropped.
 */
struct pump {
	struct stream *from;
	struct stream *to;
	struct spill *spill;
	enum pump_end end;
	bool sink_failed; /* BROKEN: it was the sink */
	uint64_t taken_bytes;
	uint64_t given_bytes;
};

/* What one step of a pump asks of the owner. */
enum pump_want {
	PUMP_WANT_INPUT,  /* nothing to move: wait for the source */
	PUMP_WANT_OUTPUT, /* sink is full: wait for it, source is not read */
	PUMP_WANT_SPILL,  /* no buffer to fall back on: wait for one */
	PUMP_AGAIN,       /* share used up, more is ready: queue me again */
	PUMP_DONE,        /* source ended, all bytes out, end passed on */
	PUMP_FAILED,      /* one side aborted */
};

void pump_init(struct pump *p, struct stream *from, struct stream *to);
/* Gives the spill back. */
void pump_fini(struct pump *p, struct spill_pool *pool);

/*
 * Move up to SHARE bytes without blocking, then say what to wait for.
 *
 * SCRATCH is borrowed for the call. The end of the source is passed on as a
 * half-close of the sink, after the last byte: FIN on a plain stream,
 * close_notify on a TLS one (RFC 8446, section 6.1). An abort is never passed
 * on as an end; what was read before it is given to the sink, or stays owed
 * for pump_flush().
 */
enum pump_want pump_step(struct pump *p, struct scratch *scratch, size_t share);

/*
 * Only write what is owed; the source is left alone. PUMP_DONE: nothing is
 * owed any more. PUMP_FAILED: the sink is gone.
 */
enum pump_want pump_flush(struct pump *p, struct spill_pool *pool);

/* Bytes read from the source that the sink has not got. */
uint64_t pump_owed(const struct pump *p);

/* ---- Both ---- */

/* Share of one turn, per direction. */
#define RELAY_SHARE ((size_t)256 * 1024)

struct relay {
	struct pump to_plain;
	struct pump to_mesh;
};

enum relay_state {
	RELAY_WAIT,        /* nothing without an event or a deadline */
	RELAY_STARVED,     /* waits for a spill buffer besides */
	RELAY_AGAIN,       /* a share was used up */
	RELAY_ENDED,       /* both directions ended cleanly */
	RELAY_MESH_BROKE,  /* mesh side aborted; to_plain may still owe bytes */
	RELAY_PLAIN_BROKE, /* plain side aborted; to_mesh may still owe */
};

void relay_init(struct relay *r, struct stream *mesh, struct stream *plain);
void relay_fini(struct relay *r, struct spill_pool *pool);
enum relay_state relay_step(struct relay *r, struct scratch *scratch);

/* Exactly one direction has ended. */
bool relay_is_half_closed(const struct relay *r);

#endif
