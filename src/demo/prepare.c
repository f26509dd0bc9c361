#include "demo_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sys.h"

#define ISSUER_PROGRAM "postern-dev-issuer"

/* systemd's range of dynamic users: nobody's, if it is in no passwd. */
#define FREE_UID_FIRST 61184
#define FREE_UID_LAST  65519

/* A unix socket's path has 107 bytes; names of ours take fewer than 20. */
#define DIR_MAX 85

/* ---- The issuer's program ---- */

static int
open_program(const char *dir, size_t len)
{
	char path[PATH_MAX];
	int n =
	    snprintf(path, sizeof(path), "%.*s/" ISSUER_PROGRAM, (int)len, dir);

	if (n < 0 || (size_t)n >= sizeof(path) || access(path, X_OK) != 0)
		return -1;
	return open(path, O_PATH | O_CLOEXEC);
}

static int
open_in_path(const char *path)
{
	while (path != NULL && *path != '\0') {
		size_t len = strcspn(path, ":");
		int fd = len == 0 ? -1 : open_program(path, len);

		if (fd != -1)
			return fd;
		path += len + (path[len] == ':');
	}
	return -1;
}

enum fault
demo_find_issuer(struct demo *d, struct why *why)
{
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self));
	char *slash = n > 0 ? memrchr(self, '/', (size_t)n) : NULL;

	d->issuer =
	    slash == NULL ? -1 : open_program(self, (size_t)(slash - self));
	if (d->issuer == -1)
		d->issuer = open_in_path(getenv("PATH"));
	if (d->issuer == -1)
		return fail(why, FAULT_IO,
		    ISSUER_PROGRAM " is missing: install the package "
		                   "postern-dev-issuer");
	return FAULT_NONE;
}

/* ---- Rights ---- */

static bool
uid_of_sudo(uid_t *uid_r)
{
	const char *text = getenv("SUDO_UID");
	char *end;
	unsigned long n;

	if (text == NULL || *text < '0' || *text > '9')
		return false;
	n = strtoul(text, &end, 10);
	if (*end != '\0' || n == 0 || n >= UINT32_MAX)
		return false;
	*uid_r = (uid_t)n;
	return true;
}

static bool
unused_uid(uid_t *uid_r)
{
	for (uid_t uid = FREE_UID_FIRST; uid <= FREE_UID_LAST; uid++) {
		if (getpwuid(uid) == NULL) {
			*uid_r = uid;
			return true;
		}
	}
	return false;
}

enum fault
demo_drop(struct demo *d, struct why *why)
{
	const struct passwd *pw;
	uid_t uid;
	enum fault f;

	if (geteuid() != 0) {
		sys_no_new_privs();
		return FAULT_NONE;
	}
	if (!uid_of_sudo(&uid) && !unused_uid(&uid))
		return fail(why, FAULT_CONF, "no free uid to become");
	pw = getpwuid(uid);
	f = sys_drop_to(NULL, uid, pw == NULL ? (gid_t)uid : pw->pw_gid, why);
	if (f == FAULT_NONE)
		fprintf(d->args->out,
		    "Started as root: everything runs as uid %u.\n", uid);
	return f;
}

/* ---- Ports ---- */

static const char *
port_purpose(unsigned int i)
{
	static const char *const purposes[PORT_COUNT] = {
	    [PORT_APP] = "where curl connects",
	    [PORT_INTRUDER] = "the intruder's",
	    [PORT_SERVICE] = "the legacy service's",
	    [PORT_MESH] = "where the proxies meet",
	};

	return purposes[i];
}

static bool
is_port_free(unsigned int port)
{
	const struct sockaddr_in sa = {
	    .sin_family = AF_INET,
	    .sin_port = htons((uint16_t)port),
	    .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	const int one = 1;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool is_free;

	if (fd == -1)
		return false;
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	is_free = bind(fd, (const struct sockaddr *)(const void *)&sa,
	              sizeof(sa)) == 0 &&
	          listen(fd, 1) == 0;
	(void)close(fd);
	return is_free;
}

enum fault
demo_check_ports(const struct demo *d, struct why *why)
{
	for (unsigned int i = 0; i < PORT_COUNT; i++) {
		unsigned int port = d->args->port + i;

		if (i == PORT_INTRUDER && !d->args->with_intruder)
			continue;
		if (!is_port_free(port))
			return fail(why, FAULT_IO,
			    "port %u of 127.0.0.1 is in use (%s): end what "
			    "listens there, or choose others with --port N",
			    port, port_purpose(i));
	}
	return FAULT_NONE;
}

/* ---- The directory ---- */

static bool
is_own_dir(const char *path)
{
	struct stat st;

	return path != NULL && path[0] == '/' &&
	       strlen(path) + sizeof("/postern-demo-XXXXXX") <= DIR_MAX &&
	       stat(path, &st) == 0 && S_ISDIR(st.st_mode) &&
	       st.st_uid == geteuid();
}

static enum fault
use_given_dir(struct demo *d, struct why *why)
{
	const char *dir = d->args->write_dir;

	if (mkdir(dir, 0755) != 0 && errno != EEXIST)
		return fail(why, FAULT_IO, "%s: %s", dir, strerror(errno));
	if (realpath(dir, d->dir) == NULL)
		return fail(why, FAULT_IO, "%s: %s", dir, strerror(errno));
	if (strlen(d->dir) > DIR_MAX)
		return fail(why, FAULT_CONF,
		    "the path of the directory is too long for sockets in it: "
		    "%d bytes at most",
		    DIR_MAX);
	return FAULT_NONE;
}

enum fault
demo_make_dir(struct demo *d, struct why *why)
{
	const char *run = getenv("XDG_RUNTIME_DIR");

	if (d->args->write_dir != NULL)
		return use_given_dir(d, why);
	(void)snprintf(d->dir, sizeof(d->dir), "%s/postern-demo-XXXXXX",
	    is_own_dir(run) ? run : "/tmp");
	if (mkdtemp(d->dir) == NULL) {
		d->dir[0] = '\0';
		return fail(
		    why, FAULT_IO, "no directory in /tmp: %s", strerror(errno));
	}
	return FAULT_NONE;
}

/* It is flat, and nobody else can write there. */
void
demo_remove_dir(struct demo *d)
{
	DIR *dir;
	const struct dirent *e;

	if (d->dir[0] == '\0' || d->args->write_dir != NULL)
		return;
	dir = opendir(d->dir);
	while (dir != NULL && (e = readdir(dir)) != NULL)
		if (e->d_name[0] != '.')
			(void)unlinkat(dirfd(dir), e->d_name, 0);
	if (dir != NULL)
		(void)closedir(dir);
	(void)rmdir(d->dir);
	d->dir[0] = '\0';
}
