#include "conn_int.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "caller.h"
#include "spiffe.h"

/* The verdict about who calls; a denial here is one that audit lets pass. */
static void
note_caller(struct conn *c, enum deny_reason reason)
{
	c->deny = reason;
	c->audit_denied = reason != DENY_NOT;
}

enum deny_reason
conn_judge_id(struct conn *c, struct peer *peer)
{
	struct verdict v = policy_decide(c->service->policy, peer_id(peer));

	c->judged_generation = c->env->conf_generation;
	c->rule = v.rule;
	if (v.decision == DECISION_ALLOW) {
		/* What audit said about the local program stays said. */
		if (c->service->direction == INBOUND)
			note_caller(c, DENY_NOT);
		return DENY_NOT;
	}
	c->deny = v.reason;
	c->audit_denied = false;
	/* Audit softens rules about callers of a service, never `expect`. */
	if (c->service->direction == INBOUND &&
	    c->service->mode == MODE_AUDIT) {
		note_caller(c, v.reason);
		return DENY_NOT;
	}
	return c->deny;
}

/*
 * Called inside the handshake, before the peer has proved its key: nothing is
 * counted, dialled or logged here.
 */
enum deny_reason
conn_judge_peer(struct link_judge *judge, struct peer *peer)
{
	return conn_judge_id(CONTAINER_OF(judge, struct conn, judge), peer);
}

/*
 * Ask the kernel before the first read. A client that is gone by now answers
 * with inode 0 and perhaps uid 0, which would make every short-lived program
 * root: unknown is refused.
 */
static bool
look_up(struct conn *c)
{
	struct sockaddr_storage ss = {0};
	socklen_t len = sizeof(ss);
	struct addr local = {0};
	struct why why;

	if (c->caller != NULL)
		return true;
	c->caller = calloc(1, sizeof(*c->caller));
	if (c->caller == NULL)
		return false;
	if (getsockname(c->plain_fd, (struct sockaddr *)&ss, &len) == 0)
		addr_set(&local, (struct sockaddr *)&ss, len);
	if (caller_lookup(c->env->caller, c->plain_fd, &c->src, &local,
	        c->caller, &why) != FAULT_NONE) {
		*c->caller = (struct local_caller){0};
		c->why = malloc(sizeof(*c->why));
		if (c->why != NULL)
			*c->why = why;
	}
	return true;
}

enum caller_answer
conn_judge_caller(struct conn *c)
{
	struct caller_verdict v;

	if (!look_up(c))
		return CALLER_NO;
	if (c->service->n_callers == 0)
		return CALLER_YES; /* a unix listener, guarded by its mode */
	v = policy_decide_caller(
	    c->service->callers, c->service->n_callers, c->caller);
	c->judged_generation = c->env->conf_generation;
	c->caller_rule = v.rule;
	if (v.decision == DECISION_ALLOW)
		return CALLER_YES;
	if (v.needs_groups && !c->groups_came) {
		if (!c->groups_asked) {
			c->groups_asked = true;
			c->env->ask_groups(c->env->owner, c, c->caller->uid);
		}
		return CALLER_WAIT;
	}
	note_caller(c, DENY_LOCAL_CALLER);
	return c->service->mode == MODE_AUDIT ? CALLER_YES : CALLER_NO;
}

void
conn_groups(struct conn *c, const struct local_caller *facts)
{
	c->groups_came = true;
	if (facts != NULL && c->caller != NULL && facts->groups_known) {
		c->caller->groups_known = true;
		c->caller->n_groups = facts->n_groups;
		memcpy(c->caller->groups, facts->groups,
		    sizeof(c->caller->groups));
	}
	c->env->enqueue(c->env->owner, c);
}

/* The local program under the caller rules of now. */
static bool
caller_may_stay(struct conn *c)
{
	const struct service *s = c->service;
	struct caller_verdict v;

	c->caller_rule = NULL;
	/* Inbound; or not judged yet, or its groups are on their way. */
	if (c->caller == NULL || c->state <= CONN_CALLER)
		return true;
	note_caller(c, DENY_NOT);
	if (s->n_callers == 0)
		return true;
	v = policy_decide_caller(s->callers, s->n_callers, c->caller);
	c->caller_rule = v.rule;
	if (v.decision == DECISION_ALLOW)
		return true;
	note_caller(c, DENY_LOCAL_CALLER);
	c->audit_denied = s->mode == MODE_AUDIT;
	return c->audit_denied;
}

bool
conn_rejudge(struct conn *c, const struct service *service)
{
	c->service = service;
	c->link_conf.sni = service->sni;
	c->rule = NULL;
	/* A verdict given inside a handshake was the old service's. */
	c->judged_generation = 0;
	if (c->state == CONN_CLOSED)
		return true;
	if (c->state == CONN_LINGER) {
		c->caller_rule = NULL; /* of a configuration that goes */
		return true;
	}
	if (!caller_may_stay(c) ||
	    (c->peer != NULL && conn_judge_id(c, c->peer) != DENY_NOT)) {
		conn_abort(c, CLOSE_POLICY);
		return false;
	}
	/* A timeout that became shorter moves the deadline at once. */
	c->env->enqueue(c->env->owner, c);
	return true;
}
