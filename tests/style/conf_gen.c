/*
 * What is generated from the tables: the example file, and the manual page
 * out of its template, in which a line `@keys SECTION@` or `@codes@` stands
 * for a list. Built with the tests, never installed.
 */

#include <stdio.h>
#include <string.h>

#include "conf.h"

static const char *const sections[] = {
    "global", "policy", "inbound", "outbound"};

static bool
belongs(const struct conf_key *k, const char *section)
{
	return strstr(k->sections, section) != NULL;
}

/* ---- Example ---- */

/* Comment lines of at most 78 bytes. */
static void
print_wrapped(const char *text)
{
	size_t column = 0;

	while (*text != '\0') {
		size_t n = strcspn(text, " ");

		if (column != 0 && column + 1 + n > 78) {
			printf("\n");
			column = 0;
		}
		column += (size_t)printf(
		    "%s%.*s", column == 0 ? "# " : " ", (int)n, text);
		text += n + (text[n] == ' ');
	}
	printf("\n");
}

static void
print_example_key(const struct conf_key *k)
{
	print_wrapped(k->sentence);
	if (k->values[0] != '\0')
		printf("# One of: %s\n", k->values);
	printf("#%s =%s%s\n\n", k->key, k->initial[0] == '\0' ? "" : " ",
	    k->initial);
}

static void
print_example(void)
{
	print_wrapped("Postern: every key with its default, all of them "
	              "comments. Put services into conf.d/NAME.ini. See "
	              "postern.ini(5); try changes with postern check.");
	for (size_t s = 0; s < 4; s++) {
		printf("\n#[%s%s]\n\n", sections[s], s == 0 ? "" : " NAME");
		for (size_t i = 0; i < conf_key_count(); i++) {
			struct conf_key k = conf_key(i);

			if (belongs(&k, sections[s]))
				print_example_key(&k);
		}
	}
}

/* ---- Manual ---- */

/* In mdoc a sentence begins a line. */
static void
print_man_sentences(const char *text)
{
	printf("\\&");
	for (; *text != '\0'; text++) {
		if (strncmp(text, ". ", 2) == 0) {
			printf(".\n\\&");
			text++;
		} else {
			putchar(*text);
		}
	}
	printf("\n");
}

static void
print_man_key(const struct conf_key *k)
{
	printf(".It Ic %s\n", k->key);
	print_man_sentences(k->sentence);
	printf(".br\n");
	printf("Type: %s", k->type);
	if (k->values[0] != '\0')
		printf(" (%s)", k->values);
	if (k->is_list)
		printf(", may repeat");
	if (k->initial[0] != '\0')
		printf("; default: %s", k->initial);
	printf("; reload: %c; since %s.\n", k->reload, k->since);
}

static void
print_man_keys(const char *section)
{
	printf(".Bl -tag -width Ds\n");
	for (size_t i = 0; i < conf_key_count(); i++) {
		struct conf_key k = conf_key(i);

		if (belongs(&k, section))
			print_man_key(&k);
	}
	printf(".El\n");
}

static void
print_man_codes(void)
{
	printf(".Bl -tag -width Ds\n");
	for (size_t i = 0; i < diag_code_count(); i++) {
		const struct diag_code *c = diag_code(i);

		/* A quote at the start of a line would be a macro. */
		printf(".It %s (%s)\n\\&%s.\n", c->code,
		    diag_severity_name(c->severity), c->sentence);
	}
	printf(".El\n");
}

static void
fill_template(FILE *in)
{
	char line[1024];
	char section[32];

	while (fgets(line, sizeof(line), in) != NULL) {
		if (sscanf(line, "@keys %31[a-z]@", section) == 1)
			print_man_keys(section);
		else if (strcmp(line, "@codes@\n") == 0)
			print_man_codes();
		else
			fputs(line, stdout);
	}
}

int
main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "example") == 0) {
		print_example();
		return 0;
	}
	if (argc == 2 && strcmp(argv[1], "man") == 0) {
		fill_template(stdin);
		return 0;
	}
	fprintf(stderr, "usage: conf_gen example | man <template\n");
	return 2;
}
