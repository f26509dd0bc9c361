#ifndef POSTERN_POLICY_H
#define POSTERN_POLICY_H

/*
 * Who may: rules over SPIFFE IDs and over local programs. Pure: no I/O, no
 * clock, no socket. A compiled policy never changes; workers share it.
 *
 * Deny is the zero value of every decision.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "err.h"
#include "mem.h"
#include "reasons.h"
#include "spiffe.h"

/* ---- Rules over SPIFFE IDs (grammar: postern.ini(5), RULES) ---- */

enum rule_error {
	RULE_OK,
	RULE_EMPTY,
	RULE_ID,             /* see the spiffe_id_error */
	RULE_TD_WILDCARD,    /* '*' in the trust domain */
	RULE_STARS_NOT_LAST, /* '**' before the last segment */
	RULE_STARS_IN_WORD,  /* '**' inside a segment */
	RULE_ONLY_STAR,      /* nothing but a wildcard, such as '*' */
	RULE_NO_PATH,        /* a bare trust domain: has a form of its own */
	RULE_NOMEM,
};

enum rule_kind {
	RULE_NONE, /* "none": nobody */
	RULE_EXACT,
	RULE_PATTERN,      /* '*' or a trailing '**' */
	RULE_TRUST_DOMAIN, /* "trust-domain TD" */
};

/* One allow, deny or expect line. */
struct rule {
	enum rule_kind kind;
	char *text;       /* canonical, with scheme: one spelling per meaning */
	const char *file; /* borrowed from the configuration */
	unsigned int line;
};

/* Parse one rule. On RULE_OK *RULE_R is filled, its text given. */
enum rule_error rule_parse(
    struct span text, struct rule *rule_r, enum spiffe_id_error *id_error_r);
void rule_fini(struct rule *rule);
/* A sentence: "'*' is not allowed in the trust domain". For RULE_ID see
 * spiffe_id_error_text(). */
const char *rule_error_text(enum rule_error e);
/* Does this one rule match? Reference for tests; policies are faster. */
bool rule_matches(const struct rule *rule, const struct spiffe_id *id);

struct policy;

enum decision {
	DECISION_DENY,
	DECISION_ALLOW,
};

struct verdict {
	enum decision decision;
	enum deny_reason reason; /* DENY_NOT when allowed */
	const struct rule *rule; /* what decided; NULL for "no rule matches" */
};

/*
 * Compile. The arrays and their rules are borrowed and must outlive the
 * policy; order inside each is the order of the files. Deny wins.
 */
enum fault policy_compile(const struct rule *const *allow, size_t n_allow,
    const struct rule *const *deny, size_t n_deny, struct policy **policy_r,
    struct why *why);
void policy_free(struct policy **p);

/* ID is a checked leaf ID. Cost does not grow with the number of rules. */
struct verdict policy_decide(
    const struct policy *p, const struct spiffe_id *id);

/*
 * The allow rule that came nearest to a refused ID: same trust domain, most
 * leading segments matched, then fewest differing bytes, then first. NULL if
 * no rule names the trust domain. *SEGMENT_R: number (from 1) of the segment
 * at which it failed. Linear in the rules: for denials and explain only.
 */
const struct rule *policy_nearest(const struct policy *p,
    const struct spiffe_id *id, unsigned int *segment_r);

/* A rule that changes nothing, and the one that makes it so. */
enum rule_finding_kind {
	RULE_DUPLICATE, /* BY says the same, earlier */
	RULE_SHADOWED,  /* an allow, whose IDs the deny BY refuses all */
	RULE_COVERED,   /* BY of the same kind is wider */
};

struct rule_finding {
	enum rule_finding_kind kind;
	const struct rule *rule;
	const struct rule *by;
};

typedef void rule_finding_fn(void *arg, const struct rule_finding *finding);

/*
 * Report useless rules, at most one finding per rule, in the order of the
 * lists, allow first. Every finding is true; patterns that cover each other in
 * ways that their segments do not show are not found. For the checker: slow.
 */
void policy_find(const struct policy *p, rule_finding_fn *fn, void *arg);

/* ---- Local callers (grammar: postern.ini(5), CALLERS) ---- */

#define CALLER_GROUPS_MAX 128

/* What is known about a local program. Zero: nothing, hence refused. */
struct local_caller {
	bool known;
	uid_t uid;
	bool gid_known; /* unix sockets: primary gid at connect */
	gid_t gid;
	bool groups_known;
	size_t n_groups;
	gid_t groups[CALLER_GROUPS_MAX];
	pid_t pid; /* unix sockets; 0 if unknown. For logs only */
};

enum caller_selector_kind {
	CALLER_ANY,
	CALLER_UID, /* `user NAME`, `uid N`, `uid N-M` */
	CALLER_GID, /* `group NAME`, `gid N` */
};

struct caller_selector {
	enum caller_selector_kind kind;
	uint32_t first; /* range, both ends included */
	uint32_t last;
	char *name;   /* of user or group, NULL for numbers; owned */
	bool pending; /* the name does not resolve yet: matches nobody */
};

/* One caller line: all selectors must hold; lines are alternatives. */
struct caller_rule {
	struct caller_selector *selectors; /* owned */
	size_t n_selectors;
	char *text; /* as written; owned */
	const char *file;
	unsigned int line;
};

/*
 * Parse one line; names stay pending until a resolver fills them in (conf
 * does). FAULT_MALFORMED with a sentence that says what to write.
 */
enum fault caller_rule_parse(
    struct span text, struct caller_rule *rule_r, struct why *why);
void caller_rule_fini(struct caller_rule *rule);

struct caller_verdict {
	enum decision decision;
	bool needs_groups; /* denied for now: ask for the groups, ask again */
	const struct caller_rule *rule;
};

struct caller_verdict policy_decide_caller(const struct caller_rule *rules,
    size_t n_rules, const struct local_caller *caller);

#endif
