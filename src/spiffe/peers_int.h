#ifndef POSTERN_PEERS_INT_H
#define POSTERN_PEERS_INT_H

/* The table of verified chains, as verify.c sees it. */

#include "spiffe.h"
#include "x509_int.h"

/* What one verified chain came to. Moved into the peer. */
struct peer_facts {
	uint8_t key[DIGEST_LEN]; /* all that the verdict depends on */
	struct leaf leaf;
	char serial[SVID_SERIAL_MAX];
	int64_t not_before; /* latest of the chain */
	int64_t not_after;  /* earliest of the chain */
};

/* Held for the caller if it is there and NOW_S is inside its window. */
struct peer *peer_table_find(
    struct peer_table *t, const uint8_t key[DIGEST_LEN], int64_t now_s);

/* T may be NULL: a peer that nobody will find. NULL: no memory. */
struct peer *peer_table_add(struct peer_table *t, struct peer_facts *facts);

#endif
