#!/bin/bash
# splice(2): socket to socket, and payload of DATA frames over kTLS, which never enters the agents. Every byte, both engines mixed.
# take: tests/unit/test_pipe tests/unit/test_relay
# limit: 150
. ./lib.sh

bytes=4000000
nodes one two

write()	# NODE KERNEL-SECTION
{
	cat >"$dir/$1.yaml" <<-EOT
		node: {id: $1}
		workers: 1
		admin: {socket: $dir/$1.sock}
		kernel: {$2}
		identities:
		  - {name: me, certificate: $T/certs/$1.pem, key: $T/certs/$1.key, ca: $T/certs/ca.pem}
	EOT
	case $1 in
	one)	cat >>"$dir/$1.yaml" <<-EOT
			listeners:
			  - {name: applications, type: tcp, address: "127.0.0.1:9000", cluster: two}
			clusters:
			  - {name: two, type: tunnel, endpoints: ["10.9.0.2:15008"], authority: "app:9000"}
		EOT
		;;
	two)	cat >>"$dir/$1.yaml" <<-EOT
			listeners:
			  - {name: tunnels, type: tunnel, address: "10.9.0.2:15008", cluster: application}
			  - {name: direct, type: tcp, address: "10.9.0.2:9001", cluster: application}
			clusters:
			  - {name: application, type: tcp, endpoints: ["127.0.0.1:9000"]}
		EOT
		;;
	esac
}

start()	# KERNEL-SECTION-OF-ONE KERNEL-SECTION-OF-TWO
{
	write one "$1"
	write two "$2"
	agent two 15008 9001
	two=$pid
	agent one 9000
	one=$pid
}

stop()
{
	for p in $one $two; do
		kill "$p"
		wait "$p" || fail "an agent ended with status $?"
	done
}

carry()	# ADDRESS PORT: every byte, from node one to the application on node two
{
	local server

	on two "$T/tests/vm/transfer" listen 9000 $bytes >"$dir/server.log" &
	server=$!
	await 5 grep -q listening "$dir/server.log"
	on one "$T/tests/vm/transfer" connect "$1" "$2" $bytes >"$dir/client.log" || fail "client: $(cat "$dir/client.log")"
	wait $server || fail "server: $(cat "$dir/server.log")"
}

count()	# NODE COUNTER
{
	ctl "$1" stats -o json | json "$2"
}

# of the payload, what passed an agent without entering it; and the calls that it cost
told()	# WHAT
{
	local n s

	for n in one two; do
		s=$(count $n spliced_bytes)
		echo "# $1, $n: $((s * 100 / (2 * bytes))) % spliced; calls: recv $(count $n syscalls_recv), send $(count $n syscalls_send)," \
			"splice $(count $n syscalls_splice)"
	done
}

tests/unit/test_pipe >"$dir/pipe.log" 2>&1 || fail "test_pipe: $(cat "$dir/pipe.log")"
echo "ok - pipes"
for t in bytes one an a; do # those at random take too long here
	tests/unit/test_relay "${t}_*_by_splice" >"$dir/relay.log" 2>&1 || fail "test_relay: $(tail -n 40 "$dir/relay.log")"
done
echo "ok - connections of every form"

start "ktls: on, splice_above: 1" "ktls: on, splice_above: 1"
carry 127.0.0.1 9000
told "kTLS"
for n in one two; do
	[ "$(count $n spliced_bytes)" -gt $((bytes / 2)) ] || fail "$n has spliced only $(count $n spliced_bytes)"
	[ "$(on $n awk '/TlsDecryptError/ { print $2 }' /proc/net/tls_stat)" = 0 ] || fail "decrypt errors on $n"
done
echo "ok - over kTLS, every byte"

before=$(count two spliced_bytes)
carry 10.9.0.2 9001
[ $(($(count two spliced_bytes) - before)) -gt $bytes ] || fail "socket to socket: spliced only $(($(count two spliced_bytes) - before))"
echo "ok - socket to socket, every byte"

stop

start "ktls: on, splice_above: 1" "ktls: off, splice_above: 1"
carry 127.0.0.1 9000
told "kTLS and user"
stop
start "ktls: off, splice_above: 1" "ktls: on, splice_above: 1"
carry 127.0.0.1 9000
told "user and kTLS"
stop
echo "ok - kTLS with splice on one side, the user engine on the other"

start "ktls: on, splice: off" "ktls: on, splice: off"
carry 127.0.0.1 9000
told "kTLS, not spliced"
stop
