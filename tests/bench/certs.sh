#!/bin/sh
# certs.sh DIR - certificates for the peers: a P-256 authority, server and client. Unlike Adit they check a DNS name,
# so scripts/mkcerts does not do.
set -eu
d=${1:?usage: certs.sh DIR}
mkdir -p "$d"
cd "$d"
openssl ecparam -name prime256v1 -genkey -noout -out ca.key
openssl req -x509 -new -key ca.key -sha256 -days 3650 -subj /CN=ca -out ca.crt \
	-addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
for name in server client; do
	openssl ecparam -name prime256v1 -genkey -noout -out $name.key
	openssl req -new -key $name.key -subj "/CN=$name.mesh" -out $name.csr
	printf '%s\n' basicConstraints=CA:FALSE keyUsage=critical,digitalSignature extendedKeyUsage=serverAuth,clientAuth \
		"subjectAltName=DNS:$name.mesh,IP:127.0.0.1,URI:spiffe://cluster.local/ns/bench/sa/$name" >$name.ext
	openssl x509 -req -in $name.csr -CA ca.crt -CAkey ca.key -CAcreateserial -sha256 -days 825 -extfile $name.ext -out $name.crt
	cat $name.crt $name.key >$name.pem
done 2>/dev/null
chmod 600 ./*.key ./*.pem
