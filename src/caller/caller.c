#include "caller_int.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum fault
caller_env_new(struct caller_env **env_r, struct why *why)
{
	AUTO(caller_env_free) struct caller_env *env = calloc(1, sizeof(*env));
	enum fault f;

	if (env == NULL)
		return fail(why, FAULT_NOMEM, "caller: out of memory");
	env->netlink_fd = -1;
	f = diag_open(env, why);
	if (f != FAULT_NONE)
		return f;
	*env_r = env;
	env = NULL; /* given to the caller */
	return FAULT_NONE;
}

void
caller_env_free(struct caller_env **env)
{
	if (*env == NULL)
		return;
	if ((*env)->netlink_fd >= 0)
		close((*env)->netlink_fd);
	free(*env);
	*env = NULL;
}

enum fault
caller_lookup(struct caller_env *env, int fd, const struct addr *peer,
    const struct addr *local, struct local_caller *caller_r, struct why *why)
{
	struct local_caller found = {0};
	enum fault f;

	*caller_r = found; /* nothing is known until all is */
	if (addr_family(local) == AF_UNIX)
		f = peercred_lookup(fd, &found, why);
	else
		f = diag_lookup(env, fd, peer, local, &found, why);
	if (f != FAULT_NONE)
		return f;
	if (found.uid == UID_UNMAPPED || found.uid == (uid_t)-1)
		return fail(why, FAULT_UNTRUSTED,
		    "caller: the kernel shows uid %u, which stands for "
		    "users it may not name",
		    (unsigned int)found.uid);
	found.known = true;
	*caller_r = found;
	return FAULT_NONE;
}

/* ---- Self-test ---- */

static void
close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static enum fault
bound_address(int fd, struct addr *a, struct why *why)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);

	if (getsockname(fd, (struct sockaddr *)&ss, &len) != 0)
		return fail(why, FAULT_IO, "getsockname: %s", strerror(errno));
	addr_set(a, (const struct sockaddr *)&ss, len);
	return FAULT_NONE;
}

static enum fault
ask_about_pair(
    int client, int accepted, struct local_caller *found, struct why *why)
{
	AUTO(caller_env_free) struct caller_env *env = NULL;
	struct addr peer;
	struct addr local;
	enum fault f = caller_env_new(&env, why);

	if (f == FAULT_NONE)
		f = bound_address(client, &peer, why);
	if (f == FAULT_NONE)
		f = bound_address(accepted, &local, why);
	if (f != FAULT_NONE)
		return f;
	return caller_lookup(env, accepted, &peer, &local, found, why);
}

enum fault
caller_self_test(struct why *why)
{
	AUTO(close_fd)
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	AUTO(close_fd)
	int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	AUTO(close_fd) int accepted = -1;
	struct local_caller found;
	struct addr a;
	struct why reason = {{0}};

	if (addr_parse_ip(span_of_str("127.0.0.1"), 0, &a, why) != FAULT_NONE ||
	    listener < 0 || client < 0 ||
	    bind(listener, &a.sa.any, a.len) != 0 || listen(listener, 1) != 0 ||
	    bound_address(listener, &a, why) != FAULT_NONE ||
	    connect(client, &a.sa.any, a.len) != 0)
		return fail(why, FAULT_IO, "no loopback connection: %s",
		    strerror(errno));
	accepted = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (accepted < 0)
		return fail(why, FAULT_IO, "no loopback connection: %s",
		    strerror(errno));
	if (ask_about_pair(client, accepted, &found, &reason) == FAULT_NONE &&
	    found.uid == geteuid())
		return FAULT_NONE;
	return fail(why, FAULT_IO,
	    "kernel cannot answer who calls: modprobe tcp_diag, or let the "
	    "sandbox pass AF_NETLINK (%s)",
	    reason.text[0] != '\0' ? reason.text : "it named another user");
}

/* ---- Groups ---- */

/* Large directories have long entries; getpwuid_r wants room for one. */
#define PASSWD_ROOM 65536

enum fault
caller_groups(uid_t uid, struct local_caller *caller, struct why *why)
{
	AUTO(mem_free) char *room = malloc(PASSWD_ROOM);
	struct passwd entry;
	struct passwd *found = NULL;
	gid_t groups[CALLER_GROUPS_MAX];
	int n = CALLER_GROUPS_MAX;
	int error;

	if (room == NULL)
		return fail(why, FAULT_NOMEM, "caller: out of memory");
	error = getpwuid_r(uid, &entry, room, PASSWD_ROOM, &found);
	if (found == NULL)
		return fail(why, FAULT_MISMATCH, "uid %u: %s",
		    (unsigned int)uid,
		    error != 0 ? strerror(error) : "no such user");
	/* A cut list would make the verdict depend on the order of groups. */
	if (getgrouplist(found->pw_name, found->pw_gid, groups, &n) < 0)
		return fail(why, FAULT_LIMIT,
		    "uid %u is in more than %d groups", (unsigned int)uid,
		    CALLER_GROUPS_MAX);
	memcpy(caller->groups, groups, (size_t)n * sizeof(groups[0]));
	caller->n_groups = (size_t)n;
	caller->groups_known = true;
	return FAULT_NONE;
}
