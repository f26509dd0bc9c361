#include "worker_int.h"

#include <stdlib.h>
#include <unistd.h>

#include "clock.h"
#include "spiffe.h"
#include "tls.h"

#define GROUPS_MS 60000

static void
free_conf(struct mail *m)
{
	free(CONTAINER_OF(m, struct mail_conf, mail)->listeners);
}

static void
free_material(struct mail *m)
{
	struct mail_material *mm = CONTAINER_OF(m, struct mail_material, mail);

	tls_set_free(&mm->set);
	tls_material_free(&mm->material);
}

static void
free_targets(struct mail *m)
{
	struct mail_targets *t = CONTAINER_OF(m, struct mail_targets, mail);

	for (size_t i = 0; i < t->n_services; i++)
		free(t->lists[i].addrs);
	free(t->lists);
}

static void
free_kill(struct mail *m)
{
	struct mail_kill *k = CONTAINER_OF(m, struct mail_kill, mail);

	free(k->service);
	free(k->peer);
}

static void
free_query(struct mail *m)
{
	struct mail_query *q = CONTAINER_OF(m, struct mail_query, mail);

	for (size_t i = 0; i < q->n_rows; i++)
		free(q->rows[i].peer);
	free(q->rows);
	free(q->service);
	free(q->peer);
}

static void
free_handoff(struct mail *m)
{
	struct mail_handoff *h = CONTAINER_OF(m, struct mail_handoff, mail);

	if (h->fd == -1)
		return;
	/* Nobody served it: to its client that is an abort, not an end. */
	net_linger_zero(h->fd, true);
	(void)close(h->fd);
}

/* The mail is the first member of each message, so its address is theirs. */
void
worker_mail_free(struct mail **m)
{
	if (*m == NULL)
		return;
	switch ((*m)->kind) {
	case MAIL_CONF:
		free_conf(*m);
		break;
	case MAIL_MATERIAL:
		free_material(*m);
		break;
	case MAIL_TARGETS:
		free_targets(*m);
		break;
	case MAIL_KILL:
		free_kill(*m);
		break;
	case MAIL_QUERY:
		free_query(*m);
		break;
	case MAIL_HANDOFF:
		free_handoff(*m);
		break;
	default:
		break; /* nothing of its own */
	}
	free(*m);
	*m = NULL;
}

/* New connections use it at once; the live ones are judged by a pass. */
static void
adopt_conf(struct worker *w, struct mail_conf *m)
{
	w->conf = m->conf;
	w->env.conf_generation = m->conf->generation;
	worker_listeners_adopt(w, m->listeners, m->n_listeners);
	for (size_t i = 0; i < GROUP_CACHE; i++)
		w->groups[i].until_ms = 0;
	worker_pass_start(w, NULL, m->conf->generation);
}

static void
adopt_material(struct worker *w, struct mail_material *m)
{
	struct mail_note *n;
	struct why why;

	if (tls_env_adopt(w->env.tls, &m->set, &m->material, &why) ==
	    FAULT_NONE) {
		counter_set_release(&w->public->seen_material, m->generation);
		return;
	}
	n = calloc(1, sizeof(*n));
	if (n == NULL)
		return;
	n->mail.kind = NOTE_SWAP_FAILED;
	n->worker = w->index;
	n->why = why;
	(void)mail_post(w->shared->control, &n->mail);
}

static void
adopt_targets(struct worker *w, struct mail_targets *m)
{
	if (w->targets != NULL) {
		struct mail *old = &w->targets->mail;

		worker_mail_free(&old);
	}
	w->targets = m;
}

static void
answer_ping(struct worker *w, const struct mail_ping *m)
{
	int64_t lag = clock_boot_ns() - m->posted_ns;

	histogram_add(&w->public->lag, lag > 0 ? (uint64_t)lag : 0);
	counter_set(&w->public->heartbeat_ms, (uint64_t)m->posted_ms);
}

static void
take_groups(struct worker *w, const struct mail_groups *m)
{
	struct group_entry *oldest = &w->groups[0];
	struct conn *c = worker_find(w, m->conn_id);

	for (size_t i = 0; i < GROUP_CACHE; i++) {
		if (w->groups[i].until_ms < oldest->until_ms)
			oldest = &w->groups[i];
	}
	if (m->facts.groups_known) {
		oldest->facts = m->facts;
		oldest->until_ms = w->env.now_ms + GROUPS_MS;
	}
	if (c != NULL)
		conn_groups(c, &m->facts);
}

/* True: the message went on its way; else it is freed. */
static bool
take_one(struct worker *w, struct mail *m)
{
	switch ((enum worker_mail)m->kind) {
	case MAIL_CONF:
		adopt_conf(w, CONTAINER_OF(m, struct mail_conf, mail));
		return false;
	case MAIL_MATERIAL:
		adopt_material(w, CONTAINER_OF(m, struct mail_material, mail));
		return false;
	case MAIL_TARGETS:
		adopt_targets(w, CONTAINER_OF(m, struct mail_targets, mail));
		return true;
	case MAIL_PING:
		answer_ping(w, CONTAINER_OF(m, struct mail_ping, mail));
		return false;
	case MAIL_LISTEN:
		w->listening = !CONTAINER_OF(m, struct mail_listen, mail)->stop;
		if (!w->listening)
			worker_listeners_stop(w);
		else
			worker_listeners_resume(w);
		return false;
	case MAIL_KILL:
	case MAIL_QUERY:
		worker_pass_start(w, m, 0);
		return true;
	case MAIL_GROUPS:
		take_groups(w, CONTAINER_OF(m, struct mail_groups, mail));
		return false;
	case MAIL_HANDOFF:
		worker_take_handoff(
		    w, CONTAINER_OF(m, struct mail_handoff, mail));
		return false;
	case MAIL_STOP:
		w->stopping = true;
		return false;
	}
	return false;
}

void
worker_take_mail(struct worker *w)
{
	struct node list;
	struct node *n;

	node_init(&list);
	mail_take(w->mailbox, &list);
	while ((n = list_pop(&list)) != NULL) {
		struct mail *m = CONTAINER_OF(n, struct mail, node);

		if (!take_one(w, m))
			worker_mail_free(&m);
	}
}
