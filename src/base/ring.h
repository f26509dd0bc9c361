#ifndef POSTERN_RING_H
#define POSTERN_RING_H

/*
 * Byte ring between one writer thread and one reader thread: whole records or
 * nothing. The writer never waits; a full ring drops the record and counts
 * it. No lock, no system call.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ring;

/* SIZE is a power of two. NULL if out of memory. */
struct ring *ring_new(size_t size);
void ring_free(struct ring **r);

/* Writer. False: no room, the record is dropped and counted. */
bool ring_write(struct ring *r, const void *record, size_t len);

/*
 * Reader. Copies the oldest record into BUF and returns its length; 0 if there
 * is none. A record longer than SIZE is dropped and counted.
 */
size_t ring_read(struct ring *r, void *buf, size_t size);

/* Any thread: records dropped since the start. */
uint64_t ring_dropped(const struct ring *r);

#endif
