"""Draining: who is told first, nobody in a queue is lost, long connections end one by one, and how far it is."""
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time

import pytest

import lib
import manager
from test_health import get


@pytest.fixture
def mgr(tmp_path):
    m = manager.Manager(tmp_path)
    yield m
    m.close()


def agent(w, node, back, m=None, **more):
    a = w.agent(node, "agent", {"admin": {"metrics": node.at()}, "listeners": [lib.tcp("in", node.at(), "app")],
                                "clusters": [lib.cluster("app", back.where)], **more}, env=m.env() if m else None)
    a.where = a.config["listeners"][0]["address"]
    a.health = lib.split(a.config["admin"]["metrics"])[1]
    return a


@pytest.mark.rows("B18", "10: drain")
def test_readiness_first_then_quiet(w, node, mgr):
    """SIGTERM: 503 at once; new connections are taken for the quiet period; then nobody accepts; the manager hears all of it"""
    back = w.backend(node)
    a = agent(w, node, back, mgr, drain={"quiet": "1200ms", "within": "4s", "jitter": 0})
    live = w.app(a.where)
    lib.echo(live)
    a.signal(signal.SIGTERM)
    started = time.monotonic()
    lib.wait_for(lambda: get(node, a.health, "/healthz/ready")[0] == 503, "not ready any more", 2)
    assert time.monotonic() - started < 1 * lib.SLOW
    status, text = get(node, a.health, "/healthz/ready")
    assert text.startswith("draining\nquiet period: new connections are still taken\n1 connections left, ")
    assert get(node, a.health, "/healthz/live")[0] == 200
    while time.monotonic() - started < 0.9:
        s = node.connect(a.where)
        lib.echo(s)
        s.close()
    lib.wait_for(lambda: get(node, a.health, "/healthz/ready")[1].startswith("draining\n1 conn"), "the quiet period is over")
    assert time.monotonic() - started > 1.1
    time.sleep(0.3)
    late = w.app(a.where)  # into the queue of the socket that the manager keeps
    late.sendall(b"x")
    lib.still(late)
    lib.echo(live)
    assert get(node, a.health, "/healthz/ready")[1].startswith("draining\n1 connections left")
    mgr.hears("STOPPING", "1")
    assert mgr.hears("STATUS", since=started)[0][1].startswith("draining, quiet: 1 of 1 connections left, ")
    assert int(mgr.said("EXTEND_TIMEOUT_USEC")[0][1]) > 4000000
    time.sleep(1.2)
    assert re.fullmatch(r"draining: 1 of 1 connections left, [1-4] s to the deadline", mgr.said("STATUS")[-1][1])
    live.close()
    a.wait(3)


@pytest.mark.limit(60)
@pytest.mark.rows("B18", "10: drain", "29: gradual drain")
def test_long_connections_are_closed_one_by_one(w, node):
    """200 connections that nobody ends: none is closed before the jitter begins, and then in all of its time"""
    back = w.backend(node)
    a = agent(w, node, back, drain={"within": "4s", "jitter": "3s"}, workers=2)
    apps = [w.app(a.where) for _ in range(200)]
    for s in apps:
        lib.echo(s)
    ends = {}

    def wait(i, s):
        ends[i] = (lib.ending(s, 10), time.monotonic() - started)
    started = time.monotonic()
    a.signal(signal.SIGTERM)
    threads = [threading.Thread(target=wait, args=x) for x in enumerate(apps)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    a.wait(3)
    assert {how for how, _ in ends.values()} == {"rst"}, "what is not whole must not look so"
    at = sorted(t for _, t in ends.values())
    quarters = [sum(1 + i * 0.75 <= t < 1 + (i + 1) * 0.75 for t in at) for i in range(4)]
    print("first", round(at[0], 3), "last", round(at[-1], 3), "quarters", quarters,
          "most in 100 ms", max(sum(x <= t < x + 0.1 for t in at) for x in at))
    assert at[0] > 0.95 and at[-1] < 4.5 * lib.SLOW
    if not lib.SAN:
        assert all(30 <= q <= 70 for q in quarters), quarters
        assert max(sum(x <= t < x + 0.1 for t in at) for x in at) <= 25, "no storm"
    rows = a.access(200)
    assert all(r["response_flags"] == "LR" and r["closed_by"] == "adit" and "drain" in r["error"] for r in rows[:200])


@pytest.mark.rows("B18", "10: drain")
def test_jitter_is_for_streams_too(w, node):
    """two agents; the server drains: streams end one by one, and the applications see resets"""
    back = w.backend(node)
    client, server = w.pair(back, server={"drain": {"within": "2s", "jitter": "2s"}})
    apps = [w.app(client.listen) for _ in range(20)]
    for s in apps:
        lib.echo(s)
    started = time.monotonic()
    server.signal(signal.SIGTERM)
    at = []
    for s in apps:  # in any order: what counts is that not all are gone at once
        s.setblocking(False)
    while len(at) < 20 and time.monotonic() - started < 6 * lib.SLOW:
        for s in list(apps):
            try:
                s.recv(1)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                at.append(time.monotonic() - started)
                apps.remove(s)
        time.sleep(0.01)
    server.wait(4 * lib.SLOW)
    assert len(at) == 20 and at[-1] - at[0] > 1, at
    assert sum(r["response_flags"] == "LR" for r in server.access(20)) == 20


@pytest.mark.limit(60)
@pytest.mark.rows("B18", "10: drain", "C11")
def test_nobody_in_the_queue_is_lost(w, node):
    """connections come all the time while the daemon drains: each is served, or refused before it was established"""
    back = w.backend(node)
    reset, served, stop = [], [0], threading.Event()

    def knock(where):
        while not stop.is_set():
            s = socket.socket()
            s.settimeout(5)
            try:
                s.connect(where)
            except (ConnectionRefusedError, socket.timeout):
                s.close()
                return
            except ConnectionResetError as e:
                reset.append(f"connect: {e}")
                return
            try:
                lib.echo(s, b"x" * 100)
                served[0] += 1
            except (OSError, AssertionError) as e:
                reset.append(repr(e))
            s.close()

    def knock_here(where):
        with node:
            knock(where)
    for _ in range(4):
        a = agent(w, node, back, workers=2)
        threads = [threading.Thread(target=knock_here, args=(lib.split(a.where),)) for _ in range(8)]
        for t in threads:
            t.start()
        time.sleep(0.4)
        a.signal(signal.SIGTERM)
        a.wait(8)
        stop.set()
        for t in threads:
            t.join()
        stop.clear()
    assert served[0] > 100 and not reset, (served, reset[:5])


@pytest.mark.rows("B18", "10: drain")
def test_tunnels_in_the_middle_of_their_handshake(w, node):
    """a peer whose TLS handshake began before the drain is told GOAWAY when it is over, not cut"""
    back = w.backend(node)
    client, server = w.pair(back, server={"drain": {"within": "4s"}})
    where = server.config["listeners"][0]["address"]
    raw = w.keep(node.connect(where))
    time.sleep(0.2)
    server.signal(signal.SIGTERM)
    time.sleep(0.5)
    tls = w.keep(w.certs.context(True, "client").wrap_socket(raw))
    import h2raw
    h = h2raw.H2(tls, True, lib.TIMEOUT)
    h.start()
    h.until(lambda f: f.type == h2raw.GOAWAY)
    assert h.goaways[0].code() == h2raw.NO_ERROR
    assert h.gone() == h2raw.NO_ERROR
    server.wait(6)


@pytest.mark.rows("B18", "10: drain")
def test_progress(w, node):
    """aditctl drain stays until the end and says how far it is; GET /v1/drain; --no-wait; a shorter time than configured"""
    back = w.backend(node)
    a = agent(w, node, back, drain={"within": "60s"})
    before = json.loads(subprocess.run(["curl", "-sS", "--unix-socket", a.socket, "http://adit/v1/drain"], stdout=subprocess.PIPE, check=True).stdout)
    assert before == {"draining": False, "phase": "ready", "connections": 0, "began_with": 0, "tunnels": 0, "left_ms": 0}
    apps = [w.app(a.where) for _ in range(3)]
    for s in apps:
        lib.echo(s)
    ctl = subprocess.Popen([os.path.join(lib.BUILD, "aditctl"), "-s", a.socket, "drain", "--within", "3s"], stdout=subprocess.PIPE, text=True)
    time.sleep(0.6)
    now = json.loads(subprocess.run(["curl", "-sS", "--unix-socket", a.socket, "http://adit/v1/drain"], stdout=subprocess.PIPE, check=True).stdout)
    assert now["draining"] and now["phase"] == "draining" and now["connections"] == 3 and now["began_with"] == 3 and 1500 < now["left_ms"] < 3000
    assert a.ctl("status")["draining"] is True
    apps[0].close()
    time.sleep(1)
    for s in apps[1:]:
        s.close()
    out, _ = ctl.communicate(timeout=10)
    assert ctl.returncode == 0
    lines = out.splitlines()
    assert lines[0] == "draining: no new connections; aditd ends within 3.0s"
    assert lines[-1] == "drained: aditd has ended"
    assert any(x.startswith("draining: 3 of 3 connections left, ") for x in lines) and any("2 of 3" in x for x in lines), out
    a.wait(1)
    b = agent(w, node, back, drain={"within": "10s"})
    t = time.monotonic()
    assert "aditd ends within 10s" in b.ctl("drain", "--no-wait", as_json=False).replace("10.0s", "10s")
    assert time.monotonic() - t < 1 * lib.SLOW
    b.wait(3)
