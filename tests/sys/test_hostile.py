"""
Peers that break the protocol or wear the agent out. Each gets a stream error or a GOAWAY with the right code, a counter moves, one
line is logged (not thousands), a stream of another tunnel goes on meanwhile, memory stays bounded.
"""
import socket
import struct
import threading
import time

import pytest

import h2raw
import lib
from h2raw import (COMPRESSION_ERROR, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR,
                   GOAWAY, HEADERS, PING, PRIORITY, PROTOCOL_ERROR, PUSH_PROMISE, REFUSED_STREAM, RST_STREAM, SETTINGS, STREAM_CLOSED,
                   WINDOW_UPDATE, frame)
from test_wire import client_agent, server_agent

pytestmark = pytest.mark.rows("bad input")
MIB = 1 << 20
CONNECT = h2raw.encode([(":method", "CONNECT"), (":authority", "a:1")])


class Target:
    """a server agent, a good peer that keeps talking, and a hostile one"""

    def __init__(self, w, node, handler=lib.serve_echo, **config):
        self.w, self.node = w, node
        self.back = w.backend(node, handler)
        self.agent = server_agent(w, node, "app", False, [lib.cluster("app", self.back.where)], **config)
        self.good = w.h2_client(node, self.agent.tunnel, None)
        self.good_sid = self.good.opened("a:1")
        self.back.conn()
        self.stop, self.worst, self.trips, self.failed = threading.Event(), 0.0, 0, None
        self.thread = threading.Thread(target=self.talk, daemon=True)
        self.rss = self.agent.rss()
        self.thread.start()
        self.bad = w.h2_client(node, self.agent.tunnel, None)
        self.bad.seen(lambda: any(f.type == SETTINGS for f in self.bad.frames))

    def talk(self):
        n = 0
        try:
            while not self.stop.is_set():
                t = time.monotonic()
                self.good.data(self.good_sid, b"good")
                n += 4
                self.good.body(self.good_sid, n)
                self.worst = max(self.worst, time.monotonic() - t)
                self.trips += 1
                time.sleep(0.01)
        except Exception as e:
            self.failed = e

    def flood(self, data, times, pause=0):
        """send as long as the other side lets us; a thread reads, so that nobody is stuck on a full socket"""
        try:
            self.bad.timeout = 10
            for _ in range(times):
                self.bad.raw(data)
                if pause:
                    time.sleep(pause)
                if self.bad.sock.fileno() < 0:
                    return
        except (h2raw.Closed, OSError, TimeoutError):
            pass

    def verdict(self, code=None, counter="hostile_peers", closed=True, rss=32 * MIB):
        """code: of the GOAWAY, one or several"""
        codes = (code,) if isinstance(code, int) else code
        if closed:
            got = self.bad.gone()
            # a GOAWAY can be lost when the kernel resets a connection with unread bytes
            if got is not None and codes:
                assert got in codes, f"GOAWAY {got}, wanted {codes}; {self.bad.frames[-5:]}"
            assert got is not None or self.bad.closed.reset, "closed without GOAWAY"
        time.sleep(0.2)
        self.stop.set()
        self.thread.join(lib.TIMEOUT)
        assert not self.failed, f"the good peer suffered: {self.failed!r}"
        assert self.trips > 3 and self.worst < 2 * lib.SLOW, (self.trips, self.worst)
        if counter:
            self.agent.until(counter, lambda v: v >= 1)
        if not lib.SAN:
            grown = self.agent.rss() - self.rss
            assert grown < rss, f"grew by {grown}"
        assert len(self.agent.log()) < 20000, "the log is flooded"
        again = self.w.h2_client(self.node, self.agent.tunnel, None)
        sid = again.opened("a:1")
        again.data(sid, b"after")
        assert again.body(sid, 5) == b"after"
        return self


# ---- floods

@pytest.mark.san
@pytest.mark.rows("C1.6")
def test_rapid_reset(w, node):
    t = Target(w, node)
    reader = threading.Thread(target=lambda: t.bad.drain(1), daemon=True)
    del reader
    data = b"".join(frame(HEADERS, END_HEADERS, i, CONNECT) + frame(RST_STREAM, 0, i, struct.pack("!I", 8)) for i in range(1, 4001, 2))
    t.flood(data, 1)
    t.verdict(ENHANCE_YOUR_CALM)
    t.agent.until("connections", 2)


@pytest.mark.san
@pytest.mark.rows("C1.6")
@pytest.mark.parametrize("size", [0, 1, 8000], ids=["empty", "small", "large"])
def test_continuation_flood(w, node, size):
    t = Target(w, node)
    part = b"\0\1a" + h2raw.integer(100, 7) + b"v" * 100
    body = (part * (size // len(part) + 1))[:size]
    t.flood(frame(HEADERS, 0, 1, h2raw.encode([(":method", "CONNECT")])), 1)
    t.flood(frame(CONTINUATION, 0, 1, body), 2000)
    t.verdict((ENHANCE_YOUR_CALM, PROTOCOL_ERROR, COMPRESSION_ERROR, h2raw.INTERNAL_ERROR))


FLOODS = {
    "settings": (frame(SETTINGS, 0, 0, h2raw.settings({h2raw.INITIAL_WINDOW_SIZE: 65535})), 5000),
    "empty settings": (frame(SETTINGS), 5000),
    "ping": (frame(PING, 0, 0, b"12345678"), 20000),
    "window update": (frame(WINDOW_UPDATE, 0, 0, struct.pack("!I", 1)), 60000),
    "unknown frames": (frame(77, 0, 0, b"x" * 100), 30000),
    "priority": (frame(PRIORITY, 0, 1, b"\0\0\0\0\1"), 30000),
}


@pytest.mark.san
@pytest.mark.rows("C1.6")
@pytest.mark.parametrize("kind", FLOODS)
def test_control_frame_flood(w, node, kind):
    t = Target(w, node)
    data, n = FLOODS[kind]
    for _ in range(n // 1000):
        t.flood(data * 1000, 1)
    if kind in ("unknown frames", "priority"):  # to be ignored; cheap ones may also be called a flood
        ok = t.bad.drain(0.3)
        t.verdict(ENHANCE_YOUR_CALM, counter=None, closed=not ok)
    else:
        t.verdict(ENHANCE_YOUR_CALM)


@pytest.mark.rows("C1.6")
def test_empty_data_flood(w, node):
    t = Target(w, node)
    sid = t.bad.opened("a:1")
    for _ in range(20):
        t.flood(frame(DATA, 0, sid) * 500, 1)
    t.verdict(ENHANCE_YOUR_CALM)


@pytest.mark.rows("C1.6")
def test_ping_flood_without_reading(w, node):
    """the answers are not read: they must not pile up"""
    t = Target(w, node)
    t.bad.sock.settimeout(2)
    try:
        for _ in range(300):
            t.bad.sock.sendall(frame(PING, 0, 0, b"12345678") * 1000)
    except OSError:
        pass
    t.bad.auto = False
    t.verdict(ENHANCE_YOUR_CALM)


@pytest.mark.rows("C1.6")
def test_malformed_requests_for_ever(w, node):
    """glitches are cheap to send and not free to answer: at some point the tunnel goes"""
    t = Target(w, node)
    bad = h2raw.encode([(":method", "CONNECT"), (":authority", "no-port")])
    for i in range(1, 40001, 2000):
        t.flood(b"".join(frame(HEADERS, END_HEADERS | END_STREAM, i + 2 * k, bad) for k in range(1000)), 1)
    alive = t.bad.drain(0.5)
    t.verdict((ENHANCE_YOUR_CALM, PROTOCOL_ERROR), counter="bad_requests", closed=not alive)


@pytest.mark.rows("B06", "C1.6")
def test_more_streams_than_allowed_for_ever(w, node):
    t = Target(w, node, inbound={"max_streams": 2})
    keep = [t.bad.opened("a:1") for _ in range(2)]
    first = t.bad.next_sid
    for i in range(first, first + 20000, 2000):
        t.flood(b"".join(frame(HEADERS, END_HEADERS, i + 2 * k, CONNECT) for k in range(1000)), 1)
    alive = t.bad.drain(0.5)
    assert all(c == REFUSED_STREAM for c in t.bad.resets.values())
    assert len(t.back.conns) <= 3
    t.verdict((ENHANCE_YOUR_CALM, h2raw.NO_ERROR, PROTOCOL_ERROR, h2raw.INTERNAL_ERROR), counter=None, closed=not alive)
    assert keep


# ---- windows

@pytest.mark.rows("C1.6", "A19")
@pytest.mark.parametrize("window", [0, 1])
def test_tiny_windows_hold_no_memory(w, node, window):
    """hundreds of streams full of answers that the peer never gives credit for"""
    def handler(c):
        block = b"z" * 65536
        while True:
            c.sock.sendall(block)
    t = Target(w, node)
    back = w.backend(node, handler)
    tun = node.at()
    a = w.agent(node, "source", {"listeners": [lib.tunnel("inbound", tun, "app", tls=False)], "clusters": [lib.cluster("app", back.where)]})
    rss = a.rss()
    h = w.h2_client(node, tun, None, settings={h2raw.INITIAL_WINDOW_SIZE: window})
    h.auto_window = False
    sids = [h.connect("a:1") for _ in range(200)]
    for s in sids:
        assert h.status(s) == 200
    time.sleep(1)
    h.drain(0.2)
    assert all(len(h.bodies[s]) <= window for s in sids)
    held = a.stat("buffered_bytes")
    print("buffered", held, "RSS grew by", a.rss() - rss)
    assert held < 64 * MIB
    if not lib.SAN:
        assert a.rss() - rss < 64 * MIB
    t.verdict(closed=False, counter=None)


@pytest.mark.rows("C1.6")
def test_peer_that_reads_nothing(w, node):
    """its socket is full, its windows are wide open: memory stays"""
    def handler(c):
        block = b"z" * 262144
        while True:
            c.sock.sendall(block)
    back = w.backend(node, handler)
    tun = node.at()
    a = w.agent(node, "source", {"listeners": [lib.tunnel("inbound", tun, "app", tls=False)], "clusters": [lib.cluster("app", back.where)]})
    h = w.h2_client(node, tun, None, settings={h2raw.INITIAL_WINDOW_SIZE: 0x7fffffff})
    rss = a.rss()
    h.raw(frame(WINDOW_UPDATE, 0, 0, struct.pack("!I", 0x7fff0000 - 65535)))
    h.raw(b"".join(frame(HEADERS, END_HEADERS, i, CONNECT) for i in range(1, 101, 2)))
    time.sleep(2)
    print("buffered", a.stat("buffered_bytes"), "RSS grew by", a.rss() - rss)
    if not lib.SAN:
        assert a.rss() - rss < 64 * MIB
    good = w.h2_client(node, tun, None)
    sid = good.opened("a:1")
    assert len(good.body(sid, 65000)) >= 65000


@pytest.mark.rows("C1.6")
def test_window_overflow(w, node):
    t = Target(w, node)
    sid = t.bad.opened("a:1")
    t.bad.update(sid, 0x7fffffff)
    t.bad.seen(lambda: sid in t.bad.resets or t.bad.goaways)
    assert t.bad.resets.get(sid, FLOW_CONTROL_ERROR) == FLOW_CONTROL_ERROR
    if not t.bad.goaways:
        t.bad.opened("a:1")
    t.bad.update(0, 0x7fffffff)
    t.verdict(FLOW_CONTROL_ERROR, counter=None)


@pytest.mark.rows("C1.6")
def test_more_data_than_the_window(w, node):
    def handler(c):
        first = c.read(1)
        if first == b"x":
            lib.serve_hold(c)
        c.sock.sendall(first)
        lib.serve_echo(c)
    t = Target(w, node, handler)
    sid = t.bad.opened("a:1")
    block = frame(DATA, 0, sid, b"x" * 16384)
    t.flood(block * 64, 40)
    try:
        t.bad.seen(lambda: sid in t.bad.resets or t.bad.goaways, 3)
    except h2raw.Closed:
        pass
    codes = [t.bad.resets.get(sid)] + [g.code() for g in t.bad.goaways]
    assert FLOW_CONTROL_ERROR in codes or ENHANCE_YOUR_CALM in codes or t.bad.closed, codes
    t.verdict(closed=False, counter=None)


# ---- header bombs

@pytest.mark.san
@pytest.mark.rows("C1.6")
@pytest.mark.parametrize("kind", ["one large", "many", "hpack bomb", "long name"])
def test_header_bombs(w, node, kind):
    """too large a list is refused (431, 400, or a stream or connection error), never kept"""
    t = Target(w, node)
    base = [(":method", "CONNECT"), (":authority", "a:1")]
    if kind == "one large":
        block = h2raw.encode(base + [("x", "v" * 200000)])
    elif kind == "many":
        block = h2raw.encode(base + [(f"x{i}", "v") for i in range(5000)])
    elif kind == "long name":
        block = h2raw.encode(base + [("n" * 100000, "v")])
    else:  # one entry of 4000 bytes, referred to 15000 times: 60 MB of headers in 19 kB
        block = h2raw.encode(base) + b"\x40" + h2raw.text("x") + h2raw.text("v" * 4000) + b"\xbe" * 15000
    sid = t.bad.next_sid
    parts = [block[i:i + 16384] for i in range(0, len(block), 16384)]
    out = frame(HEADERS, 0 if len(parts) > 1 else END_HEADERS, sid, parts[0])
    for i, p in enumerate(parts[1:]):
        out += frame(CONTINUATION, END_HEADERS if i == len(parts) - 2 else 0, sid, p)
    t.flood(out, 1)
    closed = False
    try:
        t.bad.seen(lambda: sid in t.bad.answers or sid in t.bad.resets or t.bad.goaways, 5)
    except h2raw.Closed:
        closed = True
    if sid in t.bad.answers:
        assert dict(t.bad.answers[sid])[":status"] in ("431", "400")
    else:
        assert sid in t.bad.resets or t.bad.goaways or closed
    assert len(t.back.conns) == 1, "it reached the backend"
    t.verdict((ENHANCE_YOUR_CALM, PROTOCOL_ERROR, COMPRESSION_ERROR, h2raw.INTERNAL_ERROR), counter=None,
              closed=bool(t.bad.goaways) and not closed)


@pytest.mark.rows("C1.6")
@pytest.mark.parametrize("block", [b"\xff\xff\xff\xff\xff\x0f", b"\x80", b"\xbf", b"\x40\x81\xff\x00", b"\x3f\xff\xff\xff\x0f", b"\x00\xff\xff\xff\xff\x7f"],
                         ids=["huge index", "index 0", "no such entry", "bad huffman", "table size", "huge string"])
def test_broken_hpack(w, node, block):
    t = Target(w, node)
    t.bad.send(HEADERS, END_HEADERS, 1, block)
    t.verdict(COMPRESSION_ERROR, counter=None)


# ---- frames in the wrong place

WRONG = {
    "data on stream 0": (frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR),
    "headers on stream 0": (frame(HEADERS, END_HEADERS, 0, CONNECT), PROTOCOL_ERROR),
    "even stream id": (frame(HEADERS, END_HEADERS, 2, CONNECT), PROTOCOL_ERROR),
    "data on an idle stream": (frame(DATA, 0, 99, b"x"), PROTOCOL_ERROR),
    "reset of an idle stream": (frame(RST_STREAM, 0, 99, b"\0\0\0\x08"), PROTOCOL_ERROR),
    "window update on an idle stream": (frame(WINDOW_UPDATE, 0, 99, b"\0\0\0\x08"), PROTOCOL_ERROR),
    "push promise": (frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\x02" + CONNECT), PROTOCOL_ERROR),
    "continuation without headers": (frame(CONTINUATION, END_HEADERS, 1, CONNECT), PROTOCOL_ERROR),
    "headers interrupted": (frame(HEADERS, 0, 1, CONNECT) + frame(PING, 0, 0, b"12345678"), PROTOCOL_ERROR),
    "settings on a stream": (frame(SETTINGS, 0, 1), PROTOCOL_ERROR),
    "ping on a stream": (frame(PING, 0, 1, b"12345678"), PROTOCOL_ERROR),
    "goaway on a stream": (frame(GOAWAY, 0, 1, b"\0" * 8), PROTOCOL_ERROR),
    "settings of odd length": (frame(SETTINGS, 0, 0, b"\0" * 5), FRAME_SIZE_ERROR),
    "settings ack with payload": (frame(SETTINGS, 1, 0, b"\0" * 6), FRAME_SIZE_ERROR),
    "short ping": (frame(PING, 0, 0, b"1234"), FRAME_SIZE_ERROR),
    "short window update": (frame(WINDOW_UPDATE, 0, 0, b"\0\0"), FRAME_SIZE_ERROR),
    "short goaway": (frame(GOAWAY, 0, 0, b"\0\0\0\0"), FRAME_SIZE_ERROR),
    "frame too large": (b"\xff\xff\xff\0\0\0\0\0\1", FRAME_SIZE_ERROR),
    "window update of 0": (frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\0"), PROTOCOL_ERROR),
    "enable push 2": (frame(SETTINGS, 0, 0, h2raw.settings({h2raw.ENABLE_PUSH: 2})), PROTOCOL_ERROR),
    "window setting too large": (frame(SETTINGS, 0, 0, h2raw.settings({h2raw.INITIAL_WINDOW_SIZE: 0x80000000})), FLOW_CONTROL_ERROR),
    "frame size setting too small": (frame(SETTINGS, 0, 0, h2raw.settings({h2raw.MAX_FRAME_SIZE: 100})), PROTOCOL_ERROR),
    "padding longer than the frame": (frame(HEADERS, END_HEADERS | 8, 1, b"\xff" + CONNECT), PROTOCOL_ERROR),
}


@pytest.mark.rows("C1.6")
@pytest.mark.parametrize("kind", WRONG)
def test_wrong_frames(w, node, kind):
    t = Target(w, node)
    data, code = WRONG[kind]
    t.bad.raw(data)
    t.verdict((code, FRAME_SIZE_ERROR) if kind == "frame too large" else code, counter=None)


@pytest.mark.rows("C1.6")
def test_frames_on_half_closed_streams(w, node):
    """DATA after our own END_STREAM: STREAM_CLOSED"""
    t = Target(w, node, lambda c: (lib.serve_echo(c), time.sleep(5)))
    sid = t.bad.opened("a:1")
    t.bad.data(sid, b"", end=True)
    t.bad.drain(0.2)
    assert sid not in t.bad.ended
    t.bad.send(DATA, 0, sid, b"late")
    t.bad.seen(lambda: sid in t.bad.resets or t.bad.goaways)
    assert t.bad.resets.get(sid, STREAM_CLOSED) == STREAM_CLOSED
    if t.bad.goaways:
        assert t.bad.goaways[-1].code() == STREAM_CLOSED
    t.verdict(closed=False, counter=None)


@pytest.mark.rows("C1.6", "6: flow control")
def test_frames_on_closed_streams(w, node):
    """they may have been in flight when the stream was reset: an error or ignored, but the connection's window must not leak away"""
    t = Target(w, node)
    sid = t.bad.opened("a:1")
    t.bad.rst(sid)
    t.bad.drain(0.2)
    block, sent = b"x" * 16384, 0
    t.bad.auto_window = False
    while sent < 40 * MIB and not t.bad.goaways:
        if t.bad.window < len(block):
            t.bad.until(lambda f: f.type == GOAWAY or t.bad.window >= len(block))
            continue
        t.bad.send(DATA, 0, sid, block)
        t.bad.window -= len(block)
        sent += len(block)
    if t.bad.goaways:
        assert t.bad.goaways[-1].code() in (STREAM_CLOSED, ENHANCE_YOUR_CALM, PROTOCOL_ERROR)
    else:
        two = t.bad.opened("a:1")
        t.bad.data(two, b"goes on")
        assert t.bad.body(two, 7) == b"goes on"
    t.verdict(closed=False, counter=None)


@pytest.mark.rows("C1.6")
def test_stream_ids_going_down(w, node):
    """the connection's end, or ignored as if that stream had been closed: nothing is opened"""
    t = Target(w, node)
    t.bad.next_sid = 101
    sid = t.bad.opened("a:1")
    t.back.conn(1)
    t.bad.headers(51, [(":method", "CONNECT"), (":authority", "a:1")])
    if t.bad.drain(0.5) and not t.bad.goaways:
        t.bad.data(sid, b"goes on")
        assert t.bad.body(sid, 7) == b"goes on"
    else:
        assert t.bad.goaways[-1].code() in (PROTOCOL_ERROR, STREAM_CLOSED)
    assert 51 not in t.bad.answers and len(t.back.conns) == 2
    t.verdict(closed=False, counter=None)


@pytest.mark.rows("C1.6")
def test_second_headers_and_trailers(w, node):
    """trailers end the direction; more HEADERS without END_STREAM are an error of the stream"""
    t = Target(w, node)
    sid = t.bad.opened("a:1")
    t.bad.data(sid, b"body")
    t.bad.body(sid, 4)
    t.bad.headers(sid, [("x-checksum", "1")], end=True)
    assert t.bad.whole(sid) == b"body"
    two = t.bad.opened("a:1")
    t.bad.headers(two, [(":method", "CONNECT"), (":authority", "b:1")])
    t.bad.seen(lambda: two in t.bad.resets or t.bad.goaways)
    assert t.bad.resets.get(two, PROTOCOL_ERROR) == PROTOCOL_ERROR
    t.verdict(closed=False, counter=None)


# ---- not HTTP/2 at all

@pytest.mark.rows("demand 18", "C1.6")
@pytest.mark.parametrize("tls", [True, False], ids=["tls listener", "plain listener"])
@pytest.mark.parametrize("what", ["http/1", "garbage", "zeros", "old tls", "ssh", "nothing then close"])
def test_something_else_on_the_tunnel_port(w, node, tls, what):
    data = {"http/1": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "garbage": lib.pattern(5000), "zeros": b"\0" * 5000,
            "old tls": b"\x16\x03\x00\x00\x2f\x01\x00\x00\x2b\x03\x00" + b"r" * 41, "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
            "nothing then close": b""}[what]
    back = w.backend(node)
    a = server_agent(w, node, "app", tls, [lib.cluster("app", back.where)], timeouts={"handshake": "2s"})
    fds = a.descriptors()
    for _ in range(20):
        s = node.connect(a.tunnel)
        s.settimeout(6 * lib.SLOW)
        try:
            s.sendall(data)
            if not data:
                s.shutdown(socket.SHUT_WR)
            while s.recv(65536):
                pass
        except ConnectionError:
            pass
        s.close()
    lib.wait_for(lambda: a.descriptors() <= fds, "descriptors are closed")
    assert not back.conns and a.stat("tunnels_in") == 0
    if data and tls:
        assert a.stat("tls_handshake_failures") >= 1
    assert len(a.log()) < 20000
    h = w.h2_client(node, a.tunnel, "client" if tls else None)
    h.opened("a:1")


@pytest.mark.rows("C1.6")
@pytest.mark.parametrize("data", [b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", h2raw.PREFACE + frame(PING, 0, 0, b"12345678"),
                                  h2raw.PREFACE + b"GET / HTTP/1.1\r\n\r\n"], ids=["bad preface", "ping before settings", "junk after preface"])
def test_bad_preface(w, node, data):
    back = w.backend(node)
    a = server_agent(w, node, "app", False, [lib.cluster("app", back.where)])
    h = w.h2_client(node, a.tunnel, None, start=False)
    h.raw(data)
    code = h.gone()
    assert code in (PROTOCOL_ERROR, FRAME_SIZE_ERROR, None)
    assert a.stat("tunnels_in") == 0


# ---- a hostile server, seen by the client agent

SERVER_WRONG = {
    "push promise": (lambda h: h.send(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\x02" + CONNECT), PROTOCOL_ERROR),
    "stream of its own": (lambda h: h.send(HEADERS, END_HEADERS, 2, CONNECT), PROTOCOL_ERROR),
    "window overflow": (lambda h: h.update(0, 0x7fffffff), FLOW_CONTROL_ERROR),
    "bad hpack": (lambda h: h.send(HEADERS, END_HEADERS, 1, b"\x80"), COMPRESSION_ERROR),
    "frame too large": (lambda h: h.raw(b"\xff\xff\xff\0\0\0\0\0\1"), FRAME_SIZE_ERROR),
    "settings flood": (lambda h: h.raw(frame(SETTINGS) * 5000), ENHANCE_YOUR_CALM),
    "ping flood": (lambda h: h.raw(frame(PING, 0, 0, b"12345678") * 20000), ENHANCE_YOUR_CALM),
    "continuation flood": (lambda h: h.raw(frame(HEADERS, 0, 1, b"") + frame(CONTINUATION, 0, 1, b"") * 3000),
                           (ENHANCE_YOUR_CALM, PROTOCOL_ERROR, h2raw.INTERNAL_ERROR)),
}


@pytest.mark.san
@pytest.mark.rows("B29", "C1.6")
@pytest.mark.parametrize("kind", SERVER_WRONG)
def test_hostile_server(w, node, kind):
    """the tunnel ends with the right code, its applications are reset, the next connection gets a new tunnel"""
    far = w.h2_server(node, tls=None)
    a = client_agent(w, node, far, False)
    app = w.app(a.listen)
    h = far.accept()
    h.requests(1)
    h.accept(1)
    app.sendall(b"x")
    h.body(1, 1)
    act, codes = SERVER_WRONG[kind]
    try:
        act(h)
    except h2raw.Closed:
        pass
    started = time.monotonic()
    lib.is_reset(app)
    assert time.monotonic() - started < 2 * lib.SLOW
    try:
        h.seen(lambda: h.goaways)
        code = h.goaways[-1].code()
    except h2raw.Closed:
        code = None
    assert code is None or code in (codes if isinstance(codes, tuple) else (codes,)), code
    h.close()
    app = w.app(a.listen)
    h = far.accept()
    h.accept(h.requests(1)[0])
    app.sendall(b"x")
    h.body(1, 1)
    a.until("connections", 1)


@pytest.mark.rows("B21", "C1.6")
def test_server_that_breaks_every_tunnel(w, node):
    """connections that were not answered yet may be tried again, but not for ever and not in a busy loop"""
    far = w.h2_server(node, tls=None)
    a = client_agent(w, node, far, False)
    app = w.app(a.listen)
    dials = []

    def serve():
        try:
            while True:
                h = far.accept(timeout=8 * lib.SLOW)
                dials.append(h)
                h.requests(1)
                h.raw(b"\xff\xff\xff\0\0\0\0\0\1")
                h.drain(0.2)
                h.close()
        except (OSError, h2raw.Closed):
            pass
    threading.Thread(target=serve, daemon=True).start()
    lib.is_reset(app, 20 * lib.SLOW)
    assert 1 <= len(dials) < 50
    a.until("connections", 0)


STREAM_WRONG = {
    "data before headers": lambda h, sid: h.send(DATA, 0, sid, b"early"),
    "no status": lambda h, sid: h.headers(sid, [("x", "y")]),
    "status 99": lambda h, sid: h.headers(sid, [(":status", "99")]),
    "status abc": lambda h, sid: h.headers(sid, [(":status", "abc")]),
    "two statuses": lambda h, sid: h.headers(sid, [(":status", "200"), (":status", "404")]),
    "request pseudo": lambda h, sid: h.headers(sid, [(":status", "200"), (":path", "/")]),
    "101": lambda h, sid: h.headers(sid, [(":status", "101")]),
    "stream window overflow": lambda h, sid: (h.accept(sid), h.update(sid, 0x7fffffff)),
    "200 with end": lambda h, sid: h.headers(sid, [(":status", "200")], end=True),
}


@pytest.mark.rows("C1.4", "C1.6")
@pytest.mark.parametrize("kind", STREAM_WRONG)
def test_wrong_answer_on_one_stream(w, node, kind):
    """that application is told; a second stream of the tunnel goes on, in it or in a new tunnel"""
    far = w.h2_server(node, tls=None)
    a = client_agent(w, node, far, False, cluster={"pool": {"queue_timeout": "700ms"}})
    good = w.app(a.listen)
    h = far.accept()
    h.requests(1)
    h.accept(1)
    good.sendall(b"x")
    h.body(1, 1)
    bad = w.app(a.listen)
    sid = h.requests(2)[1]
    STREAM_WRONG[kind](h, sid)
    end = lib.ending(bad)
    assert end == ("fin" if kind == "200 with end" else "rst"), end
    if h.drain(0.2):
        good.sendall(b"y")
        h.body(1, 2)
    else:
        assert kind == "data before headers"
    bad.close()
    a.until("connections", lambda v: v <= 1)


@pytest.mark.rows("C1.6")
def test_informational_answers(w, node):
    """1xx before the 200 are skipped, thousands of them are not put up with"""
    far = w.h2_server(node, tls=None)
    a = client_agent(w, node, far, False)
    app = w.app(a.listen)
    h = far.accept()
    h.requests(1)
    h.headers(1, [(":status", "103")])
    h.accept(1)
    app.sendall(b"x")
    h.body(1, 1)
    app2 = w.app(a.listen)
    h.requests(2)
    rss = a.rss()
    try:
        for _ in range(50):
            h.raw(frame(HEADERS, END_HEADERS, 3, h2raw.encode([(":status", "103")])) * 1000)
    except h2raw.Closed:
        pass
    if not lib.SAN:
        assert a.rss() - rss < 16 * MIB
    assert app2


# ---- hostile applications

@pytest.mark.limit(60)
@pytest.mark.rows("bad input: clients")
@pytest.mark.parametrize("how", ["reset", "fin", "reset after a byte", "never speak"])
def test_hostile_applications(w, node, how):
    """thousands of connections that are given up at once do not make us look hostile to the peer, and leave nothing"""
    back = w.backend(node)
    client, server = w.pair(back)
    keep = w.app(client.listen)
    lib.echo(keep)
    fds = client.descriptors(), server.descriptors()
    rss = client.rss(), server.rss()
    n = 2000 // lib.SLOW
    held = []
    for _ in range(n):
        s = node.connect(client.listen)
        if how == "reset after a byte":
            s.sendall(b"x")
        if how == "never speak":
            held.append(s)
        elif how == "fin":
            s.close()
        else:
            lib.rst(s)
    lib.echo(keep)
    for s in held:
        s.close()
    client.until("connections", 1, 20)
    server.until("streams", 1, 20)
    lib.echo(keep, b"the same tunnel")
    assert client.stat("tunnels_out") >= 1 and server.stat("hostile_peers") == 0
    lib.wait_for(lambda: client.descriptors() <= fds[0] + 2 and server.descriptors() <= fds[1] + 2, "descriptors are closed")
    grown = client.rss() - rss[0], server.rss() - rss[1]
    if not lib.SAN:
        assert max(grown) < 24 * MIB, grown
