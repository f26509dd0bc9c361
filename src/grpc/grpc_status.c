#include "grpc_int.h"

#include <nghttp2/nghttp2.h>

const char *
grpc_code_name(unsigned int code)
{
	static const char *const names[GRPC_CODES] = {
	    "OK",
	    "Cancelled",
	    "Unknown",
	    "InvalidArgument",
	    "DeadlineExceeded",
	    "NotFound",
	    "AlreadyExists",
	    "PermissionDenied",
	    "ResourceExhausted",
	    "FailedPrecondition",
	    "Aborted",
	    "OutOfRange",
	    "Unimplemented",
	    "Internal",
	    "Unavailable",
	    "DataLoss",
	    "Unauthenticated",
	};

	return names[code < GRPC_CODES ? code : GRPC_UNKNOWN];
}

unsigned int
grpc_code_parse(struct span text)
{
	unsigned int code = 0;

	if (text.len == 0 || text.len > 2)
		return GRPC_UNKNOWN;
	if (text.len == 2 && text.data[0] == '0')
		return GRPC_UNKNOWN;
	for (size_t i = 0; i < text.len; i++) {
		if (text.data[i] < '0' || text.data[i] > '9')
			return GRPC_UNKNOWN;
		code = code * 10 + (unsigned int)(text.data[i] - '0');
	}
	return code < GRPC_CODES ? code : GRPC_UNKNOWN;
}

unsigned int
grpc_code_from_http(unsigned int http_status)
{
	switch (http_status) {
	case 400:
		return GRPC_INTERNAL;
	case 401:
		return GRPC_UNAUTHENTICATED;
	case 403:
		return GRPC_PERMISSION_DENIED;
	case 404:
		return GRPC_UNIMPLEMENTED;
	case 429:
	case 502:
	case 503:
	case 504:
		return GRPC_UNAVAILABLE;
	default:
		return GRPC_UNKNOWN;
	}
}

unsigned int
grpc_code_from_reset(uint32_t h2_error)
{
	switch (h2_error) {
	case NGHTTP2_REFUSED_STREAM:
		return GRPC_UNAVAILABLE;
	case NGHTTP2_CANCEL:
		return GRPC_CANCELLED;
	case NGHTTP2_ENHANCE_YOUR_CALM:
		return GRPC_RESOURCE_EXHAUSTED;
	case NGHTTP2_INADEQUATE_SECURITY:
		return GRPC_PERMISSION_DENIED;
	default:
		return GRPC_INTERNAL;
	}
}

static int
hex_digit(uint8_t c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

size_t
grpc_message_decode(struct span text, uint8_t *out, size_t size)
{
	size_t len = 0;

	for (size_t i = 0; i < text.len && len < size; i++) {
		uint8_t c = text.data[i];
		int high = -1, low = -1;

		if (c == '%' && i + 2 < text.len) {
			high = hex_digit(text.data[i + 1]);
			low = hex_digit(text.data[i + 2]);
		}
		if (high >= 0 && low >= 0) {
			c = (uint8_t)(high << 4 | low);
			i += 2;
		}
		out[len++] = c;
	}
	return len;
}
