#!/bin/bash
# A kernel without TLS: the agent says so and what to do, tunnels work in user space, and `ktls: on` refuses to start. The last script:
# the module does not come back.
# take: tests/kernel/ktls_ulp
. ./lib.sh

rmmod tls || skip "the tls module cannot be removed"
./tests/kernel/ktls_ulp >"$dir/ulp" && status=0 || status=$?
[ $status = 77 ] && grep -q 'no tls module' "$dir/ulp" || fail "TCP_ULP: $(cat "$dir/ulp")"
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
  - {name: two, type: tunnel, endpoints: ["10.9.0.2:15008"], authority: "app:9000"}
EOT
cat >>"$dir/two.yaml" <<EOT
listeners:
  - {name: tunnels, type: tunnel, address: "10.9.0.2:15008", cluster: application}
clusters:
  - {name: application, type: tcp, endpoints: ["127.0.0.1:9000"]}
EOT
agent two 15008
agent one 9000
on two "$T/tests/vm/transfer" listen 9000 500000 >"$dir/server.log" &
server=$!
await 5 grep -q listening "$dir/server.log"
on one "$T/tests/vm/transfer" connect 127.0.0.1 9000 500000 >"$dir/client.log" || fail "client: $(cat "$dir/client.log")"
wait $server || fail "server: $(cat "$dir/server.log")"
echo "ok 1 - every byte without kTLS"
ctl one tunnel -o json >"$dir/one.json"
[ "$(json engine_tx <"$dir/one.json")" = user ] || fail "engine: $(cat "$dir/one.json")"
why=$(json why <"$dir/one.json")
case $why in
*modprobe*|*module*) echo "ok 2 - why: $why" ;;
*) echo "not ok 2 - why: $why" ;;
esac
{ cat "$dir/one.yaml"; echo 'kernel: {ktls: on}'; } | sed "s|$dir/one.sock|$dir/three.sock|; s|:9000|:9009|" >"$dir/three.yaml"
timeout 20 "$T/aditd" -f -c "$dir/three.yaml" >"$dir/three.log" 2>&1 && status=0 || status=$?
if [ $status != 0 ] && [ $status != 143 ] && grep -qi 'modprobe tls' "$dir/three.log"; then
	echo "ok 3 - ktls: on refuses: $(tail -n 1 "$dir/three.log")"
else
	echo "not ok 3 - ktls: on: status $status, $(tail -n 3 "$dir/three.log")"
fi
