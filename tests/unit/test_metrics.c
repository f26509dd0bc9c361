/*
 * The metrics page, of a control made by hand: two services, two workers, an
 * identity. What a scraper cannot parse, it drops whole.
 */

#include "unit.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "control_int.h"
#include "made.h"
#include "metrics.def"

#define WEB "spiffe://example.test/web"

struct world {
	struct control control;
	struct conf conf;
	struct service services[2];
	struct service_shared shared[2];
	struct worker *workers[2];
	struct worker_public *public;
	struct ca *ca;
	struct text page;
};

static const struct {
	const char *name;
	const char *type;
	const char *labels;
} families[] = {
#define X(name, kind, labels, help) {#name, #kind, labels},
    METRICS(X)
#undef X
};

static void
make_workers(struct world *w)
{
	struct worker_shared *s = &w->control.workers;

	s->n_workers = 2;
	s->workers = w->workers;
	w->public = aligned_alloc(64, 2 * sizeof(*w->public));
	assert_non_null(w->public);
	memset(w->public, 0, 2 * sizeof(*w->public));
	s->public = w->public;
	s->spill_max_bytes = 1 << 20;
	s->max_connections = 77;
	s->descriptors_max = 1024;
	for (unsigned int i = 0; i < 2; i++) {
		w->workers[i] = worker_new(s, i);
		assert_non_null(w->workers[i]);
	}
}

static void
make_services(struct world *w)
{
	w->conf.generation = 3;
	w->conf.services = w->services;
	w->conf.n_services = 2;
	w->services[0] = (struct service){.name = "api", .direction = INBOUND};
	w->services[1] = (struct service){
	    .name = "db", .direction = OUTBOUND, .mode = MODE_AUDIT};
	for (size_t i = 0; i < 2; i++) {
		w->shared[i].n_workers = 2;
		w->shared[i].workers = calloc(2, sizeof(*w->shared[i].workers));
		assert_non_null(w->shared[i].workers);
		w->services[i].index = (unsigned int)i;
		w->services[i].shared = &w->shared[i];
	}
	w->control.conf = &w->conf;
}

static void
give_identity(struct world *w)
{
	struct ca_svid *svid = made_svid_of(w->ca, WEB);
	struct svid_raw raw = made_raw(svid, WEB);
	struct bundle_raw bundle = {
	    .trust_domain = span_of_str("example.test"),
	    .authorities = ca_certificate(w->ca),
	};
	struct identity *id = made_identity(&raw, &bundle, 1);
	struct why why;

	(void)keeper_offer(w->control.keeper, &id, time(NULL), 1000, &why);
	assert_non_null(keeper_svid(w->control.keeper));
	ca_svid_free(&svid);
}

static void
world_init(struct world *w)
{
	struct keeper_conf kc = {.trust_domain = span_of(NULL, 0)};

	memset(w, 0, sizeof(*w));
	make_workers(w);
	make_services(w);
	w->ca = made_ca(NULL, NULL);
	w->control.keeper = keeper_new(&kc);
	assert_non_null(w->control.keeper);
	w->control.log = log_sink_new(&w->control);
	assert_non_null(w->control.log);
	w->control.started_ms = control_now_ms();
	text_init(&w->page);
}

static void
world_fini(struct world *w)
{
	text_fini(&w->page);
	log_sink_free(&w->control.log);
	keeper_free(&w->control.keeper);
	ca_free(&w->ca);
	for (size_t i = 0; i < 2; i++) {
		worker_free(&w->workers[i]);
		free(w->shared[i].workers);
	}
	free(w->public);
}

static const char *
rendered(struct world *w)
{
	text_clear(&w->page);
	metrics_render(&w->control, &w->page);
	assert_false(w->page.failed);
	return w->page.data;
}

/* Is there a line "NAME{LABELS} VALUE"? */
static void
assert_line(const struct world *w, const char *line)
{
	char whole[256];

	(void)snprintf(whole, sizeof(whole), "\n%s\n", line);
	if (strstr(w->page.data, whole) == NULL)
		fail_msg("no line: %s", line);
}

static size_t
family_of(const char *line, size_t len)
{
	for (size_t i = 0; i < ARRAY_LEN(families); i++) {
		if (strlen(families[i].name) == len &&
		    strncmp(families[i].name, line, len) == 0)
			return i;
	}
	fail_msg("%.*s is not in the table", (int)len, line);
	return 0;
}

/* "_bucket", "_sum" and "_count" belong to the histogram before them. */
static size_t
sample_family(const char *line, size_t current)
{
	size_t len = strcspn(line, "{ ");
	size_t own = strlen(families[current].name);

	if (strcmp(families[current].type, "histogram") == 0 && len > own &&
	    strncmp(line, families[current].name, own) == 0) {
		const char *rest = line + own;

		assert_true(strncmp(rest, "_bucket{", 8) == 0 ||
		            strncmp(rest, "_sum{", 5) == 0 ||
		            strncmp(rest, "_count{", 7) == 0);
		return current;
	}
	return family_of(line, len);
}

/* The labels of a line are those of the table, in its order. */
static void
check_labels(const char *line, size_t family)
{
	const char *p = strchr(line, '{');
	const char *end = strchr(line, '\n');
	char got[128] = "";

	while (p != NULL && p < end && *p != '}') {
		size_t len = strcspn(++p, "=");

		if (strncmp(p, "le=", 3) != 0) {
			if (got[0] != '\0')
				(void)strcat(got, ", ");
			(void)strncat(got, p, len);
		}
		p += len + 1;
		assert_int_equal(*p, '"');
		p += 1 + strcspn(p + 1, "\"") + 1;
		assert_true(*p == ',' || *p == '}');
	}
	assert_string_equal(got, families[family].labels);
}

static void
check_value(const char *line)
{
	const char *p = strstr(line, "} ");
	const char *end = strchr(line, '\n');
	char *stop = NULL;

	p = p != NULL && p < end ? p + 2 : strchr(line, ' ') + 1;
	assert_true(isdigit((unsigned char)*p));
	(void)strtod(p, &stop);
	assert_ptr_equal(stop, end);
}

/*
 * A family that comes in two pieces, lacks its head or has a label that the
 * table does not name makes Prometheus drop the page; one that is in the table
 * and never printed is a promise of the manual that is not kept.
 */
static void
test_metrics_page_is_the_table_each_family_once_and_whole(void **state)
{
	size_t heads[ARRAY_LEN(families)] = {0};
	size_t samples[ARRAY_LEN(families)] = {0};
	size_t current = 0;
	struct world w;
	bool typed = true;

	(void)state;
	world_init(&w);
	give_identity(&w);
	for (const char *l = rendered(&w); *l != '\0';
	     l = strchr(l, '\n') + 1) {
		assert_non_null(strchr(l, '\n'));
		if (strncmp(l, "# HELP ", 7) == 0) {
			assert_true(typed);
			current = family_of(l + 7, strcspn(l + 7, " "));
			assert_int_equal(heads[current]++, 0);
			typed = false;
		} else if (strncmp(l, "# TYPE ", 7) == 0) {
			char expected[128];

			(void)snprintf(expected, sizeof(expected),
			    "# TYPE %s %s\n", families[current].name,
			    families[current].type);
			assert_memory_equal(l, expected, strlen(expected));
			assert_false(typed);
			typed = true;
		} else {
			assert_true(typed);
			assert_int_equal(sample_family(l, current), current);
			check_labels(l, current);
			check_value(l);
			samples[current]++;
		}
	}
	for (size_t i = 0; i < ARRAY_LEN(families); i++) {
		if (heads[i] != 1 || samples[i] == 0)
			fail_msg("%s was not printed", families[i].name);
	}
	world_fini(&w);
}

/* Before the first SVID there are no dates, and the alert on fenced fires. */
static void
test_metrics_page_without_identity_is_sound_and_says_fenced(void **state)
{
	struct world w;

	(void)state;
	world_init(&w);
	(void)rendered(&w);
	assert_line(&w, "postern_identity_fenced{identity=\"default\"} 1");
	assert_null(strstr(w.page.data, "postern_svid_not_after"));
	assert_null(strstr(w.page.data, "postern_bundle_not_after"));
	give_identity(&w);
	(void)rendered(&w);
	assert_line(&w, "postern_identity_fenced{identity=\"default\"} 0");
	assert_non_null(
	    strstr(w.page.data, "postern_bundle_not_after_timestamp_seconds{"
	                        "trust_domain=\"example.test\"} "));
	world_fini(&w);
}

/* Rates are computed per service: workers are added up, services never. */
static void
test_metrics_services_are_apart_and_workers_added_up(void **state)
{
	struct world w;

	(void)state;
	world_init(&w);
	counter_add(&w.shared[0].workers[0].allowed, 4);
	counter_add(&w.shared[0].workers[1].allowed, 3);
	counter_add(&w.shared[1].workers[1].allowed, 5);
	counter_add(&w.shared[0].workers[0].opened, 9);
	counter_add(&w.shared[0].workers[1].closed, 2);
	counter_add(&w.shared[1].workers[0].received[SIDE_MESH], 11);
	counter_add(&w.shared[1].workers[0].received[SIDE_PLAIN], 12);
	counter_add(&w.shared[1].workers[0].audit, 6);
	counter_add(&w.public[1].accept_errors, 8);
	(void)rendered(&w);
	assert_line(&w,
	    "postern_connections_total{service=\"api\",direction=\"inbound\","
	    "result=\"allowed\"} 7");
	assert_line(&w,
	    "postern_connections_total{service=\"db\",direction=\"outbound\","
	    "result=\"allowed\"} 5");
	/* Opened on one worker, closed on another: it is one number. */
	assert_line(&w,
	    "postern_connections_active{service=\"api\",direction=\"inbound\"}"
	    " 7");
	assert_line(&w,
	    "postern_received_bytes_total{service=\"db\",direction=\"outbound\""
	    ",side=\"mesh\"} 11");
	assert_line(&w,
	    "postern_received_bytes_total{service=\"db\",direction=\"outbound\""
	    ",side=\"plain\"} 12");
	assert_line(&w, "postern_audit_would_deny_total{service=\"db\"} 6");
	assert_line(&w, "postern_audit_mode{service=\"db\"} 1");
	assert_line(&w, "postern_audit_mode{service=\"api\"} 0");
	assert_line(&w, "postern_accept_errors_total{worker=\"1\"} 8");
	assert_line(&w, "postern_connections_limit 77");
	assert_line(&w, "postern_config_generation 3");
	world_fini(&w);
}

/* Alerts name reasons: each is a line of its own from the first scrape on. */
static void
test_metrics_reasons_are_the_closed_lists(void **state)
{
	struct world w;
	char line[160];

	(void)state;
	world_init(&w);
	for (size_t r = DENY_NOT + 1; r < DENY_REASON_COUNT; r++)
		counter_add(&w.shared[0].workers[1].reasons[r], r);
	for (size_t r = CLOSE_NOT + 1; r < CLOSE_REASON_COUNT; r++)
		counter_add(&w.shared[1].workers[0].closes[r], 100 + r);
	for (size_t r = 0; r < HANDSHAKE_FAILURE_COUNT; r++)
		counter_add(
		    &w.shared[0].workers[0].handshake_failures[r], 200 + r);
	for (size_t r = DIAL_OK + 1; r < DIAL_REASON_COUNT; r++)
		counter_add(
		    &w.shared[1].workers[1].target_failures[r], 300 + r);
	(void)rendered(&w);
#define CHECK(family, service, label, n)                                       \
	do {                                                                   \
		(void)snprintf(line, sizeof(line),                             \
		    family "{" service ",reason=\"%s\"} %zu", label, n);       \
		assert_line(&w, line);                                         \
	} while (0)
#define API "service=\"api\",direction=\"inbound\""
#define DB  "service=\"db\",direction=\"outbound\""
	for (size_t r = DENY_NOT + 1; r < DENY_REASON_COUNT; r++)
		CHECK("postern_denied_total", API,
		    deny_reason_label((enum deny_reason)r), r);
	for (size_t r = CLOSE_NOT + 1; r < CLOSE_REASON_COUNT; r++)
		CHECK("postern_close_total", DB,
		    close_reason_label((enum close_reason)r), 100 + r);
	for (size_t r = 0; r < HANDSHAKE_FAILURE_COUNT; r++)
		CHECK("postern_handshake_failures_total", API,
		    handshake_failure_label(r), 200 + r);
	for (size_t r = DIAL_OK + 1; r < DIAL_REASON_COUNT; r++)
		CHECK("postern_target_failures_total", DB,
		    dial_reason_label((enum dial_reason)r), 300 + r);
	world_fini(&w);
}

/* Buckets of LABELS are cumulative and end in +Inf, which is the count. */
static uint64_t
check_histogram(const char *page, const char *name, const char *labels)
{
	char head[160];
	uint64_t last = 0, count;
	double bound = 0;
	size_t n = 0;
	const char *p;

	(void)snprintf(
	    head, sizeof(head), "\n%s_bucket{%s,le=\"", name, labels);
	for (p = page; (p = strstr(p, head)) != NULL; n++) {
		char *end;
		double le = strtod(p + strlen(head), &end);
		uint64_t value;

		assert_true(le > bound);
		bound = le;
		value = strtoull(end + 3, NULL, 10);
		assert_true(value >= last);
		last = value;
		p = end;
	}
	assert_int_equal(n, HISTOGRAM_BUCKETS);
	assert_true(bound > 1e300); /* +Inf */
	(void)snprintf(head, sizeof(head), "\n%s_count{%s} ", name, labels);
	p = strstr(page, head);
	assert_non_null(p);
	count = strtoull(p + strlen(head), NULL, 10);
	assert_int_equal(count, last);
	return count;
}

/* Quantiles are computed from these: one bucket that falls ruins them. */
static void
test_metrics_histograms_are_cumulative(void **state)
{
	struct world w;
	const char *page;

	(void)state;
	world_init(&w);
	histogram_add(&w.shared[0].workers[0].handshake, 50000);
	histogram_add(&w.shared[0].workers[1].handshake, 2000000);
	histogram_add(&w.shared[0].workers[1].handshake, 60000000000);
	histogram_add(&w.shared[1].workers[0].connect, 1000000);
	histogram_add(&w.public[1].lag, 300000);
	page = rendered(&w);
	assert_int_equal(
	    check_histogram(page, "postern_handshake_seconds", API), 3);
	assert_int_equal(
	    check_histogram(page, "postern_handshake_seconds", DB), 0);
	assert_int_equal(
	    check_histogram(page, "postern_target_connect_seconds", DB), 1);
	assert_int_equal(check_histogram(page,
	                     "postern_worker_loop_lag_seconds", "worker=\"1\""),
	    1);
	assert_line(
	    &w, "postern_handshake_seconds_bucket{" API ",le=\"0.0001\"} 1");
	assert_line(
	    &w, "postern_handshake_seconds_bucket{" API ",le=\"0.001\"} 1");
	assert_line(
	    &w, "postern_handshake_seconds_bucket{" API ",le=\"0.0025\"} 2");
	assert_line(
	    &w, "postern_handshake_seconds_bucket{" API ",le=\"10\"} 2");
	assert_line(&w, "postern_handshake_seconds_sum{" API "} 60.002050000");
	/* A bound belongs to its bucket: le is "less or equal". */
	assert_line(
	    &w, "postern_target_connect_seconds_bucket{" DB ",le=\"0.001\"} 1");
	assert_line(&w,
	    "postern_target_connect_seconds_bucket{" DB ",le=\"0.0005\"} 0");
	world_fini(&w);
}

/* What the source says is what the page says. */
static void
fake_status(const struct source *s, struct source_status *st_r)
{
	(void)s;
	*st_r = (struct source_status){
	    .state = SOURCE_WAITING,
	    .lock_failures = 2,
	};
	st_r->stream_errors[7] = 5;
}

/* PermissionDenied is code 7: an alert on it must find the number there. */
static void
test_metrics_agent_errors_are_by_grpc_code(void **state)
{
	static const struct source_ops ops = {.status = fake_status};
	struct source source = {.ops = &ops};
	struct world w;

	(void)state;
	world_init(&w);
	(void)rendered(&w);
	assert_line(&w, "postern_workload_api_connected 0");
	w.control.source = &source;
	w.control.discards = 4;
	w.control.reopens = 3;
	(void)rendered(&w);
	assert_line(&w, "postern_workload_api_connected 1");
	assert_line(
	    &w, "postern_workload_api_stream_errors_total{code=\"7\"} 5");
	assert_line(
	    &w, "postern_workload_api_stream_errors_total{code=\"16\"} 0");
	assert_line(&w, "postern_workload_api_discards_total 4");
	assert_line(&w, "postern_workload_api_reopens_total 3");
	assert_line(&w, "postern_lock_failures_total 2");
	assert_line(&w, "postern_workload_api_last_update_timestamp_seconds 0");
	world_fini(&w);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(
	        test_metrics_page_is_the_table_each_family_once_and_whole),
	    cmocka_unit_test(
	        test_metrics_page_without_identity_is_sound_and_says_fenced),
	    cmocka_unit_test(
	        test_metrics_services_are_apart_and_workers_added_up),
	    cmocka_unit_test(test_metrics_reasons_are_the_closed_lists),
	    cmocka_unit_test(test_metrics_histograms_are_cumulative),
	    cmocka_unit_test(test_metrics_agent_errors_are_by_grpc_code),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
