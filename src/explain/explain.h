#ifndef POSTERN_EXPLAIN_H
#define POSTERN_EXPLAIN_H

/*
 * Which rule decides, and if none: which came nearest and what to write. The
 * same answer from files on the command line and from the running daemon. May
 * ask the name service for the groups of a uid.
 */

#include <stdbool.h>

#include "conf.h"
#include "text.h"

struct explain_request {
	enum direction direction;
	const char *service;
	const char *peer; /* SPIFFE ID; NULL: not asked about */
	const char *uid;  /* outbound: a local caller; NULL: not asked about */
};

/* Exit codes of postern(1). */
enum { EXPLAIN_ALLOW = 0, EXPLAIN_USAGE = 2, EXPLAIN_DENY = 4 };

/*
 * Text or one JSON document (docs/schema/explain.json) is added to OUT; on
 * EXPLAIN_USAGE a sentence.
 */
int explain(const struct conf *c, const struct explain_request *r, bool as_json,
    struct text *out);

#endif
