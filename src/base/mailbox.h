#ifndef POSTERN_MAILBOX_H
#define POSTERN_MAILBOX_H

/*
 * Many posters, one owner. Posting cannot fail: the node is part of the
 * message. The owner waits on mailbox_fd() and takes the whole list at once.
 *
 * A message with a slot (1 to MAILBOX_SLOTS - 1) replaces an unread message of
 * the same slot, which goes back to the poster: the newest wins, and a stalled
 * owner meets one update, not a hundred.
 */

#include <stdbool.h>
#include <stddef.h>

#include "queue.h"

#define MAILBOX_SLOTS 8

struct mailbox;

/* The head of every message. Its owner is whoever holds the message. */
struct mail {
	struct node node;
	unsigned int slot; /* 0: no slot, queued in order */
	unsigned int kind; /* the receiver's own list */
};

/* NULL if out of memory or descriptors. */
struct mailbox *mailbox_new(void);
/* The box must be empty. */
void mailbox_free(struct mailbox **m);

/* Readable while mail waits. Owned by the mailbox. */
int mailbox_fd(const struct mailbox *m);

/*
 * Any thread. MAIL is taken. What comes back is an unread message of the same
 * slot, given to the poster; else NULL.
 */
struct mail *mail_post(struct mailbox *m, struct mail *mail);

/*
 * Any thread. Two messages that belong together become visible together.
 * OLD_R receives what they replaced, each entry NULL or given.
 */
void mail_post_pair(
    struct mailbox *m, struct mail *a, struct mail *b, struct mail *old_r[2]);

/* Owner: move all that waits to LIST, slots first in their order. */
void mail_take(struct mailbox *m, struct node *list);

/* Any thread: how many messages without a slot wait. */
size_t mail_waiting(struct mailbox *m);

#endif
