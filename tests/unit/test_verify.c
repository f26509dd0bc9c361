/*
 * The rows of the conformance matrix that speak of a peer's SVID. Every case
 * runs through verify_peer() without a cache and twice with one, and all three
 * answers must be equal.
 */

#include "clock.h"
#include "made.h"

#include <openssl/asn1.h>
#include <openssl/bn.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>
#include <stdlib.h>
#include <time.h>

#define ID "spiffe://a.test/svc"

static struct ca *root;         /* authority of a.test */
static struct ca *other;        /* authority of b.test */
static struct anchors *anchors; /* of both */
static int64_t now_s;

/*
 * The clock, in place of base's: it stands still, so that certificates made
 * late in a slow run are valid all the same.
 */
int64_t
clock_wall_s(void)
{
	return now_s;
}

int64_t
clock_wall_ms(void)
{
	return now_s * 1000;
}

static struct anchors *
make_anchors(const struct bundle_raw *bundles, size_t n)
{
	struct identity *id = made_identity(NULL, bundles, n);
	struct anchors *a = NULL;

	assert_int_equal(anchors_new(id, NULL, &a, NULL), FAULT_NONE);
	identity_free(&id);
	return a;
}

static struct anchors *
anchors_of(const char *trust_domain, struct span authorities)
{
	struct bundle_raw b = {span_of_str(trust_domain), authorities};

	return make_anchors(&b, 1);
}

static int
setup(void **state)
{
	(void)state;
	now_s = time(NULL);
	root = made_ca(NULL, NULL);
	other = made_ca(NULL, NULL);
	anchors = make_anchors(
	    (struct bundle_raw[]){
	        {span_of_str("a.test"), ca_certificate(root)},
	        {span_of_str("b.test"), ca_certificate(other)},
	    },
	    2);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	anchors_free(&anchors);
	ca_free(&root);
	ca_free(&other);
	return 0;
}

/* ---- Asking verify_peer() ---- */

struct answer {
	enum deny_reason reason;
	int error; /* X509_V_ERR_*: becomes the alert */
	struct why why;
};

static struct answer
ask(const struct verify_args *args, X509 *leaf, STACK_OF(X509) * above)
{
	X509_STORE_CTX *ctx = X509_STORE_CTX_new();
	struct answer a = {.reason = DENY_NOT};
	struct peer *peer = NULL;

	assert_int_equal(X509_STORE_CTX_init(ctx, NULL, leaf, above), 1);
	a.reason = verify_peer(ctx, args, &peer, NULL, &a.why);
	a.error = X509_STORE_CTX_get_error(ctx);
	assert_true((a.reason == DENY_NOT) == (peer != NULL));
	assert_true((a.reason == DENY_NOT) == (a.error == X509_V_OK));
	assert_int_equal(ERR_peek_error(), 0);
	peer_release(&peer);
	X509_STORE_CTX_free(ctx);
	return a;
}

/* Without a cache, then with one that is cold, then warm. */
static struct answer
ask_thrice(const struct verify_args *base, X509 *leaf, STACK_OF(X509) * above)
{
	struct verify_args args = *base;
	struct peer_table *table = peer_table_new();
	struct answer plain = ask(&args, leaf, above);

	args.peers = table;
	for (int i = 0; i < 2; i++) {
		struct answer cached = ask(&args, leaf, above);

		assert_int_equal(cached.reason, plain.reason);
		assert_int_equal(cached.error, plain.error);
	}
	peer_table_free(&table);
	return plain;
}

static const struct verify_args *
as_client(void)
{
	static struct verify_args args;

	args = (struct verify_args){
	    .anchors = anchors, .role = PEER_IS_CLIENT, .now_s = now_s};
	return &args;
}

static struct answer
judge(const struct verify_args *args, const struct ca_svid *svid)
{
	return ask_thrice(args, ca_svid_leaf(svid), ca_svid_above(svid));
}

static void
expect(struct answer a, enum deny_reason reason, int error)
{
	if (a.reason != reason || (error != 0 && a.error != error))
		fail_msg("%s, error %d: %s", deny_reason_label(a.reason),
		    a.error, a.why.text);
}

/* A leaf below CA, bent by O; the ID is ours unless O has names. */
static struct answer
judge_bent(const struct ca *ca, const struct ca_svid_options *bent)
{
	struct ca_svid_options o = *bent;
	AUTO(ca_svid_free) struct ca_svid *svid = NULL;

	if (o.id.len == 0 && o.other_names == NULL)
		o.id = span_of_str(ID);
	svid = made_svid(ca, &o);
	return judge(as_client(), svid);
}

static void
expect_id(const char *id, size_t len, enum deny_reason reason)
{
	struct ca_svid_options o = {.id = span_of(id, len)};

	expect(judge_bent(root, &o), reason,
	    reason == DENY_NOT ? X509_V_OK : X509_V_ERR_CERT_REJECTED);
}

/* The same below an intermediate that is bent. */
static struct answer
judge_below(const struct ca *above, const struct ca_options *bent)
{
	AUTO(ca_free) struct ca *middle = made_ca(above, bent);
	AUTO(ca_svid_free) struct ca_svid *svid = made_svid_of(middle, ID);

	return judge(as_client(), svid);
}

/* ---- The rows ---- */

/* A second URI could be the one that somebody else reads. */
static void
test_row_024_two_uris_are_refused(void **state)
{
	static const char *const spiffe[] = {"spiffe://a.test/other", NULL};
	static const char *const https[] = {"https://a.test/x", NULL};

	(void)state;
	expect(judge_bent(root, &(struct ca_svid_options){.uris = spiffe}),
	    DENY_BAD_ID, X509_V_ERR_CERT_REJECTED);
	expect(judge_bent(root, &(struct ca_svid_options){.uris = https}),
	    DENY_BAD_ID, X509_V_ERR_CERT_REJECTED);
}

/* A name that is no SPIFFE ID authenticates nobody. */
static void
test_row_025_no_uri_is_refused(void **state)
{
	static const struct ca_svid_options bent[] = {
	    {.other_names = "DNS:a.test"},
	    {.other_names = "email:x@a.test"},
	    {.other_names = "DNS:a.test", .cert.common_name = ID},
	};
	AUTO(ca_svid_free)
	struct ca_svid *nameless =
	    made_svid(root, &(struct ca_svid_options){.cert.common_name = ID});

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bent); i++)
		expect(judge_bent(root, &bent[i]), DENY_BAD_ID, 0);
	expect(judge(as_client(), nameless), DENY_BAD_ID, 0);
}

/* Other names beside the URI are common, and harmless. */
static void
test_row_026_other_names_are_ignored(void **state)
{
	struct ca_svid_options o = {.id = span_of_str(ID),
	    .other_names = "DNS:a.test,DNS:b.test,DNS:c.test,IP:192.0.2.1,"
	                   "email:x@a.test,otherName:1.2.3.4;UTF8:x"};

	(void)state;
	expect(judge_bent(root, &o), DENY_NOT, 0);
}

/* The URI must be a SPIFFE ID, byte by byte. */
static void
test_row_027_uri_that_is_no_spiffe_id_is_refused(void **state)
{
	static const char *const bad[] = {"https://a.test/x",
	    "SPIFFE://a.test/x", "spiffe://A.test/x", "spiffe://a.test/x/",
	    "spiffe://a.test//x", "spiffe://a.test/..", "spiffe://a.test:1/x",
	    "spiffe://a.test/x?a", "spiffe://a.test/x#", "spiffe://u@a.test/x",
	    "spiffe://a.test/%61", "spiffe:///x", ""};

	(void)state;
	for (size_t i = 0; i + 1 < ARRAY_LEN(bad); i++)
		expect_id(bad[i], strlen(bad[i]), DENY_BAD_ID);
}

/* A name cut at its NUL would be somebody else's. */
static void
test_row_022_nul_in_the_uri_is_refused(void **state)
{
	static const char nul[] = "spiffe://a.test/admin\0.evil/x";
	static const char high[] = "spiffe://a.test/\xc3\xa9";
	static const char line[] = "spiffe://a.test/x\n";

	(void)state;
	expect_id(nul, sizeof(nul) - 1, DENY_BAD_ID);
	expect_id(high, sizeof(high) - 1, DENY_BAD_ID);
	expect_id(line, sizeof(line) - 1, DENY_BAD_ID);
}

/* The longest ID that the standard lets pass must pass. */
static void
test_row_013_id_of_2048_bytes(void **state)
{
	char id[SPIFFE_ID_MAX + 1];

	(void)state;
	memset(id, 'x', sizeof(id));
	memcpy(id, ID "/", strlen(ID "/"));
	expect_id(id, SPIFFE_ID_MAX, DENY_NOT);
	expect_id(id, SPIFFE_ID_MAX + 1, DENY_BAD_ID);
}

/* The ID of a trust domain is an authority's, never a workload's. */
static void
test_row_028_leaf_without_a_path_is_refused(void **state)
{
	(void)state;
	expect_id("spiffe://a.test", 15, DENY_BAD_ID);
}

/* An authority that authenticates could name itself anything. */
static void
test_row_029_leaf_that_is_an_authority_is_refused(void **state)
{
	struct ca_svid_options ca = {
	    .cert.basic_constraints = "critical,CA:TRUE"};
	struct ca_svid_options none = {.cert.basic_constraints = ""};

	(void)state;
	expect(judge_bent(root, &ca), DENY_BAD_ID, X509_V_ERR_CERT_REJECTED);
	expect(judge_bent(root, &none), DENY_NOT, 0);
}

static void
expect_usage(const char *usage, enum deny_reason reason)
{
	struct ca_svid_options o = {.cert.key_usage = usage};

	expect(judge_bent(root, &o), reason, 0);
}

/* A leaf that may sign certificates is an authority in disguise. */
static void
test_row_030_key_cert_sign_is_refused(void **state)
{
	(void)state;
	expect_usage("critical,digitalSignature,keyCertSign", DENY_BAD_ID);
}

/* A leaf that may sign lists could revoke its neighbours. */
static void
test_row_031_crl_sign_is_refused(void **state)
{
	(void)state;
	expect_usage("critical,digitalSignature,cRLSign", DENY_BAD_ID);
}

/* TLS signs with the leaf: it must be allowed to. */
static void
test_row_032_no_digital_signature_is_refused(void **state)
{
	(void)state;
	expect_usage("critical,keyEncipherment", DENY_BAD_ID);
}

/* The library answers "all" for a keyUsage that is not there. */
static void
test_row_033_no_key_usage_is_refused(void **state)
{
	(void)state;
	expect_usage("", DENY_BAD_ID);
}

/* Some issuers do not mark it critical, and mean it all the same. */
static void
test_row_034_key_usage_not_critical_is_taken(void **state)
{
	(void)state;
	expect_usage("digitalSignature", DENY_NOT);
}

/* What SPIRE and Teleport set. */
static void
test_row_035_further_key_usages_are_taken(void **state)
{
	(void)state;
	expect_usage(
	    "critical,digitalSignature,keyEncipherment,keyAgreement", DENY_NOT);
}

/* A certificate for one role must not serve in the other. */
static void
test_row_036_extended_key_usage_must_hold_the_role(void **state)
{
	static const struct {
		const char *usage;
		enum deny_reason as_client;
		enum deny_reason as_server;
	} rows[] = {
	    {"", DENY_NOT, DENY_NOT},
	    {"serverAuth,clientAuth", DENY_NOT, DENY_NOT},
	    {"clientAuth", DENY_NOT, DENY_BAD_ID},
	    {"serverAuth", DENY_BAD_ID, DENY_NOT},
	    {"codeSigning", DENY_BAD_ID, DENY_BAD_ID},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct ca_svid_options o = {
		    .id = span_of_str(ID), .cert.ext_key_usage = rows[i].usage};
		AUTO(ca_svid_free) struct ca_svid *svid = made_svid(root, &o);
		struct verify_args args = *as_client();

		expect(judge(&args, svid), rows[i].as_client,
		    rows[i].as_client == DENY_NOT ? 0
		                                  : X509_V_ERR_INVALID_PURPOSE);
		args.role = PEER_IS_SERVER;
		expect(judge(&args, svid), rows[i].as_server, 0);
	}
}

/* "Any purpose" alone names no role. */
static void
test_row_037_any_extended_key_usage_alone_is_refused(void **state)
{
	struct ca_svid_options o = {
	    .cert.ext_key_usage = "anyExtendedKeyUsage"};

	(void)state;
	expect(judge_bent(root, &o), DENY_BAD_ID, X509_V_ERR_INVALID_PURPOSE);
}

/* `eku = ignore` is for authorities; a leaf keeps its rule. */
static void
test_row_038_extended_key_usage_of_an_intermediate(void **state)
{
	struct ca_options server_only = {.cert.ext_key_usage = "serverAuth"};
	AUTO(ca_free) struct ca *middle = made_ca(root, &server_only);
	AUTO(ca_svid_free) struct ca_svid *svid = made_svid_of(middle, ID);
	AUTO(ca_svid_free)
	struct ca_svid *bad_leaf =
	    made_svid(middle, &(struct ca_svid_options){.id = span_of_str(ID),
	                          .cert.ext_key_usage = "serverAuth"});
	struct verify_args args = *as_client();

	(void)state;
	expect(judge(&args, svid), DENY_BAD_CHAIN, X509_V_ERR_INVALID_PURPOSE);
	args.ignore_intermediate_eku = true;
	expect(judge(&args, svid), DENY_NOT, 0);
	expect(judge(&args, bad_leaf), DENY_BAD_ID, X509_V_ERR_INVALID_PURPOSE);
}

/* Without a valid path the names on a certificate are anybody's. */
static void
test_row_039_path_must_verify(void **state)
{
	struct ca_svid_options forged = {
	    .id = span_of_str(ID), .cert.bad_signature = true};
	AUTO(ca_free) struct ca *unknown = made_ca(NULL, NULL);
	AUTO(ca_svid_free) struct ca_svid *stranger = made_svid_of(unknown, ID);
	AUTO(ca_svid_free) struct ca_svid *mine = made_svid_of(root, ID);
	AUTO(anchors_free)
	struct anchors *empty = anchors_of("a.test", span_of("", 0));
	struct verify_args args = *as_client();

	(void)state;
	expect(judge_bent(root, &forged), DENY_BAD_CHAIN,
	    X509_V_ERR_CERT_SIGNATURE_FAILURE);
	expect(judge(&args, stranger), DENY_BAD_CHAIN,
	    X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY);
	args.anchors = empty;
	expect(judge(&args, mine), DENY_BAD_CHAIN,
	    X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY);
}

/* What an issuer calls critical and we do not know may forbid this use. */
static void
test_row_040_unknown_critical_extension_is_refused(void **state)
{
	static const struct ca_extension critical[] = {
	    {"1.2.3.4.5", "critical,DER:0500"}, {NULL, NULL}};
	struct ca_options o = {.cert.extra = critical};
	struct ca_svid_options leaf = {.cert.extra = critical};
	AUTO(ca_free) struct ca *odd = made_ca(NULL, &o);
	AUTO(anchors_free)
	struct anchors *trust = anchors_of("a.test", ca_certificate(odd));
	AUTO(ca_svid_free) struct ca_svid *svid = made_svid_of(odd, ID);
	struct verify_args args = *as_client();

	(void)state;
	expect(judge_bent(root, &leaf), DENY_BAD_CHAIN,
	    X509_V_ERR_UNHANDLED_CRITICAL_EXTENSION);
	expect(judge_below(root, &o), DENY_BAD_CHAIN,
	    X509_V_ERR_UNHANDLED_CRITICAL_EXTENSION);
	args.anchors = trust;
	expect(judge(&args, svid), DENY_BAD_CHAIN,
	    X509_V_ERR_UNHANDLED_CRITICAL_EXTENSION);
}

/* An authority with a bound on its depth cannot make a deeper one. */
static void
test_row_041_path_length_is_kept(void **state)
{
	struct ca_options flat = {
	    .cert = {.common_name = "flat",
	        .basic_constraints = "critical,CA:TRUE,pathlen:0"}};
	AUTO(ca_free) struct ca *middle = made_ca(root, &flat);

	(void)state;
	expect(judge_below(root, &flat), DENY_NOT, 0);
	expect(judge_below(middle, NULL), DENY_BAD_CHAIN,
	    X509_V_ERR_PATH_LENGTH_EXCEEDED);
}

/* A workload must not issue identities. */
static void
test_row_042_issuer_that_is_no_authority_is_refused(void **state)
{
	struct ca_options no_ca = {
	    .cert.basic_constraints = "critical,CA:FALSE"};
	struct ca_options as_leaf = {
	    .cert = {.basic_constraints = "critical,CA:FALSE",
	        .key_usage = "critical,digitalSignature"},
	    .uri = ID};

	(void)state;
	expect(judge_below(root, &no_ca), DENY_BAD_CHAIN, 0);
	expect(judge_below(root, &as_leaf), DENY_BAD_CHAIN, 0);
}

/* An authority without the right to sign signs nothing. */
static void
test_row_043_issuer_without_key_cert_sign_is_refused(void **state)
{
	struct ca_options o = {.cert.key_usage = "critical,digitalSignature"};

	(void)state;
	expect(judge_below(root, &o), DENY_BAD_CHAIN, 0);
}

/* The last second of a certificate is still its own. */
static void
test_row_044_validity_ends_included(void **state)
{
	struct ca_svid_options o = {.id = span_of_str(ID),
	    .cert = {.not_before = now_s + 10, .not_after = now_s + 20}};
	AUTO(ca_svid_free) struct ca_svid *svid = made_svid(root, &o);
	struct verify_args args = *as_client();
	struct answer a;

	(void)state;
	args.now_s = now_s + 20;
	expect(judge(&args, svid), DENY_NOT, 0);
	args.now_s = now_s + 10;
	expect(judge(&args, svid), DENY_NOT, 0);
	args.now_s = now_s + 9;
	expect(judge(&args, svid), DENY_EXPIRED, X509_V_ERR_CERT_NOT_YET_VALID);
	args.now_s = now_s + 21;
	a = judge(&args, svid);
	expect(a, DENY_EXPIRED, X509_V_ERR_CERT_HAS_EXPIRED);
	/* Row 45: the log names both clocks. */
	assert_non_null(strstr(a.why.text, "valid until"));
	assert_non_null(strstr(a.why.text, "it is"));
}

/* An expired root vouches for nobody, whatever its leaves say. */
static void
test_row_046_expired_root_is_refused(void **state)
{
	struct ca_options gone = {
	    .cert = {.not_before = now_s - 100, .not_after = now_s - 50}};
	AUTO(ca_free) struct ca *old = made_ca(NULL, &gone);
	AUTO(anchors_free)
	struct anchors *trust = anchors_of("a.test", ca_certificate(old));
	AUTO(ca_svid_free) struct ca_svid *svid = made_svid_of(old, ID);
	struct verify_args args = *as_client();

	(void)state;
	args.anchors = trust;
	expect(judge(&args, svid), DENY_EXPIRED, X509_V_ERR_CERT_HAS_EXPIRED);
	expect(judge_below(root, &gone), DENY_EXPIRED,
	    X509_V_ERR_CERT_HAS_EXPIRED);
}

/* The two certificates, one after the other, as one bundle. */
static struct anchors *
anchors_of_two(const struct ca *x, const struct ca *y)
{
	struct span a = ca_certificate(x);
	struct span b = ca_certificate(y);
	uint8_t *both = malloc(a.len + b.len);
	struct anchors *made;

	memcpy(both, a.data, a.len);
	memcpy(both + a.len, b.data, b.len);
	made = anchors_of("a.test", span_of(both, a.len + b.len));
	free(both);
	return made;
}

/* A root that was renewed with its key vouches on, sent along or not. */
static void
test_row_047_renewed_root_verifies(void **state)
{
	struct ca_options renewed = {.cert.key = ca_key(root)};
	AUTO(ca_free) struct ca *again = made_ca(NULL, &renewed);
	AUTO(anchors_free) struct anchors *both = anchors_of_two(root, again);
	AUTO(anchors_free)
	struct anchors *new_only = anchors_of("a.test", ca_certificate(again));
	struct ca_svid_options o = {.id = span_of_str(ID), .with_root = true};
	AUTO(ca_svid_free) struct ca_svid *svid = made_svid(root, &o);
	struct verify_args args = *as_client();

	(void)state;
	args.anchors = both;
	expect(judge(&args, svid), DENY_NOT, 0);
	args.anchors = new_only;
	expect(judge(&args, svid), DENY_NOT, 0);
}

/* SPIRE's authorities share a subject: the right one must be found. */
static void
test_row_048_roots_of_one_subject_verify(void **state)
{
	struct ca_options bare = {.cert.no_key_ids = true};
	struct ca_svid_options o = {
	    .id = span_of_str(ID), .cert.no_key_ids = true};
	AUTO(ca_free) struct ca *first = made_ca(NULL, &bare);
	AUTO(ca_free) struct ca *second = made_ca(NULL, &bare);
	AUTO(anchors_free) struct anchors *both = anchors_of_two(first, second);
	AUTO(ca_svid_free) struct ca_svid *of_first = made_svid(first, &o);
	AUTO(ca_svid_free) struct ca_svid *of_second = made_svid(second, &o);
	struct verify_args args = *as_client();

	(void)state;
	args.anchors = both;
	expect(judge(&args, of_first), DENY_NOT, 0);
	expect(judge(&args, of_second), DENY_NOT, 0);
}

/* An anchor need not be self-signed: SPIRE below an upstream authority. */
static void
test_row_049_intermediate_as_anchor_verifies(void **state)
{
	AUTO(ca_free) struct ca *middle = made_ca(root, NULL);
	AUTO(anchors_free)
	struct anchors *trust = anchors_of("a.test", ca_certificate(middle));
	AUTO(ca_svid_free) struct ca_svid *svid = made_svid_of(middle, ID);
	AUTO(ca_svid_free) struct ca_svid *beside = made_svid_of(root, ID);
	struct verify_args args = *as_client();

	(void)state;
	args.anchors = trust;
	expect(judge(&args, svid), DENY_NOT, 0);
	expect(judge(&args, beside), DENY_BAD_CHAIN,
	    X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY);
}

/* A leaf in a bundle must not vouch for itself. */
static void
test_row_050_leaf_in_the_bundle_is_no_anchor(void **state)
{
	AUTO(ca_svid_free) struct ca_svid *svid = made_svid_of(root, ID);
	AUTO(anchors_free)
	struct anchors *trust = anchors_of("a.test", ca_svid_chain(svid));
	struct verify_args args = *as_client();

	(void)state;
	args.anchors = trust;
	expect(judge(&args, svid), DENY_BAD_CHAIN,
	    X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY);
}

/* A version 1 root has no word on what it may sign. */
static void
test_row_051_v1_root_is_no_anchor(void **state)
{
	struct ca_options v1 = {.cert.version_1 = true};
	AUTO(ca_free) struct ca *old = made_ca(NULL, &v1);
	AUTO(anchors_free)
	struct anchors *trust = anchors_of("a.test", ca_certificate(old));
	AUTO(ca_svid_free)
	struct ca_svid *svid =
	    made_svid(old, &(struct ca_svid_options){
	                       .id = span_of_str(ID), .cert.no_key_ids = true});
	struct verify_args args = *as_client();

	(void)state;
	args.anchors = trust;
	expect(judge(&args, svid), DENY_BAD_CHAIN, 0);
}

/* One domain's authority must not make another's identities. */
static void
test_row_052_only_the_bundle_of_the_own_domain_counts(void **state)
{
	struct peer_table *table = peer_table_new();
	AUTO(ca_svid_free) struct ca_svid *good = made_svid_of(root, ID);
	AUTO(ca_svid_free)
	struct ca_svid *crossed = made_svid_of(root, "spiffe://b.test/svc");
	AUTO(ca_svid_free)
	struct ca_svid *foreign = made_svid_of(root, "spiffe://c.test/svc");
	struct verify_args args = *as_client();

	(void)state;
	expect(judge(&args, crossed), DENY_BAD_CHAIN,
	    X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY);
	expect(judge(&args, foreign), DENY_UNKNOWN_TRUST_DOMAIN,
	    X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY);
	/* Also right after a good one of that authority. */
	args.peers = table;
	expect(
	    ask(&args, ca_svid_leaf(good), ca_svid_above(good)), DENY_NOT, 0);
	expect(ask(&args, ca_svid_leaf(crossed), ca_svid_above(crossed)),
	    DENY_BAD_CHAIN, 0);
	peer_table_free(&table);
}

/* An authority's certificate is not a workload's. */
static void
test_row_053_authority_presented_as_leaf_is_refused(void **state)
{
	struct ca_options named = {.uri = ID};
	AUTO(ca_free) struct ca *middle = made_ca(root, &named);

	(void)state;
	expect(ask_thrice(as_client(), ca_x509(root), NULL), DENY_BAD_ID, 0);
	expect(ask_thrice(as_client(), ca_x509(middle), NULL), DENY_BAD_ID, 0);
}

/* Names of intermediates bind nobody. */
static void
test_row_054_names_of_intermediates_are_ignored(void **state)
{
	struct ca_options path = {.uri = "spiffe://a.test/ca"};
	struct ca_options foreign = {.uri = "spiffe://b.test"};

	(void)state;
	expect(judge_below(root, &path), DENY_NOT, 0);
	expect(judge_below(root, &foreign), DENY_NOT, 0);
	expect(judge_below(root, NULL), DENY_NOT, 0);
}

/* A root with the ID of its domain is as good as one without. */
static void
test_row_055_root_with_its_own_id_verifies(void **state)
{
	struct ca_options named = {.uri = "spiffe://a.test"};
	AUTO(ca_free) struct ca *ca = made_ca(NULL, &named);
	AUTO(anchors_free)
	struct anchors *trust = anchors_of("a.test", ca_certificate(ca));
	AUTO(ca_svid_free) struct ca_svid *svid = made_svid_of(ca, ID);
	struct verify_args args = *as_client();

	(void)state;
	args.anchors = trust;
	expect(judge(&args, svid), DENY_NOT, 0);
}

static void
expect_constrained(const char *constraint, int error)
{
	struct ca_extension extra[] = {
	    {"nameConstraints", constraint}, {NULL, NULL}};
	struct ca_options o = {.cert.extra = extra};

	expect(judge_below(root, &o), error == 0 ? DENY_NOT : DENY_BAD_CHAIN,
	    error);
}

/* An authority that was bound to a domain stays bound to it. */
static void
test_row_056_uri_name_constraints_are_kept(void **state)
{
	(void)state;
	expect_constrained("critical,permitted;URI:a.test", 0);
	expect_constrained(
	    "critical,permitted;URI:b.test", X509_V_ERR_PERMITTED_VIOLATION);
	expect_constrained(
	    "critical,permitted;URI:.a.test", X509_V_ERR_PERMITTED_VIOLATION);
	expect_constrained(
	    "critical,excluded;URI:a.test", X509_V_ERR_EXCLUDED_VIOLATION);
	expect_constrained("critical,permitted;DNS:b.test", 0);
}

/* A CN that looks like a host name is decoration. */
static void
test_row_057_common_name_is_no_host_name(void **state)
{
	static const struct ca_extension extra[] = {
	    {"nameConstraints", "critical,permitted;DNS:b.test"}, {NULL, NULL}};
	struct ca_options o = {.cert.extra = extra};
	AUTO(ca_free) struct ca *middle = made_ca(root, &o);
	struct ca_svid_options leaf = {.cert.common_name = "www.a.test"};

	(void)state;
	expect(judge_bent(middle, &leaf), DENY_NOT, 0);
}

/* Teleport leaves subjects empty. */
static void
test_row_058_empty_subject_is_taken(void **state)
{
	struct ca_svid_options critical = {.cert.empty_subject = true};
	struct ca_svid_options not_critical = {
	    .cert.empty_subject = true, .san_never_critical = true};

	(void)state;
	expect(judge_bent(root, &critical), DENY_NOT, 0);
	expect(judge_bent(root, &not_critical), DENY_NOT, 0);
}

/* Two sets of names: each reader may choose its own. */
static void
test_row_059_duplicate_extension_is_refused_by_name(void **state)
{
	struct ca_svid_options o = {.second_san = true};
	struct answer a = judge_bent(root, &o);

	(void)state;
	expect(a, DENY_BAD_CHAIN, X509_V_ERR_CERT_REJECTED);
	assert_non_null(strstr(a.why.text, "twice"));
}

/* Peers send their chains in any order, and with too much in them. */
static void
test_row_060_order_and_extras_of_the_chain(void **state)
{
	struct ca_svid_options o = {.id = span_of_str(ID), .with_root = true};
	AUTO(ca_free) struct ca *upper = made_ca(root, NULL);
	AUTO(ca_free) struct ca *lower = made_ca(upper, NULL);
	AUTO(ca_svid_free) struct ca_svid *svid = made_svid(lower, &o);
	STACK_OF(X509) *sent = sk_X509_new_null();

	(void)state;
	sk_X509_push(sent, ca_x509(root));
	sk_X509_push(sent, ca_x509(other));
	sk_X509_push(sent, ca_x509(upper));
	sk_X509_push(sent, ca_x509(lower));
	expect(ask_thrice(as_client(), ca_svid_leaf(svid), sent), DENY_NOT, 0);
	/* Leaf second. */
	expect(ask_thrice(as_client(), ca_x509(lower), sent), DENY_BAD_ID, 0);
	/* What is missing is not borrowed from another connection. */
	(void)sk_X509_delete(sent, 2);
	expect(ask_thrice(as_client(), ca_svid_leaf(svid), sent),
	    DENY_BAD_CHAIN, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY);
	sk_X509_free(sent);
}

/* A forged signature is cheap with these. */
static void
test_row_061_weak_cryptography_is_refused(void **state)
{
	struct ca_svid_options small = {.cert.key_type = CA_RSA1024};
	struct ca_svid_options sha1 = {.cert.sha1 = true};

	(void)state;
	expect(judge_bent(root, &small), DENY_BAD_CHAIN,
	    X509_V_ERR_EE_KEY_TOO_SMALL);
	expect(
	    judge_bent(root, &sha1), DENY_BAD_CHAIN, X509_V_ERR_CA_MD_TOO_WEAK);
}

/* The types that SPIRE, Teleport and Istio issue; larger RSA costs our CPU. */
static void
test_row_062_key_types(void **state)
{
	static const enum ca_key_type good[] = {
	    CA_P256, CA_P384, CA_P521, CA_RSA2048, CA_ED25519};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		struct ca_svid_options o = {.cert.key_type = good[i]};

		expect(judge_bent(root, &o), DENY_NOT, 0);
	}
	expect(judge_bent(root,
	           &(struct ca_svid_options){.cert.key_type = CA_RSA5120}),
	    DENY_BAD_CHAIN, X509_V_ERR_CERT_REJECTED);
}

/* The ID is the name; a wrong DNS name beside it changes nothing. */
static void
test_row_064_dns_names_do_not_authenticate(void **state)
{
	struct ca_svid_options o = {
	    .id = span_of_str(ID), .other_names = "DNS:someone-else.test"};

	(void)state;
	expect(judge_bent(root, &o), DENY_NOT, 0);
}

/* One root for two domains: each ID is judged by its own domain's entry. */
static void
test_row_067_shared_root_keeps_the_domains_apart(void **state)
{
	struct bundle_raw both[] = {
	    {span_of_str("a.test"), ca_certificate(root)},
	    {span_of_str("b.test"), ca_certificate(root)}};
	AUTO(anchors_free) struct anchors *trust = make_anchors(both, 2);
	AUTO(ca_svid_free)
	struct ca_svid *svid = made_svid_of(root, "spiffe://b.test/svc");
	struct verify_args args = *as_client();
	X509_STORE_CTX *ctx = X509_STORE_CTX_new();
	struct peer *p = NULL;

	(void)state;
	args.anchors = trust;
	X509_STORE_CTX_init(ctx, NULL, ca_svid_leaf(svid), NULL);
	assert_int_equal(verify_peer(ctx, &args, &p, NULL, NULL), DENY_NOT);
	assert_true(span_equal_str(peer_id(p)->trust_domain, "b.test"));
	peer_release(&p);
	X509_STORE_CTX_free(ctx);
}

/* ---- The table of verified chains ---- */

static struct peer *
verified(const struct verify_args *args, const struct ca_svid *svid)
{
	X509_STORE_CTX *ctx = X509_STORE_CTX_new();
	struct peer *p = NULL;

	X509_STORE_CTX_init(ctx, NULL, ca_svid_leaf(svid), ca_svid_above(svid));
	(void)verify_peer(ctx, args, &p, NULL, NULL);
	X509_STORE_CTX_free(ctx);
	return p;
}

/* One peer is one object: limits and verdicts are counted on it. */
static void
test_peers_same_chain_is_the_same_peer(void **state)
{
	struct peer_table *table = peer_table_new();
	AUTO(ca_svid_free) struct ca_svid *svid = made_svid_of(root, ID);
	struct verify_args args = *as_client();
	struct peer *a;
	struct peer *b;
	struct peer *c;

	(void)state;
	args.peers = table;
	a = verified(&args, svid);
	b = verified(&args, svid);
	args.role = PEER_IS_SERVER;
	c = verified(&args, svid);
	assert_ptr_equal(a, b);
	assert_ptr_not_equal(a, c);
	assert_true(span_equal_str(peer_id(a)->text, ID));
	assert_int_equal(strlen(peer_serial(a)), 32);
	/* A connection may outlive the table. */
	peer_table_free(&table);
	assert_true(span_equal_str(peer_id(c)->text, ID));
	peer_release(&a);
	peer_release(&b);
	peer_release(&c);
}

/* A clock step must not revive or keep what is out of its window. */
static void
test_peers_hit_needs_the_time_inside_the_window(void **state)
{
	struct peer_table *table = peer_table_new();
	struct ca_svid_options o = {.id = span_of_str(ID),
	    .cert = {.not_before = now_s - 5, .not_after = now_s + 5}};
	AUTO(ca_svid_free) struct ca_svid *svid = made_svid(root, &o);
	struct verify_args args = *as_client();
	struct peer *p;

	(void)state;
	args.peers = table;
	p = verified(&args, svid);
	assert_int_equal(peer_not_after(p), now_s + 5);
	peer_release(&p);
	args.now_s = now_s + 6;
	assert_null(verified(&args, svid));
	args.now_s = now_s - 6;
	assert_null(verified(&args, svid));
	peer_table_free(&table);
}

/* An authority that was withdrawn must not live on in the cache. */
static void
test_peers_new_generation_is_verified_anew(void **state)
{
	struct peer_table *table = peer_table_new();
	struct bundle_raw before = {
	    span_of_str("a.test"), ca_certificate(root)};
	struct bundle_raw after = {
	    span_of_str("a.test"), ca_certificate(other)};
	struct identity_raw raw = {.federated = &before, .n_federated = 1};
	AUTO(identity_free) struct identity *one = NULL;
	AUTO(identity_free) struct identity *two = NULL;
	AUTO(anchors_free) struct anchors *first = NULL;
	AUTO(anchors_free) struct anchors *second = NULL;
	AUTO(ca_svid_free) struct ca_svid *svid = made_svid_of(root, ID);
	struct verify_args args = *as_client();
	uint64_t next = 1;
	struct peer *p;

	(void)state;
	identity_new(&raw, NULL, &next, &one, NULL);
	raw.federated = &after;
	identity_new(&raw, one, &next, &two, NULL);
	anchors_new(one, NULL, &first, NULL);
	anchors_new(two, NULL, &second, NULL);
	args.peers = table;
	args.anchors = first;
	p = verified(&args, svid);
	assert_non_null(p);
	peer_release(&p);
	args.anchors = second;
	assert_null(verified(&args, svid));
	peer_table_free(&table);
}

/* Two chains with one leaf are two verdicts. */
static void
test_peers_other_intermediates_are_another_key(void **state)
{
	struct peer_table *table = peer_table_new();
	AUTO(ca_free) struct ca *middle = made_ca(root, NULL);
	AUTO(ca_svid_free) struct ca_svid *svid = made_svid_of(middle, ID);
	struct verify_args args = *as_client();
	struct peer *p;

	(void)state;
	args.peers = table;
	p = verified(&args, svid);
	assert_non_null(p);
	peer_release(&p);
	expect(ask(&args, ca_svid_leaf(svid), NULL), DENY_BAD_CHAIN, 0);
	peer_table_free(&table);
}

/* Many peers must not fill the memory, nor push out a live one's object. */
static void
test_peers_table_stays_bounded(void **state)
{
	struct peer_table *table = peer_table_new();
	AUTO(ca_svid_free) struct ca_svid *first = made_svid_of(root, ID);
	struct ca_svid_options o = {
	    .id = span_of_str(ID), .cert.key = ca_svid_key(first)};
	struct verify_args args = *as_client();
	struct peer *kept;
	struct peer *again;

	(void)state;
	args.peers = table;
	kept = verified(&args, first);
	for (int i = 0; i < PEER_TABLE_MAX + 1; i++) {
		AUTO(ca_svid_free) struct ca_svid *svid = made_svid(root, &o);
		struct peer *p = verified(&args, svid);

		assert_non_null(p);
		peer_release(&p);
	}
	again = verified(&args, first);
	assert_ptr_not_equal(again, kept);
	assert_true(span_equal_str(peer_id(kept)->text, ID));
	peer_release(&again);
	peer_release(&kept);
	peer_table_free(&table);
}

/* What a refused peer calls itself is named in the log, as a claim. */
static void
test_verify_refused_peer_leaves_its_claim(void **state)
{
	AUTO(ca_free) struct ca *unknown = made_ca(NULL, NULL);
	AUTO(ca_svid_free) struct ca_svid *svid = made_svid_of(unknown, ID);
	X509_STORE_CTX *ctx = X509_STORE_CTX_new();
	struct verify_args args = *as_client();
	AUTO(mem_free) char *claimed = NULL;
	struct peer *p = NULL;

	(void)state;
	X509_STORE_CTX_init(ctx, NULL, ca_svid_leaf(svid), NULL);
	assert_int_equal(
	    verify_peer(ctx, &args, &p, &claimed, NULL), DENY_BAD_CHAIN);
	assert_string_equal(claimed, ID);
	assert_null(p);
	X509_STORE_CTX_free(ctx);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_row_024_two_uris_are_refused),
	    cmocka_unit_test(test_row_025_no_uri_is_refused),
	    cmocka_unit_test(test_row_026_other_names_are_ignored),
	    cmocka_unit_test(test_row_027_uri_that_is_no_spiffe_id_is_refused),
	    cmocka_unit_test(test_row_022_nul_in_the_uri_is_refused),
	    cmocka_unit_test(test_row_013_id_of_2048_bytes),
	    cmocka_unit_test(test_row_028_leaf_without_a_path_is_refused),
	    cmocka_unit_test(test_row_029_leaf_that_is_an_authority_is_refused),
	    cmocka_unit_test(test_row_030_key_cert_sign_is_refused),
	    cmocka_unit_test(test_row_031_crl_sign_is_refused),
	    cmocka_unit_test(test_row_032_no_digital_signature_is_refused),
	    cmocka_unit_test(test_row_033_no_key_usage_is_refused),
	    cmocka_unit_test(test_row_034_key_usage_not_critical_is_taken),
	    cmocka_unit_test(test_row_035_further_key_usages_are_taken),
	    cmocka_unit_test(
	        test_row_036_extended_key_usage_must_hold_the_role),
	    cmocka_unit_test(
	        test_row_037_any_extended_key_usage_alone_is_refused),
	    cmocka_unit_test(
	        test_row_038_extended_key_usage_of_an_intermediate),
	    cmocka_unit_test(test_row_039_path_must_verify),
	    cmocka_unit_test(
	        test_row_040_unknown_critical_extension_is_refused),
	    cmocka_unit_test(test_row_041_path_length_is_kept),
	    cmocka_unit_test(
	        test_row_042_issuer_that_is_no_authority_is_refused),
	    cmocka_unit_test(
	        test_row_043_issuer_without_key_cert_sign_is_refused),
	    cmocka_unit_test(test_row_044_validity_ends_included),
	    cmocka_unit_test(test_row_046_expired_root_is_refused),
	    cmocka_unit_test(test_row_047_renewed_root_verifies),
	    cmocka_unit_test(test_row_048_roots_of_one_subject_verify),
	    cmocka_unit_test(test_row_049_intermediate_as_anchor_verifies),
	    cmocka_unit_test(test_row_050_leaf_in_the_bundle_is_no_anchor),
	    cmocka_unit_test(test_row_051_v1_root_is_no_anchor),
	    cmocka_unit_test(
	        test_row_052_only_the_bundle_of_the_own_domain_counts),
	    cmocka_unit_test(
	        test_row_053_authority_presented_as_leaf_is_refused),
	    cmocka_unit_test(test_row_054_names_of_intermediates_are_ignored),
	    cmocka_unit_test(test_row_055_root_with_its_own_id_verifies),
	    cmocka_unit_test(test_row_056_uri_name_constraints_are_kept),
	    cmocka_unit_test(test_row_057_common_name_is_no_host_name),
	    cmocka_unit_test(test_row_058_empty_subject_is_taken),
	    cmocka_unit_test(
	        test_row_059_duplicate_extension_is_refused_by_name),
	    cmocka_unit_test(test_row_060_order_and_extras_of_the_chain),
	    cmocka_unit_test(test_row_061_weak_cryptography_is_refused),
	    cmocka_unit_test(test_row_062_key_types),
	    cmocka_unit_test(test_row_064_dns_names_do_not_authenticate),
	    cmocka_unit_test(test_row_067_shared_root_keeps_the_domains_apart),
	    cmocka_unit_test(test_peers_same_chain_is_the_same_peer),
	    cmocka_unit_test(test_peers_hit_needs_the_time_inside_the_window),
	    cmocka_unit_test(test_peers_new_generation_is_verified_anew),
	    cmocka_unit_test(test_peers_other_intermediates_are_another_key),
	    cmocka_unit_test(test_peers_table_stays_bounded),
	    cmocka_unit_test(test_verify_refused_peer_leaves_its_claim),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
