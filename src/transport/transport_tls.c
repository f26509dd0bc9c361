#include "transport.h"

#include "addr.h"
#include "mem.h"
#include "spiffe.h"
#include "tls.h"
#include "tls_stream.h"

#include <stdlib.h>

/* `transport = tls`: one connection is one stream. */

enum link_state {
	LINK_IN_HANDSHAKE,
	LINK_IS_UP,     /* LINK_UP was said, the stream is next */
	LINK_IS_STREAM, /* LINK_STREAM was said */
	LINK_IS_FAILED,
};

struct mesh_link {
	struct tls_stream tls;
	enum link_state state;
	struct link_failure failure;
};

static enum deny_reason
ask_judge(void *judge_arg, struct peer *peer)
{
	struct link_judge *judge = judge_arg;

	return judge->judge(judge, peer);
}

static struct mesh_link *
new_link(int fd, const struct link_conf *conf, struct link_judge *judge,
    bool is_server)
{
	struct mesh_link *l = calloc(1, sizeof(*l));
	const struct tls_stream_conf tls = {
	    .env = conf->tls,
	    .is_server = is_server,
	    .tls12 = conf->tls12,
	    .ignore_intermediate_eku = conf->ignore_intermediate_eku,
	    .end_without_close_notify = conf->end_without_close_notify,
	    .sni = conf->sni,
	    .judge = ask_judge,
	    .judge_arg = judge,
	};

	if (l == NULL)
		return NULL;
	tls_stream_init(&l->tls, fd, &tls);
	return l;
}

static struct mesh_link *
link_accept(int fd, const struct link_conf *conf, struct link_judge *judge)
{
	return new_link(fd, conf, judge, true);
}

static struct mesh_link *
link_connect(int fd, const struct link_conf *conf, struct link_judge *judge)
{
	return new_link(fd, conf, judge, false);
}

static void
link_ready(struct mesh_link *l, bool readable, bool writable, bool hup)
{
	l->tls.wire.hup |= hup;
	l->tls.stream.readable |= readable;
	l->tls.stream.writable |= writable;
}

static enum link_failure_kind
kind_of(enum tls_failure_kind kind)
{
	switch (kind) {
	case TLS_OK:
		return LINK_OK;
	case TLS_NOBODY:
		return LINK_NOBODY;
	case TLS_EOF:
		return LINK_EOF;
	case TLS_RESET:
		return LINK_RESET;
	case TLS_REFUSED:
		return LINK_REFUSED;
	case TLS_ALERT:
		return LINK_ALERT;
	case TLS_PROTOCOL:
		return LINK_PROTOCOL;
	case TLS_RESUMED:
		return LINK_RESUMED;
	case TLS_INTERNAL:
		return LINK_INTERNAL;
	}
	return LINK_INTERNAL;
}

static enum link_event
step_in_handshake(struct mesh_link *l, bool may_be_heavy)
{
	const struct tls_failure *f = &l->tls.failure;

	switch (tls_stream_step(&l->tls, may_be_heavy)) {
	case TLS_WAIT:
		return LINK_WAIT;
	case TLS_HEAVY:
		return LINK_HEAVY;
	case TLS_UP:
		l->state = LINK_IS_UP;
		return LINK_UP;
	case TLS_FAILED:
		break;
	}
	l->failure = (struct link_failure){.kind = kind_of(f->kind),
	    .reason = f->reason,
	    .alert = f->alert,
	    .why = f->why,
	    .claimed_id = f->claimed_id};
	l->state = LINK_IS_FAILED;
	return LINK_FAILED;
}

static enum link_event
link_step(struct mesh_link *l, bool may_be_heavy)
{
	switch (l->state) {
	case LINK_IN_HANDSHAKE:
		return step_in_handshake(l, may_be_heavy);
	case LINK_IS_UP:
		l->state = LINK_IS_STREAM;
		return LINK_STREAM;
	case LINK_IS_STREAM:
		return LINK_WAIT;
	case LINK_IS_FAILED:
		return LINK_FAILED;
	}
	return LINK_FAILED;
}

static struct peer *
link_peer(const struct mesh_link *l)
{
	return l->tls.is_up ? l->tls.peer : NULL;
}

static const struct link_failure *
link_failure(const struct mesh_link *l)
{
	return &l->failure;
}

static void
link_facts(const struct mesh_link *l, struct link_facts *facts_r)
{
	*facts_r = (struct link_facts){
	    .tls_version = tls_stream_version(&l->tls),
	    .cipher = tls_stream_cipher(&l->tls),
	    .group = tls_stream_group(&l->tls),
	    .own_id = l->tls.own_id,
	    .resumed = l->failure.kind == LINK_RESUMED,
	    .missing_close_notify = l->tls.missing_close_notify,
	};
}

static struct stream *
link_next_stream(struct mesh_link *l, struct addr *asked_r)
{
	if (asked_r != NULL)
		*asked_r = (struct addr){0}; /* plain TLS asks for nothing */
	return &l->tls.stream;
}

/* Nothing to announce: the stream's own end is all that TLS can say. */
static void
link_drain(struct mesh_link *l)
{
	(void)l;
}

static void
link_free(struct mesh_link **link)
{
	struct mesh_link *l = *link;

	if (l == NULL)
		return;
	tls_stream_fini(&l->tls);
	free(l);
	*link = NULL;
}

const struct transport_ops *
transport_tls(void)
{
	static const struct transport_ops ops = {
	    .name = "tls",
	    .accept = link_accept,
	    .connect = link_connect,
	    .ready = link_ready,
	    .step = link_step,
	    .peer = link_peer,
	    .failure = link_failure,
	    .facts = link_facts,
	    .next_stream = link_next_stream,
	    .drain = link_drain,
	    .free = link_free,
	};

	return &ops;
}
