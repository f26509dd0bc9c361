#include "text.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What an empty text points to; never written, since its cap is 0. */
static char *
empty(void)
{
	return (char *)(uintptr_t) "";
}

void
text_init(struct text *t)
{
	*t = (struct text){.data = empty()};
}

void
text_fini(struct text *t)
{
	if (t->cap != 0)
		free(t->data);
	text_init(t);
}

void
text_clear(struct text *t)
{
	t->len = 0;
	t->failed = false;
	if (t->cap != 0)
		t->data[0] = '\0';
}

/* Make room for N more bytes and the NUL. */
static bool
text_grow(struct text *t, size_t n)
{
	size_t need = t->len + n + 1;
	size_t cap = t->cap == 0 ? 128 : t->cap;
	char *data;

	if (need < n || t->failed)
		return false;
	if (need <= t->cap)
		return true;
	while (cap < need)
		cap *= 2;
	data = realloc(t->cap == 0 ? NULL : t->data, cap);
	if (data == NULL) {
		t->failed = true;
		return false;
	}
	data[t->len] = '\0';
	t->data = data;
	t->cap = cap;
	return true;
}

void
text_vadd(struct text *t, const char *fmt, va_list ap)
{
	va_list again;
	int n;

	va_copy(again, ap);
	n = vsnprintf(NULL, 0, fmt, again);
	va_end(again);
	if (n < 0 || !text_grow(t, (size_t)n))
		return;
	(void)vsnprintf(t->data + t->len, (size_t)n + 1, fmt, ap);
	t->len += (size_t)n;
}

void
text_add(struct text *t, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	text_vadd(t, fmt, ap);
	va_end(ap);
}

void
text_add_span(struct text *t, struct span s)
{
	if (s.len == 0 || !text_grow(t, s.len))
		return;
	memcpy(t->data + t->len, s.data, s.len);
	t->len += s.len;
	t->data[t->len] = '\0';
}

void
text_add_char(struct text *t, char c)
{
	text_add_span(t, span_of(&c, 1));
}

/* Write one byte of foreign text; up to 4 bytes. Returns how many. */
static size_t
escape_byte(uint8_t byte, char out[5])
{
	if (byte >= 0x20 && byte < 0x7f && byte != '"' && byte != '\\') {
		out[0] = (char)byte;
		return 1;
	}
	(void)snprintf(out, 5, "\\x%02x", byte);
	return 4;
}

void
text_add_escaped(struct text *t, struct span s)
{
	size_t n = s.len < TEXT_FOREIGN_MAX ? s.len : TEXT_FOREIGN_MAX;
	char out[5];

	for (size_t i = 0; i < n; i++)
		text_add_span(t, span_of(out, escape_byte(s.data[i], out)));
	if (n < s.len)
		text_add(t, "...");
}

char *
text_escape(struct span s, char *buf, size_t size)
{
	size_t used = 0;
	char out[5];

	for (size_t i = 0; i < s.len; i++) {
		size_t n = escape_byte(s.data[i], out);

		/* Keep room for the dots, so that a cut always shows. */
		if (used + n + 4 > size) {
			memcpy(buf + used, "...", 3);
			used += 3;
			break;
		}
		memcpy(buf + used, out, n);
		used += n;
	}
	buf[used] = '\0';
	return buf;
}

char *
text_take(struct text *t)
{
	char *data;

	if (t->failed || !text_grow(t, 0)) {
		text_fini(t);
		return NULL;
	}
	data = t->data;
	text_init(t);
	return data;
}
