#include "wheel.h"

static int64_t
tick_of(int64_t ms)
{
	/* Rounded up: a timer never fires early. */
	return (ms + WHEEL_TICK_MS - 1) / WHEEL_TICK_MS;
}

void
timer_init(struct timer *t)
{
	node_init(&t->node);
	t->due_ms = 0;
}

void
wheel_init(struct wheel *w, int64_t now_ms)
{
	for (size_t i = 0; i < WHEEL_SLOTS; i++)
		node_init(&w->slot[i]);
	w->tick = now_ms / WHEEL_TICK_MS;
	w->timers = 0;
}

void
wheel_cancel(struct wheel *w, struct timer *t)
{
	if (!node_is_queued(&t->node))
		return;
	node_remove(&t->node);
	w->timers--;
}

void
wheel_set(struct wheel *w, struct timer *t, int64_t due_ms)
{
	int64_t tick = tick_of(due_ms);

	wheel_cancel(w, t);
	/* What is due already comes with the next tick. */
	if (tick <= w->tick)
		tick = w->tick + 1;
	t->due_ms = due_ms;
	list_add_tail(&w->slot[tick % WHEEL_SLOTS], &t->node);
	w->timers++;
}

void
wheel_run(struct wheel *w, int64_t now_ms, struct node *list)
{
	int64_t now_tick = now_ms / WHEEL_TICK_MS;
	int64_t steps = now_tick - w->tick;

	/* After a long sleep one round sees every slot. */
	if (steps > WHEEL_SLOTS)
		w->tick = now_tick - WHEEL_SLOTS;
	while (w->tick < now_tick) {
		struct node *slot = &w->slot[++w->tick % WHEEL_SLOTS];

		LIST_EACH_SAFE (it, slot) {
			struct timer *t = CONTAINER_OF(it, struct timer, node);

			if (tick_of(t->due_ms) > now_tick)
				continue; /* a later round */
			node_remove(it);
			list_add_tail(list, it);
			w->timers--;
		}
	}
}
