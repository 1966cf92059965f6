#!/bin/bash
# Agents over kTLS: each cipher, one side of the two without it, a chosen cipher that the kernel lacks, and a peer that updates its keys.
# limit: 120
. ./lib.sh

bytes=300000
nodes one two

write()	# NODE CIPHER KTLS
{
	cat >"$dir/$1.yaml" <<-EOT
		node: {id: $1}
		workers: 1
		admin: {socket: $dir/$1.sock}
		kernel: {ktls: $3}
		identities:
		  - {name: me, certificate: $T/certs/$1.pem, key: $T/certs/$1.key, ca: $T/certs/ca.pem, ciphers: "$2"}
	EOT
	if [ "$1" = one ]; then
		cat >>"$dir/$1.yaml" <<-EOT
			listeners:
			  - {name: applications, type: tcp, address: "127.0.0.1:9000", cluster: two}
			clusters:
			  - {name: two, type: tunnel, endpoints: ["10.9.0.2:15008"], authority: "app:9000"}
		EOT
	else
		cat >>"$dir/$1.yaml" <<-EOT
			listeners:
			  - {name: tunnels, type: tunnel, address: "10.9.0.2:15008", cluster: application}
			clusters:
			  - {name: application, type: tcp, endpoints: ["127.0.0.1:9000"]}
		EOT
	fi
}

engine()	# NODE WANTED: both directions, as aditctl says
{
	local said

	ctl "$1" tunnel -o json >"$dir/$1.json"
	said=$(json engine_tx <"$dir/$1.json")/$(json engine_rx <"$dir/$1.json")
	[ "$said" = "$2/$2" ] || fail "$1: $said, not $2: $(json why <"$dir/$1.json")"
}

run()	# CIPHER KTLS-OF-ONE KTLS-OF-TWO ENGINE-OF-ONE ENGINE-OF-TWO
{
	local one two server

	write one "$1" "$2"
	write two "$1" "$3"
	agent two 15008
	two=$pid
	agent one 9000
	one=$pid
	on two "$T/tests/vm/transfer" listen 9000 $bytes >"$dir/server.log" &
	server=$!
	await 5 grep -q listening "$dir/server.log"
	on one "$T/tests/vm/transfer" connect 127.0.0.1 9000 $bytes >"$dir/client.log" || fail "client: $(cat "$dir/client.log")"
	wait $server || fail "server: $(cat "$dir/server.log")"
	engine one "$4"
	engine two "$5"
	kill $one
	wait $one || fail "one ended with status $?"
	kill $two
	wait $two || fail "two ended with status $?"
	echo "ok - $1: $4 <-> $5"
}

counted()	# NODE COUNTER
{
	on "$1" awk -v c="$2" '$1 == c { print $2 }' /proc/net/tls_stat
}

run TLS13-AES128-GCM-SHA256 auto on ktls ktls
run TLS13-AES256-GCM-SHA384 auto off ktls user
run TLS13-CHACHA20-POLY1305-SHA256 off auto user ktls
# each node has had two tunnels by the kernel, and two agents that tried three ciphers at their start
[ "$(counted one TlsTxSw) $(counted one TlsRxSw) $(counted two TlsTxSw) $(counted two TlsRxSw)" = "8 8 8 8" ] ||
	fail "$(on one cat /proc/net/tls_stat; on two cat /proc/net/tls_stat)"
[ "$(counted one TlsDecryptError)$(counted two TlsDecryptError)" = 00 ] || fail "decrypt errors"
[ "$(counted one TlsCurrTxSw)$(counted two TlsCurrTxSw)" = 00 ] || fail "the kernel still has TLS sockets"
echo "ok - the kernel counts the same"

# KeyUpdate: GOAWAY (00 00 08 07), close_notify, and a reason in the log
write two TLS13-AES128-GCM-SHA256 auto
agent two 15008
mkfifo "$dir/keys"
on two openssl s_client -connect 10.9.0.2:15008 -tls1_3 -alpn h2 -CAfile certs/ca.pem -cert certs/one.pem -key certs/one.key \
	<"$dir/keys" >"$dir/client.bin" 2>&1 &
client=$!
exec 3>"$dir/keys"
await 20 grep -aq 'Verify return code' "$dir/client.bin"
echo K >&3
wait $client || true
exec 3>&-
grep -q "updated its keys, which the kernel's TLS cannot follow" "$dir/two.log" || fail "the log does not tell"
od -An -v -tx1 "$dir/client.bin" | tr -d ' \n' | grep -q 00000807000000000000 || fail "no GOAWAY: $(tail -c 200 "$dir/client.bin" | od -c)"
grep -aq 'closed$' "$dir/client.bin" || fail "$(tail -n 5 "$dir/client.bin")"
echo "ok - KeyUpdate: GOAWAY, a clean end, a reason"
kill $pid
wait $pid || fail "two ended with status $?"

# The kernel loses a cipher: the user engine has it.
if rmmod chacha20poly1305; then
	run TLS13-CHACHA20-POLY1305-SHA256 auto auto user user
	case $(json why <"$dir/one.json" | head -n 1) in
	*"no such cipher"*) echo "ok - why: $(json why <"$dir/one.json" | head -n 1)" ;;
	*) echo "not ok - why: $(json why <"$dir/one.json" | head -n 1)" ;;
	esac
else
	echo "ok - a cipher that the kernel lacks # SKIP this kernel does not let go of it"
fi
