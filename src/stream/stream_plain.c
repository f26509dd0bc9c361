#include "stream.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "mem.h"

static struct stream_plain *
plain_of(struct stream *s)
{
	return CONTAINER_OF(s, struct stream_plain, stream);
}

/*
 * Linux reports an error once, to whichever call comes first: after a failed
 * send the next recv says 0, which looks like a clean end. So the first error
 * of any call is kept.
 */
static void
latch(struct stream *s, int error)
{
	if (s->broken != STREAM_OPEN)
		return;
	s->broken = STREAM_RESET;
	s->broken_text = strerrorname_np(error);
}

void
stream_plain_broke(struct stream_plain *p, int error)
{
	latch(&p->stream, error);
}

static enum io_status
plain_read(struct stream *s, void *buf, size_t len, size_t *n_r)
{
	struct stream_plain *p = plain_of(s);
	ssize_t n;

	if (p->ended)
		return IO_END;
	if (!s->readable)
		return IO_WANT_READ;
	do
		n = recv(p->fd, buf, len, 0);
	while (n == -1 && errno == EINTR);
	if (n > 0) {
		/* What waits behind an error is read on until it is empty. */
		if ((size_t)n < len && !p->hup && s->broken == STREAM_OPEN)
			s->readable = false;
		s->read_bytes += (uint64_t)n;
		*n_r = (size_t)n;
		return IO_DONE;
	}
	if (n == -1 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
		p->hup = false;
		s->readable = false;
		return s->broken == STREAM_OPEN ? IO_WANT_READ : IO_ABORT;
	}
	if (n == -1)
		latch(s, errno);
	if (s->broken != STREAM_OPEN)
		return IO_ABORT;
	p->ended = true;
	return IO_END;
}

static enum io_status
plain_write(
    struct stream *s, const void *buf, size_t len, bool more, size_t *n_r)
{
	struct stream_plain *p = plain_of(s);
	int flags = MSG_NOSIGNAL | (more ? MSG_MORE : 0);
	ssize_t n;

	assert(!p->finished);
	if (s->broken != STREAM_OPEN)
		return IO_ABORT;
	if (!s->writable)
		return IO_WANT_WRITE;
	do
		n = send(p->fd, buf, len, flags);
	while (n == -1 && errno == EINTR);
	if (n >= 0) {
		if ((size_t)n < len)
			s->writable = false;
		s->written_bytes += (uint64_t)n;
		*n_r = (size_t)n;
		return n == 0 ? IO_WANT_WRITE : IO_DONE;
	}
	if (errno == EAGAIN || errno == EWOULDBLOCK) {
		s->writable = false;
		return IO_WANT_WRITE;
	}
	latch(s, errno);
	/* Bytes and an end may wait behind the error: they are read. */
	s->readable = true;
	return IO_ABORT;
}

static enum io_status
plain_finish(struct stream *s)
{
	struct stream_plain *p = plain_of(s);

	if (p->finished)
		return IO_DONE;
	if (s->broken != STREAM_OPEN)
		return IO_ABORT;
	if (shutdown(p->fd, SHUT_WR) == -1) {
		latch(s, errno);
		s->readable = true;
		return IO_ABORT;
	}
	p->finished = true;
	return IO_DONE;
}

static void
plain_abort(struct stream *s)
{
	const struct linger zero = {.l_onoff = 1, .l_linger = 0};

	/* It can fail only for a descriptor that is gone already. */
	(void)setsockopt(
	    plain_of(s)->fd, SOL_SOCKET, SO_LINGER, &zero, sizeof(zero));
}

void
stream_plain_init(struct stream_plain *p, int fd, bool is_unix)
{
	static const struct stream_ops ops = {
	    .read = plain_read,
	    .write = plain_write,
	    .finish = plain_finish,
	    .abort = plain_abort,
	};

	*p = (struct stream_plain){
	    .stream = {.ops = &ops, .readable = true, .writable = true},
	    .fd = fd,
	    .is_unix = is_unix,
	};
}
