#include "unit.h"

#include <stdio.h>
#include <string.h>

#include "grpc_int.h"

/* grpc-status is decimal without leading zeros, 0 to 16; else Unknown. */
static void
test_code_parse_takes_the_seventeen_codes_only(void **state)
{
	static const char *const bad[] = {
	    "", "17", "99", "-1", "00", "07", "7 ", " 7", "0x7", "100", "a"};
	char text[8];

	(void)state;
	for (unsigned int i = 0; i < GRPC_CODES; i++) {
		(void)snprintf(text, sizeof(text), "%u", i);
		assert_int_equal(grpc_code_parse(span_of_str(text)), i);
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(
		    grpc_code_parse(span_of_str(bad[i])), GRPC_UNKNOWN);
}

/* A proxy's error page in the agent's place is judged by its HTTP status. */
static void
test_code_from_http_follows_the_mapping(void **state)
{
	static const struct {
		unsigned int http;
		unsigned int code;
	} rows[] = {
	    {400, GRPC_INTERNAL},
	    {401, GRPC_UNAUTHENTICATED},
	    {403, GRPC_PERMISSION_DENIED},
	    {404, GRPC_UNIMPLEMENTED},
	    {429, GRPC_UNAVAILABLE},
	    {502, GRPC_UNAVAILABLE},
	    {503, GRPC_UNAVAILABLE},
	    {504, GRPC_UNAVAILABLE},
	    {200, GRPC_UNKNOWN},
	    {415, GRPC_UNKNOWN},
	    {500, GRPC_UNKNOWN},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		assert_int_equal(
		    grpc_code_from_http(rows[i].http), rows[i].code);
}

/* A stream that is reset says, by its code, what to do next. */
static void
test_code_from_reset_follows_the_mapping(void **state)
{
	(void)state;
	assert_int_equal(grpc_code_from_reset(0), GRPC_INTERNAL);
	assert_int_equal(grpc_code_from_reset(1), GRPC_INTERNAL);
	assert_int_equal(grpc_code_from_reset(2), GRPC_INTERNAL);
	assert_int_equal(grpc_code_from_reset(3), GRPC_INTERNAL);
	assert_int_equal(grpc_code_from_reset(7), GRPC_UNAVAILABLE);
	assert_int_equal(grpc_code_from_reset(8), GRPC_CANCELLED);
	assert_int_equal(grpc_code_from_reset(11), GRPC_RESOURCE_EXHAUSTED);
	assert_int_equal(grpc_code_from_reset(0xffff), GRPC_INTERNAL);
}

static void
check_decode(const char *in, const char *out)
{
	uint8_t buf[64];
	size_t len = grpc_message_decode(span_of_str(in), buf, sizeof(buf));

	assert_int_equal(len, strlen(out));
	assert_memory_equal(buf, out, len);
}

/* The agent's reason is readable, and a bad escape does not hide it. */
static void
test_message_decode_keeps_what_does_not_decode(void **state)
{
	(void)state;
	check_decode("no%20identity%20issued", "no identity issued");
	check_decode("100%", "100%");
	check_decode("%4", "%4");
	check_decode("%zz%41", "%zzA");
	check_decode("%0a", "\n");
	check_decode("%e2%82%ac", "\xe2\x82\xac");
	check_decode("", "");
}

/* A long text is cut, not overrun. */
static void
test_message_decode_stops_at_the_room(void **state)
{
	uint8_t buf[4] = {0, 0, 0, 'x'};

	(void)state;
	assert_int_equal(
	    grpc_message_decode(span_of_str("%61bcdef"), buf, 3), 3);
	assert_memory_equal(buf, "abcx", 4);
}

/* Every code has the name that operators know. */
static void
test_code_name_knows_every_code(void **state)
{
	(void)state;
	assert_string_equal(grpc_code_name(7), "PermissionDenied");
	assert_string_equal(grpc_code_name(14), "Unavailable");
	assert_string_equal(grpc_code_name(16), "Unauthenticated");
	assert_string_equal(grpc_code_name(17), "Unknown");
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_code_parse_takes_the_seventeen_codes_only),
	    cmocka_unit_test(test_code_from_http_follows_the_mapping),
	    cmocka_unit_test(test_code_from_reset_follows_the_mapping),
	    cmocka_unit_test(test_message_decode_keeps_what_does_not_decode),
	    cmocka_unit_test(test_message_decode_stops_at_the_room),
	    cmocka_unit_test(test_code_name_knows_every_code),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
