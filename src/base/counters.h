#ifndef POSTERN_COUNTERS_H
#define POSTERN_COUNTERS_H

/*
 * Counters with one writer each. The writer adds with relaxed loads and
 * stores (plain moves in machine code), any thread may read.
 */

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "reasons.h"

struct counter {
	_Atomic uint64_t n;
};

static inline void
counter_add(struct counter *c, uint64_t n)
{
	uint64_t was = atomic_load_explicit(&c->n, memory_order_relaxed);

	atomic_store_explicit(&c->n, was + n, memory_order_relaxed);
}

static inline void
counter_sub(struct counter *c, uint64_t n)
{
	uint64_t was = atomic_load_explicit(&c->n, memory_order_relaxed);

	atomic_store_explicit(&c->n, was - n, memory_order_relaxed);
}

static inline void
counter_set(struct counter *c, uint64_t n)
{
	atomic_store_explicit(&c->n, n, memory_order_relaxed);
}

static inline uint64_t
counter_get(const struct counter *c)
{
	return atomic_load_explicit(&c->n, memory_order_relaxed);
}

/* After this number is seen, others may free what was used before it. */
static inline void
counter_set_release(struct counter *c, uint64_t n)
{
	atomic_store_explicit(&c->n, n, memory_order_release);
}

static inline uint64_t
counter_get_acquire(const struct counter *c)
{
	return atomic_load_explicit(&c->n, memory_order_acquire);
}

/* Upper bounds of the histograms' buckets, in nanoseconds; +Inf follows. */
#define HISTOGRAM_BOUNDS                                                       \
	{                                                                      \
		100000, 250000, 500000, 1000000, 2500000, 5000000, 10000000,   \
		    25000000, 50000000, 100000000, 250000000, 500000000,       \
		    1000000000, 2500000000, 5000000000, 10000000000            \
	}
#define HISTOGRAM_BUCKETS 17

struct histogram {
	struct counter bucket[HISTOGRAM_BUCKETS]; /* not cumulative */
	struct counter sum_ns;
};

void histogram_add(struct histogram *h, uint64_t ns);
/* Upper bound of bucket I in nanoseconds; 0 for the last, which is +Inf. */
uint64_t histogram_bound(size_t i);

#endif
