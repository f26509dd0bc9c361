#include "build_int.h"

#include <ctype.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHOWN_MAX 256

/* ---- Small helpers ---- */

const char *
own_string(struct builder *b, struct span s)
{
	char *copy = span_dup(s);

	if (copy == NULL || !array_grow(&b->o->strings, b->o->n_strings,
	                        sizeof(*b->o->strings))) {
		free(copy);
		b->d->failed = true;
		return NULL;
	}
	b->o->strings[b->o->n_strings++] = copy;
	return copy;
}

struct conf_origin
own_origin(struct builder *b, const struct place *at)
{
	for (size_t i = 0; i < b->raw->n_files; i++)
		if (b->raw->files[i].path == at->file)
			return (struct conf_origin){b->files[i], at->line};
	return (struct conf_origin){NULL, 0};
}

bool
rule_list_add(struct builder *b, struct rule_list *l, const struct rule *rule)
{
	if (!array_grow(&l->rules, l->n, sizeof(*l->rules))) {
		b->d->failed = true;
		return false;
	}
	l->rules[l->n++] = rule;
	return true;
}

size_t
row_index(enum section_kind section, const char *key)
{
	const struct key_row *row = key_find(section, span_of_str(key));

	return row == NULL ? KEY_ROWS : (size_t)(row - key_row(0));
}

struct place
place_of_rule(const struct builder *b, const struct rule *rule)
{
	for (size_t i = 0; i < b->raw->n_entries; i++) {
		const struct place *at = &b->raw->entries[i].value_at;

		if (at->line == rule->line && strcmp(at->file, rule->file) == 0)
			return *at;
	}
	return (struct place){.file = rule->file, .line = rule->line};
}

bool
user_id(const char *name, uid_t *uid_r)
{
	char room[16384];
	struct passwd entry;
	struct passwd *found = NULL;

	if (getpwnam_r(name, &entry, room, sizeof(room), &found) != 0 ||
	    found == NULL)
		return false;
	*uid_r = found->pw_uid;
	return true;
}

bool
group_id(const char *name, gid_t *gid_r)
{
	/* A group with thousands of members needs this much. */
	size_t size = 1u << 20;
	AUTO(mem_free) char *room = malloc(size);
	struct group entry;
	struct group *found = NULL;

	if (room == NULL || getgrnam_r(name, &entry, room, size, &found) != 0 ||
	    found == NULL)
		return false;
	*gid_r = found->gr_gid;
	return true;
}

/* ---- Sections ---- */

static enum section_kind
kind_of(struct span kind)
{
	if (span_equal_str(kind, "global"))
		return SECTION_G;
	if (span_equal_str(kind, "policy"))
		return SECTION_P;
	if (span_equal_str(kind, "inbound"))
		return SECTION_I;
	if (span_equal_str(kind, "outbound"))
		return SECTION_O;
	return 0;
}

static bool
is_good_name(struct span name)
{
	for (size_t i = 0; i < name.len; i++)
		if (!islower(name.data[i]) && !isdigit(name.data[i]) &&
		    name.data[i] != '-')
			return false;
	return name.len > 0 && name.len <= CONF_NAME_MAX;
}

static enum section_kind
check_section_head(struct builder *b, const struct raw_section *s)
{
	static const char *const kinds[] = {
	    "global", "policy", "inbound", "outbound", NULL};
	enum section_kind kind = kind_of(s->kind);
	const char *near = conf_suggest(s->kind, kinds);
	char shown[SHOWN_MAX];
	char hint[64];

	if (kind == 0) {
		snprintf(hint, sizeof(hint), "did you mean '%s'?",
		    near == NULL ? "" : near);
		diag_add(b->d, "C103", &s->at, near == NULL ? NULL : hint,
		    "unknown section [%s]",
		    text_escape(s->kind, shown, sizeof(shown)));
		return 0;
	}
	if (kind == SECTION_G ? s->name.len == 0 : is_good_name(s->name))
		return kind;
	diag_add(b->d, "C103", &s->at,
	    kind == SECTION_G ? "write [global]" : "1 to 32 of a-z, 0-9, '-'",
	    kind == SECTION_G ? "[global] has no name"
	                      : "bad name of a section");
	return 0;
}

/* Two names that must not be one: services, policies, [global] of a file. */
static bool
collide(const struct builder *b, size_t i, size_t j)
{
	const struct raw_section *s = &b->raw->sections[i];
	const struct raw_section *t = &b->raw->sections[j];
	enum section_kind k = b->info[i].kind;
	enum section_kind l = b->info[j].kind;

	if (k == SECTION_G || l == SECTION_G)
		return k == l && s->at.file == t->at.file;
	return (k == SECTION_P) == (l == SECTION_P) &&
	       span_equal(s->name, t->name);
}

static void
check_section_twice(struct builder *b, size_t i)
{
	const struct raw_section *s = &b->raw->sections[i];

	for (size_t j = 0; j < i; j++) {
		const struct place *at = &b->raw->sections[j].at;

		if (b->info[j].kind == 0 || !collide(b, i, j))
			continue;
		diag_add(b->d, "C109", &s->at, NULL,
		    "[%.*s%s%.*s] stands already at %s:%u", (int)s->kind.len,
		    (const char *)s->kind.data, s->name.len > 0 ? " " : "",
		    (int)s->name.len, (const char *)s->name.data, at->file,
		    at->line);
		b->info[i].kind = 0;
		return;
	}
}

static void
apply_defaults(enum section_kind kind, void *base)
{
	for (size_t i = 0; i < KEY_ROWS; i++) {
		const struct key_row *row = key_row(i);

		if ((row->sections & kind) != 0 && row->initial[0] != '\0' &&
		    row->type != KEY_SNI && !row->is_list &&
		    !key_parse(row, span_of_str(row->initial), base, NULL))
			abort(); /* the table is wrong */
	}
}

static void
start_service(struct builder *b, size_t i)
{
	const struct raw_section *s = &b->raw->sections[i];
	struct conf *c = &b->o->conf;
	struct service *service = &c->services[c->n_services];

	service->name = own_string(b, s->name);
	service->direction = b->info[i].kind == SECTION_I ? INBOUND : OUTBOUND;
	service->index = (unsigned int)c->n_services;
	service->origin = own_origin(b, &s->at);
	apply_defaults(b->info[i].kind, service);
	b->info[i].service = c->n_services++;
}

static void
start_sections(struct builder *b)
{
	for (size_t i = 0; i < b->raw->n_sections; i++) {
		b->info[i].kind = check_section_head(b, &b->raw->sections[i]);
		if (b->info[i].kind != 0)
			check_section_twice(b, i);
		if ((b->info[i].kind & SECTION_S) != 0)
			start_service(b, i);
	}
}

/* ---- Keys that are not known ---- */

static const char *
section_name(enum section_kind k)
{
	switch (k) {
	case SECTION_G:
		return "[global]";
	case SECTION_P:
		return "[policy]";
	case SECTION_I:
		return "[inbound]";
	case SECTION_O:
		return "[outbound]";
	case SECTION_S:
		return "[inbound] or [outbound]";
	}
	return "";
}

static void
complain_unknown_key(
    struct builder *b, enum section_kind kind, const struct raw_entry *e)
{
	static const enum section_kind all[] = {
	    SECTION_G, SECTION_P, SECTION_I, SECTION_O};
	const char *legal[KEY_ROWS + 1];
	size_t n = 0;
	char shown[SHOWN_MAX];
	char hint[96] = "";
	const char *near;

	for (size_t i = 0; i < KEY_ROWS; i++)
		if ((key_row(i)->sections & kind) != 0)
			legal[n++] = key_row(i)->key;
	legal[n] = NULL;
	near = conf_suggest(e->key, legal);
	if (near != NULL)
		snprintf(hint, sizeof(hint), "did you mean '%s'?", near);
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		if (key_find(all[i], e->key) != NULL) {
			snprintf(hint, sizeof(hint), "belongs in %s",
			    section_name(all[i]));
			break;
		}
	diag_add(b->d, "C104", &e->key_at, hint[0] == '\0' ? NULL : hint,
	    "unknown key '%s' in %s", text_escape(e->key, shown, sizeof(shown)),
	    section_name(kind));
}

/* ---- Callers ---- */

static void
resolve_selector(
    struct builder *b, const struct place *at, struct caller_selector *sel)
{
	uid_t uid;
	gid_t gid;

	if (!sel->pending)
		return;
	if (sel->kind == CALLER_UID && user_id(sel->name, &uid)) {
		sel->first = sel->last = uid;
		sel->pending = false;
		return;
	}
	if (sel->kind == CALLER_GID && group_id(sel->name, &gid)) {
		sel->first = sel->last = gid;
		sel->pending = false;
		return;
	}
	b->o->conf.pending = true;
	diag_add_as(b->d, b->args->names_may_pend ? DIAG_WARNING : DIAG_ERROR,
	    "C134", at, NULL, "%s '%s' is unknown%s",
	    sel->kind == CALLER_UID ? "user" : "group", sel->name,
	    b->args->names_may_pend ? "; denied until it resolves" : "");
}

static void
add_caller(struct builder *b, struct service *s, const struct raw_entry *e)
{
	struct caller_rule rule;
	struct caller_rule *grown;
	struct why why;

	if (caller_rule_parse(e->value, &rule, &why) != FAULT_NONE) {
		diag_add(b->d, "C113", &e->value_at, NULL, "%s", why.text);
		return;
	}
	for (size_t i = 0; i < rule.n_selectors; i++)
		resolve_selector(b, &e->value_at, &rule.selectors[i]);
	rule.file = own_origin(b, &e->value_at).file;
	rule.line = e->value_at.line;
	/* Const to all but their owner. */
	memcpy(&grown, &s->callers, sizeof(grown));
	if (!array_grow(&grown, s->n_callers, sizeof(*grown))) {
		caller_rule_fini(&rule);
		b->d->failed = true;
		return;
	}
	grown[s->n_callers++] = rule;
	s->callers = grown;
}

/* ---- Addresses ---- */

static bool
is_systemd_name(struct span s)
{
	for (size_t i = 0; i < s.len; i++)
		if (!isalnum(s.data[i]) &&
		    (s.data[i] == '\0' || strchr("._-", s.data[i]) == NULL))
			return false;
	return s.len > 0 && s.len <= 255;
}

static void
add_listen(struct builder *b, struct service *s, const struct raw_entry *e)
{
	struct conf_listen l = {.origin = own_origin(b, &e->value_at)};
	struct span name = e->value;
	struct span prefix;
	struct why why;

	if (span_take(&name, 8, &prefix) &&
	    span_equal_str(prefix, "systemd:")) {
		if (!is_systemd_name(name)) {
			diag_add(b->d, "C114", &e->value_at, NULL,
			    "systemd: needs the name of a descriptor");
			return;
		}
		l.systemd = own_string(b, name);
	} else if (addr_parse(e->value, &l.addr, &why) != FAULT_NONE) {
		diag_add(b->d, "C114", &e->value_at, NULL, "%s", why.text);
		return;
	}
	if (!array_grow(&s->listens, s->n_listens, sizeof(l))) {
		b->d->failed = true;
		return;
	}
	s->listens[s->n_listens++] = l;
}

static bool
parse_port(struct span s, uint16_t *port_r)
{
	unsigned int n = 0;

	for (size_t i = 0; i < s.len; i++) {
		if (!isdigit(s.data[i]) || n > 65535)
			return false;
		n = n * 10 + (unsigned int)(s.data[i] - '0');
	}
	*port_r = (uint16_t)n;
	return s.len > 0 && n > 0 && n <= 65535;
}

/* A name, since no address has a letter g-z, '-' or '_' in it. */
static bool
parse_host(struct span value, struct span *host_r, uint16_t *port_r)
{
	const uint8_t *colon = memrchr(value.data, ':', value.len);
	struct span host;
	bool has_letter = false;

	if (colon == NULL)
		return false;
	host = span_of(value.data, (size_t)(colon - value.data));
	for (size_t i = 0; i < host.len; i++) {
		if (!isalnum(host.data[i]) && host.data[i] != '-' &&
		    host.data[i] != '.' && host.data[i] != '_')
			return false;
		has_letter |= isalpha(host.data[i]) != 0;
	}
	*host_r = host;
	return has_letter && host.len <= 253 &&
	       parse_port(span_of(colon + 1, value.len - host.len - 1), port_r);
}

static void
add_target(struct builder *b, struct service *s, const struct raw_entry *e)
{
	struct conf_target t = {.origin = own_origin(b, &e->value_at)};
	struct span host;
	struct why why = {{0}};

	if (parse_host(e->value, &host, &t.port)) {
		t.host = own_string(b, host);
	} else if (addr_parse(e->value, &t.addr, &why) != FAULT_NONE ||
	           addr_family(&t.addr) == AF_UNIX) {
		diag_add(b->d, "C114", &e->value_at,
		    "write host:port or IP:port", "%s",
		    why.text[0] == '\0' ? "not a target" : why.text);
		return;
	} else {
		t.port = addr_port(&t.addr);
	}
	if (!array_grow(&s->targets, s->n_targets, sizeof(t))) {
		b->d->failed = true;
		return;
	}
	s->targets[s->n_targets++] = t;
}

/* ---- Users, groups, texts ---- */

/* A number, as dump writes it; (uid_t)-1 is nobody's. */
static bool
parse_uid(struct span s, uid_t *uid_r)
{
	uint64_t n = 0;

	for (size_t i = 0; i < s.len; i++) {
		if (!isdigit(s.data[i]) || n >= UINT32_MAX)
			return false;
		n = n * 10 + (uint64_t)(s.data[i] - '0');
	}
	*uid_r = (uid_t)n;
	return s.len > 0 && n < UINT32_MAX;
}

static void
add_agent_user(struct builder *b, const struct raw_entry *e)
{
	struct conf_global *g = &b->o->conf.global;
	AUTO(mem_free) char *name = span_dup(e->value);
	uid_t uid;
	char shown[SHOWN_MAX];

	if (name == NULL || !array_grow(&g->workload_api_uids,
	                        g->n_workload_api_uids, sizeof(uid))) {
		b->d->failed = true;
		return;
	}
	if (user_id(name, &uid) || parse_uid(e->value, &uid)) {
		g->workload_api_uids[g->n_workload_api_uids++] = uid;
		return;
	}
	b->o->conf.pending = true;
	diag_add_as(b->d, b->args->names_may_pend ? DIAG_WARNING : DIAG_ERROR,
	    "C134", &e->value_at, NULL, "user '%s' is unknown",
	    text_escape(e->value, shown, sizeof(shown)));
}

static void
set_listen_group(
    struct builder *b, struct service *s, const struct raw_entry *e)
{
	const char *name = own_string(b, e->value);
	char shown[SHOWN_MAX];

	if (name == NULL)
		return;
	if (!group_id(name, &s->listen_gid)) {
		diag_add(b->d, "C134", &e->value_at, NULL,
		    "group '%s' is unknown",
		    text_escape(e->value, shown, sizeof(shown)));
		return;
	}
	s->listen_group = name;
}

static void
add_policy_ref(struct builder *b, const struct raw_entry *e)
{
	if (!array_grow(&b->refs, b->n_refs, sizeof(*b->refs))) {
		b->d->failed = true;
		return;
	}
	b->refs[b->n_refs++] =
	    (struct policy_ref){e->section, e->value, e->value_at};
}

static const char *
value_error_code(const struct key_row *row, struct span value)
{
	switch (row->type) {
	case KEY_METRICS:
		return "C118";
	case KEY_FORWARD:
	case KEY_CONTROL:
		return "C114";
	case KEY_ENDPOINT:
		return "C117";
	case KEY_TRUST_DOMAIN:
		return rule_error_code(
		    RULE_ID, spiffe_trust_domain_check(value));
	case KEY_USER:
	case KEY_CHOICE:
	case KEY_DURATION:
	case KEY_DURATION_OFF:
	case KEY_SECONDS_OFF:
	case KEY_COUNT:
	case KEY_COUNT_AUTO:
	case KEY_WORDS:
	case KEY_RULE:
	case KEY_LISTEN:
	case KEY_TARGET:
	case KEY_POLICY:
	case KEY_CALLER:
	case KEY_OCTAL:
	case KEY_GROUP:
	case KEY_SAMPLE:
	case KEY_SNI:
		return "C113";
	}
	return "C113";
}

static bool
is_text(enum key_type type)
{
	return type == KEY_ENDPOINT || type == KEY_TRUST_DOMAIN ||
	       type == KEY_WORDS || type == KEY_CONTROL || type == KEY_SNI;
}

static void
set_scalar(struct builder *b, void *base, const struct raw_entry *e,
    const struct key_row *row)
{
	struct span value = e->value;
	struct span scheme;
	struct why why;

	if (!key_parse(row, value, base, &why)) {
		diag_add(b->d, value_error_code(row, value), &e->value_at, NULL,
		    "%s: %s", row->key, why.text);
		return;
	}
	if (!is_text(row->type))
		return;
	if (row->type == KEY_SNI && span_equal_str(value, "off")) {
		*key_text(row, base) = NULL;
		return;
	}
	if (row->type == KEY_CONTROL)
		(void)span_take(&value, strlen("unix:"), &scheme);
	*key_text(row, base) = own_string(b, value);
}

/* ---- Entries ---- */

static bool
is_seen_twice(struct builder *b, struct section_info *info,
    const struct raw_entry *e, const struct key_row *row)
{
	size_t i = (size_t)(row - key_row(0));

	if (info->seen[i] && !row->is_list) {
		diag_add(b->d, "C108", &e->key_at, NULL,
		    "'%s' stands already in line %u", row->key,
		    info->at[i].line);
		return true;
	}
	info->seen[i] = true;
	info->at[i] = e->value_at;
	return false;
}

static void
apply(struct builder *b, struct section_info *info, const struct raw_entry *e,
    const struct key_row *row)
{
	struct service *s = &b->o->conf.services[info->service];
	size_t i = (size_t)(row - key_row(0));

	if (info->kind == SECTION_G)
		b->o->origins[i] = own_origin(b, &e->value_at);
	else if (info->kind != SECTION_P)
		b->o->extra[info->service].origins[i] =
		    own_origin(b, &e->value_at);
	if (row->type == KEY_RULE)
		add_rule(b, info, e, row);
	else if (row->type == KEY_CALLER)
		add_caller(b, s, e);
	else if (row->type == KEY_LISTEN)
		add_listen(b, s, e);
	else if (row->type == KEY_TARGET)
		add_target(b, s, e);
	else if (row->type == KEY_USER)
		add_agent_user(b, e);
	else if (row->type == KEY_GROUP)
		set_listen_group(b, s, e);
	else if (row->type == KEY_POLICY)
		add_policy_ref(b, e);
	else
		set_scalar(b,
		    info->kind == SECTION_G ? (void *)&b->o->conf.global
		                            : (void *)s,
		    e, row);
}

static void
read_entries(struct builder *b)
{
	for (size_t i = 0; i < b->raw->n_entries; i++) {
		const struct raw_entry *e = &b->raw->entries[i];
		struct section_info *info = &b->info[e->section];
		const struct key_row *row;

		if (info->kind == 0)
			continue;
		row = key_find(info->kind, e->key);
		if (row == NULL)
			complain_unknown_key(b, info->kind, e);
		else if (!is_seen_twice(b, info, e, row))
			apply(b, info, e, row);
	}
}

/* ---- Whole ---- */

static bool
start(struct builder *b)
{
	size_t n = b->raw->n_sections + 1;

	b->o = calloc(1, sizeof(*b->o));
	b->info = calloc(n, sizeof(*b->info));
	b->files = calloc(b->raw->n_files + 1, sizeof(*b->files));
	if (b->o != NULL) {
		b->o->conf.services = calloc(n, sizeof(*b->o->conf.services));
		b->o->extra = calloc(n, sizeof(*b->o->extra));
	}
	if (b->o == NULL || b->info == NULL || b->files == NULL ||
	    b->o->conf.services == NULL || b->o->extra == NULL) {
		b->d->failed = true;
		return false;
	}
	for (size_t i = 0; i < b->raw->n_files; i++)
		b->files[i] = own_string(b, span_of_str(b->raw->files[i].path));
	return !b->d->failed;
}

static void
finish(struct builder *b)
{
	for (size_t i = 0; b->info != NULL && i < b->raw->n_sections; i++) {
		free(b->info[i].allow.rules);
		free(b->info[i].deny.rules);
	}
	free(b->info);
	free(b->files);
	free(b->refs);
}

static size_t
file_rank(const struct raw *raw, const struct diag *d)
{
	size_t i = 0;

	while (i < raw->n_files && strcmp(raw->files[i].path, d->file) != 0)
		i++;
	return i;
}

/* In file order; what has no line comes last of its file. */
static bool
comes_before(const struct raw *raw, const struct diag *a, const struct diag *b)
{
	size_t rank_a = file_rank(raw, a);
	size_t rank_b = file_rank(raw, b);

	if (rank_a != rank_b)
		return rank_a < rank_b;
	if (a->line != b->line)
		return a->line - 1u < b->line - 1u;
	return a->column < b->column;
}

/* Insertion keeps equals in their order, and most come sorted already. */
static void
sort_diags(const struct raw *raw, struct diags *d)
{
	for (size_t i = 1; i < d->n; i++) {
		struct diag one = d->list[i];
		size_t j = i;

		for (; j > 0 && comes_before(raw, &one, &d->list[j - 1]); j--)
			d->list[j] = d->list[j - 1];
		d->list[j] = one;
	}
}

/* FNV-1a of the effective values, as dump writes them. */
static void
set_hash(struct conf *c, struct diags *d)
{
	AUTO(text_fini) struct text t;
	uint64_t h = 0xcbf29ce484222325;

	text_init(&t);
	conf_dump(c, false, &t);
	d->failed |= t.failed;
	for (size_t i = 0; i < t.len; i++)
		h = (h ^ (uint8_t)t.data[i]) * 0x100000001b3;
	snprintf(c->hash, sizeof(c->hash), "%016llx", (unsigned long long)h);
}

enum fault
conf_build(struct raw *raw, const struct conf_load_args *args,
    struct conf **conf_r, struct diags *d)
{
	struct builder b = {.raw = raw, .args = args, .d = d};
	struct conf *c = NULL;

	if (start(&b)) {
		apply_defaults(SECTION_G, &b.o->conf.global);
		start_sections(&b);
		read_entries(&b);
		check_all(&b);
	}
	if (b.o != NULL)
		c = &b.o->conf;
	if (c != NULL && d->errors == 0 && !d->failed)
		set_hash(c, d);
	finish(&b);
	sort_diags(raw, d);
	if (d->errors == 0 && !d->failed) {
		*conf_r = c;
		return FAULT_NONE;
	}
	if (c != NULL)
		conf_free(&c);
	return d->failed ? FAULT_NOMEM : FAULT_CONF;
}
