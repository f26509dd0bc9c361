#include "control_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static enum net_side
listen_side(const struct service *s)
{
	return s->direction == INBOUND ? SIDE_MESH : SIDE_PLAIN;
}

static void
socket_free(struct listen_socket *l)
{
	node_remove(&l->node);
	for (size_t i = 0; i < l->n_fds; i++)
		(void)close(l->fds[i]);
	/* The file of a unix socket that we made is ours to remove. */
	if (l->systemd == NULL && addr_family(&l->addr) == AF_UNIX &&
	    l->n_fds != 0)
		(void)unlink(l->addr.sa.un.sun_path);
	free(l->systemd);
	free(l);
}

static struct listen_socket *
find(struct control *k, const struct service *s, const struct conf_listen *cl)
{
	LIST_EACH (it, &k->listens) {
		struct listen_socket *l =
		    CONTAINER_OF(it, struct listen_socket, node);

		if (l->side != listen_side(s))
			continue;
		if (cl->systemd != NULL) {
			if (l->systemd != NULL &&
			    strcmp(l->systemd, cl->systemd) == 0)
				return l;
		} else if (l->systemd == NULL &&
		           addr_equal(&l->addr, &cl->addr)) {
			return l;
		}
	}
	return NULL;
}

static void
listen_args_of(
    const struct service *s, const struct addr *addr, struct listen_args *a)
{
	*a = (struct listen_args){
	    .addr = *addr,
	    .side = listen_side(s),
	    .keepalive_s = s->keepalive_s,
	    .unix_mode = s->listen_mode,
	    .unix_group = s->listen_group != NULL,
	    .unix_gid = s->listen_gid,
	};
}

/* All inherited sockets of one name; a unit may have several. */
static enum fault
adopt(struct control *k, struct listen_socket *l, const struct service *s,
    struct why *why)
{
	for (size_t i = 0; i < k->n_inherited; i++) {
		struct sys_inherited *h = &k->inherited[i];
		struct sockaddr_storage ss;
		socklen_t len = sizeof(ss);
		struct listen_args a;
		int listening = 0;
		socklen_t size = sizeof(listening);

		if (strcmp(h->name, l->systemd) != 0 || h->taken)
			continue;
		if (getsockopt(h->fd, SOL_SOCKET, SO_ACCEPTCONN, &listening,
		        &size) == -1 ||
		    !listening)
			return fail(why, FAULT_CONF,
			    "systemd:%s: descriptor %d is not a listening "
			    "socket",
			    l->systemd, h->fd);
		if (getsockname(h->fd, (struct sockaddr *)&ss, &len) == 0)
			addr_set(&l->addr, (struct sockaddr *)&ss, len);
		listen_args_of(s, &l->addr, &a);
		net_adopt_listener(h->fd, &a);
		h->taken = true;
		if (l->n_fds < LISTENERS_MAX)
			l->fds[l->n_fds++] = h->fd;
	}
	if (l->n_fds == 0)
		return fail(why, FAULT_CONF,
		    "systemd:%s: no socket of that name was passed; the "
		    "socket unit needs FileDescriptorName=%s",
		    l->systemd, l->systemd);
	l->listening = true;
	return FAULT_NONE;
}

static enum fault
bind_all(struct control *k, struct listen_socket *l, const struct service *s,
    struct why *why)
{
	struct listen_args a;
	size_t n = k->workers.n_workers;

	listen_args_of(s, &l->addr, &a);
	if (addr_family(&l->addr) == AF_UNIX)
		n = 1; /* SO_REUSEPORT does not exist there */
	if (n > LISTENERS_MAX)
		n = LISTENERS_MAX;
	while (l->n_fds < n) {
		enum fault f = net_bind(&a, &l->fds[l->n_fds], why);

		if (f != FAULT_NONE)
			return f;
		l->n_fds++;
	}
	return FAULT_NONE;
}

static enum fault
prepare_one(struct control *k, const struct service *s,
    const struct conf_listen *cl, struct why *why)
{
	struct listen_socket *l = find(k, s, cl);
	enum fault f;

	if (l != NULL) {
		l->used = true;
		l->service = s->index;
		return FAULT_NONE;
	}
	l = calloc(1, sizeof(*l));
	if (l == NULL)
		return fail(why, FAULT_NOMEM, "listeners: out of memory");
	node_init(&l->node);
	l->addr = cl->addr;
	l->side = listen_side(s);
	l->service = s->index;
	l->used = true;
	l->origin = cl->origin;
	if (cl->systemd != NULL) {
		l->systemd = strdup(cl->systemd);
		f = l->systemd == NULL
		        ? fail(why, FAULT_NOMEM, "listeners: out of memory")
		        : adopt(k, l, s, why);
	} else {
		f = bind_all(k, l, s, why);
	}
	list_add_tail(&k->listens, &l->node);
	return f;
}

enum fault
listeners_prepare(struct control *k, const struct conf *c, struct why *why)
{
	LIST_EACH (it, &k->listens) {
		CONTAINER_OF(it, struct listen_socket, node)->used = false;
	}
	for (size_t i = 0; i < c->n_services; i++) {
		const struct service *s = &c->services[i];

		for (size_t j = 0; j < s->n_listens; j++) {
			enum fault f = prepare_one(k, s, &s->listens[j], why);

			if (f != FAULT_NONE)
				return f;
		}
	}
	return FAULT_NONE;
}

/* systemd passes a socket once: the next load must find it again. */
static void
give_back(struct control *k, struct listen_socket *l)
{
	for (size_t i = 0; i < k->n_inherited; i++) {
		struct sys_inherited *h = &k->inherited[i];

		for (size_t j = 0; j < l->n_fds; j++) {
			if (h->taken && h->fd == l->fds[j])
				h->taken = false;
		}
	}
	l->n_fds = 0;
}

void
listeners_rollback(struct control *k)
{
	LIST_EACH_SAFE (it, &k->listens) {
		struct listen_socket *l =
		    CONTAINER_OF(it, struct listen_socket, node);

		l->used = l->wanted_last;
		if (l->used)
			continue;
		if (l->systemd != NULL)
			give_back(k, l);
		socket_free(l);
	}
}

enum fault
listeners_listen(struct control *k, const struct conf *c, struct why *why)
{
	LIST_EACH (it, &k->listens) {
		struct listen_socket *l =
		    CONTAINER_OF(it, struct listen_socket, node);

		if (!l->used || l->listening)
			continue;
		for (size_t i = 0; i < l->n_fds; i++) {
			enum fault f = net_listen(
			    l->fds[i], c->services[l->service].backlog, why);

			if (f != FAULT_NONE)
				return f;
		}
		l->listening = true;
	}
	return FAULT_NONE;
}

void
listeners_commit(struct control *k)
{
	LIST_EACH (it, &k->listens) {
		struct listen_socket *l =
		    CONTAINER_OF(it, struct listen_socket, node);

		l->wanted_last = l->used;
	}
}

/* Only called when every worker has adopted the newest configuration. */
void
listeners_reap(struct control *k)
{
	LIST_EACH_SAFE (it, &k->listens) {
		struct listen_socket *l =
		    CONTAINER_OF(it, struct listen_socket, node);

		if (l->used)
			continue;
		if (l->systemd != NULL)
			give_back(k, l);
		socket_free(l);
	}
}

void
listeners_free(struct control *k)
{
	LIST_EACH_SAFE (it, &k->listens) {
		socket_free(CONTAINER_OF(it, struct listen_socket, node));
	}
}

/* A shared descriptor goes to every worker, the others to one each. */
static size_t
add_for(const struct control *k, const struct listen_socket *l,
    unsigned int worker, struct listener *list, size_t n)
{
	bool shared = l->systemd != NULL || addr_family(&l->addr) == AF_UNIX;

	for (size_t i = 0; i < l->n_fds; i++) {
		if (!shared && i % k->workers.n_workers != worker)
			continue;
		list[n++] = (struct listener){
		    .fd = l->fds[i],
		    .service = l->service,
		    .addr = l->addr,
		};
	}
	return n;
}

bool
listeners_for(struct control *k, unsigned int worker, struct listener **list_r,
    size_t *n_r)
{
	size_t max = 0, n = 0;
	struct listener *list;

	LIST_EACH (it, &k->listens) {
		max += CONTAINER_OF(it, struct listen_socket, node)->n_fds;
	}
	list = calloc(max + 1, sizeof(*list));
	if (list == NULL)
		return false;
	LIST_EACH (it, &k->listens) {
		struct listen_socket *l =
		    CONTAINER_OF(it, struct listen_socket, node);

		if (l->used)
			n = add_for(k, l, worker, list, n);
	}
	*list_r = list;
	*n_r = n;
	return true;
}
