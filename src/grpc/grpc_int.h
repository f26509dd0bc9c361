#ifndef POSTERN_GRPC_INT_H
#define POSTERN_GRPC_INT_H

/* Framing, guarded buffers and status words, shared by the files of grpc. */

#include "grpc.h"

/* ---- grpc_frame.c ---- */

/* Memory that may carry a key. Zeroed is empty. */
struct grpc_buffer {
	uint8_t *data; /* pages of its own */
	size_t len;
	size_t cap; /* whole pages */
	bool locked;
	uint64_t lock_failures; /* 0 or 1 per growth */
};

/* Room for CAP bytes; what is there stays. False: no memory. */
bool grpc_buffer_reserve(struct grpc_buffer *b, size_t cap);
void grpc_buffer_fini(struct grpc_buffer *b); /* wiped and given back */

#define GRPC_FRAME_HEADER 5

/*
 * Length-prefixed messages out of DATA frames: one flag byte, four of length,
 * big-endian, in any split (gRPC over HTTP/2, "Length-Prefixed-Message").
 */
struct grpc_frames {
	size_t message_max;
	uint8_t header[GRPC_FRAME_HEADER];
	size_t header_len;
	size_t declared;
	struct grpc_buffer partial;
	struct grpc_buffer ready; /* newest complete one */
	bool is_ready;
	uint64_t messages;
	uint64_t lock_failures; /* of complete messages */
};

enum grpc_frame_result {
	GRPC_FRAME_OK,
	GRPC_FRAME_FLAG,     /* a flag that we did not ask for */
	GRPC_FRAME_OVERSIZE, /* more declared than message_max */
	GRPC_FRAME_NOMEM,
};

enum grpc_frame_result grpc_frames_feed(
    struct grpc_frames *f, struct span bytes);
/* Are we in the middle of a message? */
bool grpc_frames_partial(const struct grpc_frames *f);
void grpc_frames_taken(struct grpc_frames *f);
void grpc_frames_fini(struct grpc_frames *f);

/* ---- grpc_status.c ---- */

/* grpc-status as sent: decimal, 0 to 16, else 2. */
unsigned int grpc_code_parse(struct span text);
/* When there is no grpc-status (http-grpc-status-mapping). */
unsigned int grpc_code_from_http(unsigned int http_status);
/* RST_STREAM's code (gRPC over HTTP/2, "Errors"). */
unsigned int grpc_code_from_reset(uint32_t h2_error);
/* Percent decoding; what does not decode stays as it is. Returns the length,
 * never more than SIZE. */
size_t grpc_message_decode(struct span text, uint8_t *out, size_t size);

#endif
