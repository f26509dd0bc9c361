#include "issuer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "grpc.h"
#include "log.h"

#define SVID_PATH   "/SpiffeWorkloadAPI/FetchX509SVID"
#define BUNDLE_PATH "/SpiffeWorkloadAPI/FetchX509Bundles"

struct call {
	struct node node;
	int32_t stream;
	bool bundles; /* FetchX509Bundles */
};

struct conn {
	struct node node;
	struct place *place;
	int fd;
	struct event *readable;
	struct event *writable;
	struct grpc_server *server;
	struct node calls;
};

static void
conn_free(struct conn **conn)
{
	struct conn *c = *conn;

	if (c == NULL)
		return;
	grpc_server_free(&c->server); /* ends its calls */
	if (c->readable != NULL)
		event_free(c->readable);
	if (c->writable != NULL)
		event_free(c->writable);
	if (c->fd >= 0)
		close(c->fd);
	node_remove(&c->node);
	free(c);
	*conn = NULL;
}

/* False: the connection broke. */
static bool
flush(struct conn *c)
{
	struct span out;
	ssize_t n;

	while ((out = grpc_server_output(c->server)).len > 0) {
		n = send(c->fd, out.data, out.len, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			(void)event_add(c->writable, NULL);
			return true;
		}
		if (n < 0)
			return false;
		grpc_server_sent(c->server, (size_t)n);
	}
	return true;
}

/* ---- Calls ---- */

static void
answer(struct conn *c, const struct call *call)
{
	struct place *p = c->place;
	AUTO(text_fini) struct text bytes;
	struct why why;
	enum fault fault;

	text_init(&bytes);
	fault = call->bundles ? place_bundle_message(p, &bytes, &why)
	                      : place_svid_message(p, &bytes, &why);
	if (fault == FAULT_NONE)
		fault = grpc_server_send(
		    c->server, call->stream, span_of(bytes.data, bytes.len));
	else
		log_say(LOG_LEVEL_ERROR, "issue", "%s", why.text);
	if (fault != FAULT_NONE)
		grpc_server_finish(c->server, call->stream, GRPC_UNAVAILABLE,
		    "the development issuer failed");
	if (bytes.cap > 0)
		explicit_bzero(bytes.data, bytes.len);
}

static void
on_called(void *arg, struct grpc_server *s, int32_t stream, const char *path,
    const char *metadata)
{
	struct conn *c = arg;
	struct place *p = c->place;
	struct call *call;

	if (metadata == NULL || strcmp(metadata, "true") != 0) {
		grpc_server_finish(s, stream, GRPC_INVALID_ARGUMENT,
		    "security header missing from request");
		return;
	}
	if (strcmp(path, SVID_PATH) != 0 && strcmp(path, BUNDLE_PATH) != 0) {
		grpc_server_finish(s, stream, GRPC_UNIMPLEMENTED,
		    "the development issuer serves X.509 only");
		return;
	}
	if (p->mood == MOOD_STATUS ||
	    (p->mood == MOOD_SERVE && list_is_empty(&p->entries))) {
		grpc_server_finish(s, stream,
		    p->mood == MOOD_STATUS ? p->status : GRPC_PERMISSION_DENIED,
		    "no identity issued");
		return;
	}
	call = calloc(1, sizeof(*call));
	if (call == NULL)
		return;
	node_init(&call->node);
	call->stream = stream;
	call->bundles = strcmp(path, BUNDLE_PATH) == 0;
	list_add_tail(&c->calls, &call->node);
	if (p->mood == MOOD_SERVE)
		answer(c, call);
}

static void
on_closed(void *arg, struct grpc_server *s, int32_t stream)
{
	struct conn *c = arg;

	(void)s;
	LIST_EACH_SAFE (it, &c->calls) {
		struct call *call = CONTAINER_OF(it, struct call, node);

		if (call->stream == stream) {
			node_remove(&call->node);
			free(call);
		}
	}
}

/* ---- Connections ---- */

static void
on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct conn *c = arg;
	uint8_t buf[16384];
	ssize_t n = recv(fd, buf, sizeof(buf), 0);

	(void)what;
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0 ||
	    grpc_server_feed(c->server, span_of(buf, (size_t)n)) !=
	        FAULT_NONE ||
	    !flush(c))
		conn_free(&c);
}

static void
on_writable(evutil_socket_t fd, short what, void *arg)
{
	struct conn *c = arg;

	(void)fd;
	(void)what;
	if (!flush(c))
		conn_free(&c);
}

static void
on_acceptable(evutil_socket_t fd, short what, void *arg)
{
	static const struct grpc_server_ops ops = {on_called, on_closed};
	struct place *p = arg;
	struct conn *c = calloc(1, sizeof(*c));

	(void)what;
	if (c == NULL)
		return;
	c->place = p;
	node_init(&c->node);
	node_init(&c->calls);
	list_add_tail(&p->conns, &c->node);
	c->fd = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (c->fd >= 0) {
		c->server = grpc_server_new(&ops, "workload.spiffe.io", c);
		c->readable = event_new(p->issuer->base, c->fd,
		    EV_READ | EV_PERSIST, on_readable, c);
		c->writable =
		    event_new(p->issuer->base, c->fd, EV_WRITE, on_writable, c);
	}
	if (c->server == NULL || c->readable == NULL || c->writable == NULL ||
	    !flush(c)) {
		conn_free(&c);
		return;
	}
	(void)event_add(c->readable, NULL);
}

/* ---- Places ---- */

int
listen_unix(const char *path, mode_t mode, struct why *why)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	struct stat st;
	mode_t was;
	int fd, bound;

	if (strlen(path) >= sizeof(un.sun_path)) {
		(void)fail(why, FAULT_CONF, "%s: path too long", path);
		return -1;
	}
	memcpy(un.sun_path, path, strlen(path));
	/* A stale one is ours to remove; anything else is not. */
	if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode))
		(void)unlink(path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	was = umask(0777 & ~mode);
	bound =
	    fd < 0 ? -1 : bind(fd, (const struct sockaddr *)&un, sizeof(un));
	(void)umask(was);
	if (bound != 0 || listen(fd, 64) != 0) {
		(void)fail(why, FAULT_IO, "%s: %s", path, strerror(errno));
		if (fd >= 0)
			close(fd);
		return -1;
	}
	return fd;
}

enum fault
place_listen(struct place *p, struct why *why)
{
	p->fd = listen_unix(p->path, p->issuer->socket_mode, why);
	if (p->fd < 0)
		return FAULT_IO;
	p->acceptable = event_new(
	    p->issuer->base, p->fd, EV_READ | EV_PERSIST, on_acceptable, p);
	if (p->acceptable == NULL || event_add(p->acceptable, NULL) != 0)
		return fail(why, FAULT_NOMEM, "out of memory");
	return FAULT_NONE;
}

/* What happens to every call of a place; MESSAGE as each needs it. */
enum deed {
	DEED_ANSWER,
	DEED_BYTES,
	DEED_FINISH,
};

static void
each_call(struct place *p, enum deed deed, struct span message,
    unsigned int code, const char *text)
{
	LIST_EACH_SAFE (it, &p->conns) {
		struct conn *c = CONTAINER_OF(it, struct conn, node);

		LIST_EACH (jt, &c->calls) {
			struct call *call = CONTAINER_OF(jt, struct call, node);

			if (deed == DEED_ANSWER)
				answer(c, call);
			else if (deed == DEED_BYTES)
				(void)grpc_server_send(
				    c->server, call->stream, message);
			else
				grpc_server_finish(
				    c->server, call->stream, code, text);
		}
		if (!flush(c))
			conn_free(&c);
	}
}

void
place_push(struct place *p)
{
	if (p->mood == MOOD_SERVE)
		each_call(p, DEED_ANSWER, span_of(NULL, 0), 0, NULL);
}

void
place_push_bytes(struct place *p, struct span message)
{
	each_call(p, DEED_BYTES, message, 0, NULL);
}

void
place_finish_streams(struct place *p, unsigned int code, const char *message)
{
	each_call(p, DEED_FINISH, span_of(NULL, 0), code, message);
}

void
place_raw(struct place *p, struct span bytes)
{
	LIST_EACH (it, &p->conns) {
		struct conn *c = CONTAINER_OF(it, struct conn, node);

		(void)send(c->fd, bytes.data, bytes.len, MSG_NOSIGNAL);
	}
}

void
place_cut(struct place *p)
{
	while (!list_is_empty(&p->conns)) {
		struct conn *c = CONTAINER_OF(p->conns.next, struct conn, node);

		conn_free(&c);
	}
}

void
place_stop(struct place *p)
{
	place_cut(p);
	if (p->acceptable != NULL)
		event_free(p->acceptable);
	if (p->fd >= 0) {
		close(p->fd);
		(void)unlink(p->path);
	}
	p->acceptable = NULL;
	p->fd = -1;
}
