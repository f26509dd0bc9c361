/* An X509SVIDResponse from an agent gone mad. */

#include "workload_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct identity *id = NULL;
	uint64_t next = 1;
	struct why why;

	(void)workload_decode(span_of(data, size), NULL, &next, &id, &why);
	identity_free(&id);
	return 0;
}
