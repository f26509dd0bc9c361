#include "cli_int.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "json.h"

/* ---- Text ---- */

static bool
wants_colour(FILE *out)
{
	return isatty(fileno(out)) && getenv("NO_COLOR") == NULL;
}

static const char *
colour_of(enum diag_severity s)
{
	switch (s) {
	case DIAG_ERROR:
		return "\033[1;31m";
	case DIAG_WARNING:
		return "\033[1;35m";
	case DIAG_NOTE:
		return "\033[1;36m";
	}
	return "";
}

/*
 * The line as it stands, without what would move the cursor; bytes of UTF-8
 * pass, unless it is them that the finding is about.
 */
static void
print_source(const struct diag *d, FILE *out)
{
	bool is_utf8 = strcmp(d->code, "C101") != 0;

	for (const char *p = d->source; *p != '\0'; p++) {
		unsigned char c = (unsigned char)*p;

		if (c == '\t')
			fputc(' ', out);
		else if (c < 0x20 || c == 0x7f || (c >= 0x80 && !is_utf8))
			fputc('?', out);
		else
			fputc(c, out);
	}
	fputc('\n', out);
}

/* Columns are bytes; a character of several takes one place. */
static unsigned int
places_before(const struct diag *d)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i + 1 < d->column && d->source[i] != '\0'; i++)
		n += ((unsigned char)d->source[i] & 0xc0) != 0x80;
	return n;
}

static void
print_marker(const struct diag *d, FILE *out)
{
	fprintf(out, "      | %*s^", (int)places_before(d), "");
	for (unsigned int i = 1; i < d->length && i < 60; i++)
		fputc('~', out);
	if (d->hint != NULL)
		fprintf(out, " %s", d->hint);
	fputc('\n', out);
}

static void
print_place(const struct diag *d, FILE *out)
{
	if (d->file[0] == '\0')
		return;
	fprintf(out, "%s:", d->file);
	if (d->line != 0)
		fprintf(out, "%u:", d->line);
	if (d->line != 0 && d->column != 0)
		fprintf(out, "%u:", d->column);
	fputc(' ', out);
}

static void
print_diag(const struct diag *d, bool colour, FILE *out)
{
	print_place(d, out);
	fprintf(out, "%s%s[%s]%s: %s\n", colour ? colour_of(d->severity) : "",
	    diag_severity_name(d->severity), d->code, colour ? "\033[0m" : "",
	    d->message);
	if (d->source != NULL && d->column != 0) {
		fprintf(out, "%5u | ", d->line);
		print_source(d, out);
		print_marker(d, out);
	} else if (d->hint != NULL) {
		fprintf(out, "      | %s\n", d->hint);
	}
}

void
print_diags(const struct diags *d, FILE *out)
{
	bool colour = wants_colour(out);

	for (size_t i = 0; i < d->n; i++)
		print_diag(&d->list[i], colour, out);
}

static void
print_sum(const struct diags *d, FILE *out)
{
	fprintf(out, "%zu error%s, %zu warning%s\n", d->errors,
	    d->errors == 1 ? "" : "s", d->warnings,
	    d->warnings == 1 ? "" : "s");
}

static void
print_gcc(const struct diags *d, FILE *out)
{
	for (size_t i = 0; i < d->n; i++) {
		const struct diag *one = &d->list[i];

		fprintf(out, "%s:%u:%u: %s: %s", one->file, one->line,
		    one->column, diag_severity_name(one->severity),
		    one->message);
		if (one->hint != NULL)
			fprintf(out, "; %s", one->hint);
		fprintf(out, " [%s]\n", one->code);
	}
}

/* ---- JSON ---- */

static void
json_diag(struct json *j, const struct diag *d)
{
	json_object(j);
	json_kstr(j, "severity", diag_severity_name(d->severity));
	json_kstr(j, "code", d->code);
	json_kstr(j, "file", d->file);
	json_kuint(j, "line", d->line);
	json_kuint(j, "column", d->column);
	json_kstr(j, "message", d->message);
	json_kstr(j, "hint", d->hint);
	json_object_end(j);
}

static void
print_json(const struct diags *d, FILE *out)
{
	AUTO(text_fini) struct text t;
	struct json j;

	text_init(&t);
	json_init(&j, &t);
	json_object(&j);
	json_kstr(&j, "schema", "postern.check/1");
	json_kuint(&j, "errors", d->errors);
	json_kuint(&j, "warnings", d->warnings);
	json_key(&j, "diagnostics");
	json_array(&j);
	for (size_t i = 0; i < d->n; i++)
		json_diag(&j, &d->list[i]);
	json_array_end(&j);
	json_object_end(&j);
	fprintf(out, "%s\n", t.data);
}

/* ---- The verb ---- */

/* What no production host should have: fine in a trial. */
static void
be_strict(struct diags *d)
{
	for (size_t i = 0; i < d->n; i++) {
		struct diag *one = &d->list[i];

		if (one->severity != DIAG_WARNING ||
		    (strcmp(one->code, "C201") != 0 &&
		        strcmp(one->code, "C202") != 0))
			continue;
		one->severity = DIAG_ERROR;
		d->warnings--;
		d->errors++;
	}
}

int
run_check(const struct args *a)
{
	struct conf_load_args load = {.files = a->words, .n_files = a->n_words};
	AUTO(diags_fini) struct diags d;
	struct conf *c = NULL;
	int rc;

	diags_init(&d);
	if ((a->set & OPT_FORMAT) != 0 &&
	    strcmp(a->value[OPTION_FORMAT], "gcc") != 0)
		return usage(a, "the format is gcc");
	(void)conf_load(&load, &c, &d);
	conf_free(&c);
	if ((a->set & OPT_PRODUCTION) != 0)
		be_strict(&d);
	if ((a->set & OPT_JSON) != 0) {
		print_json(&d, a->env->out);
	} else if ((a->set & OPT_FORMAT) != 0) {
		print_gcc(&d, a->env->out);
	} else {
		print_diags(&d, a->env->out);
		print_sum(&d, a->env->out);
	}
	rc = d.errors > 0 ? CLI_BAD_CONF : CLI_DONE;
	return d.failed ? CLI_FAILED : rc;
}

struct conf *
load_conf(const struct args *a)
{
	struct conf_load_args load = {
	    .files = a->config, .n_files = a->n_config};
	AUTO(diags_fini) struct diags d;
	struct conf *c = NULL;

	diags_init(&d);
	if (conf_load(&load, &c, &d) != FAULT_NONE)
		print_diags(&d, a->env->err);
	return c;
}
