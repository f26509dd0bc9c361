#ifndef POSTERN_TLS_H
#define POSTERN_TLS_H

/*
 * TLS contexts and TLS streams. Knows no connection, no rule, no service.
 *
 * Control builds (slow, may fail), one worker owns and swaps (quick). Nothing
 * here is shared between threads but the private key's own count.
 */

#include <openssl/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "err.h"
#include "reasons.h"
#include "stream.h"

struct identity;
struct peer;
struct svid;

/* From [global]: tls_profile, ciphersuites, groups. NULL: the system's. */
struct tls_settings {
	const char *ciphersuites;
	const char *groups;
};

/* Are these names that this library knows? For the checker. */
enum fault tls_settings_check(const struct tls_settings *s, struct why *why);

/* An identity rendered for one worker: own SVID, anchors. */
struct tls_material;

/*
 * Control thread. OWN is the SVID to present, one of ID's, or NULL: none, or
 * fenced. ID is borrowed for the call. *MATERIAL_R is given.
 */
enum fault tls_material_build(const struct identity *id, const struct svid *own,
    uint64_t generation, struct tls_material **material_r, struct why *why);
void tls_material_free(struct tls_material **m);

/* One worker's contexts: {inbound, outbound} x {TLS 1.3, 1.2 and up}. */
struct tls_set;

/* Control thread. Built from MATERIAL (borrowed), so that a first set fits. */
enum fault tls_set_build(const struct tls_settings *settings,
    const struct tls_material *material, struct tls_set **set_r,
    struct why *why);
void tls_set_free(struct tls_set **s);

/*
 * Must a fresh set be built for the change from OLD to NEW? True when the type
 * of the key changes, since libssl keeps one certificate per key type.
 */
bool tls_material_needs_set(
    const struct tls_material *old, const struct tls_material *new);

/*
 * A worker's TLS: current set, current material, table of verified peers. It
 * outlives every context, so that an old context still verifies against the
 * current anchors.
 */
struct tls_env;

struct tls_env *tls_env_new(void); /* NULL: no memory */
void tls_env_free(struct tls_env **env);

/*
 * Worker, between two turns. SET may be NULL or *SET NULL: keep the contexts
 * and swap the SVID in place. Both are taken; what is no longer needed is
 * freed. A failed swap (no memory) keeps the old SVID and says so.
 */
enum fault tls_env_adopt(struct tls_env *env, struct tls_set **set,
    struct tls_material **material, struct why *why);

uint64_t tls_env_generation(const struct tls_env *env);
/* Is there an SVID that may be presented at NOW_S (wall clock)? The fence. */
bool tls_env_can_present(const struct tls_env *env, int64_t now_s);
/* The own SPIFFE ID, NULL without one. Valid until the next adopt. */
const char *tls_env_own_id(const struct tls_env *env);

#endif
