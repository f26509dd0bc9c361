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
	verb_add_age(out, svid_not_after(svid) - now);
	text_add(out, " left");
	if (st.last_rotation_s != 0) {
		text_add(out, "  rotated ");
		verb_add_age(out, now - st.last_rotation_s);
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
		verb_add_age(
		    out, (control_now_ms() - st.last_message_ms) / 1000);
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
	verb_add_size(
	    &in, control_sum(s->shared,
	             offsetof(struct service_counters, sent[SIDE_PLAIN])));
	verb_add_size(
	    &sent, control_sum(s->shared,
	               offsetof(struct service_counters, sent[SIDE_MESH])));
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
	verb_add_age(out, clock_wall_s() - k->conf_loaded_s);
	text_add(out, " ago)  up ");
	verb_add_age(out, (control_now_ms() - k->started_ms) / 1000);
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

void
verb_status(struct admin_client *c)
{
	bool ready = all_ready(c->control);

	if (verb_has_words(c))
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
	if (verb_has_words(c))
		return;
	if (c->json)
		identity_json(c->control, &c->out);
	else
		identity_text(c->control, &c->out);
	admin_done(
	    c, keeper_svid(c->control->keeper) == NULL ? NO_IDENTITY : OK);
}
