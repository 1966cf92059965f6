"""Rates, and limits for each principal and source: at every place, by burst and refill, fairly, with many names, and seen by people."""
import re
import socket
import time

import pytest

import lib
from test_wire import server_agent

RATE = {"per_second": 4, "burst": 3}


def limited(agent, at, name, kind):
    """a sample of adit_limited_total; None: there is none"""
    found = re.search(rf'^adit_limited_total{{at="{at}",name="{name}",kind="{kind}"}} (\d+)$', agent.metrics(), re.M)
    return int(found.group(1)) if found else None


def row(agent, at, name):
    found, = [r for r in agent.ctl("limits")["limits"] if r["at"] == at and r["name"] == name]
    return found


def works(w, where, source=None):
    """does an application, at this address, get its echo? Return: its socket, or None"""
    try:
        if source:
            with w.nodes[0]:
                s = w.keep(socket.create_connection(lib.split(where), 3, (source, 0)))
        else:
            s = w.app(where, timeout=3)
        lib.echo(s)
        return s
    except (OSError, AssertionError):
        return None


def status(h, authority="db:1"):
    sid = h.connect(authority)
    return h.status(sid)


PLACES = {
    "listener": ("listener", "outbound", {"outbound": {"rate": RATE}}),
    "cluster": ("cluster", "far", {"to_far": {"rate": RATE}}),
    "source": ("source", "all", {"client": {"limits": {"sources": [{"name": "all", "rate": RATE}]}}}),
}


@pytest.mark.san
@pytest.mark.rows("limits", "5: rate limits")
@pytest.mark.parametrize("place", PLACES)
def test_burst_refill_and_what_is_seen_of_it(w, node, place):
    """TCP: those above the rate are reset before a byte of them is read; a little later others pass"""
    at, name, config = PLACES[place]
    client, server = w.pair(w.backend(node), **config)
    got = [works(w, client.listen) for _ in range(8)]
    passed = sum(g is not None for g in got)
    assert 3 <= passed <= 5, got  # the burst, and what the time of the test adds
    assert all(got[:3])
    time.sleep(1.2)
    assert works(w, client.listen)
    for s in got[:3]:
        lib.echo(s)  # who is in is not concerned
    refused = client.access(1, response_flags="RL")
    assert len(refused) == 8 - passed
    assert refused[0]["bytes_sent"] == 0 and refused[0]["closed_by"] == "adit" and "connections per second" in refused[0]["error"]
    assert limited(client, at, name, "rate") == 8 - passed
    assert client.stat("connections_refused_rate") == 8 - passed
    r = row(client, at, name)
    assert r["refused_rate"] == 8 - passed and r["refused_connections"] == 0 and r["rate"] == RATE
    assert r["active"] == passed + 1
    text = client.ctl("limits", as_json=False)
    assert re.search(rf"^{at} +{name} ", text, re.M), text
    assert server.stat("connections") == passed + 1
    noted = [d for d in client.ctl("denied", "-n", 0)["denied"] if d["kind"] == "rate"]
    assert noted and "connections per second" in noted[0]["why"]


@pytest.mark.rows("limits", "5: rate limits")
@pytest.mark.parametrize("place", ["tunnel listener", "inner listener", "principal", "cluster"])
def test_a_peer_agent_is_told_429(w, node, place):
    """above a rate: 429; above a number of connections: 503. The tunnel and its other streams go on"""
    back = w.backend(node)
    inner = lib.internal("inner", "app", **({"rate": RATE} if place == "inner listener" else {}))
    a = w.agent(node, "server", {
        "identities": [w.certs.identity("server")],
        "listeners": [lib.tunnel("inbound", node.at(), "@inner", **({"rate": RATE} if place == "tunnel listener" else {})), inner],
        "clusters": [lib.cluster("app", back.where, **({"rate": RATE} if place == "cluster" else {}))],
        "limits": {"principals": [{"name": "agents", "match": "spiffe://cluster.local/ns/test/*", "rate": RATE}]} if place == "principal" else {}})
    h = w.h2_client(node, a.config["listeners"][0]["address"])
    sid = h.opened("db:1")
    got = [status(h) for _ in range(7)]
    assert got[:2] == [200, 200] and got.count(429) >= 4 and set(got) == {200, 429}, got
    h.data(sid, b"still here")
    assert h.body(sid, 10) == b"still here"
    time.sleep(0.6)
    assert status(h) == 200
    assert a.access(got.count(429), response_flags="RL")[0]["status"] == 429


@pytest.mark.san
@pytest.mark.rows("limits", "fairness")
def test_two_principals_have_limits_of_their_own(w, node):
    """a greedy one takes neither connections nor tokens from a modest one, nor those of the listener"""
    back = w.backend(node)
    a = server_agent(w, node, clusters=[lib.cluster("app", back.where)], inbound={"rate": {"per_second": 1, "burst": 12}}, limits={
        "principals": [{"name": "each", "max_connections": 4, "rate": {"per_second": 2, "burst": 5}}]})
    where = a.tunnel
    greedy, modest = w.h2_client(node, where, "blue"), w.h2_client(node, where, "green")
    got = [status(greedy) for _ in range(60)]
    assert got[:4] == [200] * 4 and got[4] == 503 and 200 not in got[4:]
    assert [status(modest) for _ in range(4)] == [200] * 4
    subjects = {s["who"]: s for s in a.ctl("limits")["subjects"]}
    blue, green = subjects["spiffe://cluster.local/ns/test/sa/blue"], subjects["spiffe://cluster.local/ns/test/sa/green"]
    assert blue["active"] == 4 and blue["refused_connections"] == 56
    assert green["active"] == 4 and green["refused_connections"] == green["refused_rate"] == 0
    assert limited(a, "listener", "inbound", "rate") == 0  # the refused ones cost it nothing
    assert limited(a, "principal", "each", "connections") == 56
    assert a.access(56, response_flags="UO")[0]["error"].startswith("principal spiffe://cluster.local/ns/test/sa/blue has its 4 connections")


@pytest.mark.rows("limits")
def test_the_first_class_that_matches(w, node):
    """a class without limits keeps its members from a later one; who has an identity is in no class of sources"""
    back = w.backend(node)
    a = server_agent(w, node, clusters=[lib.cluster("app", back.where)], limits={
        "principals": [{"name": "free", "match": ["spiffe://cluster.local/ns/test/sa/blue"]}, {"name": "rest", "max_connections": 1}],
        "sources": [{"name": "addresses", "max_connections": 1}]})
    blue, green = w.h2_client(node, a.tunnel, "blue"), w.h2_client(node, a.tunnel, "green")
    assert [status(blue) for _ in range(5)] == [200] * 5
    assert [status(green) for _ in range(3)] == [200, 503, 503]
    assert row(a, "principal", "free")["active"] == 5
    assert row(a, "source", "addresses")["subjects"] == 0


@pytest.mark.rows("limits")
def test_an_anonymous_agent_is_its_address(w, node):
    """not what it says in `forwarded`"""
    back = w.backend(node)
    a = server_agent(w, node, tls=False, clusters=[lib.cluster("app", back.where)], limits={"sources": [{"name": "each", "max_connections": 2}]})
    h = w.h2_client(node, a.tunnel, None)
    got = []
    for i in range(6):
        got.append(h.status(h.connect("db:1", [("forwarded", f"for=10.1.2.{i}")])))
    assert got == [200, 200, 503, 503, 503, 503]
    subject, = a.ctl("limits")["subjects"]
    assert subject["who"] == "127.0.0.1" and subject["active"] == 2


@pytest.mark.san
@pytest.mark.rows("limits", "hostile")
def test_a_flood_of_names(w, node):
    """many sources, each of which holds on to what it gets: the table stays small, who is in it goes on, the others share one bucket"""
    back = w.backend(node)
    client, _ = w.pair(back, outbound={"spread": "connection"}, client={"workers": 2, "limits": {
        "sources": [{"name": "each", "max_connections": 3, "remember": 10}]}})
    friend = [works(w, client.listen, source="127.0.0.1") for _ in range(2)]
    assert all(friend)
    passed = [s for s in (works(w, client.listen, source=f"127.1.{i}.1") for i in range(60)) if s]
    assert len(passed) == 9 + 3, "nine in the table beside the friend, three in the shared bucket"
    assert works(w, client.listen, source="127.0.0.1"), "who is in the table keeps his limits"
    assert not works(w, client.listen, source="127.0.0.1")
    r = row(client, "source", "each")
    assert r["subjects"] == 10 and r["overflowed"] == 51 and r["active"] == 15
    over, = [s for s in client.ctl("limits")["subjects"] if s["overflow"]]
    assert over["active"] == 3 and over["refused_connections"] == 48
    for s in passed:
        s.close()
    client.until("connections", 3)
    assert works(w, client.listen, source="127.9.9.9"), "they have left: there is room"
    assert row(client, "source", "each")["subjects"] == 10


@pytest.mark.rows("limits")
def test_networks_as_one_source(w, node):
    back = w.backend(node)
    client, _ = w.pair(back, client={"limits": {"sources": [{"name": "net", "match": ["127.1.0.0/16"], "ipv4_prefix": 24, "max_connections": 2}]}})
    assert [bool(works(w, client.listen, source=f"127.1.1.{i}")) for i in range(1, 5)] == [True, True, False, False]
    assert works(w, client.listen, source="127.1.2.1")
    assert all(works(w, client.listen, source="127.2.1.1") for _ in range(4)), "no class is for these"
    assert sorted(s["who"] for s in client.ctl("limits")["subjects"]) == ["127.1.1.0/24", "127.1.2.0/24"]


@pytest.mark.rows("limits")
def test_connection_limits_are_exact_over_workers(w, node):
    """four workers, two hundred at once: exactly as many as there are places"""
    back = w.backend(node)
    client, _ = w.pair(back, client={"workers": 4}, outbound={"max_connections": 20, "spread": "connection"})
    socks = [w.app(client.listen) for _ in range(200)]
    good = 0
    for s in socks:
        try:
            s.sendall(b"x")
        except OSError:
            pass
    for s in socks:
        try:
            good += s.recv(1) == b"x"
        except OSError:
            pass
    assert good == 20
    assert limited(client, "listener", "outbound", "connections") == 180
    assert row(client, "listener", "outbound")["active"] == 20


@pytest.mark.rows("limits", "TLS")
def test_rate_of_tunnels(w, node):
    """handshakes are rationed: the rest is reset before it costs one; streams of the tunnels that are there are not concerned"""
    back = w.backend(node)
    a = server_agent(w, node, clusters=[lib.cluster("app", back.where)], inbound={"tunnel_rate": {"per_second": 1, "burst": 3}})
    where = a.tunnel
    good = []
    for _ in range(12):
        try:
            good.append(w.h2_client(node, where))
        except (OSError, AttributeError):  # reset while it was connecting: lib.Dead
            pass
    assert 3 <= len(good) <= 5
    assert a.stat("tls_handshakes_server") == len(good)
    assert all(status(h) == 200 for h in good for _ in range(10))
    assert row(a, "listener", "inbound")["refused_tunnels"] == 12 - len(good)
    assert limited(a, "listener", "inbound", "tunnel_rate") == 12 - len(good)
    a.logged("tunnel_rate is exceeded")


@pytest.mark.san
@pytest.mark.rows("limits", "9: reload")
def test_limits_change_by_reload(w, node):
    """the counts go on: nobody gets a fresh burst, who is in stays, new limits count at once, a removed one no more"""
    back = w.backend(node)
    each = {"name": "each", "max_connections": 3, "rate": {"per_second": 1, "burst": 4}}
    a = server_agent(w, node, clusters=[lib.cluster("app", back.where)], inbound={"rate": {"per_second": 1, "burst": 30}},
                     limits={"principals": [each]})
    h = w.h2_client(node, a.tunnel, "blue")
    assert [status(h) for _ in range(4)] == [200, 200, 200, 503]

    def reload(**limits):
        a.config["limits"] = limits
        a.write()
        a.ctl("reload", as_json=False)
    reload(principals=[dict(each, max_connections=10)])
    got = [status(h) for _ in range(6)]
    assert got[0] == 200 and got.count(429) >= 4, got  # one place and one token were left, and no new burst
    assert row(a, "principal", "each")["active"] >= 4
    reload(principals=[dict(each, max_connections=2, rate={"per_second": 1000})])
    assert status(h) == 503 and row(a, "principal", "each")["active"] >= 4
    reload(principals=[dict(each, max_connections=0, rate={"per_second": 1000, "burst": 1000})])
    lib.wait_for(lambda: status(h) == 200, "the empty bucket fills with the new rate", 2, 0.05)  # not in the seconds that the old one would take
    assert [status(h) for _ in range(4)] == [200] * 4
    before = row(a, "principal", "each")
    assert before["refused_connections"] == 2 and before["overflowed"] == 0 and before["refused_rate"] >= 4 and before["active"] >= 9
    reload()
    assert [status(h) for _ in range(3)] == [200] * 3
    assert not [r for r in a.ctl("limits")["limits"] if r["at"] == "principal"]
    a.config["listeners"][0]["rate"] = {"per_second": 1, "burst": 1}
    a.write()
    a.ctl("reload", as_json=False)
    got = [status(h) for _ in range(4)]
    assert got.count(429) >= 3, got
    a.config["listeners"][0].pop("rate")
    reload(principals=[each])
    assert row(a, "principal", "each")["active"] == 0  # a class of that name, made anew; those that are in were counted by the other
    assert status(h) == 200
