#include "build_int.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHOWN_MAX 256

const char *
rule_error_code(enum rule_error e, enum spiffe_id_error id_error)
{
	if (e == RULE_NO_PATH)
		return "C120";
	if (e != RULE_ID)
		return "C123";
	switch (id_error) {
	case SPIFFE_ID_SCHEME_CASE:
	case SPIFFE_ID_TD_CASE:
		return "C121";
	case SPIFFE_ID_TRAILING_SLASH:
	case SPIFFE_ID_EMPTY_SEGMENT:
	case SPIFFE_ID_DOT_SEGMENT:
	case SPIFFE_ID_PATH_CHAR:
		return "C122";
	case SPIFFE_ID_TD_LONG:
	case SPIFFE_ID_LONG:
		return "C124";
	case SPIFFE_ID_OK:
	case SPIFFE_ID_NO_SCHEME:
	case SPIFFE_ID_TD_EMPTY:
	case SPIFFE_ID_TD_CHAR:
	case SPIFFE_ID_USERINFO:
	case SPIFFE_ID_PORT:
	case SPIFFE_ID_PERCENT:
	case SPIFFE_ID_QUERY:
	case SPIFFE_ID_FRAGMENT:
		return "C120";
	}
	return "C120";
}

/* `write spiffe://example.org/web`: scheme and trust domain in lower case. */
static void
lower_case_hint(struct span value, char *out, size_t size)
{
	char shown[SHOWN_MAX];
	char *from;
	char *end;

	text_escape(value, shown, sizeof(shown));
	from = strstr(shown, "://");
	end = strchr(from == NULL ? shown : from + 3, '/');
	for (char *p = shown; *p != '\0' && p != end; p++)
		*p = (char)tolower((unsigned char)*p);
	snprintf(out, size, "write %s", shown);
}

static void
complain_rule(struct builder *b, const struct raw_entry *e,
    enum rule_error error, enum spiffe_id_error id_error)
{
	char shown[SHOWN_MAX];
	char hint[SHOWN_MAX + 32] = "";

	text_escape(e->value, shown, sizeof(shown));
	if (error == RULE_ID && (id_error == SPIFFE_ID_TD_CASE ||
	                            id_error == SPIFFE_ID_SCHEME_CASE))
		lower_case_hint(e->value, hint, sizeof(hint));
	else if (error == RULE_ID && id_error == SPIFFE_ID_TRAILING_SLASH)
		snprintf(hint, sizeof(hint),
		    "take the '/' away; for all below it write '/**'");
	else if (error == RULE_NO_PATH || error == RULE_ONLY_STAR ||
	         error == RULE_TD_WILDCARD)
		snprintf(hint, sizeof(hint),
		    "for a whole domain write trust-domain NAME");
	diag_add(b->d, rule_error_code(error, id_error), &e->value_at,
	    hint[0] == '\0' ? NULL : hint, "'%s': %s", shown,
	    error == RULE_ID ? spiffe_id_error_text(id_error)
	                     : rule_error_text(error));
}

void
add_rule(struct builder *b, struct section_info *info,
    const struct raw_entry *e, const struct key_row *row)
{
	struct rule *rule = calloc(1, sizeof(*rule));
	enum spiffe_id_error id_error;
	enum rule_error error;

	if (rule == NULL ||
	    !array_grow(&b->o->rules, b->o->n_rules, sizeof(*b->o->rules))) {
		free(rule);
		b->d->failed = true;
		return;
	}
	b->o->rules[b->o->n_rules++] = rule;
	error = rule_parse(e->value, rule, &id_error);
	if (error == RULE_NOMEM)
		b->d->failed = true;
	else if (error != RULE_OK)
		complain_rule(b, e, error, id_error);
	if (error != RULE_OK)
		return;
	rule->file = own_origin(b, &e->value_at).file;
	rule->line = e->value_at.line;
	(void)rule_list_add(b,
	    strcmp(row->key, "deny") == 0 ? &info->deny : &info->allow, rule);
}
