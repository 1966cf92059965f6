"""A path between the nodes with delay, loss, little bandwidth, or none at all."""
import contextlib
import hashlib
import os
import threading
import time

import pytest

import lib
from link import Link

pytestmark = [pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="no TUN devices and no netem"),
              pytest.mark.rows("tests: loss and delay")]
MIB = 1 << 20


@pytest.fixture
def wire(w):
    def make(**kw):
        a, b = w.node("a"), w.node("b")
        w.links.append(Link(a, b, 2, **kw))
        return a, b, w.links[-1]
    return make


def netem(node, *args):
    return node.run("tc", "qdisc", "add", "dev", node.device, "root", "netem", *args, check=False).returncode == 0


@pytest.mark.limit(90)
@pytest.mark.parametrize("delay,loss", [(5, 0.0), (10, 0.01), (2, 0.05)])
def test_every_byte_over_a_bad_path(w, wire, delay, loss):
    """eight streams both ways, each byte checked, half-closes kept"""
    a, b, _ = wire(delay_ms=delay, loss=loss)
    back = w.backend(b, lib.serve_echo, address="127.0.0.1")
    client, _ = w.pair(back, node=a, far_node=b)
    size, wrong = (MIB if loss < 0.02 else 200000) // lib.SLOW, []

    def one(i):
        data = lib.pattern(size, i)
        s = w.app(client.listen, a)
        s.settimeout(60)
        t = threading.Thread(target=lambda: (s.sendall(data), lib.fin(s)), daemon=True)
        t.start()
        got, end = lib.recv_all(s)
        if got != data or end != "fin":
            wrong.append((i, len(got), end))
    threads = [threading.Thread(target=one, args=(i,), daemon=True) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    assert client.stat("tunnels_opened") == 1


@pytest.mark.limit(60)
@pytest.mark.rows("6: windows")
def test_windows_grow_with_the_path(w, wire):
    """60 ms round trip, 200 Mbit/s: one stream is not held to a small window (256 KiB would be 4.3 MB/s)"""
    a, b, _ = wire(delay_ms=30, mbit=200)
    back = w.backend(b, lib.serve_count, address="127.0.0.1")
    client, _ = w.pair(back, node=a, far_node=b)
    s = w.app(client.listen, a)
    data = lib.pattern(40 * MIB // lib.SLOW)
    s.settimeout(50)
    t = time.monotonic()
    s.sendall(data)
    lib.fin(s)
    answer = lib.recv_all(s)[0].split()
    rate = len(data) / (time.monotonic() - t) / 1e6
    assert answer[1].decode() == hashlib.sha256(data).hexdigest()
    print(f"{rate:.1f} MB/s")
    assert rate > 7 / lib.SLOW, f"{rate:.1f} MB/s"


@pytest.mark.limit(60)
@pytest.mark.rows("7", "C1.2")
def test_path_goes_dark(w, wire):
    """no FIN, no RST: PINGs find it out, both applications are reset, and when the path is back it works"""
    a, b, link = wire(delay_ms=1)
    back = w.backend(b, lib.serve_echo, address="127.0.0.1")
    quick = {"timeouts": {"ping": "500ms", "ping_timeout": "1s"}}
    client, server = w.pair(back, node=a, far_node=b, client=quick, server=quick)
    s = w.app(client.listen, a)
    lib.echo(s)
    link.cut()
    lib.is_reset(s, 10 * lib.SLOW)
    back.conn().finished(10 * lib.SLOW)
    assert back.conn().end == "rst"
    assert client.stat("ping_timeouts") == 1 and server.stat("ping_timeouts") == 1
    link.mend()

    def works():
        try:
            lib.echo(w.app(client.listen, a, timeout=3))
            return True
        except (OSError, AssertionError):
            return False
    lib.wait_for(works, "connections work again", 20, 0.3)


@pytest.mark.limit(60)
def test_small_requests_on_a_thin_path(w, wire):
    """2 Mbit/s, full of bulk: a small request is not stuck behind seconds of queue"""
    a, b, _ = wire(delay_ms=5, mbit=8)

    def handler(c):
        kind = c.read(1)
        if kind == b"b":
            while True:
                c.sock.sendall(b"z" * 65536)
        c.sock.sendall(kind)
        lib.serve_echo(c)
    back = w.backend(b, handler, address="127.0.0.1")
    client, _ = w.pair(back, node=a, far_node=b)
    small, bulk = w.app(client.listen, a), w.app(client.listen, a)
    lib.echo(small, b"e")
    bulk.sendall(b"b")

    def drink():
        with contextlib.suppress(OSError):
            while bulk.recv(65536):
                pass
    threading.Thread(target=drink, daemon=True).start()
    time.sleep(2)
    worst = 0
    for _ in range(10):
        t = time.monotonic()
        lib.echo(small, b"q" * 100)
        worst = max(worst, time.monotonic() - t)
        time.sleep(0.1)
    print(f"worst {worst * 1e3:.0f} ms")
    assert worst < 2.5


def test_netem(w):
    """the same by the kernel's own means, where it has them"""
    a, b = w.two_nodes()
    if not netem(a, "delay", "5ms", "loss", "1%"):
        pytest.skip("this kernel has no netem qdisc (CONFIG_NET_SCH_NETEM)")
    back = w.backend(b, lib.serve_count, address="127.0.0.1")
    client, _ = w.pair(back, node=a, far_node=b)
    s = w.app(client.listen, a)
    data = lib.pattern(4 * MIB)
    s.sendall(data)
    lib.fin(s)
    assert lib.recv_all(s)[0].split()[1].decode() == hashlib.sha256(data).hexdigest()
