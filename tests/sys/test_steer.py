"""Connections for addresses and ports where nobody listens, or somebody else, reach the listener that has `steer`."""
import errno
import os
import socket

import pytest

import lib

pytestmark = pytest.mark.rows("A30", "A09")


def means(a, name="steer"):
    return {r["name"]: r for r in a.ctl("kernel")["means"]}[name]


def agent(w, node, *listeners, clusters=None, **more):
    a = w.agent(node, "agent", {"kernel": {"pin": "none"}, "listeners": list(listeners), "clusters": clusters or [lib.anywhere()], **more})
    row = means(a)
    if row["state"] == "missing":
        pytest.skip("no sk_lookup here: " + row["why"])
    assert row["state"] == "on" and not row["why"], row
    return a


def address(node, a):
    node.run("ip", "addr", "add", a + ("/128" if ":" in a else "/32"), "dev", "lo", *(["nodad"] if ":" in a else []))
    return a


def named(w, node, where):
    """what answers there, in one line"""
    s = w.app(where, node)
    line = b""
    while not line.endswith(b"\n"):
        got = s.recv(1)
        if not got:
            raise AssertionError("end of stream")
        line += got
    s.close()
    return line.decode().strip()


@pytest.mark.san
def test_any_address_of_a_range(w):
    """many addresses and ports of this node, one listener; the original destination is known, the rest of the node is left alone"""
    far, node = w.node("far"), w.node("node")
    lib.join(far, node, 1)
    far.run("ip", "route", "add", "10.88.0.0/16", "via", node.address)
    node.run("ip", "route", "add", "local", "10.88.0.0/16", "dev", "lo")
    back = w.backend(node, lib.serve_name("caught"), address="127.0.0.1")
    plain = w.backend(node, lib.serve_name("plain"), address=address(node, "10.88.0.9"), port=9000)
    a = agent(w, node, lib.tcp("inbound", "127.0.0.1:15006", "caught",
                               steer={"to": ["10.88.0.0/16"], "ports": ["7000-7099", 9000], "except_ports": [7050, 9000]}),
              clusters=[lib.cluster("caught", back.where)])
    for where in ("10.88.0.1:7000", "10.88.200.3:7099", "10.88.0.9:7001"):
        assert named(w, far, where) == "caught"
        assert named(w, node, where) == "caught", "from this node as well"
    assert {r["original_dst"] for r in a.access(6)} == {"10.88.0.1:7000", "10.88.200.3:7099", "10.88.0.9:7001"}
    for where in ("10.88.0.1:7050", "10.88.0.1:7100", "10.88.0.1:6999", "10.77.1.2:7000"):
        with pytest.raises(OSError) as e:
            w.app(where, far)
        assert e.value.errno == errno.ECONNREFUSED, where
    assert named(w, far, plain.where) == "plain"
    assert "6 connections" in means(a)["detail"], means(a)


def test_reuseport_group(w, node):
    """all workers get connections"""
    back = w.backend(node, lib.serve_name("caught"))
    node.run("ip", "route", "add", "local", "10.88.0.0/16", "dev", "lo")
    for spread in ("connection", "source"):
        a = agent(w, node, lib.tcp("inbound", "127.0.0.1:15006", "caught", spread=spread, steer={"to": ["10.88.0.0/16"], "ports": [7000]}),
                  clusters=[lib.cluster("caught", back.where)], workers=4)
        socks = []
        for i in range(64):
            with node:
                s = socket.socket()
            s.bind((f"127.0.1.{i + 1}", 0))
            s.settimeout(lib.TIMEOUT)
            s.connect((f"10.88.1.{i + 1}", 7000))
            assert s.recv(7) == b"caught\n"
            socks.append(w.keep(s))
        workers = [r["worker"] for r in a.rows("conn")]
        assert len(workers) == 64 and all(workers.count(i) >= 4 for i in range(4)), workers
        for s in socks:
            s.close()
        a.stop()


def test_other_listeners_are_left_alone(w, node):
    """an agent that takes every port leaves its own listeners, its metrics and loopback alone, and dials what it took"""
    addr = address(node, "10.88.0.1")
    app = w.backend(node, lib.serve_name("application"), address=addr)
    mine = w.backend(node, lib.serve_name("mine"))
    a = agent(w, node, lib.tcp("inbound", "0.0.0.0:15006", "anywhere", steer={}), lib.tcp("named", f"{addr}:7001", "mine"),
              lib.tcp("wild", "0.0.0.0:7002", "mine"), clusters=[lib.anywhere(), lib.cluster("mine", mine.where)],
              admin={"metrics": f"{addr}:9100"})
    assert named(w, node, app.where) == "application", "the agent's own dial is not steered: no loop"
    assert named(w, node, f"{addr}:7001") == "mine" and named(w, node, f"{addr}:7002") == "mine"
    assert named(w, node, mine.where) == "mine", "loopback"
    r = node.run("curl", "-sS", "--max-time", "5", f"http://{addr}:9100/metrics")
    assert "adit_connections_accepted_total" in r.stdout
    n = {r["name"]: r["accepted"] for r in a.rows("listener")}
    assert n == {"inbound": 1, "named": 1, "wild": 1}, n
    s = w.app(f"{addr}:15006", node)
    lib.is_reset(s)
    a.logged("connected to listener 'inbound' itself")


def test_tunnel_port_for_many_addresses(w, certs):
    """one tunnel listener, every address of the node's: 15008 of each"""
    a, b = w.two_nodes()
    a.run("ip", "route", "add", "10.88.0.0/16", "via", b.address)
    b.run("ip", "route", "add", "local", "10.88.0.0/16", "dev", "lo")
    back = w.backend(b, lib.serve_name("far"))
    server = agent(w, b, lib.tunnel("inbound", "127.0.0.1:15008", "app", steer={"to": ["10.88.0.0/16"], "ports": [15008]}),
                   clusters=[lib.cluster("app", back.where)], identities=[certs.identity("server")])
    for host in ("10.88.0.1", "10.88.3.9"):
        listen = a.at()
        w.agent(a, "client", {"kernel": {"pin": "none"}, "identities": [certs.identity("client")], "listeners": [lib.tcp("outbound", listen, "far")],
                              "clusters": [lib.far("far", f"{host}:15008", authority=back.where)]})
        assert named(w, a, listen) == "far"
    assert {lib.split(r["local"])[0] for r in server.tunnels("in")} == {"10.88.0.1", "10.88.3.9"}


def test_ipv6(w, node):
    """an IPv6 listener for IPv6 addresses, an IPv4 one for IPv4"""
    back = w.backend(node, lib.serve_name("caught"))
    node.run("ip", "-6", "route", "add", "local", "fd88::/64", "dev", "lo")
    node.run("ip", "route", "add", "local", "10.88.0.0/16", "dev", "lo")
    a = agent(w, node, lib.tcp("six", "[::1]:15006", "caught", steer={"ports": [7000]}), lib.tcp("four", "127.0.0.1:15006", "caught", steer={"ports": [7000]}),
              clusters=[lib.cluster("caught", back.where)])
    assert named(w, node, "[fd88::1234]:7000") == "caught" and named(w, node, "10.88.1.2:7000") == "caught"
    assert {r["name"]: r["accepted"] for r in a.rows("listener")} == {"six": 1, "four": 1}
    assert [r["original_dst"] for r in a.access(2)] == ["[fd88::1234]:7000", "10.88.1.2:7000"]


def test_first_rule_has_it(w, node):
    """rules of several listeners, in their order, the more special one first or not"""
    one, two = w.backend(node, lib.serve_name("one")), w.backend(node, lib.serve_name("two"))
    node.run("ip", "route", "add", "local", "10.88.0.0/16", "dev", "lo")
    agent(w, node, lib.tcp("special", "127.0.0.1:15001", "one", steer={"to": ["10.88.1.0/24:7000-7010"]}),
          lib.tcp("general", "127.0.0.1:15002", "two", steer={"to": ["10.88.0.0/16"], "ports": ["7000-7100"]}),
          clusters=[lib.cluster("one", one.where), lib.cluster("two", two.where)])
    got = [named(w, node, x) for x in ("10.88.1.1:7000", "10.88.1.1:7011", "10.88.2.1:7000")]
    assert got == ["one", "two", "two"]


def test_namespaces(w, node):
    """a listener within another namespace steers there, and only there"""
    inner = w.node("inner")
    back = w.backend(node, lib.serve_name("caught"))
    for n in (node, inner):
        n.run("ip", "route", "add", "local", "10.88.0.0/16", "dev", "lo")
    a = w.agent(node, "agent", {"kernel": {"pin": "none"}, "listeners": [
        lib.tcp("inside", "127.0.0.1:15006", "caught", netns=f"/proc/{os.getpid()}/fd/{inner.fd}", steer={"ports": [7000]}),
        lib.tcp("outside", "127.0.0.1:15007", "caught", steer={"ports": [7001]})], "clusters": [lib.cluster("caught", back.where)]}, start=False)
    a.start(wait=False)
    lib.wait_for(lambda: node.listening(15007) and inner.listening(15006) and os.path.exists(a.socket), lambda: a.log())
    assert named(w, inner, "10.88.0.1:7000") == "caught" and named(w, node, "10.88.0.1:7001") == "caught"
    for n, port in ((inner, 7001), (node, 7000)):
        with pytest.raises(ConnectionRefusedError):
            w.app(f"10.88.0.1:{port}", n)
    assert "2 rules in 2 namespaces" in means(a)["detail"]


def test_end(w, node):
    """with the agent the steering ends; the next one does it again"""
    node.run("ip", "route", "add", "local", "10.88.0.0/16", "dev", "lo")
    plain, caught = w.backend(node, lib.serve_name("plain"), address=address(node, "10.88.0.1")), w.backend(node, lib.serve_name("caught"))
    a = agent(w, node, lib.tcp("inbound", "127.0.0.1:15006", "caught", steer={"to": ["10.88.0.0/16"], "ports": [plain.port]}),
              clusters=[lib.cluster("caught", caught.where)])
    for how in (a.kill, a.stop):
        assert named(w, node, plain.where) == "caught"
        how()
        assert named(w, node, plain.where) == "plain"
        a.start()
        lib.wait_for(lambda: isinstance(a.ctl("status", check=False), dict), "it answers: everything is attached")
    assert named(w, node, plain.where) == "caught"


def test_without_privilege(w, node):
    """said, and the listener's own address works"""
    back = w.backend(node, lib.serve_name("caught"))
    where = node.at()
    a = w.agent(node, "agent", {"kernel": {"pin": "none"}, "listeners": [lib.tcp("inbound", where, "caught", steer={"ports": [7000]})],
                                "clusters": [lib.cluster("caught", back.where)]}, user="nobody")
    assert means(a)["state"] == "missing" and "CAP_BPF" in means(a)["why"]
    assert named(w, node, where) == "caught"


@pytest.mark.rows("C14")
def test_steering_changes_with_a_reload(w, node):
    """what is steered all the time is never refused meanwhile"""
    back = w.backend(node, lib.serve_name("caught"))
    address(node, "10.88.1.1")
    plain = lib.tcp("inbound", "127.0.0.1:15006", "caught")
    a = agent(w, node, {**plain, "steer": {"to": ["10.88.1.1"], "ports": [7000]}}, clusters=[lib.cluster("caught", back.where)])

    def reload(**steer):
        a.config["listeners"] = [{**plain, **({"steer": steer} if steer else {})}]
        a.write()
        a.ctl("reload")
    for i in range(10):
        reload(to=["10.88.1.1"], ports=[7000, 7001 + i])
        assert named(w, node, "10.88.1.1:7000") == "caught"
        assert named(w, node, f"10.88.1.1:{7001 + i}") == "caught"
        with pytest.raises(ConnectionRefusedError):
            w.app("10.88.1.1:7050", node)
    reload()
    with pytest.raises(ConnectionRefusedError):
        w.app("10.88.1.1:7000", node)
    reload(to=["10.88.1.1"], ports=[7000])
    assert named(w, node, "10.88.1.1:7000") == "caught"
