#include "ca.h"

#include <openssl/evp.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>
#include <string.h>

#include "unit.h"

/* What libcrypto says of SVID's chain below ROOT. */
static int
verify(const struct ca *root, const struct ca_svid *svid)
{
	X509_STORE *store = X509_STORE_new();
	X509_STORE_CTX *ctx = X509_STORE_CTX_new();
	int error;

	assert_int_equal(X509_STORE_add_cert(store, ca_x509(root)), 1);
	assert_int_equal(X509_STORE_CTX_init(ctx, store, ca_svid_leaf(svid),
	                     ca_svid_above(svid)),
	    1);
	(void)X509_verify_cert(ctx);
	error = X509_STORE_CTX_get_error(ctx);
	X509_STORE_CTX_free(ctx);
	X509_STORE_free(store);
	return error;
}

static const struct ca_svid_options plain = {
    .id = {(const uint8_t *)"spiffe://a.test/x", 17}};

/* A demo whose own issuer is refused would show nothing but refusals. */
static void
test_ca_defaults_make_a_chain_that_verifies(void **state)
{
	static const enum ca_key_type types[] = {
	    CA_P256, CA_P384, CA_RSA2048, CA_ED25519};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(types); i++) {
		struct ca_options o = {.cert.key_type = types[i]};
		struct ca_svid_options leaf = plain;
		AUTO(ca_free) struct ca *root = NULL;
		AUTO(ca_free) struct ca *middle = NULL;
		AUTO(ca_svid_free) struct ca_svid *svid = NULL;

		leaf.cert.key_type = types[i];
		assert_int_equal(ca_new(NULL, &o, &root, NULL), FAULT_NONE);
		assert_int_equal(ca_new(root, &o, &middle, NULL), FAULT_NONE);
		assert_int_equal(
		    ca_issue(middle, &leaf, &svid, NULL), FAULT_NONE);
		assert_int_equal(sk_X509_num(ca_svid_above(svid)), 1);
		assert_int_equal(verify(root, svid), X509_V_OK);
		assert_int_equal(X509_check_private_key(
		                     ca_svid_leaf(svid), ca_svid_key(svid)),
		    1);
	}
}

/* A source is given the chain as one run of DER: it must hold every part. */
static void
test_ca_chain_is_leaf_first_back_to_back(void **state)
{
	struct ca_options o = {0};
	struct ca_svid_options leaf = plain;
	AUTO(ca_free) struct ca *root = NULL;
	AUTO(ca_svid_free) struct ca_svid *svid = NULL;
	const unsigned char *at;
	const unsigned char *end;
	X509 *first;
	X509 *second;

	(void)state;
	leaf.with_root = true;
	assert_int_equal(ca_new(NULL, &o, &root, NULL), FAULT_NONE);
	assert_int_equal(ca_issue(root, &leaf, &svid, NULL), FAULT_NONE);
	at = ca_svid_chain(svid).data;
	end = at + ca_svid_chain(svid).len;
	first = d2i_X509(NULL, &at, end - at);
	second = d2i_X509(NULL, &at, end - at);
	assert_int_equal(X509_cmp(first, ca_svid_leaf(svid)), 0);
	assert_int_equal(X509_cmp(second, ca_x509(root)), 0);
	assert_ptr_equal(at, end);
	X509_free(first);
	X509_free(second);
}

/* A bent signature that still verified would make its tests prove nothing. */
static void
test_ca_bad_signature_does_not_verify(void **state)
{
	struct ca_options o = {0};
	struct ca_svid_options leaf = plain;
	AUTO(ca_free) struct ca *root = NULL;
	AUTO(ca_svid_free) struct ca_svid *svid = NULL;

	(void)state;
	leaf.cert.bad_signature = true;
	assert_int_equal(ca_new(NULL, &o, &root, NULL), FAULT_NONE);
	assert_int_equal(ca_issue(root, &leaf, &svid, NULL), FAULT_NONE);
	assert_int_equal(verify(root, svid), X509_V_ERR_CERT_SIGNATURE_FAILURE);
}

/* An unknown extension name is a mistake of the caller, said in words. */
static void
test_ca_bad_extension_is_refused_with_a_reason(void **state)
{
	static const struct ca_extension bad[] = {
	    {"noSuchExtension", "x"}, {NULL, NULL}};
	struct ca_options o = {.cert.extra = bad};
	struct why why = {.text = ""};
	struct ca *root = NULL;

	(void)state;
	assert_int_equal(ca_new(NULL, &o, &root, &why), FAULT_CONF);
	assert_null(root);
	assert_non_null(strstr(why.text, "extension"));
}

/* A list without its serial would let a revoked peer in. */
static void
test_ca_crl_lists_the_serial_and_verifies(void **state)
{
	struct ca_options o = {0};
	AUTO(ca_free) struct ca *root = NULL;
	AUTO(ca_svid_free) struct ca_svid *svid = NULL;
	AUTO(mem_free) uint8_t *der = NULL;
	const unsigned char *at;
	X509_REVOKED *entry = NULL;
	X509_CRL *crl;
	struct span serial;
	size_t len;

	(void)state;
	assert_int_equal(ca_new(NULL, &o, &root, NULL), FAULT_NONE);
	assert_int_equal(ca_issue(root, &plain, &svid, NULL), FAULT_NONE);
	serial = ca_svid_serial(svid);
	assert_int_equal(ca_crl(root,
	                     &(struct ca_crl_options){.serials = &serial,
	                         .n_serials = 1,
	                         .year_1 = true,
	                         .number = 7},
	                     &der, &len, NULL),
	    FAULT_NONE);
	at = der;
	crl = d2i_X509_CRL(NULL, &at, (long)len);
	assert_non_null(crl);
	assert_int_equal(X509_CRL_verify(crl, ca_key(root)), 1);
	assert_null(X509_CRL_get0_nextUpdate(crl));
	assert_int_equal(
	    X509_CRL_get0_by_cert(crl, &entry, ca_svid_leaf(svid)), 1);
	X509_CRL_free(crl);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_ca_defaults_make_a_chain_that_verifies),
	    cmocka_unit_test(test_ca_chain_is_leaf_first_back_to_back),
	    cmocka_unit_test(test_ca_bad_signature_does_not_verify),
	    cmocka_unit_test(test_ca_bad_extension_is_refused_with_a_reason),
	    cmocka_unit_test(test_ca_crl_lists_the_serial_and_verifies),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
