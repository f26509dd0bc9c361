#!/bin/sh
# unit-score.sh SOURCE: the sandbox of the unit is as tight as documented, 1.3
# by the count of systemd. 77: not to be had here.
set -eu
if ! command -v systemd-analyze >/dev/null; then
	echo "skipped: no systemd-analyze"
	exit 77
fi
tmp=$(mktemp -d)
trap 'rm -r "$tmp"' EXIT
if ! systemd-analyze security --offline=true --threshold=13 \
    "$1/conf/postern.service" >"$tmp/report" 2>&1; then
	cat "$tmp/report"
	exit 1
fi
grep 'Overall exposure' "$tmp/report"
