#ifndef POSTERN_STREAM_H
#define POSTERN_STREAM_H

/*
 * A byte stream with two kinds of ending. Nothing here assumes a descriptor:
 * "want" means until the owner has marked the stream ready again.
 *
 * Called on the worker that owns the stream. Never blocks, never calls back.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "err.h"

struct stream;

/* What one call on a stream came to. */
enum io_status {
	IO_DONE,       /* bytes moved, at least one */
	IO_WANT_READ,  /* not before the stream is readable */
	IO_WANT_WRITE, /* not before the stream is writable */
	IO_END,        /* clean end of input: FIN, or close_notify */
	IO_ABORT,      /* anything else: see stream_why() */
};

/* How a stream came to its abort. */
enum stream_end {
	STREAM_OPEN,
	STREAM_RESET,     /* RST, or another error of the transport */
	STREAM_TRUNCATED, /* TLS: the transport ended without close_notify */
	STREAM_ALERT,     /* TLS: the peer sent a fatal alert */
	STREAM_FLOOD,     /* TLS: too many control records */
	STREAM_PROTOCOL,  /* TLS: the peer broke the protocol */
};

struct stream_ops {
	/*
	 * Up to LEN bytes, LEN > 0. IO_DONE: *N_R bytes. After IO_END or
	 * IO_ABORT the same answer comes for ever.
	 */
	enum io_status (*read)(
	    struct stream *s, void *buf, size_t len, size_t *n_r);
	/*
	 * *N_R bytes were taken. MORE: further bytes follow in this turn.
	 * After IO_WANT_* the same bytes must be offered again, first.
	 */
	enum io_status (*write)(struct stream *s, const void *buf, size_t len,
	    bool more, size_t *n_r);
	/* Pass a clean end on. IO_DONE, IO_WANT_WRITE (call again), IO_ABORT. */
	enum io_status (*finish)(struct stream *s);
	/*
	 * From now on the end of the transport is an abort: with zero linger,
	 * no close_notify. The descriptor stays open until its owner closes it.
	 */
	void (*abort)(struct stream *s);
};

/* Embedded first in each kind of stream. */
struct stream {
	const struct stream_ops *ops;
	bool readable; /* an edge came and input was not seen to be empty yet */
	bool writable;
	enum stream_end broken;  /* latched by whichever call saw it first */
	const char *broken_text; /* constant: errno's or alert's name */
	uint64_t read_bytes;     /* delivered by read() */
	uint64_t written_bytes;  /* taken by write() */
};

static inline enum io_status
stream_read(struct stream *s, void *buf, size_t len, size_t *n_r)
{
	return s->ops->read(s, buf, len, n_r);
}

static inline enum io_status
stream_write(
    struct stream *s, const void *buf, size_t len, bool more, size_t *n_r)
{
	return s->ops->write(s, buf, len, more, n_r);
}

static inline enum io_status
stream_finish(struct stream *s)
{
	return s->ops->finish(s);
}

static inline void
stream_abort(struct stream *s)
{
	s->ops->abort(s);
}

/* ---- A plain stream: a TCP or unix descriptor ---- */

/*
 * Edge-triggered: `readable` is cleared by EAGAIN or by a short read, which
 * proves that the socket was empty. HUP says that the peer's end (or error)
 * was announced together with bytes: then a short read proves nothing, since
 * no further edge comes for the end.
 */
struct stream_plain {
	struct stream stream;
	int fd; /* borrowed */
	bool is_unix;
	bool hup;
	bool ended;    /* the clean end was read */
	bool finished; /* FIN is out */
};

void stream_plain_init(struct stream_plain *p, int fd, bool is_unix);
/* ERROR was seen by a call on the descriptor that is not made here. */
void stream_plain_broke(struct stream_plain *p, int error);

#endif
