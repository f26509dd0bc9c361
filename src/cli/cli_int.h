#ifndef POSTERN_CLI_INT_H
#define POSTERN_CLI_INT_H

/* Arguments as the verbs see them. */

#include <stdbool.h>
#include <stddef.h>

#include "cli.h"
#include "commands.def"
#include "conf.h"

enum option_index {
#define X(symbol, name, value, sentence) OPTION_##symbol,
	CLI_OPTIONS(X)
#undef X
};
enum option_bit {
	OPT_NONE = 0,
#define X(symbol, name, value, sentence) OPT_##symbol = 1 << OPTION_##symbol,
	CLI_OPTIONS(X)
#undef X
};
#define X(...) +1
enum { OPTION_COUNT = 0 CLI_OPTIONS(X) };
#undef X

#define WORDS_MAX 64

struct args {
	const struct cli_env *env;
	const char *verb;
	unsigned int set;                /* bits of enum option_bit */
	const char *value[OPTION_COUNT]; /* the last one */
	const char *words[WORDS_MAX];
	size_t n_words;
	const char *config[WORDS_MAX];
	size_t n_config;
};

struct option_row {
	const char *name;
	const char *value; /* "" if it takes none */
	const char *sentence;
};

struct command {
	const char *verb;
	int (*run)(const struct args *a);
	const char *words;
	unsigned int options;
	const char *rights;
	const char *sentence;
	const char *schema;
};

size_t command_count(void);
const struct command *command_at(size_t i);
const struct option_row *option_at(size_t i);

/* "did you mean ...?", and CLI_USAGE. */
int complain(const struct args *a, const char *what, const char *word,
    const char *const *near);
int usage(const struct args *a, const char *sentence);

/* Findings as text to a stream, colours only on a terminal. */
void print_diags(const struct diags *d, FILE *out);
/* Load the files of --config, or the usual ones; NULL after complaining. */
struct conf *load_conf(const struct args *a);
/* The request line of an online verb, sent; see cli_env. */
int ask_daemon(const struct args *a, unsigned int own_options);

int run_check(const struct args *a);
int run_explain(const struct args *a);
int run_explain_error(const struct args *a);
int run_dump(const struct args *a);
int run_online(const struct args *a);
int run_status(const struct args *a);
int run_run(const struct args *a);
int run_demo(const struct args *a);
int run_completion(const struct args *a);
int run_version(const struct args *a);

#endif
