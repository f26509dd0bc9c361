#include "cli_int.h"

#include <string.h>

#include "explain.h"

static int
explain_offline(const struct args *a, const struct explain_request *r)
{
	AUTO(conf_free) struct conf *c = load_conf(a);
	AUTO(text_fini) struct text t;
	int rc;

	text_init(&t);
	if (c == NULL)
		return CLI_BAD_CONF;
	rc = explain(c, r, (a->set & OPT_JSON) != 0, &t);
	fputs(t.data, rc == EXPLAIN_USAGE ? a->env->err : a->env->out);
	return rc;
}

int
run_explain(const struct args *a)
{
	bool is_inbound = a->n_words == 3 && !strcmp(a->words[0], "inbound");
	bool is_outbound = a->n_words == 2 && !strcmp(a->words[0], "outbound");
	struct explain_request r = {
	    .direction = is_inbound ? INBOUND : OUTBOUND,
	    .service = a->words[1],
	    .peer = is_inbound ? a->words[2] : a->value[OPTION_PEER],
	    .uid = a->value[OPTION_UID],
	};
	int rc;

	if (!is_inbound && !is_outbound)
		return usage(a, "write inbound NAME ID, or outbound NAME");
	if (is_outbound && (a->set & (OPT_UID | OPT_PEER)) == 0)
		return usage(a, "outbound needs --uid or --peer");
	if (is_inbound && (a->set & (OPT_UID | OPT_PEER)) != 0)
		return usage(a, "--uid and --peer go with outbound");
	if ((a->set & OPT_CONFIG) != 0)
		return explain_offline(a, &r);
	rc = ask_daemon(a, OPT_UID | OPT_PEER);
	if (rc != CLI_NO_DAEMON)
		return rc;
	if ((a->set & OPT_JSON) == 0)
		fprintf(a->env->out, "daemon not reachable: judged on the "
		                     "files under /etc/postern\n");
	return explain_offline(a, &r);
}
