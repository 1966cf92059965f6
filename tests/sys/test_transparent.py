"""The upstream sees the client's own address: on this node, in another namespace, and across a link; and the way back is cleaned up."""
import time

import pytest

import lib
from test_netns import Named


def rules(node):
    """what there is of policy routing beside the kernel's own"""
    out = node.run("sh", "-c", "ip rule; ip -6 rule; ip route show table 44311 2>/dev/null; ip -6 route show table 44311 2>/dev/null; true").stdout
    return [x for x in out.splitlines() if not x.startswith(("0:", "32766:", "32767:"))]


def sysctls(node):
    return node.run("cat", "/proc/sys/net/ipv4/tcp_fwmark_accept", "/proc/sys/net/ipv4/fwmark_reflect", "/proc/sys/net/ipv6/fwmark_reflect").stdout.split()


def v6(node, address, device):
    node.run("ip", "addr", "add", address + "/64", "dev", device, "nodad")


@pytest.fixture
def nodes(w):
    """a client and the agent's node, joined, with both families"""
    a, b = w.two_nodes()
    for n, host in ((a, 1), (b, 2)):
        v6(n, f"fd77::{host}", n.device)
    return a, b


def peer(back, i=0):
    return back.conn(i).peer[0]


@pytest.mark.san
@pytest.mark.rows("21")
@pytest.mark.parametrize("where", ["loopback", "address", "ipv6", "ipv6-loopback"])
def test_backend_on_this_node(w, nodes, where):
    """same namespace: rule, route and sysctls bring the answers back"""
    client, node = nodes
    at = {"loopback": "127.0.0.1", "address": node.address, "ipv6": "fd77::2", "ipv6-loopback": "::1"}[where]
    six = ":" in at
    back = w.backend(node, address=at)
    listen = f"[fd77::2]:{node.port()}" if six else node.at()
    assert rules(node) == []
    before = sysctls(node)
    a = w.agent(node, "one", {"workers": 2, "listeners": [lib.tcp("entry", listen, "app")],
                              "clusters": [lib.cluster("app", back.where, source="client")]})
    assert len(rules(node)) == 4 and sysctls(node) == ["1", "1", "1"]
    data = lib.pattern(300000)
    for i in range(5):
        s = w.app(listen, client)
        s.sendall(data)
        assert lib.recv_exact(s, len(data)) == data
        assert peer(back, i) == s.getsockname()[0] == ("fd77::1" if six else client.address)
        lib.fin(s)
        assert lib.recv_all(s) == (b"", "fin")
        assert back.conn(i).finished().end == "fin"
    assert len(a.access(5)) == 5
    row = next(r for r in a.ctl("kernel")["means"] if r["name"] == "transparent")
    assert row["state"] == "on" and "2 in force" in row["detail"]
    a.stop()
    assert rules(node) == [] and sysctls(node) == before


def test_client_on_this_node(w, node):
    """loopback to loopback: the same address, and nothing special about it"""
    back = w.backend(node)
    listen = "127.0.0.5:7001"
    w.agent(node, "one", {"listeners": [lib.tcp("entry", listen, "app")], "clusters": [lib.cluster("app", back.where, source="client")]})
    with node:
        import socket
        s = socket.socket()
    w.keep(s).bind(("127.0.0.77", 0))
    s.settimeout(lib.TIMEOUT)
    s.connect(("127.0.0.5", 7001))
    lib.echo(s)
    assert peer(back) == "127.0.0.77"


@pytest.mark.rows("21")
def test_nobody_listens(w, nodes):
    """the refusal finds its way back, too"""
    client, node = nodes
    listen = node.at()
    a = w.agent(node, "one", {"listeners": [lib.tcp("entry", listen, "app")],
                              "clusters": [lib.cluster("app", "127.0.0.1:9", source="client", connect_timeout="5s")]})
    t = time.monotonic()
    lib.is_reset(w.app(listen, client))
    assert time.monotonic() - t < 2
    assert "refused" in a.access(1)[0]["error"].lower()


@pytest.mark.san
@pytest.mark.rows("21")
def test_backend_in_another_namespace(w, nodes):
    """dialled from inside: the rules are made there, and go away with the agent"""
    client, node = nodes
    there = Named("back", "10.79.0.1")
    w.links.append(there)
    back = w.backend(there)
    listen = node.at()
    a = w.agent(node, "one", {"listeners": [lib.tcp("entry", listen, "app")],
                              "clusters": [lib.cluster("app", back.where, source="client", netns=there.name)]})
    assert len(rules(there)) == 4 and rules(node) == []
    s = w.app(listen, client)
    lib.echo(s, lib.pattern(100000))
    assert peer(back) == client.address
    s.close()
    a.stop()
    assert rules(there) == []


@pytest.mark.rows("21")
def test_behind_a_tunnel(w, nodes):
    """the address that the peer agent forwards is the one"""
    client, node = nodes
    back = w.backend(node)
    _, server = w.pair(back, node=client, far_node=node, app={"source": "client"}, authority="a:1")
    s = w.app(w.agents[1].listen, client)
    lib.echo(s)
    src = s.getsockname()[0]
    assert peer(back) == src or src.startswith("127.")


def test_families_do_not_mix(w, nodes):
    client, node = nodes
    back = w.backend(node)
    listen = f"[fd77::2]:{node.port()}"
    a = w.agent(node, "one", {"listeners": [lib.tcp("entry", listen, "app")], "clusters": [lib.cluster("app", back.where, source="client")]})
    lib.is_reset(w.app(listen, client))
    assert "other family" in a.access(1)[0]["error"]


def test_without_the_right(w, nodes):
    """no CAP_NET_ADMIN: it starts, says what is missing, and those connections fail with the reason"""
    client, node = nodes
    back = w.backend(node)
    listen, plain = node.at(), node.at()
    a = w.agent(node, "one", {"listeners": [lib.tcp("entry", listen, "app"), lib.tcp("plain", plain, "other")],
                              "clusters": [lib.cluster("app", back.where, source="client"), lib.cluster("other", back.where)]}, user="nobody")
    a.logged("source: client: .*CAP_NET_ADMIN")
    lib.is_reset(w.app(listen, client))
    assert "CAP_NET_ADMIN" in a.access(1)[0]["error"]
    lib.echo(w.app(plain, client))
    row = next(r for r in a.ctl("kernel")["means"] if r["name"] == "transparent")
    assert row["state"] == "missing" and "CAP_NET_ADMIN" in row["why"]


def test_numbers_of_others(w, nodes):
    """a rule with our number that is not ours: left alone, and said"""
    client, node = nodes
    back = w.backend(node)
    node.run("ip", "rule", "add", "pref", "10717", "from", "10.1.1.1", "lookup", "main")
    before = rules(node)
    a = w.agent(node, "one", {"listeners": [lib.tcp("entry", node.at(), "app")], "clusters": [lib.cluster("app", back.where, source="client")]})
    a.logged("used by others .see: ip rule, pref 10717")
    assert rules(node) == before
    a.stop()
    assert rules(node) == before


def test_after_a_crash_and_beside_another_agent(w, nodes):
    """kill -9 leaves the rules; the next agent takes them over, and takes them away"""
    client, node = nodes
    back = w.backend(node)
    listen, second = node.at(), node.at()
    config = {"clusters": [lib.cluster("app", back.where, source="client")]}
    a = w.agent(node, "one", {"listeners": [lib.tcp("entry", listen, "app")], **config})
    a.kill()
    assert len(rules(node)) == 4
    a.start()
    b = w.agent(node, "two", {"listeners": [lib.tcp("entry", second, "app")], **config})
    s = w.app(listen, client)
    lib.echo(s)
    s.close()
    b.stop()  # takes away what both use
    lib.wait_for(lambda: len(rules(node)) == 4, "they are put back", 5)
    s = w.app(listen, client)
    lib.echo(s)
    s.close()
    a.stop()
    assert rules(node) == []


@pytest.fixture
def road(w):
    """client - agent's node - server, where the server's way to the client leads over the agent's node"""
    client, node, server = w.node("client"), w.node("middle"), w.node("server")
    lib.join(client, node, 1)
    v6(client, "fd77:1::1", client.device)
    v6(node, "fd77:1::2", node.device)
    lib.join(node, server, 2)
    v6(node, "fd77:2::1", node.device)
    v6(server, "fd77:2::2", server.device)
    server.run("ip", "route", "add", "default", "via", "10.77.2.1")
    server.run("ip", "-6", "route", "add", "default", "via", "fd77:2::1")
    client.run("ip", "route", "add", "default", "via", "10.77.1.2")
    node.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
    return client, node, server


@pytest.mark.san
@pytest.mark.rows("21")
@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
def test_backend_behind_a_link(w, road, six):
    """the answers come in on a device, unmarked: the program on it knows whose they are. What is forwarded meanwhile is not touched."""
    client, node, server = road
    back = w.backend(server, address="fd77:2::2" if six else None)
    listen = f"[fd77:1::2]:{node.port()}" if six else f"10.77.1.2:{node.port()}"
    a = w.agent(node, "one", {"workers": 2, "listeners": [lib.tcp("entry", listen, "app")],
                              "clusters": [lib.cluster("app", back.where, source="client")]})
    data = lib.pattern(300000)
    direct = None if six else w.app(back.where, client)  # past the agent
    if direct:
        lib.echo(direct)
    first = len(back.conns)
    for i in range(first, first + 5):
        s = w.app(listen, client)
        s.sendall(data)
        assert lib.recv_exact(s, len(data)) == data
        assert peer(back, i) == s.getsockname()[0] == ("fd77:1::1" if six else "10.77.1.1")
        if i % 2:  # either side may be the first to end
            lib.fin(s)
            assert lib.recv_all(s) == (b"", "fin")
            assert back.conn(i).finished().end == "fin"
        else:
            lib.rst(s)
            assert back.conn(i).finished().end == "rst"
    if direct:
        lib.echo(direct, data)
    row = next(r for r in a.ctl("kernel")["means"] if r["name"] == "transparent")
    assert row["state"] == "on" and "2 devices" in row["detail"], row
    assert all("transmark" in node.run("tc", "filter", "show", "dev", d, "ingress").stdout for d in ("v1b", "v2a"))
    assert not [x for x in client.run("ss", "-Htan").stdout.splitlines() if "10.77.2.2" in x and "ESTAB" not in x]
    lib.join(node, w.node("late"), 3)  # a device that comes later
    lib.wait_for(lambda: "transmark" in node.run("tc", "filter", "show", "dev", "v3a", "ingress").stdout, "it has it, too", 5)
    a.stop()
    assert all("transmark" not in node.run("tc", "filter", "show", "dev", d, "ingress").stdout for d in ("v1b", "v2a", "v3a"))
    assert rules(node) == []


def test_refusal_from_behind_a_link(w, road):
    client, node, server = road
    listen = f"10.77.1.2:{node.port()}"
    a = w.agent(node, "one", {"listeners": [lib.tcp("entry", listen, "app")],
                              "clusters": [lib.cluster("app", "10.77.2.2:9", source="client", connect_timeout="5s")]})
    t = time.monotonic()
    lib.is_reset(w.app(listen, client))
    assert time.monotonic() - t < 2
    assert "refused" in a.access(1)[0]["error"].lower()
