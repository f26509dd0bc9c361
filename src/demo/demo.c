#include "demo_int.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mem.h"

/* How often a request is tried while the parts still find each other. */
#define TRY_MS 200

static int
complain(const struct demo *d, const struct why *why)
{
	fprintf(d->args->err, "postern demo: %s\n", why->text);
	return DEMO_FAILED;
}

/* ---- Calling by itself ---- */

/* Reads to the end, as a caller does that wants a clean one. */
static bool
is_http_answer(int fd)
{
	char answer[4096];
	size_t len = 0;
	ssize_t n;

	while ((n = recv(fd, answer + len, sizeof(answer) - len, 0)) > 0)
		len += (size_t)n;
	return n == 0 && len > 5 && memcmp(answer, "HTTP/", 5) == 0;
}

/* GET / at a port; true if an HTTP answer came. */
static bool
is_answered(unsigned int port)
{
	static const char request[] = "GET / HTTP/1.0\r\n\r\n";
	const struct sockaddr_in sa = {
	    .sin_family = AF_INET,
	    .sin_port = htons((uint16_t)port),
	    .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	const struct timeval patience = {.tv_sec = 2};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool is_http;

	if (fd == -1)
		return false;
	(void)setsockopt(
	    fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	is_http = connect(fd, (const struct sockaddr *)(const void *)&sa,
	              sizeof(sa)) == 0 &&
	          send(fd, request, sizeof(request) - 1, MSG_NOSIGNAL) ==
	              (ssize_t)sizeof(request) - 1 &&
	          is_http_answer(fd);
	(void)close(fd);
	return is_http;
}

static bool
has_identity(const struct demo *d, enum part p)
{
	return (d->identified & (1u << p)) != 0;
}

static void
announce(struct demo *d)
{
	d->announced = true;
	demo_say(d, "demo", "a request has gone through. Now you:");
	demo_say(
	    d, "demo", "  curl http://127.0.0.1:%u/", d->args->port + PORT_APP);
	demo_say(d, "demo", "  postern status --control %s/outbound.control",
	    d->dir);
	demo_say(d, "demo",
	    "Identities change every %u s, connections go on. Ctrl-C ends it.",
	    d->args->rotate_s);
}

/* What is left to try; true if something was. */
static bool
try_requests(struct demo *d)
{
	if (!d->announced) {
		if (has_identity(d, PART_INBOUND) &&
		    has_identity(d, PART_OUTBOUND) &&
		    is_answered(d->args->port + PORT_APP))
			announce(d);
		return true;
	}
	if (!d->args->with_intruder || d->explained)
		return false;
	if (has_identity(d, PART_INTRUDER) &&
	    is_answered(d->args->port + PORT_INTRUDER)) {
		demo_say(d, "demo", "the intruder was let in!");
		d->exit_code = DEMO_FAILED;
		d->stopping = true;
	}
	return true;
}

/* ---- What the parts say ---- */

static void
start_proxies(struct demo *d)
{
	struct why why;

	for (enum part p = PART_INBOUND; p <= demo_last_proxy(d); p++) {
		if (demo_start_part(d, p, &why) == FAULT_NONE)
			continue;
		d->exit_code = complain(d, &why);
		d->stopping = true;
	}
}

static bool
is_intruder_denied(enum part p, const char *line)
{
	return p == PART_INBOUND && strstr(line, " event=deny ") != NULL &&
	       strstr(line, " reason=no_rule") != NULL &&
	       strstr(line, part_id(PART_INTRUDER)) != NULL;
}

static void
on_line(struct demo *d, enum part p, const char *line)
{
	demo_say(d, part_name(p), "%s", line);
	if (d->stopping)
		return;
	if (p == PART_ISSUER && strstr(line, " event=serve ") != NULL &&
	    ++d->served == demo_last_proxy(d) - PART_INBOUND + 1u)
		start_proxies(d);
	if (strstr(line, " event=identity-acquired ") != NULL)
		d->identified |= 1u << p;
	if (!d->explained && is_intruder_denied(p, line)) {
		d->explained = true;
		demo_explain(d, part_id(PART_INTRUDER));
	}
}

/* ---- Supervising ---- */

static void
take_signal(struct demo *d)
{
	struct signalfd_siginfo info;
	int status = 0, part;

	if (read(d->signals, &info, sizeof(info)) != (ssize_t)sizeof(info))
		return;
	if (info.ssi_signo != SIGCHLD) {
		d->stopping = true;
		return;
	}
	part = demo_reap(d, &status);
	if (part == -1)
		return;
	demo_read_part(d, (enum part)part, on_line);
	demo_say(d, "demo", "%s ended by itself (%s %d)",
	    part_name((enum part)part), WIFSIGNALED(status) ? "signal" : "exit",
	    WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	d->exit_code = DEMO_FAILED;
	d->stopping = true;
}

static void
supervise(struct demo *d)
{
	struct pollfd fds[PART_COUNT + 1];
	bool busy = true;

	while (!d->stopping) {
		for (enum part p = 0; p < PART_COUNT; p++)
			fds[p] = (struct pollfd){
			    .fd = d->children[p].log, .events = POLLIN};
		fds[PART_COUNT] =
		    (struct pollfd){.fd = d->signals, .events = POLLIN};
		if (poll(fds, ARRAY_LEN(fds), busy ? TRY_MS : -1) == -1 &&
		    errno != EINTR)
			return;
		for (enum part p = 0; p < PART_COUNT && !d->stopping; p++)
			demo_read_part(d, p, on_line);
		if ((fds[PART_COUNT].revents & POLLIN) != 0)
			take_signal(d);
		if (!d->stopping)
			busy = try_requests(d);
	}
}

static void
print_configurations(const struct demo *d)
{
	AUTO(text_fini) struct text t;

	text_init(&t);
	demo_picture(d, &t);
	for (enum part p = PART_INBOUND; p <= demo_last_proxy(d); p++) {
		text_add(&t, "# %s/%s.ini\n", d->dir, part_name(p));
		demo_conf(d, p, &t);
		text_add(&t, "\n");
	}
	fputs(t.data, d->args->out);
	(void)fflush(d->args->out);
}

static enum fault
write_configurations(const struct demo *d, struct why *why)
{
	enum fault f = FAULT_NONE;

	for (enum part p = PART_INBOUND;
	     f == FAULT_NONE && p <= demo_last_proxy(d); p++)
		f = demo_write_conf(d, p, why);
	return f;
}

static enum fault
block_signals(struct demo *d, struct why *why)
{
	sigset_t set;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGINT);
	(void)sigaddset(&set, SIGTERM);
	(void)sigaddset(&set, SIGHUP);
	(void)sigaddset(&set, SIGCHLD);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	(void)signal(SIGPIPE, SIG_IGN);
	d->signals = signalfd(-1, &set, SFD_CLOEXEC);
	return d->signals == -1
	           ? fail(why, FAULT_IO, "signalfd: %s", strerror(errno))
	           : FAULT_NONE;
}

static enum fault
start(struct demo *d, struct why *why)
{
	enum fault f = demo_find_issuer(d, why);

	if (f == FAULT_NONE)
		f = demo_drop(d, why);
	if (f == FAULT_NONE)
		f = demo_check_ports(d, why);
	if (f == FAULT_NONE)
		f = block_signals(d, why);
	if (f == FAULT_NONE)
		f = demo_make_dir(d, why);
	if (f == FAULT_NONE)
		f = write_configurations(d, why);
	if (f != FAULT_NONE)
		return f;
	print_configurations(d);
	f = demo_start_part(d, PART_ISSUER, why);
	if (f == FAULT_NONE)
		f = demo_start_part(d, PART_SERVICE, why);
	return f;
}

/* ---- Files to edit ---- */

static void
print_commands(const struct demo *d)
{
	FILE *out = d->args->out;

	fprintf(out,
	    "Edit the files in %s, then start, each in a terminal:\n\n",
	    d->dir);
	fprintf(
	    out, "  postern-dev-issuer --rotate-every %u", d->args->rotate_s);
	for (enum part p = PART_INBOUND; p <= demo_last_proxy(d); p++)
		fprintf(out, " \\\n      --serve %s/%s.agent=%s", d->dir,
		    part_name(p), part_id(p));
	fprintf(out, "\n  postern-dev-issuer toy --listen 127.0.0.1:%u\n",
	    d->args->port + PORT_SERVICE);
	for (enum part p = PART_INBOUND; p <= demo_last_proxy(d); p++)
		fprintf(out, "  postern run --config %s/%s.ini\n", d->dir,
		    part_name(p));
	fprintf(out, "  curl http://127.0.0.1:%u/\n", d->args->port + PORT_APP);
}

/* No rights are given away: nothing runs, and files go where root may. */
static int
write_only(struct demo *d)
{
	struct why why;

	if (demo_make_dir(d, &why) != FAULT_NONE ||
	    write_configurations(d, &why) != FAULT_NONE)
		return complain(d, &why);
	print_commands(d);
	return 0;
}

int
demo_run(const struct demo_args *args)
{
	struct demo d = {
	    .args = args, .starter = getuid(), .issuer = -1, .signals = -1};
	struct why why;

	for (enum part p = 0; p < PART_COUNT; p++)
		d.children[p].log = -1;
	if (args->write_dir != NULL)
		return write_only(&d);
	if (start(&d, &why) == FAULT_NONE)
		supervise(&d);
	else
		d.exit_code = complain(&d, &why);
	d.stopping = true;
	demo_end_parts(&d, on_line);
	demo_remove_dir(&d);
	if (d.signals != -1)
		(void)close(d.signals);
	if (d.issuer != -1)
		(void)close(d.issuer);
	return d.exit_code;
}
