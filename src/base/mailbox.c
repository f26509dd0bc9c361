#include "mailbox.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct mailbox {
	int fd;
	bool signalled; /* the eventfd is readable: one write is enough */
	pthread_mutex_t lock;
	struct mail *slot[MAILBOX_SLOTS];
	struct node list;
	size_t waiting;
};

struct mailbox *
mailbox_new(void)
{
	struct mailbox *m = calloc(1, sizeof(*m));

	if (m == NULL)
		return NULL;
	m->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (m->fd == -1 || pthread_mutex_init(&m->lock, NULL) != 0) {
		if (m->fd != -1)
			(void)close(m->fd);
		free(m);
		return NULL;
	}
	node_init(&m->list);
	return m;
}

void
mailbox_free(struct mailbox **m)
{
	if (*m == NULL)
		return;
	assert(list_is_empty(&(*m)->list));
	(void)pthread_mutex_destroy(&(*m)->lock);
	(void)close((*m)->fd);
	free(*m);
	*m = NULL;
}

int
mailbox_fd(const struct mailbox *m)
{
	return m->fd;
}

static struct mail *
put(struct mailbox *m, struct mail *mail)
{
	struct mail *old;

	if (mail->slot == 0) {
		node_init(&mail->node);
		list_add_tail(&m->list, &mail->node);
		m->waiting++;
		return NULL;
	}
	assert(mail->slot < MAILBOX_SLOTS);
	old = m->slot[mail->slot];
	m->slot[mail->slot] = mail;
	return old;
}

/* Called with the lock held: no wake-up is lost and none is doubled. */
static void
wake(struct mailbox *m)
{
	uint64_t one = 1;

	if (m->signalled)
		return;
	m->signalled = true;
	/* An eventfd of ours refuses only when it is full, hence readable. */
	if (write(m->fd, &one, sizeof(one)) == -1)
		return;
}

struct mail *
mail_post(struct mailbox *m, struct mail *mail)
{
	struct mail *old;

	(void)pthread_mutex_lock(&m->lock);
	old = put(m, mail);
	wake(m);
	(void)pthread_mutex_unlock(&m->lock);
	return old;
}

void
mail_post_pair(
    struct mailbox *m, struct mail *a, struct mail *b, struct mail *old_r[2])
{
	(void)pthread_mutex_lock(&m->lock);
	old_r[0] = put(m, a);
	old_r[1] = put(m, b);
	wake(m);
	(void)pthread_mutex_unlock(&m->lock);
}

void
mail_take(struct mailbox *m, struct node *list)
{
	uint64_t count;

	(void)pthread_mutex_lock(&m->lock);
	if (m->signalled && read(m->fd, &count, sizeof(count)) == -1)
		count = 0; /* nothing to forget */
	m->signalled = false;
	for (size_t i = 1; i < MAILBOX_SLOTS; i++) {
		if (m->slot[i] == NULL)
			continue;
		node_init(&m->slot[i]->node);
		list_add_tail(list, &m->slot[i]->node);
		m->slot[i] = NULL;
	}
	list_append(list, &m->list);
	m->waiting = 0;
	(void)pthread_mutex_unlock(&m->lock);
}

size_t
mail_waiting(struct mailbox *m)
{
	size_t n;

	(void)pthread_mutex_lock(&m->lock);
	n = m->waiting;
	(void)pthread_mutex_unlock(&m->lock);
	return n;
}
