#ifndef POSTERN_CONF_H
#define POSTERN_CONF_H

/*
 * The configuration: files in, one immutable snapshot out, or every error that
 * they hold. Reads files and nothing else. Loaded on the control thread,
 * then read by all.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "addr.h"
#include "err.h"
#include "fields.h"
#include "policy.h"
#include "text.h"

enum direction {
	INBOUND,  /* mesh to app */
	OUTBOUND, /* local program to mesh */
};

enum service_mode { MODE_ENFORCE, MODE_AUDIT };

enum conf_log_format {
	CONF_LOG_AUTO,
	CONF_LOG_LOGFMT,
	CONF_LOG_JSON,
	CONF_LOG_JOURNAL
};

/* A duration key that is `off`. */
#define CONF_OFF 0

/* Where a value was written. FILE is owned by the conf. */
struct conf_origin {
	const char *file; /* NULL: default */
	unsigned int line;
};

struct conf_listen {
	struct addr addr;    /* empty for systemd:NAME */
	const char *systemd; /* NULL unless systemd:NAME */
	struct conf_origin origin;
};

struct conf_target {
	const char *host; /* NULL: a literal address */
	uint16_t port;
	struct addr addr; /* if HOST is NULL */
	struct conf_origin origin;
};

/*
 * What outlives a snapshot: counters of all workers, and which address worked
 * last. Made and owned by control, which sets the pointer before it posts.
 */
struct service_shared;

struct service {
	const char *name;
	enum direction direction;
	unsigned int index; /* in conf.services */
	struct conf_origin origin;

	struct conf_listen *listens;
	size_t n_listens;
	struct addr forward;         /* inbound */
	struct conf_target *targets; /* outbound: connect lines, in order */
	size_t n_targets;

	/* inbound: allow and deny, policies merged in; outbound: expect. */
	const struct policy *policy;
	const struct caller_rule *callers; /* outbound; none: unix only */
	size_t n_callers;

	enum service_mode mode;
	bool tls12;
	bool eku_ignore;
	bool end_without_close_notify;
	const char *sni; /* outbound; NULL: off */
	uint32_t handshake_timeout_ms;
	uint32_t connect_timeout_ms;
	uint64_t idle_timeout_ms;       /* CONF_OFF */
	uint64_t half_close_timeout_ms; /* CONF_OFF */
	uint64_t dead_peer_timeout_ms;  /* CONF_OFF */
	uint32_t keepalive_s;           /* CONF_OFF */
	uint32_t resolve_interval_ms;   /* outbound */
	uint32_t backlog;
	mode_t listen_mode;
	const char *listen_group; /* NULL: unset */
	gid_t listen_gid;         /* valid if LISTEN_GROUP */
	uint32_t log_sample;      /* 1: every line */

	struct service_shared *shared;
};

struct conf_global {
	const char *workload_api; /* NULL: $SPIFFE_ENDPOINT_SOCKET */
	uid_t *workload_api_uids;
	size_t n_workload_api_uids;
	const char *trust_domain; /* NULL: no pin */
	bool start_gate_identity;
	uint32_t redaction_grace_ms;
	bool tls_profile_list;
	const char *ciphersuites; /* NULL: system */
	const char *groups;       /* NULL: system */
	uint32_t threads;         /* 0: auto */
	uint32_t max_connections; /* 0: auto */
	uint32_t drain_timeout_ms;
	struct addr metrics; /* empty: off */
	enum conf_log_format log_format;
	enum log_level log_level;
	const char *control; /* path; NULL: default */
	bool dumpable;
};

struct conf {
	uint64_t generation; /* set by control before it posts */
	char hash[17];       /* of the effective values, hex */
	bool pending; /* a user or group does not resolve yet: load again */
	struct conf_global global;
	struct service *services;
	size_t n_services;
};

/* ---- Diagnostics ---- */

enum diag_severity { DIAG_ERROR, DIAG_WARNING, DIAG_NOTE };

struct diag {
	enum diag_severity severity;
	char code[5];              /* "C104" */
	char *file;                /* owned; "" if none */
	unsigned int line, column; /* from 1; 0: unknown */
	unsigned int length;       /* bytes to underline; 0: none */
	char *message;             /* owned */
	char *hint;                /* owned; NULL: none */
	char *source;              /* owned; the raw line, NULL: none */
};

struct diags {
	struct diag *list;
	size_t n, cap;
	size_t errors, warnings;
	bool failed; /* out of memory: not all are here */
};

/* The list of codes, of which an operator can ask more (`explain-error`). */
struct diag_code {
	const char *code;
	enum diag_severity severity; /* unless a load says otherwise */
	const char *sentence;
	const char *page; /* what it means, and what to write */
};
size_t diag_code_count(void);
const struct diag_code *diag_code(size_t i);
const char *diag_severity_name(enum diag_severity s); /* "error" ... */

void diags_init(struct diags *d);
void diags_fini(struct diags *d);

/* How a load judges what depends on where it runs (C100, C117, C134, C135). */
struct conf_load_args {
	/* /etc/postern/postern.ini and its conf.d, if N_FILES is 0. */
	const char *const *files;
	size_t n_files;
	/* Refuse files of wrong owner or mode (`run`), not only note (`check`). */
	bool strict_files;
	/* $SPIFFE_ENDPOINT_SOCKET and RLIMIT_NOFILE of this process count. */
	bool strict_environment;
	/* A name that does not resolve is pending, not an error (start). */
	bool names_may_pend;
};

/*
 * Read, check, compile. *CONF_R is given if there is no error; warnings and
 * notes may be there all the same. On errors *CONF_R is untouched and FAULT_CONF
 * comes back; D holds them all, in file order.
 */
enum fault conf_load(
    const struct conf_load_args *args, struct conf **conf_r, struct diags *d);
void conf_free(struct conf **c);

/* Service by name; NULL if none. */
const struct service *conf_service(const struct conf *c, struct span name);

/* ---- The key table, for what is generated from it ---- */

struct conf_key {
	const char *sections; /* "global", "policy", "inbound outbound" ... */
	const char *key;
	const char *type;    /* "duration", "rule" ... */
	const char *values;  /* choices, "a|b"; "" if none */
	const char *initial; /* default; "" if none */
	char reload;         /* L, N, S, E: postern.ini(5) */
	bool is_list;
	const char *since;
	const char *sentence;
};
size_t conf_key_count(void);
struct conf_key conf_key(size_t i);

/*
 * The word of WORDS (NULL at the end) nearest to WORD, at most two typing
 * mistakes away (Damerau-Levenshtein); NULL if none is.
 */
const char *conf_suggest(struct span word, const char *const *words);

/* INI text of the effective values; WITH_ORIGIN adds `; file:line`. */
void conf_dump(const struct conf *c, bool with_origin, struct text *out);
/* The section of the service at INDEX, as above, without origins. */
void conf_dump_service(const struct conf *c, size_t index, struct text *out);
void conf_dump_defaults(struct text *out);

#endif
