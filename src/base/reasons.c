#include "reasons.h"

const char *
deny_reason_label(enum deny_reason r)
{
	switch (r) {
	case DENY_NOT:
		return "-";
#define X(symbol, label, sentence)                                             \
	case DENY_##symbol:                                                    \
		return label;
		DENY_REASONS(X)
#undef X
	}
	return "-";
}

const char *
deny_reason_sentence(enum deny_reason r)
{
	switch (r) {
	case DENY_NOT:
		return "-";
#define X(symbol, label, sentence)                                             \
	case DENY_##symbol:                                                    \
		return sentence;
		DENY_REASONS(X)
#undef X
	}
	return "-";
}

const char *
close_reason_label(enum close_reason r)
{
	switch (r) {
	case CLOSE_NOT:
		return "-";
#define X(symbol, label, is_error, sentence)                                   \
	case CLOSE_##symbol:                                                   \
		return label;
		CLOSE_REASONS(X)
#undef X
	}
	return "-";
}

const char *
close_reason_sentence(enum close_reason r)
{
	switch (r) {
	case CLOSE_NOT:
		return "-";
#define X(symbol, label, is_error, sentence)                                   \
	case CLOSE_##symbol:                                                   \
		return sentence;
		CLOSE_REASONS(X)
#undef X
	}
	return "-";
}
