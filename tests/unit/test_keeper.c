/* The keeper, told the time: certificates are real, clocks are arguments. */

#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "ca.h"
#include "source.h"
#include "spiffe.h"

#define T0    INT64_C(2000000000) /* wall clock at boot second 0 */
#define LIFE  INT64_C(1000)       /* seconds: 1 % is ten */
#define GRACE INT64_C(30000)

#define WEB "spiffe://example.test/web"
#define API "spiffe://example.test/api"

struct world {
	struct ca *ca;
	struct ca *other;
	struct keeper *k;
	int64_t now_s;
	struct why why;
};

/* One SVID of an update. Times are relative to T0. */
struct spec {
	const char *id;
	int64_t from;
	int64_t until;
	const char *hint;
};

struct extras {
	bool broken;    /* a key that fits no leaf: NO-SVID */
	bool federated; /* a bundle of other.test as well */
};

static void
world_init(struct world *w, int64_t grace_ms, const char *pin)
{
	struct ca_options options = {0};
	struct keeper_conf conf = {
	    .grace_ms = grace_ms,
	    .trust_domain = span_of_str(pin),
	};

	memset(w, 0, sizeof(*w));
	w->now_s = T0;
	assert_int_equal(ca_new(NULL, &options, &w->ca, NULL), FAULT_NONE);
	assert_int_equal(ca_new(NULL, &options, &w->other, NULL), FAULT_NONE);
	w->k = keeper_new(&conf);
	assert_non_null(w->k);
}

static void
world_fini(struct world *w)
{
	keeper_free(&w->k);
	ca_free(&w->ca);
	ca_free(&w->other);
}

static struct identity *
update(
    struct world *w, const struct spec *specs, size_t n, struct extras extras)
{
	struct ca_svid *made[8] = {NULL};
	struct svid_raw svids[8];
	struct bundle_raw own[8], federated;
	struct identity_raw raw = {
	    .svids = svids, .own_bundles = own, .n_svids = n};
	struct identity *id = NULL;
	struct why why;

	for (size_t i = 0; i < n; i++) {
		struct ca_svid_options options = {
		    .id = span_of_str(specs[i].id),
		    .cert = {.not_before = T0 + specs[i].from,
		        .not_after = T0 + specs[i].until},
		};

		assert_int_equal(
		    ca_issue(w->ca, &options, &made[i], NULL), FAULT_NONE);
		svids[i] = (struct svid_raw){
		    .id = options.id,
		    .chain = ca_svid_chain(made[i]),
		    .key = extras.broken ? span_of_str("no key")
		                         : ca_svid_key_der(made[i]),
		    .hint =
		        span_of_str(specs[i].hint == NULL ? "" : specs[i].hint),
		};
		own[i] = (struct bundle_raw){
		    .trust_domain = span_of_str("example.test"),
		    .authorities = ca_certificate(w->ca),
		};
	}
	if (extras.federated) {
		federated = (struct bundle_raw){
		    .trust_domain = span_of_str("other.test"),
		    .authorities = ca_certificate(w->other),
		};
		raw.federated = &federated;
		raw.n_federated = 1;
	}
	if (identity_new(&raw, keeper_identity(w->k),
	        keeper_next_bundle_generation(w->k), &id, &why) != FAULT_NONE)
		fail_msg("%s", why.text);
	for (size_t i = 0; i < n; i++)
		ca_svid_free(&made[i]);
	return id;
}

static int64_t
boot_ms(const struct world *w)
{
	return (w->now_s - T0 + 1) * 1000;
}

static unsigned int
offer_full(struct world *w, struct identity *id)
{
	unsigned int acts =
	    keeper_offer(w->k, &id, w->now_s, boot_ms(w), &w->why);

	assert_null(id);
	return acts;
}

static unsigned int
offer(struct world *w, const char *id, int64_t from, int64_t until)
{
	struct spec spec = {id, from, until, NULL};

	return offer_full(w, update(w, &spec, 1, (struct extras){0}));
}

static unsigned int
tick(struct world *w, int64_t at)
{
	w->now_s = T0 + at;
	return keeper_tick(w->k, w->now_s, boot_ms(w));
}

static unsigned int
refuse(struct world *w, int64_t at)
{
	w->now_s = T0 + at;
	return keeper_refused(w->k, w->now_s, boot_ms(w));
}

static enum keeper_state
state_of(const struct world *w)
{
	struct keeper_status st;

	keeper_status(w->k, &st);
	return st.state;
}

static void
check_shown(const struct world *w, const char *id, int64_t until)
{
	const struct svid *s = keeper_svid(w->k);

	if (id == NULL) {
		assert_null(s);
		return;
	}
	assert_non_null(s);
	assert_true(span_equal_str(svid_id(s)->text, id));
	assert_int_equal(svid_not_after(s) - T0, until);
}

/* Before the agent's first word nothing is presented and nothing is asked. */
static void
test_keeper_before_the_first_svid_is_empty(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, GRACE, "");
	assert_int_equal(tick(&w, 5), 0);
	assert_int_equal(state_of(&w), KEEPER_EMPTY);
	check_shown(&w, NULL, 0);
	assert_null(keeper_identity(w.k));
	world_fini(&w);
}

/* Row 77: without a selector the first SVID of the list is ours. */
static void
test_row_077_first_svid_is_ours(void **state)
{
	static const struct spec specs[] = {
	    {WEB, 0, LIFE, "a"}, {API, 0, LIFE, "b"}};
	struct keeper_status st;
	struct world w;
	unsigned int acts;

	(void)state;
	world_init(&w, GRACE, "");
	acts = offer_full(&w, update(&w, specs, 2, (struct extras){0}));
	assert_int_equal(acts & (KEEPER_PUBLISH | KEEPER_ACQUIRED),
	    KEEPER_PUBLISH | KEEPER_ACQUIRED);
	check_shown(&w, WEB, LIFE);
	keeper_status(w.k, &st);
	assert_true(st.several_svids);
	world_fini(&w);
}

/* The agent's order changes at will; who we are does not. */
static void
test_keeper_reordered_list_keeps_our_id(void **state)
{
	static const struct spec before[] = {
	    {WEB, 0, LIFE, NULL}, {API, 0, LIFE, NULL}};
	static const struct spec after[] = {
	    {API, 0, LIFE, NULL}, {WEB, 1, LIFE + 1, NULL}};
	struct world w;

	(void)state;
	world_init(&w, GRACE, "");
	(void)offer_full(&w, update(&w, before, 2, (struct extras){0}));
	w.now_s = T0 + 2;
	assert_true(offer_full(&w, update(&w, after, 2, (struct extras){0})) &
	            KEEPER_ROTATED);
	check_shown(&w, WEB, LIFE + 1);
	world_fini(&w);
}

/* A rotation is one event, and moves the generation. */
static void
test_keeper_newer_svid_rotates(void **state)
{
	struct keeper_status st;
	struct world w;
	uint64_t generation;
	unsigned int acts;

	(void)state;
	world_init(&w, GRACE, "");
	(void)offer(&w, WEB, 0, LIFE);
	generation = keeper_generation(w.k);
	w.now_s = T0 + 500;
	acts = offer(&w, WEB, 490, 490 + LIFE);
	assert_int_equal(acts & (KEEPER_ROTATED | KEEPER_PUBLISH),
	    KEEPER_ROTATED | KEEPER_PUBLISH);
	assert_false(acts & KEEPER_TRUST);
	assert_int_equal(keeper_generation(w.k), generation + 1);
	check_shown(&w, WEB, 490 + LIFE);
	keeper_status(w.k, &st);
	assert_int_equal(st.rotations, 1);
	assert_int_equal(st.last_rotation_s, T0 + 500);
	world_fini(&w);
}

/* Row 105: the same again is not an event. */
static void
test_row_105_redelivery_is_not_an_event(void **state)
{
	struct spec spec = {WEB, 0, LIFE, NULL};
	struct identity *first, *again;
	struct ca_svid *made = NULL;
	struct ca_svid_options options = {
	    .id = span_of_str(WEB),
	    .cert = {.not_before = T0, .not_after = T0 + LIFE},
	};
	struct world w;
	struct svid_raw svid;
	struct bundle_raw own;
	struct identity_raw raw = {
	    .svids = &svid, .own_bundles = &own, .n_svids = 1};

	(void)state;
	(void)spec;
	world_init(&w, GRACE, "");
	assert_int_equal(ca_issue(w.ca, &options, &made, NULL), FAULT_NONE);
	svid = (struct svid_raw){.id = options.id,
	    .chain = ca_svid_chain(made),
	    .key = ca_svid_key_der(made)};
	own = (struct bundle_raw){.trust_domain = span_of_str("example.test"),
	    .authorities = ca_certificate(w.ca)};
	assert_int_equal(identity_new(&raw, NULL,
	                     keeper_next_bundle_generation(w.k), &first, NULL),
	    FAULT_NONE);
	(void)offer_full(&w, first);
	assert_int_equal(identity_new(&raw, keeper_identity(w.k),
	                     keeper_next_bundle_generation(w.k), &again, NULL),
	    FAULT_NONE);
	assert_int_equal(offer_full(&w, again), 0);
	ca_svid_free(&made);
	world_fini(&w);
}

/* Row 76: an SVID of the future waits; the old one serves until then. */
static void
test_row_076_not_yet_valid_waits(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, GRACE, "");
	(void)offer(&w, WEB, 0, LIFE);
	w.now_s = T0 + 100;
	assert_false(offer(&w, WEB, 200, 200 + LIFE) & KEEPER_ROTATED);
	assert_true(w.why.text[0] != '\0');
	check_shown(&w, WEB, LIFE);
	assert_int_equal(tick(&w, 199), 0);
	assert_true(tick(&w, 200) & KEEPER_ROTATED);
	check_shown(&w, WEB, 200 + LIFE);
	world_fini(&w);
}

/* Row 76: the very first SVID may be of the future as well. */
static void
test_row_076_first_not_yet_valid_is_acquired_at_its_time(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, GRACE, "");
	assert_int_equal(offer(&w, WEB, 50, 50 + LIFE) & KEEPER_ACQUIRED, 0);
	check_shown(&w, NULL, 0);
	assert_true(tick(&w, 50) & KEEPER_ACQUIRED);
	check_shown(&w, WEB, 50 + LIFE);
	world_fini(&w);
}

/* Row 76: what is expired on arrival is never presented; its trust applies. */
static void
test_row_076_expired_on_arrival_is_never_presented(void **state)
{
	struct world w;
	unsigned int acts;

	(void)state;
	world_init(&w, GRACE, "");
	acts = offer(&w, WEB, -2 * LIFE, -LIFE);
	assert_false(acts & KEEPER_ACQUIRED);
	assert_true(acts & KEEPER_TRUST);
	check_shown(&w, NULL, 0);
	assert_non_null(keeper_identity(w.k));
	world_fini(&w);
}

/* Row 76: a cached SVID from before does not push out the newer one. */
static void
test_row_076_earlier_end_never_replaces_a_later(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, GRACE, "");
	(void)offer(&w, WEB, 0, LIFE);
	w.now_s = T0 + 10;
	assert_false(offer(&w, WEB, -100, LIFE - 100) & KEEPER_ROTATED);
	check_shown(&w, WEB, LIFE);
	world_fini(&w);
}

/* After its end an SVID is not presented, agent or no agent. */
static void
test_keeper_end_of_the_svid_fences(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, GRACE, "");
	(void)offer(&w, WEB, 0, LIFE);
	(void)tick(&w, LIFE - 1);
	check_shown(&w, WEB, LIFE);
	assert_int_equal(tick(&w, LIFE) & (KEEPER_FENCED | KEEPER_PUBLISH),
	    KEEPER_FENCED | KEEPER_PUBLISH);
	check_shown(&w, NULL, 0);
	assert_int_equal(state_of(&w), KEEPER_EXPIRED);
	world_fini(&w);
}

/* The agent's return is the end of the fence. */
static void
test_keeper_new_svid_after_the_fence_is_acquired(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, GRACE, "");
	(void)offer(&w, WEB, 0, LIFE);
	(void)tick(&w, LIFE + 500);
	assert_true(
	    offer(&w, WEB, LIFE + 490, 2 * LIFE + 490) & KEEPER_ACQUIRED);
	check_shown(&w, WEB, 2 * LIFE + 490);
	assert_int_equal(state_of(&w), KEEPER_GOOD);
	world_fini(&w);
}

/* A suspended machine wakes behind the end: the first tick fences. */
static void
test_keeper_clock_jump_fences_at_once(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, GRACE, "");
	(void)offer(&w, WEB, 0, LIFE);
	/* By age alone: what was made with it lives on. */
	assert_int_equal(
	    tick(&w, 100 * LIFE) & (KEEPER_FENCED | KEEPER_WITHDRAWN),
	    KEEPER_FENCED);
	world_fini(&w);
}

/* Loss of the agent alone changes nothing. */
static void
test_keeper_lost_agent_changes_nothing(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, GRACE, "");
	(void)offer(&w, WEB, 0, LIFE);
	assert_int_equal(keeper_down(w.k, T0 + 100, 101000), 0);
	check_shown(&w, WEB, LIFE);
	assert_int_equal(state_of(&w), KEEPER_GOOD);
	world_fini(&w);
}

/* Row 99: refusals for the whole grace withdraw the identity. */
static void
test_row_099_repeated_refusals_fence_after_the_grace(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, GRACE, "");
	(void)offer(&w, WEB, 0, LIFE);
	assert_int_equal(refuse(&w, 100), KEEPER_GRACE);
	assert_int_equal(state_of(&w), KEEPER_IN_GRACE);
	assert_int_equal(refuse(&w, 110), 0);
	check_shown(&w, WEB, LIFE);
	assert_int_equal(tick(&w, 129), 0);
	assert_true(tick(&w, 130) & KEEPER_FENCED);
	check_shown(&w, NULL, 0);
	assert_int_equal(state_of(&w), KEEPER_REDACTED);
	world_fini(&w);
}

/* Row 99: one refusal and an agent that dies is an outage, no withdrawal. */
static void
test_row_099_single_refusal_then_silence_does_not_fence(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, GRACE, "");
	(void)offer(&w, WEB, 0, LIFE);
	(void)refuse(&w, 100);
	assert_int_equal(tick(&w, 500), 0);
	check_shown(&w, WEB, LIFE);
	world_fini(&w);
}

/* Row 99: grace 0 is the standard's literal reading. */
static void
test_row_099_grace_zero_fences_at_the_first_refusal(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, 0, "");
	(void)offer(&w, WEB, 0, LIFE);
	assert_true(refuse(&w, 100) & KEEPER_WITHDRAWN);
	check_shown(&w, NULL, 0);
	world_fini(&w);
}

/* A valid message within the grace ends it; the next streak starts anew. */
static void
test_keeper_message_within_the_grace_ends_it(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, GRACE, "");
	(void)offer(&w, WEB, 0, LIFE);
	(void)refuse(&w, 100);
	(void)refuse(&w, 120);
	(void)offer(&w, WEB, 100, 100 + LIFE);
	assert_int_equal(state_of(&w), KEEPER_GOOD);
	(void)refuse(&w, 125);
	(void)refuse(&w, 126);
	assert_int_equal(tick(&w, 150) & KEEPER_FENCED, 0);
	assert_true(tick(&w, 155) & KEEPER_FENCED);
	world_fini(&w);
}

/* Row 98: our ID left the list while others remain: no silent switch. */
static void
test_row_098_removed_id_is_never_replaced_by_another(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, GRACE, "");
	(void)offer(&w, WEB, 0, LIFE);
	w.now_s = T0 + 100;
	assert_true(offer(&w, API, 0, LIFE) & KEEPER_GRACE);
	assert_non_null(strstr(w.why.text, WEB));
	check_shown(&w, WEB, LIFE);
	assert_true(tick(&w, 130) & KEEPER_FENCED);
	check_shown(&w, NULL, 0);
	(void)tick(&w, 300);
	check_shown(&w, NULL, 0);
	world_fini(&w);
}

/* Row 98: it came back within the grace: nothing happened. */
static void
test_row_098_id_that_returns_in_time_stays(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, GRACE, "");
	(void)offer(&w, WEB, 0, LIFE);
	w.now_s = T0 + 100;
	(void)offer(&w, API, 0, LIFE);
	w.now_s = T0 + 120;
	(void)offer(&w, WEB, 100, LIFE + 100);
	assert_int_equal(tick(&w, 200) & KEEPER_FENCED, 0);
	check_shown(&w, WEB, LIFE + 100);
	world_fini(&w);
}

/* A withdrawn ID that is given again serves at once, even for a shorter time */
static void
test_keeper_redacted_id_that_returns_is_acquired(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, GRACE, "");
	(void)offer(&w, WEB, 0, LIFE);
	(void)refuse(&w, 100);
	(void)refuse(&w, 101);
	(void)tick(&w, 131);
	check_shown(&w, NULL, 0);
	assert_true(offer(&w, WEB, 100, LIFE - 100) & KEEPER_ACQUIRED);
	check_shown(&w, WEB, LIFE - 100);
	world_fini(&w);
}

/* Refusals, then a message without us: one grace, not two. */
static void
test_keeper_grace_is_not_begun_anew_by_another_trigger(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, GRACE, "");
	(void)offer(&w, WEB, 0, LIFE);
	(void)refuse(&w, 100);
	w.now_s = T0 + 120;
	(void)offer(&w, API, 0, LIFE);
	assert_true(tick(&w, 130) & KEEPER_FENCED);
	world_fini(&w);
}

/* The pin: an SVID of another trust domain is never used. */
static void
test_keeper_pinned_trust_domain_refuses_another(void **state)
{
	struct world w;

	(void)state;
	world_init(&w, GRACE, "elsewhere.test");
	assert_false(offer(&w, WEB, 0, LIFE) & KEEPER_ACQUIRED);
	check_shown(&w, NULL, 0);
	assert_int_equal(state_of(&w), KEEPER_EMPTY);
	world_fini(&w);
}

/* A reload that pins another domain is a redaction, with its grace. */
static void
test_keeper_configure_other_domain_redacts(void **state)
{
	struct keeper_conf conf = {
	    .grace_ms = GRACE, .trust_domain = span_of_str("else.test")};
	struct world w;

	(void)state;
	world_init(&w, GRACE, "");
	(void)offer(&w, WEB, 0, LIFE);
	w.now_s = T0 + 10;
	(void)keeper_configure(w.k, &conf, w.now_s, boot_ms(&w));
	check_shown(&w, WEB, LIFE);
	assert_true(tick(&w, 40) & KEEPER_FENCED);
	world_fini(&w);
}

/* A reload chooses anew: the answer to an ID that was renamed. */
static void
test_keeper_configure_chooses_anew_when_our_id_is_gone(void **state)
{
	struct keeper_conf conf = {.grace_ms = GRACE};
	struct world w;
	unsigned int acts;

	(void)state;
	world_init(&w, GRACE, "");
	(void)offer(&w, WEB, 0, LIFE);
	w.now_s = T0 + 10;
	(void)offer(&w, API, 0, LIFE - 10);
	acts = keeper_configure(w.k, &conf, w.now_s, boot_ms(&w));
	assert_true(acts & KEEPER_PUBLISH);
	check_shown(&w, API, LIFE - 10);
	assert_int_equal(tick(&w, 100) & KEEPER_FENCED, 0);
	world_fini(&w);
}

/* A reload that changes nothing of this changes nothing. */
static void
test_keeper_configure_same_is_no_event(void **state)
{
	struct keeper_conf conf = {.grace_ms = GRACE};
	struct world w;

	(void)state;
	world_init(&w, GRACE, "");
	(void)offer(&w, WEB, 0, LIFE);
	assert_int_equal(keeper_configure(w.k, &conf, w.now_s, boot_ms(&w)), 0);
	world_fini(&w);
}

/* Row 97: broken SVIDs void the message's SVIDs, not its trust. */
static void
test_row_097_broken_svids_keep_the_old_and_apply_trust(void **state)
{
	struct spec spec = {WEB, 100, LIFE + 100, NULL};
	struct extras extras = {.broken = true, .federated = true};
	struct world w;
	unsigned int acts;

	(void)state;
	world_init(&w, GRACE, "");
	(void)offer(&w, WEB, 0, LIFE);
	w.now_s = T0 + 200;
	acts = offer_full(&w, update(&w, &spec, 1, extras));
	assert_int_equal(acts, KEEPER_PUBLISH | KEEPER_TRUST);
	check_shown(&w, WEB, LIFE);
	assert_int_equal(identity_bundle_count(keeper_identity(w.k)), 2);
	assert_int_equal(identity_svid_count(keeper_svids(w.k)), 1);
	world_fini(&w);
}

/* Row 97: a broken message is no valid one: the grace goes on. */
static void
test_row_097_broken_svids_do_not_end_a_grace(void **state)
{
	struct spec spec = {WEB, 100, LIFE + 100, NULL};
	struct extras extras = {.broken = true};
	struct world w;

	(void)state;
	world_init(&w, GRACE, "");
	(void)offer(&w, WEB, 0, LIFE);
	(void)refuse(&w, 100);
	(void)refuse(&w, 101);
	w.now_s = T0 + 110;
	(void)offer_full(&w, update(&w, &spec, 1, extras));
	assert_true(tick(&w, 130) & KEEPER_FENCED);
	world_fini(&w);
}

/* Row 82: a bundle that is gone from the message is gone, and said so. */
static void
test_row_082_withdrawn_bundle_is_told(void **state)
{
	struct spec spec = {WEB, 0, LIFE, NULL};
	struct world w;
	unsigned int acts;

	(void)state;
	world_init(&w, GRACE, "");
	(void)offer_full(
	    &w, update(&w, &spec, 1, (struct extras){.federated = true}));
	acts = offer(&w, WEB, 0, LIFE);
	assert_true(acts & KEEPER_TRUST);
	assert_int_equal(identity_bundle_count(keeper_identity(w.k)), 1);
	world_fini(&w);
}

/* The watchdog asks for a second stream at 60 %, and again each 5 %. */
static void
test_keeper_watchdog_reopens_from_sixty_percent(void **state)
{
	unsigned int reopened = 0;
	int64_t first = 0;
	struct world w;

	(void)state;
	world_init(&w, GRACE, "");
	(void)offer(&w, WEB, 0, LIFE);
	for (int64_t at = 1; at < LIFE; at++) {
		if ((tick(&w, at) & KEEPER_REOPEN) == 0)
			continue;
		reopened++;
		if (first == 0)
			first = at;
	}
	assert_in_range(first, 580, 620);
	assert_in_range(reopened, 8, 9);
	world_fini(&w);
}

/* At 75 % the alarm, once; a newer SVID ends it. */
static void
test_keeper_stale_svid_alarms_once(void **state)
{
	struct keeper_status st;
	unsigned int alarms = 0;
	struct world w;

	(void)state;
	world_init(&w, GRACE, "");
	(void)offer(&w, WEB, 0, LIFE);
	for (int64_t at = 1; at < 749; at++)
		assert_int_equal(tick(&w, at) & KEEPER_STALE, 0);
	for (int64_t at = 749; at < 900; at++)
		alarms += (tick(&w, at) & KEEPER_STALE) != 0;
	assert_int_equal(alarms, 1);
	keeper_status(w.k, &st);
	assert_true(st.stale);
	(void)offer(&w, WEB, 890, 890 + LIFE);
	keeper_status(w.k, &st);
	assert_false(st.stale);
	world_fini(&w);
}

/* A short life does not make a storm of streams. */
static void
test_keeper_watchdog_reopenings_are_five_seconds_apart(void **state)
{
	int64_t last = -100;
	struct world w;

	(void)state;
	world_init(&w, GRACE, "");
	(void)offer(&w, WEB, 0, 20);
	for (int64_t at = 1; at < 60; at++) {
		if ((tick(&w, at) & KEEPER_REOPEN) == 0)
			continue;
		assert_true(at - last >= 5);
		last = at;
	}
	assert_true(last > 0);
	world_fini(&w);
}

/* Messages with the old SVID do not feed the watchdog. */
static void
test_keeper_watchdog_is_not_fed_by_messages(void **state)
{
	struct spec spec = {WEB, 0, LIFE, NULL};
	bool reopened = false;
	struct world w;

	(void)state;
	world_init(&w, GRACE, "");
	(void)offer(&w, WEB, 0, LIFE);
	for (int64_t at = 500; at < 700; at += 10) {
		w.now_s = T0 + at;
		reopened |=
		    (offer_full(
		         &w, update(&w, &spec, 1,
		                 (struct extras){.federated = at % 20 == 0})) &
		        KEEPER_REOPEN) != 0;
	}
	(void)reopened;
	assert_true(reopened);
	world_fini(&w);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_keeper_before_the_first_svid_is_empty),
	    cmocka_unit_test(test_row_077_first_svid_is_ours),
	    cmocka_unit_test(test_keeper_reordered_list_keeps_our_id),
	    cmocka_unit_test(test_keeper_newer_svid_rotates),
	    cmocka_unit_test(test_row_105_redelivery_is_not_an_event),
	    cmocka_unit_test(test_row_076_not_yet_valid_waits),
	    cmocka_unit_test(
	        test_row_076_first_not_yet_valid_is_acquired_at_its_time),
	    cmocka_unit_test(
	        test_row_076_expired_on_arrival_is_never_presented),
	    cmocka_unit_test(test_row_076_earlier_end_never_replaces_a_later),
	    cmocka_unit_test(test_keeper_end_of_the_svid_fences),
	    cmocka_unit_test(test_keeper_new_svid_after_the_fence_is_acquired),
	    cmocka_unit_test(test_keeper_clock_jump_fences_at_once),
	    cmocka_unit_test(test_keeper_lost_agent_changes_nothing),
	    cmocka_unit_test(
	        test_row_099_repeated_refusals_fence_after_the_grace),
	    cmocka_unit_test(
	        test_row_099_single_refusal_then_silence_does_not_fence),
	    cmocka_unit_test(
	        test_row_099_grace_zero_fences_at_the_first_refusal),
	    cmocka_unit_test(test_keeper_message_within_the_grace_ends_it),
	    cmocka_unit_test(
	        test_row_098_removed_id_is_never_replaced_by_another),
	    cmocka_unit_test(test_row_098_id_that_returns_in_time_stays),
	    cmocka_unit_test(test_keeper_redacted_id_that_returns_is_acquired),
	    cmocka_unit_test(
	        test_keeper_grace_is_not_begun_anew_by_another_trigger),
	    cmocka_unit_test(test_keeper_pinned_trust_domain_refuses_another),
	    cmocka_unit_test(test_keeper_configure_other_domain_redacts),
	    cmocka_unit_test(
	        test_keeper_configure_chooses_anew_when_our_id_is_gone),
	    cmocka_unit_test(test_keeper_configure_same_is_no_event),
	    cmocka_unit_test(
	        test_row_097_broken_svids_keep_the_old_and_apply_trust),
	    cmocka_unit_test(test_row_097_broken_svids_do_not_end_a_grace),
	    cmocka_unit_test(test_row_082_withdrawn_bundle_is_told),
	    cmocka_unit_test(test_keeper_watchdog_reopens_from_sixty_percent),
	    cmocka_unit_test(test_keeper_stale_svid_alarms_once),
	    cmocka_unit_test(
	        test_keeper_watchdog_reopenings_are_five_seconds_apart),
	    cmocka_unit_test(test_keeper_watchdog_is_not_fed_by_messages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
