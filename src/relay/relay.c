#include "relay.h"

#include "stream.h"

void
relay_init(struct relay *r, struct stream *mesh, struct stream *plain)
{
	pump_init(&r->to_plain, mesh, plain);
	pump_init(&r->to_mesh, plain, mesh);
}

void
relay_fini(struct relay *r, struct spill_pool *pool)
{
	pump_fini(&r->to_plain, pool);
	pump_fini(&r->to_mesh, pool);
}

bool
relay_is_half_closed(const struct relay *r)
{
	return (r->to_plain.end == PUMP_ENDED) !=
	       (r->to_mesh.end == PUMP_ENDED);
}

/*
 * A sink that failed is a side that is gone, but what it had sent before may
 * still wait to be read: the pump out of it goes on until it meets the end of
 * that side, which is then the abort of the whole.
 */
static bool
is_over(const struct pump *p, const struct pump *reverse)
{
	if (p->end != PUMP_BROKEN)
		return false;
	if (!p->sink_failed)
		return true;
	return reverse->end == PUMP_BROKEN || reverse->end == PUMP_ENDED;
}

enum relay_state
relay_step(struct relay *r, struct scratch *scratch)
{
	enum pump_want plain = pump_step(&r->to_plain, scratch, RELAY_SHARE);
	enum pump_want mesh = pump_step(&r->to_mesh, scratch, RELAY_SHARE);

	/*
	 * The second step may have broken the stream that the first one reads:
	 * the error is latched and no edge comes for it, so it is asked again.
	 */
	if (mesh == PUMP_FAILED && plain == PUMP_WANT_INPUT)
		plain = pump_step(&r->to_plain, scratch, RELAY_SHARE);
	if (is_over(&r->to_plain, &r->to_mesh))
		return r->to_plain.sink_failed ? RELAY_PLAIN_BROKE
		                               : RELAY_MESH_BROKE;
	if (is_over(&r->to_mesh, &r->to_plain))
		return r->to_mesh.sink_failed ? RELAY_MESH_BROKE
		                              : RELAY_PLAIN_BROKE;
	if (plain == PUMP_AGAIN || mesh == PUMP_AGAIN)
		return RELAY_AGAIN;
	if (r->to_plain.end == PUMP_ENDED && r->to_mesh.end == PUMP_ENDED)
		return RELAY_ENDED;
	if (plain == PUMP_WANT_SPILL || mesh == PUMP_WANT_SPILL)
		return RELAY_STARVED;
	return RELAY_WAIT;
}
