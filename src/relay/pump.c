#include "relay.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "stream.h"

#define SPILL_SMALL ((size_t)16 * 1024)
#define FREE_MAX    16

/* ---- Spill buffers ---- */

static struct spill *
spill_alloc(struct spill_pool *pool, size_t size)
{
	struct spill *s;

	if (pool->used_bytes + size > pool->max_bytes)
		return NULL;
	s = malloc(sizeof(*s) + size);
	if (s == NULL)
		return NULL;
	node_init(&s->node);
	s->size = size;
	pool->used_bytes += size;
	return s;
}

static void
spill_free(struct spill_pool *pool, struct spill *s)
{
	pool->used_bytes -= s->size;
	free(s);
}

static struct spill *
spill_from_list(struct spill_pool *pool)
{
	struct node *node = list_pop(&pool->free);

	if (node == NULL)
		return NULL;
	pool->n_free--;
	return CONTAINER_OF(node, struct spill, node);
}

bool
spill_pool_init(struct spill_pool *pool, size_t max_bytes)
{
	*pool = (struct spill_pool){.max_bytes = max_bytes};
	if (pool->max_bytes < SCRATCH_BYTES)
		pool->max_bytes = SCRATCH_BYTES;
	node_init(&pool->free);
	return spill_pool_ready(pool);
}

void
spill_pool_fini(struct spill_pool *pool)
{
	struct spill *s;

	while ((s = spill_from_list(pool)) != NULL)
		spill_free(pool, s);
	if (pool->spare != NULL)
		spill_free(pool, pool->spare);
	pool->spare = NULL;
	assert(pool->used_bytes == 0);
}

bool
spill_pool_ready(struct spill_pool *pool)
{
	if (pool->spare == NULL)
		pool->spare = spill_from_list(pool);
	if (pool->spare == NULL)
		pool->spare = spill_alloc(pool, SCRATCH_BYTES);
	if (pool->spare == NULL)
		pool->starved = true;
	return pool->spare != NULL;
}

/* Cannot fail: whoever read has made sure of the spare. */
static struct spill *
spill_keep(struct spill_pool *pool, const uint8_t *bytes, size_t len)
{
	struct spill *s = NULL;

	if (len <= SPILL_SMALL)
		s = spill_alloc(pool, SPILL_SMALL);
	if (s == NULL) {
		s = pool->spare;
		pool->spare = NULL;
	}
	assert(s != NULL && len <= s->size);
	memcpy(s->data, bytes, len);
	s->off = 0;
	s->len = len;
	return s;
}

static void
spill_put(struct spill_pool *pool, struct spill **s)
{
	if (*s == NULL)
		return;
	if ((*s)->size == SCRATCH_BYTES && pool->spare == NULL) {
		pool->spare = *s;
	} else if ((*s)->size == SCRATCH_BYTES && pool->n_free < FREE_MAX) {
		list_add_head(&pool->free, &(*s)->node);
		pool->n_free++;
	} else {
		spill_free(pool, *s);
	}
	*s = NULL;
}

/* ---- Pump ---- */

void
pump_init(struct pump *p, struct stream *from, struct stream *to)
{
	*p = (struct pump){.from = from, .to = to};
}

void
pump_fini(struct pump *p, struct spill_pool *pool)
{
	spill_put(pool, &p->spill);
}

uint64_t
pump_owed(const struct pump *p)
{
	return p->taken_bytes - p->given_bytes;
}

static enum pump_want
broke(struct pump *p, bool sink)
{
	p->end = PUMP_BROKEN;
	p->sink_failed = sink;
	return PUMP_FAILED;
}

enum pump_want
pump_flush(struct pump *p, struct spill_pool *pool)
{
	while (p->spill != NULL) {
		struct spill *s = p->spill;
		size_t n = 0;
		enum io_status st = stream_write(
		    p->to, s->data + s->off, s->len - s->off, false, &n);

		switch (st) {
		case IO_DONE:
			s->off += n;
			p->given_bytes += n;
			if (s->off == s->len)
				spill_put(pool, &p->spill);
			continue;
		case IO_WANT_READ:
		case IO_WANT_WRITE:
			return PUMP_WANT_OUTPUT;
		case IO_END:
		case IO_ABORT:
			return broke(p, true);
		}
	}
	return PUMP_DONE;
}

/*
 * Fill the scratch buffer from the source. A TLS source delivers a record per
 * call; four of them make one write to the sink.
 */
static enum io_status
fill(struct pump *p, struct scratch *scratch, size_t *len_r)
{
	size_t len = 0;
	enum io_status st = IO_DONE;

	while (len < SCRATCH_BYTES && st == IO_DONE) {
		size_t n = 0;

		st = stream_read(
		    p->from, scratch->data + len, SCRATCH_BYTES - len, &n);
		if (st == IO_DONE)
			len += n;
	}
	p->taken_bytes += len;
	*len_r = len;
	return st;
}

/* Write what is in scratch; keep what the sink refuses. */
static enum pump_want
drain(struct pump *p, struct scratch *scratch, size_t len)
{
	size_t off = 0;

	while (off < len) {
		size_t n = 0;
		enum io_status st = stream_write(
		    p->to, scratch->data + off, len - off, false, &n);

		switch (st) {
		case IO_DONE:
			off += n;
			p->given_bytes += n;
			continue;
		case IO_WANT_READ:
		case IO_WANT_WRITE:
			p->spill = spill_keep(
			    scratch->spills, scratch->data + off, len - off);
			return PUMP_WANT_OUTPUT;
		case IO_END:
		case IO_ABORT:
			return broke(p, true);
		}
	}
	return PUMP_DONE;
}

/* The source ended and all bytes are out: pass the end on. */
static enum pump_want
finish(struct pump *p)
{
	switch (stream_finish(p->to)) {
	case IO_DONE:
		p->end = PUMP_ENDED;
		return PUMP_DONE;
	case IO_WANT_READ:
	case IO_WANT_WRITE:
		return PUMP_WANT_OUTPUT;
	case IO_END:
	case IO_ABORT:
		break;
	}
	return broke(p, true);
}

/* One round of reading and writing; PUMP_AGAIN if there may be more. */
static enum pump_want
move(struct pump *p, struct scratch *scratch, size_t *moved_r)
{
	enum pump_want want = PUMP_DONE;
	enum io_status st;

	if (!spill_pool_ready(scratch->spills))
		return PUMP_WANT_SPILL;
	st = fill(p, scratch, moved_r);
	if (*moved_r != 0)
		want = drain(p, scratch, *moved_r);
	if (want == PUMP_FAILED)
		return want;
	switch (st) {
	case IO_DONE:
		return want == PUMP_DONE ? PUMP_AGAIN : want;
	case IO_WANT_READ:
	case IO_WANT_WRITE:
		return want == PUMP_DONE ? PUMP_WANT_INPUT : want;
	case IO_END:
		p->end = PUMP_DRAINING;
		return want == PUMP_DONE ? PUMP_AGAIN : want;
	case IO_ABORT:
		break;
	}
	return broke(p, false);
}

enum pump_want
pump_step(struct pump *p, struct scratch *scratch, size_t share)
{
	size_t total = 0;

	if (p->end == PUMP_ENDED)
		return PUMP_DONE;
	if (p->end == PUMP_BROKEN)
		return PUMP_FAILED;
	for (;;) {
		size_t moved = 0;
		enum pump_want want = pump_flush(p, scratch->spills);

		if (want != PUMP_DONE)
			return want;
		if (p->end == PUMP_DRAINING)
			return finish(p);
		if (total >= share)
			return PUMP_AGAIN;
		want = move(p, scratch, &moved);
		if (want != PUMP_AGAIN)
			return want;
		total += moved;
	}
}
