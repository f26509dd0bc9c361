#!/bin/sh
# usage: docs-match-tables.sh CONF_GEN DOCS_GEN SOURCE_DIR [write]
# Fails when a generated page is older than its table, when a page shows what
# nothing produces, when an event is not explained, or when mandoc complains;
# `write` renews the pages.
set -eu
gen=$1 docs=$2 top=$3 mode=${4:-compare}
tmp=$(mktemp -d)
trap 'rm -r "$tmp"' EXIT
rc=0
fresh() { # NEW PAGE
	[ "$mode" != write ] || cp "$1" "$top/$2"
	diff -u "$top/$2" "$1" || rc=1
}
"$gen" example >"$tmp/example"
fresh "$tmp/example" conf/postern.ini
"$gen" man <"$top/man/postern.ini.5.in" >"$tmp/man"
fresh "$tmp/man" man/postern.ini.5
for page in man/postern.1 docs/observability.md; do
	"$docs" page <"$top/$page" >"$tmp/page"
	fresh "$tmp/page" "$page"
done
# A symbol that is used now has to leave the list of the reserved ones. The
# table of alerts names every deny reason, and decides none.
for symbol in $("$docs" reserved); do
	if grep -lw "$symbol" "$top"/src/*/*.c | grep -v /tls_error.c; then
		echo "$symbol is produced: no longer reserved"
		rc=1
	fi
done
# Events are literals in the source; each has its row in the document.
cat "$top"/src/control/*.c "$top"/src/conn/*.c "$top"/src/worker/*.c |
    tr '\n\t' '  ' |
    grep -oE '(log_say|fields_init|audit_identity|audit_config)\([^";]*"[a-z-]+"' |
    grep -oE '"[a-z-]+"' | tr -d '"' | sort -u >"$tmp/events"
sed -n '/^### Events/,/^### Fields/s/^| \(`[^|]*\).*/\1/p' \
    "$top/docs/observability.md" | grep -oE '`[a-z-]+`' | tr -d '`' |
    sort -u >"$tmp/documented"
diff -u "$tmp/documented" "$tmp/events" || rc=1
if command -v mandoc >/dev/null; then
	mandoc -Tlint -Wwarning "$top"/man/*.[158] || rc=1
fi
exit $rc
