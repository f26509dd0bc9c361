/* What reaches stderr: the sink is told the time, and stderr is a pipe. */

#include "unit.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control_int.h"
#include "log.h"

/* In the place of control's own: the sink has no other clock. */
static int64_t now_ms;

int64_t
control_now_ms(void)
{
	return now_ms;
}

struct world {
	struct control control;
	struct conf conf;
	struct worker *workers[2];
	struct worker_public *public;
	struct log_sink *sink;
	int saved; /* stderr of the test */
	int out;   /* what the sink wrote */
	char text[1 << 16];
};

static void
world_init(struct world *w, enum conf_log_format format)
{
	struct worker_shared *s = &w->control.workers;

	memset(w, 0, sizeof(*w));
	now_ms = 100000;
	s->n_workers = 2;
	s->workers = w->workers;
	w->public = aligned_alloc(64, 2 * sizeof(*w->public));
	assert_non_null(w->public);
	memset(w->public, 0, 2 * sizeof(*w->public));
	s->public = w->public;
	s->spill_max_bytes = 1 << 20;
	for (unsigned int i = 0; i < 2; i++) {
		w->workers[i] = worker_new(s, i);
		assert_non_null(w->workers[i]);
	}
	w->conf.global.log_format = format;
	w->sink = log_sink_new(&w->control);
	assert_non_null(w->sink);
	log_sink_configure(w->sink, &w->conf);
}

static void
world_fini(struct world *w)
{
	log_sink_free(&w->sink);
	for (size_t i = 0; i < 2; i++)
		worker_free(&w->workers[i]);
	free(w->public);
}

/* From here to redirect_end() stderr is a pipe, and nothing may be asserted. */
static void
redirect(struct world *w)
{
	int p[2];

	assert_int_equal(pipe2(p, O_NONBLOCK | O_CLOEXEC), 0);
	(void)fflush(stderr);
	w->saved = dup(STDERR_FILENO);
	(void)dup2(p[1], STDERR_FILENO);
	(void)close(p[1]);
	w->out = p[0];
}

static const char *
redirect_end(struct world *w)
{
	size_t n = 0;
	ssize_t got;

	(void)dup2(w->saved, STDERR_FILENO);
	(void)close(w->saved);
	while ((got = read(w->out, w->text + n, sizeof(w->text) - 1 - n)) > 0)
		n += (size_t)got;
	w->text[n] = '\0';
	(void)close(w->out);
	return w->text;
}

static const char *
drained(struct world *w)
{
	redirect(w);
	(void)log_sink_drain(w->sink);
	return redirect_end(w);
}

static void
deny(struct world *w, size_t worker, const char *peer, const char *from)
{
	struct fields f;

	fields_init(&f, LOG_LEVEL_WARN, "deny");
	fields_add(&f, FIELD_service, "api");
	fields_add(&f, FIELD_src_addr, from);
	fields_add(&f, FIELD_src_id, peer);
	fields_add(&f, FIELD_reason, "no_rule");
	assert_true(ring_write(
	    worker_denial_ring(w->workers[worker]), &f, fields_packed_len(&f)));
}

static size_t
count(const char *text, const char *what)
{
	size_t n = 0;

	for (; (text = strstr(text, what)) != NULL; text += strlen(what))
		n++;
	return n;
}

#define WEB "spiffe://example.test/web"
#define BOT "spiffe://example.test/bot"

/* A peer that hammers a door would fill the disk with one sentence. */
static void
test_log_sink_equal_denials_become_one_line_with_a_count(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, CONF_LOG_LOGFMT);
	for (int i = 0; i < 5; i++) {
		char from[32];

		(void)snprintf(from, sizeof(from), "192.0.2.1:%d", 40000 + i);
		deny(&w, (size_t)i % 2, WEB, from);
	}
	assert_int_equal(count(drained(&w), "\n"), 1);
	assert_null(strstr(w.text, "repeated="));
	now_ms += 999;
	assert_string_equal(drained(&w), "");
	now_ms += 1;
	assert_int_equal(count(drained(&w), "\n"), 1);
	assert_non_null(strstr(w.text, "repeated=4"));
	assert_non_null(strstr(w.text, WEB));
	now_ms += 5000;
	assert_string_equal(drained(&w), "");
	world_fini(&w);
}

/* After a quiet second the next denial is news again, and says so at once. */
static void
test_log_sink_denial_after_a_quiet_second_is_written_at_once(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, CONF_LOG_LOGFMT);
	deny(&w, 0, WEB, "192.0.2.1:40000");
	(void)drained(&w);
	now_ms += 1000;
	deny(&w, 0, WEB, "192.0.2.1:40001");
	assert_int_equal(count(drained(&w), "event=deny"), 1);
	assert_null(strstr(w.text, "repeated="));
	world_fini(&w);
}

/* Two attackers are two lines, or the second one would stay unseen. */
static void
test_log_sink_other_peer_or_host_is_a_line_of_its_own(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, CONF_LOG_LOGFMT);
	deny(&w, 0, WEB, "192.0.2.1:40000");
	deny(&w, 0, BOT, "192.0.2.1:40000");
	deny(&w, 0, WEB, "192.0.2.2:40000");
	deny(&w, 0, WEB, "[2001:db8::1]:40000");
	assert_int_equal(count(drained(&w), "event=deny"), 4);
	assert_int_equal(count(w.text, BOT), 1);
	world_fini(&w);
}

/* More peers than slots: no denial may vanish, whoever shares a slot. */
static void
test_log_sink_many_peers_lose_no_denial(void **state)
{
	struct world w;
	size_t lines, sum = 0;

	(void)state;
	world_init(&w, CONF_LOG_LOGFMT);
	for (int i = 0; i < 600; i++) {
		char peer[64];

		(void)snprintf(peer, sizeof(peer), "%s%d", WEB, i % 200);
		deny(&w, 0, peer, "192.0.2.1:40000");
		if (i % 40 == 39) {
			sum += count(drained(&w), "event=deny");
			sum -= count(w.text, "repeated=");
			for (const char *p = w.text;
			     (p = strstr(p, "repeated=")) != NULL; p++)
				sum += strtoul(p + 9, NULL, 10);
		}
	}
	now_ms += 1000;
	lines = count(drained(&w), "event=deny");
	for (const char *p = w.text; (p = strstr(p, "repeated=")) != NULL; p++)
		sum += strtoul(p + 9, NULL, 10);
	assert_int_equal(lines, count(w.text, "repeated="));
	assert_int_equal(sum, 600);
	world_fini(&w);
}

/* The last second before a stop counts too: an audit must add up. */
static void
test_log_sink_free_writes_the_counts_that_wait(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, CONF_LOG_LOGFMT);
	deny(&w, 0, WEB, "192.0.2.1:40000");
	deny(&w, 0, WEB, "192.0.2.1:40001");
	deny(&w, 0, WEB, "192.0.2.1:40002");
	assert_int_equal(count(drained(&w), "\n"), 1);
	redirect(&w);
	log_sink_free(&w.sink);
	assert_non_null(strstr(redirect_end(&w), "repeated=2"));
	world_fini(&w);
}

/* Lines of allowed traffic are never thinned by the sink. */
static void
test_log_sink_traffic_is_written_line_by_line(void **state)
{
	struct world w;
	struct fields f;

	(void)state;
	world_init(&w, CONF_LOG_LOGFMT);
	fields_init(&f, LOG_LEVEL_INFO, "close");
	fields_add(&f, FIELD_service, "api");
	for (size_t i = 0; i < 6; i++)
		assert_true(ring_write(worker_traffic_ring(w.workers[i % 2]),
		    &f, fields_packed_len(&f)));
	assert_int_equal(count(drained(&w), "event=close"), 6);
	world_fini(&w);
}

/* Nobody reads stderr: we go on, and the counter tells of the loss. */
static void
test_log_sink_full_pipe_is_counted_as_dropped(void **state)
{
	static const char junk[4096];
	struct world w;

	(void)state;
	world_init(&w, CONF_LOG_LOGFMT);
	assert_int_equal(log_sink_dropped(w.sink), 0);
	deny(&w, 0, WEB, "192.0.2.1:40000");
	redirect(&w);
	while (write(STDERR_FILENO, junk, sizeof(junk)) > 0)
		continue;
	(void)log_sink_drain(w.sink);
	log_say(LOG_LEVEL_ERROR, "stop", "nobody hears this");
	(void)redirect_end(&w);
	assert_int_equal(log_sink_dropped(w.sink), 2);
	world_fini(&w);
}

/*
 * A pipe that blocks must not hang the control thread: no reload, no rotation
 * and no watchdog would follow.
 */
static void
test_log_sink_full_blocking_pipe_does_not_block(void **state)
{
	static const char junk[4096];
	struct world w;
	int p[2], room = 0;

	(void)state;
	world_init(&w, CONF_LOG_LOGFMT);
	for (int i = 0; i < 8; i++)
		deny(&w, 0, i % 2 == 0 ? WEB : BOT, "192.0.2.1:40000");
	assert_int_equal(pipe2(p, O_NONBLOCK | O_CLOEXEC), 0);
	while (write(p[1], junk, sizeof(junk)) > 0)
		room++;
	assert_int_equal(fcntl(p[1], F_SETFL, 0), 0);
	redirect(&w);
	(void)dup2(p[1], STDERR_FILENO);
	alarm(60);
	(void)log_sink_drain(w.sink);
	alarm(0);
	(void)redirect_end(&w);
	assert_int_equal(log_sink_dropped(w.sink), 2);

	/* The reader is back, and so are the lines. */
	for (int i = 0; i < room; i++)
		assert_int_equal(read(p[0], w.text, sizeof(junk)), 4096);
	redirect(&w);
	(void)dup2(p[1], STDERR_FILENO);
	now_ms += 1000;
	(void)log_sink_drain(w.sink);
	(void)redirect_end(&w);
	assert_true(read(p[0], w.text, sizeof(w.text)) > 0);
	assert_int_equal(count(w.text, "repeated=3"), 2);
	(void)close(p[0]);
	(void)close(p[1]);
	world_fini(&w);
}

/* A ring that was full lost lines as well: one number for all losses. */
static void
test_log_sink_full_ring_is_counted_as_dropped(void **state)
{
	struct world w;
	struct fields f;
	uint64_t lost = 0;

	(void)state;
	world_init(&w, CONF_LOG_LOGFMT);
	fields_init(&f, LOG_LEVEL_INFO, "close");
	for (int i = 0; i < 100000; i++)
		lost += !ring_write(worker_traffic_ring(w.workers[1]), &f,
		    fields_packed_len(&f));
	assert_true(lost > 0);
	assert_int_equal(log_sink_dropped(w.sink), lost);
	world_fini(&w);
}

/* A collector that was told JSON must find an object on each line. */
static void
test_log_sink_format_json_is_one_object_per_line(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, CONF_LOG_JSON);
	deny(&w, 0, "spiffe://example.test/a\"b\n", "192.0.2.1:40000");
	assert_int_equal(drained(&w)[0], '{');
	assert_non_null(strstr(w.text, "\"event\":\"deny\""));
	assert_string_equal(w.text + strlen(w.text) - 2, "}\n");
	assert_int_equal(count(w.text, "\n"), 1);
	world_fini(&w);
}

/* `auto` outside of a unit is logfmt, also when the variable is inherited. */
static void
test_log_sink_format_auto_without_journal_is_logfmt(void **state)
{
	struct world w;

	(void)state;
	(void)setenv("JOURNAL_STREAM", "1:1", 1);
	world_init(&w, CONF_LOG_AUTO);
	(void)unsetenv("JOURNAL_STREAM");
	deny(&w, 0, WEB, "192.0.2.1:40000");
	assert_non_null(strstr(drained(&w), "event=deny service=api"));
	world_fini(&w);
}

/* A reload may change the format; the next line has it. */
static void
test_log_sink_configure_changes_the_format_of_the_next_line(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, CONF_LOG_LOGFMT);
	w.conf.global.log_format = CONF_LOG_JSON;
	log_sink_configure(w.sink, &w.conf);
	deny(&w, 0, WEB, "192.0.2.1:40000");
	assert_int_equal(drained(&w)[0], '{');
	world_fini(&w);
}

/*
 * Under a flood of lines control still reloads, rotates and stops: one drain
 * takes a share, and says that there is more.
 */
static void
test_log_sink_drain_takes_a_share_of_a_flood(void **state)
{
	struct world w;
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	bool first, second;

	(void)state;
	world_init(&w, CONF_LOG_LOGFMT);
	for (int i = 0; i < 1500; i++)
		deny(&w, 1, WEB, "127.0.0.1:1");
	redirect(&w);
	(void)dup2(null, STDERR_FILENO);
	first = log_sink_drain(w.sink);
	second = log_sink_drain(w.sink);
	(void)redirect_end(&w);
	assert_true(first);
	assert_false(second);
	(void)close(null);
	world_fini(&w);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(
	        test_log_sink_equal_denials_become_one_line_with_a_count),
	    cmocka_unit_test(
	        test_log_sink_denial_after_a_quiet_second_is_written_at_once),
	    cmocka_unit_test(
	        test_log_sink_other_peer_or_host_is_a_line_of_its_own),
	    cmocka_unit_test(test_log_sink_many_peers_lose_no_denial),
	    cmocka_unit_test(test_log_sink_free_writes_the_counts_that_wait),
	    cmocka_unit_test(test_log_sink_traffic_is_written_line_by_line),
	    cmocka_unit_test(test_log_sink_full_pipe_is_counted_as_dropped),
	    cmocka_unit_test(test_log_sink_full_blocking_pipe_does_not_block),
	    cmocka_unit_test(test_log_sink_full_ring_is_counted_as_dropped),
	    cmocka_unit_test(test_log_sink_format_json_is_one_object_per_line),
	    cmocka_unit_test(
	        test_log_sink_format_auto_without_journal_is_logfmt),
	    cmocka_unit_test(
	        test_log_sink_configure_changes_the_format_of_the_next_line),
	    cmocka_unit_test(test_log_sink_drain_takes_a_share_of_a_flood),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
