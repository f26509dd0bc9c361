#include "conf_int.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

/* One row of the table; sizeof on a member tells how to store it. */
#define X(sec, name, kind, options, lo, hi, initial_text, class, list, owner,  \
    member, version, text)                                                     \
	{.sections = SECTION_##sec,                                            \
	    .key = #name,                                                      \
	    .type = KEY_##kind,                                                \
	    .choices = options,                                                \
	    .min = lo,                                                         \
	    .max = hi,                                                         \
	    .initial = initial_text,                                           \
	    .reload = class,                                                   \
	    .is_list = list,                                                   \
	    .offset = offsetof(struct owner, member),                          \
	    .size = sizeof(((struct owner *)NULL)->member),                    \
	    .since = version,                                                  \
	    .sentence = text},
static const struct key_row rows[] = {CONF_TABLE(X)};
#undef X

const struct key_row *
key_row(size_t i)
{
	assert(i < ARRAY_LEN(rows));
	return &rows[i];
}

const struct key_row *
key_find(enum section_kind section, struct span key)
{
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		if ((rows[i].sections & section) != 0 &&
		    span_equal_str(key, rows[i].key))
			return &rows[i];
	return NULL;
}

const char **
key_text(const struct key_row *row, void *base)
{
	return (const char **)(void *)((char *)base + row->offset);
}

/* ---- Numbers ---- */

static void
store(const struct key_row *row, void *base, uint64_t n)
{
	void *at = (char *)base + row->offset;

	if (row->size == 1)
		*(uint8_t *)at = (uint8_t)n;
	else if (row->size == 4)
		*(uint32_t *)at = (uint32_t)n;
	else
		*(uint64_t *)at = n;
}

static uint64_t
load(const struct key_row *row, const void *base)
{
	const void *at = (const char *)base + row->offset;

	if (row->size == 1)
		return *(const uint8_t *)at;
	if (row->size == 4)
		return *(const uint32_t *)at;
	return *(const uint64_t *)at;
}

/* Digits from the front; false if there are none or too many. */
static bool
take_number(struct span *s, unsigned int base, uint64_t *n_r)
{
	uint64_t n = 0;
	size_t digits = 0;

	while (digits < s->len && s->data[digits] >= '0' &&
	       s->data[digits] < '0' + base) {
		n = n * base + (uint64_t)(s->data[digits] - '0');
		if (++digits > 15)
			return false;
	}
	*s = span_of(s->data + digits, s->len - digits);
	*n_r = n;
	return digits > 0;
}

static const struct unit {
	const char *name;
	uint64_t ms;
} units[] = {{"d", 86400000}, {"h", 3600000}, {"m", 60000}, {"s", 1000},
    {"ms", 1}}; /* largest first */

static bool
parse_duration(struct span s, uint64_t *ms_r, struct why *why)
{
	uint64_t n;

	if (!take_number(&s, 10, &n)) {
		(void)fail(why, FAULT_MALFORMED,
		    "write a number and a unit: 300ms, 10s, 5m, 1h, 7d");
		return false;
	}
	for (size_t i = 0; i < ARRAY_LEN(units); i++)
		if (span_equal_str(s, units[i].name)) {
			if (n > UINT64_MAX / units[i].ms)
				break;
			*ms_r = n * units[i].ms;
			return true;
		}
	if (s.len == 0)
		(void)fail(why, FAULT_MALFORMED,
		    "unit missing; did you mean '%llus'?",
		    (unsigned long long)n);
	else
		(void)fail(
		    why, FAULT_MALFORMED, "unit must be ms, s, m, h or d");
	return false;
}

static void
add_duration(struct text *out, uint64_t ms)
{
	if (ms == 0) {
		text_add(out, "0s");
		return;
	}
	for (size_t i = 0; i < ARRAY_LEN(units); i++)
		if (ms % units[i].ms == 0) {
			text_add(out, "%llu%s",
			    (unsigned long long)(ms / units[i].ms),
			    units[i].name);
			return;
		}
}

static bool
is_duration(enum key_type type)
{
	return type == KEY_DURATION || type == KEY_DURATION_OFF ||
	       type == KEY_SECONDS_OFF;
}

static void
add_number(const struct key_row *row, uint64_t n, struct text *out)
{
	if (is_duration(row->type))
		add_duration(out, n);
	else if (row->type == KEY_OCTAL)
		text_add(out, "%04llo", (unsigned long long)n);
	else
		text_add(out, "%llu", (unsigned long long)n);
}

static bool
in_range(const struct key_row *row, uint64_t n, struct why *why)
{
	AUTO(text_fini) struct text range;

	text_init(&range);
	if (n >= row->min && n <= row->max)
		return true;
	add_number(row, row->min, &range);
	text_add(&range, " to ");
	add_number(row, row->max, &range);
	(void)fail(why, FAULT_LIMIT, "out of range: %s", range.data);
	return false;
}

static bool
parse_scaled(
    const struct key_row *row, struct span value, void *base, struct why *why)
{
	uint64_t ms;

	if (row->type != KEY_DURATION && span_equal_str(value, "off")) {
		store(row, base, CONF_OFF);
		return true;
	}
	if (!parse_duration(value, &ms, why) || !in_range(row, ms, why))
		return false;
	if (row->type == KEY_SECONDS_OFF) {
		if (ms % 1000 != 0) {
			(void)fail(why, FAULT_MALFORMED, "whole seconds only");
			return false;
		}
		ms /= 1000;
	}
	store(row, base, ms);
	return true;
}

static bool
parse_count(
    const struct key_row *row, struct span value, void *base, struct why *why)
{
	const char *form = row->type == KEY_COUNT_AUTO ? "a number or auto"
	                   : row->type == KEY_OCTAL    ? "octal digits: 0660"
	                   : row->type == KEY_SAMPLE   ? "1/N"
	                                               : "a number";
	unsigned int radix = row->type == KEY_OCTAL ? 8 : 10;
	uint64_t n;

	if (row->type == KEY_COUNT_AUTO && span_equal_str(value, "auto")) {
		store(row, base, 0);
		return true;
	}
	if (row->type == KEY_SAMPLE && value.len > 2 &&
	    memcmp(value.data, "1/", 2) == 0)
		value = span_of(value.data + 2, value.len - 2);
	else if (row->type == KEY_SAMPLE)
		value.len = 0;
	if (!take_number(&value, radix, &n) || value.len != 0) {
		(void)fail(why, FAULT_MALFORMED, "write %s", form);
		return false;
	}
	if (!in_range(row, n, why))
		return false;
	store(row, base, n);
	return true;
}

/* ---- Words ---- */

/* The N-th word of "a|b|c"; false behind the last. */
static bool
choice_at(const char *choices, size_t n, struct span *word_r)
{
	const char *bar;

	for (; n > 0; n--) {
		choices = strchr(choices, '|');
		if (choices == NULL)
			return false;
		choices++;
	}
	bar = strchr(choices, '|');
	*word_r = bar == NULL ? span_of_str(choices)
	                      : span_of(choices, (size_t)(bar - choices));
	return true;
}

static bool
parse_choice(
    const struct key_row *row, struct span value, void *base, struct why *why)
{
	struct span word;

	for (size_t n = 0; choice_at(row->choices, n, &word); n++)
		if (span_equal(word, value)) {
			store(row, base, n);
			return true;
		}
	(void)fail(why, FAULT_MALFORMED, "write one of: %s", row->choices);
	return false;
}

static bool
only_bytes_of(struct span s, const char *extra)
{
	for (size_t i = 0; i < s.len; i++) {
		uint8_t c = s.data[i];

		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
		        (c >= '0' && c <= '9') ||
		        (c != '\0' && strchr(extra, c) != NULL)))
			return false;
	}
	return s.len > 0;
}

/* ---- Addresses ---- */

static bool
parse_metrics(struct span value, struct addr *a, struct why *why)
{
	struct addr parsed = {0};

	if (span_equal_str(value, "off")) {
		*a = parsed;
		return true;
	}
	if (addr_parse(value, &parsed, NULL) != FAULT_NONE ||
	    !addr_is_loopback(&parsed)) {
		(void)fail(why, FAULT_CONF, "write 127.0.0.1:PORT or off");
		return false;
	}
	*a = parsed;
	return true;
}

static bool
parse_control(struct span value, struct why *why)
{
	struct addr a;

	if (addr_parse(value, &a, why) != FAULT_NONE)
		return false;
	if (addr_family(&a) != AF_UNIX) {
		(void)fail(why, FAULT_MALFORMED, "write unix:/abs/path");
		return false;
	}
	return true;
}

static bool
complain_unless(bool ok, struct why *why, const char *form)
{
	if (!ok)
		(void)fail(why, FAULT_MALFORMED, "write %s", form);
	return ok;
}

static bool
check_trust_domain(struct span value, struct why *why)
{
	enum spiffe_id_error e = spiffe_trust_domain_check(value);

	if (e == SPIFFE_ID_OK)
		return true;
	(void)fail(why, FAULT_MALFORMED, "%s; write its name alone",
	    spiffe_id_error_text(e));
	return false;
}

bool
key_parse(
    const struct key_row *row, struct span value, void *base, struct why *why)
{
	bool is_remote;

	switch (row->type) {
	case KEY_CHOICE:
		return parse_choice(row, value, base, why);
	case KEY_DURATION:
	case KEY_DURATION_OFF:
	case KEY_SECONDS_OFF:
		return parse_scaled(row, value, base, why);
	case KEY_COUNT:
	case KEY_COUNT_AUTO:
	case KEY_OCTAL:
	case KEY_SAMPLE:
		return parse_count(row, value, base, why);
	case KEY_METRICS:
		return parse_metrics(value,
		    (struct addr *)(void *)((char *)base + row->offset), why);
	case KEY_FORWARD:
		return addr_parse(value,
		           (struct addr *)(void *)((char *)base + row->offset),
		           why) == FAULT_NONE;
	case KEY_ENDPOINT:
		return endpoint_check(value, &is_remote, why) == FAULT_NONE;
	case KEY_TRUST_DOMAIN:
		return check_trust_domain(value, why);
	case KEY_WORDS:
		return complain_unless(only_bytes_of(value, " _-."), why,
		    "names with blanks between");
	case KEY_SNI:
		return complain_unless(
		    value.len <= 255 && only_bytes_of(value, ".-"), why,
		    "a host name or off");
	case KEY_CONTROL:
		return parse_control(value, why);
	case KEY_USER:
	case KEY_GROUP:
	case KEY_RULE:
	case KEY_LISTEN:
	case KEY_TARGET:
	case KEY_POLICY:
	case KEY_CALLER:
		return true; /* conf.c knows what they stand for */
	}
	return true;
}

void
key_format(const struct key_row *row, const void *base, struct text *out)
{
	const void *at = (const char *)base + row->offset;
	char address[ADDR_TEXT_MAX];
	struct span word;
	uint64_t n;

	switch (row->type) {
	case KEY_CHOICE:
		if (choice_at(row->choices, load(row, base), &word))
			text_add_span(out, word);
		return;
	case KEY_DURATION:
	case KEY_DURATION_OFF:
	case KEY_SECONDS_OFF:
		n = load(row, base);
		if (n == CONF_OFF && row->type != KEY_DURATION)
			text_add(out, "off");
		else
			add_duration(
			    out, row->type == KEY_SECONDS_OFF ? n * 1000 : n);
		return;
	case KEY_COUNT_AUTO:
		if (load(row, base) == 0) {
			text_add(out, "auto");
			return;
		}
		add_number(row, load(row, base), out);
		return;
	case KEY_SAMPLE:
		text_add(out, "1/");
		add_number(row, load(row, base), out);
		return;
	case KEY_COUNT:
	case KEY_OCTAL:
		add_number(row, load(row, base), out);
		return;
	case KEY_METRICS:
	case KEY_FORWARD:
		if (addr_family(at) == AF_UNSPEC)
			text_add(out, "off");
		else
			text_add(out, "%s", addr_format(at, address));
		return;
	case KEY_CONTROL:
		text_add(out, "unix:%s", *(const char *const *)at);
		return;
	case KEY_ENDPOINT:
	case KEY_TRUST_DOMAIN:
	case KEY_WORDS:
	case KEY_SNI:
	case KEY_GROUP:
		text_add(out, "%s", *(const char *const *)at);
		return;
	case KEY_USER:
	case KEY_RULE:
	case KEY_LISTEN:
	case KEY_TARGET:
	case KEY_POLICY:
	case KEY_CALLER:
		return; /* lists: conf_dump.c */
	}
}

/* ---- For what is generated ---- */

static const char *
section_words(unsigned int sections)
{
	switch (sections) {
	case SECTION_G:
		return "global";
	case SECTION_P:
		return "policy";
	case SECTION_I:
		return "inbound";
	case SECTION_O:
		return "outbound";
	default:
		return "inbound outbound";
	}
}

static const char *
type_word(enum key_type type)
{
	switch (type) {
	case KEY_ENDPOINT:
		return "endpoint";
	case KEY_USER:
		return "user";
	case KEY_TRUST_DOMAIN:
		return "trust domain";
	case KEY_CHOICE:
		return "choice";
	case KEY_DURATION:
		return "duration";
	case KEY_DURATION_OFF:
	case KEY_SECONDS_OFF:
		return "duration or off";
	case KEY_COUNT:
		return "count";
	case KEY_COUNT_AUTO:
		return "count or auto";
	case KEY_WORDS:
		return "words";
	case KEY_METRICS:
	case KEY_CONTROL:
	case KEY_LISTEN:
	case KEY_FORWARD:
	case KEY_TARGET:
		return "address";
	case KEY_RULE:
		return "rule";
	case KEY_POLICY:
		return "name";
	case KEY_CALLER:
		return "caller rule";
	case KEY_OCTAL:
		return "octal mode";
	case KEY_GROUP:
		return "group";
	case KEY_SAMPLE:
		return "1/N";
	case KEY_SNI:
		return "host name or off";
	}
	return "";
}

size_t
conf_key_count(void)
{
	return ARRAY_LEN(rows);
}

struct conf_key
conf_key(size_t i)
{
	const struct key_row *row = key_row(i);

	return (struct conf_key){.sections = section_words(row->sections),
	    .key = row->key,
	    .type = type_word(row->type),
	    .values = row->choices,
	    .initial = row->initial,
	    .reload = row->reload,
	    .is_list = row->is_list,
	    .since = row->since,
	    .sentence = row->sentence};
}
