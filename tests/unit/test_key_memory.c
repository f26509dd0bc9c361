#include "made.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>

#define HEAP 65536

/* In a run under a sanitizer the allocator underneath poisons freed memory. */
static int
setup(void **state)
{
	bool locked = false;

	(void)state;
	return key_memory_init(HEAP, &locked, NULL) == FAULT_NONE ? 0 : -1;
}

/* Too late is said, not ignored: keys would lie about in the plain heap. */
static void
test_key_memory_second_init_is_refused(void **state)
{
	struct why why = {.text = ""};
	bool locked = true;

	(void)state;
	key_memory_thread_start();
	assert_int_equal(key_memory_init(HEAP, &locked, &why), FAULT_NOMEM);
	assert_string_not_equal(why.text, "");
}

/* An SVID's key lies in the locked heap, and goes from it with the SVID. */
static void
test_key_memory_holds_the_key_of_an_svid(void **state)
{
	AUTO(ca_free) struct ca *ca = made_ca(NULL, NULL);
	AUTO(ca_svid_free)
	struct ca_svid *made = made_svid_of(ca, "spiffe://a.test/x");
	struct svid_raw raw = made_raw(made, "spiffe://a.test/x");
	struct svid *s = NULL;
	size_t before = key_memory_used();

	(void)state;
	assert_int_equal(key_memory_size(), HEAP);
	assert_int_equal(svid_parse(&raw, &s, NULL), FAULT_NONE);
	assert_true(key_memory_used() > before);
	svid_free(&s);
	assert_int_equal(key_memory_used(), before);
}

/* A full heap is a NULL, which the reader of a message turns into a fault. */
static void
test_key_memory_alloc_beyond_the_heap_is_null(void **state)
{
	uint8_t *bytes = key_memory_alloc(100);

	(void)state;
	assert_non_null(bytes);
	assert_int_equal(CRYPTO_secure_allocated(bytes), 1);
	key_memory_free(bytes, 100);
	assert_null(key_memory_alloc(2 * HEAP));
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_key_memory_second_init_is_refused),
	    cmocka_unit_test(test_key_memory_holds_the_key_of_an_svid),
	    cmocka_unit_test(test_key_memory_alloc_beyond_the_heap_is_null),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
