#include "sys.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FIRST_FD 3 /* SD_LISTEN_FDS_START */

/* Cut the next name off "a:b:c"; "unknown" when there is none. */
static void
next_name(const char **names, char name[64])
{
	size_t len;

	(void)snprintf(name, 64, "unknown");
	if (*names == NULL)
		return;
	len = strcspn(*names, ":");
	if (len != 0 && len < 64) {
		memcpy(name, *names, len);
		name[len] = '\0';
	}
	*names += len;
	if (**names == ':')
		(*names)++;
	else
		*names = NULL;
}

size_t
sys_listen_fds(struct sys_inherited list[SYS_INHERITED_MAX])
{
	const char *pid = getenv("LISTEN_PID");
	const char *count = getenv("LISTEN_FDS");
	const char *names = getenv("LISTEN_FDNAMES");
	unsigned long n = 0;

	if (pid != NULL && count != NULL &&
	    strtoll(pid, NULL, 10) == (long long)getpid())
		n = strtoul(count, NULL, 10);
	if (n > SYS_INHERITED_MAX)
		n = SYS_INHERITED_MAX;
	for (size_t i = 0; i < n; i++) {
		int fd = FIRST_FD + (int)i;
		int flags = fcntl(fd, F_GETFL);

		list[i] = (struct sys_inherited){.fd = fd};
		next_name(&names, list[i].name);
		(void)fcntl(fd, F_SETFD, FD_CLOEXEC);
		if (flags != -1)
			(void)fcntl(fd, F_SETFL, flags | O_NONBLOCK);
	}
	(void)unsetenv("LISTEN_PID");
	(void)unsetenv("LISTEN_FDS");
	(void)unsetenv("LISTEN_FDNAMES");
	return n;
}
