#include "explain.h"

#include <stdlib.h>
#include <string.h>

#include "caller.h"
#include "conf.h"
#include "json.h"
#include "policy.h"

/* One answer, in either form. */
struct answer {
	const char *what; /* "inbound", "caller", "expect" */
	bool is_allowed;
	bool is_audit; /* and would pass all the same */
	const char *reason;
	const struct rule *rule; /* what decided */
	const char *word;        /* its key */
	const struct rule *nearest;
	unsigned int segment;
	const struct caller_rule *caller;
	const struct spiffe_id *id;
};

/* ---- Text ---- */

/* Segment N (from 1) of a rule's or an ID's text. */
static struct span
segment_of(struct span text, unsigned int n)
{
	size_t i = strlen("spiffe://");
	size_t end;

	for (; i < text.len; i++)
		if (text.data[i] == '/' && n-- == 1)
			break;
	if (i >= text.len)
		return (struct span){0};
	for (end = ++i; end < text.len && text.data[end] != '/';)
		end++;
	return span_of(text.data + i, end - i);
}

static void
add_nearest(struct text *out, const struct answer *an)
{
	struct span want =
	    segment_of(span_of_str(an->nearest->text), an->segment);
	struct span have = segment_of(an->id->text, an->segment);

	text_add(out, "      nearest: %s %s   %s:%u\n", an->word,
	    an->nearest->text, an->nearest->file, an->nearest->line);
	text_add(out, "               segment %u: '%.*s' wanted, ", an->segment,
	    (int)want.len, (const char *)want.data);
	if (have.len == 0)
		text_add(out, "none given\n");
	else
		text_add(out, "'%.*s' given\n", (int)have.len,
		    (const char *)have.data);
}

static void
add_answer(struct text *out, const struct answer *an)
{
	text_add(out, "%-5s ", an->is_allowed ? "allow" : "deny");
	if (an->rule != NULL)
		text_add(out, "%s %s   %s:%u\n", an->word, an->rule->text,
		    an->rule->file, an->rule->line);
	else if (an->caller != NULL)
		text_add(out, "caller %s   %s:%u\n", an->caller->text,
		    an->caller->file, an->caller->line);
	else
		text_add(out, "%s: %s\n", an->what,
		    an->is_allowed ? "no rule needed" : "no rule matches");
	if (an->nearest != NULL)
		add_nearest(out, an);
	if (!an->is_allowed && an->id != NULL && an->rule == NULL)
		text_add(out, "      to allow exactly this %s:  %s = %.*s\n",
		    strcmp(an->what, "expect") == 0 ? "server" : "caller",
		    an->word, (int)an->id->text.len,
		    (const char *)an->id->text.data);
	if (!an->is_allowed && an->is_audit)
		text_add(out, "      mode = audit: it would pass, and be "
		              "logged\n");
}

/* ---- JSON ---- */

static void
json_rule(struct json *j, const char *key, const struct rule *rule)
{
	json_key(j, key);
	if (rule == NULL) {
		json_null(j);
		return;
	}
	json_object(j);
	json_kstr(j, "text", rule->text);
	json_kstr(j, "file", rule->file);
	json_kuint(j, "line", rule->line);
	json_object_end(j);
}

static void
json_answer(struct json *j, const struct answer *an)
{
	json_object(j);
	json_kstr(j, "about", an->what);
	json_kstr(j, "decision", an->is_allowed ? "allow" : "deny");
	json_kstr(j, "reason", an->is_allowed ? NULL : an->reason);
	json_kbool(j, "audit", an->is_audit);
	json_rule(j, "rule", an->rule);
	json_kstr(j, "caller", an->caller == NULL ? NULL : an->caller->text);
	json_rule(j, "nearest", an->nearest);
	json_kuint(j, "segment", an->nearest == NULL ? 0 : an->segment);
	json_object_end(j);
}

static int
give(const char *service, const struct answer *list, size_t n, bool as_json,
    struct text *out)
{
	struct json j;
	int rc = EXPLAIN_ALLOW;

	for (size_t i = 0; i < n; i++)
		if (!list[i].is_allowed)
			rc = EXPLAIN_DENY;
	if (!as_json) {
		for (size_t i = 0; i < n; i++)
			add_answer(out, &list[i]);
		return rc;
	}
	json_init(&j, out);
	json_object(&j);
	json_kstr(&j, "schema", "postern.explain/1");
	json_kstr(&j, "service", service);
	json_key(&j, "answers");
	json_array(&j);
	for (size_t i = 0; i < n; i++)
		json_answer(&j, &list[i]);
	json_array_end(&j);
	json_object_end(&j);
	text_add_char(out, '\n');
	return rc;
}

/* ---- Judging ---- */

static struct answer
judge_id(const struct service *s, const struct spiffe_id *id)
{
	struct verdict v = policy_decide(s->policy, id);
	bool is_inbound = s->direction == INBOUND;
	const char *allow = is_inbound ? "allow" : "expect";
	struct answer an = {.what = is_inbound ? "inbound" : "expect",
	    .is_allowed = v.decision == DECISION_ALLOW,
	    /* expect is enforced under audit too. */
	    .is_audit = is_inbound && s->mode == MODE_AUDIT,
	    .reason = deny_reason_label(v.reason),
	    .rule = v.rule,
	    .word = v.reason == DENY_DENY_RULE ? "deny" : allow,
	    .id = id};

	if (v.reason == DENY_NO_RULE)
		an.nearest = policy_nearest(s->policy, id, &an.segment);
	return an;
}

static struct answer
judge_uid(const struct service *s, uid_t uid)
{
	struct local_caller c = {.known = true, .uid = uid};
	struct caller_verdict v =
	    policy_decide_caller(s->callers, s->n_callers, &c);

	if (v.needs_groups && caller_groups(uid, &c, NULL) == FAULT_NONE)
		v = policy_decide_caller(s->callers, s->n_callers, &c);
	/* Without caller lines the socket's owner and mode decide. */
	return (struct answer){.what = "caller",
	    .is_allowed = s->n_callers == 0 || v.decision == DECISION_ALLOW,
	    .is_audit = s->mode == MODE_AUDIT,
	    .reason = deny_reason_label(DENY_LOCAL_CALLER),
	    .caller = v.rule};
}

/* ---- Requests ---- */

static int
refuse(struct text *out, const char *sentence)
{
	text_add(out, "%s\n", sentence);
	return EXPLAIN_USAGE;
}

static bool
parse_id(const char *text, struct spiffe_id *id, struct text *out)
{
	enum spiffe_id_error e = spiffe_id_parse(span_of_str(text), id);

	if (e == SPIFFE_ID_OK && id->path.len > 0)
		return true;
	(void)refuse(out, e == SPIFFE_ID_OK ? "a trust domain is no caller"
	                                    : spiffe_id_error_text(e));
	return false;
}

static const struct service *
find(const struct conf *c, const struct explain_request *r, struct text *out)
{
	const struct service *s = conf_service(c, span_of_str(r->service));
	const char *guess = NULL;
	const char **names;
	size_t n = 0;

	if (s != NULL && s->direction == r->direction)
		return s;
	names = calloc(c->n_services + 1, sizeof(*names));
	for (size_t i = 0; names != NULL && i < c->n_services; i++)
		if (c->services[i].direction == r->direction)
			names[n++] = c->services[i].name;
	if (names != NULL)
		guess = conf_suggest(span_of_str(r->service), names);
	text_add(out, "no %s service '%s'",
	    r->direction == INBOUND ? "inbound" : "outbound", r->service);
	if (guess != NULL)
		text_add(out, "; did you mean '%s'?", guess);
	text_add_char(out, '\n');
	free(names);
	return NULL;
}

int
explain(const struct conf *c, const struct explain_request *r, bool as_json,
    struct text *out)
{
	const struct service *s = find(c, r, out);
	struct answer list[2];
	struct spiffe_id id;
	char *end = NULL;
	size_t n = 0;

	if (s == NULL)
		return EXPLAIN_USAGE;
	if (r->uid != NULL) {
		unsigned long uid = strtoul(r->uid, &end, 10);

		if (*r->uid < '0' || *r->uid > '9' || *end != '\0' ||
		    uid >= UINT32_MAX)
			return refuse(out, "--uid takes a number");
		list[n++] = judge_uid(s, (uid_t)uid);
	}
	if (r->peer != NULL) {
		if (!parse_id(r->peer, &id, out))
			return EXPLAIN_USAGE;
		list[n++] = judge_id(s, &id);
	}
	return give(s->name, list, n, as_json, out);
}
