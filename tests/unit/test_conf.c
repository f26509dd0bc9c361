/* What a configuration means, and every way in which it may be wrong. */

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "conf_text.h"

#define IN                                                                     \
	"[inbound a]\n"                                                        \
	"listen = 10.0.0.5:8443\n"                                             \
	"forward = unix:/run/postern/a.sock\n"
#define OUT                                                                    \
	"[outbound b]\n"                                                       \
	"listen = unix:/run/postern/b.sock\n"                                  \
	"connect = db.internal:5433\n"                                         \
	"expect = td/db\n"

static void
check(const char *text, const char *want)
{
	struct conf *c;
	struct diags d;
	char got[1024];

	(void)conf_of(text, &c, &d);
	if (strcmp(said(&d, got), want) != 0)
		fail_msg("%s\nsaid '%s', want '%s'", text, got, want);
	conf_free(&c);
	diags_fini(&d);
}

/* One line added to a good service in line 5. */
static void
check_in(const char *line, const char *want)
{
	char text[1024];
	char all[256];

	snprintf(text, sizeof(text), IN "allow = td/x\n%s\n", line);
	snprintf(all, sizeof(all), "3:11 C214%s%s", want[0] == '\0' ? "" : " ",
	    want);
	check(text, all);
}

static void
check_out(const char *line, const char *want)
{
	char text[1024];

	snprintf(text, sizeof(text), OUT "%s\n", line);
	check(text, want);
}

static void
check_global(const char *line, const char *want)
{
	char text[1024];

	snprintf(text, sizeof(text), "[global]\n%s\n", line);
	check(text, want);
}

static struct conf *
load(const char *text)
{
	struct conf *c;
	struct diags d;
	char got[1024];

	if (conf_of(text, &c, &d) != FAULT_NONE)
		fail_msg("%s", said(&d, got));
	diags_fini(&d);
	return c;
}

/* What is written in no file has the value of the manual. */
static void
test_conf_defaults_are_those_of_the_table(void **state)
{
	struct conf *c = load(IN "allow = td/x\n" OUT);
	const struct service *s = &c->services[0];

	(void)state;
	assert_int_equal(c->n_services, 2);
	assert_int_equal(s->handshake_timeout_ms, 10000);
	assert_int_equal(s->connect_timeout_ms, 5000);
	assert_int_equal(s->idle_timeout_ms, CONF_OFF);
	assert_int_equal(s->half_close_timeout_ms, 3600000);
	assert_int_equal(s->dead_peer_timeout_ms, 60000);
	assert_int_equal(s->keepalive_s, 30);
	assert_int_equal(s->backlog, 4096);
	assert_int_equal(s->listen_mode, 0600);
	assert_int_equal(s->log_sample, 1);
	assert_int_equal(s->mode, MODE_ENFORCE);
	assert_false(s->tls12 || s->eku_ignore || s->end_without_close_notify);
	assert_int_equal(c->services[1].resolve_interval_ms, 30000);
	assert_null(c->services[1].sni);
	assert_int_equal(c->global.redaction_grace_ms, 30000);
	assert_int_equal(c->global.drain_timeout_ms, 15000);
	assert_int_equal(c->global.threads, 0);
	assert_int_equal(c->global.log_level, LOG_LEVEL_INFO);
	assert_int_equal(c->global.log_format, CONF_LOG_AUTO);
	assert_int_equal(addr_family(&c->global.metrics), AF_UNSPEC);
	assert_null(c->global.workload_api);
	conf_free(&c);
}

/* Each key reaches its member. */
static void
test_conf_values_reach_their_members(void **state)
{
	struct conf *c = load(
	    "[global]\nworkload_api = unix:///run/a\n"
	    "workload_api_user = root\ntrust_domain = td\n"
	    "start_gate = identity\nredaction_grace = 0s\n"
	    "tls_profile = list\nciphersuites = A B\ngroups = X25519\n"
	    "threads = 4\nmax_connections = 100\ndrain_timeout = 1m\n"
	    "metrics = 127.0.0.1:9464\nlog_format = journal\n"
	    "log_level = debug\ncontrol = unix:/run/c\ndumpable = yes\n" IN
	    "allow = td/x\nmode = audit\ntls_min = 1.2\neku = ignore\n"
	    "handshake_timeout = 300ms\nidle_timeout = 7d\nkeepalive = off\n"
	    "missing_close_notify = end\nlisten_mode = 0660\n"
	    "log_sample = 1/100\nbacklog = 5\nlisten_group = root\n" OUT
	    "caller = uid 5\nsni = db.example\nresolve_interval = 2h\n");
	const struct service *s = &c->services[0];

	(void)state;
	assert_string_equal(c->global.workload_api, "unix:///run/a");
	assert_int_equal(c->global.n_workload_api_uids, 1);
	assert_int_equal(c->global.workload_api_uids[0], 0);
	assert_string_equal(c->global.trust_domain, "td");
	assert_true(c->global.start_gate_identity);
	assert_int_equal(c->global.redaction_grace_ms, 0);
	assert_string_equal(c->global.ciphersuites, "A B");
	assert_string_equal(c->global.groups, "X25519");
	assert_int_equal(c->global.threads, 4);
	assert_int_equal(c->global.max_connections, 100);
	assert_int_equal(c->global.drain_timeout_ms, 60000);
	assert_int_equal(addr_port(&c->global.metrics), 9464);
	assert_int_equal(c->global.log_format, CONF_LOG_JOURNAL);
	assert_int_equal(c->global.log_level, LOG_LEVEL_DEBUG);
	assert_string_equal(c->global.control, "/run/c");
	assert_true(c->global.dumpable);
	assert_int_equal(s->mode, MODE_AUDIT);
	assert_true(s->tls12 && s->eku_ignore && s->end_without_close_notify);
	assert_int_equal(s->handshake_timeout_ms, 300);
	assert_int_equal(s->idle_timeout_ms, 604800000);
	assert_int_equal(s->keepalive_s, CONF_OFF);
	assert_int_equal(s->listen_mode, 0660);
	assert_int_equal(s->log_sample, 100);
	assert_int_equal(s->backlog, 5);
	assert_string_equal(s->listen_group, "root");
	s = conf_service(c, span_of_str("b"));
	assert_non_null(s);
	assert_string_equal(s->targets[0].host, "db.internal");
	assert_int_equal(s->targets[0].port, 5433);
	assert_int_equal(s->n_callers, 1);
	assert_string_equal(s->sni, "db.example");
	assert_int_equal(s->resolve_interval_ms, 7200000);
	assert_null(conf_service(c, span_of_str("c")));
	conf_free(&c);
}

/* A service with nothing in it names all that it lacks. */
static void
test_conf_missing_keys_named(void **state)
{
	(void)state;
	check("[inbound a]\nmode = enforce\n", "1:2 C112 1:2 C112 1:2 C111");
	check("[outbound b]\nmode = enforce\n", "1:2 C112 1:2 C112 1:2 C110");
	check(IN, "1:2 C111 3:11 C214");
	check("[outbound b]\nlisten = unix:/run/postern/b\nconnect = a:1\n",
	    "1:2 C110");
}

/* A loopback listener without caller lends the identity to everybody. */
static void
test_conf_outbound_tcp_needs_caller(void **state)
{
	(void)state;
	check("[outbound b]\nlisten = 127.0.0.1:1\nlisten = [::1]:1\n"
	      "connect = a:1\nexpect = td/db\n",
	    "1:2 C136");
	check("[outbound b]\nlisten = systemd:b\nconnect = a:1\n"
	      "expect = td/db\n",
	    "1:2 C136");
	check_out("", "");
	check_out("caller = any", "5:10 C202");
	check_out("caller = nobody of yours", "5:10 C113");
	check_out("caller = user no-such-user-here", "5:10 C134");
}

/* Plaintext must not leave the host. */
static void
test_conf_plaintext_offhost_refused(void **state)
{
	(void)state;
	check("[outbound b]\nlisten = 10.0.0.1:1\nconnect = a:1\n"
	      "expect = td/db\ncaller = any\n",
	    "2:10 C116 2:10 C216 5:10 C202");
	check("[outbound b]\nlisten = 10.0.0.1:1\nconnect = a:1\n"
	      "expect = td/db\ncaller = uid 1\n",
	    "2:10 C116 2:10 C216 2:10 C137");
	check("[inbound a]\nlisten = 10.0.0.5:1\nforward = 10.0.0.1:80\n"
	      "allow = td/x\n",
	    "3:11 C116");
	check("[inbound a]\nlisten = 10.0.0.5:1\nforward = 0.0.0.0:80\n"
	      "allow = td/x\n",
	    "3:11 C116");
}

/* Durations and numbers: unit, range, garbage. */
static void
test_conf_bad_values_refused(void **state)
{
	static const char *const bad[] = {"handshake_timeout = 300",
	    "handshake_timeout = 10 s", "handshake_timeout = 1ms",
	    "handshake_timeout = 11m", "handshake_timeout = off",
	    "handshake_timeout = -1s", "handshake_timeout = 1w",
	    "handshake_timeout = s",
	    "handshake_timeout = 99999999999999999999s", "keepalive = 1500ms",
	    "mode = Audit", "tls_min = 1.1", "backlog = 0", "backlog = 1k",
	    "listen_mode = 0888", "listen_mode = 01777", "log_sample = 10",
	    "log_sample = 1/0", "eku = none"};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		char want[64];
		size_t column = strcspn(bad[i], "=") + 3;

		snprintf(want, sizeof(want), "5:%zu C113", column);
		check_in(bad[i], want);
	}
}

/* Addresses: port, brackets, paths, names in the wrong place. */
static void
test_conf_bad_addresses_refused(void **state)
{
	(void)state;
	check_in("listen = 10.0.0.5", "5:10 C114");
	check_in("listen = ::1:80", "5:10 C114");
	check_in("listen = unix:a", "5:10 C114");
	check_in("listen = host:80", "5:10 C114");
	check_in("listen = systemd:", "5:10 C114");
	check_out("connect = host", "5:11 C114");
	check_out("connect = host:0", "5:11 C114");
	check_out("connect = host:65536", "5:11 C114");
	check_out("connect = unix:/x", "5:11 C114");
	check_out("connect = 10.0.0.1.2:1", "5:11 C114");
	check_out("connect = ho st:1", "5:11 C114");
	check_out("connect = [2001:db8::1]:443", "");
}

/* Every kind of bad rule has its code. */
static void
test_conf_bad_rules_have_their_codes(void **state)
{
	char text[4096] = IN "allow = td/x\nallow = td/";

	(void)state;
	check_in("allow = spiffe:/td/x", "5:9 C120");
	check_in("allow = td:1/x", "5:9 C120");
	check_in("allow = td", "5:9 C120");
	check_in("allow = spiffe://Td/x", "5:9 C121");
	check_in("allow = SPIFFE://td/x", "5:9 C121");
	check_in("allow = td/x/", "5:9 C122");
	check_in("allow = td/a//b", "5:9 C122");
	check_in("allow = td/é", "5:9 C122");
	check_in("allow = *", "5:9 C123");
	check_in("allow = *.td/x", "5:9 C123");
	check_in("deny = td/**/x", "5:8 C123");
	check_in("allow = none", "5:9 C119");
	memset(text + strlen(text), 'a', 2048);
	check(text, "3:11 C214 5:9 C124");
}

/* The hint is the line to write. */
static void
test_conf_upper_case_domain_hint_is_the_cure(void **state)
{
	struct conf *c;
	struct diags d;

	(void)state;
	(void)conf_of(IN "allow = spiffe://Example.org/Web\n", &c, &d);
	assert_string_equal(
	    diag_of(&d, "C121")->hint, "write spiffe://example.org/Web");
	assert_string_equal(diag_of(&d, "C121")->message,
	    "'spiffe://Example.org/Web': trust domain must be lower case");
	diags_fini(&d);
}

/* A key in the wrong section is told where it belongs. */
static void
test_conf_misplaced_key_told_where_it_belongs(void **state)
{
	struct conf *c;
	struct diags d;

	(void)state;
	(void)conf_of(IN "allow = td/x\nexpect = td/y\n", &c, &d);
	assert_string_equal(diag_of(&d, "C104")->hint, "belongs in [outbound]");
	diags_fini(&d);
	/* Keys of other releases are unknown like any other. */
	check_in("plaintext_offhost = yes", "5:1 C104");
	check_in("identity = a", "5:1 C104");
	check("[identity a]\nid = x\n", "1:2 C103");
}

/* A scalar twice: which one is meant? */
static void
test_conf_scalar_twice_refused(void **state)
{
	(void)state;
	check_in("mode = enforce\nmode = enforce", "6:1 C108");
	check_in("forward = unix:/run/postern/a", "5:1 C108");
	check_in("allow = td/y", "");
}

/* [global]: each key that can be wrong. */
static void
test_conf_bad_global_values_refused(void **state)
{
	(void)state;
	check_global("metrics = 10.0.0.1:80", "2:11 C118");
	check_global("metrics = unix:/x", "2:11 C118");
	check_global("metrics = off", "");
	check_global("workload_api = /run/a", "2:16 C117");
	check_global("workload_api = tcp://10.0.0.1:80", "2:16 C117");
	check_global("trust_domain = Td", "2:16 C121");
	check_global("trust_domain = spiffe://td", "2:16 C120");
	check_global("trust_domain = td.", "2:16 C213");
	check_global("workload_api_user = no-such-user-here", "2:21 C134");
	check_global("ciphersuites = A", "2:16 C115");
	check_global("tls_profile = list", "2:15 C115");
	check_global("threads = 257", "2:11 C113");
	check_global("redaction_grace = 11m", "2:19 C113");
	check_global("control = 127.0.0.1:1", "2:11 C114");
	check_in("listen_group = no-such-group-here", "5:16 C134");
}

/* Two listeners of one address: the second bind would fail, or share. */
static void
test_conf_listen_twice_refused(void **state)
{
	(void)state;
	check_in("listen = 10.0.0.5:8443", "5:10 C131");
	check_in("listen = 0.0.0.0:8443", "5:10 C131");
	check_in("listen = [::]:8443", "");
	check_in("listen = 10.0.0.5:8444", "");
	check_in("listen = systemd:a\nlisten = systemd:a", "6:10 C131");
	check("[global]\nmetrics = 127.0.0.1:1\n[outbound b]\n"
	      "listen = 127.0.0.1:1\nlisten = [::1]:1\nconnect = a:1\n"
	      "expect = td/x\ncaller = uid 1\n",
	    "4:10 C131");
}

/* A connection that goes round for ever. */
static void
test_conf_loop_refused_chain_is_none(void **state)
{
	(void)state;
	check("[inbound a]\nlisten = 10.0.0.5:1\nforward = 127.0.0.1:2\n"
	      "allow = td/x\n"
	      "[outbound b]\nlisten = 127.0.0.1:2\nlisten = [::1]:2\n"
	      "connect = 10.0.0.5:1\nexpect = td/x\ncaller = uid 1\n",
	    "1:0 C132 3:11 C211 5:0 C132");
	check("[inbound a]\nlisten = 10.0.0.5:1\nforward = 127.0.0.1:3\n"
	      "allow = td/x\n"
	      "[outbound b]\nlisten = 127.0.0.1:2\nlisten = [::1]:2\n"
	      "connect = 10.0.0.5:1\nexpect = td/x\ncaller = uid 1\n",
	    "3:11 C211");
}

/* Shared rules join, and a missing policy is an error, not an opening. */
static void
test_conf_policies_merged(void **state)
{
	struct conf *c = load(IN "policy = ops\ndeny = td/ops/old\n"
	                         "[policy ops]\nallow = td/ops/*\n");
	struct spiffe_id id;

	(void)state;
	(void)spiffe_id_parse(span_of_str("spiffe://td/ops/a"), &id);
	assert_int_equal(
	    policy_decide(c->services[0].policy, &id).decision, DECISION_ALLOW);
	(void)spiffe_id_parse(span_of_str("spiffe://td/ops/old"), &id);
	assert_int_equal(
	    policy_decide(c->services[0].policy, &id).decision, DECISION_DENY);
	conf_free(&c);
	check_in("policy = osp", "5:10 C133");
	check(IN "policy = p\n[policy p]\ndeny = td/x\n", "1:2 C111 3:11 C214");
}

/* Warnings: each loose setting is said. */
static void
test_conf_loose_settings_warned(void **state)
{
	(void)state;
	check_in("mode = audit", "5:8 C201");
	check_in("tls_min = 1.2", "5:11 C210");
	check_in("missing_close_notify = end", "5:24 C215");
	check_in("allow = trust-domain od", "5:9 C204");
	check_in("allow = od/**", "5:9 C204");
	check_in("deny = od/**", "");
	check_in("allow = td/x", "5:9 C207");
	check_in("deny = od/**\nallow = od/a", "6:9 C206");
	check_in("allow = td../y", "5:9 C213");
	check_in("listen = unix:/tmp/a.sock", "5:10 C217");
	check_out("expect = td/db-*", "5:10 C205");
	check_out("listen = 127.0.0.1:1\ncaller = uid 1", "2:10 C216");
	check_out("listen = 127.0.0.1:1\nlisten = [::1]:1\ncaller = uid 1", "");
}

/* A later file wins, line by line; the origin says so. */
static void
test_conf_later_global_wins(void **state)
{
	struct conf_load_args args = {.n_files = 2};
	struct raw raw = {0};
	struct conf *c = NULL;
	struct diags d;
	AUTO(text_fini) struct text t;

	(void)state;
	diags_init(&d);
	text_init(&t);
	raw_add(&raw, "a.ini", (uint8_t *)strdup("[global]\nthreads = 1\n"), 21,
	    &d);
	raw_add(&raw, "b.ini", (uint8_t *)strdup("[global]\nthreads = 2\n"), 21,
	    &d);
	assert_int_equal(conf_build(&raw, &args, &c, &d), FAULT_NONE);
	raw_fini(&raw);
	assert_int_equal(c->global.threads, 2);
	conf_dump(c, true, &t);
	assert_non_null(strstr(t.data, "threads = 2 ; b.ini:2\n"));
	conf_free(&c);
	diags_fini(&d);
}

/* At start a directory service may be late; a check is not that patient. */
static void
test_conf_unknown_name_pends_at_start(void **state)
{
	struct conf_load_args args = {.n_files = 1, .names_may_pend = true};
	char *text = strdup(OUT "caller = user no-such-user-here\n");
	struct local_caller root = {.known = true};
	struct raw raw = {0};
	struct conf *c = NULL;
	struct diags d;

	(void)state;
	diags_init(&d);
	raw_add(&raw, "a.ini", (uint8_t *)text, strlen(text), &d);
	assert_int_equal(conf_build(&raw, &args, &c, &d), FAULT_NONE);
	assert_true(c->pending);
	assert_int_equal(d.warnings, 1);
	assert_int_equal(policy_decide_caller(c->services[0].callers,
	                     c->services[0].n_callers, &root)
	                     .decision,
	    DECISION_DENY);
	raw_fini(&raw);
	conf_free(&c);
	diags_fini(&d);
}

/* What depends on the shell is an error for run, a note for check. */
static void
test_conf_environment_strict_or_noted(void **state)
{
	struct conf_load_args args = {.n_files = 1, .strict_environment = true};
	const char *text = "[global]\nmax_connections = 16000000\n";
	struct raw raw = {0};
	struct conf *c = NULL;
	struct diags d;
	char got[1024];

	(void)state;
	unsetenv("SPIFFE_ENDPOINT_SOCKET");
	diags_init(&d);
	raw_add(&raw, "a.ini", (uint8_t *)strdup(text), strlen(text), &d);
	assert_int_equal(conf_build(&raw, &args, &c, &d), FAULT_CONF);
	assert_string_equal(said(&d, got), "2:19 C135 0:0 C117");
	raw_fini(&raw);
	diags_fini(&d);
	check(text, "");
}

/* An endpoint that is written wrongly is not said to be missing besides. */
static void
test_conf_wrong_endpoint_is_said_once(void **state)
{
	struct conf_load_args args = {.n_files = 1, .strict_environment = true};
	const char *text = "[global]\nworkload_api = /run/x.sock\n";
	struct raw raw = {0};
	struct conf *c = NULL;
	struct diags d;
	char got[1024];

	(void)state;
	unsetenv("SPIFFE_ENDPOINT_SOCKET");
	diags_init(&d);
	raw_add(&raw, "a.ini", (uint8_t *)strdup(text), strlen(text), &d);
	assert_int_equal(conf_build(&raw, &args, &c, &d), FAULT_CONF);
	assert_string_equal(said(&d, got), "2:16 C117");
	raw_fini(&raw);
	diags_fini(&d);
}

/* Codes are an interface: none twice, all with their page. */
static void
test_diag_codes_unique_and_documented(void **state)
{
	(void)state;
	for (size_t i = 0; i < diag_code_count(); i++) {
		assert_int_equal(strlen(diag_code(i)->code), 4);
		assert_true(strlen(diag_code(i)->page) > 10);
		for (size_t j = 0; j < i; j++)
			assert_string_not_equal(
			    diag_code(i)->code, diag_code(j)->code);
	}
}

/* No hint and no page may name a key that does not exist. */
static void
test_diag_pages_name_no_key_of_other_releases(void **state)
{
	static const char *const others[] = {"plaintext_offhost",
	    "proxy_protocol", "forward_from", "guard_target", "transparent",
	    "route", "alpn", "identity ="};

	(void)state;
	for (size_t i = 0; i < diag_code_count(); i++)
		for (size_t j = 0; j < ARRAY_LEN(others); j++)
			assert_null(strstr(diag_code(i)->page, others[j]));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_conf_defaults_are_those_of_the_table),
	    cmocka_unit_test(test_conf_values_reach_their_members),
	    cmocka_unit_test(test_conf_missing_keys_named),
	    cmocka_unit_test(test_conf_outbound_tcp_needs_caller),
	    cmocka_unit_test(test_conf_plaintext_offhost_refused),
	    cmocka_unit_test(test_conf_bad_values_refused),
	    cmocka_unit_test(test_conf_bad_addresses_refused),
	    cmocka_unit_test(test_conf_bad_rules_have_their_codes),
	    cmocka_unit_test(test_conf_upper_case_domain_hint_is_the_cure),
	    cmocka_unit_test(test_conf_misplaced_key_told_where_it_belongs),
	    cmocka_unit_test(test_conf_scalar_twice_refused),
	    cmocka_unit_test(test_conf_bad_global_values_refused),
	    cmocka_unit_test(test_conf_listen_twice_refused),
	    cmocka_unit_test(test_conf_loop_refused_chain_is_none),
	    cmocka_unit_test(test_conf_policies_merged),
	    cmocka_unit_test(test_conf_loose_settings_warned),
	    cmocka_unit_test(test_conf_later_global_wins),
	    cmocka_unit_test(test_conf_unknown_name_pends_at_start),
	    cmocka_unit_test(test_conf_environment_strict_or_noted),
	    cmocka_unit_test(test_conf_wrong_endpoint_is_said_once),
	    cmocka_unit_test(test_diag_codes_unique_and_documented),
	    cmocka_unit_test(test_diag_pages_name_no_key_of_other_releases),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
