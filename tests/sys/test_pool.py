"""Many connections in few tunnels: limits, queue, GOAWAY, changes of the peer's settings."""
import time

import pytest

import h2raw
import lib
from test_wire import client_agent

N = 1000 // lib.SLOW


def tunnels_seen(node, where):
    """established connections to the tunnel listener, by the kernel"""
    return len(node.sockets("dport", "=", ":" + where.rsplit(":", 1)[1]))


@pytest.mark.limit(60)
@pytest.mark.rows("A04", "A05")
def test_thousand_connections_in_few_tunnels(w, node):
    back = w.backend(node)
    client, server = w.pair(back, pool={"max_tunnels": 4})
    apps = [w.app(client.listen) for _ in range(N)]
    for i, s in enumerate(apps):
        s.sendall(b"%06d" % i)
    for i, s in enumerate(apps):
        assert lib.recv_exact(s, 6) == b"%06d" % i
    n = client.stat("tunnels_out")
    assert 1 <= n <= 4 and tunnels_seen(node, server.tunnel) == n
    stats = client.stats()
    assert stats["tls_handshakes_client"] == n, "a handshake per tunnel, not per connection"
    assert server.stat("tls_handshakes_server") == n
    assert stats["streams"] == N and stats["connections"] == N
    # each found room at once, or waited for the tunnel that was being opened: how many wait is a matter of speed
    assert stats["pool_hits"] + stats["pool_queued"] == N and stats["pool_misses"] == n
    rows = client.rows("conn")
    assert len(rows) == N
    ids = {}
    for r in rows:
        ids.setdefault(r["tunnel_out"], set()).add(r["stream_out"])
    assert len(ids) == n and sum(map(len, ids.values())) == N
    assert all(i % 2 == 1 for s in ids.values() for i in s)
    for s in apps:
        s.close()
    client.until("connections", 0)
    server.until("streams", 0)


@pytest.mark.san
@pytest.mark.rows("A07", "B27")
def test_a_full_tunnel_is_used_again(w, node):
    back = w.backend(node)
    client, _ = w.pair(back, pool={"max_streams": 10})
    apps = [w.app(client.listen) for _ in range(25)]
    for s in apps:
        lib.echo(s)
    assert client.stat("tunnels_out") == 3
    for s in apps[:15]:
        s.close()
    client.until("streams", 10)
    more = [w.app(client.listen) for _ in range(15)]
    for s in more + apps[15:]:
        lib.echo(s)
    assert client.stat("tunnels_opened") == 3
    assert all(t["streams"] <= 10 for t in client.tunnels())


@pytest.mark.rows("A07", "C1.2")
def test_the_peers_limit_counts(w, node):
    """the peer's MAX_CONCURRENT_STREAMS is less than ours"""
    back = w.backend(node)
    client, server = w.pair(back, inbound={"max_streams": 4})
    apps = [w.app(client.listen) for _ in range(9)]
    for s in apps:
        lib.echo(s)
    assert client.stat("tunnels_out") == 3
    assert server.stat("rst_stream_sent") == 0, "no stream beyond the limit was tried"


@pytest.mark.rows("B07", "B21")
def test_the_peer_changes_its_limit(w, node):
    far = w.h2_server(node, tls=None, settings={h2raw.MAX_CONCURRENT_STREAMS: 3})
    a = client_agent(w, node, far, False)
    apps = [w.app(a.listen) for _ in range(3)]
    h = far.accept()
    for sid in h.requests(3):
        h.accept(sid)
    h.send(h2raw.SETTINGS, 0, 0, h2raw.settings({h2raw.MAX_CONCURRENT_STREAMS: 1}))
    h.until(lambda f: f.type == h2raw.SETTINGS and f.flags & h2raw.ACK)
    apps[0].sendall(b"goes on")
    h.body(1, 7)
    apps[1].close()
    apps[2].close()
    h.drain(0.3)
    for sid in (3, 5):
        h.data(sid, b"", end=True)
    h.drain(0.2)
    late = w.app(a.listen)  # stream 1 alone fills the limit of 1: a second tunnel
    second = far.accept()
    second.accept(second.requests(1)[0])
    h.send(h2raw.SETTINGS, 0, 0, h2raw.settings({h2raw.MAX_CONCURRENT_STREAMS: 5}))
    h.until(lambda f: f.type == h2raw.SETTINGS and f.flags & h2raw.ACK)
    second.send(h2raw.SETTINGS, 0, 0, h2raw.settings({h2raw.MAX_CONCURRENT_STREAMS: 1}))
    second.until(lambda f: f.type == h2raw.SETTINGS and f.flags & h2raw.ACK)
    w.app(a.listen)  # the first has room again
    h.requests(4)
    assert a.stat("tunnels_out") == 2
    late.sendall(b"late")
    assert second.body(1, 4) == b"late"


@pytest.mark.rows("B07")
def test_a_limit_of_zero_waits(w, node):
    """MAX_CONCURRENT_STREAMS 0 is legal: connections wait until it is raised"""
    far = w.h2_server(node, tls=None, settings={h2raw.MAX_CONCURRENT_STREAMS: 0})
    a = client_agent(w, node, far, False, cluster={"pool": {"max_tunnels": 1}})
    app = w.app(a.listen)
    h = far.accept()
    assert h.drain(0.4) and not h.answers
    h.send(h2raw.SETTINGS, 0, 0, h2raw.settings({h2raw.MAX_CONCURRENT_STREAMS: 2}))
    sid, = h.requests(1)
    h.accept(sid)
    app.sendall(b"now")
    assert h.body(sid, 3) == b"now"


@pytest.mark.rows("B21")
def test_goaway(w, node):
    """streams up to last go on, unprocessed ones are sent again elsewhere, new ones go elsewhere"""
    far = w.h2_server(node, tls=None)
    a = client_agent(w, node, far, False)
    one, two = w.app(a.listen), None
    h = far.accept()
    h.requests(1)
    h.accept(1)
    two = w.app(a.listen)
    two.sendall(b"two")
    h.requests(2)
    h.goaway(1)
    second = far.accept()
    sid, = second.requests(1)
    second.accept(sid)
    assert second.body(sid, 3) == b"two", "early bytes go with the re-dispatched stream"
    three = w.app(a.listen)
    three.sendall(b"three")
    sid3 = second.requests(2)[1]
    second.accept(sid3)
    assert second.body(sid3, 5) == b"three"
    one.sendall(b"one")
    assert h.body(1, 3) == b"one"
    h.drain(0.2)
    assert len(h.answers) == 2, "no new stream after GOAWAY"
    assert a.stat("streams_redispatched") == 1 and a.stat("goaway_received") == 1
    lib.fin(one)
    h.whole(1)
    h.data(1, b"bye", end=True)
    assert lib.recv_all(one) == (b"bye", "fin")
    h.gone()


@pytest.mark.rows("B21")
def test_two_phase_goaway_of_the_peer(w, node):
    """GOAWAY(2^31-1) stops new streams and refuses none"""
    far = w.h2_server(node, tls=None)
    a = client_agent(w, node, far, False)
    one = w.app(a.listen)
    h = far.accept()
    h.requests(1)
    h.goaway(0x7fffffff)
    h.accept(1)
    one.sendall(b"x")
    h.body(1, 1)
    h.goaway(1)
    w.app(a.listen)
    second = far.accept()
    second.requests(1)
    assert a.stat("streams_redispatched") == 0
    one.sendall(b"y")
    h.body(1, 2)


@pytest.mark.rows("B21")
def test_refused_stream_is_sent_again(w, node):
    far = w.h2_server(node, tls=None)
    a = client_agent(w, node, far, False)
    app = w.app(a.listen)
    app.sendall(b"again")
    h = far.accept()
    h.requests(1)
    h.rst(1, h2raw.REFUSED_STREAM)
    # the same tunnel or another one
    try:
        h.seen(lambda: 3 in h.answers, 3)
        sid = 3
    except TimeoutError:
        h = far.accept()
        sid, = h.requests(1)
    h.accept(sid)
    assert h.body(sid, 5) == b"again"
    assert a.stat("streams_redispatched") == 1


@pytest.mark.rows("B21")
def test_refusing_for_ever_ends(w, node):
    """a peer that refuses everything does not keep the agent busy for ever: the application is reset"""
    far = w.h2_server(node, tls=None)
    a = client_agent(w, node, far, False, timeouts={"open": "2s"})
    app = w.app(a.listen)
    import threading

    def refuse():
        try:
            while True:
                h = far.accept(timeout=4)
                try:
                    while True:
                        f = h.read(4)
                        if f.type == h2raw.HEADERS:
                            h.rst(f.sid, h2raw.REFUSED_STREAM)
                except (TimeoutError, h2raw.Closed):
                    pass
        except OSError:
            pass
    t = threading.Thread(target=refuse, daemon=True)
    t.start()
    lib.is_reset(app, 8)
    assert a.stat("streams_opened") < 100


@pytest.mark.san
@pytest.mark.rows("A07", "B27")
def test_queue_is_bounded_and_timed(w, node):
    back = w.backend(node)
    client, _ = w.pair(back, pool={"max_tunnels": 1, "max_streams": 1, "queue": 2, "queue_timeout": "700ms"})
    one = w.app(client.listen)
    lib.echo(one)
    started = time.monotonic()
    two, three = w.app(client.listen), w.app(client.listen)
    client.until("pool_queue", 2)
    four = w.app(client.listen)
    lib.is_reset(four)
    assert client.stat("pool_overflow") == 1
    lib.is_reset(two)
    assert 0.5 < time.monotonic() - started < 3 * lib.SLOW
    lib.is_reset(three)
    client.until("pool_queue_timeouts", 2)
    lib.echo(one)
    # a place that gets free goes to the first in the line
    two, three = w.app(client.listen), w.app(client.listen)
    client.until("pool_queue", 2)
    one.close()
    lib.echo(two)
    two.close()
    lib.echo(three)
    client.access(1, response_flags="UO")


@pytest.mark.rows("B27")
def test_a_waiting_connection_that_closes_leaves_the_queue(w, node):
    back = w.backend(node)
    client, _ = w.pair(back, pool={"max_tunnels": 1, "max_streams": 1})
    one = w.app(client.listen)
    lib.echo(one)
    two = w.app(client.listen)
    client.until("pool_queue", 1)
    lib.rst(two)
    client.until("pool_queue", 0)
    client.until("connections", 1)
    lib.echo(one)
    assert len(back.conns) == 1


@pytest.mark.rows("B27")
def test_max_requests_replaces_the_tunnel(w, node):
    back = w.backend(node)
    client, _ = w.pair(back, pool={"max_requests": 5})
    keep = w.app(client.listen)
    lib.echo(keep)
    for _ in range(12):
        s = w.app(client.listen)
        lib.echo(s)
        s.close()
    assert client.stat("tunnels_opened") == 3
    lib.echo(keep, b"the old tunnel lives as long as its streams")


@pytest.mark.rows("B27")
def test_idle_tunnel_is_closed(w, node):
    back = w.backend(node)
    client, server = w.pair(back, pool={"idle_timeout": "500ms"})
    s = w.app(client.listen)
    lib.echo(s)
    time.sleep(0.8)
    lib.echo(s)  # in use is not idle
    assert client.stat("tunnels_out") == 1
    s.close()
    client.until("tunnels_out", 0, 5)
    server.until("tunnels_in", 0)
    lib.echo(w.app(client.listen))
    assert client.stat("tunnels_opened") == 2


@pytest.mark.rows("B27")
def test_old_tunnel_is_replaced(w, node):
    back = w.backend(node)
    client, _ = w.pair(back, pool={"max_age": "700ms"})
    s = w.app(client.listen)
    lib.echo(s)
    time.sleep(1.2)
    lib.echo(w.app(client.listen))
    assert client.stat("tunnels_opened") == 2
    lib.echo(s)


@pytest.mark.rows("A23", "B21")
def test_nobody_at_the_other_end(w, node):
    """refused: the application is reset and told nothing; when the peer comes up it works"""
    back = w.backend(node)
    client, server = w.pair(back, client={"timeouts": {"connect": "1s"}})
    server.stop()
    s = w.app(client.listen)
    lib.is_reset(s)
    row = client.access(1)[-1]
    assert row["level"] == "error" and row.get("error") and "UF" in row["response_flags"]
    server.start()

    def works():
        try:
            lib.echo(w.app(client.listen))
            return True
        except (OSError, AssertionError):
            return False
    lib.wait_for(works, "connections work again", 10 * lib.SLOW, 0.2)


@pytest.mark.limit(60)
@pytest.mark.parametrize("workers,streams", [(1, 16), (2, 1024), (2, 16)])
@pytest.mark.rows("3: order")
def test_connections_keep_their_order(w, node, workers, streams):
    """they reach the backend in the order in which the application opened them; also over several tunnels to one worker"""
    back = w.backend(node, lib.serve_sink)
    client, _ = w.pair(back, client={"workers": workers}, server={"workers": workers}, pool={"max_streams": streams})
    n = 200 // lib.SLOW
    for i in range(n):
        s = w.app(client.listen)
        s.sendall(b"%05d" % i)
    lib.wait_for(lambda: len(back.conns) == n and all(len(c.first) == 5 for c in back.conns), "all connections")
    got = [int(c.first) for c in back.conns]
    assert got == sorted(got)


@pytest.mark.rows("A04", "10")
def test_workers_have_their_own_tunnels(w, node):
    back = w.backend(node)
    client, server = w.pair(back, client={"workers": 3}, server={"workers": 3}, outbound={"spread": "connection"})
    apps = [w.app(client.listen) for _ in range(60)]
    for s in apps:
        lib.echo(s)
    n = client.stat("tunnels_out")
    assert 1 <= n <= 3
    assert len({r["worker"] for r in client.rows("conn")}) == n
    assert server.stat("streams") == 60
