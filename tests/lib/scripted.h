#ifndef POSTERN_TEST_SCRIPTED_H
#define POSTERN_TEST_SCRIPTED_H

/*
 * A stream that plays a script. Input: each letter is a byte, '-' is "nothing
 * yet" once, '.' a clean end for ever, '!' an abort for ever. Output: ROOM
 * bytes are taken, then the sink is full; FAIL_AT bytes and the sink breaks.
 */

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "stream.h"

struct scripted {
	struct stream s;
	const char *script;
	size_t read_max;  /* bytes per read; 0: all that stand together */
	size_t room;      /* bytes that the sink still takes */
	size_t write_max; /* bytes per write; 0: all */
	long fail_at;     /* after this many bytes the sink breaks; -1: never */
	int finish_waits; /* finish() says "not yet" this often */
	char got[65536 + 256];
	size_t n_got;
	int finished;
	int aborted;
	size_t reads; /* calls that found bytes */
};

static enum io_status
scripted_read(struct stream *s, void *buf, size_t len, size_t *n_r)
{
	struct scripted *x = CONTAINER_OF(s, struct scripted, s);
	size_t n = 0;

	switch (*x->script) {
	case '\0':
		return IO_WANT_READ;
	case '-':
		x->script++;
		return IO_WANT_READ;
	case '.':
		return IO_END;
	case '!':
		s->broken = STREAM_RESET;
		return IO_ABORT;
	default:
		break;
	}
	while (n < len && (x->read_max == 0 || n < x->read_max) &&
	       strchr("-.!", x->script[n]) == NULL)
		n++;
	memcpy(buf, x->script, n);
	x->script += n;
	x->reads++;
	s->read_bytes += n;
	*n_r = n;
	return IO_DONE;
}

static enum io_status
scripted_write(
    struct stream *s, const void *buf, size_t len, bool more, size_t *n_r)
{
	struct scripted *x = CONTAINER_OF(s, struct scripted, s);
	size_t n = len;

	(void)more;
	if (x->fail_at >= 0 && (long)x->n_got >= x->fail_at) {
		s->broken = STREAM_RESET;
		return IO_ABORT;
	}
	if (x->room == 0)
		return IO_WANT_WRITE;
	if (n > x->room)
		n = x->room;
	if (x->write_max != 0 && n > x->write_max)
		n = x->write_max;
	if (x->fail_at >= 0 && n > (size_t)x->fail_at - x->n_got)
		n = (size_t)x->fail_at - x->n_got;
	memcpy(x->got + x->n_got, buf, n);
	x->n_got += n;
	x->room -= n;
	s->written_bytes += n;
	*n_r = n;
	return IO_DONE;
}

static enum io_status
scripted_finish(struct stream *s)
{
	struct scripted *x = CONTAINER_OF(s, struct scripted, s);

	if (x->fail_at >= 0 && (long)x->n_got >= x->fail_at)
		return IO_ABORT;
	if (x->finish_waits-- > 0)
		return IO_WANT_WRITE;
	x->finished++;
	return IO_DONE;
}

static void
scripted_abort(struct stream *s)
{
	CONTAINER_OF(s, struct scripted, s)->aborted++;
}

static const struct stream_ops scripted_ops = {
    .read = scripted_read,
    .write = scripted_write,
    .finish = scripted_finish,
    .abort = scripted_abort,
};

static void
scripted_init(struct scripted *x, const char *script, size_t room)
{
	memset(x, 0, sizeof(*x));
	x->s.ops = &scripted_ops;
	x->s.readable = x->s.writable = true;
	x->script = script;
	x->room = room;
	x->fail_at = -1;
}

#endif
