#!/bin/bash
# Capture and steering on this kernel: the original destination, getpeername, both families, the agent away and back, no loops; a
# reuseport group behind sk_lookup.
# limit: 120
. ./lib.sh

nodes one
vip=10.99.0.1
on one ip addr add $vip/32 dev lo
on one ip addr add fd99::1/128 dev lo nodad
on one ip route add local 10.88.0.0/16 dev lo
group=$(sed -n 's/^0:://p' /proc/self/cgroup)/app
mkdir "/sys/fs/cgroup$group"
for n in direct caught; do
	mkdir "$dir/$n"
	echo $n >"$dir/$n/index.html"
done
on one busybox httpd -f -p $vip:80 -h "$dir/direct" &
on one busybox httpd -f -p '[fd99::1]:80' -h "$dir/direct" &
on one busybox httpd -f -p 127.0.0.1:8080 -h "$dir/caught" &
cat >"$dir/one.yaml" <<EOT
node: {id: one}
workers: 4
admin: {socket: $dir/one.sock}
access_log: {path: $dir/access.json}
kernel: {pin: /sys/fs/bpf/test-capture}
listeners:
  - {name: outbound, type: tcp, address: "127.0.0.1:15001", cluster: caught, capture: {cgroups: ["$group"], to: ["10.99.0.0/16:80-81", "fd99::/16"], when_away: closed}}
  - {name: transparent, type: tcp, address: "127.0.0.1:15002", cluster: anywhere, capture: {ports: [82], cgroups: [/]}}
  - {name: inbound, type: tcp, address: "127.0.0.1:15006", spread: connection, cluster: caught, steer: {to: ["10.88.0.0/16"], ports: [7000-7010]}}
clusters:
  - {name: caught, type: tcp, endpoints: ["127.0.0.1:8080"]}
  - {name: anywhere, type: original_dst, destinations: ["10.99.0.0/16"]}
EOT

ask()	# URL: what answers, and what getpeername says; run in the cgroup by app
{
	curl -sS --http1.1 --max-time 10 -w '%{remote_ip} %{remote_port}' "$1" 2>&1 | tr '\n' ' '
}
export -f ask

app()	# URL
{
	on one bash -c "echo \$\$ >/sys/fs/cgroup$group/cgroup.procs; ask $1"
}

is()	# WHAT WANTED GOT
{
	if [ "$2" = "$3" ]; then
		echo "ok - $1"
	else
		echo "not ok - $1: wanted '$2', got '$3'"
		tail -n 5 "$dir/one.log"
	fi
}

agent one 15001 15002 15006
is "another cgroup" "direct $vip 80" "$(on one bash -c "ask http://$vip/")"
is "captured" "caught $vip 80" "$(app http://$vip/)"
is "an address that nobody has" "caught 10.99.200.1 81" "$(app http://10.99.200.1:81/)"
is "IPv6 to an IPv4 listener" "caught fd99::1 80" "$(app 'http://[fd99::1]/')"
on one busybox httpd -f -p $vip:82 -h "$dir/direct" &
await 5 listens one 82
is "what the agent dials is not captured" "direct $vip 82" "$(app http://$vip:82/)"
sleep 0.3
is "original destinations" "$vip:80 10.99.200.1:81 [fd99::1]:80 $vip:82" "$(json original_dst <"$dir/access.json" | xargs)"
is "counted" 4 "$(ctl one stats -o json | json captured)"

kill -9 $pid
wait $pid 2>/dev/null || true
case $(app http://$vip/) in
*direct*) echo "not ok - closed: connected past the agent" ;;
*"Failed to connect"*) echo "ok - closed: refused while the agent is away" ;;
*) echo "not ok - closed: neither refused nor connected" ;;
esac
is "open: direct while the agent is away" "direct $vip 82" "$(app http://$vip:82/)"
pid=
rm "$dir/one.sock"
agent one 15001 15002 15006
is "captured again" "caught $vip 80" "$(app http://$vip/)"

got=$(on one curl -sS --max-time 20 "http://10.88.3.[1-32]:700[0-3]/" | sort | uniq -c | xargs)
is "steered" "128 caught" "$got"
is "another port" 7 "$(on one curl -sS --max-time 10 http://10.88.3.1:7011/ 2>/dev/null >&2 || echo $?)"
ctl one kernel -o json | tr -d '\n' | sed 's/}/}\n/g' | grep -E '"name": "(capture|steer)"'
kill $pid
wait $pid || fail "the agent ended with status $?"
is "the closed rule stays" yes "$([ -d /sys/fs/bpf/test-capture/capture-v2 ] && echo yes)"
rm -r /sys/fs/bpf/test-capture
is "removed by hand" "direct $vip 80" "$(app http://$vip/)"
