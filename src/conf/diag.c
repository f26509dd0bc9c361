#include "conf_int.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "diagnostics.def"

static const struct diag_code codes[] = {
#define X(code, severity, sentence, page)                                      \
	{#code, DIAG_##severity, sentence, page},
    DIAGNOSTICS(X)
#undef X
};

size_t
diag_code_count(void)
{
	return ARRAY_LEN(codes);
}

const struct diag_code *
diag_code(size_t i)
{
	assert(i < ARRAY_LEN(codes));
	return &codes[i];
}

static const struct diag_code *
find_code(const char *code)
{
	for (size_t i = 0; i < ARRAY_LEN(codes); i++)
		if (strcmp(codes[i].code, code) == 0)
			return &codes[i];
	abort(); /* every code that is used has its row */
}

const char *
diag_severity_name(enum diag_severity s)
{
	switch (s) {
	case DIAG_ERROR:
		return "error";
	case DIAG_WARNING:
		return "warning";
	case DIAG_NOTE:
		return "note";
	}
	return "error";
}

void
diags_init(struct diags *d)
{
	*d = (struct diags){0};
}

void
diags_fini(struct diags *d)
{
	for (size_t i = 0; i < d->n; i++) {
		free(d->list[i].file);
		free(d->list[i].message);
		free(d->list[i].hint);
		free(d->list[i].source);
	}
	free(d->list);
	*d = (struct diags){0};
}

/* NULL stays NULL; no memory is latched in FAILED. */
static char *
copy(const char *s, bool *failed)
{
	char *c = s == NULL ? NULL : strdup(s);

	*failed |= s != NULL && c == NULL;
	return c;
}

static void __attribute__((format(printf, 6, 0)))
add(struct diags *d, enum diag_severity severity, const char *code,
    const struct place *at, const char *hint, const char *fmt, va_list ap)
{
	struct diag one = {.severity = severity,
	    .line = at->line,
	    .column = at->column,
	    .length = at->length};
	struct text message;

	if (severity == DIAG_ERROR)
		d->errors++;
	if (severity == DIAG_WARNING)
		d->warnings++;
	if (!array_grow(&d->list, d->n, sizeof(one))) {
		d->failed = true;
		return;
	}
	text_init(&message);
	text_vadd(&message, fmt, ap);
	one.message = text_take(&message);
	memcpy(one.code, code, sizeof(one.code) - 1);
	d->failed |= one.message == NULL;
	one.file = copy(at->file == NULL ? "" : at->file, &d->failed);
	one.hint = copy(hint, &d->failed);
	if (at->source.data != NULL)
		one.source = span_dup(at->source);
	d->list[d->n++] = one;
}

void
diag_add(struct diags *d, const char *code, const struct place *at,
    const char *hint, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	add(d, find_code(code)->severity, code, at, hint, fmt, ap);
	va_end(ap);
}

void
diag_add_as(struct diags *d, enum diag_severity severity, const char *code,
    const struct place *at, const char *hint, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	add(d, severity, find_code(code)->code, at, hint, fmt, ap);
	va_end(ap);
}
