#ifndef POSTERN_SYS_H
#define POSTERN_SYS_H

/*
 * The process and its supervisor: sd_notify, inherited sockets, rights. Each
 * calls the kernel once. Main thread, before others exist, except notify.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "err.h"

/*
 * Send STATE ("READY=1\nSTATUS=...") to $NOTIFY_SOCKET, path or abstract
 * (sd_notify(3)). False without a supervisor, or if it does not listen.
 * Control thread.
 */
bool sys_notify(const char *state);
/* Microseconds of $WATCHDOG_USEC meant for this process; 0: none. */
uint64_t sys_watchdog_us(void);

/* ---- Inherited sockets: sd_listen_fds(3) ---- */

struct sys_inherited {
	int fd;
	char name[64]; /* of $LISTEN_FDNAMES; "unknown" */
	bool taken;
};

#define SYS_INHERITED_MAX 256

/*
 * Those that $LISTEN_PID means for us; close-on-exec and non-blocking from
 * now on. The environment is cleared. Returns how many.
 */
size_t sys_listen_fds(struct sys_inherited list[SYS_INHERITED_MAX]);

/* ---- Rights ---- */

/* No core; not dumpable unless DUMPABLE. */
void sys_protect_memory(bool dumpable);
/*
 * Become UID and its groups for good, with no_new_privs; NAME may be NULL for
 * a uid without an entry. Nothing is left to go back with (checked).
 */
enum fault sys_drop_to(const char *name, uid_t uid, gid_t gid, struct why *why);
void sys_no_new_privs(void);
/* Free descriptors that RLIMIT_NOFILE allows, soft raised to hard first. */
uint64_t sys_descriptor_limit(void);
/* CPUs that affinity allows; at least 1. */
unsigned int sys_cpus(void);

#endif
