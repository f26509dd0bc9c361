/*
 * Listening sockets over loads: on loopback ports and unix paths of this
 * process, with configurations made by hand.
 */

#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "control_int.h"

#define SERVICES 4

struct world {
	struct control control;
	char dir[32];
	struct why why;
};

/* A configuration of services with one listen line each. */
struct made {
	struct conf conf;
	struct service services[SERVICES];
	struct conf_listen listens[SERVICES];
};

static void
world_init(struct world *w, size_t workers)
{
	memset(w, 0, sizeof(*w));
	(void)snprintf(w->dir, sizeof(w->dir), "/tmp/postern-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	node_init(&w->control.listens);
	w->control.workers.n_workers = workers;
}

static void
world_fini(struct world *w)
{
	listeners_free(&w->control);
	assert_int_equal(rmdir(w->dir), 0);
}

static void
made_init(struct made *m)
{
	memset(m, 0, sizeof(*m));
	m->conf.services = m->services;
}

static struct service *
add(struct made *m, enum direction direction)
{
	size_t i = m->conf.n_services++;
	struct service *s = &m->services[i];

	assert_true(i < SERVICES);
	s->name = "s";
	s->direction = direction;
	s->index = (unsigned int)i;
	s->backlog = 8;
	s->listen_mode = 0600;
	s->listens = &m->listens[i];
	s->n_listens = 1;
	return s;
}

static void
add_addr(struct made *m, enum direction direction, const struct addr *a)
{
	add(m, direction)->listens[0].addr = *a;
}

static void
add_unix(struct made *m, const struct world *w, const char *name)
{
	char uri[64];
	struct addr a;

	(void)snprintf(uri, sizeof(uri), "unix:%s/%s", w->dir, name);
	assert_int_equal(addr_parse(span_of_str(uri), &a, NULL), FAULT_NONE);
	add_addr(m, OUTBOUND, &a);
}

/* A port that was free a moment ago and that nobody else asks for by number. */
static struct addr
free_port(void)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	struct addr a;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(
	    addr_parse(span_of_str("127.0.0.1:1"), &a, NULL), FAULT_NONE);
	a.sa.in.sin_port = 0;
	assert_int_equal(bind(fd, &a.sa.any, a.len), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&ss, &len), 0);
	addr_set(&a, (struct sockaddr *)&ss, len);
	(void)close(fd);
	return a;
}

static void
load(struct world *w, struct made *m)
{
	if (listeners_prepare(&w->control, &m->conf, &w->why) != FAULT_NONE ||
	    listeners_listen(&w->control, &m->conf, &w->why) != FAULT_NONE)
		fail_msg("%s", w->why.text);
	listeners_commit(&w->control);
}

static size_t
listen_count(const struct control *k)
{
	size_t n = 0;

	LIST_EACH (it, &k->listens) {
		n++;
	}
	return n;
}

/* Descriptor of service S that worker gets; -1: none. */
static int
fd_for(struct world *w, unsigned int worker, unsigned int service)
{
	struct listener *list;
	size_t n;
	int fd = -1;

	assert_true(listeners_for(&w->control, worker, &list, &n));
	for (size_t i = 0; i < n; i++) {
		if (list[i].service == service)
			fd = list[i].fd;
	}
	free(list);
	return fd;
}

static int
try_connect(const struct addr *a)
{
	int fd = socket(addr_family(a), SOCK_STREAM | SOCK_CLOEXEC, 0);
	int error = connect(fd, &a->sa.any, a->len) == 0 ? 0 : errno;

	(void)close(fd);
	return error;
}

static bool
is_open(int fd)
{
	return fcntl(fd, F_GETFD) != -1;
}

/* Nobody may be let in before all of a configuration is known to bind. */
static void
test_listeners_prepare_binds_and_does_not_listen(void **state)
{
	struct world w;
	struct made m;
	struct addr a = free_port();

	(void)state;
	world_init(&w, 2);
	made_init(&m);
	add_addr(&m, INBOUND, &a);
	assert_int_equal(
	    listeners_prepare(&w.control, &m.conf, &w.why), FAULT_NONE);
	assert_int_equal(try_connect(&a), ECONNREFUSED);
	assert_int_equal(
	    listeners_listen(&w.control, &m.conf, &w.why), FAULT_NONE);
	assert_int_equal(try_connect(&a), 0);
	world_fini(&w);
	assert_int_equal(try_connect(&a), ECONNREFUSED);
}

/* Each worker has a queue of its own, or they would wake each other. */
static void
test_listeners_tcp_gives_each_worker_its_own_descriptor(void **state)
{
	struct world w;
	struct made m;
	struct addr a = free_port();

	(void)state;
	world_init(&w, 2);
	made_init(&m);
	add_addr(&m, INBOUND, &a);
	load(&w, &m);
	assert_int_not_equal(fd_for(&w, 0, 0), -1);
	assert_int_not_equal(fd_for(&w, 1, 0), -1);
	assert_int_not_equal(fd_for(&w, 0, 0), fd_for(&w, 1, 0));
	world_fini(&w);
}

/* SO_REUSEPORT does not exist there: all workers serve one socket. */
static void
test_listeners_unix_gives_all_workers_one_descriptor(void **state)
{
	struct world w;
	struct made m;
	struct stat st;

	(void)state;
	world_init(&w, 2);
	made_init(&m);
	add_unix(&m, &w, "a");
	load(&w, &m);
	assert_int_not_equal(fd_for(&w, 0, 0), -1);
	assert_int_equal(fd_for(&w, 0, 0), fd_for(&w, 1, 0));
	assert_int_equal(stat(m.listens[0].addr.sa.un.sun_path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	world_fini(&w);
}

/* What waits in the queue of a kept address must survive a reload. */
static void
test_listeners_kept_address_keeps_its_descriptor(void **state)
{
	struct world w;
	struct made m, next;
	struct addr a = free_port(), b = free_port();
	int fd0, fd1;

	(void)state;
	world_init(&w, 2);
	made_init(&m);
	add_addr(&m, INBOUND, &a);
	load(&w, &m);
	fd0 = fd_for(&w, 0, 0);
	fd1 = fd_for(&w, 1, 0);
	made_init(&next);
	add_addr(&next, OUTBOUND, &b);
	add_addr(&next, INBOUND, &a);
	load(&w, &next);
	assert_int_equal(fd_for(&w, 0, 1), fd0);
	assert_int_equal(fd_for(&w, 1, 1), fd1);
	listeners_reap(&w.control);
	assert_int_equal(try_connect(&a), 0);
	assert_int_equal(try_connect(&b), 0);
	world_fini(&w);
}

/*
 * A reload that cannot bind must leave what serves alone, and hold nothing:
 * the next attempt finds its ports free.
 */
static void
test_listeners_failed_prepare_closes_only_what_it_made(void **state)
{
	struct world w;
	struct made m, bad;
	struct addr a = free_port(), b = free_port();
	char path[64];
	int fd, file, made = -1;

	(void)state;
	world_init(&w, 1);
	made_init(&m);
	add_addr(&m, INBOUND, &a);
	add_unix(&m, &w, "kept");
	load(&w, &m);
	fd = fd_for(&w, 0, 0);

	(void)snprintf(path, sizeof(path), "%s/file", w.dir);
	file = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_int_not_equal(file, -1);
	(void)close(file);
	made_init(&bad);
	add_addr(&bad, INBOUND, &b);
	add_addr(&bad, INBOUND, &a);
	add_unix(&bad, &w, "fresh");
	add_unix(&bad, &w, "file");
	assert_int_not_equal(
	    listeners_prepare(&w.control, &bad.conf, &w.why), FAULT_NONE);
	made = fd_for(&w, 0, 0);
	assert_true(is_open(made));
	listeners_rollback(&w.control);

	assert_false(is_open(made));
	assert_int_equal(listen_count(&w.control), 2);
	assert_true(is_open(fd));
	assert_int_equal(try_connect(&a), 0);
	assert_int_equal(try_connect(&m.listens[1].addr), 0);
	assert_int_equal(try_connect(&b), ECONNREFUSED);
	assert_int_equal(access(bad.listens[2].addr.sa.un.sun_path, F_OK), -1);
	/* What was no socket is still there. */
	assert_int_equal(unlink(path), 0);

	/* The same configuration again keeps everything. */
	load(&w, &m);
	listeners_reap(&w.control);
	assert_int_equal(fd_for(&w, 0, 0), fd);
	world_fini(&w);
}

/* A unix socket that is dropped takes its file along; a kept one does not. */
static void
test_listeners_reap_removes_the_file_of_a_dropped_socket(void **state)
{
	struct world w;
	struct made m, next;
	char gone[128];

	(void)state;
	world_init(&w, 2);
	made_init(&m);
	add_unix(&m, &w, "gone");
	add_unix(&m, &w, "kept");
	load(&w, &m);
	(void)snprintf(
	    gone, sizeof(gone), "%s", m.listens[0].addr.sa.un.sun_path);
	made_init(&next);
	add_unix(&next, &w, "kept");
	load(&w, &next);
	/* Workers may still serve it: nothing goes before the reap. */
	assert_int_equal(try_connect(&m.listens[0].addr), 0);
	assert_int_equal(fd_for(&w, 0, 1), -1);
	listeners_reap(&w.control);
	assert_int_equal(access(gone, F_OK), -1);
	assert_int_equal(try_connect(&next.listens[0].addr), 0);
	world_fini(&w);
}

/* An address that moves to the other side needs other socket options. */
static void
test_listeners_other_side_is_another_socket(void **state)
{
	struct world w;
	struct made m, next;
	struct addr a = free_port();
	int fd;

	(void)state;
	world_init(&w, 1);
	made_init(&m);
	add_addr(&m, INBOUND, &a);
	load(&w, &m);
	fd = fd_for(&w, 0, 0);
	made_init(&next);
	add_addr(&next, OUTBOUND, &a);
	load(&w, &next);
	assert_int_not_equal(fd_for(&w, 0, 0), fd);
	listeners_reap(&w.control);
	assert_false(is_open(fd));
	assert_int_equal(listen_count(&w.control), 1);
	world_fini(&w);
}

/* ---- Inherited sockets ---- */

static struct addr
inherit(struct world *w, const char *name, bool listens)
{
	struct addr a = free_port();
	size_t i = w->control.n_inherited++;
	struct sys_inherited *h = &w->control.inherited[i];

	(void)snprintf(h->name, sizeof(h->name), "%s", name);
	h->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(h->fd, &a.sa.any, a.len), 0);
	if (listens)
		assert_int_equal(listen(h->fd, 8), 0);
	return a;
}

static void
add_systemd(struct made *m, const char *name)
{
	add(m, INBOUND)->listens[0].systemd = name;
}

/* A socket unit may hold several sockets of one name: all are served. */
static void
test_listeners_systemd_takes_all_sockets_of_the_name(void **state)
{
	struct world w;
	struct made m;
	struct listener *list;
	size_t n;

	(void)state;
	world_init(&w, 2);
	(void)inherit(&w, "web", true);
	(void)inherit(&w, "other", true);
	(void)inherit(&w, "web", true);
	made_init(&m);
	add_systemd(&m, "web");
	load(&w, &m);
	for (unsigned int i = 0; i < 2; i++) {
		assert_true(listeners_for(&w.control, i, &list, &n));
		assert_int_equal(n, 2);
		assert_int_equal(list[0].fd, w.control.inherited[0].fd);
		assert_int_equal(list[1].fd, w.control.inherited[2].fd);
		free(list);
	}
	assert_false(w.control.inherited[1].taken);
	(void)close(w.control.inherited[1].fd);
	world_fini(&w);
}

/* A unit that forgot the name, or passed a socket that does not listen. */
static void
test_listeners_systemd_missing_or_not_listening_is_named(void **state)
{
	struct world w;
	struct made m;

	(void)state;
	world_init(&w, 1);
	(void)inherit(&w, "deaf", false);
	made_init(&m);
	add_systemd(&m, "web");
	assert_int_equal(
	    listeners_prepare(&w.control, &m.conf, &w.why), FAULT_CONF);
	assert_non_null(strstr(w.why.text, "FileDescriptorName=web"));
	listeners_rollback(&w.control);
	made_init(&m);
	add_systemd(&m, "deaf");
	assert_int_equal(
	    listeners_prepare(&w.control, &m.conf, &w.why), FAULT_CONF);
	assert_non_null(strstr(w.why.text, "not a listening socket"));
	listeners_rollback(&w.control);
	(void)close(w.control.inherited[0].fd);
	world_fini(&w);
}

/*
 * systemd passes a socket once: after a reload that was refused for another
 * reason the corrected one must still find it.
 */
static void
test_listeners_systemd_socket_survives_a_refused_reload(void **state)
{
	struct world w;
	struct made m;
	struct addr a;

	(void)state;
	world_init(&w, 1);
	a = inherit(&w, "web", true);
	made_init(&m);
	add_systemd(&m, "web");
	add_systemd(&m, "absent");
	assert_int_equal(
	    listeners_prepare(&w.control, &m.conf, &w.why), FAULT_CONF);
	listeners_rollback(&w.control);
	assert_int_equal(listen_count(&w.control), 0);
	assert_int_equal(try_connect(&a), 0);
	made_init(&m);
	add_systemd(&m, "web");
	load(&w, &m);
	assert_int_equal(fd_for(&w, 0, 0), w.control.inherited[0].fd);
	world_fini(&w);
}

/* A service that comes back finds the socket that systemd passed for it. */
static void
test_listeners_systemd_socket_survives_its_service(void **state)
{
	struct world w;
	struct made m;
	struct addr a;

	(void)state;
	world_init(&w, 1);
	a = inherit(&w, "web", true);
	made_init(&m);
	add_systemd(&m, "web");
	load(&w, &m);
	made_init(&m);
	load(&w, &m);
	listeners_reap(&w.control);
	assert_int_equal(listen_count(&w.control), 0);
	assert_int_equal(try_connect(&a), 0);
	made_init(&m);
	add_systemd(&m, "web");
	load(&w, &m);
	assert_int_equal(fd_for(&w, 0, 0), w.control.inherited[0].fd);
	world_fini(&w);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_listeners_prepare_binds_and_does_not_listen),
	    cmocka_unit_test(
	        test_listeners_tcp_gives_each_worker_its_own_descriptor),
	    cmocka_unit_test(
	        test_listeners_systemd_socket_survives_its_service),
	    cmocka_unit_test(
	        test_listeners_unix_gives_all_workers_one_descriptor),
	    cmocka_unit_test(test_listeners_kept_address_keeps_its_descriptor),
	    cmocka_unit_test(
	        test_listeners_failed_prepare_closes_only_what_it_made),
	    cmocka_unit_test(
	        test_listeners_reap_removes_the_file_of_a_dropped_socket),
	    cmocka_unit_test(test_listeners_other_side_is_another_socket),
	    cmocka_unit_test(
	        test_listeners_systemd_takes_all_sockets_of_the_name),
	    cmocka_unit_test(
	        test_listeners_systemd_missing_or_not_listening_is_named),
	    cmocka_unit_test(
	        test_listeners_systemd_socket_survives_a_refused_reload),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
