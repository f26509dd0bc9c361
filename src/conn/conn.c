#include "conn_int.h"

#include <assert.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "caller.h"
#include "clock.h"
#include "spiffe.h"
#include "tls.h"

#define LINGER_READ_MAX ((size_t)64 * 1024)

const char *
conn_state_name(enum conn_state s)
{
	switch (s) {
#define X(state, deadline, reason)                                             \
	case CONN_##state:                                                     \
		return #state;
		CONN_STATES(X)
#undef X
	}
	return "?";
}

const char *
conn_id_text(uint64_t id, char buf[CONN_ID_TEXT])
{
	(void)snprintf(buf, CONN_ID_TEXT, "%llx", (unsigned long long)id);
	return buf;
}

struct service_counters *
conn_counters(const struct conn *c)
{
	return &c->service->shared->workers[c->env->worker];
}

/* The only place where a state changes. */
static void
move_to(struct conn *c, enum conn_state state)
{
	c->state = state;
	c->state_ms = c->env->now_ms;
}

/* ---- Edges ---- */

static void
on_mesh_edge(evutil_socket_t fd, short what, void *arg)
{
	struct conn *c = arg;
	bool hup = (what & EV_CLOSED) != 0;

	(void)fd;
	if (c->link != NULL)
		c->transport->ready(c->link, hup || (what & EV_READ) != 0,
		    (what & EV_WRITE) != 0, hup);
	else
		c->mesh_hup |= hup;
	c->env->enqueue(c->env->owner, c);
}

static void
on_plain_edge(evutil_socket_t fd, short what, void *arg)
{
	struct conn *c = arg;

	(void)fd;
	if (what & (EV_READ | EV_CLOSED))
		c->plain.stream.readable = true;
	if (what & EV_WRITE)
		c->plain.stream.writable = true;
	if (what & EV_CLOSED)
		c->plain.hup = true;
	c->env->enqueue(c->env->owner, c);
}

/* Two epoll_ctl calls per descriptor in its life: one here, one at its end. */
static bool
watch(struct conn *c, struct event *ev, int fd, event_callback_fn cb)
{
	const short what = EV_READ | EV_WRITE | EV_CLOSED | EV_ET | EV_PERSIST;

	return event_assign(ev, c->env->base, fd, what, cb, c) == 0 &&
	       event_add(ev, NULL) == 0;
}

static bool
watch_mesh(struct conn *c)
{
	c->mesh_event_on = watch(c, &c->mesh_event, c->mesh_fd, on_mesh_edge);
	return c->mesh_event_on;
}

static bool
watch_plain(struct conn *c)
{
	bool is_unix;

	if (conn_is_inbound(c))
		is_unix = addr_family(&c->dst) == AF_UNIX;
	else
		is_unix = addr_family(&c->src) == AF_UNIX;
	stream_plain_init(&c->plain, c->plain_fd, is_unix);
	c->plain_event_on =
	    watch(c, &c->plain_event, c->plain_fd, on_plain_edge);
	return c->plain_event_on;
}

static void
close_mesh(struct conn *c)
{
	if (c->mesh_event_on)
		(void)event_del(&c->mesh_event);
	c->mesh_event_on = false;
	if (c->mesh_fd != -1)
		(void)close(c->mesh_fd);
	c->mesh_fd = -1;
}

static void
close_plain(struct conn *c)
{
	if (c->plain_event_on)
		(void)event_del(&c->plain_event);
	c->plain_event_on = false;
	if (c->plain_fd != -1)
		(void)close(c->plain_fd);
	c->plain_fd = -1;
}

/* ---- Endings ---- */

static void
keep_why(struct conn *c, const struct why *why)
{
	if (why->text[0] == '\0')
		return;
	if (c->why == NULL)
		c->why = malloc(sizeof(*c->why));
	if (c->why != NULL)
		*c->why = *why;
}

/* Wire first, memory in a later turn. */
void
conn_over(struct conn *c)
{
	dial_free(&c->dial);
	close_plain(c);
	close_mesh(c);
	move_to(c, CONN_CLOSED);
	conn_log_end(c);
}

/* Resets on both sides, now. */
void
conn_reset(struct conn *c, enum close_reason reason)
{
	if (c->close == CLOSE_NOT)
		c->close = reason;
	if (c->mesh_fd != -1)
		net_linger_zero(c->mesh_fd, true);
	conn_over(c);
}

void
conn_abort(struct conn *c, enum close_reason reason)
{
	if (c->state == CONN_CLOSED)
		return;
	conn_reset(c, reason);
	c->env->enqueue(c->env->owner, c);
}

/* Refuse before anything was dialled or shaken: a reset says it. */
static void
refuse(struct conn *c, enum deny_reason reason)
{
	c->deny = reason;
	c->audit_denied = false;
	conn_reset(c, CLOSE_DENIED);
}

/*
 * The alert is out: shut for writing and read out what still comes, or the
 * reset of a close with unread input would eat the alert.
 */
static void
linger_denied(struct conn *c, enum close_reason reason)
{
	c->close = reason;
	close_plain(c);
	(void)shutdown(c->mesh_fd, SHUT_WR);
	c->linger_drain = true;
	move_to(c, CONN_LINGER);
}

/* Bytes that were read before the abort still go out, for two seconds. */
static void
linger_abort(struct conn *c, struct pump *owing, enum close_reason reason)
{
	c->close = reason;
	c->linger_abort = true;
	c->linger_pump = owing;
	move_to(c, CONN_LINGER);
}

/* ---- Making ---- */

struct conn *
conn_new(struct conn_env *env, const struct service *service, int fd,
    const struct addr *from, uint64_t id)
{
	struct conn *c = calloc(1, sizeof(*c));
	bool ok;

	if (c == NULL) {
		net_linger_zero(fd, true);
		(void)close(fd);
		return NULL;
	}
	node_init(&c->all);
	node_init(&c->queue);
	timer_init(&c->timer);
	c->env = env;
	c->service = service;
	c->id = id;
	c->mesh_fd = c->plain_fd = -1;
	c->src = *from;
	c->accepted_ms = c->state_ms = c->active_ms = env->now_ms;
	c->connect_ms = c->handshake_ms = c->first_byte_ms = -1;
	c->transport = env->transport;
	c->judge.judge = conn_judge_peer;
	c->link_conf = (struct link_conf){
	    .tls = env->tls,
	    .tls12 = service->tls12,
	    .ignore_intermediate_eku = service->eku_ignore,
	    .end_without_close_notify = service->end_without_close_notify,
	    .sni = service->sni,
	};
	counter_add(&conn_counters(c)->opened, 1);
	if (conn_is_inbound(c)) {
		c->mesh_fd = fd;
		ok = watch_mesh(c);
	} else {
		c->plain_fd = fd;
		ok = watch_plain(c);
	}
	if (!ok)
		conn_abort(c, CLOSE_ERROR);
	return c;
}

void
conn_free(struct conn **cp)
{
	struct conn *c = *cp;
	struct counter *closed;

	if (c == NULL)
		return;
	closed = &conn_counters(c)->closed;
	assert(c->state == CONN_CLOSED);
	assert(!node_is_queued(&c->queue));
	node_remove(&c->all);
	wheel_cancel(c->env->wheel, &c->timer);
	relay_fini(&c->relay, c->env->scratch.spills);
	if (c->link != NULL)
		c->transport->free(&c->link);
	if (c->peer != NULL)
		peer_release(&c->peer);
	free(c->caller);
	free(c->why);
	free(c->claimed_id);
	free(c);
	*cp = NULL;
	/* Last: with its last connection the service itself may be freed. */
	counter_set_release(closed, counter_get(closed) + 1);
}

/* ---- Steps ---- */

/*
 * Has the side that waits for the other gone away? Asked on its edges only;
 * bytes that it sent stay in the kernel, unread.
 */
static bool
waiting_side_is_gone(struct conn *c)
{
	bool gone;

	if (conn_is_inbound(c)) {
		gone = net_poll_gone(c->mesh_fd, false) == NET_ABORTED;
	} else {
		if (!c->plain.stream.readable)
			return false;
		c->plain.stream.readable = false;
		gone =
		    net_poll_gone(c->plain_fd, c->plain.is_unix) == NET_ABORTED;
	}
	if (gone)
		conn_reset(c, CLOSE_CALLER_GONE);
	return gone;
}

static enum conn_verdict
start_handshake(struct conn *c)
{
	c->handshake_ns = clock_boot_ns();
	if (conn_is_inbound(c))
		c->link =
		    c->transport->accept(c->mesh_fd, &c->link_conf, &c->judge);
	else
		c->link =
		    c->transport->connect(c->mesh_fd, &c->link_conf, &c->judge);
	if (c->link == NULL) {
		conn_reset(c, CLOSE_ERROR);
		return CONN_OVER;
	}
	if (c->mesh_hup)
		c->transport->ready(c->link, true, false, true);
	move_to(c, CONN_HANDSHAKE);
	return CONN_WAIT;
}

static enum conn_verdict
step_accepted(struct conn *c)
{
	if (conn_is_inbound(c))
		return start_handshake(c);
	move_to(c, CONN_CALLER);
	return CONN_WAIT;
}

static uint64_t
addr_hash(const struct addr *a)
{
	const uint8_t *p = (const uint8_t *)&a->sa;
	uint64_t h = 1469598103934665603u; /* FNV-1a */

	for (size_t i = 0; i < a->len; i++)
		h = (h ^ p[i]) * 1099511628211u;
	return h | 1;
}

/* New connections go to the address that worked last, over all workers. */
static size_t
first_target(const struct service *s, const struct target_list *list)
{
	uint64_t last =
	    atomic_load_explicit(&s->shared->last_target, memory_order_relaxed);

	for (size_t i = 0; last != 0 && i < list->n; i++) {
		if (addr_hash(&list->addrs[i]) == last)
			return i;
	}
	return 0;
}

static void
on_dial_wake(void *arg)
{
	struct conn *c = arg;

	c->env->enqueue(c->env->owner, c);
}

static enum conn_verdict
start_dial(struct conn *c)
{
	const struct service *s = c->service;
	struct target_list app = {.addrs = (struct addr[]){s->forward}, .n = 1};
	const struct target_list *list =
	    conn_is_inbound(c) ? &app : c->env->targets(c->env->owner, s);
	struct dial_args args = {
	    .base = c->env->base,
	    .addrs = list->addrs,
	    .n_addrs = list->n,
	    .first = conn_is_inbound(c) ? 0 : first_target(s, list),
	    .side = conn_is_inbound(c) ? SIDE_PLAIN : SIDE_MESH,
	    .keepalive_s = s->keepalive_s,
	    .breaker = c->env->breaker,
	    .wake = on_dial_wake,
	    .arg = c,
	};

	c->dial_ns = clock_boot_ns();
	c->dial = dial_start(&args, c->env->now_ms);
	if (c->dial == NULL) {
		conn_reset(c, CLOSE_ERROR);
		return CONN_OVER;
	}
	move_to(c, CONN_DIAL);
	return CONN_WAIT;
}

static enum conn_verdict
step_caller(struct conn *c)
{
	switch (conn_judge_caller(c)) {
	case CALLER_WAIT:
		return CONN_WAIT;
	case CALLER_NO:
		refuse(c, DENY_LOCAL_CALLER);
		return CONN_OVER;
	case CALLER_YES:
		break;
	}
	if (!tls_env_can_present(c->env->tls, c->env->now_s)) {
		refuse(c, DENY_NO_IDENTITY);
		return CONN_OVER;
	}
	return start_dial(c);
}

/* Both sides stand. Zero linger: our own death must not look like an end. */
static enum conn_verdict
start_relay(struct conn *c)
{
	struct addr asked;

	if (c->transport->step(c->link, true) != LINK_STREAM) {
		conn_reset(c, CLOSE_ERROR);
		return CONN_OVER;
	}
	c->mesh = c->transport->next_stream(c->link, &asked);
	net_linger_zero(c->mesh_fd, true);
	c->plain.stream.readable = true;
	relay_init(&c->relay, c->mesh, &c->plain.stream);
	c->active_ms = c->env->now_ms;
	move_to(c, CONN_RELAY);
	return CONN_WAIT;
}

static void
dial_failed(struct conn *c)
{
	c->dial_reason = dial_why(c->dial, &c->dst);
	counter_add(&conn_counters(c)->target_failures[c->dial_reason], 1);
	if (!conn_is_inbound(c))
		c->env->resolve(c->env->owner, c->service);
	conn_reset(c, CLOSE_DIAL_FAILED);
}

static enum conn_verdict
dial_connected(struct conn *c)
{
	int fd = dial_take(c->dial, &c->dst);
	int error = dial_error(c->dial);
	uint64_t ns = (uint64_t)(clock_boot_ns() - c->dial_ns);

	dial_free(&c->dial);
	c->connect_ms = (int64_t)(ns / 1000000);
	histogram_add(&conn_counters(c)->connect, ns);
	if (conn_is_inbound(c)) {
		c->plain_fd = fd;
		if (!watch_plain(c)) {
			conn_reset(c, CLOSE_ERROR);
			return CONN_OVER;
		}
		if (error != 0)
			stream_plain_broke(&c->plain, error);
		return start_relay(c);
	}
	c->mesh_fd = fd;
	atomic_store_explicit(&c->service->shared->last_target,
	    addr_hash(&c->dst), memory_order_relaxed);
	if (!watch_mesh(c)) {
		conn_reset(c, CLOSE_ERROR);
		return CONN_OVER;
	}
	/* The fence again: a dial may have outlived the SVID. */
	if (!tls_env_can_present(c->env->tls, c->env->now_s)) {
		refuse(c, DENY_NO_IDENTITY);
		return CONN_OVER;
	}
	return start_handshake(c);
}

static enum conn_verdict
step_dial(struct conn *c)
{
	if (waiting_side_is_gone(c))
		return CONN_OVER;
	switch (dial_step(c->dial, c->env->now_ms)) {
	case DIAL_WAIT:
		return CONN_WAIT;
	case DIAL_CONNECTED:
		return dial_connected(c);
	case DIAL_FAILED:
		break;
	}
	dial_failed(c);
	return CONN_OVER;
}

/* What a failed handshake means for the connection. */
static enum conn_verdict
handshake_failed(struct conn *c)
{
	const struct link_failure *f = c->transport->failure(c->link);

	keep_why(c, &f->why);
	switch (f->kind) {
	case LINK_REFUSED:
		c->deny = f->reason;
		c->audit_denied = false;
		if (f->claimed_id != NULL && c->claimed_id == NULL)
			c->claimed_id = span_dup(span_of_str(f->claimed_id));
		linger_denied(c, CLOSE_DENIED);
		return CONN_WAIT;
	case LINK_PROTOCOL:
		c->reason_text = "protocol";
		linger_denied(c, CLOSE_HANDSHAKE_FAILED);
		return CONN_WAIT;
	case LINK_NOBODY:
		conn_reset(c, CLOSE_CALLER_GONE);
		return CONN_OVER;
	case LINK_EOF:
		c->reason_text = "eof";
		break;
	case LINK_RESET:
		c->reason_text = "reset";
		break;
	case LINK_ALERT:
		c->reason_text = f->alert;
		break;
	case LINK_RESUMED:
		conn_reset(c, CLOSE_RESUMED);
		return CONN_OVER;
	case LINK_OK:
	case LINK_INTERNAL:
		conn_reset(c, CLOSE_ERROR);
		return CONN_OVER;
	}
	conn_reset(c, CLOSE_HANDSHAKE_FAILED);
	return CONN_OVER;
}

static enum conn_verdict
handshake_done(struct conn *c)
{
	uint64_t ns = (uint64_t)(clock_boot_ns() - c->handshake_ns);

	c->handshake_ms = (int64_t)(ns / 1000000);
	histogram_add(&conn_counters(c)->handshake, ns);
	c->peer = peer_hold(c->transport->peer(c->link));
	move_to(c, CONN_AUTHORIZE);
	return CONN_WAIT;
}

static enum conn_verdict
step_handshake(struct conn *c)
{
	bool heavy = c->may_be_heavy;

	c->may_be_heavy = false;
	if (!conn_is_inbound(c) && waiting_side_is_gone(c))
		return CONN_OVER;
	switch (c->transport->step(c->link, heavy)) {
	case LINK_WAIT:
		return CONN_WAIT;
	case LINK_HEAVY:
		return CONN_HEAVY;
	case LINK_UP:
	case LINK_STREAM:
		return handshake_done(c);
	case LINK_FAILED:
		break;
	}
	return handshake_failed(c);
}

/* The allow inside the handshake was provisional: now it is final. */
static enum conn_verdict
step_authorize(struct conn *c)
{
	if (c->judged_generation != c->env->conf_generation &&
	    conn_judge_id(c, c->peer) != DENY_NOT) {
		conn_reset(c, CLOSE_DENIED);
		return CONN_OVER;
	}
	counter_add(&conn_counters(c)->allowed, 1);
	c->counted_allowed = true;
	if (c->audit_denied)
		counter_add(&conn_counters(c)->audit, 1);
	if (conn_is_inbound(c))
		return start_dial(c);
	return start_relay(c);
}

static uint64_t
bytes_moved(const struct conn *c)
{
	return c->relay.to_plain.taken_bytes + c->relay.to_mesh.taken_bytes +
	       c->relay.to_plain.given_bytes + c->relay.to_mesh.given_bytes;
}

static void
note_progress(struct conn *c, uint64_t before)
{
	if (bytes_moved(c) != before) {
		c->active_ms = c->env->now_ms;
		if (c->first_byte_ms == -1)
			c->first_byte_ms = c->env->now_ms - c->accepted_ms;
	}
	if (!c->half_counted && relay_is_half_closed(&c->relay)) {
		c->half_counted = true;
		c->mesh_ended_first = c->relay.to_plain.end == PUMP_ENDED;
		c->half_ms = c->env->now_ms;
		counter_add(&conn_counters(c)->half_opened, 1);
	}
}

static enum close_reason
mesh_close_reason(struct conn *c)
{
	c->reason_text = c->mesh->broken_text;
	switch (c->mesh->broken) {
	case STREAM_TRUNCATED:
		return CLOSE_MESH_TRUNCATED;
	case STREAM_ALERT:
		/* TLS 1.3: "connected" was not "accepted" yet. */
		if (!conn_is_inbound(c) && c->mesh->read_bytes == 0)
			counter_add(
			    &conn_counters(c)->peer_closed_before_data, 1);
		return CLOSE_MESH_ALERT;
	case STREAM_FLOOD:
		return CLOSE_FLOOD;
	case STREAM_PROTOCOL:
		return CLOSE_ERROR;
	case STREAM_OPEN:
	case STREAM_RESET:
		break;
	}
	return CLOSE_MESH_RST;
}

/*
 * Both directions have ended cleanly: the only place that disarms the zero
 * linger, so that what the kernel still holds is delivered.
 */
static void
end_cleanly(struct conn *c)
{
	net_linger_zero(c->plain_fd, false);
	net_linger_zero(c->mesh_fd, false);
	c->close = c->mesh_ended_first ? CLOSE_MESH_FIN : CLOSE_PLAIN_FIN;
	conn_over(c);
}

static enum conn_verdict
relay_over(struct conn *c, enum relay_state st)
{
	enum close_reason reason;

	if (st == RELAY_ENDED) {
		end_cleanly(c);
		return CONN_OVER;
	}
	if (st == RELAY_MESH_BROKE) {
		reason = mesh_close_reason(c);
		linger_abort(c, &c->relay.to_plain, reason);
		return CONN_WAIT;
	}
	c->reason_text = c->plain.stream.broken_text;
	linger_abort(c, &c->relay.to_mesh, CLOSE_PLAIN_RST);
	return CONN_WAIT;
}

static enum conn_verdict
step_relay(struct conn *c)
{
	uint64_t before = bytes_moved(c);
	enum relay_state st = relay_step(&c->relay, &c->env->scratch);

	note_progress(c, before);
	switch (st) {
	case RELAY_WAIT:
		return CONN_WAIT;
	case RELAY_STARVED:
		return CONN_STARVED;
	case RELAY_AGAIN:
		return CONN_AGAIN;
	case RELAY_ENDED:
	case RELAY_MESH_BROKE:
	case RELAY_PLAIN_BROKE:
		break;
	}
	return relay_over(c, st);
}

static enum conn_verdict
step_linger(struct conn *c)
{
	int sink =
	    c->linger_pump == &c->relay.to_plain ? c->plain_fd : c->mesh_fd;
	size_t dropped = 0;

	if (c->linger_drain) {
		bool end = net_discard(
		    c->mesh_fd, LINGER_READ_MAX - c->linger_read, &dropped);

		c->linger_read += dropped;
		if (!end && c->linger_read < LINGER_READ_MAX)
			return CONN_TICK;
		conn_over(c);
		return CONN_OVER;
	}
	switch (pump_flush(c->linger_pump, c->env->scratch.spills)) {
	case PUMP_DONE:
		if (net_unacked(sink) != 0)
			return CONN_TICK;
		break;
	case PUMP_FAILED:
		break;
	case PUMP_WANT_INPUT:
	case PUMP_WANT_OUTPUT:
	case PUMP_WANT_SPILL:
	case PUMP_AGAIN:
		return CONN_TICK;
	}
	conn_over(c);
	return CONN_OVER;
}

static enum conn_verdict
step_in_state(struct conn *c)
{
	switch (c->state) {
	case CONN_ACCEPTED:
		return step_accepted(c);
	case CONN_CALLER:
		return step_caller(c);
	case CONN_DIAL:
		return step_dial(c);
	case CONN_HANDSHAKE:
		return step_handshake(c);
	case CONN_AUTHORIZE:
		return step_authorize(c);
	case CONN_RELAY:
		return step_relay(c);
	case CONN_LINGER:
		return step_linger(c);
	case CONN_CLOSED:
		return CONN_OVER;
	}
	return CONN_OVER;
}

enum conn_verdict
conn_step(struct conn *c)
{
	if (c->state != CONN_CLOSED && c->env->now_ms >= conn_deadline(c))
		conn_expire(c);
	for (;;) {
		enum conn_state before = c->state;
		enum conn_verdict verdict = step_in_state(c);

		if (c->state != before)
			continue;
		if (c->state == CONN_CLOSED)
			return CONN_OVER;
		conn_plan_checks(c);
		conn_arm_timer(c);
		return verdict;
	}
}
