#include "unit.h"

#include <stdio.h>

#include "relay.h"
#include "scripted.h"

#define PLENTY ((size_t)60000)

/* Everything that a relay needs, on scripted streams. */
struct rig {
	struct scripted mesh;
	struct scripted plain;
	struct relay relay;
	struct spill_pool spills;
	struct scratch scratch;
	uint8_t bytes[SCRATCH_BYTES];
};

static void
rig_init(struct rig *r, const char *from_mesh, const char *from_plain)
{
	scripted_init(&r->mesh, from_mesh, PLENTY);
	scripted_init(&r->plain, from_plain, PLENTY);
	assert_true(spill_pool_init(&r->spills, 1 << 20));
	r->scratch = (struct scratch){.data = r->bytes, .spills = &r->spills};
	relay_init(&r->relay, &r->mesh.s, &r->plain.s);
}

static void
rig_fini(struct rig *r)
{
	relay_fini(&r->relay, &r->spills);
	spill_pool_fini(&r->spills);
}

static enum relay_state
step(struct rig *r)
{
	return relay_step(&r->relay, &r->scratch);
}

static void
assert_got(const struct scripted *x, const char *want)
{
	assert_int_equal(x->n_got, strlen(want));
	assert_memory_equal(x->got, want, x->n_got);
}

/* Bytes held back by a slow sink arrive before the half-close does. */
static void
sim_relay_half_close_waits_for_the_last_byte(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, "ab.", "");
	r.plain.room = 1;
	assert_int_equal(step(&r), RELAY_WAIT);
	assert_int_equal(r.plain.finished, 0);
	r.plain.room = 8;
	assert_int_equal(step(&r), RELAY_WAIT);
	assert_got(&r.plain, "ab");
	assert_int_equal(r.plain.finished, 1);
	rig_fini(&r);
}

/* A client that ends its request still gets the whole answer. */
static void
sim_relay_other_direction_goes_on_after_a_clean_end(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, "-answer.", "question.");
	assert_int_equal(step(&r), RELAY_WAIT);
	assert_got(&r.mesh, "question");
	assert_int_equal(r.mesh.finished, 1);
	assert_true(relay_is_half_closed(&r.relay));
	assert_int_equal(step(&r), RELAY_ENDED);
	assert_got(&r.plain, "answer");
	assert_int_equal(r.plain.finished, 1);
	assert_int_equal(r.mesh.aborted + r.plain.aborted, 0);
	rig_fini(&r);
}

/* An abort is never turned into an end, and what came before it arrives. */
static void
sim_relay_abort_flushes_and_is_no_end(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, "last words!", "");
	assert_int_equal(step(&r), RELAY_MESH_BROKE);
	assert_got(&r.plain, "last words");
	assert_int_equal(r.plain.finished, 0);
	assert_int_equal(pump_owed(&r.relay.to_plain), 0);
	rig_fini(&r);
}

/* What a slow sink has not taken at the abort is owed, counted, flushable. */
static void
sim_relay_abort_with_a_full_sink_owes_the_rest(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, "last words!", "");
	r.plain.room = 4;
	assert_int_equal(step(&r), RELAY_MESH_BROKE);
	assert_int_equal(pump_owed(&r.relay.to_plain), 6);
	r.plain.room = 100;
	assert_int_equal(pump_flush(&r.relay.to_plain, &r.spills), PUMP_DONE);
	assert_got(&r.plain, "last words");
	assert_int_equal(pump_owed(&r.relay.to_plain), 0);
	assert_int_equal(r.plain.finished, 0);
	rig_fini(&r);
}

/* A sink that is gone: what it had sent before still reaches the other. */
static void
sim_relay_dead_sink_is_read_to_its_end_first(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, "to a dead one", "-was said before!");
	r.plain.fail_at = 3;
	assert_int_equal(step(&r), RELAY_WAIT);
	assert_int_equal(step(&r), RELAY_PLAIN_BROKE);
	assert_got(&r.mesh, "was said before");
	assert_int_equal(r.mesh.finished, 0);
	rig_fini(&r);
}

/* The end of a side that died as a sink is no end either. */
static void
sim_relay_dead_sink_after_its_own_end_is_an_abort(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, "-late data", "all said.");
	r.plain.fail_at = 0;
	assert_int_equal(step(&r), RELAY_WAIT);
	assert_int_equal(r.mesh.finished, 1);
	assert_int_equal(step(&r), RELAY_PLAIN_BROKE);
	assert_int_equal(r.mesh.finished, 1);
	rig_fini(&r);
}

/* While bytes are owed the source is not read: memory stays bounded. */
static void
sim_relay_does_not_read_past_a_full_sink(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, "abc-def", "");
	r.plain.room = 1;
	assert_int_equal(step(&r), RELAY_WAIT);
	assert_int_equal(step(&r), RELAY_WAIT);
	assert_int_equal(r.mesh.reads, 1);
	r.plain.room = 100;
	assert_int_equal(step(&r), RELAY_WAIT);
	assert_got(&r.plain, "abcdef");
	rig_fini(&r);
}

/* A share ends a turn with more to do: it says so, or nobody would wake it. */
static void
sim_relay_share_used_up_asks_to_go_on(void **state)
{
	static char flood[RELAY_SHARE + 100];
	struct scratch *scratch;
	struct rig r;

	(void)state;
	memset(flood, 'x', sizeof(flood) - 1);
	rig_init(&r, "", "");
	scratch = &r.scratch;
	r.mesh.script = flood;
	r.plain.room = SIZE_MAX;
	/* The sink counts only: its buffer is smaller than the flood. */
	for (int turn = 0; turn < 20; turn++) {
		enum pump_want w;

		r.plain.n_got = 0;
		w = pump_step(&r.relay.to_plain, scratch, SCRATCH_BYTES / 2);
		if (turn == 0)
			assert_int_equal(w, PUMP_AGAIN);
		if (w == PUMP_WANT_INPUT)
			break;
		assert_int_equal(w, PUMP_AGAIN);
	}
	assert_int_equal(r.relay.to_plain.given_bytes, sizeof(flood) - 1);
	rig_fini(&r);
}

/* No buffer to fall back on: nothing is read that could not be kept. */
static void
sim_relay_without_a_spare_buffer_nobody_reads(void **state)
{
	struct spill_pool tight;
	struct rig r;

	(void)state;
	rig_init(&r, "abc", "");
	spill_pool_fini(&r.spills);
	assert_true(spill_pool_init(&tight, SCRATCH_BYTES));
	r.scratch.spills = &tight;
	/* Somebody else's sink is full and holds the only buffer. */
	tight.used_bytes = tight.max_bytes;
	struct spill *taken = tight.spare;

	tight.spare = NULL;
	assert_int_equal(step(&r), RELAY_STARVED);
	assert_int_equal(r.mesh.reads, 0);
	assert_true(tight.starved);
	tight.spare = taken;
	assert_int_equal(step(&r), RELAY_WAIT);
	assert_got(&r.plain, "abc");
	relay_fini(&r.relay, &tight);
	spill_pool_fini(&tight);
}

/* A close_notify that does not fit yet is said later, exactly once. */
static void
sim_relay_end_is_passed_on_once_when_the_sink_is_busy(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, "", "bye.");
	r.mesh.finish_waits = 2;
	assert_int_equal(step(&r), RELAY_WAIT);
	assert_int_equal(step(&r), RELAY_WAIT);
	assert_int_equal(r.mesh.finished, 0);
	assert_int_equal(step(&r), RELAY_WAIT);
	assert_int_equal(step(&r), RELAY_WAIT);
	assert_int_equal(r.mesh.finished, 1);
	rig_fini(&r);
}

/*
 * Every partial step: input sizes, output room and the point of failure are
 * parameters, and at each the sink has a prefix and the books balance.
 */
static void
sim_relay_every_partial_step_keeps_the_prefix(void **state)
{
	static const char said[] = "the quick brown fox";
	static const char end_marks[] = ".!";
	const size_t n = sizeof(said) - 1;

	(void)state;
	for (size_t in = 1; in <= n; in++)
		for (size_t out = 1; out <= n; out++)
			for (long fail = -1; fail <= (long)n; fail++)
				for (int mark = 0; mark < 2; mark++) {
					char script[32];
					enum relay_state st = RELAY_WAIT;
					struct rig r;

					(void)snprintf(script, sizeof(script),
					    "%s%c", said, end_marks[mark]);
					rig_init(&r, script, "");
					r.mesh.read_max = in;
					r.plain.fail_at = fail;
					for (size_t i = 0; i < 2 * n + 2; i++) {
						r.plain.room = out;
						st = step(&r);
						if (st == RELAY_MESH_BROKE)
							break;
					}
					if (st == RELAY_MESH_BROKE)
						while (pump_flush(
						           &r.relay.to_plain,
						           &r.spills) ==
						       PUMP_WANT_OUTPUT)
							r.plain.room = out;
					assert_memory_equal(
					    r.plain.got, said, r.plain.n_got);
					assert_int_equal(
					    r.relay.to_plain.taken_bytes,
					    r.plain.n_got +
					        pump_owed(&r.relay.to_plain));
					if (fail == -1)
						assert_int_equal(
						    r.plain.n_got, n);
					if (mark == 1 || fail != -1)
						assert_int_equal(
						    r.plain.finished, 0);
					else
						assert_int_equal(
						    r.plain.finished, 1);
					rig_fini(&r);
				}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(sim_relay_half_close_waits_for_the_last_byte),
	    cmocka_unit_test(
	        sim_relay_other_direction_goes_on_after_a_clean_end),
	    cmocka_unit_test(sim_relay_abort_flushes_and_is_no_end),
	    cmocka_unit_test(sim_relay_abort_with_a_full_sink_owes_the_rest),
	    cmocka_unit_test(sim_relay_dead_sink_is_read_to_its_end_first),
	    cmocka_unit_test(sim_relay_dead_sink_after_its_own_end_is_an_abort),
	    cmocka_unit_test(sim_relay_does_not_read_past_a_full_sink),
	    cmocka_unit_test(sim_relay_share_used_up_asks_to_go_on),
	    cmocka_unit_test(sim_relay_without_a_spare_buffer_nobody_reads),
	    cmocka_unit_test(
	        sim_relay_end_is_passed_on_once_when_the_sink_is_busy),
	    cmocka_unit_test(sim_relay_every_partial_step_keeps_the_prefix),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
