#ifndef POSTERN_ADDR_H
#define POSTERN_ADDR_H

/*
 * A socket address with its own length: IPv4, IPv6 or a unix path. Any thread.
 */

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "err.h"
#include "mem.h"

struct addr {
	socklen_t len; /* 0: no address */
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_un un;
	} sa;
};

/* Room for the longest text of addr_format(), NUL included. */
#define ADDR_TEXT_MAX 128

/* A unix path may have this many bytes: sun_path without its NUL. */
#define ADDR_UNIX_MAX 107

/*
 * Parse `1.2.3.4:443`, `[2001:db8::1]:443` or `unix:/abs/path`. A port is
 * always needed, 1 to 65535, IPv6 always in brackets, a path absolute and at
 * most ADDR_UNIX_MAX bytes. Host names are not addresses: FAULT_MALFORMED.
 */
enum fault addr_parse(struct span text, struct addr *addr_r, struct why *why);

/* `IP` alone, in either family; the port is set to PORT. */
enum fault addr_parse_ip(
    struct span ip, uint16_t port, struct addr *addr_r, struct why *why);

/* From what the kernel filled in. LEN as it was returned. */
void addr_set(struct addr *a, const struct sockaddr *sa, socklen_t len);

/* The inverse of addr_parse(); "-" for no address. Returns BUF. */
const char *addr_format(const struct addr *a, char buf[ADDR_TEXT_MAX]);

bool addr_equal(const struct addr *a, const struct addr *b);
int addr_family(const struct addr *a);    /* AF_UNSPEC for no address */
uint16_t addr_port(const struct addr *a); /* 0 for unix */

/* 127.0.0.0/8, ::1, ::ffff:127.0.0.0/104. A unix path is not. */
bool addr_is_loopback(const struct addr *a);
/* 0.0.0.0 or :: */
bool addr_is_any(const struct addr *a);

#endif
