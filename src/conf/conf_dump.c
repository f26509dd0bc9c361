#include "conf_int.h"

#include <string.h>

/* What dump writes is read again by the loader, to the same conf. */

_Static_assert(offsetof(struct conf_owner, conf) == 0, "see conf_dump()");

static void
end_line(const struct conf_origin *origin, bool with_origin, struct text *out)
{
	if (with_origin && origin->file != NULL)
		text_add(out, " ; %s:%u", origin->file, origin->line);
	else if (with_origin)
		text_add(out, " ; default");
	text_add(out, "\n");
}

static bool
is_unset_text(const struct key_row *row, const void *base)
{
	switch (row->type) {
	case KEY_ENDPOINT:
	case KEY_TRUST_DOMAIN:
	case KEY_WORDS:
	case KEY_CONTROL:
	case KEY_SNI:
	case KEY_GROUP:
		return *(const char *const *)(const void *)((const char *)base +
		                                            row->offset) ==
		       NULL;
	case KEY_USER:
	case KEY_CHOICE:
	case KEY_DURATION:
	case KEY_DURATION_OFF:
	case KEY_SECONDS_OFF:
	case KEY_COUNT:
	case KEY_COUNT_AUTO:
	case KEY_METRICS:
	case KEY_RULE:
	case KEY_LISTEN:
	case KEY_FORWARD:
	case KEY_TARGET:
	case KEY_POLICY:
	case KEY_CALLER:
	case KEY_OCTAL:
	case KEY_SAMPLE:
		return false;
	}
	return false;
}

/* Every scalar of a section that has a value. */
static void
dump_scalars(enum section_kind kind, const void *base,
    const struct conf_origin *origins, bool with_origin, struct text *out)
{
	for (size_t i = 0; i < KEY_ROWS; i++) {
		const struct key_row *row = key_row(i);

		if ((row->sections & kind) == 0 || row->is_list ||
		    is_unset_text(row, base))
			continue;
		text_add(out, "%s = ", row->key);
		key_format(row, base, out);
		end_line(&origins[i], with_origin, out);
	}
}

static void
dump_rules(const char *key, const struct rule_list *l, bool with_origin,
    struct text *out)
{
	for (size_t i = 0; i < l->n; i++) {
		struct conf_origin o = {l->rules[i]->file, l->rules[i]->line};

		text_add(out, "%s = %s", key, l->rules[i]->text);
		end_line(&o, with_origin, out);
	}
}

static void
dump_addresses(const struct service *s, bool with_origin, struct text *out)
{
	char address[ADDR_TEXT_MAX];

	for (size_t i = 0; i < s->n_listens; i++) {
		const struct conf_listen *l = &s->listens[i];

		if (l->systemd != NULL)
			text_add(out, "listen = systemd:%s", l->systemd);
		else
			text_add(
			    out, "listen = %s", addr_format(&l->addr, address));
		end_line(&l->origin, with_origin, out);
	}
	for (size_t i = 0; i < s->n_targets; i++) {
		const struct conf_target *t = &s->targets[i];

		if (t->host != NULL)
			text_add(out, "connect = %s:%u", t->host, t->port);
		else
			text_add(out, "connect = %s",
			    addr_format(&t->addr, address));
		end_line(&t->origin, with_origin, out);
	}
}

static void
dump_service(
    const struct conf_owner *o, size_t i, bool with_origin, struct text *out)
{
	const struct service *s = &o->conf.services[i];
	const struct service_extra *x = &o->extra[i];
	bool is_inbound = s->direction == INBOUND;

	text_add(
	    out, "\n[%s %s]\n", is_inbound ? "inbound" : "outbound", s->name);
	dump_addresses(s, with_origin, out);
	dump_rules(
	    is_inbound ? "allow" : "expect", &x->allow, with_origin, out);
	dump_rules("deny", &x->deny, with_origin, out);
	for (size_t c = 0; c < s->n_callers; c++) {
		struct conf_origin origin = {
		    s->callers[c].file, s->callers[c].line};

		text_add(out, "caller = %s", s->callers[c].text);
		end_line(&origin, with_origin, out);
	}
	dump_scalars(is_inbound ? SECTION_I : SECTION_O, s, x->origins,
	    with_origin, out);
}

/* CONTAINER_OF() would cast const away; conf comes first. */
static const struct conf_owner *
owner_of(const struct conf *c)
{
	return (const void *)c;
}

void
conf_dump_service(const struct conf *c, size_t index, struct text *out)
{
	dump_service(owner_of(c), index, false, out);
}

void
conf_dump(const struct conf *c, bool with_origin, struct text *out)
{
	const struct conf_owner *o = owner_of(c);
	size_t users =
	    (size_t)(key_find(SECTION_G, span_of_str("workload_api_user")) -
	             key_row(0));

	text_add(out, "[global]\n");
	for (size_t i = 0; i < c->global.n_workload_api_uids; i++) {
		text_add(out, "workload_api_user = %u",
		    (unsigned int)c->global.workload_api_uids[i]);
		end_line(&o->origins[users], with_origin, out);
	}
	dump_scalars(SECTION_G, &c->global, o->origins, with_origin, out);
	for (size_t i = 0; i < c->n_services; i++)
		dump_service(o, i, with_origin, out);
}

static void
dump_section_defaults(
    const char *head, enum section_kind kind, struct text *out)
{
	text_add(out, "%s\n", head);
	for (size_t i = 0; i < KEY_ROWS; i++) {
		const struct key_row *row = key_row(i);

		if ((row->sections & kind) != 0 && row->initial[0] != '\0')
			text_add(out, "%s = %s\n", row->key, row->initial);
	}
}

void
conf_dump_defaults(struct text *out)
{
	dump_section_defaults("[global]", SECTION_G, out);
	dump_section_defaults("\n[inbound NAME]", SECTION_I, out);
	dump_section_defaults("\n[outbound NAME]", SECTION_O, out);
}
