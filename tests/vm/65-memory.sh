#!/bin/bash
# Memory of a cgroup v2, where sockets' buffers are charged: peers that never read, and a flood of handshakes. Nobody is killed, who was
# there before keeps every byte, and it is over when they leave.
# limit: 200
. ./lib.sh

PATH=$PATH:$T/tests/vm

mib=40
group=/sys/fs/cgroup/small
echo +memory >/sys/fs/cgroup/cgroup.subtree_control
mkdir $group
echo ${mib}M >$group/memory.max
cat >"$dir/aditd.yaml" <<-EOT
	node: {id: one}
	workers: 2
	admin: {socket: $dir/sock}
	overload: {idle: 3s, cpu: {refuse: 0, pause: 0}}
	identities: [{name: me, certificate: $T/certs/one.pem, key: $T/certs/one.key, ca: $T/certs/ca.pem}]
	listeners:
	  - {name: good, type: tcp, address: "127.0.0.1:9000", cluster: good}
	  - {name: bad, type: tcp, address: "127.0.0.1:9001", cluster: endless}
	  - {name: tunnels, type: tunnel, address: "127.0.0.1:15008", cluster: good}
	clusters:
	  - {name: good, type: tcp, endpoints: ["127.0.0.1:8000"]}
	  - {name: endless, type: tcp, endpoints: ["127.0.0.1:8001"]}
EOT
flood source 8001 >"$dir/source.log" &
transfer listen 8000 3000000 2 >"$dir/listen.log" &
await 20 grep -q listening "$dir/source.log"
await 20 grep -q listening "$dir/listen.log"
(echo $BASHPID >$group/cgroup.procs && exec aditd -c "$dir/aditd.yaml" 2>"$dir/aditd.log") &
agent=$!
await 30 aditctl -s "$dir/sock" status

status()	# JSON member of the status' overload
{
	aditctl -s "$dir/sock" status -o json | tr -d ' \n' | sed "s/.*\"overload\"://; s/.*\"$1\":\"\{0,1\}\([a-z_0-9]*\).*/\1/"
}

counted()	# NAME: a counter
{
	aditctl -s "$dir/sock" stats "$1" -o json | sed -n "s/.*\"$1\": \([0-9]*\).*/\1/p"
}

calm()
{
	aditctl -s "$dir/sock" status | grep -q '^overload  *none'
}

alive()
{
	kill -0 $agent || fail "the agent is gone"
	grep -q '^oom_kill 0$' $group/memory.events || fail "somebody was killed: $(cat $group/memory.events)"
}

[ "$(status limit)" != "" ] || fail "no status"
aditctl -s "$dir/sock" status | grep -q "of the cgroup's ${mib}M" || fail "the limit is not seen: $(aditctl -s "$dir/sock" status)"

transfer connect 127.0.0.1 9000 3000000 2 >"$dir/old.log" 2>&1 &
old=$!
flood hold 127.0.0.1 9001 60 60 >"$dir/hold.log" &
held=$!
most=0
for ((i = 0; i < 60; i++)); do
	now=$(sed -n 's/^sock //p' $group/memory.stat)
	[ "$now" -gt $most ] && most=$now
	sleep 0.25
done
alive
echo "sockets held $((most >> 10)) KiB at the most; $(cat $group/memory.peak 2>/dev/null) bytes charged in all; closed: $(counted overload_closed)"
[ $most -gt 4000000 ] || fail "sockets were not charged: this shows nothing"
grep 'overload of memory:' "$dir/aditd.log" | head -n 3 || true	# bounded buffers usually keep it below the first step
wait $old || fail "the old connection: $(cat "$dir/old.log")"
kill $held 2>/dev/null || true
wait $held
await 40 calm
alive

flood hold 127.0.0.1 15008 1500 40 >"$dir/hold2.log" &
held=$!
await 60 grep -q made "$dir/hold2.log"
sleep 2
alive
echo "handshakes: $(cat "$dir/hold2.log"), refused: $(counted overload_refused)"
[ "$(counted overload_refused)" -gt 0 ] || fail "none was refused"
kill $held 2>/dev/null || true
wait $held
await 60 calm
alive
kill $agent
wait $agent || fail "ended with $?"
