#ifndef POSTERN_DEMO_H
#define POSTERN_DEMO_H

/*
 * `postern demo`: a legacy service, two proxies and a development issuer on
 * one host, to look at and to call. A supervisor in the foreground that knows
 * no TLS: everything happens in its children. Main thread, no other exists.
 */

#include <stdbool.h>
#include <stdio.h>

/* 1: failed; no other code but 0, stopped by a signal or files written. */
#define DEMO_FAILED 1

struct demo_args {
	bool with_intruder;    /* a caller whose identity is not allowed, too */
	const char *write_dir; /* leave configurations there, start nothing */
	unsigned int port;     /* the first of four */
	unsigned int rotate_s; /* new identities so often */
	FILE *out, *err;       /* borrowed */
};

/*
 * Run until SIGINT, SIGTERM or SIGHUP, or until a part ends by itself. Leaves
 * neither process nor file. Started as root it gives its rights away first,
 * for good.
 */
int demo_run(const struct demo_args *args);

#endif
