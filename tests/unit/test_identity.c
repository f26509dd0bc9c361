#include "made.h"

#include <openssl/x509.h>
#include <stdlib.h>

#define A  "spiffe://a.test/one"
#define A2 "spiffe://a.test/two"
#define B  "spiffe://b.test/one"

/* One update that is good; each test bends its own copy. */
struct update {
	struct svid_raw svids[3];
	struct bundle_raw own[3];
	struct bundle_raw federated[4];
	struct span crls[2];
	struct identity_raw raw;
};

static struct {
	struct ca *a;
	struct ca *b;
	struct ca_svid *one;
	struct ca_svid *two;
	uint8_t *crl;
	size_t crl_len;
} made;

static int
setup(void **state)
{
	struct span serial;

	(void)state;
	made.a = made_ca(NULL, NULL);
	made.b = made_ca(NULL, NULL);
	made.one = made_svid_of(made.a, A);
	made.two = made_svid_of(made.a, A2);
	serial = ca_svid_serial(made.one);
	assert_int_equal(
	    ca_crl(made.a,
	        &(struct ca_crl_options){.serials = &serial, .n_serials = 1},
	        &made.crl, &made.crl_len, NULL),
	    FAULT_NONE);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	ca_svid_free(&made.one);
	ca_svid_free(&made.two);
	ca_free(&made.a);
	ca_free(&made.b);
	mem_free(&made.crl);
	return 0;
}

static void
good_update(struct update *u)
{
	*u = (struct update){0};
	u->svids[0] = made_raw(made.one, A);
	u->svids[1] = made_raw(made.two, A2);
	u->own[0].authorities = ca_certificate(made.a);
	u->own[1] = u->own[0];
	u->federated[0] = (struct bundle_raw){
	    span_of_str("spiffe://b.test"), ca_certificate(made.b)};
	u->crls[0] = span_of(made.crl, made.crl_len);
	u->raw = (struct identity_raw){.svids = u->svids,
	    .own_bundles = u->own,
	    .n_svids = 2,
	    .federated = u->federated,
	    .n_federated = 1,
	    .crls = u->crls,
	    .n_crls = 1};
}

static struct identity *
take(const struct update *u)
{
	uint64_t next = 1;
	struct identity *id = NULL;
	struct why why = {.text = ""};

	if (identity_new(&u->raw, NULL, &next, &id, &why) != FAULT_NONE)
		fail_msg("%s", why.text);
	return id;
}

static enum fault
refuse(const struct update *u, struct why *why)
{
	uint64_t next = 1;
	struct identity *id = NULL;
	enum fault f = identity_new(&u->raw, NULL, &next, &id, why);

	assert_null(id);
	assert_int_equal(next, 1);
	assert_string_not_equal(why->text, "");
	return f;
}

/* The agent's update becomes what all handshakes rest on. */
static void
test_identity_good_update_has_all_its_parts(void **state)
{
	AUTO(identity_free) struct identity *id = NULL;
	struct update u;

	(void)state;
	good_update(&u);
	id = take(&u);
	assert_false(identity_svids_broken(id));
	assert_int_equal(identity_svid_count(id), 2);
	assert_true(span_equal_str(svid_id(identity_svid(id, 0))->text, A));
	assert_int_equal(identity_bundle_count(id), 2);
	assert_true(span_equal_str(
	    bundle_trust_domain(identity_bundle(id, 0)), "a.test"));
	assert_int_equal(bundle_authorities(identity_bundle(id, 1)), 1);
	assert_int_equal(identity_crl_count(id), 1);
	assert_int_equal(identity_crl_entries(id), 1);
}

/* A broken SVID must not keep a withdrawal of trust from taking effect. */
static void
test_row_097_identity_broken_svid_leaves_the_trust(void **state)
{
	AUTO(identity_free) struct identity *id = NULL;
	struct why why = {.text = ""};
	uint64_t next = 1;
	struct update u;

	(void)state;
	good_update(&u);
	u.svids[1].key = u.svids[0].key;
	assert_int_equal(
	    identity_new(&u.raw, NULL, &next, &id, &why), FAULT_NONE);
	assert_true(identity_svids_broken(id));
	assert_int_equal(identity_svid_count(id), 0);
	assert_int_equal(identity_bundle_count(id), 2);
	assert_non_null(strstr(why.text, "key is not the leaf's"));
}

/* Row 74: a bundle beside an SVID of another domain has no owner. */
static void
test_row_074_identity_foreign_trust_domain_is_discarded(void **state)
{
	AUTO(ca_svid_free) struct ca_svid *foreign = made_svid_of(made.a, B);
	struct why why = {.text = ""};
	struct update u;

	(void)state;
	good_update(&u);
	u.svids[1].chain = ca_svid_chain(foreign);
	u.svids[1].key = ca_svid_key_der(foreign);
	assert_int_equal(refuse(&u, &why), FAULT_MISMATCH);

	/* Also behind an SVID that is merely broken. */
	u.svids[0].key = u.svids[1].key;
	assert_int_equal(refuse(&u, &why), FAULT_MISMATCH);

	good_update(&u);
	u.svids[0].id = span_of_str("https://a.test/one");
	assert_int_equal(refuse(&u, &why), FAULT_MALFORMED);
}

/* Row 84: an empty federated bundle is known, and trusts nothing. */
static void
test_row_084_identity_empty_federated_bundle_is_kept(void **state)
{
	AUTO(identity_free) struct identity *id = NULL;
	struct update u;

	(void)state;
	good_update(&u);
	u.federated[0].authorities = span_of("", 0);
	id = take(&u);
	assert_int_equal(identity_bundle_count(id), 2);
	assert_int_equal(bundle_authorities(identity_bundle(id, 1)), 0);
}

/* Row 85: an empty own bundle voids the update, but for minispire's shape. */
static void
test_row_085_identity_empty_own_bundle_is_discarded(void **state)
{
	AUTO(identity_free) struct identity *id = NULL;
	struct why why = {.text = ""};
	struct update u;

	(void)state;
	good_update(&u);
	u.own[0].authorities = u.own[1].authorities = span_of("", 0);
	assert_int_equal(refuse(&u, &why), FAULT_MALFORMED);

	u.federated[1] =
	    (struct bundle_raw){span_of_str("a.test"), ca_certificate(made.a)};
	u.raw.n_federated = 2;
	id = take(&u);
	assert_int_equal(identity_bundle_count(id), 2);
	assert_int_equal(bundle_authorities(identity_bundle(id, 0)), 1);
}

/* Row 86: a key that names no trust domain could be taken for another's. */
static void
test_row_086_identity_bundle_keys(void **state)
{
	static const char *const bad[] = {
	    "spiffe://b.test/x", "", "spiffe://", "B.test", "b.test:1"};
	AUTO(identity_free) struct identity *id = NULL;
	struct why why = {.text = ""};
	struct update u;

	(void)state;
	good_update(&u);
	u.federated[0].trust_domain = span_of_str("b.test");
	id = take(&u);
	assert_int_equal(identity_bundle_count(id), 2);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		u.federated[0].trust_domain = span_of_str(bad[i]);
		assert_int_equal(refuse(&u, &why), FAULT_MALFORMED);
	}
}

/* Row 87: which of two bundles counts must not be chance. */
static void
test_row_087_identity_one_domain_twice(void **state)
{
	AUTO(identity_free) struct identity *id = NULL;
	struct why why = {.text = ""};
	struct update u;

	(void)state;
	/* Own and federated: the own one. */
	good_update(&u);
	u.federated[1] =
	    (struct bundle_raw){span_of_str("spiffe://a.test"), span_of("", 0)};
	u.raw.n_federated = 2;
	id = take(&u);
	assert_int_equal(bundle_authorities(identity_bundle(id, 0)), 1);

	/* Two spellings of a foreign one. */
	u.federated[1] =
	    (struct bundle_raw){span_of_str("b.test"), ca_certificate(made.b)};
	assert_int_equal(refuse(&u, &why), FAULT_MISMATCH);

	/* Two SVIDs of one domain, which disagree. */
	good_update(&u);
	u.own[1].authorities = ca_certificate(made.b);
	assert_int_equal(refuse(&u, &why), FAULT_MISMATCH);
}

/* Row 90: half of a bundle is not what the agent said. */
static void
test_row_090_identity_unparsable_authority_is_discarded(void **state)
{
	struct why why = {.text = ""};
	struct update u;

	(void)state;
	good_update(&u);
	u.federated[0].authorities.len--;
	assert_int_equal(refuse(&u, &why), FAULT_MALFORMED);
}

/* Rows 50, 51, 91: only authorities are anchors, and each once. */
static void
test_row_050_identity_only_authorities_are_kept(void **state)
{
	struct ca_options v1 = {.cert.version_1 = true};
	AUTO(ca_free) struct ca *old = made_ca(NULL, &v1);
	AUTO(identity_free) struct identity *id = NULL;
	AUTO(mem_free) uint8_t *run = malloc(16384);
	struct span parts[] = {ca_certificate(made.b), ca_svid_chain(made.one),
	    ca_certificate(made.b), ca_certificate(old)};
	size_t len = 0;
	struct update u;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
		memcpy(run + len, parts[i].data, parts[i].len);
		len += parts[i].len;
	}
	good_update(&u);
	u.federated[0].authorities = span_of(run, len);
	id = take(&u);
	assert_int_equal(bundle_authorities(identity_bundle(id, 1)), 1);
	assert_int_equal(bundle_dropped(identity_bundle(id, 1)), 2);
}

/* Row 92: more than the limit is refused by its name, not cut. */
static void
test_row_092_identity_limits(void **state)
{
	struct why why = {.text = ""};
	struct update u;

	(void)state;
	good_update(&u);
	u.raw.n_svids = IDENTITY_SVIDS_MAX + 1;
	assert_int_equal(refuse(&u, &why), FAULT_LIMIT);
	assert_non_null(strstr(why.text, "128 SVIDs"));
	good_update(&u);
	u.raw.n_crls = IDENTITY_CRLS_MAX + 1;
	assert_int_equal(refuse(&u, &why), FAULT_LIMIT);
	good_update(&u);
	u.svids[0].key = span_of(made.crl, 17 * 1024);
	assert_int_equal(refuse(&u, &why), FAULT_LIMIT);
}

/* Row 96: a mandatory field at its default is a missing one. */
static void
test_row_096_identity_missing_fields_are_discarded(void **state)
{
	struct why why = {.text = ""};
	struct update u;

	(void)state;
	good_update(&u);
	u.svids[0].id.len = 0;
	assert_int_equal(refuse(&u, &why), FAULT_MALFORMED);
	good_update(&u);
	u.svids[0].chain.len = 0;
	assert_int_equal(refuse(&u, &why), FAULT_MALFORMED);
	good_update(&u);
	u.svids[1].key.len = 0;
	assert_int_equal(refuse(&u, &why), FAULT_MALFORMED);
}

static enum fault
refuse_crl(const struct ca_crl_options *o, struct why *why)
{
	AUTO(mem_free) uint8_t *der = NULL;
	struct update u;
	size_t len;

	assert_int_equal(ca_crl(made.a, o, &der, &len, why), FAULT_NONE);
	good_update(&u);
	u.crls[0] = span_of(der, len);
	return refuse(&u, why);
}

/* A list that would be read wrong denies too little. */
static void
test_identity_crl_of_another_form_is_discarded(void **state)
{
	static const struct ca_extension delta[] = {
	    {"2.5.29.27", "critical,DER:020101"}, {NULL, NULL}};
	static const struct ca_extension unknown[] = {
	    {"1.2.3.4", "critical,DER:0500"}, {NULL, NULL}};
	static const struct ca_extension indirect[] = {
	    {"issuingDistributionPoint", "critical,DER:30038401FF"},
	    {NULL, NULL}};
	struct why why = {.text = ""};
	struct span serial = ca_svid_serial(made.one);
	struct update u;

	(void)state;
	assert_int_equal(
	    refuse_crl(&(struct ca_crl_options){.extra = delta}, &why),
	    FAULT_MALFORMED);
	assert_int_equal(
	    refuse_crl(&(struct ca_crl_options){.extra = unknown}, &why),
	    FAULT_MALFORMED);
	assert_int_equal(
	    refuse_crl(&(struct ca_crl_options){.extra = indirect}, &why),
	    FAULT_MALFORMED);
	assert_non_null(strstr(why.text, "indirect"));
	assert_int_equal(refuse_crl(&(struct ca_crl_options){.serials = &serial,
	                                .n_serials = 1,
	                                .indirect_entry = true},
	                     &why),
	    FAULT_MALFORMED);
	good_update(&u);
	u.crls[0].len--;
	assert_int_equal(refuse(&u, &why), FAULT_MALFORMED);
}

/* tbot's list, year 1 and no end, is one of the two in the field. */
static void
test_identity_crl_as_tbot_writes_it_is_taken(void **state)
{
	AUTO(identity_free) struct identity *id = NULL;
	AUTO(mem_free) uint8_t *der = NULL;
	struct update u;
	size_t len;

	(void)state;
	assert_int_equal(
	    ca_crl(made.a,
	        &(struct ca_crl_options){.year_1 = true, .number = 1}, &der,
	        &len, NULL),
	    FAULT_NONE);
	good_update(&u);
	u.crls[0] = span_of(der, len);
	id = take(&u);
	assert_int_equal(identity_crl_count(id), 1);
	assert_int_equal(identity_crl_entries(id), 0);
}

/* Row 105: what did not change makes no work and no noise. */
static void
test_row_105_identity_unchanged_material_is_equal(void **state)
{
	AUTO(identity_free) struct identity *a = NULL;
	AUTO(identity_free) struct identity *b = NULL;
	AUTO(mem_free) uint8_t *der = NULL;
	struct span serial = ca_svid_serial(made.one);
	struct svid_raw swap;
	struct update u;
	size_t len;

	(void)state;
	good_update(&u);
	a = take(&u);
	/* Another order, and a list that was signed again. */
	swap = u.svids[0];
	u.svids[0] = u.svids[1];
	u.svids[1] = swap;
	assert_int_equal(ca_crl(made.a,
	                     &(struct ca_crl_options){.serials = &serial,
	                         .n_serials = 1,
	                         .year_1 = true,
	                         .number = 99},
	                     &der, &len, NULL),
	    FAULT_NONE);
	u.crls[0] = span_of(der, len);
	b = take(&u);
	assert_true(identity_equal(a, b));
}

/* Each change must be seen, or a withdrawal would be missed. */
static void
test_identity_any_change_is_not_equal(void **state)
{
	AUTO(identity_free) struct identity *a = NULL;
	struct update u;

	(void)state;
	good_update(&u);
	a = take(&u);
	for (int what = 0; what < 4; what++) {
		AUTO(identity_free) struct identity *b = NULL;

		good_update(&u);
		switch (what) {
		case 0:
			u.svids[0].hint = span_of_str("x");
			break;
		case 1:
			u.raw.n_federated = 0;
			break;
		case 2:
			u.raw.n_crls = 0;
			break;
		default:
			u.raw.n_svids = 1;
			break;
		}
		b = take(&u);
		assert_false(identity_equal(a, b));
	}
}

/* A cached verdict lives as long as its bundle's number: no longer, no less. */
static void
test_identity_only_changed_bundles_get_a_new_generation(void **state)
{
	AUTO(identity_free) struct identity *a = NULL;
	AUTO(identity_free) struct identity *b = NULL;
	uint64_t next = 7;
	struct update u;

	(void)state;
	good_update(&u);
	assert_int_equal(
	    identity_new(&u.raw, NULL, &next, &a, NULL), FAULT_NONE);
	assert_int_equal(next, 9);
	u.federated[0].authorities = ca_certificate(made.a);
	assert_int_equal(identity_new(&u.raw, a, &next, &b, NULL), FAULT_NONE);
	assert_int_equal(next, 10);
	assert_ptr_equal(identity_bundle(a, 0), identity_bundle(b, 0));
	assert_int_equal(bundle_generation(identity_bundle(b, 1)), 9);
	/* What is shared outlives the one that made it. */
	identity_free(&a);
	assert_int_equal(bundle_authorities(identity_bundle(b, 0)), 1);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_identity_good_update_has_all_its_parts),
	    cmocka_unit_test(test_row_050_identity_only_authorities_are_kept),
	    cmocka_unit_test(
	        test_row_074_identity_foreign_trust_domain_is_discarded),
	    cmocka_unit_test(
	        test_row_084_identity_empty_federated_bundle_is_kept),
	    cmocka_unit_test(
	        test_row_085_identity_empty_own_bundle_is_discarded),
	    cmocka_unit_test(test_row_086_identity_bundle_keys),
	    cmocka_unit_test(test_row_087_identity_one_domain_twice),
	    cmocka_unit_test(
	        test_row_090_identity_unparsable_authority_is_discarded),
	    cmocka_unit_test(test_row_092_identity_limits),
	    cmocka_unit_test(
	        test_row_096_identity_missing_fields_are_discarded),
	    cmocka_unit_test(
	        test_row_097_identity_broken_svid_leaves_the_trust),
	    cmocka_unit_test(test_row_105_identity_unchanged_material_is_equal),
	    cmocka_unit_test(test_identity_crl_of_another_form_is_discarded),
	    cmocka_unit_test(test_identity_crl_as_tbot_writes_it_is_taken),
	    cmocka_unit_test(test_identity_any_change_is_not_equal),
	    cmocka_unit_test(
	        test_identity_only_changed_bundles_get_a_new_generation),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
