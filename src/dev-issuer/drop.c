#include "issuer.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "log.h"

/* systemd's range of dynamic users: nobody's, if it is in no passwd. */
#define FREE_UID_FIRST 61184
#define FREE_UID_LAST  65519

static bool
parse_uid(const char *text, uid_t *uid_r)
{
	char *end;
	unsigned long n;

	errno = 0;
	n = strtoul(text, &end, 10);
	if (errno != 0 || *text < '0' || *text > '9' || *end != '\0' ||
	    n == 0 || n >= UINT32_MAX)
		return false;
	*uid_r = (uid_t)n;
	return true;
}

static enum fault
choose_uid(const char *text, uid_t *uid_r, struct why *why)
{
	const char *sudo = getenv("SUDO_UID");

	if (text != NULL) {
		if (parse_uid(text, uid_r))
			return FAULT_NONE;
		return fail(
		    why, FAULT_CONF, "--run-as takes a uid that is not 0");
	}
	if (sudo != NULL && parse_uid(sudo, uid_r))
		return FAULT_NONE;
	for (uid_t uid = FREE_UID_FIRST; uid <= FREE_UID_LAST; uid++) {
		if (getpwuid(uid) == NULL) {
			*uid_r = uid;
			return FAULT_NONE;
		}
	}
	return fail(why, FAULT_CONF, "no free uid: write --run-as");
}

enum fault
drop_root(const char *text, struct why *why)
{
	uid_t uid;
	gid_t gid;
	struct passwd *pw;
	enum fault fault;

	if (geteuid() != 0) {
		if (text == NULL)
			return FAULT_NONE;
		return fail(why, FAULT_CONF, "--run-as needs root");
	}
	fault = choose_uid(text, &uid, why);
	if (fault != FAULT_NONE)
		return fault;
	pw = getpwuid(uid);
	gid = pw == NULL ? (gid_t)uid : pw->pw_gid;
	if (setgroups(0, NULL) != 0 || setresgid(gid, gid, gid) != 0 ||
	    setresuid(uid, uid, uid) != 0 ||
	    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
		return fail(why, FAULT_IO, "cannot become uid %u: %s", uid,
		    strerror(errno));
	log_say(
	    LOG_LEVEL_WARN, "drop", "started as root, serving as uid %u", uid);
	return FAULT_NONE;
}
