#!/bin/bash
# What aditctl kernel says on this kernel: every means is on, the bypass has tested itself; and without rights the agent says what is
# missing and works all the same.
. ./lib.sh

config()	# NAME MORE-OF-KERNEL
{
	cat >"$dir/$1.yaml" <<-EOT
		node: {id: $1}
		workers: 1
		admin: {socket: $dir/$1.sock}
		kernel: {pin: none, $2}
		listeners:
		  - {name: in, type: tcp, address: "127.0.0.1:9000", cluster: app$3}
		  - {name: as-client, type: tcp, address: "127.0.0.1:9002", cluster: as-client}
		clusters:
		  - {name: app, type: tcp, endpoints: ["127.0.0.1:9001"]}
		  - {name: as-client, type: tcp, endpoints: ["127.0.0.1:9001"], source: client}
	EOT
}

row()	# NODE MEANS KEY
{
	awk -v name="\"name\": \"$2\"," '/^ *[{]/ { here = 0 } index($0, name) { here = 1 } here' "$dir/$1.json" | json "$3" | head -n 1
}

nodes one
# ---- with all rights

config one 'ktls: on, bypass: {enabled: true, evidence: on, allow: [{ports: [9000, 9001]}]}' \
	', capture: {to: ["192.0.2.0/24"]}, steer: {ports: [9100-9110]}'
agent one 9000
ctl one kernel -o json >"$dir/one.json"
for m in bypass evidence capture steer splice ktls netlink transparent; do
	state=$(row one $m state)
	if [ "$state" = on ]; then
		echo "ok - $m is on: $(row one $m detail)"
	else
		echo "not ok - $m is $state: $(row one $m why)"
	fi
done
case $(row one bypass detail) in
*'self-test passed'*) echo "ok - the bypass passed its self-test" ;;
*) echo "not ok - no self-test" ;;
esac
kill "$pid"
wait "$pid" || fail "the agent ended with status $?"

# ---- with none

config two 'ktls: auto, bypass: {enabled: true, allow: [{ports: [9000, 9001]}]}' \
	', capture: {to: ["192.0.2.0/24"]}, steer: {ports: [9100-9110]}'
chmod 1777 "$dir"
ip netns add two
ip -n two link set lo up
(exec nsenter --net=/run/netns/two -- setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs --bounding-set=-all \
	"$T/aditd" -f -c "$dir/two.yaml") >"$dir/two.log" 2>&1 &
pid=$!
await 60 listens two 9000
await 10 test -S "$dir/two.sock"
ctl two kernel -o json >"$dir/two.json"
for m in bypass capture steer transparent; do
	why=$(row two $m why)
	case $(row two $m state):$why in
	missing:*CAP_*) echo "ok - without rights $m is missing: $why" ;;
	*) echo "not ok - without rights $m is $(row two $m state): $why" ;;
	esac
done
on two "$T/tests/vm/transfer" listen 9001 300000 >"$dir/server.log" &
server=$!
await 5 grep -q listening "$dir/server.log"
on two "$T/tests/vm/transfer" connect 127.0.0.1 9000 300000
wait $server || fail "server"
echo "ok - and every byte goes through"
kill "$pid"
wait "$pid" || fail "the agent without rights ended with status $?"
