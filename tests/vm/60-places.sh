#!/bin/bash
# Where connections are made and as whom, on this kernel: other network namespaces, the client's address at the upstream (same
# namespace, another one, across a link), PROXY headers, the short way.
# take: tc
# limit: 120
. ./lib.sh

nodes client middle server
on server ip route add default via 10.9.1.1
on client ip -6 addr add fd99::1/64 dev r0 nodad
on middle ip -6 addr add fd99::2/64 dev l0 nodad
on middle ip addr add 10.80.0.1/32 dev lo
ip netns add there
ip -n there link set lo up
mkdir "$dir/www"
echo hello >"$dir/www/index.html"
web()	# NODE ADDRESS: says who asks in $dir/NODE.txt
{
	on "$1" busybox httpd -f -vv -p "$2" -h "$dir/www" 2>>"$dir/$1.txt" &
}
web server 10.9.1.2:80
web middle 127.0.0.1:80
web middle '[::1]:80'
web there 127.0.0.1:80
cat >"$dir/middle.yaml" <<EOT
node: {id: middle}
workers: 2
admin: {socket: $dir/middle.sock}
access_log: {path: $dir/access.json}
identities:
  - {name: one, certificate: $T/certs/one.pem, key: $T/certs/one.key, ca: $T/certs/ca.pem}
listeners:
  - {name: across, type: tcp, address: "10.9.0.2:7001", cluster: across}
  - {name: here, type: tcp, address: "10.9.0.2:7002", cluster: here}
  - {name: there, type: tcp, address: "10.9.0.2:7003", cluster: there}
  - {name: here6, type: tcp, address: "[fd99::2]:7002", cluster: here6}
  - {name: inside, type: tcp, address: "127.0.0.1:7004", netns: there, cluster: plain}
  - {name: headed, type: tcp, address: "10.9.0.2:7005", cluster: headed}
  - {name: header, type: tcp, address: "127.0.0.1:7006", cluster: here, proxy_protocol: true, proxy_from: [127.0.0.1]}
  - {name: to-us, type: tcp, address: "10.9.0.2:7007", cluster: us}
  - {name: us, type: tunnel, address: "0.0.0.0:15008", identity: one, cluster: plain}
clusters:
  - {name: across, type: tcp, endpoints: ["10.9.1.2:80"], source: client}
  - {name: here, type: tcp, endpoints: ["127.0.0.1:80"], source: client}
  - {name: here6, type: tcp, endpoints: ["[::1]:80"], source: client}
  - {name: there, type: tcp, endpoints: ["127.0.0.1:80"], source: client, netns: there}
  - {name: plain, type: tcp, endpoints: ["127.0.0.1:80"]}
  - {name: headed, type: tcp, endpoints: ["127.0.0.1:7006"], proxy_protocol: v2}
  - {name: us, type: tunnel, endpoints: ["10.80.0.1:15008"], identity: one, authority: "web.test:80"}
EOT

ask()	# NODE PORT [HOST]
{
	on "$1" curl -sS --http1.1 --max-time 20 "http://${3:-10.9.0.2}:$2/" 2>&1 | tr -d '\n'
}

is()	# WHAT WANTED GOT
{
	if [ "$2" = "$3" ]; then
		echo "ok - $1"
	else
		echo "not ok - $1: wanted '$2', got '$3'"
		tail -n 5 "$dir/middle.log" "$dir"/*.txt
	fi
}

who()	# NODE: who asked last, without the port
{
	sleep 0.3
	sed -n 's/^\(.*\):[0-9]*: response:.*/\1/p' "$dir/$1.txt" | tail -n 1
}

before=$(on middle sh -c 'ip rule; ip -6 rule')
agent middle 7001 7002 7003 7005 7006 7007 15008
is "across a link" hello "$(ask client 7001)"
is "the server sees the client" 10.9.0.1 "$(who server)"
is "in the same namespace" hello "$(ask client 7002)"
is "which sees the client, too" 10.9.0.1 "$(who middle)"
is "IPv6" hello "$(ask client 7002 '[fd99::2]')"
is "sees the client, too" '[fd99::1]' "$(who middle)"
is "dialled from another namespace" hello "$(ask client 7003)"
is "sees the client there" 10.9.0.1 "$(who there)"
is "refused at once" 7 "$(on client curl -sS --max-time 20 http://10.9.0.2:7009/ 2>/dev/null >&2 || echo $?)"
is "a listener in another namespace" hello "$(ask there 7004 127.0.0.1)"
is "by PROXY headers" hello "$(ask client 7005)"
is "which say who it is" 10.9.0.1 "$(who middle)"
is "headers taken" 1 "$(ctl middle stats -o json | json proxy_headers)"
is "a tunnel to ourselves" hello "$(ask client 7007)"
is "is the short way" 1 "$(ctl middle stats -o json | json shortcuts)"
ctl middle kernel -o json | tr -d '\n' | sed 's/}/}\n/g' | grep '"name": "transparent"'
is "filters" 2 "$(for d in l0 r1; do on middle tc filter show dev $d ingress; done | grep -c direct-action)"

ip netns del there
await 10 grep -q "namespace 'there' was removed" "$dir/middle.log"
is "the others go on" hello "$(ask client 7002)"
kill $pid
wait $pid || fail "the agent ended with status $?"
is "rules are gone" "$before" "$(on middle sh -c 'ip rule; ip -6 rule')"
is "filters are gone" 0 "$(for d in l0 r1; do on middle tc filter show dev $d ingress; done | grep -c direct-action || true)"
