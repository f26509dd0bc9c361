/*
 * The control socket in a directory of the test, with its loop and a worker;
 * whoever asks is a process of its own. The clock is told.
 */

#include "unit.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control_int.h"
#include "log.h"

#define DEADLINE_S 20
#define BIG        ((size_t)4 << 20)

static int64_t now_ms;

/* The linker puts these in the place of control's own. */
int64_t __wrap_control_now_ms(void);
void __wrap_verb_dump(struct admin_client *c);

int64_t
__wrap_control_now_ms(void)
{
	return now_ms;
}

/* A body with everything that the wire must not confuse; or a large one. */
void
__wrap_verb_dump(struct admin_client *c)
{
	if (c->n_words == 2) {
		text_add(&c->out, ".exit 0\n..\na.b\n\nno end");
	} else {
		for (size_t i = 0; i < BIG; i += 8)
			text_add(&c->out, "1234567\n");
	}
	admin_done(c, 5);
}

struct world {
	struct control control;
	struct control_args args;
	struct conf conf;
	struct worker *workers[1];
	struct worker_public *public;
	struct event *mail_event;
	struct event *deadline;
	char dir[32];
	char path[64];
	size_t n_mail; /* answers of workers */
	bool late;
	char verb[16]; /* of the last audit line */
	char uid[16];
	char out[4096]; /* of the last ask() */
	size_t n_out;
	bool ended;
};

static void
on_mail(evutil_socket_t fd, short what, void *arg)
{
	struct world *w = arg;
	struct node list;
	struct node *n;

	(void)fd;
	(void)what;
	node_init(&list);
	mail_take(w->control.mailbox, &list);
	while ((n = list_pop(&list)) != NULL) {
		struct mail *m = CONTAINER_OF(n, struct mail, node);

		w->n_mail++;
		admin_answered(w->control.admin, m);
	}
}

static void
on_deadline(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	((struct world *)arg)->late = true;
}

static void
on_record(void *arg, const struct fields *f)
{
	struct world *w = arg;
	struct span v;

	if (fields_get(f, FIELD_verb, &v))
		(void)snprintf(w->verb, sizeof(w->verb), "%.*s", (int)v.len,
		    (const char *)v.data);
	if (fields_get(f, FIELD_uid, &v))
		(void)snprintf(w->uid, sizeof(w->uid), "%.*s", (int)v.len,
		    (const char *)v.data);
}

static void
world_init_workers(struct world *w)
{
	struct worker_shared *s = &w->control.workers;

	s->n_workers = 1;
	s->workers = w->workers;
	w->public = aligned_alloc(64, sizeof(*w->public));
	assert_non_null(w->public);
	memset(w->public, 0, sizeof(*w->public));
	s->public = w->public;
	s->spill_max_bytes = 1 << 20;
	s->descriptors_max = 1024;
	s->max_connections = 100;
	s->control = w->control.mailbox;
	w->workers[0] = worker_new(s, 0);
	assert_non_null(w->workers[0]);
}

static void
world_init(struct world *w)
{
	struct control *k = &w->control;
	struct why why;

	memset(w, 0, sizeof(*w));
	now_ms = 100000;
	(void)snprintf(w->dir, sizeof(w->dir), "/tmp/postern-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	assert_int_equal(chmod(w->dir, 0755), 0);
	(void)snprintf(w->path, sizeof(w->path), "%s/sock", w->dir);
	w->args.control_path = w->path;
	k->args = &w->args;
	k->conf = &w->conf;
	k->base = event_base_new();
	k->mailbox = mailbox_new();
	assert_non_null(k->base);
	assert_non_null(k->mailbox);
	world_init_workers(w);
	if (admin_new(k, &k->admin, &why) != FAULT_NONE)
		fail_msg("%s", why.text);
	w->mail_event = event_new(
	    k->base, mailbox_fd(k->mailbox), EV_READ | EV_PERSIST, on_mail, w);
	assert_int_equal(event_add(w->mail_event, NULL), 0);
	w->deadline = event_new(k->base, -1, 0, on_deadline, w);
	log_set_sink(on_record, w);
}

static void
worker_run(struct world *w)
{
	struct why why;

	assert_int_equal(worker_start(w->workers[0], &why), FAULT_NONE);
}

static void
world_fini(struct world *w)
{
	struct mail *stop = calloc(1, sizeof(*stop));

	assert_non_null(stop);
	stop->kind = MAIL_STOP;
	(void)worker_post(w->workers[0], stop);
	worker_join(w->workers[0]);
	on_mail(-1, 0, w);
	admin_free(&w->control.admin);
	worker_free(&w->workers[0]);
	event_free(w->mail_event);
	event_free(w->deadline);
	mailbox_free(&w->control.mailbox);
	event_base_free(w->control.base);
	free(w->public);
	log_set_sink(NULL, NULL);
	/* The socket's file went with it. */
	assert_int_equal(rmdir(w->dir), 0);
}

/* All that can be done without waiting: unix sockets need no time. */
static void
settle(struct world *w)
{
	for (int i = 0; i < 16; i++)
		(void)event_base_loop(w->control.base, EVLOOP_NONBLOCK);
}

static void
run_until(struct world *w, const bool *done)
{
	const struct timeval tv = {.tv_sec = DEADLINE_S};

	(void)event_add(w->deadline, &tv);
	while (!*done && !w->late)
		(void)event_base_loop(w->control.base, EVLOOP_ONCE);
	(void)event_del(w->deadline);
	assert_false(w->late);
}

static void
on_output(evutil_socket_t fd, short what, void *arg)
{
	struct world *w = arg;
	ssize_t n = read(fd, w->out + w->n_out, sizeof(w->out) - 1 - w->n_out);

	(void)what;
	if (n <= 0)
		w->ended = true;
	else
		w->n_out += (size_t)n;
	w->out[w->n_out] = '\0';
}

/* The client half, as another user; its exit code. */
static pid_t
ask_start(const char *path, uid_t uid, const char *line, int fd)
{
	pid_t pid = fork();

	if (pid == 0) {
		FILE *out = fdopen(fd, "w");
		int code;

		if (setresuid(uid, uid, uid) != 0)
			_exit(100);
		code = control_ask(path, line, out, out);
		(void)fclose(out);
		_exit(code);
	}
	(void)close(fd);
	return pid;
}

static int
ask_as(struct world *w, uid_t uid, const char *line)
{
	struct event *e;
	int p[2], status;
	pid_t pid;

	w->n_out = 0;
	w->out[0] = '\0';
	w->ended = false;
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	pid = ask_start(w->path, uid, line, p[1]);
	e = event_new(
	    w->control.base, p[0], EV_READ | EV_PERSIST, on_output, w);
	(void)event_add(e, NULL);
	run_until(w, &w->ended);
	event_free(e);
	(void)close(p[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static int
ask(struct world *w, const char *line)
{
	return ask_as(w, geteuid(), line);
}

/* A client that speaks bytes. */
static int
dial(const char *path)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	(void)strncpy(sa.sun_path, path, sizeof(sa.sun_path) - 1);
	assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	return fd;
}

static void
say(int fd, const void *data, size_t len)
{
	assert_int_equal(send(fd, data, len, MSG_NOSIGNAL), len);
}

/* What came until now; the length, or -1 when nothing came and it is open. */
static ssize_t
heard(int fd, char *buf, size_t size)
{
	size_t n = 0;
	ssize_t got = -1;

	while (n < size - 1 && (got = recv(fd, buf + n, size - 1 - n, 0)) > 0)
		n += (size_t)got;
	buf[n] = '\0';
	return n == 0 && got == -1 ? -1 : (ssize_t)n;
}

static void
assert_reply(
    struct world *w, const void *request, size_t len, const char *expected)
{
	char got[512];
	int fd = dial(w->path);

	say(fd, request, len);
	settle(w);
	(void)heard(fd, got, sizeof(got));
	(void)close(fd);
	assert_non_null(strstr(got, expected));
	assert_string_equal(got + strlen(got) - 8, ".exit 2\n");
}

/* ---- Requests and replies ---- */

/* A body that looks like an end must arrive whole, with the right code. */
static void
test_admin_body_with_dots_arrives_as_it_was(void **state)
{
	struct world w;

	(void)state;
	world_init(&w);
	assert_int_equal(ask(&w, "text dump"), 5);
	assert_string_equal(w.out, ".exit 0\n..\na.b\n\nno end\n");
	world_fini(&w);
}

/* The wire itself, for those who ask with other tools. */
static void
test_admin_reply_is_dot_stuffed_and_ends_with_the_code(void **state)
{
	struct world w;
	char got[256];
	int fd;

	(void)state;
	world_init(&w);
	fd = dial(w.path);
	say(fd, "text du", 7);
	settle(&w);
	say(fd, "mp\n", 3);
	settle(&w);
	(void)heard(fd, got, sizeof(got));
	assert_string_equal(got, "..exit 0\n...\na.b\n\nno end\n.exit 5\n");
	(void)close(fd);
	world_fini(&w);
}

/* Whatever arrives gets a sentence and code 2; nothing is guessed. */
static void
test_admin_malformed_requests_are_refused(void **state)
{
	struct world w;
	char many[256] = "text dump";

	(void)state;
	world_init(&w);
	for (int i = 0; i < 63; i++)
		(void)strcat(many, " a");
	(void)strcat(many, "\n");
	assert_reply(&w, "\n", 1, "malformed");
	assert_reply(&w, "text\n", 5, "malformed");
	assert_reply(&w, "   \n", 4, "malformed");
	assert_reply(&w, "xml dump\n", 9, "malformed");
	assert_reply(&w, "text\0dump x\n", 12, "malformed");
	assert_reply(&w, many, strlen(many), "malformed");
	assert_reply(&w, "text dumps\n", 11, "unknown verb");
	assert_reply(&w, "text DUMP\n", 10, "unknown verb");
	assert_reply(&w, "text close\n", 11, "--service");
	assert_reply(&w, "text connections --conn 0\n", 26, "--conn");
	assert_reply(&w, "text connections --conn\n", 24, "--conn");
	world_fini(&w);
}

/* The longest line that fits is taken, one byte more is not. */
static void
test_admin_over_long_line_is_refused(void **state)
{
	struct world w;
	char line[4200];

	(void)state;
	world_init(&w);
	memset(line, ' ', sizeof(line));
	memcpy(line, "text dump", 9);
	line[4095] = '\0';
	assert_int_equal(ask(&w, line), 5);
	line[4095] = ' ';
	line[4150] = '\0';
	assert_int_equal(ask(&w, line), 2);
	assert_string_equal(w.out, "a request is one line of at most 4 KiB\n");
	world_fini(&w);
}

/* Half a request holds one of few places: not for ever. */
static void
test_admin_half_a_request_is_dropped_after_5_s(void **state)
{
	struct world w;
	char got[16];
	int fd;

	(void)state;
	world_init(&w);
	fd = dial(w.path);
	say(fd, "text du", 7);
	settle(&w);
	now_ms += 4999;
	admin_tick(w.control.admin);
	assert_int_equal(heard(fd, got, sizeof(got)), -1);
	now_ms += 1;
	admin_tick(w.control.admin);
	assert_int_equal(heard(fd, got, sizeof(got)), 0);
	(void)close(fd);
	world_fini(&w);
}

/* A reply that is not read is given up; it never looks complete. */
static void
test_admin_reply_that_is_not_read_is_dropped_after_10_s(void **state)
{
	struct world w;
	char *got = malloc(BIG + 64);
	ssize_t n;
	int fd;

	(void)state;
	assert_non_null(got);
	world_init(&w);
	fd = dial(w.path);
	say(fd, "text dump x\n", 12);
	settle(&w);
	now_ms += 10000;
	admin_tick(w.control.admin);
	n = heard(fd, got, BIG + 64);
	assert_true(n > 0 && (size_t)n < BIG);
	assert_null(strstr(got, ".exit"));
	(void)close(fd);
	free(got);
	world_fini(&w);
}

/* A large reply to a client that reads comes whole, in many writes. */
static void
test_admin_large_reply_comes_whole(void **state)
{
	struct world w;
	char *got = malloc(BIG + 64);
	size_t n = 0;
	int fd;

	(void)state;
	assert_non_null(got);
	world_init(&w);
	fd = dial(w.path);
	say(fd, "text dump x\n", 12);
	for (ssize_t more = 1; more != 0;) {
		settle(&w);
		more = heard(fd, got + n, BIG + 64 - n);
		assert_int_not_equal(more, -1);
		n += (size_t)more;
	}
	assert_int_equal(n, BIG + 8);
	assert_string_equal(got + BIG, ".exit 5\n");
	(void)close(fd);
	free(got);
	world_fini(&w);
}

/* ---- Who may ask what ---- */

/* Reading is for the socket's group; ending connections is not. */
static void
test_admin_changing_verb_of_a_foreign_uid_is_refused(void **state)
{
	struct world w;

	(void)state;
	if (geteuid() != 0)
		skip();
	world_init(&w);
	worker_run(&w);
	assert_int_equal(chmod(w.path, 0666), 0);
	assert_int_equal(ask_as(&w, 65111, "text close --service api"), 1);
	assert_non_null(strstr(w.out, "not permitted"));
	assert_int_equal(ask_as(&w, 65111, "text reload"), 1);
	assert_non_null(strstr(w.out, "not permitted"));
	assert_string_equal(w.verb, "");
	assert_int_equal(w.n_mail, 0);
	assert_int_equal(ask_as(&w, 65111, "text connections"), 0);
	world_fini(&w);
}

/* What changes something leaves a line that says who did it. */
static void
test_admin_changing_verb_is_audited(void **state)
{
	struct world w;

	(void)state;
	if (geteuid() != 0)
		skip();
	world_init(&w);
	worker_run(&w);
	assert_int_equal(ask(&w, "text connections"), 0);
	assert_string_equal(w.verb, "");
	assert_int_equal(ask(&w, "text close --service api"), 0);
	assert_string_equal(w.out, "0 connections ended\n");
	assert_string_equal(w.verb, "close");
	assert_string_equal(w.uid, "0");
	world_fini(&w);
}

/* The socket is no door for everybody on the host. */
static void
test_admin_socket_is_for_owner_and_group(void **state)
{
	struct world w;
	struct stat st;

	(void)state;
	world_init(&w);
	assert_int_equal(stat(w.path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0660);
	world_fini(&w);
}

/* Sixteen at once, and the next is told nothing rather than something. */
static void
test_admin_seventeenth_client_is_turned_away(void **state)
{
	struct world w;
	int fds[16];

	(void)state;
	world_init(&w);
	for (size_t i = 0; i < 16; i++)
		fds[i] = dial(w.path);
	settle(&w);
	assert_int_equal(ask(&w, "text dump"), 6);
	assert_non_null(strstr(w.out, "the reply was cut"));
	(void)close(fds[7]);
	settle(&w);
	assert_int_equal(ask(&w, "text dump"), 5);
	for (size_t i = 0; i < 16; i++) {
		if (i != 7)
			(void)close(fds[i]);
	}
	world_fini(&w);
}

/* ---- Verbs that wait for workers ---- */

/* A client that leaves while a worker thinks must not be answered. */
static void
test_admin_client_that_hangs_up_while_it_waits_is_forgotten(void **state)
{
	struct world w;
	int fd;

	(void)state;
	world_init(&w);
	fd = dial(w.path);
	say(fd, "text connections\n", 17);
	settle(&w);
	(void)close(fd);
	settle(&w);
	worker_run(&w);
	assert_int_equal(ask(&w, "json connections"), 0);
	assert_int_equal(w.n_mail, 2);
	assert_string_equal(w.out,
	    "{\"schema\":\"postern.connections/1\",\"complete\":true,"
	    "\"connections\":[]}\n");
	world_fini(&w);
}

/* A stuck worker is named after two seconds; the others are not waited for. */
static void
test_admin_worker_that_does_not_answer_is_named(void **state)
{
	struct world w;
	char got[512];
	int fd;

	(void)state;
	world_init(&w);
	fd = dial(w.path);
	say(fd, "text close --service api\n", 25);
	settle(&w);
	now_ms += 1999;
	admin_tick(w.control.admin);
	assert_int_equal(heard(fd, got, sizeof(got)), -1);
	now_ms += 1;
	admin_tick(w.control.admin);
	(void)heard(fd, got, sizeof(got));
	assert_string_equal(
	    got, "0 connections ended\nworker 0 did not answer\n.exit 1\n");
	(void)close(fd);
	world_fini(&w);
}

/*
 * The answer to a question that was given up is not the answer to the next
 * one, though it comes first and its client may sit at the same address.
 */
static void
test_admin_late_answer_does_not_answer_the_next_client(void **state)
{
	struct world w;
	char got[512];
	int fd;

	(void)state;
	world_init(&w);
	fd = dial(w.path);
	say(fd, "text connections\n", 17);
	settle(&w);
	now_ms += 2000;
	admin_tick(w.control.admin);
	(void)heard(fd, got, sizeof(got));
	(void)close(fd);
	fd = dial(w.path);
	say(fd, "text close --service api\n", 25);
	settle(&w);
	{
		struct mail_query *late = calloc(1, sizeof(*late));

		assert_non_null(late);
		late->mail.kind = MAIL_QUERY;
		late->request = 1; /* the first client's */
		admin_answered(w.control.admin, &late->mail);
	}
	assert_int_equal(heard(fd, got, sizeof(got)), -1);
	(void)close(fd);
	world_fini(&w);
}

/* ---- The client half, against a daemon that misbehaves ---- */

static int
ask_stub(const char *reply, char out[512])
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	char dir[] = "/tmp/postern-XXXXXX";
	int listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int p[2], fd, status;
	size_t n = 0;
	ssize_t got;
	pid_t pid;

	assert_non_null(mkdtemp(dir));
	(void)snprintf(sa.sun_path, sizeof(sa.sun_path), "%s/s", dir);
	assert_int_equal(
	    bind(listen_fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(listen_fd, 1), 0);
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	pid = ask_start(sa.sun_path, geteuid(), "text x", p[1]);
	fd = accept(listen_fd, NULL, NULL);
	while (n < 7 && (got = recv(fd, out + n, 7 - n, 0)) > 0)
		n += (size_t)got;
	assert_memory_equal(out, "text x\n", 7);
	say(fd, reply, strlen(reply));
	(void)close(fd);
	n = 0;
	while ((got = read(p[0], out + n, 511 - n)) > 0)
		n += (size_t)got;
	out[n] = '\0';
	(void)close(p[0]);
	(void)close(listen_fd);
	(void)unlink(sa.sun_path);
	(void)rmdir(dir);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WEXITSTATUS(status);
}

/* A daemon that dies in the middle of a reply is no success, wherever. */
static void
test_admin_client_cut_reply_is_never_success(void **state)
{
	static const char *const cut[] = {"", "body", "body\n", "body\n.",
	    "body\n.exit", "body\n.exit ", "body\n.exit 0", "body\n.exit \n",
	    "body\n.exit x\n", "body\n.exit -1\n", "body\n.exit 256\n"};
	char out[512];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cut); i++) {
		assert_int_equal(ask_stub(cut[i], out), 6);
		assert_non_null(strstr(out, "the reply was cut"));
	}
}

/* The code of the daemon is the code of the tool; dots are taken off. */
static void
test_admin_client_takes_code_and_body(void **state)
{
	char out[512];

	(void)state;
	assert_int_equal(ask_stub("..a\n...\nb\n.exit 7\n", out), 7);
	assert_string_equal(out, ".a\n..\nb\n");
	assert_int_equal(ask_stub(".exit 0\n", out), 0);
	assert_string_equal(out, "");
}

/* No daemon: a sentence that says what to look at, and code 6. */
static void
test_admin_client_without_daemon_is_unreachable(void **state)
{
	char path[300], text[512] = "";
	FILE *err = fmemopen(text, sizeof(text) - 1, "w");

	(void)state;
	memset(path, 'a', sizeof(path));
	path[sizeof(path) - 1] = '\0';
	assert_int_equal(
	    control_ask("/tmp/postern-none/sock", "text x", err, err), 6);
	(void)fflush(err);
	assert_non_null(strstr(text, "is the daemon running?"));
	assert_int_equal(control_ask(path, "text x", err, err), 6);
	(void)fclose(err);
	assert_non_null(strstr(text, "too long"));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_admin_body_with_dots_arrives_as_it_was),
	    cmocka_unit_test(
	        test_admin_reply_is_dot_stuffed_and_ends_with_the_code),
	    cmocka_unit_test(test_admin_malformed_requests_are_refused),
	    cmocka_unit_test(test_admin_over_long_line_is_refused),
	    cmocka_unit_test(test_admin_half_a_request_is_dropped_after_5_s),
	    cmocka_unit_test(
	        test_admin_reply_that_is_not_read_is_dropped_after_10_s),
	    cmocka_unit_test(test_admin_large_reply_comes_whole),
	    cmocka_unit_test(
	        test_admin_changing_verb_of_a_foreign_uid_is_refused),
	    cmocka_unit_test(test_admin_changing_verb_is_audited),
	    cmocka_unit_test(test_admin_socket_is_for_owner_and_group),
	    cmocka_unit_test(test_admin_seventeenth_client_is_turned_away),
	    cmocka_unit_test(
	        test_admin_client_that_hangs_up_while_it_waits_is_forgotten),
	    cmocka_unit_test(test_admin_worker_that_does_not_answer_is_named),
	    cmocka_unit_test(
	        test_admin_late_answer_does_not_answer_the_next_client),
	    cmocka_unit_test(test_admin_client_cut_reply_is_never_success),
	    cmocka_unit_test(test_admin_client_takes_code_and_body),
	    cmocka_unit_test(test_admin_client_without_daemon_is_unreachable),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
