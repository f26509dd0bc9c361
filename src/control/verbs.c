#include "control_int.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "clock.h"
#include "explain.h"
#include "json.h"
#include "spiffe.h"

enum { OK = 0, FAILED = 1, USAGE = 2, NO_IDENTITY = 5, DEGRADED = 7 };

/* ---- What the verbs share ---- */

/* "12 d", "3 h", "41 min", "7 s". */
void
verb_add_age(struct text *out, int64_t seconds)
{
	if (seconds < 0)
		seconds = 0;
	if (seconds >= 2 * 86400)
		text_add(out, "%" PRId64 " d", seconds / 86400);
	else if (seconds >= 2 * 3600)
		text_add(out, "%" PRId64 " h", seconds / 3600);
	else if (seconds >= 120)
		text_add(out, "%" PRId64 " min", seconds / 60);
	else
		text_add(out, "%" PRId64 " s", seconds);
}

void
verb_add_size(struct text *out, uint64_t bytes)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	double n = (double)bytes;
	size_t u = 0;

	while (n >= 1024 && u < ARRAY_LEN(units) - 1) {
		n /= 1024;
		u++;
	}
	text_add(out, u == 0 ? "%.0f %s" : "%.1f %s", n, units[u]);
}

bool
verb_has_words(struct admin_client *c)
{
	if (c->n_words == 2)
		return false;
	text_add(&c->out, "%s takes no words\n", c->words[1]);
	admin_done(c, USAGE);
	return true;
}

/* ---- dump, metrics, reload ---- */

void
verb_dump(struct admin_client *c)
{
	bool origin = c->n_words == 3 && strcmp(c->words[2], "--origin") == 0;

	if (c->n_words > 2 && !origin) {
		text_add(&c->out, "dump takes no word but --origin\n");
		admin_done(c, USAGE);
		return;
	}
	conf_dump(c->control->conf, origin, &c->out);
	admin_done(c, OK);
}

void
verb_metrics(struct admin_client *c)
{
	if (verb_has_words(c))
		return;
	metrics_render(c->control, &c->out);
	admin_done(c, OK);
}

void
verb_reload(struct admin_client *c)
{
	if (verb_has_words(c))
		return;
	reload_start(c->control, c);
}

/* ---- connections, close ---- */

/* `--service NAME`, `--peer ID`, `--conn HEX`. */
struct filter {
	const char *service;
	const char *peer;
	uint64_t conn_id;
	bool any;
};

static bool
parse_filter(struct admin_client *c, struct filter *f)
{
	*f = (struct filter){0};
	for (size_t i = 2; i + 1 < c->n_words; i += 2) {
		char *end = NULL;

		f->any = true;
		if (strcmp(c->words[i], "--service") == 0)
			f->service = c->words[i + 1];
		else if (strcmp(c->words[i], "--peer") == 0)
			f->peer = c->words[i + 1];
		else if (strcmp(c->words[i], "--conn") == 0)
			f->conn_id = strtoull(c->words[i + 1], &end, 16);
		else
			return false;
		if (end != NULL && (*end != '\0' || f->conn_id == 0))
			return false;
	}
	return c->n_words % 2 == 0;
}

static bool
dup_to(char **copy, const char *s)
{
	*copy = s == NULL ? NULL : strdup(s);
	return s == NULL || *copy != NULL;
}

static void
post_all(struct admin_client *c,
    struct mail *(*make)(
        struct admin_client *, const struct filter *, unsigned int),
    const struct filter *f)
{
	struct worker_shared *w = &c->control->workers;

	c->since_ms = control_now_ms();
	c->awaited = w->n_workers;
	for (unsigned int i = 0; i < w->n_workers; i++) {
		struct mail *m = make(c, f, i);

		if (m != NULL)
			(void)worker_post(w->workers[i], m);
		/* A message that could not be made is one that is missing. */
	}
}

static void
name_missing(struct admin_client *c)
{
	for (size_t i = 0; i < c->control->workers.n_workers; i++) {
		if (!c->answered[i])
			text_add(&c->out, "worker %zu did not answer\n", i);
	}
}

static struct mail *
make_query(struct admin_client *c, const struct filter *f, unsigned int worker)
{
	struct mail_query *m = calloc(1, sizeof(*m));
	struct mail *mail;

	if (m == NULL)
		return NULL;
	mail = &m->mail;
	mail->kind = MAIL_QUERY;
	m->request = c->number;
	m->worker = worker;
	m->conn_id = f->conn_id;
	if (!dup_to(&m->service, f->service) || !dup_to(&m->peer, f->peer))
		worker_mail_free(&mail);
	return mail;
}

static void
row_text(const struct conn_row *r, struct text *out)
{
	char id[CONN_ID_TEXT];

	text_add(out, "%-16s %-16s %-3s %-9s %-22s %-22s ",
	    conn_id_text(r->id, id), r->service, r->inbound ? "in" : "out",
	    conn_state_name(r->state), r->src, r->dst);
	verb_add_age(out, r->age_ms / 1000);
	text_add(out, "  ");
	verb_add_size(out, r->bytes_in);
	text_add_char(out, '/');
	verb_add_size(out, r->bytes_out);
	text_add(out, "  %s%s\n", r->peer == NULL ? "-" : r->peer,
	    r->half_closed ? "  half-closed" : "");
}

static void
row_json(const struct conn_row *r, struct json *j)
{
	char id[CONN_ID_TEXT];

	json_object(j);
	json_kstr(j, "conn_id", conn_id_text(r->id, id));
	json_kstr(j, "service", r->service);
	json_kstr(j, "direction", r->inbound ? "inbound" : "outbound");
	json_kstr(j, "state", conn_state_name(r->state));
	json_kstr(j, "src_addr", r->src);
	json_kstr(j, "dst_addr", r->dst);
	json_kstr(j, "peer", r->peer);
	json_kuint(j, "bytes_in", r->bytes_in);
	json_kuint(j, "bytes_out", r->bytes_out);
	json_kint(j, "age_ms", r->age_ms);
	json_kint(j, "idle_ms", r->idle_ms);
	json_kbool(j, "half_closed", r->half_closed);
	json_object_end(j);
}

static void
connections_done(struct admin_client *c, bool complete)
{
	struct json j;

	json_init(&j, &c->out);
	if (c->json) {
		json_object(&j);
		json_kstr(&j, "schema", "postern.connections/1");
		json_kbool(&j, "complete", complete);
		json_key(&j, "connections");
		json_array(&j);
	} else {
		text_add(&c->out, "%-16s %-16s %-3s %-9s %-22s %-22s %s\n",
		    "CONN", "SERVICE", "DIR", "STATE", "SOURCE", "DESTINATION",
		    "AGE  IN/OUT  PEER");
	}
	for (size_t i = 0; i < c->control->workers.n_workers; i++) {
		struct mail_query *m =
		    c->answers[i] == NULL
		        ? NULL
		        : CONTAINER_OF(c->answers[i], struct mail_query, mail);

		for (size_t n = 0; m != NULL && n < m->n_rows; n++) {
			if (c->json)
				row_json(&m->rows[n], &j);
			else
				row_text(&m->rows[n], &c->out);
		}
	}
	if (c->json) {
		json_array_end(&j);
		json_object_end(&j);
		text_add_char(&c->out, '\n');
	} else if (!complete) {
		name_missing(c);
	}
	admin_done(c, complete ? OK : FAILED);
}

void
verb_connections(struct admin_client *c)
{
	struct filter f;

	if (!parse_filter(c, &f)) {
		text_add(&c->out,
		    "connections [--service NAME] [--peer ID] [--conn HEX]\n");
		admin_done(c, USAGE);
		return;
	}
	c->finish = connections_done;
	post_all(c, make_query, &f);
}

static struct mail *
make_kill(struct admin_client *c, const struct filter *f, unsigned int worker)
{
	struct mail_kill *m = calloc(1, sizeof(*m));
	struct mail *mail;

	if (m == NULL)
		return NULL;
	mail = &m->mail;
	mail->kind = MAIL_KILL;
	m->request = c->number;
	m->worker = worker;
	m->reason = CLOSE_ADMIN;
	m->conn_id = f->conn_id;
	if (!dup_to(&m->service, f->service) || !dup_to(&m->peer, f->peer))
		worker_mail_free(&mail);
	return mail;
}

static void
close_done(struct admin_client *c, bool complete)
{
	uint64_t ended = 0;
	struct json j;

	for (size_t i = 0; i < c->control->workers.n_workers; i++) {
		if (c->answers[i] != NULL)
			ended +=
			    CONTAINER_OF(c->answers[i], struct mail_kill, mail)
			        ->ended;
	}
	if (c->json) {
		json_init(&j, &c->out);
		json_object(&j);
		json_kstr(&j, "schema", "postern.close/1");
		json_kbool(&j, "complete", complete);
		json_kuint(&j, "ended", ended);
		json_object_end(&j);
		text_add_char(&c->out, '\n');
	} else {
		text_add(&c->out, "%" PRIu64 " connections ended\n", ended);
		if (!complete)
			name_missing(c);
	}
	admin_done(c, complete ? OK : FAILED);
}

void
verb_close(struct admin_client *c)
{
	struct filter f;

	if (!parse_filter(c, &f) || !f.any) {
		text_add(
		    &c->out, "close needs one of --service, --peer, --conn\n");
		admin_done(c, USAGE);
		return;
	}
	c->finish = close_done;
	post_all(c, make_kill, &f);
}

/* ---- explain ---- */

static bool
parse_explain(struct admin_client *c, struct explain_request *r)
{
	size_t i = 4;

	*r = (struct explain_request){.direction = OUTBOUND};
	if (c->n_words < 4)
		return false;
	r->service = c->words[3];
	if (strcmp(c->words[2], "inbound") == 0) {
		r->direction = INBOUND;
		r->peer = c->n_words == 5 ? c->words[4] : NULL;
		return r->peer != NULL;
	}
	for (; i + 1 < c->n_words; i += 2) {
		if (strcmp(c->words[i], "--uid") == 0)
			r->uid = c->words[i + 1];
		else if (strcmp(c->words[i], "--peer") == 0)
			r->peer = c->words[i + 1];
		else
			return false;
	}
	return strcmp(c->words[2], "outbound") == 0 && i == c->n_words &&
	       (r->uid != NULL || r->peer != NULL);
}

void
verb_explain(struct admin_client *c)
{
	struct explain_request r;

	if (!parse_explain(c, &r)) {
		text_add(&c->out,
		    "explain inbound NAME ID, or outbound NAME --uid N "
		    "--peer ID\n");
		admin_done(c, USAGE);
		return;
	}
	admin_done(c, explain(c->control->conf, &r, c->json, &c->out));
}
