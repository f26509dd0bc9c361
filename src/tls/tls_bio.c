#include "tls_int.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/bio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* More than any flight of ours: a peer that reads nothing costs no more. */
#define OWED_MAX (64 * 1024)

static void
latch(struct tls_stream *t, int error)
{
	if (t->wire.error == 0)
		t->wire.error = error;
}

/* ---- Read ---- */

/* `missing_close_notify = end`: libssl must not see the end, or it breaks. */
static int
end_of_input(struct tls_stream *t, BIO *bio)
{
	t->wire.eof = true;
	if (!t->is_up || !t->conf.end_without_close_notify)
		return 0;
	BIO_set_retry_read(bio);
	return -1;
}

static int
bio_read(BIO *bio, char *buf, int len)
{
	struct tls_stream *t = BIO_get_data(bio);
	ssize_t n;

	BIO_clear_retry_flags(bio);
	if (len <= 0 || t->is_flooded)
		return -1;
	if (t->wire.eof)
		return end_of_input(t, bio);
	if (!t->stream.readable) {
		BIO_set_retry_read(bio);
		return -1;
	}
	do {
		n = recv(t->wire.fd, buf, (size_t)len, 0);
	} while (n < 0 && errno == EINTR);
	if (n > 0) {
		t->wire.in_bytes += (uint64_t)n;
		/* A short read emptied the socket: a system call is saved. */
		if (n < len && !t->wire.hup)
			t->stream.readable = false;
		return (int)n;
	}
	if (n == 0)
		return end_of_input(t, bio);
	if (errno == EAGAIN || errno == EWOULDBLOCK) {
		t->stream.readable = false;
		t->wire.hup = false;
		BIO_set_retry_read(bio);
		return -1;
	}
	latch(t, errno);
	return -1;
}

/* ---- Write ---- */

/*
 * A full socket may hold back what MSG_MORE left short of a segment, for
 * 200 ms: setting TCP_NODELAY again pushes it.
 */
static void
uncork(struct tls_wire *w)
{
	int on = 1;

	if (w->is_corked)
		(void)setsockopt(w->fd, SOL_TCP, TCP_NODELAY, &on, sizeof(on));
	w->is_corked = false;
}

/* Bytes taken, 0 if the socket is full, -1 with the error latched. */
static ssize_t
send_now(struct tls_stream *t, const void *buf, size_t len, bool more)
{
	ssize_t n;

	if (!t->stream.writable)
		return 0;
	do {
		n = send(
		    t->wire.fd, buf, len, MSG_NOSIGNAL | (more ? MSG_MORE : 0));
	} while (n < 0 && errno == EINTR);
	if (n >= 0) {
		t->wire.is_corked = more;
		return n;
	}
	if (errno == EAGAIN || errno == EWOULDBLOCK) {
		t->stream.writable = false;
		uncork(&t->wire);
		return 0;
	}
	latch(t, errno);
	return -1;
}

static bool
owe(struct tls_wire *w, const char *buf, size_t len)
{
	uint8_t *more;

	if (w->owed_len + len > OWED_MAX)
		return false;
	more = realloc(w->owed, w->owed_len + len);
	if (more == NULL)
		return false;
	memcpy(more + w->owed_len, buf, len);
	w->owed = more;
	w->owed_len += len;
	return true;
}

bool
tls_wire_flush(struct tls_stream *t)
{
	struct tls_wire *w = &t->wire;

	while (w->owed_len > 0) {
		ssize_t n = send_now(t, w->owed, w->owed_len, false);

		if (n == 0)
			return false;
		if (n < 0)
			break; /* latched: nothing can be owed any more */
		w->owed_len -= (size_t)n;
		memmove(w->owed, w->owed + n, w->owed_len);
	}
	free(w->owed);
	w->owed = NULL;
	w->owed_len = 0;
	return true;
}

/*
 * In a handshake nothing is refused: libssl gives up on an alert that it could
 * not write at once, and the peer would never learn why.
 */
static int
write_in_handshake(struct tls_stream *t, const char *buf, size_t len)
{
	ssize_t n = t->wire.owed_len > 0 ? 0 : send_now(t, buf, len, false);

	if (n < 0)
		return -1;
	if ((size_t)n < len && !owe(&t->wire, buf + n, len - (size_t)n)) {
		latch(t, ENOBUFS);
		return -1;
	}
	return (int)len;
}

static int
bio_write(BIO *bio, const char *buf, int len)
{
	struct tls_stream *t = BIO_get_data(bio);
	ssize_t n;

	BIO_clear_retry_flags(bio);
	if (len <= 0 || t->is_flooded)
		return -1;
	if (!t->is_up)
		return write_in_handshake(t, buf, (size_t)len);
	n = send_now(t, buf, (size_t)len, t->wire.more);
	if (n > 0)
		return (int)n;
	if (n == 0)
		BIO_set_retry_write(bio);
	return -1;
}

/* ---- The rest of a BIO ---- */

static long
bio_control(BIO *bio, int command, long number, void *argument)
{
	struct tls_stream *t = BIO_get_data(bio);

	(void)number;
	(void)argument;
	switch (command) {
	case BIO_CTRL_FLUSH:
		return 1;
	case BIO_CTRL_EOF:
		/* Or a cut shows as SSL_ERROR_SYSCALL with errno 0. */
		return t->wire.eof ? 1 : 0;
	default: /* a library's numbers, not an enum of ours */
		return 0;
	}
}

static int
bio_create(BIO *bio)
{
	BIO_set_init(bio, 1);
	return 1;
}

static int
bio_destroy(BIO *bio)
{
	BIO_set_data(bio, NULL);
	BIO_set_init(bio, 0);
	return 1;
}

BIO_METHOD *
tls_bio_method_new(void)
{
	BIO_METHOD *m = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "postern");

	if (m != NULL && BIO_meth_set_read(m, bio_read) == 1 &&
	    BIO_meth_set_write(m, bio_write) == 1 &&
	    BIO_meth_set_ctrl(m, bio_control) == 1 &&
	    BIO_meth_set_create(m, bio_create) == 1 &&
	    BIO_meth_set_destroy(m, bio_destroy) == 1)
		return m;
	BIO_meth_free(m);
	return NULL;
}

BIO *
tls_bio_new(struct tls_stream *t)
{
	BIO *bio = BIO_new(t->conf.env->bio_method);

	if (bio != NULL)
		BIO_set_data(bio, t);
	return bio;
}
