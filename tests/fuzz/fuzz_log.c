/*
 * Whatever a peer or an agent makes us log: one record is one line of
 * printable ASCII, and JSON gives back every byte of every value.
 */

#include <assert.h>
#include <string.h>

#include "fields.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define VALUES_MAX 512

struct made {
	struct fields fields;
	struct span values[VALUES_MAX]; /* borrowed from the input */
	enum log_field names[VALUES_MAX];
	size_t n;
};

static bool
is_number(enum log_field field)
{
	enum { TEXT = 0, NUMBER = 1 };

	switch (field) {
#define X(name, type, sentence)                                                \
	case FIELD_##name:                                                     \
		return type == NUMBER;
		LOG_FIELDS(X)
#undef X
	}
	return false;
}

/* Name, two bytes of length, the value; until the input or the room ends. */
static void
make(struct made *m, struct span in)
{
	struct span head, value;

	while (m->n < VALUES_MAX && span_take(&in, 3, &head)) {
		enum log_field name =
		    (enum log_field)(head.data[0] % LOG_FIELD_COUNT);
		size_t len = head.data[1] | (size_t)head.data[2] << 8;
		uint16_t before = m->fields.len;

		if (!span_take(&in, len < in.len ? len : in.len, &value))
			return;
		if (is_number(name))
			continue; /* only fields_add_number() makes those */
		fields_add_span(&m->fields, name, value);
		if (m->fields.len == before)
			continue;
		m->values[m->n] = value;
		m->names[m->n++] = name;
	}
}

static void
check_line(const struct text *t)
{
	assert(t->len > 0 && t->data[t->len - 1] == '\n');
	for (size_t i = 0; i + 1 < t->len; i++)
		assert(t->data[i] >= ' ' && t->data[i] <= '~');
}

static const char *
expect(const char *p, const char *word)
{
	assert(strncmp(p, word, strlen(word)) == 0);
	return p + strlen(word);
}

static unsigned int
hex(char c)
{
	const char *digits = "0123456789abcdef";
	const char *at = strchr(digits, c);

	assert(c != '\0' && at != NULL);
	return (unsigned int)(at - digits);
}

/* One character of a string, RFC 8259, section 7. */
static const char *
unescape(const char *p, uint8_t *byte_r)
{
	if (*p != '\\') {
		assert(*p != '"');
		*byte_r = (uint8_t)*p;
		return p + 1;
	}
	switch (p[1]) {
	case '"':
	case '\\':
		*byte_r = (uint8_t)p[1];
		return p + 2;
	case 'n':
		*byte_r = '\n';
		return p + 2;
	default:
		p = expect(p, "\\u00");
		*byte_r = (uint8_t)(hex(p[0]) << 4 | hex(p[1]));
		return p + 2;
	}
}

static void
check_json(const struct made *m, const struct text *t)
{
	const char *p = strstr(t->data, ",\"event\":\"fuzz\"");

	assert(p != NULL);
	p = expect(p, ",\"event\":\"fuzz\"");
	for (size_t i = 0; i < m->n; i++) {
		p = expect(p, ",\"");
		p = expect(p, log_field_name(m->names[i]));
		p = expect(p, "\":\"");
		for (size_t j = 0; j < m->values[i].len; j++) {
			uint8_t byte;

			p = unescape(p, &byte);
			assert(byte == m->values[i].data[j]);
		}
		p = expect(p, "\"");
	}
	assert(strcmp(p, "}\n") == 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct made m = {.n = 0};
	struct text t;

	fields_init(&m.fields, LOG_LEVEL_INFO, "fuzz");
	make(&m, span_of(data, size));
	text_init(&t);
	fields_render(&m.fields, LOG_FORMAT_LOGFMT, &t);
	check_line(&t);
	text_clear(&t);
	fields_render(&m.fields, LOG_FORMAT_JSON, &t);
	check_line(&t);
	check_json(&m, &t);
	text_clear(&t);
	fields_render(&m.fields, LOG_FORMAT_JOURNAL, &t);
	text_fini(&t);
	return 0;
}
