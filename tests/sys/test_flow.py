"""Bytes: all of them, in order, at any size of write; and what happens when somebody does not read."""
import contextlib
import hashlib
import random
import socket
import threading
import time

import pytest

import h2raw
import lib
from test_wire import client_agent

MIB = 1 << 20


def swap(app, up, down_len, chunk, seed=7):
    """write `up` in chunks, half-close; read everything at the same time. Return: (digest, length, end)"""
    rnd = random.Random(seed)

    def write():
        view, pos = memoryview(up), 0
        while pos < len(up):
            n = chunk if chunk else rnd.randint(1, 70000)
            app.sendall(view[pos:pos + n])
            pos += n
        lib.fin(app)
    t = threading.Thread(target=write, daemon=True)
    t.start()
    got, end = lib.recv_all(app)
    t.join(lib.TIMEOUT)
    assert not t.is_alive()
    assert len(got) == down_len or end == "rst" or len(got) != down_len
    return hashlib.sha256(got).hexdigest(), len(got), end


def both_ways(down, chunk):
    """a backend that sends `down` in chunks while it reads to the end"""
    def handler(c):
        def write():
            view, pos = memoryview(down), 0
            rnd = random.Random(11)
            while pos < len(down):
                n = chunk if chunk else rnd.randint(1, 70000)
                c.sock.sendall(view[pos:pos + n])
                pos += n
            lib.fin(c.sock)
        t = threading.Thread(target=write, daemon=True)
        t.start()
        while c.read():
            pass
        t.join()
    return handler


SIZES = [(1, 1), (2, 1), (100, 1), (16383, 16383), (16384, 16384), (16385, 16385), (20000, 1), (65536, 1000), (MIB, 4096), (3 * MIB + 1, 0),
         (16 * MIB, 65536), (64 * MIB, MIB)]


@pytest.mark.limit(90)
@pytest.mark.rows("A29", "A21", "tests: every byte")
@pytest.mark.parametrize("mover,size,chunk", [(m, s, c) for s, c in SIZES for m in ("auto", "relay") if m == "auto" or s in (1, 20000, 3 * MIB + 1)],
                         ids=lambda v: str(v))
def test_every_byte(w, node, size, chunk, mover):
    """both directions at once, each half-closed when done"""
    if lib.SAN and size > 4 * MIB:
        pytest.skip("too slow with a sanitizer")
    up, down = lib.pattern(size, 1), lib.pattern(size + 3, 2)
    back = w.backend(node, both_ways(down, chunk))
    client, server = w.pair(back, client={"mover": mover}, server={"mover": mover})
    app = w.app(client.listen)
    digest, n, end = swap(app, up, len(down), chunk)
    c = back.conn().finished()
    assert (c.received, c.sha.hexdigest(), c.end) == (len(up), hashlib.sha256(up).hexdigest(), "fin")
    assert (n, digest, end) == (len(down), hashlib.sha256(down).hexdigest(), "fin")
    app.close()
    for a in (client, server):
        row, = a.access(1)
        assert (row["bytes_sent"], row["bytes_recv"]) == (len(up), len(down)), a.name


@pytest.mark.san
@pytest.mark.rows("A29", "A04")
def test_many_streams_at_once(w, node):
    """32 connections in one tunnel, random writes both ways, every byte checked"""
    size = 2 * MIB // lib.SLOW // lib.SLOW
    back = w.backend(node, lib.serve_echo)
    client, _ = w.pair(back)
    wrong = []

    def one(i):
        data = lib.pattern(size, i)
        app = w.app(client.listen)
        app.settimeout(30 * lib.SLOW)

        def write():
            rnd, pos = random.Random(i), 0
            while pos < len(data):
                n = rnd.choice((1, 10, 1000, 16384, 60000, 200000))
                app.sendall(data[pos:pos + n])
                pos += n
            lib.fin(app)
        t = threading.Thread(target=write, daemon=True)
        t.start()
        got, end = lib.recv_all(app)
        if got != data or end != "fin":
            wrong.append((i, len(got), end))
    threads = [threading.Thread(target=one, args=(i,), daemon=True) for i in range(32)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def stuff(s, limit=1 << 30, seconds=3):
    """write until it blocks for good; Return: bytes taken"""
    s.setblocking(False)
    block, total, last = b"s" * 262144, 0, time.monotonic()
    while total < limit and time.monotonic() - last < seconds:
        try:
            total += s.send(block)
            last = time.monotonic()
        except BlockingIOError:
            time.sleep(0.02)
    s.settimeout(lib.TIMEOUT)
    return total


@pytest.mark.limit(60)
@pytest.mark.rows("A19", "demand 2", "6: flow control")
@pytest.mark.parametrize("direction", ["up", "down"])
def test_four_unread_streams_do_not_stop_a_fifth(w, node, direction):
    """four streams of up to 1 GB that nobody reads: memory stays, a fifth stream of the same tunnel works at once"""
    def handler(c):
        kind = c.read(1)
        if kind == b"h":
            time.sleep(40)
        elif kind == b"s":
            c.taken = stuff(c.sock, seconds=2)
            c.stuck = True
            time.sleep(40)
        else:
            c.sock.sendall(kind)
            lib.serve_echo(c)
    back = w.backend(node, handler)
    client, server = w.pair(back)
    fifth = w.app(client.listen)
    lib.echo(fifth, b"e")
    rss = client.rss(), server.rss()
    four = [w.app(client.listen, SO_RCVBUF=16384) for _ in range(4)]
    if direction == "up":
        taken = []
        threads = [threading.Thread(target=lambda s=s: (s.sendall(b"h"), taken.append(stuff(s, seconds=2))), daemon=True) for s in four]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    else:
        for s in four:
            s.sendall(b"s")
        lib.wait_for(lambda: sum(getattr(c, "stuck", False) for c in back.conns) == 4, "the sources are stuck", 30)
        taken = [c.taken for c in back.conns if hasattr(c, "taken")]
    assert max(taken) < 64 * MIB, f"somebody buffers: {taken}"
    assert client.stat("tunnels_out") == 1
    worst = 0
    for _ in range(20):
        t = time.monotonic()
        lib.echo(fifth, b"still quick")
        worst = max(worst, time.monotonic() - t)
    assert worst < 0.5 * lib.SLOW, f"the fifth stream waits {worst:.3f} s"
    data = lib.pattern(4 * MIB)
    t = threading.Thread(target=lambda: fifth.sendall(data), daemon=True)
    t.start()
    assert lib.recv_exact(fifth, len(data)) == data
    grown = client.rss() - rss[0], server.rss() - rss[1]
    print("RSS grew by", grown, "taken", taken)
    if not lib.SAN:
        assert max(grown) < 64 * MIB


@pytest.mark.limit(60)
@pytest.mark.rows("A19", "6: memory budget")
def test_one_budget_for_all(w, node):
    """100 unread streams: all windows together stay within limits.memory, others go on"""
    def handler(c):
        kind = c.read(1)
        if kind == b"h":
            time.sleep(40)
        else:
            c.sock.sendall(kind)
            lib.serve_echo(c)
    back = w.backend(node, handler)
    budget = {"limits": {"memory": "8MiB", "connection_window": "4MiB"}}
    client, server = w.pair(back, client=budget, server=budget)
    good = w.app(client.listen)
    lib.echo(good, b"e")
    rss = client.rss(), server.rss()
    apps = [w.app(client.listen) for _ in range(100)]
    for s in apps:
        s.sendall(b"h")
    end = time.monotonic() + 4
    for s in apps:
        s.setblocking(False)
    sent = 0
    while time.monotonic() < end:
        for s in apps:
            try:
                sent += s.send(b"z" * 65536)
            except BlockingIOError:
                pass
        time.sleep(0.001)
    held = client.stat("buffered_bytes"), server.stat("buffered_bytes")
    grown = client.rss() - rss[0], server.rss() - rss[1]
    print("sent", sent, "held", held, "RSS grew by", grown)
    assert max(held) <= 13 * MIB, "the budget and one connection window"
    if not lib.SAN:
        assert max(grown) < 40 * MIB
    t = time.monotonic()
    for _ in range(10):
        lib.echo(good, b"alive")
    assert time.monotonic() - t < 5 * lib.SLOW


@pytest.mark.limit(60)
@pytest.mark.rows("6: fair", "demand 1")
def test_small_answers_beside_bulk(w, node):
    """ten streams move data as fast as they can; a small request on the same tunnel is answered soon"""
    def handler(c):
        kind = c.read(1)
        if kind == b"b":
            block = lib.pattern(262144)
            while True:
                c.sock.sendall(block)
        c.sock.sendall(kind)
        lib.serve_echo(c)
    back = w.backend(node, handler)
    client, _ = w.pair(back, pool={"max_tunnels": 1})
    small = w.app(client.listen)
    lib.echo(small, b"e")
    stop, moved = threading.Event(), [0] * 10

    def drink(i):
        s = w.app(client.listen)
        s.sendall(b"b")
        with contextlib.suppress(OSError):
            while not stop.is_set():
                moved[i] += len(s.recv(1 << 20))
    threads = [threading.Thread(target=drink, args=(i,), daemon=True) for i in range(10)]
    for t in threads:
        t.start()
    lib.wait_for(lambda: min(moved) > MIB // lib.SLOW, "all ten move", 20 * lib.SLOW)
    times = []
    start = list(moved)
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


@pytest.mark.rows("A24", "A19")
def test_early_data_is_bounded(w, node):
    """an application that writes 50 MB before the 200 is stopped, and loses nothing"""
    far = w.h2_server(node, tls=None)
    a = client_agent(w, node, far, False)
    app = w.app(a.listen)
    h = far.accept()
    sid, = h.requests(1)
    rss = a.rss()
    app.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    taken = stuff(app, 50 * MIB, 1)
    assert taken < 16 * MIB
    if not lib.SAN:
        assert a.rss() - rss < 8 * MIB
    assert a.stat("buffered_bytes") <= 1 * MIB
    h.accept(sid)
    lib.fin(app)
    assert h.whole(sid, 20) == b"s" * taken


@pytest.mark.rows("A24")
def test_early_data_goes_through_a_slow_connect(w, node):
    """the backend's connect hangs for a second; the bytes arrive in order"""
    full = w.keep(node.listen(backlog=0))
    where = node.at(full.getsockname()[1])
    blocker = w.keep(node.connect(where))
    client, _ = w.pair(where)
    app = w.app(client.listen)
    data = lib.pattern(40000)
    app.sendall(data[:20000])
    time.sleep(0.3)
    app.sendall(data[20000:])
    lib.fin(app)
    time.sleep(0.3)
    full.accept()[0].close()  # room in the backlog
    blocker.close()
    back, _ = full.accept()
    w.keep(back)
    back.settimeout(lib.TIMEOUT)
    got, end = lib.recv_all(back)
    if not got:  # that was a connection of somebody else's
        back, _ = full.accept()
        got, end = lib.recv_all(back)
    assert (got, end) == (data, "fin")


@pytest.mark.rows("A19", "C1.5")
def test_credit_comes_back_only_when_bytes_left(w, node):
    """WINDOW_UPDATE of a stream stops when its backend does not read"""
    back = w.backend(node, lib.serve_hold, rcvbuf=8192)
    tun = node.at()
    w.agent(node, "server", {"listeners": [lib.tunnel("inbound", tun, "app", tls=False)], "clusters": [lib.cluster("app", back.where)]})
    h = w.h2_client(node, tun, None)
    sid = h.opened("a:1")
    h.timeout = 2
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < 64 * MIB:
            h.data(sid, b"z" * 16384)
            sent += 16384
    assert sent < 16 * MIB, "credit without end"
    other = h.opened("a:1")
    assert h.windows[other] > 0 and h.window > 0, "the connection's window is not the stream's"


@pytest.mark.rows("6: windows", "C1.2")
def test_window_grows_with_use(w, node):
    """more than the initial window in flight once the path proves fast; below limits.stream_window_max"""
    back = w.backend(node, lib.serve_sink)
    tun = node.at()
    w.agent(node, "server", {"listeners": [lib.tunnel("inbound", tun, "app", tls=False)], "clusters": [lib.cluster("app", back.where)],
                             "limits": {"stream_window": "64KiB", "stream_window_max": "4MiB"}})
    h = w.h2_client(node, tun, None)
    sid = h.opened("a:1")
    h.drain(0.2)
    start = h.windows[sid]
    assert start == 65536
    largest = 0
    block = lib.pattern(16384)
    end = time.monotonic() + 2
    while time.monotonic() < end:
        h.data(sid, block)
        largest = max(largest, h.windows[sid])
    h.drain(0.5)
    largest = max(largest, h.windows[sid])
    print("window", start, "->", largest)
    assert largest <= 4 * MIB


@pytest.mark.rows("A29")
def test_slow_byte_by_byte(w, node):
    """single bytes arrive singly and at once: nothing waits to be coalesced"""
    back = w.backend(node)
    client, _ = w.pair(back)
    app = w.app(client.listen)
    lib.echo(app)
    t = time.monotonic()
    for i in range(200):
        lib.echo(app, bytes([i]))
    assert time.monotonic() - t < 3 * lib.SLOW


@pytest.mark.rows("A29", "A01")
def test_urgent_and_empty_writes(w, node):
    back = w.backend(node, lib.serve_count)
    client, _ = w.pair(back)
    app = w.app(client.listen)
    app.sendall(b"")
    lib.fin(app)
    got, end = lib.recv_all(app)
    assert got.split()[0] == b"0" and end == "fin"


@pytest.mark.rows("A19", "C1.2")
def test_tiny_windows_of_the_peer(w, node):
    """a peer that grants one byte at a time gets every byte"""
    far = w.h2_server(node, tls=None, settings={h2raw.INITIAL_WINDOW_SIZE: 1})
    a = client_agent(w, node, far, False)
    app = w.app(a.listen)
    h = far.accept()
    h.auto_window = False
    h.requests(1)
    h.accept(1)
    data = lib.pattern(300)
    app.sendall(data)
    h.body(1, 1)
    for i in range(1, 300):
        h.update(1, 1)
        h.body(1, i + 1)
    assert bytes(h.bodies[1]) == data


@pytest.mark.rows("B07", "C1.2")
def test_window_setting_shrinks_below_zero(w, node):
    """SETTINGS_INITIAL_WINDOW_SIZE lowered under what is in flight: the sender waits until it is positive again"""
    far = w.h2_server(node, tls=None, settings={h2raw.INITIAL_WINDOW_SIZE: 50000})
    a = client_agent(w, node, far, False)
    app = w.app(a.listen)
    h = far.accept()
    h.auto_window = False
    h.requests(1)
    h.accept(1)
    data = lib.pattern(60000)
    app.sendall(data)
    h.body(1, 50000)
    h.send(h2raw.SETTINGS, 0, 0, h2raw.settings({h2raw.INITIAL_WINDOW_SIZE: 1000}))
    h.update(1, 40000)
    h.drain(0.3)
    assert len(h.bodies[1]) == 50000
    h.update(1, 19000)
    assert h.body(1, 60000) == data
