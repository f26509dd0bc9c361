#ifndef POSTERN_JSON_H
#define POSTERN_JSON_H

/*
 * Writing JSON (RFC 8259); nothing here parses it. The writer puts the commas,
 * the caller keeps begin and end balanced (asserted). Any thread, one owner.
 */

#include <stdbool.h>
#include <stdint.h>

#include "text.h"

#define JSON_DEPTH_MAX 32

struct json {
	struct text *out; /* borrowed */
	unsigned int depth;
	uint32_t has_member; /* bit D: something stands at depth D already */
	bool after_key;
};

void json_init(struct json *j, struct text *out);

void json_object(struct json *j);
void json_object_end(struct json *j);
void json_array(struct json *j);
void json_array_end(struct json *j);

/* Inside an object, before each value. */
void json_key(struct json *j, const char *key);

void json_str(struct json *j, const char *s); /* NULL is written as null */
void json_span(struct json *j, struct span s);
void json_int(struct json *j, int64_t n);
void json_uint(struct json *j, uint64_t n);
void json_bool(struct json *j, bool b);
void json_null(struct json *j);

/* Key and value in one. */
void json_kstr(struct json *j, const char *key, const char *s);
void json_kuint(struct json *j, const char *key, uint64_t n);
void json_kint(struct json *j, const char *key, int64_t n);
void json_kbool(struct json *j, const char *key, bool b);

/*
 * S as a quoted JSON string. Bytes that are not printable ASCII become \u00NN,
 * each byte by itself: one line, and no invalid UTF-8 comes out.
 */
void json_quote(struct text *out, struct span s);

#endif
