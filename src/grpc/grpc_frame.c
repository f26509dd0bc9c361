#include "grpc_int.h"

#include <assert.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static size_t
whole_pages(size_t len)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	return (len + page - 1) / page * page;
}

static bool
first_pages(struct grpc_buffer *b, size_t cap)
{
	void *data = mmap(NULL, cap, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (data == MAP_FAILED)
		return false;
	/* Old kernels may refuse either; a core dump is then as it was. */
	(void)madvise(data, cap, MADV_DONTDUMP);
	(void)madvise(data, cap, MADV_WIPEONFORK);
	b->locked = mlock(data, cap) == 0;
	if (!b->locked)
		b->lock_failures++;
	b->data = data;
	b->cap = cap;
	return true;
}

bool
grpc_buffer_reserve(struct grpc_buffer *b, size_t cap)
{
	void *data;

	cap = whole_pages(cap == 0 ? 1 : cap);
	if (cap <= b->cap)
		return true;
	if (b->data == NULL)
		return first_pages(b, cap);
	/*
	 * mremap moves pages, so that growing leaves no copy behind. A locked
	 * mapping that outgrows RLIMIT_MEMLOCK fails with EAGAIN.
	 */
	data = mremap(b->data, b->cap, cap, MREMAP_MAYMOVE);
	if (data == MAP_FAILED && b->locked) {
		(void)munlock(b->data, b->cap);
		b->locked = false;
		b->lock_failures++;
		data = mremap(b->data, b->cap, cap, MREMAP_MAYMOVE);
	}
	if (data == MAP_FAILED)
		return false;
	b->data = data;
	b->cap = cap;
	return true;
}

void
grpc_buffer_fini(struct grpc_buffer *b)
{
	if (b->data != NULL) {
		explicit_bzero(b->data, b->len);
		(void)munmap(b->data, b->cap);
	}
	b->data = NULL;
	b->len = b->cap = 0;
	b->locked = false;
}

/* A header is complete: judge it before a byte of the message is kept. */
static enum grpc_frame_result
begin_message(struct grpc_frames *f)
{
	const uint8_t *h = f->header;

	if (h[0] != 0)
		return GRPC_FRAME_FLAG; /* no compression was offered */
	f->declared = (size_t)h[1] << 24 | (size_t)h[2] << 16 |
	              (size_t)h[3] << 8 | (size_t)h[4];
	if (f->declared > f->message_max)
		return GRPC_FRAME_OVERSIZE;
	f->partial.len = 0;
	return GRPC_FRAME_OK;
}

static void
end_message(struct grpc_frames *f)
{
	struct grpc_buffer done = f->partial;

	f->lock_failures += done.lock_failures;
	f->partial = (struct grpc_buffer){0};
	grpc_buffer_fini(&f->ready); /* superseded: each is a full state */
	f->ready = done;
	f->is_ready = true;
	f->header_len = 0;
	f->messages++;
}

/* Grow by doubling: a declared length costs nothing before its bytes come. */
static bool
keep_bytes(struct grpc_frames *f, struct span part)
{
	struct grpc_buffer *b = &f->partial;
	size_t need = b->len + part.len;
	size_t cap = b->cap * 2 < need ? need : b->cap * 2;

	assert(need <= f->declared);
	if (need > b->cap &&
	    !grpc_buffer_reserve(b, cap < f->declared ? cap : f->declared))
		return false;
	memcpy(b->data + b->len, part.data, part.len);
	b->len = need;
	return true;
}

enum grpc_frame_result
grpc_frames_feed(struct grpc_frames *f, struct span bytes)
{
	enum grpc_frame_result result;
	struct span part;
	size_t n;

	while (bytes.len > 0) {
		if (f->header_len < GRPC_FRAME_HEADER) {
			(void)span_take(&bytes, 1, &part);
			f->header[f->header_len++] = part.data[0];
			if (f->header_len < GRPC_FRAME_HEADER)
				continue;
			result = begin_message(f);
			if (result != GRPC_FRAME_OK)
				return result;
		} else {
			n = f->declared - f->partial.len;
			n = n < bytes.len ? n : bytes.len;
			(void)span_take(&bytes, n, &part);
			if (!keep_bytes(f, part))
				return GRPC_FRAME_NOMEM;
		}
		if (f->partial.len == f->declared)
			end_message(f);
	}
	return GRPC_FRAME_OK;
}

bool
grpc_frames_partial(const struct grpc_frames *f)
{
	return f->header_len != 0;
}

void
grpc_frames_taken(struct grpc_frames *f)
{
	grpc_buffer_fini(&f->ready);
	f->is_ready = false;
}

void
grpc_frames_fini(struct grpc_frames *f)
{
	grpc_buffer_fini(&f->partial);
	grpc_buffer_fini(&f->ready);
	f->is_ready = false;
}
