#include "conn_int.h"

#include <poll.h>

/*
 * Each state has one deadline, and each deadline its close reason
 * (conn_states.def). Activity stores a time and nothing else; the true
 * deadline is computed when the timer comes.
 */

#define LINGER_MS        2000
#define LINGER_DENIED_MS 1000
#define RECHECK_MS       100
#define DEAD_CHECK_MS    10000
#define CALLER_WAIT_MS   1000

static int64_t
after(int64_t since_ms, uint64_t timeout_ms)
{
	return timeout_ms == CONF_OFF ? INT64_MAX
	                              : since_ms + (int64_t)timeout_ms;
}

static int64_t
earlier(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static int64_t
half_deadline(const struct conn *c)
{
	int64_t since = c->active_ms > c->half_ms ? c->active_ms : c->half_ms;

	if (!relay_is_half_closed(&c->relay))
		return INT64_MAX;
	return after(since, c->service->half_close_timeout_ms);
}

static int64_t
relay_deadline(const struct conn *c)
{
	int64_t d = after(c->active_ms, c->service->idle_timeout_ms);

	d = earlier(d, half_deadline(c));
	if (c->recheck_ms != 0)
		d = earlier(d, c->recheck_ms);
	if (c->dead_check_ms != 0)
		d = earlier(d, c->dead_check_ms);
	return d;
}

int64_t
conn_deadline(const struct conn *c)
{
	const struct service *s = c->service;

	switch (c->state) {
	case CONN_CALLER:
		if (c->groups_asked && !c->groups_came)
			return c->state_ms + CALLER_WAIT_MS;
		return c->accepted_ms + s->handshake_timeout_ms;
	case CONN_ACCEPTED:
		return c->accepted_ms + s->handshake_timeout_ms;
	case CONN_DIAL:
		return earlier(
		    c->state_ms + s->connect_timeout_ms, dial_next_ms(c->dial));
	case CONN_HANDSHAKE:
		/* Inbound absolute from accept; outbound from the connect. */
		return (conn_is_inbound(c) ? c->accepted_ms : c->state_ms) +
		       s->handshake_timeout_ms;
	case CONN_RELAY:
		return relay_deadline(c);
	case CONN_LINGER:
		return c->state_ms +
		       (c->linger_drain ? LINGER_DENIED_MS : LINGER_MS);
	case CONN_AUTHORIZE:
	case CONN_CLOSED:
		break;
	}
	return INT64_MAX;
}

/*
 * Bytes came or went: in RECHECK_MS look for an error that was announced
 * together with them, and in DEAD_CHECK_MS whether the peer still answers. An
 * idle connection has neither.
 */
void
conn_plan_checks(struct conn *c)
{
	if (c->state != CONN_RELAY || c->active_ms != c->env->now_ms)
		return;
	if (c->recheck_ms == 0)
		c->recheck_ms = c->env->now_ms + RECHECK_MS;
	if (c->dead_check_ms == 0 &&
	    c->service->dead_peer_timeout_ms != CONF_OFF)
		c->dead_check_ms = c->env->now_ms + DEAD_CHECK_MS;
}

/*
 * libevent shows an error and a readable socket alike, so an error that came
 * in one edge with bytes would be seen only by the next read: poll tells. It
 * also tells of input behind an urgent byte: the kernel ends a read there,
 * which looks like a socket that is empty.
 */
static void
recheck_errors(struct conn *c)
{
	struct pollfd p[2] = {
	    {.fd = c->mesh_fd}, {.fd = c->plain_fd, .events = POLLIN}};

	if (poll(p, 2, 0) <= 0)
		return;
	if (p[0].revents & (POLLERR | POLLHUP))
		c->transport->ready(c->link, true, false, true);
	if (p[1].revents & (POLLERR | POLLHUP)) {
		c->plain.hup = true;
		c->plain.stream.readable = true;
	} else if (p[1].revents & POLLIN) {
		c->plain.stream.readable = true;
	}
}

/* False: a leg is dead, and the connection over. */
static bool
check_legs(struct conn *c)
{
	uint64_t timeout = c->service->dead_peer_timeout_ms;
	bool plain_is_tcp = !c->plain.is_unix;

	c->dead_check_ms = 0;
	if (timeout == CONF_OFF)
		return true;
	if (net_unacked(c->mesh_fd) == 0 &&
	    !(plain_is_tcp && net_unacked(c->plain_fd) != 0))
		return true; /* nothing in flight: the next byte asks again */
	if (net_peer_is_dead(c->mesh_fd, timeout) ||
	    (plain_is_tcp && net_peer_is_dead(c->plain_fd, timeout))) {
		conn_reset(c, CLOSE_DEAD_PEER);
		return false;
	}
	c->dead_check_ms = c->env->now_ms + DEAD_CHECK_MS;
	return true;
}

/* RELAY: whichever of its deadlines has passed. */
static void
expire_relay(struct conn *c)
{
	int64_t now = c->env->now_ms;

	if (c->recheck_ms != 0 && now >= c->recheck_ms) {
		c->recheck_ms = 0;
		recheck_errors(c);
	}
	if (c->dead_check_ms != 0 && now >= c->dead_check_ms && !check_legs(c))
		return;
	if (now >= half_deadline(c))
		conn_reset(c, CLOSE_HALF_CLOSE_IDLE);
	else if (now >= relay_deadline(c))
		conn_reset(c, CLOSE_IDLE);
}

static enum close_reason
timeout_reason(const struct conn *c)
{
	switch (c->state) {
#define X(state, deadline, reason)                                             \
	case CONN_##state:                                                     \
		return CLOSE_##reason;
		CONN_STATES(X)
#undef X
	}
	return CLOSE_ERROR;
}

/* The deadline of the state has passed. */
void
conn_expire(struct conn *c)
{
	int64_t now = c->env->now_ms;

	if (c->state == CONN_LINGER) {
		conn_over(c);
		return;
	}
	if (c->state == CONN_RELAY) {
		expire_relay(c);
		return;
	}
	if (c->state == CONN_CALLER && c->groups_asked && !c->groups_came) {
		c->groups_came = true; /* nobody answered: judged without */
		return;
	}
	if (c->state == CONN_DIAL &&
	    now < c->state_ms + c->service->connect_timeout_ms)
		return; /* only the dial's own pace: the step goes on */
	if (c->state == CONN_DIAL) {
		(void)dial_why(c->dial, &c->dst);
		c->dial_reason = DIAL_TIMEOUT;
		counter_add(
		    &conn_counters(c)->target_failures[DIAL_TIMEOUT], 1);
		if (!conn_is_inbound(c))
			c->env->resolve(c->env->owner, c->service);
	}
	if (c->state == CONN_HANDSHAKE || c->state == CONN_ACCEPTED ||
	    c->state == CONN_CALLER)
		c->reason_text = "timeout";
	conn_reset(c, timeout_reason(c));
}

void
conn_arm_timer(struct conn *c)
{
	int64_t due = conn_deadline(c);

	c->deadline_ms = due;
	if (due == INT64_MAX)
		return; /* a timer that is still set finds nothing to do */
	if (node_is_queued(&c->timer.node) && c->timer.due_ms <= due)
		return; /* comes earlier, and then finds the true one */
	wheel_set(c->env->wheel, &c->timer, due);
}

void
conn_timer(struct conn *c)
{
	if (c->state == CONN_CLOSED)
		return;
	if (c->env->now_ms >= conn_deadline(c))
		c->env->enqueue(c->env->owner, c);
	else
		conn_arm_timer(c);
}
