#include "conf_int.h"

#include <string.h>

static bool
begins_with(struct span s, const char *prefix, struct span *rest_r)
{
	size_t n = strlen(prefix);

	if (s.len < n || memcmp(s.data, prefix, n) != 0)
		return false;
	*rest_r = span_of(s.data + n, s.len - n);
	return true;
}

/* What unix: leaves: `///path` or `/path`. */
static enum fault
check_unix(struct span s, struct why *why)
{
	struct span path = s;

	if (begins_with(s, "//", &path) &&
	    (path.len == 0 || path.data[0] != '/'))
		return fail(why, FAULT_MALFORMED,
		    "a unix endpoint has no host: write unix:///abs/path");
	if (path.len < 2 || path.data[0] != '/')
		return fail(why, FAULT_MALFORMED,
		    "the path must be absolute: write unix:///abs/path");
	for (size_t i = 0; i < path.len; i++)
		if (path.data[i] <= ' ' || path.data[i] == 0x7f ||
		    strchr("?#%", path.data[i]) != NULL)
			return fail(why, FAULT_MALFORMED,
			    "the path must not have blanks, '?', '#' or '%%'");
	if (path.len > ADDR_UNIX_MAX)
		return fail(why, FAULT_LIMIT,
		    "the path has %zu bytes, a socket takes %d", path.len,
		    ADDR_UNIX_MAX);
	return FAULT_NONE;
}

enum fault
endpoint_check(struct span text, bool *is_remote_r, struct why *why)
{
	struct span rest;
	struct addr a;

	*is_remote_r = false;
	if (begins_with(text, "unix-abstract:", &rest))
		return fail(why, FAULT_MALFORMED,
		    "an abstract socket has no permissions: write "
		    "unix:///abs/path");
	if (begins_with(text, "unix:", &rest))
		return check_unix(rest, why);
	if (!begins_with(text, "tcp://", &rest))
		return fail(why, FAULT_MALFORMED,
		    "write unix:///abs/path or tcp://IP:port");
	if (begins_with(rest, "unix:", &rest) ||
	    addr_parse(rest, &a, NULL) != FAULT_NONE)
		return fail(why, FAULT_MALFORMED,
		    "write tcp://IP:port, with nothing after the port");
	*is_remote_r = !addr_is_loopback(&a);
	return FAULT_NONE;
}
