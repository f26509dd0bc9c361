/* The command line as an operator types it. */

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "unit.h"

#include "cli.h"
#include "mem.h"

#define CONF                                                                   \
	"[inbound orders]\nlisten = 10.0.0.5:8443\nforward = 127.0.0.1:8080\n" \
	"allow = spiffe://example.org/web\n"                                   \
	"allow = spiffe://example.org/ns/batch/*\n"                            \
	"deny = spiffe://example.org/ns/batch/old\n"                           \
	"[outbound pg]\nlisten = 127.0.0.1:5432\nlisten = [::1]:5432\n"        \
	"connect = a:1\nexpect = example.org/pg\ncaller = uid 1000-1999\n"     \
	"caller = gid 0\n"

static struct {
	char *out, *err;
	int rc;
} got;

/* The daemon that is not there, or answers with what it was asked. */
static int daemon_rc;
static char asked[256];
static char asked_path[64];

static int
fake_ask(const char *path, const char *line, FILE *out, FILE *err)
{
	(void)err;
	snprintf(asked, sizeof(asked), "%s", line);
	snprintf(
	    asked_path, sizeof(asked_path), "%s", path == NULL ? "" : path);
	if (daemon_rc != CLI_NO_DAEMON)
		fprintf(out, "answer\n");
	return daemon_rc;
}

static void
forget(void)
{
	free(got.out);
	free(got.err);
	memset(&got, 0, sizeof(got));
	asked[0] = '\0';
}

/* `postern` with these words, blanks between. */
static int
run(const char *words)
{
	static const char *const libraries[] = {"OpenSSL of the test", NULL};
	size_t out_len;
	size_t err_len;
	char text[512];
	char *argv[32] = {text};
	int argc = 0;
	struct cli_env env = {.ask = fake_ask, .libraries = libraries};

	forget();
	env.out = open_memstream(&got.out, &out_len);
	env.err = open_memstream(&got.err, &err_len);
	snprintf(text, sizeof(text), "postern %s", words);
	for (char *w = strtok(text, " "); w != NULL; w = strtok(NULL, " "))
		argv[argc++] = w;
	got.rc = cli_main(argc, argv, &env);
	fclose(env.out);
	fclose(env.err);
	return got.rc;
}

static char path[64];

static int
set_up(void **state)
{
	int fd;

	(void)state;
	snprintf(path, sizeof(path), "/tmp/cli-%d.ini", (int)getpid());
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_int_equal(write(fd, CONF, strlen(CONF)), strlen(CONF));
	close(fd);
	daemon_rc = CLI_NO_DAEMON;
	return 0;
}

static int
tear_down(void **state)
{
	(void)state;
	unlink(path);
	forget();
	return 0;
}

/* Replace the file's text. */
static void
write_conf(const char *text)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static int
run_with_file(const char *before, const char *after)
{
	char words[256];

	snprintf(words, sizeof(words), "%s%s%s", before, path, after);
	return run(words);
}

#define HAS(text, part)                                                        \
	do {                                                                   \
		if (strstr((text), (part)) == NULL)                            \
			fail_msg("no '%s' in:\n%s", (part), (text));           \
	} while (0)

/* Who types nothing, or asks for help, is led on. */
static void
test_cli_help_names_next_steps(void **state)
{
	(void)state;
	assert_int_equal(run("--help"), CLI_DONE);
	HAS(got.out, "Next steps");
	HAS(got.out, "postern check");
	assert_int_equal(run(""), CLI_USAGE);
	HAS(got.err, "Next steps");
	assert_int_equal(run("explain --help"), CLI_DONE);
	HAS(got.out, "--peer");
	assert_null(strstr(got.out, "--production"));
}

/* A typing mistake costs a second, not a search. */
static void
test_cli_unknown_words_get_a_guess(void **state)
{
	(void)state;
	assert_int_equal(run("chekc"), CLI_USAGE);
	HAS(got.err, "did you mean 'check'?");
	assert_int_equal(run("check --jsno"), CLI_USAGE);
	HAS(got.err, "did you mean 'json'?");
	assert_int_equal(run("completion bsh"), CLI_USAGE);
	HAS(got.err, "did you mean 'bash'?");
	assert_int_equal(run("explain-error no_rul"), CLI_USAGE);
	HAS(got.err, "did you mean 'no_rule'?");
	/* An option of another verb is no option here. */
	assert_int_equal(run("version --production"), CLI_USAGE);
	assert_int_equal(run("test-connect x"), CLI_USAGE);
	assert_int_equal(run("status x"), CLI_USAGE);
	assert_int_equal(run("check --json=1"), CLI_USAGE);
	assert_int_equal(run("check --format"), CLI_USAGE);
	assert_int_equal(run("check --format xml"), CLI_USAGE);
}

/* A good file: exit 0, and the sum. */
static void
test_cli_check_good_file_exits_0(void **state)
{
	(void)state;
	assert_int_equal(run_with_file("check ", ""), CLI_DONE);
	HAS(got.out, "0 errors, 1 warning\n");
	assert_null(strchr(got.out, '\033'));
}

/* The marker stands under the word. */
static void
test_cli_check_bad_file_marks_the_word(void **state)
{
	(void)state;
	write_conf("[global]\nthread = 4\n");
	assert_int_equal(run_with_file("check ", ""), CLI_BAD_CONF);
	HAS(got.out, ":2:1: error[C104]: unknown key 'thread' in [global]\n"
	             "    2 | thread = 4\n"
	             "      | ^~~~~~ did you mean 'threads'?\n");
	HAS(got.out, "1 error, 0 warnings\n");
	write_conf("[global]\n  metrics = \tx\n");
	assert_int_equal(run_with_file("check ", ""), CLI_BAD_CONF);
	HAS(got.out, "    2 |   metrics =  x\n"
	             "      |              ^");
}

/* Bytes of the file must not steer the terminal. */
static void
test_cli_check_escapes_the_source(void **state)
{
	(void)state;
	write_conf("[global]\nthreads = \033[31m\n");
	assert_int_equal(run_with_file("check ", ""), CLI_BAD_CONF);
	HAS(got.out, "threads = ?[31m\n");
	assert_null(strchr(got.out, '\033'));
}

/* Editors and programs get their forms. */
static void
test_cli_check_other_formats(void **state)
{
	char want[256];

	(void)state;
	write_conf("[global]\nthread = 4\n");
	assert_int_equal(
	    run_with_file("check --format=gcc ", ""), CLI_BAD_CONF);
	snprintf(want, sizeof(want),
	    "%s:2:1: error: unknown key 'thread' in [global]; did you mean "
	    "'threads'? [C104]\n",
	    path);
	HAS(got.out, want);
	assert_int_equal(run_with_file("check --json ", ""), CLI_BAD_CONF);
	HAS(got.out, "\"schema\":\"postern.check/1\"");
	HAS(got.out, "\"code\":\"C104\"");
	HAS(got.out, "\"errors\":1");
}

/* What is fine in a trial fails on a production host. */
static void
test_cli_check_production_refuses_audit_and_any(void **state)
{
	(void)state;
	write_conf("[inbound a]\nlisten = 10.0.0.5:1\nforward = "
	           "127.0.0.1:1\nallow = td/x\nmode = audit\n");
	assert_int_equal(run_with_file("check ", ""), CLI_DONE);
	assert_int_equal(
	    run_with_file("check --production ", ""), CLI_BAD_CONF);
	HAS(got.out, "error[C201]");
	HAS(got.out, "1 error, 1 warning\n");
}

/* The answer names the rule, its line, and what to write. */
static void
test_cli_explain_inbound_denied_shows_the_way(void **state)
{
	(void)state;
	assert_int_equal(run_with_file("explain --config=",
	                     " inbound orders "
	                     "spiffe://example.org/ns/batch2/job7"),
	    CLI_DENIED);
	HAS(got.out, "deny  inbound: no rule matches\n");
	HAS(got.out, "nearest: allow spiffe://example.org/ns/batch/*   ");
	HAS(got.out, ".ini:5\n");
	HAS(got.out, "segment 2: 'batch' wanted, 'batch2' given\n");
	HAS(got.out, "to allow exactly this caller:  allow = "
	             "spiffe://example.org/ns/batch2/job7\n");
	assert_string_equal(asked, "");
}

/* Allowed: exit 0; a deny rule is named as one. */
static void
test_cli_explain_inbound_rule_named(void **state)
{
	(void)state;
	assert_int_equal(
	    run_with_file("explain inbound orders "
	                  "spiffe://example.org/ns/batch/a --config ",
	        ""),
	    CLI_DONE);
	HAS(got.out, "allow allow spiffe://example.org/ns/batch/*   ");
	assert_int_equal(
	    run_with_file("explain inbound orders "
	                  "spiffe://example.org/ns/batch/old --config ",
	        ""),
	    CLI_DENIED);
	HAS(got.out, "deny  deny spiffe://example.org/ns/batch/old   ");
}

/* Caller and server are judged together: one no is a no. */
static void
test_cli_explain_outbound_caller_and_peer(void **state)
{
	(void)state;
	assert_int_equal(run_with_file("explain outbound pg --uid 1500 --peer "
	                               "spiffe://example.org/pg --config ",
	                     ""),
	    CLI_DONE);
	HAS(got.out, "allow caller uid 1000-1999   ");
	HAS(got.out, "allow expect spiffe://example.org/pg   ");
	assert_int_equal(run_with_file("explain outbound pg --uid 1500 --peer "
	                               "spiffe://example.org/pgx --config ",
	                     ""),
	    CLI_DENIED);
	HAS(got.out, "to allow exactly this server:  expect = ");
	/* root is in group 0: its groups are looked up. */
	assert_int_equal(
	    run_with_file("explain outbound pg --uid 0 --config ", ""),
	    CLI_DONE);
	HAS(got.out, "allow caller gid 0   ");
	assert_int_equal(
	    run_with_file("explain outbound pg --uid 999999 --config ", ""),
	    CLI_DENIED);
}

/* Programs read the same answer. */
static void
test_cli_explain_json_has_the_facts(void **state)
{
	(void)state;
	assert_int_equal(run_with_file("explain --json inbound orders "
	                               "spiffe://example.org/webx --config ",
	                     ""),
	    CLI_DENIED);
	HAS(got.out, "\"schema\":\"postern.explain/1\"");
	HAS(got.out, "\"decision\":\"deny\",\"reason\":\"no_rule\"");
	HAS(got.out, "\"nearest\":{\"text\":\"spiffe://example.org/web\"");
}

/* Nonsense is refused before anything is judged. */
static void
test_cli_explain_nonsense_is_usage(void **state)
{
	(void)state;
	assert_int_equal(run("explain"), CLI_USAGE);
	assert_int_equal(run("explain inbound a"), CLI_USAGE);
	assert_int_equal(run("explain outbound a"), CLI_USAGE);
	assert_int_equal(
	    run_with_file("explain outbound pg --uid -1 --config ", ""),
	    CLI_USAGE);
	assert_int_equal(
	    run_with_file("explain inbound orders td --config ", ""),
	    CLI_USAGE);
	assert_int_equal(
	    run_with_file("explain inbound order spiffe://a/b --config ", ""),
	    CLI_USAGE);
	HAS(got.err, "did you mean 'orders'?");
	assert_int_equal(
	    run_with_file("explain inbound pg spiffe://a/b --config ", ""),
	    CLI_USAGE);
}

/* The daemon answers if it is there; else the files, and it is said. */
static void
test_cli_explain_asks_the_daemon_first(void **state)
{
	(void)state;
	daemon_rc = CLI_DENIED;
	assert_int_equal(
	    run("explain inbound orders spiffe://a/b --control /c"),
	    CLI_DENIED);
	assert_string_equal(asked, "text explain inbound orders spiffe://a/b");
	assert_string_equal(asked_path, "/c");
	daemon_rc = CLI_NO_DAEMON;
	(void)run("explain outbound pg --uid 5");
	assert_string_equal(asked, "text explain outbound pg --uid 5");
	HAS(got.out, "daemon not reachable");
}

/* Online verbs send their line and hand back the answer's code. */
static void
test_cli_online_verbs_send_one_line(void **state)
{
	(void)state;
	daemon_rc = CLI_DEGRADED;
	assert_int_equal(run("status --json"), CLI_DEGRADED);
	assert_string_equal(asked, "json status");
	assert_string_equal(got.out, "answer\n");
	daemon_rc = CLI_DONE;
	assert_int_equal(
	    run("connections --service a --peer spiffe://a/b"), CLI_DONE);
	assert_string_equal(
	    asked, "text connections --peer spiffe://a/b --service a");
	assert_int_equal(run("dump --origin"), CLI_DONE);
	assert_string_equal(asked, "text dump --origin");
	daemon_rc = CLI_NO_DAEMON;
	assert_int_equal(run("identity"), CLI_NO_DAEMON);
}

/* `close` without a choice would abort everything. */
static void
test_cli_close_needs_exactly_one_choice(void **state)
{
	(void)state;
	daemon_rc = CLI_DONE;
	assert_int_equal(run("close"), CLI_USAGE);
	assert_string_equal(asked, "");
	assert_int_equal(run("close --conn 1 --service a"), CLI_USAGE);
	assert_int_equal(run("close --conn 1"), CLI_DONE);
	assert_string_equal(asked, "text close --conn 1");
	/* A line break would be a second request. */
	assert_int_equal(run("close --conn 1\nclose"), CLI_USAGE);
}

/* Every code that is printed has its page. */
static void
test_cli_explain_error_pages(void **state)
{
	(void)state;
	assert_int_equal(run("explain-error C104"), CLI_DONE);
	HAS(got.out, "C104 (error): unknown key\n");
	assert_int_equal(run("explain-error c104"), CLI_DONE);
	assert_int_equal(run("explain-error deny_rule"), CLI_DONE);
	HAS(got.out, "(deny reason)");
	assert_int_equal(run("explain-error mesh-truncated"), CLI_DONE);
	HAS(got.out, "(close reason)");
	assert_int_equal(run("explain-error C999"), CLI_USAGE);
	assert_int_equal(run("explain-error"), CLI_USAGE);
}

/* Defaults need no file, an effective configuration needs one. */
static void
test_cli_dump_offline(void **state)
{
	(void)state;
	assert_int_equal(run("dump --defaults"), CLI_DONE);
	HAS(got.out, "drain_timeout = 15s\n");
	assert_int_equal(
	    run_with_file("dump --origin --config ", ""), CLI_DONE);
	HAS(got.out, "caller = uid 1000-1999 ; ");
	write_conf("[globl]\nx = 1\n");
	assert_int_equal(run_with_file("dump --config ", ""), CLI_BAD_CONF);
	HAS(got.err, "error[C103]");
}

/* Each shell gets every verb. */
static void
test_cli_completion_lists_verbs_and_options(void **state)
{
	(void)state;
	for (int i = 0; i < 3; i++) {
		static const char *const words[] = {
		    "completion bash", "completion zsh", "completion fish"};

		assert_int_equal(run(words[i]), CLI_DONE);
		HAS(got.out, "explain-error");
		HAS(got.out, "production");
	}
}

/* Version is known without socket, agent or file. */
static void
test_cli_version_names_libraries(void **state)
{
	(void)state;
	assert_int_equal(run("version"), CLI_DONE);
	HAS(got.out, "postern " POSTERN_VERSION "\nOpenSSL of the test\n");
	assert_int_equal(run("--version"), CLI_DONE);
	assert_int_equal(run("version --json"), CLI_DONE);
	HAS(got.out, "\"schema\":\"postern.version/1\"");
	assert_string_equal(asked, "");
}

/* A wrong number must not start anything, least of all on port 0. */
static void
test_cli_demo_wrong_numbers_are_usage(void **state)
{
	(void)state;
	assert_int_equal(run("demo --port 0"), CLI_USAGE);
	assert_int_equal(run("demo --port 65533"), CLI_USAGE);
	assert_int_equal(run("demo --port 80x"), CLI_USAGE);
	assert_int_equal(run("demo --rotate 151"), CLI_USAGE);
	HAS(got.err, "1 to 150 seconds");
	assert_int_equal(run("demo now"), CLI_USAGE);
}

/* Whoever wants to edit gets the commands for it, and nothing starts. */
static void
test_cli_demo_write_says_how_to_start(void **state)
{
	char dir[] = "/tmp/postern-unit-XXXXXX";
	char words[128];
	char file[64];

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(words, sizeof(words), "demo --write %s --port 4000", dir);
	assert_int_equal(run(words), CLI_DONE);
	HAS(got.out, "postern run --config ");
	HAS(got.out, "toy --listen 127.0.0.1:4002");
	assert_int_equal(run(words), CLI_FAILED);
	HAS(got.err, "inbound.ini: File exists");
	snprintf(file, sizeof(file), "%s/inbound.ini", dir);
	assert_int_equal(unlink(file), 0);
	snprintf(file, sizeof(file), "%s/outbound.ini", dir);
	assert_int_equal(unlink(file), 0);
	assert_int_equal(rmdir(dir), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(test_cli_help_names_next_steps),
	    TEST(test_cli_unknown_words_get_a_guess),
	    TEST(test_cli_check_good_file_exits_0),
	    TEST(test_cli_check_bad_file_marks_the_word),
	    TEST(test_cli_check_escapes_the_source),
	    TEST(test_cli_check_other_formats),
	    TEST(test_cli_check_production_refuses_audit_and_any),
	    TEST(test_cli_explain_inbound_denied_shows_the_way),
	    TEST(test_cli_explain_inbound_rule_named),
	    TEST(test_cli_explain_outbound_caller_and_peer),
	    TEST(test_cli_explain_json_has_the_facts),
	    TEST(test_cli_explain_nonsense_is_usage),
	    TEST(test_cli_explain_asks_the_daemon_first),
	    TEST(test_cli_online_verbs_send_one_line),
	    TEST(test_cli_close_needs_exactly_one_choice),
	    TEST(test_cli_explain_error_pages),
	    TEST(test_cli_dump_offline),
	    TEST(test_cli_completion_lists_verbs_and_options),
	    TEST(test_cli_version_names_libraries),
	    TEST(test_cli_demo_wrong_numbers_are_usage),
	    TEST(test_cli_demo_write_says_how_to_start),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
