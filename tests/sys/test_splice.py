"""
Bytes that splice(2) moves: socket to socket, and as payload of DATA frames in tunnels without TLS (with TLS it takes the kernel's:
tests/vm). `splice_above: 1` makes everything that goes on for more than two reads such bytes; all that is said of the relay must hold.
What is on the wire then: test_splice_wire.py.
"""
import contextlib
import os
import signal
import socket
import threading
import time

import pytest

import lib
import test_endings
from test_endings import (test_fin_of_the_application, test_fin_of_the_backend, test_reset_after_data_is_not_a_clean_end,  # noqa: F401
                          test_reset_of_the_application, test_reset_of_the_backend, test_unread_answer_then_close)
from test_flow import both_ways, stuff, swap

MIB = 1 << 20
ALL = {"kernel": {"splice_above": 1}}
GO = 512 * 1024  # the most that one splice takes (GO_MAX in chain/splice.c)


class Way(test_endings.Way):
    """application -> agents -> backend; form: direct (one agent, socket to socket) or tunnel (two, without TLS)"""

    def __init__(self, w, node, form, plane=None, **listener):
        plane = ALL if plane is None else plane
        self.w, self.node, self.form, self.middle = w, node, form, None
        self.sock = w.keep(node.listen())
        self.where = node.at(self.sock.getsockname()[1])
        self.listen = node.at()
        if form == "direct":
            self.client = w.agent(node, "client", {"listeners": [lib.tcp("outbound", self.listen, "app", **listener)],
                                                   "clusters": [lib.cluster("app", self.where)], **plane})
            self.agents = [self.client]
            return
        tun = node.at()
        self.server = w.agent(node, "server", {"listeners": [lib.tunnel("inbound", tun, "app", tls=False)],
                                               "clusters": [lib.cluster("app", self.where)], **plane})
        self.client = w.agent(node, "client", {"listeners": [lib.tcp("outbound", self.listen, "far", **listener)],
                                               "clusters": [lib.far("far", tun, authority="app.test:80", tls=False)], **plane})
        self.agents = [self.client, self.server]

    def spliced(self):
        return [a.stat("spliced_bytes") for a in self.agents]


@pytest.fixture(params=["direct", "tunnel"])
def way(request, w, node):
    return Way(w, node, request.param)


def pour(s, data):
    """write all of it in a thread"""
    def run():
        with contextlib.suppress(OSError):
            s.sendall(data)
    t = threading.Thread(target=run, daemon=True)
    t.start()
    return t


# ---- every byte

SIZES = [(1, 1), (20000, 1), (65536, 1000), (MIB, 4096), (3 * MIB + 1, 0), (16 * MIB, 65536), (64 * MIB, MIB)]


@pytest.mark.san
@pytest.mark.limit(90)
@pytest.mark.rows("A29", "A20", "tests: every byte")
@pytest.mark.parametrize("form", ["direct", "tunnel"])
@pytest.mark.parametrize("size,chunk", SIZES, ids=str)
def test_every_byte(w, node, form, size, chunk):
    """both directions at once, each half-closed when done; counters say who moved them"""
    if lib.SAN and size > 4 * MIB:
        pytest.skip("too slow with a sanitizer")
    up, down = lib.pattern(size, 1), lib.pattern(size + 3, 2)
    back = w.backend(node, both_ways(down, chunk))
    if form == "direct":
        listen = node.at()
        agents = [w.agent(node, "client", {"listeners": [lib.tcp("outbound", listen, "app")],
                                           "clusters": [lib.cluster("app", back.where)], **ALL})]
    else:
        agents = w.pair(back, tls=False, client=ALL, server=ALL)
        listen = agents[0].listen
    app = w.app(listen)
    _, n, end = swap(app, up, len(down), chunk)
    c = back.conn().finished()
    assert (c.received, c.end) == (len(up), "fin") and (n, end) == (len(down), "fin")
    app.close()
    for a in agents:
        row, = a.access(1)
        assert (row["bytes_sent"], row["bytes_recv"]) == (len(up), len(down)), a.name
        a.until("buffered_bytes", 0)
        if size >= 16 * MIB:
            assert a.stat("spliced_bytes") > size, a.name
            assert row["mover"] == "splice"
    assert agents[0].stat("syscalls_splice") > 0 or size < 100000


@pytest.mark.rows("A20")
@pytest.mark.parametrize("plane", [{"mover": "relay"}, {"kernel": {"splice": "off"}}, {"kernel": {"splice_above": "1GiB"}}],
                         ids=["relay", "off", "above"])
def test_not_wanted(w, node, plane):
    way = Way(w, node, "direct", plane)
    app, back = way.open()
    data = lib.pattern(4 * MIB)
    t = pour(app, data)
    assert lib.recv_exact(back, len(data)) == data
    t.join()
    assert way.client.stat("syscalls_splice") == 0
    conn, = way.client.rows("conn")
    assert conn["mover"] == "relay"


@pytest.mark.rows("A20")
def test_little_is_relayed_and_much_is_spliced(w, node):
    """with the default threshold: messages go by the relay, bulk does not, and after it messages do again"""
    way = Way(w, node, "direct", {})
    app, back = way.open()

    def messages():
        for i in range(50):
            app.sendall(b"q" * 1000)
            lib.recv_exact(back, 1000)
            back.sendall(b"a" * 2000)
            lib.recv_exact(app, 2000)
    messages()
    assert way.client.stat("syscalls_splice") == 0
    data = lib.pattern(32 * MIB)
    t = pour(app, data)
    assert lib.recv_exact(back, len(data)) == data
    t.join()
    assert way.client.stat("spliced_bytes") > len(data) * 3 // 4
    conn, = way.client.rows("conn")
    assert conn["mover"] == "splice"
    messages()
    calls = way.client.stat("syscalls_splice")
    messages()
    assert way.client.stat("syscalls_splice") == calls


@pytest.mark.rows("A20")
def test_urgent_data_does_not_stop_it(way):
    """splice() does not get past the mark of urgent data: it is the relay's then. The urgent byte itself is not carried."""
    app, back = way.open()
    data = lib.pattern(4 * MIB)
    t = pour(app, data)
    assert lib.recv_exact(back, len(data)) == data
    t.join()
    for i in range(3):
        app.sendall(b"before")
        app.send(b"!", socket.MSG_OOB)
        app.sendall(b"behind%d" % i)
        assert lib.recv_exact(back, 13) == b"beforebehind%d" % i
    t = pour(app, data)
    assert lib.recv_exact(back, len(data)) == data
    t.join()


# ---- endings while bytes are in a pipe

def stuck(way, app, back):
    """fill everything between two applications of which one does not read; Return: bytes taken"""
    taken = stuff(app, seconds=1)
    assert taken < 128 * MIB  # the kernel's buffers
    lib.wait_for(lambda: way.client.stat("buffered_bytes") or way.agents[-1].stat("buffered_bytes"), "bytes wait in an agent", 5)
    return taken


def pipes(agent):
    fds = f"/proc/{agent.pid}/fd"
    n = 0
    for f in os.listdir(fds):
        with contextlib.suppress(OSError):
            n += os.readlink(f"{fds}/{f}").startswith("pipe:")
    return n


@pytest.mark.san
@pytest.mark.limit(60)
@pytest.mark.rows("A19", "A21")
def test_a_reader_that_stops_and_goes_on(way):
    """what waits for it is bounded, and all of it comes, then the end"""
    app, back = way.open()
    data = lib.pattern(8 * MIB)
    t = pour(app, data)
    assert lib.recv_exact(back, len(data)) == data  # spliced by now
    t.join()
    n = stuck(way, app, back)
    for a in way.agents:
        assert a.stat("buffered_bytes") <= 2 * GO + (8 * MIB if way.form == "tunnel" else 0), a.name
    lib.fin(app)
    back.settimeout(lib.TIMEOUT)
    got, end = lib.recv_all(back)
    assert (got, end) == (b"s" * n, "fin")
    back.sendall(b"thanks")
    assert lib.recv_exact(app, 6) == b"thanks"
    back.close()
    app.close()
    way.clean()
    for a in way.agents:
        lib.wait_for(lambda a=a: pipes(a) == 0, f"{a.name} has closed its pipes", 10)


@pytest.mark.san
@pytest.mark.limit(60)
@pytest.mark.rows("A22", "7: endings")
@pytest.mark.parametrize("how", ["writer resets", "reader resets", "reader closes", "killed by an operator", "drained"])
def test_ends_while_bytes_wait(way, how):
    """nobody sees a clean end, and nothing is left"""
    app, back = way.open()
    data = lib.pattern(8 * MIB)
    t = pour(app, data)
    assert lib.recv_exact(back, len(data)) == data
    t.join()
    stuck(way, app, back)
    if how == "writer resets":
        lib.rst(app)
        got, end = lib.recv_all(back)
        assert end == "rst"
    elif how in ("reader resets", "reader closes"):
        if how == "reader resets":
            lib.rst(back)
        else:
            back.close()  # with bytes unread: RST, too
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            for _ in range(100):
                app.send(b"x" * 65536)
                time.sleep(0.02)
    elif how == "killed by an operator":
        row, = way.client.rows("conn")
        way.client.ctl("conn", "kill", row["id"])
        assert lib.recv_all(back)[1] == "rst"
        lib.is_reset(app)
    else:
        way.client.config["timeouts"] = {"drain": "500ms"}
        way.client.signal(signal.SIGTERM)
        time.sleep(0.2)
        lib.rst(app)
        assert lib.recv_all(back)[1] == "rst"
        way.client.wait()
        way.agents.remove(way.client)
    way.clean()
    for a in way.agents:
        lib.wait_for(lambda a=a: pipes(a) == 0, f"{a.name} has closed its pipes", 10)


@pytest.mark.limit(60)
@pytest.mark.rows("A21", "7: idle")
def test_idle_while_bytes_wait(w, node):
    way = Way(w, node, "direct", idle_timeout="3s")
    app, back = way.open()
    data = lib.pattern(8 * MIB)
    t = pour(app, data)
    assert lib.recv_exact(back, len(data)) == data
    t.join()
    stuck(way, app, back)
    assert lib.recv_all(back)[1] == "rst"
    lib.is_reset(app)
    assert way.client.access(1)[0]["response_flags"] == "SI"
    way.clean()


@pytest.mark.limit(60)
@pytest.mark.rows("A20", "demand 40")
def test_who_is_idle_owns_no_pipe(w, node):
    way = Way(w, node, "direct")
    before = way.client.descriptors()
    ends = [way.open() for _ in range(40)]
    data = lib.pattern(MIB)
    threads = []
    for app, back in ends:
        threads.append(pour(app, data))
        threads.append(pour(back, data))
    for app, back in ends:
        assert lib.recv_exact(back, len(data)) == data
        assert lib.recv_exact(app, len(data)) == data
    assert way.client.stat("spliced_bytes") > 20 * MIB
    lib.wait_for(lambda: pipes(way.client) == 0, lambda: f"{pipes(way.client)} ends of pipes are open", 10)
    assert way.client.descriptors() == before + 80


@pytest.mark.limit(60)
@pytest.mark.rows("A20")
def test_without_descriptors_for_pipes(w, node):
    """the last descriptors are kept for people: the relay needs none"""
    listen = node.at()
    back = w.backend(node, lib.serve_count)
    a = w.agent(node, "client", {"listeners": [lib.tcp("outbound", listen, "app")], "clusters": [lib.cluster("app", back.where)], **ALL},
                nofile=100)
    apps = []
    with contextlib.suppress(OSError, AssertionError):
        while a.descriptors() < 70:
            apps.append(w.app(listen, timeout=2))
            lib.wait_for(lambda: len(back.conns) == len(apps), "a connection", 2)
    assert len(apps) > 10
    data = lib.pattern(2 * MIB)
    for s in apps[:10]:
        s.settimeout(lib.TIMEOUT)
        s.sendall(data)
        lib.fin(s)
    for s in apps[:10]:
        assert lib.recv_all(s)[0].split()[0] == b"%d" % len(data)
    assert a.ctl("status")
