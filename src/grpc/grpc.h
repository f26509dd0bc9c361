#ifndef POSTERN_GRPC_H
#define POSTERN_GRPC_H

/*
 * gRPC over HTTP/2 without a socket: bytes in, messages out, in any split.
 *
 * The client half makes one call with one empty request and reads a stream of
 * responses. Each response is a full state, so that only the newest complete
 * message is kept. One thread at a time; no clock, no I/O, no callbacks.
 *
 * Buffers that can carry a private key are left out of core dumps, empty in a
 * forked child, locked in memory as far as the limit allows, and wiped.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "err.h"
#include "mem.h"

enum grpc_code {
	GRPC_OK = 0,
	GRPC_CANCELLED = 1,
	GRPC_UNKNOWN = 2,
	GRPC_INVALID_ARGUMENT = 3,
	GRPC_PERMISSION_DENIED = 7,
	GRPC_RESOURCE_EXHAUSTED = 8,
	GRPC_UNIMPLEMENTED = 12,
	GRPC_INTERNAL = 13,
	GRPC_UNAVAILABLE = 14,
	GRPC_UNAUTHENTICATED = 16,
};

#define GRPC_CODES 17 /* 0 to 16 */

/* "PermissionDenied"; "Unknown" for what is not a code. */
const char *grpc_code_name(unsigned int code);

/* ---- Client ---- */

struct grpc_call;

struct grpc_conf {
	const char *path;          /* "/Service/Method" */
	const char *metadata_name; /* one header of the request, or NULL */
	const char *metadata_value;
	size_t message_max; /* bytes; a longer one is never buffered */
};

/* How a call ended. */
struct grpc_status {
	unsigned int code; /* 0 to 16; from the server, or as we judge */
	bool oversize;     /* the server declared more than message_max */
	struct why why;    /* name of the code, and the server's text escaped */
};

/* NULL: no memory. CONF is borrowed for the call. */
struct grpc_call *grpc_new(const struct grpc_conf *conf);
void grpc_free(struct grpc_call **c);

/*
 * Where to read bytes from the server into; never empty. Then say how many
 * there were: they are judged, and wiped.
 */
uint8_t *grpc_room(struct grpc_call *c, size_t *len_r);
void grpc_feed(struct grpc_call *c, size_t len);
/* The connection ended, or broke with TEXT. */
void grpc_feed_end(struct grpc_call *c, const char *text);

/*
 * Bytes for the server, borrowed until grpc_sent(); empty: none now, and maybe
 * the call has ended with them: ask grpc_ended().
 */
struct span grpc_output(struct grpc_call *c);
void grpc_sent(struct grpc_call *c, size_t len);

/*
 * The newest complete message since the last call, borrowed until
 * grpc_taken(), which wipes it. May be of length zero.
 */
bool grpc_take(struct grpc_call *c, struct span *message_r);
void grpc_taken(struct grpc_call *c);

/* NULL while the call lives. A message may still wait to be taken. */
const struct grpc_status *grpc_ended(const struct grpc_call *c);
/* The server asked for another connection; this call may still go on. */
bool grpc_is_leaving(const struct grpc_call *c);
/* Buffers that could not be locked in memory, since grpc_new(). */
uint64_t grpc_lock_failures(const struct grpc_call *c);

/* ---- Server: the development issuer's, never linked into postern ---- */

struct grpc_server;

/* Called from within grpc_server_feed(); they may send, and not free. */
struct grpc_server_ops {
	/* A request is complete. METADATA: value of the header that
	 * grpc_server_new() named, NULL if absent or sent twice. */
	void (*called)(void *arg, struct grpc_server *s, int32_t stream,
	    const char *path, const char *metadata);
	void (*closed)(void *arg, struct grpc_server *s, int32_t stream);
};

struct grpc_server *grpc_server_new(
    const struct grpc_server_ops *ops, const char *metadata_name, void *arg);
void grpc_server_free(struct grpc_server **s);
/* FAULT_MALFORMED: close the connection. */
enum fault grpc_server_feed(struct grpc_server *s, struct span bytes);
struct span grpc_server_output(struct grpc_server *s);
void grpc_server_sent(struct grpc_server *s, size_t len);
/* Queue one message; copied. An unknown stream is ignored. */
enum fault grpc_server_send(
    struct grpc_server *s, int32_t stream, struct span message);
/* After what is queued: trailers. MESSAGE is plain ASCII, or NULL. */
void grpc_server_finish(struct grpc_server *s, int32_t stream,
    unsigned int code, const char *message);

#endif
