#include "control_int.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "clock.h"
#include "metrics.def"
#include "spiffe.h"

enum metric {
#define X(name, kind, labels, help) METRIC_##name,
	METRICS(X)
#undef X
};

static void
head(struct text *out, enum metric m)
{
	switch (m) {
#define X(name, kind, labels, help)                                            \
	case METRIC_##name:                                                    \
		text_add(out,                                                  \
		    "# HELP " #name " %s\n# TYPE " #name " " #kind "\n",       \
		    help);                                                     \
		return;
		METRICS(X)
#undef X
	}
}

static const char *
name_of(enum metric m)
{
	switch (m) {
#define X(name, kind, labels, help)                                            \
	case METRIC_##name:                                                    \
		return #name;
		METRICS(X)
#undef X
	}
	return "?";
}

#define FAMILY(name) head(out, METRIC_##name)

/* One value without labels, with its head. */
static void
plain(struct text *out, enum metric m, uint64_t value)
{
	head(out, m);
	text_add(out, "%s %" PRIu64 "\n", name_of(m), value);
}

static const char *
dir_of(const struct service *s)
{
	return s->direction == INBOUND ? "inbound" : "outbound";
}

/* One value of a service; LABEL may be NULL. */
static void
value(struct text *out, enum metric m, const struct service *s,
    const char *label, const char *label_value, uint64_t n)
{
	text_add(out, "%s{service=\"%s\",direction=\"%s\"", name_of(m), s->name,
	    dir_of(s));
	if (label != NULL)
		text_add(out, ",%s=\"%s\"", label, label_value);
	text_add(out, "} %" PRIu64 "\n", n);
}

/* Each family lists all services: Prometheus wants a family in one piece. */
#define EACH_SERVICE(s)                                                        \
	for (const struct service *s = k->conf->services;                      \
	     s < k->conf->services + k->conf->n_services; s++)

static void
simple(const struct control *k, struct text *out, enum metric m, size_t offset)
{
	head(out, m);
	EACH_SERVICE(s)
	{
		value(out, m, s, NULL, NULL, control_sum(s->shared, offset));
	}
}

#define OFFSET(member) offsetof(struct service_counters, member)

static void
results(const struct control *k, struct text *out)
{
	const enum metric m = METRIC_postern_connections_total;

	head(out, m);
	EACH_SERVICE(s)
	{
		value(out, m, s, "result", "allowed", SUM(s->shared, allowed));
		value(out, m, s, "result", "denied", SUM(s->shared, denied));
		value(out, m, s, "result", "failed", SUM(s->shared, failed));
		value(
		    out, m, s, "result", "rejected", SUM(s->shared, rejected));
	}
}

static void
gauges(const struct control *k, struct text *out)
{
	enum metric m = METRIC_postern_connections_active;

	head(out, m);
	EACH_SERVICE(s)
	{
		value(out, m, s, NULL, NULL,
		    SUM(s->shared, opened) - SUM(s->shared, closed));
	}
	m = METRIC_postern_connections_half_closed;
	head(out, m);
	EACH_SERVICE(s)
	{
		value(out, m, s, NULL, NULL,
		    SUM(s->shared, half_opened) - SUM(s->shared, half_closed));
	}
}

static void
denials(const struct control *k, struct text *out)
{
	const enum metric m = METRIC_postern_denied_total;

	head(out, m);
	EACH_SERVICE(s)
	{
		for (size_t r = DENY_NOT + 1; r < DENY_REASON_COUNT; r++)
			value(out, m, s, "reason",
			    deny_reason_label((enum deny_reason)r),
			    control_sum(s->shared, OFFSET(reasons[r])));
	}
	FAMILY(postern_audit_would_deny_total);
	EACH_SERVICE(s)
	{
		text_add(out,
		    "postern_audit_would_deny_total{service=\"%s\"} %" PRIu64
		    "\n",
		    s->name, SUM(s->shared, audit));
	}
	FAMILY(postern_audit_mode);
	EACH_SERVICE(s)
	{
		text_add(out, "postern_audit_mode{service=\"%s\"} %d\n",
		    s->name, s->mode == MODE_AUDIT);
	}
	FAMILY(postern_reauthorized_total);
	EACH_SERVICE(s)
	{
		text_add(out,
		    "postern_reauthorized_total{service=\"%s\","
		    "cause=\"policy\"} %" PRIu64 "\n",
		    s->name, SUM(s->shared, reauthorized));
	}
}

static void
closes(const struct control *k, struct text *out)
{
	enum metric m = METRIC_postern_target_failures_total;

	head(out, m);
	EACH_SERVICE(s)
	{
		for (size_t r = DIAL_OK + 1; r < DIAL_REASON_COUNT; r++)
			value(out, m, s, "reason",
			    dial_reason_label((enum dial_reason)r),
			    control_sum(s->shared, OFFSET(target_failures[r])));
	}
	m = METRIC_postern_close_total;
	head(out, m);
	EACH_SERVICE(s)
	{
		for (size_t r = CLOSE_NOT + 1; r < CLOSE_REASON_COUNT; r++)
			value(out, m, s, "reason",
			    close_reason_label((enum close_reason)r),
			    control_sum(s->shared, OFFSET(closes[r])));
	}
}

static void
handshake_failures(const struct control *k, struct text *out)
{
	const enum metric m = METRIC_postern_handshake_failures_total;

	head(out, m);
	EACH_SERVICE(s)
	{
		for (size_t i = 0; i < HANDSHAKE_FAILURE_COUNT; i++)
			value(out, m, s, "reason", handshake_failure_label(i),
			    control_sum(
			        s->shared, OFFSET(handshake_failures[i])));
	}
	FAMILY(postern_probes_total);
	EACH_SERVICE(s)
	{
		text_add(out,
		    "postern_probes_total{service=\"%s\"} %" PRIu64 "\n",
		    s->name, SUM(s->shared, probes));
	}
}

static void
bytes(const struct control *k, struct text *out, enum metric m, size_t offset)
{
	head(out, m);
	EACH_SERVICE(s)
	{
		value(out, m, s, "side", "mesh",
		    control_sum(s->shared,
		        offset + SIDE_MESH * sizeof(struct counter)));
		value(out, m, s, "side", "plain",
		    control_sum(s->shared,
		        offset + SIDE_PLAIN * sizeof(struct counter)));
	}
}

/* ---- Histograms ---- */

/* Cumulative buckets, as the format wants them. LABELS without braces. */
static void
buckets(struct text *out, const char *name, const char *labels,
    const uint64_t counts[HISTOGRAM_BUCKETS], uint64_t sum_ns)
{
	uint64_t total = 0;

	for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
		total += counts[i];
		if (histogram_bound(i) == 0)
			text_add(out, "%s_bucket{%s,le=\"+Inf\"} %" PRIu64 "\n",
			    name, labels, total);
		else
			text_add(out, "%s_bucket{%s,le=\"%g\"} %" PRIu64 "\n",
			    name, labels, (double)histogram_bound(i) / 1e9,
			    total);
	}
	text_add(out, "%s_sum{%s} %.9f\n", name, labels, (double)sum_ns / 1e9);
	text_add(out, "%s_count{%s} %" PRIu64 "\n", name, labels, total);
}

static void
service_histogram(
    const struct control *k, struct text *out, enum metric m, size_t offset)
{
	head(out, m);
	EACH_SERVICE(s)
	{
		uint64_t counts[HISTOGRAM_BUCKETS];
		char labels[128];

		for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++)
			counts[i] = control_sum(s->shared,
			    offset + offsetof(struct histogram, bucket) +
			        i * sizeof(struct counter));
		(void)snprintf(labels, sizeof(labels),
		    "service=\"%s\",direction=\"%s\"", s->name, dir_of(s));
		buckets(out, name_of(m), labels, counts,
		    control_sum(s->shared,
		        offset + offsetof(struct histogram, sum_ns)));
	}
}

static void
worker_lag(const struct control *k, struct text *out)
{
	const enum metric m = METRIC_postern_worker_loop_lag_seconds;

	head(out, m);
	for (size_t w = 0; w < k->workers.n_workers; w++) {
		const struct histogram *h = &k->workers.public[w].lag;
		uint64_t counts[HISTOGRAM_BUCKETS];
		char labels[32];

		for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++)
			counts[i] = counter_get(&h->bucket[i]);
		(void)snprintf(labels, sizeof(labels), "worker=\"%zu\"", w);
		buckets(
		    out, name_of(m), labels, counts, counter_get(&h->sum_ns));
	}
}

static void
workers(const struct control *k, struct text *out)
{
	FAMILY(postern_accept_errors_total);
	for (size_t w = 0; w < k->workers.n_workers; w++)
		text_add(out,
		    "postern_accept_errors_total{worker=\"%zu\"} %" PRIu64 "\n",
		    w, counter_get(&k->workers.public[w].accept_errors));
	FAMILY(postern_worker_connections);
	for (size_t w = 0; w < k->workers.n_workers; w++)
		text_add(out,
		    "postern_worker_connections{worker=\"%zu\"} %" PRIu64 "\n",
		    w, counter_get(&k->workers.public[w].connections));
	worker_lag(k, out);
}

/* ---- Identity ---- */

#define IDENTITY "{identity=\"default\"}"

static void
svid(const struct control *k, struct text *out)
{
	const struct svid *s = keeper_svid(k->keeper);
	struct keeper_status st;

	keeper_status(k->keeper, &st);
	if (s != NULL) {
		FAMILY(postern_svid_not_after_timestamp_seconds);
		text_add(out,
		    "postern_svid_not_after_timestamp_seconds" IDENTITY
		    " %" PRId64 "\n",
		    svid_not_after(s));
		FAMILY(postern_svid_not_before_timestamp_seconds);
		text_add(out,
		    "postern_svid_not_before_timestamp_seconds" IDENTITY
		    " %" PRId64 "\n",
		    svid_not_before(s));
	}
	FAMILY(postern_svid_rotations_total);
	text_add(out, "postern_svid_rotations_total" IDENTITY " %" PRIu64 "\n",
	    st.rotations);
	FAMILY(postern_svid_stale);
	text_add(out, "postern_svid_stale" IDENTITY " %d\n", st.stale);
	FAMILY(postern_identity_fenced);
	text_add(out, "postern_identity_fenced" IDENTITY " %d\n", s == NULL);
	FAMILY(postern_identity_dev);
	text_add(out, "postern_identity_dev" IDENTITY " %d\n",
	    s != NULL && svid_is_dev(s));
	plain(out, METRIC_postern_identity_generation,
	    keeper_generation(k->keeper));
}

static void
bundles(const struct control *k, struct text *out)
{
	const struct identity *id = keeper_identity(k->keeper);

	if (id == NULL)
		return;
	FAMILY(postern_bundle_not_after_timestamp_seconds);
	for (size_t i = 0; i < identity_bundle_count(id); i++) {
		const struct bundle *b = identity_bundle(id, i);
		struct span td = bundle_trust_domain(b);

		text_add(out,
		    "postern_bundle_not_after_timestamp_seconds{"
		    "trust_domain=\"%.*s\"} %" PRId64 "\n",
		    (int)td.len, (const char *)td.data, bundle_not_after(b));
	}
	plain(out, METRIC_postern_crl_entries, identity_crl_entries(id));
}

static uint64_t
wall_of(int64_t boot_ms)
{
	if (boot_ms == 0)
		return 0;
	return (
	    uint64_t)((clock_wall_ms() - (clock_boot_ms() - boot_ms)) / 1000);
}

static void
agent(const struct control *k, struct text *out)
{
	struct source_status st = {0};
	struct keeper_status ks;

	keeper_status(k->keeper, &ks);
	if (k->source != NULL)
		k->source->ops->status(k->source, &st);
	plain(out, METRIC_postern_workload_api_connected,
	    st.state == SOURCE_WAITING || st.state == SOURCE_LIVE);
	FAMILY(postern_workload_api_stream_errors_total);
	for (size_t i = 0; i < SOURCE_GRPC_CODES; i++)
		text_add(out,
		    "postern_workload_api_stream_errors_total{code=\"%zu\"} "
		    "%" PRIu64 "\n",
		    i, st.stream_errors[i]);
	plain(out, METRIC_postern_workload_api_discards_total, k->discards);
	plain(out, METRIC_postern_workload_api_reopens_total, k->reopens);
	plain(out, METRIC_postern_workload_api_last_update_timestamp_seconds,
	    wall_of(st.last_message_ms));
	plain(out, METRIC_postern_workload_api_permission_denied_seconds,
	    ks.denied_since_ms == 0
	        ? 0
	        : (uint64_t)(control_now_ms() - ks.denied_since_ms) / 1000);
	plain(out, METRIC_postern_lock_failures_total, st.lock_failures);
}

/* ---- The process ---- */

static uint64_t
open_descriptors(void)
{
	DIR *d = opendir("/proc/self/fd");
	uint64_t n = 0;

	if (d == NULL)
		return 0;
	while (readdir(d) != NULL)
		n++;
	(void)closedir(d);
	return n < 3 ? 0 : n - 3; /* two dots, and the directory itself */
}

static uint64_t
resident_bytes(void)
{
	FILE *f = fopen("/proc/self/statm", "re");
	unsigned long long size, resident = 0;

	if (f == NULL)
		return 0;
	if (fscanf(f, "%llu %llu", &size, &resident) != 2)
		resident = 0;
	(void)fclose(f);
	return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void
process(const struct control *k, struct text *out)
{
	struct rusage ru;
	double cpu = 0;

	if (getrusage(RUSAGE_SELF, &ru) == 0)
		cpu = (double)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) +
		      (double)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1e6;
	FAMILY(process_cpu_seconds_total);
	text_add(out, "process_cpu_seconds_total %.3f\n", cpu);
	plain(out, METRIC_process_open_fds, open_descriptors());
	plain(out, METRIC_process_max_fds, k->workers.descriptors_max);
	plain(out, METRIC_process_resident_memory_bytes, resident_bytes());
	plain(out, METRIC_process_start_time_seconds, wall_of(k->started_ms));
}

static void
config(const struct control *k, struct text *out)
{
	plain(out, METRIC_postern_config_last_reload_successful,
	    k->last_reload_ok);
	plain(out, METRIC_postern_config_last_reload_timestamp_seconds,
	    (uint64_t)k->last_reload_s);
	plain(out, METRIC_postern_config_generation, k->conf->generation);
	plain(out, METRIC_postern_draining, k->stopping);
	plain(out, METRIC_postern_log_dropped_total, log_sink_dropped(k->log));
	plain(out, METRIC_postern_secure_heap_used_bytes, key_memory_used());
	plain(out, METRIC_postern_secure_heap_size_bytes, key_memory_size());
}

void
metrics_render(struct control *k, struct text *out)
{
	FAMILY(postern_build_info);
	text_add(out, "postern_build_info{version=\"%s\",openssl=\"%s\"} 1\n",
	    POSTERN_VERSION, spiffe_library_version());
	results(k, out);
	gauges(k, out);
	plain(
	    out, METRIC_postern_connections_limit, k->workers.max_connections);
	denials(k, out);
	service_histogram(
	    k, out, METRIC_postern_handshake_seconds, OFFSET(handshake));
	handshake_failures(k, out);
	simple(k, out, METRIC_postern_missing_close_notify_total,
	    OFFSET(missing_close_notify));
	simple(k, out, METRIC_postern_peer_closed_before_data_total,
	    OFFSET(peer_closed_before_data));
	bytes(k, out, METRIC_postern_received_bytes_total, OFFSET(received[0]));
	bytes(k, out, METRIC_postern_sent_bytes_total, OFFSET(sent[0]));
	bytes(
	    k, out, METRIC_postern_discarded_bytes_total, OFFSET(discarded[0]));
	service_histogram(
	    k, out, METRIC_postern_target_connect_seconds, OFFSET(connect));
	closes(k, out);
	svid(k, out);
	bundles(k, out);
	agent(k, out);
	config(k, out);
	workers(k, out);
	process(k, out);
}
