/* What is accepted is dumped, loaded again, and is the same. */

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "conf_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct conf *
load(const void *data, size_t len)
{
	static const char *const files[] = {"t.ini"};
	struct conf_load_args args = {
	    .files = files, .n_files = 1, .names_may_pend = true};
	struct raw raw = {0};
	struct conf *c = NULL;
	struct diags d;
	uint8_t *copy = malloc(len + 1);

	if (copy == NULL)
		abort();
	if (len > 0)
		memcpy(copy, data, len);
	diags_init(&d);
	(void)raw_add(&raw, "t.ini", copy, len, &d);
	(void)conf_build(&raw, &args, &c, &d);
	assert((c == NULL) == (d.errors > 0));
	raw_fini(&raw);
	diags_fini(&d);
	return c;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct conf *first = load(data, size);
	struct conf *second;
	struct text t;

	if (first == NULL)
		return 0;
	text_init(&t);
	conf_dump(first, true, &t);
	second = load(t.data, t.len);
	assert(second != NULL);
	assert(strcmp(first->hash, second->hash) == 0);
	text_fini(&t);
	conf_free(&first);
	conf_free(&second);
	return 0;
}
