/* SPIFFE IDs, row by row of the conformance matrix, and by exhaustion. */

#include <string.h>

#include "unit.h"

#include "mem.h"
#include "spiffe.h"

struct id_case {
	const char *text;
	enum spiffe_id_error want;
};

static enum spiffe_id_error
parse(struct span s)
{
	struct spiffe_id id;

	return spiffe_id_parse(s, &id);
}

static void
check_cases(const struct id_case *cases, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		enum spiffe_id_error got = parse(span_of_str(cases[i].text));

		if (got != cases[i].want)
			fail_msg("%s: got %d, want %d", cases[i].text, (int)got,
			    (int)cases[i].want);
	}
}

#define CHECK_CASES(cases) check_cases((cases), ARRAY_LEN(cases))

/* An ID of LEN bytes whose trust domain has TD_LEN bytes. */
static struct span
long_id(char buf[static 4096], size_t td_len, size_t len)
{
	memset(buf, 'a', 4096);
	memcpy(buf, "spiffe://", 9);
	if (len > 9 + td_len)
		buf[9 + td_len] = '/';
	return span_of(buf, len);
}

/* Somebody else's URI would otherwise name a caller. */
static void
test_row_001_foreign_scheme_refused(void **state)
{
	static const struct id_case cases[] = {
	    {"spiffe://td/x", SPIFFE_ID_OK},
	    {"http://td/x", SPIFFE_ID_NO_SCHEME},
	    {"spiffe:td/x", SPIFFE_ID_NO_SCHEME},
	    {"spiffe:/td/x", SPIFFE_ID_NO_SCHEME},
	    {"sparfe://td/x", SPIFFE_ID_NO_SCHEME},
	    {"", SPIFFE_ID_NO_SCHEME},
	    {"spiffe:/", SPIFFE_ID_NO_SCHEME},
	    {"td/x", SPIFFE_ID_NO_SCHEME},
	    {" spiffe://td/x", SPIFFE_ID_NO_SCHEME},
	};

	(void)state;
	CHECK_CASES(cases);
}

/* One identity would otherwise have two spellings. */
static void
test_row_002_scheme_in_upper_case_refused(void **state)
{
	static const struct id_case cases[] = {
	    {"SPIFFE://td/x", SPIFFE_ID_SCHEME_CASE},
	    {"Spiffe://td/x", SPIFFE_ID_SCHEME_CASE},
	    {"spiffE://td/x", SPIFFE_ID_SCHEME_CASE},
	    {"SPARFE://td/x", SPIFFE_ID_NO_SCHEME},
	};

	(void)state;
	CHECK_CASES(cases);
}

/* An ID of nobody's domain would be looked up in no bundle. */
static void
test_row_003_empty_trust_domain_refused(void **state)
{
	static const struct id_case cases[] = {
	    {"spiffe://", SPIFFE_ID_TD_EMPTY},
	    {"spiffe:///x", SPIFFE_ID_TD_EMPTY},
	    {"spiffe:///", SPIFFE_ID_TD_EMPTY},
	    {"spiffe://?q", SPIFFE_ID_TD_EMPTY},
	};

	(void)state;
	CHECK_CASES(cases);
	assert_int_equal(
	    spiffe_trust_domain_check(span_of_str("")), SPIFFE_ID_TD_EMPTY);
}

/* A query could be dropped by one reader and kept by another. */
static void
test_row_004_query_refused(void **state)
{
	static const struct id_case cases[] = {
	    {"spiffe://td/x?", SPIFFE_ID_QUERY},
	    {"spiffe://td/x?a=b", SPIFFE_ID_QUERY},
	    {"spiffe://td?", SPIFFE_ID_QUERY},
	    {"spiffe://td/?a", SPIFFE_ID_QUERY},
	};

	(void)state;
	CHECK_CASES(cases);
}

/* A trailing '#' passes where a URL library drops empty fragments. */
static void
test_row_005_fragment_refused(void **state)
{
	static const struct id_case cases[] = {
	    {"spiffe://td/x#f", SPIFFE_ID_FRAGMENT},
	    {"spiffe://td/x#", SPIFFE_ID_FRAGMENT},
	    {"spiffe://td#", SPIFFE_ID_FRAGMENT},
	};

	(void)state;
	CHECK_CASES(cases);
}

/* `good.domain@evil.domain` must not look like the former. */
static void
test_row_006_userinfo_refused(void **state)
{
	static const struct id_case cases[] = {
	    {"spiffe://u@td/x", SPIFFE_ID_USERINFO},
	    {"spiffe://@td/x", SPIFFE_ID_USERINFO},
	    {"spiffe://u:p@td/x", SPIFFE_ID_USERINFO},
	    {"spiffe://td@/x", SPIFFE_ID_USERINFO},
	};

	(void)state;
	CHECK_CASES(cases);
}

/* A port would make td and td:443 two domains, or one. */
static void
test_row_007_port_refused(void **state)
{
	static const struct id_case cases[] = {
	    {"spiffe://td:8443/x", SPIFFE_ID_PORT},
	    {"spiffe://td:/x", SPIFFE_ID_PORT},
	    {"spiffe://td:", SPIFFE_ID_PORT},
	    {"spiffe://:1/x", SPIFFE_ID_PORT},
	};

	(void)state;
	CHECK_CASES(cases);
}

/* Folding would let two domains share one bundle. */
static void
test_row_008_upper_case_trust_domain_refused(void **state)
{
	static const struct id_case cases[] = {
	    {"spiffe://TD.test/x", SPIFFE_ID_TD_CASE},
	    {"spiffe://td.Test/x", SPIFFE_ID_TD_CASE},
	    {"spiffe://tD", SPIFFE_ID_TD_CASE},
	};

	(void)state;
	CHECK_CASES(cases);
}

/* 39 bytes and no other belong into a host. */
static void
test_row_009_trust_domain_accepts_exactly_39_bytes(void **state)
{
	char buf[] = "spiffe://td_/x";
	unsigned int accepted = 0;

	(void)state;
	for (unsigned int c = 0; c < 256; c++) {
		bool is_end = c == '/'; /* td// has an empty segment */
		enum spiffe_id_error e;

		buf[11] = (char)(unsigned char)c;
		e = parse(span_of(buf, strlen("spiffe://td_/x")));
		if (e == SPIFFE_ID_OK) {
			assert_non_null(
			    memchr("abcdefghijklmnopqrstuvwxyz0123456789.-_",
			        (int)c, 39));
			accepted++;
		}
		if (is_end)
			assert_int_equal(e, SPIFFE_ID_EMPTY_SEGMENT);
	}
	assert_int_equal(accepted, 39);
}

/* %74d and td must not be one domain. */
static void
test_row_010_percent_in_trust_domain_refused(void **state)
{
	static const struct id_case cases[] = {
	    {"spiffe://%74d/x", SPIFFE_ID_PERCENT},
	    {"spiffe://td%/x", SPIFFE_ID_PERCENT},
	};

	(void)state;
	CHECK_CASES(cases);
}

/* A domain that looks like an address is a name like any other. */
static void
test_row_011_address_as_name_ok_but_ipv6_literal_refused(void **state)
{
	static const struct id_case cases[] = {
	    {"spiffe://10.0.0.1/x", SPIFFE_ID_OK},
	    {"spiffe://[::1]/x", SPIFFE_ID_TD_CHAR},
	};

	(void)state;
	CHECK_CASES(cases);
}

/* Domains are compared byte for byte: a dot more is another domain. */
static void
test_row_012_dots_and_dashes_anywhere_accepted(void **state)
{
	static const struct id_case cases[] = {
	    {"spiffe://td./x", SPIFFE_ID_OK},
	    {"spiffe://.td/x", SPIFFE_ID_OK},
	    {"spiffe://a..b/x", SPIFFE_ID_OK},
	    {"spiffe://-td/x", SPIFFE_ID_OK},
	    {"spiffe://_/x", SPIFFE_ID_OK},
	    {"spiffe://./x", SPIFFE_ID_OK},
	    {"spiffe://../x", SPIFFE_ID_OK},
	};
	struct spiffe_id id;

	(void)state;
	CHECK_CASES(cases);
	assert_int_equal(
	    spiffe_id_parse(span_of_str("spiffe://td./x"), &id), SPIFFE_ID_OK);
	assert_false(span_equal_str(id.trust_domain, "td"));
}

/* An ID at the limit works, one byte more does not. */
static void
test_row_013_2048_bytes_accepted_2049_refused(void **state)
{
	char buf[4096];

	(void)state;
	assert_int_equal(parse(long_id(buf, 2, 2048)), SPIFFE_ID_OK);
	assert_int_equal(parse(long_id(buf, 2, 2049)), SPIFFE_ID_LONG);
}

/* RFC 3986 ends a host at 255 bytes. */
static void
test_row_014_trust_domain_255_accepted_256_refused(void **state)
{
	char buf[4096];

	(void)state;
	assert_int_equal(parse(long_id(buf, 255, 9 + 255)), SPIFFE_ID_OK);
	assert_int_equal(parse(long_id(buf, 255, 9 + 255 + 2)), SPIFFE_ID_OK);
	assert_int_equal(parse(long_id(buf, 256, 9 + 256)), SPIFFE_ID_TD_LONG);
	assert_int_equal(
	    parse(long_id(buf, 256, 9 + 256 + 2)), SPIFFE_ID_TD_LONG);
}

/* /%61dmin must not become /admin on either side. */
static void
test_row_015_percent_in_path_refused(void **state)
{
	static const struct id_case cases[] = {
	    {"spiffe://td/%2e", SPIFFE_ID_PERCENT},
	    {"spiffe://td/%41", SPIFFE_ID_PERCENT},
	    {"spiffe://td/a%", SPIFFE_ID_PERCENT},
	};

	(void)state;
	CHECK_CASES(cases);
}

/* Empty segments would let /a//b pass for /a/b. */
static void
test_row_016_empty_segment_refused(void **state)
{
	static const struct id_case cases[] = {
	    {"spiffe://td//x", SPIFFE_ID_EMPTY_SEGMENT},
	    {"spiffe://td/x//y", SPIFFE_ID_EMPTY_SEGMENT},
	    {"spiffe://td//", SPIFFE_ID_EMPTY_SEGMENT},
	};

	(void)state;
	CHECK_CASES(cases);
}

/* A path that climbs would leave the prefix of its rule. */
static void
test_row_017_dot_segments_refused(void **state)
{
	static const struct id_case cases[] = {
	    {"spiffe://td/.", SPIFFE_ID_DOT_SEGMENT},
	    {"spiffe://td/..", SPIFFE_ID_DOT_SEGMENT},
	    {"spiffe://td/a/./b", SPIFFE_ID_DOT_SEGMENT},
	    {"spiffe://td/a/..", SPIFFE_ID_DOT_SEGMENT},
	    {"spiffe://td/...", SPIFFE_ID_OK},
	    {"spiffe://td/.a", SPIFFE_ID_OK},
	    {"spiffe://td/..a", SPIFFE_ID_OK},
	    {"spiffe://td/a.", SPIFFE_ID_OK},
	};

	(void)state;
	CHECK_CASES(cases);
}

/* /x and /x/ are not one identity. */
static void
test_row_018_trailing_slash_refused(void **state)
{
	static const struct id_case cases[] = {
	    {"spiffe://td/", SPIFFE_ID_TRAILING_SLASH},
	    {"spiffe://td/x/", SPIFFE_ID_TRAILING_SLASH},
	};

	(void)state;
	CHECK_CASES(cases);
}

/* 65 bytes and no other belong into a segment; UTF-8 does not. */
static void
test_row_019_segment_accepts_exactly_65_bytes(void **state)
{
	char buf[] = "spiffe://td/x_";
	unsigned int accepted = 0;

	(void)state;
	for (unsigned int c = 0; c < 256; c++) {
		buf[13] = (char)(unsigned char)c;
		if (parse(span_of(buf, 14)) == SPIFFE_ID_OK)
			accepted++;
	}
	assert_int_equal(accepted, 65);
	assert_int_equal(
	    parse(span_of_str("spiffe://td/caf\xc3\xa9")), SPIFFE_ID_PATH_CHAR);
}

/* /Svc and /svc are two callers. */
static void
test_row_020_path_keeps_its_case(void **state)
{
	struct spiffe_id id;

	(void)state;
	assert_int_equal(
	    spiffe_id_parse(span_of_str("spiffe://td/Svc"), &id), SPIFFE_ID_OK);
	assert_true(span_equal_str(id.path, "/Svc"));
	assert_false(span_equal_str(id.path, "/svc"));
}

/* The ID of a trust domain parses, with an empty path. */
static void
test_row_021_trust_domain_id_has_empty_path(void **state)
{
	struct spiffe_id id;

	(void)state;
	assert_int_equal(
	    spiffe_id_parse(span_of_str("spiffe://td"), &id), SPIFFE_ID_OK);
	assert_int_equal(id.path.len, 0);
	/* Where a name is wanted, an ID is not taken for one. */
	assert_int_not_equal(
	    spiffe_trust_domain_check(span_of_str("spiffe://td")),
	    SPIFFE_ID_OK);
	assert_int_equal(spiffe_trust_domain_check(span_of_str("td/path")),
	    SPIFFE_ID_TD_CHAR);
	assert_int_equal(
	    spiffe_trust_domain_check(span_of_str("td")), SPIFFE_ID_OK);
}

/* A C string would end at the NUL and become /admin. */
static void
test_row_022_nul_control_space_refused(void **state)
{
	static const char nul[] = "spiffe://td/admin\0.evil/x";
	static const struct id_case cases[] = {
	    {"spiffe://td/x\n", SPIFFE_ID_PATH_CHAR},
	    {"spiffe://td/x ", SPIFFE_ID_PATH_CHAR},
	    {"spiffe://td\t/x", SPIFFE_ID_TD_CHAR},
	    {"\xef\xbb\xbfspiffe://td/x", SPIFFE_ID_NO_SCHEME},
	    {"spiffe://td/x\x7f", SPIFFE_ID_PATH_CHAR},
	};

	(void)state;
	CHECK_CASES(cases);
	assert_int_equal(
	    parse(span_of(nul, sizeof(nul) - 1)), SPIFFE_ID_PATH_CHAR);
}

/* The spans are those of the caller's bytes, cut at the right places. */
static void
test_spiffe_id_parse_valid_borrows_text(void **state)
{
	struct span s = span_of_str("spiffe://example.org/ns/a/web");
	struct spiffe_id id;

	(void)state;
	assert_int_equal(spiffe_id_parse(s, &id), SPIFFE_ID_OK);
	assert_ptr_equal(id.text.data, s.data);
	assert_int_equal(id.text.len, s.len);
	assert_true(span_equal_str(id.trust_domain, "example.org"));
	assert_true(span_equal_str(id.path, "/ns/a/web"));
}

/* A refused ID must not leave half an answer behind. */
static void
test_spiffe_id_parse_refused_leaves_output(void **state)
{
	struct spiffe_id id = {.text = span_of_str("before")};

	(void)state;
	assert_int_equal(spiffe_id_parse(span_of_str("spiffe://td/x/"), &id),
	    SPIFFE_ID_TRAILING_SLASH);
	assert_true(span_equal_str(id.text, "before"));
}

/* Each error speaks, and no two say the same. */
static void
test_spiffe_id_error_text_each_is_unique(void **state)
{
	(void)state;
	for (int a = SPIFFE_ID_OK; a <= SPIFFE_ID_LONG; a++)
		for (int b = SPIFFE_ID_OK; b < a; b++)
			assert_string_not_equal(
			    spiffe_id_error_text((enum spiffe_id_error)a),
			    spiffe_id_error_text((enum spiffe_id_error)b));
}

/*
 * A second opinion, written as a table: what follows spiffe:// is read byte by
 * byte by a machine that shares no line with the parser.
 */
enum machine {
	AT_DOMAIN, /* nothing read */
	IN_DOMAIN,
	AT_SEGMENT, /* just after a '/' */
	ONE_DOT,
	TWO_DOTS,
	IN_SEGMENT,
	DEAD,
};
enum letter { LOWER, UPPER, DOT, SLASH, FOREIGN };

static const enum machine next_state[][5] = {
    /*              LOWER       UPPER       DOT         SLASH       FOREIGN */
    [AT_DOMAIN] = {IN_DOMAIN, DEAD, IN_DOMAIN, DEAD, DEAD},
    [IN_DOMAIN] = {IN_DOMAIN, DEAD, IN_DOMAIN, AT_SEGMENT, DEAD},
    [AT_SEGMENT] = {IN_SEGMENT, IN_SEGMENT, ONE_DOT, DEAD, DEAD},
    [ONE_DOT] = {IN_SEGMENT, IN_SEGMENT, TWO_DOTS, DEAD, DEAD},
    [TWO_DOTS] = {IN_SEGMENT, IN_SEGMENT, IN_SEGMENT, DEAD, DEAD},
    [IN_SEGMENT] = {IN_SEGMENT, IN_SEGMENT, IN_SEGMENT, AT_SEGMENT, DEAD},
    [DEAD] = {DEAD, DEAD, DEAD, DEAD, DEAD},
};

static enum letter
letter_of(char c)
{
	switch (c) {
	case 'a':
	case '-':
	case '0':
		return LOWER;
	case 'A':
		return UPPER;
	case '.':
		return DOT;
	case '/':
		return SLASH;
	default:
		return FOREIGN;
	}
}

static bool
machine_accepts(const char *s, size_t len)
{
	enum machine m = AT_DOMAIN;

	for (size_t i = 0; i < len; i++)
		m = next_state[m][letter_of(s[i])];
	return m == IN_DOMAIN || m == IN_SEGMENT;
}

/* No short string is accepted by one of the two and refused by the other. */
static void
test_spiffe_id_parse_all_short_strings_agree_with_machine(void **state)
{
	static const char alphabet[] = "aA0.-/%?#@:[*";
	const size_t base = sizeof(alphabet) - 1;
	char buf[9 + 6] = "spiffe://";
	unsigned long accepted = 0;

	(void)state;
	for (size_t len = 0, count = 1; len <= 5; len++, count *= base)
		for (size_t n = 0; n < count; n++) {
			size_t rest = n;
			bool got;

			for (size_t i = 0; i < len; i++, rest /= base)
				buf[9 + i] = alphabet[rest % base];
			got = parse(span_of(buf, 9 + len)) == SPIFFE_ID_OK;
			if (got != machine_accepts(buf + 9, len))
				fail_msg("%.*s", (int)(9 + len), buf);
			accepted += got;
		}
	assert_true(accepted > 1000);
}

/* Deep paths of dots and slashes, where segment borders are easy to miss. */
static void
test_spiffe_id_parse_all_dotted_paths_agree_with_machine(void **state)
{
	static const char alphabet[] = "a./";
	char buf[9 + 2 + 9] = "spiffe://a/";

	(void)state;
	for (size_t len = 0, count = 1; len <= 9; len++, count *= 3)
		for (size_t n = 0; n < count; n++) {
			size_t rest = n;

			for (size_t i = 0; i < len; i++, rest /= 3)
				buf[11 + i] = alphabet[rest % 3];
			assert_int_equal(
			    parse(span_of(buf, 11 + len)) == SPIFFE_ID_OK,
			    machine_accepts(buf + 9, 2 + len));
		}
}

/* Of all one-byte changes to the scheme, none is let through. */
static void
test_spiffe_id_parse_scheme_byte_changed_refused(void **state)
{
	(void)state;
	for (size_t i = 0; i < 9; i++)
		for (unsigned int c = 0; c < 256; c++) {
			char buf[] = "spiffe://td/x";

			if ((unsigned char)buf[i] == c)
				continue;
			buf[i] = (char)(unsigned char)c;
			assert_int_not_equal(
			    parse(span_of(buf, 13)), SPIFFE_ID_OK);
		}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_row_001_foreign_scheme_refused),
	    cmocka_unit_test(test_row_002_scheme_in_upper_case_refused),
	    cmocka_unit_test(test_row_003_empty_trust_domain_refused),
	    cmocka_unit_test(test_row_004_query_refused),
	    cmocka_unit_test(test_row_005_fragment_refused),
	    cmocka_unit_test(test_row_006_userinfo_refused),
	    cmocka_unit_test(test_row_007_port_refused),
	    cmocka_unit_test(test_row_008_upper_case_trust_domain_refused),
	    cmocka_unit_test(
	        test_row_009_trust_domain_accepts_exactly_39_bytes),
	    cmocka_unit_test(test_row_010_percent_in_trust_domain_refused),
	    cmocka_unit_test(
	        test_row_011_address_as_name_ok_but_ipv6_literal_refused),
	    cmocka_unit_test(test_row_012_dots_and_dashes_anywhere_accepted),
	    cmocka_unit_test(test_row_013_2048_bytes_accepted_2049_refused),
	    cmocka_unit_test(
	        test_row_014_trust_domain_255_accepted_256_refused),
	    cmocka_unit_test(test_row_015_percent_in_path_refused),
	    cmocka_unit_test(test_row_016_empty_segment_refused),
	    cmocka_unit_test(test_row_017_dot_segments_refused),
	    cmocka_unit_test(test_row_018_trailing_slash_refused),
	    cmocka_unit_test(test_row_019_segment_accepts_exactly_65_bytes),
	    cmocka_unit_test(test_row_020_path_keeps_its_case),
	    cmocka_unit_test(test_row_021_trust_domain_id_has_empty_path),
	    cmocka_unit_test(test_row_022_nul_control_space_refused),
	    cmocka_unit_test(test_spiffe_id_parse_valid_borrows_text),
	    cmocka_unit_test(test_spiffe_id_parse_refused_leaves_output),
	    cmocka_unit_test(test_spiffe_id_error_text_each_is_unique),
	    cmocka_unit_test(
	        test_spiffe_id_parse_all_short_strings_agree_with_machine),
	    cmocka_unit_test(
	        test_spiffe_id_parse_all_dotted_paths_agree_with_machine),
	    cmocka_unit_test(test_spiffe_id_parse_scheme_byte_changed_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
