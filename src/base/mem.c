#include "mem.h"

#include <stdlib.h>
#include <string.h>

struct span
span_of(const void *data, size_t len)
{
	return (struct span){.data = data, .len = len};
}

struct span
span_of_str(const char *s)
{
	return span_of(s, strlen(s));
}

bool
span_equal(struct span a, struct span b)
{
	if (a.len != b.len)
		return false;
	return a.len == 0 || memcmp(a.data, b.data, a.len) == 0;
}

bool
span_equal_str(struct span a, const char *s)
{
	return span_equal(a, span_of_str(s));
}

int
span_compare(struct span a, struct span b)
{
	size_t n = a.len < b.len ? a.len : b.len;
	int order = n == 0 ? 0 : memcmp(a.data, b.data, n);

	if (order != 0)
		return order;
	return (a.len > b.len) - (a.len < b.len);
}

bool
span_take(struct span *s, size_t n, struct span *taken_r)
{
	if (s->len < n)
		return false;
	*taken_r = span_of(s->data, n);
	s->data += n;
	s->len -= n;
	return true;
}

char *
span_dup(struct span s)
{
	char *copy = malloc(s.len + 1);

	if (copy == NULL)
		return NULL;
	if (s.len != 0)
		memcpy(copy, s.data, s.len);
	copy[s.len] = '\0';
	return copy;
}

void
mem_free(void *pp)
{
	void **p = pp;

	free(*p);
	*p = NULL;
}
