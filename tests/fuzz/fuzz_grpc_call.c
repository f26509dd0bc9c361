/* Bytes from an agent gone mad: the first byte says how they are split. */

#include <string.h>

#include "grpc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct grpc_conf conf = {
	    .path = "/S/M",
	    .metadata_name = "m",
	    .metadata_value = "v",
	    .message_max = 4096,
	};
	struct grpc_call *c;
	struct span in, part, out, message;
	size_t piece;

	if (size == 0)
		return 0;
	piece = (size_t)data[0] + 1;
	in = span_of(data + 1, size - 1);
	c = grpc_new(&conf);
	if (c == NULL)
		return 0;
	while (in.len > 0) {
		size_t room;
		uint8_t *to = grpc_room(c, &room);

		(void)span_take(&in, piece < in.len ? piece : in.len, &part);
		memcpy(to, part.data, part.len);
		grpc_feed(c, part.len);
		if (grpc_take(c, &message))
			grpc_taken(c);
		while ((out = grpc_output(c)).len > 0)
			grpc_sent(c, out.len);
	}
	grpc_free(&c);
	return 0;
}
