#include "cli_int.h"

#include <stdlib.h>
#include <string.h>

#include "caller.h"
#include "json.h"

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
print_nearest(const struct answer *an, FILE *out)
{
	struct span want =
	    segment_of(span_of_str(an->nearest->text), an->segment);
	struct span have = segment_of(an->id->text, an->segment);

	fprintf(out, "      nearest: %s %s   %s:%u\n", an->word,
	    an->nearest->text, an->nearest->file, an->nearest->line);
	fprintf(out, "               segment %u: '%.*s' wanted, ", an->segment,
	    (int)want.len, (const char *)want.data);
	if (have.len == 0)
		fprintf(out, "none given\n");
	else
		fprintf(out, "'%.*s' given\n", (int)have.len,
		    (const char *)have.data);
}

static void
print_answer(const struct answer *an, FILE *out)
{
	fprintf(out, "%-5s ", an->is_allowed ? "allow" : "deny");
	if (an->rule != NULL)
		fprintf(out, "%s %s   %s:%u\n", an->word, an->rule->text,
		    an->rule->file, an->rule->line);
	else if (an->caller != NULL)
		fprintf(out, "caller %s   %s:%u\n", an->caller->text,
		    an->caller->file, an->caller->line);
	else
		fprintf(out, "%s: %s\n", an->what,
		    an->is_allowed ? "no rule needed" : "no rule matches");
	if (an->nearest != NULL)
		print_nearest(an, out);
	if (!an->is_allowed && an->id != NULL && an->rule == NULL)
		fprintf(out, "      to allow exactly this %s:  %s = %.*s\n",
		    strcmp(an->what, "expect") == 0 ? "server" : "caller",
		    an->word, (int)an->id->text.len,
		    (const char *)an->id->text.data);
	if (!an->is_allowed && an->is_audit)
		fprintf(out, "      mode = audit: it would pass, and be "
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
give(const struct args *a, const char *service, const struct answer *list,
    size_t n)
{
	AUTO(text_fini) struct text t;
	struct json j;
	int rc = CLI_DONE;

	text_init(&t);
	json_init(&j, &t);
	json_object(&j);
	json_kstr(&j, "schema", "postern.explain/1");
	json_kstr(&j, "service", service);
	json_key(&j, "answers");
	json_array(&j);
	for (size_t i = 0; i < n; i++) {
		json_answer(&j, &list[i]);
		if (!list[i].is_allowed)
			rc = CLI_DENIED;
	}
	json_array_end(&j);
	json_object_end(&j);
	if ((a->set & OPT_JSON) != 0)
		fprintf(a->env->out, "%s\n", t.data);
	else
		for (size_t i = 0; i < n; i++)
			print_answer(&list[i], a->env->out);
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

static bool
parse_id(const struct args *a, const char *text, struct spiffe_id *id)
{
	enum spiffe_id_error e = spiffe_id_parse(span_of_str(text), id);

	if (e == SPIFFE_ID_OK && id->path.len > 0)
		return true;
	(void)usage(a, e == SPIFFE_ID_OK ? "a trust domain is no caller"
	                                 : spiffe_id_error_text(e));
	return false;
}

static int
explain_outbound(const struct args *a, const struct service *s)
{
	struct answer list[2];
	size_t n = 0;
	struct spiffe_id id;
	char *end = NULL;

	if ((a->set & OPT_UID) != 0) {
		unsigned long uid = strtoul(a->value[OPTION_UID], &end, 10);

		if (*end != '\0' || uid >= UINT32_MAX ||
		    a->value[OPTION_UID][0] == '-')
			return usage(a, "--uid takes a number");
		list[n++] = judge_uid(s, (uid_t)uid);
	}
	if ((a->set & OPT_PEER) != 0) {
		if (!parse_id(a, a->value[OPTION_PEER], &id))
			return CLI_USAGE;
		list[n++] = judge_id(s, &id);
	}
	return give(a, s->name, list, n);
}

static int
explain_inbound(const struct args *a, const struct service *s)
{
	struct answer one;
	struct spiffe_id id;

	if (!parse_id(a, a->words[2], &id))
		return CLI_USAGE;
	one = judge_id(s, &id);
	return give(a, s->name, &one, 1);
}

static int
unknown_service(const struct args *a, const struct conf *c, bool is_inbound)
{
	const char **names = calloc(c->n_services + 1, sizeof(*names));
	size_t n = 0;
	int rc;

	if (names == NULL)
		return CLI_FAILED;
	for (size_t i = 0; i < c->n_services; i++)
		if ((c->services[i].direction == INBOUND) == is_inbound)
			names[n++] = c->services[i].name;
	rc = complain(a, "service", a->words[1], names);
	free(names);
	return rc;
}

static int
explain_offline(const struct args *a, bool is_inbound)
{
	AUTO(conf_free) struct conf *c = load_conf(a);
	const struct service *s;

	if (c == NULL)
		return CLI_BAD_CONF;
	s = conf_service(c, span_of_str(a->words[1]));
	if (s == NULL || (s->direction == INBOUND) != is_inbound)
		return unknown_service(a, c, is_inbound);
	return is_inbound ? explain_inbound(a, s) : explain_outbound(a, s);
}

int
run_explain(const struct args *a)
{
	bool is_inbound = a->n_words == 3 && !strcmp(a->words[0], "inbound");
	bool is_outbound = a->n_words == 2 && !strcmp(a->words[0], "outbound");
	int rc;

	if (!is_inbound && !is_outbound)
		return usage(a, "write inbound NAME ID, or outbound NAME");
	if (is_outbound && (a->set & (OPT_UID | OPT_PEER)) == 0)
		return usage(a, "outbound needs --uid or --peer");
	if (is_inbound && (a->set & (OPT_UID | OPT_PEER)) != 0)
		return usage(a, "--uid and --peer go with outbound");
	if ((a->set & OPT_CONFIG) != 0)
		return explain_offline(a, is_inbound);
	rc = ask_daemon(a, OPT_UID | OPT_PEER);
	if (rc != CLI_NO_DAEMON)
		return rc;
	if ((a->set & OPT_JSON) == 0)
		fprintf(a->env->out, "daemon not reachable: judged on the "
		                     "files under /etc/postern\n");
	return explain_offline(a, is_inbound);
}
