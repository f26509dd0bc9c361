#ifndef POSTERN_LOG_H
#define POSTERN_LOG_H

/*
 * Log lines of the control thread and of everything before threads exist.
 * Workers never call this: their records travel through rings.
 *
 * The sink is the one mutable object of the program that is not handed down,
 * since a failed start must be able to speak before anything else stands.
 * Control thread only.
 */

#include "fields.h"

/* What a rendered record is given to. */
typedef void log_sink_fn(void *arg, const struct fields *record);

/*
 * Send records to SINK from now on; NULL is the first sink again: logfmt lines
 * on stderr, at LEVEL and above.
 */
void log_set_sink(log_sink_fn *sink, void *arg);
void log_set_level(enum log_level level);
enum log_level log_level(void);

/* Give a record to the sink, unless its level is below the set one. */
void log_record(const struct fields *record);

/* A record with the fields event and msg. */
void log_say(enum log_level level, const char *event, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
