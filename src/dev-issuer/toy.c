#include "issuer.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "addr.h"
#include "log.h"

/*
 * A legacy service as they are: HTTP/1.0, plaintext, a process per client, no
 * idea who the client is.
 */

#define HEAD_MAX 8192

struct request {
	char head[HEAD_MAX + 1];
	size_t len;       /* bytes read */
	size_t body_from; /* where the body begins in HEAD */
	char method[8];
	char path[1024];
};

static bool
send_all(int fd, const void *data, size_t len)
{
	const char *at = data;

	while (len > 0) {
		ssize_t n = send(fd, at, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		at += n;
		len -= (size_t)n;
	}
	return true;
}

static bool
read_head(int fd, struct request *r)
{
	char *end = NULL;

	while (end == NULL) {
		ssize_t n;

		if (r->len == HEAD_MAX)
			return false;
		n = recv(fd, r->head + r->len, HEAD_MAX - r->len, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		r->len += (size_t)n;
		r->head[r->len] = '\0';
		end = strstr(r->head, "\r\n\r\n");
	}
	r->body_from = (size_t)(end - r->head) + 4;
	return sscanf(r->head, "%7s %1023s", r->method, r->path) == 2;
}

static void
answer_text(int fd, const char *status, const char *text)
{
	char head[256];
	int n = snprintf(head, sizeof(head),
	    "HTTP/1.0 %s\r\nContent-Type: text/plain\r\n"
	    "Content-Length: %zu\r\nConnection: close\r\n\r\n",
	    status, strlen(text));

	if (send_all(fd, head, (size_t)n))
		(void)send_all(fd, text, strlen(text));
}

static void
answer_page(int fd, const char *path)
{
	char text[1400], when[64];
	time_t now = time(NULL);
	struct tm tm;

	(void)gmtime_r(&now, &tm);
	(void)strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S UTC", &tm);
	(void)snprintf(text, sizeof(text),
	    "Hello from a legacy service that speaks no TLS.\n"
	    "time: %s\npath: %s\npid: %d\n",
	    when, path, (int)getpid());
	answer_text(fd, "200 OK", text);
}

static void
answer_bytes(int fd, unsigned long long n)
{
	char block[16384], head[128];
	int len = snprintf(head, sizeof(head),
	    "HTTP/1.0 200 OK\r\nContent-Type: application/octet-stream\r\n"
	    "Content-Length: %llu\r\nConnection: close\r\n\r\n",
	    n);

	for (size_t i = 0; i < sizeof(block); i++)
		block[i] = (char)('a' + i % 26);
	if (!send_all(fd, head, (size_t)len))
		return;
	while (n > 0) {
		size_t part = n < sizeof(block) ? (size_t)n : sizeof(block);

		if (!send_all(fd, block, part))
			return;
		n -= part;
	}
}

/* Content-Length, or to the end of the input. */
static unsigned long long
body_length(const struct request *r)
{
	const char *at = strcasestr(r->head, "\r\nContent-Length:");

	return at == NULL ? UINT64_MAX : strtoull(at + 17, NULL, 10);
}

static void
answer_upload(int fd, const struct request *r)
{
	unsigned long long want = body_length(r);
	unsigned long long got = r->len - r->body_from;
	char block[16384], text[64];

	if (strcasestr(r->head, "\r\nTransfer-Encoding:") != NULL) {
		/* HTTP/1.0 knows no chunks. */
		answer_text(fd, "411 Length Required", "say the length\n");
		return;
	}
	if (strcasestr(r->head, "\r\nExpect: 100-continue") != NULL)
		(void)send_all(fd, "HTTP/1.1 100 Continue\r\n\r\n", 25);
	while (got < want) {
		ssize_t n = recv(fd, block, sizeof(block), 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		got += (unsigned long long)n;
	}
	(void)snprintf(text, sizeof(text), "received %llu bytes\n", got);
	answer_text(fd, "200 OK", text);
}

static void
serve_client(int fd)
{
	struct request r = {.len = 0};

	if (!read_head(fd, &r))
		return;
	if (strcmp(r.method, "PUT") == 0 || strcmp(r.method, "POST") == 0)
		answer_upload(fd, &r);
	else if (strcmp(r.method, "GET") != 0)
		answer_text(fd, "405 Method Not Allowed", "GET, PUT, POST\n");
	else if (strncmp(r.path, "/bytes/", 7) == 0)
		answer_bytes(fd, strtoull(r.path + 7, NULL, 10));
	else
		answer_page(fd, r.path);
}

static int
listen_at(const struct addr *a)
{
	const int one = 1;
	int fd = socket(addr_family(a), SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	if (addr_family(a) == AF_UNIX)
		(void)unlink(a->sa.un.sun_path);
	else
		(void)setsockopt(
		    fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, &a->sa.any, a->len) != 0 || listen(fd, 128) != 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static int
serve_for_ever(int fd)
{
	for (;;) {
		int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
		pid_t pid;

		if (client < 0 && errno != EINTR && errno != ECONNABORTED)
			return 1;
		if (client < 0)
			continue;
		pid = fork();
		if (pid == 0) {
			(void)prctl(PR_SET_PDEATHSIG, SIGTERM);
			serve_client(client);
			/* Not exit(): the parent's buffers are not ours. */
			_exit(0);
		}
		close(client);
	}
}

static void
toy_usage(FILE *to)
{
	(void)fputs(
	    "usage: postern-dev-issuer toy --listen ADDR [--run-as UID]\n"
	    "\n"
	    "A toy legacy service: HTTP/1.0 in plaintext at ADDR (IP:port,\n"
	    "[IPv6]:port or unix:/path). GET any path answers a page, GET\n"
	    "/bytes/N that many bytes, PUT and POST the length they had.\n",
	    to);
}

int
toy_main(int argc, char **argv)
{
	static const struct option options[] = {
	    {"listen", required_argument, NULL, 'l'},
	    {"run-as", required_argument, NULL, 'r'},
	    {"die-with-parent", no_argument, NULL, 'd'},
	    {"help", no_argument, NULL, 'h'},
	    {NULL, 0, NULL, 0},
	};
	const char *listen_text = NULL, *run_as = NULL;
	bool die_with_parent = false;
	struct addr a;
	struct why why;
	char name[ADDR_TEXT_MAX];
	int c, fd;

	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		if (c == 'l')
			listen_text = optarg;
		else if (c == 'r')
			run_as = optarg;
		else if (c == 'd')
			die_with_parent = true;
		else {
			toy_usage(c == 'h' ? stdout : stderr);
			return c == 'h' ? 0 : 2;
		}
	}
	if (listen_text == NULL || optind != argc) {
		toy_usage(stderr);
		return 2;
	}
	if (drop_root(run_as, &why) != FAULT_NONE ||
	    addr_parse(span_of_str(listen_text), &a, &why) != FAULT_NONE) {
		log_say(LOG_LEVEL_ERROR, "start", "%s", why.text);
		return 1;
	}
	if (die_with_parent)
		(void)prctl(PR_SET_PDEATHSIG, SIGTERM);
	(void)signal(SIGCHLD, SIG_IGN);
	fd = listen_at(&a);
	if (fd < 0) {
		log_say(LOG_LEVEL_ERROR, "start", "%s: %s", listen_text,
		    strerror(errno));
		return 1;
	}
	log_say(LOG_LEVEL_INFO, "start", "toy legacy service at %s",
	    addr_format(&a, name));
	return serve_for_ever(fd);
}
