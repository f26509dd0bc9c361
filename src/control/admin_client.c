#include "control_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define EXIT_UNREACHABLE 6

/* A daemon that is stuck must not hang the tool: its own limit is 10 s. */
#define PATIENCE_S 75

static int
connect_to(const char *path)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	const struct timeval patience = {.tv_sec = PATIENCE_S};
	int fd;

	if (strlen(path) >= sizeof(sa.sun_path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd == -1)
		return -1;
	memcpy(sa.sun_path, path, strlen(path));
	(void)setsockopt(
	    fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) == -1) {
		int error = errno;

		(void)close(fd);
		errno = error;
		return -1;
	}
	return fd;
}

/* The default socket, then the one of a daemon without root. */
static int
connect_default(char *tried, size_t size)
{
	const char *run = getenv("XDG_RUNTIME_DIR");
	int fd = connect_to(CONTROL_PATH);

	(void)snprintf(tried, size, "%s", CONTROL_PATH);
	if (fd != -1 || run == NULL)
		return fd;
	(void)snprintf(tried, size, "%s/postern/control.sock", run);
	return connect_to(tried);
}

static void
send_line(int fd, const char *line)
{
	size_t len = strlen(line);

	if (send(fd, line, len, MSG_NOSIGNAL) == (ssize_t)len)
		(void)send(fd, "\n", 1, MSG_NOSIGNAL);
}

/* A reply that ends within its last line was cut as well: -1. */
static int
exit_code(const char *digits)
{
	char *end;
	long code = strtol(digits, &end, 10);

	if (*digits < '0' || *digits > '9' || *end != '\n' || code > 255)
		return -1;
	return (int)code;
}

int
admin_copy_reply(FILE *in, FILE *out)
{
	char *line = NULL;
	size_t cap = 0;
	int code = -1;
	ssize_t n;

	while ((n = getline(&line, &cap, in)) > 0) {
		if (strncmp(line, ".exit ", 6) == 0) {
			code = exit_code(line + 6);
			break;
		}
		(void)fwrite(line[0] == '.' ? line + 1 : line, 1,
		    (size_t)n - (line[0] == '.'), out);
	}
	free(line);
	return code;
}

int
control_ask(const char *path, const char *line, FILE *out, FILE *err)
{
	char tried[256];
	FILE *in;
	int fd, code;

	if (path != NULL) {
		(void)snprintf(tried, sizeof(tried), "%s", path);
		fd = connect_to(path);
	} else {
		fd = connect_default(tried, sizeof(tried));
	}
	if (fd == -1) {
		(void)fprintf(err, "postern: %s: %s%s\n", tried,
		    strerror(errno),
		    errno == EACCES ? ": join the group postern-admin, or ask "
		                      "as root"
		                    : ": is the daemon running?");
		return EXIT_UNREACHABLE;
	}
	in = fdopen(fd, "r");
	if (in == NULL) {
		(void)close(fd);
		return EXIT_UNREACHABLE;
	}
	/* One that refuses us may answer before it has read everything. */
	send_line(fd, line);
	code = admin_copy_reply(in, out);
	(void)fclose(in);
	if (code == -1) {
		(void)fprintf(err, "postern: %s: the reply was cut\n", tried);
		return EXIT_UNREACHABLE;
	}
	return code;
}
