#!/bin/sh
# headers.sh SOURCE: no internal header of another folder, evhttp in one file.
set -eu
cd "$1/src"
rc=0
for f in */*.c */*.h; do
	dir=${f%%/*}
	for h in $(sed -n 's/^#include "\([a-z_]*_int\.h\)"$/\1/p' "$f"); do
		[ -e "$dir/$h" ] || { echo "$f includes $h"; rc=1; }
	done
done
for f in $(grep -l 'event2/http\.h' */*.[ch]); do
	[ "$f" = control/metrics_http.c ] || { echo "$f knows evhttp"; rc=1; }
done
exit $rc
