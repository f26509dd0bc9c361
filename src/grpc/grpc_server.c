#include "grpc_int.h"

#include <assert.h>
#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "queue.h"

/* A request is empty, or the few bytes of a JWT request that we refuse. */
#define REQUEST_MAX (64 * 1024)

#define METADATA_MAX 128

/* Bytes owed to a stream; a client that never reads is not buffered for. */
#define OWED_MAX (256u * 1024 * 1024)

struct chunk {
	struct node node;
	size_t len;
	size_t sent;
	uint8_t data[];
};

struct server_stream {
	struct node node;
	int32_t id;
	char *path;
	char metadata[METADATA_MAX];
	unsigned int metadata_count;
	struct grpc_frames request;
	bool called;

	bool answering; /* response headers are out */
	struct node chunks;
	size_t owed;
	bool finished;
	char code[4];
	char *message;
};

struct grpc_server {
	nghttp2_session *session;
	const struct grpc_server_ops *ops;
	const char *metadata_name;
	void *arg;
	struct node streams;
	struct span output;
};

static struct server_stream *
find_stream(struct grpc_server *s, int32_t id)
{
	LIST_EACH (it, &s->streams) {
		struct server_stream *st =
		    CONTAINER_OF(it, struct server_stream, node);

		if (st->id == id)
			return st;
	}
	return NULL;
}

static void
drop_chunk(struct server_stream *st, struct chunk *chunk)
{
	st->owed -= chunk->len;
	node_remove(&chunk->node);
	explicit_bzero(chunk->data, chunk->len);
	free(chunk);
}

static void
stream_free(struct server_stream *st)
{
	struct node *node;

	while ((node = st->chunks.next) != &st->chunks)
		drop_chunk(st, CONTAINER_OF(node, struct chunk, node));
	node_remove(&st->node);
	grpc_frames_fini(&st->request);
	free(st->path);
	free(st->message);
	free(st);
}

static void
set_header(nghttp2_nv *nv, const char *name, const char *value)
{
	*nv = (nghttp2_nv){
	    .name = (uint8_t *)(uintptr_t)name,
	    .value = (uint8_t *)(uintptr_t)value,
	    .namelen = strlen(name),
	    .valuelen = strlen(value),
	};
}

/* grpc-status, and grpc-message if there is one. */
static size_t
status_headers(const struct server_stream *st, nghttp2_nv nv[2])
{
	set_header(&nv[0], "grpc-status", st->code);
	if (st->message == NULL)
		return 1;
	set_header(&nv[1], "grpc-message", st->message);
	return 2;
}

/* ---- The request ---- */

static int
on_begin_headers(
    nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
	struct grpc_server *s = arg;
	struct server_stream *st;

	(void)session;
	if (frame->hd.type != NGHTTP2_HEADERS ||
	    frame->headers.cat != NGHTTP2_HCAT_REQUEST)
		return 0;
	st = calloc(1, sizeof(*st));
	if (st == NULL)
		return NGHTTP2_ERR_CALLBACK_FAILURE;
	st->id = frame->hd.stream_id;
	st->request.message_max = REQUEST_MAX;
	node_init(&st->node);
	node_init(&st->chunks);
	list_add_tail(&s->streams, &st->node);
	return 0;
}

static int
on_header(nghttp2_session *session, const nghttp2_frame *frame,
    const uint8_t *name, size_t name_len, const uint8_t *value,
    size_t value_len, uint8_t flags, void *arg)
{
	struct grpc_server *s = arg;
	struct server_stream *st = find_stream(s, frame->hd.stream_id);
	struct span n = span_of(name, name_len);

	(void)session;
	(void)flags;
	if (st == NULL)
		return 0;
	if (span_equal_str(n, ":path") && st->path == NULL)
		st->path = span_dup(span_of(value, value_len));
	if (span_equal_str(n, s->metadata_name)) {
		st->metadata_count++;
		(void)snprintf(st->metadata, sizeof(st->metadata), "%.*s",
		    (int)(value_len < METADATA_MAX ? value_len : METADATA_MAX),
		    (const char *)value);
	}
	return 0;
}

static int
on_data(nghttp2_session *session, uint8_t flags, int32_t id,
    const uint8_t *data, size_t len, void *arg)
{
	struct server_stream *st = find_stream(arg, id);

	(void)session;
	(void)flags;
	if (st == NULL || st->finished)
		return 0;
	switch (grpc_frames_feed(&st->request, span_of(data, len))) {
	case GRPC_FRAME_OK:
		break;
	case GRPC_FRAME_OVERSIZE:
		grpc_server_finish(
		    arg, id, GRPC_RESOURCE_EXHAUSTED, "request too large");
		break;
	case GRPC_FRAME_FLAG:
	case GRPC_FRAME_NOMEM:
		grpc_server_finish(arg, id, GRPC_INTERNAL, "bad request");
		break;
	}
	return 0;
}

static void
call_stream(struct grpc_server *s, struct server_stream *st)
{
	bool once = st->metadata_count == 1;

	if (st->called || st->finished)
		return;
	st->called = true;
	if (st->request.messages != 1) {
		grpc_server_finish(s, st->id, GRPC_UNIMPLEMENTED,
		    "exactly one request message is needed");
		return;
	}
	s->ops->called(s->arg, s, st->id, st->path == NULL ? "" : st->path,
	    once ? st->metadata : NULL);
}

static int
on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
	struct grpc_server *s = arg;
	struct server_stream *st = find_stream(s, frame->hd.stream_id);

	(void)session;
	if (st == NULL || (frame->hd.type != NGHTTP2_DATA &&
	                      frame->hd.type != NGHTTP2_HEADERS))
		return 0;
	/* A client may leave its half open after the one message. */
	if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0 ||
	    st->request.messages != 0)
		call_stream(s, st);
	return 0;
}

static int
on_stream_close(nghttp2_session *session, int32_t id, uint32_t error, void *arg)
{
	struct grpc_server *s = arg;
	struct server_stream *st = find_stream(s, id);

	(void)session;
	(void)error;
	if (st == NULL)
		return 0;
	if (st->called)
		s->ops->closed(s->arg, s, id);
	stream_free(st);
	return 0;
}

/* ---- The answer ---- */

/* Copy out what is queued; defer when there is nothing yet. */
static ssize_t
read_response(nghttp2_session *session, int32_t id, uint8_t *buf, size_t len,
    uint32_t *flags, nghttp2_data_source *source, void *arg)
{
	struct server_stream *st = source->ptr;
	size_t done = 0;

	(void)arg;
	while (done < len && !list_is_empty(&st->chunks)) {
		struct chunk *chunk =
		    CONTAINER_OF(st->chunks.next, struct chunk, node);
		size_t n = chunk->len - chunk->sent;

		n = n < len - done ? n : len - done;
		memcpy(buf + done, chunk->data + chunk->sent, n);
		chunk->sent += n;
		done += n;
		if (chunk->sent == chunk->len)
			drop_chunk(st, chunk);
	}
	if (st->finished && list_is_empty(&st->chunks)) {
		nghttp2_nv nv[2];
		size_t n = status_headers(st, nv);

		*flags |=
		    NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
		if (nghttp2_submit_trailer(session, id, nv, n) != 0)
			return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
		return (ssize_t)done;
	}
	return done == 0 ? NGHTTP2_ERR_DEFERRED : (ssize_t)done;
}

static enum fault
start_answer(struct grpc_server *s, struct server_stream *st)
{
	nghttp2_data_provider body = {
	    .source.ptr = st,
	    .read_callback = read_response,
	};
	nghttp2_nv nv[2];

	if (st->answering) {
		(void)nghttp2_session_resume_data(s->session, st->id);
		return FAULT_NONE;
	}
	set_header(&nv[0], ":status", "200");
	set_header(&nv[1], "content-type", "application/grpc");
	if (nghttp2_submit_response(s->session, st->id, nv, 2, &body) != 0)
		return FAULT_NOMEM;
	st->answering = true;
	return FAULT_NONE;
}

enum fault
grpc_server_send(struct grpc_server *s, int32_t id, struct span message)
{
	struct server_stream *st = find_stream(s, id);
	size_t len = message.len + GRPC_FRAME_HEADER;
	struct chunk *chunk;

	if (st == NULL || st->finished)
		return FAULT_NONE;
	if (st->owed + len > OWED_MAX)
		return FAULT_LIMIT;
	chunk = calloc(1, sizeof(*chunk) + len);
	if (chunk == NULL)
		return FAULT_NOMEM;
	node_init(&chunk->node);
	chunk->len = len;
	for (unsigned int i = 0; i < 4; i++)
		chunk->data[1 + i] =
		    (uint8_t)(message.len >> (8 * (3 - i)) & 0xff);
	if (message.len > 0)
		memcpy(
		    chunk->data + GRPC_FRAME_HEADER, message.data, message.len);
	list_add_tail(&st->chunks, &chunk->node);
	st->owed += len;
	return start_answer(s, st);
}

void
grpc_server_finish(
    struct grpc_server *s, int32_t id, unsigned int code, const char *message)
{
	struct server_stream *st = find_stream(s, id);
	nghttp2_nv nv[4];

	if (st == NULL || st->finished)
		return;
	st->finished = true;
	(void)snprintf(st->code, sizeof(st->code), "%u", code % 1000);
	if (message != NULL)
		st->message = span_dup(span_of_str(message));
	if (st->answering) {
		(void)nghttp2_session_resume_data(s->session, id);
		return;
	}
	/* Trailers-only: one HEADERS frame says it all. */
	set_header(&nv[0], ":status", "200");
	set_header(&nv[1], "content-type", "application/grpc");
	(void)nghttp2_submit_response(
	    s->session, id, nv, 2 + status_headers(st, nv + 2), NULL);
}

/* ---- The connection ---- */

static nghttp2_session *
session_new(struct grpc_server *s)
{
	nghttp2_session_callbacks *callbacks = NULL;
	nghttp2_session *session = NULL;

	if (nghttp2_session_callbacks_new(&callbacks) != 0)
		return NULL;
	nghttp2_session_callbacks_set_on_begin_headers_callback(
	    callbacks, on_begin_headers);
	nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(
	    callbacks, on_data);
	nghttp2_session_callbacks_set_on_frame_recv_callback(
	    callbacks, on_frame);
	nghttp2_session_callbacks_set_on_stream_close_callback(
	    callbacks, on_stream_close);
	if (nghttp2_session_server_new(&session, callbacks, s) != 0)
		session = NULL;
	nghttp2_session_callbacks_del(callbacks);
	return session;
}

struct grpc_server *
grpc_server_new(
    const struct grpc_server_ops *ops, const char *metadata_name, void *arg)
{
	const nghttp2_settings_entry settings[] = {
	    {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 100},
	};
	struct grpc_server *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return NULL;
	s->ops = ops;
	s->metadata_name = metadata_name;
	s->arg = arg;
	node_init(&s->streams);
	s->session = session_new(s);
	if (s->session == NULL ||
	    nghttp2_submit_settings(s->session, NGHTTP2_FLAG_NONE, settings,
	        ARRAY_LEN(settings)) != 0)
		grpc_server_free(&s);
	return s;
}

void
grpc_server_free(struct grpc_server **s)
{
	struct node *node;

	if (*s == NULL)
		return;
	while ((node = (*s)->streams.next) != &(*s)->streams) {
		struct server_stream *st =
		    CONTAINER_OF(node, struct server_stream, node);

		if (st->called)
			(*s)->ops->closed((*s)->arg, *s, st->id);
		stream_free(st);
	}
	nghttp2_session_del((*s)->session);
	free(*s);
	*s = NULL;
}

enum fault
grpc_server_feed(struct grpc_server *s, struct span bytes)
{
	ssize_t n = nghttp2_session_mem_recv(s->session, bytes.data, bytes.len);

	return n < 0 ? FAULT_MALFORMED : FAULT_NONE;
}

struct span
grpc_server_output(struct grpc_server *s)
{
	const uint8_t *data = NULL;
	ssize_t n;

	if (s->output.len > 0)
		return s->output;
	n = nghttp2_session_mem_send(s->session, &data);
	if (n > 0)
		s->output = span_of(data, (size_t)n);
	return s->output;
}

void
grpc_server_sent(struct grpc_server *s, size_t len)
{
	struct span sent;

	(void)span_take(&s->output, len, &sent);
}
