#ifndef POSTERN_ERR_H
#define POSTERN_ERR_H

/*
 * Errors: a kind for the program, a sentence for the operator.
 *
 * Whoever detects a fault fills `why`; whoever decides what to do about it
 * logs, once. On any result other than FAULT_NONE a function's outputs are
 * untouched. Mistakes of the program itself are asserts, never faults.
 * Any thread.
 */

enum fault {
	FAULT_NONE,
	FAULT_NOMEM,     /* out of memory */
	FAULT_MALFORMED, /* does not parse */
	FAULT_MISMATCH,  /* parses, but two parts do not belong together */
	FAULT_UNTRUSTED, /* no anchor, or not allowed to be what it says */
	FAULT_EXPIRED,   /* outside its validity */
	FAULT_IO,        /* the kernel said no */
	FAULT_LIMIT,     /* larger or more than we take */
	FAULT_CONF,      /* the configuration asks for the impossible */
};

#define WHY_MAX 256

/* A sentence, NUL-terminated, cut at WHY_MAX - 1 bytes. Never a key. */
struct why {
	char text[WHY_MAX];
};

/*
 * Write the sentence and return KIND. WHY may be NULL. Text that came from
 * outside must be escaped by the caller (text_escape()) before it gets here.
 */
enum fault fail(struct why *why, enum fault kind, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* "malformed" for FAULT_MALFORMED, and so on; a metric label. */
const char *fault_label(enum fault kind);

#endif
