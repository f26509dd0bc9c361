#!/bin/sh
# binary.sh BINARY: the production program holds no CA and no gRPC server.
set -eu
rc=0
for s in X509_sign X509_CRL_sign X509_REQ_sign; do
	nm -D "$1" | grep -qw "$s" && { echo "imports $s"; rc=1; }
done
nm "$1" | grep -q ' grpc_server' && { echo "contains a gRPC server"; rc=1; }
exit $rc
