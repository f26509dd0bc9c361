#ifndef POSTERN_POLICY_INT_H
#define POSTERN_POLICY_INT_H

/* Patterns, shared by the two ways to match: one rule, and many. */

#include <stdbool.h>

#include "mem.h"
#include "policy.h"

/* Segments of a path of SPIFFE_ID_MAX bytes, each at least "/x". */
#define SEGMENTS_MAX (SPIFFE_ID_MAX / 2)

/*
 * Take the next segment, without its '/', from the front of a path that
 * begins with '/'. False at the end of the path.
 */
bool path_next(struct span *path, struct span *segment_r);

/* Does SEGMENT fit PATTERN, in which each '*' stands for one or more bytes? */
bool segment_matches(struct span pattern, struct span segment);

/* The trust domain and the path of a rule that has them (not RULE_NONE). */
struct span rule_trust_domain(const struct rule *rule);
struct span rule_path(const struct rule *rule);

/* Does every ID of B belong to A? No means: not as far as segments show. */
bool rule_covers(const struct rule *a, const struct rule *b);

#endif
