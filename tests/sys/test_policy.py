"""Policies, seen by applications and by a peer agent: who gets in, what the others are told, what is logged and counted."""
import re

import pytest

import lib
from test_local import here, one_agent  # noqa: F401  pylint: disable=unused-import
from test_wire import server_agent

CLIENT = "cluster.local/ns/test/sa/client"
ANYBODY = {"listener": "*"}


def policy(name, action, *rules, **more):
    return {"name": name, "action": action, "rules": list(rules), **more}


def allow(name, *rules, **more):
    return policy(name, "allow", *rules, **more)


def deny(name, *rules, **more):
    return policy(name, "deny", *rules, **more)


def count(agent, family, name):
    """a sample of adit_policy_FAMILY_total; None: there is none"""
    found = re.search(rf'^adit_policy_{family}_total{{policy="{name}"}} (\d+)$', agent.metrics(), re.M)
    return int(found.group(1)) if found else None


def inbound(w, place, *policies, **more):
    """a server agent with these policies, and a backend behind it"""
    back = w.backend(place)
    return server_agent(w, place, clusters=[lib.cluster("app", back.where)], policies=list(policies), **more)


def ask(w, node, a, tls="client", authority="db.prod:5432", extra=()):
    """one CONNECT; Return: (peer, stream, status)"""
    h = w.h2_client(node, a.tunnel, tls)
    sid = h.connect(authority, extra)
    return h, sid, h.status(sid)


# ---- who

@pytest.mark.san
@pytest.mark.rows("A26")
@pytest.mark.parametrize("rule,let_in", [
    ({"principal": CLIENT}, True),
    ({"principal": "spiffe://" + CLIENT}, True),
    ({"principal": "*/sa/client"}, True),
    ({"principal": "cluster.local/ns/other/*"}, False),
    ({"trust_domain": "cluster.local"}, True),
    ({"namespace": ["shop", "test"]}, True),
    ({"namespace": "shop"}, False),
    ({"namespace": "test", "not_service_account": "client"}, False),
    ({"service_account": "cli*", "destination_port": "5000-6000"}, True),
    ({"destination_port": 80}, False),
    ({"source_ip": "127.0.0.0/8"}, True),
    ({"not_source_ip": "127.0.0.0/8"}, False),
    ({"authority": "DB.prod"}, True),
    ({"authority": "*.prod:5432"}, True),
    ({"authority": "*.dev"}, False),
    ({"listener": "inbound"}, True),
    ({"metadata": {"x-team": "shop"}}, True),
    ({"metadata": {"x-team": ["a", "s*"], "k8s.namespace.name": "test"}}, True),
    ({"metadata": {"x-team": "shop"}, "not_metadata": {"k8s.namespace.name": "*"}}, False),
    ({"metadata": {"x-other": "*"}}, False)])
def test_allow_and_deny_by_what_a_peer_is(w, node, rule, let_in):
    """the same rule lets in as ALLOW whom it keeps out as DENY"""
    extra = [("x-team", "shop"), ("baggage", "k8s.namespace.name=test")]
    a = inbound(w, node, allow("a", rule))
    h, sid, status = ask(w, node, a, extra=extra)
    assert status == (200 if let_in else 401)
    h.rst(sid)
    d = inbound(w, node, deny("d", rule))
    h, sid, status = ask(w, node, d, extra=extra)
    assert status == (401 if let_in else 200)
    h.rst(sid)
    row, = a.access(1)
    assert row["policy"] == ("a/rules/0" if let_in else "default-deny")
    row, = d.access(1)
    assert row.get("policy") == ("d/rules/0" if let_in else None)


@pytest.mark.rows("A26", "A12")
def test_forged_metadata_does_not_help(w, node):
    """namespace is the certificate's"""
    a = inbound(w, node, allow("shop", {"namespace": "shop"}))
    _, _, status = ask(w, node, a, extra=[("baggage", "k8s.namespace.name=shop"), ("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/shop/sa/web")])
    assert status == 401


@pytest.mark.san
@pytest.mark.rows("A26")
@pytest.mark.parametrize("p,let_in", [
    (allow("p", {"principal": CLIENT}), False),
    (allow("p", {"not_principal": CLIENT}), False),
    (allow("p", {"not_principal": "*"}), True),
    (allow("p", {"source_ip": "127.0.0.0/8"}), True),
    (deny("p", {"principal": CLIENT}), True),
    (deny("p", {"not_principal": CLIENT}), False),
    (deny("p", {"not_namespace": "test"}), False),
    (deny("p", {"not_principal": "*"}), False)])
def test_unauthenticated(w, node, p, let_in):
    """who proves nothing is nobody's principal: not let in by "all but", not let off by it"""
    back = w.backend(node)
    a = server_agent(w, node, tls=False, clusters=[lib.cluster("app", back.where)], policies=[p])
    _, _, status = ask(w, node, a, tls=None)
    assert status == (200 if let_in else 401)


# ---- order and scope

@pytest.mark.rows("A26")
def test_deny_first_then_default_deny(w, node):
    a = inbound(w, node, allow("everybody", ANYBODY), allow("nobody"), deny("no-client", {"service_account": "client"}))
    h, _, status = ask(w, node, a)
    assert status == 401
    sid = h.connect("db.prod:5432")
    assert h.status(sid) == 401, "the tunnel goes on, and so does the policy"
    h, sid, status = ask(w, node, a, tls="blue")
    assert status == 200
    h.data(sid, b"hello")
    assert h.body(sid, 5) == b"hello"
    h.rst(sid)
    a.logged(r"denied: denied by policy no-client/rules/0 at listener 'inbound'")
    assert count(a, "denied", "no-client") == 2 and count(a, "denied", "default-deny") == 0
    assert count(a, "allowed", "everybody") == 2, "at the listener and at the cluster"
    assert a.stat("denied") == 2

    b = inbound(w, node, allow("blue", {"service_account": "blue"}))
    _, _, status = ask(w, node, b)
    assert status == 401
    row, = b.access(1)
    assert row["policy"] == "default-deny" and row["response_flags"] == "UAEX" and row["closed_by"] == "adit"
    assert "no ALLOW policy at listener 'inbound' matches" in row["error"]
    assert count(b, "denied", "default-deny") == 1 and count(b, "allowed", "blue") == 0


@pytest.mark.san
@pytest.mark.rows("A16", "A26", "C1.5")
def test_an_inner_listener_denies(w, node):
    """the policy of a listener behind the first: judged by what the outermost leg is, and logged for all listeners passed"""
    back = w.backend(node)
    tun = node.at()
    a = w.agent(node, "server", {
        "identities": [w.certs.identity("server")],
        "listeners": [lib.tunnel("inbound", tun, "@audit"), lib.internal("audit", "@meter"), lib.internal("meter", "app")],
        "clusters": [lib.cluster("app", back.where)],
        "policies": [deny("no-client", {"principal": CLIENT}, scope={"listeners": ["meter"]})]})
    a.tunnel = tun
    _, _, status = ask(w, node, a)
    assert status == 401
    rows = a.access(3)
    assert {r["listener"] for r in rows} == {"inbound", "audit", "meter"}
    assert all(r["policy"] == "no-client/rules/0" and "at listener 'meter'" in r["error"] for r in rows)
    assert all(r["src_identity"].endswith("/sa/client") for r in rows)
    _, _, status = ask(w, node, a, tls="green")
    assert status == 200
    assert not [c for c in back.conns if c.first], "nothing of the denied one reached the backend"


@pytest.mark.rows("A26")
def test_a_cluster_is_a_scope(w, node):
    back = w.backend(node)
    tun = node.at()
    a = w.agent(node, "server", {
        "identities": [w.certs.identity("server")],
        "listeners": [lib.tunnel("inbound", tun, "open", routes=[lib.route("closed", authority="closed.local")])],
        "clusters": [lib.cluster("open", back.where), lib.cluster("closed", back.where)],
        "policies": [allow("green", {"service_account": "green"}, scope={"clusters": "closed"})]})
    a.tunnel = tun
    assert ask(w, node, a, authority="open.local:1")[2] == 200
    assert ask(w, node, a, authority="closed.local:1")[2] == 401
    assert ask(w, node, a, tls="green", authority="closed.local:1")[2] == 200
    a.logged("no ALLOW policy at cluster 'closed' matches")


@pytest.mark.rows("A26")
def test_labels_choose_the_node(w, node):
    policies = (deny("db", ANYBODY, scope={"labels": {"app": "db"}}), deny("web", ANYBODY, scope={"labels": {"app": "web"}}))
    a = inbound(w, node, policies[0], node={"metadata": {"app": "web"}})
    assert ask(w, node, a)[2] == 200
    a = inbound(w, node, *policies, node={"metadata": {"app": "web"}})
    assert ask(w, node, a)[2] == 401
    row, = a.access(1)
    assert row["policy"] == "web/rules/0"
    assert count(a, "denied", "db") is None


# ---- where a connection goes

@pytest.mark.rows("A26")
def test_a_name_cannot_step_around_an_address(w, node):
    """original_dst: the policy is asked again when the name is resolved, before it is dialled"""
    back = w.backend(node)
    tun = node.at()
    a = w.agent(node, "server", {
        "identities": [w.certs.identity("server")], "listeners": [lib.tunnel("inbound", tun, "any")],
        "clusters": [lib.anywhere("any")],
        "policies": [deny("no-loopback", {"destination_ip": "127.0.0.0/8"})]})
    a.tunnel = tun
    for authority in (back.where, f"[::ffff:127.0.0.1]:{back.port}", f"localhost:{back.port}", f"LocalHost:{back.port}"):
        _, _, status = ask(w, node, a, authority=authority)
        assert status == 401, authority
    assert not back.conns
    assert count(a, "denied", "no-loopback") == 4


@pytest.mark.san
@pytest.mark.rows("A26", "A16")
def test_outbound(w, node):
    """a tcp listener: the application sees a reset; an address is denied in every spelling of it"""
    back = w.backend(node)
    client, server = w.pair(back, client={"policies": [deny("no-lo", {"destination_ip": "127.0.0.1", "destination_port": "1-65535"})]})
    s = w.app(client.listen)
    lib.is_reset(s)
    row, = client.access(1)
    assert row["policy"] == "no-lo/rules/0" and row["listener"] == "outbound"
    assert not server.access(0)
    client2, _ = w.pair(back, client={"policies": [allow("here", {"source_ip": "127.0.0.1", "listener": "outbound"})]})
    lib.echo(w.app(client2.listen))


@pytest.mark.rows("A26", "C1.5")
def test_denied_by_the_other_side(w, node):
    back = w.backend(node)
    client, server = w.pair(back, server={"policies": [deny("no-client", {"principal": CLIENT})]})
    s = w.app(client.listen)
    lib.is_reset(s)
    row, = client.access(1)
    assert row["status"] == 401 and "peer agent denied" in row["error"] and not row.get("policy")
    row, = server.access(1)
    assert row["policy"] == "no-client/rules/0"
    assert count(server, "denied", "no-client") == 1


@pytest.mark.san
@pytest.mark.rows("A16", "A26")
@pytest.mark.parametrize("rule,let_in", [
    ({"principal": CLIENT}, False), ({"principal": "*/sa/server"}, True), ({"listener": "inbound"}, False), ({"metadata": {"x-team": "shop"}}, False),
    ({"authority": "echo.shop"}, False), ({"not_principal": "*"}, True)])
def test_the_short_way_is_judged_as_a_tunnel(w, here, rule, let_in):  # noqa: F811  pylint: disable=redefined-outer-name
    """a tunnel listener that is this node: its policies see what the tunnel would have brought"""
    back = w.backend(here)
    a = one_agent(w, here, back, me={"request_headers": {"x-team": "shop"}}, policies=[deny("p", rule, scope={"listeners": "inbound"})])
    s = w.app(a.listen)
    if let_in:
        lib.echo(s)
    else:
        lib.is_reset(s)
        rows = a.access(2)
        assert {r["listener"] for r in rows} == {"outbound", "inbound"} and all(r["policy"] == "p/rules/0" for r in rows)
    assert a.stat("shortcuts") == 1


@pytest.mark.rows("A26")
def test_a_name_behind_the_short_way(w, here):  # noqa: F811  pylint: disable=redefined-outer-name
    back = w.backend(here)
    for net, let_in in (("127.0.0.0/8", False), ("10.99.0.0/16", True)):
        a = one_agent(w, here, back, far={"authority": f"localhost:{back.port}"}, inbound={"cluster": "any"}, clusters=[lib.anywhere("any")],
                      policies=[deny("p", {"destination_ip": net, "principal": CLIENT}, scope={"clusters": "any"})])
        s = w.app(a.listen)
        if let_in:
            assert lib.ending(s) != b""  # nobody listens on loopback
            row, *_ = a.access(1)
            assert not row.get("policy") and "localhost" in row["hbone_addr"]
        else:
            lib.is_reset(s)
            assert all(r["policy"] == "p/rules/0" and "at cluster 'any'" in r["error"] for r in a.access(2))
        assert a.stat("shortcuts") == 1


# ---- dry run

@pytest.mark.san
@pytest.mark.rows("A26")
def test_dry_run_lets_through_and_counts(w, node):
    a = inbound(w, node, deny("try-deny", {"principal": CLIENT}, dry_run=True))
    h, sid, status = ask(w, node, a)
    assert status == 200
    h.rst(sid)
    a.logged(r"dry run: try-deny/rules/0 would deny connection \d+ from \S+ \(spiffe://cluster.local/ns/test/sa/client\) at listener 'inbound'")
    assert count(a, "dry_run_denied", "try-deny") == 2, "at the listener and at the cluster"
    assert a.stat("denied") == 0
    row, = a.access(1)
    assert not row.get("policy")
    _, _, status = ask(w, node, a, tls="green")
    assert status == 200
    assert count(a, "dry_run_denied", "try-deny") == 2


@pytest.mark.rows("A26")
def test_the_first_allow_in_dry_run_says_whom_it_would_shut_out(w, node):
    a = inbound(w, node, allow("try-blue", {"service_account": "blue"}, dry_run=True))
    assert ask(w, node, a, tls="blue")[2] == 200
    assert count(a, "dry_run_denied", "default-deny") == 0
    assert ask(w, node, a)[2] == 200
    assert count(a, "dry_run_denied", "default-deny") == 2
    a.logged("dry run: default-deny would deny connection")
    b = inbound(w, node, allow("green", {"service_account": "green"}), allow("try-client", {"principal": CLIENT}, dry_run=True))
    assert ask(w, node, b)[2] == 401
    assert count(b, "dry_run_allowed", "try-client") == 1
    b.logged("dry run: try-client/rules/0 would allow connection")


# ---- many

@pytest.mark.rows("A26")
@pytest.mark.limit(60)
def test_ten_thousand_policies(w, node):
    many = [allow(f"p{i}", {"principal": f"cluster.local/ns/n{i % 200}/sa/s{i}", "destination_port": 1 + i % 60000}) for i in range(10000)]
    a = inbound(w, node, *many, allow("client", {"principal": CLIENT}))
    h, sid, status = ask(w, node, a)
    assert status == 200
    h.data(sid, b"hello")
    assert h.body(sid, 5) == b"hello"
    assert ask(w, node, a, tls="green")[2] == 401
    text = a.metrics()
    assert 'adit_policy_allowed_total{policy="client"} 2' in text and 'policy="p0"' not in text
