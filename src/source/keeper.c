#include "source.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "spiffe.h"

/* spiffe.md 6.7, in percent of the SVID's life. Constants, not keys. */
#define REOPEN_FIRST_PERCENT  60
#define REOPEN_JITTER_PERCENT 2
#define REOPEN_STEP_PERCENT   5
#define REOPEN_APART_MS       5000
#define STALE_PERCENT         75

/* One refusal and then silence is an outage; two are a withdrawal. */
#define REFUSALS_MIN 2

/*
 * Up to three identities are held, often one and the same:
 *
 * TRUST  the newest update: its bundles and lists are in force.
 * GOOD   the newest one whose SVIDs were sound.
 * HELD   the owner of SVID, the one we present: older than GOOD while the
 *        newer SVID is not yet valid, expired, or ends earlier.
 *
 * SHOWN is what keeper_svid() answers: SVID, or NULL while it is fenced.
 */
struct keeper {
	char trust_domain[SPIFFE_TRUST_DOMAIN_MAX + 1];
	size_t trust_domain_len;
	int64_t grace_ms;

	struct identity *trust;
	struct identity *good;
	struct identity *held;
	const struct svid *svid;
	const struct svid *shown;
	char *id; /* sticky: what we are, once we were somebody */

	unsigned int refusals;
	int64_t denied_since_ms;  /* 0: no streak */
	int64_t missing_since_ms; /* 0: our ID is in the newest good update */
	bool redacted;

	int64_t reopen_at_percent;
	int64_t reopened_ms;
	bool stale;

	uint64_t rotations;
	int64_t last_rotation_s;
	uint64_t generation;
	uint64_t next_bundle;
};

/* ---- Which identities are held ---- */

static bool
is_held(const struct keeper *k, const struct identity *id)
{
	return id == k->trust || id == k->good || id == k->held;
}

/* Free what OLD held and K holds no longer. */
static void
free_unheld(struct keeper *k, const struct keeper *old)
{
	struct identity *was[] = {old->trust, old->good, old->held};

	for (size_t i = 0; i < ARRAY_LEN(was); i++) {
		bool again = false;

		for (size_t j = 0; j < i; j++)
			again = again || was[j] == was[i];
		if (was[i] != NULL && !again && !is_held(k, was[i])) {
			struct identity *gone = was[i];

			identity_free(&gone);
		}
	}
}

/* ---- Dates ---- */

static bool
is_valid_at(const struct svid *s, int64_t now_s)
{
	return svid_not_before(s) <= now_s && now_s < svid_not_after(s);
}

static bool
is_same_svid(const struct svid *a, const struct svid *b)
{
	return svid_not_after(a) == svid_not_after(b) &&
	       svid_not_before(a) == svid_not_before(b) &&
	       strcmp(svid_serial(a), svid_serial(b)) == 0 &&
	       span_equal(svid_id(a)->text, svid_id(b)->text);
}

/* ---- Choice: spiffe.md 7 ---- */

/* Our SVID in GOOD: by ID once we have one, else the first. */
static const struct svid *
choose(const struct keeper *k)
{
	size_t n = k->good == NULL ? 0 : identity_svid_count(k->good);

	for (size_t i = 0; i < n; i++) {
		const struct svid *s = identity_svid(k->good, i);

		if (k->id != NULL && !span_equal_str(svid_id(s)->text, k->id))
			continue;
		if (k->trust_domain_len != 0 &&
		    !span_equal(svid_id(s)->trust_domain,
		        span_of(k->trust_domain, k->trust_domain_len)))
			return NULL;
		return s;
	}
	return NULL;
}

static bool
remember_id(struct keeper *k, const struct svid *s)
{
	char *id = span_dup(svid_id(s)->text);

	if (id == NULL)
		return false;
	free(k->id);
	k->id = id;
	return true;
}

/* 58 to 62, the same for one SVID each time: a fleet does not reopen at once */
static int64_t
first_reopen_percent(const struct svid *s)
{
	unsigned int sum = 0;

	for (const char *c = svid_serial(s); *c != '\0'; c++)
		sum = sum * 31 + (unsigned char)*c;
	return REOPEN_FIRST_PERCENT - REOPEN_JITTER_PERCENT +
	       sum % (2 * REOPEN_JITTER_PERCENT + 1);
}

/* Fed by a later notAfter alone: another SVID of the same end is no news. */
static void
start_watchdog(struct keeper *k, const struct svid *s)
{
	k->reopen_at_percent = first_reopen_percent(s);
	k->stale = false;
}

/*
 * Take the SVID of GOOD, if it may be presented and is not worse than the one
 * in force. Else the old one stays.
 */
static unsigned int
adopt(struct keeper *k, int64_t now_s)
{
	const struct svid *s = choose(k);
	bool replaceable;

	if (s == NULL || s == k->svid)
		return 0;
	if (k->svid != NULL && !k->redacted && is_same_svid(s, k->svid)) {
		k->held = k->good;
		if (k->shown == k->svid)
			k->shown = s;
		k->svid = s;
		return 0;
	}
	replaceable = k->svid == NULL || k->redacted ||
	              !is_valid_at(k->svid, now_s) ||
	              svid_not_after(s) >= svid_not_after(k->svid);
	if (!is_valid_at(s, now_s) || !replaceable)
		return 0;
	if (k->id == NULL && !remember_id(k, s))
		return 0; /* no memory: the next tick tries again */
	if (k->svid == NULL || svid_not_after(s) > svid_not_after(k->svid))
		start_watchdog(k, s);
	k->held = k->good;
	k->svid = s;
	if (k->shown == NULL)
		return 0; /* judge() tells that it is back */
	k->shown = s;
	k->rotations++;
	k->last_rotation_s = now_s;
	return KEEPER_ROTATED | KEEPER_PUBLISH;
}

/* ---- Verdict ---- */

static bool
grace_is_over(const struct keeper *k, int64_t boot_ms)
{
	if (k->missing_since_ms != 0 &&
	    boot_ms - k->missing_since_ms >= k->grace_ms)
		return true;
	if (k->denied_since_ms == 0)
		return false;
	/* Grace 0 is the literal reading of Workload API 5.2.1. */
	return k->grace_ms == 0 ||
	       (k->refusals >= REFUSALS_MIN &&
	           boot_ms - k->denied_since_ms >= k->grace_ms);
}

/* Fence, or show again, what time and the agent say. */
static unsigned int
judge(struct keeper *k, int64_t now_s)
{
	const struct svid *before = k->shown;

	if (k->svid == NULL)
		return 0;
	k->shown = k->redacted || !is_valid_at(k->svid, now_s) ? NULL : k->svid;
	if (before != NULL && k->shown == NULL)
		return KEEPER_FENCED | KEEPER_PUBLISH |
		       (k->redacted ? KEEPER_WITHDRAWN : 0u);
	if (before == NULL && k->shown != NULL)
		return KEEPER_ACQUIRED | KEEPER_PUBLISH;
	return 0;
}

/* Messages do not feed the watchdog, only a later notAfter does. */
static unsigned int
watch(struct keeper *k, int64_t now_s, int64_t boot_ms)
{
	int64_t start, life, percent;
	unsigned int acts = 0;

	if (k->svid == NULL || k->redacted)
		return 0;
	start = svid_not_before(k->svid);
	life = svid_not_after(k->svid) - start;
	if (life <= 0 || now_s < start)
		return 0;
	percent = (now_s - start) * 100 / life;
	if (percent >= k->reopen_at_percent &&
	    (k->reopened_ms == 0 ||
	        boot_ms - k->reopened_ms >= REOPEN_APART_MS)) {
		k->reopen_at_percent = percent + REOPEN_STEP_PERCENT;
		k->reopened_ms = boot_ms;
		acts |= KEEPER_REOPEN;
	}
	if (percent >= STALE_PERCENT && !k->stale) {
		k->stale = true;
		acts |= KEEPER_STALE;
	}
	return acts;
}

/*
 * The end of every event: adopt, judge, watch, and free what OLD held and
 * nobody needs now. ACTS is what the event itself asks for.
 */
static unsigned int
settle(struct keeper *k, const struct keeper *old, unsigned int acts,
    int64_t now_s, int64_t boot_ms)
{
	bool over = grace_is_over(k, boot_ms);

	/* Until after adopt(): what was redacted holds no place. */
	k->redacted = k->redacted || over;
	acts |= adopt(k, now_s);
	k->redacted = over;
	acts |= judge(k, now_s);
	acts |= watch(k, now_s, boot_ms);
	free_unheld(k, old);
	if ((acts & KEEPER_PUBLISH) != 0)
		k->generation++;
	return acts;
}

/* ---- What happens ---- */

/* Bundles by generation, lists by count: did what we trust change? */
static bool
trust_differs(const struct identity *a, const struct identity *b)
{
	size_t n = identity_bundle_count(a);

	if (n != identity_bundle_count(b) ||
	    identity_crl_count(a) != identity_crl_count(b) ||
	    identity_crl_entries(a) != identity_crl_entries(b))
		return true;
	for (size_t i = 0; i < n; i++) {
		const struct bundle *x = identity_bundle(a, i);
		bool found = false;

		for (size_t j = 0; j < n && !found; j++) {
			const struct bundle *y = identity_bundle(b, j);

			found = bundle_generation(x) == bundle_generation(y) &&
			        span_equal(bundle_trust_domain(x),
			            bundle_trust_domain(y));
		}
		if (!found)
			return true;
	}
	return false;
}

static bool
svids_differ(const struct identity *a, const struct identity *b)
{
	size_t n = identity_svid_count(a);

	if (n != identity_svid_count(b))
		return true;
	for (size_t i = 0; i < n; i++)
		if (!is_same_svid(identity_svid(a, i), identity_svid(b, i)))
			return true;
	return false;
}

/* Take a message that differs from the last one. */
static unsigned int
replace_trust(struct keeper *k, struct identity *full)
{
	bool trust_changed =
	    k->trust == NULL || trust_differs(k->trust, full) ||
	    !svids_differ(k->trust, full) ||
	    /* Equal counts do not prove equal lists: say so too often. */
	    identity_crl_count(full) != 0;

	k->trust = full;
	return KEEPER_PUBLISH | (trust_changed ? KEEPER_TRUST : 0);
}

/* A valid message: does it have us? */
static unsigned int
note_presence(struct keeper *k, int64_t boot_ms, struct why *why)
{
	int64_t since_ms = k->denied_since_ms;

	k->denied_since_ms = 0;
	k->refusals = 0;
	if (choose(k) != NULL) {
		k->missing_since_ms = 0;
		return 0;
	}
	(void)fail(why, FAULT_MISMATCH, "%s is not among the agent's SVIDs",
	    k->id == NULL ? "an SVID of the configured trust domain" : k->id);
	if (k->missing_since_ms != 0 || k->svid == NULL)
		return 0;
	/* A streak of refusals that ends so does not begin the grace anew. */
	k->missing_since_ms = since_ms != 0 ? since_ms : boot_ms;
	return k->grace_ms == 0 || k->shown == NULL ? 0 : KEEPER_GRACE;
}

static void
explain_dates(const struct keeper *k, int64_t now_s, struct why *why)
{
	const struct svid *s = choose(k);

	if (s == NULL || is_valid_at(s, now_s))
		return;
	if (svid_not_before(s) > now_s)
		(void)fail(why, FAULT_EXPIRED,
		    "the agent's SVID is not valid for another %lld s",
		    (long long)(svid_not_before(s) - now_s));
	else
		(void)fail(why, FAULT_EXPIRED,
		    "the agent's SVID expired %lld s ago",
		    (long long)(now_s - svid_not_after(s)));
}

unsigned int
keeper_offer(struct keeper *k, struct identity **full, int64_t now_s,
    int64_t boot_ms, struct why *why)
{
	struct identity *offered = *full;
	struct keeper old = *k;
	unsigned int acts = 0;
	bool broken;

	*full = NULL; /* taken */
	if (why != NULL)
		why->text[0] = '\0';
	broken = identity_svids_broken(offered);
	if (k->trust != NULL && broken == identity_svids_broken(k->trust) &&
	    identity_equal(offered, k->trust))
		identity_free(&offered);
	else
		acts |= replace_trust(k, offered);
	if (!broken) {
		k->good = k->trust;
		acts |= note_presence(k, boot_ms, why);
		explain_dates(k, now_s, why);
	}
	return settle(k, &old, acts, now_s, boot_ms);
}

unsigned int
keeper_refused(struct keeper *k, int64_t now_s, int64_t boot_ms)
{
	struct keeper old = *k;
	unsigned int acts = 0;

	k->refusals++;
	if (k->denied_since_ms == 0) {
		k->denied_since_ms = boot_ms;
		if (k->shown != NULL && k->missing_since_ms == 0 &&
		    k->grace_ms != 0)
			acts |= KEEPER_GRACE;
	}
	return settle(k, &old, acts, now_s, boot_ms);
}

/* Loss alone changes nothing: the last good stays until its end. */
unsigned int
keeper_down(struct keeper *k, int64_t now_s, int64_t boot_ms)
{
	return keeper_tick(k, now_s, boot_ms);
}

unsigned int
keeper_tick(struct keeper *k, int64_t now_s, int64_t boot_ms)
{
	struct keeper old = *k;

	return settle(k, &old, 0, now_s, boot_ms);
}

/* ---- Setting up, and asking ---- */

static void
take_conf(struct keeper *k, const struct keeper_conf *conf)
{
	size_t len = conf->trust_domain.len;

	assert(len <= SPIFFE_TRUST_DOMAIN_MAX);
	if (len > 0)
		memcpy(k->trust_domain, conf->trust_domain.data, len);
	k->trust_domain_len = len;
	k->grace_ms = conf->grace_ms;
}

struct keeper *
keeper_new(const struct keeper_conf *conf)
{
	struct keeper *k = calloc(1, sizeof(*k));

	if (k == NULL)
		return NULL;
	take_conf(k, conf);
	k->next_bundle = 1;
	return k;
}

void
keeper_free(struct keeper **k)
{
	struct keeper old;

	if (*k == NULL)
		return;
	old = **k;
	(*k)->trust = (*k)->good = (*k)->held = NULL;
	free_unheld(*k, &old);
	free((*k)->id);
	free(*k);
	*k = NULL;
}

/*
 * A reload chooses anew where our ID is gone from the list: the answer for an
 * administrator who renamed it.
 */
unsigned int
keeper_configure(struct keeper *k, const struct keeper_conf *conf,
    int64_t now_s, int64_t boot_ms)
{
	struct keeper old = *k;
	unsigned int acts;
	char *was;

	take_conf(k, conf);
	if (k->svid == NULL || choose(k) != NULL) {
		k->missing_since_ms = 0;
		return settle(k, &old, 0, now_s, boot_ms);
	}
	was = k->id;
	k->id = NULL;
	if (choose(k) == NULL) {
		/* Nobody to be instead: redacted, as by a message. */
		k->id = was;
		if (k->missing_since_ms == 0)
			k->missing_since_ms = boot_ms;
		return settle(k, &old, 0, now_s, boot_ms);
	}
	free(was);
	k->missing_since_ms = 0;
	k->held = NULL;
	k->svid = k->shown = NULL;
	acts = settle(k, &old, 0, now_s, boot_ms);
	if (old.shown == NULL || k->shown != NULL)
		return acts;
	k->generation++;
	return acts | KEEPER_FENCED | KEEPER_PUBLISH;
}

const struct identity *
keeper_identity(const struct keeper *k)
{
	return k->trust;
}

const struct identity *
keeper_svids(const struct keeper *k)
{
	return k->good;
}

const struct svid *
keeper_svid(const struct keeper *k)
{
	return k->shown;
}

uint64_t
keeper_generation(const struct keeper *k)
{
	return k->generation;
}

uint64_t *
keeper_next_bundle_generation(struct keeper *k)
{
	return &k->next_bundle;
}

static enum keeper_state
state_of(const struct keeper *k)
{
	if (k->svid == NULL)
		return KEEPER_EMPTY;
	if (k->redacted)
		return KEEPER_REDACTED;
	if (k->shown == NULL)
		return KEEPER_EXPIRED;
	if (k->denied_since_ms != 0 || k->missing_since_ms != 0)
		return KEEPER_IN_GRACE;
	return KEEPER_GOOD;
}

void
keeper_status(const struct keeper *k, struct keeper_status *st_r)
{
	*st_r = (struct keeper_status){
	    .state = state_of(k),
	    .stale = k->stale,
	    .rotations = k->rotations,
	    .last_rotation_s = k->last_rotation_s,
	    .denied_since_ms = k->denied_since_ms,
	    .several_svids =
	        k->good != NULL && identity_svid_count(k->good) > 1,
	};
}
