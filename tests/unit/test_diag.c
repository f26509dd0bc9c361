/* The kernel's answer about a socket: nothing odd may pass for a user. */

#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>
#include <string.h>

#include "unit.h"

#include "caller_int.h"

struct reply {
	struct nlmsghdr header;
	struct inet_diag_msg msg;
	uint8_t more[64];
};

struct world {
	struct addr client, server;
	struct diag_question q;
	struct reply reply;
	size_t len;
};

static void
set_up(struct world *w, const char *client, const char *server)
{
	memset(w, 0, sizeof(*w));
	assert_int_equal(
	    addr_parse(span_of_str(client), &w->client, NULL), FAULT_NONE);
	assert_int_equal(
	    addr_parse(span_of_str(server), &w->server, NULL), FAULT_NONE);
	w->q = (struct diag_question){
	    .seq = 3, .port_id = 4, .client = &w->client, .server = &w->server};
	w->len = sizeof(w->reply.header) + sizeof(w->reply.msg);
	w->reply.header = (struct nlmsghdr){.nlmsg_len = (uint32_t)w->len,
	    .nlmsg_type = SOCK_DIAG_BY_FAMILY,
	    .nlmsg_seq = 3,
	    .nlmsg_pid = 4};
	w->reply.msg.idiag_family = AF_INET;
	w->reply.msg.idiag_state = TCP_ESTABLISHED;
	w->reply.msg.idiag_uid = 1000;
	w->reply.msg.idiag_inode = 77;
	w->reply.msg.id.idiag_sport = htons(40000);
	w->reply.msg.id.idiag_dport = htons(5432);
	w->reply.msg.id.idiag_src[0] = htonl(0x7f000001);
	w->reply.msg.id.idiag_dst[0] = htonl(0x7f000001);
}

static void
set_up_v4(struct world *w)
{
	set_up(w, "127.0.0.1:40000", "127.0.0.1:5432");
}

static enum fault
parse(const struct world *w)
{
	struct diag_answer a = {.uid = 4711};
	struct why why = {{0}};
	enum fault f =
	    diag_reply_parse(span_of(&w->reply, w->len), &w->q, &a, &why);

	if (f != FAULT_NONE) {
		assert_int_equal(a.uid, 4711);
		assert_true(strlen(why.text) > 0);
	}
	return f;
}

/* The plain case works. */
static void
test_diag_reply_exact_answer_gives_uid(void **state)
{
	struct world w;
	struct diag_answer a;

	(void)state;
	set_up_v4(&w);
	assert_int_equal(
	    diag_reply_parse(span_of(&w.reply, w.len), &w.q, &a, NULL),
	    FAULT_NONE);
	assert_int_equal(a.uid, 1000);
	assert_int_equal(a.inode, 77);
	assert_int_equal(a.state, TCP_ESTABLISHED);
}

/* Attributes of newer kernels after the message are no fault. */
static void
test_diag_reply_with_attributes_accepted(void **state)
{
	struct world w;

	(void)state;
	set_up_v4(&w);
	w.len += 64;
	w.reply.header.nlmsg_len += 64;
	assert_int_equal(parse(&w), FAULT_NONE);
}

/* A cut answer, at whatever byte, names nobody. */
static void
test_diag_reply_cut_anywhere_refused(void **state)
{
	struct world w;
	size_t full;

	(void)state;
	set_up_v4(&w);
	full = w.len;
	for (w.len = 0; w.len < full; w.len++)
		assert_int_equal(parse(&w), FAULT_MALFORMED);
	/* The header may agree with the cut: still too short. */
	for (w.len = sizeof(w.reply.header); w.len < full; w.len++) {
		w.reply.header.nlmsg_len = (uint32_t)w.len;
		assert_int_equal(parse(&w), FAULT_MALFORMED);
	}
}

/* An answer to an earlier question is about somebody else. */
static void
test_diag_reply_wrong_sequence_or_port_refused(void **state)
{
	struct world w;

	(void)state;
	set_up_v4(&w);
	w.reply.header.nlmsg_seq = 2;
	assert_int_equal(parse(&w), FAULT_MISMATCH);
	set_up_v4(&w);
	w.reply.header.nlmsg_pid = 5;
	assert_int_equal(parse(&w), FAULT_MISMATCH);
}

/* Odd kinds of messages are no answer. */
static void
test_diag_reply_other_type_or_second_message_refused(void **state)
{
	struct world w;

	(void)state;
	set_up_v4(&w);
	w.reply.header.nlmsg_type = NLMSG_DONE;
	assert_int_equal(parse(&w), FAULT_MALFORMED);
	set_up_v4(&w);
	w.len += 16;
	assert_int_equal(parse(&w), FAULT_MALFORMED);
	set_up_v4(&w);
	w.reply.header.nlmsg_len = 4;
	assert_int_equal(parse(&w), FAULT_MALFORMED);
	w.reply.header.nlmsg_len = UINT32_MAX;
	assert_int_equal(parse(&w), FAULT_MALFORMED);
}

/* A client that is gone is told apart from a kernel that cannot answer. */
static void
test_diag_reply_error_message_refused(void **state)
{
	struct world w;
	int32_t code = -ENOENT;

	(void)state;
	set_up_v4(&w);
	w.reply.header.nlmsg_type = NLMSG_ERROR;
	memcpy(&w.reply.msg, &code, sizeof(code));
	assert_int_equal(parse(&w), FAULT_MISMATCH);
	code = -EPERM;
	memcpy(&w.reply.msg, &code, sizeof(code));
	assert_int_equal(parse(&w), FAULT_IO);
	code = 0; /* an acknowledgement names nobody either */
	memcpy(&w.reply.msg, &code, sizeof(code));
	assert_int_equal(parse(&w), FAULT_IO);
}

/* Matching only a port once let strangers in elsewhere. */
static void
test_diag_reply_each_part_of_the_pair_must_match(void **state)
{
	struct world w;

	(void)state;
	set_up_v4(&w);
	w.reply.msg.id.idiag_sport = htons(40001);
	assert_int_equal(parse(&w), FAULT_MISMATCH);
	set_up_v4(&w);
	w.reply.msg.id.idiag_dport = 0; /* a listener */
	assert_int_equal(parse(&w), FAULT_MISMATCH);
	set_up_v4(&w);
	w.reply.msg.id.idiag_src[0] = htonl(0x7f000002);
	assert_int_equal(parse(&w), FAULT_MISMATCH);
	set_up_v4(&w);
	w.reply.msg.id.idiag_dst[0] = htonl(0x7f000002);
	assert_int_equal(parse(&w), FAULT_MISMATCH);
	set_up_v4(&w);
	w.reply.msg.idiag_family = AF_UNIX;
	assert_int_equal(parse(&w), FAULT_MISMATCH);
}

static void
map_addresses(struct world *w)
{
	w->reply.msg.idiag_family = AF_INET6;
	for (int i = 0; i < 2; i++) {
		uint32_t *ip = i == 0 ? w->reply.msg.id.idiag_src
		                      : w->reply.msg.id.idiag_dst;

		ip[0] = 0;
		ip[1] = 0;
		ip[2] = htonl(0xffff);
		ip[3] = htonl(0x7f000001);
	}
}

/* Java's default socket: IPv6 with mapped addresses, both of them. */
static void
test_diag_reply_mapped_addresses_match(void **state)
{
	struct world w;

	(void)state;
	set_up_v4(&w);
	map_addresses(&w);
	assert_int_equal(parse(&w), FAULT_NONE);
	w.reply.msg.id.idiag_src[2] = 0;
	assert_int_equal(parse(&w), FAULT_MISMATCH);
	map_addresses(&w);
	w.reply.msg.id.idiag_dst[3] = htonl(0x7f000002);
	assert_int_equal(parse(&w), FAULT_MISMATCH);
}

/* An IPv6 question is not answered by an IPv4 socket. */
static void
test_diag_reply_v6_compared_in_full(void **state)
{
	struct world w;

	(void)state;
	set_up(&w, "[::1]:40000", "[::1]:5432");
	assert_int_equal(parse(&w), FAULT_MISMATCH);
	w.reply.msg.idiag_family = AF_INET6;
	memset(w.reply.msg.id.idiag_src, 0, 32);
	w.reply.msg.id.idiag_src[3] = htonl(1);
	w.reply.msg.id.idiag_dst[3] = htonl(1);
	assert_int_equal(parse(&w), FAULT_NONE);
	w.reply.msg.id.idiag_dst[0] = htonl(1);
	assert_int_equal(parse(&w), FAULT_MISMATCH);
}

/* A dead connection whose port somebody took over shows another pair. */
static void
test_diag_states_only_living_pairs_agree(void **state)
{
	unsigned int allowed = 0;

	(void)state;
	for (uint8_t own = 0; own <= 13; own++)
		for (uint8_t client = 0; client <= 13; client++)
			allowed += diag_states_agree(own, client);
	assert_int_equal(allowed, 5);
	assert_true(diag_states_agree(TCP_ESTABLISHED, TCP_ESTABLISHED));
	assert_true(diag_states_agree(TCP_ESTABLISHED, TCP_FIN_WAIT1));
	assert_true(diag_states_agree(TCP_ESTABLISHED, TCP_FIN_WAIT2));
	assert_true(diag_states_agree(TCP_CLOSE_WAIT, TCP_FIN_WAIT1));
	assert_true(diag_states_agree(TCP_CLOSE_WAIT, TCP_FIN_WAIT2));
	assert_false(diag_states_agree(TCP_CLOSE_WAIT, TCP_ESTABLISHED));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_diag_reply_exact_answer_gives_uid),
	    cmocka_unit_test(test_diag_reply_with_attributes_accepted),
	    cmocka_unit_test(test_diag_reply_cut_anywhere_refused),
	    cmocka_unit_test(test_diag_reply_wrong_sequence_or_port_refused),
	    cmocka_unit_test(
	        test_diag_reply_other_type_or_second_message_refused),
	    cmocka_unit_test(test_diag_reply_error_message_refused),
	    cmocka_unit_test(test_diag_reply_each_part_of_the_pair_must_match),
	    cmocka_unit_test(test_diag_reply_mapped_addresses_match),
	    cmocka_unit_test(test_diag_reply_v6_compared_in_full),
	    cmocka_unit_test(test_diag_states_only_living_pairs_agree),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
