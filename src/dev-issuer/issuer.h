#ifndef POSTERN_ISSUER_H
#define POSTERN_ISSUER_H

/*
 * postern-dev-issuer: a Workload API server for development and tests.
 *
 * One process, one thread. Places are sockets; each has entries (SVIDs), and
 * every stream of a place gets the same updates. Domains are trust domains,
 * each with an authority of its own. Nothing is written to disk.
 */

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "ca.h"
#include "err.h"
#include "mem.h"
#include "queue.h"
#include "text.h"

struct grpc_server;

struct domain {
	struct node node;
	char *name;
	struct ca *root;
	struct ca *next_root;    /* in the bundle already, not issuing yet */
	struct ca *intermediate; /* below ROOT; NULL: ROOT issues */
	bool federated;          /* other domains' places serve its bundle */
};

struct entry {
	struct node node;
	char *id;
	char *hint; /* may be "" */
	struct ca_svid *svid;
};

/* What a place answers. */
enum mood {
	MOOD_SERVE,
	MOOD_STATUS, /* with STATUS, at once */
	MOOD_HANG,   /* not at all */
};

/* A fault in the next SVIDs. */
enum bend {
	BEND_NOT,
	BEND_EXPIRED,
	BEND_FUTURE,
	BEND_WRONG_KEY,
	BEND_LONG_ID,
};

struct place {
	struct node node;
	struct issuer *issuer;
	char *path;
	int fd;
	struct event *acceptable;
	struct node entries;
	struct node conns;

	enum mood mood;
	unsigned int status;
	enum bend bend;
	int64_t future_s;
	bool frozen;   /* renewals send the old SVIDs again */
	bool reversed; /* bundles and domains in the other order */
	bool with_crl;
	bool revoke;      /* the list names our own SVIDs */
	size_t filler;    /* bytes of foreign bundles to add */
	size_t copies;    /* further SVIDs: ID-2, ID-3 ... */
	struct node made; /* those, entries too */
};

struct issuer {
	struct event_base *base;
	struct node domains;
	struct node places;

	const char *trust_domain; /* for IDs that begin with '/' */
	int64_t ttl_s;
	int64_t rotate_s;
	enum ca_key_type key_type;
	bool with_intermediate;
	bool with_crl;
	bool any_domain; /* --i-know */
	mode_t socket_mode;

	struct event *rotation;
	struct control *control;
};

/* ---- entries.c: who gets what, and the messages ---- */

struct domain *issuer_domain(
    struct issuer *is, struct span name, struct why *why);
struct place *issuer_place(struct issuer *is, const char *path);
/* TEXT is ID[,HINT]. */
enum fault place_add(struct place *p, const char *text, struct why *why);
bool place_remove(struct place *p, const char *id);
enum fault place_issue(struct place *p, struct why *why);
/* The two responses, as they stand now. *BYTES_R is given. */
enum fault place_svid_message(
    const struct place *p, struct text *bytes_r, struct why *why);
enum fault place_bundle_message(
    const struct place *p, struct text *bytes_r, struct why *why);
/* A new root joins the bundle; then it issues, and the old one leaves. */
enum fault domain_add_root(struct domain *d, struct why *why);
enum fault domain_switch_root(
    struct domain *d, const struct issuer *is, struct why *why);
void issuer_free_entries(struct issuer *is);

/* ---- serve.c ---- */

enum fault place_listen(struct place *p, struct why *why);
/* Send what stands now to every stream. */
void place_push(struct place *p);
void place_push_bytes(struct place *p, struct span message);
void place_finish_streams(
    struct place *p, unsigned int code, const char *message);
void place_raw(struct place *p, struct span bytes); /* not HTTP/2 */
void place_cut(struct place *p);
void place_stop(struct place *p);
/* A listening socket at PATH, or -1. */
int listen_unix(const char *path, mode_t mode, struct why *why);

/* ---- knobs.c ---- */

/* A command line; "ok", or what is wrong. */
void issuer_command(struct issuer *is, char *line, struct text *answer);
void issuer_rotate(struct issuer *is);
const char *issuer_commands(void); /* for --help */
enum fault control_start(struct issuer *is, const char *path, struct why *why);
void control_stop(struct issuer *is);

/* ---- toy.c ---- */

/* The toy legacy service; returns the exit status. */
int toy_main(int argc, char **argv);

/* ---- drop.c ---- */

/* Never serve as root: become UID, or one that nobody has. */
enum fault drop_root(const char *uid_text, struct why *why);

#endif
