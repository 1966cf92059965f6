"""Connections whose bytes the kernel moves past the agent: joined end to end, one local leg, and everything that must go on all the same:
policy's long arm, log, counters, idle time-outs, half-close, resets, drain, the agent's death."""
import os
import select
import signal
import socket
import subprocess
import time

import pytest

import lib

pytestmark = pytest.mark.rows("A09", "A14", "A18")


@pytest.fixture
def pin(tmp_path):
    """a bpffs of our own, so that agents of other tests share nothing"""
    d = tmp_path / "bpf"
    d.mkdir()
    if subprocess.run(["mount", "-t", "bpf", "bpf", str(d)], check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("bpffs cannot be mounted here")
    yield str(d / "adit")
    subprocess.run(["umount", "-l", str(d)], check=False)


def plane(pin, *ports, **more):
    return {"kernel": {"pin": pin, "bypass": {"enabled": True, "after": 2, "allow": [{"ports": list(ports)}], **more}}}


def port(where):
    return lib.split(where)[1]


def serve_echo(c):
    c.sock.settimeout(lib.TIMEOUT)  # polls, then reads: never asleep within recv()
    lib.serve_echo(c)


def need_bypass(a):
    row = {r["name"]: r for r in a.ctl("kernel")["means"]}["bypass"]
    if row["state"] != "on":
        pytest.skip("no bypass here: " + row["why"])


def trips(s, n=20, size=100, pause=0.0005):
    for i in range(n):
        data = lib.pattern(size, i)
        s.sendall(data)
        assert lib.recv_exact(s, size) == data
        time.sleep(pause)


def chain(w, node, pin, handler=serve_echo, agents=1, listener=None, **more):
    """application -> agent(s) -> backend, all on one node; Return: (agents, where to connect, backend)"""
    back = w.backend(node, handler)
    hops = [node.at() for _ in range(agents)]
    cfg = plane(pin, back.port, *map(port, hops), **more)
    made = []
    for i, where in enumerate(hops):
        to = hops[i + 1] if i + 1 < agents else back.where
        made.append(w.agent(node, "hop", {**cfg, "listeners": [lib.tcp("in", where, "@audit", **(listener or {})), lib.internal("audit", "next")],
                                          "clusters": [lib.cluster("next", to)]}))
    need_bypass(made[0])
    return made, hops[0], back


def joined(a, mover="bypass"):
    """the one connection's row once it is moved so"""
    def now():
        rows = a.rows("conn")
        return rows and rows[0]["mover"] == mover and rows[0]
    return lib.wait_for(now, lambda: f"{mover}: {a.rows('conn')}")


@pytest.mark.san
def test_joined_end_to_end(w, node, pin):
    """bytes pass without the agent, and are counted all the same"""
    (a,), listen, _ = chain(w, node, pin)
    s = w.app(listen)
    trips(s)
    row = joined(a)
    before = a.stats()
    trips(s, 50)
    after = a.stats()
    assert after["bypass_joins"] == 1
    moved = after["local_received_bytes"] - before["local_received_bytes"]
    assert moved < 50 * 100, "most of the round trips must not come by the agent"
    lib.fin(s)
    assert lib.ending(s) == "fin"
    for r in a.access(2):
        assert r["bytes_sent"] == r["bytes_recv"] == 70 * 100 and r["mover"] == "bypass", r
    assert row["chain"].startswith("in > audit")
    said = [line for line in a.metrics().splitlines() if line.startswith("istio_tcp_received_bytes_total{")]
    assert sum(float(line.rsplit(" ", 1)[1]) for line in said) == 7000


@pytest.mark.parametrize("agents", [2, 3])
def test_joined_across_agents(w, node, pin, agents):
    """one agent of the chain joins; all of them count and log what passed"""
    made, listen, _ = chain(w, node, pin, agents=agents)
    s = w.app(listen)
    trips(s, 60)
    for a in made:
        joined(a)
    assert sum(a.stats()["bypass_joins"] for a in made) == 1
    before = [a.stats()["local_received_bytes"] for a in made]
    trips(s, 50)
    assert all(a.stats()["local_received_bytes"] - b < 5000 for a, b in zip(made, before))
    lib.fin(s)
    assert lib.ending(s) == "fin"
    for a in made:
        assert a.access(1)[0]["bytes_sent"] == 110 * 100, a.name


def test_leg_of_a_tunnel(w, node, pin):
    """application <-> agent without TCP, at both ends of a tunnel"""
    back = w.backend(node, serve_echo)
    listen_port = node.ports + 1  # what pair() will take
    cfg = plane(pin, back.port, listen_port, listen_port + 1)
    client, server = w.pair(back, client=cfg, server=cfg)
    need_bypass(client)
    s = w.app(client.listen)
    trips(s)
    joined(client, "leg")
    joined(server, "leg")
    trips(s, 50)
    big = lib.pattern(3 << 20)
    got = bytearray()
    s.settimeout(lib.TIMEOUT)
    sent = 0
    while len(got) < len(big):  # both ways at once
        if sent < len(big):
            sent += s.send(big[sent:sent + 50000])
        if sent - len(got) > 200000 or sent == len(big):
            got += s.recv(65536)
    assert got == big
    lib.fin(s)
    assert lib.ending(s) == "fin"
    assert client.access(1)[0]["bytes_sent"] == 70 * 100 + len(big)


@pytest.mark.san
def test_not_listed_is_left_alone(w, node, pin):
    back = w.backend(node, serve_echo)
    listen = node.at()
    a = w.agent(node, "a", {**plane(pin, 1), "listeners": [lib.tcp("in", listen, "app")], "clusters": [lib.cluster("app", back.where)]})
    need_bypass(a)
    s = w.app(listen)
    trips(s, 40)
    row, = a.rows("conn")
    assert row["mover"] == "relay" and "allow" in row["mover_why"], row
    assert a.stats()["bypass_joins"] == 0


@pytest.mark.parametrize("who", ["client", "server"])
def test_half_close(w, node, pin, who):
    """FIN one way; the other way goes on, through the agent"""
    def answer(c):
        c.sock.settimeout(lib.TIMEOUT)
        if who == "server":
            for _ in range(2000):
                c.sock.sendall(c.read(100))
            lib.fin(c.sock)
            while c.read():
                pass
            return
        lib.serve_echo(c)
        c.sock.sendall(b"after your end")
    (a,), listen, back = chain(w, node, pin, answer)
    s = w.app(listen)
    if who == "client":
        trips(s, 40)
        joined(a)
        lib.fin(s)
        got, end = lib.recv_all(s)
        assert (got, end) == (b"after your end", "fin")
    else:
        trips(s, 2000, 100, 0)
        got, end = lib.recv_all(s)
        assert (got, end) == (b"", "fin")
        s.sendall(b"still here" * 1000)
        lib.fin(s)
        assert back.conn().finished().received == 2000 * 100 + 10000


def test_reset_passes(w, node, pin):
    (a,), listen, back = chain(w, node, pin)
    s = w.app(listen)
    trips(s, 40)
    joined(a)
    lib.rst(s)
    assert back.conn().finished().end == "rst"
    assert a.access(1)[0]["response_flags"] == "DC"


@pytest.mark.san
def test_idle_looks_at_what_passed_by(w, node, pin):
    (a,), listen, _ = chain(w, node, pin, listener={"idle_timeout": "700ms"})
    s = w.app(listen)
    trips(s, 40)
    joined(a)
    for _ in range(12):  # longer than the time-out, by the bypass alone
        trips(s, 2)
        time.sleep(0.12)
    assert a.stats()["idle_closed"] == 0
    lib.is_reset(s, 3)
    assert a.stats()["idle_closed"] == 1


def test_kill_ends_both(w, node, pin):
    (a,), listen, back = chain(w, node, pin)
    s = w.app(listen)
    trips(s, 40)
    row = joined(a)
    a.ctl("conn", "kill", row["id"], as_json=False)
    lib.is_reset(s)
    assert back.conn().finished().end == "rst"


def test_switch_off_and_on(w, node, pin):
    """the kill switch: at once, in mid-stream, and back"""
    (a,), listen, _ = chain(w, node, pin)
    s = w.app(listen)
    trips(s, 40)
    joined(a)
    a.ctl("kernel", "bypass", "off", as_json=False)
    before = a.stats()["local_received_bytes"]
    trips(s, 50)
    assert a.stats()["local_received_bytes"] - before >= 2 * 50 * 100 - 200, "all of it through the agent"
    a.ctl("kernel", "bypass", "on", as_json=False)
    trips(s, 50)
    before = a.stats()["local_received_bytes"]
    trips(s, 50)
    assert a.stats()["local_received_bytes"] - before < 5000
    lib.fin(s)
    assert lib.ending(s) == "fin"


def test_agent_killed(w, node, pin):
    """both applications see the end of the connection; queued bytes are delivered; nobody hangs"""
    def quiet(c):
        c.sock.settimeout(lib.TIMEOUT)
        for _ in range(40):
            c.sock.sendall(c.read(100))
        time.sleep(1)
        while c.read():
            pass
    (a,), listen, back = chain(w, node, pin, quiet)
    s = w.app(listen)
    trips(s, 40)
    joined(a)
    s.sendall(b"x" * 1000)
    a.kill()
    t = time.monotonic()
    assert lib.ending(s) in ("fin", "rst")
    assert time.monotonic() - t < 2
    assert back.conn().finished(5).end in ("fin", "rst")
    a.settled = True


def test_drain_waits_for_joined(w, node, pin):
    (a,), listen, _ = chain(w, node, pin)
    s = w.app(listen)
    trips(s, 40)
    joined(a)
    os.kill(a.pid, signal.SIGTERM)
    time.sleep(0.3)
    trips(s, 20)
    lib.fin(s)
    assert lib.ending(s) == "fin"
    a.wait()


def test_bulk_goes_back_to_splice(w, node, pin):
    (a,), listen, back = chain(w, node, pin, lib.serve_sink, bulk="1MiB")
    s = w.app(listen)
    s.settimeout(lib.TIMEOUT)
    # some round trips are needed to be joined, which a sink does not give: so it is asked for by a chatty start
    del back
    for _ in range(400):
        s.sendall(b"x" * 60000)
    lib.fin(s)
    assert lib.ending(s) == "fin"
    assert a.access(1)[0]["bytes_sent"] == 400 * 60000


def test_demoted_in_mid_stream(w, node, pin):
    """joined by a chatty start, then bulk: demoted, every byte in order"""
    def handler(c):
        c.sock.settimeout(lib.TIMEOUT)
        for _ in range(40):
            c.sock.sendall(c.read(100))
        while c.read():
            pass
        c.sock.sendall(c.sha.hexdigest().encode())
    (a,), listen, _ = chain(w, node, pin, handler, bulk="1MiB")
    s = w.app(listen)
    trips(s, 40)
    joined(a)
    import hashlib
    sha = hashlib.sha256(b"".join(lib.pattern(100, i) for i in range(40)))
    block = lib.pattern(300000, 9)
    for _ in range(60):
        s.sendall(block)
        sha.update(block)
    lib.fin(s)
    got, end = lib.recv_all(s)
    assert (got, end) == (sha.hexdigest().encode(), "fin")


def test_short_connections_are_not_joined(w, node, pin):
    (a,), listen, _ = chain(w, node, pin)
    for _ in range(50):
        s = w.app(listen)
        trips(s, 1)
        lib.fin(s)
        assert lib.ending(s) == "fin"
        s.close()
    assert a.stats()["bypass_joins"] == 0 and a.stats()["bypass_refused"] == 0


def test_mover_relay_switches_it_off(w, node, pin):
    back = w.backend(node, serve_echo)
    listen = node.at()
    a = w.agent(node, "a", {"mover": "relay", **plane(pin, port(listen), back.port), "listeners": [lib.tcp("in", listen, "app")],
                            "clusters": [lib.cluster("app", back.where)]})
    s = w.app(listen)
    trips(s, 40)
    row, = a.rows("conn")
    assert row["mover"] == "relay" and "mover: relay" in row["mover_why"]


def test_unprivileged_says_what_is_missing(w, node, pin):
    back = w.backend(node, serve_echo)
    listen = node.at()
    a = w.agent(node, "a", {**plane(pin, port(listen), back.port), "listeners": [lib.tcp("in", listen, "app")],
                            "clusters": [lib.cluster("app", back.where)]}, user="nobody")
    s = w.app(listen)
    trips(s, 40)
    row = {r["name"]: r for r in a.ctl("kernel")["means"]}["bypass"]
    assert row["state"] == "missing" and "CAP_" in row["why"], row
    assert a.rows("conn")[0]["mover"] == "relay"


def test_ipv6(w, node, pin):
    with node:
        sock = socket.socket(socket.AF_INET6)
    sock.close()
    back = w.backend(node, serve_echo, address="::1")
    listen = f"[::1]:{node.port()}"
    a = w.agent(node, "a", {**plane(pin, port(listen), back.port), "listeners": [lib.tcp("in", listen, "app")],
                            "clusters": [lib.cluster("app", back.where)]})
    need_bypass(a)
    s = w.app(listen)
    trips(s, 40)
    joined(a)
    trips(s, 20)


@pytest.mark.san
def test_short_reads_are_not_the_end(w, node, pin):
    """a reader that waits for edges and takes a short read for the end of what is there (tokio, nginx) gets all of what came by TCP behind
    redirected bytes. (That it would be left waiting without bypass_hold() is shown by tests/bpf/bypass_ends.c, where nothing else
    is in the way.)"""
    small, large = 100, 40000  # the latter is more than the gate lets through

    def edge_reader(c):
        ep = select.epoll()
        c.sock.settimeout(lib.TIMEOUT)
        for _ in range(40):
            c.sock.sendall(c.read(small))
        c.sock.setblocking(False)
        ep.register(c.sock, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
        due = 9 * small + large
        while True:
            time.sleep(0.03)  # both come before it looks: one event
            if not ep.poll(3):
                c.end = "stuck"
                return
            while True:
                try:
                    data = c.read(65536)
                except BlockingIOError:
                    break
                if not data:
                    return
                due -= len(data)
                if not due:
                    c.sock.sendall(b"!")
                    due = 9 * small + large
                if len(data) < 65536:
                    break  # "drained"
    (a,), listen, back = chain(w, node, pin, edge_reader)
    s = w.app(listen)
    trips(s, 40)
    joined(a)
    for _ in range(8):
        for _ in range(8):  # some in a row must fit before the gate redirects again
            s.sendall(b"x" * small)
            time.sleep(0.04)
        s.sendall(b"x" * small)
        s.sendall(b"y" * large)
        assert lib.recv_exact(s, 1) == b"!"
    lib.fin(s)
    assert back.conn().finished().end == "fin"
