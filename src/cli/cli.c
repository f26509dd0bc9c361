#include "cli_int.h"

#include <assert.h>
#include <string.h>

static const struct option_row options[] = {
#define X(symbol, name, value, sentence) {name, value, sentence},
    CLI_OPTIONS(X)
#undef X
};

static const struct command commands[] = {
#define X(verb, handler, words, opts, rights, sentence, schema)                \
	{verb, run_##handler, words, (opts) | OPT_HELP, rights, sentence,      \
	    schema},
    CLI_COMMANDS(X)
#undef X
};

size_t
command_count(void)
{
	return ARRAY_LEN(commands);
}

const struct command *
command_at(size_t i)
{
	assert(i < ARRAY_LEN(commands));
	return &commands[i];
}

const struct option_row *
option_at(size_t i)
{
	assert(i < ARRAY_LEN(options));
	return &options[i];
}

/* ---- Complaints ---- */

int
usage(const struct args *a, const char *sentence)
{
	fprintf(a->env->err, "postern %s: %s\n", a->verb, sentence);
	fprintf(a->env->err, "see: postern %s --help\n", a->verb);
	return CLI_USAGE;
}

int
complain(const struct args *a, const char *what, const char *word,
    const char *const *near)
{
	const char *guess = conf_suggest(span_of_str(word), near);
	char shown[128];

	fprintf(a->env->err, "postern: unknown %s '%s'", what,
	    text_escape(span_of_str(word), shown, sizeof(shown)));
	if (guess != NULL)
		fprintf(a->env->err, "; did you mean '%s'?", guess);
	fprintf(a->env->err, "\n");
	return CLI_USAGE;
}

/* ---- Help ---- */

static void
help(FILE *out)
{
	fprintf(out, "postern: mTLS with SPIFFE identities for programs that "
	             "speak plain TCP\n\nusage: postern VERB ...\n\n");
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		fprintf(out, "  %-14s %s\n", commands[i].verb,
		    commands[i].sentence);
	fprintf(out,
	    "\nNext steps:\n"
	    "  1. write a service: /etc/postern/conf.d/NAME.ini, see "
	    "postern.ini(5)\n"
	    "  2. postern check\n"
	    "  3. postern explain inbound NAME spiffe://TRUST-DOMAIN/PATH\n"
	    "\n'postern VERB --help' says more about a verb.\n");
}

static void
verb_help(const struct command *c, FILE *out)
{
	fprintf(out, "postern %s %s\n  %s (rights: %s)\n", c->verb, c->words,
	    c->sentence, c->rights);
	for (size_t i = 0; i < OPTION_COUNT; i++) {
		const struct option_row *o = &options[i];

		if ((c->options & (1u << i)) == 0)
			continue;
		fprintf(out, "  --%s%s%-*s %s\n", o->name,
		    o->value[0] != '\0' ? "=" : "", (int)(18 - strlen(o->name)),
		    o->value, o->sentence);
	}
}

/* ---- Arguments ---- */

static const struct command *
find_command(const char *verb)
{
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		if (strcmp(commands[i].verb, verb) == 0)
			return &commands[i];
	return NULL;
}

static int
unknown_option(const struct args *a, const struct command *c, const char *word)
{
	const char *legal[OPTION_COUNT + 1];
	size_t n = 0;

	for (size_t i = 0; i < OPTION_COUNT; i++)
		if ((c->options & (1u << i)) != 0)
			legal[n++] = options[i].name;
	legal[n] = NULL;
	return complain(a, "option", word, legal);
}

/* `--name`, `--name=value` or `--name value`; *I moves over the value. */
static int
take_option(
    struct args *a, const struct command *c, int argc, char **argv, int *i)
{
	const char *word = argv[*i] + 2;
	size_t len = strcspn(word, "=");
	const char *value = word[len] == '=' ? word + len + 1 : NULL;
	size_t o = 0;

	while (o < OPTION_COUNT && (strlen(options[o].name) != len ||
	                               strncmp(options[o].name, word, len)))
		o++;
	if (o == OPTION_COUNT || (c->options & (1u << o)) == 0)
		return unknown_option(a, c, word);
	a->set |= 1u << o;
	if (options[o].value[0] == '\0')
		return value == NULL ? CLI_DONE
		                     : usage(a, "an option takes no value");
	if (value == NULL && *i + 1 < argc)
		value = argv[++*i];
	if (value == NULL || value[0] == '\0')
		return usage(a, "an option needs its value");
	a->value[o] = value;
	if (o == OPTION_CONFIG && a->n_config < WORDS_MAX)
		a->config[a->n_config++] = value;
	return CLI_DONE;
}

static int
take_words(struct args *a, const struct command *c, int argc, char **argv)
{
	for (int i = 2; i < argc; i++) {
		if (strncmp(argv[i], "--", 2) == 0) {
			int rc = take_option(a, c, argc, argv, &i);

			if (rc != CLI_DONE)
				return rc;
			continue;
		}
		if (a->n_words == WORDS_MAX)
			return usage(a, "too many words");
		a->words[a->n_words++] = argv[i];
	}
	return CLI_DONE;
}

int
cli_main(int argc, char **argv, const struct cli_env *env)
{
	struct args a = {.env = env, .verb = argc > 1 ? argv[1] : ""};
	const struct command *c = find_command(a.verb);
	int rc;

	if (argc < 2 || strcmp(a.verb, "--help") == 0 ||
	    strcmp(a.verb, "help") == 0) {
		help(argc < 2 ? env->err : env->out);
		return argc < 2 ? CLI_USAGE : CLI_DONE;
	}
	if (strcmp(a.verb, "--version") == 0)
		return run_version(&a);
	if (c == NULL) {
		const char *verbs[ARRAY_LEN(commands) + 1] = {NULL};

		for (size_t i = 0; i < ARRAY_LEN(commands); i++)
			verbs[i] = commands[i].verb;
		return complain(&a, "verb", a.verb, verbs);
	}
	rc = take_words(&a, c, argc, argv);
	if (rc != CLI_DONE)
		return rc;
	if ((a.set & OPT_HELP) != 0) {
		verb_help(c, env->out);
		return CLI_DONE;
	}
	if (a.n_words > 0 && c->words[0] == '\0')
		return usage(&a, "takes options only");
	return c->run(&a);
}
