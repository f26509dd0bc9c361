#ifndef POSTERN_BUILD_INT_H
#define POSTERN_BUILD_INT_H

/* From raw text to a conf: what exists only while one is loaded. */

#include "conf_int.h"

/* One raw section, and where its keys stand. */
struct section_info {
	enum section_kind kind; /* 0: complained about, not looked at */
	size_t service;         /* for SECTION_S */
	struct rule_list allow, deny;
	bool seen[KEY_ROWS];
	struct place at[KEY_ROWS]; /* the value, the last one of lists */
};

struct policy_ref {
	size_t section; /* of the service */
	struct span name;
	struct place at;
};

struct builder {
	const struct raw *raw;
	const struct conf_load_args *args;
	struct diags *d;
	struct conf_owner *o;
	const char **files; /* owned by O, beside raw->files */
	struct section_info *info;
	struct policy_ref *refs;
	size_t n_refs;
};

/* A copy that lives as long as the conf; NULL latches d->failed. */
const char *own_string(struct builder *b, struct span s);
struct conf_origin own_origin(struct builder *b, const struct place *at);
bool rule_list_add(
    struct builder *b, struct rule_list *l, const struct rule *rule);

/* The place of a line that was read, for rules; empty if none is there. */
struct place place_of_rule(const struct builder *b, const struct rule *rule);

/* Row number of a key in this section. */
size_t row_index(enum section_kind section, const char *key);

/* The code for a rule or an ID that does not parse. */
const char *rule_error_code(enum rule_error e, enum spiffe_id_error id_error);
/* One allow, deny or expect line into its list of INFO. */
void add_rule(struct builder *b, struct section_info *info,
    const struct raw_entry *e, const struct key_row *row);

/* Lookups in the name service. */
bool user_id(const char *name, uid_t *uid_r);
bool group_id(const char *name, gid_t *gid_r);

/* All that can be judged only when every line has been read. */
void check_all(struct builder *b);

#endif
