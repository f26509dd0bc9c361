#ifndef POSTERN_CONF_TEXT_H
#define POSTERN_CONF_TEXT_H

/* Configurations out of strings, and what was said about them. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "unit.h"

#include "conf_int.h"

/* A text with a NUL or without an end needs its length. */
static inline enum fault
conf_of_bytes(const void *data, size_t len, struct conf **c, struct diags *d)
{
	static const char *const one[] = {"t.ini"};
	struct conf_load_args args = {.files = one, .n_files = 1};
	struct raw raw = {0};
	uint8_t *copy = malloc(len + 1);
	enum fault f;

	assert_non_null(copy);
	memcpy(copy, data, len);
	diags_init(d);
	*c = NULL;
	(void)raw_add(&raw, "t.ini", copy, len, d);
	f = conf_build(&raw, &args, c, d);
	raw_fini(&raw);
	assert_int_equal(f == FAULT_NONE, *c != NULL);
	return f;
}

static inline enum fault
conf_of(const char *text, struct conf **c, struct diags *d)
{
	return conf_of_bytes(text, strlen(text), c, d);
}

/* The first diagnostic of that code. */
static inline const struct diag *
diag_of(const struct diags *d, const char *code)
{
	for (size_t i = 0; i < d->n; i++)
		if (strcmp(d->list[i].code, code) == 0)
			return &d->list[i];
	fail_msg("%s is not there", code);
	abort(); /* not reached */
}

/* "4:1 C104 5:9 C113": errors and warnings in their order, notes left out. */
static inline const char *
said(const struct diags *d, char out[1024])
{
	out[0] = '\0';
	for (size_t i = 0; i < d->n; i++) {
		const struct diag *one = &d->list[i];
		char part[64];

		if (one->severity == DIAG_NOTE)
			continue;
		snprintf(part, sizeof(part), "%s%u:%u %s",
		    out[0] == '\0' ? "" : " ", one->line, one->column,
		    one->code);
		strcat(out, part);
	}
	return out;
}

#endif
