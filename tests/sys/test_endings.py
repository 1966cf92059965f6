"""How connections end: every row of the table of endings, from both ends, over one tunnel and over two."""
import os
import signal
import socket
import threading
import time

import pytest

import lib
from h2raw import CANCEL, CONNECT_ERROR, INTERNAL_ERROR, NO_ERROR, STREAM_CLOSED
from test_wire import client_agent, server_agent

pytestmark = pytest.mark.rows("7: endings")


class Way:
    """application -> agents -> backend; the test holds both ends"""

    def __init__(self, w, node, hops):
        self.w, self.node = w, node
        self.sock = w.keep(node.listen())
        self.where = node.at(self.sock.getsockname()[1])
        tun, listen = node.at(), node.at()
        self.server = w.agent(node, "server", {
            "identities": [w.certs.identity("server")], "listeners": [lib.tunnel("inbound", tun, "app")],
            "clusters": [lib.cluster("app", self.where)]})
        nxt = tun
        self.middle = None
        if hops:
            nxt = node.at()
            self.middle = w.agent(node, "middle", {
                "identities": [w.certs.identity("green")], "listeners": [lib.tunnel("inbound", nxt, ">next")],
                "clusters": [lib.far("next", tun)]})
        self.client = w.agent(node, "client", {
            "identities": [w.certs.identity("client")], "listeners": [lib.tcp("outbound", listen, "far")],
            "clusters": [lib.far("far", nxt, authority="app.test:80")]})
        self.listen = listen
        self.agents = [a for a in (self.client, self.middle, self.server) if a]

    def open(self, greet=True):
        """Return: (application's socket, backend's socket), proved by a byte each way"""
        app = self.w.app(self.listen)
        if greet:
            app.sendall(b"?")
        self.sock.settimeout(lib.TIMEOUT)
        back, _ = self.sock.accept()
        self.w.keep(back)
        back.settimeout(lib.TIMEOUT)
        if greet:
            assert lib.recv_exact(back, 1) == b"?"
            back.sendall(b"!")
            assert lib.recv_exact(app, 1) == b"!"
        return app, back

    def clean(self):
        """nothing of it is left in any agent"""
        for a in self.agents:
            a.until("connections", 0)
            a.until("streams", 0)
            a.until("buffered_bytes", 0)


@pytest.fixture(params=[0, 1], ids=["one tunnel", "two tunnels"])
def way(request, w, node):
    return Way(w, node, request.param)


@pytest.mark.san
@pytest.mark.rows("A21", "A23", "A22")
def test_fin_of_the_application(way):
    """that direction ends, the other goes on for as long as it likes"""
    app, back = way.open()
    app.sendall(b"last words")
    lib.fin(app)
    assert lib.recv_all(back) == (b"last words", "fin")
    time.sleep(0.2)
    data = lib.pattern(16 << 20 if not lib.SAN else 1 << 20)
    t = threading.Thread(target=lambda: (back.sendall(data), back.close()), daemon=True)
    t.start()
    got, end = lib.recv_all(app)
    assert end == "fin" and got == data
    app.close()
    way.clean()
    row = way.client.access(1)[0]
    assert row["response_flags"] == "-" and row["level"] == "info" and row["closed_by"] == "src"


@pytest.mark.san
@pytest.mark.rows("A21")
def test_fin_of_the_backend(way):
    app, back = way.open()
    back.sendall(b"that is all")
    lib.fin(back)
    assert lib.recv_all(app) == (b"that is all", "fin")
    time.sleep(0.2)
    app.sendall(b"but I am not done")
    assert lib.recv_exact(back, 17) == b"but I am not done"
    app.close()
    assert lib.ending(back) == "fin"
    way.clean()


@pytest.mark.san
@pytest.mark.rows("A22")
@pytest.mark.parametrize("state", ["open", "half closed by us", "half closed by them"])
def test_reset_of_the_application(way, state):
    app, back = way.open()
    if state == "half closed by us":
        lib.fin(app)
        assert lib.ending(back) == "fin"
    elif state == "half closed by them":
        lib.fin(back)
        assert lib.ending(app) == "fin"
    lib.rst(app)
    lib.wait_for(lambda: way.client.stat("connections") == 0, "the client agent notices")
    if state == "half closed by us":  # the backend has seen our FIN; only writing shows the reset
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            for _ in range(50):
                back.sendall(b"x")
                time.sleep(0.05)
    else:
        lib.is_reset(back)
    way.clean()


@pytest.mark.san
@pytest.mark.rows("A22")
@pytest.mark.parametrize("state", ["open", "half closed by us", "half closed by them"])
def test_reset_of_the_backend(way, state):
    app, back = way.open()
    if state == "half closed by them":
        lib.fin(app)
        assert lib.ending(back) == "fin"
    elif state == "half closed by us":
        lib.fin(back)
        assert lib.ending(app) == "fin"
    lib.rst(back)
    if state == "half closed by us":
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            for _ in range(50):
                app.sendall(b"x")
                time.sleep(0.05)
    else:
        lib.is_reset(app)
    way.clean()
    row = way.client.access(1)[0]
    assert row["level"] == "error" and row["response_flags"] != "-"


@pytest.mark.rows("A22")
def test_unread_answer_then_close(way):
    """closing a socket with unread bytes is a reset, as the kernel does it"""
    app, back = way.open()
    back.sendall(b"never read")
    time.sleep(0.2)
    app.close()
    lib.is_reset(back)
    way.clean()


@pytest.mark.rows("A22")
def test_reset_after_data_is_not_a_clean_end(way):
    """a truncated answer must not look complete"""
    app, back = way.open()
    back.sendall(b"half of the ans")
    time.sleep(0.1)
    lib.rst(back)
    app.settimeout(lib.TIMEOUT)
    _, end = lib.recv_all(app)
    assert end == "rst"
    way.clean()


@pytest.mark.rows("7", "A22")
@pytest.mark.parametrize("victim", ["client", "server", "middle"])
def test_agent_is_killed(w, node, victim):
    """kill -9: both applications see a reset, at once and in the middle of a transfer, never a clean end"""
    way = Way(w, node, 1 if victim == "middle" else 0)
    app, back = way.open()
    app2, back2 = way.open()
    stop = threading.Event()

    def pump():
        try:
            while not stop.is_set():
                back2.sendall(b"z" * 65536)
        except OSError:
            pass
    t = threading.Thread(target=pump, daemon=True)
    t.start()
    assert len(lib.recv_exact(app2, 1 << 20)) == 1 << 20
    {"client": way.client, "server": way.server, "middle": way.middle}[victim].kill()
    if victim != "client":
        lib.is_reset(app)
        assert lib.recv_all(app2)[1] == "rst"
    if victim != "server":
        lib.is_reset(back)
    stop.set()
    t.join(lib.TIMEOUT)
    assert not t.is_alive(), "the backend's writes go nowhere and do not fail"
    for a in way.agents:
        if a.proc.poll() is None:
            a.until("connections", 0)
            a.until("streams", 0)


@pytest.mark.rows("7", "A23")
def test_nobody_listens(w, node):
    """refused: 503 on the wire, reset at the application, the tunnel lives"""
    client, server = w.pair(node.at())
    app = w.app(client.listen)
    lib.is_reset(app)
    row, = client.access(1)
    assert row["status"] == 503 and row["level"] == "error"
    row, = server.access(1)
    assert row["status"] == 503 and "UF" in row["response_flags"] and row["error"]
    assert server.stat("upstream_connect_failures") == 1
    assert client.stat("tunnels_out") == 1


@pytest.mark.rows("7", "A23")
def test_connect_times_out(w, node):
    full = w.keep(node.listen(backlog=0))
    where = node.at(full.getsockname()[1])
    w.keep(node.connect(where))
    client, server = w.pair(where, app={"connect_timeout": "700ms"})
    started = time.monotonic()
    app = w.app(client.listen)
    lib.is_reset(app)
    assert 0.5 < time.monotonic() - started < 5 * lib.SLOW
    assert client.access(1)[0]["status"] in (503, 504)
    assert server.access(1)[0]["status"] in (503, 504)


@pytest.mark.rows("7", "A23")
def test_no_route(w, node):
    back = w.backend(node)
    client, server = w.pair(back, inbound={"cluster": "app", "routes": [lib.route("app", port=9)]}, authority="a:10")
    del client, server
    w.agents[1].stop()
    w.agents[0].stop()
    tun, listen = node.at(), node.at()
    s = w.agent(node, "server", {"identities": [w.certs.identity("server")], "listeners": [lib.tunnel("inbound", tun, routes=[lib.route("app", port=9)])],
                                 "clusters": [lib.cluster("app", back.where)]})
    c = w.agent(node, "client", {"identities": [w.certs.identity("client")], "listeners": [lib.tcp("outbound", listen, "far")],
                                 "clusters": [lib.far("far", tun, authority="a:10")]})
    lib.is_reset(w.app(listen))
    assert s.access(1)[0]["status"] == 404 and "NR" in s.access(1)[0]["response_flags"]
    assert c.access(1)[0]["status"] == 404


@pytest.mark.san
@pytest.mark.rows("7")
def test_idle_time_out(w, node):
    """both legs closed and logged as such; bytes in one direction are not idle"""
    sock = w.keep(node.listen())
    client, server = w.pair(node.at(sock.getsockname()[1]), outbound={"idle_timeout": "700ms"})
    app = w.app(client.listen)
    back, _ = sock.accept()
    w.keep(back)
    for _ in range(4):
        time.sleep(0.35)
        app.sendall(b"x")
    assert lib.recv_exact(back, 4) == b"xxxx"
    started = time.monotonic()
    back.settimeout(lib.TIMEOUT)
    assert lib.ending(app) in ("fin", "rst")
    assert lib.ending(back) in ("fin", "rst")
    assert time.monotonic() - started < 3 * lib.SLOW
    assert client.stat("idle_closed") == 1
    row, = client.access(1)
    assert "idle" in row.get("error", "").lower() or "SI" in row["response_flags"]
    server.until("connections", 0)


@pytest.mark.rows("7")
def test_idle_time_out_of_the_server(w, node):
    back = w.backend(node)
    client, server = w.pair(back, inbound={"idle_timeout": "500ms"})
    app = w.app(client.listen)
    lib.echo(app)
    assert lib.ending(app, 5 * lib.SLOW) in ("fin", "rst")
    assert server.stat("idle_closed") == 1
    back.conn().finished()
    client.until("connections", 0)


@pytest.mark.rows("7", "A22")
@pytest.mark.parametrize("code", [NO_ERROR, CANCEL, CONNECT_ERROR, INTERNAL_ERROR, STREAM_CLOSED])
def test_rst_stream_from_the_server(w, node, code):
    """any RST_STREAM before END_STREAM, NO_ERROR too, is a reset at the application"""
    far = w.h2_server(node, tls=None)
    a = client_agent(w, node, far, False)
    app = w.app(a.listen)
    h = far.accept()
    h.requests(1)
    h.accept(1)
    h.data(1, b"part")
    assert lib.recv_exact(app, 4) == b"part"
    h.rst(1, code)
    lib.is_reset(app)
    assert a.stats()["rst_stream_received"] == 1


@pytest.mark.rows("7", "A21")
def test_no_error_after_end_stream(w, node):
    """END_STREAM then RST_STREAM(NO_ERROR): the application got the whole answer and sees a clean end"""
    far = w.h2_server(node, tls=None)
    a = client_agent(w, node, far, False)
    app = w.app(a.listen)
    h = far.accept()
    h.requests(1)
    h.accept(1)
    answer = lib.pattern(60000)
    h.data(1, answer, end=True)
    h.rst(1, NO_ERROR)
    assert lib.recv_all(app) == (answer, "fin")


@pytest.mark.rows("7", "A22")
def test_cancel_after_end_stream(w, node):
    """END_STREAM then another code: what was answered arrives, further writing fails"""
    far = w.h2_server(node, tls=None)
    a = client_agent(w, node, far, False)
    app = w.app(a.listen)
    h = far.accept()
    h.requests(1)
    h.accept(1)
    h.data(1, b"whole", end=True)
    h.drain(0.2)
    h.rst(1, CANCEL)
    got, _ = lib.recv_all(app)
    assert got in (b"whole", b"")
    a.until("connections", 0)


@pytest.mark.rows("7", "A22")
@pytest.mark.parametrize("code", [NO_ERROR, CANCEL, CONNECT_ERROR])
def test_rst_stream_from_the_client(w, node, code):
    sock = w.keep(node.listen())
    a = server_agent(w, node, "app", False, [lib.cluster("app", node.at(sock.getsockname()[1]))])
    h = w.h2_client(node, a.tunnel, None)
    sid = h.connect("a:1")
    back, _ = sock.accept()
    w.keep(back)
    assert h.status(sid) == 200
    h.data(sid, b"part")
    assert lib.recv_exact(back, 4) == b"part"
    h.rst(sid, code)
    lib.is_reset(back, lib.TIMEOUT)
    a.until("connections", 0)


@pytest.mark.rows("7", "A22")
@pytest.mark.parametrize("how", ["reset", "fin", "goaway", "garbage"])
def test_tunnel_is_lost(w, node, how):
    """however the tunnel goes, the ends of its streams are reset"""
    sock = w.keep(node.listen())
    a = server_agent(w, node, "app", False, [lib.cluster("app", node.at(sock.getsockname()[1]))])
    h = w.h2_client(node, a.tunnel, None)
    sid = h.connect("a:1")
    back, _ = sock.accept()
    w.keep(back)
    assert h.status(sid) == 200
    if how == "reset":
        h.abort()
    elif how == "goaway":
        h.goaway(0, INTERNAL_ERROR)
        h.close()
    elif how == "garbage":
        h.raw(b"\0\0\1\7\0\0\0\0\0!")
    else:
        h.close()
    lib.is_reset(back, lib.TIMEOUT)
    a.until("connections", 0)
    a.until("tunnels_in", 0)


@pytest.mark.rows("7")
@pytest.mark.parametrize("leg", ["application", "backend", "accepted tunnel", "dialled tunnel"])
def test_data_and_end_come_together(w, node, leg):
    """the last bytes and the FIN are there before the agent looks once: both are seen"""
    if leg in ("application", "backend"):
        sock = w.keep(node.listen())
        client, server = w.pair(node.at(sock.getsockname()[1]), tls=False)
        app = w.app(client.listen)
        sock.settimeout(lib.TIMEOUT)
        back = w.keep(sock.accept()[0])
        back.settimeout(lib.TIMEOUT)
        lib.wait_for(lambda: [r["state"] for r in client.rows("conn")] == ["open"], "it is open")
        agent, src, dst = (client, app, back) if leg == "application" else (server, back, app)
        os.kill(agent.pid, signal.SIGSTOP)
        src.sendall(b"last words")
        lib.fin(src)
        time.sleep(0.2)
        os.kill(agent.pid, signal.SIGCONT)
        assert lib.recv_all(dst) == (b"last words", "fin")
        return
    if leg == "accepted tunnel":
        sock = w.keep(node.listen())
        agent = server_agent(w, node, "app", False, [lib.cluster("app", node.at(sock.getsockname()[1]))])
        h = w.h2_client(node, agent.tunnel, None)
        sid = h.connect("a:1")
        sock.settimeout(lib.TIMEOUT)
        other = w.keep(sock.accept()[0])
        assert h.status(sid) == 200
    else:
        far_end = w.h2_server(node, tls=None)
        agent = client_agent(w, node, far_end, False)
        other = w.app(agent.listen)
        h = far_end.accept()
        sid, = h.requests(1)
        h.accept(sid)
    h.drain(0.2)
    os.kill(agent.pid, signal.SIGSTOP)
    h.update(0, 1000)  # nothing that would be answered: no further event comes
    h.sock.shutdown(socket.SHUT_WR)
    time.sleep(0.2)
    os.kill(agent.pid, signal.SIGCONT)
    lib.is_reset(other, 5 * lib.SLOW)
    agent.until("connections", 0)


@pytest.mark.rows("7")
def test_end_waits_for_the_last_byte(w, node):
    """END_STREAM becomes FIN only when everything was written to a slow reader"""
    data = lib.pattern(4 << 20)
    result = {}

    def slow(c):
        time.sleep(0.5)
        while True:
            got = c.read(50000)
            if not got:
                break
            time.sleep(0.002)
        result["n"], result["sha"] = c.received, c.sha.hexdigest()
    back = w.backend(node, slow, rcvbuf=8192)
    client, _ = w.pair(back)
    app = w.app(client.listen)
    t = threading.Thread(target=lambda: (app.sendall(data), lib.fin(app)), daemon=True)
    t.start()
    back.conn().finished(20 * lib.SLOW)
    assert back.conn().end == "fin" and result["n"] == len(data)
    import hashlib
    assert result["sha"] == hashlib.sha256(data).hexdigest()


@pytest.mark.rows("7")
def test_application_leaves_while_opening(w, node):
    """closed before the 200: the stream is given up, the backend is not left with an open connection"""
    far = w.h2_server(node, tls=None)
    a = client_agent(w, node, far, False)
    app = w.app(a.listen)
    h = far.accept()
    h.requests(1)
    lib.rst(app)
    h.seen(lambda: 1 in h.resets)
    a.until("connections", 0)
    app = w.app(a.listen)
    app.sendall(b"only this")
    lib.fin(app)
    h.requests(2)
    h.drain(0.2)
    assert 3 not in h.resets, "half-closed is not gone"
    h.accept(3)
    assert h.whole(3) == b"only this"
    h.data(3, b"answer", end=True)
    assert lib.recv_all(app) == (b"answer", "fin")


@pytest.mark.limit(60)
@pytest.mark.rows("7", "A21", "A22")
def test_many_endings_at_once(w, node):
    """500 connections that end in every way at once; nothing is left"""
    def handler(c):
        first = c.read(1)
        if first == b"f":
            lib.fin(c.sock)
            while c.read():
                pass
        elif first == b"r":
            lib.rst(c.sock)
        elif first == b"w":
            c.sock.sendall(lib.pattern(100000))
        else:
            lib.serve_echo(c)
    back = w.backend(node, handler)
    client, server = w.pair(back, pool={"max_streams": 64})
    n = 500 // lib.SLOW
    for i in range(0, n, 50):
        apps = [w.app(client.listen) for _ in range(50)]
        for j, s in enumerate(apps):
            s.sendall(b"frwe"[j % 4:j % 4 + 1])
        for j, s in enumerate(apps):
            kind = j % 4
            if kind == 0:
                assert lib.ending(s) == "fin"
            elif kind == 1:
                lib.is_reset(s)
            elif kind == 2:
                got, end = lib.recv_all(s)
                assert got == lib.pattern(100000) and end == "fin"
            if j % 3:
                s.close()
            elif kind != 1:
                lib.rst(s)
    for a in (client, server):
        a.until("connections", 0)
        a.until("streams", 0)
        a.until("buffered_bytes", 0)
