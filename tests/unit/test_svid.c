#include "made.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdlib.h>

#define ID "spiffe://a.test/svc"

static struct ca *root;

/* What svid_parse() makes of a leaf bent by O, or of raw bytes. */
static enum fault
parse(const struct svid_raw *raw, struct why *why)
{
	struct svid *s = NULL;
	enum fault f = svid_parse(raw, &s, why);

	assert_true((f == FAULT_NONE) == (s != NULL));
	svid_free(&s);
	return f;
}

static enum fault
parse_bent(const struct ca_svid_options *bent, struct why *why)
{
	struct ca_svid_options o = *bent;
	AUTO(ca_svid_free) struct ca_svid *made = NULL;
	struct svid_raw raw;

	if (o.id.len == 0 && o.other_names == NULL)
		o.id = span_of_str(ID);
	made = made_svid(root, &o);
	raw = made_raw(made, ID);
	return parse(&raw, why);
}

static int
setup(void **state)
{
	(void)state;
	root = made_ca(NULL, NULL);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	ca_free(&root);
	return 0;
}

/* An SVID from the agent is what every handshake shows. */
static void
test_svid_parse_good_one_tells_its_parts(void **state)
{
	struct ca_svid_options o = {.id = span_of_str(ID),
	    .cert = {.not_before = 1000, .not_after = 2000000000}};
	AUTO(ca_svid_free) struct ca_svid *made = made_svid(root, &o);
	AUTO(svid_free) struct svid *s = NULL;
	struct svid_raw raw = made_raw(made, ID);

	(void)state;
	raw.hint = span_of_str("internal");
	assert_int_equal(svid_parse(&raw, &s, NULL), FAULT_NONE);
	assert_true(span_equal_str(svid_id(s)->text, ID));
	assert_true(span_equal_str(svid_hint(s), "internal"));
	assert_int_equal(strlen(svid_serial(s)), 32);
	assert_int_equal(svid_not_before(s), 1000);
	assert_int_equal(svid_not_after(s), 2000000000);
	assert_string_equal(svid_key_type(s), "EC");
	assert_int_equal(X509_check_private_key(svid_leaf(s), svid_key(s)), 1);
}

/* `postern` warns about the development issuer: it must know it. */
static void
test_svid_is_dev_only_with_the_marker(void **state)
{
	struct ca_options quiet = {.cert.no_marker = true};
	struct ca_svid_options o = {
	    .id = span_of_str(ID), .cert.no_marker = true};
	AUTO(ca_free) struct ca *other = made_ca(NULL, &quiet);
	AUTO(ca_svid_free) struct ca_svid *dev = made_svid_of(root, ID);
	AUTO(ca_svid_free) struct ca_svid *real = made_svid(other, &o);
	struct svid_raw raw_dev = made_raw(dev, ID);
	struct svid_raw raw_real = made_raw(real, ID);
	AUTO(svid_free) struct svid *s_dev = NULL;
	AUTO(svid_free) struct svid *s_real = NULL;

	(void)state;
	assert_int_equal(svid_parse(&raw_dev, &s_dev, NULL), FAULT_NONE);
	assert_int_equal(svid_parse(&raw_real, &s_real, NULL), FAULT_NONE);
	assert_true(svid_is_dev(s_dev));
	assert_false(svid_is_dev(s_real));
}

/* The window of use is that of the shortest-lived certificate shown. */
static void
test_svid_window_is_narrowed_by_its_intermediate(void **state)
{
	struct ca_options short_lived = {
	    .cert = {.not_before = 5000, .not_after = 6000}};
	struct ca_svid_options o = {.id = span_of_str(ID),
	    .cert = {.not_before = 1000, .not_after = 9000}};
	AUTO(ca_free) struct ca *middle = made_ca(root, &short_lived);
	AUTO(ca_svid_free) struct ca_svid *made = made_svid(middle, &o);
	struct svid_raw raw = made_raw(made, ID);
	AUTO(svid_free) struct svid *s = NULL;

	(void)state;
	assert_int_equal(svid_parse(&raw, &s, NULL), FAULT_NONE);
	assert_int_equal(svid_not_before(s), 5000);
	assert_int_equal(svid_not_after(s), 6000);
	assert_int_equal(sk_X509_num(svid_chain(s)), 1);
}

/* Row 68: what is not exactly a run of DER is not half used. */
static void
test_row_068_svid_chain_must_be_der_back_to_back(void **state)
{
	struct ca_options o = {0};
	struct ca_svid_options with_root = {
	    .id = span_of_str(ID), .with_root = true};
	AUTO(ca_free) struct ca *middle = made_ca(root, &o);
	AUTO(ca_svid_free) struct ca_svid *one = made_svid_of(root, ID);
	AUTO(ca_svid_free)
	struct ca_svid *three = made_svid(middle, &with_root);
	AUTO(mem_free) uint8_t *bytes = NULL;
	struct svid_raw raw = made_raw(three, ID);
	size_t len = raw.chain.len;
	struct span leaf = ca_svid_chain(one);

	(void)state;
	assert_int_equal(parse(&raw, NULL), FAULT_NONE);

	bytes = malloc(len + 1);
	memcpy(bytes, raw.chain.data, len);
	bytes[len] = 0;
	raw.chain = span_of(bytes, len + 1);
	assert_int_equal(parse(&raw, NULL), FAULT_MALFORMED);
	raw.chain = span_of(bytes, len - 1);
	assert_int_equal(parse(&raw, NULL), FAULT_MALFORMED);

	raw = made_raw(one, ID);
	raw.chain = span_of_str("-----BEGIN CERTIFICATE-----\n");
	assert_int_equal(parse(&raw, NULL), FAULT_MALFORMED);

	free(bytes);
	bytes = malloc(leaf.len + ca_certificate(root).len);
	memcpy(bytes, ca_certificate(root).data, ca_certificate(root).len);
	memcpy(bytes + ca_certificate(root).len, leaf.data, leaf.len);
	raw.chain = span_of(bytes, leaf.len + ca_certificate(root).len);
	assert_int_equal(parse(&raw, NULL), FAULT_UNTRUSTED);
}

/* Row 69: other encodings of a key are refused, not guessed at. */
static void
test_row_069_svid_key_must_be_plain_pkcs8(void **state)
{
	AUTO(ca_svid_free) struct ca_svid *made = made_svid_of(root, ID);
	struct svid_raw raw = made_raw(made, ID);
	uint8_t longer[4096];
	unsigned char *sec1 = NULL;
	int n = i2d_PrivateKey(ca_svid_key(made), &sec1);
	char *text;
	BIO *pem = BIO_new(BIO_s_mem());
	BIO *sealed = BIO_new(BIO_s_mem());
	long len;

	(void)state;
	memcpy(longer, raw.key.data, raw.key.len);
	longer[raw.key.len] = 0;
	raw.key = span_of(longer, raw.key.len + 1);
	assert_int_equal(parse(&raw, NULL), FAULT_MALFORMED);

	raw.key = span_of(sec1, (size_t)n);
	assert_int_equal(parse(&raw, NULL), FAULT_MALFORMED);
	OPENSSL_free(sec1);

	assert_int_equal(PEM_write_bio_PrivateKey(
	                     pem, ca_svid_key(made), NULL, NULL, 0, NULL, NULL),
	    1);
	len = BIO_get_mem_data(pem, &text);
	raw.key = span_of(text, (size_t)len);
	assert_int_equal(parse(&raw, NULL), FAULT_MALFORMED);
	BIO_free(pem);

	assert_int_equal(i2d_PKCS8PrivateKey_bio(sealed, ca_svid_key(made),
	                     EVP_aes_128_cbc(), "secret", 6, NULL, NULL),
	    1);
	len = BIO_get_mem_data(sealed, &text);
	raw.key = span_of(text, (size_t)len);
	assert_int_equal(parse(&raw, NULL), FAULT_MALFORMED);
	BIO_free(sealed);
}

/* Row 70: a key that cannot serve is refused now, not at a handshake. */
static void
test_row_070_svid_key_types(void **state)
{
	static const struct {
		enum ca_key_type type;
		enum fault expected;
	} rows[] = {
	    {CA_P256, FAULT_NONE},
	    {CA_P384, FAULT_NONE},
	    {CA_P521, FAULT_NONE},
	    {CA_RSA2048, FAULT_NONE},
	    {CA_ED25519, FAULT_NONE},
	    {CA_SECP256K1, FAULT_UNTRUSTED},
	    {CA_RSA_PSS, FAULT_UNTRUSTED},
	    {CA_X25519, FAULT_UNTRUSTED},
	    {CA_RSA1024, FAULT_UNTRUSTED},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct ca_svid_options o = {.cert.key_type = rows[i].type};
		struct why why;

		assert_int_equal(parse_bent(&o, &why), rows[i].expected);
	}
}

/* Row 71: a foreign key would fail every handshake from now on. */
static void
test_row_071_svid_key_must_be_the_leafs(void **state)
{
	struct ca_svid_options rsa = {
	    .id = span_of_str(ID), .cert.key_type = CA_RSA2048};
	AUTO(ca_svid_free) struct ca_svid *one = made_svid_of(root, ID);
	AUTO(ca_svid_free) struct ca_svid *two = made_svid_of(root, ID);
	AUTO(ca_svid_free) struct ca_svid *three = made_svid(root, &rsa);
	struct svid_raw raw = made_raw(one, ID);

	(void)state;
	raw.key = ca_svid_key_der(two);
	assert_int_equal(parse(&raw, NULL), FAULT_MISMATCH);
	raw.key = ca_svid_key_der(three);
	assert_int_equal(parse(&raw, NULL), FAULT_MISMATCH);
}

/* Row 72: peers would refuse such a leaf; we do not show it. */
static void
test_row_072_svid_leaf_rules_apply(void **state)
{
	static const char *const two[] = {"spiffe://a.test/other", NULL};
	static const struct ca_svid_options bent[] = {
	    {.uris = two},
	    {.other_names = "DNS:a.test"},
	    {.id = {(const uint8_t *)"https://a.test/svc", 18}},
	    {.id = {(const uint8_t *)"spiffe://a.test", 15}},
	    {.cert.basic_constraints = "critical,CA:TRUE"},
	    {.cert.key_usage = "critical,digitalSignature,keyCertSign"},
	    {.cert.key_usage = "critical,digitalSignature,cRLSign"},
	    {.cert.key_usage = "critical,keyEncipherment"},
	    {.cert.key_usage = ""},
	};
	struct why why;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bent); i++) {
		enum fault f = parse_bent(&bent[i], &why);

		if (f != FAULT_UNTRUSTED)
			fail_msg("bent leaf %zu: %s", i, fault_label(f));
	}
	assert_int_equal(
	    parse_bent(&(struct ca_svid_options){.second_san = true}, &why),
	    FAULT_MALFORMED);
	assert_non_null(strstr(why.text, "twice"));
}

/* Row 73: an intermediate that may not sign breaks the chain for peers. */
static void
test_row_073_svid_intermediates_must_be_authorities(void **state)
{
	static const struct ca_options bent[] = {
	    {.cert.basic_constraints = "critical,CA:FALSE"},
	    {.cert.key_usage = "critical,digitalSignature"},
	    {.cert.key_usage = ""},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bent); i++) {
		AUTO(ca_free) struct ca *middle = made_ca(root, &bent[i]);
		AUTO(ca_svid_free)
		struct ca_svid *made = made_svid_of(middle, ID);
		struct svid_raw raw = made_raw(made, ID);

		assert_int_equal(parse(&raw, NULL), FAULT_UNTRUSTED);
	}
}

/* Row 74: the field chooses the identity, the certificate proves it. */
static void
test_row_074_svid_field_must_equal_the_uri(void **state)
{
	AUTO(ca_svid_free) struct ca_svid *made = made_svid_of(root, ID);
	struct svid_raw raw = made_raw(made, "spiffe://a.test/other");

	(void)state;
	assert_int_equal(parse(&raw, NULL), FAULT_MISMATCH);
	raw = made_raw(made, "spiffe://a.test/svc/");
	assert_int_equal(parse(&raw, NULL), FAULT_MALFORMED);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_svid_parse_good_one_tells_its_parts),
	    cmocka_unit_test(test_svid_is_dev_only_with_the_marker),
	    cmocka_unit_test(test_svid_window_is_narrowed_by_its_intermediate),
	    cmocka_unit_test(test_row_068_svid_chain_must_be_der_back_to_back),
	    cmocka_unit_test(test_row_069_svid_key_must_be_plain_pkcs8),
	    cmocka_unit_test(test_row_070_svid_key_types),
	    cmocka_unit_test(test_row_071_svid_key_must_be_the_leafs),
	    cmocka_unit_test(test_row_072_svid_leaf_rules_apply),
	    cmocka_unit_test(
	        test_row_073_svid_intermediates_must_be_authorities),
	    cmocka_unit_test(test_row_074_svid_field_must_equal_the_uri),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
