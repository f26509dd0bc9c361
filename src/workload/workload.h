#ifndef POSTERN_WORKLOAD_H
#define POSTERN_WORKLOAD_H

/*
 * The SPIFFE Workload API as an identity source: FetchX509SVID over gRPC on a
 * unix socket (or tcp), reconnecting for ever. Control thread.
 */

#include "err.h"
#include "mem.h"

struct source_ops;

const struct source_ops *workload_source(void);

/*
 * Is this an endpoint (SPIFFE Workload Endpoint, section 4)? A sentence that
 * says what to write, else.
 */
enum fault workload_endpoint_check(struct span text, struct why *why);

#endif
