#include "demo_int.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"

#define SELF     "/proc/self/exe"
#define ARGS_MAX 16
#define WORD_MAX 256
#define END_MS   4000
#define SLICE_MS 50

void
demo_say(struct demo *d, const char *who, const char *fmt, ...)
{
	va_list ap;

	fprintf(d->args->out, "%-8s | ", who);
	va_start(ap, fmt);
	(void)vfprintf(d->args->out, fmt, ap);
	va_end(ap);
	fputc('\n', d->args->out);
	/* Whoever looked at it has gone: so do we. */
	if (fflush(d->args->out) != 0)
		d->stopping = true;
}

/* ---- Starting ---- */

struct words {
	char text[ARGS_MAX][WORD_MAX];
	char *argv[ARGS_MAX + 1];
	size_t n;
};

__attribute__((format(printf, 2, 3))) static void
add_word(struct words *w, const char *fmt, ...)
{
	va_list ap;

	assert(w->n < ARGS_MAX);
	va_start(ap, fmt);
	(void)vsnprintf(w->text[w->n], WORD_MAX, fmt, ap);
	va_end(ap);
	w->argv[w->n] = w->text[w->n];
	w->argv[++w->n] = NULL;
}

static void
words_of_part(const struct demo *d, enum part p, struct words *w)
{
	w->n = 0;
	if (p != PART_ISSUER && p != PART_SERVICE) {
		add_word(w, "postern");
		add_word(w, "run");
		add_word(w, "--config=%s/%s.ini", d->dir, part_name(p));
		return;
	}
	add_word(w, "postern-dev-issuer");
	if (p == PART_SERVICE) {
		add_word(w, "toy");
		add_word(w, "--die-with-parent");
		add_word(
		    w, "--listen=127.0.0.1:%u", d->args->port + PORT_SERVICE);
		return;
	}
	add_word(w, "--die-with-parent");
	add_word(w, "--rotate-every=%u", d->args->rotate_s);
	for (enum part i = PART_INBOUND; i <= demo_last_proxy(d); i++)
		add_word(w, "--serve=%s/%s.agent=%s", d->dir, part_name(i),
		    part_id(i));
}

/* In the child: never returns. LOG takes its output. */
_Noreturn static void
become(struct demo *d, int program, struct words *w, int log)
{
	char *const no_environment[] = {NULL};
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	sigset_t none;

	(void)setpgid(0, d->group);
	/* Even if the demo is killed, nothing of it stays. */
	(void)prctl(PR_SET_PDEATHSIG, SIGTERM);
	(void)sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	(void)signal(SIGPIPE, SIG_DFL);
	(void)dup2(null, STDIN_FILENO);
	(void)dup2(log, STDOUT_FILENO);
	(void)dup2(log, STDERR_FILENO);
	if (program == -1)
		(void)execve(SELF, w->argv, no_environment);
	else
		(void)fexecve(program, w->argv, no_environment);
	(void)dprintf(STDERR_FILENO, "%s: %s\n", w->argv[0], strerror(errno));
	_exit(127);
}

/* The end of the pipe that is read is *LOG_R. 0 if it cannot be. */
static pid_t
spawn(struct demo *d, int program, struct words *w, int *log_r)
{
	int ends[2];
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC) == -1)
		return 0;
	(void)fflush(d->args->out);
	pid = fork();
	if (pid == 0)
		become(d, program, w, ends[1]);
	(void)close(ends[1]);
	if (pid == -1) {
		(void)close(ends[0]);
		return 0;
	}
	*log_r = ends[0];
	return pid;
}

enum fault
demo_start_part(struct demo *d, enum part p, struct why *why)
{
	bool is_issuer = p == PART_ISSUER || p == PART_SERVICE;
	struct child *c = &d->children[p];
	struct words w;

	words_of_part(d, p, &w);
	c->pid = spawn(d, is_issuer ? d->issuer : -1, &w, &c->log);
	if (c->pid == 0)
		return fail(why, FAULT_IO, "%s cannot be started: %s",
		    part_name(p), strerror(errno));
	/* Both sides do it, since nobody knows who comes first. */
	if (d->group == 0)
		d->group = c->pid;
	(void)setpgid(c->pid, d->group);
	(void)fcntl(c->log, F_SETFL, O_NONBLOCK);
	return FAULT_NONE;
}

/* ---- Listening to them ---- */

static void
take_lines(struct demo *d, enum part p,
    void (*on_line)(struct demo *d, enum part p, const char *line))
{
	struct child *c = &d->children[p];
	char *newline;

	while ((newline = memchr(c->line, '\n', c->len)) != NULL) {
		size_t used = (size_t)(newline - c->line) + 1;

		*newline = '\0';
		on_line(d, p, c->line);
		c->len -= used;
		memmove(c->line, c->line + used, c->len);
	}
	/* Longer than any log line: what is it to the demo. */
	if (c->len == sizeof(c->line))
		c->len = 0;
}

void
demo_read_part(struct demo *d, enum part p,
    void (*on_line)(struct demo *d, enum part p, const char *line))
{
	struct child *c = &d->children[p];

	while (c->log != -1) {
		ssize_t n =
		    read(c->log, c->line + c->len, sizeof(c->line) - c->len);

		if (n == -1 && errno == EINTR)
			continue;
		if (n == -1 && errno == EAGAIN)
			return;
		if (n <= 0) {
			(void)close(c->log);
			c->log = -1;
			return;
		}
		c->len += (size_t)n;
		take_lines(d, p, on_line);
	}
}

void
demo_explain(struct demo *d, const char *id)
{
	struct words w = {.n = 0};
	char line[LINE_BYTES];
	FILE *answer;
	pid_t pid;
	int log;

	add_word(&w, "postern");
	add_word(&w, "explain");
	add_word(
	    &w, "--control=%s/%s.control", d->dir, part_name(PART_INBOUND));
	add_word(&w, "inbound");
	add_word(&w, "orders");
	add_word(&w, "%s", id);
	demo_say(d, "demo", "which rule? postern explain %s inbound orders %s",
	    w.argv[2], id);
	pid = spawn(d, -1, &w, &log);
	if (pid == 0)
		return;
	answer = fdopen(log, "r");
	while (answer != NULL && fgets(line, sizeof(line), answer) != NULL) {
		line[strcspn(line, "\n")] = '\0';
		demo_say(d, "explain", "%s", line);
	}
	if (answer != NULL)
		(void)fclose(answer);
	(void)waitpid(pid, NULL, 0);
}

/* ---- Their ends ---- */

int
demo_reap(struct demo *d, int *status_r)
{
	int first = -1;

	for (enum part p = 0; p < PART_COUNT; p++) {
		struct child *c = &d->children[p];
		int status;

		if (c->pid == 0 || waitpid(c->pid, &status, WNOHANG) != c->pid)
			continue;
		c->pid = 0;
		if (first == -1) {
			first = (int)p;
			*status_r = status;
		}
	}
	return first;
}

/* Until P has ended and everything it said is read, or time is over. */
static void
wait_for_part(struct demo *d, enum part p,
    void (*on_line)(struct demo *d, enum part p, const char *line))
{
	struct child *c = &d->children[p];

	int64_t until_ms = clock_boot_ms() + END_MS;

	while (clock_boot_ms() < until_ms) {
		struct pollfd pfd = {.fd = c->log, .events = POLLIN};
		int status;

		(void)poll(&pfd, 1, SLICE_MS);
		demo_read_part(d, p, on_line);
		if (c->pid != 0 && waitpid(c->pid, &status, WNOHANG) == c->pid)
			c->pid = 0;
		if (c->pid == 0)
			return;
	}
}

void
demo_end_parts(struct demo *d,
    void (*on_line)(struct demo *d, enum part p, const char *line))
{
	/* Callers first, the issuer last: nobody has to complain. */
	static const enum part order[] = {PART_INTRUDER, PART_OUTBOUND,
	    PART_INBOUND, PART_SERVICE, PART_ISSUER};

	for (size_t i = 0; i < ARRAY_LEN(order); i++) {
		struct child *c = &d->children[order[i]];

		if (c->pid != 0) {
			(void)kill(c->pid, SIGTERM);
			wait_for_part(d, order[i], on_line);
		}
	}
	/* Who did not listen, and children of children. */
	if (d->group != 0)
		(void)kill(-d->group, SIGKILL);
	for (enum part p = 0; p < PART_COUNT; p++) {
		struct child *c = &d->children[p];

		if (c->pid != 0)
			(void)waitpid(c->pid, NULL, 0);
		c->pid = 0;
		if (c->log != -1)
			(void)close(c->log);
		c->log = -1;
	}
}
