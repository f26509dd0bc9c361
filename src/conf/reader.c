#include "conf_int.h"

#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * inih stays the tokenizer, but sees no value: its packaged builds cut lines
 * at 200 bytes and section names at 49 without a word. Each raw line is judged
 * and stored here, and inih is fed `[section index]` and `e = entry index`, so
 * that no build's limits and options matter. INI_HANDLER_LINENO is never
 * defined, since the builds disagree about what it does.
 */

bool
array_grow(void *array_p, size_t n, size_t size)
{
	void *old;
	void *grown;

	if (n != 0 && (n & (n - 1)) != 0) /* grows at powers of two */
		return true;
	memcpy(&old, array_p, sizeof(old));
	grown = reallocarray(old, n == 0 ? 1 : 2 * n, size);
	if (grown == NULL)
		return false;
	memcpy(array_p, &grown, sizeof(grown));
	return true;
}

void
raw_fini(struct raw *r)
{
	for (size_t i = 0; i < r->n_files; i++) {
		free(r->files[i].path);
		free(r->files[i].data);
	}
	free(r->files);
	free(r->sections);
	free(r->entries);
	*r = (struct raw){0};
}

/* ---- One line ---- */

/* The file at hand, as its lines go by. */
struct cursor {
	struct raw *raw;
	struct diags *diags;
	const char *path;
	struct span rest;
	unsigned int line;
	bool in_section;     /* one has begun */
	bool section_is_bad; /* nothing in it is looked at */
	size_t fed;          /* entries that came back from inih */
	bool no_memory;
};

static bool
is_blank(uint8_t c)
{
	return c == ' ' || c == '\t';
}

static struct span
trim(struct span s)
{
	while (s.len > 0 && is_blank(s.data[0]))
		s = span_of(s.data + 1, s.len - 1);
	while (s.len > 0 && is_blank(s.data[s.len - 1]))
		s.len--;
	return s;
}

/* Where a blank is followed by C; the length of S if nowhere. */
static size_t
find_after_blank(struct span s, uint8_t c)
{
	for (size_t i = 1; i < s.len; i++)
		if (s.data[i] == c && is_blank(s.data[i - 1]))
			return i;
	return s.len;
}

static struct place
place_of(const struct cursor *c, struct span line, struct span part)
{
	return (struct place){.file = c->path,
	    .line = c->line,
	    .column = (unsigned int)(part.data - line.data) + 1,
	    .length = (unsigned int)part.len,
	    .source = line};
}

/* Bytes of the UTF-8 character at the front of S; 0 if it is none. */
static size_t
utf8_len(struct span s)
{
	uint8_t c = s.data[0];
	size_t n = c < 0x80   ? 1
	           : c < 0xc2 ? 0
	           : c < 0xe0 ? 2
	           : c < 0xf0 ? 3
	                      : 4;

	if (n == 0 || c > 0xf4 || n > s.len)
		return 0;
	for (size_t i = 1; i < n; i++)
		if ((s.data[i] & 0xc0) != 0x80)
			return 0;
	/* Overlong forms, surrogates, beyond U+10FFFF (RFC 3629). */
	if ((c == 0xe0 && s.data[1] < 0xa0) ||
	    (c == 0xed && s.data[1] >= 0xa0) ||
	    (c == 0xf0 && s.data[1] < 0x90) || (c == 0xf4 && s.data[1] >= 0x90))
		return 0;
	return n;
}

static bool
check_bytes(struct cursor *c, struct span line)
{
	size_t step;

	for (size_t i = 0; i < line.len; i += step) {
		struct span at = span_of(line.data + i, line.len - i);
		struct place p = place_of(c, line, span_of(at.data, 1));

		step = utf8_len(at);
		if (c->line == 1 && i == 0 && at.len >= 3 &&
		    memcmp(at.data, "\xef\xbb\xbf", 3) == 0)
			diag_add(c->diags, "C101", &p, "save without it",
			    "byte order mark");
		else if (at.data[0] == '\r')
			diag_add(c->diags, "C101", &p,
			    "save with Unix line ends", "CR in the line");
		else if (at.data[0] == '\0')
			diag_add(c->diags, "C101", &p, NULL, "NUL in the line");
		else if (step == 0)
			diag_add(c->diags, "C101", &p, NULL,
			    "byte 0x%02x is not UTF-8", at.data[0]);
		else
			continue;
		return false;
	}
	return true;
}

static bool
add_section(struct cursor *c, struct span line, struct span inner)
{
	struct raw *r = c->raw;
	size_t n = 0;
	struct raw_section s = {.at = place_of(c, line, inner)};

	while (n < inner.len && !is_blank(inner.data[n]))
		n++;
	s.kind = span_of(inner.data, n);
	s.name = trim(span_of(inner.data + n, inner.len - n));
	if (!array_grow(&r->sections, r->n_sections, sizeof(s))) {
		c->no_memory = true;
		return false;
	}
	r->sections[r->n_sections++] = s;
	return true;
}

static bool
judge_section(struct cursor *c, struct span line, struct span body)
{
	const uint8_t *end = memchr(body.data, ']', body.len);
	struct place at = place_of(c, line, body);
	struct span after;
	struct span inner;

	c->in_section = true;
	c->section_is_bad = true;
	if (end == NULL) {
		diag_add(c->diags, "C103", &at, NULL, "']' is missing");
		return false;
	}
	inner = trim(span_of(body.data + 1, (size_t)(end - body.data) - 1));
	after = span_of(end + 1, body.len - (size_t)(end + 1 - body.data));
	after.len = find_after_blank(after, ';');
	if (trim(after).len != 0) {
		at = place_of(c, line, trim(after));
		diag_add(c->diags, "C103", &at, NULL, "text after the section");
		return false;
	}
	if (inner.len > CONF_SECTION_MAX) {
		diag_add(c->diags, "C103", &at, NULL,
		    "section of %zu bytes; at most %d are allowed", inner.len,
		    CONF_SECTION_MAX);
		return false;
	}
	c->section_is_bad = false;
	return add_section(c, line, inner);
}

/* `allow: x`, `allow x`: what the operator meant is shown. */
static void
complain_no_equals(struct cursor *c, struct span line, struct span body)
{
	size_t n = 0;
	struct place at;
	char word[64];
	char hint[128];

	while (n < body.len && !is_blank(body.data[n]) && body.data[n] != ':' &&
	       body.data[n] != '=')
		n++;
	at = place_of(c, line, body);
	text_escape(span_of(body.data, n), word, sizeof(word));
	snprintf(hint, sizeof(hint), "write %s = ...", word);
	diag_add(c->diags, "C105", &at, hint,
	    n < body.len && body.data[n] == ':'
	        ? "':' does not separate key and value"
	        : "no '=' in the line");
}

static bool
add_entry(struct cursor *c, const struct raw_entry *e)
{
	struct raw *r = c->raw;

	if (!array_grow(&r->entries, r->n_entries, sizeof(*e))) {
		c->no_memory = true;
		return false;
	}
	r->entries[r->n_entries++] = *e;
	return true;
}

/* A key is one word; else the '=' belongs to a value, and one is missing. */
static bool
is_key(struct span key)
{
	for (size_t i = 0; i < key.len; i++)
		if (is_blank(key.data[i]) || key.data[i] == ':')
			return false;
	return key.len > 0;
}

static bool
judge_entry(struct cursor *c, struct span line, struct span body)
{
	const uint8_t *equals = memchr(body.data, '=', body.len);
	struct raw_entry e = {0};
	struct span value;
	struct place at;
	size_t hash;

	if (equals != NULL)
		e.key = trim(span_of(body.data, (size_t)(equals - body.data)));
	if (equals == NULL || !is_key(e.key)) {
		complain_no_equals(c, line, body);
		return false;
	}
	value =
	    span_of(equals + 1, body.len - (size_t)(equals + 1 - body.data));
	hash = find_after_blank(value, '#');
	if (hash < value.len) {
		at = place_of(c, line, span_of(value.data + hash, 1));
		diag_add(c->diags, "C106", &at,
		    "write ' ;' before a comment after a value",
		    "'#' inside the value of '%.*s'", (int)e.key.len,
		    (const char *)e.key.data);
		return false;
	}
	e.key_at = place_of(c, line, e.key);
	e.value = trim(value);
	e.value_at = place_of(c, line, e.value);
	if (e.value.len == 0) {
		diag_add(c->diags, "C107", &e.key_at,
		    "take the line out to get the default", "'%.*s' is empty",
		    (int)e.key.len, (const char *)e.key.data);
		if (!c->section_is_bad && c->in_section)
			c->raw->sections[c->raw->n_sections - 1].n_entries++;
		return false;
	}
	if (!c->in_section) {
		diag_add(c->diags, "C103", &e.key_at,
		    "begin with [global] or [inbound NAME]",
		    "'%.*s' stands before any section", (int)e.key.len,
		    (const char *)e.key.data);
		return false;
	}
	if (c->section_is_bad)
		return false; /* its section has been complained about */
	e.section = c->raw->n_sections - 1;
	c->raw->sections[e.section].n_entries++;
	return add_entry(c, &e);
}

enum line_kind { LINE_NOTHING, LINE_SECTION, LINE_ENTRY };

static enum line_kind
judge_line(struct cursor *c, struct span line)
{
	struct span body = trim(line);

	if (line.len > CONF_LINE_MAX) {
		struct place at = {.file = c->path, .line = c->line};

		diag_add(c->diags, "C102", &at, NULL,
		    "line of %zu bytes; at most %d are allowed", line.len,
		    CONF_LINE_MAX);
		return LINE_NOTHING;
	}
	if (!check_bytes(c, line) || body.len == 0 || body.data[0] == '#' ||
	    body.data[0] == ';')
		return LINE_NOTHING;
	if (body.data[0] == '[')
		return judge_section(c, line, body) ? LINE_SECTION
		                                    : LINE_NOTHING;
	/* ` ;` begins a comment; a ';' within a word does not. */
	body.len = find_after_blank(body, ';');
	return judge_entry(c, line, trim(body)) ? LINE_ENTRY : LINE_NOTHING;
}

static bool
next_line(struct cursor *c, struct span *line_r)
{
	const uint8_t *end;
	size_t n;

	if (c->rest.len == 0)
		return false;
	end = memchr(c->rest.data, '\n', c->rest.len);
	n = end == NULL ? c->rest.len : (size_t)(end - c->rest.data);
	*line_r = span_of(c->rest.data, n);
	n += end != NULL;
	c->rest = span_of(c->rest.data + n, c->rest.len - n);
	c->line++;
	return true;
}

/* ---- Through inih ---- */

/* inih's fgets: the next line that holds something, as an index. */
static char *
feed(char *buf, int size, void *arg)
{
	struct cursor *c = arg;
	struct span line;

	while (next_line(c, &line)) {
		switch (judge_line(c, line)) {
		case LINE_NOTHING:
			continue;
		case LINE_SECTION:
			snprintf(buf, (size_t)size, "[%zu]\n",
			    c->raw->n_sections - 1);
			return buf;
		case LINE_ENTRY:
			snprintf(buf, (size_t)size, "e = %zu\n",
			    c->raw->n_entries - 1);
			return buf;
		}
	}
	return NULL;
}

/* inih's handler: 0 is an error, as are indices that do not fit. */
static int
take(void *arg, const char *section, const char *name, const char *value)
{
	struct cursor *c = arg;
	size_t s = strtoul(section, NULL, 10);
	size_t e = strtoul(value, NULL, 10);

	if (strcmp(name, "e") != 0 || e >= c->raw->n_entries ||
	    c->raw->entries[e].section != s)
		return 0;
	c->raw->entries[e].delivered = true;
	c->fed++;
	return 1;
}

static void
complain_empty_sections(struct cursor *c, size_t first)
{
	for (size_t i = first; i < c->raw->n_sections; i++)
		if (c->raw->sections[i].n_entries == 0)
			diag_add(c->diags, "C107", &c->raw->sections[i].at,
			    NULL, "section is empty");
}

bool
raw_add(
    struct raw *r, const char *path, uint8_t *data, size_t len, struct diags *d)
{
	char *name = strdup(path);
	struct cursor c = {
	    .raw = r, .diags = d, .path = name, .rest = span_of(data, len)};
	size_t first_section = r->n_sections;
	size_t first_entry = r->n_entries;

	if (name == NULL ||
	    !array_grow(&r->files, r->n_files, sizeof(*r->files))) {
		free(name);
		free(data);
		d->failed = true;
		return false;
	}
	r->files[r->n_files++] = (struct raw_file){name, data, len};
	/* Any result but 0 voids the load, and so does a lost entry. */
	if (ini_parse_stream(feed, &c, take, &c) != 0 || c.no_memory ||
	    c.fed != r->n_entries - first_entry) {
		struct place at = {.file = name};

		diag_add(d, "C100", &at, NULL, "the INI parser gave up");
		d->failed |= c.no_memory;
		return false;
	}
	complain_empty_sections(&c, first_section);
	return true;
}

/* ---- Files ---- */

static void
close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

/* Whoever can write the file decides who gets in. */
static void
check_owner(
    const struct stat *st, const struct place *at, bool strict, struct diags *d)
{
	enum diag_severity severity = strict ? DIAG_ERROR : DIAG_NOTE;

	if ((st->st_mode & (S_IWGRP | S_IWOTH)) != 0)
		diag_add_as(d, severity, "C100", at,
		    "chmod go-w it; run refuses it else",
		    "group or others may write the file");
	if (st->st_uid != 0 && st->st_uid != geteuid())
		diag_add_as(d, severity, "C100", at,
		    "chown it to root; run refuses it else",
		    "file belongs to uid %u, neither root nor the user",
		    (unsigned int)st->st_uid);
}

static bool
read_all(int fd, uint8_t *data, size_t len)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = read(fd, data + done, len - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		done += (size_t)n;
	}
	return true;
}

bool
raw_read(struct raw *r, const char *path, bool strict, struct diags *d)
{
	/* Not through links, and a FIFO must not block us. */
	AUTO(close_fd)
	int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	struct place at = {.file = path};
	struct stat st;
	uint8_t *data;
	size_t len;

	if (fd < 0 || fstat(fd, &st) != 0) {
		diag_add(d, "C100", &at, NULL, "%s",
		    errno == ELOOP ? "is a symbolic link" : strerror(errno));
		return false;
	}
	if (!S_ISREG(st.st_mode) || st.st_size > CONF_FILE_MAX) {
		diag_add(d, "C100", &at, NULL,
		    "is no regular file of at most 16 MiB");
		return false;
	}
	check_owner(&st, &at, strict, d);
	len = (size_t)st.st_size;
	data = malloc(len + 1);
	if (data == NULL || !read_all(fd, data, len)) {
		free(data);
		diag_add(d, "C100", &at, NULL, "cannot be read whole");
		return false;
	}
	return raw_add(r, path, data, len, d);
}
