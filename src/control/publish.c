#include "control_int.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"
#include "spiffe.h"
#include "tls.h"
#include "workload.h"

/* ---- Configurations ---- */

static bool
make_conf_mail(struct control *k, struct conf *c, unsigned int worker,
    struct mail_conf **m_r)
{
	struct mail_conf *m = calloc(1, sizeof(*m));

	if (m == NULL)
		return false;
	m->mail.kind = m->mail.slot = MAIL_CONF;
	m->conf = c;
	if (!listeners_for(k, worker, &m->listeners, &m->n_listeners)) {
		free(m);
		return false;
	}
	*m_r = m;
	return true;
}

static bool
make_targets_mail(
    struct control *k, const struct conf *c, struct mail_targets **m_r)
{
	struct mail_targets *m = calloc(1, sizeof(*m));
	struct mail *mail;

	if (m == NULL)
		return false;
	mail = &m->mail;
	mail->kind = mail->slot = MAIL_TARGETS;
	m->conf_generation = c->generation;
	m->lists = calloc(c->n_services + 1, sizeof(*m->lists));
	if (m->lists == NULL) {
		worker_mail_free(&mail);
		return false;
	}
	for (size_t i = 0; i < c->n_services; i++) {
		if (!hosts_targets(k, &c->services[i], &m->lists[i])) {
			worker_mail_free(&mail);
			return false;
		}
		m->n_services++;
	}
	*m_r = m;
	return true;
}

/*
 * All messages are made before the first is posted: either every worker gets
 * the configuration or none.
 */
bool
publish_conf(struct control *k, struct conf *c)
{
	size_t n = k->workers.n_workers, made = 0;
	struct mail_conf **confs = calloc(n, sizeof(struct mail_conf *));
	struct mail_targets **targets =
	    calloc(n, sizeof(struct mail_targets *));
	bool ok = confs != NULL && targets != NULL;

	while (ok && made < n) {
		ok = make_conf_mail(k, c, (unsigned int)made, &confs[made]);
		if (ok && !make_targets_mail(k, c, &targets[made])) {
			struct mail *m = &confs[made]->mail;

			worker_mail_free(&m);
			ok = false;
		}
		made += ok;
	}
	for (size_t i = 0; i < made; i++) {
		struct mail *a = &confs[i]->mail, *b = &targets[i]->mail;

		if (ok) {
			worker_post_pair(k->workers.workers[i], a, b);
		} else {
			worker_mail_free(&a);
			worker_mail_free(&b);
		}
	}
	free(confs);
	free(targets);
	return ok;
}

void
publish_targets(struct control *k)
{
	for (size_t i = 0; i < k->workers.n_workers; i++) {
		struct mail_targets *m;
		struct mail *old;

		if (!make_targets_mail(k, k->conf, &m))
			return; /* the next look-up tries again */
		old = worker_post(k->workers.workers[i], &m->mail);
		worker_mail_free(&old);
	}
}

bool
publish_is_seen(const struct control *k, uint64_t generation)
{
	for (size_t i = 0; i < k->workers.n_workers; i++) {
		if (counter_get_acquire(&k->workers.public[i].seen_conf) <
		    generation)
			return false;
	}
	return true;
}

static bool
has_service(const struct conf *c, const char *name, enum direction direction)
{
	const struct service *s = conf_service(c, span_of_str(name));

	return s != NULL && s->direction == direction;
}

static uint64_t
live(const struct service *s)
{
	return SUM(s->shared, opened) - SUM(s->shared, closed);
}

static void
kill_service(struct control *k, const struct service *s)
{
	for (size_t i = 0; i < k->workers.n_workers; i++) {
		struct mail_kill *m = calloc(1, sizeof(*m));

		if (m == NULL)
			return; /* asked again in the next second */
		m->mail.kind = MAIL_KILL;
		m->reason = CLOSE_DRAIN;
		m->departed = true;
		m->service = strdup(s->name);
		if (m->service == NULL) {
			free(m);
			return;
		}
		(void)worker_post(k->workers.workers[i], &m->mail);
	}
}

/*
 * Services that are gone from the files keep their connections, and so their
 * configuration, until these end or drain_timeout has passed. True when the
 * old configuration is no longer needed.
 */
static bool
departed_are_gone(struct control *k, struct old_conf *o)
{
	bool expired = control_now_ms() >= o->drain_until_ms;
	bool gone = true;

	for (size_t i = 0; i < o->conf->n_services; i++) {
		const struct service *s = &o->conf->services[i];

		if (live(s) == 0)
			continue;
		if (has_service(k->conf, s->name, s->direction)) {
			/* Back again: a pass takes them over to it. */
			gone = gone && publish_is_seen(k, k->conf->generation);
			continue;
		}
		gone = false;
		if (expired)
			kill_service(k, s);
	}
	return gone;
}

void
publish_reap(struct control *k)
{
	if (publish_is_seen(k, k->conf->generation))
		listeners_reap(k);
	LIST_EACH_SAFE (it, &k->old_confs) {
		struct old_conf *o = CONTAINER_OF(it, struct old_conf, node);

		if (!publish_is_seen(k, o->replaced_by) ||
		    !departed_are_gone(k, o))
			continue;
		node_remove(&o->node);
		conf_free(&o->conf);
		free(o);
	}
}

/* ---- Identities ---- */

static bool
all_have_material(const struct control *k)
{
	for (size_t i = 0; i < k->workers.n_workers; i++) {
		if (counter_get_acquire(&k->workers.public[i].seen_material) <
		    k->material_generation)
			return false;
	}
	return true;
}

/*
 * Contexts are built anew when the type of the key changes, since libssl keeps
 * one certificate per key type; and when a set may still lie unread in a
 * mailbox, where this message would replace it.
 */
static bool
needs_set(const struct control *k, const char *key_type)
{
	if (k->posted_key_type == NULL ||
	    strcmp(k->posted_key_type, key_type) != 0)
		return true;
	return k->posted_set && !all_have_material(k);
}

static enum fault
make_material_mail(
    struct control *k, bool with_set, struct mail_material **r, struct why *why)
{
	const struct tls_settings settings = {
	    .ciphersuites = k->conf->global.ciphersuites,
	    .groups = k->conf->global.groups,
	};
	struct mail_material *m = calloc(1, sizeof(*m));
	struct mail *mail;
	enum fault f;

	if (m == NULL)
		return fail(why, FAULT_NOMEM, "identity: out of memory");
	mail = &m->mail;
	mail->kind = mail->slot = MAIL_MATERIAL;
	m->generation = k->material_generation + 1;
	f = tls_material_build(keeper_identity(k->keeper),
	    keeper_svid(k->keeper), m->generation, &m->material, why);
	if (f == FAULT_NONE && with_set)
		f = tls_set_build(&settings, m->material, &m->set, why);
	if (f != FAULT_NONE) {
		worker_mail_free(&mail);
		return f;
	}
	*r = m;
	return FAULT_NONE;
}

/* N renderings, then N posts: a failure leaves the old identity serving. */
enum fault
publish_material(struct control *k, struct why *why)
{
	const struct svid *svid = keeper_svid(k->keeper);
	const char *key_type = svid == NULL ? "none" : svid_key_type(svid);
	struct mail_material *mails[WORKERS_MAX];
	size_t n = k->workers.n_workers, made = 0;
	bool with_set = needs_set(k, key_type);
	enum fault f = FAULT_NONE;

	while (f == FAULT_NONE && made < n) {
		f = make_material_mail(k, with_set, &mails[made], why);
		made += f == FAULT_NONE;
	}
	for (size_t i = 0; i < made; i++) {
		struct mail *m = &mails[i]->mail;

		if (f == FAULT_NONE)
			m = worker_post(k->workers.workers[i], m);
		worker_mail_free(&m);
	}
	if (f != FAULT_NONE)
		return f;
	k->material_generation++;
	k->posted_key_type = key_type;
	k->posted_set = with_set;
	return FAULT_NONE;
}

/* ---- Audit ---- */

static void
add_date(struct fields *f, enum log_field field, int64_t seconds)
{
	time_t t = (time_t)seconds;
	struct tm tm;
	char text[32];

	(void)gmtime_r(&t, &tm);
	(void)strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
	fields_add(f, field, text);
}

static void
audit_identity(struct control *k, enum log_level level, const char *event,
    const char *cause)
{
	const struct svid *svid = keeper_svid(k->keeper);
	struct fields f;

	fields_init(&f, level, event);
	fields_add(&f, FIELD_identity, "default");
	if (svid != NULL) {
		fields_add_span(&f, FIELD_id, svid_id(svid)->text);
		fields_add(&f, FIELD_serial, svid_serial(svid));
		add_date(&f, FIELD_not_before, svid_not_before(svid));
		add_date(&f, FIELD_not_after, svid_not_after(svid));
	}
	fields_add(&f, FIELD_source, k->endpoint);
	if (cause != NULL)
		fields_add(&f, FIELD_cause, cause);
	fields_add_number(&f, FIELD_generation, keeper_generation(k->keeper));
	log_record(&f);
	if (svid != NULL && svid_is_dev(svid))
		log_say(LOG_LEVEL_WARN, "dev-identity",
		    "this SVID comes from a development issuer: not for "
		    "production");
}

static void
audit_bundles(struct control *k)
{
	const struct identity *id = keeper_identity(k->keeper);
	struct fields f;

	for (size_t i = 0; i < identity_bundle_count(id); i++) {
		const struct bundle *b = identity_bundle(id, i);

		fields_init(&f, LOG_LEVEL_INFO, "bundle-changed");
		fields_add_span(&f, FIELD_trust_domain, bundle_trust_domain(b));
		fields_add_number(&f, FIELD_authorities, bundle_authorities(b));
		fields_add_number(&f, FIELD_generation, bundle_generation(b));
		log_record(&f);
	}
	if (identity_crl_count(id) != 0 && k->crl_warned == 0) {
		k->crl_warned = identity_crl_count(id);
		log_say(LOG_LEVEL_WARN, "crl-changed",
		    "the agent sends %zu revocation lists with %zu entries; "
		    "this version checks their form but does not enforce them",
		    identity_crl_count(id), identity_crl_entries(id));
	}
}

void
audit_config(
    struct control *k, const char *event, const char *msg, enum log_level level)
{
	struct fields f;

	fields_init(&f, level, event);
	fields_add(&f, FIELD_msg, msg);
	if (k->conf != NULL) {
		fields_add_number(&f, FIELD_generation, k->conf->generation);
		fields_add(&f, FIELD_new, k->conf->hash);
	}
	log_record(&f);
}

/* ---- Keeper and source ---- */

/* "First" is the agent's order, which under SPIRE means arbitrary. */
static void
warn_several(struct control *k)
{
	const struct identity *id = keeper_identity(k->keeper);
	struct keeper_status st;
	struct text t;

	keeper_status(k->keeper, &st);
	if (!st.several_svids || k->several_said || id == NULL)
		return;
	k->several_said = true;
	text_init(&t);
	for (size_t i = 0; i < identity_svid_count(id); i++) {
		const struct svid *s = identity_svid(id, i);

		text_add(&t, "%s%.*s", i == 0 ? "" : ", ",
		    (int)svid_id(s)->text.len,
		    (const char *)svid_id(s)->text.data);
	}
	log_say(LOG_LEVEL_WARN, "identity-acquired",
	    "the agent grants several SVIDs, the first is used: %s", t.data);
	text_fini(&t);
}

static void
do_publish(struct control *k)
{
	struct why why;
	enum fault f = publish_material(k, &why);

	k->publish_again = f == FAULT_NOMEM;
	if (f != FAULT_NONE)
		log_say(LOG_LEVEL_ERROR, "update-discarded",
		    "the new identity could not be built, the old one "
		    "serves: %s",
		    why.text);
}

/* A withdrawal that was not told for want of memory must not wait. */
void
publish_retry(struct control *k)
{
	if (k->publish_again)
		do_publish(k);
}

void
keeper_did(struct control *k, unsigned int acts, const char *cause)
{
	if (acts & KEEPER_PUBLISH)
		do_publish(k);
	if (acts & KEEPER_ACQUIRED)
		audit_identity(k, LOG_LEVEL_INFO, "identity-acquired", cause);
	if (acts & KEEPER_ACQUIRED)
		warn_several(k);
	if (acts & KEEPER_ROTATED)
		audit_identity(k, LOG_LEVEL_INFO, "identity-rotated", cause);
	if (acts & KEEPER_TRUST)
		audit_bundles(k);
	if (acts & KEEPER_GRACE)
		audit_identity(k, LOG_LEVEL_WARN, "identity-lost", cause);
	if (acts & KEEPER_STALE)
		audit_identity(k, LOG_LEVEL_ERROR, "identity-stale",
		    "75 % of its life has passed without a newer one");
	if (acts & KEEPER_FENCED)
		audit_identity(k, LOG_LEVEL_ERROR, "identity-fenced", cause);
	if (acts & KEEPER_WITHDRAWN)
		control_kill_all(k, CLOSE_IDENTITY);
	if ((acts & KEEPER_REOPEN) && k->source != NULL) {
		k->reopens++;
		k->source->ops->reopen(k->source);
	}
	if (k->source != NULL && (acts & (KEEPER_PUBLISH | KEEPER_FENCED))) {
		const struct svid *svid = keeper_svid(k->keeper);
		int64_t left_ms =
		    svid == NULL
		        ? 0
		        : (svid_not_after(svid) - clock_wall_s()) * 1000;

		k->source->ops->deadline(
		    k->source, svid == NULL ? 0 : control_now_ms() + left_ms);
	}
	control_status_line(k);
}

static void
sink_offer(void *arg, struct identity **full)
{
	struct control *k = arg;
	struct why why = {{0}};
	unsigned int acts = keeper_offer(
	    k->keeper, full, clock_wall_s(), control_now_ms(), &why);

	if (why.text[0] != '\0')
		log_say(LOG_LEVEL_WARN, "update-discarded", "%s", why.text);
	keeper_did(k, acts, "update of the agent");
}

static void
sink_refused(void *arg, const struct why *why)
{
	struct control *k = arg;

	log_say(LOG_LEVEL_WARN, "identity-lost",
	    "the agent grants no identity: %s; a registration entry for uid "
	    "%u is missing",
	    why->text, geteuid());
	keeper_did(k,
	    keeper_refused(k->keeper, clock_wall_s(), control_now_ms()),
	    "the agent refuses");
}

static void
sink_down(void *arg, const struct why *why, bool will_retry)
{
	struct control *k = arg;

	log_say(will_retry ? LOG_LEVEL_INFO : LOG_LEVEL_ERROR, "agent-down",
	    "%s%s", why->text,
	    will_retry ? ""
	               : "; not tried again until a reload or a new "
	                 "socket");
	keeper_did(k, keeper_down(k->keeper, clock_wall_s(), control_now_ms()),
	    "the agent is away");
}

static void
sink_discarded(void *arg, const char *reason, const struct why *why)
{
	struct control *k = arg;

	k->discards++;
	k->last_discard = *why;
	log_say(
	    LOG_LEVEL_WARN, "update-discarded", "%s: %s", reason, why->text);
}

static const struct identity *
sink_current(void *arg)
{
	return keeper_identity(((struct control *)arg)->keeper);
}

static uint64_t *
sink_next_generation(void *arg)
{
	return keeper_next_bundle_generation(((struct control *)arg)->keeper);
}

enum fault
source_start(struct control *k, struct why *why)
{
	const struct conf_global *g = &k->conf->global;
	const char *endpoint = g->workload_api != NULL
	                           ? g->workload_api
	                           : getenv("SPIFFE_ENDPOINT_SOCKET");
	const struct source_sink sink = {
	    .arg = k,
	    .offer = sink_offer,
	    .refused = sink_refused,
	    .down = sink_down,
	    .discarded = sink_discarded,
	    .current = sink_current,
	    .next_generation = sink_next_generation,
	};
	struct source_conf sc;
	struct source *fresh = NULL;
	char *copy;
	enum fault f;

	if (endpoint == NULL)
		return fail(why, FAULT_CONF,
		    "no workload_api and no SPIFFE_ENDPOINT_SOCKET");
	copy = strdup(endpoint);
	if (copy == NULL)
		return fail(why, FAULT_NOMEM, "source: out of memory");
	sc = (struct source_conf){
	    .endpoint = copy,
	    .agent_uids = g->workload_api_uids,
	    .n_agent_uids = g->n_workload_api_uids,
	};
	f = workload_source()->start(&fresh, &sc, k->base, &sink, why);
	if (f != FAULT_NONE) {
		free(copy);
		return f;
	}
	/* The new stream is opened before the old one is dropped. */
	if (k->source != NULL)
		k->source->ops->stop(&k->source);
	k->source = fresh;
	free(k->endpoint);
	k->endpoint = copy;
	return FAULT_NONE;
}
