#include "cli_int.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "demo.h"
#include "json.h"
#include "reasons.h"

/* ---- explain-error ---- */

static bool
explain_code(const char *word, FILE *out)
{
	for (size_t i = 0; i < diag_code_count(); i++) {
		const struct diag_code *c = diag_code(i);

		if (strcasecmp(c->code, word) != 0)
			continue;
		fprintf(out, "%s (%s): %s\n\n%s\n", c->code,
		    diag_severity_name(c->severity), c->sentence, c->page);
		return true;
	}
	return false;
}

static bool
explain_reason(const char *word, FILE *out)
{
	for (int r = 1; r < DENY_REASON_COUNT; r++)
		if (strcmp(deny_reason_label((enum deny_reason)r), word) == 0) {
			fprintf(out, "%s (deny reason): %s\n", word,
			    deny_reason_sentence((enum deny_reason)r));
			return true;
		}
	for (int r = 1; r < CLOSE_REASON_COUNT; r++)
		if (strcmp(close_reason_label((enum close_reason)r), word) ==
		    0) {
			fprintf(out, "%s (close reason): %s\n", word,
			    close_reason_sentence((enum close_reason)r));
			return true;
		}
	return false;
}

int
run_explain_error(const struct args *a)
{
	const char *near[DENY_REASON_COUNT + CLOSE_REASON_COUNT] = {NULL};
	size_t n = 0;

	if (a->n_words != 1)
		return usage(a, "name one code, such as C104 or no_rule");
	if (explain_code(a->words[0], a->env->out) ||
	    explain_reason(a->words[0], a->env->out))
		return CLI_DONE;
	for (int r = 1; r < DENY_REASON_COUNT; r++)
		near[n++] = deny_reason_label((enum deny_reason)r);
	for (int r = 1; r < CLOSE_REASON_COUNT; r++)
		near[n++] = close_reason_label((enum close_reason)r);
	return complain(a, "code", a->words[0], near);
}

/* ---- Asking the daemon ---- */

/* One line, words with blanks between: nothing in them may break it. */
static bool
is_plain_word(const char *s)
{
	for (; *s != '\0'; s++)
		if ((unsigned char)*s <= ' ' || (unsigned char)*s > 0x7e)
			return false;
	return true;
}

int
ask_daemon(const struct args *a, unsigned int own_options)
{
	AUTO(text_fini) struct text line;

	text_init(&line);
	text_add(&line, "%s %s", (a->set & OPT_JSON) != 0 ? "json" : "text",
	    a->verb);
	for (size_t i = 0; i < a->n_words; i++) {
		if (!is_plain_word(a->words[i]))
			return usage(a, "words must be plain ASCII");
		text_add(&line, " %s", a->words[i]);
	}
	for (size_t i = 0; i < OPTION_COUNT; i++) {
		if ((a->set & own_options & (1u << i)) == 0)
			continue;
		text_add(&line, " --%s", option_at(i)->name);
		if (a->value[i] == NULL)
			continue;
		if (!is_plain_word(a->value[i]))
			return usage(a, "values must be plain ASCII");
		text_add(&line, " %s", a->value[i]);
	}
	if (line.failed)
		return CLI_FAILED;
	return a->env->ask(
	    a->value[OPTION_CONTROL], line.data, a->env->out, a->env->err);
}

int
run_online(const struct args *a)
{
	const unsigned int chosen = OPT_SERVICE | OPT_PEER | OPT_CONN;

	/* Without a choice it would abort everything. */
	if (strcmp(a->verb, "close") == 0 &&
	    __builtin_popcount(a->set & chosen) != 1)
		return usage(a, "name one of --peer, --service and --conn");
	return ask_daemon(a, chosen);
}

/* ---- status ---- */

/* Like top on a terminal, one after another when piped. */
int
run_status(const struct args *a)
{
	bool terminal = isatty(fileno(a->env->out)) == 1;
	int rc;

	if ((a->set & OPT_WATCH) == 0)
		return ask_daemon(a, 0);
	for (;;) {
		if (terminal)
			fputs("\033[H\033[2J", a->env->out);
		rc = ask_daemon(a, 0);
		if (rc == CLI_NO_DAEMON || rc == CLI_USAGE)
			return rc;
		/* A reader that went away ends the watch. */
		if (fflush(a->env->out) != 0)
			return CLI_DONE;
		(void)sleep(1);
	}
}

/* ---- run ---- */

int
run_run(const struct args *a)
{
	return a->env->run(a->config, a->n_config, a->value[OPTION_CONTROL],
	    a->value[OPTION_USER]);
}

/* ---- demo ---- */

static bool
number_of(const struct args *a, enum option_index o, unsigned long max,
    unsigned int *n_r)
{
	const char *text = a->value[o];
	unsigned long n;
	char *end;

	if (text == NULL)
		return true;
	n = strtoul(text, &end, 10);
	if (*text < '0' || *text > '9' || *end != '\0' || n == 0 || n > max)
		return false;
	*n_r = (unsigned int)n;
	return true;
}

int
run_demo(const struct args *a)
{
	struct demo_args d = {
	    .with_intruder = (a->set & OPT_INTRUDER) != 0,
	    .write_dir = a->value[OPTION_WRITE],
	    .port = 18080,
	    .rotate_s = 30,
	    .out = a->env->out,
	    .err = a->env->err,
	};

	if (!number_of(a, OPTION_PORT, 65532, &d.port))
		return usage(a, "--port takes a number from 1 to 65532");
	if (!number_of(a, OPTION_ROTATE, 150, &d.rotate_s))
		return usage(a, "--rotate takes 1 to 150 seconds");
	return demo_run(&d);
}

/* ---- dump ---- */

int
run_dump(const struct args *a)
{
	AUTO(text_fini) struct text t;
	AUTO(conf_free) struct conf *c = NULL;

	text_init(&t);
	if ((a->set & OPT_DEFAULTS) != 0) {
		conf_dump_defaults(&t);
	} else if ((a->set & OPT_CONFIG) == 0) {
		return ask_daemon(a, OPT_ORIGIN);
	} else {
		c = load_conf(a);
		if (c == NULL)
			return CLI_BAD_CONF;
		conf_dump(c, (a->set & OPT_ORIGIN) != 0, &t);
	}
	fputs(t.data, a->env->out);
	return t.failed ? CLI_FAILED : CLI_DONE;
}

/* ---- version ---- */

int
run_version(const struct args *a)
{
	AUTO(text_fini) struct text t;
	struct json j;

	text_init(&t);
	if ((a->set & OPT_JSON) == 0) {
		fprintf(a->env->out, "postern " POSTERN_VERSION "\n");
		for (size_t i = 0; a->env->libraries[i] != NULL; i++)
			fprintf(a->env->out, "%s\n", a->env->libraries[i]);
		return CLI_DONE;
	}
	json_init(&j, &t);
	json_object(&j);
	json_kstr(&j, "schema", "postern.version/1");
	json_kstr(&j, "version", POSTERN_VERSION);
	json_key(&j, "libraries");
	json_array(&j);
	for (size_t i = 0; a->env->libraries[i] != NULL; i++)
		json_str(&j, a->env->libraries[i]);
	json_array_end(&j);
	json_object_end(&j);
	fprintf(a->env->out, "%s\n", t.data);
	return CLI_DONE;
}

/* ---- completion ---- */

static void
list_verbs(FILE *out)
{
	for (size_t i = 0; i < command_count(); i++)
		fprintf(out, "%s%s", i == 0 ? "" : " ", command_at(i)->verb);
}

static void
list_options(const struct command *c, FILE *out)
{
	const char *blank = "";

	for (size_t i = 0; i < OPTION_COUNT; i++)
		if ((c->options & (1u << i)) != 0) {
			fprintf(out, "%s--%s", blank, option_at(i)->name);
			blank = " ";
		}
}

static void
complete_bash(FILE *out)
{
	fprintf(out, "# bash completion for postern\n_postern() {\n"
	             "\tlocal cur=${COMP_WORDS[COMP_CWORD]} words\n"
	             "\tcase ${COMP_WORDS[1]} in\n");
	for (size_t i = 0; i < command_count(); i++) {
		fprintf(out, "\t%s) words='", command_at(i)->verb);
		list_options(command_at(i), out);
		fprintf(out, "' ;;\n");
	}
	fprintf(out, "\tesac\n\tif [ \"$COMP_CWORD\" = 1 ]; then words='");
	list_verbs(out);
	fprintf(out, "'; fi\n"
	             "\tCOMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
	             "}\ncomplete -o default -F _postern postern\n");
}

static void
complete_zsh(FILE *out)
{
	fprintf(out, "#compdef postern\n_postern() {\n"
	             "\tif (( CURRENT == 2 )); then\n\t\tcompadd -- ");
	list_verbs(out);
	fprintf(out, "\n\t\treturn\n\tfi\n\tcase ${words[2]} in\n");
	for (size_t i = 0; i < command_count(); i++) {
		fprintf(out, "\t%s) compadd -- ", command_at(i)->verb);
		list_options(command_at(i), out);
		fprintf(out, " ;;\n");
	}
	fprintf(out, "\tesac\n\t_files\n}\n_postern \"$@\"\n");
}

static void
complete_fish(FILE *out)
{
	for (size_t i = 0; i < command_count(); i++) {
		const struct command *c = command_at(i);

		fprintf(out,
		    "complete -c postern -n __fish_use_subcommand -f -a %s "
		    "-d '%s'\n",
		    c->verb, c->sentence);
		for (size_t o = 0; o < OPTION_COUNT; o++)
			if ((c->options & (1u << o)) != 0)
				fprintf(out,
				    "complete -c postern -n "
				    "'__fish_seen_subcommand_from %s' -l %s "
				    "-d '%s'\n",
				    c->verb, option_at(o)->name,
				    option_at(o)->sentence);
	}
}

int
run_completion(const struct args *a)
{
	static const char *const shells[] = {"bash", "zsh", "fish", NULL};

	if (a->n_words != 1)
		return usage(a, "name a shell: bash, zsh or fish");
	if (strcmp(a->words[0], "bash") == 0)
		complete_bash(a->env->out);
	else if (strcmp(a->words[0], "zsh") == 0)
		complete_zsh(a->env->out);
	else if (strcmp(a->words[0], "fish") == 0)
		complete_fish(a->env->out);
	else
		return complain(a, "shell", a->words[0], shells);
	return CLI_DONE;
}
