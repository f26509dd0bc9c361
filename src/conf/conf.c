#include "conf_int.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAIN_FILE "/etc/postern/postern.ini"
#define CONF_D    "/etc/postern/conf.d"

static void
free_service(struct service *s)
{
	struct caller_rule *callers;

	memcpy(&callers, &s->callers, sizeof(callers));
	for (size_t i = 0; i < s->n_callers; i++)
		caller_rule_fini(&callers[i]);
	free(callers);
	free(s->listens);
	free(s->targets);
}

void
conf_free(struct conf **c)
{
	struct conf_owner *o;

	if (*c == NULL)
		return;
	o = CONTAINER_OF(*c, struct conf_owner, conf);
	for (size_t i = 0; i < o->conf.n_services; i++) {
		free_service(&o->conf.services[i]);
		policy_free(&o->extra[i].compiled);
		free(o->extra[i].allow.rules);
		free(o->extra[i].deny.rules);
	}
	for (size_t i = 0; i < o->n_rules; i++) {
		rule_fini(o->rules[i]);
		free(o->rules[i]);
	}
	for (size_t i = 0; i < o->n_strings; i++)
		free(o->strings[i]);
	free(o->rules);
	free(o->strings);
	free(o->extra);
	free(o->conf.services);
	free(o->conf.global.workload_api_uids);
	free(o);
	*c = NULL;
}

const struct service *
conf_service(const struct conf *c, struct span name)
{
	for (size_t i = 0; i < c->n_services; i++)
		if (span_equal_str(name, c->services[i].name))
			return &c->services[i];
	return NULL;
}

/* ---- Files ---- */

static int
is_ini(const struct dirent *e)
{
	size_t len = strlen(e->d_name);

	return e->d_name[0] != '.' && len > 4 &&
	       strcmp(e->d_name + len - 4, ".ini") == 0;
}

/* Byte order: not that of a locale. */
static int
by_bytes(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static void
read_conf_d(struct raw *raw, bool strict, struct diags *d)
{
	struct dirent **names = NULL;
	int n = scandir(CONF_D, &names, is_ini, by_bytes);
	struct place at = {.file = CONF_D};

	if (n < 0 && errno != ENOENT)
		diag_add(d, "C100", &at, NULL, "%s", strerror(errno));
	for (int i = 0; i < n; i++) {
		char path[sizeof(CONF_D) + 1 + NAME_MAX];

		snprintf(path, sizeof(path), CONF_D "/%s", names[i]->d_name);
		(void)raw_read(raw, path, strict, d);
		free(names[i]);
	}
	free(names);
}

enum fault
conf_load(
    const struct conf_load_args *args, struct conf **conf_r, struct diags *d)
{
	AUTO(raw_fini) struct raw raw = {0};

	for (size_t i = 0; i < args->n_files; i++)
		(void)raw_read(&raw, args->files[i], args->strict_files, d);
	if (args->n_files == 0) {
		(void)raw_read(&raw, MAIN_FILE, args->strict_files, d);
		read_conf_d(&raw, args->strict_files, d);
	}
	return conf_build(&raw, args, conf_r, d);
}
