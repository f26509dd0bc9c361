#include "control_int.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "clock.h"
#include "explain.h"
#include "json.h"
#include "spiffe.h"

enum { OK = 0, FAILED = 1, USAGE = 2, NO_IDENTITY = 5, DEGRADED = 7 };

/* ---- Small renderings ---- */

static const char *
dir_word(const struct service *s)
{
	return s->direction == INBOUND ? "in" : "out";
}

/* "12 d", "3 h", "41 min", "7 s". */
static void
add_age(struct text *out, int64_t seconds)
{
	if (seconds < 0)
		seconds = 0;
	if (seconds >= 2 * 86400)
		text_add(out, "%" PRId64 " d", seconds / 86400);
	else if (seconds >= 2 * 3600)
		text_add(out, "%" PRId64 " h", seconds / 3600);
	else if (seconds >= 120)
		text_add(out, "%" PRId64 " min", seconds / 60);
	else
		text_add(out, "%" PRId64 " s", seconds);
}

static void
add_size(struct text *out, uint64_t bytes)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	double n = (double)bytes;
	size_t u = 0;

	while (n >= 1024 && u < ARRAY_LEN(units) - 1) {
		n /= 1024;
		u++;
	}
	text_add(out, u == 0 ? "%.0f %s" : "%.1f %s", n, units[u]);
}

static void
add_time(struct text *out, int64_t seconds)
{
	time_t t = (time_t)seconds;
	struct tm tm;
	char buf[32];

	(void)gmtime_r(&t, &tm);
	(void)strftime(buf, sizeof(buf), "%Y-%m-%dT%H:%M:%SZ", &tm);
	text_add(out, "%s", buf);
}

static void
json_time(struct json *j, const char *key, int64_t seconds)
{
	struct text t;

	text_init(&t);
	add_time(&t, seconds);
	json_kstr(j, key, t.data);
	text_fini(&t);
}

static const char *
source_state_name(enum source_state s)
{
	switch (s) {
	case SOURCE_BACKOFF:
		return "waiting to reconnect";
	case SOURCE_CONNECTING:
		return "connecting";
	case SOURCE_WAITING:
		return "connected, waiting";
	case SOURCE_LIVE:
		return "connected";
	case SOURCE_STOPPED:
		return "stopped";
	}
	return "?";
}

static const char *
keeper_state_name(enum keeper_state s)
{
	switch (s) {
	case KEEPER_EMPTY:
		return "none yet";
	case KEEPER_GOOD:
		return "good";
	case KEEPER_IN_GRACE:
		return "withdrawn by the agent, still in grace";
	case KEEPER_EXPIRED:
		return "expired";
	case KEEPER_REDACTED:
		return "withdrawn by the agent";
	}
	return "?";
}

static void
get_source(const struct control *k, struct source_status *st)
{
	*st = (struct source_status){0};
	if (k->source != NULL)
		k->source->ops->status(k->source, st);
}

/* ---- status ---- */

static uint64_t
active(const struct service *s)
{
	return SUM(s->shared, opened) - SUM(s->shared, closed);
}

static bool
all_ready(const struct control *k)
{
	const char *why;

	for (size_t i = 0; i < k->conf->n_services; i++) {
		if (!control_service_ready(k, &k->conf->services[i], &why))
			return false;
	}
	return control_workers_turn(k, 5000);
}

/* What an operator must not overlook. */
static void
banners(const struct control *k, void (*say)(void *, const char *), void *arg)
{
	const struct svid *svid = keeper_svid(k->keeper);
	const struct identity *id = keeper_identity(k->keeper);
	char line[160];

	if (svid != NULL && svid_is_dev(svid))
		say(arg, "development identity: not for production");
	if (!k->last_reload_ok)
		say(arg, "the last reload was refused: the configuration "
		         "before it is in force");
	if (id != NULL && identity_crl_count(id) != 0)
		say(arg, "revocation lists are received and checked for form, "
		         "but not enforced by this version");
	if (k->stopping)
		say(arg, "draining: no new connections");
	for (size_t i = 0; i < k->conf->n_services; i++) {
		const struct service *s = &k->conf->services[i];

		if (s->mode != MODE_AUDIT)
			continue;
		(void)snprintf(line, sizeof(line),
		    "[%s %s] is in audit mode: it enforces nothing",
		    s->direction == INBOUND ? "inbound" : "outbound", s->name);
		say(arg, line);
	}
}

static void
say_text(void *arg, const char *line)
{
	text_add(arg, "! %s\n", line);
}

static void
say_json(void *arg, const char *line)
{
	json_str(arg, line);
}

static void
identity_line(const struct control *k, struct text *out)
{
	const struct svid *svid = keeper_svid(k->keeper);
	struct keeper_status st;
	int64_t now = clock_wall_s();

	keeper_status(k->keeper, &st);
	if (svid == NULL) {
		text_add(out, "identity  default  -  %s\n",
		    keeper_state_name(st.state));
		return;
	}
	text_add(out, "identity  default  ");
	text_add_span(out, svid_id(svid)->text);
	text_add(out, "  ");
	add_age(out, svid_not_after(svid) - now);
	text_add(out, " left");
	if (st.last_rotation_s != 0) {
		text_add(out, "  rotated ");
		add_age(out, now - st.last_rotation_s);
		text_add(out, " ago");
	}
	text_add(
	    out, "  serial %s%s", svid_serial(svid), st.stale ? "  STALE" : "");
	if (st.state != KEEPER_GOOD)
		text_add(out, "  (%s)", keeper_state_name(st.state));
	text_add_char(out, '\n');
}

static void
agent_line(const struct control *k, struct text *out)
{
	struct source_status st;

	get_source(k, &st);
	text_add(out, "agent     %s", k->endpoint);
	if (st.agent_uid_known)
		text_add(out, "  uid %u", st.agent_uid);
	text_add(out, "  %s", source_state_name(st.state));
	if (st.last_message_ms != 0) {
		text_add(out, "  last update ");
		add_age(out, (control_now_ms() - st.last_message_ms) / 1000);
		text_add(out, " ago");
	}
	if (st.state != SOURCE_LIVE && st.last_error.text[0] != '\0')
		text_add(out, "  (%s)", st.last_error.text);
	text_add_char(out, '\n');
}

static void
bundle_line(const struct control *k, struct text *out)
{
	const struct identity *id = keeper_identity(k->keeper);

	text_add(out, "bundles  ");
	for (size_t i = 0; id != NULL && i < identity_bundle_count(id); i++) {
		const struct bundle *b = identity_bundle(id, i);

		text_add_char(out, ' ');
		text_add_span(out, bundle_trust_domain(b));
		text_add(out, " (%zu)", bundle_authorities(b));
	}
	text_add(out, "%s\n\n", id == NULL ? " -" : "");
}

static void
service_row(const struct control *k, const struct service *s, struct text *out)
{
	const char *why = NULL;
	bool ready = control_service_ready(k, s, &why);
	struct text in, sent;

	text_init(&in);
	text_init(&sent);
	add_size(&in, control_sum(s->shared,
	                  offsetof(struct service_counters, sent[SIDE_PLAIN])));
	add_size(&sent, control_sum(s->shared, offsetof(struct service_counters,
	                                           sent[SIDE_MESH])));
	text_add(out,
	    "%-16s %-3s %-9s %7" PRIu64 " %10s %10s %8" PRIu64 " %8" PRIu64
	    "  %s\n",
	    s->name, dir_word(s), ready ? "ready" : "degraded", active(s),
	    in.data, sent.data, SUM(s->shared, denied), SUM(s->shared, failed),
	    ready ? "-" : why);
	text_fini(&in);
	text_fini(&sent);
}

static void
status_text(struct control *k, bool ready, struct text *out)
{
	banners(k, say_text, out);
	text_add(out, "postern %s  config %s (loaded ", POSTERN_VERSION,
	    k->conf->hash);
	add_age(out, clock_wall_s() - k->conf_loaded_s);
	text_add(out, " ago)  up ");
	add_age(out, (control_now_ms() - k->started_ms) / 1000);
	text_add(out, "  %s\n", ready ? "ready" : "degraded");
	identity_line(k, out);
	agent_line(k, out);
	bundle_line(k, out);
	text_add(out, "%-16s %-3s %-9s %7s %10s %10s %8s %8s  %s\n", "SERVICE",
	    "DIR", "STATE", "CONNS", "IN", "OUT", "DENIED", "FAILED", "REASON");
	for (size_t i = 0; i < k->conf->n_services; i++)
		service_row(k, &k->conf->services[i], out);
}

static void
json_identity(const struct control *k, struct json *j)
{
	const struct svid *svid = keeper_svid(k->keeper);
	struct keeper_status st;

	keeper_status(k->keeper, &st);
	json_object(j);
	json_kstr(j, "name", "default");
	json_kstr(j, "state", keeper_state_name(st.state));
	json_kbool(j, "stale", st.stale);
	json_kuint(j, "rotations", st.rotations);
	json_key(j, "svid");
	if (svid == NULL) {
		json_null(j);
	} else {
		json_object(j);
		json_key(j, "id");
		json_span(j, svid_id(svid)->text);
		json_key(j, "hint");
		json_span(j, svid_hint(svid));
		json_kstr(j, "serial", svid_serial(svid));
		json_kstr(j, "key_type", svid_key_type(svid));
		json_time(j, "not_before", svid_not_before(svid));
		json_time(j, "not_after", svid_not_after(svid));
		json_kbool(j, "development", svid_is_dev(svid));
		json_object_end(j);
	}
	json_object_end(j);
}

static void
json_agent(const struct control *k, struct json *j)
{
	struct source_status st;

	get_source(k, &st);
	json_object(j);
	json_kstr(j, "endpoint", k->endpoint);
	json_kstr(j, "state", source_state_name(st.state));
	json_key(j, "uid");
	if (st.agent_uid_known)
		json_uint(j, st.agent_uid);
	else
		json_null(j);
	json_kuint(j, "discards", k->discards);
	json_kuint(j, "reopens", k->reopens);
	json_kstr(j, "last_error",
	    st.last_error.text[0] == '\0' ? NULL : st.last_error.text);
	json_object_end(j);
}

static void
json_service(const struct control *k, const struct service *s, struct json *j)
{
	const char *why = NULL;
	bool ready = control_service_ready(k, s, &why);

	json_object(j);
	json_kstr(j, "name", s->name);
	json_kstr(
	    j, "direction", s->direction == INBOUND ? "inbound" : "outbound");
	json_kstr(j, "mode", s->mode == MODE_AUDIT ? "audit" : "enforce");
	json_kbool(j, "ready", ready);
	json_kstr(j, "reason", ready ? NULL : why);
	json_kuint(j, "connections", active(s));
	json_kuint(j, "allowed", SUM(s->shared, allowed));
	json_kuint(j, "denied", SUM(s->shared, denied));
	json_kuint(j, "failed", SUM(s->shared, failed));
	json_kuint(j, "bytes_in",
	    control_sum(s->shared,
	        offsetof(struct service_counters, sent[SIDE_PLAIN])));
	json_kuint(j, "bytes_out",
	    control_sum(
	        s->shared, offsetof(struct service_counters, sent[SIDE_MESH])));
	json_object_end(j);
}

static void
status_json(struct control *k, bool ready, struct text *out)
{
	struct json j;

	json_init(&j, out);
	json_object(&j);
	json_kstr(&j, "schema", "postern.status/1");
	json_kstr(&j, "version", POSTERN_VERSION);
	json_kbool(&j, "ready", ready);
	json_kint(&j, "uptime_s", (control_now_ms() - k->started_ms) / 1000);
	json_key(&j, "config");
	json_object(&j);
	json_kstr(&j, "hash", k->conf->hash);
	json_kuint(&j, "generation", k->conf->generation);
	json_time(&j, "loaded", k->conf_loaded_s);
	json_kbool(&j, "last_reload_ok", k->last_reload_ok);
	json_object_end(&j);
	json_key(&j, "banners");
	json_array(&j);
	banners(k, say_json, &j);
	json_array_end(&j);
	json_key(&j, "identity");
	json_identity(k, &j);
	json_key(&j, "agent");
	json_agent(k, &j);
	json_kuint(&j, "connections", control_connections(k));
	json_kuint(&j, "connections_limit", k->workers.max_connections);
	json_key(&j, "services");
	json_array(&j);
	for (size_t i = 0; i < k->conf->n_services; i++)
		json_service(k, &k->conf->services[i], &j);
	json_array_end(&j);
	json_object_end(&j);
	text_add_char(out, '\n');
}

static bool
has_words(struct admin_client *c)
{
	if (c->n_words == 2)
		return false;
	text_add(&c->out, "%s takes no words\n", c->words[1]);
	admin_done(c, USAGE);
	return true;
}

void
verb_status(struct admin_client *c)
{
	bool ready = all_ready(c->control);

	if (has_words(c))
		return;
	if (c->json)
		status_json(c->control, ready, &c->out);
	else
		status_text(c->control, ready, &c->out);
	admin_done(c, ready ? OK : DEGRADED);
}

bool
readyz_render(struct control *k, struct text *out)
{
	bool ready = all_ready(k);
	const char *why = NULL;
	struct json j;

	json_init(&j, out);
	json_object(&j);
	json_kbool(&j, "ready", ready);
	json_key(&j, "degraded");
	json_array(&j);
	for (size_t i = 0; i < k->conf->n_services; i++) {
		const struct service *s = &k->conf->services[i];

		if (control_service_ready(k, s, &why))
			continue;
		json_object(&j);
		json_kstr(&j, "service", s->name);
		json_kstr(&j, "reason", why);
		json_object_end(&j);
	}
	json_array_end(&j);
	json_object_end(&j);
	text_add_char(out, '\n');
	return ready;
}

/* ---- identity ---- */

static void
identity_text(const struct control *k, struct text *out)
{
	const struct identity *id = keeper_identity(k->keeper);

	identity_line(k, out);
	agent_line(k, out);
	for (size_t i = 0; id != NULL && i < identity_svid_count(id); i++) {
		const struct svid *s = identity_svid(id, i);

		text_add(out, "svid      ");
		text_add_span(out, svid_id(s)->text);
		text_add(out, "  hint \"");
		text_add_escaped(out, svid_hint(s));
		text_add(out, "\"  serial %s  %s  until ", svid_serial(s),
		    svid_key_type(s));
		add_time(out, svid_not_after(s));
		text_add(
		    out, "%s\n", s == keeper_svid(k->keeper) ? "  in use" : "");
	}
	for (size_t i = 0; id != NULL && i < identity_bundle_count(id); i++) {
		const struct bundle *b = identity_bundle(id, i);

		text_add(out, "bundle    ");
		text_add_span(out, bundle_trust_domain(b));
		text_add(out, "  %zu authorities", bundle_authorities(b));
		if (bundle_dropped(b) != 0)
			text_add(out, ", %zu certificates that are none",
			    bundle_dropped(b));
		if (bundle_authorities(b) == 0) {
			text_add(out, ": trusts nothing\n");
			continue;
		}
		text_add(out, "  until ");
		add_time(out, bundle_not_after(b));
		text_add_char(out, '\n');
	}
	if (id != NULL && identity_crl_count(id) != 0)
		text_add(out,
		    "lists     %zu with %zu entries, not enforced by this "
		    "version\n",
		    identity_crl_count(id), identity_crl_entries(id));
}

static void
identity_json(const struct control *k, struct text *out)
{
	const struct identity *id = keeper_identity(k->keeper);
	struct json j;

	json_init(&j, out);
	json_object(&j);
	json_kstr(&j, "schema", "postern.identity/1");
	json_key(&j, "identity");
	json_identity(k, &j);
	json_key(&j, "agent");
	json_agent(k, &j);
	json_key(&j, "svids");
	json_array(&j);
	for (size_t i = 0; id != NULL && i < identity_svid_count(id); i++) {
		const struct svid *s = identity_svid(id, i);

		json_object(&j);
		json_key(&j, "id");
		json_span(&j, svid_id(s)->text);
		json_key(&j, "hint");
		json_span(&j, svid_hint(s));
		json_kstr(&j, "serial", svid_serial(s));
		json_time(&j, "not_after", svid_not_after(s));
		json_kbool(&j, "in_use", s == keeper_svid(k->keeper));
		json_object_end(&j);
	}
	json_array_end(&j);
	json_key(&j, "bundles");
	json_array(&j);
	for (size_t i = 0; id != NULL && i < identity_bundle_count(id); i++) {
		const struct bundle *b = identity_bundle(id, i);

		json_object(&j);
		json_key(&j, "trust_domain");
		json_span(&j, bundle_trust_domain(b));
		json_kuint(&j, "authorities", bundle_authorities(b));
		json_kuint(&j, "dropped", bundle_dropped(b));
		json_kuint(&j, "generation", bundle_generation(b));
		json_object_end(&j);
	}
	json_array_end(&j);
	json_kuint(
	    &j, "crl_entries", id == NULL ? 0 : identity_crl_entries(id));
	json_object_end(&j);
	text_add_char(out, '\n');
}

void
verb_identity(struct admin_client *c)
{
	if (has_words(c))
		return;
	if (c->json)
		identity_json(c->control, &c->out);
	else
		identity_text(c->control, &c->out);
	admin_done(
	    c, keeper_svid(c->control->keeper) == NULL ? NO_IDENTITY : OK);
}

/* ---- dump, metrics, reload ---- */

void
verb_dump(struct admin_client *c)
{
	bool origin = c->n_words == 3 && strcmp(c->words[2], "--origin") == 0;

	if (c->n_words > 2 && !origin) {
		text_add(&c->out, "dump takes no word but --origin\n");
		admin_done(c, USAGE);
		return;
	}
	conf_dump(c->control->conf, origin, &c->out);
	admin_done(c, OK);
}

void
verb_metrics(struct admin_client *c)
{
	if (has_words(c))
		return;
	metrics_render(c->control, &c->out);
	admin_done(c, OK);
}

void
verb_reload(struct admin_client *c)
{
	if (has_words(c))
		return;
	reload_start(c->control, c);
}

/* ---- connections, close ---- */

/* `--service NAME`, `--peer ID`, `--conn HEX`. */
struct filter {
	const char *service;
	const char *peer;
	uint64_t conn_id;
	bool any;
};

static bool
parse_filter(struct admin_client *c, struct filter *f)
{
	*f = (struct filter){0};
	for (size_t i = 2; i + 1 < c->n_words; i += 2) {
		char *end = NULL;

		f->any = true;
		if (strcmp(c->words[i], "--service") == 0)
			f->service = c->words[i + 1];
		else if (strcmp(c->words[i], "--peer") == 0)
			f->peer = c->words[i + 1];
		else if (strcmp(c->words[i], "--conn") == 0)
			f->conn_id = strtoull(c->words[i + 1], &end, 16);
		else
			return false;
		if (end != NULL && (*end != '\0' || f->conn_id == 0))
			return false;
	}
	return c->n_words % 2 == 0;
}

static bool
dup_to(char **copy, const char *s)
{
	*copy = s == NULL ? NULL : strdup(s);
	return s == NULL || *copy != NULL;
}

static void
post_all(struct admin_client *c,
    struct mail *(*make)(
        struct admin_client *, const struct filter *, unsigned int),
    const struct filter *f)
{
	struct worker_shared *w = &c->control->workers;

	c->since_ms = control_now_ms();
	c->awaited = w->n_workers;
	for (unsigned int i = 0; i < w->n_workers; i++) {
		struct mail *m = make(c, f, i);

		if (m != NULL)
			(void)worker_post(w->workers[i], m);
		/* A message that could not be made is one that is missing. */
	}
}

static void
name_missing(struct admin_client *c)
{
	for (size_t i = 0; i < c->control->workers.n_workers; i++) {
		if (!c->answered[i])
			text_add(&c->out, "worker %zu did not answer\n", i);
	}
}

static struct mail *
make_query(struct admin_client *c, const struct filter *f, unsigned int worker)
{
	struct mail_query *m = calloc(1, sizeof(*m));
	struct mail *mail;

	if (m == NULL)
		return NULL;
	mail = &m->mail;
	mail->kind = MAIL_QUERY;
	m->request = c;
	m->worker = worker;
	m->conn_id = f->conn_id;
	if (!dup_to(&m->service, f->service) || !dup_to(&m->peer, f->peer))
		worker_mail_free(&mail);
	return mail;
}

static void
row_text(const struct conn_row *r, struct text *out)
{
	char id[CONN_ID_TEXT];

	text_add(out, "%-16s %-16s %-3s %-9s %-22s %-22s ",
	    conn_id_text(r->id, id), r->service, r->inbound ? "in" : "out",
	    conn_state_name(r->state), r->src, r->dst);
	add_age(out, r->age_ms / 1000);
	text_add(out, "  ");
	add_size(out, r->bytes_in);
	text_add_char(out, '/');
	add_size(out, r->bytes_out);
	text_add(out, "  %s%s\n", r->peer == NULL ? "-" : r->peer,
	    r->half_closed ? "  half-closed" : "");
}

static void
row_json(const struct conn_row *r, struct json *j)
{
	char id[CONN_ID_TEXT];

	json_object(j);
	json_kstr(j, "conn_id", conn_id_text(r->id, id));
	json_kstr(j, "service", r->service);
	json_kstr(j, "direction", r->inbound ? "inbound" : "outbound");
	json_kstr(j, "state", conn_state_name(r->state));
	json_kstr(j, "src_addr", r->src);
	json_kstr(j, "dst_addr", r->dst);
	json_kstr(j, "peer", r->peer);
	json_kuint(j, "bytes_in", r->bytes_in);
	json_kuint(j, "bytes_out", r->bytes_out);
	json_kint(j, "age_ms", r->age_ms);
	json_kint(j, "idle_ms", r->idle_ms);
	json_kbool(j, "half_closed", r->half_closed);
	json_object_end(j);
}

static void
connections_done(struct admin_client *c, bool complete)
{
	struct json j;

	json_init(&j, &c->out);
	if (c->json) {
		json_object(&j);
		json_kstr(&j, "schema", "postern.connections/1");
		json_kbool(&j, "complete", complete);
		json_key(&j, "connections");
		json_array(&j);
	} else {
		text_add(&c->out, "%-16s %-16s %-3s %-9s %-22s %-22s %s\n",
		    "CONN", "SERVICE", "DIR", "STATE", "SOURCE", "DESTINATION",
		    "AGE  IN/OUT  PEER");
	}
	for (size_t i = 0; i < c->control->workers.n_workers; i++) {
		struct mail_query *m =
		    c->answers[i] == NULL
		        ? NULL
		        : CONTAINER_OF(c->answers[i], struct mail_query, mail);

		for (size_t n = 0; m != NULL && n < m->n_rows; n++) {
			if (c->json)
				row_json(&m->rows[n], &j);
			else
				row_text(&m->rows[n], &c->out);
		}
	}
	if (c->json) {
		json_array_end(&j);
		json_object_end(&j);
		text_add_char(&c->out, '\n');
	} else if (!complete) {
		name_missing(c);
	}
	admin_done(c, complete ? OK : FAILED);
}

void
verb_connections(struct admin_client *c)
{
	struct filter f;

	if (!parse_filter(c, &f)) {
		text_add(&c->out,
		    "connections [--service NAME] [--peer ID] [--conn HEX]\n");
		admin_done(c, USAGE);
		return;
	}
	c->finish = connections_done;
	post_all(c, make_query, &f);
}

static struct mail *
make_kill(struct admin_client *c, const struct filter *f, unsigned int worker)
{
	struct mail_kill *m = calloc(1, sizeof(*m));
	struct mail *mail;

	if (m == NULL)
		return NULL;
	mail = &m->mail;
	mail->kind = MAIL_KILL;
	m->request = c;
	m->worker = worker;
	m->reason = CLOSE_ADMIN;
	m->conn_id = f->conn_id;
	if (!dup_to(&m->service, f->service) || !dup_to(&m->peer, f->peer))
		worker_mail_free(&mail);
	return mail;
}

static void
close_done(struct admin_client *c, bool complete)
{
	uint64_t ended = 0;
	struct json j;

	for (size_t i = 0; i < c->control->workers.n_workers; i++) {
		if (c->answers[i] != NULL)
			ended +=
			    CONTAINER_OF(c->answers[i], struct mail_kill, mail)
			        ->ended;
	}
	if (c->json) {
		json_init(&j, &c->out);
		json_object(&j);
		json_kstr(&j, "schema", "postern.close/1");
		json_kbool(&j, "complete", complete);
		json_kuint(&j, "ended", ended);
		json_object_end(&j);
		text_add_char(&c->out, '\n');
	} else {
		text_add(&c->out, "%" PRIu64 " connections ended\n", ended);
		if (!complete)
			name_missing(c);
	}
	admin_done(c, complete ? OK : FAILED);
}

void
verb_close(struct admin_client *c)
{
	struct filter f;

	if (!parse_filter(c, &f) || !f.any) {
		text_add(
		    &c->out, "close needs one of --service, --peer, --conn\n");
		admin_done(c, USAGE);
		return;
	}
	c->finish = close_done;
	post_all(c, make_kill, &f);
}

/* ---- explain ---- */

static bool
parse_explain(struct admin_client *c, struct explain_request *r)
{
	size_t i = 4;

	*r = (struct explain_request){.direction = OUTBOUND};
	if (c->n_words < 4)
		return false;
	r->service = c->words[3];
	if (strcmp(c->words[2], "inbound") == 0) {
		r->direction = INBOUND;
		r->peer = c->n_words == 5 ? c->words[4] : NULL;
		return r->peer != NULL;
	}
	for (; i + 1 < c->n_words; i += 2) {
		if (strcmp(c->words[i], "--uid") == 0)
			r->uid = c->words[i + 1];
		else if (strcmp(c->words[i], "--peer") == 0)
			r->peer = c->words[i + 1];
		else
			return false;
	}
	return strcmp(c->words[2], "outbound") == 0 && i == c->n_words &&
	       (r->uid != NULL || r->peer != NULL);
}

void
verb_explain(struct admin_client *c)
{
	struct explain_request r;

	if (!parse_explain(c, &r)) {
		text_add(&c->out,
		    "explain inbound NAME ID, or outbound NAME --uid N "
		    "--peer ID\n");
		admin_done(c, USAGE);
		return;
	}
	admin_done(c, explain(c->control->conf, &r, c->json, &c->out));
}
