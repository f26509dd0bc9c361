/* The effective configuration, written out. */

#include "conf_text.h"

#define TEXT                                                                   \
	"[global]\nworkload_api_user = root\nworkload_api = unix:///run/a\n"   \
	"control = unix:/run/c\nmetrics = [::1]:9464\nmax_connections = 9\n"   \
	"[policy p]\nallow = td/p/*\ndeny = td/p/q\n"                          \
	"[inbound a]\nlisten = 10.0.0.5:1\nlisten = systemd:a\n"               \
	"forward = 127.0.0.1:80\nallow = td/x\npolicy = p\n"                   \
	"listen_mode = 0660\nlisten_group = root\nidle_timeout = 90m\n"        \
	"[outbound b]\nlisten = unix:/run/postern/b\nconnect = h:1\n"          \
	"connect = [::1]:2\nexpect = td/y\ncaller = user root gid 5\n"         \
	"sni = h.example\n"

static void
dump(const char *text, bool with_origin, struct text *out, char hash[17])
{
	struct conf *c;
	struct diags d;
	char got[1024];

	if (conf_of(text, &c, &d) != FAULT_NONE)
		fail_msg("%s", said(&d, got));
	text_init(out);
	conf_dump(c, with_origin, out);
	memcpy(hash, c->hash, 17);
	conf_free(&c);
	diags_fini(&d);
}

/* A dump is a configuration: it loads to the same one. */
static void
test_conf_dump_loads_to_the_same(void **state)
{
	struct text first;
	struct text second;
	struct text third;
	char hash[3][17];

	(void)state;
	dump(TEXT, false, &first, hash[0]);
	dump(first.data, false, &second, hash[1]);
	assert_string_equal(first.data, second.data);
	text_fini(&second);
	dump(TEXT, true, &second, hash[1]);
	dump(second.data, false, &third, hash[2]);
	assert_string_equal(first.data, third.data);
	assert_string_equal(hash[0], hash[2]);
	assert_non_null(strstr(first.data, "idle_timeout = 90m\n"));
	assert_non_null(strstr(first.data, "allow = spiffe://td/p/*\n"));
	assert_non_null(strstr(first.data, "log_sample = 1/1\n"));
	assert_null(strstr(first.data, "trust_domain"));
	text_fini(&first);
	text_fini(&second);
	text_fini(&third);
}

/* Each value says where it stands, or that it is the default. */
static void
test_conf_dump_origin_names_file_and_line(void **state)
{
	struct text t;
	char hash[17];

	(void)state;
	dump(TEXT, true, &t, hash);
	assert_non_null(strstr(t.data, "max_connections = 9 ; t.ini:6\n"));
	assert_non_null(strstr(t.data, "mode = enforce ; default\n"));
	assert_non_null(strstr(t.data, "allow = spiffe://td/p/* ; t.ini:8\n"));
	text_fini(&t);
}

/* Comments and order of keys change nothing, a value does. */
static void
test_conf_hash_follows_values_only(void **state)
{
	struct text t;
	char hash[3][17];

	(void)state;
	dump(
	    "[global]\nthreads = 1\nmax_connections = 2\n", false, &t, hash[0]);
	text_fini(&t);
	dump("# c\n[global]\nmax_connections = 2 ; c\nthreads = 1\n", false, &t,
	    hash[1]);
	text_fini(&t);
	dump(
	    "[global]\nthreads = 1\nmax_connections = 3\n", false, &t, hash[2]);
	text_fini(&t);
	assert_int_equal(strlen(hash[0]), 16);
	assert_string_equal(hash[0], hash[1]);
	assert_string_not_equal(hash[0], hash[2]);
}

/* The printed defaults are the ones in force. */
static void
test_conf_dump_defaults_list_the_table(void **state)
{
	struct text t;

	(void)state;
	text_init(&t);
	conf_dump_defaults(&t);
	assert_non_null(strstr(t.data, "[global]\n"));
	assert_non_null(strstr(t.data, "drain_timeout = 15s\n"));
	assert_non_null(strstr(t.data, "[outbound NAME]\n"));
	assert_non_null(strstr(t.data, "resolve_interval = 30s\n"));
	text_fini(&t);
}

/* Every row can be explained. */
static void
test_conf_keys_all_have_sentences(void **state)
{
	(void)state;
	assert_true(conf_key_count() > 40);
	for (size_t i = 0; i < conf_key_count(); i++) {
		struct conf_key k = conf_key(i);

		assert_true(strlen(k.sentence) > 10);
		assert_true(strlen(k.type) > 0);
		assert_non_null(strchr("LNSE", k.reload));
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_conf_dump_loads_to_the_same),
	    cmocka_unit_test(test_conf_dump_origin_names_file_and_line),
	    cmocka_unit_test(test_conf_hash_follows_values_only),
	    cmocka_unit_test(test_conf_dump_defaults_list_the_table),
	    cmocka_unit_test(test_conf_keys_all_have_sentences),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
