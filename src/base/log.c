#include "log.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static struct {
	log_sink_fn *sink;
	void *arg;
	enum log_level level;
} the_log = {.level = LOG_LEVEL_INFO};

void
log_set_sink(log_sink_fn *sink, void *arg)
{
	the_log.sink = sink;
	the_log.arg = arg;
}

void
log_set_level(enum log_level level)
{
	the_log.level = level;
}

enum log_level
log_level(void)
{
	return the_log.level;
}

static void
write_stderr(const struct fields *record)
{
	struct text line;

	text_init(&line);
	fields_render(record, LOG_FORMAT_LOGFMT, &line);
	/* Nobody is left to tell when stderr does not take it. */
	if (write(STDERR_FILENO, line.data, line.len) == -1)
		line.failed = true;
	text_fini(&line);
}

void
log_record(const struct fields *record)
{
	if (record->level > the_log.level)
		return;
	if (the_log.sink != NULL)
		the_log.sink(the_log.arg, record);
	else
		write_stderr(record);
}

void
log_say(enum log_level level, const char *event, const char *fmt, ...)
{
	struct fields record;
	char msg[1024];
	va_list ap;

	if (level > the_log.level)
		return;
	va_start(ap, fmt);
	(void)vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);
	fields_init(&record, level, event);
	fields_add(&record, FIELD_msg, msg);
	log_record(&record);
}
