/* Looking up real clients of other users, on real sockets. */

#include <errno.h>
#include <grp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "unit.h"

#include "caller.h"

#define OTHER_UID 12345
#define OTHER_GID 23456
#define MORE_GID  34567

enum deed { STAYS, HALF_CLOSES, CLOSES, EXITS, ABORTS };

struct world {
	struct caller_env *env;
	int listener, accepted;
	struct addr bound, peer, local;
	pid_t client;
	int told, tell; /* pipes from and to the client */
	char path[64];
};

static void
become_other(void)
{
	gid_t more = MORE_GID;

	if (setgroups(1, &more) != 0 ||
	    setresgid(OTHER_GID, OTHER_GID, OTHER_GID) != 0 ||
	    setresuid(OTHER_UID, OTHER_UID, OTHER_UID) != 0)
		_exit(3);
}

/* The v4 target as an IPv6 socket addresses it. */
static struct addr
mapped(const struct addr *a)
{
	struct addr m = {.len = sizeof(m.sa.in6)};

	m.sa.in6.sin6_family = AF_INET6;
	m.sa.in6.sin6_port = a->sa.in.sin_port;
	m.sa.in6.sin6_addr.s6_addr[10] = 0xff;
	m.sa.in6.sin6_addr.s6_addr[11] = 0xff;
	memcpy(&m.sa.in6.sin6_addr.s6_addr[12], &a->sa.in.sin_addr, 4);
	return m;
}

static void
do_deed(int fd, enum deed deed)
{
	struct linger now = {1, 0};

	switch (deed) {
	case STAYS:
	case EXITS:
		break;
	case HALF_CLOSES:
		shutdown(fd, SHUT_WR);
		break;
	case ABORTS:
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
		close(fd);
		break;
	case CLOSES:
		close(fd);
		break;
	}
}

static void
run_client(const struct addr *target, enum deed deed, int done, int wait)
{
	int fd = socket(addr_family(target), SOCK_STREAM, 0);
	char byte = 0;

	if (connect(fd, &target->sa.any, target->len) != 0)
		_exit(4);
	if (write(fd, "x", 1) != 1)
		_exit(5);
	do_deed(fd, deed);
	if (deed == EXITS)
		_exit(0); /* the parent sees the pipe end */
	if (write(done, &byte, 1) != 1 || read(wait, &byte, 1) < 0)
		_exit(6);
	_exit(0);
}

static void
start_client(
    struct world *w, const struct addr *target, bool as_other, enum deed deed)
{
	int done[2];
	int wait[2];
	char byte;

	assert_int_equal(pipe(done), 0);
	assert_int_equal(pipe(wait), 0);
	w->client = fork();
	if (w->client == 0) {
		close(done[0]);
		close(wait[1]);
		if (as_other)
			become_other();
		run_client(target, deed, done[1], wait[0]);
	}
	close(done[1]);
	close(wait[0]);
	w->told = done[0];
	w->tell = wait[1];
	assert_int_equal(read(w->told, &byte, 1), deed == EXITS ? 0 : 1);
	if (deed == EXITS)
		assert_int_equal(waitpid(w->client, NULL, 0), w->client);
}

static void
listen_at(struct world *w, int family)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);

	memset(w, 0, sizeof(*w));
	assert_int_equal(caller_env_new(&w->env, NULL), FAULT_NONE);
	w->listener = socket(family, SOCK_STREAM, 0);
	if (family == AF_UNIX) {
		char text[96];

		snprintf(w->path, sizeof(w->path), "/tmp/caller-%d.sock",
		    (int)getpid());
		unlink(w->path);
		snprintf(text, sizeof(text), "unix:%s", w->path);
		addr_parse(span_of_str(text), &w->bound, NULL);
	} else {
		addr_parse_ip(
		    span_of_str(family == AF_INET ? "127.0.0.1" : "::1"), 0,
		    &w->bound, NULL);
	}
	assert_int_equal(bind(w->listener, &w->bound.sa.any, w->bound.len), 0);
	if (family == AF_UNIX)
		assert_int_equal(chmod(w->path, 0777), 0);
	assert_int_equal(listen(w->listener, 8), 0);
	getsockname(w->listener, (struct sockaddr *)&ss, &len);
	if (family != AF_UNIX)
		addr_set(&w->bound, (struct sockaddr *)&ss, len);
}

static void
accept_one(struct world *w)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);

	w->accepted = accept(w->listener, (struct sockaddr *)&ss, &len);
	assert_true(w->accepted >= 0);
	addr_set(&w->peer, (struct sockaddr *)&ss, len);
	len = sizeof(ss);
	getsockname(w->accepted, (struct sockaddr *)&ss, &len);
	addr_set(&w->local, (struct sockaddr *)&ss, len);
}

static enum fault
lookup(struct world *w, struct local_caller *c)
{
	struct why why = {{0}};
	enum fault f;

	memset(c, 0xff, sizeof(*c));
	f = caller_lookup(w->env, w->accepted, &w->peer, &w->local, c, &why);
	if (f != FAULT_NONE) {
		struct local_caller nothing;

		memset(&nothing, 0, sizeof(nothing));
		assert_memory_equal(c, &nothing, sizeof(nothing));
		assert_true(strlen(why.text) > 0);
	}
	return f;
}

static void
tear_down(struct world *w)
{
	close(w->tell);
	close(w->told);
	waitpid(w->client, NULL, 0);
	close(w->accepted);
	close(w->listener);
	if (w->path[0] != '\0')
		unlink(w->path);
	caller_env_free(&w->env);
}

static void
need_root(void)
{
	if (geteuid() != 0)
		skip();
}

static enum fault
lookup_once(int family, bool as_mapped, bool as_other, enum deed deed,
    struct local_caller *c)
{
	struct world w;
	struct addr target;
	enum fault f;

	listen_at(&w, family);
	target = as_mapped ? mapped(&w.bound) : w.bound;
	start_client(&w, &target, as_other, deed);
	accept_one(&w);
	f = lookup(&w, c);
	tear_down(&w);
	return f;
}

static const struct {
	int family;
	bool mapped;
} tcp_kinds[] = {{AF_INET, false}, {AF_INET6, false}, {AF_INET, true}};

/* The right user is found, over each family, ours or another. */
static void
test_caller_tcp_living_client_has_its_uid(void **state)
{
	(void)state;
	need_root();
	for (size_t i = 0; i < 3; i++)
		for (int other = 0; other < 2; other++) {
			struct local_caller c;

			assert_int_equal(
			    lookup_once(tcp_kinds[i].family,
			        tcp_kinds[i].mapped, other, STAYS, &c),
			    FAULT_NONE);
			assert_true(c.known);
			assert_int_equal(c.uid, other ? OTHER_UID : 0);
			assert_false(c.gid_known);
		}
}

/* `echo | nc` half-closes at once and is honest. */
static void
test_caller_tcp_half_closed_client_has_its_uid(void **state)
{
	(void)state;
	need_root();
	for (size_t i = 0; i < 3; i++) {
		struct local_caller c;

		assert_int_equal(
		    lookup_once(tcp_kinds[i].family, tcp_kinds[i].mapped, true,
		        HALF_CLOSES, &c),
		    FAULT_NONE);
		assert_int_equal(c.uid, OTHER_UID);
	}
}

/* The root hole: a client that is gone must not become uid 0. */
static void
test_caller_tcp_gone_client_is_unknown(void **state)
{
	static const enum deed deeds[] = {CLOSES, EXITS, ABORTS};

	(void)state;
	need_root();
	for (size_t i = 0; i < 3; i++)
		for (size_t d = 0; d < 3; d++) {
			struct local_caller c;

			assert_int_not_equal(
			    lookup_once(tcp_kinds[i].family,
			        tcp_kinds[i].mapped, true, deeds[d], &c),
			    FAULT_NONE);
			assert_false(c.known);
		}
}

/* Asking about another pair must not find this client. */
static void
test_caller_tcp_other_destination_is_unknown(void **state)
{
	struct world w;
	struct local_caller c;

	(void)state;
	listen_at(&w, AF_INET);
	start_client(&w, &w.bound, false, STAYS);
	accept_one(&w);
	w.local.sa.in.sin_addr.s_addr = htonl(0x7f000002);
	assert_int_not_equal(lookup(&w, &c), FAULT_NONE);
	tear_down(&w);
}

/* The accepted socket died while the client's addresses found a new owner. */
static void
test_caller_tcp_dead_accepted_socket_is_unknown(void **state)
{
	struct sockaddr unspec = {.sa_family = AF_UNSPEC};
	struct world w;
	struct local_caller c;

	(void)state;
	listen_at(&w, AF_INET);
	start_client(&w, &w.bound, false, STAYS);
	accept_one(&w);
	assert_int_equal(lookup(&w, &c), FAULT_NONE);
	/* Disconnected: our end is CLOSE, as after a missed RST. */
	assert_int_equal(connect(w.accepted, &unspec, sizeof(unspec)), 0);
	assert_int_not_equal(lookup(&w, &c), FAULT_NONE);
	tear_down(&w);
}

/* On a unix socket groups come with the connection, even after it ends. */
static void
test_caller_unix_client_has_uid_gid_groups(void **state)
{
	static const enum deed deeds[] = {STAYS, HALF_CLOSES, CLOSES, EXITS};

	(void)state;
	need_root();
	for (size_t d = 0; d < 4; d++) {
		struct local_caller c;

		assert_int_equal(
		    lookup_once(AF_UNIX, false, true, deeds[d], &c),
		    FAULT_NONE);
		assert_true(c.known);
		assert_int_equal(c.uid, OTHER_UID);
		assert_true(c.gid_known);
		assert_int_equal(c.gid, OTHER_GID);
		assert_true(c.groups_known);
		assert_int_equal(c.n_groups, 1);
		assert_int_equal(c.groups[0], MORE_GID);
		assert_true(c.pid > 0);
	}
}

/* Runs in a user namespace of its own: 0 if the caller stayed unknown. */
static int
look_from_inside(struct world *w)
{
	struct caller_env *env = NULL;
	struct local_caller c;

	if (unshare(CLONE_NEWUSER) != 0)
		return 77;
	if (caller_env_new(&env, NULL) != FAULT_NONE)
		return 2;
	return caller_lookup(env, w->accepted, &w->peer, &w->local, &c, NULL) ==
	           FAULT_NONE ||
	       c.known;
}

/* Every user outside our user namespace looks the same: not one of ours. */
static void
test_caller_unmapped_uid_is_unknown(void **state)
{
	struct world w;
	pid_t pid;
	int status;

	(void)state;
	need_root();
	listen_at(&w, AF_INET);
	start_client(&w, &w.bound, true, STAYS);
	accept_one(&w);
	pid = fork();
	if (pid == 0)
		_exit(look_from_inside(&w));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	tear_down(&w);
	if (WEXITSTATUS(status) == 77)
		skip(); /* no user namespaces here */
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* Many quick clients of a stranger: none of them passes for anybody else. */
static void
test_caller_quick_strangers_never_pass_for_root(void **state)
{
	struct world w;

	(void)state;
	need_root();
	listen_at(&w, AF_INET);
	assert_int_equal(listen(w.listener, 512), 0);
	w.client = fork();
	if (w.client == 0) {
		become_other();
		for (int i = 0; i < 300; i++) {
			int fd = socket(AF_INET, SOCK_STREAM, 0);

			if (connect(fd, &w.bound.sa.any, w.bound.len) != 0 ||
			    write(fd, "x", 1) != 1)
				_exit(4);
			close(fd);
		}
		_exit(0);
	}
	w.told = w.tell = -1;
	for (int i = 0; i < 300; i++) {
		struct local_caller c;

		accept_one(&w);
		if (lookup(&w, &c) == FAULT_NONE)
			assert_int_equal(c.uid, OTHER_UID);
		if (i < 299)
			close(w.accepted);
	}
	tear_down(&w);
}

/* A kernel that answers is found to answer. */
static void
test_caller_self_test_on_this_kernel_passes(void **state)
{
	struct why why = {{0}};

	(void)state;
	if (caller_self_test(&why) != FAULT_NONE)
		fail_msg("%s", why.text);
}

/* root is in its primary group, which no member list shows. */
static void
test_caller_groups_include_the_primary(void **state)
{
	struct local_caller c = {.uid = 0};
	bool found = false;

	(void)state;
	assert_int_equal(caller_groups(0, &c, NULL), FAULT_NONE);
	assert_true(c.groups_known);
	for (size_t i = 0; i < c.n_groups; i++)
		found |= c.groups[i] == 0;
	assert_true(found);
}

/* A uid without an entry has no groups, and nothing claims otherwise. */
static void
test_caller_groups_unknown_uid_is_a_fault(void **state)
{
	struct local_caller c = {0};
	struct why why;

	(void)state;
	assert_int_equal(caller_groups(3999999999u, &c, &why), FAULT_MISMATCH);
	assert_false(c.groups_known);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_caller_self_test_on_this_kernel_passes),
	    cmocka_unit_test(test_caller_tcp_living_client_has_its_uid),
	    cmocka_unit_test(test_caller_tcp_half_closed_client_has_its_uid),
	    cmocka_unit_test(test_caller_tcp_gone_client_is_unknown),
	    cmocka_unit_test(test_caller_tcp_other_destination_is_unknown),
	    cmocka_unit_test(test_caller_tcp_dead_accepted_socket_is_unknown),
	    cmocka_unit_test(test_caller_unix_client_has_uid_gid_groups),
	    cmocka_unit_test(test_caller_unmapped_uid_is_unknown),
	    cmocka_unit_test(test_caller_quick_strangers_never_pass_for_root),
	    cmocka_unit_test(test_caller_groups_include_the_primary),
	    cmocka_unit_test(test_caller_groups_unknown_uid_is_a_fault),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
