#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "addr.h"
#include "counters.h"
#include "fields.h"
#include "json.h"
#include "mem.h"
#include "queue.h"
#include "reasons.h"
#include "ring.h"
#include "text.h"
#include "wheel.h"

/* ---- Addresses ---- */

static void
assert_round_trip(const char *text)
{
	char out[ADDR_TEXT_MAX];
	struct addr a;

	assert_int_equal(addr_parse(span_of_str(text), &a, NULL), FAULT_NONE);
	assert_string_equal(addr_format(&a, out), text);
}

/* What the operator wrote is what status and log show. */
static void
test_addr_legal_forms_round_trip(void **state)
{
	(void)state;
	assert_round_trip("1.2.3.4:443");
	assert_round_trip("[2001:db8::1]:443");
	assert_round_trip("[::]:65535");
	assert_round_trip("unix:/run/x.sock");
}

/* A slip in an address is an error with a sentence, never another address. */
static void
test_addr_illegal_forms_are_refused(void **state)
{
	static const char *const bad[] = {"", ":", ":8443", "1.2.3.4",
	    "1.2.3.4:", "1.2.3.4:0", "1.2.3.4:65536", "1.2.3.4:+1",
	    "1.2.3.4:080080", "::1:80", "2001:db8::1", "[1.2.3.4]:80",
	    "[::1]80", "[::1", "1.2.3.4.5:80", "01.2.3.4:80", "localhost:80",
	    "unix:", "unix:run/x", "1.2.3.4 :80", "[::1]:", "[]:80"};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct why why = {{0}};
		struct addr a = {.len = 77};

		if (addr_parse(span_of_str(bad[i]), &a, &why) !=
		    FAULT_MALFORMED)
			fail_msg("accepted: %s", bad[i]);
		assert_int_equal(a.len, 77);
		assert_true(why.text[0] != '\0');
	}
}

/* sun_path is never cut in silence: 107 bytes pass, 108 do not. */
static void
test_addr_unix_path_is_bounded(void **state)
{
	char text[5 + 108 + 1] = "unix:/";
	struct addr a;

	(void)state;
	memset(text + 6, 'x', 107);
	assert_int_equal(
	    addr_parse(span_of(text, 5 + 107), &a, NULL), FAULT_NONE);
	assert_int_equal(
	    addr_parse(span_of(text, 5 + 108), &a, NULL), FAULT_MALFORMED);
}

/* Plaintext stays on the host: what counts as loopback is exact. */
static void
test_addr_loopback_is_exact(void **state)
{
	static const struct {
		const char *text;
		bool loopback;
	} rows[] = {{"127.0.0.1:1", true}, {"127.255.255.254:1", true},
	    {"128.0.0.1:1", false}, {"126.255.255.255:1", false},
	    {"[::1]:1", true}, {"[::2]:1", false}, {"0.0.0.0:1", false},
	    {"[::ffff:127.0.0.1]:1", true}, {"[::ffff:10.0.0.1]:1", false},
	    {"unix:/x", false}};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct addr a;

		assert_int_equal(
		    addr_parse(span_of_str(rows[i].text), &a, NULL),
		    FAULT_NONE);
		assert_int_equal(addr_is_loopback(&a), rows[i].loopback);
	}
}

/* ---- Text from outside ---- */

/* A name made of control characters stays one line. */
static void
test_text_escape_makes_one_printable_line(void **state)
{
	AUTO(text_fini) struct text t;
	uint8_t all[256];

	(void)state;
	text_init(&t);
	for (size_t i = 0; i < sizeof(all); i++)
		all[i] = (uint8_t)i;
	text_add_escaped(&t, span_of(all, sizeof(all)));
	for (size_t i = 0; i < t.len; i++)
		assert_true(t.data[i] >= ' ' && t.data[i] < 0x7f);
	assert_null(strchr(t.data, '"'));
}

/* However long the name, the line is bounded, and says that it was cut. */
static void
test_text_escape_cuts_and_says_so(void **state)
{
	AUTO(text_fini) struct text t;
	char buf[16];
	char huge[4096];

	(void)state;
	text_init(&t);
	memset(huge, 'a', sizeof(huge));
	text_add_escaped(&t, span_of(huge, sizeof(huge)));
	assert_int_equal(t.len, TEXT_FOREIGN_MAX + 3);
	assert_string_equal(t.data + TEXT_FOREIGN_MAX, "...");
	for (size_t size = 8; size <= sizeof(buf); size++) {
		text_escape(span_of("\n\n\n\n\n\n", 6), buf, size);
		assert_true(strlen(buf) < size);
		assert_non_null(strstr(buf, "..."));
	}
}

/* ---- Records ---- */

static char *
rendered(const struct fields *f, enum log_format format)
{
	struct text t;

	text_init(&t);
	fields_render(f, format, &t);
	return text_take(&t);
}

static size_t
count_of(const char *s, char c)
{
	size_t n = 0;

	for (; *s != '\0'; s++)
		n += *s == c;
	return n;
}

/* One event is one line in each line format, whatever the peer named itself. */
static void
test_fields_hostile_value_stays_one_line(void **state)
{
	static const char evil[] =
	    "x\" level=error event=allow\nts=1\r\x1b[2J\\";
	struct fields f;

	(void)state;
	fields_init(&f, LOG_LEVEL_INFO, "close");
	fields_add(&f, FIELD_src_id, evil);
	for (enum log_format fmt = LOG_FORMAT_LOGFMT; fmt <= LOG_FORMAT_JSON;
	     fmt++) {
		AUTO(mem_free) char *line = rendered(&f, fmt);

		assert_int_equal(count_of(line, '\n'), 1);
		assert_int_equal(count_of(line, '\r'), 0);
		assert_int_equal(count_of(line, '\x1b'), 0);
		assert_null(strstr(line, "x\" level"));
	}
}

/* A newline in a value must not start a field of its own in the journal. */
static void
test_fields_journal_newline_is_length_framed(void **state)
{
	struct fields f;
	AUTO(mem_free) char *d = NULL;

	(void)state;
	fields_init(&f, LOG_LEVEL_WARN, "deny");
	fields_add(&f, FIELD_src_id, "a\nPRIORITY=0");
	d = rendered(&f, LOG_FORMAT_JOURNAL);
	assert_non_null(strstr(d, "PRIORITY=4\n"));
	assert_non_null(strstr(d, "POSTERN_SRC_ID\n\x0c"));
}

/* Numbers are numbers in JSON, and every line parses back. */
static void
test_fields_json_types_follow_the_table(void **state)
{
	struct fields f;
	AUTO(mem_free) char *line = NULL;

	(void)state;
	fields_init(&f, LOG_LEVEL_INFO, "close");
	fields_add_number(&f, FIELD_bytes_in, 5);
	fields_add(&f, FIELD_service, "a");
	line = rendered(&f, LOG_FORMAT_JSON);
	assert_non_null(strstr(line, "\"bytes_in\":5"));
	assert_non_null(strstr(line, "\"service\":\"a\""));
}

/* A record that is full drops the field, never the record. */
static void
test_fields_overflow_is_marked(void **state)
{
	static char big[FIELDS_MAX];
	struct fields f;
	struct span v;

	(void)state;
	fields_init(&f, LOG_LEVEL_INFO, "close");
	fields_add_span(&f, FIELD_msg, span_of(big, sizeof(big)));
	assert_true(f.truncated);
	fields_add(&f, FIELD_service, "a");
	assert_true(fields_get(&f, FIELD_service, &v));
	assert_true(span_equal_str(v, "a"));
}

/* ---- Ring ---- */

/* Lines come out whole and in order, across the wrap. */
static void
test_ring_wraps_and_keeps_order(void **state)
{
	AUTO(ring_free) struct ring *r = ring_new(64);
	char buf[64];

	(void)state;
	for (unsigned int i = 0; i < 1000; i++) {
		char record[16];
		int n = snprintf(record, sizeof(record), "%u", i * 977);

		assert_true(ring_write(r, record, (size_t)n));
		assert_int_equal(ring_read(r, buf, sizeof(buf)), n);
		assert_memory_equal(buf, record, (size_t)n);
	}
	assert_int_equal(ring_dropped(r), 0);
}

/* A full ring drops and counts; what is in it stays readable. */
static void
test_ring_full_drops_and_counts(void **state)
{
	AUTO(ring_free) struct ring *r = ring_new(64);
	char buf[64];
	size_t kept = 0;

	(void)state;
	while (ring_write(r, "0123456789", 10))
		kept++;
	assert_int_equal(ring_dropped(r), 1);
	for (size_t i = 0; i < kept; i++)
		assert_int_equal(ring_read(r, buf, sizeof(buf)), 10);
	assert_int_equal(ring_read(r, buf, sizeof(buf)), 0);
	/* One that does not fit the reader is skipped, not cut. */
	assert_true(ring_write(r, "0123456789", 10));
	assert_true(ring_write(r, "ab", 2));
	assert_int_equal(ring_read(r, buf, 5), 2);
	assert_int_equal(ring_dropped(r), 2);
}

/* ---- Timing wheel ---- */

static size_t
fired(struct wheel *w, int64_t now_ms)
{
	struct node due;
	size_t n = 0;

	node_init(&due);
	wheel_run(w, now_ms, &due);
	while (list_pop(&due) != NULL)
		n++;
	return n;
}

/* Any duration, also beyond one round: never early, at most a tick late. */
static void
test_wheel_is_exact_to_a_tick(void **state)
{
	static const int64_t after_ms[] = {
	    1, 99, 100, 101, 250, 10000, 51100, 51200, 51300, 60000, 3600000};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(after_ms); i++) {
		int64_t now = 123456, due = now + after_ms[i];
		struct wheel w;
		struct timer t;

		wheel_init(&w, now);
		timer_init(&t);
		wheel_set(&w, &t, due);
		while (fired(&w, now) == 0) {
			assert_true(now <= due + WHEEL_TICK_MS);
			now += 10;
		}
		assert_true(now >= due);
		assert_int_equal(w.timers, 0);
	}
}

/* A suspend of hours fires what is due, once, and nothing that is not. */
static void
test_wheel_after_a_long_sleep(void **state)
{
	struct wheel w;
	struct timer soon, later;

	(void)state;
	wheel_init(&w, 0);
	timer_init(&soon);
	timer_init(&later);
	wheel_set(&w, &soon, 5000);
	wheel_set(&w, &later, 100000000);
	assert_int_equal(fired(&w, 36000000), 1);
	assert_false(node_is_queued(&soon.node));
	assert_true(node_is_queued(&later.node));
	assert_int_equal(fired(&w, 36000100), 0);
	wheel_cancel(&w, &later);
	assert_int_equal(w.timers, 0);
}

/* A deadline that moves nearer fires at the nearer time. */
static void
test_wheel_moved_timer_fires_once(void **state)
{
	struct wheel w;
	struct timer t;

	(void)state;
	wheel_init(&w, 0);
	timer_init(&t);
	wheel_set(&w, &t, 50000);
	wheel_set(&w, &t, 300);
	assert_int_equal(w.timers, 1);
	assert_int_equal(fired(&w, 400), 1);
	assert_int_equal(fired(&w, 60000), 0);
}

/* ---- JSON, counters, labels ---- */

/* Nested values get their commas, and foreign bytes become ASCII. */
static void
test_json_writes_valid_documents(void **state)
{
	AUTO(text_fini) struct text t;
	struct json j;

	(void)state;
	text_init(&t);
	json_init(&j, &t);
	json_object(&j);
	json_kstr(&j, "a", "q\"\\\n\x7f\xc3");
	json_key(&j, "b");
	json_array(&j);
	json_int(&j, -1);
	json_null(&j);
	json_object(&j);
	json_object_end(&j);
	json_array_end(&j);
	json_kbool(&j, "c", true);
	json_object_end(&j);
	assert_string_equal(t.data,
	    "{\"a\":\"q\\\"\\\\\\n\\u007f\\u00c3\",\"b\":[-1,null,{}],"
	    "\"c\":true}");
}

/* Each duration lands in the bucket whose bound holds it. */
static void
test_histogram_buckets_by_upper_bound(void **state)
{
	struct histogram h;

	(void)state;
	for (size_t i = 0; i < HISTOGRAM_BUCKETS - 1; i++) {
		memset(&h, 0, sizeof(h));
		histogram_add(&h, histogram_bound(i));
		assert_int_equal(counter_get(&h.bucket[i]), 1);
		histogram_add(&h, histogram_bound(i) + 1);
		assert_int_equal(counter_get(&h.bucket[i + 1]), 1);
	}
}

/* Labels are interfaces: distinct, of one alphabet, with a sentence. */
static void
test_reasons_labels_are_distinct(void **state)
{
	(void)state;
	for (size_t i = 1; i < CLOSE_REASON_COUNT; i++) {
		const char *a = close_reason_label((enum close_reason)i);

		assert_true(
		    strlen(a) == strspn(a, "abcdefghijklmnopqrstuvwxyz-"));
		for (size_t k = 1; k < i; k++)
			assert_string_not_equal(
			    a, close_reason_label((enum close_reason)k));
	}
	for (size_t i = 1; i < DENY_REASON_COUNT; i++) {
		const char *a = deny_reason_label((enum deny_reason)i);

		assert_true(
		    strlen(a) == strspn(a, "abcdefghijklmnopqrstuvwxyz_"));
		assert_true(
		    strlen(deny_reason_sentence((enum deny_reason)i)) > 10);
	}
	assert_string_equal(deny_reason_label(DENY_NOT), "-");
}

/* ---- Lists ---- */

struct item {
	int n;
	struct node node;
};

/* Moving one list behind another loses nobody and keeps the order. */
static void
test_list_append_keeps_order(void **state)
{
	struct item items[6];
	struct node a, b;
	int want = 0;

	(void)state;
	node_init(&a);
	node_init(&b);
	for (int i = 0; i < 6; i++) {
		items[i].n = i;
		node_init(&items[i].node);
		list_add_tail(i < 3 ? &a : &b, &items[i].node);
	}
	list_append(&a, &b);
	assert_true(list_is_empty(&b));
	list_append(&a, &b);
	LIST_EACH_SAFE (it, &a) {
		assert_int_equal(CONTAINER_OF(it, struct item, node)->n, want);
		want++;
		node_remove(it);
	}
	assert_int_equal(want, 6);
	assert_true(list_is_empty(&a));
	assert_null(list_pop(&a));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_addr_legal_forms_round_trip),
	    cmocka_unit_test(test_addr_illegal_forms_are_refused),
	    cmocka_unit_test(test_addr_unix_path_is_bounded),
	    cmocka_unit_test(test_addr_loopback_is_exact),
	    cmocka_unit_test(test_text_escape_makes_one_printable_line),
	    cmocka_unit_test(test_text_escape_cuts_and_says_so),
	    cmocka_unit_test(test_fields_hostile_value_stays_one_line),
	    cmocka_unit_test(test_fields_journal_newline_is_length_framed),
	    cmocka_unit_test(test_fields_json_types_follow_the_table),
	    cmocka_unit_test(test_fields_overflow_is_marked),
	    cmocka_unit_test(test_ring_wraps_and_keeps_order),
	    cmocka_unit_test(test_ring_full_drops_and_counts),
	    cmocka_unit_test(test_wheel_is_exact_to_a_tick),
	    cmocka_unit_test(test_wheel_after_a_long_sleep),
	    cmocka_unit_test(test_wheel_moved_timer_fires_once),
	    cmocka_unit_test(test_json_writes_valid_documents),
	    cmocka_unit_test(test_histogram_buckets_by_upper_bound),
	    cmocka_unit_test(test_reasons_labels_are_distinct),
	    cmocka_unit_test(test_list_append_keeps_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
