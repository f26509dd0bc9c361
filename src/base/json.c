#include "json.h"

#include <assert.h>
#include <inttypes.h>

void
json_init(struct json *j, struct text *out)
{
	*j = (struct json){.out = out};
}

/* A comma, unless this is the first of its level or follows a key. */
static void
before_value(struct json *j)
{
	uint32_t bit = (uint32_t)1 << j->depth;

	if (j->after_key) {
		j->after_key = false;
		return;
	}
	if (j->has_member & bit)
		text_add_char(j->out, ',');
	j->has_member |= bit;
}

static void
begin(struct json *j, char c)
{
	before_value(j);
	text_add_char(j->out, c);
	j->depth++;
	assert(j->depth < JSON_DEPTH_MAX);
	j->has_member &= ~((uint32_t)1 << j->depth);
}

static void
end(struct json *j, char c)
{
	assert(j->depth > 0 && !j->after_key);
	j->depth--;
	text_add_char(j->out, c);
}

void
json_object(struct json *j)
{
	begin(j, '{');
}

void
json_object_end(struct json *j)
{
	end(j, '}');
}

void
json_array(struct json *j)
{
	begin(j, '[');
}

void
json_array_end(struct json *j)
{
	end(j, ']');
}

void
json_key(struct json *j, const char *key)
{
	before_value(j);
	json_quote(j->out, span_of_str(key));
	text_add_char(j->out, ':');
	j->after_key = true;
}

void
json_span(struct json *j, struct span s)
{
	before_value(j);
	json_quote(j->out, s);
}

void
json_str(struct json *j, const char *s)
{
	if (s == NULL)
		json_null(j);
	else
		json_span(j, span_of_str(s));
}

void
json_int(struct json *j, int64_t n)
{
	before_value(j);
	text_add(j->out, "%" PRId64, n);
}

void
json_uint(struct json *j, uint64_t n)
{
	before_value(j);
	text_add(j->out, "%" PRIu64, n);
}

void
json_bool(struct json *j, bool b)
{
	before_value(j);
	text_add(j->out, "%s", b ? "true" : "false");
}

void
json_null(struct json *j)
{
	before_value(j);
	text_add(j->out, "null");
}

void
json_kstr(struct json *j, const char *key, const char *s)
{
	json_key(j, key);
	json_str(j, s);
}

void
json_kuint(struct json *j, const char *key, uint64_t n)
{
	json_key(j, key);
	json_uint(j, n);
}

void
json_kint(struct json *j, const char *key, int64_t n)
{
	json_key(j, key);
	json_int(j, n);
}

void
json_kbool(struct json *j, const char *key, bool b)
{
	json_key(j, key);
	json_bool(j, b);
}

void
json_quote(struct text *out, struct span s)
{
	text_add_char(out, '"');
	for (size_t i = 0; i < s.len; i++) {
		uint8_t c = s.data[i];

		if (c == '"' || c == '\\')
			text_add(out, "\\%c", c);
		else if (c == '\n')
			text_add(out, "\\n");
		else if (c < 0x20 || c >= 0x7f)
			text_add(out, "\\u%04x", c);
		else
			text_add_char(out, (char)c);
	}
	text_add_char(out, '"');
}
