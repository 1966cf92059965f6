"""Several identities on one node: whose a connection is, its tunnels, what peers see of it and let it do; and whose peers ask for."""
import collections
import os
import signal
import socket
import ssl
import time

import pytest

import h2raw
import lib
from app import App, Cgroup, Refused, cgroup_mount
from test_capture import pin  # noqa: F401
from test_netns import named  # noqa: F401

SA = "spiffe://cluster.local/ns/test/sa/"
UIDS = {"blue": 4101, "green": 4102, "red": 4103}
SOURCES = {"blue": "127.0.0.2", "green": "127.0.0.3", "red": "127.0.0.4"}
HOW = ["source", "listener", "uid", "cgroup"]


class Cell:
    """a node with applications, its agent, and a peer with a backend"""

    def __init__(self, w):
        self.w, self.node = w, w.node()
        self.back = w.backend(self.node)
        self.apps, self.groups = {}, {}
        self.tunnel = self.node.at()
        self.entry = {n: self.node.at() for n in ("blue", "green", "red")}

    def peer(self, policies=(), **more):
        self.server = self.w.agent(self.node, "server", {
            "identities": [self.w.certs.identity("server")],
            "listeners": [lib.tunnel("inbound", self.tunnel, "app")],
            "clusters": [lib.cluster("app", self.back.where)], "policies": list(policies), **more})
        return self.server

    def match(self, how, name):
        if how == "cgroup" and name not in self.groups:
            self.groups[name] = Cgroup()
        return {"source": lambda: {"source": SOURCES[name]}, "listener": lambda: {"listeners": f"in-{name}"},
                "uid": lambda: {"uids": UIDS[name]}, "cgroup": lambda: {"cgroups": self.groups[name].path}}[how]()

    def workloads(self, how, names=("blue", "green"), **more):
        return [{"name": n, "identity": n, "match": self.match(how, n), "namespace": "test", "service": n + "-svc", **more} for n in names]

    def agent(self, workloads, name="client", cluster=None, listener=None, **more):
        """one listener for each name, all of them to the peer as the workload"""
        self.client = self.w.agent(self.node, name, {
            "identities": [self.w.certs.identity(n) for n in ("client", "blue", "green")],
            "listeners": [lib.tcp(f"in-{n}", at, "far", **(listener or {})) for n, at in self.entry.items()],
            "clusters": [lib.far("far", self.tunnel, authority=self.back.where, identity="workload", **(cluster or {}))],
            "workloads": workloads, **more})
        return self.client

    def app(self, how, name):
        """a process of that workload, kept"""
        if (how, name) not in self.apps:
            group = self.groups.get(name) or self.groups.setdefault(name, Cgroup()) if how == "cgroup" else None
            self.apps[how, name] = App(self.node, group, UIDS[name] if how == "uid" else None)
        return self.apps[how, name]

    def where(self, how, name):
        return lib.split(self.entry[name if how == "listener" else "blue"])

    def bind(self, how, name):
        return (SOURCES[name], 0) if how == "source" else None

    def say(self, how, name, n=1, where=None):
        """@n connections, one behind the other; Return: their local ports"""
        host, port = where or self.where(how, name)
        return self.app(how, name).run(f"""
_ = []
for i in range({n}):
    s = dial({host!r}, {port}, bind={self.bind(how, name)!r})
    s.sendall(b'hello')
    assert exact(s, 5) == b'hello'
    _.append(s.getsockname()[1])
    s.close()
""")

    def hold(self, how, name, var="held"):
        """a connection that stays"""
        host, port = self.where(how, name)
        self.app(how, name).run(f"{var} = dial({host!r}, {port}, bind={self.bind(how, name)!r})\n{var}.sendall(b'x')\n_ = exact({var}, 1).decode()")

    def refused(self, how, name):
        with pytest.raises(Refused):
            self.say(how, name)

    def close(self):
        for a in self.apps.values():
            a.close()
        for g in self.groups.values():
            g.close()


@pytest.fixture
def cell(w):
    c = Cell(w)
    yield c
    c.close()


def skip_without(how):
    if how == "cgroup" and not cgroup_mount():
        pytest.skip("no cgroup2 is mounted")


# ---- whose a connection is

@pytest.mark.rows("A06", "A08", "A11", "A12")
@pytest.mark.parametrize("mover", ["auto", "relay"])
@pytest.mark.parametrize("how", HOW)
def test_each_workload_has_its_own_tunnels(cell, how, mover):
    skip_without(how)
    server = cell.peer()
    client = cell.agent(cell.workloads(how), mover=mover)
    ports = {n: cell.say(how, n, 3) for n in ("blue", "green", "blue", "green")}
    seen = collections.Counter(t["peer_identity"] for t in server.tunnels("in"))
    assert seen == {SA + "blue": 1, SA + "green": 1}, "one tunnel for each"
    assert {t["peer_identity"]: t["streams_total"] for t in server.tunnels("in")} == {SA + "blue": 6, SA + "green": 6}
    rows = server.access(12)
    assert {(r["src_identity"], r["src_workload"]) for r in rows} == {(SA + "blue", "blue"), (SA + "green", "green")}
    for n, mine in ports.items():
        for p in mine:  # the stream of that very connection
            row, = [r for r in rows if r["src_addr"].endswith(f":{p}")]
            assert row["src_identity"] == SA + n and row["src_workload"] == n
    assert server.stat("metadata_mismatch") == 0
    for r in client.access(12):
        assert r["src_identity"] == SA + r["src_workload"]
    assert {t["local_identity"] for t in client.tunnels("out")} == {SA + "blue", SA + "green"}
    assert client.stat("workload_asked") == (12 if how in ("uid", "cgroup") else 0)


@pytest.mark.rows("A06", "A08")
@pytest.mark.parametrize("how", HOW)
def test_who_is_no_workload_is_refused_and_told_why(cell, how):
    skip_without(how)
    cell.peer()
    client = cell.agent(cell.workloads(how))
    cell.refused(how, "red")
    row, = client.access(1)
    assert "no workload matches it" in row["error"] and "identity_default" in row["error"]
    assert not cell.server.tunnels("in")
    assert client.stat("workload_refused") == 1
    cell.say(how, "blue")


@pytest.mark.rows("A06", "A08")
def test_a_default_identity_is_for_the_rest(cell):
    server = cell.peer()
    cell.agent(cell.workloads("uid"), cluster={"identity_default": "client"})
    cell.say("uid", "red")
    cell.say("uid", "blue")
    assert {t["peer_identity"] for t in server.tunnels("in")} == {SA + "client", SA + "blue"}
    assert {(r["src_identity"], r.get("src_workload")) for r in server.access(2)} == {(SA + "client", None), (SA + "blue", "blue")}


@pytest.mark.rows("A16", "A06")
@pytest.mark.parametrize("how", ["source", "uid"])
def test_policies_of_the_peer_tell_them_apart(cell, how):
    cell.peer(policies=[{"name": "blue-only", "action": "allow", "rules": [{"principal": "cluster.local/ns/test/sa/blue"}]}])
    cell.agent(cell.workloads(how))
    cell.say(how, "blue")
    cell.refused(how, "green")
    row = cell.server.access(1, src_identity=SA + "green")[0]
    assert row["response_flags"] == "UAEX"


@pytest.mark.rows("A16")
@pytest.mark.parametrize("how", ["source", "uid"])
def test_local_policies_know_the_workload(cell, how):
    """no peer is asked: the kernel's word, or the operator's, is as good as a certificate"""
    server = cell.peer()
    client = cell.agent(cell.workloads(how), policies=[{"name": "no-green", "action": "deny", "rules": [{"principal": "*/sa/green"}]}])
    cell.say(how, "blue")
    cell.refused(how, "green")
    row = client.access(1, src_identity=SA + "green")[0]
    assert row["policy"].startswith("no-green") and len(server.tunnels("in")) == 1


@pytest.mark.rows("A06")
def test_conditions_are_anded_and_the_first_wins(cell):
    server = cell.peer()
    cell.agent([
        {"name": "narrow", "identity": "green", "match": {"uids": UIDS["blue"], "listeners": "in-green"}},
        {"name": "wide", "identity": "blue", "match": {"uids": [UIDS["blue"], UIDS["green"]]}},
        {"name": "rest", "identity": "client", "match": {"source": "127.0.0.0/8"}}])
    app = cell.app("uid", "blue")
    for entry, want in (("green", "narrow"), ("blue", "wide")):
        host, port = lib.split(cell.entry[entry])
        app.run(f"s = dial({host!r}, {port}); s.sendall(b'x'); _ = exact(s, 1).decode(); s.close()")
        server.access(1, src_workload=want)
    cell.say("uid", "red")
    row = server.access(1, src_workload="rest")[0]
    assert row["src_identity"] == SA + "client"


# ---- what cannot be told

@pytest.mark.rows("A06", "A08")
def test_who_cannot_be_told_is_refused(cell):
    """its process has closed the socket before it was accepted: that is not root, nor the next workload of the list"""
    cell.peer()
    client = cell.agent([
        {"name": "root", "identity": "green", "match": {"uids": 0}},
        {"name": "rest", "identity": "client", "match": {"source": "127.0.0.0/8"}}])
    app = cell.app("uid", "blue")
    host, port = lib.split(cell.entry["blue"])
    os.kill(client.pid, signal.SIGSTOP)
    app.run(f"s = dial({host!r}, {port}); s.sendall(b'secret'); s.close(); _ = 1")
    os.kill(client.pid, signal.SIGCONT)
    row, = client.access(1)
    assert "it may be workload 'root'" in row["error"] and "uid" in row["error"]
    assert not cell.back.conns and not cell.server.tunnels("in")
    assert client.stat("workload_refused") == 1
    cell.say("uid", "blue")
    assert cell.server.access(1)[0]["src_workload"] == "rest"


@pytest.mark.rows("A06", "A30")
def test_behind_a_proxy_the_process_is_the_proxys(cell):
    """uids do not match who is behind it, addresses do"""
    cell.peer()
    cell.agent([{"name": "proxy", "identity": "green", "match": {"uids": 0}}, {"name": "behind", "identity": "blue", "match": {"source": "192.0.2.0/24"}}],
               listener={"proxy_protocol": True, "proxy_from": "127.0.0.0/8"})
    s = cell.w.app(cell.entry["blue"])
    s.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 1234 80\r\nhello")
    assert lib.recv_exact(s, 5) == b"hello"
    s.close()
    assert cell.server.access(1)[0]["src_workload"] == "behind"


@pytest.mark.rows("A06")
def test_a_remote_client_is_no_process_of_this_node(w):
    """a uid on another machine says nothing here"""
    a, b = w.two_nodes()
    back = w.backend(b)
    server = w.agent(b, "server", {"identities": [w.certs.identity("server")], "listeners": [lib.tunnel("inbound", b.at(15008), "app")],
                                   "clusters": [lib.cluster("app", back.where)]})
    listen = b.at()
    w.agent(b, "client", {
        "identities": [w.certs.identity(n) for n in ("blue", "green")], "listeners": [lib.tcp("in", listen, "far")],
        "clusters": [lib.far("far", b.at(15008), authority=back.where, identity="workload", local="tunnel")],
        "workloads": [{"name": "root", "identity": "green", "match": {"uids": 0}}, {"name": "net", "identity": "blue", "match": {"source": "10.77.0.0/16"}}]})
    lib.echo(w.app(listen, node=a))
    assert [t["peer_identity"] for t in server.tunnels("in")] == [SA + "blue"]
    lib.echo(w.app(listen, node=b))
    assert sorted(t["peer_identity"] for t in server.tunnels("in")) == [SA + "blue", SA + "green"]


@pytest.mark.rows("A06")
@pytest.mark.skipif(not cgroup_mount(), reason="no cgroup2 is mounted")
def test_when_the_cgroup_is_removed(cell):
    """connections go on; a socket of the removed cgroup is still its own when it was seen before, and nobody's otherwise"""
    cell.peer()
    client = cell.agent(cell.workloads("cgroup"))
    cell.hold("cgroup", "blue")
    host, port = cell.where("cgroup", "blue")
    for n in ("blue", "green"):
        app = cell.app("cgroup", n)
        app.run("late = socket.socket()\n_ = 1")  # whose it is says the socket, not where its process goes later
        app.run(f"open({cgroup_mount() + '/cgroup.procs'!r}, 'w').write(str(os.getpid())); _ = 1")
        lib.wait_for(lambda n=n: not os.path.exists(cell.groups[n].dir) or os.rmdir(cell.groups[n].dir) or True, "removed")
    assert cell.app("cgroup", "blue").run("held.sendall(b'more')\n_ = exact(held, 4).decode()") == "more"
    assert cell.app("cgroup", "blue").run(f"late.connect(({host!r}, {port})); late.sendall(b'x'); _ = exact(late, 1).decode()") == "x"
    assert len(cell.server.tunnels("in")) == 1
    with pytest.raises(Refused):
        cell.app("cgroup", "green").run(f"late.connect(({host!r}, {port})); late.sendall(b'x'); _ = exact(late, 1).decode()")
    assert "it may be workload 'blue'" in client.access(1)[0]["error"]


# ---- captured

@pytest.mark.rows("A06", "A30")
@pytest.mark.skipif(not cgroup_mount(), reason="no cgroup2 is mounted")
@pytest.mark.parametrize("how", ["uid", "cgroup"])
def test_captured_connections_bring_who_they_are(cell, pin, how):  # noqa: F811
    """the capture has noted it: the kernel is not asked again, and it holds for who has closed its socket already"""
    server = cell.peer()
    all_of = Cgroup()
    cell.groups.update({n: Cgroup(n, all_of) for n in ("blue", "green")})
    client = cell.agent(cell.workloads(how), kernel={"pin": pin},
                        listeners=[lib.tcp("out", cell.node.at(), "far", capture={"cgroups": [all_of.path], "to": "10.99.0.0/16"})])
    try:
        for n in ("blue", "green"):
            cell.apps[how, n] = App(cell.node, cell.groups[n], UIDS[n])
            cell.say(how, n, 3, where=("10.99.0.1", 80))
        assert {t["peer_identity"] for t in server.tunnels("in")} == {SA + "blue", SA + "green"}
        assert {(r["src_identity"], r["src_workload"]) for r in server.access(6)} == {(SA + n, n) for n in ("blue", "green")}
        assert client.stat("workload_asked") == 0 and client.stat("captured") == 6
        os.kill(client.pid, signal.SIGSTOP)
        cell.apps[how, "green"].run("s = dial('10.99.0.1', 80); s.sendall(b'last words'); s.close(); _ = 1")
        os.kill(client.pid, signal.SIGCONT)
        assert cell.back.conn(6).finished().first == b"last words"
        assert server.access(7)[-1]["src_identity"] == SA + "green"
    finally:
        client.stop()
        cell.close()
        cell.apps.clear()
        cell.groups.clear()
        all_of.close()


# ---- many at once

@pytest.mark.rows("A06", "A12")
@pytest.mark.limit(60)
@pytest.mark.parametrize("how", ["uid", "cgroup"])
def test_processes_that_race(cell, how):
    """nobody gets the identity of another, however closely they follow on each other's ports"""
    skip_without(how)
    server = cell.peer()
    cell.agent(cell.workloads(how), workers=2)
    host, port = cell.where(how, "blue")
    n, per = 3, 40
    apps = [(name, App(cell.node, cell.groups.get(name) if how == "cgroup" else None, UIDS[name] if how == "uid" else None))
            for _ in range(n) for name in ("blue", "green")]
    try:
        for name, a in apps:
            a.start(f"""
_ = []
for i in range({per}):
    s = dial({host!r}, {port})
    s.sendall(b'{name} ')
    exact(s, {len(name) + 1})
    _.append(s.getsockname()[1])
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    s.close()
""")
        want = collections.Counter((p, name) for name, a in apps for p in a.result())
        rows = server.access(2 * n * per)
        got = collections.Counter((int(r["src_addr"].rsplit(":", 1)[1]), r["src_identity"][len(SA):]) for r in rows)
        assert got == want and all(r["src_workload"] == r["src_identity"][len(SA):] for r in rows)
        assert {c.first.split()[0].decode() for c in cell.back.conns} == {"blue", "green"}
    finally:
        for _, a in apps:
            a.close()


# ---- what is said of them

@pytest.mark.rows("A11", "A12")
def test_metadata_goes_where_the_identity_goes(w, node):
    """and nowhere else: by a cluster of another identity the node speaks"""
    far = w.h2_server(node)
    listen = {n: node.at() for n in ("own", "fixed", "same")}
    w.agent(node, "client", {
        "node": {"namespace": "system", "workload": "agent", "service": "gateway", "metadata": {"rack": "r1", "tier": "infra"},
                 "request_headers": {"x-client-id": "node", "x-rack": "r1"}},
        "identities": [w.certs.identity(n) for n in ("client", "blue")],
        "listeners": [lib.tcp(n, at, n) for n, at in listen.items()],
        "clusters": [lib.far("own", far.where, authority="a:1", identity="workload"), lib.far("fixed", far.where, authority="a:1", identity="client"),
                     lib.far("same", far.where, authority="a:1", identity="blue")],
        "workloads": [{"name": "web", "identity": "blue", "match": {"source": "127.0.0.0/8"}, "namespace": "test", "service": "web", "version": "v2",
                       "workload_type": "deployment", "metadata": {"tier": "front"}, "request_headers": {"X-Client-Id": "web"}}]})
    seen = {}
    for name, at in listen.items():
        w.app(at)
        h = far.accept()
        sid, = h.requests(1)
        seen[name] = (h2raw.spiffe_id(h.sock)[len(SA):], dict(h.answers[sid]))
    for name in ("own", "same"):
        who, headers = seen[name]
        said = dict(x.split("=", 1) for x in headers["baggage"].split(","))
        assert who == "blue" and headers["x-client-id"] == "web" and headers["x-rack"] == "r1"
        assert said["k8s.namespace.name"] == "test" and said["k8s.deployment.name"] == "web" and said["service.name"] == "web"
        assert said["tier"] == "front" and said["rack"] == "r1"
    who, headers = seen["fixed"]
    assert who == "client" and headers["x-client-id"] == "node"
    assert "system" in headers["baggage"] and "web" not in headers["baggage"]


# ---- the short way

@pytest.mark.rows("A06", "A16")
def test_the_short_way_is_as_a_tunnel(cell):
    """within the node, too, the other listener's policies see the workload"""
    cell.node.run("ip", "addr", "add", "10.66.0.1/32", "dev", "lo")
    at = "10.66.0.1:15008"
    client = cell.w.agent(cell.node, "client", {
        "identities": [cell.w.certs.identity(n) for n in ("client", "blue", "green")],
        "listeners": [lib.tcp("in-blue", cell.entry["blue"], "far"), lib.tunnel("inbound", at, "app", identity="client")],
        "clusters": [lib.far("far", at, authority=cell.back.where, identity="workload"), lib.cluster("app", cell.back.where)],
        "workloads": cell.workloads("uid"),
        "policies": [{"name": "blue-only", "action": "allow", "scope": {"listeners": "inbound"}, "rules": [{"principal": "*/sa/blue", "metadata": {
            "service.name": "blue-svc"}}]}]})
    cell.say("uid", "blue")
    cell.refused("uid", "green")
    cell.refused("uid", "red")
    assert client.stat("shortcuts") == 2 and not client.tunnels()


# ---- whose peers ask for

def serving(w, node, **listener):
    """an agent that serves blue (10.66.0.1) and green (10.66.0.2), by one listener on the wildcard address"""
    for i in (1, 2, 3):
        node.run("ip", "addr", "add", f"10.66.0.{i}/32", "dev", "lo")
    back = {i: w.backend(node, lib.serve_name(f"b{i}"), address=f"10.66.0.{i}") for i in (1, 2, 3)}
    agent = w.agent(node, "server", {
        "identities": [w.certs.identity(n) for n in ("server", "blue", "green")],
        "node": {"namespace": "test", "workload": "agent"},
        "listeners": [lib.tunnel("inbound", "0.0.0.0:15008", "anywhere", identity="workload", **listener)],
        "clusters": [lib.anywhere()],
        "workloads": [{"name": "b", "identity": "blue", "serves": {"addresses": "10.66.0.1", "server_names": "blue.example"}, "service": "blue-svc"},
                      {"name": "g", "identity": "green", "serves": {"addresses": "10.66.0.2", "server_names": ["green.example", "*.green.example"]},
                       "service": "green-svc"}]})
    return agent, back


def dialled(w, node, address, sni=None):
    """Return: the raw peer, and whose certificate it was shown"""
    s = w.keep(node.connect(f"{address}:15008"))
    s = w.keep(w.certs.context(True, "client").wrap_socket(s, server_hostname=sni))
    return h2raw.H2(s, True, lib.TIMEOUT).start(), h2raw.spiffe_id(s)[len(SA):]


@pytest.mark.rows("A08", "A11", "C1", "C9")
@pytest.mark.parametrize("address,sni,who", [
    ("10.66.0.1", None, "blue"), ("10.66.0.2", None, "green"),
    ("10.66.0.1", "green.example", "green"), ("10.66.0.3", "a.GREEN.example", "green"), ("10.66.0.2", "blue.example", "blue"),
    ("10.66.0.2", "nobody.example", "green"),
])
def test_an_address_or_a_name_chooses_the_identity(w, node, address, sni, who):
    agent, back = serving(w, node)
    h, shown = dialled(w, node, address, sni)
    assert shown == who
    target = back[1 if who == "blue" else 2]
    sid = h.opened(target.where)
    assert f"service.name={who}-svc" in dict(h.answers[sid])["baggage"]
    assert h.body(sid, 3) == (b"b1\n" if who == "blue" else b"b2\n")
    t, = agent.tunnels("in")
    assert t["local_identity"] == SA + who


@pytest.mark.rows("A08", "C9")
@pytest.mark.parametrize("sni", [None, "nobody.example"])
def test_nobodys_address_is_refused(w, node, sni):
    agent, _ = serving(w, node)
    with pytest.raises((ssl.SSLError, OSError)):
        dialled(w, node, "10.66.0.3", sni)
    agent.logged("no workload has the")
    assert not agent.tunnels("in")


@pytest.mark.rows("A08", "C9")
def test_the_rest_may_have_a_default(w, node):
    agent, back = serving(w, node, identity_default="server")
    h, shown = dialled(w, node, "10.66.0.3")
    assert shown == "server"
    sid = h.opened(back[3].where)
    assert "k8s.pod.name=agent" in dict(h.answers[sid])["baggage"] or "agent" in dict(h.answers[sid])["baggage"]
    assert len(agent.tunnels("in")) == 1


@pytest.mark.rows("A12", "C1")
def test_a_tunnel_to_one_is_no_way_to_another(w, node):
    """the client has seen green's certificate: what it says is not blue's to answer"""
    agent, back = serving(w, node)
    h, _ = dialled(w, node, "10.66.0.2")
    sid = h.connect(back[1].where)
    assert h.status(sid) == 400
    assert "green" not in dict(h.answers[sid]).get("baggage", "") or "green-svc" in dict(h.answers[sid])["baggage"]
    h.opened(back[2].where)
    row = agent.access(1)[0]
    assert "workload 'b'" in row["error"] and not back[1].conns


@pytest.mark.rows("A06", "A08")
def test_both_sides_are_several(w, node):
    """blue and green of one node speak to blue and green of another: four tunnels, none of them shared"""
    agent, back = serving(w, node)
    entry = {i: node.at() for i in (1, 2)}
    client = w.agent(node, "client", {
        "identities": [w.certs.identity(n) for n in ("blue", "green")],
        "listeners": [lib.tcp(f"to-{i}", at, f"far-{i}") for i, at in entry.items()],
        "clusters": [lib.far(f"far-{i}", f"10.66.0.{i}:15008", authority=back[i].where, identity="workload", local="tunnel",
                             expect=SA + ("blue" if i == 1 else "green")) for i in (1, 2)],
        "workloads": [{"name": n, "identity": n, "match": {"source": SOURCES[n]}} for n in ("blue", "green")]})
    for i, at in entry.items():
        for n in ("blue", "green"):
            with node:
                s = w.keep(socket.socket())
            s.settimeout(lib.TIMEOUT)
            s.bind((SOURCES[n], 0))
            s.connect(lib.split(at))
            assert lib.recv_exact(s, 3) == f"b{i}\n".encode()
    want = {(SA + a, SA + b) for a in ("blue", "green") for b in ("blue", "green")}
    assert {(t["local_identity"], t["peer_identity"]) for t in client.tunnels("out")} == want and len(client.tunnels("out")) == 4
    assert {(t["peer_identity"], t["local_identity"]) for t in agent.tunnels("in")} == want


# ---- what people see

@pytest.mark.rows("A25", "A06")
def test_aditctl_shows_whose_connections_are(cell):
    cell.peer()
    client = cell.agent(cell.workloads("uid") + [{"name": "inward", "identity": "client", "serves": {"addresses": "10.1.2.3", "server_names": "*.a.b"}}])
    cell.hold("uid", "blue")
    cell.refused("uid", "red")
    rows = {r["name"]: r for r in client.ctl("workload")["workloads"]}
    assert list(rows) == ["blue", "green", "inward", None]
    assert rows["blue"]["spiffe_id"] == SA + "blue" and rows["blue"]["match"] == {"uids": [UIDS["blue"]]}
    assert (rows["blue"]["connections"], rows["blue"]["active"], rows["blue"]["refused"]) == (1, 1, 0)
    assert (rows[None]["connections"], rows[None]["refused"]) == (1, 1)
    c, = client.ctl("conn")["conns"]
    assert (c["workload"], c["workload_by"], c["src_uid"], c["src_identity"]) == ("blue", "uid", UIDS["blue"], SA + "blue")
    text = client.ctl("workload", as_json=False)
    assert "(none)" in text and "uids 4101" in text and "server_names *.a.b" in text
    assert "workload known by" in client.ctl("conn", "show", str(c["id"]), as_json=False)
    t, = client.tunnels("out")
    assert t["identity"] == "blue" and t["local_identity"] == SA + "blue"
    metrics = client.metrics()
    assert 'adit_workload_connections{workload="blue"} 1' in metrics and 'adit_workload_connections_refused_total{workload=""} 1' in metrics
    cell.app("uid", "blue").run("held.close(); _ = 1")
    lib.wait_for(lambda: client.ctl("workload")["workloads"][0]["active"] == 0, "counted no more")


# ---- changes while it runs

@pytest.mark.rows("A06", "C14")
def test_a_reload_changes_whose_new_connections_are(cell):
    """what lives goes on as it began; counters of a name go on; an identity that is gone has no new streams"""
    server = cell.peer()
    client = cell.agent(cell.workloads("uid"), workers=2)
    cell.hold("uid", "blue")
    cell.say("uid", "green")
    client.config["workloads"] = [{"name": "blue", "identity": "green", "match": {"uids": UIDS["blue"]}},
                                  {"name": "red", "identity": "blue", "match": {"uids": UIDS["red"]}}]
    client.write()
    client.ctl("reload")
    assert cell.app("uid", "blue").run("held.sendall(b'more')\n_ = exact(held, 4).decode()") == "more"
    cell.say("uid", "blue")
    cell.say("uid", "red")
    cell.refused("uid", "green")
    rows = server.access(3)
    assert [(r["src_identity"][len(SA):], r["src_workload"]) for r in rows] == [("green", "green"), ("green", "blue"), ("blue", "red")]
    assert {r["name"]: r["connections"] for r in client.ctl("workload")["workloads"]} == {"blue": 2, "red": 1, None: 1}
    del client.config["identities"][2]  # green
    client.config["workloads"] = [{"name": "red", "identity": "blue", "match": {"uids": UIDS["red"]}}]
    client.write()
    client.ctl("reload")
    cell.say("uid", "red")
    cell.refused("uid", "blue")
    lib.wait_for(lambda: "green" not in {t["local_identity"][len(SA):] for t in client.tunnels("out") if t["state"] != "draining"}, "drained")
    assert cell.app("uid", "blue").run("held.sendall(b'last')\n_ = exact(held, 4).decode()") == "last"
    client.config["clusters"][0]["identity"] = "client"
    client.config["workloads"] = []
    client.write()
    client.ctl("reload")
    cell.say("uid", "green")
    assert server.access(5)[-1]["src_identity"] == SA + "client"


@pytest.mark.rows("A08", "C14")
def test_a_reload_changes_what_is_served(w, node):
    agent, back = serving(w, node)
    h, _ = dialled(w, node, "10.66.0.1")
    by_name, _ = dialled(w, node, "10.66.0.3", "green.example")
    sid = h.opened(back[1].where)
    agent.config["workloads"][0]["identity"] = "server"  # it was blue
    agent.write()
    agent.ctl("reload")
    h.seen(lambda: h.goaways)
    h.data(sid, b"x")
    assert h.body(sid, 4) == b"b1\nx", "what lives goes on"
    assert dialled(w, node, "10.66.0.1")[1] == "server"
    by_name.opened(back[2].where)
    assert not by_name.goaways, "green goes on being served"


@pytest.mark.rows("A06", "C14")
@pytest.mark.limit(60)
def test_reloads_under_load(cell):
    """identities come and go while connections are opened: each of them has one of the two that its workload had, and none is lost"""
    server = cell.peer()
    client = cell.agent(cell.workloads("uid"), workers=2)
    app, (host, port) = cell.app("uid", "blue"), cell.where("uid", "blue")
    app.start(f"""
_, end = 0, time.monotonic() + 5
while time.monotonic() < end:
    s = dial({host!r}, {port})
    s.sendall(b'hello')
    assert exact(s, 5) == b'hello'
    s.close()
    _ += 1
""")
    for i in range(20):
        client.config["workloads"][0]["identity"] = "green" if i % 2 else "blue"
        client.config["workloads"][0]["version"] = f"v{i}"
        client.write()
        client.ctl("reload")
        time.sleep(0.1)
    n = app.result()
    rows = server.access(n)
    assert len(rows) == n > 50 and {r["src_identity"] for r in rows} == {SA + "blue", SA + "green"} and {r["src_workload"] for r in rows} == {"blue"}
    assert client.ctl("workload")["workloads"][0]["connections"] == n


@pytest.mark.rows("A06", "A16")
def test_explain_knows_the_workload(cell):
    cell.peer()
    client = cell.agent(cell.workloads("source"), policies=[{"name": "no-green", "action": "deny", "rules": [{"principal": "*/sa/green"}]}])
    got = {n: client.ctl("policy", "explain", "--src", SOURCES[n] + ":1", "--listener", "in-blue") for n in ("blue", "green", "red")}
    assert got["blue"]["workload"]["name"] == "blue" and got["blue"]["cluster"]["identity"] == SA + "blue" and got["blue"]["verdict"] == "go"
    assert got["green"]["verdict"] == "denied"
    assert got["red"]["workload"]["name"] is None and got["red"]["verdict"] == "identity" and "identity_default" in got["red"]["why"]


@pytest.mark.rows("A06")
def test_in_another_network_namespace(w, named):  # noqa: F811
    """the kernel is asked where the listener is"""
    there = named("workloads")
    back = w.backend(there)
    tun, listen = there.at(15008), there.at(15001)
    server = w.agent(there, "server", {"identities": [w.certs.identity("server")], "listeners": [lib.tunnel("inbound", tun, "app")],
                                       "clusters": [lib.cluster("app", back.where)]})
    w.agent(w.node(), "client", {
        "identities": [w.certs.identity(n) for n in ("blue", "green")], "listeners": [lib.tcp("in", listen, "far", netns=there.name)],
        "clusters": [lib.far("far", tun, authority=back.where, netns=there.name, identity="workload")],
        "workloads": [{"name": n, "identity": n, "match": {"uids": UIDS[n]}} for n in ("blue", "green")]})
    host, port = lib.split(listen)
    for n in ("blue", "green"):
        app = App(there, None, UIDS[n])
        app.run(f"s = dial({host!r}, {port}); s.sendall(b'x'); _ = exact(s, 1).decode(); s.close()")
        app.close()
    assert sorted(t["peer_identity"] for t in server.tunnels("in")) == [SA + "blue", SA + "green"]


@pytest.mark.rows("A12")
def test_a_namespace_that_its_certificate_contradicts_is_warned_of(cell):
    """and flagged by the peer"""
    server = cell.peer()
    client = cell.agent([{"name": "blue", "identity": "blue", "match": {"uids": UIDS["blue"]}, "namespace": "elsewhere"}])
    client.logged("its namespace is 'elsewhere', and its certificate says " + SA + "blue")
    cell.say("uid", "blue")
    row, = server.access(1)
    assert row["src_identity"] == SA + "blue" and row["mismatch"] is True and server.stat("metadata_mismatch") == 1


@pytest.mark.rows("C14", "A06")
def test_another_order_is_a_change(cell):
    server = cell.peer()
    client = cell.agent([{"name": "a", "identity": "blue", "match": {"uids": UIDS["blue"]}}, {"name": "b", "identity": "green", "match": {"source": "127.0.0.0/8"}}])
    cell.say("uid", "blue")
    client.config["workloads"].reverse()
    client.write()
    text = client.ctl("reload", as_json=False)
    assert text == "~ workloads\n"
    cell.say("uid", "blue")
    assert [r["src_workload"] for r in server.access(2)] == ["a", "b"]


@pytest.mark.rows("A06", "A12")
@pytest.mark.parametrize("default", [None, "client"])
def test_what_came_by_a_tunnel_is_no_workloads(cell, default):
    """a peer's address, and what it says in headers, does not make it an application of this node"""
    cell.peer()
    tun = cell.node.at()
    client = cell.agent([{"name": "all", "identity": "blue", "match": {"source": "*"}}], cluster={"identity_default": default} if default else {},
                        listeners=[lib.tunnel("in", tun, "far", identity="client")])
    h = cell.w.h2_client(cell.node, tun, tls="green")
    sid = h.connect(cell.back.where, extra=[("baggage", "k8s.deployment.name=all"), ("forwarded", "for=127.0.0.1:1")])
    assert h.status(sid) == (200 if default else 401)
    if default:
        assert [t["peer_identity"] for t in cell.server.tunnels("in")] == [SA + "client"]
    else:
        assert "came by a tunnel" in client.access(1)[0]["error"] and not cell.server.tunnels("in")
