#ifndef POSTERN_CONTROL_INT_H
#define POSTERN_CONTROL_INT_H

/* What the files of control share. All of it belongs to the control thread. */

#include <event2/event.h>

#include "conf.h"
#include "control.h"
#include "source.h"
#include "sys.h"
#include "worker.h"

struct admin;
struct admin_client;
struct log_sink;
struct lookups;
struct metrics_http;

/* Descriptors per address: more workers get theirs by hand-off. */
#define LISTENERS_MAX 16

/*
 * One listening address. TCP: one descriptor per worker (SO_REUSEPORT); unix
 * and inherited ones: one, which every worker registers.
 */
struct listen_socket {
	struct node node; /* in control.listens */
	struct addr addr;
	enum net_side side;
	int fds[LISTENERS_MAX];
	size_t n_fds;
	char *systemd; /* name of an inherited one; NULL */
	bool used;     /* by the configuration being built */
	bool listening;
	bool wanted_last;     /* was part of the configuration in force */
	unsigned int service; /* index in the configuration being built */
	struct conf_origin origin;
};

/* Counters of a service name and direction; never freed while we run. */
struct shared_entry {
	struct node node;
	char *name;
	enum direction direction;
	struct service_shared shared;
};

/* A configuration that some worker or some departed service still uses. */
struct old_conf {
	struct node node;
	struct conf *conf;
	uint64_t replaced_by; /* generation that all workers must have seen */
	int64_t drain_until_ms;
};

/* Addresses of one host name, kept over reloads. */
struct host {
	struct node node;
	char *name;
	struct addr *addrs; /* ports are 0 */
	size_t n;
	int64_t next_ms; /* when to look again */
	int64_t last_ms; /* when a look-up began; 0 never */
	bool running;
	bool used;
	bool failed; /* the last look-up did */
};

/* A reload whose verdict is awaited. */
struct reload_wait {
	struct admin_client *client; /* NULL: SIGHUP */
	uint64_t generation;
	char *diff;
	int64_t since_ms;
};

struct control {
	const struct control_args *args;
	struct event_base *base;
	struct mailbox *mailbox;
	struct event *mail_event;
	struct event *second_event;
	struct event *drain_event;
	struct event *log_event; /* gathers lines for a moment */
	struct event *signal_events[4];

	struct sys_inherited inherited[SYS_INHERITED_MAX];
	size_t n_inherited;

	struct conf *conf;
	uint64_t conf_generations; /* given out so far */
	int64_t conf_loaded_s;     /* wall clock */
	bool last_reload_ok;
	int64_t last_reload_s;
	struct node old_confs;
	struct node listens;
	struct node shared; /* of shared_entry */
	struct node hosts;
	struct lookups *lookups;
	struct reload_wait *reload;
	int64_t pending_next_ms;
	bool several_said;   /* that the agent grants more than one SVID */
	struct text refused; /* sentences of the last refused reload */

	struct worker_shared workers;

	struct keeper *keeper;
	struct source *source;
	char *endpoint; /* of SOURCE */
	uint64_t material_generation;
	const char *posted_key_type; /* constant; NULL: none posted */
	bool posted_set;
	bool publish_again; /* workers lack what is in force: no memory */
	uint64_t discards;
	uint64_t reopens;
	uint64_t crl_warned;
	struct why last_discard;
	struct counter discards_by[16]; /* by discard_label() */

	struct log_sink *log;
	struct admin *admin;
	struct metrics_http *http;
	struct metrics_http *http_next; /* bound by a reload under way */

	int64_t started_ms;
	int64_t asked_ms;       /* the last round of pings */
	int64_t asked_since_ms; /* they went out each second since then */
	bool ready;             /* READY=1 was sent */
	bool stopping;
	int64_t stop_deadline_ms;
	bool stop_killed;
	uint64_t stop_aborted;
	int exit_code;
	int64_t watchdog_last_ms;
	int64_t wall_offset_ms; /* wall minus boot clock, for steps */
};

/* ---- control.c ---- */
int64_t control_now_ms(void);
uint64_t control_connections(const struct control *k);
void control_status_line(struct control *k);
/* Of one service, summed over workers. */
uint64_t control_sum(const struct service_shared *s, size_t offset);
#define SUM(shared, member)                                                    \
	control_sum((shared), offsetof(struct service_counters, member))
bool control_workers_turn(const struct control *k, int64_t within_ms);
bool control_service_ready(
    const struct control *k, const struct service *s, const char **why_r);

enum {
	EXIT_DONE = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = 2,
	EXIT_CONFIG = 3,
	EXIT_DEGRADED = 7
};

/* ---- start.c: the steps of a start, in the order of control.c ---- */
enum fault start_conf(struct control *k, int *exit_code, struct why *why);
enum fault start_listeners(struct control *k, struct why *why);
/* Does a TCP listener have caller rules, which the kernel must answer? */
bool start_needs_caller_test(const struct conf *c);
/* Before any other OpenSSL call. */
enum fault start_memory(const struct control *k, struct why *why);
enum fault start_rights(const struct control *k, struct why *why);
enum fault start_make_workers(struct control *k, struct why *why);
enum fault start_publish(struct control *k, struct why *why);
enum fault start_run_workers(struct control *k, struct why *why);

/* ---- listeners.c ---- */
/* Bind what C needs and we have not; nothing listens yet. */
enum fault listeners_prepare(
    struct control *k, const struct conf *c, struct why *why);
/* Close what was made for a configuration that is not taken. */
void listeners_rollback(struct control *k);
enum fault listeners_listen(
    struct control *k, const struct conf *c, struct why *why);
/* Listeners of worker I; the list is given. */
bool listeners_for(struct control *k, unsigned int worker,
    struct listener **list_r, size_t *n_r);
void listeners_commit(struct control *k);
/* Close those that no configuration uses and no worker serves any more. */
void listeners_reap(struct control *k);
void listeners_free(struct control *k);

/* ---- publish.c ---- */
enum fault publish_material(struct control *k, struct why *why);
/* CONF and TARGETS to every worker. False: no memory, nothing was posted. */
bool publish_conf(struct control *k, struct conf *c);
void publish_targets(struct control *k);
void publish_reap(struct control *k);
void publish_retry(struct control *k);
bool publish_is_seen(const struct control *k, uint64_t generation);
enum fault source_start(struct control *k, struct why *why);
void keeper_did(struct control *k, unsigned int acts, const char *cause);
/* Abort every connection, for REASON. */
void control_kill_all(struct control *k, enum close_reason reason);
void audit_config(struct control *k, const char *event, const char *msg,
    enum log_level level);

/* ---- reload.c ---- */
/* Read, check, build and post; the verdict comes when all have adopted. */
void reload_start(struct control *k, struct admin_client *client);
void reload_tick(struct control *k);
void pending_tick(struct control *k);
bool shared_attach(struct control *k, struct conf *c);
void conf_args(const struct control *k, struct conf_load_args *a);
void diags_print(const struct diags *d, struct text *out);

/* ---- resolver.c ---- */
struct lookups *lookups_new(struct mailbox *answers);
/* False: a thread hangs in the resolver and may still post: keep the mailbox. */
bool lookups_free(struct lookups **l);
/* NAME is copied. Answers come as mail_host, mail_groups. */
bool lookups_host(struct lookups *l, const char *name);
void lookups_groups(struct lookups *l, struct mail_groups *m); /* taken */
enum { MAIL_HOST = 200 };
struct mail_host {
	struct mail mail;
	char *name;
	struct addr *addrs;
	size_t n;
	bool failed;
};
void hosts_use(struct control *k, const struct conf *c);
void hosts_tick(struct control *k);
void hosts_answer(struct control *k, struct mail_host *m);
void hosts_ask(struct control *k, const struct service *s);
void hosts_free(struct control *k);
/* Addresses of S now; the list's array is given. */
bool hosts_targets(
    struct control *k, const struct service *s, struct target_list *list_r);

/* ---- log_sink.c ---- */
struct log_sink *log_sink_new(struct control *k);
void log_sink_free(struct log_sink **s);
void log_sink_configure(struct log_sink *s, const struct conf *c);
/* A share of what the workers wrote; true: there may be more. */
bool log_sink_drain(struct log_sink *s);
uint64_t log_sink_dropped(const struct log_sink *s);

/* ---- admin.c ---- */
enum fault admin_new(struct control *k, struct admin **a_r, struct why *why);
void admin_free(struct admin **a);
void admin_tick(struct admin *a);
void admin_answered(struct admin *a, struct mail *m); /* KILL, QUERY; taken */
/* The reply is complete: send it, with this exit code. */
void admin_done(struct admin_client *c, int exit_code);

/* ---- admin_client.c ---- */
/* Copy the body; the daemon's code, or -1 when the last line is missing. */
int admin_copy_reply(FILE *in, FILE *out);

/* What a verb gets and fills. */
struct admin_client {
	struct node node;
	struct admin *admin;
	struct control *control;
	uint64_t number; /* names it in mail; never used again */
	int fd;
	struct event *event;
	uid_t uid;
	pid_t pid;
	char in[4097];
	size_t n_in;
	struct text out; /* the body while a verb writes it, then the wire */
	size_t sent;
	int64_t since_ms;
	bool json;
	bool replying;
	bool gone;
	char *words[64];
	size_t n_words;
	/* A verb that waits for workers. */
	size_t awaited;
	bool answered[WORKERS_MAX];
	struct mail *answers[WORKERS_MAX];
	void (*finish)(struct admin_client *c, bool complete);
};

/* ---- verbs.c, verbs_status.c: each fills c->out and calls admin_done, now or later ---- */
#include "verbs.def"
#define X(verb, changes, handler) void handler(struct admin_client *c);
VERBS(X)
#undef X
/* "12 d", "3 h", "41 min", "7 s"; "90.1 KiB". */
void verb_add_age(struct text *out, int64_t seconds);
void verb_add_size(struct text *out, uint64_t bytes);
/* True: words stood where none belong, and the client has its answer. */
bool verb_has_words(struct admin_client *c);

/* ---- metrics.c ---- */
void metrics_render(struct control *k, struct text *out);

/* ---- metrics_http.c ---- */
/* Bind for the next configuration; commit it, or free k->http_next. */
enum fault metrics_http_prepare(
    struct control *k, const struct addr *addr, struct why *why);
void metrics_http_commit(struct control *k, const struct addr *addr);
void metrics_http_free(struct metrics_http **h);
/* JSON body of /readyz; true: ready. */
bool readyz_render(struct control *k, struct text *out);

#endif
