/* Whole messages, with real certificates and one fault each. */

#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "ca.h"
#include "text.h"
#include "workload_int.h"

#define WEB "spiffe://example.test/web"

/* One message, field by field; a test bends what it wants. */
struct message {
	struct text bytes;
	struct ca *ca;
	struct ca *other;
	struct ca_svid *svid;
	uint64_t next;
	struct why why;
	struct identity *id;
};

static void
add_varint(struct text *t, size_t n)
{
	for (; n >= 0x80; n >>= 7)
		text_add_char(t, (char)(n | 0x80));
	text_add_char(t, (char)n);
}

static void
add_field(struct text *t, unsigned int number, struct span s)
{
	add_varint(t, number << 3 | 2);
	add_varint(t, s.len);
	text_add_span(t, s);
}

static struct span
span_of_text(const struct text *t)
{
	return span_of(t->data, t->len);
}

static int
setup(void **state)
{
	struct message *m = calloc(1, sizeof(*m));
	struct ca_options ca_options = {0};
	struct ca_svid_options options = {.id = span_of_str(WEB)};

	text_init(&m->bytes);
	m->next = 1;
	assert_int_equal(ca_new(NULL, &ca_options, &m->ca, NULL), FAULT_NONE);
	assert_int_equal(
	    ca_new(NULL, &ca_options, &m->other, NULL), FAULT_NONE);
	assert_int_equal(ca_issue(m->ca, &options, &m->svid, NULL), FAULT_NONE);
	*state = m;
	return 0;
}

static int
teardown(void **state)
{
	struct message *m = *state;

	identity_free(&m->id);
	text_fini(&m->bytes);
	ca_svid_free(&m->svid);
	ca_free(&m->ca);
	ca_free(&m->other);
	free(m);
	return 0;
}

struct fields {
	struct span id, chain, key, bundle, hint;
};

static struct fields
good(const struct message *m)
{
	return (struct fields){
	    .id = span_of_str(WEB),
	    .chain = ca_svid_chain(m->svid),
	    .key = ca_svid_key_der(m->svid),
	    .bundle = ca_certificate(m->ca),
	};
}

static void
add_svid(struct message *m, struct fields f)
{
	AUTO(text_fini) struct text svid;

	text_init(&svid);
	add_field(&svid, 1, f.id);
	add_field(&svid, 2, f.chain);
	add_field(&svid, 3, f.key);
	add_field(&svid, 4, f.bundle);
	if (f.hint.data != NULL)
		add_field(&svid, 5, f.hint);
	add_field(&m->bytes, 1, span_of_text(&svid));
}

static void
add_federated(struct message *m, struct span key, struct span value)
{
	AUTO(text_fini) struct text entry;

	text_init(&entry);
	add_field(&entry, 1, key);
	add_field(&entry, 2, value);
	add_field(&m->bytes, 3, span_of_text(&entry));
}

static enum fault
decode(struct message *m)
{
	identity_free(&m->id);
	m->why.text[0] = '\0';
	return workload_decode(
	    span_of_text(&m->bytes), NULL, &m->next, &m->id, &m->why);
}

static void
check_discarded(struct message *m, enum fault fault, const char *words)
{
	assert_int_equal(decode(m), fault);
	assert_null(m->id);
	if (strstr(m->why.text, words) == NULL)
		fail_msg("\"%s\" has no \"%s\"", m->why.text, words);
}

static void
check_no_svid(struct message *m)
{
	assert_int_equal(decode(m), FAULT_NONE);
	assert_true(identity_svids_broken(m->id));
	assert_int_equal(identity_svid_count(m->id), 0);
	assert_true(identity_bundle_count(m->id) > 0);
	assert_true(m->why.text[0] != '\0');
}

/* The message that every agent sends becomes an identity. */
static void
test_decode_good_message_gives_an_identity(void **state)
{
	struct message *m = *state;
	struct fields f = good(m);

	f.hint = span_of_str("internal");
	add_svid(m, f);
	add_federated(
	    m, span_of_str("spiffe://other.test"), ca_certificate(m->other));
	assert_int_equal(decode(m), FAULT_NONE);
	assert_false(identity_svids_broken(m->id));
	assert_int_equal(identity_svid_count(m->id), 1);
	assert_int_equal(identity_bundle_count(m->id), 2);
	assert_true(
	    span_equal_str(svid_id(identity_svid(m->id, 0))->text, WEB));
	assert_true(
	    span_equal_str(svid_hint(identity_svid(m->id, 0)), "internal"));
}

/* Row 68: text after the chain, or PEM, is no chain. */
static void
test_row_068_trailing_bytes_after_the_chain_void_the_svids(void **state)
{
	struct message *m = *state;
	AUTO(text_fini) struct text chain;
	struct fields f = good(m);

	text_init(&chain);
	text_add_span(&chain, f.chain);
	text_add_char(&chain, '\n');
	f.chain = span_of_text(&chain);
	add_svid(m, f);
	check_no_svid(m);
}

/* Row 69: a key with bytes after it is not the key. */
static void
test_row_069_trailing_bytes_after_the_key_void_the_svids(void **state)
{
	struct message *m = *state;
	AUTO(text_fini) struct text key;
	struct fields f = good(m);

	text_init(&key);
	text_add_span(&key, f.key);
	text_add_char(&key, '\0');
	f.key = span_of_text(&key);
	add_svid(m, f);
	check_no_svid(m);
}

/* Row 71: another's key voids the SVIDs, and the trust applies. */
static void
test_row_071_foreign_key_voids_the_svids(void **state)
{
	struct message *m = *state;
	struct ca_svid_options options = {.id = span_of_str(WEB)};
	struct ca_svid *other = NULL;
	struct fields f = good(m);

	assert_int_equal(ca_issue(m->ca, &options, &other, NULL), FAULT_NONE);
	f.key = ca_svid_key_der(other);
	add_svid(m, f);
	check_no_svid(m);
	ca_svid_free(&other);
}

/* Row 74: spiffe_id and certificate differ in the path. */
static void
test_row_074_other_path_voids_the_svids(void **state)
{
	struct message *m = *state;
	struct fields f = good(m);

	f.id = span_of_str("spiffe://example.test/other");
	add_svid(m, f);
	check_no_svid(m);
}

/* Row 74: ... in the trust domain: the bundle has no owner. */
static void
test_row_074_other_trust_domain_discards(void **state)
{
	struct message *m = *state;
	struct fields f = good(m);

	f.id = span_of_str("spiffe://elsewhere.test/web");
	add_svid(m, f);
	assert_int_not_equal(decode(m), FAULT_NONE);
	assert_null(m->id);
}

/* Row 74: a NUL in the ID is a byte, not its end. */
static void
test_row_074_nul_in_the_id_discards(void **state)
{
	static const char id[] = WEB "\0/x";
	struct message *m = *state;
	struct fields f = good(m);

	f.id = span_of(id, sizeof(id) - 1);
	add_svid(m, f);
	check_discarded(m, FAULT_MALFORMED, "SPIFFE ID");
}

/* Row 84: an empty federated bundle is loaded and trusts nothing. */
static void
test_row_084_empty_federated_bundle_is_kept(void **state)
{
	struct message *m = *state;

	add_svid(m, good(m));
	add_federated(m, span_of_str("spiffe://other.test"), span_of_str(""));
	assert_int_equal(decode(m), FAULT_NONE);
	assert_int_equal(identity_bundle_count(m->id), 2);
}

/* Row 85: without its own bundle an SVID is worth nothing. */
static void
test_row_085_empty_own_bundle_discards(void **state)
{
	struct message *m = *state;
	struct fields f = good(m);

	f.bundle = span_of_str("");
	add_svid(m, f);
	check_discarded(m, FAULT_MALFORMED, "bundle");
}

/* Row 85: ... except where it stands among the federated ones. */
static void
test_row_085_own_bundle_among_the_federated_is_used(void **state)
{
	struct message *m = *state;
	struct fields f = good(m);

	f.bundle = span_of_str("");
	add_svid(m, f);
	add_federated(m, span_of_str("example.test"), ca_certificate(m->ca));
	assert_int_equal(decode(m), FAULT_NONE);
	assert_int_equal(identity_svid_count(m->id), 1);
}

/* Row 86: both forms of a key are taken, all others discard. */
static void
test_row_086_bad_map_keys_discard(void **state)
{
	static const char *const bad[] = {"", "spiffe://other.test/x",
	    "Other.test", "spiffe://", "other test", "https://other.test"};
	struct message *m = *state;

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		text_clear(&m->bytes);
		add_svid(m, good(m));
		add_federated(m, span_of_str(bad[i]), ca_certificate(m->other));
		if (decode(m) == FAULT_NONE)
			fail_msg("key \"%s\"", bad[i]);
	}
	text_clear(&m->bytes);
	add_svid(m, good(m));
	add_federated(m, span_of_str("other.test"), ca_certificate(m->other));
	assert_int_equal(decode(m), FAULT_NONE);
}

/* Row 87: two spellings of one domain discard. */
static void
test_row_087_two_spellings_of_a_domain_discard(void **state)
{
	struct message *m = *state;

	add_svid(m, good(m));
	add_federated(m, span_of_str("other.test"), ca_certificate(m->other));
	add_federated(
	    m, span_of_str("spiffe://other.test"), ca_certificate(m->other));
	assert_int_not_equal(decode(m), FAULT_NONE);
}

/* Row 90: one bad certificate in a bundle discards the message. */
static void
test_row_090_unparsable_bundle_discards(void **state)
{
	struct message *m = *state;

	add_svid(m, good(m));
	add_federated(m, span_of_str("other.test"), span_of_str("rubbish"));
	assert_int_equal(decode(m), FAULT_MALFORMED);
	assert_null(m->id);
}

/* Row 96: each mandatory field at its default discards. */
static void
test_row_096_missing_mandatory_fields_discard(void **state)
{
	struct message *m = *state;

	check_discarded(m, FAULT_MALFORMED, "no SVID");
	for (unsigned int i = 0; i < 3; i++) {
		struct fields f = good(m);

		if (i == 0)
			f.id = span_of_str("");
		if (i == 1)
			f.chain = span_of_str("");
		if (i == 2)
			f.key = span_of_str("");
		text_clear(&m->bytes);
		add_svid(m, f);
		check_discarded(m, FAULT_MALFORMED, "no ");
	}
}

/* Row 97: a broken SVID among good ones voids them all, not the trust. */
static void
test_row_097_one_broken_svid_voids_all(void **state)
{
	struct message *m = *state;
	struct fields f = good(m);

	add_svid(m, f);
	f.key = span_of_str("rubbish");
	add_svid(m, f);
	check_no_svid(m);
}

/* Row 79: a long hint is the server's matter. */
static void
test_row_079_long_hint_is_tolerated(void **state)
{
	static char hint[5000];
	struct message *m = *state;
	struct fields f = good(m);

	memset(hint, 'h', sizeof(hint));
	f.hint = span_of(hint, sizeof(hint));
	add_svid(m, f);
	assert_int_equal(decode(m), FAULT_NONE);
	assert_int_equal(identity_svid_count(m->id), 1);
}

/* A hint that is no text discards: it would be shown to operators. */
static void
test_decode_hint_that_is_not_utf8_discards(void **state)
{
	static const char *const bad[] = {"\x80", "\xc3", "\xc0\xaf",
	    "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "a\xff",
	    "\xf0\x9f\x98"};
	static const char *const fine[] = {
	    "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "a b"};
	struct message *m = *state;

	for (size_t i = 0; i < ARRAY_LEN(bad) + ARRAY_LEN(fine); i++) {
		bool is_bad = i < ARRAY_LEN(bad);
		struct fields f = good(m);

		f.hint =
		    span_of_str(is_bad ? bad[i] : fine[i - ARRAY_LEN(bad)]);
		text_clear(&m->bytes);
		add_svid(m, f);
		assert_int_equal(
		    decode(m), is_bad ? FAULT_MALFORMED : FAULT_NONE);
	}
}

/* Row 81: one key for several SVIDs is how some agents do it. */
static void
test_row_081_shared_key_is_taken(void **state)
{
	struct message *m = *state;

	add_svid(m, good(m));
	add_svid(m, good(m));
	assert_int_equal(decode(m), FAULT_NONE);
	assert_int_equal(identity_svid_count(m->id), 2);
}

/* Row 108: a list comes along in field 2. */
static void
test_row_108_list_is_taken(void **state)
{
	struct message *m = *state;
	struct span serial = ca_svid_serial(m->svid);
	struct ca_crl_options options = {.serials = &serial, .n_serials = 1};
	uint8_t *der = NULL;
	size_t len = 0;

	assert_int_equal(ca_crl(m->ca, &options, &der, &len, NULL), FAULT_NONE);
	add_svid(m, good(m));
	add_field(&m->bytes, 2, span_of(der, len));
	assert_int_equal(decode(m), FAULT_NONE);
	assert_int_equal(identity_crl_count(m->id), 1);
	assert_int_equal(identity_crl_entries(m->id), 1);
	mem_free(&der);
}

/* A broken list discards: a withdrawal must not be half applied. */
static void
test_decode_unparsable_list_discards(void **state)
{
	struct message *m = *state;

	add_svid(m, good(m));
	add_field(&m->bytes, 2, span_of_str("rubbish"));
	assert_int_equal(decode(m), FAULT_MALFORMED);
}

/* Cut anywhere, a message is never half of itself. */
static void
test_decode_every_prefix_is_refused_or_whole(void **state)
{
	struct message *m = *state;
	size_t whole;

	add_svid(m, good(m));
	whole = m->bytes.len;
	for (size_t len = 0; len < whole; len++) {
		m->bytes.len = len;
		assert_int_not_equal(decode(m), FAULT_NONE);
	}
	m->bytes.len = whole;
	assert_int_equal(decode(m), FAULT_NONE);
}

/* Unchanged bundles keep their generation, so that caches live on. */
static void
test_decode_unchanged_bundle_keeps_its_generation(void **state)
{
	struct message *m = *state;
	struct identity *again = NULL;

	add_svid(m, good(m));
	assert_int_equal(decode(m), FAULT_NONE);
	assert_int_equal(workload_decode(span_of_text(&m->bytes), m->id,
	                     &m->next, &again, NULL),
	    FAULT_NONE);
	assert_true(bundle_generation(identity_bundle(m->id, 0)) ==
	            bundle_generation(identity_bundle(again, 0)));
	assert_true(identity_equal(m->id, again));
	identity_free(&again);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    TEST(test_decode_good_message_gives_an_identity),
	    TEST(test_row_068_trailing_bytes_after_the_chain_void_the_svids),
	    TEST(test_row_069_trailing_bytes_after_the_key_void_the_svids),
	    TEST(test_row_071_foreign_key_voids_the_svids),
	    TEST(test_row_074_other_path_voids_the_svids),
	    TEST(test_row_074_other_trust_domain_discards),
	    TEST(test_row_074_nul_in_the_id_discards),
	    TEST(test_row_079_long_hint_is_tolerated),
	    TEST(test_row_081_shared_key_is_taken),
	    TEST(test_row_084_empty_federated_bundle_is_kept),
	    TEST(test_row_085_empty_own_bundle_discards),
	    TEST(test_row_085_own_bundle_among_the_federated_is_used),
	    TEST(test_row_086_bad_map_keys_discard),
	    TEST(test_row_087_two_spellings_of_a_domain_discard),
	    TEST(test_row_090_unparsable_bundle_discards),
	    TEST(test_row_096_missing_mandatory_fields_discard),
	    TEST(test_row_097_one_broken_svid_voids_all),
	    TEST(test_row_108_list_is_taken),
	    TEST(test_decode_hint_that_is_not_utf8_discards),
	    TEST(test_decode_unparsable_list_discards),
	    TEST(test_decode_every_prefix_is_refused_or_whole),
	    TEST(test_decode_unchanged_bundle_keeps_its_generation),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
