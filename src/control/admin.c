#include "control_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log.h"

#define CLIENTS_MAX  16
#define REQUEST_MS   5000  /* to send the line */
#define ANSWER_MS    2000  /* for workers to answer */
#define REPLY_MS     10000 /* to read the reply */
#define LINE_MAX_LEN 4096

struct admin {
	struct control *control;
	char *path;
	int fd;
	struct event *event;
	struct node clients;
	size_t n_clients;
	uint64_t accepted; /* clients so far */
};

static void on_client(evutil_socket_t fd, short what, void *arg);

/* ---- Clients ---- */

static void
client_free(struct admin_client *c)
{
	for (size_t i = 0; i < WORKERS_MAX; i++)
		worker_mail_free(&c->answers[i]);
	node_remove(&c->node);
	c->admin->n_clients--;
	event_free(c->event);
	(void)close(c->fd);
	text_fini(&c->out);
	free(c);
}

/* Workers or a reload may still answer: then it is freed afterwards. */
static void
client_drop(struct admin_client *c)
{
	c->gone = true;
	(void)event_del(c->event);
	if (c->awaited == 0)
		client_free(c);
}

static void
want(struct admin_client *c, short what)
{
	(void)event_del(c->event);
	(void)event_assign(
	    c->event, c->control->base, c->fd, what | EV_PERSIST, on_client, c);
	(void)event_add(c->event, NULL);
}

static void
send_reply(struct admin_client *c)
{
	while (c->sent < c->out.len) {
		ssize_t n = send(c->fd, c->out.data + c->sent,
		    c->out.len - c->sent, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n == -1 && (errno == EAGAIN || errno == EINTR)) {
			want(c, EV_WRITE);
			return;
		}
		if (n <= 0)
			break;
		c->sent += (size_t)n;
	}
	client_drop(c);
}

/*
 * A body line that begins with a dot gets a second one, and the last line is
 * `.exit N`: a cut connection never looks like success.
 */
void
admin_done(struct admin_client *c, int exit_code)
{
	struct text wire;
	bool line_start = true;

	c->replying = true;
	c->since_ms = control_now_ms();
	if (c->gone) {
		if (c->awaited == 0)
			client_free(c);
		return;
	}
	text_init(&wire);
	for (size_t i = 0; i < c->out.len; i++) {
		if (line_start && c->out.data[i] == '.')
			text_add_char(&wire, '.');
		text_add_char(&wire, c->out.data[i]);
		line_start = c->out.data[i] == '\n';
	}
	if (!line_start)
		text_add_char(&wire, '\n');
	text_add(&wire, ".exit %d\n", exit_code);
	text_fini(&c->out);
	c->out = wire;
	c->sent = 0;
	send_reply(c);
}

static void
refuse(struct admin_client *c, int code, const char *sentence)
{
	text_clear(&c->out);
	text_add(&c->out, "%s\n", sentence);
	admin_done(c, code);
}

/* ---- Requests ---- */

static bool
split(struct admin_client *c)
{
	char *save = NULL;

	for (char *w = strtok_r(c->in, " ", &save); w != NULL;
	     w = strtok_r(NULL, " ", &save)) {
		if (c->n_words == ARRAY_LEN(c->words))
			return false;
		c->words[c->n_words++] = w;
	}
	return c->n_words >= 2;
}

static bool
may_change(const struct admin_client *c)
{
	return c->uid == 0 || c->uid == geteuid();
}

static void
audit(const struct admin_client *c, const char *verb)
{
	struct fields f;

	fields_init(&f, LOG_LEVEL_INFO, "admin");
	fields_add(&f, FIELD_verb, verb);
	fields_add_number(&f, FIELD_uid, c->uid);
	fields_add_number(&f, FIELD_pid, (uint64_t)c->pid);
	log_record(&f);
}

static void
run_verb(struct admin_client *c)
{
	static const struct {
		const char *verb;
		bool changes;
		void (*handler)(struct admin_client *c);
	} verbs[] = {
#define X(verb, changes, handler) {verb, changes, handler},
	    VERBS(X)
#undef X
	};
	const char *verb = c->words[1];

	for (size_t i = 0; i < ARRAY_LEN(verbs); i++) {
		if (strcmp(verb, verbs[i].verb) != 0)
			continue;
		if (verbs[i].changes && !may_change(c)) {
			refuse(c, 1,
			    "not permitted: only root and the daemon's own "
			    "user may change something");
			return;
		}
		if (verbs[i].changes)
			audit(c, verb);
		verbs[i].handler(c);
		return;
	}
	refuse(c, 2, "unknown verb: this daemon does not know it");
}

static void
run_line(struct admin_client *c)
{
	if (memchr(c->in, '\0', c->n_in) != NULL || !split(c)) {
		refuse(c, 2, "malformed request: text|json VERB WORD...");
		return;
	}
	c->json = strcmp(c->words[0], "json") == 0;
	if (!c->json && strcmp(c->words[0], "text") != 0) {
		refuse(c, 2, "malformed request: text or json comes first");
		return;
	}
	run_verb(c);
}

static void
read_request(struct admin_client *c)
{
	char *newline;
	ssize_t n =
	    recv(c->fd, c->in + c->n_in, LINE_MAX_LEN - c->n_in, MSG_DONTWAIT);

	if (n == -1 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		client_drop(c);
		return;
	}
	c->n_in += (size_t)n;
	newline = memchr(c->in, '\n', c->n_in);
	if (newline == NULL && c->n_in == LINE_MAX_LEN) {
		refuse(c, 2, "a request is one line of at most 4 KiB");
		return;
	}
	if (newline == NULL)
		return;
	c->n_in = (size_t)(newline - c->in);
	*newline = '\0';
	(void)event_del(c->event); /* nothing more is read */
	run_line(c);
}

static void
on_client(evutil_socket_t fd, short what, void *arg)
{
	struct admin_client *c = arg;

	(void)fd;
	(void)what;
	if (c->replying)
		send_reply(c);
	else
		read_request(c);
}

static void
on_accept(evutil_socket_t listen_fd, short what, void *arg)
{
	struct admin *a = arg;
	struct ucred cred = {.uid = (uid_t)-1};
	socklen_t len = sizeof(cred);
	struct admin_client *c;
	int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	(void)what;
	if (fd == -1)
		return;
	if (a->n_clients >= CLIENTS_MAX ||
	    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == -1) {
		(void)close(fd);
		return;
	}
	c = calloc(1, sizeof(*c));
	if (c != NULL)
		c->event = event_new(
		    a->control->base, fd, EV_READ | EV_PERSIST, on_client, c);
	if (c == NULL || c->event == NULL) {
		free(c);
		(void)close(fd);
		return;
	}
	c->admin = a;
	c->control = a->control;
	c->number = ++a->accepted;
	c->fd = fd;
	c->uid = cred.uid;
	c->pid = cred.pid;
	c->since_ms = control_now_ms();
	text_init(&c->out);
	node_init(&c->node);
	list_add_tail(&a->clients, &c->node);
	a->n_clients++;
	(void)event_add(c->event, NULL);
}

/* ---- Answers of workers ---- */

static void
finish(struct admin_client *c, bool complete)
{
	c->awaited = 0;
	if (c->gone)
		client_free(c);
	else
		c->finish(c, complete);
}

/* By number: an address may be another client's by now. */
static struct admin_client *
still_there(struct admin *a, uint64_t request)
{
	LIST_EACH (it, &a->clients) {
		struct admin_client *c =
		    CONTAINER_OF(it, struct admin_client, node);

		if (c->number == request)
			return c;
	}
	return NULL;
}

void
admin_answered(struct admin *a, struct mail *m)
{
	uint64_t request;
	unsigned int worker;
	struct admin_client *c;

	if (m->kind == MAIL_KILL) {
		request = CONTAINER_OF(m, struct mail_kill, mail)->request;
		worker = CONTAINER_OF(m, struct mail_kill, mail)->worker;
	} else {
		request = CONTAINER_OF(m, struct mail_query, mail)->request;
		worker = CONTAINER_OF(m, struct mail_query, mail)->worker;
	}
	c = still_there(a, request);
	if (c == NULL || c->awaited == 0 || c->answered[worker]) {
		worker_mail_free(&m);
		return;
	}
	c->answered[worker] = true;
	c->answers[worker] = m;
	if (--c->awaited == 0)
		finish(c, true);
}

void
admin_tick(struct admin *a)
{
	int64_t now = control_now_ms();

	LIST_EACH_SAFE (it, &a->clients) {
		struct admin_client *c =
		    CONTAINER_OF(it, struct admin_client, node);
		int64_t age = now - c->since_ms;

		if (c->replying && age >= REPLY_MS)
			client_drop(c);
		else if (c->awaited != 0 && c->finish != NULL &&
		         age >= ANSWER_MS)
			finish(c, false);
		else if (!c->replying && c->awaited == 0 && age >= REQUEST_MS)
			client_drop(c);
	}
}

/* ---- The socket ---- */

/*
 * /run/postern/control.sock where we may write, else below XDG_RUNTIME_DIR.
 * The result is given; NULL: no memory.
 */
static char *
socket_path(const struct control *k)
{
	const char *set = k->args->control_path != NULL
	                      ? k->args->control_path
	                      : k->conf->global.control;
	const char *run = getenv("XDG_RUNTIME_DIR");
	struct text t;

	if (set != NULL)
		return strdup(set);
	if (access("/run/postern", W_OK) == 0 || run == NULL)
		return strdup(CONTROL_PATH);
	text_init(&t);
	text_add(&t, "%s/postern", run);
	(void)mkdir(t.data, 0700);
	text_add(&t, "/control.sock");
	return text_take(&t);
}

enum fault
admin_new(struct control *k, struct admin **a_r, struct why *why)
{
	struct admin *a = calloc(1, sizeof(*a));
	struct listen_args args = {.side = SIDE_MESH, .unix_mode = 0660};
	struct text uri;
	enum fault f;

	if (a == NULL)
		return fail(why, FAULT_NOMEM, "control socket: no memory");
	a->control = k;
	a->fd = -1;
	node_init(&a->clients);
	*a_r = a; /* freed with the rest when this fails */
	a->path = socket_path(k);
	if (a->path == NULL)
		return fail(why, FAULT_NOMEM, "control socket: no memory");
	text_init(&uri);
	text_add(&uri, "unix:%s", a->path);
	f = addr_parse(span_of(uri.data, uri.len), &args.addr, why);
	text_fini(&uri);
	if (f == FAULT_NONE)
		f = net_bind(&args, &a->fd, why);
	if (f == FAULT_NONE)
		f = net_listen(a->fd, 64, why);
	if (f != FAULT_NONE) {
		struct why inner = *why;

		return fail(why, f, "control socket: %.200s", inner.text);
	}
	a->event =
	    event_new(k->base, a->fd, EV_READ | EV_PERSIST, on_accept, a);
	if (a->event == NULL || event_add(a->event, NULL) == -1)
		return fail(why, FAULT_NOMEM, "control socket: no memory");
	return FAULT_NONE;
}

void
admin_free(struct admin **ap)
{
	struct admin *a = *ap;

	if (a == NULL)
		return;
	LIST_EACH_SAFE (it, &a->clients) {
		client_free(CONTAINER_OF(it, struct admin_client, node));
	}
	if (a->event != NULL)
		event_free(a->event);
	if (a->fd != -1) {
		(void)close(a->fd);
		(void)unlink(a->path);
	}
	free(a->path);
	free(a);
	*ap = NULL;
}
