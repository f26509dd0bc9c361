#include "unit.h"

#include <string.h>

#include "workload_int.h"

static enum fault
scan(const char *bytes, size_t len, struct scanned *s)
{
	struct why why;

	return workload_scan(span_of(bytes, len), s, &why);
}

#define SCAN(literal, s) scan(literal, sizeof(literal) - 1, s)

static void
check_scan(const char *in, size_t in_len, const char *out, size_t out_len)
{
	struct scanned s;

	assert_int_equal(scan(in, in_len, &s), FAULT_NONE);
	assert_int_equal(s.len, out_len);
	assert_memory_equal(s.bytes, out, out_len);
	scanned_fini(&s);
}

#define CHECK(in, out) check_scan(in, sizeof(in) - 1, out, sizeof(out) - 1)

/* The private key never reaches the general decoder. */
static void
test_scan_key_is_cut_out(void **state)
{
	static const char in[] = "\x0a\x0c\x0a\x01i\x12\x01"
	                         "c\x1a\x02KK\x2a\x00";
	struct scanned s;

	(void)state;
	assert_int_equal(SCAN(in, &s), FAULT_NONE);
	assert_int_equal(s.n_svids, 1);
	assert_int_equal(s.keys[0].len, 2);
	assert_memory_equal(s.keys[0].bytes, "KK", 2);
	assert_null(memmem(s.bytes, s.len, "KK", 2));
	assert_int_equal(s.len, 10);
	assert_memory_equal(s.bytes,
	    "\x0a\x08\x0a\x01i\x12\x01"
	    "c\x2a\x00",
	    10);
	scanned_fini(&s);
}

/* Proto3: of a field sent twice the last one wins, of the key as well. */
static void
test_scan_second_key_wins(void **state)
{
	struct scanned s;

	(void)state;
	assert_int_equal(SCAN("\x0a\x07\x1a\x02"
	                      "AA\x1a\x01"
	                      "B",
	                     &s),
	    FAULT_NONE);
	assert_int_equal(s.keys[0].len, 1);
	assert_memory_equal(s.keys[0].bytes, "B", 1);
	scanned_fini(&s);
}

/* Row 104: fields that we do not know are skipped, of every wire type. */
static void
test_row_104_unknown_fields_are_dropped(void **state)
{
	(void)state;
	CHECK("\x12\x01r\x20\x96\x01", "\x12\x01r");
	CHECK("\x21"
	      "12345678\x12\x01r",
	    "\x12\x01r");
	CHECK("\x25"
	      "1234\x12\x01r",
	    "\x12\x01r");
	CHECK("\x22\x03"
	      "abc\x12\x01r",
	    "\x12\x01r");
	/* Number 2^29 - 1. */
	CHECK("\xfa\xff\xff\xff\x0f\x01"
	      "x\x12\x01r",
	    "\x12\x01r");
	/* Within an SVID: field 6. */
	CHECK("\x0a\x05\x32\x00\x0a\x01i", "\x0a\x03\x0a\x01i");
}

/* Row 104: groups are skipped, nested ones too. */
static void
test_row_104_unknown_groups_are_dropped(void **state)
{
	(void)state;
	CHECK("\x23\x24\x12\x01r", "\x12\x01r");
	CHECK("\x23\x2b\x08\x01\x2c\x24\x12\x01r", "\x12\x01r");
}

/* Row 104: a group that is too deep, open, or crossed voids the message. */
static void
test_row_104_bad_groups_are_malformed(void **state)
{
	char deep[128];
	struct scanned s;

	(void)state;
	assert_int_equal(SCAN("\x23", &s), FAULT_MALFORMED);
	assert_int_equal(SCAN("\x24", &s), FAULT_MALFORMED);
	assert_int_equal(SCAN("\x23\x2b\x24\x2c", &s), FAULT_MALFORMED);
	for (size_t depth = 31; depth < 34; depth++) {
		memset(deep, 0x23, depth);
		memset(deep + depth, 0x24, depth);
		assert_int_equal(scan(deep, 2 * depth, &s),
		    depth <= 32 ? FAULT_NONE : FAULT_MALFORMED);
		scanned_fini(&s);
	}
}

/* What no decoder should guess at is refused. */
static void
test_scan_malformed_wire_data_is_refused(void **state)
{
	struct scanned s;

	(void)state;
	assert_int_equal(SCAN("\x0a", &s), FAULT_MALFORMED);
	assert_int_equal(SCAN("\x0a\x05"
	                      "abc",
	                     &s),
	    FAULT_MALFORMED);
	assert_int_equal(
	    SCAN("\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", &s),
	    FAULT_MALFORMED);
	/* Field 0, wire types 6 and 7, number 2^29. */
	assert_int_equal(SCAN("\x02\x00", &s), FAULT_MALFORMED);
	assert_int_equal(SCAN("\x26\x00", &s), FAULT_MALFORMED);
	assert_int_equal(SCAN("\x27\x00", &s), FAULT_MALFORMED);
	assert_int_equal(SCAN("\x82\x80\x80\x80\x10\x00", &s), FAULT_MALFORMED);
	/* A known field of another type. */
	assert_int_equal(SCAN("\x10\x01", &s), FAULT_MALFORMED);
	assert_int_equal(SCAN("\x0a\x02\x08\x01", &s), FAULT_MALFORMED);
	/* A varint that never ends, and one beyond 64 bits. */
	assert_int_equal(
	    SCAN("\x20\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00", &s),
	    FAULT_MALFORMED);
	assert_int_equal(
	    SCAN("\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", &s),
	    FAULT_MALFORMED);
}

/* An overlong but legal varint is legal. */
static void
test_scan_overlong_varint_is_taken(void **state)
{
	(void)state;
	CHECK("\x92\x80\x00\x81\x80\x00r", "\x12\x01r");
}

static enum fault
scan_repeated(const char *field, size_t len, size_t times, struct why *why)
{
	static char many[64 * 1024];
	struct scanned s;
	enum fault fault;

	assert_true(len * times <= sizeof(many));
	for (size_t i = 0; i < times; i++)
		memcpy(many + i * len, field, len);
	fault = workload_scan(span_of(many, len * times), &s, why);
	scanned_fini(&s);
	return fault;
}

/* Row 92: counts are held to the limits, and the sentence names the limit. */
static void
test_row_092_counts_over_limits_are_refused(void **state)
{
	struct why why;

	(void)state;
	assert_int_equal(scan_repeated("\x0a\x00", 2, 128, &why), FAULT_NONE);
	assert_int_equal(scan_repeated("\x0a\x00", 2, 129, &why), FAULT_LIMIT);
	assert_string_equal(why.text, "message: more than 128 SVIDs");
	assert_int_equal(scan_repeated("\x12\x00", 2, 64, &why), FAULT_NONE);
	assert_int_equal(scan_repeated("\x12\x00", 2, 65, &why), FAULT_LIMIT);
	assert_string_equal(why.text, "message: more than 64 CRLs");
	assert_int_equal(scan_repeated("\x1a\x00", 2, 1024, &why), FAULT_NONE);
	assert_int_equal(scan_repeated("\x1a\x00", 2, 1025, &why), FAULT_LIMIT);
	assert_string_equal(why.text, "message: more than 1024 trust domains");
}

/* Row 92: keys fill the locked memory no further than they may. */
static void
test_row_092_keys_over_limits_are_refused(void **state)
{
	static char svid[6 + 16385];
	static char many[20 * sizeof(svid)];
	struct scanned s;
	struct why why;
	size_t n = 0;

	(void)state;
	/* One key of 16,385 bytes: 0x8181 0x01 in its varint. */
	memcpy(svid, "\x0a\x85\x80\x01", 4);
	svid[1] = (char)(0x80 | ((16385 + 4) & 0x7f));
	svid[2] = (char)(0x80 | ((16385 + 4) >> 7 & 0x7f));
	svid[3] = (char)((16385 + 4) >> 14);
	memcpy(many, svid, 4);
	memcpy(many + 4, "\x1a\x81\x80\x01", 4);
	assert_int_equal(
	    workload_scan(span_of(many, 8 + 16385), &s, &why), FAULT_LIMIT);
	assert_string_equal(
	    why.text, "message: a key of 16385 bytes, limit 16384");
	/* Seventeen of 16,383 bytes. */
	for (size_t i = 0; i < 17; i++) {
		const size_t len = 16383;

		many[n++] = 0x0a;
		many[n++] = (char)(0x80 | ((len + 3) & 0x7f));
		many[n++] = (char)(0x80 | ((len + 3) >> 7 & 0x7f));
		many[n++] = (char)((len + 3) >> 14);
		many[n++] = 0x1a;
		many[n++] = (char)(0x80 | (len & 0x7f));
		many[n++] = (char)(len >> 7);
		n += len;
	}
	assert_int_equal(
	    workload_scan(span_of(many, n), &s, &why), FAULT_LIMIT);
	assert_string_equal(
	    why.text, "message: keys of more than 262144 bytes");
}

/* Every prefix of a message is judged without reading beyond it. */
static void
test_scan_every_prefix_is_judged_in_bounds(void **state)
{
	static const char in[] = "\x0a\x0c\x0a\x01i\x12\x01"
	                         "c\x1a\x02KK\x2a\x00\x12\x01r"
	                         "\x1a\x06\x0a\x01t\x12\x01"
	                         "b\x23\x08\x01\x24";

	(void)state;
	for (size_t len = 0; len < sizeof(in); len++) {
		struct scanned s;
		char *copy = test_malloc(len + 1);

		memcpy(copy, in, len);
		(void)scan(copy, len, &s);
		scanned_fini(&s);
		test_free(copy);
	}
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_scan_key_is_cut_out),
	    cmocka_unit_test(test_scan_second_key_wins),
	    cmocka_unit_test(test_row_104_unknown_fields_are_dropped),
	    cmocka_unit_test(test_row_104_unknown_groups_are_dropped),
	    cmocka_unit_test(test_row_104_bad_groups_are_malformed),
	    cmocka_unit_test(test_scan_malformed_wire_data_is_refused),
	    cmocka_unit_test(test_scan_overlong_varint_is_taken),
	    cmocka_unit_test(test_row_092_counts_over_limits_are_refused),
	    cmocka_unit_test(test_row_092_keys_over_limits_are_refused),
	    cmocka_unit_test(test_scan_every_prefix_is_judged_in_bounds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
