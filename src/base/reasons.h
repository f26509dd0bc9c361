#ifndef POSTERN_REASONS_H
#define POSTERN_REASONS_H

/*
 * The closed lists that log lines, metrics and the manual share. A label is an
 * interface: add, never rename. Any thread.
 */

#include "close_reasons.def"
#include "deny_reasons.def"

/* Why somebody was refused. DENY_NOT is not a denial and has no label. */
enum deny_reason {
	DENY_NOT,
#define X(symbol, label, sentence) DENY_##symbol,
	DENY_REASONS(X)
#undef X
};
#define X(symbol, label, sentence) +1
enum { DENY_REASON_COUNT = 1 DENY_REASONS(X) };
#undef X

/* How a connection ended. CLOSE_NOT: it has not. */
enum close_reason {
	CLOSE_NOT,
#define X(symbol, label, is_error, sentence) CLOSE_##symbol,
	CLOSE_REASONS(X)
#undef X
};
#define X(symbol, label, is_error, sentence) +1
enum { CLOSE_REASON_COUNT = 1 CLOSE_REASONS(X) };
#undef X

/* "-" for the zero value of each list. */
const char *deny_reason_label(enum deny_reason r);
const char *deny_reason_sentence(enum deny_reason r);
const char *close_reason_label(enum close_reason r);
const char *close_reason_sentence(enum close_reason r);

#endif
