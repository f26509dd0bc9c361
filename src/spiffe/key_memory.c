#include "key_memory_int.h"
#include "spiffe.h"

#include <malloc.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/rand.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Blocks of the secure heap are at least this large. */
#define BLOCK_MIN 32

/*
 * Set around the decoding of a private key: libcrypto leaves a copy of it in
 * what it frees meanwhile, for every key type. The hot path pays one test.
 */
static _Thread_local bool wiping;

/*
 * Of the process, as the library's heap itself, which does not tell its size.
 * Written once, before any thread starts.
 */
static _Atomic size_t heap_size;

static void *
allocate(size_t len, const char *file, int line)
{
	(void)file;
	(void)line;
	return malloc(len);
}

static void
release(void *bytes, const char *file, int line)
{
	(void)file;
	(void)line;
	if (wiping && bytes != NULL)
		explicit_bzero(bytes, malloc_usable_size(bytes));
	free(bytes);
}

/* realloc() may move and leave the old bytes behind: move by hand. */
static void *
move_and_wipe(void *old, size_t len)
{
	size_t had = malloc_usable_size(old);
	void *fresh = malloc(len);

	if (fresh == NULL)
		return NULL;
	memcpy(fresh, old, had < len ? had : len);
	explicit_bzero(old, had);
	free(old);
	return fresh;
}

static void *
reallocate(void *old, size_t len, const char *file, int line)
{
	if (!wiping || old == NULL)
		return realloc(old, len);
	if (len == 0) {
		release(old, file, line);
		return NULL;
	}
	return move_and_wipe(old, len);
}

void
key_memory_wipe_freed(bool on)
{
	wiping = on;
}

enum fault
key_memory_init(size_t size, bool *locked_r, struct why *why)
{
	int made;

	if (CRYPTO_set_mem_functions(allocate, reallocate, release) != 1)
		return fail(why, FAULT_NOMEM,
		    "key memory: OpenSSL was used before its allocator was "
		    "set");
	made = CRYPTO_secure_malloc_init(size, BLOCK_MIN);
	if (made == 0) {
		ERR_clear_error();
		return fail(why, FAULT_NOMEM,
		    "key memory: no secure heap of %zu bytes", size);
	}
	atomic_store_explicit(&heap_size, size, memory_order_relaxed);
	*locked_r = made == 1;
	return FAULT_NONE;
}

size_t
key_memory_used(void)
{
	return CRYPTO_secure_malloc_initialized() ? CRYPTO_secure_used() : 0;
}

size_t
key_memory_size(void)
{
	return atomic_load_explicit(&heap_size, memory_order_relaxed);
}

void
key_memory_thread_start(void)
{
	uint8_t byte;

	(void)RAND_priv_bytes(&byte, sizeof(byte));
	(void)RAND_bytes(&byte, sizeof(byte));
	ERR_clear_error();
}

uint8_t *
key_memory_alloc(size_t len)
{
	uint8_t *bytes = OPENSSL_secure_malloc(len);

	/* Without a heap of ours the library falls back to the ordinary one. */
	if (bytes == NULL)
		ERR_clear_error();
	return bytes;
}

void
key_memory_free(uint8_t *bytes, size_t len)
{
	OPENSSL_secure_clear_free(bytes, len);
}

void
key_memory_wipe(void *bytes, size_t len)
{
	explicit_bzero(bytes, len);
}

const char *
spiffe_library_version(void)
{
	return OpenSSL_version(OPENSSL_VERSION);
}
