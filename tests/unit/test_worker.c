/* A worker between two configurations, without its thread. */

#include "conf_text.h"

#include <sys/socket.h>
#include <unistd.h>

#include "worker_int.h"

struct rig {
	struct worker_public public;
	struct worker_shared shared;
	struct worker *w;
	struct conf *conf;
};

static struct conf *
load(const char *text, uint64_t generation)
{
	struct conf *c;
	struct diags d;

	assert_int_equal(conf_of(text, &c, &d), FAULT_NONE);
	diags_fini(&d);
	c->generation = generation;
	return c;
}

static void
rig_init(struct rig *r, const char *text)
{
	memset(r, 0, sizeof(*r));
	r->shared.n_workers = 1;
	r->shared.public = &r->public;
	r->shared.workers = &r->w;
	r->w = worker_new(&r->shared, 0);
	assert_non_null(r->w);
	r->w->conf = r->conf = load(text, 2);
}

static void
rig_fini(struct rig *r)
{
	worker_free(&r->w);
	conf_free(&r->conf);
}

#define OUTBOUND_A                                                             \
	"[outbound a]\nlisten = 127.0.0.1:2001\nconnect = 127.0.0.1:3001\n"    \
	"expect = td/a\ncaller = any\n"
#define OUTBOUND_B                                                             \
	"[outbound b]\nlisten = 127.0.0.1:2002\nconnect = 127.0.0.1:3002\n"    \
	"expect = td/b\ncaller = any\n"

static void
give_targets(struct rig *r, const char *uri)
{
	struct mail_targets *m = calloc(1, sizeof(*m));

	assert_non_null(m);
	m->mail.kind = m->mail.slot = MAIL_TARGETS;
	m->conf_generation = 2;
	m->n_services = 1;
	m->lists = calloc(1, sizeof(*m->lists));
	assert_non_null(m->lists);
	m->lists[0].addrs = calloc(1, sizeof(struct addr));
	assert_non_null(m->lists[0].addrs);
	m->lists[0].n = 1;
	assert_int_equal(
	    addr_parse(span_of_str(uri), &m->lists[0].addrs[0], NULL),
	    FAULT_NONE);
	r->w->targets = m;
}

/*
 * A program that connected just before a reload must reach the service that
 * it asked for, not the one that has its place in the list now.
 */
static void
test_worker_targets_of_an_older_service_are_found_by_name(void **state)
{
	struct conf *old = load(OUTBOUND_A OUTBOUND_B, 1);
	const struct target_list *l;
	struct rig r;

	(void)state;
	rig_init(&r, OUTBOUND_B);
	give_targets(&r, "127.0.0.1:3002");
	l = r.w->env.targets(r.w, conf_service(old, span_of_str("b")));
	assert_int_equal(l->n, 1);
	assert_ptr_equal(l, &r.w->targets->lists[0]);
	l = r.w->env.targets(r.w, conf_service(old, span_of_str("a")));
	assert_int_equal(l->n, 0);
	conf_free(&old);
	rig_fini(&r);
}

static struct mail_handoff
handoff_of(const char *service, enum direction direction, int fd)
{
	struct mail_handoff m = {.fd = fd, .direction = direction};

	m.mail.kind = MAIL_HANDOFF;
	(void)snprintf(m.service, sizeof(m.service), "%s", service);
	return m;
}

/*
 * A name that changed sides in a reload: a peer of the mesh must not be
 * served as a local program, nor the other way round.
 */
static void
test_worker_handoff_for_the_other_direction_is_reset(void **state)
{
	struct mail_handoff m;
	struct rig r;
	int pair[2];
	char c;

	(void)state;
	rig_init(&r, OUTBOUND_A);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	m = handoff_of("a", INBOUND, pair[1]);
	worker_take_handoff(r.w, &m);
	assert_int_equal(m.fd, -1);
	assert_true(list_is_empty(&r.w->all));
	assert_int_equal(read(pair[0], &c, 1), 0);
	(void)close(pair[0]);
	rig_fini(&r);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(
	        test_worker_targets_of_an_older_service_are_found_by_name),
	    cmocka_unit_test(
	        test_worker_handoff_for_the_other_direction_is_reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
