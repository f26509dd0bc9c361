/* Local callers: how a line is written, and whom it lets in. */

#include <string.h>

#include "unit.h"

#include "policy.h"

static void
parse_ok(const char *text, struct caller_rule *rule)
{
	struct why why;

	if (caller_rule_parse(span_of_str(text), rule, &why) != FAULT_NONE)
		fail_msg("%s: %s", text, why.text);
}

/* Both selectors of a line and their numbers arrive. */
static void
test_caller_rule_parse_selectors_in_order(void **state)
{
	struct caller_rule r;

	(void)state;
	parse_ok("uid 1000-1999\tgid 7", &r);
	assert_int_equal(r.n_selectors, 2);
	assert_int_equal(r.selectors[0].kind, CALLER_UID);
	assert_int_equal(r.selectors[0].first, 1000);
	assert_int_equal(r.selectors[0].last, 1999);
	assert_int_equal(r.selectors[1].kind, CALLER_GID);
	assert_int_equal(r.selectors[1].first, 7);
	assert_int_equal(r.selectors[1].last, 7);
	assert_string_equal(r.text, "uid 1000-1999\tgid 7");
	caller_rule_fini(&r);
}

/* A name denies until somebody has looked it up. */
static void
test_caller_rule_parse_names_are_pending(void **state)
{
	struct caller_rule r;
	struct local_caller root = {.known = true};

	(void)state;
	parse_ok("user billing group crm", &r);
	assert_string_equal(r.selectors[0].name, "billing");
	assert_int_equal(r.selectors[0].kind, CALLER_UID);
	assert_true(r.selectors[0].pending);
	assert_string_equal(r.selectors[1].name, "crm");
	assert_int_equal(r.selectors[1].kind, CALLER_GID);
	/* Their numbers are still zero: that must not mean root. */
	assert_int_equal(
	    policy_decide_caller(&r, 1, &root).decision, DECISION_DENY);
	caller_rule_fini(&r);
}

/* What is not understood must not become an opening. */
static void
test_caller_rule_parse_nonsense_refused(void **state)
{
	static const char *const bad[] = {"", " ", "anybody", "any uid 0",
	    "uid", "uid x", "uid 5x", "uid -1", "uid 5-", "uid 5-4",
	    "uid 4294967295", "uid 0-4294967295", "uid 99999999999999999999",
	    "gid 1-2", "gid", "user", "group", "uid 1 2", "unit a.service",
	    "uid 1-2-3", "any any"};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct caller_rule r = {0};
		struct why why;

		if (caller_rule_parse(span_of_str(bad[i]), &r, &why) !=
		    FAULT_MALFORMED)
			fail_msg("'%s' accepted", bad[i]);
		assert_null(r.text);
		assert_true(strlen(why.text) > 0);
	}
}

/* Lines are alternatives, selectors on one line must all hold. */
static void
test_decide_caller_all_selectors_any_line(void **state)
{
	struct caller_rule r[2];
	struct local_caller c = {.known = true, .uid = 1500, .gid_known = true};
	struct caller_verdict v;

	(void)state;
	parse_ok("uid 1000-1999 gid 7", &r[0]);
	parse_ok("uid 33", &r[1]);
	c.groups_known = true;
	c.gid = 8;
	assert_int_equal(
	    policy_decide_caller(r, 2, &c).decision, DECISION_DENY);
	c.gid = 7;
	v = policy_decide_caller(r, 2, &c);
	assert_int_equal(v.decision, DECISION_ALLOW);
	assert_ptr_equal(v.rule, &r[0]);
	c.uid = 2000;
	assert_int_equal(
	    policy_decide_caller(r, 2, &c).decision, DECISION_DENY);
	c.uid = 33;
	assert_ptr_equal(policy_decide_caller(r, 2, &c).rule, &r[1]);
	caller_rule_fini(&r[0]);
	caller_rule_fini(&r[1]);
}

/* Both ends of a range belong to it, their neighbours do not. */
static void
test_decide_caller_range_includes_its_ends(void **state)
{
	static const struct {
		uid_t uid;
		enum decision want;
	} cases[] = {{9, DECISION_DENY}, {10, DECISION_ALLOW},
	    {20, DECISION_ALLOW}, {21, DECISION_DENY}};
	struct caller_rule r;

	(void)state;
	parse_ok("uid 10-20", &r);
	for (size_t i = 0; i < 4; i++) {
		struct local_caller c = {.known = true, .uid = cases[i].uid};

		assert_int_equal(
		    policy_decide_caller(&r, 1, &c).decision, cases[i].want);
	}
	caller_rule_fini(&r);
}

/* A caller of whom nothing is known is uid 0 in memory only. */
static void
test_decide_caller_unknown_is_refused(void **state)
{
	struct caller_rule r;
	struct local_caller nobody = {0};

	(void)state;
	parse_ok("uid 0", &r);
	assert_int_equal(
	    policy_decide_caller(&r, 1, &nobody).decision, DECISION_DENY);
	assert_int_equal(
	    policy_decide_caller(NULL, 0, &nobody).decision, DECISION_DENY);
	caller_rule_fini(&r);
	parse_ok("any", &r);
	assert_int_equal(
	    policy_decide_caller(&r, 1, &nobody).decision, DECISION_ALLOW);
	caller_rule_fini(&r);
}

/* Groups are asked for only if they can still change the verdict. */
static void
test_decide_caller_asks_for_groups_when_they_decide(void **state)
{
	struct caller_rule r[2];
	struct local_caller c = {.known = true, .uid = 5};
	struct caller_verdict v;

	(void)state;
	parse_ok("gid 7 uid 6", &r[0]);
	parse_ok("gid 9", &r[1]);
	assert_false(policy_decide_caller(r, 1, &c).needs_groups);
	v = policy_decide_caller(r, 2, &c);
	assert_int_equal(v.decision, DECISION_DENY);
	assert_true(v.needs_groups);
	c.groups_known = true;
	c.n_groups = 2;
	c.groups[1] = 9;
	assert_int_equal(
	    policy_decide_caller(r, 2, &c).decision, DECISION_ALLOW);
	c.groups[1] = 10;
	v = policy_decide_caller(r, 2, &c);
	assert_int_equal(v.decision, DECISION_DENY);
	assert_false(v.needs_groups);
	caller_rule_fini(&r[0]);
	caller_rule_fini(&r[1]);
}

/* A later line that allows spares the question. */
static void
test_decide_caller_allowed_by_uid_asks_nothing(void **state)
{
	struct caller_rule r[2];
	struct local_caller c = {.known = true, .uid = 5};
	struct caller_verdict v;

	(void)state;
	parse_ok("gid 7", &r[0]);
	parse_ok("uid 5", &r[1]);
	v = policy_decide_caller(r, 2, &c);
	assert_int_equal(v.decision, DECISION_ALLOW);
	assert_false(v.needs_groups);
	caller_rule_fini(&r[0]);
	caller_rule_fini(&r[1]);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_caller_rule_parse_selectors_in_order),
	    cmocka_unit_test(test_caller_rule_parse_names_are_pending),
	    cmocka_unit_test(test_caller_rule_parse_nonsense_refused),
	    cmocka_unit_test(test_decide_caller_all_selectors_any_line),
	    cmocka_unit_test(test_decide_caller_range_includes_its_ends),
	    cmocka_unit_test(test_decide_caller_unknown_is_refused),
	    cmocka_unit_test(
	        test_decide_caller_asks_for_groups_when_they_decide),
	    cmocka_unit_test(test_decide_caller_allowed_by_uid_asks_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
