#include "issuer.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "log.h"

enum {
	OPT_SERVE = 256,
	OPT_SOCKET,
	OPT_ID,
	OPT_TRUST_DOMAIN,
	OPT_TTL,
	OPT_ROTATE,
	OPT_KEY_TYPE,
	OPT_FEDERATE,
	OPT_INTERMEDIATE,
	OPT_CRL,
	OPT_MODE,
	OPT_RUN_AS,
	OPT_CONTROL,
	OPT_I_KNOW,
	OPT_DIE,
	OPT_HELP,
	OPT_VERSION,
};

static const struct option options[] = {
    {"serve", required_argument, NULL, OPT_SERVE},
    {"socket", required_argument, NULL, OPT_SOCKET},
    {"id", required_argument, NULL, OPT_ID},
    {"trust-domain", required_argument, NULL, OPT_TRUST_DOMAIN},
    {"ttl", required_argument, NULL, OPT_TTL},
    {"rotate-every", required_argument, NULL, OPT_ROTATE},
    {"key-type", required_argument, NULL, OPT_KEY_TYPE},
    {"federate", required_argument, NULL, OPT_FEDERATE},
    {"intermediate", no_argument, NULL, OPT_INTERMEDIATE},
    {"crl", no_argument, NULL, OPT_CRL},
    {"socket-mode", required_argument, NULL, OPT_MODE},
    {"run-as", required_argument, NULL, OPT_RUN_AS},
    {"control", required_argument, NULL, OPT_CONTROL},
    {"i-know", no_argument, NULL, OPT_I_KNOW},
    {"die-with-parent", no_argument, NULL, OPT_DIE},
    {"help", no_argument, NULL, OPT_HELP},
    {"version", no_argument, NULL, OPT_VERSION},
    {NULL, 0, NULL, 0},
};

static void
usage(FILE *to)
{
	(void)fprintf(to,
	    "usage: postern-dev-issuer --serve PATH=ID[,HINT] ... [option "
	    "...]\n"
	    "       postern-dev-issuer toy --listen ADDR\n"
	    "\n"
	    "A SPIFFE Workload API server for development and tests. Keys "
	    "live\n"
	    "in memory only; every start makes new authorities. NOT FOR\n"
	    "PRODUCTION.\n"
	    "\n"
	    "  --serve PATH=ID[,HINT]  an SVID at the socket PATH; again with\n"
	    "                          the same PATH: one more SVID there\n"
	    "  --socket PATH, --id ID[,HINT]  the same in two words; --id "
	    "goes\n"
	    "                          to the --socket before it\n"
	    "  --trust-domain NAME     for IDs written as /path (default\n"
	    "                          demo.test); give it first\n"
	    "  --ttl SECONDS           lifetime of an SVID (default 300)\n"
	    "  --rotate-every SECONDS  new SVIDs so often (default half the "
	    "ttl)\n"
	    "  --key-type TYPE         p256 (default), p384, rsa2048, ed25519\n"
	    "  --federate DOMAIN       serve that trust domain's bundle to "
	    "all\n"
	    "  --intermediate          issue from below the root\n"
	    "  --crl                   send a revocation list\n"
	    "  --socket-mode OCTAL     of the sockets (default 0600)\n"
	    "  --run-as UID            started as root: become this uid\n"
	    "  --control PATH          take commands at this socket\n"
	    "  --i-know                trust domains that do not end in .test\n"
	    "  --die-with-parent       end when the parent process ends\n"
	    "\n"
	    "SIGUSR1 makes new SVIDs. Commands, one a line, for all sockets "
	    "or\n"
	    "after @PATH for one; the answer is ok or error:\n%s\n",
	    issuer_commands());
}

struct settings {
	const char *run_as;
	const char *control;
	bool die_with_parent;
};

static bool
parse_number(const char *text, int base, long max, long *n_r)
{
	char *end;

	*n_r = strtol(text, &end, base);
	return *text >= '0' && *text <= '9' && *end == '\0' && *n_r > 0 &&
	       *n_r <= max;
}

static bool
parse_key_type(const char *text, enum ca_key_type *type_r)
{
	static const struct {
		const char *name;
		enum ca_key_type type;
	} rows[] = {
	    {"p256", CA_P256},
	    {"p384", CA_P384},
	    {"rsa2048", CA_RSA2048},
	    {"ed25519", CA_ED25519},
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		if (strcmp(text, rows[i].name) == 0) {
			*type_r = rows[i].type;
			return true;
		}
	}
	return false;
}

/* Options that stand for a value. False: it is wrong. */
static bool
take_setting(struct issuer *is, struct settings *set, int c, const char *arg)
{
	long n = 0;

	switch (c) {
	case OPT_TRUST_DOMAIN:
		is->trust_domain = arg;
		return true;
	case OPT_TTL:
		if (!parse_number(arg, 10, 86400, &n))
			return false;
		is->ttl_s = n;
		return true;
	case OPT_ROTATE:
		if (!parse_number(arg, 10, 86400, &n))
			return false;
		is->rotate_s = n;
		return true;
	case OPT_KEY_TYPE:
		return parse_key_type(arg, &is->key_type);
	case OPT_MODE:
		if (!parse_number(arg, 8, 0777, &n))
			return false;
		is->socket_mode = (mode_t)n;
		return true;
	case OPT_RUN_AS:
		set->run_as = arg;
		return true;
	case OPT_CONTROL:
		set->control = arg;
		return true;
	case OPT_INTERMEDIATE:
		is->with_intermediate = true;
		return true;
	case OPT_CRL:
		is->with_crl = true;
		return true;
	case OPT_I_KNOW:
		is->any_domain = true;
		return true;
	case OPT_DIE:
		set->die_with_parent = true;
		return true;
	default:
		return false;
	}
}

/* Places and domains, which need the settings: the second pass. */
static enum fault
take_place(
    struct issuer *is, struct place **last, int c, char *arg, struct why *why)
{
	char *equals = strchr(arg, '=');
	struct domain *d;

	switch (c) {
	case OPT_SERVE:
		if (equals == NULL)
			return fail(
			    why, FAULT_CONF, "write --serve PATH=ID[,HINT]");
		*equals = '\0';
		*last = issuer_place(is, arg);
		return place_add(*last, equals + 1, why);
	case OPT_SOCKET:
		*last = issuer_place(is, arg);
		return FAULT_NONE;
	case OPT_ID:
		if (*last == NULL)
			return fail(
			    why, FAULT_CONF, "--id needs a --socket before it");
		return place_add(*last, arg, why);
	case OPT_FEDERATE:
		d = issuer_domain(is, span_of_str(arg), why);
		if (d == NULL)
			return FAULT_CONF;
		d->federated = true;
		return FAULT_NONE;
	default:
		return FAULT_NONE;
	}
}

static bool
is_place_option(int c)
{
	return c == OPT_SERVE || c == OPT_SOCKET || c == OPT_ID ||
	       c == OPT_FEDERATE;
}

/* -1: go on; else the exit status. */
static int
read_settings(struct issuer *is, struct settings *set, int argc, char **argv)
{
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == OPT_HELP) {
			usage(stdout);
			return 0;
		}
		if (c == OPT_VERSION) {
			(void)puts("postern-dev-issuer " POSTERN_VERSION);
			return 0;
		}
		if (c != '?' && is_place_option(c))
			continue;
		if (c == '?' || !take_setting(is, set, c, optarg)) {
			(void)fprintf(stderr,
			    "postern-dev-issuer: wrong option or value; see "
			    "--help\n");
			return 2;
		}
	}
	if (optind == argc)
		return -1;
	usage(stderr);
	return 2;
}

static enum fault
read_places(struct issuer *is, int argc, char **argv, struct why *why)
{
	struct place *last = NULL;
	enum fault fault = FAULT_NONE;
	int c;

	optind = 0; /* glibc: scan anew */
	while (fault == FAULT_NONE &&
	       (c = getopt_long(argc, argv, "", options, NULL)) != -1)
		if (is_place_option(c))
			fault = take_place(is, &last, c, optarg, why);
	if (fault == FAULT_NONE && list_is_empty(&is->places))
		return fail(why, FAULT_CONF,
		    "nothing to serve: write --serve PATH=ID; see --help");
	return fault;
}

static void
on_rotation(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	issuer_rotate(arg);
}

static void
on_stop(evutil_socket_t fd, short what, void *arg)
{
	struct issuer *is = arg;

	(void)fd;
	(void)what;
	(void)event_base_loopexit(is->base, NULL);
}

static enum fault
start_places(struct issuer *is, struct why *why)
{
	enum fault fault = FAULT_NONE;

	LIST_EACH (it, &is->places) {
		struct place *p = CONTAINER_OF(it, struct place, node);

		if (fault == FAULT_NONE)
			fault = place_issue(p, why);
		if (fault == FAULT_NONE)
			fault = place_listen(p, why);
		if (fault == FAULT_NONE)
			log_say(LOG_LEVEL_INFO, "serve",
			    "Workload API at unix:%s", p->path);
	}
	return fault;
}

static enum fault
start(struct issuer *is, const struct settings *set, struct why *why)
{
	const struct timeval every = {
	    .tv_sec = is->rotate_s != 0 ? is->rotate_s : (is->ttl_s + 1) / 2,
	};
	enum fault fault = start_places(is, why);

	if (fault == FAULT_NONE && set->control != NULL)
		fault = control_start(is, set->control, why);
	if (fault != FAULT_NONE)
		return fault;
	is->rotation = event_new(is->base, -1, EV_PERSIST, on_rotation, is);
	if (is->rotation == NULL || event_add(is->rotation, &every) != 0)
		return fail(why, FAULT_NOMEM, "out of memory");
	return FAULT_NONE;
}

static int
run(struct issuer *is, const struct settings *set)
{
	struct event *signals[3] = {
	    evsignal_new(is->base, SIGUSR1, on_rotation, is),
	    evsignal_new(is->base, SIGTERM, on_stop, is),
	    evsignal_new(is->base, SIGINT, on_stop, is),
	};
	struct why why = {.text = "out of memory"};
	int rc = 1;

	for (size_t i = 0; i < ARRAY_LEN(signals); i++)
		if (signals[i] != NULL)
			(void)event_add(signals[i], NULL);
	if (start(is, set, &why) == FAULT_NONE)
		rc = event_base_dispatch(is->base) == 0 ? 0 : 1;
	else
		log_say(LOG_LEVEL_ERROR, "start", "%s", why.text);
	for (size_t i = 0; i < ARRAY_LEN(signals); i++)
		if (signals[i] != NULL)
			event_free(signals[i]);
	return rc;
}

int
main(int argc, char **argv)
{
	struct issuer is = {
	    .trust_domain = "demo.test",
	    .ttl_s = 300,
	    .key_type = CA_P256,
	    .socket_mode = 0600,
	};
	struct settings set = {0};
	struct why why = {.text = "out of memory"};
	int rc;

	if (argc > 1 && strcmp(argv[1], "toy") == 0)
		return toy_main(argc - 1, argv + 1);
	node_init(&is.domains);
	node_init(&is.places);
	rc = read_settings(&is, &set, argc, argv);
	if (rc >= 0)
		return rc;
	/* Before any other work, keys and sockets included. */
	if (drop_root(set.run_as, &why) != FAULT_NONE) {
		log_say(LOG_LEVEL_ERROR, "start", "%s", why.text);
		return 1;
	}
	if (set.die_with_parent)
		(void)prctl(PR_SET_PDEATHSIG, SIGTERM);
	log_say(LOG_LEVEL_WARN, "banner",
	    "DEVELOPMENT ISSUER: anybody who reaches its sockets gets an "
	    "identity. NOT FOR PRODUCTION");
	is.base = event_base_new();
	if (is.base == NULL ||
	    read_places(&is, argc, argv, &why) != FAULT_NONE) {
		log_say(LOG_LEVEL_ERROR, "start", "%s", why.text);
		rc = 2;
	} else {
		rc = run(&is, &set);
	}
	control_stop(&is);
	issuer_free_entries(&is);
	if (is.rotation != NULL)
		event_free(is.rotation);
	if (is.base != NULL)
		event_base_free(is.base);
	return rc;
}
