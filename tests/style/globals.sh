#!/bin/sh
# globals.sh BUILD: nothing in the modules may change but what it owns: no
# mutable static or global outside the log sink and the key memory.
set -eu
rc=0
while read -r mod archive _; do
	case $mod in proto | issuer) continue ;; esac
	# Constants with addresses in them live in .data.rel.ro: not these.
	bad=$(objdump -t "$archive" | awk '
	    /file format/ { file = $1 }
	    $0 ~ / (\.data|\.bss|\.tbss)(\.[A-Za-z_0-9.]*)?\t/ &&
	    $0 !~ /\.data\.rel\.ro/ && $0 ~ / O / { print file " " $NF }' |
	    grep -v -e '^log\.c\.o: the_log$' -e '^key_memory\.c\.o: ' || true)
	[ -z "$bad" ] || { echo "$mod:"; echo "$bad"; rc=1; }
done <"$1/layers.txt"
exit $rc
