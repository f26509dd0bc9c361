#include "control_int.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "caller.h"
#include "clock.h"
#include "log.h"
#include "spiffe.h"

#define LOG_DELAY_MS  20
#define LAST_LINES_MS 2000 /* for a slow reader of stderr, at the end */
#define STUCK_MS      5000
#define ASK_GAP_MS    2000
#define CLOCK_STEP_MS 2000

int64_t
control_now_ms(void)
{
	return clock_boot_ms();
}

uint64_t
control_sum(const struct service_shared *s, size_t offset)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < s->n_workers; i++) {
		const char *base = (const char *)&s->workers[i];

		/* Of closed: what its connections used may be freed. */
		sum += counter_get_acquire(
		    (const struct counter *)(const void *)(base + offset));
	}
	return sum;
}

uint64_t
control_connections(const struct control *k)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < k->workers.n_workers; i++)
		sum += counter_get(&k->workers.public[i].connections);
	return sum;
}

bool
control_workers_turn(const struct control *k, int64_t within_ms)
{
	int64_t now = control_now_ms();

	for (size_t i = 0; i < k->workers.n_workers; i++) {
		int64_t beat =
		    (int64_t)counter_get(&k->workers.public[i].heartbeat_ms);

		if (now - beat > within_ms &&
		    now - k->asked_since_ms > within_ms)
			return false;
	}
	return true;
}

static bool
is_address_present(const struct addr *a)
{
	int fd, r;
	struct addr probe = *a;

	if (addr_family(a) == AF_UNIX || addr_is_any(a))
		return true;
	if (addr_family(a) == AF_INET)
		probe.sa.in.sin_port = 0;
	else
		probe.sa.in6.sin6_port = 0;
	fd = socket(addr_family(a), SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd == -1)
		return true;
	r = bind(fd, &probe.sa.any, probe.len);
	(void)close(fd);
	return r == 0;
}

bool
control_service_ready(
    const struct control *k, const struct service *s, const char **why_r)
{
	const struct svid *svid = keeper_svid(k->keeper);

	if (svid == NULL || svid_not_after(svid) < clock_wall_s()) {
		*why_r = "no valid identity";
		return false;
	}
	for (size_t i = 0; i < s->n_listens; i++) {
		if (s->listens[i].systemd == NULL &&
		    !is_address_present(&s->listens[i].addr)) {
			*why_r = "a listen address is not on this host (yet)";
			return false;
		}
	}
	return true;
}

void
control_status_line(struct control *k)
{
	const struct svid *svid = keeper_svid(k->keeper);
	struct text t;

	text_init(&t);
	text_add(&t, "STATUS=%zu services, %llu connections, ",
	    k->conf->n_services, (unsigned long long)control_connections(k));
	if (svid == NULL)
		text_add(&t, "no identity");
	else
		text_add(&t, "SVID %lld min left",
		    (long long)((svid_not_after(svid) - clock_wall_s()) / 60));
	(void)sys_notify(t.data);
	text_fini(&t);
}

/* ---- Mail from workers and look-ups ---- */

static void
take_note(struct control *k, struct mail_note *n)
{
	if (n->mail.kind == NOTE_SWAP_FAILED) {
		log_say(LOG_LEVEL_ERROR, "identity-lost",
		    "worker %u keeps the old SVID: %s", n->worker, n->why.text);
		k->posted_key_type = NULL;
		k->publish_again = true;
	} else if (n->conf_generation == k->conf->generation &&
	           n->service < k->conf->n_services) {
		hosts_ask(k, &k->conf->services[n->service]);
	}
}

/* Workers say again that lines wait only after this: few wake-ups for many. */
static void
on_log_delay(evutil_socket_t fd, short what, void *arg)
{
	const struct timeval soon = {.tv_usec = 1000};
	struct control *k = arg;

	(void)fd;
	(void)what;
	atomic_store_explicit(
	    &k->workers.logs_pending, false, memory_order_release);
	if (log_sink_drain(k->log))
		(void)event_add(k->log_event, &soon);
}

static void
take_mail(struct control *k, struct mail *m)
{
	const struct timeval log_delay = {.tv_usec = LOG_DELAY_MS * 1000};

	switch (m->kind) {
	case MAIL_KILL:
	case MAIL_QUERY:
		admin_answered(k->admin, m);
		return;
	case MAIL_GROUPS: {
		struct mail_groups *g =
		    CONTAINER_OF(m, struct mail_groups, mail);

		/* Out as a question, back as an answer. */
		if (g->facts.known) {
			(void)worker_post(k->workers.workers[g->worker], m);
		} else {
			g->facts.known = true;
			lookups_groups(k->lookups, g);
		}
		return;
	}
	case MAIL_HOST:
		hosts_answer(k, CONTAINER_OF(m, struct mail_host, mail));
		return;
	case NOTE_SWAP_FAILED:
	case NOTE_RESOLVE:
		take_note(k, CONTAINER_OF(m, struct mail_note, mail));
		break;
	case NOTE_LOGS:
		(void)event_add(k->log_event, &log_delay);
		break;
	default:
		break;
	}
	free(m);
}

static void
on_mail(evutil_socket_t fd, short what, void *arg)
{
	struct control *k = arg;
	struct node list;
	struct node *n;

	(void)fd;
	(void)what;
	node_init(&list);
	mail_take(k->mailbox, &list);
	while ((n = list_pop(&list)) != NULL)
		take_mail(k, CONTAINER_OF(n, struct mail, node));
	reload_tick(k);
}

/* ---- Every second ---- */

/*
 * A stopped process, a suspended host or a slow look-up of ours keeps the
 * workers from being asked: their silence counts from when we ask again.
 */
static void
ping_workers(struct control *k)
{
	int64_t now = control_now_ms();

	if (now - k->asked_ms > ASK_GAP_MS)
		k->asked_since_ms = now;
	k->asked_ms = now;
	for (size_t i = 0; i < k->workers.n_workers; i++) {
		struct mail_ping *m = calloc(1, sizeof(*m));

		if (m == NULL)
			return;
		m->mail.kind = MAIL_PING;
		m->posted_ns = clock_boot_ns();
		m->posted_ms = control_now_ms();
		(void)worker_post(k->workers.workers[i], &m->mail);
	}
}

/* A worker that does not turn serves nobody: a restart does. */
static void
watch_workers(struct control *k)
{
	uint64_t watchdog_ms = sys_watchdog_us() / 1000;
	int64_t now = control_now_ms();

	if (!control_workers_turn(k, STUCK_MS)) {
		log_say(LOG_LEVEL_ERROR, "stop",
		    "a worker has not turned for %d s: aborting",
		    STUCK_MS / 1000);
		(void)log_sink_drain(k->log);
		abort();
	}
	if (watchdog_ms != 0 &&
	    now - k->watchdog_last_ms >= (int64_t)watchdog_ms / 3 &&
	    sys_notify("WATCHDOG=1"))
		k->watchdog_last_ms = now;
}

/* The wall clock moved against the boot clock: a step, or a suspend. */
static void
watch_clock(struct control *k)
{
	int64_t offset = clock_wall_ms() - clock_boot_ms();
	int64_t drift = offset - k->wall_offset_ms;

	if (drift > -CLOCK_STEP_MS && drift < CLOCK_STEP_MS)
		return;
	k->wall_offset_ms = offset;
	log_say(LOG_LEVEL_WARN, "clock",
	    "the wall clock stepped by %lld ms; the agent is asked again",
	    (long long)drift);
	if (k->source != NULL) {
		k->reopens++;
		k->source->ops->reopen(k->source);
	}
}

static void
become_ready(struct control *k)
{
	if (k->ready || k->stopping)
		return;
	if (k->conf->global.start_gate_identity &&
	    keeper_svid(k->keeper) == NULL)
		return;
	k->ready = true;
	(void)sys_notify("READY=1");
	audit_config(k, "ready", "serving", LOG_LEVEL_INFO);
	control_status_line(k);
}

void
control_kill_all(struct control *k, enum close_reason reason)
{
	for (size_t i = 0; i < k->workers.n_workers; i++) {
		struct mail_kill *m = calloc(1, sizeof(*m));

		if (m == NULL)
			return;
		m->mail.kind = MAIL_KILL;
		m->reason = reason;
		(void)worker_post(k->workers.workers[i], &m->mail);
	}
}

static void
stop_now(struct control *k)
{
	k->stop_killed = true;
	control_kill_all(k, CLOSE_DRAIN);
}

static void
drain_tick(struct control *k)
{
	uint64_t left = control_connections(k);
	int64_t now = control_now_ms();

	if (left == 0 ||
	    (k->stop_killed && now >= k->stop_deadline_ms + 1000)) {
		(void)event_base_loopbreak(k->base);
		return;
	}
	if (now >= k->stop_deadline_ms && !k->stop_killed) {
		k->stop_aborted = left;
		k->exit_code = EXIT_DEGRADED;
		log_say(LOG_LEVEL_WARN, "drain",
		    "%llu connections had not ended by drain_timeout: "
		    "aborted",
		    (unsigned long long)left);
		stop_now(k);
	}
}

static void
on_second(evutil_socket_t fd, short what, void *arg)
{
	struct control *k = arg;

	(void)fd;
	(void)what;
	ping_workers(k);
	watch_workers(k);
	watch_clock(k);
	keeper_did(k, keeper_tick(k->keeper, clock_wall_s(), control_now_ms()),
	    "time passed");
	hosts_tick(k);
	reload_tick(k);
	pending_tick(k);
	publish_retry(k);
	publish_reap(k);
	admin_tick(k->admin);
	(void)log_sink_drain(k->log);
	become_ready(k);
}

/* ---- Stopping ---- */

static void
on_drain_tick(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	drain_tick(arg);
}

static void
stop(struct control *k, int signal)
{
	const struct timeval tv = {.tv_usec = 20000};

	if (k->stopping) {
		stop_now(k); /* asked twice: no more waiting */
		k->stop_deadline_ms = control_now_ms();
		return;
	}
	k->stopping = true;
	k->stop_deadline_ms =
	    control_now_ms() + k->conf->global.drain_timeout_ms;
	(void)sys_notify("STOPPING=1");
	log_say(LOG_LEVEL_INFO, "drain",
	    "%s: no new connections; %llu may end by themselves",
	    strsignal(signal), (unsigned long long)control_connections(k));
	for (size_t i = 0; i < k->workers.n_workers; i++) {
		struct mail_listen *m = calloc(1, sizeof(*m));

		if (m == NULL)
			continue;
		m->mail.kind = MAIL_LISTEN;
		m->stop = true;
		(void)worker_post(k->workers.workers[i], &m->mail);
	}
	/* The other clock goes on: a drain may be longer than a watchdog. */
	k->drain_event = event_new(k->base, -1, EV_PERSIST, on_drain_tick, k);
	if (k->drain_event == NULL || event_add(k->drain_event, &tv) == -1)
		(void)event_base_loopbreak(k->base);
}

static void
on_signal(evutil_socket_t signal, short what, void *arg)
{
	struct control *k = arg;

	(void)what;
	if (signal == SIGHUP)
		reload_start(k, NULL);
	else
		stop(k, (int)signal);
}

/* ---- Starting ---- */

static enum fault
make_loop(struct control *k, struct why *why)
{
	static const int signals[] = {SIGTERM, SIGINT, SIGHUP};
	const struct timeval second = {.tv_sec = 1};

	k->mailbox = mailbox_new();
	k->base = worker_base_new();
	if (k->mailbox == NULL || k->base == NULL)
		return fail(why, FAULT_NOMEM, "event loop: out of memory");
	k->mail_event = event_new(
	    k->base, mailbox_fd(k->mailbox), EV_READ | EV_PERSIST, on_mail, k);
	k->second_event = event_new(k->base, -1, EV_PERSIST, on_second, k);
	k->log_event = event_new(k->base, -1, 0, on_log_delay, k);
	if (k->mail_event == NULL || k->second_event == NULL ||
	    k->log_event == NULL || event_add(k->mail_event, NULL) == -1 ||
	    event_add(k->second_event, &second) == -1)
		return fail(why, FAULT_NOMEM, "event loop: out of memory");
	for (size_t i = 0; i < ARRAY_LEN(signals); i++) {
		k->signal_events[i] = event_new(
		    k->base, signals[i], EV_SIGNAL | EV_PERSIST, on_signal, k);
		if (k->signal_events[i] == NULL ||
		    event_add(k->signal_events[i], NULL) == -1)
			return fail(why, FAULT_NOMEM, "signals: no memory");
	}
	(void)signal(SIGPIPE, SIG_IGN);
	(void)signal(SIGUSR1, SIG_IGN);
	(void)signal(SIGUSR2, SIG_IGN);
	return FAULT_NONE;
}

static enum fault
make_parts(struct control *k, struct why *why)
{
	const struct conf_global *g = &k->conf->global;
	const struct keeper_conf kc = {
	    .trust_domain = g->trust_domain == NULL
	                        ? span_of(NULL, 0)
	                        : span_of_str(g->trust_domain),
	    .grace_ms = g->redaction_grace_ms,
	};
	enum fault f;

	k->keeper = keeper_new(&kc);
	k->lookups = lookups_new(k->mailbox);
	k->log = log_sink_new(k);
	if (k->keeper == NULL || k->lookups == NULL || k->log == NULL)
		return fail(why, FAULT_NOMEM, "out of memory");
	log_set_level(g->log_level);
	log_sink_configure(k->log, k->conf);
	f = admin_new(k, &k->admin, why);
	if (f == FAULT_NONE)
		f = metrics_http_prepare(k, &g->metrics, why);
	if (f == FAULT_NONE)
		metrics_http_commit(k, &g->metrics);
	return f;
}

/*
 * The order is the point: sockets before rights are dropped, key memory before
 * OpenSSL is touched, the agent only by the process that will hold the
 * identity, since it notes our pid and uid at accept.
 */
static enum fault
start(struct control *k, struct why *why)
{
	enum fault f;

	k->n_inherited = sys_listen_fds(k->inherited);
	f = start_conf(k, &k->exit_code, why);
	if (f == FAULT_NONE)
		f = start_listeners(k, why);
	if (f == FAULT_NONE && start_needs_caller_test(k->conf))
		f = caller_self_test(why);
	if (f == FAULT_NONE)
		f = start_memory(k, why);
	if (f != FAULT_NONE)
		return f;
	sys_protect_memory(k->conf->global.dumpable);
	f = start_rights(k, why);
	if (f != FAULT_NONE) {
		k->exit_code = EXIT_USAGE;
		return f;
	}
	/* A change of uid has set it back. */
	sys_protect_memory(k->conf->global.dumpable);
	f = make_loop(k, why);
	if (f == FAULT_NONE)
		f = start_make_workers(k, why);
	if (f == FAULT_NONE)
		f = make_parts(k, why);
	if (f == FAULT_NONE)
		f = start_publish(k, why);
	if (f == FAULT_NONE)
		f = start_run_workers(k, why);
	if (f == FAULT_NONE)
		f = source_start(k, why);
	return f;
}

/* ---- Ending ---- */

static void
stop_workers(struct control *k)
{
	int64_t until_ms;

	for (size_t i = 0;
	     k->workers.workers != NULL && i < k->workers.n_workers; i++) {
		struct worker *w = k->workers.workers[i];
		struct mail *m = calloc(1, sizeof(*m));

		if (w == NULL || m == NULL) {
			free(m);
			continue;
		}
		m->kind = MAIL_STOP;
		(void)worker_post(w, m);
		worker_join(w);
	}
	until_ms = control_now_ms() + LAST_LINES_MS;
	while (k->log != NULL && control_now_ms() < until_ms &&
	       log_sink_drain(k->log))
		continue;
	for (size_t i = 0;
	     k->workers.workers != NULL && i < k->workers.n_workers; i++)
		worker_free(&k->workers.workers[i]);
}

static void
free_lists(struct control *k)
{
	LIST_EACH_SAFE (it, &k->old_confs) {
		struct old_conf *o = CONTAINER_OF(it, struct old_conf, node);

		node_remove(it);
		conf_free(&o->conf);
		free(o);
	}
	LIST_EACH_SAFE (it, &k->shared) {
		struct shared_entry *e =
		    CONTAINER_OF(it, struct shared_entry, node);

		node_remove(it);
		free(e->name);
		free(e->shared.workers);
		free(e);
	}
	hosts_free(k);
	listeners_free(k);
}

static void
free_mailbox(struct control *k)
{
	struct node list;
	struct node *n;

	node_init(&list);
	mail_take(k->mailbox, &list);
	while ((n = list_pop(&list)) != NULL) {
		struct mail *m = CONTAINER_OF(n, struct mail, node);

		if (m->kind == MAIL_HOST) {
			struct mail_host *h =
			    CONTAINER_OF(m, struct mail_host, mail);

			free(h->name);
			free(h->addrs);
		}
		worker_mail_free(&m);
	}
	mailbox_free(&k->mailbox);
}

static void
end(struct control *k)
{
	bool quiet;

	if (k->source != NULL)
		k->source->ops->stop(&k->source);
	stop_workers(k);
	admin_free(&k->admin);
	metrics_http_free(&k->http);
	quiet = lookups_free(&k->lookups);
	free_lists(k);
	conf_free(&k->conf);
	keeper_free(&k->keeper);
	log_sink_free(&k->log);
	if (k->mail_event != NULL)
		event_free(k->mail_event);
	if (k->second_event != NULL)
		event_free(k->second_event);
	if (k->drain_event != NULL)
		event_free(k->drain_event);
	if (k->log_event != NULL)
		event_free(k->log_event);
	for (size_t i = 0; i < ARRAY_LEN(k->signal_events); i++) {
		if (k->signal_events[i] != NULL)
			event_free(k->signal_events[i]);
	}
	if (k->mailbox != NULL && quiet)
		free_mailbox(k);
	if (k->base != NULL)
		event_base_free(k->base);
	free(k->workers.workers);
	free(k->workers.public);
	free(k->endpoint);
	text_fini(&k->refused);
	free(k->reload);
}

static void
say_start(const struct control *k)
{
	struct fields f;

	fields_init(&f, LOG_LEVEL_INFO, "start");
	fields_addf(&f, FIELD_msg,
	    "postern %s, %zu services, %zu workers, at most %llu connections",
	    POSTERN_VERSION, k->conf->n_services, k->workers.n_workers,
	    (unsigned long long)k->workers.max_connections);
	fields_add(&f, FIELD_version, POSTERN_VERSION);
	fields_add_number(&f, FIELD_generation, k->conf->generation);
	fields_add(&f, FIELD_new, k->conf->hash);
	fields_add_number(&f, FIELD_uid, geteuid());
	log_record(&f);
}

int
control_run(const struct control_args *args)
{
	struct control *k = calloc(1, sizeof(*k));
	struct why why = {{0}};
	int code;

	if (k == NULL)
		return EXIT_FAILED;
	k->args = args;
	k->exit_code = EXIT_FAILED;
	k->started_ms = clock_boot_ms();
	k->asked_ms = k->asked_since_ms = k->started_ms;
	k->wall_offset_ms = clock_wall_ms() - clock_boot_ms();
	node_init(&k->old_confs);
	node_init(&k->listens);
	node_init(&k->shared);
	node_init(&k->hosts);
	text_init(&k->refused);
	if (start(k, &why) != FAULT_NONE) {
		log_set_sink(NULL, NULL);
		log_say(LOG_LEVEL_ERROR, "stop", "%s", why.text);
	} else {
		k->exit_code = EXIT_DONE;
		say_start(k);
		become_ready(k);
		(void)event_base_dispatch(k->base);
		audit_config(k, "stop", "stopped", LOG_LEVEL_INFO);
	}
	code = k->exit_code;
	end(k);
	free(k);
	return code;
}
