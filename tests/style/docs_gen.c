/*
 * Fills the tables of a page from the tables of the program. What stands
 * between a line that says `table: NAME` (as a comment of Markdown or mdoc)
 * and the next that says `end` is written anew; all else is copied. Built with
 * the tests, never installed.
 */

#include <stdio.h>
#include <string.h>

#include "cli_int.h"
#include "fields.h"
#include "metrics.def"
#include "reasons.h"

/* Kept for later releases: no document mentions what nothing produces. */
static const char *const reserved[] = {
    "CLOSE_LIFETIME",
    "CLOSE_BUNDLE",
    "CLOSE_CRL",
    "CLOSE_PEER_EXPIRY",
    "DENY_REVOKED",
    "DENY_CRL_EXPIRED",
    "FIELD_entries",
    "FIELD_field",
    "FIELD_old",
    "FIELD_ended",
    "FIELD_unit",
    "FIELD_sandbox",
    "FIELD_path",
    "FIELD_code",
};

static bool
is_reserved(const char *symbol)
{
	for (size_t i = 0; i < ARRAY_LEN(reserved); i++)
		if (strcmp(reserved[i], symbol) == 0)
			return true;
	return false;
}

/* ---- Rows, in either language ---- */

static void
print_cell(const char *text)
{
	for (; *text != '\0'; text++) {
		if (*text == '|')
			putchar('\\');
		putchar(*text);
	}
}

static void
begin(bool man, const char *head)
{
	if (man)
		printf(".Bl -tag -width Ds\n");
	else
		printf("%s\n", head);
}

static void
end(bool man)
{
	if (man)
		printf(".El\n");
}

static void
row(bool man, const char *name, const char *text)
{
	if (man) {
		printf(".It Li %s\n\\&%s.\n", name, text);
		return;
	}
	printf("| `%s` | ", name);
	print_cell(text);
	printf(" |\n");
}

/* ---- Tables ---- */

static void
print_closes(bool man)
{
	begin(man, "| close | means |\n|---|---|");
#define X(symbol, label, is_error, text)                                       \
	if (!is_reserved("CLOSE_" #symbol))                                    \
		row(man, label, text);
	CLOSE_REASONS(X)
#undef X
	end(man);
}

static void
print_denies(bool man)
{
	begin(man, "| reason | means |\n|---|---|");
#define X(symbol, label, text)                                                 \
	if (!is_reserved("DENY_" #symbol))                                     \
		row(man, label, text);
	DENY_REASONS(X)
#undef X
	end(man);
}

static void
print_fields(bool man)
{
	begin(man, "| field | means |\n|---|---|");
	row(man, "ts", "when, UTC, to the millisecond");
	row(man, "level", "error, warn, info or debug");
#define X(name, type, text)                                                    \
	if (!is_reserved("FIELD_" #name))                                      \
		row(man, #name, text);
	LOG_FIELDS(X)
#undef X
	end(man);
}

static void
metric(bool man, const char *name, const char *kind, const char *labels,
    const char *help)
{
	if (man)
		printf(".It Li %s\n\\&%s\n.br\nType: %s%s%s.\n", name, help,
		    kind, labels[0] == '\0' ? "" : "; labels: ", labels);
	else
		printf("| `%s` | %s | %s | %s |\n", name, kind, labels, help);
}

static void
print_metrics(bool man)
{
	begin(man, "| family | type | labels | means |\n|---|---|---|---|");
#define X(name, kind, labels, help) metric(man, #name, #kind, labels, help);
	METRICS(X)
#undef X
	end(man);
}

static void
print_verb(const struct command *c)
{
	printf(".It Cm %s%s%s\n", c->verb, c->words[0] == '\0' ? "" : " ",
	    c->words);
	printf("\\&%s.\n.br\nRights: %s.\n", c->sentence, c->rights);
	if ((c->options & ~(unsigned int)OPT_HELP) == 0)
		return;
	printf(".Bl -tag -width Ds -compact\n");
	for (size_t i = 0; i < OPTION_COUNT; i++) {
		const struct option_row *o = option_at(i);

		if (i == OPTION_HELP || (c->options & (1u << i)) == 0)
			continue;
		printf(".It Fl \\-%s", o->name);
		if (o->value[0] != '\0')
			printf(" Ns = Ns Ar %s", o->value);
		printf("\n\\&%s\n", o->sentence);
	}
	printf(".El\n");
}

static void
print_verbs(bool man)
{
	begin(man, "| verb | does |\n|---|---|");
	for (size_t i = 0; i < command_count(); i++) {
		if (man)
			print_verb(command_at(i));
		else
			row(man, command_at(i)->verb, command_at(i)->sentence);
	}
	end(man);
}

static const struct {
	const char *name;
	void (*print)(bool man);
} tables[] = {
    {"closes", print_closes},
    {"denies", print_denies},
    {"fields", print_fields},
    {"metrics", print_metrics},
    {"verbs", print_verbs},
};

/* ---- Pages ---- */

static bool
print_table(const char *name, bool man)
{
	for (size_t i = 0; i < ARRAY_LEN(tables); i++)
		if (strcmp(tables[i].name, name) == 0) {
			tables[i].print(man);
			return true;
		}
	fprintf(stderr, "no table '%s'\n", name);
	return false;
}

static bool
fill_page(FILE *in)
{
	char line[1024];
	char name[32];
	bool skipping = false;

	while (fgets(line, sizeof(line), in) != NULL) {
		bool man = line[0] == '.';

		if (strcmp(line, "<!-- end -->\n") == 0 ||
		    strcmp(line, ".\\\" end\n") == 0)
			skipping = false;
		if (!skipping)
			fputs(line, stdout);
		if (sscanf(line, "<!-- table: %31[a-z]", name) != 1 &&
		    sscanf(line, ".\\\" table: %31[a-z]", name) != 1)
			continue;
		if (!print_table(name, man))
			return false;
		skipping = true;
	}
	return !skipping;
}

int
main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "reserved") == 0) {
		for (size_t i = 0; i < ARRAY_LEN(reserved); i++)
			printf("%s\n", reserved[i]);
		return 0;
	}
	if (argc == 2 && strcmp(argv[1], "page") == 0)
		return fill_page(stdin) ? 0 : 1;
	fprintf(stderr, "usage: docs_gen page <old >new | docs_gen reserved\n");
	return 2;
}
