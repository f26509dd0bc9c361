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

/* conn_log.c: the one line at the end, and what it counts. */
void conn_log_end(struct conn *c);

#endif
