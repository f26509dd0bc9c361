#ifndef POSTERN_TRANSPORT_H
#define POSTERN_TRANSPORT_H

/*
 * The seam between a mesh socket and the byte streams on it. Chosen by the
 * service, never by the peer. Called on the worker that owns the link; never
 * blocks; never frees itself.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "err.h"
#include "reasons.h"

struct addr;
struct mesh_link;
struct peer;
struct stream;
struct tls_env;

enum link_event {
	LINK_WAIT,   /* nothing without the descriptor or a deadline */
	LINK_HEAVY,  /* next is a handshake step: ask again when it may run */
	LINK_UP,     /* handshake complete: peer() is final */
	LINK_STREAM, /* a stream stands: take it with next_stream() */
	LINK_FAILED, /* see failure() */
};

/* What a service asks of its links. Borrowed for the life of the link. */
struct link_conf {
	struct tls_env *tls; /* the worker's */
	bool tls12;          /* `tls_min = 1.2` */
	bool ignore_intermediate_eku;
	bool end_without_close_notify; /* `missing_close_notify = end` */
	const char *sni;               /* NULL: none */
};

/*
 * Asked once per handshake, inside it, after the chain was verified. An allow
 * is provisional until LINK_UP: the peer has not proved its key yet. DENY_NOT
 * allows.
 */
struct link_judge {
	enum deny_reason (*judge)(struct link_judge *self, struct peer *peer);
};

enum link_failure_kind {
	LINK_OK,
	LINK_NOBODY,   /* ended before its first TLS byte: a probe */
	LINK_EOF,      /* ended inside the handshake */
	LINK_RESET,    /* the transport broke inside the handshake */
	LINK_REFUSED,  /* we refused the peer: see REASON */
	LINK_ALERT,    /* the peer refused us: see ALERT */
	LINK_PROTOCOL, /* not TLS, or no common parameters */
	LINK_RESUMED,  /* must never occur */
	LINK_INTERNAL, /* no memory */
};

struct link_failure {
	enum link_failure_kind kind;
	enum deny_reason reason; /* LINK_REFUSED */
	const char *alert;       /* LINK_ALERT: "bad_certificate"; constant */
	struct why why;
	char *claimed_id; /* owned by the link; what a refused leaf claims */
};

/* Facts for the access line; constants or borrowed from the link. */
struct link_facts {
	const char *tls_version;
	const char *cipher;
	const char *group;
	const char *own_id; /* SPIFFE ID shown by us */
	bool resumed;
	uint64_t missing_close_notify;
};

struct transport_ops {
	const char *name;

	/*
	 * FD is borrowed and stays the owner's to close, and its SO_LINGER the
	 * owner's to arm and disarm; a stream's abort() arms it too. JUDGE is
	 * called from within the handshake and must outlive the link, as the
	 * strings of CONF. NULL: no memory.
	 */
	struct mesh_link *(*accept)(
	    int fd, const struct link_conf *conf, struct link_judge *judge);
	/* As accept. FD is connected. */
	struct mesh_link *(*connect)(
	    int fd, const struct link_conf *conf, struct link_judge *judge);

	/*
	 * Tell the link what the descriptor became. HUP: the peer's end or an
	 * error was announced, perhaps together with bytes; no further edge
	 * comes for it, so that a short read proves nothing.
	 */
	void (*ready)(
	    struct mesh_link *l, bool readable, bool writable, bool hup);
	enum link_event (*step)(struct mesh_link *l, bool may_be_heavy);
	struct peer *(*peer)(const struct mesh_link *l);
	const struct link_failure *(*failure)(const struct mesh_link *l);
	void (*facts)(const struct mesh_link *l, struct link_facts *facts_r);
	/* Borrowed from the link. ASKED_R: empty for plain TLS. */
	struct stream *(*next_stream)(
	    struct mesh_link *l, struct addr *asked_r);
	void (*drain)(struct mesh_link *l);
	void (*free)(struct mesh_link **l);
};

/* `transport = tls`: one stream per link. */
const struct transport_ops *transport_tls(void);

#endif
