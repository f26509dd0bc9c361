#ifndef POSTERN_CONTROL_H
#define POSTERN_CONTROL_H

/*
 * The control thread of `postern run`, and the client half that the command
 * line uses to ask it.
 */

#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

struct control_args {
	/* Files to read; none: /etc/postern/postern.ini and its conf.d. */
	const char *const *files;
	size_t n_files;
	const char *control_path; /* NULL: from the configuration */
	/* Whom to become when started as root; NULL: user `postern`. */
	const char *user;
};

/*
 * Serve until SIGTERM or SIGINT. Returns an exit code of postern(1): 0 stopped
 * and drained, 1 failure, 2 usage, 3 configuration invalid, 7 connections had
 * to be aborted at the end of the drain. Main thread.
 */
int control_run(const struct control_args *args);

/*
 * Ask the daemon: LINE is "text VERB WORD..." or "json VERB WORD...". PATH
 * NULL tries the default places. The reply goes to OUT; the return value is
 * the daemon's exit code for the verb, or 6 with a sentence on ERR when it
 * cannot be reached or the reply was cut.
 */
int control_ask(const char *path, const char *line, FILE *out, FILE *err);

/* The default socket of a daemon, and of one without root: for messages. */
#define CONTROL_PATH "/run/postern/control.sock"

#endif
