#include "addr.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "text.h"

static enum fault
parse_unix(struct span path, struct addr *addr_r, struct why *why)
{
	struct addr a = {0};

	if (path.len == 0 || path.data[0] != '/')
		return fail(why, FAULT_MALFORMED,
		    "a unix socket path must be absolute");
	if (path.len > ADDR_UNIX_MAX)
		return fail(why, FAULT_MALFORMED,
		    "a unix socket path has at most %d bytes, this one has %zu",
		    ADDR_UNIX_MAX, path.len);
	if (memchr(path.data, '\0', path.len) != NULL)
		return fail(why, FAULT_MALFORMED, "NUL in a unix socket path");
	a.sa.un.sun_family = AF_UNIX;
	memcpy(a.sa.un.sun_path, path.data, path.len);
	a.len =
	    (socklen_t)(offsetof(struct sockaddr_un, sun_path) + path.len + 1);
	*addr_r = a;
	return FAULT_NONE;
}

static bool
parse_port(struct span text, uint16_t *port_r)
{
	uint32_t port = 0;

	if (text.len == 0 || text.len > 5)
		return false;
	for (size_t i = 0; i < text.len; i++) {
		if (text.data[i] < '0' || text.data[i] > '9')
			return false;
		port = port * 10 + (uint32_t)(text.data[i] - '0');
	}
	if (port == 0 || port > 65535)
		return false;
	*port_r = (uint16_t)port;
	return true;
}

enum fault
addr_parse_ip(
    struct span ip, uint16_t port, struct addr *addr_r, struct why *why)
{
	char host[INET6_ADDRSTRLEN];
	struct addr a = {0};

	if (ip.len == 0 || ip.len >= sizeof(host))
		return fail(why, FAULT_MALFORMED, "not an IP address");
	memcpy(host, ip.data, ip.len);
	host[ip.len] = '\0';
	if (strlen(host) == ip.len &&
	    inet_pton(AF_INET, host, &a.sa.in.sin_addr) == 1) {
		a.sa.in.sin_family = AF_INET;
		a.sa.in.sin_port = htons(port);
		a.len = sizeof(a.sa.in);
	} else if (strlen(host) == ip.len &&
	           inet_pton(AF_INET6, host, &a.sa.in6.sin6_addr) == 1) {
		a.sa.in6.sin6_family = AF_INET6;
		a.sa.in6.sin6_port = htons(port);
		a.len = sizeof(a.sa.in6);
	} else {
		return fail(why, FAULT_MALFORMED, "not an IP address");
	}
	*addr_r = a;
	return FAULT_NONE;
}

enum fault
addr_parse(struct span text, struct addr *addr_r, struct why *why)
{
	const uint8_t *colon;
	struct span host = text;
	struct span port;
	struct addr a;
	uint16_t number;
	enum fault f;
	bool bracketed;

	if (text.len > 5 && memcmp(text.data, "unix:", 5) == 0)
		return parse_unix(
		    span_of(text.data + 5, text.len - 5), addr_r, why);
	bracketed = text.len > 0 && text.data[0] == '[';
	colon = text.len == 0 ? NULL : memrchr(text.data, ':', text.len);
	if (colon == NULL || (bracketed && colon[-1] != ']'))
		return fail(why, FAULT_MALFORMED,
		    "port missing: write IP:port, [IPv6]:port or unix:/path");
	host.len = (size_t)(colon - text.data);
	port = span_of(colon + 1, text.len - host.len - 1);
	if (bracketed)
		host = span_of(host.data + 1, host.len - 2);
	else if (memchr(host.data, ':', host.len) != NULL)
		return fail(why, FAULT_MALFORMED,
		    "IPv6 needs brackets: [2001:db8::1]:443");
	if (!parse_port(port, &number))
		return fail(why, FAULT_MALFORMED,
		    "port must be a number from 1 to 65535");
	f = addr_parse_ip(host, number, &a, why);
	if (f != FAULT_NONE)
		return f;
	if (bracketed != (addr_family(&a) == AF_INET6))
		return fail(why, FAULT_MALFORMED, "brackets are for IPv6");
	*addr_r = a;
	return FAULT_NONE;
}

void
addr_set(struct addr *a, const struct sockaddr *sa, socklen_t len)
{
	*a = (struct addr){0};
	if (len > sizeof(a->sa))
		len = sizeof(a->sa);
	memcpy(&a->sa, sa, len);
	a->len = len;
}

static const char *
format_unix(const struct addr *a, char buf[ADDR_TEXT_MAX])
{
	size_t start = offsetof(struct sockaddr_un, sun_path);
	size_t len = a->len > start ? a->len - start : 0;

	/* An unnamed caller has no path; an abstract one begins with NUL. */
	if (len == 0 || a->sa.un.sun_path[0] == '\0')
		return memcpy(buf, "unix:-", 7);
	len = strnlen(a->sa.un.sun_path, len);
	(void)snprintf(
	    buf, ADDR_TEXT_MAX, "unix:%.*s", (int)len, a->sa.un.sun_path);
	return buf;
}

const char *
addr_format(const struct addr *a, char buf[ADDR_TEXT_MAX])
{
	char ip[INET6_ADDRSTRLEN];

	switch (addr_family(a)) {
	case AF_INET:
		(void)inet_ntop(
		    AF_INET, &a->sa.in.sin_addr, ip, (socklen_t)sizeof(ip));
		(void)snprintf(buf, ADDR_TEXT_MAX, "%s:%u", ip, addr_port(a));
		return buf;
	case AF_INET6:
		(void)inet_ntop(
		    AF_INET6, &a->sa.in6.sin6_addr, ip, (socklen_t)sizeof(ip));
		(void)snprintf(buf, ADDR_TEXT_MAX, "[%s]:%u", ip, addr_port(a));
		return buf;
	case AF_UNIX:
		return format_unix(a, buf);
	default:
		return memcpy(buf, "-", 2);
	}
}

int
addr_family(const struct addr *a)
{
	return a->len == 0 ? AF_UNSPEC : a->sa.any.sa_family;
}

uint16_t
addr_port(const struct addr *a)
{
	switch (addr_family(a)) {
	case AF_INET:
		return ntohs(a->sa.in.sin_port);
	case AF_INET6:
		return ntohs(a->sa.in6.sin6_port);
	default:
		return 0;
	}
}

bool
addr_equal(const struct addr *a, const struct addr *b)
{
	if (addr_family(a) != addr_family(b))
		return false;
	switch (addr_family(a)) {
	case AF_UNSPEC:
		return true;
	case AF_INET:
		return a->sa.in.sin_port == b->sa.in.sin_port &&
		       a->sa.in.sin_addr.s_addr == b->sa.in.sin_addr.s_addr;
	case AF_INET6:
		return a->sa.in6.sin6_port == b->sa.in6.sin6_port &&
		       memcmp(&a->sa.in6.sin6_addr, &b->sa.in6.sin6_addr,
		           sizeof(a->sa.in6.sin6_addr)) == 0;
	default:
		return a->len == b->len && memcmp(&a->sa, &b->sa, a->len) == 0;
	}
}

bool
addr_is_loopback(const struct addr *a)
{
	const uint8_t *v6 = a->sa.in6.sin6_addr.s6_addr;

	switch (addr_family(a)) {
	case AF_INET:
		return (ntohl(a->sa.in.sin_addr.s_addr) >> 24) == 127;
	case AF_INET6:
		return IN6_IS_ADDR_LOOPBACK(&a->sa.in6.sin6_addr) ||
		       (IN6_IS_ADDR_V4MAPPED(&a->sa.in6.sin6_addr) &&
		           v6[12] == 127);
	default:
		return false;
	}
}

bool
addr_is_any(const struct addr *a)
{
	switch (addr_family(a)) {
	case AF_INET:
		return a->sa.in.sin_addr.s_addr == htonl(INADDR_ANY);
	case AF_INET6:
		return IN6_IS_ADDR_UNSPECIFIED(&a->sa.in6.sin6_addr);
	default:
		return false;
	}
}
