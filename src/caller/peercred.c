#include "caller_int.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

/*
 * The supplementary groups at the time of connect. More than we hold leaves
 * them unknown: who decides may then ask the name service.
 */
static void
peer_groups(int fd, struct local_caller *caller)
{
	socklen_t len = sizeof(caller->groups);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, caller->groups, &len) !=
	    0)
		return;
	caller->n_groups = len / sizeof(caller->groups[0]);
	caller->groups_known = true;
}

enum fault
peercred_lookup(int fd, struct local_caller *caller_r, struct why *why)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) != 0 ||
	    len != sizeof(cred))
		return fail(
		    why, FAULT_IO, "caller: SO_PEERCRED: %s", strerror(errno));
	caller_r->uid = cred.uid;
	caller_r->gid = cred.gid;
	caller_r->gid_known = true;
	caller_r->pid = cred.pid;
	peer_groups(fd, caller_r);
	return FAULT_NONE;
}
