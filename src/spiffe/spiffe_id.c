#include "spiffe.h"

#include <string.h>

#define SCHEME "spiffe://"

/* [a-z0-9._-]: the only bytes of a trust domain (SPIFFE-ID section 2.1). */
static bool
is_trust_domain_byte(uint8_t c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' ||
	       c == '-' || c == '_';
}

static bool
is_upper(uint8_t c)
{
	return c >= 'A' && c <= 'Z';
}

/* Segments may have upper case besides (SPIFFE-ID section 2.2). */
static bool
is_path_byte(uint8_t c)
{
	return is_trust_domain_byte(c) || is_upper(c);
}

/*
 * What is wrong with a byte that fits nowhere. The URI's own separators get
 * names of their own, since "illegal byte" would not tell the operator that he
 * wrote a URL.
 */
static enum spiffe_id_error
name_stray_byte(uint8_t c, enum spiffe_id_error otherwise)
{
	switch (c) {
	case '%':
		return SPIFFE_ID_PERCENT;
	case '?':
		return SPIFFE_ID_QUERY;
	case '#':
		return SPIFFE_ID_FRAGMENT;
	default:
		return otherwise;
	}
}

static enum spiffe_id_error
check_trust_domain_byte(uint8_t c)
{
	if (is_trust_domain_byte(c))
		return SPIFFE_ID_OK;
	if (is_upper(c))
		return SPIFFE_ID_TD_CASE;
	/* A '[' comes before the colons of an IPv6 literal, and is reached. */
	if (c == ':')
		return SPIFFE_ID_PORT;
	return name_stray_byte(c, SPIFFE_ID_TD_CHAR);
}

enum spiffe_id_error
spiffe_trust_domain_check(struct span name)
{
	if (name.len == 0)
		return SPIFFE_ID_TD_EMPTY;
	/* First, so that `user:password@td` is not called a port. */
	if (memchr(name.data, '@', name.len) != NULL)
		return SPIFFE_ID_USERINFO;
	for (size_t i = 0; i < name.len; i++) {
		enum spiffe_id_error e = check_trust_domain_byte(name.data[i]);

		if (e != SPIFFE_ID_OK)
			return e;
	}
	if (name.len > SPIFFE_TRUST_DOMAIN_MAX)
		return SPIFFE_ID_TD_LONG;
	return SPIFFE_ID_OK;
}

static enum spiffe_id_error
check_segment(struct span segment, bool is_last)
{
	if (segment.len == 0)
		return is_last ? SPIFFE_ID_TRAILING_SLASH
		               : SPIFFE_ID_EMPTY_SEGMENT;
	if (span_equal_str(segment, ".") || span_equal_str(segment, ".."))
		return SPIFFE_ID_DOT_SEGMENT;
	return SPIFFE_ID_OK;
}

/* Everything from the first '/' on; may be empty. */
static enum spiffe_id_error
check_path(struct span path)
{
	size_t start = 1; /* of the segment at hand, after its '/' */

	/* Bytes first: `/a/?b` has a query, not a trailing slash. */
	for (size_t i = 0; i < path.len; i++)
		if (path.data[i] != '/' && !is_path_byte(path.data[i]))
			return name_stray_byte(
			    path.data[i], SPIFFE_ID_PATH_CHAR);
	for (size_t i = 1; i <= path.len; i++) {
		enum spiffe_id_error e;

		if (i < path.len && path.data[i] != '/')
			continue;
		e = check_segment(
		    span_of(path.data + start, i - start), i == path.len);
		if (e != SPIFFE_ID_OK)
			return e;
		start = i + 1;
	}
	return SPIFFE_ID_OK;
}

/* SPIFFE:// and its kin: the one scheme mistake that has a name. */
static bool
is_scheme_in_other_case(struct span scheme)
{
	for (size_t i = 0; i < scheme.len; i++) {
		uint8_t c = scheme.data[i];

		if (is_upper(c))
			c = (uint8_t)(c - 'A' + 'a');
		if (c != (uint8_t)SCHEME[i])
			return false;
	}
	return true;
}

/* Bytes of the trust domain at the front: up to the path, query, fragment. */
static size_t
trust_domain_len(struct span s)
{
	size_t n = 0;

	while (n < s.len && s.data[n] != '/' && s.data[n] != '?' &&
	       s.data[n] != '#')
		n++;
	return n;
}

enum spiffe_id_error
spiffe_id_parse(struct span text, struct spiffe_id *id_r)
{
	struct span rest = text;
	struct span scheme;
	struct span trust_domain;
	enum spiffe_id_error e;

	/* SPIFFE-ID section 2.3. First: it bounds all that follows. */
	if (text.len > SPIFFE_ID_MAX)
		return SPIFFE_ID_LONG;
	if (!span_take(&rest, strlen(SCHEME), &scheme))
		return SPIFFE_ID_NO_SCHEME;
	/* Not folded, although section 2.4 would let us: section 2.1 wants
	 * lower case, and one identity has one spelling. */
	if (!span_equal_str(scheme, SCHEME))
		return is_scheme_in_other_case(scheme) ? SPIFFE_ID_SCHEME_CASE
		                                       : SPIFFE_ID_NO_SCHEME;
	(void)span_take(&rest, trust_domain_len(rest), &trust_domain);
	e = spiffe_trust_domain_check(trust_domain);
	if (e == SPIFFE_ID_OK)
		e = check_path(rest);
	if (e != SPIFFE_ID_OK)
		return e;
	*id_r = (struct spiffe_id){
	    .text = text, .trust_domain = trust_domain, .path = rest};
	return SPIFFE_ID_OK;
}

const char *
spiffe_id_error_text(enum spiffe_id_error e)
{
	switch (e) {
	case SPIFFE_ID_OK:
		return "no error";
	case SPIFFE_ID_NO_SCHEME:
		return "SPIFFE ID must begin with spiffe://";
	case SPIFFE_ID_SCHEME_CASE:
		return "scheme must be lower case";
	case SPIFFE_ID_TD_EMPTY:
		return "trust domain is empty";
	case SPIFFE_ID_TD_CASE:
		return "trust domain must be lower case";
	case SPIFFE_ID_TD_CHAR:
		return "trust domain may only have a-z, 0-9, '.', '-' and '_'";
	case SPIFFE_ID_TD_LONG:
		return "trust domain is longer than 255 bytes";
	case SPIFFE_ID_USERINFO:
		return "SPIFFE ID must not have user information";
	case SPIFFE_ID_PORT:
		return "SPIFFE ID must not have a port";
	case SPIFFE_ID_PERCENT:
		return "SPIFFE ID must not have percent-encoding";
	case SPIFFE_ID_QUERY:
		return "SPIFFE ID must not have a query";
	case SPIFFE_ID_FRAGMENT:
		return "SPIFFE ID must not have a fragment";
	case SPIFFE_ID_TRAILING_SLASH:
		return "path must not end in '/'";
	case SPIFFE_ID_EMPTY_SEGMENT:
		return "path has an empty segment";
	case SPIFFE_ID_DOT_SEGMENT:
		return "path must not have '.' or '..' as a segment";
	case SPIFFE_ID_PATH_CHAR:
		return "path may only have a-z, A-Z, 0-9, '.', '-' and '_'";
	case SPIFFE_ID_LONG:
		return "SPIFFE ID is longer than 2048 bytes";
	}
	return "unknown";
}
