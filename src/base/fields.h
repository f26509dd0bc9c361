#ifndef POSTERN_FIELDS_H
#define POSTERN_FIELDS_H

/*
 * One record, three renderings: logfmt, JSON, journal.
 *
 * A record is packed into a fixed buffer, so that a worker fills it without
 * an allocation and hands it to the log ring as bytes. Fields appear in the
 * order in which they were added. Text is escaped when it is rendered, never
 * before; what does not fit is dropped and `truncated` says so. Any thread,
 * one owner.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "log_fields.def"
#include "mem.h"
#include "text.h"

enum log_field {
#define X(name, type, sentence) FIELD_##name,
	LOG_FIELDS(X)
#undef X
};
#define X(name, type, sentence) +1
enum { LOG_FIELD_COUNT = 0 LOG_FIELDS(X) };
#undef X

enum log_level {
	LOG_LEVEL_ERROR,
	LOG_LEVEL_WARN,
	LOG_LEVEL_INFO,
	LOG_LEVEL_DEBUG,
};

enum log_format {
	LOG_FORMAT_LOGFMT,
	LOG_FORMAT_JSON,
	LOG_FORMAT_JOURNAL, /* native protocol: one datagram of KEY=value */
};

#define FIELDS_MAX 3072

struct fields {
	int64_t wall_ms; /* when, milliseconds since 1970 */
	enum log_level level;
	bool truncated;
	uint16_t len; /* bytes used of DATA */
	uint8_t data[FIELDS_MAX];
};

void fields_init(struct fields *f, enum log_level level, const char *event);
void fields_add(struct fields *f, enum log_field field, const char *text);
void fields_add_span(struct fields *f, enum log_field field, struct span s);
void fields_add_number(struct fields *f, enum log_field field, uint64_t n);
void fields_addf(struct fields *f, enum log_field field, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The value of a field of F, borrowed; false if it has none. */
bool fields_get(
    const struct fields *f, enum log_field field, struct span *value_r);

/*
 * Add one rendered record to OUT: a line with its newline for logfmt and
 * JSON, a datagram for the journal. One event is one line, whatever the
 * values hold.
 */
void fields_render(
    const struct fields *f, enum log_format format, struct text *out);

const char *log_field_name(enum log_field field);
const char *log_level_name(enum log_level level);
bool log_level_parse(struct span s, enum log_level *level_r);

/* Bytes of F that a ring has to carry, and back again. */
size_t fields_packed_len(const struct fields *f);

#endif
