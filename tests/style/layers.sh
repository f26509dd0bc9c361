#!/bin/sh
# layers.sh BUILD: an archive may want symbols only of the libraries that its
# row in BUILD/layers.txt names. No list of prefixes: what the shared objects
# define is compared with what the archives want.
set -eu
libs='ssl crypto event_core event_extra nghttp2 protobuf-c inih'
tmp=$(mktemp -d)
trap 'rm -r "$tmp"' EXIT
rc=0
for l in $libs; do
	nm -D --defined-only "$(cc -print-file-name="lib$l.so")" |
	    sed 's/@.*//' | awk '{print $3}' | sort -u >"$tmp/$l"
	[ -s "$tmp/$l" ] || { echo "no symbols of lib$l"; exit 2; }
done
# event_extra contains what event_core has, too: its own part counts.
comm -23 "$tmp/event_extra" "$tmp/event_core" >"$tmp/own"
mv "$tmp/own" "$tmp/event_extra"
while read -r mod archive may; do
	nm -u "$archive" | awk '$1 == "U" {print $2}' | sort -u >"$tmp/want"
	for l in $libs; do
		case " $may " in *" $l "*) continue ;; esac
		bad=$(comm -12 "$tmp/want" "$tmp/$l")
		[ -z "$bad" ] || { echo "$mod ($l):" $bad; rc=1; }
	done
done <"$1/layers.txt"
exit $rc
