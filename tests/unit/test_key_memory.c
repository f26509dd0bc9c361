#include "key_memory_int.h"
#include "made.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>

#define HEAP 65536

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

/* How often the 32 bytes of SECRET, each XOR 0x5a, lie in the plain heap. */
static int
copies_in_heap(const uint8_t masked[32])
{
	FILE *maps = fopen("/proc/self/maps", "r");
	int copies = 0;
	char line[512];

	while (fgets(line, sizeof(line), maps) != NULL) {
		unsigned long from;
		unsigned long to;

		if (strstr(line, "[heap]") == NULL ||
		    sscanf(line, "%lx-%lx", &from, &to) != 2)
			continue;
		for (const uint8_t *at = (const uint8_t *)from;
		     at + 32 <= (const uint8_t *)to; at++) {
			size_t same = 0;

			while (same < 32 && (at[same] ^ 0x5a) == masked[same])
				same++;
			copies += same == 32 ? 1 : 0;
		}
	}
	fclose(maps);
	return copies;
}

static void
mask_scalar(EVP_PKEY *key, uint8_t masked_r[32])
{
	BIGNUM *scalar = NULL;

	assert_int_equal(
	    EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_PRIV_KEY, &scalar), 1);
	assert_int_equal(BN_bn2binpad(scalar, masked_r, 32), 32);
	for (size_t i = 0; i < 32; i++)
		masked_r[i] ^= 0x5a;
	BN_clear_free(scalar);
}

/* A copy in freed memory would reach a core dump or the swap. */
static void
test_key_memory_decoding_leaves_no_copy_behind(void **state)
{
	AUTO(ca_free) struct ca *ca = made_ca(NULL, NULL);
	struct ca_svid *made;
	struct svid_raw raw;
	struct svid *s = NULL;
	uint8_t masked[32];
	uint8_t *chain;
	uint8_t *key;

	(void)state;
	key_memory_wipe_freed(true);
	made = made_svid_of(ca, "spiffe://a.test/x");
	mask_scalar(ca_svid_key(made), masked);
	raw = made_raw(made, "spiffe://a.test/x");
	chain = malloc(raw.chain.len);
	memcpy(chain, raw.chain.data, raw.chain.len);
	key = key_memory_alloc(raw.key.len);
	memcpy(key, raw.key.data, raw.key.len);
	raw.chain.data = chain;
	raw.key.data = key;
	ca_svid_free(&made);
	key_memory_wipe_freed(false);
	assert_int_equal(copies_in_heap(masked), 0);

	assert_int_equal(svid_parse(&raw, &s, NULL), FAULT_NONE);
	key_memory_free(key, raw.key.len);
	assert_int_equal(copies_in_heap(masked), 0);
	svid_free(&s);
	free(chain);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_key_memory_second_init_is_refused),
	    cmocka_unit_test(test_key_memory_holds_the_key_of_an_svid),
	    cmocka_unit_test(test_key_memory_decoding_leaves_no_copy_behind),
	    cmocka_unit_test(test_key_memory_alloc_beyond_the_heap_is_null),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
