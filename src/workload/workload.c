#include "workload.h"
#include "workload_int.h"

#include <assert.h>
#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"
#include "grpc.h"
#include "source.h"

/* Reads of one turn: a burst must not hold up the control thread. */
#define READS_PER_TURN 4

/* While stopped: how often the socket's inode is looked at. */
#define STOPPED_LOOK_MS 500

/* Second streams refused before the silent first one is given up. */
#define REFUSED_SECONDS_MAX 2

struct workload;

/* One connection with one call. */
struct link {
	struct workload *owner;
	int fd;
	struct event *readable;
	struct event *writable;
	struct grpc_call *call; /* NULL: connecting */
	bool live;              /* had a valid message */
};

/*
 * MAIN is the stream in use. SECOND is opened beside it when MAIN brings
 * nothing new or its agent leaves; its first valid message makes it MAIN.
 * Sink calls may call back reopen() and deadline(), never stop().
 */
struct workload {
	struct source source; /* first */
	struct event_base *base;
	struct source_sink sink;
	struct endpoint endpoint;
	uid_t *agent_uids;
	size_t n_agent_uids;

	struct link *main;
	struct link *second;
	struct event *timer;    /* end of a wait, or a look while stopped */
	struct event *reopener; /* reopen(), outside of any callback */
	struct backoff backoff;

	bool stopped;
	struct stat stopped_at; /* the socket that answered so */

	int64_t svid_end_ms;
	int64_t reopen_left_ms; /* what the SVID had left at its first one */
	unsigned int refused_seconds;

	struct source_status status;
};

static void connect_main(struct workload *w);
static void open_link(struct workload *w, bool as_main);

/* ---- Links ---- */

static void
link_free(struct link **link)
{
	struct link *l = *link;

	if (l == NULL)
		return;
	if (l->call != NULL)
		l->owner->status.lock_failures += grpc_lock_failures(l->call);
	if (l->readable != NULL)
		event_free(l->readable);
	if (l->writable != NULL)
		event_free(l->writable);
	grpc_free(&l->call);
	if (l->fd >= 0)
		close(l->fd);
	free(l);
	*link = NULL;
}

static void
start_timer(struct workload *w, int64_t ms)
{
	struct timeval tv = {
	    .tv_sec = ms / 1000,
	    .tv_usec = ms % 1000 * 1000,
	};

	(void)evtimer_add(w->timer, &tv);
}

static void
wait_to_retry(struct workload *w, enum backoff_cause cause)
{
	int64_t now_ms = clock_boot_ms();
	uint32_t dice = 0;
	int64_t ms;

	/* Without entropy yet the jitter is that of the clock. */
	if (getrandom(&dice, sizeof(dice), GRND_NONBLOCK) < 0)
		dice = (uint32_t)now_ms;
	ms = backoff_wait(&w->backoff, cause, now_ms, w->svid_end_ms, dice);
	w->status.state = SOURCE_BACKOFF;
	w->status.next_try_ms = now_ms + ms;
	start_timer(w, ms);
}

/* Tell of a loss once, not at every vain attempt. */
static void
tell_down(struct workload *w, const struct why *why, bool will_retry)
{
	bool news = strcmp(w->status.last_error.text, why->text) != 0;

	w->status.last_error = *why;
	if (news)
		w->sink.down(w->sink.arg, why, will_retry);
}

static const char *
socket_path(const struct workload *w)
{
	return w->endpoint.addr.sa.un.sun_path;
}

/* No retry by itself: until a reload, or until another socket is there. */
static void
stop_asking(struct workload *w, const struct why *why)
{
	w->stopped = true;
	w->status.state = SOURCE_STOPPED;
	memset(&w->stopped_at, 0, sizeof(w->stopped_at));
	if (w->endpoint.is_unix) {
		(void)stat(socket_path(w), &w->stopped_at);
		start_timer(w, STOPPED_LOOK_MS);
	}
	tell_down(w, why, false);
}

/* A file system may give a number again at once: the change time tells. */
static bool
is_same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino &&
	       a->st_ctim.tv_sec == b->st_ctim.tv_sec &&
	       a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

static void
look_for_another_socket(struct workload *w)
{
	struct stat st;

	if (stat(socket_path(w), &st) != 0 ||
	    is_same_file(&st, &w->stopped_at)) {
		start_timer(w, STOPPED_LOOK_MS);
		return;
	}
	w->stopped = false;
	connect_main(w);
}

/* ---- The end of a link ---- */

static void
lose_main(struct workload *w, const struct grpc_status *st)
{
	struct grpc_status end = *st; /* dies with the link */

	link_free(&w->main);
	if (w->second != NULL) {
		w->main = w->second;
		w->second = NULL;
		w->status.state =
		    w->main->call == NULL ? SOURCE_CONNECTING : SOURCE_WAITING;
		tell_down(w, &end.why, true);
		return;
	}
	switch (end.code) {
	case GRPC_INVALID_ARGUMENT: /* Workload Endpoint section 6 */
	case GRPC_UNIMPLEMENTED:
		stop_asking(w, &end.why);
		return;
	case GRPC_PERMISSION_DENIED:
		wait_to_retry(w, BACKOFF_REFUSED);
		w->status.last_error = end.why;
		w->sink.refused(w->sink.arg, &end.why);
		return;
	default:
		wait_to_retry(w, end.oversize ? BACKOFF_SLOW : BACKOFF_ENDED);
		tell_down(w, &end.why, true);
	}
}

static void
on_call_ended(struct link *l, const struct grpc_status *st)
{
	struct workload *w = l->owner;

	w->status.stream_errors[st->code]++;
	if (st->oversize)
		w->sink.discarded(
		    w->sink.arg, fault_label(FAULT_LIMIT), &st->why);
	if (l == w->main) {
		lose_main(w, st);
		return;
	}
	w->refused_seconds++;
	link_free(&w->second);
}

static enum backoff_cause
cause_of_errno(int error)
{
	switch (error) {
	case ENOENT:
	case ENOTDIR:
	case ECONNREFUSED:
		return BACKOFF_ABSENT;
	case EACCES:
	case EPERM:
		return BACKOFF_SLOW;
	case EAGAIN:
		return BACKOFF_BUSY;
	default:
		return BACKOFF_ENDED;
	}
}

/* L never got as far as a call. */
static void
connect_failed(struct link *l, int error)
{
	struct workload *w = l->owner;
	char name[ADDR_TEXT_MAX];
	struct why why;

	(void)fail(&why, FAULT_IO, "workload_api: %s: %s",
	    addr_format(&w->endpoint.addr, name), strerror(error));
	if (l == w->second) {
		link_free(&w->second);
		return;
	}
	link_free(&w->main);
	wait_to_retry(w, cause_of_errno(error));
	tell_down(w, &why, true);
}

static void
refuse_agent(struct link *l, const struct why *why)
{
	struct workload *w = l->owner;

	if (l == w->second) {
		link_free(&w->second);
		return;
	}
	link_free(&w->main);
	stop_asking(w, why);
}

/* ---- Messages ---- */

/* A valid message makes a second stream the first. */
static void
note_live(struct link *l)
{
	struct workload *w = l->owner;

	l->live = true;
	if (l == w->second) {
		link_free(&w->main);
		w->main = l;
		w->second = NULL;
	}
	backoff_message(&w->backoff);
	w->refused_seconds = 0;
	w->status.state = SOURCE_LIVE;
	w->status.last_message_ms = clock_boot_ms();
	w->status.last_error.text[0] = '\0';
}

static void
take_message(struct link *l)
{
	struct workload *w = l->owner;
	const struct source_sink *sink = &w->sink;
	struct identity *id = NULL;
	struct span message;
	struct why why = {.text = ""};
	enum fault fault;

	if (!grpc_take(l->call, &message))
		return;
	fault = workload_decode(message, sink->current(sink->arg),
	    sink->next_generation(sink->arg), &id, &why);
	grpc_taken(l->call);
	if (fault != FAULT_NONE) {
		sink->discarded(sink->arg, fault_label(fault), &why);
		return;
	}
	if (identity_svids_broken(id))
		sink->discarded(sink->arg, "svids", &why);
	else
		note_live(l);
	sink->offer(sink->arg, &id);
	assert(id == NULL); /* taken */
}

/* ---- Bytes ---- */

static void
write_output(struct link *l)
{
	struct span out;
	ssize_t n;

	while ((out = grpc_output(l->call)).len > 0) {
		n = send(l->fd, out.data, out.len, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			/* What broke the socket is told by the next read. */
			if (errno == EAGAIN)
				(void)event_add(l->writable, NULL);
			return;
		}
		grpc_sent(l->call, (size_t)n);
	}
}

/* False: nothing more to read now. */
static bool
read_input(struct link *l)
{
	struct why why;
	size_t len;
	uint8_t *room = grpc_room(l->call, &len);
	ssize_t n = recv(l->fd, room, len, 0);

	if (n > 0) {
		grpc_feed(l->call, (size_t)n);
		return true;
	}
	if (n < 0 && errno == EINTR)
		return true;
	if (n < 0 && errno == EAGAIN)
		return false;
	(void)fail(&why, FAULT_IO, "%s",
	    n == 0 ? "the agent closed the connection" : strerror(errno));
	grpc_feed_end(l->call, why.text);
	return false;
}

static void
on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct link *l = arg;
	struct workload *w = l->owner;
	const struct grpc_status *end = NULL;

	(void)fd;
	(void)what;
	for (unsigned int i = 0; i < READS_PER_TURN && end == NULL; i++) {
		if (!read_input(l))
			i = READS_PER_TURN;
		end = grpc_ended(l->call);
	}
	take_message(l);
	if (grpc_ended(l->call) == NULL)
		write_output(l); /* which may say good-bye */
	end = grpc_ended(l->call);
	if (end != NULL) {
		on_call_ended(l, end);
		return;
	}
	/* GOAWAY: this stream runs on, the next one needs a connection. */
	if (grpc_is_leaving(l->call) && l == w->main && w->second == NULL)
		open_link(w, false);
}

/* ---- Connecting ---- */

static enum fault
check_agent(struct workload *w, int fd, struct why *why)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (!w->endpoint.is_unix)
		return FAULT_NONE;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) != 0)
		return fail(why, FAULT_IO, "agent-uid: %s", strerror(errno));
	w->status.agent_uid_known = true;
	w->status.agent_uid = cred.uid;
	return workload_agent_check(
	    socket_path(w), cred.uid, w->agent_uids, w->n_agent_uids, why);
}

static void
on_connected(struct link *l)
{
	const struct grpc_conf conf = {
	    .path = "/SpiffeWorkloadAPI/FetchX509SVID",
	    .metadata_name = "workload.spiffe.io",
	    .metadata_value = "true",
	    .message_max = WORKLOAD_MESSAGE_MAX,
	};
	struct workload *w = l->owner;
	struct why why;

	if (check_agent(w, l->fd, &why) != FAULT_NONE) {
		refuse_agent(l, &why);
		return;
	}
	l->call = grpc_new(&conf);
	if (l->call == NULL) {
		connect_failed(l, ENOMEM);
		return;
	}
	backoff_opened(&w->backoff, clock_boot_ms());
	if (l == w->main)
		w->status.state = SOURCE_WAITING;
	(void)event_add(l->readable, NULL);
	write_output(l);
}

static void
on_writable(evutil_socket_t fd, short what, void *arg)
{
	struct link *l = arg;
	int error = 0;
	socklen_t len = sizeof(error);

	(void)what;
	if (l->call != NULL) {
		write_output(l);
		if (grpc_ended(l->call) != NULL)
			on_call_ended(l, grpc_ended(l->call));
		return;
	}
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
		error = errno;
	if (error != 0)
		connect_failed(l, error);
	else
		on_connected(l);
}

/* True if connect() succeeded at once; 0 in *ERROR_R while it goes on. */
static bool
start_connect(struct link *l, int *error_r)
{
	const struct addr *a = &l->owner->endpoint.addr;

	*error_r = 0;
	if (connect(l->fd, &a->sa.any, a->len) == 0)
		return true;
	if (errno == EINPROGRESS)
		(void)event_add(l->writable, NULL);
	else
		*error_r = errno;
	return false;
}

static struct link *
link_new(struct workload *w)
{
	struct link *l = calloc(1, sizeof(*l));

	if (l == NULL)
		return NULL;
	l->owner = w;
	l->fd = socket(addr_family(&w->endpoint.addr),
	    SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (l->fd >= 0) {
		l->readable = event_new(
		    w->base, l->fd, EV_READ | EV_PERSIST, on_readable, l);
		l->writable =
		    event_new(w->base, l->fd, EV_WRITE, on_writable, l);
	}
	if (l->readable == NULL || l->writable == NULL)
		link_free(&l);
	return l;
}

/* Into MAIN or SECOND, which is empty, and stays so if it fails at once. */
static void
open_link(struct workload *w, bool as_main)
{
	struct link **place = as_main ? &w->main : &w->second;
	struct link *l = link_new(w);
	int error;

	assert(*place == NULL);
	if (l == NULL) {
		if (as_main)
			wait_to_retry(w, BACKOFF_ENDED);
		return;
	}
	*place = l;
	if (as_main)
		w->status.state = SOURCE_CONNECTING;
	if (start_connect(l, &error))
		on_connected(l);
	else if (error != 0)
		connect_failed(l, error);
}

static void
connect_main(struct workload *w)
{
	w->status.next_try_ms = 0;
	open_link(w, true);
}

static void
on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct workload *w = arg;

	(void)fd;
	(void)what;
	if (w->stopped)
		look_for_another_socket(w);
	else if (w->main == NULL)
		connect_main(w);
}

/* ---- A second stream: spiffe.md 6.7 ---- */

/*
 * The keeper asks from 60 % of the SVID's life on, with 40 % of it left; at
 * 85 % three eighths of that are left.
 */
static bool
is_late(struct workload *w)
{
	int64_t left_ms = w->svid_end_ms - clock_boot_ms();

	if (w->svid_end_ms == 0)
		return false;
	if (w->reopen_left_ms == 0)
		w->reopen_left_ms = left_ms;
	return left_ms <= w->reopen_left_ms / 8 * 3;
}

static void
on_reopen(evutil_socket_t fd, short what, void *arg)
{
	struct workload *w = arg;
	bool late = is_late(w);

	(void)fd;
	(void)what;
	if (w->main == NULL || w->stopped)
		return; /* on its way anyway */
	link_free(&w->second);
	if (!w->main->live || late ||
	    w->refused_seconds >= REFUSED_SECONDS_MAX) {
		/* Break before make: one silent stream may bar the next. */
		w->refused_seconds = 0;
		link_free(&w->main);
		connect_main(w);
		return;
	}
	open_link(w, false);
}

static void
workload_reopen(struct source *s)
{
	struct workload *w = CONTAINER_OF(s, struct workload, source);

	event_active(w->reopener, EV_TIMEOUT, 0);
}

static void
workload_deadline(struct source *s, int64_t svid_end_ms)
{
	struct workload *w = CONTAINER_OF(s, struct workload, source);
	int64_t moved_ms = svid_end_ms - w->svid_end_ms;

	/* The wall clock is adjusted: the same end moves a little. */
	if (svid_end_ms == 0 || moved_ms > 1000)
		w->reopen_left_ms = 0;
	w->svid_end_ms = svid_end_ms;
}

/* ---- Start, status, stop ---- */

static void
workload_status(const struct source *s, struct source_status *st_r)
{
	/* The source stands first in it; CONTAINER_OF() would drop const. */
	const struct workload *w = (const void *)s;

	*st_r = w->status;
	if (w->main != NULL && w->main->call != NULL)
		st_r->lock_failures += grpc_lock_failures(w->main->call);
	if (w->second != NULL && w->second->call != NULL)
		st_r->lock_failures += grpc_lock_failures(w->second->call);
}

static void
workload_free(struct workload *w)
{
	link_free(&w->second);
	link_free(&w->main);
	if (w->timer != NULL)
		event_free(w->timer);
	if (w->reopener != NULL)
		event_free(w->reopener);
	free(w->agent_uids);
	free(w);
}

static void
workload_stop(struct source **s)
{
	if (*s == NULL)
		return;
	workload_free(CONTAINER_OF(*s, struct workload, source));
	*s = NULL;
}

static bool
copy_uids(struct workload *w, const struct source_conf *conf)
{
	if (conf->n_agent_uids == 0)
		return true;
	w->agent_uids = calloc(conf->n_agent_uids, sizeof(*w->agent_uids));
	if (w->agent_uids == NULL)
		return false;
	memcpy(w->agent_uids, conf->agent_uids,
	    conf->n_agent_uids * sizeof(*w->agent_uids));
	w->n_agent_uids = conf->n_agent_uids;
	return true;
}

static enum fault
workload_start(struct source **s_r, const struct source_conf *conf,
    struct event_base *base, const struct source_sink *sink, struct why *why)
{
	static const struct timeval at_once = {0};
	struct workload *w;
	struct endpoint e;
	enum fault fault =
	    workload_endpoint_parse(span_of_str(conf->endpoint), &e, why);

	if (fault != FAULT_NONE)
		return fault;
	w = calloc(1, sizeof(*w));
	if (w == NULL)
		return fail(why, FAULT_NOMEM, "workload_api: out of memory");
	w->source.ops = workload_source();
	w->base = base;
	w->sink = *sink;
	w->endpoint = e;
	w->timer = evtimer_new(base, on_timer, w);
	w->reopener = evtimer_new(base, on_reopen, w);
	if (w->timer == NULL || w->reopener == NULL || !copy_uids(w, conf)) {
		workload_free(w);
		return fail(why, FAULT_NOMEM, "workload_api: out of memory");
	}
	w->status.state = SOURCE_CONNECTING;
	/* The first connect belongs to the loop: sinks hear nothing before. */
	(void)evtimer_add(w->timer, &at_once);
	*s_r = &w->source;
	return FAULT_NONE;
}

const struct source_ops *
workload_source(void)
{
	static const struct source_ops ops = {
	    .name = "workload_api",
	    .start = workload_start,
	    .reopen = workload_reopen,
	    .deadline = workload_deadline,
	    .status = workload_status,
	    .stop = workload_stop,
	};

	return &ops;
}
