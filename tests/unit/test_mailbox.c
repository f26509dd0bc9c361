#include "unit.h"

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>

#include "mailbox.h"

#define POSTERS 4
#define EACH    5000

struct letter {
	struct mail mail;
	int n;
};

static struct letter *
letter(unsigned int slot, int n)
{
	struct letter *l = calloc(1, sizeof(*l));

	assert_non_null(l);
	l->mail.slot = slot;
	l->n = n;
	return l;
}

static struct letter *
of_node(struct node *n)
{
	if (n == NULL)
		abort(); /* a letter is missing */
	return CONTAINER_OF(n, struct letter, mail.node);
}

static bool
is_readable(const struct mailbox *m)
{
	struct pollfd p = {.fd = mailbox_fd(m), .events = POLLIN};

	return poll(&p, 1, 0) == 1;
}

/* A worker is woken for mail, once, and not when there is none. */
static void
test_mailbox_wakes_while_mail_waits(void **state)
{
	struct mailbox *m = mailbox_new();
	struct node list;

	(void)state;
	node_init(&list);
	assert_false(is_readable(m));
	assert_null(mail_post(m, &letter(0, 1)->mail));
	assert_null(mail_post(m, &letter(0, 2)->mail));
	assert_true(is_readable(m));
	assert_int_equal(mail_waiting(m), 2);
	mail_take(m, &list);
	assert_false(is_readable(m));
	assert_int_equal(mail_waiting(m), 0);
	for (int n = 1; n <= 2; n++) {
		struct letter *l = of_node(list_pop(&list));

		assert_int_equal(l->n, n);
		free(l);
	}
	mailbox_free(&m);
}

/* A stalled worker meets the newest snapshot; the older goes back. */
static void
test_mailbox_newest_wins_per_slot(void **state)
{
	struct mailbox *m = mailbox_new();
	struct letter *old = letter(1, 1);
	struct letter *got;
	struct node list;
	struct mail *back;

	(void)state;
	node_init(&list);
	assert_null(mail_post(m, &old->mail));
	back = mail_post(m, &letter(1, 2)->mail);
	assert_ptr_equal(back, &old->mail);
	free(old);
	mail_take(m, &list);
	got = of_node(list_pop(&list));
	assert_int_equal(got->n, 2);
	assert_true(list_is_empty(&list));
	free(got);
	mailbox_free(&m);
}

/* Configuration, then identity, then targets, then the rest: always. */
static void
test_mailbox_slots_come_first_and_in_order(void **state)
{
	struct mailbox *m = mailbox_new();
	struct mail *old[2];
	struct node list;

	(void)state;
	node_init(&list);
	assert_null(mail_post(m, &letter(0, 4)->mail));
	mail_post_pair(m, &letter(3, 3)->mail, &letter(1, 1)->mail, old);
	assert_null(old[0]);
	assert_null(old[1]);
	assert_null(mail_post(m, &letter(2, 2)->mail));
	mail_take(m, &list);
	for (int n = 1; n <= 4; n++) {
		struct letter *l = of_node(list_pop(&list));

		assert_int_equal(l->n, n);
		free(l);
	}
	mailbox_free(&m);
}

static void *
post_many(void *arg)
{
	struct mailbox *m = arg;

	for (int i = 0; i < EACH; i++) {
		struct letter *l = calloc(1, sizeof(*l));

		if (l != NULL)
			(void)mail_post(m, &l->mail);
	}
	return NULL;
}

/* Nothing is lost and no wake-up is missed between many posters. */
static void
test_mailbox_many_posters_lose_nothing(void **state)
{
	struct mailbox *m = mailbox_new();
	pthread_t threads[POSTERS];
	struct node list;
	size_t got = 0;

	(void)state;
	node_init(&list);
	for (size_t i = 0; i < POSTERS; i++)
		assert_int_equal(
		    pthread_create(&threads[i], NULL, post_many, m), 0);
	while (got < (size_t)POSTERS * EACH) {
		struct pollfd p = {.fd = mailbox_fd(m), .events = POLLIN};
		struct node *n;

		assert_int_equal(poll(&p, 1, 20000), 1);
		mail_take(m, &list);
		while ((n = list_pop(&list)) != NULL) {
			free(of_node(n));
			got++;
		}
	}
	for (size_t i = 0; i < POSTERS; i++)
		pthread_join(threads[i], NULL);
	mailbox_free(&m);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_mailbox_wakes_while_mail_waits),
	    cmocka_unit_test(test_mailbox_newest_wins_per_slot),
	    cmocka_unit_test(test_mailbox_slots_come_first_and_in_order),
	    cmocka_unit_test(test_mailbox_many_posters_lose_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
