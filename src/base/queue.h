#ifndef POSTERN_QUEUE_H
#define POSTERN_QUEUE_H

/*
 * Intrusive doubly linked list. A node that is on no list points to itself, so
 * that "is it queued" needs no second spelling. One owner; no thread safety.
 */

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>

#include "mem.h"

struct node {
	struct node *prev;
	struct node *next;
};

/* A list is a node of its own: its next is the head, its prev the tail. */
static inline void
node_init(struct node *l)
{
	l->prev = l->next = l;
}

static inline bool
node_is_queued(const struct node *l)
{
	return l->next != l;
}

static inline bool
list_is_empty(const struct node *list)
{
	return list->next == list;
}

/* LINK is on no list. */
static inline void
list_add_tail(struct node *list, struct node *node)
{
	assert(!node_is_queued(node));
	node->prev = list->prev;
	node->next = list;
	list->prev->next = node;
	list->prev = node;
}

static inline void
list_add_head(struct node *list, struct node *node)
{
	list_add_tail(list->next, node);
}

/* Harmless if the node is on no list. */
static inline void
node_remove(struct node *node)
{
	node->prev->next = node->next;
	node->next->prev = node->prev;
	node_init(node);
}

/* Head of the list, taken off; NULL if empty. */
static inline struct node *
list_pop(struct node *list)
{
	struct node *head = list->next;

	if (head == list)
		return NULL;
	node_remove(head);
	return head;
}

/* Move everything from FROM to the tail of TO. */
static inline void
list_append(struct node *to, struct node *from)
{
	if (list_is_empty(from))
		return;
	from->next->prev = to->prev;
	to->prev->next = from->next;
	from->prev->next = to;
	to->prev = from->prev;
	node_init(from);
}

#define LIST_EACH(it, list)                                                    \
	for (struct node *it = (list)->next; it != (list); it = it->next)

/* The body may remove IT, and nothing else. */
#define LIST_EACH_SAFE(it, list)                                               \
	for (struct node *it = (list)->next, *it##_next = it->next;            \
	     it != (list); it = it##_next, it##_next = it->next)

#endif
