"""Descriptors, connections and time that run out; stopping; many connections; no privileges."""
import os
import pwd
import resource
import selectors
import signal
import socket
import threading
import time

import pytest

import h2raw
import lib
from test_wire import server_agent


@pytest.mark.san
@pytest.mark.rows("10: EMFILE")
def test_accept_pauses_when_descriptors_run_out(w, node):
    """existing connections go on, waiting ones get in when others leave, the CPU stays quiet"""
    back = w.backend(node)
    client, _ = w.pair(back)
    client.stop()
    client.nofile = 60
    client.start()
    apps = [w.app(client.listen) for _ in range(100)]
    time.sleep(0.5)
    assert client.stat("accept_paused") >= 1
    n = client.stat("connections")
    assert 10 < n < 60
    for s in apps[:n]:
        lib.echo(s)
    with open(f"/proc/{client.pid}/stat", encoding="ascii") as f:
        before = sum(map(int, f.read().rsplit(")", 1)[1].split()[11:13]))
    time.sleep(1)
    with open(f"/proc/{client.pid}/stat", encoding="ascii") as f:
        after = sum(map(int, f.read().rsplit(")", 1)[1].split()[11:13]))
    assert after - before < 30, "a busy loop"
    client.logged("descriptor|EMFILE|too many open files")
    for s in apps[:n]:
        s.close()
    for s in apps[n:n + 5]:
        lib.echo(s)
    for s in apps:
        s.close()
    client.until("connections", 0)
    lib.echo(w.app(client.listen))


@pytest.mark.rows("10: EMFILE")
def test_server_without_descriptors(w, node):
    """the server agent cannot connect: that CONNECT is refused, the tunnel lives"""
    back = w.backend(node)
    client, server = w.pair(back)
    server.stop()
    server.nofile = 50
    server.start()
    apps = [w.app(client.listen) for _ in range(80)]
    good = bad = 0
    for s in apps:
        try:
            lib.echo(s)
            good += 1
        except (OSError, AssertionError):
            bad += 1
    assert good > 5 and bad > 5, (good, bad)
    for s in apps:
        s.close()
    client.until("connections", 0)
    lib.echo(w.app(client.listen))


@pytest.mark.rows("B27", "limits")
@pytest.mark.parametrize("where", ["daemon", "listener", "cluster"])
def test_connection_limits(w, node, where):
    back = w.backend(node)
    kw = {"daemon": {"client": {"limits": {"max_connections": 5}}}, "listener": {"outbound": {"max_connections": 5}},
          "cluster": {"to_far": {"max_connections": 5}}}[where]
    client, _ = w.pair(back, **kw)
    apps = [w.app(client.listen) for _ in range(5)]
    for s in apps:
        lib.echo(s)
    six = w.app(client.listen)
    six.settimeout(1)
    try:
        six.sendall(b"x")
        refused = six.recv(1) == b""
    except (socket.timeout, TimeoutError):
        refused = True  # waits in the backlog
    except OSError:
        refused = True
    assert refused and client.stat("connections") <= 6
    six.close()
    for s in apps:
        lib.echo(s)
    apps[0].close()
    client.until("connections", lambda v: v <= 4)

    def works():
        try:
            lib.echo(w.app(client.listen, timeout=2))
            return True
        except (OSError, AssertionError):
            return False
    lib.wait_for(works, "a place is free again", 5 * lib.SLOW, 0.1)


@pytest.mark.rows("limits")
def test_tunnel_limit(w, node):
    back = w.backend(node)
    a = server_agent(w, node, clusters=[lib.cluster("app", back.where)], limits={"max_tunnels_in": 2}, tls=False)
    hs = [w.h2_client(node, a.tunnel, None) for _ in range(2)]
    for h in hs:
        h.opened("a:1")
    three = w.h2_client(node, a.tunnel, None, start=False, timeout=2)
    try:
        three.start()
        three.gone(2)
    except (h2raw.Closed, TimeoutError, OSError):
        pass
    assert a.stat("tunnels_in") == 2
    sid = hs[0].opened("a:1")
    hs[0].data(sid, b"x")
    hs[0].body(sid, 1)


@pytest.mark.san
@pytest.mark.rows("3: handshake", "bad input")
@pytest.mark.parametrize("how", ["silence", "half a hello", "no preface", "no settings", "drip"])
def test_unfinished_handshakes_are_closed(w, node, how):
    """nothing, something slow, or TLS without HTTP/2: closed after timeouts.handshake; others are served meanwhile"""
    back = w.backend(node)
    a = server_agent(w, node, clusters=[lib.cluster("app", back.where)], timeouts={"handshake": "1s"})
    fds = a.descriptors()
    good = w.h2_client(node, a.tunnel)
    sid = good.opened("a:1")
    socks = [w.keep(node.connect(a.tunnel)) for _ in range(30)]
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 60
    stop = threading.Event()
    if how == "half a hello":
        for s in socks:
            s.sendall(hello)
    elif how == "drip":
        def drip():
            for i in range(len(hello)):
                if stop.wait(0.15):
                    return
                for s in socks:
                    try:
                        s.send(hello[i:i + 1])
                    except OSError:
                        pass
        threading.Thread(target=drip, daemon=True).start()
    elif how in ("no preface", "no settings"):
        socks = [w.keep(w.certs.context(True, "client").wrap_socket(s)) for s in socks[:5]]
        if how == "no settings":
            for s in socks:
                s.sendall(h2raw.PREFACE)
    for _ in range(4):
        good.data(sid, b"x")
        good.drain(0.1)
    assert len(good.bodies[sid]) == 4
    started = time.monotonic()

    def closed(s):
        s.settimeout(4 * lib.SLOW)
        try:
            while s.recv(65536):
                pass
        except (socket.timeout, TimeoutError) as e:
            raise AssertionError("still open") from e
        except OSError:
            pass
        return True
    assert all(closed(s) for s in socks)
    assert time.monotonic() - started < 4 * lib.SLOW
    stop.set()
    lib.wait_for(lambda: a.descriptors() <= fds + 2, "descriptors are closed")
    good.data(sid, b"end")
    good.body(sid, 7)


@pytest.mark.rows("3: handshake")
def test_peer_that_never_answers_the_handshake(w, node):
    """the client agent gives up after timeouts.handshake; after timeouts.open when there is no answer to CONNECT"""
    mute = w.backend(node, lib.serve_hold)
    client, server = w.pair(mute.where, client={"timeouts": {"handshake": "800ms", "open": "800ms"}})
    server.stop()
    mute2 = w.backend(node, lib.serve_hold, port=lib.split(server.tunnel)[1])
    t = time.monotonic()
    lib.is_reset(w.app(client.listen))
    assert 0.5 < time.monotonic() - t < 4 * lib.SLOW
    assert client.access(1)[-1]["error"]
    mute2.close()


@pytest.mark.rows("3", "limits")
def test_no_answer_to_connect(w, node):
    far = w.h2_server(node, tls=None)
    listen = node.at()
    a = w.agent(node, "client", {"listeners": [lib.tcp("outbound", listen, "far")], "timeouts": {"open": "800ms"},
                                 "clusters": [lib.far("far", far.where, authority="a:1", tls=False)]})
    app = w.app(listen)
    h = far.accept()
    h.requests(1)
    t = time.monotonic()
    lib.is_reset(app)
    assert 0.4 < time.monotonic() - t < 4 * lib.SLOW
    h.seen(lambda: 1 in h.resets)
    assert a.access(1)[0]["error"]


@pytest.mark.san
@pytest.mark.rows("B18", "3: drain")
def test_server_drains(w, node):
    """SIGTERM: GOAWAY(2^31-1), later GOAWAY(last); open streams finish; then exit 0, well before the deadline"""
    back = w.backend(node)
    a = server_agent(w, node, clusters=[lib.cluster("app", back.where)], timeouts={"drain": "6s"}, tls=False)
    h = w.h2_client(node, a.tunnel, None)
    sid = h.opened("a:1")
    a.signal(signal.SIGTERM)
    h.until(lambda f: f.type == h2raw.GOAWAY)
    assert h.goaways[0].last() == 0x7fffffff and h.goaways[0].code() == h2raw.NO_ERROR
    late = h.connect("a:1")  # crossed with the GOAWAY on the wire: may be served
    h.seen(lambda: len(h.goaways) == 2)
    last = h.goaways[1].last()
    assert last in (sid, late) and h.goaways[1].code() == h2raw.NO_ERROR
    lib.wait_for(lambda: not node.listening(lib.split(a.tunnel)[1]), "it does not listen any more")
    for _ in range(5):
        h.data(sid, b"still working")
        h.drain(0.1)
    assert len(h.bodies[sid]) == 65
    started = time.monotonic()
    if last == late:
        h.status(late)
        h.data(late, b"", end=True)
        h.whole(late)
    h.data(sid, b"", end=True)
    h.whole(sid)
    assert h.gone() == h2raw.NO_ERROR
    a.wait(5)
    assert time.monotonic() - started < 3 * lib.SLOW
    assert not os.path.exists(a.socket)


@pytest.mark.rows("B18", "3: drain")
def test_deadline_of_the_drain(w, node):
    """streams that do not finish are reset, the exit status is still 0"""
    back = w.backend(node)
    client, server = w.pair(back, server={"drain": {"within": "1s", "jitter": 0}}, client={"timeouts": {"drain": "1s"}})
    app = w.app(client.listen)
    lib.echo(app)
    t = time.monotonic()
    server.signal(signal.SIGTERM)
    time.sleep(0.4)
    lib.echo(app)
    server.wait(6 * lib.SLOW)
    assert 0.8 < time.monotonic() - t < 4 * lib.SLOW
    lib.is_reset(app)
    assert back.conn().finished().end == "rst"


@pytest.mark.rows("B18", "3: drain")
def test_client_drains(w, node):
    back = w.backend(node)
    client, server = w.pair(back, client={"timeouts": {"drain": "8s"}})
    app = w.app(client.listen)
    lib.echo(app)
    client.signal(signal.SIGTERM)
    lib.wait_for(lambda: not node.listening(lib.split(client.listen)[1]), "it does not listen any more")
    data = lib.pattern(1 << 20)
    t = threading.Thread(target=lambda: app.sendall(data), daemon=True)
    t.start()
    assert lib.recv_exact(app, len(data)) == data
    lib.fin(app)
    assert lib.ending(app) == "fin"
    client.wait(5 * lib.SLOW)
    server.until("tunnels_in", 0)


@pytest.mark.limit(60)
@pytest.mark.rows("B18", "B21")
def test_rolling_restart_of_the_server(w, node):
    """a second server takes over while the first drains: no connection fails that was opened before or after"""
    back = w.backend(node)
    tun1, tun2, listen = node.at(), node.at(), node.at()

    def server(where):
        return w.agent(node, "server", {"identities": [w.certs.identity("server")], "listeners": [lib.tunnel("inbound", where, "app")],
                                        "clusters": [lib.cluster("app", back.where)], "timeouts": {"drain": "10s"}})
    one, _ = server(tun1), server(tun2)
    client = w.agent(node, "client", {"identities": [w.certs.identity("client")], "listeners": [lib.tcp("outbound", listen, "far")],
                                      "clusters": [lib.far("far", tun1, tun2, authority="a:1")]})
    apps = [w.app(listen) for _ in range(20)]
    for s in apps:
        lib.echo(s)
    one.signal(signal.SIGTERM)
    time.sleep(0.3)
    failed = 0
    for _ in range(40):
        try:
            s = w.app(listen)
            lib.echo(s)
            s.close()
        except (OSError, AssertionError):
            failed += 1
    for s in apps:
        lib.echo(s)
        s.close()
    one.wait(12 * lib.SLOW)
    assert failed == 0, f"{failed} of 40 connections failed while one server drained"
    assert client.stat("connections") == 0 or client.until("connections", 0) == 0


@pytest.mark.rows("3: drain")
def test_second_signal_and_no_work(w, node):
    back = w.backend(node)
    client, server = w.pair(back)
    lib.echo(w.app(client.listen))
    t = time.monotonic()
    server.stop()
    assert time.monotonic() - t < 8 * lib.SLOW
    app = w.keep(node.connect(client.listen))
    client.signal(signal.SIGTERM)
    client.signal(signal.SIGTERM)
    client.wait(10 * lib.SLOW)
    app.close()


def test_start_failures_are_explained(w, node):
    """port taken, bad certificate, bad key: exit status not 0 and one sentence"""
    taken = w.keep(node.listen())
    where = node.at(taken.getsockname()[1])
    for config, words in (
            ({"listeners": [lib.tcp("l", where, "c")], "clusters": [lib.cluster("c", "127.0.0.1:1")]}, "in use"),
            ({"identities": [dict(w.certs.identity("server"), key=w.certs.file("client.key"))], "listeners": [lib.tunnel("t", node.at(), "c")],
              "clusters": [lib.cluster("c", "127.0.0.1:1")]}, "key|match"),
            ({"identities": [dict(w.certs.identity("server"), certificate=w.certs.file("server.key"))],
              "listeners": [lib.tunnel("t", node.at(), "c")], "clusters": [lib.cluster("c", "127.0.0.1:1")]}, "certificate")):
        a = w.agent(node, "bad", config, start=False)
        w.agents.remove(a)
        a.start(wait=False)
        assert a.proc.wait(10 * lib.SLOW) not in (0, 99, -6, -11), a.log()
        a.logged(words)


def test_stale_admin_socket_is_replaced(w, node):
    back = w.backend(node)
    client, _ = w.pair(back)
    client.kill()
    assert os.path.exists(client.socket)
    client.start()
    lib.echo(w.app(client.listen))
    second = lib.Agent(node, "second", w.dir, {"admin": {"socket": client.socket}, "listeners": [], "clusters": []})
    second.start(wait=False)
    assert second.proc.wait(10) != 0, "a socket somebody answers on is not taken away"
    assert client.ctl("status")


@pytest.mark.rows("A09", "unprivileged")
def test_without_privileges(w, node):
    """as nobody, without any capability: traffic on high ports"""
    nobody = pwd.getpwnam("nobody")
    os.chmod(w.dir, 0o777)
    back = w.backend(node)
    client, server = w.pair(back, agent={"user": nobody.pw_name})
    for a in (client, server):
        with open(f"/proc/{a.pid}/status", encoding="ascii") as f:
            status = dict(x.split(":\t") for x in f.read().splitlines() if ":\t" in x)
        assert int(status["Uid"].split()[0]) == nobody.pw_uid and int(status["CapEff"], 16) == 0
    app = w.app(client.listen)
    data = lib.pattern(2 << 20)
    threading.Thread(target=lambda: app.sendall(data), daemon=True).start()
    assert lib.recv_exact(app, len(data)) == data
    assert client.ctl("status")["ready"] is True


class ManyEcho(threading.Thread):
    """an echo backend for thousands of connections"""

    def __init__(self, sock):
        super().__init__(daemon=True)
        self.sock, self.n = sock, 0
        sock.setblocking(False)
        self.start()

    def run(self):
        sel = selectors.DefaultSelector()
        sel.register(self.sock, selectors.EVENT_READ)
        while True:
            for key, _ in sel.select():
                if key.fileobj is self.sock:
                    try:
                        while True:
                            c, _ = self.sock.accept()
                            c.setblocking(False)
                            sel.register(c, selectors.EVENT_READ)
                            self.n += 1
                    except BlockingIOError:
                        continue
                    except OSError:
                        return
                try:
                    data = key.fileobj.recv(65536)
                    if data:
                        key.fileobj.sendall(data)
                        continue
                except OSError:
                    pass
                sel.unregister(key.fileobj)
                key.fileobj.close()
                self.n -= 1


@pytest.mark.slow
@pytest.mark.limit(120)
@pytest.mark.skipif(bool(lib.SAN), reason="memory of a sanitizer's build says nothing")
@pytest.mark.rows("A04", "tests: 10,000 connections", "memory")
def test_ten_thousand_connections(w, node):
    """open, use, use again, close, twice; memory per connection, and none kept"""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    n = min(10000, (hard - 1000) // 2)
    node.run("sysctl", "-q", "-w", "net.ipv4.ip_local_port_range=10000 65000", "net.core.somaxconn=8192", check=False)
    echo = ManyEcho(w.keep(node.listen(backlog=8192)))
    client, server = w.pair(node.at(echo.sock.getsockname()[1]), pool={"max_streams": 4096, "queue": 20000})
    try:
        lib.echo(w.app(client.listen))
        time.sleep(0.5)
        base = first = client.rss(), server.rss()
        for turn in range(2):
            apps = []
            for i in range(n):
                s = w.nodes[0].connect(client.listen, timeout=20)
                s.sendall(b"%05d" % i)
                apps.append(s)
            for i, s in enumerate(apps):
                assert lib.recv_exact(s, 5) == b"%05d" % i
            client.until("connections", n + 1)
            assert server.stat("streams") == n + 1
            held = client.rss(), server.rss()
            for i in range(0, n, 97):
                lib.echo(apps[i])
            for s in apps:
                s.close()
            client.until("connections", 1, 30)
            server.until("streams", 1, 30)
            after = client.rss(), server.rss()
            per = (sum(held) - sum(base)) / n
            print(f"turn {turn}: {n} connections, {per:.0f} bytes per connection both agents, tunnels {client.stat('tunnels_out')}, "
                  f"RSS base {base} held {held} after {after}")
            assert per < 6000
            if turn:
                assert sum(after) <= sum(first) * 1.05 + (1 << 20), (first, after)
            first = after
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
