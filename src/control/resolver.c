#include "control_int.h"

#include <assert.h>
#include <netdb.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "caller.h"
#include "clock.h"

/*
 * Names are looked up on threads of their own, since getaddrinfo blocks: one
 * look-up against a silent server hangs for 10 s. Four such threads for host
 * names; one for the groups of callers, which silent name servers must not
 * hold up.
 */
#define HOST_THREADS 4

/* After a failed dial a name is asked again at most this often. */
#define ASK_AGAIN_MS 1000

struct job {
	struct node node;
	struct mail_host *host; /* one of the two */
	struct mail_groups *groups;
};

struct queue {
	struct node jobs;
	pthread_cond_t more;
	size_t threads, threads_max, idle;
};

struct lookups {
	struct mailbox *answers;
	pthread_mutex_t lock;
	pthread_cond_t gone;
	struct queue hosts;
	struct queue users;
	size_t threads; /* all that still run */
	bool stopping;
};

struct thread_args {
	struct lookups *lookups;
	struct queue *queue;
};

static void
look_up_host(struct mail_host *m)
{
	const struct addrinfo hints = {
	    .ai_family = AF_UNSPEC,
	    .ai_socktype = SOCK_STREAM,
	};
	struct addrinfo *list = NULL;
	size_t n = 0;

	m->failed = getaddrinfo(m->name, NULL, &hints, &list) != 0;
	for (const struct addrinfo *a = list; a != NULL; a = a->ai_next)
		n++;
	m->addrs = calloc(n + 1, sizeof(*m->addrs));
	if (m->addrs == NULL)
		m->failed = true;
	for (const struct addrinfo *a = list; a != NULL && !m->failed;
	     a = a->ai_next)
		addr_set(&m->addrs[m->n++], a->ai_addr, a->ai_addrlen);
	if (list != NULL)
		freeaddrinfo(list);
}

static void
run_job(struct lookups *l, struct job *j)
{
	struct mail *answer;

	if (j->host != NULL) {
		look_up_host(j->host);
		answer = &j->host->mail;
	} else {
		(void)caller_groups(
		    j->groups->facts.uid, &j->groups->facts, NULL);
		answer = &j->groups->mail;
	}
	(void)mail_post(l->answers, answer);
	free(j);
}

static void *
run(void *arg)
{
	struct thread_args *a = arg;
	struct lookups *l = a->lookups;
	struct queue *q = a->queue;

	free(a);
	(void)pthread_mutex_lock(&l->lock);
	while (!l->stopping) {
		struct node *n = list_pop(&q->jobs);

		if (n == NULL) {
			q->idle++;
			(void)pthread_cond_wait(&q->more, &l->lock);
			q->idle--;
			continue;
		}
		(void)pthread_mutex_unlock(&l->lock);
		run_job(l, CONTAINER_OF(n, struct job, node));
		(void)pthread_mutex_lock(&l->lock);
	}
	l->threads--;
	(void)pthread_cond_signal(&l->gone);
	(void)pthread_mutex_unlock(&l->lock);
	return NULL;
}

/* Called with the lock held. */
static void
add_thread(struct lookups *l, struct queue *q)
{
	struct thread_args *a = malloc(sizeof(*a));
	pthread_attr_t attr;
	pthread_t t;

	if (a == NULL)
		return;
	*a = (struct thread_args){l, q};
	(void)pthread_attr_init(&attr);
	(void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	if (pthread_create(&t, &attr, run, a) == 0) {
		q->threads++;
		l->threads++;
	} else {
		free(a);
	}
	(void)pthread_attr_destroy(&attr);
}

static void
queue_init(struct queue *q, size_t threads_max)
{
	node_init(&q->jobs);
	(void)pthread_cond_init(&q->more, NULL);
	q->threads_max = threads_max;
}

struct lookups *
lookups_new(struct mailbox *answers)
{
	struct lookups *l = calloc(1, sizeof(*l));

	if (l == NULL)
		return NULL;
	l->answers = answers;
	(void)pthread_mutex_init(&l->lock, NULL);
	(void)pthread_cond_init(&l->gone, NULL);
	queue_init(&l->hosts, HOST_THREADS);
	queue_init(&l->users, 1);
	return l;
}

static void
drop_jobs(struct queue *q)
{
	struct node *n;

	while ((n = list_pop(&q->jobs)) != NULL) {
		struct job *j = CONTAINER_OF(n, struct job, node);

		if (j->host != NULL)
			free(j->host->name);
		free(j->host);
		free(j->groups);
		free(j);
	}
}

/*
 * A thread inside getaddrinfo cannot be called back. The process ends without
 * it: what it may still touch is kept then.
 */
bool
lookups_free(struct lookups **lp)
{
	struct lookups *l = *lp;
	struct timespec until;
	bool all_gone;

	if (l == NULL)
		return true;
	(void)clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 1;
	(void)pthread_mutex_lock(&l->lock);
	l->stopping = true;
	drop_jobs(&l->hosts);
	drop_jobs(&l->users);
	(void)pthread_cond_broadcast(&l->hosts.more);
	(void)pthread_cond_broadcast(&l->users.more);
	while (l->threads != 0 &&
	       pthread_cond_timedwait(&l->gone, &l->lock, &until) == 0)
		continue;
	all_gone = l->threads == 0;
	(void)pthread_mutex_unlock(&l->lock);
	if (all_gone) {
		(void)pthread_mutex_destroy(&l->lock);
		(void)pthread_cond_destroy(&l->gone);
		(void)pthread_cond_destroy(&l->hosts.more);
		(void)pthread_cond_destroy(&l->users.more);
		free(l);
	}
	*lp = NULL;
	return all_gone;
}

static bool
submit(struct lookups *l, struct queue *q, struct job *j)
{
	(void)pthread_mutex_lock(&l->lock);
	list_add_tail(&q->jobs, &j->node);
	if (q->idle == 0 && q->threads < q->threads_max)
		add_thread(l, q);
	(void)pthread_cond_signal(&q->more);
	(void)pthread_mutex_unlock(&l->lock);
	return true;
}

bool
lookups_host(struct lookups *l, const char *name)
{
	struct job *j = calloc(1, sizeof(*j));
	struct mail_host *m = calloc(1, sizeof(*m));

	if (m != NULL)
		m->name = strdup(name);
	if (j == NULL || m == NULL || m->name == NULL) {
		if (m != NULL)
			free(m->name);
		free(m);
		free(j);
		return false;
	}
	m->mail.kind = MAIL_HOST;
	node_init(&j->node);
	j->host = m;
	return submit(l, &l->hosts, j);
}

void
lookups_groups(struct lookups *l, struct mail_groups *m)
{
	struct job *j = calloc(1, sizeof(*j));

	if (j == NULL) {
		free(m); /* the caller is denied after its second */
		return;
	}
	node_init(&j->node);
	j->groups = m;
	(void)submit(l, &l->users, j);
}

/* ---- Host names of the configuration ---- */

static struct host *
host_find(struct control *k, const char *name)
{
	LIST_EACH (it, &k->hosts) {
		struct host *h = CONTAINER_OF(it, struct host, node);

		if (strcmp(h->name, name) == 0)
			return h;
	}
	return NULL;
}

static void
host_free(struct host *h)
{
	node_remove(&h->node);
	free(h->name);
	free(h->addrs);
	free(h);
}

static struct host *
host_add(struct control *k, const char *name)
{
	struct host *h = calloc(1, sizeof(*h));

	if (h == NULL)
		return NULL;
	h->name = strdup(name);
	if (h->name == NULL) {
		free(h);
		return NULL;
	}
	node_init(&h->node);
	list_add_tail(&k->hosts, &h->node);
	return h;
}

static void
ask(struct control *k, struct host *h, int64_t now)
{
	if (h->running)
		return; /* each name has at most one look-up under way */
	h->running = lookups_host(k->lookups, h->name);
	h->last_ms = now;
}

void
hosts_use(struct control *k, const struct conf *c)
{
	LIST_EACH (it, &k->hosts) {
		CONTAINER_OF(it, struct host, node)->used = false;
	}
	for (size_t i = 0; i < c->n_services; i++) {
		const struct service *s = &c->services[i];

		for (size_t j = 0; j < s->n_targets; j++) {
			struct host *h;

			if (s->targets[j].host == NULL)
				continue;
			h = host_find(k, s->targets[j].host);
			if (h == NULL)
				h = host_add(k, s->targets[j].host);
			if (h != NULL)
				h->used = true;
		}
	}
	LIST_EACH_SAFE (it, &k->hosts) {
		struct host *h = CONTAINER_OF(it, struct host, node);

		if (!h->used && !h->running)
			host_free(h);
	}
	hosts_tick(k);
}

/* The shortest interval of the services that use a name. */
static int64_t
interval_of(const struct control *k, const struct host *h)
{
	int64_t least = INT64_MAX;

	for (size_t i = 0; i < k->conf->n_services; i++) {
		const struct service *s = &k->conf->services[i];

		for (size_t j = 0; j < s->n_targets; j++) {
			if (s->targets[j].host != NULL &&
			    strcmp(s->targets[j].host, h->name) == 0 &&
			    s->resolve_interval_ms < least)
				least = s->resolve_interval_ms;
		}
	}
	return least;
}

void
hosts_tick(struct control *k)
{
	int64_t now = control_now_ms();

	LIST_EACH (it, &k->hosts) {
		struct host *h = CONTAINER_OF(it, struct host, node);

		if (h->used && now >= h->next_ms)
			ask(k, h, now);
	}
}

void
hosts_ask(struct control *k, const struct service *s)
{
	int64_t now = control_now_ms();

	for (size_t j = 0; j < s->n_targets; j++) {
		struct host *h = s->targets[j].host == NULL
		                     ? NULL
		                     : host_find(k, s->targets[j].host);

		if (h != NULL && now >= h->last_ms + ASK_AGAIN_MS)
			ask(k, h, now);
	}
}

static bool
same_addrs(const struct host *h, const struct mail_host *m)
{
	if (h->n != m->n)
		return false;
	for (size_t i = 0; i < h->n; i++) {
		if (!addr_equal(&h->addrs[i], &m->addrs[i]))
			return false;
	}
	return true;
}

/* A failed look-up keeps the last addresses. */
void
hosts_answer(struct control *k, struct mail_host *m)
{
	struct host *h = host_find(k, m->name);

	if (h != NULL) {
		int64_t interval = interval_of(k, h);

		h->running = false;
		h->failed = m->failed || m->n == 0;
		h->next_ms =
		    control_now_ms() + (interval == INT64_MAX ? 0 : interval);
		if (!h->failed && !same_addrs(h, m)) {
			free(h->addrs);
			h->addrs = m->addrs;
			h->n = m->n;
			m->addrs = NULL;
			publish_targets(k);
		}
		if (!h->used)
			host_free(h);
	}
	free(m->addrs);
	free(m->name);
	free(m);
}

void
hosts_free(struct control *k)
{
	LIST_EACH_SAFE (it, &k->hosts) {
		host_free(CONTAINER_OF(it, struct host, node));
	}
}

static void
set_port(struct addr *a, uint16_t port)
{
	if (addr_family(a) == AF_INET)
		a->sa.in.sin_port = htons(port);
	else if (addr_family(a) == AF_INET6)
		a->sa.in6.sin6_port = htons(port);
}

static bool
is_link_local(const struct addr *a)
{
	if (addr_family(a) == AF_INET)
		return (ntohl(a->sa.in.sin_addr.s_addr) >> 16) == 0xa9fe;
	return addr_family(a) == AF_INET6 &&
	       IN6_IS_ADDR_LINKLOCAL(&a->sa.in6.sin6_addr);
}

static bool
is_own_listener(const struct control *k, const struct addr *a)
{
	LIST_EACH (it, &k->listens) {
		if (addr_equal(
		        &CONTAINER_OF(it, struct listen_socket, node)->addr, a))
			return true;
	}
	return false;
}

/*
 * A name may not lead back here, nor to a metadata service: whoever answers
 * for it does not decide where we connect. A literal address is the
 * administrator's word.
 */
static bool
may_dial(const struct control *k, const struct addr *a)
{
	return !addr_is_loopback(a) && !addr_is_any(a) && !is_link_local(a) &&
	       !is_own_listener(k, a);
}

bool
hosts_targets(
    struct control *k, const struct service *s, struct target_list *list_r)
{
	size_t max = 0, n = 0;
	struct addr *addrs;

	for (size_t j = 0; j < s->n_targets; j++) {
		struct host *h = s->targets[j].host == NULL
		                     ? NULL
		                     : host_find(k, s->targets[j].host);

		max += h == NULL ? 1 : h->n;
	}
	addrs = calloc(max + 1, sizeof(*addrs));
	if (addrs == NULL)
		return false;
	for (size_t j = 0; j < s->n_targets; j++) {
		const struct conf_target *t = &s->targets[j];
		struct host *h = t->host == NULL ? NULL : host_find(k, t->host);

		if (t->host == NULL)
			addrs[n++] = t->addr;
		for (size_t i = 0; h != NULL && i < h->n; i++) {
			struct addr a = h->addrs[i];

			set_port(&a, t->port);
			if (may_dial(k, &a))
				addrs[n++] = a;
		}
	}
	*list_r = (struct target_list){.addrs = addrs, .n = n};
	return true;
}
