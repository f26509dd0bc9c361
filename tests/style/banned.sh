#!/bin/sh
# banned.sh SOURCE: calls that have a better word here.
set -eu
cd "$1/src"
rc=0
ban() { # PATTERN REASON
	bad=$(grep -nE "(^|[^a-zA-Z_])($1)\(" */*.c || true)
	[ -z "$bad" ] || { echo "$bad"; echo "  ^ $2"; rc=1; }
}
ban 'strcpy|strcat|sprintf|gets|alloca|strncat' 'no bound'
ban 'ctime|asctime|localtime|gmtime' 'not for threads'
ban 'system|popen' 'no shell'
ban 'X509_check_host|X509_check_ip' 'names are not authentication'
exit $rc
