#include "ring.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define CACHE_LINE 64

/* HEAD and TAIL count bytes for ever; an offset is the count modulo SIZE. */
struct ring {
	size_t size;
	_Atomic uint64_t dropped;
	_Alignas(CACHE_LINE) _Atomic size_t head; /* next byte to read */
	_Alignas(CACHE_LINE) _Atomic size_t tail; /* next byte to write */
	_Alignas(CACHE_LINE) uint8_t data[];
};

struct ring *
ring_new(size_t size)
{
	size_t bytes = (sizeof(struct ring) + size + CACHE_LINE - 1) &
	               ~(size_t)(CACHE_LINE - 1);
	struct ring *r;

	assert(size != 0 && (size & (size - 1)) == 0);
	r = aligned_alloc(CACHE_LINE, bytes);
	if (r == NULL)
		return NULL;
	r->size = size;
	atomic_init(&r->dropped, 0);
	atomic_init(&r->head, 0);
	atomic_init(&r->tail, 0);
	return r;
}

void
ring_free(struct ring **r)
{
	free(*r);
	*r = NULL;
}

static void
put(struct ring *r, size_t at, const void *bytes, size_t len)
{
	size_t offset = at & (r->size - 1);
	size_t first = r->size - offset < len ? r->size - offset : len;

	memcpy(r->data + offset, bytes, first);
	memcpy(r->data, (const uint8_t *)bytes + first, len - first);
}

static void
get(const struct ring *r, size_t at, void *bytes, size_t len)
{
	size_t offset = at & (r->size - 1);
	size_t first = r->size - offset < len ? r->size - offset : len;

	memcpy(bytes, r->data + offset, first);
	memcpy((uint8_t *)bytes + first, r->data, len - first);
}

bool
ring_write(struct ring *r, const void *record, size_t len)
{
	size_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
	size_t head = atomic_load_explicit(&r->head, memory_order_acquire);
	uint32_t n = (uint32_t)len;

	if (r->size - (tail - head) < sizeof(n) + len) {
		atomic_fetch_add_explicit(&r->dropped, 1, memory_order_relaxed);
		return false;
	}
	put(r, tail, &n, sizeof(n));
	put(r, tail + sizeof(n), record, len);
	atomic_store_explicit(
	    &r->tail, tail + sizeof(n) + len, memory_order_release);
	return true;
}

size_t
ring_read(struct ring *r, void *buf, size_t size)
{
	size_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
	size_t tail = atomic_load_explicit(&r->tail, memory_order_acquire);
	uint32_t n = 0;

	while (head != tail) {
		get(r, head, &n, sizeof(n));
		if (n <= size)
			get(r, head + sizeof(n), buf, n);
		head += sizeof(n) + n;
		atomic_store_explicit(&r->head, head, memory_order_release);
		if (n <= size)
			return n;
		atomic_fetch_add_explicit(&r->dropped, 1, memory_order_relaxed);
	}
	return 0;
}

uint64_t
ring_dropped(const struct ring *r)
{
	return atomic_load_explicit(&r->dropped, memory_order_relaxed);
}
