#include "worker_int.h"

#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAUSE_MS         100
#define DESCRIPTOR_SPARE 32
#define HANDOFFS_MAX     64

static uint64_t
total_of(const struct worker_shared *s, bool unproven)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < s->n_workers; i++)
		sum += counter_get(unproven ? &s->public[i].unproven
		                            : &s->public[i].connections);
	return sum;
}

static void
listeners_set(struct worker *w, bool on)
{
	for (size_t i = 0; i < w->n_listeners; i++) {
		struct event *ev = w->listeners[i].event;

		if (ev == NULL)
			continue;
		if (on)
			(void)event_add(ev, NULL);
		else
			(void)event_del(ev);
	}
}

/* The backlog waits; a close brings the listeners back early. */
static void
pause_listeners(struct worker *w)
{
	if (!w->paused)
		listeners_set(w, false);
	w->paused = true;
	w->resume_ms = w->env.now_ms + PAUSE_MS;
}

static bool
is_full(const struct worker *w)
{
	return total_of(w->shared, false) >=
	       atomic_load_explicit(
	           &w->shared->max_connections, memory_order_relaxed);
}

void
worker_listeners_resume(struct worker *w)
{
	if (is_full(w)) {
		pause_listeners(w);
		return;
	}
	w->paused = false;
	if (w->listening)
		listeners_set(w, true);
}

void
worker_listeners_stop(struct worker *w)
{
	w->listening = false;
	listeners_set(w, false);
}

static void
reset_fd(int fd)
{
	net_linger_zero(fd, true);
	(void)close(fd);
}

static void
serve(
    struct worker *w, const struct service *s, int fd, const struct addr *from)
{
	/* Proxy number 1 << 56; the launcher will count further ones. */
	uint64_t id =
	    (uint64_t)1 << 56 | (uint64_t)w->index << 48 | ++w->next_conn;
	struct conn *c = conn_new(&w->env, s, fd, from, id);

	if (c == NULL)
		return;
	list_add_tail(&w->all, &c->all);
	w->n_conns++;
	c->unproven = s->direction == INBOUND;
	if (c->unproven)
		counter_add(&w->public->unproven, 1);
	counter_set(&w->public->connections, w->n_conns);
	worker_enqueue(w, c);
}

/* A worker far below us, to whom a fresh connection is handed; or NULL. */
static struct worker *
less_loaded(struct worker *w)
{
	struct worker_shared *s = w->shared;
	uint64_t least = UINT64_MAX;
	size_t who = w->index;

	for (size_t i = 0; i < s->n_workers; i++) {
		uint64_t n = counter_get(&s->public[i].connections);

		if (n < least) {
			least = n;
			who = i;
		}
	}
	if (who == w->index || w->n_conns < least + 8 ||
	    w->n_conns * 4 < least * 5)
		return NULL;
	return s->workers[who];
}

static bool
hand_off(
    struct worker *w, const struct service *s, int fd, const struct addr *from)
{
	struct worker *to = less_loaded(w);
	struct mail_handoff *m;

	if (to == NULL || mail_waiting(to->mailbox) >= HANDOFFS_MAX)
		return false;
	m = calloc(1, sizeof(*m));
	if (m == NULL)
		return false;
	m->mail.kind = MAIL_HANDOFF;
	m->fd = fd;
	m->from = *from;
	m->direction = s->direction;
	(void)snprintf(m->service, sizeof(m->service), "%s", s->name);
	(void)worker_post(to, &m->mail);
	return true;
}

void
worker_take_handoff(struct worker *w, struct mail_handoff *m)
{
	const struct service *s =
	    w->conf == NULL ? NULL
	                    : conf_service(w->conf, span_of_str(m->service));

	if (s == NULL || s->direction != m->direction)
		reset_fd(m->fd);
	else
		serve(w, s, m->fd, &m->from);
	m->fd = -1;
}

/*
 * Connections that have proved no identity hold at most a quarter of the
 * slots, so that silence cannot keep everybody else out.
 */
static bool
too_many_unproven(const struct worker *w)
{
	uint64_t max = atomic_load_explicit(
	    &w->shared->max_connections, memory_order_relaxed);

	return total_of(w->shared, true) >= max / 4 + 1;
}

static void
accepted(struct worker_listener *l, int fd, const struct addr *from)
{
	struct worker *w = l->worker;
	const struct service *s = &w->conf->services[l->conf.service];

	if ((uint64_t)fd + DESCRIPTOR_SPARE >= w->shared->descriptors_max) {
		/* The reserve is for dials and for the control thread. */
		pause_listeners(w);
	}
	if (s->direction == INBOUND && too_many_unproven(w)) {
		struct service_counters *n = &s->shared->workers[w->index];

		counter_add(&n->rejected, 1);
		counter_add(&n->reasons[DENY_LIMIT], 1);
		reset_fd(fd);
		return;
	}
	if (!hand_off(w, s, fd, from))
		serve(w, s, fd, from);
}

static void
on_listener(evutil_socket_t listen_fd, short what, void *arg)
{
	struct worker_listener *l = arg;
	struct worker *w = l->worker;

	(void)what;
	for (int i = 0; i < ACCEPTS_PER_WAKE; i++) {
		struct addr from;
		int fd, error;

		if (w->paused)
			return;
		if (is_full(w)) {
			pause_listeners(w);
			return;
		}
		switch (net_accept(listen_fd, &fd, &from, &error)) {
		case ACCEPT_DONE:
			accepted(l, fd, &from);
			continue;
		case ACCEPT_EMPTY:
			return;
		case ACCEPT_FULL:
		case ACCEPT_BROKEN:
			counter_add(&w->public->accept_errors, 1);
			pause_listeners(w);
			return;
		}
	}
}

/* A listener that goes: who waits in its queue is refused, not forgotten. */
static void
refuse_queue(int listen_fd)
{
	struct addr from;
	int fd, error;

	while (net_accept(listen_fd, &fd, &from, &error) == ACCEPT_DONE)
		reset_fd(fd);
}

static bool
is_kept(const struct listener *list, size_t n, int fd)
{
	for (size_t i = 0; i < n; i++) {
		if (list[i].fd == fd)
			return true;
	}
	return false;
}

void
worker_listeners_adopt(struct worker *w, const struct listener *list, size_t n)
{
	struct worker_listener *fresh = NULL;

	for (size_t i = 0; i < w->n_listeners; i++) {
		struct worker_listener *l = &w->listeners[i];

		if (l->event != NULL)
			event_free(l->event);
		if (!is_kept(list, n, l->conf.fd) && !w->stopping)
			refuse_queue(l->conf.fd);
	}
	free(w->listeners);
	w->listeners = NULL;
	w->n_listeners = 0;
	if (n == 0)
		return;
	fresh = calloc(n, sizeof(*fresh));
	if (fresh == NULL)
		return;
	for (size_t i = 0; i < n; i++) {
		fresh[i].conf = list[i];
		fresh[i].worker = w;
		/* Level-triggered: the accept loop is bounded. */
		fresh[i].event = event_new(w->base, list[i].fd,
		    EV_READ | EV_PERSIST, on_listener, &fresh[i]);
	}
	w->listeners = fresh;
	w->n_listeners = n;
	if (w->listening && !w->paused)
		listeners_set(w, true);
}
