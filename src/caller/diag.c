#include "caller_int.h"

#include <assert.h>
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Room for the answer and the attributes that newer kernels add. */
#define REPLY_ROOM 4096

struct diag_request {
	struct nlmsghdr header;
	struct inet_diag_req_v2 body;
};

/* ---- The question ---- */

/* An address as the kernel's tables have it: 4 or 16 bytes of 16. */
static void
copy_ip(const struct addr *a, uint8_t out[16])
{
	memset(out, 0, 16);
	if (addr_family(a) == AF_INET)
		memcpy(out, &a->sa.in.sin_addr, 4);
	else
		memcpy(out, &a->sa.in6.sin6_addr, 16);
}

static void
fill_request(struct diag_request *r, const struct diag_question *q)
{
	struct inet_diag_sockid *id = &r->body.id;

	*r = (struct diag_request){
	    .header = {.nlmsg_len = sizeof(*r),
	        .nlmsg_type = SOCK_DIAG_BY_FAMILY,
	        /* No NLM_F_DUMP: a dump is linear in the host's sockets. */
	        .nlmsg_flags = NLM_F_REQUEST,
	        .nlmsg_seq = q->seq},
	    .body = {.sdiag_family = (uint8_t)addr_family(q->client),
	        .sdiag_protocol = IPPROTO_TCP,
	        .idiag_states = UINT32_MAX}};
	id->idiag_sport = htons(addr_port(q->client));
	id->idiag_dport = htons(addr_port(q->server));
	copy_ip(q->client, (uint8_t *)id->idiag_src);
	copy_ip(q->server, (uint8_t *)id->idiag_dst);
	id->idiag_cookie[0] = INET_DIAG_NOCOOKIE;
	id->idiag_cookie[1] = INET_DIAG_NOCOOKIE;
}

/* ---- The answer ---- */

/*
 * Same address? A client on an IPv6 socket that talks to IPv4 (Java's default)
 * is answered in AF_INET6 to a question in AF_INET, with mapped addresses.
 */
static bool
same_ip(const struct addr *want, uint8_t family, const uint8_t have[16])
{
	static const uint8_t mapped[12] = {
	    [10] = 0xff, [11] = 0xff}; /* RFC 4291, section 2.5.5.2 */
	uint8_t ip[16];

	copy_ip(want, ip);
	if (addr_family(want) == family)
		return memcmp(ip, have, family == AF_INET ? 4 : 16) == 0;
	return addr_family(want) == AF_INET && family == AF_INET6 &&
	       memcmp(have, mapped, 12) == 0 && memcmp(have + 12, ip, 4) == 0;
}

static bool
is_about(const struct inet_diag_msg *m, const struct diag_question *q)
{
	return ntohs(m->id.idiag_sport) == addr_port(q->client) &&
	       ntohs(m->id.idiag_dport) == addr_port(q->server) &&
	       same_ip(q->client, m->idiag_family,
	           (const uint8_t *)m->id.idiag_src) &&
	       same_ip(q->server, m->idiag_family,
	           (const uint8_t *)m->id.idiag_dst);
}

static enum fault
refuse_error_message(struct span body, struct why *why)
{
	int32_t code;

	if (body.len < sizeof(code))
		return fail(why, FAULT_MALFORMED, "caller: netlink error cut");
	memcpy(&code, body.data, sizeof(code));
	if (code == -ENOENT)
		return fail(why, FAULT_MISMATCH,
		    "caller: gone, or in another network namespace");
	return fail(why, FAULT_IO, "caller: netlink error %d", (int)code);
}

enum fault
diag_reply_parse(struct span reply, const struct diag_question *q,
    struct diag_answer *answer_r, struct why *why)
{
	struct nlmsghdr header;
	struct inet_diag_msg m;
	struct span taken;
	struct span body;

	if (!span_take(&reply, sizeof(header), &taken))
		return fail(why, FAULT_MALFORMED, "caller: netlink reply cut");
	memcpy(&header, taken.data, sizeof(header));
	if (header.nlmsg_len < sizeof(header) ||
	    !span_take(&reply, header.nlmsg_len - sizeof(header), &body))
		return fail(why, FAULT_MALFORMED, "caller: netlink reply cut");
	if (header.nlmsg_seq != q->seq || header.nlmsg_pid != q->port_id)
		return fail(why, FAULT_MISMATCH,
		    "caller: netlink answers another question");
	if (reply.len != 0)
		return fail(why, FAULT_MALFORMED,
		    "caller: netlink says more than was asked");
	if (header.nlmsg_type == NLMSG_ERROR)
		return refuse_error_message(body, why);
	if (header.nlmsg_type != SOCK_DIAG_BY_FAMILY ||
	    !span_take(&body, sizeof(m), &taken))
		return fail(why, FAULT_MALFORMED,
		    "caller: netlink reply is no inet_diag_msg");
	memcpy(&m, taken.data, sizeof(m));
	/* No match of both ends: a listener of the same port, or a foreign
	 * connection. */
	if (!is_about(&m, q))
		return fail(why, FAULT_MISMATCH,
		    "caller: netlink answers about another socket");
	*answer_r = (struct diag_answer){
	    .uid = m.idiag_uid, .inode = m.idiag_inode, .state = m.idiag_state};
	return FAULT_NONE;
}

bool
diag_states_agree(uint8_t own, uint8_t client)
{
	if (own == TCP_ESTABLISHED && client == TCP_ESTABLISHED)
		return true;
	/* Half-closed, quickly, but alive: its FIN has arrived or has not. */
	return (own == TCP_ESTABLISHED || own == TCP_CLOSE_WAIT) &&
	       (client == TCP_FIN_WAIT1 || client == TCP_FIN_WAIT2);
}

/* ---- Asking ---- */

enum fault
diag_open(struct caller_env *env, struct why *why)
{
	struct sockaddr_nl self = {.nl_family = AF_NETLINK};
	socklen_t len = sizeof(self);
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK,
	    NETLINK_SOCK_DIAG);

	if (fd < 0)
		return fail(why, FAULT_IO, "caller: no sock_diag socket: %s",
		    strerror(errno));
	env->netlink_fd = fd; /* closed with ENV, whatever follows */
	if (bind(fd, (struct sockaddr *)&self, len) != 0 ||
	    getsockname(fd, (struct sockaddr *)&self, &len) != 0)
		return fail(why, FAULT_IO, "caller: sock_diag socket: %s",
		    strerror(errno));
	env->port_id = self.nl_pid;
	return FAULT_NONE;
}

/* One datagram into ROOM; only the kernel's (port 0), only a whole one. */
static enum fault
receive(int fd, uint8_t *room, size_t size, size_t *len_r, struct why *why)
{
	struct sockaddr_nl from = {0};
	struct iovec iov = {room, size};
	struct msghdr m = {.msg_name = &from,
	    .msg_namelen = sizeof(from),
	    .msg_iov = &iov,
	    .msg_iovlen = 1};
	ssize_t n = recvmsg(fd, &m, MSG_DONTWAIT);

	if (n < 0)
		return fail(why, FAULT_IO, "caller: netlink: %s",
		    errno == EAGAIN ? "no answer" : strerror(errno));
	if (m.msg_namelen != sizeof(from) || from.nl_pid != 0)
		return fail(why, FAULT_UNTRUSTED,
		    "caller: netlink message from a program");
	if (m.msg_flags & MSG_TRUNC)
		return fail(why, FAULT_LIMIT, "caller: netlink reply cut");
	*len_r = (size_t)n;
	return FAULT_NONE;
}

/* What an earlier question left behind must not answer the next. */
static void
drain(int fd)
{
	uint8_t byte;

	while (recv(fd, &byte, sizeof(byte), MSG_DONTWAIT) >= 0)
		;
}

static enum fault
ask(struct caller_env *env, const struct diag_question *q,
    struct diag_answer *answer_r, struct why *why)
{
	struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
	struct diag_request request;
	uint8_t room[REPLY_ROOM];
	size_t len = 0;
	enum fault f;

	fill_request(&request, q);
	drain(env->netlink_fd);
	if (sendto(env->netlink_fd, &request, sizeof(request), 0,
	        (struct sockaddr *)&kernel, sizeof(kernel)) != sizeof(request))
		return fail(
		    why, FAULT_IO, "caller: netlink: %s", strerror(errno));
	/* The kernel has answered within the send. */
	f = receive(env->netlink_fd, room, sizeof(room), &len, why);
	if (f != FAULT_NONE)
		return f;
	return diag_reply_parse(span_of(room, len), q, answer_r, why);
}

static enum fault
own_state(int fd, uint8_t *state_r, struct why *why)
{
	struct tcp_info info;
	socklen_t len = sizeof(info);

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) != 0)
		return fail(
		    why, FAULT_IO, "caller: TCP_INFO: %s", strerror(errno));
	*state_r = info.tcpi_state;
	return FAULT_NONE;
}

enum fault
diag_lookup(struct caller_env *env, int fd, const struct addr *peer,
    const struct addr *local, struct local_caller *caller_r, struct why *why)
{
	struct diag_question q = {.seq = ++env->seq,
	    .port_id = env->port_id,
	    .client = peer,
	    .server = local};
	struct diag_answer answer;
	uint8_t own = 0;
	enum fault f;

	assert(addr_family(peer) == AF_INET || addr_family(peer) == AF_INET6);
	f = ask(env, &q, &answer, why);
	if (f != FAULT_NONE)
		return f;
	/*
	 * A client that is gone by now answers with uid 0 and inode 0, which
	 * would make every short-lived program root.
	 */
	if (answer.inode == 0)
		return fail(why, FAULT_MISMATCH,
		    "caller: closed its socket before it was looked up");
	/*
	 * After the answer: if this connection lives now, the pair of
	 * addresses was its own when the kernel was asked. A queue that was
	 * kept for long may hold a dead one, whose client port a socket of
	 * another user has taken over.
	 */
	f = own_state(fd, &own, why);
	if (f != FAULT_NONE)
		return f;
	if (!diag_states_agree(own, answer.state))
		return fail(why, FAULT_MISMATCH,
		    "caller: its socket is in state %u, ours in %u: not one "
		    "connection",
		    answer.state, own);
	caller_r->uid = answer.uid;
	return FAULT_NONE;
}
