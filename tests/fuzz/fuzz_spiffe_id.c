/*
 * An ID that parses is made of its three spans and nothing else, and parses
 * again to the same.
 */

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "mem.h"
#include "spiffe.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct spiffe_id id;

	if (spiffe_id_parse(span_of(data, size), &id) != SPIFFE_ID_OK)
		return 0;
	assert(id.text.data == data && id.text.len == size);
	assert(id.trust_domain.data == data + 9);
	assert(id.path.data == id.trust_domain.data + id.trust_domain.len);
	assert(9 + id.trust_domain.len + id.path.len == size);
	assert(spiffe_trust_domain_check(id.trust_domain) == SPIFFE_ID_OK);
	for (size_t i = 9; i < size; i++)
		assert(data[i] > ' ' && data[i] < 0x7f);
	return 0;
}
