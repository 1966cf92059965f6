#!/bin/bash
# What a gigabyte through a tunnel costs in system calls, copies and records, by engine: run in a virtual machine (scripts/vm), whose
# kernel has TLS. Counts only: an emulated machine says nothing about speed. Prints one line per variant, TAB-separated.
. ./lib.sh

bytes=${1:-24000000}
nodes one two

variant()	# NAME KERNEL-SECTION
{
	local n pids=

	for n in one two; do
		cat >"$dir/$n.yaml" <<-EOT
			node: {id: $n}
			workers: 1
			state_dir: none
			admin: {socket: $dir/$n.sock}
			kernel: $2
			identities:
			  - {name: me, certificate: $T/certs/$n.pem, key: $T/certs/$n.key, ca: $T/certs/ca.pem}
		EOT
	done
	cat >>"$dir/one.yaml" <<-EOT
		listeners:
		  - {name: applications, type: tcp, address: "127.0.0.1:9000", cluster: two}
		clusters:
		  - {name: two, type: tunnel, endpoints: ["10.9.0.2:15008"], authority: "app:9000", pool: {idle_timeout: 3s}}
	EOT
	cat >>"$dir/two.yaml" <<-EOT
		listeners:
		  - {name: tunnels, type: tunnel, address: "10.9.0.2:15008", cluster: application}
		clusters:
		  - {name: application, type: tcp, endpoints: ["127.0.0.1:9000"]}
	EOT
	agent two 15008
	pids=$pid
	agent one 9000
	pids+=" $pid"
	on two "$T/tests/vm/transfer" listen 9000 "$bytes" >"$dir/server.log" &
	n=$!
	await 5 grep -q listening "$dir/server.log"
	on one "$T/tests/vm/transfer" connect 127.0.0.1 9000 "$bytes" >"$dir/client.log" || fail "client: $(cat "$dir/client.log")"
	wait "$n" || fail "server: $(cat "$dir/server.log")"
	ctl one tunnel -o json >"$dir/one.json"
	sleep 4 # the kernel's records are asked for at the end of a tunnel
	{ ctl one stats -o json; ctl two stats -o json; } | tr '{},' '\n\n\n' >"$dir/stats"
	awk -v name="$1" -v payload=$((2 * bytes)) -v engine="$(json engine <"$dir/one.json" | head -n 1)" '
		{ gsub(/[",:]/, " ") }
		NF == 2 { sum[$1] += $2 }
		END {
			gb = payload / 1e9
			moved = sum["local_received_bytes"] + sum["local_sent_bytes"] + sum["tunnel_received_bytes"] + sum["tunnel_sent_bytes"]
			calls = sum["syscalls_recv"] + sum["syscalls_send"] + sum["syscalls_splice"] + sum["syscalls_epoll_wait"] + sum["syscalls_other"]
			printf "COUNT\t%s\t%s\t%.0f\t%.0f\t%.0f\t%.2f\t%.0f\n", name, engine, calls / gb, (sum["syscalls_recv"] + sum["syscalls_send"]) / gb,
				sum["syscalls_splice"] / gb, (moved - 2 * sum["spliced_bytes"]) / payload, (sum["tls_records_sent"]) / gb
		}' "$dir/stats"
	for n in $pids; do
		kill "$n"
		wait "$n" || fail "an agent ended with status $?"
	done
}

variant "user" "{ktls: off, splice: off}"
variant "ktls, copied" "{ktls: on, splice: off}"
variant "ktls, spliced" "{ktls: on, splice: on}"
