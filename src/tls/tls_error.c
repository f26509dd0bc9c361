#include "tls_int.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>

/* RFC 8446 section 6, RFC 5246 section 7.2. */
#define ALERTS(X)                                                              \
	X(0, close_notify)                                                     \
	X(10, unexpected_message)                                              \
	X(20, bad_record_mac)                                                  \
	X(21, decryption_failed)                                               \
	X(22, record_overflow)                                                 \
	X(30, decompression_failure)                                           \
	X(40, handshake_failure)                                               \
	X(41, no_certificate)                                                  \
	X(42, bad_certificate)                                                 \
	X(43, unsupported_certificate)                                         \
	X(44, certificate_revoked)                                             \
	X(45, certificate_expired)                                             \
	X(46, certificate_unknown)                                             \
	X(47, illegal_parameter)                                               \
	X(48, unknown_ca)                                                      \
	X(49, access_denied)                                                   \
	X(50, decode_error)                                                    \
	X(51, decrypt_error)                                                   \
	X(60, export_restriction)                                              \
	X(70, protocol_version)                                                \
	X(71, insufficient_security)                                           \
	X(80, internal_error)                                                  \
	X(86, inappropriate_fallback)                                          \
	X(90, user_canceled)                                                   \
	X(100, no_renegotiation)                                               \
	X(109, missing_extension)                                              \
	X(110, unsupported_extension)                                          \
	X(111, certificate_unobtainable)                                       \
	X(112, unrecognized_name)                                              \
	X(113, bad_certificate_status_response)                                \
	X(114, bad_certificate_hash_value)                                     \
	X(115, unknown_psk_identity)                                           \
	X(116, certificate_required)                                           \
	X(120, no_application_protocol)

const char *
tls_alert_name(int alert)
{
	switch (alert) {
#define X(number, name)                                                        \
	case number:                                                           \
		return #name;
		ALERTS(X)
#undef X
	default: /* a peer's number, not an enum of ours */
		return "unknown_alert";
	}
}

int
tls_error_alert(void)
{
	unsigned long e = ERR_peek_error();

	if (ERR_GET_LIB(e) != ERR_LIB_SSL ||
	    ERR_GET_REASON(e) <= SSL_AD_REASON_OFFSET)
		return -1;
	return ERR_GET_REASON(e) - SSL_AD_REASON_OFFSET;
}

const char *
tls_error_take(void)
{
	const char *text = ERR_reason_error_string(ERR_peek_error());

	ERR_clear_error();
	return text == NULL ? "no reason given" : text;
}

int
tls_error_of_reason(enum deny_reason reason)
{
	switch (reason) {
	case DENY_NOT:
		return X509_V_OK;
	case DENY_NO_RULE:
	case DENY_DENY_RULE:
	case DENY_LOCAL_CALLER:
		return X509_V_ERR_APPLICATION_VERIFICATION;
	case DENY_UNKNOWN_TRUST_DOMAIN:
		return X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY;
	case DENY_BAD_CHAIN:
	case DENY_BAD_ID:
	case DENY_NO_CLIENT_CERT:
		return X509_V_ERR_CERT_REJECTED;
	case DENY_EXPIRED:
		return X509_V_ERR_CERT_HAS_EXPIRED;
	case DENY_REVOKED:
		return X509_V_ERR_CERT_REVOKED;
	case DENY_CRL_EXPIRED:
		return X509_V_ERR_CRL_HAS_EXPIRED;
	case DENY_LIMIT:
	case DENY_NO_IDENTITY:
		return X509_V_ERR_UNSPECIFIED;
	}
	return X509_V_ERR_UNSPECIFIED;
}
