/* The client half against hand-made HTTP/2 frames. */

#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "grpc.h"

enum { DATA = 0, HEADERS = 1, RST = 3, SETTINGS = 4, PING = 6, GOAWAY = 7 };
enum { END_STREAM = 1, END_HEADERS = 4, ACK = 1, PADDED = 8 };

#define STREAM 1

struct wire {
	uint8_t data[400000];
	size_t len;
};

static const struct grpc_conf conf = {
    .path = "/SpiffeWorkloadAPI/FetchX509SVID",
    .metadata_name = "workload.spiffe.io",
    .metadata_value = "true",
    .message_max = 1000,
};

static void
put(struct wire *w, const void *data, size_t len)
{
	assert_true(w->len + len <= sizeof(w->data));
	memcpy(w->data + w->len, data, len);
	w->len += len;
}

static void
put_frame(struct wire *w, uint8_t type, uint8_t flags, uint8_t stream,
    const void *payload, size_t len)
{
	uint8_t head[9] = {(uint8_t)(len >> 16), (uint8_t)(len >> 8 & 0xff),
	    (uint8_t)(len & 0xff), type, flags, 0, 0, 0, stream};

	put(w, head, sizeof(head));
	if (len > 0)
		put(w, payload, len);
}

/* HPACK literals without index or Huffman: names and values in pairs. */
static void
put_headers(struct wire *w, uint8_t flags, const char *const *pairs)
{
	uint8_t block[16000];
	size_t len = 0;

	for (; pairs[0] != NULL; pairs += 2) {
		block[len++] = 0;
		for (size_t i = 0; i < 2; i++) {
			size_t n = strlen(pairs[i]);

			assert_true(n < 127 + 128);
			if (n < 127) {
				block[len++] = (uint8_t)n;
			} else {
				block[len++] = 127;
				block[len++] = (uint8_t)(n - 127);
			}
			memcpy(block + len, pairs[i], n);
			len += n;
		}
	}
	put_frame(
	    w, HEADERS, (uint8_t)(flags | END_HEADERS), STREAM, block, len);
}

static void
put_greeting(struct wire *w)
{
	w->len = 0;
	put_frame(w, SETTINGS, 0, 0, NULL, 0);
	put_frame(w, SETTINGS, ACK, 0, NULL, 0);
}

static void
put_response(struct wire *w)
{
	static const char *const headers[] = {":status", "200", "content-type",
	    "application/grpc+proto", "date", "today", NULL};

	put_greeting(w);
	put_headers(w, 0, headers);
}

static void
put_trailers(struct wire *w, const char *code, const char *message)
{
	const char *const trailers[] = {
	    "grpc-status", code, "grpc-message", message, NULL};

	put_headers(w, END_STREAM, trailers);
}

static void
drain_output(struct grpc_call *c)
{
	struct span out;

	while ((out = grpc_output(c)).len > 0)
		grpc_sent(c, out.len);
}

static void
feed(struct grpc_call *c, struct span bytes, size_t piece)
{
	struct span part;
	uint8_t *room;
	size_t len;

	while (bytes.len > 0) {
		room = grpc_room(c, &len);
		len = len < piece ? len : piece;
		(void)span_take(
		    &bytes, len < bytes.len ? len : bytes.len, &part);
		memcpy(room, part.data, part.len);
		grpc_feed(c, part.len);
		drain_output(c);
	}
}

static struct grpc_call *
call_fed(const struct wire *w)
{
	struct grpc_call *c = grpc_new(&conf);

	assert_non_null(c);
	drain_output(c);
	feed(c, span_of(w->data, w->len), SIZE_MAX);
	return c;
}

/* Frames that end the call in W: by which code? */
static void
check_end(const struct wire *w, unsigned int code, const char *why)
{
	struct grpc_call *c = call_fed(w);
	const struct grpc_status *st = grpc_ended(c);

	assert_non_null(st);
	assert_int_equal(st->code, code);
	assert_string_equal(st->why.text, why);
	grpc_free(&c);
}

/* A message split anywhere, sharing frames or not, padded or not, arrives. */
static void
test_call_any_split_gives_the_message(void **state)
{
	static const uint8_t padded[] = {3, 'c', 'd', 0, 0, 0};
	struct wire *w = calloc(1, sizeof(*w));

	(void)state;
	put_response(w);
	put_frame(w, DATA, 0, STREAM, "\0\0\0", 3);
	put_frame(w, DATA, 0, STREAM, NULL, 0);
	put_frame(w, DATA, 0, STREAM, "\0\4ab", 4);
	put_frame(w, DATA, PADDED, STREAM, padded, sizeof(padded));
	for (size_t piece = 1; piece < 60; piece++) {
		struct grpc_call *c = grpc_new(&conf);
		struct span message;

		drain_output(c);
		feed(c, span_of(w->data, w->len), piece);
		assert_null(grpc_ended(c));
		assert_true(grpc_take(c, &message));
		assert_true(span_equal_str(message, "abcd"));
		grpc_taken(c);
		assert_false(grpc_take(c, &message));
		grpc_free(&c);
	}
	free(w);
}

/* Row 106: of a burst the last message counts; the work is bounded. */
static void
test_row_106_burst_gives_the_last_message(void **state)
{
	struct wire *w = calloc(1, sizeof(*w));
	struct grpc_call *c;
	struct span message;

	(void)state;
	put_response(w);
	for (unsigned int i = 0; i < 100; i++) {
		uint8_t m[6] = {0, 0, 0, 0, 1, (uint8_t)i};

		put_frame(w, DATA, 0, STREAM, m, sizeof(m));
	}
	c = call_fed(w);
	assert_true(grpc_take(c, &message));
	assert_int_equal(message.data[0], 99);
	grpc_taken(c);
	assert_false(grpc_take(c, &message));
	grpc_free(&c);
	free(w);
}

/* "No identity issued" reaches the operator, one line, escaped. */
static void
test_call_trailers_only_gives_code_and_text(void **state)
{
	static const char *const trailers[] = {":status", "200", "grpc-status",
	    "7", "content-type", "application/grpc", "grpc-message",
	    "no%20identity%0aissued", NULL};
	struct wire *w = calloc(1, sizeof(*w));

	(void)state;
	put_greeting(w);
	put_headers(w, END_STREAM, trailers);
	check_end(w, GRPC_PERMISSION_DENIED,
	    "PermissionDenied: no identity\\x0aissued");
	free(w);
}

/* A message and the end in one read: both are seen. */
static void
test_call_message_before_the_end_can_be_taken(void **state)
{
	struct wire *w = calloc(1, sizeof(*w));
	struct grpc_call *c;
	struct span message;

	(void)state;
	put_response(w);
	put_frame(w, DATA, 0, STREAM, "\0\0\0\0\1x", 6);
	put_trailers(w, "0", "");
	c = call_fed(w);
	assert_non_null(grpc_ended(c));
	assert_int_equal(grpc_ended(c)->code, GRPC_OK);
	assert_true(grpc_take(c, &message));
	assert_true(span_equal_str(message, "x"));
	grpc_free(&c);
	free(w);
}

/* A stream that ends within a message did not end well. */
static void
test_call_end_within_a_message_is_internal(void **state)
{
	struct wire *w = calloc(1, sizeof(*w));

	(void)state;
	put_response(w);
	put_frame(w, DATA, 0, STREAM, "\0\0\0\0\5x", 6);
	put_trailers(w, "0", "");
	check_end(w, GRPC_INTERNAL, "Internal: stream ended within a message");
	free(w);
}

/* An HTTP error in the agent's place is never read as a message. */
static void
test_call_http_error_maps_its_status(void **state)
{
	static const char *const headers[] = {
	    ":status", "503", "content-type", "application/grpc", NULL};
	struct wire *w = calloc(1, sizeof(*w));

	(void)state;
	put_greeting(w);
	put_headers(w, 0, headers);
	put_frame(w, DATA, END_STREAM, STREAM, "\0\0\0\0\1x", 6);
	check_end(w, GRPC_UNAVAILABLE,
	    "Unavailable: HTTP status 503 without grpc-status");
	free(w);
}

/* A page of text with status 200 is not an update. */
static void
test_call_other_content_type_gives_no_message(void **state)
{
	static const char *const headers[] = {
	    ":status", "200", "content-type", "text/html", NULL};
	struct wire *w = calloc(1, sizeof(*w));
	struct grpc_call *c;
	struct span message;

	(void)state;
	put_greeting(w);
	put_headers(w, 0, headers);
	put_frame(w, DATA, END_STREAM, STREAM, "\0\0\0\0\1x", 6);
	c = call_fed(w);
	assert_false(grpc_take(c, &message));
	assert_int_equal(grpc_ended(c)->code, GRPC_UNKNOWN);
	grpc_free(&c);
	free(w);
}

/* 1xx answers come before the answer and mean nothing. */
static void
test_call_informational_headers_are_skipped(void **state)
{
	static const char *const early[] = {":status", "103", NULL};
	static const char *const headers[] = {
	    ":status", "200", "content-type", "application/grpc", NULL};
	struct wire *w = calloc(1, sizeof(*w));
	struct grpc_call *c;
	struct span message;

	(void)state;
	put_greeting(w);
	put_headers(w, 0, early);
	put_headers(w, 0, headers);
	put_frame(w, DATA, 0, STREAM, "\0\0\0\0\1x", 6);
	c = call_fed(w);
	assert_true(grpc_take(c, &message));
	grpc_free(&c);
	free(w);
}

/* A message over the limit ends the call in the slow retry class. */
static void
test_call_oversize_message_is_said_so(void **state)
{
	struct wire *w = calloc(1, sizeof(*w));
	struct grpc_call *c;

	(void)state;
	put_response(w);
	put_frame(w, DATA, 0, STREAM, "\0\0\0\3\351", 5); /* 1001 */
	c = call_fed(w);
	assert_non_null(grpc_ended(c));
	assert_true(grpc_ended(c)->oversize);
	assert_int_equal(grpc_ended(c)->code, GRPC_RESOURCE_EXHAUSTED);
	assert_string_equal(grpc_ended(c)->why.text,
	    "ResourceExhausted: message of 1001 bytes, limit 1000");
	grpc_free(&c);
	free(w);
}

/* A compressed message was never asked for. */
static void
test_call_compressed_message_is_internal(void **state)
{
	struct wire *w = calloc(1, sizeof(*w));

	(void)state;
	put_response(w);
	put_frame(w, DATA, 0, STREAM, "\1\0\0\0\1x", 6);
	check_end(w, GRPC_INTERNAL,
	    "Internal: message with flag 1, though no compression was "
	    "offered");
	free(w);
}

/* Row 122: a reset stream is retried; its code is counted. */
static void
test_row_122_reset_maps_to_codes(void **state)
{
	static const struct {
		uint8_t h2;
		unsigned int code;
	} rows[] = {
	    {2, GRPC_INTERNAL},
	    {7, GRPC_UNAVAILABLE},
	    {8, GRPC_CANCELLED},
	    {11, GRPC_RESOURCE_EXHAUSTED},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct wire *w = calloc(1, sizeof(*w));
		uint8_t code[4] = {0, 0, 0, rows[i].h2};
		struct grpc_call *c;

		put_response(w);
		put_frame(w, RST, 0, STREAM, code, sizeof(code));
		c = call_fed(w);
		assert_non_null(grpc_ended(c));
		assert_int_equal(grpc_ended(c)->code, rows[i].code);
		grpc_free(&c);
		free(w);
	}
}

/* An agent that shuts down gracefully still delivers to us. */
static void
test_call_goaway_above_our_stream_goes_on(void **state)
{
	static const uint8_t graceful[8] = {0x7f, 0xff, 0xff, 0xff};
	struct wire *w = calloc(1, sizeof(*w));
	struct grpc_call *c;
	struct span message;

	(void)state;
	put_response(w);
	put_frame(w, GOAWAY, 0, 0, graceful, sizeof(graceful));
	put_frame(w, DATA, 0, STREAM, "\0\0\0\0\1x", 6);
	c = call_fed(w);
	assert_null(grpc_ended(c));
	assert_true(grpc_is_leaving(c));
	assert_true(grpc_take(c, &message));
	grpc_free(&c);
	free(w);
}

/* A GOAWAY that leaves us out ends the call, to be retried. */
static void
test_call_goaway_below_our_stream_ends_it(void **state)
{
	static const uint8_t before[8] = {0};
	struct wire *w = calloc(1, sizeof(*w));
	struct grpc_call *c;

	(void)state;
	put_greeting(w);
	put_frame(w, GOAWAY, 0, 0, before, sizeof(before));
	c = call_fed(w);
	assert_non_null(grpc_ended(c));
	assert_int_equal(grpc_ended(c)->code, GRPC_UNAVAILABLE);
	grpc_free(&c);
	free(w);
}

/* A header list over 8 KiB ends the call before it fills memory. */
static void
test_call_header_list_over_limit_ends(void **state)
{
	static char long_value[201];
	const char *pairs[103];
	struct wire *w = calloc(1, sizeof(*w));
	struct grpc_call *c;
	size_t n = 0;

	(void)state;
	memset(long_value, 'v', 200);
	pairs[n++] = ":status";
	pairs[n++] = "200";
	for (; n < 100; n += 2) {
		pairs[n] = "x";
		pairs[n + 1] = long_value;
	}
	pairs[n] = NULL;
	put_greeting(w);
	put_headers(w, 0, pairs);
	c = call_fed(w);
	assert_non_null(grpc_ended(c));
	assert_int_equal(grpc_ended(c)->code, GRPC_RESOURCE_EXHAUSTED);
	grpc_free(&c);
	free(w);
}

/* Floods of what carries nothing end the call, whatever the frame. */
static void
test_call_floods_end(void **state)
{
	static const uint8_t types[] = {PING, SETTINGS, DATA, 2};

	(void)state;
	for (size_t t = 0; t < ARRAY_LEN(types); t++) {
		struct wire *w = calloc(1, sizeof(*w));
		struct grpc_call *c;
		uint8_t payload[8] = {0};

		put_response(w);
		for (unsigned int i = 0; i < 10001; i++)
			put_frame(w, types[t], 0,
			    types[t] == DATA || types[t] == 2 ? STREAM : 0,
			    payload,
			    types[t] == PING ? 8
			    : types[t] == 2  ? 5
			                     : 0);
		c = call_fed(w);
		if (grpc_ended(c) == NULL)
			fail_msg("frame type %u", types[t]);
		assert_int_equal(grpc_ended(c)->code, GRPC_RESOURCE_EXHAUSTED);
		grpc_free(&c);
		free(w);
	}
}

/* So do frames of kinds that nobody knows. */
static void
test_call_flood_of_unknown_frames_ends(void **state)
{
	static const uint8_t nothing[16000];
	struct wire *w = calloc(1, sizeof(*w));
	struct grpc_call *c;

	(void)state;
	put_response(w);
	c = call_fed(w);
	for (unsigned int i = 0; i < 70; i++) {
		w->len = 0;
		put_frame(w, 99, 0, 0, nothing, sizeof(nothing));
		assert_null(i < 60 ? grpc_ended(c) : NULL);
		feed(c, span_of(w->data, w->len), SIZE_MAX);
	}
	assert_non_null(grpc_ended(c));
	assert_int_equal(grpc_ended(c)->code, GRPC_RESOURCE_EXHAUSTED);
	grpc_free(&c);
	free(w);
}

/* Bytes that are no HTTP/2 end the call at once. */
static void
test_call_garbage_ends(void **state)
{
	struct wire *w = calloc(1, sizeof(*w));
	struct grpc_call *c;

	(void)state;
	put(w, "HTTP/1.1 400 Bad Request\r\n\r\n", 28);
	c = call_fed(w);
	assert_non_null(grpc_ended(c));
	assert_int_not_equal(grpc_ended(c)->code, GRPC_OK);
	grpc_free(&c);
	free(w);
}

/* An agent that dies is Unavailable, and says so once. */
static void
test_call_connection_end_is_unavailable(void **state)
{
	struct wire *w = calloc(1, sizeof(*w));
	struct grpc_call *c;

	(void)state;
	put_response(w);
	c = call_fed(w);
	grpc_feed_end(c, "agent closed the connection");
	grpc_feed_end(c, "again");
	assert_int_equal(grpc_ended(c)->code, GRPC_UNAVAILABLE);
	assert_string_equal(grpc_ended(c)->why.text,
	    "Unavailable: agent closed the connection");
	grpc_free(&c);
	free(w);
}

/* What was received does not stay behind in the receive buffer. */
static void
test_call_room_is_wiped_after_feeding(void **state)
{
	struct wire *w = calloc(1, sizeof(*w));
	struct grpc_call *c;
	uint8_t *room;
	size_t len;

	(void)state;
	put_response(w);
	put_frame(w, DATA, 0, STREAM, "\0\0\0\0\6secret", 11);
	c = call_fed(w);
	room = grpc_room(c, &len);
	for (size_t i = 0; i < len; i++)
		assert_int_equal(room[i], 0);
	grpc_free(&c);
	free(w);
}

/* Row 103: exactly one empty message is sent: five zero bytes. */
static void
test_row_103_request_is_one_empty_message(void **state)
{
	static const uint8_t frame[] = {
	    0, 0, 5, DATA, END_STREAM, 0, 0, 0, STREAM, 0, 0, 0, 0, 0};
	struct grpc_call *c = grpc_new(&conf);
	struct wire *w = calloc(1, sizeof(*w));
	struct span out;

	(void)state;
	while ((out = grpc_output(c)).len > 0) {
		put(w, out.data, out.len);
		grpc_sent(c, out.len);
	}
	assert_memory_equal(w->data, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
	assert_int_equal(w->data[24 + 3], SETTINGS);
	assert_memory_equal(
	    w->data + w->len - sizeof(frame), frame, sizeof(frame));
	grpc_free(&c);
	free(w);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_call_any_split_gives_the_message),
	    cmocka_unit_test(test_row_106_burst_gives_the_last_message),
	    cmocka_unit_test(test_call_trailers_only_gives_code_and_text),
	    cmocka_unit_test(test_call_message_before_the_end_can_be_taken),
	    cmocka_unit_test(test_call_end_within_a_message_is_internal),
	    cmocka_unit_test(test_call_http_error_maps_its_status),
	    cmocka_unit_test(test_call_other_content_type_gives_no_message),
	    cmocka_unit_test(test_call_informational_headers_are_skipped),
	    cmocka_unit_test(test_call_oversize_message_is_said_so),
	    cmocka_unit_test(test_call_compressed_message_is_internal),
	    cmocka_unit_test(test_row_122_reset_maps_to_codes),
	    cmocka_unit_test(test_call_goaway_above_our_stream_goes_on),
	    cmocka_unit_test(test_call_goaway_below_our_stream_ends_it),
	    cmocka_unit_test(test_call_header_list_over_limit_ends),
	    cmocka_unit_test(test_call_floods_end),
	    cmocka_unit_test(test_call_flood_of_unknown_frames_ends),
	    cmocka_unit_test(test_call_garbage_ends),
	    cmocka_unit_test(test_call_connection_end_is_unavailable),
	    cmocka_unit_test(test_call_room_is_wiped_after_feeding),
	    cmocka_unit_test(test_row_103_request_is_one_empty_message),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
