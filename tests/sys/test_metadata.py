"""What agents tell each other in CONNECT headers, and routes on it."""
import base64
import json

import pytest

import h2raw
import lib
from test_wire import client_agent, server_agent

ABOUT = {"cluster": "c-one", "namespace": "shop", "workload_type": "deployment", "workload": "cart", "service": "cart", "version": "v7",
         "region": "eu", "zone": "eu-1"}


def baggage(headers):
    return dict(m.split("=", 1) for k, v in headers if k == "baggage" for m in v.split(","))


@pytest.mark.san
@pytest.mark.rows("A11", "A25")
def test_both_sides_see_the_other(w, node):
    back = w.backend(node)
    client, server = w.pair(back, client={"node": {"id": "node-one", "request_headers": {"x-client-id": "one"}, **ABOUT}},
                            server={"node": {"id": "node-two", "response_headers": {"x-server-id": "two"}, "workload": "db", "namespace": "data"}})
    s = w.app(client.listen)
    lib.echo(s)
    row, = client.rows("conn")
    assert "node-two" in json.dumps(row) and "x-server-id" in json.dumps(row) and "two" in json.dumps(row)
    row, = server.rows("conn")
    text = json.dumps(row)
    assert "node-one" in text and "x-client-id" in text and "cart" in text
    s.close()
    row, = server.access(1)
    assert row["src_node"] == "node-one" and row["src_workload"] == "cart" and row["src_namespace"] == "shop"
    assert row["src_cluster"] == "c-one" and "x-client-id=one" in row["peer_metadata"]
    row, = client.access(1)
    assert row["dst_node"] == "node-two" and row["dst_workload"] == "db" and row["dst_namespace"] == "data"
    assert "x-server-id=two" in row["peer_metadata"]
    assert not row.get("mismatch")


@pytest.mark.rows("A11", "C1.3", "C2")
def test_request_headers_on_the_wire(w, node, tmp_path):
    far = w.h2_server(node, tls=None)
    secret = tmp_path / "rack"
    secret.write_text("r12\n")
    listen = node.at()
    w.agent(node, "client", {
        "node": {"id": "node-one", **ABOUT, "metadata": {"team": "blue & co", "rack": {"file": str(secret)}, "host": {"env": "WHERE"}},
                 "request_headers": {"X-Client-Id": "one"}},
        "listeners": [lib.tcp("outbound", listen, "far")],
        "clusters": [lib.far("far", far.where, authority="a:1", tls=False)]}, env={"WHERE": "here"})
    w.app(listen)
    h = far.accept()
    head = h.answers[h.requests(1)[0]]
    b = baggage(head)
    assert b["k8s.cluster.name"] == "c-one" and b["k8s.namespace.name"] == "shop" and b["k8s.deployment.name"] == "cart"
    assert b["service.name"] == "cart" and b["service.version"] == "v7" and b["cloud.region"] == "eu"
    assert b["cloud.availability_zone"] == "eu-1"
    assert b["rack"] == "r12" and b["host"] == "here"
    assert b["team"] in ("blue & co", "blue%20&%20co", "blue%20%26%20co")
    assert ("x-client-id", "one") in head
    assert not [k for k, _ in head if k.startswith("x-envoy")], "only when enabled"
    assert all(k == k.lower() for k, _ in head)


@pytest.mark.rows("A11", "C1.3")
def test_what_is_sent_can_be_chosen(w, node):
    far = w.h2_server(node, tls=None)
    client_agent(w, node, far, False, node={"send": {"baggage": False, "forwarded": False, "traceparent": False}, **ABOUT})
    w.app(w.agents[0].listen)
    h = far.accept()
    assert [k for k, _ in h.answers[h.requests(1)[0]]] == [":method", ":authority"]


@pytest.mark.rows("A11", "C3")
def test_peer_metadata_of_istio(w, node):
    far = w.h2_server(node, tls=None)
    client_agent(w, node, far, False, node={"id": "sidecar~1", "send": {"peer_metadata": True}, **ABOUT})
    w.app(w.agents[0].listen)
    h = far.accept()
    head = dict(h.answers[h.requests(1)[0]])
    assert head["x-envoy-peer-metadata-id"] == "sidecar~1"
    raw = base64.b64decode(head["x-envoy-peer-metadata"] + "==")
    for word in (b"NAMESPACE", b"shop", b"WORKLOAD_NAME", b"cart", b"CLUSTER_ID", b"c-one"):
        assert word in raw
    h.accept(1)


@pytest.mark.rows("A11", "C1.4")
def test_response_headers_on_the_wire(w, node):
    back = w.backend(node)
    a = server_agent(w, node, tls=False, clusters=[lib.cluster("app", back.where)],
                     node={"id": "node-two", "workload": "db", "response_headers": {"x-server-id": "two"}})
    h = w.h2_client(node, a.tunnel, None)
    sid = h.opened("a:1")
    head = h.answers[sid]
    assert ("x-server-id", "two") in head
    assert "node-two" in baggage(head).values() and "db" in baggage(head).values()


@pytest.mark.rows("A12")
@pytest.mark.parametrize("claim,mismatch", [
    ("k8s.namespace.name=test", False), ("k8s.namespace.name=kube-system", True), ("unrelated=1", False)])
def test_metadata_is_never_identity(w, node, claim, mismatch):
    """the principal is the certificate's; what contradicts it is flagged"""
    back = w.backend(node)
    a = server_agent(w, node, clusters=[lib.cluster("app", back.where)])
    h = w.h2_client(node, a.tunnel, "client")
    sid = h.opened("a:1", [("baggage", claim), ("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/kube-system/sa/admin")])
    row, = a.rows("conn")
    assert row["src_identity"] == "spiffe://cluster.local/ns/test/sa/client"
    assert bool(row.get("mismatch")) == mismatch
    h.rst(sid)
    row, = a.access(1)
    assert row["src_identity"] == "spiffe://cluster.local/ns/test/sa/client"
    assert bool(row.get("mismatch")) == mismatch
    assert a.stat("metadata_mismatch") == mismatch


def tenant_routes(blue, default):
    return {"routes": [lib.route("blue", "to-blue", headers=[{"name": "x-tenant", "exact": "blue"}]),
                       lib.route("default", "to-default", headers=[{"name": "x-tenant", "present": False}])]}, \
        [lib.cluster("blue", blue.where), lib.cluster("default", default.where)]


@pytest.mark.rows("A13", "A23")
def test_route_on_metadata(w, node):
    blue, default = w.backend(node, lib.serve_name("blue")), w.backend(node, lib.serve_name("default"))
    inbound, clusters = tenant_routes(blue, default)
    a = server_agent(w, node, None, False, clusters, inbound=inbound)
    h = w.h2_client(node, a.tunnel, None)
    sid = h.opened("a:1", [("x-tenant", "blue")])
    assert h.body(sid, 5) == b"blue\n"
    sid2 = h.opened("a:1")
    assert h.body(sid2, 8) == b"default\n"
    sid3 = h.connect("a:1", [("x-tenant", "red")])
    assert h.status(sid3) == 404
    a.until("no_route", 1)
    row, = a.access(1, status=404)
    assert "NR" in row["response_flags"] and row["level"] == "error"
    h.rst(sid)
    h.rst(sid2)
    assert {r.get("route") for r in a.access(3)} >= {"to-blue", "to-default"}


@pytest.mark.rows("A13")
def test_route_on_metadata_through_agents(w, node):
    """the client agent's configured header chooses; no route resets the application"""
    blue, default = w.backend(node, lib.serve_name("blue")), w.backend(node, lib.serve_name("default"))
    inbound, clusters = tenant_routes(blue, default)
    a = server_agent(w, node, None, True, clusters, inbound=inbound)
    for tenant, want in (("blue", b"blue\n"), (None, b"default\n"), ("red", None)):
        listen = node.at()
        w.agent(node, f"client-{tenant}", {
            "node": {"request_headers": {"x-tenant": tenant}} if tenant else {}, "identities": [w.certs.identity("client")],
            "listeners": [lib.tcp("outbound", listen, "far")], "clusters": [lib.far("far", a.tunnel, authority="a:1")]})
        s = w.app(listen)
        if want:
            assert lib.recv_exact(s, len(want)) == want
        else:
            lib.is_reset(s)


MATCHES = [
    ({"authority": "echo.shop:80"}, "echo.shop:80", "echo.shop:81"),
    ({"authority": {"exact": "echo.shop:80"}}, "echo.shop:80", "echo.shop:8"),
    ({"authority": {"suffix": ".shop:80"}}, "echo.shop:80", "echo.shop.evil:80"),
    ({"authority": {"prefix": "echo."}}, "echo.shop:80", "anecho.shop:80"),
    ({"authority": {"regex": r"[a-z]+\.shop:\d+"}}, "echo.shop:80", "echo1.shop:80"),
    ({"authority": {"exact": "a:1", "invert": True}}, "b:1", "a:1"),
    ({"port": 5432}, "10.0.0.1:5432", "10.0.0.1:543"),
    ({"cidr": ["10.1.0.0/16", "10.3.0.0/16"]}, "10.3.2.1:80", "10.2.2.1:80"),
    ({"cidr": ["2001:db8::/32"]}, "[2001:db8::1]:80", "[2001:db9::1]:80"),
    ({"cidr": ["10.1.0.0/16"], "port": 80}, "10.1.2.1:80", "10.1.2.1:81"),
]


@pytest.mark.rows("A13")
@pytest.mark.parametrize("match,yes,no", MATCHES, ids=[json.dumps(m[0]) for m in MATCHES])
def test_route_on_authority(w, node, match, yes, no):
    back = w.backend(node)
    a = server_agent(w, node, None, False, [lib.cluster("app", back.where)], inbound={"routes": [lib.route("app", **match)]})
    h = w.h2_client(node, a.tunnel, None)
    h.opened(yes)
    assert h.status(h.connect(no)) == 404


HEADER_MATCHES = [
    ({"exact": "a"}, "a", "b"), ({"prefix": "ab"}, "abc", "ac"), ({"suffix": "bc"}, "abc", "bcd"), ({"regex": "a.c"}, "abc", "abcd"),
    ({"present": True}, "anything", None), ({"present": False}, None, "x"), ({"exact": "a", "invert": True}, "b", "a"),
]


@pytest.mark.rows("A13")
@pytest.mark.parametrize("match,yes,no", HEADER_MATCHES, ids=[json.dumps(m[0]) for m in HEADER_MATCHES])
def test_route_on_header(w, node, match, yes, no):
    back = w.backend(node)
    a = server_agent(w, node, None, False, [lib.cluster("app", back.where)],
                     inbound={"routes": [lib.route("app", headers=[{"name": "X-Thing", **match}])]})
    h = w.h2_client(node, a.tunnel, None)

    def ask(v):
        return h.status(h.connect("a:1", [("x-thing", v)] if v is not None else []))
    assert ask(yes) == 200
    assert ask(no) == 404


@pytest.mark.rows("A13", "8")
def test_route_on_baggage_member(w, node):
    back = w.backend(node)
    a = server_agent(w, node, None, False, [lib.cluster("app", back.where)],
                     inbound={"routes": [lib.route("app", headers=[{"name": "k8s.namespace.name", "exact": "shop"}])]})
    h = w.h2_client(node, a.tunnel, None)
    assert h.status(h.connect("a:1", [("baggage", "a=b,k8s.namespace.name=shop")])) == 200
    assert h.status(h.connect("a:1", [("baggage", "k8s.namespace.name=shopper")])) == 404


@pytest.mark.san
@pytest.mark.rows("8", "bad input")
@pytest.mark.parametrize("headers", [
    [("baggage", "x" * 12000)],
    [("baggage", "a=b," * 500)],
    [(f"x-h{i}", "v") for i in range(50)],
    [("baggage", "=,;=%zz,a=%0a%00,k8s.namespace.name=")],
    [("x-envoy-peer-metadata", "!!not base64!!"), ("x-envoy-peer-metadata-id", "i")],
    [("x-envoy-peer-metadata", base64.b64encode(b"\x0a\xff\xff\xff\xff\x0f" * 40).decode())],
    [("traceparent", "00-" + "0" * 32 + "-" + "0" * 16 + "-00"), ("forwarded", "for=;;;\"")],
    [("baggage", "k8s.namespace.name=\x7f\x80\xff\"\\")],
], ids=["long", "many members", "many headers", "malformed", "no base64", "bad protobuf", "bad trace", "bytes"])
def test_hostile_metadata(w, node, headers):
    """cut or dropped, the connection works all the same, logs and answers stay valid JSON"""
    back = w.backend(node)
    a = server_agent(w, node, "app", False, [lib.cluster("app", back.where)])
    h = w.h2_client(node, a.tunnel, None)
    sid = h.connect("a:1", headers)
    status = h.status(sid)
    if status == 200:
        h.data(sid, b"works")
        assert h.body(sid, 5) == b"works"
        row, = a.rows("conn")
        assert len(json.dumps(row)) < 20000
        h.rst(sid)
        row, = a.access(1)
        assert len(json.dumps(row)) < 20000
    else:
        assert status in (400, 431) or h.resets.get(sid) == h2raw.PROTOCOL_ERROR, (status, h.resets)
    assert not h.goaways
    other = h.opened("a:1")
    h.data(other, b"x")
    assert h.body(other, 1) == b"x"


@pytest.mark.rows("A11", "A12")
def test_hostile_response_metadata(w, node):
    far = w.h2_server(node, tls=None)
    a = client_agent(w, node, far, False)
    app = w.app(a.listen)
    h = far.accept()
    h.requests(1)
    h.accept(1, 200, [("baggage", "a=b," * 300), ("x-server-id", "\"\\x"), *[(f"x-{i}", "y") for i in range(40)]])
    app.sendall(b"x")
    assert h.body(1, 1) == b"x"
    assert a.rows("conn")


@pytest.mark.rows("A25", "C4")
def test_trace_is_passed_on(w, node):
    """the trace id of the first agent is logged by both, and forwarded"""
    back = w.backend(node)
    client, server = w.pair(back)
    s = w.app(client.listen)
    lib.echo(s)
    s.close()
    one, = client.access(1)
    two, = server.access(1)
    assert one["trace_id"] == two["trace_id"] and len(one["trace_id"]) == 32
