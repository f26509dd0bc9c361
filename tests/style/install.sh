#!/bin/sh
# install.sh BUILD SOURCE: what `cmake --install` puts where, into an empty
# directory; and that it does not write over what somebody has edited.
set -eu
list=$2/tests/style/installed.txt
root=$(mktemp -d)
trap 'rm -r "$root"' EXIT
rc=0
put() {
	DESTDIR=$root cmake --install "$1" --prefix /usr >"$root.log" 2>&1 || {
		cat "$root.log"
		exit 1
	}
	rm -f "$root.log"
}
put "$1"
(cd "$root" && find . -type f ! -path '*/schema/*' | sed 's/^\.//' | sort) \
    >"$root/found"
sed '/\/schema\//d;/\/found$/d' "$list" | sort >"$root/wanted"
sed -i '/^\/found$/d' "$root/found"
diff -u "$root/wanted" "$root/found" || rc=1
for f in $(cd "$2" && ls docs/schema); do
	cmp "$2/docs/schema/$f" "$root/usr/share/doc/postern/schema/$f" || rc=1
done
[ -d "$root/etc/postern/conf.d" ] || { echo "no conf.d"; rc=1; }
"$root/usr/bin/postern" version || rc=1
SPIFFE_ENDPOINT_SOCKET=unix:///run/agent.sock "$root/usr/bin/postern" check \
    "$root/etc/postern/postern.ini" \
    "$root/usr/share/doc/postern/examples/first.ini" || rc=1
cmp "$2/conf/postern.service" "$root/usr/lib/systemd/system/postern.service" ||
    rc=1
bash -n "$root/usr/share/bash-completion/completions/postern" || rc=1
# Installed again, over an edited file and with another prefix.
echo '# edited' >"$root/etc/postern/postern.ini"
DESTDIR=$root cmake --install "$1" --prefix /opt/p >/dev/null
grep -q edited "$root/etc/postern/postern.ini" ||
    { echo "wrote over postern.ini"; rc=1; }
grep -q '^ExecStart=/opt/p/bin/postern run$' \
    "$root/opt/p/lib/systemd/system/postern.service" ||
    { echo "the unit starts another program"; rc=1; }
exit $rc
