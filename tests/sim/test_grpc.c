/* Both halves of grpc against each other, over an imaginary wire. */

#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grpc.h"

struct agent {
	struct grpc_server *server;
	int32_t stream;
	unsigned int calls;
	unsigned int closed;
	char path[64];
	char metadata[16];
};

static const struct grpc_conf conf = {
    .path = "/SpiffeWorkloadAPI/FetchX509SVID",
    .metadata_name = "workload.spiffe.io",
    .metadata_value = "true",
    .message_max = 16 << 20,
};

static void
on_called(void *arg, struct grpc_server *s, int32_t stream, const char *path,
    const char *metadata)
{
	struct agent *a = arg;

	(void)s;
	a->calls++;
	a->stream = stream;
	(void)snprintf(a->path, sizeof(a->path), "%s", path);
	(void)snprintf(a->metadata, sizeof(a->metadata), "%s",
	    metadata == NULL ? "-" : metadata);
}

static void
on_closed(void *arg, struct grpc_server *s, int32_t stream)
{
	struct agent *a = arg;

	(void)s;
	assert_int_equal(stream, a->stream);
	a->closed++;
}

static const struct grpc_server_ops ops = {on_called, on_closed};

static struct agent *
agent_new(void)
{
	struct agent *a = calloc(1, sizeof(*a));

	a->server = grpc_server_new(&ops, "workload.spiffe.io", a);
	assert_non_null(a->server);
	return a;
}

static void
agent_free(struct agent *a)
{
	grpc_server_free(&a->server);
	free(a);
}

/* Carry bytes both ways, PIECE at a time, until nobody has any. */
static void
carry(struct grpc_call *c, struct agent *a, size_t piece)
{
	bool moved = true;

	while (moved) {
		struct span out = grpc_output(c);

		moved = out.len > 0;
		out.len = out.len < piece ? out.len : piece;
		if (out.len > 0)
			assert_int_equal(
			    grpc_server_feed(a->server, out), FAULT_NONE);
		grpc_sent(c, out.len);
		out = grpc_server_output(a->server);
		if (out.len > 0) {
			size_t room;
			uint8_t *to = grpc_room(c, &room);

			moved = true;
			out.len = out.len < piece ? out.len : piece;
			out.len = out.len < room ? out.len : room;
			memcpy(to, out.data, out.len);
			grpc_feed(c, out.len);
			grpc_server_sent(a->server, out.len);
		}
	}
}

/* Row 112: the header that the standard demands arrives once, as written. */
static void
sim_row_112_request_carries_the_metadata(void **state)
{
	struct agent *a = agent_new();
	struct grpc_call *c = grpc_new(&conf);

	(void)state;
	carry(c, a, 1);
	assert_int_equal(a->calls, 1);
	assert_string_equal(a->path, conf.path);
	assert_string_equal(a->metadata, "true");
	assert_null(grpc_ended(c));
	grpc_free(&c);
	agent_free(a);
}

/* A rotation during a stream's life: each update arrives in its turn. */
static void
sim_grpc_updates_arrive_in_their_turn(void **state)
{
	struct agent *a = agent_new();
	struct grpc_call *c = grpc_new(&conf);
	struct span message;

	(void)state;
	carry(c, a, 7);
	for (unsigned int i = 0; i < 300; i++) {
		char text[32];

		(void)snprintf(text, sizeof(text), "update %u", i);
		assert_int_equal(
		    grpc_server_send(a->server, a->stream, span_of_str(text)),
		    FAULT_NONE);
		carry(c, a, 7);
		assert_true(grpc_take(c, &message));
		assert_true(span_equal_str(message, text));
		grpc_taken(c);
	}
	assert_null(grpc_ended(c));
	grpc_free(&c);
	agent_free(a);
}

/* A CRL of megabytes passes flow control without a stall. */
static void
sim_grpc_large_update_passes_flow_control(void **state)
{
	static const size_t len = 6u << 20;
	struct agent *a = agent_new();
	struct grpc_call *c = grpc_new(&conf);
	uint8_t *large = malloc(len);
	struct span message;

	(void)state;
	for (size_t i = 0; i < len; i++)
		large[i] = (uint8_t)(i * 31 >> 3);
	carry(c, a, SIZE_MAX);
	(void)grpc_server_send(a->server, a->stream, span_of(large, len));
	carry(c, a, SIZE_MAX);
	assert_true(grpc_take(c, &message));
	assert_true(span_equal(message, span_of(large, len)));
	free(large);
	grpc_free(&c);
	agent_free(a);
}

/* A refusal at once, and one after an update, read the same. */
static void
sim_grpc_refusal_before_and_after_an_update(void **state)
{
	(void)state;
	for (unsigned int updates = 0; updates < 2; updates++) {
		struct agent *a = agent_new();
		struct grpc_call *c = grpc_new(&conf);

		carry(c, a, 5);
		for (unsigned int i = 0; i < updates; i++)
			(void)grpc_server_send(
			    a->server, a->stream, span_of_str("x"));
		grpc_server_finish(a->server, a->stream, GRPC_PERMISSION_DENIED,
		    "no identity issued");
		carry(c, a, 5);
		assert_non_null(grpc_ended(c));
		assert_int_equal(grpc_ended(c)->code, GRPC_PERMISSION_DENIED);
		assert_string_equal(grpc_ended(c)->why.text,
		    "PermissionDenied: no identity issued");
		assert_int_equal(a->closed, 1);
		grpc_free(&c);
		agent_free(a);
	}
}

/* An update queued before the end is delivered before it. */
static void
sim_grpc_update_is_delivered_before_the_end(void **state)
{
	struct agent *a = agent_new();
	struct grpc_call *c = grpc_new(&conf);
	struct span message;

	(void)state;
	carry(c, a, SIZE_MAX);
	(void)grpc_server_send(a->server, a->stream, span_of_str("last"));
	grpc_server_finish(a->server, a->stream, GRPC_OK, NULL);
	carry(c, a, SIZE_MAX);
	assert_int_equal(grpc_ended(c)->code, GRPC_OK);
	assert_true(grpc_take(c, &message));
	assert_true(span_equal_str(message, "last"));
	grpc_free(&c);
	agent_free(a);
}

/* The issuer sees that a client without the header has none. */
static void
sim_grpc_request_without_metadata_is_seen(void **state)
{
	struct grpc_conf bare = conf;
	struct agent *a = agent_new();
	struct grpc_call *c;

	(void)state;
	bare.metadata_name = NULL;
	c = grpc_new(&bare);
	carry(c, a, SIZE_MAX);
	assert_string_equal(a->metadata, "-");
	grpc_free(&c);
	agent_free(a);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(sim_row_112_request_carries_the_metadata),
	    cmocka_unit_test(sim_grpc_updates_arrive_in_their_turn),
	    cmocka_unit_test(sim_grpc_large_update_passes_flow_control),
	    cmocka_unit_test(sim_grpc_refusal_before_and_after_an_update),
	    cmocka_unit_test(sim_grpc_update_is_delivered_before_the_end),
	    cmocka_unit_test(sim_grpc_request_without_metadata_is_seen),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
