/* Whatever netlink delivers: an answer only about the socket asked for. */

#include <assert.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <string.h>

#include "caller_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct addr client;
	struct addr server;
	struct diag_question q = {
	    .seq = 7, .port_id = 9, .client = &client, .server = &server};
	struct diag_answer answer;
	struct inet_diag_msg m;

	(void)addr_parse(span_of_str("127.0.0.1:40000"), &client, NULL);
	(void)addr_parse(span_of_str("127.0.0.1:5432"), &server, NULL);
	if (diag_reply_parse(span_of(data, size), &q, &answer, NULL) !=
	    FAULT_NONE)
		return 0;
	assert(size >= sizeof(struct nlmsghdr) + sizeof(m));
	memcpy(&m, data + sizeof(struct nlmsghdr), sizeof(m));
	assert(ntohs(m.id.idiag_sport) == 40000);
	assert(ntohs(m.id.idiag_dport) == 5432);
	assert(answer.uid == m.idiag_uid && answer.inode == m.idiag_inode);
	return 0;
}
