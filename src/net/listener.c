#include "net.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <linux/sockios.h>

#include "net_int.h"

/* Kernel memory and latency under bulk; performance over 128 KiB is flat. */
#define NOTSENT_LOWAT_BYTES (128 * 1024)

static void
set_int(int fd, int level, int name, int value)
{
	/* An option that is missing costs speed or patience, never safety. */
	(void)setsockopt(fd, level, name, &value, (socklen_t)sizeof(value));
}

void
net_linger_zero(int fd, bool armed)
{
	const struct linger l = {.l_onoff = armed ? 1 : 0, .l_linger = 0};

	(void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, (socklen_t)sizeof(l));
}

/* What accepted and dialled sockets have in common. */
static void
set_stream_options(int fd, enum net_side side, uint32_t keepalive_s)
{
	set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	set_int(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, NOTSENT_LOWAT_BYTES);
	set_int(fd, SOL_SOCKET, SO_KEEPALIVE, keepalive_s != 0);
	if (keepalive_s != 0) {
		set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, (int)keepalive_s);
		set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, 10);
		set_int(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
	}
	if (side == SIDE_PLAIN) {
		set_int(fd, SOL_SOCKET, SO_OOBINLINE, 1);
		net_linger_zero(fd, true);
	}
}

int
net_socket(int family, enum net_side side, uint32_t keepalive_s)
{
	int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd != -1)
		set_stream_options(fd, side, keepalive_s);
	return fd;
}

void
net_adopt_listener(int fd, const struct listen_args *args)
{
	set_stream_options(fd, args->side, args->keepalive_s);
}

static enum fault
bind_error(const struct addr *addr, int error, struct why *why)
{
	char text[ADDR_TEXT_MAX];

	return fail(why, FAULT_IO, "listen %s: %s", addr_format(addr, text),
	    strerror(error));
}

static enum fault
bind_tcp(const struct listen_args *args, int *fd_r, struct why *why)
{
	int family = addr_family(&args->addr);
	int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd == -1)
		return bind_error(&args->addr, errno, why);
	set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	set_int(fd, SOL_SOCKET, SO_REUSEPORT, 1);
	set_int(fd, IPPROTO_IP, IP_FREEBIND, 1);
	if (family == AF_INET6)
		set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
	set_stream_options(fd, args->side, args->keepalive_s);
	if (bind(fd, &args->addr.sa.any, args->addr.len) == -1) {
		int error = errno;

		(void)close(fd);
		return bind_error(&args->addr, error, why);
	}
	*fd_r = fd;
	return FAULT_NONE;
}

/* A directory below /run/postern/ is made for its socket, and only there. */
static void
make_directory(const char *path)
{
	static const char base[] = "/run/postern/";
	char dir[ADDR_UNIX_MAX + 1];
	char *slash;

	if (strncmp(path, base, sizeof(base) - 1) != 0)
		return;
	(void)snprintf(dir, sizeof(dir), "%s", path);
	slash = strrchr(dir, '/');
	if (slash <= dir + sizeof(base) - 1)
		return;
	*slash = '\0';
	/* If it fails, bind says why. */
	if (mkdir(dir, 0711) == 0)
		(void)chmod(dir, 0711);
}

/* Remove a socket file that nobody listens on; anything else stays. */
static enum fault
remove_stale(const struct addr *addr, struct why *why)
{
	const char *path = addr->sa.un.sun_path;
	struct stat st;
	int fd, error;

	if (lstat(path, &st) == -1)
		return errno == ENOENT ? FAULT_NONE
		                       : bind_error(addr, errno, why);
	if (!S_ISSOCK(st.st_mode))
		return fail(why, FAULT_IO,
		    "listen unix:%s: something that is no socket is there; "
		    "it is not removed",
		    path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd == -1)
		return bind_error(addr, errno, why);
	error = connect(fd, &addr->sa.any, addr->len) == 0 ? 0 : errno;
	(void)close(fd);
	if (error != ECONNREFUSED)
		return fail(why, FAULT_IO,
		    "listen unix:%s: another process listens there", path);
	if (unlink(path) == -1 && errno != ENOENT)
		return bind_error(addr, errno, why);
	return FAULT_NONE;
}

/*
 * Let one group connect, by an access list: it needs no right, where chown
 * would. The kernel's layout: version 2, then {tag, permissions, id}.
 */
static int
grant_group(const char *path, mode_t mode, gid_t gid)
{
	struct {
		uint32_t version;
		struct {
			uint16_t tag;
			uint16_t perm;
			uint32_t id;
		} entry[5];
	} acl = {
	    .version = 2,
	    .entry =
	        {
	            {0x01, (uint16_t)(mode >> 6 & 7), UINT32_MAX}, /* owner */
	            {0x04, (uint16_t)(mode >> 3 & 7),
	                UINT32_MAX},                          /* its group */
	            {0x08, 6, gid}, {0x10, 6, UINT32_MAX},    /* mask */
	            {0x20, (uint16_t)(mode & 7), UINT32_MAX}, /* others */
	        },
	};

	return setxattr(path, "system.posix_acl_access", &acl, sizeof(acl), 0);
}

static enum fault
bind_unix(const struct listen_args *args, int *fd_r, struct why *why)
{
	const char *path = args->addr.sa.un.sun_path;
	enum fault f;
	mode_t old;
	int fd, r, error;

	make_directory(path);
	f = remove_stale(&args->addr, why);
	if (f != FAULT_NONE)
		return f;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd == -1)
		return bind_error(&args->addr, errno, why);
	/* Nobody may connect before the mode is set: there is no listen yet. */
	old = umask(0777 & ~args->unix_mode);
	r = bind(fd, &args->addr.sa.any, args->addr.len);
	error = errno;
	(void)umask(old);
	if (r == -1) {
		(void)close(fd);
		return bind_error(&args->addr, error, why);
	}
	if (args->unix_group &&
	    grant_group(path, args->unix_mode, args->unix_gid) == -1) {
		f = fail(why, FAULT_IO,
		    "listen unix:%s: listen_group: no access list can be set "
		    "there: %s",
		    path, strerror(errno));
		(void)unlink(path);
		(void)close(fd);
		return f;
	}
	*fd_r = fd;
	return FAULT_NONE;
}

enum fault
net_bind(const struct listen_args *args, int *fd_r, struct why *why)
{
	if (addr_family(&args->addr) == AF_UNIX)
		return bind_unix(args, fd_r, why);
	return bind_tcp(args, fd_r, why);
}

enum fault
net_listen(int fd, uint32_t backlog, struct why *why)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	struct addr addr = {0};
	int error;

	if (listen(fd, (int)backlog) == 0)
		return FAULT_NONE;
	error = errno;
	if (getsockname(fd, (struct sockaddr *)&ss, &len) == 0)
		addr_set(&addr, (struct sockaddr *)&ss, len);
	return bind_error(&addr, error, why);
}

enum accept_status
net_accept(int listen_fd, int *fd_r, struct addr *from_r, int *error_r)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	int fd = accept4(listen_fd, (struct sockaddr *)&ss, &len,
	    SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd != -1) {
		addr_set(from_r, (struct sockaddr *)&ss, len);
		*fd_r = fd;
		return ACCEPT_DONE;
	}
	*error_r = errno;
	switch (errno) {
	case EMFILE:
	case ENFILE:
	case ENOBUFS:
	case ENOMEM:
		return ACCEPT_FULL;
	case EBADF:
	case EINVAL:
	case ENOTSOCK:
	case EOPNOTSUPP:
		return ACCEPT_BROKEN;
	default:
		/* accept(2): errors of the network belong to the caller. */
		return ACCEPT_EMPTY;
	}
}

size_t
net_unacked(int fd)
{
	int n = 0;

	if (ioctl(fd, SIOCOUTQ, &n) == -1 || n < 0)
		return 0;
	return (size_t)n;
}

enum net_gone
net_poll_gone(int fd, bool is_unix)
{
	struct pollfd p = {.fd = fd, .events = 0};

	if (poll(&p, 1, 0) <= 0 || (p.revents & (POLLERR | POLLHUP)) == 0)
		return NET_HERE;
	return is_unix ? NET_CLOSED : NET_ABORTED;
}

bool
net_is_writable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};

	return poll(&p, 1, 0) == 1;
}

bool
net_discard(int fd, size_t max, size_t *dropped_r)
{
	char buf[4096];
	size_t total = 0;
	ssize_t n = 1;

	while (total < max) {
		n = recv(fd, buf, sizeof(buf), 0);
		if (n <= 0)
			break;
		total += (size_t)n;
	}
	*dropped_r = total;
	return n == 0 || (n == -1 && errno != EAGAIN && errno != EINTR);
}

bool
net_peer_is_dead(int fd, uint64_t timeout_ms)
{
	struct tcp_info info;
	socklen_t len = sizeof(info);

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == -1)
		return false;
	if (info.tcpi_unacked == 0 && info.tcpi_probes == 0)
		return false;
	/*
	 * A reader that pauses acknowledges each window probe, and the kernel
	 * spaces the probes by up to 120 s; only while probes or segments go
	 * unanswered does the time without an ACK count.
	 */
	if (info.tcpi_probes == 0 && info.tcpi_retransmits == 0)
		return false;
	return info.tcpi_last_ack_recv >= timeout_ms;
}
