#include "conn_int.h"

#include <stdio.h>

#include "spiffe.h"

const char *
handshake_failure_label(size_t i)
{
	static const char *const labels[HANDSHAKE_FAILURE_COUNT] = {
	    "alert", "eof", "reset", "timeout", "protocol", "internal"};

	return labels[i];
}

static size_t
handshake_failure_index(const struct conn *c)
{
	const struct link_failure *f;

	if (c->close == CLOSE_HANDSHAKE_TIMEOUT)
		return 3;
	if (c->link == NULL)
		return 5;
	f = c->transport->failure(c->link);
	switch (f->kind) {
	case LINK_ALERT:
		return 0;
	case LINK_EOF:
		return 1;
	case LINK_RESET:
		return 2;
	case LINK_PROTOCOL:
	case LINK_RESUMED:
		return 4;
	case LINK_OK:
	case LINK_NOBODY:
	case LINK_REFUSED:
	case LINK_INTERNAL:
		break;
	}
	return 5;
}

/* Ended before its first TLS byte: a port check, not a failure. */
static bool
is_probe(const struct conn *c)
{
	return c->service->direction == INBOUND && c->link != NULL &&
	       c->transport->failure(c->link)->kind == LINK_NOBODY;
}

static void
count_bytes(struct conn *c, struct service_counters *n)
{
	const struct pump *in = &c->relay.to_plain;
	const struct pump *out = &c->relay.to_mesh;

	counter_add(&n->received[SIDE_MESH], in->taken_bytes);
	counter_add(&n->sent[SIDE_PLAIN], in->given_bytes);
	counter_add(&n->received[SIDE_PLAIN], out->taken_bytes);
	counter_add(&n->sent[SIDE_MESH], out->given_bytes);
	counter_add(&n->discarded[SIDE_MESH], pump_owed(in));
	counter_add(&n->discarded[SIDE_PLAIN], pump_owed(out));
}

static void
count_end(struct conn *c)
{
	struct service_counters *n = conn_counters(c);

	if (c->half_counted)
		counter_add(&n->half_closed, 1);
	count_bytes(c, n);
	if (is_probe(c)) {
		counter_add(&n->probes, 1);
		return;
	}
	counter_add(&n->closes[c->close], 1);
	if (c->deny != DENY_NOT && !c->audit_denied) {
		counter_add(&n->denied, 1);
		counter_add(&n->reasons[c->deny], 1);
	} else if (!c->counted_allowed) {
		counter_add(&n->failed, 1);
	}
	if (c->close == CLOSE_HANDSHAKE_FAILED ||
	    c->close == CLOSE_HANDSHAKE_TIMEOUT)
		counter_add(
		    &n->handshake_failures[handshake_failure_index(c)], 1);
	if (c->close == CLOSE_POLICY)
		counter_add(&n->reauthorized, 1);
}

static bool
was_refused(const struct conn *c)
{
	return c->close == CLOSE_DENIED || c->close == CLOSE_POLICY;
}

static enum log_level
level_of(const struct conn *c)
{
	if (is_probe(c))
		return LOG_LEVEL_DEBUG;
	if (was_refused(c) || c->close == CLOSE_HANDSHAKE_FAILED ||
	    c->close == CLOSE_HANDSHAKE_TIMEOUT ||
	    c->close == CLOSE_DIAL_FAILED || c->close == CLOSE_DIAL_TIMEOUT)
		return LOG_LEVEL_WARN;
	return LOG_LEVEL_INFO;
}

static void
add_ids(struct conn *c, struct fields *f, const struct link_facts *facts)
{
	const char *own = facts->own_id != NULL ? facts->own_id : "-";
	bool inbound = c->service->direction == INBOUND;
	struct span peer = span_of_str("-");
	char dst[ADDR_TEXT_MAX], src[ADDR_TEXT_MAX];

	/* A refused peer's ID is a claim: it has not proved its key. */
	if (c->peer != NULL)
		peer = peer_id(c->peer)->text;
	else if (c->claimed_id != NULL)
		peer = span_of_str(c->claimed_id);
	fields_add(f, FIELD_src_addr, addr_format(&c->src, src));
	fields_add_span(f, FIELD_src_id, inbound ? peer : span_of_str(own));
	if (c->caller != NULL && c->caller->known)
		fields_add_number(f, FIELD_src_uid, c->caller->uid);
	fields_add(f, FIELD_dst_addr, addr_format(&c->dst, dst));
	fields_add_span(f, FIELD_dst_id, inbound ? span_of_str(own) : peer);
}

static void
add_tls(struct conn *c, struct fields *f, const struct link_facts *facts)
{
	if (c->service->sni != NULL)
		fields_add(f, FIELD_sni, c->service->sni);
	if (c->handshake_ms == -1)
		return;
	fields_add(f, FIELD_tls_version, facts->tls_version);
	fields_add(f, FIELD_cipher, facts->cipher);
	fields_add(f, FIELD_group, facts->group);
	fields_add(f, FIELD_resumed, facts->resumed ? "true" : "false");
	fields_add(f, FIELD_svid_serial, peer_serial(c->peer));
}

/* "nearest conf.d/orders.ini:5" and what to write. */
static void
add_nearest(struct conn *c, struct fields *f)
{
	bool inbound = c->service->direction == INBOUND;
	const char *key = inbound ? "allow" : "expect";
	const struct rule *near = NULL;
	struct spiffe_id id;
	unsigned int segment;

	if (c->peer != NULL)
		id = *peer_id(c->peer);
	else if (c->claimed_id == NULL ||
	         spiffe_id_parse(span_of_str(c->claimed_id), &id) !=
	             SPIFFE_ID_OK)
		return;
	near = policy_nearest(c->service->policy, &id, &segment);
	if (near != NULL)
		fields_addf(
		    f, FIELD_rule, "nearest %s:%u", near->file, near->line);
	fields_addf(f, FIELD_hint, "%s = %.*s", key, (int)id.text.len,
	    (const char *)id.text.data);
}

static void
add_rule(struct conn *c, struct fields *f)
{
	if (c->deny == DENY_NO_RULE) {
		add_nearest(c, f);
		return;
	}
	if (c->deny == DENY_LOCAL_CALLER && c->caller != NULL &&
	    c->caller->known)
		fields_addf(f, FIELD_hint, "caller = uid %u", c->caller->uid);
	if (c->rule != NULL)
		fields_addf(
		    f, FIELD_rule, "%s:%u", c->rule->file, c->rule->line);
	else if (c->caller_rule != NULL)
		fields_addf(f, FIELD_rule, "%s:%u", c->caller_rule->file,
		    c->caller_rule->line);
}

static void
add_reason(struct conn *c, struct fields *f)
{
	const char *decision = "allow";
	bool decided = c->counted_allowed || c->deny != DENY_NOT;

	if (c->audit_denied)
		decision = "audit-deny";
	else if (c->deny != DENY_NOT)
		decision = "deny";
	if (decided)
		fields_add(f, FIELD_decision, decision);
	add_rule(c, f);
	if (c->deny != DENY_NOT)
		fields_add(f, FIELD_reason, deny_reason_label(c->deny));
	else if (c->dial_reason != DIAL_OK)
		fields_add(f, FIELD_reason, dial_reason_label(c->dial_reason));
	else if (c->reason_text != NULL)
		fields_add(f, FIELD_reason, c->reason_text);
	if (c->close == CLOSE_MESH_TRUNCATED)
		fields_add(f, FIELD_hint, "missing_close_notify = end");
	if (c->why != NULL)
		fields_add(f, FIELD_msg, c->why->text);
}

static void
add_numbers(struct conn *c, struct fields *f)
{
	const struct pump *in = &c->relay.to_plain;
	const struct pump *out = &c->relay.to_mesh;

	if (c->mesh != NULL) {
		fields_add_number(f, FIELD_bytes_in, in->given_bytes);
		fields_add_number(f, FIELD_bytes_out, out->given_bytes);
	}
	if (pump_owed(in) != 0)
		fields_add_number(f, FIELD_discarded_in, pump_owed(in));
	if (pump_owed(out) != 0)
		fields_add_number(f, FIELD_discarded_out, pump_owed(out));
	fields_add_number(
	    f, FIELD_duration_ms, (uint64_t)(c->env->now_ms - c->accepted_ms));
	if (c->connect_ms != -1)
		fields_add_number(f, FIELD_connect_ms, (uint64_t)c->connect_ms);
	if (c->handshake_ms != -1)
		fields_add_number(
		    f, FIELD_handshake_ms, (uint64_t)c->handshake_ms);
	if (c->first_byte_ms != -1)
		fields_add_number(
		    f, FIELD_first_byte_ms, (uint64_t)c->first_byte_ms);
	if (c->half_counted)
		fields_add(f, FIELD_half_closed,
		    c->mesh_ended_first ? "mesh" : "plain");
}

static const char *
event_name(const struct conn *c)
{
	if (c->audit_denied)
		return "audit-deny";
	if (c->close == CLOSE_DENIED)
		return "deny";
	return "close";
}

void
conn_log_end(struct conn *c)
{
	struct link_facts facts = {
	    .tls_version = "-", .cipher = "-", .group = "-"};
	bool denial = c->close == CLOSE_DENIED || c->audit_denied;
	struct fields f;
	char id[CONN_ID_TEXT];

	if (c->link != NULL)
		c->transport->facts(c->link, &facts);
	counter_add(&conn_counters(c)->missing_close_notify,
	    facts.missing_close_notify);
	count_end(c);
	if (!denial && level_of(c) >= LOG_LEVEL_INFO &&
	    !c->env->sample(c->env->owner, c->service))
		return;
	fields_init(&f, level_of(c), event_name(c));
	fields_add(&f, FIELD_service, c->service->name);
	fields_add(&f, FIELD_direction,
	    c->service->direction == INBOUND ? "inbound" : "outbound");
	fields_add(&f, FIELD_conn_id, conn_id_text(c->id, id));
	add_ids(c, &f, &facts);
	add_tls(c, &f, &facts);
	add_reason(c, &f);
	add_numbers(c, &f);
	fields_add(&f, FIELD_close, close_reason_label(c->close));
	c->env->record(c->env->owner, &f, denial);
}
