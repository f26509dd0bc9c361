#ifndef POSTERN_MEM_H
#define POSTERN_MEM_H

/*
 * Borrowed bytes, and locals that free themselves. Any thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A local that is destroyed when it leaves its scope. */
#define AUTO(destroy) __attribute__((cleanup(destroy)))

/* The object of TYPE whose MEMBER lies at PTR. */
#define CONTAINER_OF(ptr, type, member)                                        \
	((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* Bytes that somebody else owns. Not NUL-terminated; may contain NUL. */
struct span {
	const uint8_t *data;
	size_t len;
};

struct span span_of(const void *data, size_t len);
struct span span_of_str(const char *s); /* without the NUL */
bool span_equal(struct span a, struct span b);
bool span_equal_str(struct span a, const char *s);
/* memcmp order, a shorter prefix first. */
int span_compare(struct span a, struct span b);

/*
 * Take N bytes from the front of *S. False, and *S unchanged, if there are
 * fewer.
 */
bool span_take(struct span *s, size_t n, struct span *taken_r);

/* Heap copy, NUL-terminated beyond its length; NULL if out of memory. */
char *span_dup(struct span s);

/* free(*p), *p = NULL: for AUTO() on heap pointers of any type. */
void mem_free(void *pp);

#endif
