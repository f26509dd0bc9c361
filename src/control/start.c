#include "control_int.h"

#include <malloc.h>
#include <pwd.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"
#include "spiffe.h"

#define ARENA_BYTES  ((size_t)1 << 20)
#define ARENA_THREAD ((size_t)2048)

enum fault
start_rights(const struct control *k, struct why *why)
{
	const char *name = k->args->user != NULL ? k->args->user : "postern";
	struct passwd *pw;
	char *end;
	unsigned long uid;

	if (geteuid() != 0) {
		sys_no_new_privs();
		return FAULT_NONE;
	}
	pw = getpwnam(name);
	if (pw != NULL)
		return sys_drop_to(pw->pw_name, pw->pw_uid, pw->pw_gid, why);
	uid = strtoul(name, &end, 10);
	if (*name == '\0' || *end != '\0' || uid == 0 || uid > UINT32_MAX - 1)
		return fail(why, FAULT_CONF,
		    "started as root, and there is no user '%s' to become: "
		    "name one with --user",
		    name);
	return sys_drop_to(NULL, (uid_t)uid, (gid_t)uid, why);
}

enum fault
start_memory(const struct control *k, struct why *why)
{
	size_t need = ARENA_BYTES + ARENA_THREAD * (k->workers.n_workers + 1);
	size_t size = ARENA_BYTES;
	bool locked;
	enum fault f;

	while (size < need)
		size *= 2;
	f = key_memory_init(size, &locked, why);
	if (f != FAULT_NONE)
		return f;
	if (!locked)
		log_say(LOG_LEVEL_WARN, "start",
		    "the key memory could not be locked: raise "
		    "RLIMIT_MEMLOCK");
	/* Freed read buffers at the top of the heap are needed again soon. */
	(void)mallopt(M_TRIM_THRESHOLD, 8 << 20);
	(void)mallopt(M_TOP_PAD, 1 << 20);
	return FAULT_NONE;
}

bool
start_needs_caller_test(const struct conf *c)
{
	for (size_t i = 0; i < c->n_services; i++) {
		const struct service *s = &c->services[i];

		for (size_t j = 0; s->n_callers != 0 && j < s->n_listens; j++) {
			if (addr_family(&s->listens[j].addr) != AF_UNIX)
				return true;
		}
	}
	return false;
}

static size_t
spill_bytes(size_t n_workers)
{
	long pages = sysconf(_SC_AVPHYS_PAGES);
	long size = sysconf(_SC_PAGESIZE);
	size_t bytes = pages > 0 && size > 0 ? (size_t)pages * (size_t)size
	                                     : (size_t)256 << 20;

	return bytes / 4 / n_workers;
}

enum fault
start_conf(struct control *k, int *exit_code, struct why *why)
{
	struct conf_load_args args;
	struct diags d;
	struct text text;
	enum fault f;

	conf_args(k, &args);
	diags_init(&d);
	text_init(&text);
	f = conf_load(&args, &k->conf, &d);
	diags_print(&d, &text);
	if (text.len != 0)
		(void)fputs(text.data, stderr);
	if (f != FAULT_NONE) {
		*exit_code = EXIT_CONFIG;
		f = fail(why, f, "the configuration has %zu errors", d.errors);
	}
	text_fini(&text);
	diags_fini(&d);
	return f;
}

enum fault
start_listeners(struct control *k, struct why *why)
{
	const struct conf_global *g = &k->conf->global;
	unsigned int n = g->threads == 0 ? sys_cpus() : g->threads;
	uint64_t can;
	enum fault f;

	k->workers.n_workers = n > WORKERS_MAX ? WORKERS_MAX : n;
	k->workers.descriptors_max = sys_descriptor_limit();
	can = (k->workers.descriptors_max - 32) / 2;
	if (g->max_connections > can)
		return fail(why, FAULT_CONF,
		    "max_connections = %u, but RLIMIT_NOFILE carries %llu",
		    g->max_connections, (unsigned long long)can);
	k->workers.max_connections =
	    g->max_connections != 0 ? g->max_connections : can;
	k->workers.log_level = (int)g->log_level;
	k->workers.spill_max_bytes = spill_bytes(k->workers.n_workers);
	if (!shared_attach(k, k->conf))
		return fail(why, FAULT_NOMEM, "out of memory");
	f = listeners_prepare(k, k->conf, why);
	if (f == FAULT_NONE)
		f = listeners_listen(k, k->conf, why);
	return f;
}

enum fault
start_make_workers(struct control *k, struct why *why)
{
	struct worker_shared *s = &k->workers;
	size_t n = s->n_workers;

	s->control = k->mailbox;
	s->workers = calloc(n, sizeof(struct worker *));
	s->public = aligned_alloc(64, n * sizeof(*s->public));
	if (s->workers == NULL || s->public == NULL)
		return fail(why, FAULT_NOMEM, "workers: out of memory");
	memset(s->public, 0, n * sizeof(*s->public));
	for (size_t i = 0; i < n; i++) {
		s->workers[i] = worker_new(s, (unsigned int)i);
		if (s->workers[i] == NULL)
			return fail(why, FAULT_NOMEM,
			    "worker %zu: out of memory or descriptors", i);
	}
	return FAULT_NONE;
}

/* Signals are for the control thread alone: workers inherit the mask. */
enum fault
start_run_workers(struct control *k, struct why *why)
{
	sigset_t all, old;
	enum fault f = FAULT_NONE;

	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_BLOCK, &all, &old);
	for (size_t i = 0; f == FAULT_NONE && i < k->workers.n_workers; i++)
		f = worker_start(k->workers.workers[i], why);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	return f;
}

enum fault
start_publish(struct control *k, struct why *why)
{
	k->conf->generation = ++k->conf_generations;
	k->conf_loaded_s = k->last_reload_s = clock_wall_s();
	k->last_reload_ok = true;
	hosts_use(k, k->conf);
	if (!publish_conf(k, k->conf))
		return fail(why, FAULT_NOMEM, "out of memory");
	listeners_commit(k);
	return publish_material(k, why);
}
