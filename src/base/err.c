#include "err.h"

#include <stdarg.h>
#include <stdio.h>

enum fault
fail(struct why *why, enum fault kind, const char *fmt, ...)
{
	va_list ap;

	if (why == NULL)
		return kind;
	va_start(ap, fmt);
	(void)vsnprintf(why->text, sizeof(why->text), fmt, ap);
	va_end(ap);
	return kind;
}

const char *
fault_label(enum fault kind)
{
	switch (kind) {
	case FAULT_NONE:
		return "none";
	case FAULT_NOMEM:
		return "nomem";
	case FAULT_MALFORMED:
		return "malformed";
	case FAULT_MISMATCH:
		return "mismatch";
	case FAULT_UNTRUSTED:
		return "untrusted";
	case FAULT_EXPIRED:
		return "expired";
	case FAULT_IO:
		return "io";
	case FAULT_LIMIT:
		return "limit";
	case FAULT_CONF:
		return "conf";
	}
	return "unknown";
}
