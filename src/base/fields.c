#include "fields.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "clock.h"
#include "json.h"

enum field_type { FIELD_TYPE_TEXT, FIELD_TYPE_NUMBER };

const char *
log_field_name(enum log_field field)
{
	switch (field) {
#define X(name, type, sentence)                                                \
	case FIELD_##name:                                                     \
		return #name;
		LOG_FIELDS(X)
#undef X
	}
	return "?";
}

static enum field_type
field_type(enum log_field field)
{
	switch (field) {
#define X(name, type, sentence)                                                \
	case FIELD_##name:                                                     \
		return FIELD_TYPE_##type;
		LOG_FIELDS(X)
#undef X
	}
	return FIELD_TYPE_TEXT;
}

const char *
log_level_name(enum log_level level)
{
	switch (level) {
	case LOG_LEVEL_ERROR:
		return "error";
	case LOG_LEVEL_WARN:
		return "warn";
	case LOG_LEVEL_INFO:
		return "info";
	case LOG_LEVEL_DEBUG:
		return "debug";
	}
	return "?";
}

bool
log_level_parse(struct span s, enum log_level *level_r)
{
	for (enum log_level l = LOG_LEVEL_ERROR; l <= LOG_LEVEL_DEBUG; l++) {
		if (span_equal_str(s, log_level_name(l))) {
			*level_r = l;
			return true;
		}
	}
	return false;
}

void
fields_init(struct fields *f, enum log_level level, const char *event)
{
	f->wall_ms = clock_wall_ms();
	f->level = level;
	f->truncated = false;
	f->len = 0;
	fields_add(f, FIELD_event, event);
}

/* A packed field: one byte of name, two of length, the bytes. */
void
fields_add_span(struct fields *f, enum log_field field, struct span s)
{
	size_t room = sizeof(f->data) - f->len;
	uint16_t n;

	if (room < 3 + s.len) {
		f->truncated = true;
		return;
	}
	n = (uint16_t)s.len;
	f->data[f->len] = (uint8_t)field;
	memcpy(f->data + f->len + 1, &n, sizeof(n));
	if (n != 0)
		memcpy(f->data + f->len + 3, s.data, n);
	f->len = (uint16_t)(f->len + 3 + n);
}

void
fields_add(struct fields *f, enum log_field field, const char *text)
{
	fields_add_span(f, field, span_of_str(text));
}

void
fields_add_number(struct fields *f, enum log_field field, uint64_t n)
{
	fields_addf(f, field, "%llu", (unsigned long long)n);
}

void
fields_addf(struct fields *f, enum log_field field, const char *fmt, ...)
{
	char buf[2304];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(buf, sizeof(buf), fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	if ((size_t)n >= sizeof(buf))
		n = (int)sizeof(buf) - 1;
	fields_add_span(f, field, span_of(buf, (size_t)n));
}

/* Step to the next packed field; false at the end. */
static bool
next_field(struct span *rest, enum log_field *field_r, struct span *value_r)
{
	struct span head;
	uint16_t n;

	if (!span_take(rest, 3, &head))
		return false;
	memcpy(&n, head.data + 1, sizeof(n));
	*field_r = (enum log_field)head.data[0];
	return span_take(rest, n, value_r);
}

bool
fields_get(const struct fields *f, enum log_field field, struct span *value_r)
{
	struct span rest = span_of(f->data, f->len);
	struct span value;
	enum log_field at;

	while (next_field(&rest, &at, &value)) {
		if (at == field) {
			*value_r = value;
			return true;
		}
	}
	return false;
}

static void
format_time(int64_t wall_ms, char buf[32])
{
	time_t s = (time_t)(wall_ms / 1000);
	struct tm tm;
	size_t n;

	(void)gmtime_r(&s, &tm);
	n = strftime(buf, 32, "%Y-%m-%dT%H:%M:%S", &tm);
	(void)snprintf(buf + n, 32 - n, ".%03dZ", (int)(wall_ms % 1000));
}

/* A logfmt value is bare while it is one word, else quoted and escaped. */
static bool
is_bare(struct span s)
{
	for (size_t i = 0; i < s.len; i++) {
		uint8_t c = s.data[i];

		if (c <= ' ' || c >= 0x7f || c == '"' || c == '=' || c == '\\')
			return false;
	}
	return s.len != 0;
}

static void
render_logfmt(const struct fields *f, struct text *out)
{
	struct span rest = span_of(f->data, f->len);
	struct span value;
	enum log_field field;
	char ts[32];

	format_time(f->wall_ms, ts);
	text_add(out, "ts=%s level=%s", ts, log_level_name(f->level));
	while (next_field(&rest, &field, &value)) {
		text_add(out, " %s=", log_field_name(field));
		if (is_bare(value))
			text_add_span(out, value);
		else
			json_quote(out, value);
	}
	text_add_char(out, '\n');
}

static void
render_json(const struct fields *f, struct text *out)
{
	struct span rest = span_of(f->data, f->len);
	struct span value;
	enum log_field field;
	char ts[32];

	format_time(f->wall_ms, ts);
	text_add(out, "{\"ts\":\"%s\",\"level\":\"%s\"", ts,
	    log_level_name(f->level));
	while (next_field(&rest, &field, &value)) {
		text_add(out, ",\"%s\":", log_field_name(field));
		if (field_type(field) == FIELD_TYPE_NUMBER)
			text_add_span(out, value);
		else
			json_quote(out, value);
	}
	text_add(out, "}\n");
}

/* systemd's native protocol: NAME=value lines, or NAME, length, bytes. */
static void
journal_field(struct text *out, const char *name, struct span value)
{
	uint64_t n = value.len;

	if (memchr(value.data, '\n', value.len) == NULL) {
		text_add(out, "%s=", name);
		text_add_span(out, value);
	} else {
		uint8_t le[8];

		for (size_t i = 0; i < sizeof(le); i++)
			le[i] = (uint8_t)(n >> (8 * i));
		text_add(out, "%s\n", name);
		text_add_span(out, span_of(le, sizeof(le)));
		text_add_span(out, value);
	}
	text_add_char(out, '\n');
}

static int
syslog_priority(enum log_level level)
{
	switch (level) {
	case LOG_LEVEL_ERROR:
		return 3;
	case LOG_LEVEL_WARN:
		return 4;
	case LOG_LEVEL_INFO:
		return 6;
	case LOG_LEVEL_DEBUG:
		return 7;
	}
	return 6;
}

static void
render_journal(const struct fields *f, struct text *out)
{
	struct span rest = span_of(f->data, f->len);
	struct text line;
	struct span value;
	enum log_field field;

	text_init(&line);
	text_add(out, "PRIORITY=%d\nSYSLOG_IDENTIFIER=postern\n",
	    syslog_priority(f->level));
	while (next_field(&rest, &field, &value)) {
		char name[64] = "POSTERN_";
		const char *lower = log_field_name(field);
		size_t n = strlen(name);

		for (; *lower != '\0' && n < sizeof(name) - 1; lower++)
			name[n++] = (char)(*lower >= 'a' && *lower <= 'z'
			                       ? *lower - 'a' + 'A'
			                       : *lower);
		name[n] = '\0';
		journal_field(out, name, value);
		text_add(&line, "%s%s=", line.len == 0 ? "" : " ",
		    log_field_name(field));
		if (is_bare(value))
			text_add_span(&line, value);
		else
			json_quote(&line, value);
	}
	journal_field(out, "MESSAGE", span_of(line.data, line.len));
	text_fini(&line);
}

void
fields_render(const struct fields *f, enum log_format format, struct text *out)
{
	switch (format) {
	case LOG_FORMAT_LOGFMT:
		render_logfmt(f, out);
		return;
	case LOG_FORMAT_JSON:
		render_json(f, out);
		return;
	case LOG_FORMAT_JOURNAL:
		render_journal(f, out);
		return;
	}
}

size_t
fields_packed_len(const struct fields *f)
{
	return offsetof(struct fields, data) + f->len;
}
