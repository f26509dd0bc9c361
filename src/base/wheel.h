#ifndef POSTERN_WHEEL_H
#define POSTERN_WHEEL_H

/*
 * Hashed timing wheel: any duration, exact to a tick, O(1), no heap. A timer
 * that comes due is taken off and handed to the owner, who computes the true
 * deadline and may put it back. One owner; no clock of its own.
 */

#include <stdint.h>

#include "queue.h"

#define WHEEL_TICK_MS 100
#define WHEEL_SLOTS   512

struct timer {
	struct node node;
	int64_t due_ms; /* valid while queued */
};

struct wheel {
	struct node slot[WHEEL_SLOTS];
	int64_t tick;  /* the last one that was run */
	size_t timers; /* queued now */
};

void timer_init(struct timer *t);
void wheel_init(struct wheel *w, int64_t now_ms);
/* Set or move: never fires before DUE_MS, and at most a tick after it. */
void wheel_set(struct wheel *w, struct timer *t, int64_t due_ms);
void wheel_cancel(struct wheel *w, struct timer *t);
/* Move every timer that is due to LIST (by its node). */
void wheel_run(struct wheel *w, int64_t now_ms, struct node *list);

#endif
