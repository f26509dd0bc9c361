#ifndef POSTERN_WORKLOAD_INT_H
#define POSTERN_WORKLOAD_INT_H

/* Decoding, endpoints and the agent's rights, shared by the files here. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "addr.h"
#include "err.h"
#include "mem.h"
#include "spiffe.h"

/* A message's declared length is judged against this before buffering. */
#define WORKLOAD_MESSAGE_MAX (16u * 1024 * 1024)

#define WORKLOAD_KEY_MAX    (16u * 1024)  /* one private key */
#define WORKLOAD_KEYS_MAX   (256u * 1024) /* all of a message */
#define WORKLOAD_GROUPS_MAX 32            /* depth of unknown groups */

/* ---- workload_scan.c ---- */

/* A private key, cut out of the message before anything else sees it. */
struct scanned_key {
	uint8_t *bytes; /* key_memory_alloc(); NULL: empty, or no room */
	size_t len;
	bool no_room; /* there was one, but too little key memory is free */
};

/*
 * A message without unknown fields and without keys, counted against the
 * limits. KEYS[i] belongs to the i-th SVID. Never larger than the message.
 */
struct scanned {
	uint8_t *bytes; /* NULL if empty */
	size_t len;
	size_t n_svids;
	size_t n_crls;
	size_t n_federated;
	size_t key_bytes;
	struct scanned_key keys[IDENTITY_SVIDS_MAX];
};

/*
 * One bounds-checked pass over an X509SVIDResponse. FAULT_MALFORMED,
 * FAULT_LIMIT or FAULT_NOMEM: *S is empty. On FAULT_NONE it is the caller's,
 * for scanned_fini().
 */
enum fault workload_scan(
    struct span message, struct scanned *s, struct why *why);
void scanned_fini(struct scanned *s); /* wipes the keys */

/* ---- workload_decode.c ---- */

/*
 * From a message to an identity, for identity_new()'s caller. As there,
 * FAULT_NONE gives *ID_R, maybe with its SVIDs broken and WHY saying why; any
 * other result discards the message. MESSAGE is borrowed; its keys are copied
 * into key memory and wiped there.
 */
enum fault workload_decode(struct span message, const struct identity *previous,
    uint64_t *next_generation, struct identity **id_r, struct why *why);

/* ---- workload_endpoint.c ---- */

struct endpoint {
	struct addr addr;
	bool is_unix;
};

enum fault workload_endpoint_parse(
    struct span text, struct endpoint *e_r, struct why *why);

/*
 * May whoever runs as UID be the agent, and may nobody else have put the
 * socket at PATH? FAULT_UNTRUSTED, and WHY says what to write (row 125a).
 */
enum fault workload_agent_check(const char *path, uid_t uid,
    const uid_t *allowed, size_t n_allowed, struct why *why);

#endif
