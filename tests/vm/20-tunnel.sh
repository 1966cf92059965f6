#!/bin/bash
# Two nodes, an agent on each, a tunnel between them: 8 MB each way at once, every byte looked at, and which engine carried them.
. ./lib.sh

bytes=8000000
nodes one two
for n in one two; do
	cat >"$dir/$n.yaml" <<-EOT
		node: {id: $n}
		workers: 1
		admin: {socket: $dir/$n.sock}
		identities:
		  - {name: me, certificate: $T/certs/$n.pem, key: $T/certs/$n.key, ca: $T/certs/ca.pem}
	EOT
done
cat >>"$dir/one.yaml" <<EOT
listeners:
  - {name: applications, type: tcp, address: "127.0.0.1:9000", cluster: two}
clusters:
  - {name: two, type: tunnel, endpoints: ["10.9.0.2:15008"], authority: "app:9000", expect: ["spiffe://cluster.local/ns/test/sa/two"]}
EOT
cat >>"$dir/two.yaml" <<EOT
listeners:
  - name: tunnels
    type: tunnel
    address: "10.9.0.2:15008"
    accept: ["spiffe://cluster.local/ns/test/sa/one"]
    cluster: application
clusters:
  - {name: application, type: tcp, endpoints: ["127.0.0.1:9000"]}
EOT
agent two 15008
agents=$pid
agent one 9000
agents+=" $pid"
on two "$T/tests/vm/transfer" listen 9000 $bytes >"$dir/server.log" &
server=$!
await 5 grep -q listening "$dir/server.log"
on one "$T/tests/vm/transfer" connect 127.0.0.1 9000 $bytes >"$dir/client.log" || fail "client: $(cat "$dir/client.log")"
wait $server || fail "server: $(cat "$dir/server.log")"
echo "ok 1 - every byte, both ways"

# What the agents say, and what the kernel says. /proc/net/tls_stat counts sockets per namespace since its beginning.
for n in one two; do
	ctl $n tunnel -o json >"$dir/$n.json"
	for way in tx rx; do
		engine=$(json engine_$way <"$dir/$n.json" | head -n 1)
		case $engine in
		ktls)
			counter=Tls$(tr tr TR <<<"${way:0:1}")xSw
			[ "$(on $n awk -v c="$counter" '$1 == c { print $2 }' /proc/net/tls_stat)" -gt 0 ] ||
				fail "$n says ktls, $counter says 0"
			echo "ok - $n $way: kTLS"
			;;
		*) echo "not ok - $n $way: $engine, $(json why <"$dir/$n.json" | head -n 1)" ;;
		esac
	done
	[ "$(on $n awk '/TlsDecryptError/ { print $2 }' /proc/net/tls_stat)" = 0 ] || fail "decrypt errors on $n"
done

for p in $agents; do
	kill "$p"
	wait "$p" || fail "an agent ended with status $?"
done
echo "ok - both agents ended well"
