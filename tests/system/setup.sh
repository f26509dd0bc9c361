#!/usr/bin/env bash
# setup.sh: install what the system tests talk to. Quiet when all is there.
#
# What cannot be had is said in one line, and the tests that want it skip by
# its name: this script fails only for a mistake of its own.
set -euo pipefail
cd "$(dirname "$0")/../.."

CACHE=.cache
GO_MIN=1.24
GO_TOOLCHAIN=1.24.9
POLICY=/usr/sbin/policy-rc.d

say() { printf '\n== %s\n' "$*"; }
lacks() { echo "not to be had: $1 (tests that want it are skipped)"; }

is_installed() {
	dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed'
}

installed() { dpkg-query -W -f '${Package}\n' | sort -u; }

# ---- Packages, without the daemons that come with them ---------------------

# forbid_starts: maintainer scripts ask policy-rc.d before they start a
# service; 101 says no. A file that was there is put back afterwards.
forbid_starts() {
	[ ! -e "$POLICY" ] || mv "$POLICY" "$POLICY.postern-saved"
	printf '#!/bin/sh\nexit 101\n' >"$POLICY"
	chmod 755 "$POLICY"
	trap allow_starts EXIT
}

allow_starts() {
	rm -f "$POLICY"
	[ ! -e "$POLICY.postern-saved" ] || mv "$POLICY.postern-saved" "$POLICY"
	trap - EXIT
}

# leave_disabled PACKAGE...: a package also enables its units, so that the
# next boot would start them.
leave_disabled() {
	local p unit script
	for p in "$@"; do
		while read -r unit; do
			systemctl --root=/ --quiet disable "$unit" \
			    >/dev/null 2>&1 || true
		done < <(dpkg -L "$p" | sed -nE \
		    's,^(/usr)?/lib/systemd/system/([^/@]+\.(service|socket|timer|target))$,\2,p')
		while read -r script; do
			update-rc.d "$script" disable >/dev/null 2>&1 || true
		done < <(dpkg -L "$p" | sed -nE 's,^/etc/init\.d/([^/]+)$,\1,p')
	done
}

install_packages() {
	local before after fresh
	before=$(mktemp) after=$(mktemp)
	installed >"$before"
	forbid_starts
	DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 apt-get install \
	    -qq -y --no-install-recommends "$@" >/dev/null 2>&1 || true
	allow_starts
	installed >"$after"
	mapfile -t fresh < <(comm -13 "$before" "$after")
	rm -f "$before" "$after"
	leave_disabled "${fresh[@]}"
}

# want PACKAGE...: together if that works, one by one if not.
want() {
	local missing=() p
	for p in "$@"; do
		is_installed "$p" || missing+=("$p")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	if [ "$(id -u)" != 0 ]; then
		lacks "${missing[*]}: only root installs packages"
		return 0
	fi
	say "installing ${missing[*]}"
	apt-get update -qq >/dev/null || true
	install_packages "${missing[@]}"
	for p in "${missing[@]}"; do
		is_installed "$p" || install_packages "$p"
		is_installed "$p" || lacks "$p"
	done
}

# want_command COMMAND PACKAGE...: a tool may also come from elsewhere.
want_command() {
	local command=$1
	shift
	command -v "$command" >/dev/null || want "$@"
}

# ---- What no package has ---------------------------------------------------

# setup_js: a gRPC server on node's own HTTP/2.
setup_js() {
	local dir=$CACHE/js
	command -v npm >/dev/null || { lacks "npm"; return 0; }
	cmp -s tests/interop/js/package.json "$dir/package.json" &&
	    [ -e "$dir/.complete" ] && return 0
	say "installing grpc-js"
	rm -rf "$dir"
	mkdir -p "$dir"
	cp tests/interop/js/package.json "$dir/"
	if (cd "$dir" && npm install --no-package-lock --no-audit --no-fund \
	    --ignore-scripts --loglevel=error >&2); then
		touch "$dir/.complete"
	else
		rm -rf "$dir"
		lacks "grpc-js"
	fi
}

# version_of GO: 1.24 of "go version go1.24.9 linux/amd64".
version_of() { "$1" version 2>/dev/null | sed -nE 's/.* go([0-9]+\.[0-9]+).*/\1/p'; }

new_enough() {
	[ "$(printf '%s\n' "$GO_MIN" "$1" | sort -V | head -1)" = "$GO_MIN" ]
}

# find_go: print a go that is new enough. Newer ones come through the module
# proxy as a module, which an old go unpacks but does not make executable.
find_go() {
	local go dir module
	go=$(command -v go) || return 1
	new_enough "$(version_of "$go")" && { echo "$go"; return 0; }
	module=golang.org/toolchain@v0.0.1-go$GO_TOOLCHAIN.linux-$(
	    "$go" env GOARCH)
	dir=$(cd "$(mktemp -d)" && "$go" mod init x >/dev/null 2>&1 &&
	    "$go" mod download -json "$module" 2>/dev/null |
	    sed -nE 's/.*"Dir": "(.*)".*/\1/p')
	[ -n "$dir" ] || return 1
	chmod -R u+x "$dir/bin" "$dir/pkg/tool" || return 1
	[ -n "$(version_of "$dir/bin/go")" ] || return 1
	echo "$dir/bin/go"
}

# setup_go: a mesh peer on go-spiffe.
setup_go() {
	local out=$CACHE/go/spiffe-peer go
	[ -x "$out" ] && [ -z "$(find tests/interop/go -newer "$out")" ] &&
	    return 0
	go=$(find_go) || { lacks "go $GO_MIN"; return 0; }
	say "building the go-spiffe peer"
	mkdir -p "$(dirname "$out")"
	out=$(realpath "$(dirname "$out")")/spiffe-peer
	if (cd tests/interop/go && GOTOOLCHAIN=local CGO_ENABLED=0 "$go" build \
	    -mod=readonly -o "$out" . >&2); then
		touch "$out"
	else
		rm -f "$out"
		lacks "go-spiffe"
	fi
}

# ---- All -------------------------------------------------------------------

want python3-pytest python3-cryptography python3-grpcio python3-jsonschema \
    openssl gnutls-bin procps gdb postgresql postgresql-contrib redis-server \
    redis-tools mariadb-server mariadb-client haproxy stunnel4 nginx
want_command promtool prometheus
want_command node nodejs
want_command npm npm
want_command go golang-go
setup_js
setup_go
