#!/bin/bash
# Two nodes with everything at once: applications connect to the service's own address and are captured, the tunnel is sealed by the
# kernel, the second node's chain leads through an internal listener; on the same node the bypass carries. Every byte is looked at.
# limit: 240
. ./lib.sh

bytes=3000000
here=$(sed -n 's/^0:://p' /proc/self/cgroup)
mkdir /sys/fs/cgroup"$here"/app
nodes one two
for n in one two; do
	cat >"$dir/$n.yaml" <<-EOT
		node: {id: $n, namespace: test}
		workers: 1
		admin: {socket: $dir/$n.sock}
		access_log: {path: $dir/$n.access}
		kernel:
		  pin: none
		  ktls: on
		  bypass: {enabled: true, allow: [{ports: [7100, 9100]}]}
		identities:
		  - {name: me, certificate: $T/certs/$n.pem, key: $T/certs/$n.key, ca: $T/certs/ca.pem}
	EOT
done
cat >>"$dir/one.yaml" <<EOT
listeners:
  - {name: outbound, type: tcp, address: "127.0.0.1:15001", cluster: two, capture: {cgroups: ["$here/app"], to: ["10.96.0.0/16"]}}
  - {name: near, type: tcp, address: "127.0.0.1:7100", cluster: near}
clusters:
  - {name: two, type: tunnel, endpoints: ["10.9.0.2:15008"]}
  - {name: near, type: tcp, endpoints: ["127.0.0.1:9100"]}
EOT
cat >>"$dir/two.yaml" <<EOT
listeners:
  - name: tunnels
    type: tunnel
    address: "10.9.0.2:15008"
    routes:
      - {name: service, match: {authority: "10.96.0.10:7000"}, listener: audit}
  - {name: audit, type: internal, cluster: application}
clusters:
  - {name: application, type: tcp, endpoints: ["127.0.0.1:9000"]}
EOT
agent two 15008
agents=$pid
agent one 15001 7100
agents+=" $pid"

carry()	# SERVER-NODE PORT COMMAND-PREFIX ADDRESS PORT
{
	on "$1" "$T/tests/vm/transfer" listen "$2" $bytes >"$dir/server.log" &
	local server=$!
	await 5 grep -q listening "$dir/server.log"
	"$3" one "$T/tests/vm/transfer" connect "$4" "$5" $bytes >"$dir/client.log" || fail "client: $(cat "$dir/client.log")"
	wait $server || fail "server: $(cat "$dir/server.log")"
}

captured()	# NODE COMMAND...: in the captured cgroup
{
	(echo $BASHPID >/sys/fs/cgroup"$here"/app/cgroup.procs; on "$@")
}

carry two 9000 captured 10.96.0.10 7000
echo "ok 1 - captured at the service's own address, every byte"
for n in one two; do
	ctl $n tunnel -o json >"$dir/$n.json"
	engines=$(json engine_tx <"$dir/$n.json" | head -n 1)/$(json engine_rx <"$dir/$n.json" | head -n 1)
	if [ "$engines" = ktls/ktls ]; then
		echo "ok - $n: the kernel seals and opens"
	else
		echo "not ok - $n: engines $engines, $(json why <"$dir/$n.json" | head -n 1)"
	fi
done
await 5 grep -q outbound "$dir/one.access"
grep outbound "$dir/one.access" | grep -q '10.96.0.10:7000' || fail "no original destination in the access log: $(cat "$dir/one.access")"
grep -q 'audit' "$dir/two.access" || fail "node two's chain: $(cat "$dir/two.access")"
echo "ok - original destination and chain are in the access logs"

carry one 9100 on 127.0.0.1 7100
echo "ok - on the same node, every byte"
await 5 grep -q '"near"' "$dir/one.access"
mover=$(grep '"near"' "$dir/one.access" | json mover)
ctl one kernel -o json >"$dir/kernel.json"
joins=$(json joins <"$dir/kernel.json")
[ "$joins" -ge 1 ] && echo "ok - the bypass joined it (most bytes by: $mover)" ||
	echo "not ok - not joined: $(grep '"near"' "$dir/one.access"); $(tr -d '\n' <"$dir/kernel.json")"

for p in $agents; do
	kill "$p"
	wait "$p" || fail "an agent ended with status $?"
done
echo "ok - both agents ended well"
