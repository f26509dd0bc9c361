#include "issuer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "grpc.h"
#include "log.h"

/* ---- Commands ---- */

typedef enum fault command_fn(
    struct place *p, const char *argument, struct why *why);

static enum fault
reissue(struct place *p, struct why *why)
{
	enum fault fault = place_issue(p, why);

	if (fault == FAULT_NONE)
		place_push(p);
	return fault;
}

static enum fault
number_of(const char *text, unsigned long long max, unsigned long long *n_r,
    struct why *why)
{
	char *end;

	errno = 0;
	*n_r = strtoull(text, &end, 10);
	if (errno != 0 || *text < '0' || *text > '9' || *end != '\0' ||
	    *n_r > max)
		return fail(
		    why, FAULT_CONF, "a number up to %llu is needed", max);
	return FAULT_NONE;
}

static enum fault
rotate(struct place *p, const char *argument, struct why *why)
{
	(void)argument;
	p->bend = BEND_NOT;
	return reissue(p, why);
}

static enum fault
expire(struct place *p, const char *argument, struct why *why)
{
	(void)argument;
	p->bend = BEND_EXPIRED;
	return reissue(p, why);
}

static enum fault
future(struct place *p, const char *argument, struct why *why)
{
	unsigned long long n;

	if (number_of(argument, 86400, &n, why) != FAULT_NONE)
		return FAULT_CONF;
	p->bend = BEND_FUTURE;
	p->future_s = (int64_t)n;
	return reissue(p, why);
}

static enum fault
wrong_key(struct place *p, const char *argument, struct why *why)
{
	(void)argument;
	p->bend = BEND_WRONG_KEY;
	return reissue(p, why);
}

static enum fault
long_id(struct place *p, const char *argument, struct why *why)
{
	(void)argument;
	p->bend = BEND_LONG_ID;
	return reissue(p, why);
}

static enum fault
ttl(struct place *p, const char *argument, struct why *why)
{
	unsigned long long n;

	if (number_of(argument, 86400, &n, why) != FAULT_NONE || n == 0)
		return FAULT_CONF;
	p->issuer->ttl_s = (int64_t)n;
	return reissue(p, why);
}

static enum fault
each_domain(struct place *p, bool add, struct why *why)
{
	enum fault fault = FAULT_NONE;

	/* Once for all places: the first one does it. */
	if (p->node.prev != &p->issuer->places)
		return FAULT_NONE;
	LIST_EACH (it, &p->issuer->domains) {
		struct domain *d = CONTAINER_OF(it, struct domain, node);

		if (fault == FAULT_NONE)
			fault = add ? domain_add_root(d, why)
			            : domain_switch_root(d, p->issuer, why);
	}
	return fault;
}

static enum fault
root_add(struct place *p, const char *argument, struct why *why)
{
	enum fault fault = each_domain(p, true, why);

	(void)argument;
	if (fault == FAULT_NONE)
		place_push(p);
	return fault;
}

static enum fault
root_switch(struct place *p, const char *argument, struct why *why)
{
	enum fault fault = each_domain(p, false, why);

	(void)argument;
	return fault == FAULT_NONE ? reissue(p, why) : fault;
}

static enum fault
resend(struct place *p, const char *argument, struct why *why)
{
	(void)argument;
	(void)why;
	place_push(p);
	return FAULT_NONE;
}

static enum fault
freeze(struct place *p, const char *argument, struct why *why)
{
	(void)argument;
	(void)why;
	p->frozen = true;
	return FAULT_NONE;
}

static enum fault
thaw(struct place *p, const char *argument, struct why *why)
{
	(void)argument;
	p->frozen = false;
	return reissue(p, why);
}

static enum fault
cut(struct place *p, const char *argument, struct why *why)
{
	(void)argument;
	(void)why;
	place_cut(p);
	return FAULT_NONE;
}

static enum fault
end(struct place *p, const char *argument, struct why *why)
{
	unsigned long long n;

	if (number_of(argument, 99, &n, why) != FAULT_NONE)
		return FAULT_CONF;
	place_finish_streams(p, (unsigned int)n, "ended on request");
	return FAULT_NONE;
}

static enum fault
status(struct place *p, const char *argument, struct why *why)
{
	unsigned long long n;

	if (number_of(argument, 99, &n, why) != FAULT_NONE)
		return FAULT_CONF;
	p->mood = MOOD_STATUS;
	p->status = (unsigned int)n;
	place_finish_streams(p, p->status, "no identity issued");
	return FAULT_NONE;
}

static enum fault
refuse(struct place *p, const char *argument, struct why *why)
{
	unsigned long long n;

	if (number_of(argument, 99, &n, why) != FAULT_NONE)
		return FAULT_CONF;
	p->mood = MOOD_STATUS;
	p->status = (unsigned int)n;
	return FAULT_NONE;
}

static enum fault
deny(struct place *p, const char *argument, struct why *why)
{
	(void)argument;
	return status(p, "7", why);
}

static enum fault
hang(struct place *p, const char *argument, struct why *why)
{
	(void)argument;
	(void)why;
	p->mood = MOOD_HANG;
	return FAULT_NONE;
}

static enum fault
serve(struct place *p, const char *argument, struct why *why)
{
	(void)argument;
	(void)why;
	p->mood = MOOD_SERVE;
	place_push(p);
	return FAULT_NONE;
}

static enum fault
malformed(struct place *p, const char *argument, struct why *why)
{
	(void)argument;
	(void)why;
	place_push_bytes(p, span_of_str("\x0a\xff\xff"));
	return FAULT_NONE;
}

static enum fault
empty(struct place *p, const char *argument, struct why *why)
{
	(void)argument;
	(void)why;
	place_push_bytes(p, span_of(NULL, 0));
	return FAULT_NONE;
}

static enum fault
garbage(struct place *p, const char *argument, struct why *why)
{
	(void)argument;
	(void)why;
	place_raw(p, span_of_str("this is not HTTP/2, and never was."));
	return FAULT_NONE;
}

static enum fault
many(struct place *p, const char *argument, struct why *why)
{
	unsigned long long n;

	if (number_of(argument, 1000, &n, why) != FAULT_NONE)
		return FAULT_CONF;
	p->copies = n == 0 ? 0 : (size_t)n - 1;
	return reissue(p, why);
}

static enum fault
big(struct place *p, const char *argument, struct why *why)
{
	unsigned long long n;

	if (number_of(argument, 100u << 20, &n, why) != FAULT_NONE)
		return FAULT_CONF;
	p->filler = (size_t)n;
	place_push(p);
	return FAULT_NONE;
}

static enum fault
crl(struct place *p, const char *argument, struct why *why)
{
	bool off = strcmp(argument, "off") == 0;

	p->revoke = strcmp(argument, "revoke") == 0;
	if (!off && !p->revoke && strcmp(argument, "on") != 0)
		return fail(why, FAULT_CONF, "on, off or revoke is needed");
	p->with_crl = !off;
	place_push(p);
	return FAULT_NONE;
}

static enum fault
hint(struct place *p, const char *argument, struct why *why)
{
	struct entry *e;
	char *fresh = span_dup(span_of_str(argument));

	if (fresh == NULL || list_is_empty(&p->entries)) {
		free(fresh);
		return fail(why, FAULT_CONF, "no SVID to hint at");
	}
	e = CONTAINER_OF(p->entries.next, struct entry, node);
	free(e->hint);
	e->hint = fresh;
	place_push(p);
	return FAULT_NONE;
}

static enum fault
reverse(struct place *p, const char *argument, struct why *why)
{
	(void)argument;
	(void)why;
	p->reversed = !p->reversed;
	place_push(p);
	return FAULT_NONE;
}

static enum fault
federate(struct place *p, const char *argument, struct why *why)
{
	struct domain *d = issuer_domain(p->issuer, span_of_str(argument), why);

	if (d == NULL)
		return FAULT_CONF;
	d->federated = true;
	place_push(p);
	return FAULT_NONE;
}

static enum fault
unfederate(struct place *p, const char *argument, struct why *why)
{
	LIST_EACH (it, &p->issuer->domains) {
		struct domain *d = CONTAINER_OF(it, struct domain, node);

		if (strcmp(d->name, argument) == 0) {
			d->federated = false;
			place_push(p);
			return FAULT_NONE;
		}
	}
	return fail(why, FAULT_CONF, "no such trust domain");
}

static enum fault
add(struct place *p, const char *argument, struct why *why)
{
	enum fault fault = place_add(p, argument, why);

	return fault == FAULT_NONE ? reissue(p, why) : fault;
}

static enum fault
drop(struct place *p, const char *argument, struct why *why)
{
	if (!place_remove(p, argument))
		return fail(why, FAULT_CONF, "no such ID at %s", p->path);
	if (list_is_empty(&p->entries))
		place_finish_streams(
		    p, GRPC_PERMISSION_DENIED, "no identity issued");
	else
		place_push(p);
	return FAULT_NONE;
}

static enum fault
quit(struct place *p, const char *argument, struct why *why)
{
	(void)argument;
	(void)why;
	(void)event_base_loopexit(p->issuer->base, NULL);
	return FAULT_NONE;
}

static const struct command {
	const char *name;
	const char *argument; /* NULL: none */
	const char *text;
	command_fn *run;
} commands[] = {
    {"rotate", NULL, "new SVIDs now, and the end of every fault in them",
        rotate},
    {"expire", NULL, "SVIDs that ended a minute ago", expire},
    {"future", "SECONDS", "SVIDs that are not valid before", future},
    {"ttl", "SECONDS", "lifetime of SVIDs from now on", ttl},
    {"wrong-key", NULL, "SVIDs with the key of another", wrong_key},
    {"long-id", NULL, "IDs of 2048 bytes", long_id},
    {"many", "N", "N SVIDs in place of one", many},
    {"hint", "TEXT", "another hint for the first SVID, nothing else", hint},
    {"add", "ID[,HINT]", "one more SVID", add},
    {"drop", "ID", "one SVID less; without any: PermissionDenied", drop},
    {"root-add", NULL, "a new root joins every bundle", root_add},
    {"root-switch", NULL, "the new root issues, the old one leaves",
        root_switch},
    {"federate", "DOMAIN", "serve that trust domain's bundle too", federate},
    {"unfederate", "DOMAIN", "no longer", unfederate},
    {"reverse", NULL, "bundles in the other order, nothing else", reverse},
    {"crl", "on|off|revoke", "send a list; revoke: of our own SVIDs", crl},
    {"resend", NULL, "the same message again", resend},
    {"freeze", NULL, "renewals send the old SVIDs again", freeze},
    {"thaw", NULL, "the end of freeze", thaw},
    {"big", "BYTES", "so many bytes of foreign bundles more", big},
    {"empty", NULL, "a message without an SVID", empty},
    {"malformed", NULL, "a message that is no protobuf", malformed},
    {"garbage", NULL, "bytes that are no HTTP/2", garbage},
    {"cut", NULL, "close every connection", cut},
    {"end", "CODE", "end every stream with a gRPC status", end},
    {"status", "CODE", "the same, and answer so until serve", status},
    {"refuse", "CODE", "answer so to new streams, silence on the others",
        refuse},
    {"deny", NULL, "status 7, PermissionDenied", deny},
    {"hang", NULL, "answer nothing until serve", hang},
    {"serve", NULL, "the end of status, deny and hang", serve},
    {"quit", NULL, "end the issuer", quit},
};

const char *
issuer_commands(void)
{
	return "rotate, expire, future SECONDS, ttl SECONDS, wrong-key, "
	       "long-id, many N,\n"
	       "hint TEXT, add ID[,HINT], drop ID, root-add, root-switch,\n"
	       "federate DOMAIN, unfederate DOMAIN, reverse, "
	       "crl on|off|revoke, resend,\n"
	       "freeze, thaw, big BYTES, empty, malformed, garbage, cut,\n"
	       "end CODE, status CODE, refuse CODE, deny, hang, serve, quit";
}

static const struct command *
find_command(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	return NULL;
}

static enum fault
run_at(struct issuer *is, const char *path, const struct command *command,
    const char *argument, struct why *why)
{
	enum fault fault = FAULT_NONE;
	bool found = path == NULL;

	LIST_EACH (it, &is->places) {
		struct place *p = CONTAINER_OF(it, struct place, node);

		if (fault != FAULT_NONE ||
		    (path != NULL && strcmp(path, p->path) != 0))
			continue;
		found = true;
		fault = command->run(p, argument, why);
	}
	if (!found)
		return fail(why, FAULT_CONF, "no socket %s here", path);
	return fault;
}

void
issuer_command(struct issuer *is, char *line, struct text *answer)
{
	struct why why = {.text = "wrong argument"};
	const struct command *command;
	char *path = NULL, *rest = line;
	char *name = strsep(&rest, " ");

	if (name[0] == '@') {
		path = name + 1;
		name = rest == NULL ? path + strlen(path) : strsep(&rest, " ");
	}
	command = find_command(name);
	if (command == NULL) {
		text_add(answer, "error: no such command; there are:\n%s\n",
		    issuer_commands());
		return;
	}
	if ((command->argument == NULL) != (rest == NULL)) {
		text_add(answer, "error: write %s%s%s\n", command->name,
		    command->argument == NULL ? "" : " ",
		    command->argument == NULL ? "" : command->argument);
		return;
	}
	if (path != NULL &&
	    (command->run == root_add || command->run == root_switch)) {
		text_add(answer, "error: %s is for all sockets\n", name);
		return;
	}
	log_say(LOG_LEVEL_INFO, "command", "%s%s%s", name,
	    rest == NULL ? "" : " ", rest == NULL ? "" : rest);
	if (run_at(is, path, command, rest == NULL ? "" : rest, &why) ==
	    FAULT_NONE)
		text_add(answer, "ok\n");
	else
		text_add(answer, "error: %s\n", why.text);
}

/* What the timer and SIGUSR1 do: all places, unless frozen. */
void
issuer_rotate(struct issuer *is)
{
	LIST_EACH (it, &is->places) {
		struct place *p = CONTAINER_OF(it, struct place, node);
		struct why why;

		if (!p->frozen && place_issue(p, &why) != FAULT_NONE)
			log_say(LOG_LEVEL_ERROR, "issue", "%s", why.text);
		else
			place_push(p);
	}
	log_say(LOG_LEVEL_INFO, "rotate", "new SVIDs for every socket");
}

/* ---- The control socket: a line in, a line out ---- */

#define LINE_MAX_BYTES 4096
#define CLIENTS_MAX    16

struct control {
	struct issuer *issuer;
	char *path;
	int fd;
	struct event *acceptable;
	struct node clients;
};

struct client {
	struct node node;
	struct control *control;
	int fd;
	struct event *readable;
	size_t len;
	char line[LINE_MAX_BYTES];
};

static void
client_free(struct client **client)
{
	struct client *c = *client;

	if (c->readable != NULL)
		event_free(c->readable);
	if (c->fd >= 0)
		close(c->fd);
	node_remove(&c->node);
	free(c);
	*client = NULL;
}

/* Run every complete line of the buffer; keep the rest. */
static void
run_lines(struct client *c)
{
	char *newline;

	while ((newline = memchr(c->line, '\n', c->len)) != NULL) {
		size_t used = (size_t)(newline - c->line) + 1;
		AUTO(text_fini) struct text answer;

		text_init(&answer);
		*newline = '\0';
		issuer_command(c->control->issuer, c->line, &answer);
		(void)send(c->fd, answer.data, answer.len, MSG_NOSIGNAL);
		c->len -= used;
		memmove(c->line, c->line + used, c->len);
	}
}

static void
on_line(evutil_socket_t fd, short what, void *arg)
{
	struct client *c = arg;
	ssize_t n = recv(fd, c->line + c->len, sizeof(c->line) - c->len, 0);

	(void)what;
	if (n > 0) {
		c->len += (size_t)n;
		run_lines(c);
	}
	if (n == 0 || c->len == sizeof(c->line) ||
	    (n < 0 && errno != EAGAIN && errno != EINTR))
		client_free(&c);
}

static void
on_client(evutil_socket_t fd, short what, void *arg)
{
	struct control *ctl = arg;
	struct client *c = calloc(1, sizeof(*c));

	(void)what;
	if (c == NULL)
		return;
	c->control = ctl;
	node_init(&c->node);
	c->fd = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (c->fd >= 0)
		c->readable = event_new(
		    ctl->issuer->base, c->fd, EV_READ | EV_PERSIST, on_line, c);
	if (c->readable == NULL || event_add(c->readable, NULL) != 0) {
		client_free(&c);
		return;
	}
	list_add_tail(&ctl->clients, &c->node);
}

enum fault
control_start(struct issuer *is, const char *path, struct why *why)
{
	struct control *ctl = calloc(1, sizeof(*ctl));

	if (ctl == NULL)
		return fail(why, FAULT_NOMEM, "out of memory");
	ctl->issuer = is;
	ctl->path = span_dup(span_of_str(path));
	node_init(&ctl->clients);
	is->control = ctl;
	ctl->fd = listen_unix(path, 0600, why);
	if (ctl->fd < 0)
		return FAULT_IO;
	ctl->acceptable =
	    event_new(is->base, ctl->fd, EV_READ | EV_PERSIST, on_client, ctl);
	if (ctl->acceptable == NULL || event_add(ctl->acceptable, NULL) != 0)
		return fail(why, FAULT_NOMEM, "out of memory");
	return FAULT_NONE;
}

void
control_stop(struct issuer *is)
{
	struct control *ctl = is->control;

	if (ctl == NULL)
		return;
	while (!list_is_empty(&ctl->clients)) {
		struct client *c =
		    CONTAINER_OF(ctl->clients.next, struct client, node);

		client_free(&c);
	}
	if (ctl->acceptable != NULL)
		event_free(ctl->acceptable);
	if (ctl->fd >= 0) {
		close(ctl->fd);
		(void)unlink(ctl->path);
	}
	free(ctl->path);
	free(ctl);
	is->control = NULL;
}
