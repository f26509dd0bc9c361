/*
 * Whatever a daemon answers: only a whole last line gives a code, and never
 * more comes out than went in.
 */

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "control_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A number up to 255, and no more. */
static bool
is_code(const uint8_t *digits, size_t len)
{
	unsigned int code = 0;

	while (len > 1 && *digits == '0') {
		digits++;
		len--;
	}
	for (size_t i = 0; i < len && i < 4; i++) {
		if (digits[i] < '0' || digits[i] > '9')
			return false;
		code = code * 10 + (digits[i] - '0');
	}
	return len > 0 && len < 4 && code <= 255;
}

/* Does the first line that begins with ".exit " have a code and an end? */
static bool
has_last_line(struct span in)
{
	while (in.len > 0) {
		const uint8_t *end = memchr(in.data, '\n', in.len);
		size_t len = end == NULL ? in.len : (size_t)(end - in.data);
		struct span line;

		if (len >= 6 && memcmp(in.data, ".exit ", 6) == 0)
			return end != NULL && is_code(in.data + 6, len - 6);
		(void)span_take(&in, len + (end != NULL), &line);
	}
	return false;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	FILE *in, *out;
	char *body = NULL;
	size_t n = 0;
	int code;

	if (size == 0)
		return 0;
	in = fmemopen((void *)(uintptr_t)data, size, "r");
	out = open_memstream(&body, &n);
	if (in == NULL || out == NULL)
		abort();
	code = admin_copy_reply(in, out);
	(void)fclose(in);
	(void)fclose(out);
	assert(n <= size);
	assert(code >= -1 && code <= 255);
	assert((code != -1) == has_last_line(span_of(data, size)));
	free(body);
	return 0;
}
