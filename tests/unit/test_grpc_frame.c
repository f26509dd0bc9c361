#include "unit.h"

#include <string.h>
#include <sys/resource.h>

#include "grpc_int.h"

/* "ab", the empty message, "xyz". */
static const uint8_t three[] = {
    0, 0, 0, 0, 2, 'a', 'b', 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 'x', 'y', 'z'};

static enum grpc_frame_result
feed_in_pieces(struct grpc_frames *f, struct span bytes, size_t piece)
{
	enum grpc_frame_result result = GRPC_FRAME_OK;
	struct span part;

	while (bytes.len > 0 && result == GRPC_FRAME_OK) {
		(void)span_take(
		    &bytes, piece < bytes.len ? piece : bytes.len, &part);
		result = grpc_frames_feed(f, part);
	}
	return result;
}

/* An update split anywhere by the kernel arrives as it was sent. */
static void
test_frames_any_split_gives_the_newest_message(void **state)
{
	(void)state;
	for (size_t piece = 1; piece <= sizeof(three); piece++) {
		struct grpc_frames f = {.message_max = 100};

		assert_int_equal(
		    feed_in_pieces(&f, span_of(three, sizeof(three)), piece),
		    GRPC_FRAME_OK);
		assert_true(f.is_ready);
		assert_int_equal(f.messages, 3);
		assert_int_equal(f.ready.len, 3);
		assert_memory_equal(f.ready.data, "xyz", 3);
		assert_false(grpc_frames_partial(&f));
		grpc_frames_fini(&f);
	}
}

/* A message of length zero is a message, and not silence. */
static void
test_frames_empty_message_is_ready(void **state)
{
	struct grpc_frames f = {.message_max = 100};

	(void)state;
	assert_int_equal(
	    grpc_frames_feed(&f, span_of(three + 7, 5)), GRPC_FRAME_OK);
	assert_true(f.is_ready);
	assert_int_equal(f.ready.len, 0);
	grpc_frames_fini(&f);
}

/* Half an update is never taken for a whole one. */
static void
test_frames_cut_message_is_not_ready(void **state)
{
	(void)state;
	for (size_t len = 1; len < 7; len++) {
		struct grpc_frames f = {.message_max = 100};

		assert_int_equal(
		    grpc_frames_feed(&f, span_of(three, len)), GRPC_FRAME_OK);
		assert_false(f.is_ready);
		assert_true(grpc_frames_partial(&f));
		grpc_frames_fini(&f);
	}
}

/* The declared length is judged before a byte of the message is kept. */
static void
test_frames_declared_over_limit_is_refused_at_the_header(void **state)
{
	static const uint8_t huge[] = {0, 0xff, 0xff, 0xff, 0xff};
	static const uint8_t over[] = {0, 0, 0, 0, 101};
	static const uint8_t at[] = {0, 0, 0, 0, 100};
	struct grpc_frames f = {.message_max = 100};

	(void)state;
	assert_int_equal(grpc_frames_feed(&f, span_of(huge, sizeof(huge))),
	    GRPC_FRAME_OVERSIZE);
	assert_null(f.partial.data);
	grpc_frames_fini(&f);
	f = (struct grpc_frames){.message_max = 100};
	assert_int_equal(grpc_frames_feed(&f, span_of(over, sizeof(over))),
	    GRPC_FRAME_OVERSIZE);
	grpc_frames_fini(&f);
	f = (struct grpc_frames){.message_max = 100};
	assert_int_equal(
	    grpc_frames_feed(&f, span_of(at, sizeof(at))), GRPC_FRAME_OK);
	grpc_frames_fini(&f);
}

/* No compression was offered: any flag is a server that errs. */
static void
test_frames_any_flag_is_refused(void **state)
{
	(void)state;
	for (unsigned int flag = 1; flag < 256; flag++) {
		uint8_t header[5] = {(uint8_t)flag};
		struct grpc_frames f = {.message_max = 100};

		assert_int_equal(
		    grpc_frames_feed(&f, span_of(header, 5)), GRPC_FRAME_FLAG);
		grpc_frames_fini(&f);
	}
}

/* A large update grows the buffer and keeps every byte. */
static void
test_frames_large_message_keeps_every_byte(void **state)
{
	static const size_t len = 300000;
	uint8_t header[5] = {0, 0, (uint8_t)(len >> 16),
	    (uint8_t)(len >> 8 & 0xff), (uint8_t)(len & 0xff)};
	struct grpc_frames f = {.message_max = 1 << 20};

	(void)state;
	(void)grpc_frames_feed(&f, span_of(header, 5));
	for (size_t i = 0; i < len; i++) {
		uint8_t byte = (uint8_t)(i * 7);

		assert_int_equal(
		    grpc_frames_feed(&f, span_of(&byte, 1)), GRPC_FRAME_OK);
	}
	assert_true(f.is_ready);
	assert_int_equal(f.ready.len, len);
	for (size_t i = 0; i < len; i++)
		if (f.ready.data[i] != (uint8_t)(i * 7))
			fail_msg("byte %zu", i);
	grpc_frames_fini(&f);
}

/* A low limit on locked memory is counted, and never fatal. */
static void
test_buffer_lock_limit_is_counted(void **state)
{
	struct grpc_buffer b = {0};
	struct rlimit was, none = {0, 0};

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_MEMLOCK, &was), 0);
	none.rlim_max = was.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_MEMLOCK, &none), 0);
	assert_true(grpc_buffer_reserve(&b, 10));
	assert_int_equal(setrlimit(RLIMIT_MEMLOCK, &was), 0);
	b.data[9] = 7;
	b.len = 10;
	assert_true(grpc_buffer_reserve(&b, 100000));
	assert_int_equal(b.data[9], 7);
	/* A process that may lock without limit has nothing to count. */
	assert_int_equal(b.lock_failures, b.locked ? 0 : 1);
	grpc_buffer_fini(&b);
	assert_null(b.data);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_frames_any_split_gives_the_newest_message),
	    cmocka_unit_test(test_frames_empty_message_is_ready),
	    cmocka_unit_test(test_frames_cut_message_is_not_ready),
	    cmocka_unit_test(
	        test_frames_declared_over_limit_is_refused_at_the_header),
	    cmocka_unit_test(test_frames_any_flag_is_refused),
	    cmocka_unit_test(test_frames_large_message_keeps_every_byte),
	    cmocka_unit_test(test_buffer_lock_limit_is_counted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
