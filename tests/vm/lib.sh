# For the scripts tests/vm/NN-name.sh, each of which is one test on every kernel (`make test-vm`; one alone: ONLY=name).
#
# A script runs as root in a virtual machine (scripts/vm; its help says what is there), in a folder that mirrors build/:
# aditd, aditctl, tests/kernel/*, tests/bpf/*, tests/vm/* (the programs made from the C files beside this one), bpf/*.bpf.o; and
# certs/ has ca.pem, and .pem and .key of the identities one, two and other. Begin it with
#
#	#!/bin/bash
#	# What it shows.
#	# take: tests/unit/test_ktls nc	more of build/, made if need be, or programs of the host; ip, ss, curl, openssl,
#	#				nsenter, setpriv are there
#	# limit: 60			seconds, on one kernel; 120 unless said (emulated: 10 to 50 times slower)
#	# kernels: 6.12			unless it is for all
#	. ./lib.sh
#
# Exit status 0 is passed, 77 skipped (the last line is the reason), all else failed; or print TAP lines ("ok 1 - what"), which are
# counted one by one. What is still running at the end is killed, namespaces are deleted; mounts, modules, sysctls and files
# outside of $dir stay as they are left. Encryption runs at some 10 MB/s.
set -euo pipefail

dir=$(mktemp -d /tmp/test.XXXXXX)
T=$PWD

fail()
{
	echo "FAILED: $*"
	tail -n 30 "$dir"/*.log 2>/dev/null || true
	exit 1
}
trap 'fail "line $LINENO: $BASH_COMMAND"' ERR

skip()
{
	echo "$*"
	exit 77
}

await()	# SECONDS COMMAND...: until the command succeeds
{
	local end=$((SECONDS + $1))

	shift
	while ! "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || fail "did not come: $*"
		sleep 0.1
	done
}

nodes()	# NAME...: network namespaces, all pairs of neighbours joined by a cable: 10.9.N.1 on the left and 10.9.N.2 on the right
{
	local n=0 left=

	for node; do
		ip netns add "$node"
		ip -n "$node" link set lo up
		if [ -n "$left" ]; then
			ip link add "r$n" netns "$left" type veth peer name "l$n" netns "$node"
			ip -n "$left" addr add "10.9.$n.1/24" dev "r$n"
			ip -n "$left" link set "r$n" up
			ip -n "$node" addr add "10.9.$n.2/24" dev "l$n"
			ip -n "$node" link set "l$n" up
			n=$((n + 1))
		fi
		left=$node
	done
}

on()	# NODE COMMAND...; unlike ip netns exec it keeps /sys, with cgroups and bpffs
{
	nsenter --net="/run/netns/$1" -- "${@:2}"
}

listens()	# NODE PORT; a process that ended is not waited for
{
	[ -z "${pid:-}" ] || kill -0 "$pid" 2>/dev/null || fail "ended instead of listening on port $2"
	on "$1" awk -v p="$(printf ':%04X' "$2")" '$4 == "0A" && index($2, p) { f = 1 } END { exit !f }' /proc/net/tcp /proc/net/tcp6
}

agent()	# NODE PORT...: start aditd with $dir/NODE.yaml, wait until it listens there; its pid is $pid
{
	local node=$1 p

	shift
	(exec nsenter --net="/run/netns/$node" -- "$T/aditd" -f -c "$dir/$node.yaml") >"$dir/$node.log" 2>&1 &
	pid=$!
	for p; do
		await 60 listens "$node" "$p"
	done
	await 10 test -S "$dir/$node.sock"
}

ctl()	# NODE ARGUMENTS...
{
	"$T/aditctl" -s "$dir/$1.sock" "${@:2}"
}

json()	# KEY: the values of that key in the JSON on standard input, one per line
{
	sed 's/[{,]"/\n"/g' | sed -n "s/^[ \t]*\"$1\": *//p" | sed 's/[], \t}]*$//; s/^"\(.*\)"$/\1/'
}
