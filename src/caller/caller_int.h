#ifndef POSTERN_CALLER_INT_H
#define POSTERN_CALLER_INT_H

/* The two ways to find out. */

#include <stdbool.h>
#include <stdint.h>

#include "addr.h"
#include "caller.h"
#include "mem.h"

/* What the kernel says for "nobody of yours": unmapped user namespaces. */
#define UID_UNMAPPED 65534

struct caller_env {
	int netlink_fd;
	uint32_t port_id; /* of our netlink socket, filled in by the kernel */
	uint32_t seq;
};

/* What was asked: the client's socket, seen from its own end. */
struct diag_question {
	uint32_t seq;
	uint32_t port_id;
	const struct addr *client;
	const struct addr *server;
};

struct diag_answer {
	uint32_t uid;
	uint32_t inode;
	uint8_t state; /* TCP_ESTABLISHED ..., of the client's socket */
};

/*
 * Pure. One datagram from the kernel must be one message that answers Q: same
 * sequence, both addresses, both ports. Anything else is a fault.
 */
enum fault diag_reply_parse(struct span reply, const struct diag_question *q,
    struct diag_answer *answer_r, struct why *why);

/*
 * May one living connection show these two states, right after accept? Every
 * other pair means that the client's addresses have a new owner.
 */
bool diag_states_agree(uint8_t own, uint8_t client);

enum fault diag_open(struct caller_env *env, struct why *why);
enum fault diag_lookup(struct caller_env *env, int fd, const struct addr *peer,
    const struct addr *local, struct local_caller *caller_r, struct why *why);

enum fault peercred_lookup(
    int fd, struct local_caller *caller_r, struct why *why);

#endif
