#!/bin/bash
# Several identities on this kernel: whose a connection is by uid, by cgroup, by what the capture noted and by address; who cannot be told.
# take: tests/unit/test_owner tests/unit/test_cgroups
# limit: 120
. ./lib.sh

tests/unit/test_owner >"$dir/owner.log" 2>&1 || fail "test_owner: $(cat "$dir/owner.log")"
echo "ok - the kernel says whose a socket is: $(grep question: "$dir/owner.log")"
tests/unit/test_cgroups >"$dir/cgroups.log" 2>&1 || fail "test_cgroups: $(cat "$dir/cgroups.log")"
echo "ok - and where its cgroup is: $(grep 'first time' "$dir/cgroups.log")"

nodes one
top=$(sed -n 's/^0:://p' /proc/self/cgroup)
top=${top%/}
mkdir "/sys/fs/cgroup$top/shop" "/sys/fs/cgroup$top/shop/web" "$dir/www"
echo hello >"$dir/www/index.html"
on one busybox httpd -f -p 127.0.0.1:80 -h "$dir/www" &
id()	# NAME
{
	echo "{name: $1, certificate: $T/certs/$1.pem, key: $T/certs/$1.key, ca: $T/certs/ca.pem}"
}
cat >"$dir/one.yaml" <<EOT
node: {id: one}
workers: 1
admin: {socket: $dir/one.sock}
access_log: {path: $dir/access.json}
kernel: {pin: /sys/fs/bpf/test-workloads}
identities: [$(id one), $(id two)]
workloads:
  - {name: web, identity: two, match: {cgroups: $top/shop}}
  - {name: user, identity: one, match: {uids: 1001}}
listeners:
  - {name: out, type: tcp, address: "127.0.0.1:7001", cluster: far}
  - {name: captured, type: tcp, address: "127.0.0.1:7002", cluster: far, capture: {cgroups: [/], to: [10.99.0.0/16]}}
  - {name: in, type: tunnel, address: "127.0.0.1:15008", identity: one, access_log: false, cluster: web}
clusters:
  - {name: far, type: tunnel, endpoints: ["127.0.0.1:15008"], identity: workload, authority: "web.test:80"}
  - {name: web, type: tcp, endpoints: ["127.0.0.1:80"]}
EOT

ask()	# URL
{
	curl -sS --http1.1 --max-time 20 "$1" 2>/dev/null | tr -d '\n'
}
export -f ask

in_cgroup()	# URL
{
	on one bash -c "echo \$\$ >/sys/fs/cgroup$top/shop/web/cgroup.procs; ask $1" || true
}

as_user()	# URL
{
	on one setpriv --reuid 1001 --clear-groups bash -c "ask $1" || true
}

is()	# WHAT WANTED GOT
{
	if [ "$2" = "$3" ]; then
		echo "ok - $1"
	else
		echo "not ok - $1: wanted '$2', got '$3'"
		tail -n 5 "$dir/one.log" "$dir/access.json"
	fi
}

last()	# KEY: of the last line of the access log
{
	sleep 0.3
	tail -n 1 "$dir/access.json" | json "$1"
}

agent one 7001 7002 15008
is "by uid" hello "$(as_user http://127.0.0.1:7001/)"
is "it is the user's" "user 0" "$(last src_workload) $(ctl one stats -o json | json captured)"
is "by cgroup" hello "$(in_cgroup http://127.0.0.1:7001/)"
is "it is the cgroup's" web "$(last src_workload)"
is "captured, by uid" hello "$(as_user http://10.99.0.1/)"
is "it is the user's, too" user "$(last src_workload)"
is "captured, by cgroup" hello "$(in_cgroup http://10.99.0.1/)"
is "it is the cgroup's, too" web "$(last src_workload)"
is "the kernel was asked for those that were not captured" "2 2" "$(ctl one stats -o json | json workload_asked) $(ctl one stats -o json | json captured)"
is "two tunnels" 2 "$(ctl one tunnel -o json | json dir | grep -c out)"
is "nobody's is refused" "" "$(on one bash -c 'ask http://127.0.0.1:7001/' || true)"
is "and counted" 1 "$(ctl one stats -o json | json workload_refused)"
kill $pid
wait $pid || fail "the agent ended with status $?"
