#ifndef POSTERN_CALLER_H
#define POSTERN_CALLER_H

/*
 * Who is the local program at the other end of a plain connection? This module
 * finds out, `policy` judges.
 *
 * One caller_env per worker; it never blocks. caller_groups() asks the name
 * service, may block for long, and is never called on a worker.
 */

#include "addr.h"
#include "err.h"
#include "policy.h"

struct caller_env;

/* FAULT_IO if the kernel gives no sock_diag socket. */
enum fault caller_env_new(struct caller_env **env_r, struct why *why);
void caller_env_free(struct caller_env **env);

/*
 * Fill *CALLER_R about accepted socket FD, whose peer is PEER and whose own
 * address is LOCAL; under REDIRECT the original destination. Call right after
 * accept, before the first read, and once: later another socket may own the
 * pair of addresses.
 *
 * Unix sockets: uid, gid, groups and pid at the time of connect. TCP: the uid
 * alone. FAULT_NONE: the caller is known. On any other result *CALLER_R is all
 * zero, which `policy` refuses, and WHY says what the kernel answered.
 */
enum fault caller_lookup(struct caller_env *env, int fd,
    const struct addr *peer, const struct addr *local,
    struct local_caller *caller_r, struct why *why);

/*
 * Ask about a loopback connection of our own. A result other than FAULT_NONE
 * means that TCP callers cannot be told apart on this host; WHY names the
 * remedy.
 */
enum fault caller_self_test(struct why *why);

/*
 * Fill the groups of UID into CALLER, by getgrouplist(3): a group's member
 * list would miss those whose primary group it is. On a fault CALLER is
 * untouched. Blocks.
 */
enum fault caller_groups(
    uid_t uid, struct local_caller *caller, struct why *why);

#endif
