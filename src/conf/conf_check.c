#include "build_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* Descriptors that are no connections' (product: RLIMIT_NOFILE). */
#define FD_RESERVE 32

#define RUN_DIR "/run/postern/"

static bool
seen(const struct section_info *info, const char *key)
{
	size_t row = row_index(info->kind, key);

	return row < KEY_ROWS && info->seen[row];
}

static const struct place *
place_of_key(const struct section_info *info, const char *key)
{
	return &info->at[row_index(info->kind, key)];
}

/* The line of a listen or a connect, for what is found about one of them. */
static struct place
place_of_origin(const struct builder *b, const struct conf_origin *o)
{
	struct rule probe = {.file = o->file, .line = o->line};

	return place_of_rule(b, &probe);
}

/* ---- Required keys ---- */

static void
need_key(struct builder *b, size_t i, const char *key, const char *code,
    const char *hint)
{
	const struct raw_section *s = &b->raw->sections[i];

	if (!seen(&b->info[i], key))
		diag_add(b->d, code, &s->at, hint, "[%.*s %.*s] has no '%s'",
		    (int)s->kind.len, (const char *)s->kind.data,
		    (int)s->name.len, (const char *)s->name.data, key);
}

static bool
has_tcp_listen(const struct service *s)
{
	for (size_t i = 0; i < s->n_listens; i++)
		if (s->listens[i].systemd != NULL ||
		    addr_family(&s->listens[i].addr) != AF_UNIX)
			return true;
	return false;
}

static void
check_required(struct builder *b, size_t i)
{
	const struct section_info *info = &b->info[i];
	const struct service *s = &b->o->conf.services[info->service];

	need_key(b, i, "listen", "C112", "write where to listen");
	if (info->kind == SECTION_I) {
		need_key(b, i, "forward", "C112",
		    "write forward = 127.0.0.1:PORT or unix:PATH");
		if (!seen(info, "policy"))
			need_key(b, i, "allow", "C111",
			    "write allow = spiffe://..., a policy, or allow "
			    "= none");
		return;
	}
	need_key(b, i, "connect", "C112", "write connect = HOST:PORT");
	need_key(b, i, "expect", "C110",
	    "without it any identity would be accepted");
	if (has_tcp_listen(s))
		need_key(b, i, "caller", "C136",
		    "write caller = user NAME, or caller = any");
}

/* ---- Addresses ---- */

static bool
is_offhost(const struct addr *a)
{
	return addr_family(a) != AF_UNSPEC && addr_family(a) != AF_UNIX &&
	       !addr_is_loopback(a);
}

static bool
all_callers_are_any(const struct service *s)
{
	for (size_t i = 0; i < s->n_callers; i++)
		if (s->callers[i].selectors[0].kind != CALLER_ANY)
			return false;
	return true;
}

static void
check_outbound_listens(struct builder *b, const struct service *s)
{
	bool v4 = false;
	bool v6 = false;

	for (size_t i = 0; i < s->n_listens; i++) {
		const struct addr *a = &s->listens[i].addr;
		struct place at;

		v4 |= addr_family(a) == AF_INET;
		v6 |= addr_family(a) == AF_INET6;
		if (!is_offhost(a))
			continue;
		at = place_of_origin(b, &s->listens[i].origin);
		diag_add(b->d, "C116", &at,
		    "listen on 127.0.0.1, [::1] or unix:PATH",
		    "plaintext would be taken from other hosts");
	}
	if (v4 != v6) {
		struct place at = place_of_origin(b, &s->listens[0].origin);

		diag_add(b->d, "C216", &at,
		    v4 ? "add a listen line with [::1]"
		       : "add a listen line with 127.0.0.1",
		    "'%s' listens on one loopback family only", s->name);
	}
}

static void
check_unix_place(struct builder *b, const struct service *s)
{
	for (size_t i = 0; i < s->n_listens; i++) {
		const struct addr *a = &s->listens[i].addr;
		struct place at = place_of_origin(b, &s->listens[i].origin);

		if (addr_family(a) == AF_UNIX &&
		    strncmp(a->sa.un.sun_path, RUN_DIR, strlen(RUN_DIR)) != 0)
			diag_add(b->d, "C217", &at, "move it below " RUN_DIR,
			    "unix listener outside " RUN_DIR);
	}
}

static void
check_inbound_forward(
    struct builder *b, const struct section_info *info, const struct service *s)
{
	if (!seen(info, "forward"))
		return;
	if (is_offhost(&s->forward))
		diag_add(b->d, "C116", place_of_key(info, "forward"),
		    "forward to 127.0.0.1, [::1] or unix:PATH",
		    "plaintext would leave the host");
	else if (addr_family(&s->forward) == AF_UNIX)
		diag_add(b->d, "C214", place_of_key(info, "forward"), NULL,
		    "the app sees Postern's own user in place of each "
		    "caller");
	else if (addr_family(&s->forward) != AF_UNSPEC)
		diag_add(b->d, "C211", place_of_key(info, "forward"), NULL,
		    "the app sees %s as the source of every connection",
		    addr_family(&s->forward) == AF_INET ? "127.0.0.1" : "::1");
}

static void
check_offhost_callers(struct builder *b, const struct service *s)
{
	for (size_t i = 0; i < s->n_listens; i++) {
		struct place at = place_of_origin(b, &s->listens[i].origin);

		if (is_offhost(&s->listens[i].addr) && !all_callers_are_any(s))
			diag_add(b->d, "C137", &at, NULL,
			    "nobody can say who calls from another host");
	}
}

/* ---- Rules ---- */

static bool
is_whole_domain(const struct rule *rule)
{
	const char *path;

	if (rule->kind == RULE_TRUST_DOMAIN)
		return true;
	path = strchr(rule->text + strlen("spiffe://"), '/');
	return rule->kind == RULE_PATTERN && path != NULL &&
	       strcmp(path, "/**") == 0;
}

/* `a..b`, `.a`, `a.`: legal, but Go's certificate parser refuses them. */
static bool
has_empty_label(struct span td)
{
	for (size_t i = 0; i < td.len; i++)
		if (td.data[i] == '.' &&
		    (i == 0 || i + 1 == td.len || td.data[i - 1] == '.'))
			return true;
	return false;
}

static struct span
domain_of(const struct rule *rule)
{
	const char *s = rule->text;

	if (rule->kind == RULE_TRUST_DOMAIN)
		return span_of_str(s + strlen("trust-domain "));
	s += strlen("spiffe://");
	return span_of(s, strcspn(s, "/"));
}

/* Places are looked up only for what is found: rules may be many. */
static void
warn_rule(struct builder *b, const struct rule *rule, const char *code,
    const char *sentence)
{
	struct place at = place_of_rule(b, rule);

	diag_add(b->d, code, &at, NULL, "'%s' %s", rule->text, sentence);
}

static void
check_rule(struct builder *b, const struct rule *rule, bool is_deny)
{
	if (rule->kind == RULE_NONE)
		return;
	if (!is_deny && is_whole_domain(rule))
		warn_rule(b, rule, "C204", "allows a whole trust domain");
	if (has_empty_label(domain_of(rule)))
		warn_rule(b, rule, "C213",
		    "has a trust domain that no peer written in Go can have");
}

static void
check_none_alone(struct builder *b, const struct rule_list *l)
{
	for (size_t i = 0; l->n > 1 && i < l->n; i++)
		if (l->rules[i]->kind == RULE_NONE) {
			struct place at = place_of_rule(b, l->rules[i]);

			diag_add(b->d, "C119", &at,
			    "take it away, or the other rules",
			    "'none' stands beside other rules");
			return;
		}
}

static void
on_finding(void *arg, const struct rule_finding *f)
{
	struct builder *b = arg;
	struct place at = place_of_rule(b, f->rule);

	switch (f->kind) {
	case RULE_DUPLICATE:
		diag_add(b->d, "C207", &at, NULL,
		    "the same rule stands at %s:%u", f->by->file, f->by->line);
		return;
	case RULE_SHADOWED:
		diag_add(b->d, "C206", &at, NULL,
		    "never reached: denied by '%s' at %s:%u", f->by->text,
		    f->by->file, f->by->line);
		return;
	case RULE_COVERED:
		diag_add(b->d, "C206", &at, NULL,
		    "never reached: covered by '%s' at %s:%u", f->by->text,
		    f->by->file, f->by->line);
		return;
	}
}

static void
append_rules(
    struct builder *b, struct rule_list *to, const struct rule_list *from)
{
	for (size_t i = 0; i < from->n; i++)
		if (!rule_list_add(b, to, from->rules[i]))
			return;
}

static const struct section_info *
find_policy(const struct builder *b, struct span name)
{
	for (size_t i = 0; i < b->raw->n_sections; i++)
		if (b->info[i].kind == SECTION_P &&
		    span_equal(b->raw->sections[i].name, name))
			return &b->info[i];
	return NULL;
}

/* The service's own rules, then those of its policies, in their order. */
static void
merge_policies(struct builder *b)
{
	for (size_t i = 0; i < b->raw->n_sections; i++) {
		const struct section_info *info = &b->info[i];
		struct service_extra *x;

		if ((info->kind & SECTION_S) == 0)
			continue;
		x = &b->o->extra[info->service];
		append_rules(b, &x->allow, &info->allow);
		append_rules(b, &x->deny, &info->deny);
	}
	for (size_t i = 0; i < b->n_refs; i++) {
		const struct policy_ref *ref = &b->refs[i];
		const struct section_info *p = find_policy(b, ref->name);
		struct service_extra *x =
		    &b->o->extra[b->info[ref->section].service];
		char shown[64];

		if (p == NULL) {
			diag_add(b->d, "C133", &ref->at, NULL,
			    "no section [policy %s]",
			    text_escape(ref->name, shown, sizeof(shown)));
			continue;
		}
		append_rules(b, &x->allow, &p->allow);
		append_rules(b, &x->deny, &p->deny);
	}
}

/* A policy that only denies does not say who may. */
static void
check_policy_allows(struct builder *b, size_t i, const struct service_extra *x)
{
	const struct section_info *info = &b->info[i];

	if (info->kind == SECTION_I && x->allow.n == 0 &&
	    seen(info, "policy") && !seen(info, "allow") && b->d->errors == 0)
		diag_add(b->d, "C111", &b->raw->sections[i].at, NULL,
		    "neither '%s' nor its policies allow anybody",
		    b->o->conf.services[info->service].name);
}

static void
compile_service(struct builder *b, size_t i)
{
	struct service *s = &b->o->conf.services[b->info[i].service];
	struct service_extra *x = &b->o->extra[b->info[i].service];
	struct why why;
	enum fault f;

	check_policy_allows(b, i, x);
	check_none_alone(b, &x->allow);
	check_none_alone(b, &x->deny);
	f = policy_compile(x->allow.rules, x->allow.n, x->deny.rules, x->deny.n,
	    &x->compiled, &why);
	if (f != FAULT_NONE) {
		b->d->failed = true;
		return;
	}
	s->policy = x->compiled;
	policy_find(x->compiled, on_finding, b);
}

static void
check_section_rules(struct builder *b, const struct section_info *info)
{
	for (size_t i = 0; i < info->allow.n; i++)
		check_rule(b, info->allow.rules[i], false);
	for (size_t i = 0; i < info->deny.n; i++)
		check_rule(b, info->deny.rules[i], true);
	if (info->kind != SECTION_O)
		return;
	for (size_t i = 0; i < info->allow.n; i++)
		if (info->allow.rules[i]->kind == RULE_PATTERN ||
		    info->allow.rules[i]->kind == RULE_TRUST_DOMAIN)
			warn_rule(b, info->allow.rules[i], "C205",
			    "is not one ID: whoever fits could pose as the "
			    "server");
}

/* ---- One service ---- */

static void
check_loose_settings(
    struct builder *b, const struct section_info *info, const struct service *s)
{
	if (s->mode == MODE_AUDIT)
		diag_add(b->d, "C201", place_of_key(info, "mode"), NULL,
		    "'%s' enforces nothing", s->name);
	if (s->tls12)
		diag_add(b->d, "C210", place_of_key(info, "tls_min"), NULL,
		    "'%s' allows TLS 1.2", s->name);
	if (s->end_without_close_notify)
		diag_add(b->d, "C215",
		    place_of_key(info, "missing_close_notify"), NULL,
		    "a truncated stream looks complete");
	for (size_t i = 0; i < s->n_callers; i++) {
		struct conf_origin o = {s->callers[i].file, s->callers[i].line};
		struct place at = place_of_origin(b, &o);

		if (s->callers[i].selectors[0].kind == CALLER_ANY)
			diag_add(b->d, "C202", &at, NULL,
			    "every local user may use '%s'", s->name);
	}
}

static void
check_service(struct builder *b, size_t i)
{
	const struct section_info *info = &b->info[i];
	const struct service *s = &b->o->conf.services[info->service];

	check_required(b, i);
	check_loose_settings(b, info, s);
	check_unix_place(b, s);
	if (info->kind == SECTION_I) {
		check_inbound_forward(b, info, s);
	} else {
		check_outbound_listens(b, s);
		check_offhost_callers(b, s);
	}
}

/* ---- Across services ---- */

/* Would binding both fail, or hide one behind the other? */
static bool
addresses_clash(const struct addr *a, const struct addr *b)
{
	if (addr_equal(a, b))
		return addr_family(a) != AF_UNSPEC;
	if (addr_family(a) != addr_family(b) || addr_port(a) != addr_port(b) ||
	    addr_port(a) == 0)
		return false;
	return addr_is_any(a) || addr_is_any(b);
}

static bool
listens_clash(const struct conf_listen *a, const struct conf_listen *b)
{
	if (a->systemd != NULL || b->systemd != NULL)
		return a->systemd != NULL && b->systemd != NULL &&
		       strcmp(a->systemd, b->systemd) == 0;
	return addresses_clash(&a->addr, &b->addr);
}

/* A listener of S before number END that clashes with L; NULL if none. */
static const struct conf_listen *
clashing_listen(
    const struct service *s, size_t end, const struct conf_listen *l)
{
	for (size_t i = 0; i < end; i++)
		if (listens_clash(&s->listens[i], l))
			return &s->listens[i];
	return NULL;
}

static void
check_one_listen(struct builder *b, const struct service *s, size_t n)
{
	const struct conf *c = &b->o->conf;
	const struct conf_listen *l = &s->listens[n];
	const struct conf_listen *other = NULL;
	size_t i = 0;
	struct place at;

	for (; i <= s->index && other == NULL; i++)
		other = clashing_listen(&c->services[i],
		    i == s->index ? n : c->services[i].n_listens, l);
	if (other != NULL) {
		at = place_of_origin(b, &l->origin);
		diag_add(b->d, "C131", &at, NULL,
		    "already used by '%s' at %s:%u", c->services[i - 1].name,
		    other->origin.file, other->origin.line);
	}
	if (addresses_clash(&l->addr, &c->global.metrics)) {
		at = place_of_origin(b, &l->origin);
		diag_add(b->d, "C131", &at, NULL,
		    "'metrics' has this address already");
	}
}

static void
check_listen_twice(struct builder *b)
{
	const struct conf *c = &b->o->conf;

	for (size_t i = 0; i < c->n_services; i++)
		for (size_t n = 0; n < c->services[i].n_listens; n++)
			check_one_listen(b, &c->services[i], n);
}

static bool
listens_on(const struct service *s, const struct addr *target)
{
	for (size_t i = 0; i < s->n_listens; i++) {
		const struct addr *a = &s->listens[i].addr;

		if (addr_equal(a, target) ||
		    (addr_is_any(a) && addr_is_loopback(target) &&
		        addr_family(a) == addr_family(target) &&
		        addr_port(a) == addr_port(target)))
			return addr_family(a) != AF_UNSPEC;
	}
	return false;
}

static bool
leads_to(const struct service *from, const struct service *to)
{
	if (from->direction == INBOUND)
		return listens_on(to, &from->forward);
	for (size_t i = 0; i < from->n_targets; i++)
		if (from->targets[i].host == NULL &&
		    listens_on(to, &from->targets[i].addr))
			return true;
	return false;
}

/* Is there an edge between S and a service that is still in question? */
static bool
has_edge(const struct conf *c, const bool *out, size_t s, bool forwards)
{
	for (size_t i = 0; i < c->n_services; i++)
		if (!out[i] && leads_to(&c->services[forwards ? s : i],
		                   &c->services[forwards ? i : s]))
			return true;
	return false;
}

/*
 * Take away what leads nowhere and what nothing leads to, until nothing
 * changes: what stays lies on a cycle, or between two.
 */
static void
check_loops(struct builder *b)
{
	const struct conf *c = &b->o->conf;
	AUTO(mem_free) bool *out = calloc(c->n_services + 1, sizeof(*out));
	bool changed = out != NULL;

	while (changed) {
		changed = false;
		for (size_t i = 0; i < c->n_services; i++)
			if (!out[i] && (!has_edge(c, out, i, true) ||
			                   !has_edge(c, out, i, false)))
				out[i] = changed = true;
	}
	for (size_t i = 0; out != NULL && i < c->n_services; i++)
		if (!out[i]) {
			struct place at =
			    place_of_origin(b, &c->services[i].origin);

			at.line = c->services[i].origin.line;
			diag_add(b->d, "C132", &at, NULL,
			    "'%s' leads back to itself", c->services[i].name);
		}
}

/* ---- [global] ---- */

static void
check_tls_profile(struct builder *b, const struct place *profile_at,
    const struct place *list_at)
{
	const struct conf_global *g = &b->o->conf.global;
	bool has_list = g->ciphersuites != NULL || g->groups != NULL;

	if (g->tls_profile_list && !has_list)
		diag_add(b->d, "C115", profile_at,
		    "write ciphersuites or groups",
		    "tls_profile = list without a list");
	if (!g->tls_profile_list && has_list)
		diag_add(b->d, "C115", list_at, "write tls_profile = list",
		    "ciphersuites and groups need tls_profile = list");
}

/* Was KEY written in a [global] section, rightly or wrongly? */
static bool
global_has(const struct builder *b, const char *key)
{
	for (size_t i = 0; i < b->raw->n_sections; i++)
		if (b->info[i].kind == SECTION_G && seen(&b->info[i], key))
			return true;
	return false;
}

static void
check_endpoint(struct builder *b, const struct place *at)
{
	struct conf_global *g = &b->o->conf.global;
	const char *env = getenv("SPIFFE_ENDPOINT_SOCKET");
	enum diag_severity severity =
	    b->args->strict_environment ? DIAG_ERROR : DIAG_NOTE;
	bool is_remote;
	struct why why;

	if (g->workload_api != NULL) {
		(void)endpoint_check(
		    span_of_str(g->workload_api), &is_remote, &why);
		if (is_remote)
			diag_add_as(b->d, DIAG_WARNING, "C117", at, NULL,
			    "the network must authenticate this endpoint");
		return;
	}
	if (global_has(b, "workload_api"))
		return; /* written, and its mistake is said already */
	if (env == NULL || env[0] == '\0')
		diag_add_as(b->d, severity, "C117", at,
		    "write workload_api = unix:///abs/path",
		    "neither workload_api nor SPIFFE_ENDPOINT_SOCKET is "
		    "set");
	else if (endpoint_check(span_of_str(env), &is_remote, &why) !=
	         FAULT_NONE)
		diag_add_as(b->d, severity, "C117", at, NULL,
		    "SPIFFE_ENDPOINT_SOCKET: %s", why.text);
}

static void
check_descriptors(struct builder *b, const struct place *at)
{
	uint64_t wanted =
	    2 * (uint64_t)b->o->conf.global.max_connections + FD_RESERVE;
	struct rlimit limit;

	/* The hard limit: what the process may raise itself to. */
	if (b->o->conf.global.max_connections == 0 ||
	    getrlimit(RLIMIT_NOFILE, &limit) != 0 || wanted <= limit.rlim_max)
		return;
	diag_add_as(b->d, b->args->strict_environment ? DIAG_ERROR : DIAG_NOTE,
	    "C135", at, "raise LimitNOFILE= or lower max_connections",
	    "%u connections need %llu descriptors, the limit is %llu",
	    b->o->conf.global.max_connections, (unsigned long long)wanted,
	    (unsigned long long)limit.rlim_max);
}

/* The last place of a [global] key, over all files. */
static struct place
global_place(const struct builder *b, const char *key)
{
	size_t row = row_index(SECTION_G, key);
	struct place at = {
	    .file = b->raw->n_files > 0 ? b->raw->files[0].path : NULL};

	for (size_t i = 0; i < b->raw->n_sections; i++)
		if (b->info[i].kind == SECTION_G && b->info[i].seen[row])
			at = b->info[i].at[row];
	return at;
}

static void
check_global(struct builder *b)
{
	const struct conf_global *g = &b->o->conf.global;
	struct place profile = global_place(b, "tls_profile");
	struct place list = global_place(
	    b, g->ciphersuites != NULL ? "ciphersuites" : "groups");
	struct place endpoint = global_place(b, "workload_api");
	struct place connections = global_place(b, "max_connections");
	struct place domain = global_place(b, "trust_domain");

	check_tls_profile(b, &profile, &list);
	check_endpoint(b, &endpoint);
	check_descriptors(b, &connections);
	if (g->trust_domain != NULL &&
	    has_empty_label(span_of_str(g->trust_domain)))
		diag_add(b->d, "C213", &domain, NULL,
		    "no peer written in Go can have this trust domain");
}

/* With the default files only: others are not what the unit starts with. */
static void
check_conf_d(struct builder *b)
{
	struct place at = {
	    .file = b->raw->n_files > 0 ? b->raw->files[0].path : NULL};

	if (b->args->n_files == 0 && b->raw->n_files == 1 &&
	    b->o->conf.n_services > 0)
		diag_add(b->d, "C212", &at, "move the services to conf.d/",
		    "services stand only in postern.ini: the unit would not "
		    "start");
}

void
check_all(struct builder *b)
{
	merge_policies(b);
	for (size_t i = 0; i < b->raw->n_sections; i++) {
		if (b->info[i].kind == 0)
			continue;
		check_section_rules(b, &b->info[i]);
		if ((b->info[i].kind & SECTION_S) == 0)
			continue;
		check_service(b, i);
		compile_service(b, i);
	}
	check_listen_twice(b);
	check_loops(b);
	check_global(b);
	check_conf_d(b);
}
