#include "sys.h"

#include <errno.h>
#include <grp.h>
#include <sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

void
sys_protect_memory(bool dumpable)
{
	const struct rlimit none = {0, 0};

	(void)setrlimit(RLIMIT_CORE, &none);
	(void)prctl(PR_SET_DUMPABLE, dumpable ? 1 : 0, 0, 0, 0);
}

void
sys_no_new_privs(void)
{
	(void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

static bool
can_go_back(uid_t uid, gid_t gid)
{
	uid_t r, e, s;
	gid_t rg, eg, sg;

	if (getresuid(&r, &e, &s) == -1 || getresgid(&rg, &eg, &sg) == -1)
		return true;
	if (r != uid || e != uid || s != uid)
		return true;
	if (rg != gid || eg != gid || sg != gid)
		return true;
	return uid != 0 && setresuid(0, 0, 0) == 0;
}

enum fault
sys_drop_to(const char *name, uid_t uid, gid_t gid, struct why *why)
{
	int r = name != NULL ? initgroups(name, gid) : setgroups(0, NULL);

	if (r == -1 || setresgid(gid, gid, gid) == -1 ||
	    setresuid(uid, uid, uid) == -1)
		return fail(why, FAULT_IO, "cannot become uid %u: %s", uid,
		    strerror(errno));
	if (can_go_back(uid, gid))
		return fail(why, FAULT_IO,
		    "rights were not dropped: uid %u could be left again", uid);
	sys_no_new_privs();
	return FAULT_NONE;
}

uint64_t
sys_descriptor_limit(void)
{
	struct rlimit rl;

	if (getrlimit(RLIMIT_NOFILE, &rl) == -1)
		return 1024;
	if (rl.rlim_cur < rl.rlim_max) {
		rl.rlim_cur = rl.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &rl);
		(void)getrlimit(RLIMIT_NOFILE, &rl);
	}
	return (uint64_t)rl.rlim_cur;
}

unsigned int
sys_cpus(void)
{
	cpu_set_t set;
	int n;

	CPU_ZERO(&set);
	if (sched_getaffinity(0, sizeof(set), &set) == -1)
		return 1;
	n = CPU_COUNT(&set);
	return n < 1 ? 1 : (unsigned int)n;
}
