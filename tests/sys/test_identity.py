"""Mutual TLS: who may talk to whom, and what the log says when not."""
import socket
import ssl
import time

import pytest

import h2raw
import lib
from test_wire import server_agent


@pytest.mark.san
@pytest.mark.rows("A06", "A08")
def test_two_identities_never_share_a_tunnel(w, node):
    far = w.h2_server(node)
    a = w.agent(node, "client", {
        "identities": [w.certs.identity("blue"), w.certs.identity("green")],
        "listeners": [lib.tcp("l1", node.at(), "as-blue"), lib.tcp("l2", node.at(), "as-green")],
        "clusters": [lib.far("as-blue", far.where, authority="a:1", identity="blue"),
                     lib.far("as-green", far.where, authority="a:1", identity="green")]})
    seen = {}
    for i, name in enumerate(("blue", "green")):
        for _ in range(3):
            w.app(a.config["listeners"][i]["address"])
        h = far.accept()
        assert len(h.requests(3)) == 3
        seen[name] = h2raw.spiffe_id(h.sock)
    assert seen == {n: f"spiffe://cluster.local/ns/test/sa/{n}" for n in ("blue", "green")}
    assert a.stat("tunnels_out") == 2 and a.stat("tls_handshakes_client") == 2


@pytest.mark.rows("A08", "A25")
def test_both_identities_are_logged(w, node):
    back = w.backend(node)
    client, server = w.pair(back)
    s = w.app(client.listen)
    lib.echo(s)
    for a, direction in ((client, "out"), (server, "in")):
        t, = a.tunnels(direction)
        mine, theirs = ("client", "server") if a is client else ("server", "client")
        assert t["local_identity"].endswith("/sa/" + mine) and t["peer_identity"].endswith("/sa/" + theirs)
        assert "AES" in t["cipher"] and t["cert_expires"] > time.time()
    s.close()
    for a in (client, server):
        row, = a.access(1)
        assert row["src_identity"] == "spiffe://cluster.local/ns/test/sa/client"
        assert row["dst_identity"] == "spiffe://cluster.local/ns/test/sa/server" or a is server


REFUSED = {
    "no certificate": (None, "ca.pem", "certificate"),
    "wrong authority": ("stranger", "ca.pem", "certificate|verif|sign|CA"),
    "expired": ("expired", "ca.pem", "expired|date"),
    "no SPIFFE id": ("nameless", "ca.pem", "spiffe|SAN|URI"),
    "two SPIFFE ids": ("double", "ca.pem", "spiffe|SAN|URI"),
}


def attempt(w, node, where, context):
    """a client's view of a handshake; TLS 1.3 tells the client of a refusal after its own Finished"""
    s = w.keep(node.connect(where))
    try:
        s = w.keep(context.wrap_socket(s))
        h = h2raw.H2(s, True, lib.TIMEOUT).start()
        h.read()
        h.drain(0.5)
        return h
    except (ssl.SSLError, OSError, h2raw.Closed) as e:
        return e


@pytest.mark.rows("A08")
@pytest.mark.parametrize("case", REFUSED)
def test_bad_client_is_refused(w, node, case):
    name, ca, words = REFUSED[case]
    back = w.backend(node)
    a = server_agent(w, node, clusters=[lib.cluster("app", back.where)])
    got = attempt(w, node, a.tunnel, w.certs.context(True, name, ca))
    assert isinstance(got, Exception) or got.closed, "the tunnel was accepted"
    line = a.logged(words).group(0)
    assert line
    stats = a.stats()
    assert stats["tls_handshake_failures"] + stats["identity_refused"] >= 1
    assert a.stat("tunnels_in") == 0 and not back.conns
    good = w.h2_client(node, a.tunnel)
    sid = good.opened(back.where)
    good.data(sid, b"ok")
    assert good.body(sid, 2) == b"ok"


@pytest.mark.rows("A08")
def test_client_of_another_trust_domain_is_refused(w, node, other_domain):
    back = w.backend(node)
    a = server_agent(w, node, clusters=[lib.cluster("app", back.where)])
    got = attempt(w, node, a.tunnel, other_domain.context(True, "visitor"))
    assert isinstance(got, Exception) or got.closed
    a.logged("elsewhere.example")
    assert a.stat("identity_refused") == 1 and a.stat("tunnels_in") == 0


@pytest.mark.rows("A08")
@pytest.mark.parametrize("accept,ok", [
    (["spiffe://cluster.local/ns/test/sa/client"], True),
    (["spiffe://cluster.local/ns/test/sa/blue", "spiffe://cluster.local/ns/test/*"], True),
    (["*/sa/client"], True),
    (["spiffe://cluster.local/ns/test/sa/blue"], False),
    (["spiffe://cluster.local/ns/test/sa/clien"], False),
    (["spiffe://elsewhere.example/*"], False),
])
def test_accepted_ids(w, node, accept, ok):
    back = w.backend(node)
    a = server_agent(w, node, clusters=[lib.cluster("app", back.where)], inbound={"accept": accept})
    got = attempt(w, node, a.tunnel, w.certs.context(True, "client"))
    if ok:
        assert isinstance(got, h2raw.H2) and not got.closed, got
        got.opened(back.where)
    else:
        assert isinstance(got, Exception) or got.closed
        a.logged("ns/test/sa/client")
        assert a.stat("identity_refused") == 1


@pytest.mark.rows("A08")
def test_ids_of_another_trust_domain_can_be_accepted(w, node, other_domain):
    back = w.backend(node)
    a = server_agent(w, node, clusters=[lib.cluster("app", back.where)], inbound={"accept": ["spiffe://elsewhere.example/ns/test/sa/visitor"]})
    got = attempt(w, node, a.tunnel, other_domain.context(True, "visitor"))
    assert isinstance(got, h2raw.H2) and not got.closed, got
    got.opened(back.where)


@pytest.mark.rows("A08", "A23")
@pytest.mark.parametrize("server,expect,words", [
    ("stranger", None, "certificate|verif|sign|CA"), ("expired", None, "expired|date"), ("nameless", None, "spiffe|SAN|URI"),
    ("server", ["spiffe://cluster.local/ns/test/sa/blue"], "ns/test/sa/server"),
])
def test_bad_server_is_refused(w, node, server, expect, words):
    """the application is reset, nothing is sent to the wrong peer"""
    far = w.h2_server(node, tls=server)
    listen = node.at()
    a = w.agent(node, "client", {
        "identities": [w.certs.identity("client")], "listeners": [lib.tcp("outbound", listen, "far")],
        "clusters": [lib.far("far", far.where, authority="a:1", **({"expect": expect} if expect else {}))]})
    app = w.app(listen)
    app.sendall(b"secret")
    got = None
    try:
        h = far.accept()
        h.drain(1)
        got = h.answers
    except (OSError, h2raw.Closed, AssertionError):
        pass
    assert not got, "a CONNECT reached the wrong peer"
    lib.is_reset(app)
    a.logged(words)
    row = a.access(1)[-1]
    assert row["level"] == "error" and row["error"]


@pytest.mark.rows("A08", "C1.1")
@pytest.mark.parametrize("expect", [["spiffe://cluster.local/ns/test/sa/server"], ["spiffe://cluster.local/ns/*/sa/*"], None])
def test_expected_server_is_accepted(w, node, expect):
    back = w.backend(node)
    client, _ = w.pair(back, to_far={"expect": expect} if expect else {})
    lib.echo(w.app(client.listen))


@pytest.mark.rows("C1.1")
@pytest.mark.parametrize("sni", [None, "node7.mesh.example"])
def test_server_name(w, node, sni):
    """none is sent unless configured"""
    far = w.h2_server(node)
    names = []
    far.context.sni_callback = lambda _sock, name, _ctx: names.append(name)
    listen = node.at()
    w.agent(node, "client", {
        "identities": [w.certs.identity("client")], "listeners": [lib.tcp("outbound", listen, "far")],
        "clusters": [lib.far("far", far.where, authority="a:1", **({"sni": sni} if sni else {}))]})
    w.app(listen)
    far.accept().requests(1)
    assert names == [sni]


@pytest.mark.rows("C1.1")
@pytest.mark.parametrize("what", ["alpn", "version", "no alpn"])
def test_only_h2_and_tls_1_3(w, node, what):
    back = w.backend(node)
    a = server_agent(w, node, clusters=[lib.cluster("app", back.where)])
    c = w.certs.context(True, "client", alpn={"alpn": ("http/1.1",), "no alpn": ()}.get(what, ("h2",)))
    if what == "version":
        c.minimum_version = ssl.TLSVersion.TLSv1_2
        c.maximum_version = ssl.TLSVersion.TLSv1_2
    got = attempt(w, node, a.tunnel, c)
    if what != "no alpn":  # some old peers send none; that is the agent's choice
        assert isinstance(got, Exception) or got.closed
        a.until("tls_handshake_failures", 1)
    good = w.h2_client(node, a.tunnel)
    good.opened(back.where)


@pytest.mark.rows("A08", "A23")
def test_plaintext_and_tls_do_not_mix(w, node):
    """a plaintext client at a TLS listener and the other way round: closed, logged, other tunnels live"""
    back = w.backend(node)
    a = server_agent(w, node, clusters=[lib.cluster("app", back.where)])
    good = w.h2_client(node, a.tunnel)
    sid = good.opened(back.where)
    bad = w.h2_client(node, a.tunnel, None)
    bad.gone()
    a.until("tls_handshake_failures", 1)
    good.data(sid, b"x")
    good.body(sid, 1)
    plain = server_agent(w, node, tls=False, clusters=[lib.cluster("app", back.where)])
    s = w.keep(node.connect(plain.tunnel))
    with pytest.raises((ssl.SSLError, OSError)):
        w.certs.context(True, "client").wrap_socket(s)


@pytest.mark.rows("A08", "A23")
def test_client_agent_at_a_plaintext_server(w, node):
    """TLS expected, a plain server answers: the application is reset, the log says so"""
    closer = w.backend(node, lambda c: c.sock.sendall(b"SSH-2.0-other\r\n"))
    listen = node.at()
    a = w.agent(node, "client", {
        "identities": [w.certs.identity("client")], "listeners": [lib.tcp("outbound", listen, "far")],
        "clusters": [lib.far("far", closer.where, authority="a:1")]})
    lib.is_reset(w.app(listen))
    a.until("tls_handshake_failures", lambda v: v >= 1)
    assert a.access(1)[-1]["error"]


@pytest.mark.rows("A08")
def test_rsa_certificate(w, node, tmp_path):
    certs = lib.Certs(tmp_path / "rsa", "--id", "rsa=ns/test/sa/rsa", "--rsa", "rsa")
    back = w.backend(node)
    tun = node.at()
    w.agent(node, "server", {"identities": [certs.identity("rsa")], "listeners": [lib.tunnel("inbound", tun, "app")],
                             "clusters": [lib.cluster("app", back.where)]})
    s = w.keep(certs.context(True, "rsa").wrap_socket(node.connect(tun)))
    h = h2raw.H2(s).start()
    h.opened(back.where)


@pytest.mark.rows("A08")
def test_cipher_can_be_chosen(w, node):
    back = w.backend(node)
    ident = dict(w.certs.identity("server"), ciphers="TLS_AES_256_GCM_SHA384")
    client, server = w.pair(back, server={"identities": [ident]})
    lib.echo(w.app(client.listen))
    assert "256" in server.tunnels()[0]["cipher"]


def test_half_closed_handshake(w, node):
    """a client that closes in the middle of the handshake leaves nothing"""
    back = w.backend(node)
    a = server_agent(w, node, clusters=[lib.cluster("app", back.where)])
    fds = a.descriptors()
    for n in (0, 1, 5, 100):
        s = w.keep(node.connect(a.tunnel))
        s.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * n)
        s.shutdown(socket.SHUT_WR)
        lib.ending(s)
        s.close()
    lib.wait_for(lambda: a.descriptors() <= fds, "descriptors are closed")
