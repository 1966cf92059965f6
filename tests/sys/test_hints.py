"""Errors say what to do: each provoked for real, looked for in the log and in the access log."""
import contextlib
import os
import re
import socket
import ssl
import subprocess
import threading
import time

import pytest

import lib

pytestmark = pytest.mark.rows("16", "17", "18", "20")


def dialler(w, node, where, **kw):
    """an agent whose tunnels lead to `where`"""
    listen = node.at()
    more = {"identities": [w.certs.identity("client")]} if kw.pop("tls", True) else {}
    to = {} if more else {"tls": False}
    a = w.agent(node, "dialler", {**more, "timeouts": {"handshake": "1s", "ping": "10s", **kw.pop("timeouts", {})},
                                  "listeners": [lib.tcp("entry", listen, "far")],
                                  "clusters": [lib.far("far", where, authority="10.0.0.9:80", **to, **kw.pop("cluster", {}))], **kw})
    a.listen = listen
    return a


def says(w, a, *texts, access=True):
    """one connection through the agent fails, and log and access log have these texts"""
    lib.is_reset(w.app(a.listen, a.node))
    for x in texts:
        a.logged(re.escape(x))
    if access:
        row = a.access(1)[0]
        for x in texts:
            assert x in row["error"], row
    return a.access(1)[0] if access else None


# ---- the port cannot be reached

def test_nobody_listens(w, node):
    says(w, dialler(w, node, node.at()), "connect: Connection refused; is the agent running there?")


@pytest.mark.parametrize("route, because", [
    ("unreachable 10.98.0.0/16", "No route to host; the host is down, or a firewall rejects the tunnel port"),
    ("prohibit 10.98.0.0/16", "Permission denied; a rule of this node forbids it"),
    ("blackhole 10.98.0.0/16", "Invalid argument; the address cannot be connected to"),
    (None, "Network is unreachable; this node has no route there (ip route get ADDRESS)")])
def test_no_way(w, node, route, because):
    if route:
        node.run("ip", "route", "add", *route.split())
    says(w, dialler(w, node, "10.98.0.7:15008"), "connect: " + because)


def test_a_firewall_drops(w):
    """packets go to a machine that is not there: what a dropping firewall looks like"""
    a, _ = w.two_nodes()
    a.run("ip", "neigh", "add", "10.77.1.9", "lladdr", "02:00:00:00:00:99", "dev", a.device, "nud", "permanent")
    says(w, dialler(w, a, "10.77.1.9:15008"), "connect timed out; does a firewall block the tunnel port?")


def test_no_local_ports_left(w, node):
    back = w.backend(node)
    listen = node.at()
    a = w.agent(node, "one", {"listeners": [lib.tcp("entry", listen, "app")], "clusters": [lib.cluster("app", back.where)]})
    node.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40001")
    held = [w.app(listen) for _ in range(2)]
    for s in held:
        lib.echo(s)
    node.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40000")
    with node:
        s = socket.socket()
    s.bind(("127.0.0.1", 41000))  # the application's own port is not what is short
    s.connect(lib.split(listen))
    w.keep(s)
    lib.is_reset(s, 10)
    assert "Cannot assign requested address; all local ports towards it are in use (net.ipv4.ip_local_port_range)" in a.access(1, status=0)[-1]["error"] \
        if a.access(1)[-1].get("status") == 0 else "all local ports" in a.access(1)[-1]["error"]


def test_no_descriptors_left(w, node):
    back = w.backend(node)
    listen = node.at()
    a = w.agent(node, "one", {"listeners": [lib.tcp("entry", listen, "app")], "clusters": [lib.cluster("app", back.where)]}, nofile=96)
    for _ in range(60):
        w.keep(node.connect(listen))
    a.logged("no descriptors or memory left, who connects waits: raise LimitNOFILE=")
    assert len(re.findall("no descriptors or memory left", a.log())) == 1, "once in ten seconds"


# ---- it is no HBONE agent

@contextlib.contextmanager
def server(w, node, handler):
    """handler(socket) for each connection"""
    s = node.listen()
    s.settimeout(0.2)
    done = threading.Event()

    def run():
        while not done.is_set():
            try:
                c, _ = s.accept()
            except OSError:
                continue
            c.settimeout(5)
            with contextlib.suppress(OSError, ssl.SSLError):
                handler(c)
    t = threading.Thread(target=run, daemon=True)
    t.start()
    try:
        yield node.at(s.getsockname()[1])
    finally:
        done.set()
        t.join(10)
        s.close()


def talks(first):
    def handler(c):
        c.recv(4096)
        c.sendall(first)
        time.sleep(0.3)
        c.close()
    return handler


@pytest.mark.parametrize("first, because", [
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", "peer does not speak TLS: it answers HTTP/1 in plain text: that is no tunnel port"),
    (b"SSH-2.0-OpenSSH_9.2\r\n", "peer does not speak TLS: it is an SSH server: the port is wrong"),
    (b"\0\0\x12\x04\0\0\0\0\0" + b"\0" * 18, "peer does not speak TLS: it speaks HTTP/2 without TLS")])
def test_the_port_of_something_else(w, node, first, because):
    with server(w, node, talks(first)) as where:
        says(w, dialler(w, node, where), because)


@pytest.mark.parametrize("first, because", [
    (b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", "the peer answers HTTP/1: it is no HBONE agent, or the port is wrong"),
    (b"\x15\x03\x03\0\x02\x02\x46", "the peer wants TLS (it sent an alert), and here is 'tls: false'")])
def test_the_port_of_something_else_without_tls(w, node, first, because):
    with server(w, node, talks(first)) as where:
        says(w, dialler(w, node, where, tls=False), because)


def test_it_closes_without_a_word(w, node):
    with server(w, node, lambda c: c.close()) as where:
        says(w, dialler(w, node, where), "peer closed the connection during the handshake, without a byte: is it an HBONE agent")


def tls_server(w, certs, **how):
    context = certs.context(False, "server", alpn=how.get("alpn", ("h2",)))
    if how.get("old"):
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = ssl.TLSVersion.TLSv1_2

    def handler(c):
        with context.wrap_socket(c, server_side=True) as s:
            how.get("then", lambda s: time.sleep(0.3))(s)
    return handler


def test_only_an_older_tls(w, node, certs):
    with server(w, node, tls_server(w, certs, old=True)) as where:
        says(w, dialler(w, node, where), "does not speak TLS 1.3", "it is no HBONE agent, or the port is wrong")


def test_another_protocol_within_tls(w, node, certs):
    """openssl s_server that offers HTTP/1.1 alone"""
    port = node.port()
    p = subprocess.Popen(node.argv("openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", certs.file("server.pem"), "-key", certs.file("server.key"),
                                   "-CAfile", certs.file("ca.pem"), "-Verify", "1", "-alpn", "http/1.1", "-quiet"),
                         stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        lib.wait_for(lambda: node.listening(port), "s_server listens")
        a = dialler(w, node, node.at(port))
        lib.is_reset(w.app(a.listen))
        a.logged(r"ALPN.*is it an HBONE agent\?")
    finally:
        p.kill()
        p.wait()


def test_one_side_has_tls_the_other_not(w, node, certs):
    back = w.backend(node)
    tun = node.at()
    # the dialling side has it
    plain = w.agent(node, "plain", {"listeners": [lib.tunnel("in", tun, "app", tls=False)], "clusters": [lib.cluster("app", back.where)]})
    a = dialler(w, node, tun)
    lib.is_reset(w.app(a.listen))
    plain.logged("refused at settling: the peer speaks TLS, and here is 'tls: false'")
    a.logged("peer does not speak TLS: it speaks HTTP/2 without TLS")
    # the accepting side has it
    tun = node.at()
    b = w.agent(node, "safe", {"identities": [certs.identity("server")], "listeners": [lib.tunnel("in", tun, "app")],
                               "clusters": [lib.cluster("app", back.where)]})
    a = dialler(w, node, tun, tls=False)
    lib.is_reset(w.app(a.listen))
    b.logged("refused at handshake: peer does not speak TLS: it speaks HTTP/2 without TLS")
    a.logged(r"the peer wants TLS \(it sent an alert\)|closed by the peer|Connection reset")


def test_http_at_the_tunnel_port(w, node):
    _, srv = w.pair(w.backend(node))
    s = w.app(srv.tunnel)
    s.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    srv.logged("refused at handshake: peer does not speak TLS: it is an HTTP/1 client: who uses the tunnel port?")


# ---- certificates and clocks

def dated(certs, directory, name, start, end):
    """a certificate with these dates (minutes from now), from the tests' authority"""
    d = str(directory)
    for f in ("ca.pem", "ca.key", "server.key"):
        subprocess.run(["cp", certs.file(f), d], check=True)
    subprocess.run(["cp", certs.file("server.key"), f"{d}/{name}.key"], check=True)
    with open(f"{d}/c.cnf", "w", encoding="ascii") as f:
        f.write(f"[ca]\ndefault_ca=c\n[c]\ndatabase={d}/index\nnew_certs_dir={d}\nrand_serial=yes\ndefault_md=sha256\npolicy=p\nunique_subject=no\n"
                f"[p]\ncommonName=optional\n[req]\nprompt=no\ndistinguished_name=dn\n[dn]\nCN={name}\n[ext]\nbasicConstraints=critical,CA:false\n"
                f"keyUsage=critical,digitalSignature\nsubjectAltName=URI:spiffe://cluster.local/ns/test/sa/{name}\n")
    with open(f"{d}/index", "w", encoding="ascii"):
        pass

    def stamp(minutes):
        return time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + minutes * 60))
    for argv in (["openssl", "req", "-config", f"{d}/c.cnf", "-new", "-key", f"{d}/{name}.key", "-out", f"{d}/r.pem"],
                 ["openssl", "ca", "-config", f"{d}/c.cnf", "-batch", "-notext", "-keyfile", f"{d}/ca.key", "-cert", f"{d}/ca.pem", "-in", f"{d}/r.pem",
                  "-extfile", f"{d}/c.cnf", "-extensions", "ext", "-startdate", stamp(start), "-enddate", stamp(end), "-out", f"{d}/{name}.pem"]):
        r = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert r.returncode == 0, r.stdout
    return {"name": name, "certificate": f"{d}/{name}.pem", "key": f"{d}/{name}.key", "ca": f"{d}/ca.pem", "trust_domain": "cluster.local"}


@pytest.mark.parametrize("start, end, because, alert", [
    (-60, -12, 'peer\'s certificate, "spiffe://cluster.local/ns/test/sa/odd", expired 12 minutes ago; it is ', "our certificate expired 12 minutes ago: renew it"),
    (30, 90, "is valid only in ", "our certificate is valid only in ")])
@pytest.mark.parametrize("whose", ["the dialling", "the accepting"])
def test_expired_or_not_yet_valid(w, node, certs, tmp_path, whose, start, end, because, alert):
    odd = dated(certs, tmp_path, "odd", start, end)
    tun, listen = node.at(), node.at()
    accepting = whose == "the accepting"
    b = w.agent(node, "b", {"identities": [odd if accepting else certs.identity("server")], "listeners": [lib.tunnel("in", tun, "app")],
                            "clusters": [lib.cluster("app", node.at())]})
    a = w.agent(node, "a", {"identities": [certs.identity("client") if accepting else odd], "listeners": [lib.tcp("entry", listen, "far")],
                            "clusters": [lib.far("far", tun, authority="x:1")]})
    lib.is_reset(w.app(listen))
    judge, odd_one = (a, b) if accepting else (b, a)
    judge.logged(re.escape(because))
    judge.logged("clock")
    # of the dialling side's: TLS 1.3 may tell it by an alert, or the connection is gone before that is read
    odd_one.logged("(TLS alert|closed|reset) .*" + re.escape(alert))


def test_another_authority(w, node, certs):
    tun, listen = node.at(), node.at()
    w.agent(node, "b", {"identities": [certs.identity("server")], "listeners": [lib.tunnel("in", tun, "app")], "clusters": [lib.cluster("app", node.at())]})
    a = w.agent(node, "a", {"identities": [certs.identity("client", ca="stranger-ca.pem")], "listeners": [lib.tcp("entry", listen, "far")],
                            "clusters": [lib.far("far", tun, authority="x:1")]})
    lib.is_reset(w.app(listen))
    a.logged(r'"spiffe://cluster.local/ns/test/sa/server", is not signed by our CA: it is by ".*Adit test authority", we have ".*Another authority"')


def test_another_trust_domain_and_ids(w, node, certs, other_domain):
    tun = node.at()
    b = w.agent(node, "b", {"identities": [certs.identity("server")], "listeners": [lib.tunnel("in", tun, "app")],
                            "clusters": [lib.cluster("app", node.at())]})
    listen = node.at()
    a = w.agent(node, "a", {"identities": [other_domain.identity("visitor", trust_domain="cluster.local")], "listeners": [lib.tcp("entry", listen, "far")],
                            "clusters": [lib.far("far", tun, authority="x:1")]})
    lib.is_reset(w.app(listen))
    b.logged('peer is "spiffe://elsewhere.example/ns/test/sa/visitor", which is not in trust domain cluster.local')
    a.logged("TLS alert 49 from the peer: the peer does not accept our SPIFFE id .*; ours is spiffe://elsewhere.example/ns/test/sa/visitor")


# ---- the peer refuses, ends, vanishes

def test_the_peers_reason(w, node):
    client, srv = w.pair(node.at())
    row = says(w, client, 'the peer agent answered 503: "connect to ', "nothing listens there")
    assert row["status"] == 503 and row["closed_by"] == "peer"
    assert srv.access(1)[0]["error"].startswith("connect to ")


@pytest.mark.parametrize("status, because", [
    (401, "the peer agent denied it (401); a policy or its 'destinations' there"), (403, "the peer agent denied it (403); a policy"),
    (404, "the peer agent answered 404; no route there takes this authority"), (503, "the peer agent answered 503; its backend refuses or is unreachable")])
def test_a_peer_that_gives_no_reason(w, node, status, because):
    far = w.h2_server(node)
    a = dialler(w, node, far.where)
    s = w.app(a.listen)
    h = far.accept()
    sid = h.requests()[0]
    h.accept(sid, status, end=True)
    lib.is_reset(s)
    assert because in a.access(1)[0]["error"]


def test_strangers_get_no_reason(w, node, certs, other_domain):
    """the reason may name addresses and policies: it is for our trust domain"""
    tun, listen = node.at(), node.at()
    w.agent(node, "b", {"identities": [certs.identity("server")],
                        "listeners": [lib.tunnel("in", tun, "app", accept=["spiffe://elsewhere.example/ns/test/sa/visitor"])],
                        "clusters": [lib.cluster("app", node.at())]})
    a = w.agent(node, "a", {"identities": [other_domain.identity("visitor")], "listeners": [lib.tcp("entry", listen, "far")],
                            "clusters": [lib.far("far", tun, authority="127.0.0.1:1", expect=["spiffe://cluster.local/ns/test/sa/server"])]})
    lib.is_reset(w.app(listen))
    error = a.access(1)[0]["error"]
    assert "503; its backend" in error and "connect to" not in error


def test_goaway_with_words(w, node):
    far = w.h2_server(node)
    a = dialler(w, node, far.where)
    s = w.app(a.listen)
    h = far.accept()
    h.accept(h.requests()[0])
    lib.wait_for(lambda: a.rows("conn"), "it is open")
    h.goaway(0, 6, b"frame \x1b[2J too large")
    h.close()
    lib.is_reset(s)
    a.logged(r'GOAWAY FRAME_SIZE_ERROR "frame \\x1b\[2J too large"; it does not understand us: is it an HBONE agent')


@pytest.mark.parametrize("live", [0, 2])
def test_a_peer_that_vanishes(w, node, live):
    """noise or fault: with nothing under way it is information, else a warning with the number"""
    far = w.h2_server(node)
    a = dialler(w, node, far.where, timeouts={"ping": "300ms", "ping_timeout": "400ms"})
    apps = [w.app(a.listen)]
    h = far.accept()
    h.accept(h.requests()[0])
    for i in range(1, live):
        apps.append(w.app(a.listen))
        h.accept(h.requests(i + 1)[-1])
    lib.wait_for(lambda: sum(r["state"] == "open" for r in a.rows("conn")) == len(apps), "they are open")
    if not live:
        lib.rst(apps[0])
        lib.wait_for(lambda: not a.rows("conn"), "nothing is under way")
    # from here on the peer says nothing: it is not read any more
    if live:
        a.logged(rf"warn .*lost with {live} live streams: no answer to PING: the peer or the path is dead")
    else:
        a.logged(r"info .*lost while idle: no answer to PING: the peer or the path is dead")
        assert " warn  tunnel" not in a.log()


def test_dns_does_not_answer(w, node):
    listen = node.at()
    a = w.agent(node, "one", {"listeners": [lib.tcp("entry", listen, "app")], "clusters": [lib.cluster("app", "nobody.example:80")]},
                etc={"resolv.conf": "nameserver 127.0.0.1\n"})
    lib.is_reset(w.app(listen), 20)
    assert re.search(r"name nobody.example: .*; the servers of /etc/resolv.conf do not answer", a.access(1)[0]["error"]), a.access(1)
