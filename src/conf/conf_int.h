#ifndef POSTERN_CONF_INT_H
#define POSTERN_CONF_INT_H

/*
 * Inside the configuration: raw text with its places, the key table, and the
 * owner of everything that a struct conf points to.
 */

#include "conf.h"
#include "conf_table.def"
#include "queue.h"

#define CONF_LINE_MAX    8192
#define CONF_SECTION_MAX 48
#define CONF_NAME_MAX    32
#define CONF_FILE_MAX    (16u << 20)

/* ---- Diagnostics ---- */

/* A place in a file. Borrowed. */
struct place {
	const char *file;
	unsigned int line, column, length;
	struct span source; /* the raw line */
};

void diag_add(struct diags *d, const char *code, const struct place *at,
    const char *hint, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
/* The same with a severity that the load, not the table, decides. */
void diag_add_as(struct diags *d, enum diag_severity severity, const char *code,
    const struct place *at, const char *hint, const char *fmt, ...)
    __attribute__((format(printf, 6, 7)));

/* ---- Raw text ---- */

struct raw_file {
	char *path;
	uint8_t *data;
	size_t len;
};

struct raw_entry {
	size_t section; /* index */
	struct span key, value;
	struct place key_at, value_at;
	bool delivered; /* inih has seen it */
};

struct raw_section {
	struct span kind, name;
	struct place at;
	size_t n_entries;
};

struct raw {
	struct raw_file *files;
	size_t n_files;
	struct raw_section *sections;
	size_t n_sections;
	struct raw_entry *entries;
	size_t n_entries;
};

void raw_fini(struct raw *r);
/*
 * Read one file, or take a text for one; DATA is taken. Whatever is wrong goes
 * to D. False if the file could not be read at all, or no memory is left.
 */
bool raw_read(struct raw *r, const char *path, bool strict, struct diags *d);
bool raw_add(struct raw *r, const char *path, uint8_t *data, size_t len,
    struct diags *d);

/* ---- Key table ---- */

enum key_type {
	KEY_ENDPOINT,
	KEY_USER,
	KEY_TRUST_DOMAIN,
	KEY_CHOICE,
	KEY_DURATION,
	KEY_DURATION_OFF,
	KEY_SECONDS_OFF,
	KEY_COUNT,
	KEY_COUNT_AUTO,
	KEY_WORDS,
	KEY_METRICS,
	KEY_CONTROL,
	KEY_RULE,
	KEY_LISTEN,
	KEY_FORWARD,
	KEY_TARGET,
	KEY_POLICY,
	KEY_CALLER,
	KEY_OCTAL,
	KEY_GROUP,
	KEY_SAMPLE,
	KEY_SNI,
};

enum section_kind {
	SECTION_G = 1, /* bits, so that a key may stand in several */
	SECTION_P = 2,
	SECTION_I = 4,
	SECTION_O = 8,
	SECTION_S = SECTION_I | SECTION_O,
};

struct key_row {
	unsigned int sections;
	const char *key;
	enum key_type type;
	const char *choices;
	uint64_t min, max;
	const char *initial;
	char reload;
	bool is_list;
	size_t offset, size; /* of the member that holds a scalar */
	const char *since;
	const char *sentence;
};

#define X(...) +1
enum { KEY_ROWS = 0 CONF_TABLE(X) };
#undef X

const struct key_row *key_row(size_t i);
/* NULL: not in this section. */
const struct key_row *key_find(enum section_kind section, struct span key);

/*
 * Check a value against its row, and put numbers, choices and addresses into
 * their member of BASE; texts and lists are the caller's to store.
 */
bool key_parse(
    const struct key_row *row, struct span value, void *base, struct why *why);
/* The inverse, for scalars that key_parse() stores. */
void key_format(const struct key_row *row, const void *base, struct text *out);
/* A member of type char pointer. */
const char **key_text(const struct key_row *row, void *base);

/* SPIFFE Workload Endpoint, section 4; rows 113 to 117 of the matrix. */
enum fault endpoint_check(struct span text, bool *is_remote_r, struct why *why);

/* ---- Owner ---- */

struct rule_list {
	const struct rule **rules;
	size_t n;
};

/* What a service needs besides what others see of it. */
struct service_extra {
	struct rule_list allow, deny;
	struct policy *compiled;
	struct conf_origin origins[KEY_ROWS];
};

struct conf_owner {
	struct conf conf;
	struct conf_origin origins[KEY_ROWS];
	struct service_extra *extra; /* one per service */
	char **strings;
	size_t n_strings;
	struct rule **rules; /* each on the heap, so that pointers stay */
	size_t n_rules;
};

/* Build from RAW; conf_load() is this after reading files. */
enum fault conf_build(struct raw *raw, const struct conf_load_args *args,
    struct conf **conf_r, struct diags *d);

/* Room for one more of SIZE bytes at the end of an array; false: no memory. */
bool array_grow(void *array_p, size_t n, size_t size);

#endif
