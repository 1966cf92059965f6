"""Live traces: what they show, of whom, and that nobody waits for them."""
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

pytestmark = pytest.mark.rows("B22", "44: trace")


class Trace:
    """aditctl trace ..., or its API; lines: what has come"""

    def __init__(self, agent, *argv, as_json=True):
        argv = [os.path.join(lib.BUILD, "aditctl"), "-s", agent.socket, "trace", *map(str, argv)] + (["-o", "json"] if as_json else [])
        self.proc = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines = []
        self.as_json = as_json
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()
        lib.wait_for(lambda: self.lines or self.proc.poll() is not None, "a trace begins")
        time.sleep(0.05)

    def read(self):
        for line in self.proc.stdout:
            self.lines.append(json.loads(line) if self.as_json else line)

    def until(self, what, timeout=None):
        """an event that fits: a dict of members, or a function"""
        fits = what if callable(what) else lambda e: all(k in e and (v.search(str(e[k])) if hasattr(v, "search") else e[k] == v) for k, v in what.items())
        return lib.wait_for(lambda: next((e for e in self.lines if fits(e)), None), lambda: f"{what} in {self.lines[-60:]}", timeout)

    def events(self, *names):
        return [e for e in self.lines if not names or e["event"] in names]

    def stop(self):
        if self.proc.poll() is None:
            self.proc.send_signal(signal.SIGINT)
        status = self.proc.wait(10)
        self.thread.join(10)
        err = self.proc.stderr.read()
        self.proc.stderr.close()
        self.proc.stdout.close()
        return status, err


@pytest.fixture
def traces():
    made = []

    def make(*a, **kw):
        made.append(Trace(*a, **kw))
        return made[-1]
    yield make
    for t in made:
        if t.proc.poll() is None:
            t.proc.kill()
            t.proc.wait()


def has(text):
    return re.compile(text)


def test_a_connection_from_its_opening_to_its_end_on_both_nodes(w, node, traces):
    back = w.backend(node)
    client, server = w.pair(back, client={"node": {"request_headers": {"x-api-token": "hush", "x-team": "blue"}}})
    t = traces(client, "listener", "outbound", "--level", "frames")
    u = traces(server, "peer", "127.0.0.1", "--level", "bytes")
    s = w.app(client.listen)
    lib.echo(s)
    lib.fin(s)
    s.recv(1)
    end = t.until({"event": "end"})
    conn = end["conn"]
    mine = [e for e in t.events() if e.get("conn") == conn]
    order = [e["event"] for e in mine]
    for name in ("open", "route", "dial", "pool", "headers", "established", "half-close", "end"):
        assert name in order, f"no {name} in {order}"
    assert order[0] == "open" and order[-1] == "end"
    assert order.index("route") < order.index("dial") < order.index("headers") < order.index("established")
    sent = next(e for e in mine if e["event"] == "headers" and "sent" in e["text"])["text"]
    assert "CONNECT" in sent and "x-team: blue" in sent, sent
    assert "hush" not in json.dumps(t.lines) and "x-api-token: [redacted]" in sent, "secrets are left out"
    assert any(e["event"] == "headers" and "200" in e["text"] for e in mine)
    # who waits for a tunnel sees it come up
    states = [e["text"] for e in t.events("tunnel")]
    assert any("connecting" in x for x in states) and any("handshake" in x for x in states) and any("open" in x for x in states), states
    assert t.until({"event": "tls", "text": has("peer is spiffe://")})
    frames = [(e["direction"], e["type"]) for e in t.events("frame")]
    assert ("sent", "HEADERS") in frames and ("received", "HEADERS") in frames and ("sent", "DATA") in frames and ("received", "DATA") in frames
    data = t.until({"event": "frame", "type": "DATA", "direction": "sent"})
    assert data["length"] == 5 and data["window"] > 0 and data["stream"] > 0
    assert "END_STREAM" in t.until(lambda e: e.get("type") == "DATA" and "END_STREAM" in e["flags"])["flags"]
    assert "sent 5, received 5" in end["text"]
    assert not t.events("read", "write"), "that is another level"
    # the other node
    assert u.until({"event": "read", "leg": "destination"})["bytes"] == 5
    assert u.until({"event": "write", "leg": "destination"})["bytes"] == 5
    assert u.until({"event": "dial", "text": has("connected after")})
    assert "hush" not in json.dumps(u.lines)
    assert u.until({"event": "end"})
    assert t.stop()[0] == 0 and u.stop()[0] == 0


def test_only_what_was_asked_for(w, node, traces):
    back = w.backend(node)
    client, _ = w.pair(back)
    one, two = w.app(client.listen), w.app(client.listen)
    lib.echo(one)
    lib.echo(two)
    ids = {r["src"]: r["id"] for r in client.rows("conn")}
    id_one = ids["%s:%d" % one.getsockname()]
    t = traces(client, "conn", id_one, "--level", "bytes")
    t.until({"event": "open", "conn": id_one})
    lib.echo(two, b"not of it")
    lib.echo(one, b"of it")
    assert t.until({"event": "read", "leg": "source"})["bytes"] == 5
    assert {e["conn"] for e in t.events() if "conn" in e} == {id_one}
    t.stop()
    # by identity of the agent at the other end; and by one that is nobody's
    t = traces(client, "peer", client.rows("tunnel")[0]["peer_identity"])
    n = traces(client, "peer", "spiffe://cluster.local/ns/nobody/sa/nobody")
    lib.echo(w.app(client.listen))
    t.until({"event": "established"})
    assert len(n.events()) == 1, n.lines


def test_a_chain_and_both_legs_tunnels(w, node, traces):
    """client -> middle (tunnel in, two inner listeners, tunnel out) -> server: each listener of the chain finds it"""
    back = w.backend(node)
    one, two, listen = node.at(), node.at(), node.at()
    w.agent(node, "last", {"identities": [w.certs.identity("server")], "listeners": [lib.tunnel("inbound", two, "app")],
                           "clusters": [lib.cluster("app", back.where)]})
    mid = w.agent(node, "middle", {"identities": [w.certs.identity("blue")], "listeners": [
        lib.tunnel("inbound", one, "@audit"), lib.internal("audit", "@shape"), lib.internal("shape", "onward")],
        "clusters": [lib.far("onward", two, authority=back.where)]})
    w.agent(node, "first", {"identities": [w.certs.identity("client")], "listeners": [lib.tcp("entry", listen, "far")],
                            "clusters": [lib.far("far", one, authority=back.where)]})
    found = {name: traces(mid, "listener", name, "--level", "frames") for name in ("inbound", "audit", "shape")}
    s = w.app(listen)
    lib.echo(s)
    lib.fin(s)
    s.recv(1)
    for name, t in found.items():
        t.until({"event": "end"})
        route = t.until({"event": "route"})["text"]
        assert route.startswith("inbound > audit > shape > cluster onward"), (name, route)
        conn = t.until({"event": "established"})["conn"]
        half = [e["text"] for e in t.events("half-close") if e["conn"] == conn]
        assert "END_STREAM from the source" in half and "END_STREAM from the destination" in half, half
        sent = {(e["tunnel"], e["stream"]) for e in t.events("frame") if e["type"] == "DATA"}
        assert len(sent) == 2, f"frames of both tunnels: {sent}"


def test_why_it_failed(w, node, traces):
    dead = node.at()
    client, server = w.pair(dead)
    t, u = traces(client, "listener", "outbound"), traces(server, "listener", "inbound")
    lib.is_reset(w.app(client.listen))
    end = t.until({"event": "end"})
    assert "503" in end["text"] and "nothing listens there" in end["text"], "the other side's reason is in it"
    assert u.until({"event": "dial", "text": has("Connection refused; nothing listens there")})
    assert u.until({"event": "headers", "text": has("sent :status: 503")})


def test_text_is_for_people(w, node, traces):
    back = w.backend(node)
    client, _ = w.pair(back)
    t = traces(client, "listener", "outbound", "--level", "bytes", as_json=False)
    lib.echo(w.app(client.listen))
    lib.wait_for(lambda: any("established" in x for x in t.lines) and any(" read " in x for x in t.lines), lambda: t.lines)
    assert all(re.match(r"\d\d:\d\d:\d\d\.\d{6} ", x) for x in t.lines), t.lines
    assert t.stop()[0] == 0


def test_it_ends_by_itself(w, node, traces):
    back = w.backend(node)
    client, _ = w.pair(back)
    t = traces(client, "listener", "outbound", "--count", "3")
    for _ in range(3):
        lib.echo(w.app(client.listen))
    assert t.proc.wait(10) == 0
    t.thread.join(5)
    assert len(t.lines) == 4, "its own line, and three"
    began = time.monotonic()
    t = traces(client, "listener", "outbound", "--for", "500ms")
    assert t.proc.wait(10) == 0 and 0.3 < time.monotonic() - began < 5
    lib.wait_for(lambda: client.ctl("log")["traces"] == 0, "no trace is left")


def test_four_at_a_time(w, node, traces):
    back = w.backend(node)
    client, _ = w.pair(back)
    live = [traces(client, "listener", "outbound") for _ in range(4)]
    t = traces(client, "listener", "outbound")
    assert t.proc.wait(5) == 1 and "4 traces run already" in t.stop()[1]
    assert client.ctl("log")["traces"] == 4
    live[1].proc.kill()  # without a word
    lib.wait_for(lambda: client.ctl("log")["traces"] == 3, "it is noticed")
    again = traces(client, "peer", "127.0.0.1")
    lib.echo(w.app(client.listen))
    for t in (live[0], live[2], live[3], again):
        t.until({"event": "established"})
    client.stop()  # with traces running


@pytest.mark.parametrize("words, because", [
    ((), "want: conn ID"), (("conn", "x"), "want its id"), (("peer", "nobody"), "want an address"), (("listener", "nowhere"), "no listener 'nowhere'"),
    (("conn", "1", "--level", "all"), "want events, frames or bytes"), (("conn", "1", "--for", "x"), "want a time"),
    (("conn", "1", "--count", "x"), "whole number")])
def test_bad_requests(w, node, words, because):
    client, _ = w.pair(w.backend(node))
    r = client.ctl("trace", *words, check=False, as_json=False)
    assert r.returncode in (1, 2) and because in r.stderr, r.stderr
    assert client.ctl("log")["traces"] == 0


@pytest.mark.limit(60)
def test_who_does_not_read_stops_nobody(w, node):
    """a client that asks for everything and reads nothing: the connection goes on at its speed, the losses are told"""
    back = w.backend(node)
    client, _ = w.pair(back)
    c = socket.socket(socket.AF_UNIX)
    c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    c.connect(client.socket)
    c.sendall(b"GET /v1/trace?listener=outbound&level=bytes HTTP/1.0\r\n\r\n")
    lib.wait_for(lambda: client.ctl("log")["traces"] == 1, "the trace runs")
    s = w.app(client.listen)
    for _ in range(2500):
        lib.echo(s, b"x")
    c.settimeout(lib.TIMEOUT)
    got = bytearray()
    with pytest.raises((socket.timeout, TimeoutError)):
        c.settimeout(1)
        while True:
            piece = c.recv(1 << 16)
            assert piece
            got += piece
    lib.echo(s)
    c.settimeout(lib.TIMEOUT)
    while b"events were lost here" not in got:
        piece = c.recv(1 << 16)
        assert piece, "it goes on"
        got += piece
    lines = bytes(got).split(b"\r\n\r\n", 1)[1].split(b"\n")
    assert all(json.loads(x) for x in lines[:-1])
    c.close()
    lib.wait_for(lambda: client.ctl("log")["traces"] == 0, "the client is gone")


@pytest.mark.limit(60)
def test_traces_come_and_go_under_load(w, node, traces):
    back = w.backend(node)
    client, _ = w.pair(back, client={"workers": 2})
    stop = time.monotonic() + 4
    bad = []

    def load():
        try:
            while time.monotonic() < stop:
                s = client_app()
                lib.echo(s)
                s.close()
        except Exception as e:  # noqa: BLE001
            bad.append(e)

    def client_app():
        return node.connect(client.listen)
    threads = [threading.Thread(target=load) for _ in range(4)]
    for t in threads:
        t.start()
    n = 0
    while time.monotonic() < stop:
        t = traces(client, "listener", "outbound", "--level", ("events", "frames", "bytes")[n % 3], "--count", "50", "--for", "500ms")
        if n % 2:
            t.proc.kill()
        t.proc.wait(10)
        n += 1
    for t in threads:
        t.join()
    assert not bad, bad[0]
    assert n > 3
    lib.wait_for(lambda: client.ctl("log")["traces"] == 0, "none is left")


def test_the_api_streams_in_chunks(w, node):
    back = w.backend(node)
    client, _ = w.pair(back)
    p = subprocess.Popen(["curl", "-sSN", "--max-time", "10", "-D", "-", "--unix-socket", client.socket, "http://adit/v1/trace?listener=outbound&for_ms=1500"],
                         stdout=subprocess.PIPE, text=True)
    lib.wait_for(lambda: client.ctl("log")["traces"] == 1, "the trace runs")
    lib.echo(w.app(client.listen))
    out = p.communicate()[0]
    assert p.returncode == 0
    head, body = out.replace("\r", "").split("\n\n", 1)
    assert "Transfer-Encoding: chunked" in head and "application/x-ndjson" in head
    events = [json.loads(x)["event"] for x in body.splitlines()]
    assert events[0] == "trace" and "established" in events
