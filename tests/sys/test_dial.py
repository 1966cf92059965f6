"""On the way to the upstream: names, limits of inner listeners, destinations that are not allowed, and the times that are told."""
import socket
import struct
import threading
import time

import pytest

import lib

RESOLV = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"


class Dns:
    """A DNS server for a few names: {"name": [address, ...]}; what is not there does not exist (NXDOMAIN)."""

    def __init__(self, node, names, delay=0):
        self.names, self.delay = names, delay
        with node:
            self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 53))
        self.sock.settimeout(0.1)
        self.over = False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.over:
            try:
                q, peer = self.sock.recvfrom(512)
            except socket.timeout:
                continue
            at, labels = 12, []
            while q[at]:
                labels.append(q[at + 1:at + 1 + q[at]].decode())
                at += 1 + q[at]
            name, kind = ".".join(labels).lower(), struct.unpack("!H", q[at + 1:at + 3])[0]
            family = {1: socket.AF_INET, 28: socket.AF_INET6}.get(kind)
            found = [a for a in self.names.get(name, []) if (":" in a) == (family == socket.AF_INET6)] if family else []
            answer = b"".join(b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 1, len(raw)) + raw
                              for raw in (socket.inet_pton(family, a) for a in found))
            head = q[:2] + struct.pack("!HHHHH", 0x8180 | (0 if name in self.names else 3), 1, len(found), 0, 0)
            time.sleep(self.delay)
            self.sock.sendto(head + q[12:at + 5] + answer, peer)

    def close(self):
        self.over = True
        self.thread.join()
        self.sock.close()


@pytest.fixture
def dns(w, node):
    def make(names, **kw):
        w.links.append(Dns(node, names, **kw))
        return w.links[-1]
    return make


def agent(w, node, cl, etc=True, **more):
    listen = node.at()
    a = w.agent(node, "one", {"listeners": [lib.tcp("entry", listen, cl["name"])], "clusters": [cl], **more},
                etc={"resolv.conf": RESOLV} if etc else None)
    return a, listen


# ---- names

@pytest.mark.san
@pytest.mark.rows("tests: names")
def test_name_of_an_endpoint(w, node, dns):
    """resolved once, used by many, asked for again when it is old; addresses take turns"""
    one = w.backend(node, lib.serve_name("one"), address="127.0.0.2")
    two = w.backend(node, lib.serve_name("two"), address="127.0.0.3", port=one.port)
    d = dns({"shop.test": ["127.0.0.2", "127.0.0.3"]})
    a, listen = agent(w, node, lib.cluster("app", f"shop.test:{one.port}", dns_refresh="1s"))
    got = []
    for _ in range(4):
        s = w.app(listen)
        got.append(lib.recv_exact(s, 4))
        s.close()
    assert sorted(got) == [b"one\n", b"one\n", b"two\n", b"two\n"]
    assert a.stat("dns_queries") == 1
    d.names["shop.test"] = ["127.0.0.3"]
    time.sleep(1.2)

    def moved():
        t = w.app(listen)
        name = lib.recv_exact(t, 4)
        t.close()
        return name == b"two\n" and a.stat("dns_queries") >= 2
    lib.wait_for(lambda: moved() and moved() and moved(), "the new address is used")
    assert two.conns


def test_name_of_an_endpoint_that_does_not_exist(w, node, dns):
    dns({})
    a, listen = agent(w, node, lib.cluster("app", "nowhere.test:80"))
    lib.is_reset(w.app(listen))
    row, = a.access(1)
    assert row["response_flags"] == "DF" and "nowhere.test" in row["error"]
    assert a.stat("dns_failures") == 1


def test_nobody_answers_for_the_name(w, node):
    """the look-up has the time of the connect, and the connection says so"""
    with node:
        hole = w.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    hole.bind(("127.0.0.1", 53))
    a, listen = agent(w, node, lib.cluster("app", "slow.test:80", connect_timeout="400ms"))
    t = time.monotonic()
    lib.is_reset(w.app(listen))
    assert time.monotonic() - t < 3
    row, = a.access(1)
    assert row["response_flags"] == "DF" and "not resolved in time" in row["error"]


@pytest.mark.rows("tests: names")
def test_name_in_the_connect(w, node, dns):
    """an original_dst cluster resolves the name that the peer asked for; what it leads to must be allowed"""
    back = w.backend(node, address="127.0.0.2")
    dns({"echo.test": ["127.0.0.2"], "away.test": ["192.0.2.1"]})
    tun = node.at()
    a = w.agent(node, "server", {"listeners": [lib.tunnel("inbound", tun, "anywhere", tls=False)],
                                 "clusters": [lib.anywhere(destinations=["127.0.0.2/32"])]}, etc={"resolv.conf": RESOLV})
    h = w.h2_client(node, tun, None)
    s = h.opened(f"echo.test:{back.port}")
    h.data(s, b"hello")
    assert h.body(s, 5) == b"hello"
    assert h.status(h.connect("away.test:80")) == 401
    assert h.status(h.connect("nowhere.test:80")) == 503
    rows = a.access(2)
    assert {r["response_flags"] for r in rows} == {"UAEX", "DF"}


@pytest.mark.rows("tests: names")
def test_time_of_the_look_up_ends_with_the_look_up(w, node, dns):
    """a connection whose endpoint has its address waits for a tunnel as long as that may take"""
    silent = w.backend(node, lib.serve_hold, address="127.0.0.2")  # takes the connection and does not shake hands
    dns({"peer.test": ["127.0.0.2"]})
    a, listen = agent(w, node, lib.far("far", f"peer.test:{silent.port}", identity="client", connect_timeout="400ms"),
                      identities=[w.certs.identity("client")], timeouts={"handshake": "3s"})
    s = w.app(listen)
    assert lib.still(s, 1.5)
    lib.is_reset(s)
    row, = a.access(1)
    assert "name" not in row["error"], row["error"]


# ---- destinations

@pytest.mark.rows("A30")
def test_destination_that_is_not_allowed(w, node):
    """denied: 401 for a peer agent, reset for an application, with the address in the reason"""
    back = w.backend(node)
    tun, listen = node.at(), node.at()
    a = w.agent(node, "server", {"listeners": [lib.tunnel("inbound", tun, "some", tls=False), lib.tcp("entry", listen, "some", proxy_protocol=True,
                                                                                                    proxy_from=["127.0.0.1"])],
                                 "clusters": [lib.anywhere("some", [f"127.0.0.1/32:{back.port}"])]})
    h = w.h2_client(node, tun, None)
    s = h.opened(back.where)
    h.data(s, b"hello")
    assert h.body(s, 5) == b"hello"
    assert h.status(h.connect("127.0.0.1:1")) == 401
    assert h.status(h.connect("10.0.0.1:80")) == 401
    app = w.app(listen)
    app.sendall(b"PROXY TCP4 10.0.0.9 10.0.0.1 4711 80\r\n")
    lib.is_reset(app)
    rows = a.access(3)
    assert {(r["response_flags"], "destinations of cluster 'some'" in r.get("error", "")) for r in rows} == {("UAEX", True)}, rows
    assert a.stat("denied") == 3


# ---- inner listeners

@pytest.mark.rows("A14")
def test_max_connections_of_an_inner_listener(w, node):
    """the limit of a listener in the middle of the chain; it is free again when a connection ends"""
    back = w.backend(node)
    listen, other = node.at(), node.at()
    a = w.agent(node, "one", {"listeners": [lib.tcp("entry", listen, "@stage"), lib.tcp("second", other, "@stage"),
                                            lib.internal("stage", "@last", max_connections=2), lib.internal("last", "app")],
                              "clusters": [lib.cluster("app", back.where)]})
    held = [w.app(listen), w.app(other)]
    for s in held:
        lib.echo(s)
    lib.is_reset(w.app(listen))
    row = a.access(1, listener="stage")[0]
    assert row["response_flags"] == "UO" and "'stage' has its 2" in row["error"]
    assert a.stat("connections_refused_limit") == 1
    held.pop().close()
    a.until("connections", 1)
    lib.echo(w.app(other))


@pytest.mark.rows("A14")
def test_the_shortest_idle_time_of_the_chain_counts(w, node):
    back = w.backend(node)
    listen = node.at()
    a = w.agent(node, "one", {"listeners": [lib.tcp("entry", listen, "@stage", idle_timeout="30s"),
                                            lib.internal("stage", "@last", idle_timeout="600ms"),
                                            lib.internal("last", "app", idle_timeout="20s")],
                              "clusters": [lib.cluster("app", back.where)]})
    s = w.app(listen)
    lib.echo(s)
    t = time.monotonic()
    lib.is_reset(s)
    assert 0.4 < time.monotonic() - t < 5
    assert {r["response_flags"] for r in a.access(3)} == {"SI"}


# ---- times

def test_connect_time_counts_from_the_connect(w, node, dns):
    """the look-up that went before is not part of it"""
    back = w.backend(node, address="127.0.0.2")
    dns({"late.test": ["127.0.0.2"]}, delay=0.3)
    a, listen = agent(w, node, lib.cluster("app", f"late.test:{back.port}"))
    lib.echo(w.app(listen))
    times = a.ctl("stats")["latencies"]
    assert times["open"]["max_us"] > 250000
    assert times["connect"]["count"] == 1 and times["connect"]["max_us"] < 150000
