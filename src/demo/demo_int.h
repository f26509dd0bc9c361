#ifndef POSTERN_DEMO_INT_H
#define POSTERN_DEMO_INT_H

/* The parts of the demo, and what they have in common. */

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "demo.h"
#include "err.h"
#include "text.h"

enum part {
	PART_ISSUER,
	PART_SERVICE,
	PART_INBOUND,
	PART_OUTBOUND,
	PART_INTRUDER,
};
#define PART_COUNT (PART_INTRUDER + 1)

/* Ports, from args->port on. */
enum {
	PORT_APP,      /* the outbound proxy: curl goes here */
	PORT_INTRUDER, /* the intruder's */
	PORT_SERVICE,  /* the legacy service, plaintext */
	PORT_MESH,     /* the inbound proxy, TLS */
};
#define PORT_COUNT (PORT_MESH + 1)

#define DEMO_DOMAIN "demo.test"
#define LINE_BYTES  4096

struct child {
	pid_t pid; /* 0: does not run */
	int log;   /* its standard error; -1 */
	size_t len;
	char line[LINE_BYTES];
};

struct demo {
	const struct demo_args *args;
	uid_t starter;      /* whoever typed the command */
	char dir[PATH_MAX]; /* "": not made */
	int issuer;         /* the program; may lie where only root looks */
	pid_t group;        /* of all children; 0: none yet */
	int signals;
	struct child children[PART_COUNT];

	unsigned int served;     /* sockets that the issuer has opened */
	unsigned int identified; /* bits of parts that have an identity */
	bool announced;
	bool explained;
	bool stopping;
	int exit_code;
};

const char *part_name(enum part p);
/* spiffe://demo.test/NAME of a proxy. */
const char *part_id(enum part p);
/* Proxies and their configurations: PART_INBOUND up to this one. */
enum part demo_last_proxy(const struct demo *d);

/* ---- prepare.c: before anything runs ---- */

/* Opens the issuer's program; a sentence that names its package if not. */
enum fault demo_find_issuer(struct demo *d, struct why *why);
/* Root gives its rights away, and *OUT says so in one line. */
enum fault demo_drop(struct demo *d, struct why *why);
enum fault demo_check_ports(const struct demo *d, struct why *why);
enum fault demo_make_dir(struct demo *d, struct why *why);
void demo_remove_dir(struct demo *d);

/* ---- files.c ---- */

/* The configuration of a proxy, as text. */
void demo_conf(const struct demo *d, enum part p, struct text *out);
enum fault demo_write_conf(const struct demo *d, enum part p, struct why *why);
void demo_picture(const struct demo *d, struct text *out);

/* ---- children.c ---- */

/* A line for the person in front, with the part that it is about. */
void demo_say(struct demo *d, const char *who, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
enum fault demo_start_part(struct demo *d, enum part p, struct why *why);
/* What `postern explain` says about ID and the inbound service, said. */
void demo_explain(struct demo *d, const char *id);
/* Read what a part has written, each line to ON_LINE. */
void demo_read_part(struct demo *d, enum part p,
    void (*on_line)(struct demo *d, enum part p, const char *line));
/* Collect children that ended; the first that was not asked to, or -1. */
int demo_reap(struct demo *d, int *status_r);
/* End all, in the order of the traffic. Returns when none is left. */
void demo_end_parts(struct demo *d,
    void (*on_line)(struct demo *d, enum part p, const char *line));

#endif
