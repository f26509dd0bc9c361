#include "worker_int.h"

#include <assert.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "caller.h"
#include "clock.h"
#include "spiffe.h"
#include "tls.h"

#define TICK_MS      100
#define FAST_TICK_MS 10
#define RING_BYTES   ((size_t)1 << 20)

/* Heavy handshake steps per turn while data connections are ready. */
#define HEAVY_PER_BUSY_TURN 1
#define HEAVY_PER_IDLE_TURN 16

const char *
worker_library_version(void)
{
	return event_get_version();
}

/* ---- Queues ---- */

static void
queue_on(struct node *list, enum conn_queue queue, struct conn *c)
{
	node_remove(&c->queue);
	list_add_tail(list, &c->queue);
	c->queued = queue;
}

/*
 * To the ready list, unless it waits there, or waits its turn for a handshake
 * step, which must not cost it its place.
 */
void
worker_enqueue(void *owner, struct conn *c)
{
	struct worker *w = owner;

	switch (c->queued) {
	case QUEUE_READY:
	case QUEUE_DEAD:
		return;
	case QUEUE_HEAVY:
		if (c->state == CONN_HANDSHAKE)
			return;
		break;
	case QUEUE_NONE:
	case QUEUE_LINGER:
	case QUEUE_STARVED:
		break;
	}
	queue_on(&w->ready, QUEUE_READY, c);
}

struct conn *
worker_find(struct worker *w, uint64_t id)
{
	LIST_EACH (it, &w->all) {
		struct conn *c = CONTAINER_OF(it, struct conn, all);

		if (c->id == id)
			return c;
	}
	return NULL;
}

/* Asked after a step, whoever ended it: a kill, a reload, a deadline. */
static void
count_proof(struct worker *w, struct conn *c)
{
	if (!c->unproven || c->state == CONN_ACCEPTED ||
	    c->state == CONN_HANDSHAKE)
		return;
	c->unproven = false;
	counter_sub(&w->public->unproven, 1);
}

static void
step(struct worker *w, struct conn *c)
{
	enum conn_verdict v = conn_step(c);

	count_proof(w, c);
	switch (v) {
	case CONN_WAIT:
		break;
	case CONN_AGAIN:
		queue_on(&w->ready, QUEUE_READY, c);
		break;
	case CONN_HEAVY:
		queue_on(&w->heavy, QUEUE_HEAVY, c);
		break;
	case CONN_TICK:
		queue_on(&w->linger, QUEUE_LINGER, c);
		break;
	case CONN_STARVED:
		queue_on(&w->starved, QUEUE_STARVED, c);
		break;
	case CONN_OVER:
		queue_on(&w->dead, QUEUE_DEAD, c);
		break;
	}
}

static struct conn *
take(struct node *list)
{
	struct node *n = list_pop(list);
	struct conn *c;

	if (n == NULL)
		return NULL;
	c = CONTAINER_OF(n, struct conn, queue);
	c->queued = QUEUE_NONE;
	return c;
}

/* Those that are ready now; who queues again waits for the next turn. */
static void
run_ready(struct worker *w)
{
	struct node batch;
	struct conn *c;
	size_t n = 0;

	node_init(&batch);
	list_append(&batch, &w->ready);
	while (n++ < READY_PER_TURN && (c = take(&batch)) != NULL)
		step(w, c);
	/* What was not reached comes first next time. */
	list_append(&batch, &w->ready);
	list_append(&w->ready, &batch);
}

/*
 * One heavy step while data connections wait: k handshakes at once must not
 * add k times their cost to everybody else.
 */
static void
run_heavy(struct worker *w)
{
	size_t n = list_is_empty(&w->ready) ? HEAVY_PER_IDLE_TURN
	                                    : HEAVY_PER_BUSY_TURN;
	struct conn *c;

	while (n-- > 0 && (c = take(&w->heavy)) != NULL) {
		c->may_be_heavy = true;
		step(w, c);
	}
}

static void
wake_starved(struct worker *w)
{
	struct conn *c;

	if (!w->spills.starved || !spill_pool_ready(&w->spills))
		return;
	w->spills.starved = false;
	while ((c = take(&w->starved)) != NULL)
		worker_enqueue(w, c);
}

static void
free_dead(struct worker *w)
{
	struct conn *c;

	while ((c = take(&w->dead)) != NULL) {
		worker_pass_forget(w, c);
		if (w->paused)
			w->resume_ms = w->env.now_ms;
		conn_free(&c);
		w->n_conns--;
	}
	counter_set(&w->public->connections, w->n_conns);
}

/* ---- Ticks ---- */

static void
on_tick(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	(void)arg; /* the turn does the work */
}

static void
run_timers(struct worker *w)
{
	struct node due;
	struct node *n;
	struct conn *c;

	node_init(&due);
	wheel_run(&w->wheel, w->env.now_ms, &due);
	while ((n = list_pop(&due)) != NULL)
		conn_timer(CONTAINER_OF(n, struct conn, timer.node));
	while ((c = take(&w->linger)) != NULL)
		worker_enqueue(w, c);
	if (w->paused && w->env.now_ms >= w->resume_ms)
		worker_listeners_resume(w);
}

/* The tick stands still while nothing waits for it. */
static void
set_tick(struct worker *w)
{
	bool fast = !list_is_empty(&w->linger);
	bool on = fast || w->wheel.timers != 0 || w->paused;
	struct timeval tv = {.tv_usec = (fast ? FAST_TICK_MS : TICK_MS) * 1000};

	if (on == w->tick_on && fast == w->fast_tick)
		return;
	(void)event_del(w->tick_event);
	if (on)
		(void)event_add(w->tick_event, &tv);
	w->tick_on = on;
	w->fast_tick = fast;
}

/* ---- What conn asks of its worker ---- */

/*
 * A connection that no pass has visited yet, or whose service has gone, holds
 * one of an older configuration: its index means another service by now.
 */
static const struct service *
service_now(const struct worker *w, const struct service *s)
{
	const struct service *now =
	    w->conf == NULL ? NULL
	                    : conf_service(w->conf, span_of_str(s->name));

	return now != NULL && now->direction == s->direction ? now : NULL;
}

static const struct target_list *
env_targets(void *owner, const struct service *s)
{
	static const struct target_list none = {0};
	struct worker *w = owner;

	s = service_now(w, s);
	if (s == NULL || w->targets == NULL ||
	    w->targets->conf_generation != w->conf->generation ||
	    s->index >= w->targets->n_services)
		return &none;
	return &w->targets->lists[s->index];
}

static void
note(struct worker *w, unsigned int kind, unsigned int service,
    const struct why *why)
{
	struct mail_note *n = calloc(1, sizeof(*n));

	if (n == NULL)
		return; /* control looks by itself before long */
	n->mail.kind = kind;
	n->worker = w->index;
	n->service = service;
	n->conf_generation = w->conf != NULL ? w->conf->generation : 0;
	if (why != NULL)
		n->why = *why;
	(void)mail_post(w->shared->control, &n->mail);
}

static void
env_resolve(void *owner, const struct service *s)
{
	s = service_now(owner, s);
	if (s != NULL)
		note(owner, NOTE_RESOLVE, s->index, NULL);
}

static void
env_ask_groups(void *owner, struct conn *c, uid_t uid)
{
	struct worker *w = owner;
	struct mail_groups *m;

	for (size_t i = 0; i < GROUP_CACHE; i++) {
		if (w->groups[i].until_ms > w->env.now_ms &&
		    w->groups[i].facts.uid == uid) {
			conn_groups(c, &w->groups[i].facts);
			return;
		}
	}
	m = calloc(1, sizeof(*m));
	if (m == NULL)
		return; /* after a second it is judged without */
	m->mail.kind = MAIL_GROUPS;
	m->worker = w->index;
	m->conn_id = c->id;
	m->facts.uid = uid;
	(void)mail_post(w->shared->control, &m->mail);
}

/* One note for any number of lines, until control has looked. */
static void
env_record(void *owner, const struct fields *f, bool denial)
{
	struct worker *w = owner;
	struct mail *m;

	if ((int)f->level >
	    atomic_load_explicit(&w->shared->log_level, memory_order_relaxed))
		return;
	(void)ring_write(
	    denial ? w->denials : w->traffic, f, fields_packed_len(f));
	if (atomic_exchange_explicit(
	        &w->shared->logs_pending, true, memory_order_acq_rel))
		return;
	m = calloc(1, sizeof(*m));
	if (m == NULL) {
		atomic_store_explicit(
		    &w->shared->logs_pending, false, memory_order_release);
		return;
	}
	m->kind = NOTE_LOGS;
	(void)mail_post(w->shared->control, m);
}

static bool
env_sample(void *owner, const struct service *s)
{
	struct worker *w = owner;

	return s->log_sample <= 1 || ++w->sampled % s->log_sample == 0;
}

/* ---- Life ---- */

static void
on_mail(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	(void)arg; /* taken by the turn, in its own order */
}

static void
set_env(struct worker *w)
{
	w->env.base = w->base;
	w->env.transport = transport_tls();
	w->env.scratch.spills = &w->spills;
	w->env.wheel = &w->wheel;
	w->env.worker = w->index;
	w->env.owner = w;
	w->env.enqueue = worker_enqueue;
	w->env.targets = env_targets;
	w->env.resolve = env_resolve;
	w->env.ask_groups = env_ask_groups;
	w->env.record = env_record;
	w->env.sample = env_sample;
	w->env.now_ms = clock_boot_ms();
	w->env.now_s = clock_wall_s();
}

struct event_base *
worker_base_new(void)
{
	struct event_config *cfg = event_config_new();
	struct event_base *base = NULL;

	if (cfg == NULL)
		return NULL;
	/* No lock: no thread ever touches another's base. */
	if (event_config_set_flag(cfg, EVENT_BASE_FLAG_NOLOCK) == 0)
		base = event_base_new_with_config(cfg);
	event_config_free(cfg);
	return base;
}

static bool
make_parts(struct worker *w)
{
	w->mailbox = mailbox_new();
	w->base = worker_base_new();
	w->traffic = ring_new(RING_BYTES);
	w->denials = ring_new(RING_BYTES);
	w->env.scratch.data = malloc(SCRATCH_BYTES);
	w->env.tls = tls_env_new();
	w->env.breaker = breaker_new();
	if (w->mailbox == NULL || w->base == NULL || w->traffic == NULL ||
	    w->denials == NULL || w->env.scratch.data == NULL ||
	    w->env.tls == NULL || w->env.breaker == NULL ||
	    caller_env_new(&w->env.caller, NULL) != FAULT_NONE)
		return false;
	w->mail_event = event_new(
	    w->base, mailbox_fd(w->mailbox), EV_READ | EV_PERSIST, on_mail, w);
	w->tick_event = event_new(w->base, -1, EV_PERSIST, on_tick, w);
	return w->mail_event != NULL && w->tick_event != NULL &&
	       event_add(w->mail_event, NULL) == 0 &&
	       spill_pool_init(&w->spills, w->shared->spill_max_bytes);
}

struct worker *
worker_new(struct worker_shared *shared, unsigned int index)
{
	struct worker *w = calloc(1, sizeof(*w));

	if (w == NULL)
		return NULL;
	w->shared = shared;
	w->public = &shared->public[index];
	w->index = index;
	w->listening = true;
	node_init(&w->all);
	node_init(&w->ready);
	node_init(&w->heavy);
	node_init(&w->linger);
	node_init(&w->starved);
	node_init(&w->dead);
	node_init(&w->passes);
	node_init(&w->spills.free);
	if (!make_parts(w)) {
		worker_free(&w);
		return NULL;
	}
	set_env(w);
	wheel_init(&w->wheel, w->env.now_ms);
	return w;
}

static void
free_mail(struct mailbox *box)
{
	struct node list;
	struct node *n;

	node_init(&list);
	mail_take(box, &list);
	while ((n = list_pop(&list)) != NULL) {
		struct mail *m = CONTAINER_OF(n, struct mail, node);

		worker_mail_free(&m);
	}
}

void
worker_free(struct worker **wp)
{
	struct worker *w = *wp;

	if (w == NULL)
		return;
	assert(list_is_empty(&w->all));
	worker_listeners_adopt(w, NULL, 0);
	if (w->targets != NULL) {
		struct mail *m = &w->targets->mail;

		worker_mail_free(&m);
	}
	spill_pool_fini(&w->spills);
	if (w->mail_event != NULL)
		event_free(w->mail_event);
	if (w->tick_event != NULL)
		event_free(w->tick_event);
	if (w->mailbox != NULL)
		free_mail(w->mailbox);
	mailbox_free(&w->mailbox);
	tls_env_free(&w->env.tls);
	caller_env_free(&w->env.caller);
	breaker_free(&w->env.breaker);
	ring_free(&w->traffic);
	ring_free(&w->denials);
	free(w->env.scratch.data);
	if (w->base != NULL)
		event_base_free(w->base);
	free(w);
	*wp = NULL;
}

/* ---- The turn ---- */

static bool
has_work(struct worker *w)
{
	return !list_is_empty(&w->ready) || !list_is_empty(&w->heavy) ||
	       !list_is_empty(&w->passes);
}

static void
worker_turn(struct worker *w)
{
	int flags = EVLOOP_ONCE | (has_work(w) ? EVLOOP_NONBLOCK : 0);

	(void)event_base_loop(w->base, flags);
	w->env.now_ms = clock_boot_ms();
	w->env.now_s = clock_wall_coarse_s();
	worker_take_mail(w);
	run_ready(w);
	run_heavy(w);
	(void)worker_pass_step(w);
	run_timers(w);
	wake_starved(w);
	free_dead(w);
	set_tick(w);
	counter_add(&w->public->turns, 1);
}

static void
abort_all(struct worker *w)
{
	LIST_EACH (it, &w->all) {
		conn_abort(CONTAINER_OF(it, struct conn, all), CLOSE_DRAIN);
	}
	while (!list_is_empty(&w->ready))
		run_ready(w);
	free_dead(w);
}

static void *
run(void *arg)
{
	struct worker *w = arg;

	key_memory_thread_start();
	while (!w->stopping)
		worker_turn(w);
	worker_listeners_adopt(w, NULL, 0);
	abort_all(w);
	while (worker_pass_step(w))
		continue;
	return NULL;
}

enum fault
worker_start(struct worker *w, struct why *why)
{
	int error = pthread_create(&w->thread, NULL, run, w);

	if (error != 0)
		return fail(
		    why, FAULT_IO, "worker %u: %s", w->index, strerror(error));
	w->started = true;
	return FAULT_NONE;
}

void
worker_join(struct worker *w)
{
	if (w->started)
		(void)pthread_join(w->thread, NULL);
	w->started = false;
}

struct mail *
worker_post(struct worker *w, struct mail *m)
{
	return mail_post(w->mailbox, m);
}

void
worker_post_pair(struct worker *w, struct mail *a, struct mail *b)
{
	struct mail *old[2];

	mail_post_pair(w->mailbox, a, b, old);
	for (size_t i = 0; i < 2; i++) {
		if (old[i] != NULL)
			worker_mail_free(&old[i]);
	}
}

struct ring *
worker_traffic_ring(struct worker *w)
{
	return w->traffic;
}

struct ring *
worker_denial_ring(struct worker *w)
{
	return w->denials;
}
