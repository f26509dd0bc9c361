#include "counters.h"

static const uint64_t bounds[] = HISTOGRAM_BOUNDS;

_Static_assert(sizeof(bounds) / sizeof(bounds[0]) == HISTOGRAM_BUCKETS - 1,
    "one bucket per bound and one for +Inf");

uint64_t
histogram_bound(size_t i)
{
	return i < HISTOGRAM_BUCKETS - 1 ? bounds[i] : 0;
}

void
histogram_add(struct histogram *h, uint64_t ns)
{
	size_t i = 0;

	while (i < HISTOGRAM_BUCKETS - 1 && ns > bounds[i])
		i++;
	counter_add(&h->bucket[i], 1);
	counter_add(&h->sum_ns, ns);
}
