#!/bin/bash
# The package under a real systemd: installed, started, reloaded, killed, stuck, upgraded, drained, removed, purged. Not run with the
# others, but by `tests/run system` in the machine of scripts/vm -S, in a folder with adit_1.deb, adit_2.deb (the same, called a later
# version), certs/ and tests/vm/knock. It prints TAP; what went wrong is behind a "not ok".
set -uo pipefail

knock=$PWD/tests/vm/knock
unit=aditd.service
conf=/etc/adit/conf.d/test.yaml
failed=0

ok()	# WHAT COMMAND...
{
	local what=$1

	shift
	if "$@" >/tmp/said 2>&1; then
		echo "ok - $what"
	else
		echo "not ok - $what"
		{ echo "$*:"; cat /tmp/said; } | tail -n 12 | sed 's/^/  /'
		failed=1
	fi
}

is()	# WHAT WANTED GOT
{
	if [[ $3 == @($2) ]]; then	# alternatives have a | between
		echo "ok - $1"
	else
		echo "not ok - $1: wanted '$2', got '$3'"
		failed=1
	fi
}

await()	# SECONDS COMMAND...
{
	local end=$((SECONDS + $1))

	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || { echo "did not come: $*"; return 1; }
		sleep 0.2
	done
}

prop()	# NAME: of the unit
{
	systemctl show -P "$1" $unit
}

phase()
{
	echo "# $1 at $(cut -d ' ' -f 1 /proc/uptime) s"
}

started()	# OLD-PID: is it running, ready, and another process than that?
{
	[ "$(prop ActiveState)" = active ] && [ "$(prop MainPID)" != "$1" ] && [ "$(prop MainPID)" != 0 ]
}

knocking()	# begin
{
	"$knock" at 127.0.0.1 9000 100 >/tmp/knocks 2>&1 &
	knocker=$!
}

answered()	# end; every knock was answered
{
	kill "$knocker"
	wait "$knocker"
	local status=$?
	cat /tmp/knocks
	return $status
}

captured()	# COMMAND...: as a process of the captured cgroup
{
	(echo "$BASHPID" >/sys/fs/cgroup/app/cgroup.procs && exec "$@")
}

caught()	# is what this cgroup opens carried by the agent?
{
	local before after

	before=$(count)
	captured "$knock" once 10.99.0.1 80 || return
	after=$(count)
	[ "${after:-0}" -gt "${before:-0}" ]
}

count()	# connections captured since the daemon began
{
	aditctl -o json stats captured | awk '/"captured"/ { gsub(/[^0-9]/, ""); print }'
}

# ---- install

phase install
ok "the package installs" dpkg --install adit_1.deb
is "it is started at once" "active" "$(prop ActiveState)"
is "and was ready by its own word" "notify" "$(prop Type)"
pid=$(prop MainPID)
is "a user of its own" "adit adit" "$(stat -c '%U %G' "/proc/$pid")"
is "with four capabilities and no more" "000000c000001400 000000c000001400" \
	"$(awk '/^Cap(Eff|Bnd)/ { print $2 }' "/proc/$pid/status" | xargs)"
is "its folders" "adit:750 adit:750 adit:755 adit:700" \
	"$(stat -c '%U:%a' /var/lib/adit /var/log/adit /run/adit /sys/fs/bpf/adit | xargs)"
ok "aditctl reaches it" aditctl status
is "the kernel's TLS was loaded for it" "*ktls*on*" "$(aditctl kernel | grep ktls)"
is "enabled at boot" "enabled" "$(systemctl is-enabled $unit)"

# ---- a configuration

phase configure
mkdir /sys/fs/cgroup/app
ip addr add 10.99.0.1/32 dev lo
cat >$conf <<'EOT'
workers: 2
timeouts: { drain: 4s }
listeners:
  - { name: door, type: tcp, address: "127.0.0.1:9000", cluster: house }
  - name: caught
    type: tcp
    address: "127.0.0.1:15001"
    cluster: house
    capture: { cgroups: [/app], to: ["10.99.0.0/16:80"], when_away: closed }
clusters:
  - { name: house, type: tcp, endpoints: ["127.0.0.1:9001"] }
EOT
"$knock" serve 9001 >/tmp/serve &
"$knock" serve 80 >/tmp/serve80 &
await 10 grep -q listening /tmp/serve /tmp/serve80
mkdir /etc/systemd/system/$unit.d
printf '[Service]\nWatchdogSec=10s\n' >/etc/systemd/system/$unit.d/watchdog.conf
systemctl daemon-reload
systemctl restart $unit
pid=$(prop MainPID)
ok "a restart with a configuration" "$knock" once 127.0.0.1 9000
ok "captured" caught
is "pinned where the unit says" "/sys/fs/bpf/adit/capture-v*" "$(ls -d /sys/fs/bpf/adit/capture-v*)"

# ---- reload

phase reload
knocking
sed -i 's/^clusters:/  - { name: second, type: tcp, address: "127.0.0.1:9002", cluster: house }\n&/' $conf
ok "systemctl reload" systemctl reload $unit
ok "takes what is new" "$knock" once 127.0.0.1 9002
echo 'nonsense: true' >>$conf
is "a wrong one is refused" "1" "$(systemctl reload $unit 2>/dev/null; echo $?)"
sed -i '/nonsense/d' $conf
ok "and all goes on" "$knock" once 127.0.0.1 9002
ok "nobody was refused meanwhile" answered
is "the same process" "$pid" "$(prop MainPID)"

# ---- the log

phase rotate
is "the access log has lines" "[1-9]*" "$(grep -c '"listener":"door"' /var/log/adit/access.log)"
ok "it is rotated" logrotate --force /etc/logrotate.d/adit
"$knock" once 127.0.0.1 9000
ok "and written again" await 10 grep -q '"listener":"door"' /var/log/adit/access.log
is "by the same process" "$pid" "$(prop MainPID)"

# ---- killed

phase kill
kill -9 "$pid"
captured "$knock" once 10.99.0.1 80	# there is a server, and no agent: by the kernel's rules nobody may reach it past the agent
status=$?
ok "killed: it is back" await 40 started "$pid"
is "what is captured was refused, or waited for it" "1 0|0 1" "$status $(count)"
ok "listening sockets were kept meanwhile" test "$(prop NFileDescriptorStore)" -ge 3
ok "with its listeners" "$knock" once 127.0.0.1 9000
ok "and captures again" caught

# ---- stuck

phase watchdog
pid=$(prop MainPID)
kill -STOP "$pid"
ok "stuck: killed by the watchdog, and back" await 60 started "$pid"
is "for that reason" "*[Ww]atchdog*" "$(journalctl -b -u $unit --no-pager | grep -i -m 1 watchdog)"

# ---- upgraded

phase upgrade
pid=$(prop MainPID)
knocking
ok "a newer package installs" dpkg --install adit_2.deb
ok "another process runs" await 40 started "$pid"
ok "and serves" "$knock" once 127.0.0.1 9000
ok "the old one is gone after its drain" await 30 test ! -e "/proc/$pid"
ok "nobody was refused meanwhile" answered
ok "and captures still" caught
is "one service" "active running" "$(prop ActiveState) $(prop SubState)"

# ---- what the unit keeps from it until a drop-in allows it

phase drop-ins
cp /usr/share/doc/adit/examples/{bypass,netns}.conf /etc/systemd/system/$unit.d/
ip netns add blue
ip -n blue link set lo up
sed -i 's/^clusters:/  - { name: inside, type: tcp, address: "127.0.0.1:9003", netns: blue, cluster: house }\n&/' $conf
echo 'kernel: { bypass: { enabled: true, allow: [ { ports: [9000, 9001] } ] } }' >>$conf
systemctl daemon-reload
systemctl restart $unit
is "with it it is on" "*on*self-test passed*" "$(aditctl -o wide kernel | grep -m 1 bypass)"
ok "and listeners in other namespaces are" nsenter --net=/run/netns/blue "$knock" once 127.0.0.1 9003
rm /etc/systemd/system/$unit.d/{bypass,netns}.conf
sed -i '/netns: blue/d; /^kernel:/d' $conf
systemctl daemon-reload

# ---- drained

phase drain
"$knock" hold 127.0.0.1 9000 >/tmp/held &
await 10 grep -q open /tmp/held
systemctl stop --no-block $unit
ok "the state says that it drains" await 10 eval '[[ $(prop StatusText) == *[Dd]rain* ]]'
ok "and it ends" await 40 eval '[ "$(prop ActiveState)" = inactive ]'
is "well" "success" "$(prop Result)"
is "what was open had its time" "* after [1-9]???* ms" "$(tail -n 1 /tmp/held)"

# ---- removed

phase remove
systemctl start $unit
ok "the package is removed" dpkg --remove adit
is "nothing runs" "" "$(pgrep -x aditd)"
ok "nothing is captured, nor refused" captured "$knock" once 10.99.0.1 80
is "no pins" "" "$(ls -d /sys/fs/bpf/adit 2>&1 | grep -v 'No such file')"
ok "the configuration stays" test -e /etc/adit/adit.yaml
rm -r $conf /etc/systemd/system/$unit.d
ok "purged" dpkg --purge adit
is "nothing is left" "" "$(find / -xdev \( -path /proc -o -path /t -o -path /tmp \) -prune -o -iname '*adit*' ! -iname '*audit*' -print)"
is "nor its user" "" "$(getent passwd adit; getent group adit)"
is "nor the unit" "not-found" "$(prop LoadState)"

if [ $failed = 1 ]; then
	echo "# the end of the journal:"
	journalctl -b -u $unit --no-pager | tail -n 40 | sed 's/^/  /'
fi
phase end
exit 0
