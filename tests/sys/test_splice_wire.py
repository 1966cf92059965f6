"""
Payload of DATA frames that is spliced, seen by peers of another make; many streams, fairness, flow control. Tunnels are without TLS.
"""
import contextlib
import random
import socket
import threading
import time

import pytest

import h2raw
import lib
from test_flow import stuff
from test_splice import ALL, MIB, pour
from test_wire import client_agent, server_agent


@pytest.mark.san
@pytest.mark.limit(90)
@pytest.mark.rows("A29", "A04")
@pytest.mark.parametrize("above", [1, 16384], ids=lambda v: f"above {v}")
def test_many_streams_at_once(w, node, above):
    """24 connections in one tunnel, random writes, some of them bulk, every byte checked"""
    plane = {"kernel": {"splice_above": above}}
    back = w.backend(node, lib.serve_echo)
    client, server = w.pair(back, tls=False, client=plane, server=plane, pool={"max_tunnels": 1})
    wrong = []

    def one(i):
        size = (16 if i % 6 == 0 else 2) * MIB // lib.SLOW // lib.SLOW
        data = lib.pattern(size, i)
        app = w.app(client.listen)
        app.settimeout(30 * lib.SLOW)

        def write():
            rnd, pos = random.Random(i), 0
            while pos < len(data):
                n = rnd.choice((1, 10, 1000, 16384, 60000, 200000) if i % 6 else (MIB,))
                app.sendall(data[pos:pos + n])
                pos += n
            lib.fin(app)
        t = threading.Thread(target=write, daemon=True)
        t.start()
        got, end = lib.recv_all(app)
        if got != data or end != "fin":
            wrong.append((i, len(got), end))
    threads = [threading.Thread(target=one, args=(i,), daemon=True) for i in range(24)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    for a in (client, server):
        assert a.stat("spliced_bytes") > 0, a.name
        a.until("buffered_bytes", 0)


# ---- peers of another make, on the wire

class Taken:
    """a backend that keeps what it gets"""

    def __init__(self):
        self.data, self.leave = bytearray(), threading.Event()
        self.leave.set()

    def __call__(self, c):
        while True:
            got = c.read()
            if not got:
                break
            self.data += got
        self.leave.wait(lib.TIMEOUT)


def large(h, sid, data, size, end=False, between=None):
    """DATA frames of exactly that size, within flow control"""
    for i in range(0, len(data), size):
        part = data[i:i + size]
        h.seen(lambda part=part: h.window >= len(part) and h.windows[sid] >= len(part))
        h.send(h2raw.DATA, h2raw.END_STREAM if end and i + size >= len(data) else 0, sid, part)
        h.window -= len(part)
        h.windows[sid] -= len(part)
        if between:
            between(i // size)


@pytest.mark.san
@pytest.mark.limit(60)
@pytest.mark.rows("C1.2", "A29")
@pytest.mark.parametrize("size", [1, 100, 16384, 60000, 131000])
def test_frames_of_any_size_come_in(w, node, size):
    kept = Taken()
    back = w.backend(node, kept)
    a = server_agent(w, node, tls=False, clusters=[lib.cluster("app", back.where)], **ALL)
    h = w.h2_client(node, a.tunnel, tls=None)
    sid = h.opened("app.test:80")
    data = lib.pattern(min(4 * MIB, size * 300))
    large(h, sid, data, size, end=True)
    c = back.conn().finished(20 * lib.SLOW)
    assert c.end == "fin" and kept.data == data
    if size >= 60000:
        assert a.stat("spliced_bytes") > len(data) // 2
    a.until("buffered_bytes", 0)


@pytest.mark.san
@pytest.mark.limit(60)
@pytest.mark.rows("C1.2", "A29")
def test_odd_frames_between_large_ones(w, node):
    """padding, control frames, unknown types, other streams, empty and small DATA: each is what it is"""
    kept = Taken()
    back = w.backend(node, kept)
    a = server_agent(w, node, tls=False, clusters=[lib.cluster("app", back.where)], **ALL)
    h = w.h2_client(node, a.tunnel, tls=None)
    sid, expected = h.opened("app.test:80"), bytearray()
    other = h.opened("app.test:80")
    lib.wait_for(lambda: len(back.conns) == 2, "both connections")

    def odd(i):
        if i < 6:
            return
        kind = i % 9
        if kind == 0:
            h.ping()
        elif kind == 1:
            pad = i % 200
            h.send(h2raw.DATA, h2raw.PADDED, sid, bytes([pad]) + b"padded" + bytes(pad))
            h.window -= pad + 7
            h.windows[sid] -= pad + 7
            expected.extend(b"padded")
        elif kind == 2:
            h.send(0xee, 0xff, sid, b"nobody knows this frame")
        elif kind == 3:
            h.send(h2raw.DATA, 0, sid, b"")
        elif kind == 4:
            h.send(h2raw.DATA, 0, sid, b"small")
            h.window -= 5
            h.windows[sid] -= 5
            expected.extend(b"small")
        elif kind == 5:
            h.send(h2raw.PRIORITY, 0, sid, b"\0\0\0\0\x10")
        elif kind == 6:
            h.send(h2raw.SETTINGS, 0, 0, b"")
    n, size = 90, 60000
    part = lib.pattern(size, 3)
    for i in range(n):
        large(h, sid, part, size)
        expected.extend(part)
        odd(i)
    h.send(h2raw.DATA, h2raw.END_STREAM, sid, b"")
    h.send(h2raw.DATA, h2raw.END_STREAM, other, b"")
    for c in back.conns:
        c.finished(20 * lib.SLOW)
    assert kept.data == expected
    assert a.stat("spliced_bytes") > 5 * size


@pytest.mark.san
@pytest.mark.rows("C1.2", "A29")
def test_pieces_of_frames(w, node):
    """frames that come in pieces: cut anywhere, in the header, too"""
    kept = Taken()
    back = w.backend(node, kept)
    a = server_agent(w, node, tls=False, clusters=[lib.cluster("app", back.where)], **ALL)
    h = w.h2_client(node, a.tunnel, tls=None)
    sid, rnd, data = h.opened("app.test:80"), random.Random(5), lib.pattern(3 * MIB, 8)
    wire, pos = bytearray(), 0
    while pos < len(data):
        n = rnd.choice((50000, 100000, 100000, 131063))
        wire += h2raw.frame(h2raw.DATA, h2raw.END_STREAM if pos + n >= len(data) else 0, sid, data[pos:pos + n])
        pos += n
    h.seen(lambda: h.window >= MIB)
    pos = 0
    while pos < len(wire):
        n = rnd.choice((1, 3, 9, 10, 5000, 70000, 131072))
        # the stream's first window is 256 KiB, and what the backend has is credit
        lib.wait_for(lambda n=n: pos + n - len(kept.data) < 200000, "the backend reads", every=0.001)
        h.raw(bytes(wire[pos:pos + n]))
        pos += n
        if n < 100:
            time.sleep(0.0005)
    c = back.conn().finished(20 * lib.SLOW)
    assert c.end == "fin" and kept.data == data
    assert a.stat("spliced_bytes") > len(data) // 4


@pytest.mark.san
@pytest.mark.rows("A22", "C1.4")
@pytest.mark.parametrize("how", ["RST_STREAM", "tunnel closes", "tunnel resets", "DATA after END_STREAM", "half a frame"])
def test_a_peer_that_ends_in_a_payload(w, node, how):
    """the application behind it sees a reset, never an end, and no byte that was not meant for it"""
    kept = Taken()
    back = w.backend(node, kept)
    a = server_agent(w, node, tls=False, clusters=[lib.cluster("app", back.where)], **ALL)
    h = w.h2_client(node, a.tunnel, tls=None)
    sid, data = h.opened("app.test:80"), lib.pattern(2 * MIB)
    large(h, sid, data, 100000)
    c = back.conn()
    lib.wait_for(lambda: c.received == len(data), "all of it")
    if how == "RST_STREAM":
        h.rst(sid)
    elif how == "DATA after END_STREAM":
        kept.leave.clear()  # half closed
        h.send(h2raw.DATA, h2raw.END_STREAM, sid, b"")
        lib.wait_for(lambda: c.end == "fin", "the end")
        with contextlib.suppress(h2raw.Closed):
            h.send(h2raw.DATA, 0, sid, lib.pattern(100000, 9))
            h.gone()
        kept.leave.set()
        c.finished()
        assert kept.data == data
        a.until("connections", 0)
        return
    else:
        h.raw(h2raw.frame(h2raw.DATA, 0, sid, lib.pattern(100000, 9))[:50000])
        lib.wait_for(lambda: c.received == len(data) + 50000 - 9, "half of a frame")
        if how == "tunnel closes":
            h.close()
        elif how == "tunnel resets":
            h.abort()
        else:
            h.sock.shutdown(socket.SHUT_WR)
    c.finished()
    assert c.end == "rst"
    a.until("connections", 0)
    a.until("buffered_bytes", 0)


@pytest.mark.rows("A19", "C1.2")
@pytest.mark.parametrize("window", [1, 1000, 65535, 10 * MIB])
def test_windows_and_frame_size_of_the_peer_hold(w, node, window):
    """what goes out by pipes is within them, to the byte, and every frame is whole"""
    far = w.h2_server(node, tls=None, settings={h2raw.INITIAL_WINDOW_SIZE: window, h2raw.MAX_FRAME_SIZE: 20000})
    a = client_agent(w, node, far, False, **ALL)
    app = w.app(a.listen)
    h = far.accept()
    h.auto_window = False
    h.requests(1)
    h.accept(1)
    size = 3 * MIB if window > 1000 else 200 * window
    data = lib.pattern(size)
    t = pour(app, data)
    granted, connection = window, 65535
    while len(h.bodies[1]) < size:
        have = min(granted, connection, size)
        assert len(h.body(1, have)) == have
        if window > 1:
            h.drain(0.01)
        assert len(h.bodies[1]) == have, "more than was granted"
        more = min(max(window, 1), 500000)
        h.update(1, more)
        h.update(0, more)
        granted += more
        connection += more
    t.join()
    lib.fin(app)
    assert h.whole(1) == data
    assert max(len(f.payload) for f in h.frames if f.type == h2raw.DATA) <= 20000
    assert a.stat("spliced_bytes") > size // 3


@pytest.mark.limit(60)
@pytest.mark.rows("6: fair", "demand 1", "A19")
@pytest.mark.parametrize("bulk", [1, 4])
def test_small_answers_beside_spliced_bulk(w, node, bulk):
    """a stream whose payload is spliced takes its turn like any other"""
    def handler(c):
        kind = c.read(1)
        if kind == b"b":
            block = lib.pattern(MIB)
            while True:
                c.sock.sendall(block)
        c.sock.sendall(kind)
        lib.serve_echo(c)
    back = w.backend(node, handler)
    client, server = w.pair(back, tls=False, pool={"max_tunnels": 1})
    small = w.app(client.listen)
    lib.echo(small, b"e")
    stop, moved = threading.Event(), [0] * bulk

    def drink(i):
        s = w.app(client.listen)
        s.sendall(b"b")
        with contextlib.suppress(OSError):
            while not stop.is_set():
                moved[i] += len(s.recv(1 << 20))
    threads = [threading.Thread(target=drink, args=(i,), daemon=True) for i in range(bulk)]
    for t in threads:
        t.start()
    lib.wait_for(lambda: min(moved) > 8 * MIB // lib.SLOW, "all move", 20 * lib.SLOW)
    assert server.stat("spliced_bytes") > 0
    times, start = [], list(moved)
    for _ in range(60):
        t = time.monotonic()
        lib.echo(small, b"q" * 100)
        times.append(time.monotonic() - t)
    got = [b - a for a, b in zip(start, moved)]
    stop.set()
    times.sort()
    print("small request: median %.1f ms, worst %.1f ms; fairness %.2f" % (times[30] * 1e3, times[-1] * 1e3, min(got) / max(got)))
    assert times[30] < 0.1 * lib.SLOW and times[-1] < 1 * lib.SLOW
    assert min(got) > 0


@pytest.mark.limit(60)
@pytest.mark.rows("A19", "demand 2", "6: flow control")
def test_unread_streams_do_not_stop_another(w, node):
    """three streams that carry bulk and are not read any more: memory is bounded by their windows, a fourth goes on"""
    def handler(c):
        kind = c.read(1)
        if kind == b"h":
            left = 8 * MIB
            while left:
                left -= len(c.read(min(left, MIB)))
            c.stopped = True
            time.sleep(20)
        else:
            c.sock.sendall(kind)
            lib.serve_echo(c)
    back = w.backend(node, handler)
    client, server = w.pair(back, tls=False, client=ALL, server=ALL, pool={"max_tunnels": 1})
    good = w.app(client.listen)
    lib.echo(good, b"e")
    bad = [w.app(client.listen) for _ in range(3)]
    taken = []
    threads = [threading.Thread(target=lambda s=s: (s.sendall(b"h"), taken.append(stuff(s, seconds=2))), daemon=True) for s in bad]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert max(taken) < 64 * MIB, f"somebody buffers: {taken}"
    assert server.stat("buffered_bytes") <= 3 * 8 * MIB
    data = lib.pattern(4 * MIB)
    t = pour(good, data)
    assert lib.recv_exact(good, len(data)) == data
    for _ in range(20):
        lib.echo(good, b"still quick")
    for s in bad:
        lib.rst(s)
    for a in (client, server):
        a.until("streams", 1)
        a.until("buffered_bytes", 0)
