#include "worker_int.h"

#include <stdlib.h>
#include <string.h>

#include "spiffe.h"

void
worker_pass_start(struct worker *w, struct mail *mail, uint64_t conf_generation)
{
	struct pass *p = calloc(1, sizeof(*p));

	if (p == NULL) {
		/* An answer that is missing is named by who asked. */
		if (mail != NULL)
			(void)mail_post(w->shared->control, mail);
		return;
	}
	node_init(&p->node);
	p->next = w->all.next;
	p->mail = mail;
	p->conf_generation = conf_generation;
	list_add_tail(&w->passes, &p->node);
}

void
worker_pass_forget(struct worker *w, struct conn *c)
{
	LIST_EACH (it, &w->passes) {
		struct pass *p = CONTAINER_OF(it, struct pass, node);

		if (p->next == &c->all)
			p->next = c->all.next;
	}
}

static bool
peer_is(const struct conn *c, const char *peer)
{
	return c->peer != NULL && span_equal_str(peer_id(c->peer)->text, peer);
}

static bool
matches(const struct conn *c, const char *service, const char *peer,
    uint64_t conn_id)
{
	if (c->state == CONN_CLOSED)
		return false;
	if (conn_id != 0 && c->id != conn_id)
		return false;
	if (service != NULL && strcmp(c->service->name, service) != 0)
		return false;
	return peer == NULL || peer_is(c, peer);
}

static bool
is_in_force(const struct worker *w, const struct conn *c)
{
	unsigned int i = c->service->index;

	return i < w->conf->n_services && c->service == &w->conf->services[i];
}

static void
kill_one(const struct worker *w, struct mail_kill *m, struct conn *c)
{
	if (!matches(c, m->service, m->peer, m->conn_id) ||
	    (m->departed && is_in_force(w, c)))
		return;
	conn_abort(c, m->reason);
	m->ended++;
}

static void
fill_row(struct conn_row *row, const struct conn *c)
{
	*row = (struct conn_row){
	    .id = c->id,
	    .state = c->state,
	    .inbound = c->service->direction == INBOUND,
	    .bytes_in = c->relay.to_plain.given_bytes,
	    .bytes_out = c->relay.to_mesh.given_bytes,
	    .age_ms = c->env->now_ms - c->accepted_ms,
	    .idle_ms = c->env->now_ms - c->active_ms,
	    .half_closed = c->half_counted,
	};
	(void)strncpy(row->service, c->service->name, sizeof(row->service) - 1);
	(void)addr_format(&c->src, row->src);
	(void)addr_format(&c->dst, row->dst);
	if (c->peer != NULL)
		row->peer = span_dup(peer_id(c->peer)->text);
}

static void
query_one(struct mail_query *m, const struct conn *c)
{
	if (m->failed || !matches(c, m->service, m->peer, m->conn_id))
		return;
	if (m->n_rows == m->cap_rows) {
		size_t cap = m->cap_rows == 0 ? 64 : m->cap_rows * 2;
		struct conn_row *rows = realloc(m->rows, cap * sizeof(*rows));

		if (rows == NULL) {
			m->failed = true;
			return;
		}
		m->rows = rows;
		m->cap_rows = cap;
	}
	fill_row(&m->rows[m->n_rows++], c);
}

/*
 * The service of the same name now. One that is gone keeps what it had:
 * control holds the old configuration until the last of them has ended.
 */
static void
rejudge_one(struct worker *w, struct conn *c)
{
	const struct service *s;

	/* A closed one too: it is counted under its service when freed. */
	if (is_in_force(w, c))
		return;
	s = conf_service(w->conf, span_of_str(c->service->name));
	if (s != NULL && s->direction == c->service->direction)
		(void)conn_rejudge(c, s);
}

static void
visit(struct worker *w, struct pass *p, struct conn *c)
{
	if (p->mail == NULL)
		rejudge_one(w, c);
	else if (p->mail->kind == MAIL_KILL)
		kill_one(w, CONTAINER_OF(p->mail, struct mail_kill, mail), c);
	else
		query_one(CONTAINER_OF(p->mail, struct mail_query, mail), c);
}

static void
finish(struct worker *w, struct pass *p)
{
	if (p->mail != NULL)
		(void)mail_post(w->shared->control, p->mail);
	else
		counter_set_release(&w->public->seen_conf, p->conf_generation);
	node_remove(&p->node);
	free(p);
}

bool
worker_pass_step(struct worker *w)
{
	struct pass *p;

	if (list_is_empty(&w->passes))
		return false;
	p = CONTAINER_OF(w->passes.next, struct pass, node);
	for (size_t n = 0; n < SLICE_CONNS && p->next != &w->all; n++) {
		struct conn *c = CONTAINER_OF(p->next, struct conn, all);

		p->next = p->next->next;
		visit(w, p, c);
	}
	if (p->next == &w->all)
		finish(w, p);
	return !list_is_empty(&w->passes);
}
