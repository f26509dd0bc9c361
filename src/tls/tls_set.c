#include "tls_int.h"

#include "mem.h"
#include "spiffe.h"

#include <assert.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <stdlib.h>

#define CERT_LIST_MAX (32 * 1024)
#define VERIFY_DEPTH  5

/* Four full records (4 x 16,406 bytes) and what a fifth begins with. */
#define READ_BUFFER (66 * 1024)

/*
 * No resumption by any road. Each of the three leaves one open: NO_TICKET
 * alone still sends stateful tickets, zero tickets leave TLS 1.2 session IDs.
 */
static void
forbid_resumption(SSL_CTX *ctx)
{
	(void)SSL_CTX_set_num_tickets(ctx, 0);
	(void)SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
	(void)SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	(void)SSL_CTX_set_max_early_data(ctx, 0);
	(void)SSL_CTX_set_recv_max_early_data(ctx, 0);
}

static void
set_options(SSL_CTX *ctx)
{
	(void)SSL_CTX_set_options(
	    ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
#ifdef SSL_OP_NO_RX_CERTIFICATE_COMPRESSION
	(void)SSL_CTX_set_options(
	    ctx, SSL_OP_NO_RX_CERTIFICATE_COMPRESSION |
	             SSL_OP_NO_TX_CERTIFICATE_COMPRESSION);
#endif
	/* The system's configuration may have set it: a cut is no end. */
	(void)SSL_CTX_clear_options(ctx, SSL_OP_IGNORE_UNEXPECTED_EOF);
	(void)SSL_CTX_set_mode(ctx,
	    SSL_MODE_ENABLE_PARTIAL_WRITE |
	        SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS |
	        SSL_MODE_NO_AUTO_CHAIN | SSL_MODE_AUTO_RETRY);
	SSL_CTX_set_read_ahead(ctx, 1);
	SSL_CTX_set_default_read_buffer_len(ctx, READ_BUFFER);
	(void)SSL_CTX_set_max_cert_list(ctx, CERT_LIST_MAX);
}

static bool
set_versions(SSL_CTX *ctx, enum tls_floor floor)
{
	int min = floor == TLS_FLOOR_13 ? TLS1_3_VERSION : TLS1_2_VERSION;

	return SSL_CTX_set_min_proto_version(ctx, min) == 1 &&
	       SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) == 1;
}

static void
set_callbacks(SSL_CTX *ctx, enum tls_direction direction)
{
	/* Mutual, always. No list of authorities is ever sent. */
	SSL_CTX_set_verify(
	    ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	SSL_CTX_set_verify_depth(ctx, VERIFY_DEPTH);
	SSL_CTX_set_cert_verify_callback(ctx, tls_on_certificate, NULL);
	SSL_CTX_set_msg_callback(ctx, tls_on_message);
	if (direction == TLS_INBOUND)
		SSL_CTX_set_client_hello_cb(ctx, tls_on_client_hello, NULL);
}

/* A session that slipped through could not cross to another set. */
static bool
set_session_id_context(SSL_CTX *ctx)
{
	unsigned char id[SSL_MAX_SID_CTX_LENGTH];

	return RAND_bytes(id, sizeof(id)) == 1 &&
	       SSL_CTX_set_session_id_context(ctx, id, sizeof(id)) == 1;
}

/* The macro casts, and casting const away is an error here. */
static bool
set_groups(SSL_CTX *ctx, const char *groups)
{
	return SSL_CTX_set1_groups_list(ctx, (char *)(uintptr_t)groups) == 1;
}

static bool
apply_settings(SSL_CTX *ctx, const struct tls_settings *s)
{
	if (s->ciphersuites != NULL &&
	    SSL_CTX_set_ciphersuites(ctx, s->ciphersuites) != 1)
		return false;
	return s->groups == NULL || set_groups(ctx, s->groups);
}

/* The one place where a context is made. */
static SSL_CTX *
new_context(const struct tls_settings *settings, enum tls_direction direction,
    enum tls_floor floor)
{
	SSL_CTX *ctx =
	    SSL_CTX_new(direction == TLS_INBOUND ? TLS_server_method()
	                                         : TLS_client_method());

	if (ctx == NULL)
		return NULL;
	forbid_resumption(ctx);
	set_options(ctx);
	set_callbacks(ctx, direction);
	if (set_versions(ctx, floor) && set_session_id_context(ctx) &&
	    apply_settings(ctx, settings))
		return ctx;
	SSL_CTX_free(ctx);
	return NULL;
}

enum fault
tls_settings_check(const struct tls_settings *s, struct why *why)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_method());
	enum fault f = FAULT_NONE;

	if (ctx == NULL)
		return fail(why, FAULT_NOMEM, "tls: out of memory");
	if (s->ciphersuites != NULL &&
	    SSL_CTX_set_ciphersuites(ctx, s->ciphersuites) != 1)
		f = fail(why, FAULT_CONF,
		    "tls: ciphersuites: this OpenSSL does not know them all");
	else if (s->groups != NULL && !set_groups(ctx, s->groups))
		f = fail(why, FAULT_CONF,
		    "tls: groups: this OpenSSL does not know them all");
	SSL_CTX_free(ctx);
	ERR_clear_error();
	return f;
}

enum fault
tls_set_build(const struct tls_settings *settings,
    const struct tls_material *material, struct tls_set **set_r,
    struct why *why)
{
	AUTO(tls_set_free) struct tls_set *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return fail(why, FAULT_NOMEM, "tls: out of memory");
	for (size_t i = 0; i < (size_t)TLS_DIRECTIONS * TLS_FLOORS; i++) {
		enum tls_direction d = (enum tls_direction)(i / TLS_FLOORS);
		enum tls_floor v = (enum tls_floor)(i % TLS_FLOORS);
		SSL_CTX *ctx = s->ctx[d][v] = new_context(settings, d, v);

		if (ctx == NULL)
			return fail(why, FAULT_CONF, "tls: no context: %s",
			    tls_error_take());
		if (material->leaf != NULL &&
		    !tls_material_install(material, ctx))
			return fail(why, FAULT_NOMEM,
			    "tls: the SVID cannot be used: %s",
			    tls_error_take());
	}
	*set_r = s;
	s = NULL; /* given to the caller */
	return FAULT_NONE;
}

void
tls_set_free(struct tls_set **set)
{
	struct tls_set *s = *set;

	if (s == NULL)
		return;
	for (size_t d = 0; d < TLS_DIRECTIONS; d++) {
		for (size_t v = 0; v < TLS_FLOORS; v++)
			SSL_CTX_free(s->ctx[d][v]);
	}
	free(s);
	*set = NULL;
}

/* ---- A worker's environment ---- */

struct tls_env *
tls_env_new(void)
{
	struct tls_env *env = calloc(1, sizeof(*env));

	if (env == NULL)
		return NULL;
	env->peers = peer_table_new();
	env->bio_method = tls_bio_method_new();
	if (env->peers == NULL || env->bio_method == NULL)
		tls_env_free(&env);
	return env;
}

void
tls_env_free(struct tls_env **environment)
{
	struct tls_env *env = *environment;

	if (env == NULL)
		return;
	tls_set_free(&env->set);
	tls_material_free(&env->material);
	peer_table_free(&env->peers);
	BIO_meth_free(env->bio_method);
	free(env);
	*environment = NULL;
}

/* All contexts or none: a worker shows one SVID. */
static bool
install_everywhere(struct tls_env *env, const struct tls_material *m)
{
	for (size_t i = 0; i < (size_t)TLS_DIRECTIONS * TLS_FLOORS; i++) {
		SSL_CTX *ctx = env->set->ctx[i / TLS_FLOORS][i % TLS_FLOORS];

		if (!tls_material_install(m, ctx))
			return false;
	}
	return true;
}

static enum fault
swap_in_place(struct tls_env *env, struct tls_material **new, struct why *why)
{
	if ((*new)->leaf == NULL || install_everywhere(env, *new))
		return FAULT_NONE;
	/* What was changed already goes back to what the others show. */
	if (env->material != NULL && env->material->leaf != NULL)
		(void)install_everywhere(env, env->material);
	tls_material_free(new);
	return fail(why, FAULT_NOMEM, "tls: the SVID was not swapped: %s",
	    tls_error_take());
}

enum fault
tls_env_adopt(struct tls_env *env, struct tls_set **set,
    struct tls_material **material, struct why *why)
{
	if (set != NULL && *set != NULL) {
		tls_set_free(&env->set);
		env->set = *set;
		*set = NULL;
	} else {
		enum fault f;

		assert(env->set != NULL);
		f = swap_in_place(env, material, why);
		if (f != FAULT_NONE)
			return f;
	}
	tls_material_free(&env->material);
	env->material = *material;
	*material = NULL;
	return FAULT_NONE;
}

uint64_t
tls_env_generation(const struct tls_env *env)
{
	return env->material == NULL ? 0 : env->material->generation;
}

bool
tls_env_can_present(const struct tls_env *env, int64_t now_s)
{
	const struct tls_material *m = env->material;

	return env->set != NULL && m != NULL && m->leaf != NULL &&
	       now_s >= m->not_before && now_s <= m->not_after;
}

const char *
tls_env_own_id(const struct tls_env *env)
{
	return env->material == NULL ? NULL : env->material->own_id;
}
