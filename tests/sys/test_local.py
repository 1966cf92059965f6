"""The short way: a tunnel endpoint that is this node leads straight into its own listener, as if there had been a tunnel."""
import time

import pytest

import lib

HERE = "10.80.0.1"


@pytest.fixture
def here(w):
    """a node with an address that is not loopback"""
    n = w.node(address=HERE)
    n.run("ip", "addr", "add", HERE + "/32", "dev", "lo")
    n.run("ip", "addr", "add", "fd80::1/128", "dev", "lo", "nodad")
    return n


def given(keys):
    return {k: v for k, v in keys.items() if v is not None}


def one_agent(w, node, back, inbound=None, far=None, more=(), clusters=(), port=None, me=None, **config):
    """application -> outbound -> cluster far, whose endpoint is the tunnel listener inbound of the same agent -> app"""
    listen, port = node.at(), port or node.port()
    ids = [w.certs.identity("client"), w.certs.identity("server")]
    a = w.agent(node, "one", {
        "identities": ids, "node": me or {},
        "listeners": [lib.tcp("outbound", listen, "far"),
                      given({**lib.tunnel("inbound", f"0.0.0.0:{port}", "app", identity="server"), **(inbound or {})}), *more],
        "clusters": [given({**lib.far("far", f"{HERE}:{port}", identity="client", authority="echo.shop:80"), **(far or {})}),
                     lib.cluster("app", back.where), *clusters], **config})
    a.listen, a.tunnel_port = listen, port
    return a


def short(a):
    return a.stat("shortcuts"), a.stat("tunnels_opened")


@pytest.mark.san
@pytest.mark.rows("A14", "A15", "21")
def test_no_tunnel_to_oneself(w, here):
    """bytes, half-close, and one record per listener with the identities that a tunnel would have proved"""
    back = w.backend(here, lib.serve_count)
    a = one_agent(w, here, back)
    s = w.app(a.listen)
    data = lib.pattern(500000)
    s.sendall(data)
    back.conn()
    row, = a.rows("conn")
    assert str(row["chain"]).find("outbound") < str(row["chain"]).find("inbound")
    assert row["src_identity"] == "spiffe://cluster.local/ns/test/sa/client"
    lib.fin(s)
    got, end = lib.recv_all(s)
    assert end == "fin" and int(got.split()[0]) == len(data)
    rows = {r["listener"]: r for r in a.access(2)}
    assert set(rows) == {"outbound", "inbound"}
    for r in rows.values():
        assert r["bytes_sent"] == len(data) and r["bytes_recv"] == len(got) and r["response_flags"] == "-"
        assert r["src_addr"] == "%s:%d" % s.getsockname() and r["hbone_addr"] == "echo.shop:80"
        assert r["src_identity"] == "spiffe://cluster.local/ns/test/sa/client" and r["dst_identity"] == "spiffe://cluster.local/ns/test/sa/server"
        assert r["original_dst"] == a.listen and r["trace_id"]
    assert rows["inbound"]["outer_listener"] == "outbound"
    assert short(a) == (1, 0)
    for name in ("outbound", "inbound"):
        r = next(x for x in a.rows("listener") if x["name"] == name)
        assert (r["accepted"], r["active"], r["failed"]) == (1, 0, 0)
    far, = [r for r in a.rows("cluster") if r["name"] == "far"]
    assert far["endpoints"][0]["active"] == 0 and far["endpoints"][0]["total"] == 1


@pytest.mark.parametrize("why", ["local: tunnel", "loopback", "elsewhere", "other authority", "other port"])
def test_a_tunnel_all_the_same(w, here, other_domain, why):
    """configured so; loopback; not ours to judge without a handshake; nobody of ours there"""
    back = w.backend(here)
    far, inbound, more, kw = {}, {}, (), {}
    port = here.port()
    if why == "local: tunnel":
        far["local"] = "tunnel"
    elif why == "loopback":
        far["endpoints"] = [f"127.0.0.1:{port}"]
    elif why == "other port":
        other = here.port()
        w.agent(here, "two", {"identities": [w.certs.identity("server")], "listeners": [lib.tunnel("inbound", f"0.0.0.0:{other}", "app")],
                              "clusters": [lib.cluster("app", back.where)]})
        far["endpoints"] = [f"{HERE}:{other}"]
    elif why == "other authority":
        import shutil
        shutil.copy(w.certs.file("ca.pem"), str(w.dir / "same-ca.pem"))
        (w.dir / "same-ca.pem").chmod(0o644)
        kw["identities"] = [w.certs.identity("client"), dict(w.certs.identity("server"), ca=str(w.dir / "same-ca.pem"))]
    else:
        away = w.node("away")
        lib.join(here, away, 4)
        here.address = HERE
        w.agent(away, "two", {"identities": [w.certs.identity("server")], "listeners": [lib.tunnel("inbound", f"0.0.0.0:{port}", "app")],
                              "clusters": [lib.cluster("app", w.backend(away).where)]})
        far["endpoints"] = [f"10.77.4.2:{port}"]
    a = one_agent(w, here, back, inbound, far, more=more, port=port, **kw)
    lib.echo(w.app(a.listen))
    assert a.stat("shortcuts") == 0 and a.stat("tunnels_out") == 1


@pytest.mark.rows("A13", "A14")
@pytest.mark.parametrize("local", ["short", "tunnel"])
def test_its_routes_see_what_a_tunnel_would_bring(w, here, local):
    """:authority, metadata, extra headers: the same routes are taken on both ways"""
    one, two, three = (w.backend(here, lib.serve_name(n)) for n in ("one", "two", "three"))
    routes = [lib.route("two", name="by-tenant", headers=[{"name": "x-tenant", "exact": "blue"}]),
              lib.route("three", name="by-namespace", authority="other.shop:80", headers=[{"name": "k8s.namespace.name", "exact": "shop"}]),
              lib.route("app", name="rest", authority="echo.shop:80")]
    for headers, authority, name, route in (({"x-tenant": "blue"}, "any:1", b"two", "by-tenant"), ({}, "other.shop:80", b"three", "by-namespace"),
                                            ({}, "echo.shop:80", b"one", "rest")):
        me = {"namespace": "shop", **({"request_headers": headers} if headers else {})}
        a = one_agent(w, here, one, {"routes": routes, "cluster": None}, {"local": local, "authority": authority},
                      clusters=[lib.cluster("two", two.where), lib.cluster("three", three.where)], me=me)
        s = w.app(a.listen)
        assert lib.recv_exact(s, len(name) + 1) == name + b"\n"
        lib.wait_for(lambda: [r for r in a.rows("conn") if r["route"] == route], "the route is shown")
        s.close()
        assert a.access(1, listener="inbound")[0]["route"] == route
        assert a.stat("shortcuts") == (local == "short")
        a.stop()


DENIED = {
    "accept": ({"accept": ["spiffe://cluster.local/ns/test/sa/somebody"]}, "UAEX", 401),
    "route": ({"cluster": None, "routes": [lib.route("app", authority="elsewhere:1")]}, "NR", 404),
}


@pytest.mark.rows("A14")
@pytest.mark.parametrize("what", DENIED)
def test_denied_on_the_short_way(w, here, what):
    """the application sees RST, a peer agent the status; the record says which listener it was"""
    inbound, flags, status = DENIED[what]
    back = w.backend(here)
    inbound = {k: v for k, v in inbound.items()}
    door = here.port()
    a = one_agent(w, here, back, inbound, more=[lib.tunnel("door", f"127.0.0.1:{door}", ">far", tls=False)])
    lib.is_reset(w.app(a.listen))
    row = a.access(1)[0]
    assert row["response_flags"] == flags and "inbound" in row["error"]
    h = w.h2_client(here, f"127.0.0.1:{door}", None)
    assert h.status(h.connect("echo.shop:80")) == status
    assert not back.conns and a.stat("tunnels_out") == 0
    a.until("connections", 0)
    assert all(r["active"] == 0 for r in a.rows("listener"))


@pytest.mark.san
@pytest.mark.rows("A15", "A03")
def test_forwarding_by_the_short_way(w, here):
    """CONNECT in, forwarded to a cluster that is this node, terminated there"""
    back = w.backend(here)
    door = here.port()
    a = one_agent(w, here, back, more=[lib.tunnel("door", f"127.0.0.1:{door}", ">far", tls=False)], far={"authority": None})
    h = w.h2_client(here, f"127.0.0.1:{door}", None)
    s = h.opened("asked.for:80")
    data = lib.pattern(100000)
    h.data(s, data[:50000])
    assert h.body(s, 50000) == data[:50000]
    row, = a.rows("conn")
    assert row["authority"] == "asked.for:80" and "inbound" in row["chain"]
    assert short(a)[0] == 1


@pytest.mark.rows("A14")
def test_a_loop_is_refused(w, here):
    """forwarded back to itself, also by way of another"""
    back = w.backend(here)
    one, two = here.port(), here.port()
    a = one_agent(w, here, back, far={"endpoints": [f"{HERE}:{one}"]},
                  more=[{**lib.tunnel("first", f"0.0.0.0:{one}", ">second", identity="server")}, lib.tunnel("second", f"0.0.0.0:{two}", ">first",
                                                                                                           identity="server")],
                  clusters=[lib.far("second", f"{HERE}:{two}", identity="client"), lib.far("first", f"{HERE}:{one}", identity="client")])
    lib.is_reset(w.app(a.listen))
    row = a.access(1)[0]
    assert row["response_flags"] == "NR" and "loop" in row["error"]
    assert a.stat("tunnels_opened") == 0
    a.until("connections", 0)
    for r in a.rows("listener"):
        assert r["active"] == 0, r


@pytest.mark.parametrize("where", ["listener", "cluster"])
def test_limits_count(w, here, where):
    """max_connections of the listener at the end of the short way, and of the cluster that it goes by"""
    back = w.backend(here)
    kw = {"inbound": {"max_connections": 2}} if where == "listener" else {"far": {"max_connections": 2}}
    a = one_agent(w, here, back, **kw)
    held = [w.app(a.listen) for _ in range(2)]
    for s in held:
        lib.echo(s)
    lib.is_reset(w.app(a.listen))
    assert a.access(1)[0]["response_flags"] == "UO"
    held.pop().close()
    a.until("connections", 1)
    lib.echo(w.app(a.listen))
    assert short(a) == (4 if where == "listener" else 3, 0)


@pytest.mark.rows("A30")
@pytest.mark.parametrize("authority", ["address", "name"])
def test_original_destination_behind_the_short_way(w, here, authority):
    """an original_dst cluster there connects to what was asked for"""
    back = w.backend(here, address="127.0.0.1")
    name = f"localhost:{back.port}" if authority == "name" else back.where
    a = one_agent(w, here, back, {"cluster": "any"}, {"authority": name}, clusters=[lib.anywhere("any", ["127.0.0.0/8"])])
    lib.echo(w.app(a.listen))
    assert a.rows("conn")[0]["dst"] == back.where
    assert short(a) == (1, 0)


def test_the_backend_is_dead(w, here):
    back = w.backend(here)
    a = one_agent(w, here, back)
    back.close()
    lib.is_reset(w.app(a.listen))
    assert {r["response_flags"] for r in a.access(2)} == {"UF"}
    lib.wait_for(lambda: all(r["active"] == 0 for r in a.rows("listener")), "nothing is left")
    assert all(e["active"] == 0 for r in a.rows("cluster") for e in r["endpoints"])


@pytest.mark.rows("21")
def test_addresses_come_and_go(w, here):
    """an address that moves to this node makes the way short, one that leaves makes it long again"""
    away = w.node("away")
    lib.join(here, away, 5)
    here.address = HERE
    far = w.backend(away, lib.serve_name("away"))
    port = 15008
    w.agent(away, "two", {"identities": [w.certs.identity("server")], "listeners": [lib.tunnel("inbound", f"0.0.0.0:{port}", "app")],
                          "clusters": [lib.cluster("app", far.where)]})
    a = one_agent(w, here, w.backend(here, lib.serve_name("here")), far={"endpoints": [f"10.81.0.1:{port}"]}, port=port)
    away.run("ip", "addr", "add", "10.81.0.1/32", "dev", "lo")
    here.run("ip", "route", "add", "10.81.0.1", "via", "10.77.5.2")

    def who():
        s = w.app(a.listen)
        name = lib.recv_exact(s, 5).strip()
        s.close()
        return name
    assert who() == b"away"
    away.run("ip", "addr", "del", "10.81.0.1/32", "dev", "lo")
    here.run("ip", "route", "del", "10.81.0.1")
    here.run("ip", "addr", "add", "10.81.0.1/32", "dev", "lo")
    lib.wait_for(lambda: who() == b"here" and a.stat("shortcuts") >= 1, "the way is short", every=0.05)
    before = a.stat("shortcuts")
    here.run("ip", "addr", "del", "10.81.0.1/32", "dev", "lo")
    away.run("ip", "addr", "add", "10.81.0.1/32", "dev", "lo")
    here.run("ip", "route", "add", "10.81.0.1", "via", "10.77.5.2")
    time.sleep(0.2)
    assert who() == b"away" and a.stat("shortcuts") == before


def test_many_at_once(w, here):
    """500 connections by four workers, opened and ended: no counter drifts"""
    back = w.backend(here)
    a = one_agent(w, here, back, workers=4)
    for _ in range(5):
        socks = [w.app(a.listen) for _ in range(100 // lib.SLOW)]
        for i, s in enumerate(socks):
            lib.echo(s, b"%d" % i)
        for i, s in enumerate(socks):
            if i % 2:
                lib.rst(s)
            else:
                s.close()
    a.until("connections", 0)
    assert all(r["active"] == 0 for r in a.rows("listener")) and a.stat("tunnels_opened") == 0
    assert all(e["active"] == 0 for r in a.rows("cluster") for e in r["endpoints"])
