"""Late deny: when policies change, live connections that are no longer allowed are closed, and the others do not notice."""
import threading
import time

import pytest

import h2raw
import lib
import policies
from policies import ANYBODY, CLIENT, allow, deny
from test_bypass import chain, joined, pin, trips  # noqa: F401  pylint: disable=unused-import
from test_local import here, one_agent  # noqa: F401  pylint: disable=unused-import
from test_wire import server_agent

pytestmark = pytest.mark.rows("A26", "demand 9")


class Busy(threading.Thread):
    """bytes there and back all the time, compared; .end: None while it goes on, "rst" when it was reset, else what was wrong"""

    def __init__(self, sock, seed=0, size=3000):
        super().__init__(daemon=True)
        self.sock, self.data, self.trips, self.end, self.stop, self.longest = sock, lib.pattern(size, seed), 0, None, False, 0
        sock.settimeout(lib.TIMEOUT)
        self.start()

    def run(self):
        try:
            while not self.stop:
                begin = time.monotonic()
                self.sock.sendall(self.data)
                if lib.recv_exact(self.sock, len(self.data)) != self.data:
                    self.end = "other bytes"
                    return
                self.longest = max(self.longest, time.monotonic() - begin)
                self.trips += 1
                time.sleep(0.002)
        except (ConnectionResetError, BrokenPipeError):
            self.end = "rst"
        except (OSError, AssertionError) as e:
            self.end = repr(e)

    def more(self, n=3):
        """it goes on: so many round trips from now"""
        goal = self.trips + n
        lib.wait_for(lambda: self.trips >= goal or self.end, f"{n} more round trips")
        assert self.end is None, self.end

    def reset(self):
        lib.wait_for(lambda: self.end, "its reset")
        assert self.end == "rst", self.end

    def finish(self):
        self.stop = True
        self.join(lib.TIMEOUT)
        assert self.end is None, self.end


def two_listeners(w, node, workers=1, **more):
    """a TCP agent with listeners one and two, by which it can be told who is denied"""
    back = w.backend(node, backlog=4096)  # Python accepts slowly
    one, two = node.at(), node.at()
    a = w.agent(node, "agent", {"workers": workers, "listeners": [lib.tcp("one", one, "app"), lib.tcp("two", two, "@inner"), lib.internal("inner", "app")],
                                "clusters": [lib.cluster("app", back.where)], **more})
    return a, one, two


@pytest.mark.san
def test_late_deny(w, node):
    """exactly the denied ones are closed, under load; the record has policy and rule, the metric counts"""
    a, one, two = two_listeners(w, node, workers=2)
    stay, go = [Busy(w.app(one), i) for i in range(10)], [Busy(w.app(two), 100 + i) for i in range(10)]
    for b in stay + go:
        b.more()
    policies.apply(a, deny("no-two", {"listener": "two"}))
    for b in go:
        b.reset()
    for b in stay:
        b.more()
    assert a.until("late_denied", 10) == 10
    for row in a.access(10, listener="two"):
        assert row["policy"] == "no-two/rules/0" and row["response_flags"] == "UAEX" and row["closed_by"] == "adit"
        assert row["error"] == "denied now by policy no-two/rules/0 at listener 'two'", row
    assert {r["listener"] for r in a.access(20)} == {"two", "inner"}
    lib.is_reset(w.app(two))
    assert 'adit_policy_denied_total{policy="no-two"} 11' in a.metrics()
    policies.delete(a, "no-two")
    lib.echo(w.app(two))
    for b in stay:
        b.finish()


def test_who_allows_counts(w, node):
    """an ALLOW policy that comes makes default deny, and one that goes opens nothing for those that are closed"""
    a, one, two = two_listeners(w, node)
    x, y = Busy(w.app(one)), Busy(w.app(two))
    x.more(), y.more()
    policies.apply(a, allow("only-one", {"listener": "one"}))
    y.reset()
    x.more()
    row, = a.access(1, listener="inner")
    assert row["policy"] == "default-deny" and "no ALLOW policy at listener 'two' matches any more" in row["error"]
    policies.apply(a, allow("only-one", {"listener": "two"}))
    x.reset()


@pytest.mark.parametrize("scope", [{"listeners": "inner"}, {"clusters": "app"}])
def test_inner_places(w, node, scope):
    """listeners behind the first and the cluster are asked as well"""
    a, one, two = two_listeners(w, node)
    x, y = Busy(w.app(one)), Busy(w.app(two))
    x.more(), y.more()
    policies.apply(a, deny("late", {"listener": "two"}, scope=scope))
    y.reset()
    x.more()
    x.finish()


def test_dry_run_closes_nothing(w, node):
    a, one, _ = two_listeners(w, node)
    x = Busy(w.app(one))
    x.more()
    policies.apply(a, deny("try", ANYBODY, dry_run=True), allow("try-allow", {"listener": "two"}, dry_run=True))
    a.logged("1 connections judged again, 0 closed; policies in dry run would close 1")
    x.more(20)
    x.finish()
    assert a.stat("late_denied") == 0


def test_a_reload_judges_too(w, node):
    """policies of files, and a listener that is gone: who passed it was allowed to"""
    a, one, two = two_listeners(w, node)
    x, y = Busy(w.app(one)), Busy(w.app(two))
    x.more(), y.more()
    a.config["policies"] = [deny("no-two", {"listener": "two"}, scope={"listeners": ["two"]})]
    a.config["listeners"] = [dict(x) for x in a.config["listeners"]]
    a.write()
    a.ctl("reload")
    y.reset()
    x.more()
    a.config["listeners"] = a.config["listeners"][1:]
    a.config["policies"] = [deny("no-two", {"listener": "two"})]
    a.write()
    a.ctl("reload")
    x.more()
    a.config["policies"] = [deny("nobody-else", {"not_listener": "two"}, scope={"clusters": "app"})]
    a.write()
    a.ctl("reload")
    x.reset()


def test_a_listener_that_came_back(w, node):
    """places are found by name: a listener that was gone and is there again is the one that was passed"""
    a, one, two = two_listeners(w, node)
    x, y = Busy(w.app(one)), Busy(w.app(two))
    x.more(), y.more()
    all_of_them = a.config["listeners"]
    a.config["listeners"] = [lib.tcp("three", node.at(), "other")]
    a.config["clusters"] = [lib.cluster("other", a.config["clusters"][0]["endpoints"][0])]
    a.config["policies"] = [deny("nobody", ANYBODY, scope={"listeners": "three"})]
    a.write()
    a.ctl("reload")
    x.more(), y.more()
    a.config["listeners"] += all_of_them
    a.config["clusters"].append(lib.cluster("app", a.config["clusters"][0]["endpoints"][0]))
    a.config["policies"] = [deny("no-two", {"listener": "two"}, scope={"clusters": "app"})]
    a.write()
    a.ctl("reload")
    y.reset()
    x.more()
    x.finish()


@pytest.mark.parametrize("what", ["listener", "cluster"])
def test_reload_and_apply_under_load(w, node, what):
    """fifty changes, none of which concerns the connections: not one is disturbed, and nothing is left of old snapshots"""
    a, one, two = two_listeners(w, node, workers=2)
    busy = [Busy(w.app(one if i % 2 else two), i) for i in range(10)]
    for i in range(25):
        policies.apply(a, deny("far", {"source_ip": f"10.{i}.0.0/16"}), allow("all", ANYBODY))
        if what == "listener":
            a.config["listeners"] = a.config["listeners"][:3] + [lib.tcp(f"more{i}", node.at(), "app")]
        else:
            a.config["clusters"] = a.config["clusters"][:1] + [lib.cluster(f"more{i}", node.at())]
        a.write()
        a.ctl("reload")
    for b in busy:
        b.more(10)
        b.finish()
    assert a.stat("late_denied") == 0


@pytest.mark.san
@pytest.mark.rows("A26", "A12")
def test_at_the_tunnel_listener(w, node):
    """by principal and by metadata: RST_STREAM for its stream only, the tunnel and the others go on"""
    back = w.backend(node)
    a = server_agent(w, node, clusters=[lib.cluster("app", back.where)])
    h, g = w.h2_client(node, a.tunnel, "client"), w.h2_client(node, a.tunnel, "green")
    ours, theirs = h.connect("db.prod:5432", [("x-team", "shop")]), g.connect("db.prod:5432", [("x-team", "shop")])
    other = h.connect("db.prod:5432", [("x-team", "ops")])
    for peer, sid in ((h, ours), (g, theirs), (h, other)):
        assert peer.status(sid) == 200
    policies.apply(a, deny("no-shop-client", {"principal": CLIENT, "metadata": {"x-team": "shop"}}))
    h.seen(lambda: ours in h.resets)
    assert h.resets[ours] == h2raw.CANCEL
    for peer, sid in ((g, theirs), (h, other)):
        peer.data(sid, b"hello")
        assert peer.body(sid, 5) == b"hello"
    policies.apply(a, deny("no-shop-client", {"principal": CLIENT}))
    h.seen(lambda: other in h.resets)
    g.data(theirs, b"again")
    assert g.body(theirs, 10)[-5:] == b"again"
    row = a.access(2)[1]
    assert row["policy"] == "no-shop-client/rules/0" and row["src_identity"].endswith("/sa/client")


@pytest.mark.parametrize("side", ["client", "server"])
def test_both_sides_of_a_tunnel(w, node, side):
    back = w.backend(node)
    client, server = w.pair(back, node)
    x, y = Busy(w.app(client.listen)), Busy(w.app(client.listen), 1)
    x.more(), y.more()
    a = client if side == "client" else server
    policies.apply(a, deny("late", {"destination_ip": "0.0.0.0/0"}, scope={"clusters": "far" if side == "client" else "app"}))
    x.reset(), y.reset()
    assert a.until("late_denied", 2) == 2
    policies.delete(a, "late")
    lib.echo(w.app(client.listen))
    assert client.stat("tunnels_opened") == 1, "the tunnel was not touched"


@pytest.mark.parametrize("rule,gone", [
    ({"principal": CLIENT, "listener": "inbound"}, None), ({"principal": CLIENT}, True), ({"not_principal": "*"}, True),
    ({"metadata": {"k8s.namespace.name": "shop"}}, True), ({"not_metadata": {"k8s.namespace.name": "shop"}}, True),
    ({"authority": "other.shop:80"}, False)])
def test_the_short_way(w, here, rule, gone):  # noqa: F811
    """where a tunnel's endpoint is this node, each part of the chain is judged by what it saw"""
    back = w.backend(here)
    a = one_agent(w, here, back, me={"namespace": "shop"})
    x = Busy(w.app(a.listen))
    x.more()
    assert a.stat("shortcuts") == 1
    scope = {"listeners": "inbound"} if "not_principal" not in rule and "not_metadata" not in rule else {"listeners": "outbound"}
    policies.apply(a, deny("late", rule, scope=scope))
    if gone is False:
        x.more(10)
        x.finish()
        return
    x.reset()


def test_the_short_way_inner_part_only(w, here):  # noqa: F811
    """ALLOW by metadata and principal that the tunnel would have brought: it stays; the outer part has neither"""
    back = w.backend(here)
    a = one_agent(w, here, back, me={"namespace": "shop"})
    x = Busy(w.app(a.listen))
    x.more()
    policies.apply(a, allow("inner", {"principal": CLIENT, "metadata": {"k8s.namespace.name": "shop"}}, scope={"listeners": "inbound", "clusters": "app"}))
    x.more(10)
    policies.apply(a, allow("outer", {"principal": CLIENT}, scope={"listeners": "outbound"}))
    x.reset()


def test_bypassed(w, node, pin):  # noqa: F811
    """joined end to end in the kernel: closed all the same, the other goes on"""
    (a,), listen, _ = chain(w, node, pin)
    s = w.app(listen)
    trips(s)
    joined(a)
    policies.apply(a, deny("other", {"source_ip": "10.0.0.0/8"}))
    trips(s)
    assert joined(a)
    policies.apply(a, deny("late", {"source_ip": "127.0.0.0/8"}))
    lib.is_reset(s)
    row, = a.access(1, listener="audit")
    assert row["policy"] == "late/rules/0" and a.stat("late_denied") == 1


def test_spliced(w, node):
    back = w.backend(node)
    one, two = node.at(), node.at()
    a = w.agent(node, "agent", {"kernel": {"splice_above": 1}, "listeners": [lib.tcp("one", one, "app"), lib.tcp("two", two, "app")],
                                "clusters": [lib.cluster("app", back.where)]})
    x, y = (Busy(w.app(where), size=300000) for where in (one, two))
    x.more(10), y.more(10)
    assert a.stat("spliced_bytes") > 0
    policies.apply(a, deny("late", {"listener": "two"}))
    y.reset()
    x.more(10)
    x.finish()


def test_while_dialling(w, node):
    """waiting for the peer's answer: the application sees a reset, the peer agent 401 or its stream reset"""
    far = w.h2_server(node)
    listen = node.at()
    a = w.agent(node, "client", {"identities": [w.certs.identity("client")], "listeners": [lib.tcp("outbound", listen, "far")],
                                 "clusters": [lib.far("far", far.where, authority="a:1")]})
    s = w.app(listen)
    h = far.accept()
    h.requests(1)
    policies.apply(a, deny("late", ANYBODY))
    lib.is_reset(s)
    row, = a.access(1)
    assert row["policy"] == "late/rules/0"
    b = server_agent(w, node, to="far", clusters=[lib.far("far", far.where, identity="server")])
    h = w.h2_client(node, b.tunnel)
    sid = h.connect("x:1")
    g = far.accept()
    other, = g.requests(1)
    policies.apply(b, deny("late", ANYBODY))
    assert h.status(sid) == 401
    g.seen(lambda: other in g.resets)


@pytest.mark.slow
@pytest.mark.limit(120)
def test_many(w, node):
    """thousands of connections: half are closed, a busy one among the others is not held up"""
    n = 2000 // lib.SLOW
    a, one, two = two_listeners(w, node, limits={"max_connections": 20000})
    busy = Busy(w.app(one))
    stay, go = [w.app(one) for _ in range(n)], [w.app(two) for _ in range(n)]
    a.until("connections", 2 * n + 1)
    back = w.backends[0]
    lib.wait_for(lambda: len(back.conns) == 2 * n + 1, "all are at the backend")
    many = [deny(f"p{i}", {"namespace": f"ns{i}", "destination_port": 1000 + i}) for i in range(5000 // lib.SLOW)]
    policies.apply(a, *many)
    time.sleep(1)
    policies.apply(a, deny("nobody", {"source_ip": "10.9.0.0/16"}))
    busy.longest = 0
    busy.more(200)
    assert busy.longest < 1, "it stood still while all were judged"
    policies.apply(a, deny("no-two", {"listener": "two"}))
    busy.more(200)
    a.until("connections", n + 1)
    a.until("late_denied", n)
    assert all(lib.ending(s) == "rst" for s in go[:: n // 100])
    for s in stay[:: n // 100]:
        lib.echo(s)
    busy.more()
    busy.finish()
