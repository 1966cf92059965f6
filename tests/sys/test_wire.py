"""What is on the wire between agents, seen by a raw peer on either side."""
import re
import time

import pytest

import h2raw
import lib
from h2raw import CONNECT_ERROR, DATA, HEADERS, SETTINGS, WINDOW_UPDATE

MIB = 1 << 20


def client_agent(w, place, server, tls=True, authority="10.0.0.7:8080", **more):
    listen = place.at()
    a = w.agent(place, "client", {
        "identities": [w.certs.identity("client")] if tls else [],
        "listeners": [lib.tcp("outbound", listen, "far")],
        "clusters": [lib.far("far", server.where, authority=authority, **({} if tls else {"tls": False}), **more.pop("cluster", {}))], **more})
    a.listen = listen
    return a


def server_agent(w, place, to="app", tls=True, clusters=(), **more):
    tun = place.at()
    a = w.agent(place, "server", {
        "identities": [w.certs.identity("server")] if tls else [],
        "listeners": [lib.tunnel("inbound", tun, to, **({} if tls else {"tls": False}), **more.pop("inbound", {}))],
        "clusters": list(clusters), **more})
    a.tunnel = tun
    return a


@pytest.mark.san
@pytest.mark.rows("A01", "A05", "C1.2", "C1.3", "B29")
def test_originate(w, node, tls):
    """one HEADERS with :method and :authority and no more pseudo-headers, then DATA with exactly what the application wrote"""
    far = w.h2_server(node, tls="server" if tls else None)
    client_agent(w, node, far, tls)
    app = w.app(w.agents[0].listen)
    h = far.accept()
    sid, = h.requests(1)
    assert sid == 1
    first = next(f for f in h.frames if f.type == HEADERS)
    names = [k for k, _ in first.headers]
    assert [n for n in names if n.startswith(":")] == [":method", ":authority"]
    assert not first.flags & h2raw.END_STREAM
    head = dict(first.headers)
    assert head[":method"] == "CONNECT" and head[":authority"] == "10.0.0.7:8080"
    assert "content-length" not in head and "host" not in head
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", head["traceparent"])
    host, port = app.getsockname()
    assert head["forwarded"].startswith(f'for="{host}:{port}"')
    assert not [f for f in h.frames if f.type == DATA], "nothing was written yet"
    h.accept(sid)
    data = lib.pattern(300000)
    app.sendall(data)
    lib.fin(app)
    assert h.whole(sid, 20) == data
    assert len([f for f in h.frames if f.type == HEADERS]) == 1
    h.data(sid, b"answer", end=True)
    assert lib.recv_all(app) == (b"answer", "fin")


@pytest.mark.rows("C1.2", "B29")
def test_settings_of_client(w, node):
    far = w.h2_server(node)
    client_agent(w, node, far)
    w.app(w.agents[0].listen)
    h = far.accept()
    h.requests(1)
    s = next(f for f in h.frames if f.type == SETTINGS).settings()
    assert s[h2raw.ENABLE_PUSH] == 0
    assert s[h2raw.MAX_FRAME_SIZE] == MIB
    assert s[h2raw.INITIAL_WINDOW_SIZE] == 262144
    assert s[h2raw.MAX_HEADER_LIST_SIZE] == 16384
    assert 8 not in s, "ENABLE_CONNECT_PROTOCOL is not for CONNECT"
    credit = sum(f.increment() for f in h.frames if f.type == WINDOW_UPDATE and f.sid == 0)
    assert MIB <= 65535 + credit <= 16 * MIB
    assert h.sock.version() == "TLSv1.3" and h.sock.selected_alpn_protocol() == "h2"
    assert h.sock.cipher()[0] in ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384")


@pytest.mark.rows("C1.2", "B06")
def test_settings_of_server(w, node):
    back = w.backend(node)
    server_agent(w, node, clusters=[lib.cluster("app", back.where)], inbound={"max_streams": 7})
    h = w.h2_client(node, w.agents[0].tunnel)
    h.until(lambda f: f.type == SETTINGS and not f.flags & h2raw.ACK)
    s = next(f for f in h.frames if f.type == SETTINGS).settings()
    assert s[h2raw.MAX_CONCURRENT_STREAMS] == 7
    assert s[h2raw.MAX_FRAME_SIZE] == MIB
    assert s[h2raw.MAX_HEADER_LIST_SIZE] == 16384
    assert s.get(h2raw.ENABLE_PUSH, 0) == 0 and 8 not in s
    h.drain(0.3)
    assert MIB <= 65535 + sum(f.increment() for f in h.frames if f.type == WINDOW_UPDATE and f.sid == 0) <= 16 * MIB


@pytest.mark.rows("B06")
def test_more_streams_than_allowed_are_refused(w, node):
    back = w.backend(node)
    server_agent(w, node, clusters=[lib.cluster("app", back.where)], inbound={"max_streams": 3})
    h = w.h2_client(node, w.agents[0].tunnel)
    ids = [h.opened("a:1") for _ in range(3)]
    extra = h.connect("a:1")
    assert h.status(extra) is None and h.resets[extra] == h2raw.REFUSED_STREAM
    h.data(ids[0], b"still here")
    assert h.body(ids[0], 10) == b"still here"
    h.data(ids[1], b"", end=True)
    h.whole(ids[1])
    h.seen(lambda: True)
    time.sleep(0.2)
    h.opened("a:1")


@pytest.mark.rows("A31")
@pytest.mark.parametrize("authority", ["10.0.0.7:8080", "[2001:db8::7]:8080", "echo.ns.svc.cluster.local:80"])
def test_authority_is_sent_as_configured(w, node, authority):
    far = w.h2_server(node, tls=None)
    client_agent(w, node, far, False, authority)
    w.app(w.agents[0].listen)
    h = far.accept()
    sid, = h.requests(1)
    assert dict(h.answers[sid])[":authority"] == authority


@pytest.mark.rows("A31", "A02")
def test_authority_is_dialled(w, node):
    """what the CONNECT names is where the bytes go"""
    v4, v6 = w.backend(node, lib.serve_name("four")), w.backend(node, lib.serve_name("six"), address="::1")
    server_agent(w, node, "anywhere", False, [lib.anywhere()])
    h = w.h2_client(node, w.agents[0].tunnel, None)
    for back, name in ((v4, b"four\n"), (v6, b"six\n")):
        sid = h.opened(back.where)
        assert h.body(sid, len(name)) == name
    sid = h.connect(f"localhost:{v4.port}")
    assert h.status(sid) in (200, 503)  # names need a resolver; here there is only /etc/hosts
    if h.answers[sid][0][1] == "200":
        assert h.body(sid, 4)[:4] in (b"four", b"six\n")


@pytest.mark.rows("A31", "A23")
@pytest.mark.parametrize("authority", ["10.0.0.7", "10.0.0.7:", "10.0.0.7:0", "10.0.0.7:65536", "10.0.0.7:http", ":80", "[::1]", "[::1:80",
                                       "::1:80", "user@host:80", "a/b:80", "10.0.0.7:80:80", "[10.0.0.7]:80", "x" * 300 + ":80"])
def test_malformed_authority(w, node, authority):
    back = w.backend(node)
    a = server_agent(w, node, "app", False, [lib.cluster("app", back.where)])
    h = w.h2_client(node, a.tunnel, None)
    sid = h.connect(authority)
    assert h.status(sid) == 400 or h.resets.get(sid) == h2raw.PROTOCOL_ERROR
    assert not back.conns
    a.until("bad_requests", lambda v: v >= 1) if sid in h.answers else None
    sid = h.opened(back.where)
    h.data(sid, b"next")
    assert h.body(sid, 4) == b"next"


@pytest.mark.rows("A23", "A31")
@pytest.mark.parametrize("headers", [
    [(":method", "CONNECT")],
    [(":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", "a:80")],
    [(":method", "POST"), (":scheme", "https"), (":path", "/"), (":authority", "a:80")],
    [(":method", "CONNECT"), (":authority", "a:80"), (":scheme", "https"), (":path", "/")],
    [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https"), (":path", "/"), (":authority", "a:80")],
    [(":method", "CONNECT"), (":authority", "a:80"), (":authority", "b:80")],
    [(":method", "CONNECT"), ("x", "y"), (":authority", "a:80")],
    [(":method", "CONNECT"), (":authority", "a:80"), ("connection", "close")],
    [(":method", "CONNECT"), (":authority", "a:80"), ("Upper", "x")],
    [(":authority", "a:80")],
], ids=["no authority", "GET", "POST", "scheme", "extended", "two authorities", "late pseudo", "connection", "upper case", "no method"])
def test_malformed_request(w, node, headers):
    """400 or a stream error; the tunnel and its other streams go on"""
    back = w.backend(node)
    a = server_agent(w, node, "app", False, [lib.cluster("app", back.where)])
    h = w.h2_client(node, a.tunnel, None)
    other = h.opened(back.where)
    sid, h.next_sid = h.next_sid, h.next_sid + 2
    h.headers(sid, headers)
    assert h.status(sid) == 400 or h.resets.get(sid) == h2raw.PROTOCOL_ERROR, (h.answers.get(sid), h.resets)
    lib.wait_for(lambda: back.conns, "the other's connection")
    assert len(back.conns) == 1
    h.data(other, b"go on")
    assert h.body(other, 5) == b"go on"


@pytest.mark.rows("A02", "A21", "C1.3")
def test_answer_and_data_of_server(w, node, tls):
    back = w.backend(node, lib.serve_count)
    a = server_agent(w, node, "app", tls, [lib.cluster("app", back.where)])
    h = w.h2_client(node, a.tunnel, "client" if tls else None)
    sid = h.opened(back.where)
    assert [k for k, _ in h.answers[sid] if k.startswith(":")] == [":status"]
    assert "content-length" not in dict(h.answers[sid])
    data = lib.pattern(1 << 20)
    h.data(sid, data, end=True)
    answer = h.whole(sid).decode().split()
    assert int(answer[0]) == len(data)
    assert sid not in h.resets


@pytest.mark.rows("A23", "C1.4")
def test_answer_comes_after_the_connect(w, node):
    """the 200 waits for the upstream connection; a refused one is 503 with END_STREAM"""
    closed = node.port()
    a = server_agent(w, node, "anywhere", False, [lib.anywhere(connect_timeout="1s")])
    h = w.h2_client(node, a.tunnel, None)
    sid = h.connect(f"127.0.0.1:{closed}")
    assert h.status(sid) == 503
    h.seen(lambda: sid in h.ended or sid in h.resets)
    assert h.resets.get(sid, 0) == 0
    # a full backlog: the connect hangs, and 200 must not come before it is through
    full = w.keep(node.listen(backlog=0))
    port = full.getsockname()[1]
    fill = [w.keep(node.connect(port)) for _ in range(1)]
    h.timeout = 5
    sid = h.connect(f"127.0.0.1:{port}")
    status = h.status(sid)
    assert status in (503, 504), status
    assert fill


@pytest.mark.rows("A24")
def test_data_before_the_answer(w, node):
    """bytes written at once are kept and arrive in order"""
    far = w.h2_server(node, tls=None)
    a = client_agent(w, node, far, False)
    app = w.app(a.listen)
    app.sendall(b"early ")
    h = far.accept()
    sid, = h.requests(1)
    time.sleep(0.4)
    app.sendall(b"bird")
    time.sleep(0.2)
    h.accept(sid)
    assert h.body(sid, 10) == b"early bird"


@pytest.mark.rows("A23", "C1.4")
@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 502, 503, 504])
def test_refusal_resets_one_connection_only(w, node, status):
    """any other answer than 2xx: that connection is reset, the tunnel stays"""
    far = w.h2_server(node, tls=None)
    a = client_agent(w, node, far, False)
    good = w.app(a.listen)
    h = far.accept()
    one, = h.requests(1)
    h.accept(one)
    bad = w.app(a.listen)
    two = h.requests(2)[1]
    h.accept(two, status, end=True)
    lib.is_reset(bad)
    good.sendall(b"fine")
    assert h.body(one, 4) == b"fine"
    row, = a.access(1, stream=two)
    assert row["status"] == status and row["level"] != "info"


@pytest.mark.rows("A22", "C1.5")
def test_reset_of_application_is_connect_error(w, node):
    far = w.h2_server(node, tls=None)
    a = client_agent(w, node, far, False)
    app = w.app(a.listen)
    h = far.accept()
    sid, = h.requests(1)
    h.accept(sid)
    lib.echo  # the stream is open
    app.sendall(b"x")
    h.body(sid, 1)
    lib.rst(app)
    h.seen(lambda: sid in h.resets)
    assert h.resets[sid] == CONNECT_ERROR


@pytest.mark.rows("C1.2")
def test_frames_fit_the_peers_settings(w, node):
    """no DATA larger than the peer's MAX_FRAME_SIZE, none beyond its windows"""
    far = w.h2_server(node, tls=None, settings={h2raw.MAX_FRAME_SIZE: 16384, h2raw.INITIAL_WINDOW_SIZE: 20000})
    a = client_agent(w, node, far, False)
    app = w.app(a.listen)
    h = far.accept()
    h.auto_window = False
    sid, = h.requests(1)
    h.accept(sid)
    app.sendall(lib.pattern(100000))
    h.body(sid, 20000)
    h.drain(0.3)
    assert len(h.bodies[sid]) == 20000
    assert max(len(f.payload) for f in h.frames if f.type == DATA) <= 16384
    h.update(sid, 1)
    h.body(sid, 20001)
    h.drain(0.2)
    assert len(h.bodies[sid]) == 20001
    h.update(sid, 100000)
    h.drain(0.3)
    assert len(h.bodies[sid]) == 65535, "the connection's window is used up"
    h.update(0, 1000000)
    assert h.body(sid, 100000) == lib.pattern(100000)


@pytest.mark.rows("C1.2")
def test_keep_alive_ping(w, node):
    """a PING after silence; none while bytes flow; no answer ends the tunnel and resets its connections"""
    far = w.h2_server(node, tls=None)
    a = client_agent(w, node, far, False, timeouts={"ping": "300ms", "ping_timeout": "600ms"})
    app = w.app(a.listen)
    h = far.accept()
    sid, = h.requests(1)
    h.accept(sid)
    h.drain(1)
    assert 1 <= len([f for f in h.frames if f.type == h2raw.PING]) <= 5
    before = len(h.frames)
    end = time.monotonic() + 1
    while time.monotonic() < end:  # bytes from the peer are a sign of life
        h.data(sid, b"x" * 100)
        h.drain(0.05)
    assert len([f for f in h.frames[before:] if f.type == h2raw.PING]) <= 1
    lib.recv_exact(app, 1)
    h.auto = False
    started = time.monotonic()
    h.gone(6)
    assert time.monotonic() - started < 4
    while True:  # what came before the end was delivered, then a reset
        end = lib.ending(app)
        if not isinstance(end, bytes):
            break
    assert end == "rst"
    a.until("ping_timeouts", 1)
