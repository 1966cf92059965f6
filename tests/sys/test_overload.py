"""Overload: a cgroup's memory, descriptors and CPU run short; what is shed, what goes on, and that it is over afterwards."""
import contextlib
import os
import re
import threading
import time

import pytest

import lib
from test_wire import server_agent

MIB = 1 << 20
ROOTS = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.oom_control", "memory.memsw.limit_in_bytes"),
         ("/sys/fs/cgroup", "memory.max", "memory.events", "memory.swap.max"),
         ("/sys/fs/cgroup/unified", "memory.max", "memory.events", "memory.swap.max")]


class Cgroup:
    """a memory cgroup of version 1 or 2, whichever this machine has"""

    def __init__(self, limit):
        self.dir = None
        for root, limit_file, self.events, swap in ROOTS:
            d = f"{root}/adit-test-{os.getpid()}-{id(self)}"
            try:
                if root != ROOTS[0][0]:
                    with contextlib.suppress(OSError):
                        self.put(f"{root}/cgroup.subtree_control", "+memory")
                os.mkdir(d)
                self.dir = d
                self.put(f"{d}/{limit_file}", str(limit))
            except OSError:
                self.remove()
                continue
            with contextlib.suppress(OSError):
                self.put(f"{d}/{swap}", str(limit if root == ROOTS[0][0] else 0))
            return
        pytest.skip("no memory controller here")

    @staticmethod
    def put(path, text):
        with open(path, "w", encoding="ascii") as f:
            f.write(text)

    def oom_kills(self):
        with open(f"{self.dir}/{self.events}", encoding="ascii") as f:
            return int(re.search(r"^oom_kill (\d+)", f.read(), re.M).group(1))

    def remove(self):
        if self.dir and os.path.isdir(self.dir):
            for _ in range(50):
                try:
                    os.rmdir(self.dir)
                    break
                except OSError:
                    time.sleep(0.1)
        self.dir = None


class Inside:
    """a node whose programs start in a cgroup"""

    def __init__(self, node, group):
        self.node, self.group = node, group

    def __getattr__(self, name):
        return getattr(self.node, name)

    def argv(self, *argv):
        return self.node.argv("sh", "-c", f"echo $$ >{self.group.dir}/cgroup.procs && exec \"$@\"", "sh", *argv)


@pytest.fixture
def group():
    """asked for before `w`, so that the agents inside are gone when it goes"""
    groups = []

    def make(limit):
        groups.append(Cgroup(limit))
        return groups[-1]
    yield make
    for g in groups:
        g.remove()


def overload(agent):
    return agent.ctl("status")["overload"]


def worst(agent, seconds, until=("refuse", "pause")):
    """the levels seen, until one of these; a node that is very busy may answer late"""
    seen, end = [], time.monotonic() + seconds * lib.SLOW
    while time.monotonic() < end:
        level = overload(agent)["level"]
        if level not in seen:
            seen.append(level)
        if level in until:
            break
        time.sleep(0.05)
    return seen


class Steady:
    """old connections that keep talking: every byte must come back"""

    def __init__(self, w, where, n):
        self.socks = [w.app(where) for _ in range(n)]
        self.rounds, self.wrong, self.stop = 0, [], False
        for s in self.socks:
            lib.echo(s)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.stop:
            for i, s in enumerate(self.socks):
                try:
                    lib.echo(s, lib.pattern(5000, self.rounds + i))
                except (OSError, AssertionError) as e:
                    self.wrong.append(f"connection {i} in round {self.rounds}: {e!r}")
                    self.stop = True
            self.rounds += 1
            time.sleep(0.02)

    def end(self):
        self.stop = True
        self.thread.join(20 * lib.SLOW)
        assert not self.wrong, self.wrong
        return self.rounds


def survived(agent, g, before):
    assert agent.proc.poll() is None, agent.log()[-3000:]
    assert g.oom_kills() == before == 0
    row = overload(agent)["memory"]["cgroup"]
    assert row["oom_kill"] == 0 and row["path"].endswith(os.path.basename(g.dir))


def recovers(w, agent, where):
    lib.wait_for(lambda: overload(agent)["level"] == "none", lambda: f"level none again: {overload(agent)}\n{agent.log()[-2000:]}", 25, 0.2)
    lib.echo(w.app(where))


BLOB = lib.pattern(1 << 20, 7)


def serve_endless(c):
    with contextlib.suppress(OSError):
        while True:
            c.sock.sendall(BLOB)


needs_plain = pytest.mark.skipif(bool(lib.SAN), reason="a sanitizer's memory is not the agent's")


@needs_plain
@pytest.mark.slow
@pytest.mark.limit(120)
@pytest.mark.rows("14: overload", "B22", "hostile")
def test_a_flood_of_handshakes_in_a_small_cgroup(group, w, node):
    """3000 peers that connect to the tunnel listener and say nothing: each would cost a handshake's memory"""
    g = group(64 * MIB)
    back = w.backend(node)
    a = w.agent(Inside(node, g), "server", {
        "workers": 2, "identities": [w.certs.identity("server")], "overload": {"idle": "2s"},
        "listeners": [lib.tunnel("inbound", node.at(), "app"), lib.tcp("plain", node.at(), "app")],
        "clusters": [lib.cluster("app", back.where)]})
    tunnel, plain = (x["address"] for x in a.config["listeners"])
    assert overload(a)["memory"]["cgroup"]["limit"] == 64 * MIB
    steady = Steady(w, plain, 5)
    flood = []
    for _ in range(3000):
        with contextlib.suppress(OSError):
            flood.append(node.connect(tunnel, timeout=0.3))
    seen = worst(a, 10)
    assert {"refuse", "pause"} & set(seen) or a.stat("overload_refused") > 0, seen
    survived(a, g, 0)
    for s in flood:
        s.close()
    recovers(w, a, plain)
    assert steady.end() > 0
    survived(a, g, 0)
    a.logged("overload: memory is short")


@needs_plain
@pytest.mark.slow
@pytest.mark.limit(150)
@pytest.mark.rows("14: overload", "B22")
def test_readers_that_do_not_read_in_a_small_cgroup(group, w, node):
    """large streams that nobody reads fill the client agent's queues; those that are read go on, byte for byte"""
    g = group(64 * MIB)
    echo = w.backend(node)
    endless = w.backend(node, serve_endless)
    server = server_agent(w, node, "app", clusters=[lib.cluster("app", echo.where), lib.cluster("endless", endless.where)],
                          inbound={"routes": [lib.route("endless", authority="endless:1")]})
    out, more = node.at(), node.at()
    client = w.agent(Inside(node, g), "client", {
        "workers": 2, "identities": [w.certs.identity("client")], "overload": {"idle": "3s", "memory": {"shrink": "off", "close_idle": "35%"}},
        "limits": {"memory": "1GiB", "stream_window": "1MiB", "stream_window_max": "8MiB"},
        "listeners": [lib.tcp("outbound", out, "far"), lib.tcp("more", more, "far-endless")],
        "clusters": [lib.far("far", server.tunnel, authority="app:1"), lib.far("far-endless", server.tunnel, authority="endless:1")]})
    steady = Steady(w, out, 5)
    stuck = []
    for _ in range(80):
        with contextlib.suppress(OSError):
            stuck.append(node.connect(more, timeout=1, SO_RCVBUF=4096))
    seen = worst(client, 20, ("close_idle", "refuse", "pause"))
    assert {"shrink", "close_idle", "refuse", "pause"} & set(seen), (seen, overload(client))
    survived(client, g, 0)
    closed = client.until("overload_closed", lambda v: v > 0, 30)
    assert closed
    assert steady.end() > 0
    rows = client.access(1, response_flags="OM")
    assert rows[0]["closed_by"] == "adit"
    for s in stuck:
        s.close()
    recovers(w, client, out)
    survived(client, g, 0)


@needs_plain
@pytest.mark.slow
@pytest.mark.limit(120)
@pytest.mark.rows("14: overload", "B22")
def test_many_connections_in_a_small_cgroup(group, w, node):
    """more connections than there is memory for: those that are in stay, the others are refused, and it is over when they leave"""
    g = group(48 * MIB)
    back = w.backend(node)
    a = w.agent(Inside(node, g), "plain", {
        "workers": 2, "overload": {"idle": "1h"}, "access_log": {"path": "/dev/null"},
        "listeners": [lib.tcp("in", node.at(), "app", spread="connection"), lib.tcp("hold", node.at(), "nobody", spread="connection")],
        "clusters": [lib.cluster("app", back.where), lib.cluster("nobody", "127.0.0.1:1", connect_timeout="60s")]}, access=None)
    where, hold = (x["address"] for x in a.config["listeners"])
    silent = w.keep(node.listen(backlog=4096))
    a.stop()
    a.config["clusters"][1]["endpoints"] = [node.at(silent.getsockname()[1])]
    a.write()
    a.start()
    steady = Steady(w, where, 5)
    flood = []
    for _ in range(3800):
        try:
            flood.append(node.connect(hold, timeout=0.3))
        except OSError:
            pass
    seen = worst(a, 5)
    survived(a, g, 0)
    for s in flood:
        s.close()
    recovers(w, a, where)
    assert steady.end() > 0
    survived(a, g, 0)
    assert a.stat("overload_refused") > 0 or "refuse" not in seen


@pytest.mark.rows("14: overload", "10: EMFILE")
def test_descriptors_run_short(w, node):
    """the longest idle are closed, then who comes is refused with a reason; who is active stays"""
    back = w.backend(node)
    a = w.agent(node, "plain", {"overload": {"idle": "1s", "descriptors": {"shrink": "20%", "close_idle": "40%", "refuse": "60%", "pause": "off"}},
                                "listeners": [lib.tcp("in", node.at(), "app")], "clusters": [lib.cluster("app", back.where)]}, nofile=400)
    where = a.config["listeners"][0]["address"]
    idle = [w.app(where) for _ in range(60)]
    for s in idle:
        lib.echo(s)
    assert overload(a)["descriptors"]["limit"] == 400
    time.sleep(1.2)
    steady = Steady(w, where, 10)
    more = []
    for _ in range(150):
        with contextlib.suppress(OSError):
            more.append(w.app(where))
    a.until("overload_closed", lambda v: v > 0, 10)
    a.until("overload_refused", lambda v: v > 0 or overload(a)["descriptors"]["level"] in ("none", "shrink", "close_idle"), 10)
    first = a.access(1, response_flags="OM", timeout=10)[0]
    assert "descriptors is short" in first["error"] and first["closed_by"] == "adit"
    assert steady.end() > 0
    for s in more + idle:
        s.close()
    recovers(w, a, where)
    a.logged("overload of descriptors: (idle connections are closed|new connections are refused)")
    a.logged("overload: over")


@pytest.mark.rows("14: overload")
def test_cpu_is_short(w, node):
    """a worker that does not keep up refuses instead of making everybody wait; bounded: thresholds that any work reaches"""
    back = w.backend(node, lib.serve_sink)
    echo = w.backend(node)
    a = w.agent(node, "plain", {"overload": {"cpu": {"busy": "30%", "refuse": "1ms", "pause": 0}},
                                "listeners": [lib.tcp("in", node.at(), "app"), lib.tcp("echo", node.at(), "echo")], "mover": "relay",
                                "clusters": [lib.cluster("app", back.where), lib.cluster("echo", echo.where)]})
    where, other = (x["address"] for x in a.config["listeners"])
    old = w.app(other)
    lib.echo(old)
    stop = []

    def push(s):
        with contextlib.suppress(OSError):
            while not stop:
                s.sendall(bytes(1 << 20))
    threads = [threading.Thread(target=push, args=(w.app(where),), daemon=True) for _ in range(8)]
    for t in threads:
        t.start()
    try:
        lib.wait_for(lambda: overload(a)["cpu"]["level"] == "refuse", lambda: f"{overload(a)}", 20, 0.05)
        before = a.stat("overload_refused")
        for _ in range(20):
            with contextlib.suppress(OSError):
                s = w.app(other, timeout=2)
                s.sendall(b"x")
                s.recv(1)
            if a.stat("overload_refused") > before:
                break
        assert a.stat("overload_refused") > before
        lib.echo(old)
    finally:
        stop.append(True)
        for t in threads:
            t.join(10)
    a.logged("overload of CPU: new connections are refused")
    assert any(d["kind"] == "overload" and "more to do than it can" in d["why"] for d in a.ctl("denied", "-n", 0)["denied"])
    recovers(w, a, other)


@pytest.mark.rows("14: overload")
def test_own_memory_is_short_and_what_is_seen(w, node):
    """limits.memory without a cgroup: levels, metrics, status text; and off when it is switched off"""
    endless = w.backend(node, serve_endless)
    client, _ = w.pair(endless, client={"limits": {"memory": "4MiB", "connection_window": "16MiB", "stream_window": "1MiB"},
                                        "overload": {"idle": "2s"}})
    stuck = [w.app(client.listen, SO_RCVBUF=4096) for _ in range(12)]
    seen = worst(client, 10, ("refuse", "pause"))
    assert {"refuse", "pause"} & set(seen), (seen, overload(client))
    assert re.search(r'^adit_overload_level\{resource="memory"\} [34]$', client.metrics(), re.M)
    assert re.search(r"^overload +(refuse|pause): memory \d+%", client.ctl("status", as_json=False), re.M)
    client.until("overload_closed", lambda v: v > 0, 20)
    for s in stuck:
        s.close()
    lib.wait_for(lambda: overload(client)["level"] == "none", lambda: f"{overload(client)}", 20, 0.1)

    off, _ = w.pair(endless, client={"limits": {"memory": "4MiB", "connection_window": "16MiB", "stream_window": "1MiB"},
                                     "overload": {"enabled": False}})
    stuck = [w.app(off.listen, SO_RCVBUF=4096) for _ in range(12)]
    off.until("buffered_bytes", lambda v: v > 3 * MIB, 10)
    time.sleep(0.5)
    assert overload(off)["level"] == "none" and off.stat("overload_closed") == 0
    off.config["overload"] = {"idle": "1s"}
    off.write()
    off.ctl("reload", as_json=False)
    off.until("overload_closed", lambda v: v > 0, 20)  # switched on by a reload
    for s in stuck:
        s.close()
