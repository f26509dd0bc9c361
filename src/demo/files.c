#include "demo_int.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

const char *
part_name(enum part p)
{
	switch (p) {
	case PART_ISSUER:
		return "issuer";
	case PART_SERVICE:
		return "service";
	case PART_INBOUND:
		return "inbound";
	case PART_OUTBOUND:
		return "outbound";
	case PART_INTRUDER:
		return "intruder";
	}
	return "?";
}

const char *
part_id(enum part p)
{
	/* Only proxies have an identity. */
	assert(p >= PART_INBOUND);
	switch (p) {
	case PART_INBOUND:
		return "spiffe://" DEMO_DOMAIN "/orders";
	case PART_OUTBOUND:
		return "spiffe://" DEMO_DOMAIN "/shop";
	case PART_INTRUDER:
		return "spiffe://" DEMO_DOMAIN "/intruder";
	case PART_ISSUER:
	case PART_SERVICE:
		break;
	}
	return "";
}

enum part
demo_last_proxy(const struct demo *d)
{
	return d->args->with_intruder ? PART_INTRUDER : PART_OUTBOUND;
}

/* ---- Configurations ---- */

static void
add_inbound(const struct demo *d, struct text *out)
{
	text_add(out,
	    "[inbound orders]\n"
	    "listen = 127.0.0.1:%u\n"
	    "forward = 127.0.0.1:%u\n"
	    "allow = %s\n",
	    d->args->port + PORT_MESH, d->args->port + PORT_SERVICE,
	    part_id(PART_OUTBOUND));
}

/* Whoever started the demo calls; and the demo itself, once, to see. */
static void
add_outbound(const struct demo *d, enum part p, struct text *out)
{
	unsigned int port = p == PART_OUTBOUND ? PORT_APP : PORT_INTRUDER;

	text_add(out,
	    "[outbound %s]\n"
	    "listen = 127.0.0.1:%u\n"
	    "connect = 127.0.0.1:%u\n"
	    "expect = %s\n"
	    "caller = uid %u\n",
	    p == PART_OUTBOUND ? "shop" : "intruder", d->args->port + port,
	    d->args->port + PORT_MESH, part_id(PART_INBOUND), d->starter);
	if (geteuid() != d->starter)
		text_add(out, "caller = uid %u\n", geteuid());
}

void
demo_conf(const struct demo *d, enum part p, struct text *out)
{
	text_add(out,
	    "[global]\n"
	    "workload_api = unix:%s/%s.agent\n"
	    "control = unix:%s/%s.control\n"
	    "trust_domain = " DEMO_DOMAIN "\n"
	    "drain_timeout = 1s\n"
	    "\n",
	    d->dir, part_name(p), d->dir, part_name(p));
	if (p == PART_INBOUND)
		add_inbound(d, out);
	else
		add_outbound(d, p, out);
}

static bool
write_all(int fd, const char *data, size_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, data, len);

		if (n <= 0)
			return false;
		data += n;
		len -= (size_t)n;
	}
	return true;
}

enum fault
demo_write_conf(const struct demo *d, enum part p, struct why *why)
{
	AUTO(text_fini) struct text body, path;
	bool written;
	int fd;

	text_init(&body);
	text_init(&path);
	demo_conf(d, p, &body);
	text_add(&path, "%s/%s.ini", d->dir, part_name(p));
	if (body.failed || path.failed)
		return fail(why, FAULT_NOMEM, "out of memory");
	/* Never over a file that somebody has edited. */
	fd = open(path.data, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (fd == -1)
		return fail(
		    why, FAULT_IO, "%s: %s", path.data, strerror(errno));
	written = write_all(fd, body.data, body.len);
	if (close(fd) != 0 || !written)
		return fail(why, FAULT_IO, "%s: cannot be written", path.data);
	return FAULT_NONE;
}

/* ---- The picture ---- */

void
demo_picture(const struct demo *d, struct text *out)
{
	unsigned int port = d->args->port;

	text_add(out,
	    "\n"
	    "  curl                      postern, outbound\n"
	    "  plain TCP ------------->  127.0.0.1:%u\n"
	    "                            %s\n"
	    "                                  |\n"
	    "                                  |  mutual TLS 1.3\n"
	    "                                  v\n"
	    "  legacy service            postern, inbound\n"
	    "  127.0.0.1:%u  <-------  127.0.0.1:%u\n"
	    "  plain TCP                 %s\n"
	    "\n",
	    port + PORT_APP, part_id(PART_OUTBOUND), port + PORT_SERVICE,
	    port + PORT_MESH, part_id(PART_INBOUND));
	if (d->args->with_intruder)
		text_add(out,
		    "  An intruder at 127.0.0.1:%u calls the same service as\n"
		    "  %s, which no rule allows.\n\n",
		    port + PORT_INTRUDER, part_id(PART_INTRUDER));
}
