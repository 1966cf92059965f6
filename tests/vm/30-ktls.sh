#!/bin/bash
# The kernel's TLS record by record: against itself, the user engine, OpenSSL, and peers that do wrong.
# limit: 120
. ./lib.sh

mkdir "$dir/certs"
cp certs/ca.pem "$dir/certs/"
for k in pem key; do
	cp "certs/one.$k" "$dir/certs/node.$k"
	cp "certs/two.$k" "$dir/certs/b.$k"
done
ADIT_CERTS=$dir/certs CMOCKA_MESSAGE_OUTPUT=TAP tests/vm/ktls
