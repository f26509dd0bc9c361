#include "control_int.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "log.h"

#define JOURNAL_SOCKET "/run/systemd/journal/socket"

/* Equal denials within this time become one line that counts them. */
#define REPEAT_MS    1000
#define REPEAT_SLOTS 64

/* How long a reader of stderr may keep us waiting, once. */
#define STDERR_MS 200

/*
 * Workers may write faster than a pipe is read: a drain that went on until
 * their rings are empty would keep control from everything else.
 */
#define DRAIN_RECORDS 1000
#define DRAIN_MS      50

struct repeat {
	uint64_t key; /* of service, source and reason; 0: free */
	int64_t since_ms;
	uint64_t count; /* not yet written */
	struct fields last;
};

struct log_sink {
	struct control *control;
	enum log_format format;
	int journal_fd; /* -1: none */
	bool stuck;     /* stderr took nothing for STDERR_MS */
	uint64_t dropped;
	size_t drains;
	struct repeat repeats[REPEAT_SLOTS];
};

/* Is stderr the journal? $JOURNAL_STREAM holds "device:inode" of it. */
static bool
stderr_is_journal(void)
{
	const char *text = getenv("JOURNAL_STREAM");
	unsigned long long dev, ino;
	struct stat st;

	if (text == NULL || sscanf(text, "%llu:%llu", &dev, &ino) != 2)
		return false;
	return fstat(STDERR_FILENO, &st) == 0 && st.st_dev == dev &&
	       st.st_ino == ino;
}

static int
open_journal(void)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd == -1)
		return -1;
	(void)strncpy(sa.sun_path, JOURNAL_SOCKET, sizeof(sa.sun_path) - 1);
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) == -1) {
		(void)close(fd);
		return -1;
	}
	return fd;
}

/*
 * Stderr may be a pipe that blocks, of a reader that has stopped: PIPE_BUF
 * bytes fit whenever poll() says so, and more could hang (pipe(7)).
 */
static ssize_t
write_stderr(struct log_sink *s, const char *data, size_t len)
{
	size_t done = 0;

	while (done < len) {
		struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
		size_t part = len - done < PIPE_BUF ? len - done : PIPE_BUF;
		ssize_t n;

		s->stuck = poll(&p, 1, s->stuck ? 0 : STDERR_MS) == 0;
		if (s->stuck)
			return -1;
		n = write(STDERR_FILENO, data + done, part);
		if (n <= 0)
			return -1;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

static void
write_line(struct log_sink *s, const struct fields *f)
{
	struct text t;
	ssize_t n;

	text_init(&t);
	fields_render(f, s->format, &t);
	if (s->format == LOG_FORMAT_JOURNAL)
		n = send(s->journal_fd, t.data, t.len, MSG_NOSIGNAL);
	else
		n = write_stderr(s, t.data, t.len);
	/* A full disk or a stuck journal must not stop anybody. */
	if (n != (ssize_t)t.len || t.failed)
		s->dropped++;
	text_fini(&t);
}

static void
sink(void *arg, const struct fields *record)
{
	write_line(arg, record);
}

struct log_sink *
log_sink_new(struct control *k)
{
	struct log_sink *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return NULL;
	s->control = k;
	s->journal_fd = -1;
	s->format = LOG_FORMAT_LOGFMT;
	return s;
}

static enum log_format
format_of(const struct conf *c)
{
	switch (c->global.log_format) {
	case CONF_LOG_AUTO:
		return stderr_is_journal() ? LOG_FORMAT_JOURNAL
		                           : LOG_FORMAT_LOGFMT;
	case CONF_LOG_LOGFMT:
		return LOG_FORMAT_LOGFMT;
	case CONF_LOG_JSON:
		return LOG_FORMAT_JSON;
	case CONF_LOG_JOURNAL:
		return LOG_FORMAT_JOURNAL;
	}
	return LOG_FORMAT_LOGFMT;
}

void
log_sink_configure(struct log_sink *s, const struct conf *c)
{
	s->format = format_of(c);
	if (s->format == LOG_FORMAT_JOURNAL && s->journal_fd == -1)
		s->journal_fd = open_journal();
	if (s->format == LOG_FORMAT_JOURNAL && s->journal_fd == -1) {
		s->format = LOG_FORMAT_LOGFMT;
		log_set_sink(sink, s);
		log_say(LOG_LEVEL_WARN, "start",
		    "log_format = journal, but %s does not answer: logfmt "
		    "on stderr",
		    JOURNAL_SOCKET);
	}
	log_set_sink(sink, s);
}

uint64_t
log_sink_dropped(const struct log_sink *s)
{
	uint64_t sum = s->dropped;

	for (size_t i = 0; i < s->control->workers.n_workers; i++) {
		struct worker *w = s->control->workers.workers[i];

		sum += ring_dropped(worker_traffic_ring(w)) +
		       ring_dropped(worker_denial_ring(w));
	}
	return sum;
}

/* ---- Denials that repeat ---- */

static uint64_t
mix(uint64_t h, struct span s)
{
	for (size_t i = 0; i < s.len; i++)
		h = (h ^ s.data[i]) * 1099511628211u;
	return h * 31;
}

/* Source without its port: a client that tries again has another one. */
static uint64_t
key_of(const struct fields *f)
{
	static const enum log_field parts[] = {FIELD_event, FIELD_service,
	    FIELD_src_id, FIELD_dst_id, FIELD_src_uid, FIELD_reason};
	uint64_t h = 1469598103934665603u;
	struct span v;

	for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
		if (fields_get(f, parts[i], &v))
			h = mix(h, v);
	}
	if (fields_get(f, FIELD_src_addr, &v)) {
		while (v.len != 0 && v.data[v.len - 1] != ':')
			v.len--;
		h = mix(h, v);
	}
	return h | 1;
}

static void
flush(struct log_sink *s, struct repeat *r)
{
	if (r->count != 0) {
		fields_add_number(&r->last, FIELD_repeated, r->count);
		write_line(s, &r->last);
	}
	r->count = 0;
}

static void
write_denial(struct log_sink *s, const struct fields *f)
{
	uint64_t key = key_of(f);
	struct repeat *r = &s->repeats[key % REPEAT_SLOTS];
	int64_t now = control_now_ms();

	if (r->key == key && now < r->since_ms + REPEAT_MS) {
		r->count++;
		r->last = *f;
		return;
	}
	if (r->key != key || r->count != 0)
		flush(s, r);
	r->key = key;
	r->since_ms = now;
	write_line(s, f);
}

/* True: there may be more. */
static bool
drain_ring(struct log_sink *s, struct ring *r, bool denials, int64_t until_ms)
{
	struct fields f;

	for (size_t n = 0; n < DRAIN_RECORDS && control_now_ms() < until_ms;
	     n++) {
		if (ring_read(r, &f, sizeof(f)) == 0)
			return false;
		if (denials)
			write_denial(s, &f);
		else
			write_line(s, &f);
	}
	return true;
}

/* Each time another worker is the first: a slow reader starves none. */
static bool
drain_rings(struct log_sink *s, bool denials, int64_t until_ms)
{
	const struct worker_shared *w = &s->control->workers;
	bool more = false;

	for (size_t i = 0; w->workers != NULL && i < w->n_workers; i++) {
		struct worker *from =
		    w->workers[(s->drains + i) % w->n_workers];

		if (from == NULL)
			continue;
		more |= drain_ring(s,
		    denials ? worker_denial_ring(from)
		            : worker_traffic_ring(from),
		    denials, until_ms);
	}
	return more;
}

bool
log_sink_drain(struct log_sink *s)
{
	int64_t now = control_now_ms();
	bool more = drain_rings(s, true, now + DRAIN_MS);

	more |= drain_rings(s, false, now + DRAIN_MS);
	s->drains++;
	for (size_t i = 0; i < REPEAT_SLOTS; i++) {
		if (s->repeats[i].count != 0 &&
		    now >= s->repeats[i].since_ms + REPEAT_MS) {
			flush(s, &s->repeats[i]);
			s->repeats[i].since_ms = now;
		}
	}
	return more;
}

void
log_sink_free(struct log_sink **s)
{
	if (*s == NULL)
		return;
	log_set_sink(NULL, NULL);
	for (size_t i = 0; i < REPEAT_SLOTS; i++)
		flush(*s, &(*s)->repeats[i]);
	if ((*s)->journal_fd != -1)
		(void)close((*s)->journal_fd);
	free(*s);
	*s = NULL;
}
