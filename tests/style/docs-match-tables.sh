#!/bin/sh
# usage: docs-match-tables.sh CONF_GEN SOURCE_DIR [write]
# Fails when a generated page is older than its table; `write` renews it.
set -eu
gen=$1 top=$2 mode=${3:-compare}
tmp=$(mktemp -d)
trap 'rm -r "$tmp"' EXIT
"$gen" example >"$tmp/postern.ini"
"$gen" man <"$top/man/postern.ini.5.in" >"$tmp/postern.ini.5"
if [ "$mode" = write ]; then
	cp "$tmp/postern.ini" "$top/conf/postern.ini"
	cp "$tmp/postern.ini.5" "$top/man/postern.ini.5"
fi
diff -u "$top/conf/postern.ini" "$tmp/postern.ini"
diff -u "$top/man/postern.ini.5" "$tmp/postern.ini.5"
