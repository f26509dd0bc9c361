#ifndef POSTERN_CONN_INT_H
#define POSTERN_CONN_INT_H

/* What the files of conn share. */

#include "conn.h"

/* conn_judge.c: the answer of the service's rules to a verified peer. */
enum deny_reason conn_judge_peer(struct link_judge *judge, struct peer *peer);
/* Under the service's rules of now; counts and keeps the verdict. */
enum deny_reason conn_judge_id(struct conn *c, struct peer *peer);
/* Has the local program a matching caller rule? WAIT: groups are awaited. */
enum caller_answer { CALLER_NO, CALLER_YES, CALLER_WAIT };
enum caller_answer conn_judge_caller(struct conn *c);

/* conn_deadline.c: when a state's patience ends; INT64_MAX: never. */
int64_t conn_deadline(const struct conn *c);
/* That time has come: end the connection, or plan the next look. */
void conn_expire(struct conn *c);
/* After bytes moved: look for errors and dead legs in a while. */
void conn_plan_checks(struct conn *c);
void conn_arm_timer(struct conn *c);

/* conn.c: both sides closed and the line written; with resets, for REASON. */
void conn_over(struct conn *c);
void conn_reset(struct conn *c, enum close_reason reason);

static inline bool
conn_is_inbound(const struct conn *c)
{
	return c->service->direction == INBOUND;
}

/* conn_log.c: the one line at the end, and what it counts. */
void conn_log_end(struct conn *c);

#endif
