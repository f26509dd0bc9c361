/*
 * The source against the development issuer, over a real socket: what the
 * keeper is told, and when. Every wait is for a condition, with a deadline.
 */

#include "unit.h"

#include <event2/event.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "source.h"
#include "spiffe.h"
#include "workload.h"

#define PATIENCE_MS 20000

/* What root's child becomes; without root it stays what we are. */
#define CHILD_UID 61184

struct world {
	char dir[64];
	char path[80];
	char control[80];
	char endpoint[96];
	pid_t child;
	struct event_base *base;
	struct source *source;
	uid_t child_uid;

	struct identity *current;
	uint64_t next;
	unsigned int offers;
	unsigned int refusals;
	unsigned int downs;
	unsigned int finals; /* downs without retry */
	unsigned int discards;
	char reason[32];
	struct why why;
};

/* ---- The sink ---- */

static void
on_offer(void *arg, struct identity **full)
{
	struct world *w = arg;

	identity_free(&w->current);
	w->current = *full;
	*full = NULL;
	w->offers++;
}

static void
on_refused(void *arg, const struct why *why)
{
	struct world *w = arg;

	w->refusals++;
	w->why = *why;
}

static void
on_down(void *arg, const struct why *why, bool will_retry)
{
	struct world *w = arg;

	w->downs++;
	w->finals += !will_retry;
	w->why = *why;
}

static void
on_discarded(void *arg, const char *reason, const struct why *why)
{
	struct world *w = arg;

	w->discards++;
	(void)snprintf(w->reason, sizeof(w->reason), "%s", reason);
	w->why = *why;
}

static const struct identity *
on_current(void *arg)
{
	return ((struct world *)arg)->current;
}

static uint64_t *
on_next(void *arg)
{
	return &((struct world *)arg)->next;
}

/* ---- The issuer ---- */

static int
connect_control(const struct world *w)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)snprintf(un.sun_path, sizeof(un.sun_path), "%s", w->control);
	if (connect(fd, (const struct sockaddr *)&un, sizeof(un)) == 0)
		return fd;
	close(fd);
	return -1;
}

static void
command(const struct world *w, const char *line)
{
	int fd = connect_control(w);
	char answer[1024] = "";
	ssize_t n;

	assert_true(fd >= 0);
	assert_int_equal(send(fd, line, strlen(line), 0), strlen(line));
	assert_int_equal(send(fd, "\n", 1, 0), 1);
	n = recv(fd, answer, sizeof(answer) - 1, 0);
	assert_true(n > 0);
	if (strcmp(answer, "ok\n") != 0)
		fail_msg("%s: %s", line, answer);
	close(fd);
}

static void
start_issuer(struct world *w)
{
	char serve[128];
	int64_t end_ms = clock_boot_ms() + PATIENCE_MS;
	int fd = -1;

	(void)snprintf(serve, sizeof(serve), "%s=/web", w->path);
	w->child = fork();
	assert_true(w->child >= 0);
	if (w->child == 0) {
		(void)unsetenv("SUDO_UID");
		if (freopen("/dev/null", "w", stderr) == NULL)
			_exit(126);
		if (w->child_uid == CHILD_UID)
			execl(DEV_ISSUER, DEV_ISSUER, "--serve", serve,
			    "--control", w->control, "--run-as", "61184",
			    "--socket-mode", "0666", (char *)NULL);
		execl(DEV_ISSUER, DEV_ISSUER, "--serve", serve, "--control",
		    w->control, (char *)NULL);
		_exit(127);
	}
	while (fd < 0 && clock_boot_ms() < end_ms)
		fd = connect_control(w);
	assert_true(fd >= 0);
	close(fd);
}

static void
stop_issuer(struct world *w)
{
	if (w->child > 0) {
		assert_int_equal(kill(w->child, SIGTERM), 0);
		assert_int_equal(waitpid(w->child, NULL, 0), w->child);
	}
	w->child = 0;
}

/* ---- The world ---- */

static void
start_source(struct world *w, bool allow)
{
	const struct source_sink sink = {
	    .arg = w,
	    .offer = on_offer,
	    .refused = on_refused,
	    .down = on_down,
	    .discarded = on_discarded,
	    .current = on_current,
	    .next_generation = on_next,
	};
	const struct source_conf conf = {
	    .endpoint = w->endpoint,
	    .agent_uids = &w->child_uid,
	    .n_agent_uids = allow ? 1 : 0,
	};

	assert_int_equal(
	    workload_source()->start(&w->source, &conf, w->base, &sink, NULL),
	    FAULT_NONE);
}

static int
setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	struct event_config *config = event_config_new();

	assert_int_equal(
	    event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK), 0);
	w->base = event_base_new_with_config(config);
	event_config_free(config);
	w->next = 1;
	w->child_uid = geteuid() == 0 ? CHILD_UID : geteuid();
	(void)snprintf(w->dir, sizeof(w->dir), "/tmp/workload.XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	if (geteuid() == 0)
		assert_int_equal(chown(w->dir, CHILD_UID, (gid_t)-1), 0);
	(void)snprintf(w->path, sizeof(w->path), "%s/api", w->dir);
	(void)snprintf(w->control, sizeof(w->control), "%s/ctl", w->dir);
	(void)snprintf(w->endpoint, sizeof(w->endpoint), "unix:%s", w->path);
	*state = w;
	return 0;
}

static int
teardown(void **state)
{
	struct world *w = *state;

	if (w->source != NULL)
		w->source->ops->stop(&w->source);
	stop_issuer(w);
	identity_free(&w->current);
	event_base_free(w->base);
	(void)unlink(w->path);
	(void)unlink(w->control);
	(void)rmdir(w->dir);
	free(w);
	return 0;
}

static void
on_tick(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	(void)arg;
}

/* Run the loop until *N reaches WANT. */
static void
run_until(struct world *w, const unsigned int *n, unsigned int want)
{
	const struct timeval tick = {.tv_usec = 50000};
	int64_t end_ms = clock_boot_ms() + PATIENCE_MS;
	struct event *ticker =
	    event_new(w->base, -1, EV_PERSIST, on_tick, NULL);

	assert_int_equal(event_add(ticker, &tick), 0);
	while (*n < want && clock_boot_ms() < end_ms)
		(void)event_base_loop(w->base, EVLOOP_ONCE);
	event_free(ticker);
	if (*n < want)
		fail_msg("waited for %u, have %u: %s", want, *n, w->why.text);
}

static struct source_status
status_of(const struct world *w)
{
	struct source_status st;

	w->source->ops->status(w->source, &st);
	return st;
}

static int64_t
end_of_svid(const struct world *w)
{
	return svid_not_after(identity_svid(w->current, 0));
}

static void
begin(struct world *w)
{
	start_issuer(w);
	start_source(w, true);
	run_until(w, &w->offers, 1);
}

/* ---- Tests ---- */

/* The agent's first message becomes an offer, and the state says so. */
static void
test_workload_first_message_is_offered(void **state)
{
	struct world *w = *state;
	struct source_status st;

	begin(w);
	assert_true(span_equal_str(svid_id(identity_svid(w->current, 0))->text,
	    "spiffe://demo.test/web"));
	st = status_of(w);
	assert_int_equal(st.state, SOURCE_LIVE);
	assert_true(st.agent_uid_known);
	assert_int_equal(st.agent_uid, w->child_uid);
	assert_int_equal(w->downs, 0);
}

/* A rotation arrives on the stream that is open. */
static void
test_workload_rotation_arrives_on_the_stream(void **state)
{
	struct world *w = *state;

	begin(w);
	command(w, "ttl 600");
	run_until(w, &w->offers, 2);
	assert_int_equal(w->downs, 0);
	assert_true(end_of_svid(w) > clock_wall_s() + 500);
}

/* Row 101: a stream that ends is opened again at once. */
static void
test_row_101_ended_stream_is_opened_again(void **state)
{
	struct world *w = *state;
	int64_t began_ms;

	begin(w);
	began_ms = clock_boot_ms();
	command(w, "end 0");
	run_until(w, &w->offers, 2);
	assert_true(clock_boot_ms() - began_ms < 1000);
	assert_int_equal(status_of(w).stream_errors[0], 1);
}

/* Row 120: a cut connection is a loss that is told and mended. */
static void
test_row_120_cut_connection_is_told_and_mended(void **state)
{
	struct world *w = *state;

	begin(w);
	command(w, "cut");
	run_until(w, &w->offers, 2);
	assert_int_equal(w->downs, 1);
	assert_int_equal(w->finals, 0);
	assert_int_equal(status_of(w).state, SOURCE_LIVE);
}

/* An agent that starts after us, or again, is found. */
static void
test_workload_agent_that_returns_is_found(void **state)
{
	struct world *w = *state;

	start_source(w, true);
	run_until(w, &w->downs, 1);
	assert_int_equal(status_of(w).state, SOURCE_BACKOFF);
	start_issuer(w);
	run_until(w, &w->offers, 1);
	stop_issuer(w);
	run_until(w, &w->downs, 2);
	start_issuer(w);
	run_until(w, &w->offers, 2);
}

/* Rows 99, 121: a refusal is told as one, and asked again. */
static void
test_row_121_refusal_is_told_and_asked_again(void **state)
{
	struct world *w = *state;

	begin(w);
	command(w, "deny");
	run_until(w, &w->refusals, 2);
	assert_non_null(strstr(w->why.text, "PermissionDenied"));
	command(w, "serve");
	run_until(w, &w->offers, 2);
}

/* Row 122: Cancelled, Unknown and the like are retried. */
static void
test_row_122_other_codes_are_retried(void **state)
{
	struct world *w = *state;
	unsigned int offers = 1;

	begin(w);
	for (unsigned int code = 1; code < 17; code++) {
		char line[16];

		if (code == 3 || code == 7 || code == 12)
			continue;
		(void)snprintf(line, sizeof(line), "end %u", code);
		command(w, line);
		run_until(w, &w->offers, ++offers);
		assert_int_equal(status_of(w).stream_errors[code], 1);
	}
	assert_int_equal(w->finals, 0);
}

/* Rows 118, 119: two answers mean that asking again is vain, until another
 * agent is there. */
static void
test_row_118_stop_ends_with_a_new_socket(void **state)
{
	struct world *w = *state;

	begin(w);
	command(w, "status 3");
	run_until(w, &w->finals, 1);
	assert_int_equal(status_of(w).state, SOURCE_STOPPED);
	stop_issuer(w);
	start_issuer(w);
	run_until(w, &w->offers, 2);
}

static void
test_row_119_unimplemented_stops(void **state)
{
	struct world *w = *state;

	begin(w);
	command(w, "status 12");
	run_until(w, &w->finals, 1);
	assert_int_equal(status_of(w).state, SOURCE_STOPPED);
}

/* Row 125a: a socket of somebody else gets no request. */
static void
test_row_125a_foreign_agent_stops(void **state)
{
	struct world *w = *state;

	if (w->child_uid == geteuid())
		skip(); /* needs root */
	start_issuer(w);
	start_source(w, false);
	run_until(w, &w->finals, 1);
	assert_int_equal(status_of(w).state, SOURCE_STOPPED);
	assert_non_null(strstr(w->why.text, "agent-uid"));
	assert_int_equal(w->offers, 0);
}

/* Row 96: a message that does not decode is dropped, the stream stays. */
static void
test_row_096_bad_message_is_discarded_and_the_stream_stays(void **state)
{
	struct world *w = *state;

	begin(w);
	command(w, "malformed");
	run_until(w, &w->discards, 1);
	assert_string_equal(w->reason, "malformed");
	command(w, "empty");
	run_until(w, &w->discards, 2);
	command(w, "rotate");
	run_until(w, &w->offers, 2);
	assert_int_equal(w->downs, 0);
}

/* Row 97: broken SVIDs are told and offered, for their trust. */
static void
test_row_097_broken_svids_are_told_and_offered(void **state)
{
	struct world *w = *state;

	begin(w);
	command(w, "wrong-key");
	run_until(w, &w->discards, 1);
	assert_string_equal(w->reason, "svids");
	run_until(w, &w->offers, 2);
	assert_true(identity_svids_broken(w->current));
}

/* Bytes that are no HTTP/2 end the stream, and it is opened again. */
static void
test_workload_garbage_is_survived(void **state)
{
	struct world *w = *state;

	begin(w);
	command(w, "garbage");
	run_until(w, &w->offers, 2);
	assert_int_equal(w->downs, 1);
}

/* A valid message of 6 MiB is taken: lists and federations are large. */
static void
test_workload_large_message_is_taken(void **state)
{
	struct world *w = *state;

	begin(w);
	command(w, "big 6291456");
	run_until(w, &w->offers, 2);
	assert_int_equal(identity_bundle_count(w->current), 801);
	assert_int_equal(w->downs, 0);
}

/* One over the limit ends the stream, in the slow class. */
static void
test_workload_oversize_message_backs_off(void **state)
{
	struct world *w = *state;
	struct source_status st;

	begin(w);
	command(w, "big 20971520");
	run_until(w, &w->downs, 1);
	assert_non_null(strstr(w->why.text, "limit 16777216"));
	st = status_of(w);
	assert_int_equal(st.state, SOURCE_BACKOFF);
	assert_in_range(st.next_try_ms - clock_boot_ms(), 3000, 6100);
}

/* The watchdog's second stream takes over without a loss. */
static void
test_workload_reopen_makes_before_it_breaks(void **state)
{
	struct world *w = *state;

	begin(w);
	w->source->ops->reopen(w->source);
	run_until(w, &w->offers, 2);
	assert_int_equal(w->downs, 0);
	assert_int_equal(status_of(w).state, SOURCE_LIVE);
	command(w, "rotate");
	run_until(w, &w->offers, 3);
	command(w, "resend");
	run_until(w, &w->offers, 4);
	assert_int_equal(w->downs, 0);
}

/* Ask for a second stream, which the agent refuses for the N-th time. */
static void
reopen_in_vain(struct world *w, unsigned int n)
{
	int64_t end_ms = clock_boot_ms() + PATIENCE_MS;

	w->source->ops->reopen(w->source);
	while (status_of(w).stream_errors[14] < n && clock_boot_ms() < end_ms)
		(void)event_base_loop(w->base, EVLOOP_ONCE);
	assert_int_equal(status_of(w).stream_errors[14], n);
}

/* An agent that refuses second streams and stays silent on the first: the
 * first is given up in the end, and not before. */
static void
test_workload_refused_second_streams_break_the_first(void **state)
{
	struct world *w = *state;

	begin(w);
	command(w, "refuse 14");
	reopen_in_vain(w, 1);
	reopen_in_vain(w, 2);
	assert_int_equal(w->downs, 0);
	assert_int_equal(status_of(w).state, SOURCE_LIVE);
	reopen_in_vain(w, 3);
	assert_int_equal(w->downs, 1);
	command(w, "serve");
	run_until(w, &w->offers, 2);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    TEST(test_workload_first_message_is_offered),
	    TEST(test_workload_rotation_arrives_on_the_stream),
	    TEST(test_row_101_ended_stream_is_opened_again),
	    TEST(test_row_120_cut_connection_is_told_and_mended),
	    TEST(test_workload_agent_that_returns_is_found),
	    TEST(test_row_121_refusal_is_told_and_asked_again),
	    TEST(test_row_122_other_codes_are_retried),
	    TEST(test_row_118_stop_ends_with_a_new_socket),
	    TEST(test_row_119_unimplemented_stops),
	    TEST(test_row_125a_foreign_agent_stops),
	    TEST(test_row_096_bad_message_is_discarded_and_the_stream_stays),
	    TEST(test_row_097_broken_svids_are_told_and_offered),
	    TEST(test_workload_garbage_is_survived),
	    TEST(test_workload_large_message_is_taken),
	    TEST(test_workload_oversize_message_backs_off),
	    TEST(test_workload_reopen_makes_before_it_breaks),
	    TEST(test_workload_refused_second_streams_break_the_first),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
