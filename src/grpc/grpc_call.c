#include "grpc_int.h"

#include <nghttp2/nghttp2.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text.h"

/* One read of the socket. */
#define ROOM_BYTES (64 * 1024)

/* Both windows: a message of 16 MiB needs few updates. */
#define WINDOW_BYTES (1024 * 1024)

/* The gRPC documents' bound on a header list (PROTOCOL-HTTP2.md). */
#define HEADER_LIST_MAX 8192

/*
 * Frames since the last complete message that carried nothing: SETTINGS, PING,
 * CONTINUATION, PRIORITY, empty DATA. A server that pings an idle stream every
 * two hours needs two years for these; a flood needs an instant.
 */
#define IDLE_FRAMES_MAX 10000

/*
 * The same for bytes outside DATA: nghttp2 skips unknown frames without a
 * word, so that they cannot be counted.
 */
#define IDLE_BYTES_MAX (1024 * 1024)

struct grpc_call {
	nghttp2_session *session;
	int32_t stream;
	struct grpc_buffer room;
	struct grpc_frames frames;

	struct span output; /* nghttp2's, until its next mem_send */

	unsigned int http_status; /* 0: none yet */
	bool is_grpc;             /* content-type application/grpc */
	bool has_code;            /* grpc-status was sent */
	unsigned int code;
	uint8_t message[WHY_MAX];
	size_t message_len;
	size_t header_bytes; /* of the present header block */
	unsigned int idle_frames;
	size_t idle_bytes;

	bool leaving;
	bool ended;
	struct grpc_status status;
};

static void __attribute__((format(printf, 3, 4)))
end_call(struct grpc_call *c, unsigned int code, const char *fmt, ...)
{
	char text[WHY_MAX];
	va_list ap;

	if (c->ended)
		return;
	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	c->ended = true;
	c->status.code = code;
	(void)fail(&c->status.why, FAULT_IO, "%s%s%s", grpc_code_name(code),
	    text[0] == '\0' ? "" : ": ", text);
}

/* ---- What the server sends ---- */

static int
on_begin_frame(nghttp2_session *session, const nghttp2_frame_hd *hd, void *arg)
{
	struct grpc_call *c = arg;

	(void)session;
	if (hd->type == NGHTTP2_DATA && hd->length > 0)
		return 0;
	if (++c->idle_frames <= IDLE_FRAMES_MAX)
		return 0;
	end_call(c, GRPC_RESOURCE_EXHAUSTED,
	    "more than %d frames without a message", IDLE_FRAMES_MAX);
	return NGHTTP2_ERR_CALLBACK_FAILURE;
}

static int
on_begin_headers(
    nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
	struct grpc_call *c = arg;

	(void)session;
	(void)frame;
	c->header_bytes = 0;
	return 0;
}

static unsigned int
parse_http_status(struct span value)
{
	unsigned int status = 0;

	for (size_t i = 0; i < value.len && i < 3; i++)
		status = status * 10 + (unsigned int)(value.data[i] - '0');
	return status;
}

static bool
begins_with(struct span s, const char *prefix)
{
	size_t len = strlen(prefix);

	return s.len >= len && memcmp(s.data, prefix, len) == 0;
}

static int
on_header(nghttp2_session *session, const nghttp2_frame *frame,
    const uint8_t *name, size_t name_len, const uint8_t *value,
    size_t value_len, uint8_t flags, void *arg)
{
	struct grpc_call *c = arg;
	struct span n = span_of(name, name_len);
	struct span v = span_of(value, value_len);

	(void)session;
	(void)flags;
	if (frame->hd.stream_id != c->stream)
		return 0;
	c->header_bytes += name_len + value_len + 32; /* RFC 9113, 6.5.2 */
	if (c->header_bytes > HEADER_LIST_MAX) {
		end_call(c, GRPC_RESOURCE_EXHAUSTED,
		    "header list over %d bytes", HEADER_LIST_MAX);
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	}
	if (span_equal_str(n, ":status")) {
		/* 1xx come first and mean nothing here. */
		c->http_status = parse_http_status(v);
	} else if (span_equal_str(n, "content-type")) {
		c->is_grpc = begins_with(v, "application/grpc");
	} else if (span_equal_str(n, "grpc-status")) {
		c->has_code = true;
		c->code = grpc_code_parse(v);
	} else if (span_equal_str(n, "grpc-message")) {
		c->message_len =
		    grpc_message_decode(v, c->message, sizeof(c->message));
	}
	return 0;
}

static void
refuse_message(struct grpc_call *c, enum grpc_frame_result result)
{
	switch (result) {
	case GRPC_FRAME_OK:
		return;
	case GRPC_FRAME_FLAG:
		end_call(c, GRPC_INTERNAL,
		    "message with flag %u, though no compression was offered",
		    c->frames.header[0]);
		break;
	case GRPC_FRAME_OVERSIZE:
		end_call(c, GRPC_RESOURCE_EXHAUSTED,
		    "message of %zu bytes, limit %zu", c->frames.declared,
		    c->frames.message_max);
		c->status.oversize = true;
		break;
	case GRPC_FRAME_NOMEM:
		end_call(c, GRPC_RESOURCE_EXHAUSTED, "out of memory");
		break;
	}
	(void)nghttp2_submit_rst_stream(
	    c->session, NGHTTP2_FLAG_NONE, c->stream, NGHTTP2_CANCEL);
}

static int
on_data(nghttp2_session *session, uint8_t flags, int32_t stream,
    const uint8_t *data, size_t len, void *arg)
{
	struct grpc_call *c = arg;
	uint64_t before = c->frames.messages;

	(void)session;
	(void)flags;
	c->idle_bytes -= len < c->idle_bytes ? len : c->idle_bytes;
	/* An HTTP error page is no message; its status tells all. */
	if (stream != c->stream || c->ended || !c->is_grpc ||
	    c->http_status != 200)
		return 0;
	refuse_message(c, grpc_frames_feed(&c->frames, span_of(data, len)));
	if (c->frames.messages != before) {
		c->idle_frames = 0;
		c->idle_bytes = 0;
	}
	return 0;
}

static int
on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
	struct grpc_call *c = arg;

	(void)session;
	if (frame->hd.type == NGHTTP2_GOAWAY)
		c->leaving = true;
	return 0;
}

static int
on_stream_close(
    nghttp2_session *session, int32_t stream, uint32_t error, void *arg)
{
	struct grpc_call *c = arg;
	char text[WHY_MAX / 2];

	(void)session;
	if (stream != c->stream)
		return 0;
	text_escape(span_of(c->message, c->message_len), text, sizeof(text));
	if (c->has_code && c->code == GRPC_OK &&
	    grpc_frames_partial(&c->frames))
		end_call(c, GRPC_INTERNAL, "stream ended within a message");
	else if (c->has_code)
		end_call(c, c->code, "%s", text);
	else if (error != NGHTTP2_NO_ERROR)
		end_call(c, grpc_code_from_reset(error), "stream reset: %s",
		    nghttp2_http2_strerror(error));
	else if (c->http_status == 0)
		end_call(c, GRPC_INTERNAL, "stream closed without an answer");
	else
		end_call(c, grpc_code_from_http(c->http_status),
		    "HTTP status %u without grpc-status", c->http_status);
	return 0;
}

/* ---- Setting up ---- */

static nghttp2_session *
session_new(struct grpc_call *c)
{
	nghttp2_session_callbacks *callbacks = NULL;
	nghttp2_session *session = NULL;

	if (nghttp2_session_callbacks_new(&callbacks) != 0)
		return NULL;
	nghttp2_session_callbacks_set_on_begin_frame_callback(
	    callbacks, on_begin_frame);
	nghttp2_session_callbacks_set_on_begin_headers_callback(
	    callbacks, on_begin_headers);
	nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(
	    callbacks, on_data);
	nghttp2_session_callbacks_set_on_frame_recv_callback(
	    callbacks, on_frame);
	nghttp2_session_callbacks_set_on_stream_close_callback(
	    callbacks, on_stream_close);
	if (nghttp2_session_client_new(&session, callbacks, c) != 0)
		session = NULL;
	nghttp2_session_callbacks_del(callbacks);
	return session;
}

static bool
submit_settings(struct grpc_call *c)
{
	const nghttp2_settings_entry settings[] = {
	    {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
	    {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, WINDOW_BYTES},
	    {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, HEADER_LIST_MAX},
	};

	return nghttp2_submit_settings(c->session, NGHTTP2_FLAG_NONE, settings,
	           ARRAY_LEN(settings)) == 0 &&
	       nghttp2_session_set_local_window_size(
	           c->session, NGHTTP2_FLAG_NONE, 0, WINDOW_BYTES) == 0;
}

static void
set_header(nghttp2_nv *nv, const char *name, const char *value)
{
	/* nghttp2 copies both, and changes neither. */
	*nv = (nghttp2_nv){
	    .name = (uint8_t *)(uintptr_t)name,
	    .value = (uint8_t *)(uintptr_t)value,
	    .namelen = strlen(name),
	    .valuelen = strlen(value),
	};
}

/* The one request: a message of length zero, and the end of the stream. */
static ssize_t
read_request(nghttp2_session *session, int32_t stream, uint8_t *buf, size_t len,
    uint32_t *flags, nghttp2_data_source *source, void *arg)
{
	(void)session;
	(void)stream;
	(void)source;
	(void)arg;
	if (len < GRPC_FRAME_HEADER)
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	memset(buf, 0, GRPC_FRAME_HEADER);
	*flags |= NGHTTP2_DATA_FLAG_EOF;
	return GRPC_FRAME_HEADER;
}

static bool
submit_request(struct grpc_call *c, const struct grpc_conf *conf)
{
	const nghttp2_data_provider body = {.read_callback = read_request};
	nghttp2_nv headers[8];
	size_t n = 0;

	set_header(&headers[n++], ":method", "POST");
	set_header(&headers[n++], ":scheme", "http");
	set_header(&headers[n++], ":path", conf->path);
	/* A socket path here is a protocol error to nghttp2 and hyper. */
	set_header(&headers[n++], ":authority", "localhost");
	set_header(&headers[n++], "content-type", "application/grpc");
	set_header(&headers[n++], "te", "trailers");
	set_header(&headers[n++], "user-agent", "postern/" POSTERN_VERSION);
	if (conf->metadata_name != NULL)
		set_header(
		    &headers[n++], conf->metadata_name, conf->metadata_value);
	c->stream =
	    nghttp2_submit_request(c->session, NULL, headers, n, &body, NULL);
	return c->stream > 0;
}

struct grpc_call *
grpc_new(const struct grpc_conf *conf)
{
	struct grpc_call *c = calloc(1, sizeof(*c));

	if (c == NULL)
		return NULL;
	c->frames.message_max = conf->message_max;
	c->session = session_new(c);
	if (c->session == NULL || !grpc_buffer_reserve(&c->room, ROOM_BYTES) ||
	    !submit_settings(c) || !submit_request(c, conf))
		grpc_free(&c);
	return c;
}

void
grpc_free(struct grpc_call **c)
{
	if (*c == NULL)
		return;
	nghttp2_session_del((*c)->session);
	grpc_frames_fini(&(*c)->frames);
	grpc_buffer_fini(&(*c)->room);
	free(*c);
	*c = NULL;
}

/* ---- Bytes in and out ---- */

uint8_t *
grpc_room(struct grpc_call *c, size_t *len_r)
{
	*len_r = c->room.cap;
	return c->room.data;
}

/* After a protocol error nghttp2 says GOAWAY and wants nothing any more. */
static void
end_with_session(struct grpc_call *c)
{
	if (!nghttp2_session_want_read(c->session) &&
	    !nghttp2_session_want_write(c->session))
		end_call(c, GRPC_UNAVAILABLE, "the HTTP/2 session ended");
}

void
grpc_feed(struct grpc_call *c, size_t len)
{
	ssize_t n = 0;

	c->idle_bytes += len;
	if (!c->ended)
		n = nghttp2_session_mem_recv(c->session, c->room.data, len);
	explicit_bzero(c->room.data, len);
	if (n == NGHTTP2_ERR_FLOODED)
		end_call(c, GRPC_RESOURCE_EXHAUSTED, "flood of frames");
	else if (n < 0)
		end_call(
		    c, GRPC_INTERNAL, "HTTP/2: %s", nghttp2_strerror((int)n));
	else if (c->idle_bytes > IDLE_BYTES_MAX)
		end_call(c, GRPC_RESOURCE_EXHAUSTED,
		    "more than %d bytes of frames without a message",
		    IDLE_BYTES_MAX);
	else if (!nghttp2_session_want_read(c->session) &&
	         !nghttp2_session_want_write(c->session))
		end_call(c, GRPC_UNAVAILABLE, "the HTTP/2 session ended");
}

void
grpc_feed_end(struct grpc_call *c, const char *text)
{
	end_call(c, GRPC_UNAVAILABLE, "%s", text);
}

struct span
grpc_output(struct grpc_call *c)
{
	const uint8_t *data = NULL;
	ssize_t n;

	if (c->output.len > 0)
		return c->output;
	n = nghttp2_session_mem_send(c->session, &data);
	if (n < 0)
		end_call(
		    c, GRPC_INTERNAL, "HTTP/2: %s", nghttp2_strerror((int)n));
	else if (n > 0)
		c->output = span_of(data, (size_t)n);
	else
		end_with_session(c);
	return c->output;
}

void
grpc_sent(struct grpc_call *c, size_t len)
{
	struct span sent;

	(void)span_take(&c->output, len, &sent);
}

bool
grpc_take(struct grpc_call *c, struct span *message_r)
{
	if (!c->frames.is_ready)
		return false;
	*message_r = span_of(c->frames.ready.data, c->frames.ready.len);
	return true;
}

void
grpc_taken(struct grpc_call *c)
{
	grpc_frames_taken(&c->frames);
}

const struct grpc_status *
grpc_ended(const struct grpc_call *c)
{
	return c->ended ? &c->status : NULL;
}

bool
grpc_is_leaving(const struct grpc_call *c)
{
	return c->leaving;
}

uint64_t
grpc_lock_failures(const struct grpc_call *c)
{
	return c->room.lock_failures + c->frames.lock_failures +
	       c->frames.partial.lock_failures;
}
