#ifndef POSTERN_CLI_H
#define POSTERN_CLI_H

/*
 * The command line: one table of verbs gives dispatch, help and completion.
 * Verbs about files work alone; verbs about the running daemon send one line
 * and copy the answer. Main thread, before any other.
 */

#include <stddef.h>
#include <stdio.h>

/* Exit codes, an interface. */
enum {
	CLI_DONE = 0, /* done; decision is allow */
	CLI_FAILED = 1,
	CLI_USAGE = 2,
	CLI_BAD_CONF = 3,
	CLI_DENIED = 4,
	CLI_NO_IDENTITY = 5,
	CLI_NO_DAEMON = 6,
	CLI_DEGRADED = 7,
};

/* What the command line is given by main; all borrowed. */
struct cli_env {
	FILE *out, *err;
	/*
	 * Send a request line to the daemon at PATH (NULL: the usual places),
	 * copy the body of the answer to OUT, complaints to ERR. The exit
	 * code of the answer, CLI_NO_DAEMON if there is none.
	 */
	int (*ask)(const char *path, const char *line, FILE *out, FILE *err);
	/*
	 * Serve until told to stop; an exit code. FILES are those of --config,
	 * none: the usual ones. CONTROL and USER may be NULL.
	 */
	int (*run)(const char *const *files, size_t n_files,
	    const char *control, const char *user);
	/* "OpenSSL 3.0.0 ...", ended by NULL: for `version`. */
	const char *const *libraries;
};

/* ARGV as main has it. An exit code. */
int cli_main(int argc, char **argv, const struct cli_env *env);

#endif
