#include "workload_int.h"

#include <stdlib.h>
#include <string.h>

#define FIELD_MAX ((1u << 29) - 1)

enum wire_type {
	WIRE_VARINT = 0,
	WIRE_64 = 1,
	WIRE_BYTES = 2,
	WIRE_GROUP = 3,
	WIRE_GROUP_END = 4,
	WIRE_32 = 5,
};

/* What a level of the message knows; all of it is of WIRE_BYTES. */
enum level {
	LEVEL_RESPONSE, /* svids 1, crl 2, federated_bundles 3 */
	LEVEL_SVID,     /* 1 to 5; 3 is the private key */
	LEVEL_BUNDLE,   /* key 1, value 2 */
};

#define FIELD_SVIDS     1
#define FIELD_CRL       2
#define FIELD_FEDERATED 3
#define FIELD_KEY       3

/* Room for one tag and one length, before it is known how long they are. */
#define HEAD_MAX 10

struct field {
	uint32_t number;
	enum wire_type type;
	struct span payload; /* WIRE_BYTES */
};

static enum fault
malformed(struct why *why, const char *what)
{
	return fail(why, FAULT_MALFORMED, "message: %s", what);
}

static bool
take_varint(struct span *in, uint64_t *value_r)
{
	uint64_t value = 0;
	struct span byte;

	for (unsigned int shift = 0; shift < 70; shift += 7) {
		if (!span_take(in, 1, &byte))
			return false;
		if (shift == 63 && byte.data[0] > 1)
			return false; /* beyond 64 bits */
		value |= (uint64_t)(byte.data[0] & 0x7f) << shift;
		if ((byte.data[0] & 0x80) == 0) {
			*value_r = value;
			return true;
		}
	}
	return false;
}

static bool
take_tag(struct span *in, struct field *f)
{
	uint64_t tag;

	if (!take_varint(in, &tag) || tag >> 3 == 0 || tag >> 3 > FIELD_MAX)
		return false;
	if ((tag & 7) > WIRE_32)
		return false;
	f->number = (uint32_t)(tag >> 3);
	f->type = (enum wire_type)(tag & 7);
	return true;
}

/* The value of any field but a group. */
static bool
take_value(struct span *in, struct field *f)
{
	uint64_t n;
	struct span skipped;

	switch (f->type) {
	case WIRE_VARINT:
		return take_varint(in, &n);
	case WIRE_64:
		return span_take(in, 8, &skipped);
	case WIRE_32:
		return span_take(in, 4, &skipped);
	case WIRE_BYTES:
		return take_varint(in, &n) && n <= in->len &&
		       span_take(in, (size_t)n, &f->payload);
	case WIRE_GROUP:
	case WIRE_GROUP_END:
		return false;
	}
	return false;
}

/* Skip an unknown group, whose start was taken: protobuf-c cannot. */
static bool
skip_group(struct span *in, uint32_t number)
{
	uint32_t open[WORKLOAD_GROUPS_MAX];
	size_t depth = 1;
	struct field f;

	open[0] = number;
	while (depth > 0) {
		if (!take_tag(in, &f))
			return false;
		if (f.type == WIRE_GROUP_END) {
			if (f.number != open[--depth])
				return false;
		} else if (f.type == WIRE_GROUP) {
			if (depth == WORKLOAD_GROUPS_MAX)
				return false;
			open[depth++] = f.number;
		} else if (!take_value(in, &f)) {
			return false;
		}
	}
	return true;
}

static bool
is_known(enum level level, uint32_t number)
{
	switch (level) {
	case LEVEL_RESPONSE:
		return number <= 3;
	case LEVEL_SVID:
		return number <= 5;
	case LEVEL_BUNDLE:
		return number <= 2;
	}
	return false;
}

/* The next known field; *END_R if there is none. */
static enum fault
next_field(struct span *in, enum level level, struct field *f, bool *end_r,
    struct why *why)
{
	*end_r = false;
	while (in->len > 0) {
		if (!take_tag(in, f))
			return malformed(why, "bad tag");
		if (is_known(level, f->number) && f->type != WIRE_BYTES)
			return malformed(why, "known field of another type");
		if (f->type == WIRE_GROUP) {
			if (!skip_group(in, f->number))
				return malformed(why, "bad group");
		} else if (!take_value(in, f)) {
			return malformed(why, "cut short");
		} else if (is_known(level, f->number)) {
			return FAULT_NONE;
		}
	}
	*end_r = true;
	return FAULT_NONE;
}

/* ---- Writing ---- */

static size_t
put_varint(uint8_t *to, uint64_t value)
{
	size_t n = 0;

	for (; value >= 0x80; value >>= 7)
		to[n++] = (uint8_t)(value | 0x80);
	to[n++] = (uint8_t)value;
	return n;
}

static void
put_field(struct scanned *s, const struct field *f)
{
	s->len += put_varint(s->bytes + s->len, f->number << 3 | WIRE_BYTES);
	s->len += put_varint(s->bytes + s->len, f->payload.len);
	if (f->payload.len > 0)
		memcpy(s->bytes + s->len, f->payload.data, f->payload.len);
	s->len += f->payload.len;
}

/*
 * A nested message was written HEAD_MAX bytes after START, where its head will
 * be: now that its length is known, write the head and close the gap.
 */
static void
close_nested(struct scanned *s, size_t start, uint32_t number)
{
	size_t len = s->len - start - HEAD_MAX;
	uint8_t head[HEAD_MAX];
	size_t n = put_varint(head, number << 3 | WIRE_BYTES);

	n += put_varint(head + n, len);
	memmove(s->bytes + start + n, s->bytes + start + HEAD_MAX, len);
	memcpy(s->bytes + start, head, n);
	s->len = start + n + len;
}

/* ---- Levels ---- */

/* A quarter of the key memory stays free: handshakes need it too. */
static bool
has_key_room(const struct scanned *s, size_t len)
{
	size_t size = key_memory_size();

	(void)s; /* what it holds is counted as used */
	return size == 0 || key_memory_used() + len <= size / 4 * 3;
}

static enum fault
take_key(struct scanned *s, struct scanned_key *key, struct span bytes,
    struct why *why)
{
	if (key->bytes != NULL)
		key_memory_free(key->bytes, key->len); /* the last wins */
	*key = (struct scanned_key){0};
	if (bytes.len > WORKLOAD_KEY_MAX)
		return fail(why, FAULT_LIMIT,
		    "message: a key of %zu bytes, "
		    "limit %u",
		    bytes.len, WORKLOAD_KEY_MAX);
	s->key_bytes += bytes.len;
	if (s->key_bytes > WORKLOAD_KEYS_MAX)
		return fail(why, FAULT_LIMIT,
		    "message: keys of more than %u bytes", WORKLOAD_KEYS_MAX);
	if (bytes.len == 0)
		return FAULT_NONE;
	if (has_key_room(s, bytes.len))
		key->bytes = key_memory_alloc(bytes.len);
	key->no_room = key->bytes == NULL;
	if (key->no_room)
		return FAULT_NONE;
	memcpy(key->bytes, bytes.data, bytes.len);
	key->len = bytes.len;
	return FAULT_NONE;
}

static enum fault
scan_nested(struct scanned *s, const struct field *outer, enum level level,
    struct scanned_key *key, struct why *why)
{
	struct span in = outer->payload;
	size_t start = s->len;
	struct field f;
	enum fault fault;
	bool end;

	s->len += HEAD_MAX;
	for (;;) {
		fault = next_field(&in, level, &f, &end, why);
		if (fault != FAULT_NONE)
			return fault;
		if (end)
			break;
		if (key == NULL || f.number != FIELD_KEY) {
			put_field(s, &f);
			continue;
		}
		fault = take_key(s, key, f.payload, why);
		if (fault != FAULT_NONE)
			return fault;
	}
	close_nested(s, start, outer->number);
	return FAULT_NONE;
}

static enum fault
count(size_t *n, size_t max, const char *what, struct why *why)
{
	if (*n == max)
		return fail(
		    why, FAULT_LIMIT, "message: more than %zu %s", max, what);
	(*n)++;
	return FAULT_NONE;
}

static enum fault
scan_field(struct scanned *s, const struct field *f, struct why *why)
{
	enum fault fault;

	switch (f->number) {
	case FIELD_SVIDS:
		fault = count(&s->n_svids, IDENTITY_SVIDS_MAX, "SVIDs", why);
		if (fault != FAULT_NONE)
			return fault;
		return scan_nested(
		    s, f, LEVEL_SVID, &s->keys[s->n_svids - 1], why);
	case FIELD_CRL:
		fault = count(&s->n_crls, IDENTITY_CRLS_MAX, "CRLs", why);
		if (fault == FAULT_NONE)
			put_field(s, f);
		return fault;
	default:
		fault = count(&s->n_federated, IDENTITY_TRUST_DOMAINS_MAX,
		    "trust domains", why);
		if (fault != FAULT_NONE)
			return fault;
		return scan_nested(s, f, LEVEL_BUNDLE, NULL, why);
	}
}

enum fault
workload_scan(struct span message, struct scanned *s, struct why *why)
{
	enum fault fault = FAULT_NONE;
	struct field f;
	bool end = false;

	memset(s, 0, sizeof(*s));
	/* No longer than the message, but for the gap of one nested head. */
	s->bytes = malloc(message.len + HEAD_MAX);
	if (s->bytes == NULL)
		return fail(why, FAULT_NOMEM, "message: out of memory");
	while (fault == FAULT_NONE) {
		fault = next_field(&message, LEVEL_RESPONSE, &f, &end, why);
		if (fault != FAULT_NONE || end)
			break;
		fault = scan_field(s, &f, why);
	}
	if (fault != FAULT_NONE)
		scanned_fini(s);
	return fault;
}

void
scanned_fini(struct scanned *s)
{
	for (size_t i = 0; i < s->n_svids; i++)
		if (s->keys[i].bytes != NULL)
			key_memory_free(s->keys[i].bytes, s->keys[i].len);
	free(s->bytes);
	memset(s, 0, sizeof(*s));
}
