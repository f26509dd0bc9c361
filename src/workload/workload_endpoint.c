#include "workload.h"
#include "workload_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "text.h"

#define SAY "write unix:///path or tcp://IP:port"

static bool
starts_with(struct span s, const char *prefix)
{
	size_t len = strlen(prefix);

	return s.len >= len && memcmp(s.data, prefix, len) == 0;
}

/* The rest of S behind PREFIX, which is there. */
static struct span
behind(struct span s, const char *prefix)
{
	struct span taken;

	(void)span_take(&s, strlen(prefix), &taken);
	return s;
}

static bool
has_any(struct span s, const char *bytes)
{
	for (size_t i = 0; i < s.len; i++)
		if (s.data[i] == '\0' || strchr(bytes, (char)s.data[i]) != NULL)
			return true;
	return false;
}

/* Workload Endpoint section 4: no authority, an absolute path, no more. */
static enum fault
parse_unix(struct span path, struct endpoint *e, struct why *why)
{
	if (starts_with(path, "//"))
		path = behind(path, "//");
	if (path.len < 2 || path.data[0] != '/')
		return fail(why, FAULT_MALFORMED,
		    "workload_api: a unix endpoint has an absolute path and no "
		    "host: " SAY);
	if (has_any(path, "?#%"))
		return fail(why, FAULT_MALFORMED,
		    "workload_api: no query, fragment or percent escape in a "
		    "unix endpoint: " SAY);
	if (path.len > ADDR_UNIX_MAX)
		return fail(why, FAULT_MALFORMED,
		    "workload_api: the path has %zu bytes, the kernel takes %d",
		    path.len, ADDR_UNIX_MAX);
	e->is_unix = true;
	e->addr.sa.un.sun_family = AF_UNIX;
	memcpy(e->addr.sa.un.sun_path, path.data, path.len);
	e->addr.len =
	    (socklen_t)(offsetof(struct sockaddr_un, sun_path) + path.len + 1);
	return FAULT_NONE;
}

static enum fault
parse_tcp(struct span text, struct endpoint *e, struct why *why)
{
	struct why reason;

	if (starts_with(text, "unix:") ||
	    addr_parse(text, &e->addr, &reason) != FAULT_NONE)
		return fail(why, FAULT_MALFORMED,
		    "workload_api: tcp takes an IP and a port, nothing else: "
		    "write tcp://127.0.0.1:8000");
	return FAULT_NONE;
}

enum fault
workload_endpoint_parse(struct span text, struct endpoint *e_r, struct why *why)
{
	struct endpoint e = {0};
	enum fault fault;
	char shown[64];

	if (starts_with(text, "unix:"))
		fault = parse_unix(behind(text, "unix:"), &e, why);
	else if (starts_with(text, "tcp://"))
		fault = parse_tcp(behind(text, "tcp://"), &e, why);
	else if (starts_with(text, "unix-abstract:"))
		return fail(why, FAULT_MALFORMED,
		    "workload_api: no file permissions guard an abstract "
		    "socket: " SAY);
	else
		return fail(why, FAULT_MALFORMED,
		    "workload_api: \"%s\" is no endpoint: " SAY,
		    text_escape(text, shown, sizeof(shown)));
	if (fault == FAULT_NONE)
		*e_r = e;
	return fault;
}

enum fault
workload_endpoint_check(struct span text, struct why *why)
{
	struct endpoint e;

	return workload_endpoint_parse(text, &e, why);
}

/* ---- Who may be the agent: row 125a ---- */

static bool
may_be_agent(uid_t uid, const uid_t *allowed, size_t n_allowed)
{
	if (uid == 0 || uid == geteuid())
		return true;
	for (size_t i = 0; i < n_allowed; i++)
		if (allowed[i] == uid)
			return true;
	return false;
}

/*
 * One directory above the socket. Its owner may replace what lies in it, and
 * so may everybody where it is writable by all and not sticky.
 */
static enum fault
check_directory(
    const char *path, const uid_t *allowed, size_t n_allowed, struct why *why)
{
	struct stat st;

	if (stat(path, &st) != 0)
		return fail(
		    why, FAULT_IO, "agent-uid: %s: %s", path, strerror(errno));
	if (!may_be_agent(st.st_uid, allowed, n_allowed))
		return fail(why, FAULT_UNTRUSTED,
		    "agent-uid: %s belongs to uid %u, who may replace the "
		    "agent's socket",
		    path, st.st_uid);
	if ((st.st_mode & S_IWOTH) != 0 && (st.st_mode & S_ISVTX) == 0)
		return fail(why, FAULT_UNTRUSTED,
		    "agent-uid: %s is writable by everybody, who may replace "
		    "the agent's socket",
		    path);
	return FAULT_NONE;
}

enum fault
workload_agent_check(const char *path, uid_t uid, const uid_t *allowed,
    size_t n_allowed, struct why *why)
{
	AUTO(mem_free) char *real = realpath(path, NULL);
	enum fault fault = FAULT_NONE;
	char *slash;

	if (!may_be_agent(uid, allowed, n_allowed))
		return fail(why, FAULT_UNTRUSTED,
		    "agent-uid: the agent at %s runs as uid %u; if that is "
		    "right, write workload_api_user = %u",
		    path, uid, uid);
	if (real == NULL)
		return fail(
		    why, FAULT_IO, "agent-uid: %s: %s", path, strerror(errno));
	while (fault == FAULT_NONE && (slash = strrchr(real, '/')) != NULL) {
		*slash = '\0';
		fault = check_directory(
		    real[0] == '\0' ? "/" : real, allowed, n_allowed, why);
	}
	return fault;
}
