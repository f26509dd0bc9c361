/* The file as bytes: every trap of the tokenizer, and of editors. */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "unit.h"

#include "conf_text.h"

/* A service that is good, for lines to be added to. */
#define GOOD                                                                   \
	"[inbound a]\n"                                                        \
	"listen = 10.0.0.5:8443\n"                                             \
	"forward = unix:/run/a.sock\n"

static void
check_bytes(const void *text, size_t len, const char *want)
{
	struct conf *c;
	struct diags d;
	char got[1024];

	(void)conf_of_bytes(text, len, &c, &d);
	if (strcmp(said(&d, got), want) != 0)
		fail_msg("said '%s', want '%s'", got, want);
	conf_free(&c);
	diags_fini(&d);
}

static void
check(const char *text, const char *want)
{
	check_bytes(text, strlen(text), want);
}

/* The text itself is fine but for the app's view of its peers. */
static void
test_reader_good_text_accepted(void **state)
{
	(void)state;
	check(GOOD "allow = td/x\n", "3:11 C214");
	check(GOOD "allow = td/x", "3:11 C214"); /* no last newline */
	check("\n \t\n# c\n; c\n  # c\n" GOOD "allow=td/x", "8:11 C214");
}

/* A cut allow rule would let somebody else in. */
static void
test_reader_longest_rule_arrives_whole(void **state)
{
	char text[4096] = GOOD "allow = spiffe://td/";
	size_t at = strlen(text);
	struct conf *c;
	struct diags d;
	struct spiffe_id id;

	(void)state;
	memset(text + at, 'a', 2048 - 12);
	assert_int_equal(conf_of(text, &c, &d), FAULT_NONE);
	assert_int_equal(
	    spiffe_id_parse(span_of(text + at - 12, 2048), &id), SPIFFE_ID_OK);
	assert_int_equal(
	    policy_decide(c->services[0].policy, &id).decision, DECISION_ALLOW);
	id.text.len--;
	id.path.len--;
	assert_int_equal(
	    policy_decide(c->services[0].policy, &id).decision, DECISION_DENY);
	conf_free(&c);
	diags_fini(&d);
}

/* An indented key is a key, not more of the value before. */
static void
test_reader_indented_key_is_a_key(void **state)
{
	(void)state;
	check("[inbound a]\n listen = 10.0.0.5:1\n\tallow = td/x\n"
	      "   forward = 127.0.0.1:1\n",
	    "4:14 C211");
	check(GOOD "allow = td/x\n  nonsense = 1\n", "3:11 C214 5:3 C104");
}

/* `allow spiffe://x` must not become key `allow spiffe`. */
static void
test_reader_colon_or_nothing_for_equals_refused(void **state)
{
	(void)state;
	check(GOOD "allow = td/x\nallow spiffe://td/y\n", "3:11 C214 5:1 C105");
	check(GOOD "allow = td/x\nallow: td/y\n", "3:11 C214 5:1 C105");
	check(GOOD "allow = td/x\nallow: a=b\n", "3:11 C214 5:1 C105");
	check(GOOD "allow = td/x\nallow\n", "3:11 C214 5:1 C105");
	check(GOOD "allow = td/x\n= td/x\n", "3:11 C214 5:1 C105");
}

/* A comment that would become part of a value is refused. */
static void
test_reader_hash_after_value_refused(void **state)
{
	(void)state;
	check(GOOD "allow = td/x # note\n", "1:2 C111 3:11 C214 4:14 C106");
	check(GOOD "allow = # note\n", "1:2 C111 3:11 C214 4:9 C106");
}

/* A comment with blank and semicolon ends the value, a lone one does not. */
static void
test_reader_semicolon_comment_cut(void **state)
{
	(void)state;
	check(GOOD "allow = td/x ; note = 1 # 2\n", "3:11 C214");
	check(GOOD "allow = td/x\t; note\n", "3:11 C214");
	check(GOOD "allow = td/x;y\n", "3:11 C214 4:9 C122");
	check("[inbound a] ; note\nlisten = 10.0.0.5:1\nallow = td/x\n"
	      "forward = unix:/run/a\n",
	    "4:11 C214");
}

/* An empty value or section hides a mistake. */
static void
test_reader_empty_value_or_section_refused(void **state)
{
	(void)state;
	check(GOOD "allow = td/x\nmode =\n", "3:11 C214 5:1 C107");
	check(GOOD "allow = td/x\nmode = ; x\n", "3:11 C214 5:1 C107");
	check("[global]\n", "1:2 C107");
	check("[global]\n[policy p]\nallow = td/x\n", "1:2 C107");
}

/* Two sections of one name would merge without a word. */
static void
test_reader_section_twice_refused(void **state)
{
	(void)state;
	check(GOOD "allow = td/x\n" GOOD, "3:11 C214 5:2 C109");
	check(GOOD "allow = td/x\n[outbound a]\nlisten = unix:/run/postern/x\n",
	    "3:11 C214 5:2 C109");
	check("[global]\nthreads = 1\n[global]\nthreads = 2\n", "3:2 C109");
	/* A policy may be called like a service. */
	check(GOOD "policy = a\n[policy a]\nallow = td/x\n", "3:11 C214");
}

/* Long section names would be cut and merge. */
static void
test_reader_bad_section_refused(void **state)
{
	(void)state;
	check("[inbound aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa]\n",
	    "1:1 C103");
	check("[inbound aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa]\nmode = audit\n",
	    "1:2 C103");
	check("[inbound A]\nmode = audit\n", "1:2 C103");
	check("[inbound]\nmode = audit\n", "1:2 C103");
	check("[inbuond a]\nmode = audit\n", "1:2 C103");
	check("[global x]\nthreads = 1\n", "1:2 C103");
	check("[global\nthreads = 1\n", "1:1 C103");
	check("[global] x\nthreads = 1\n", "1:10 C103");
	check("[]\nthreads = 1\n", "1:2 C103");
	check("threads = 1\n", "1:1 C103");
}

/* Bytes that editors or attackers leave behind. */
static void
test_reader_foreign_bytes_refused(void **state)
{
	static const char nul[] = "[global]\nthreads = 1\0 2\n";
	static const char *const bad[] = {"\xff", "\xc0\xaf", "\xc3",
	    "\xed\xa0\x80", "\xe0\x80\x80", "\xf4\x90\x80\x80", "\xf8", "\x80"};

	(void)state;
	check("\xef\xbb\xbf[global]\nthreads = 1\n", "1:1 C101 2:1 C103");
	check("[global]\nthreads = 1\r\n", "1:2 C107 2:12 C101");
	check_bytes(nul, sizeof(nul) - 1, "1:2 C107 2:12 C101");
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		char text[64];

		snprintf(text, sizeof(text), "# %s\n", bad[i]);
		check(text, "1:3 C101");
	}
	check("# caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80\n", "");
}

/* A line of 8192 bytes is read, one more is not. */
static void
test_reader_line_limit_is_8192(void **state)
{
	char text[8194];

	(void)state;
	memset(text, '#', sizeof(text));
	check_bytes(text, 8192, "");
	check_bytes(text, 8193, "1:0 C102");
}

/* One run names every mistake, in the order of the lines. */
static void
test_reader_all_errors_in_one_run(void **state)
{
	(void)state;
	check("[inbound a]\n"
	      "listen = 10.0.0.5\n"
	      "alow = td/x\n"
	      "forward = 10.1.1.1:80\n"
	      "handshake_timeout = 300\n"
	      "allow = spiffe://Td/x\n",
	    "2:10 C114 3:1 C104 4:11 C116 5:21 C113 6:9 C121");
}

/* The raw line goes with the message, for the marker below it. */
static void
test_reader_diag_holds_source_and_length(void **state)
{
	struct conf *c;
	struct diags d;

	(void)state;
	(void)conf_of("[global]\nthread = 4\n", &c, &d);
	assert_int_equal(d.errors, 1);
	assert_string_equal(d.list[0].file, "t.ini");
	assert_string_equal(d.list[0].source, "thread = 4");
	assert_int_equal(d.list[0].length, 6);
	assert_string_equal(d.list[0].hint, "did you mean 'threads'?");
	diags_fini(&d);
}

/* ---- Files ---- */

static void
write_file(const char *path, const char *text, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	assert_int_equal(fchmod(fd, mode), 0);
	close(fd);
}

static enum fault
load_file(const char *path, bool strict, struct diags *d)
{
	struct conf_load_args args = {
	    .files = &path, .n_files = 1, .strict_files = strict};
	struct conf *c = NULL;
	enum fault f;

	diags_init(d);
	f = conf_load(&args, &c, d);
	conf_free(&c);
	return f;
}

/* Whoever may write the file decides who gets in. */
static void
test_reader_file_writable_by_others_refused(void **state)
{
	char path[] = "/tmp/reader-XXXXXX";
	int fd = mkstemp(path);
	struct diags d;

	(void)state;
	assert_true(fd >= 0);
	close(fd);
	write_file(path, "[global]\nthreads = 1\n", 0664);
	assert_int_equal(load_file(path, true, &d), FAULT_CONF);
	assert_string_equal(d.list[0].code, "C100");
	diags_fini(&d);
	/* check only notes it: the file may not be in its place yet. */
	assert_int_equal(load_file(path, false, &d), FAULT_NONE);
	assert_int_equal(diag_of(&d, "C100")->severity, DIAG_NOTE);
	diags_fini(&d);
	chmod(path, 0644);
	assert_int_equal(load_file(path, true, &d), FAULT_NONE);
	diags_fini(&d);
	if (geteuid() == 0) {
		assert_int_equal(chown(path, 12345, 0), 0);
		assert_int_equal(load_file(path, true, &d), FAULT_CONF);
		diags_fini(&d);
	}
	unlink(path);
}

/* A link, a pipe or a missing file is no configuration. */
static void
test_reader_file_of_other_kind_refused(void **state)
{
	char dir[] = "/tmp/reader-XXXXXX";
	char path[64];
	struct diags d;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/a", dir);
	assert_int_equal(load_file(path, false, &d), FAULT_CONF);
	diags_fini(&d);
	assert_int_equal(symlink("/etc/hostname", path), 0);
	assert_int_equal(load_file(path, false, &d), FAULT_CONF);
	diags_fini(&d);
	unlink(path);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(load_file(path, false, &d), FAULT_CONF);
	diags_fini(&d);
	unlink(path);
	assert_int_equal(load_file(dir, false, &d), FAULT_CONF);
	diags_fini(&d);
	rmdir(dir);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_reader_good_text_accepted),
	    cmocka_unit_test(test_reader_longest_rule_arrives_whole),
	    cmocka_unit_test(test_reader_indented_key_is_a_key),
	    cmocka_unit_test(test_reader_colon_or_nothing_for_equals_refused),
	    cmocka_unit_test(test_reader_hash_after_value_refused),
	    cmocka_unit_test(test_reader_semicolon_comment_cut),
	    cmocka_unit_test(test_reader_empty_value_or_section_refused),
	    cmocka_unit_test(test_reader_section_twice_refused),
	    cmocka_unit_test(test_reader_bad_section_refused),
	    cmocka_unit_test(test_reader_foreign_bytes_refused),
	    cmocka_unit_test(test_reader_line_limit_is_8192),
	    cmocka_unit_test(test_reader_all_errors_in_one_run),
	    cmocka_unit_test(test_reader_diag_holds_source_and_length),
	    cmocka_unit_test(test_reader_file_writable_by_others_refused),
	    cmocka_unit_test(test_reader_file_of_other_kind_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
