#ifndef POSTERN_TEXT_H
#define POSTERN_TEXT_H

/*
 * Text that grows, always NUL-terminated. Running out of memory is latched in
 * `failed` and asked once, at the end; what was added before stays. Any
 * thread, one owner.
 */

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#include "mem.h"

struct text {
	char *data; /* "" until something was added: never NULL after init */
	size_t len;
	size_t cap; /* 0: data is a constant */
	bool failed;
};

/* Text from outside is cut at this many bytes before it is logged. */
#define TEXT_FOREIGN_MAX 256

void text_init(struct text *t);
void text_fini(struct text *t); /* for AUTO(); leaves an empty text */
void text_clear(struct text *t);

void text_add(struct text *t, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
void text_vadd(struct text *t, const char *fmt, va_list ap)
    __attribute__((format(printf, 2, 0)));
void text_add_span(struct text *t, struct span s);
void text_add_char(struct text *t, char c);

/*
 * Add bytes from outside so that they are one printable ASCII word: bytes
 * below 0x20, above 0x7e, '"' and '\' become \xNN; cut at TEXT_FOREIGN_MAX
 * bytes of input, then "...".
 */
void text_add_escaped(struct text *t, struct span s);

/*
 * The same into a fixed buffer, for `why` sentences. Returns BUF. SIZE is at
 * least 8.
 */
char *text_escape(struct span s, char *buf, size_t size);

/* Give the buffer away (heap, NUL-terminated; NULL if failed). T is empty. */
char *text_take(struct text *t);

#endif
