#include "source.h"

#include <assert.h>

struct row {
	int64_t first_ms;
	int64_t cap_ms;
	unsigned int jitter_percent;
};

/* spiffe.md 6.3 in numbers. */
static const struct row rows[BACKOFF_CAUSES] = {
    [BACKOFF_ENDED] = {100, 5000, 20},
    [BACKOFF_REFUSED] = {1000, 10000, 20},
    [BACKOFF_SLOW] = {5000, 60000, 20},
    /* A failed unix connect costs microseconds: no steps. */
    [BACKOFF_ABSENT] = {500, 500, 0},
    [BACKOFF_BUSY] = {30, 30, 66},
};

/* A good stream that ended is replaced at once, but not by all together. */
#define AT_ONCE_MS 50

#define WAIT_MIN_MS 100

void
backoff_opened(struct backoff *b, int64_t boot_ms)
{
	b->opened_ms[b->openings++ % BACKOFF_OPENINGS] = boot_ms;
	b->had_message = false;
}

void
backoff_message(struct backoff *b)
{
	b->had_message = true;
	for (size_t i = 0; i < BACKOFF_CAUSES; i++)
		b->steps[i] = 0;
}

/* Would one more stream be the 121st of the last minute? */
static bool
is_looping(const struct backoff *b, int64_t boot_ms)
{
	if (b->openings < BACKOFF_OPENINGS)
		return false;
	return boot_ms - b->opened_ms[b->openings % BACKOFF_OPENINGS] <
	       BACKOFF_WINDOW_MS;
}

static int64_t
with_jitter(int64_t ms, unsigned int percent, uint32_t random)
{
	int64_t width = ms * 2 * (int64_t)percent / 100;

	return ms - width / 2 + (int64_t)(random % (uint64_t)(width + 1));
}

static int64_t
stepped_ms(struct backoff *b, enum backoff_cause cause)
{
	int64_t ms = rows[cause].first_ms;

	for (unsigned int i = 0; i < b->steps[cause]; i++) {
		ms *= 2;
		if (ms >= rows[cause].cap_ms)
			return rows[cause].cap_ms;
	}
	b->steps[cause]++;
	return ms;
}

/* Never sleep through the end of the SVID. */
static int64_t
bounded_ms(int64_t ms, int64_t left_ms)
{
	int64_t most = left_ms / 10;

	if (left_ms <= 0)
		return ms;
	if (most < WAIT_MIN_MS)
		most = WAIT_MIN_MS;
	return ms < most ? ms : most;
}

int64_t
backoff_wait(struct backoff *b, enum backoff_cause cause, int64_t boot_ms,
    int64_t svid_end_ms, uint32_t random)
{
	bool at_once = b->had_message && cause == BACKOFF_ENDED;
	int64_t left_ms = svid_end_ms == 0 ? 0 : svid_end_ms - boot_ms;
	int64_t ms;

	assert(cause < BACKOFF_CAUSES);
	b->had_message = false;
	if (is_looping(b, boot_ms) && cause != BACKOFF_ABSENT)
		return with_jitter(
		    rows[cause].cap_ms < rows[BACKOFF_ENDED].cap_ms
		        ? rows[BACKOFF_ENDED].cap_ms
		        : rows[cause].cap_ms,
		    rows[BACKOFF_ENDED].jitter_percent, random);
	if (at_once)
		return random % (AT_ONCE_MS + 1);
	ms = with_jitter(
	    stepped_ms(b, cause), rows[cause].jitter_percent, random);
	return bounded_ms(ms, left_ms);
}
