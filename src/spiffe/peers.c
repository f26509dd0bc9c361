#include "peers_int.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS 4096 /* a power of two */

struct peer {
	struct peer_facts facts;
	int refs;
	bool was_used;     /* since the hand last passed: CLOCK */
	struct node clock; /* queued: the table holds one reference */
	struct peer *next; /* in its bucket */
};

/* CLOCK's hand stands before the head of the list. */
struct peer_table {
	struct node clock;
	size_t n;
	struct peer *buckets[BUCKETS];
};

struct peer_table *
peer_table_new(void)
{
	struct peer_table *t = calloc(1, sizeof(*t));

	if (t != NULL)
		node_init(&t->clock);
	return t;
}

/* The key is a digest: its bytes are as good as any hash of them. */
static struct peer **
bucket_of(struct peer_table *t, const uint8_t key[DIGEST_LEN])
{
	size_t i = ((size_t)key[0] << 8 | key[1]) & (BUCKETS - 1);

	return &t->buckets[i];
}

/* The table lets go; live connections may hold the peer for long. */
static void
take_out(struct peer_table *t, struct peer *p)
{
	struct peer **at = bucket_of(t, p->facts.key);

	while (*at != p)
		at = &(*at)->next;
	*at = p->next;
	node_remove(&p->clock);
	t->n--;
	peer_release(&p);
}

void
peer_table_free(struct peer_table **table)
{
	struct peer_table *t = *table;

	if (t == NULL)
		return;
	while (!list_is_empty(&t->clock))
		take_out(t, CONTAINER_OF(t->clock.next, struct peer, clock));
	free(t);
	*table = NULL;
}

static void
make_room(struct peer_table *t)
{
	while (t->n >= PEER_TABLE_MAX) {
		struct peer *p =
		    CONTAINER_OF(t->clock.next, struct peer, clock);

		if (!p->was_used) {
			take_out(t, p);
			continue;
		}
		p->was_used = false;
		node_remove(&p->clock);
		list_add_tail(&t->clock, &p->clock);
	}
}

struct peer *
peer_table_find(
    struct peer_table *t, const uint8_t key[DIGEST_LEN], int64_t now_s)
{
	for (struct peer *p = *bucket_of(t, key); p != NULL; p = p->next) {
		if (memcmp(p->facts.key, key, DIGEST_LEN) != 0)
			continue;
		/* Outside its window the chain is judged anew, and refused. */
		if (now_s < p->facts.not_before || now_s > p->facts.not_after)
			return NULL;
		p->was_used = true;
		return peer_hold(p);
	}
	return NULL;
}

/* A clock that went back may find its own key there: the old one goes. */
static void
take_out_same(struct peer_table *t, const uint8_t key[DIGEST_LEN])
{
	for (struct peer *p = *bucket_of(t, key); p != NULL; p = p->next) {
		if (memcmp(p->facts.key, key, DIGEST_LEN) == 0) {
			take_out(t, p);
			return;
		}
	}
}

struct peer *
peer_table_add(struct peer_table *t, struct peer_facts *facts)
{
	struct peer *p = calloc(1, sizeof(*p));
	struct peer **at;

	if (p == NULL)
		return NULL;
	p->facts = *facts;
	facts->leaf.id_text = NULL; /* the peer's now */
	p->refs = 1;
	node_init(&p->clock);
	if (t == NULL)
		return p;
	take_out_same(t, p->facts.key);
	make_room(t);
	at = bucket_of(t, p->facts.key);
	p->next = *at;
	*at = p;
	list_add_tail(&t->clock, &p->clock);
	t->n++;
	return peer_hold(p);
}

struct peer *
peer_hold(struct peer *p)
{
	p->refs++;
	return p;
}

void
peer_release(struct peer **peer)
{
	struct peer *p = *peer;

	*peer = NULL;
	if (p == NULL || --p->refs > 0)
		return;
	assert(!node_is_queued(&p->clock));
	leaf_fini(&p->facts.leaf);
	free(p);
}

const struct spiffe_id *
peer_id(const struct peer *p)
{
	return &p->facts.leaf.id;
}

const char *
peer_serial(const struct peer *p)
{
	return p->facts.serial;
}

int64_t
peer_not_after(const struct peer *p)
{
	return p->facts.not_after;
}
