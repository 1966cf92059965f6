"""PROXY protocol: headers that come in, headers that go out, and what is refused."""
import socket
import struct
import subprocess
import threading
import time

import pytest

import lib

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def v1(src, dst):
    (a, p), (b, q) = lib.split(src), lib.split(dst)
    return f"PROXY TCP{6 if ':' in a else 4} {a} {b} {p} {q}\r\n".encode()


def tlv(kind, value):
    return struct.pack("!BH", kind, len(value)) + value


def v2(src=None, dst=None, tlvs=b""):
    if src is None:
        return SIGNATURE + b"\x20\x00" + struct.pack("!H", len(tlvs)) + tlvs
    (a, p), (b, q) = lib.split(src), lib.split(dst)
    family = socket.AF_INET6 if ":" in a else socket.AF_INET
    body = socket.inet_pton(family, a) + socket.inet_pton(family, b) + struct.pack("!HH", p, q) + tlvs
    return SIGNATURE + (b"\x21\x21" if ":" in a else b"\x21\x11") + struct.pack("!H", len(body)) + body


def read_v2(s):
    """Return: (source, destination, {type: value}) as text"""
    head = lib.recv_exact(s, 16)
    assert head[:12] == SIGNATURE
    body = lib.recv_exact(s, struct.unpack("!H", head[14:])[0])
    if head[12] == 0x20:
        return None, None, {}
    size = {0x11: 4, 0x21: 16}[head[13]]
    family = {0x11: socket.AF_INET, 0x21: socket.AF_INET6}[head[13]]
    a, b = (socket.inet_ntop(family, body[i * size:(i + 1) * size]) for i in (0, 1))
    p, q = struct.unpack("!HH", body[2 * size:2 * size + 4])
    rest, found = body[2 * size + 4:], {}
    while rest:
        kind, n = struct.unpack("!BH", rest[:3])
        found[kind], rest = rest[3:3 + n], rest[3 + n:]
    return f"{a}:{p}", f"{b}:{q}", found


def line_of(s):
    out = b""
    while not out.endswith(b"\r\n"):
        out += lib.recv_exact(s, 1)
    return out


def inbound(w, node, to="app", routes=None, trusted=("127.0.0.0/8", "::1/128"), address=None, **more):
    """an agent that wants a header; Return: (agent, where, backend)"""
    back = w.backend(node)
    listen = address or node.at()
    a = w.agent(node, "edge", {
        "listeners": [lib.tcp("entry", listen, to, proxy_protocol=True, proxy_from=list(trusted), **({"routes": routes} if routes else {}))],
        "clusters": [lib.cluster("app", back.where), lib.cluster("other", back.where)], **more})
    return a, listen, back


# ---- in

HEADERS = {
    "v1-4": v1("192.0.2.7:4711", "198.51.100.1:443"),
    "v1-6": v1("2001:db8::7:4711", "2001:db8::1:443"),
    "v2-4": v2("192.0.2.7:4711", "198.51.100.1:443"),
    "v2-6": v2("2001:db8::7:4711", "2001:db8::1:443"),
}


@pytest.mark.san
@pytest.mark.rows("A30", "53")
@pytest.mark.parametrize("form", HEADERS)
def test_header_says_who_and_where(w, node, form):
    """source and original destination come from it; what follows in the same segment is the application's, each byte once"""
    a, listen, back = inbound(w, node)
    s = w.app(listen)
    data = lib.pattern(100000)
    s.sendall(HEADERS[form] + data)
    assert lib.recv_exact(s, len(data)) == data
    lib.fin(s)
    assert lib.recv_all(s) == (b"", "fin")
    row, = a.access(1)
    six = form.endswith("6")
    assert row["src_addr"] == ("[2001:db8::7]:4711" if six else "192.0.2.7:4711")
    assert row["original_dst"] == ("[2001:db8::1]:443" if six else "198.51.100.1:443")
    assert row["bytes_sent"] == len(data) == back.conn().received, "the header is nobody's payload"
    assert a.stat("proxy_headers") == 1 and a.stat("proxy_refused") == 0


@pytest.mark.rows("53")
@pytest.mark.parametrize("form", HEADERS)
def test_header_may_come_in_pieces(w, node, form):
    """byte by byte; the connection waits, and nothing is lost"""
    a, listen, _ = inbound(w, node)
    s = w.app(listen)
    for b in HEADERS[form]:
        s.sendall(bytes([b]))
        time.sleep(0.002)
    lib.echo(s, b"first")
    assert a.rows("conn")[0]["src"].endswith("4711")


@pytest.mark.rows("53")
def test_the_server_may_speak_first(w, node):
    """only the header is waited for, not a byte of the application"""
    back = w.backend(node, lib.serve_name("banner"))
    listen = node.at()
    w.agent(node, "edge", {"listeners": [lib.tcp("entry", listen, "app", proxy_protocol=True, proxy_from=["127.0.0.1"])],
                           "clusters": [lib.cluster("app", back.where)]})
    s = w.app(listen)
    s.sendall(HEADERS["v2-4"])
    assert lib.recv_exact(s, 7) == b"banner\n"


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", v2(), SIGNATURE + b"\x21\x00\x00\x00"], ids=["unknown", "local", "unspec"])
def test_header_without_addresses(w, node, header):
    """the socket's own hold"""
    a, listen, _ = inbound(w, node)
    s = w.app(listen)
    s.sendall(header)
    lib.echo(s)
    s.close()
    row, = a.access(1)
    assert row["src_addr"].startswith("127.0.0.1:") and row["original_dst"] == listen


@pytest.mark.rows("A30")
def test_routes_see_the_original_destination_and_the_service(w, node):
    """the destination of the header is what routes on addresses match, TLV 0xD1 what routes on names match"""
    a, listen, _ = inbound(w, node, None, [lib.route("app", name="by-address", cidr=["198.51.100.0/24"], port=443),
                                           lib.route("other", name="by-name", authority="db.shop.svc:5432")])
    for header, route in ((v2("192.0.2.7:1", "198.51.100.1:443"), "by-address"),
                          (v2("192.0.2.7:1", "203.0.113.1:5432", tlv(0xd1, b"db.shop.svc")), "by-name")):
        s = w.app(listen)
        s.sendall(header)
        lib.echo(s)
        s.close()
        a.access(1, route=route)
    s = w.app(listen)
    s.sendall(v2("192.0.2.7:1", "203.0.113.1:5432"))
    lib.is_reset(s)


def test_principal_of_a_trusted_sender(w, node):
    """TLV 0xD0 is who the source is"""
    a, listen, _ = inbound(w, node)
    s = w.app(listen)
    s.sendall(v2("192.0.2.7:1", "198.51.100.1:443", tlv(0xd0, b"spiffe://cluster.local/ns/shop/sa/web") + tlv(4, b"")))
    lib.echo(s)
    assert a.rows("conn")[0]["src_identity"] == "spiffe://cluster.local/ns/shop/sa/web"
    s.close()
    assert a.access(1)[0]["src_identity"] == "spiffe://cluster.local/ns/shop/sa/web"


# ---- refused

BAD = {
    "other protocol": b"GET / HTTP/1.1\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00",
    "wrong address": b"PROXY TCP4 999.0.0.1 10.0.0.1 1 2\r\n",
    "line too long": b"PROXY UNKNOWN " + b"x" * 100,
    "unknown family": SIGNATURE + b"\x21\x77",
    "too long": SIGNATURE + b"\x21\x11\xff\xff",
    "short block": SIGNATURE + b"\x21\x11\x00\x04abcd",
    "bad tlv": v2("192.0.2.7:1", "198.51.100.1:443", tlv(0xd0, b"not an id")),
    "wrong checksum": v2("192.0.2.7:1", "198.51.100.1:443", tlv(3, b"\0\0\0\0")),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_headers_are_refused(w, node, what):
    """reset at once, told apart in the log, counted; the backend is not even dialled"""
    a, listen, back = inbound(w, node)
    s = w.app(listen)
    s.sendall(BAD[what])
    lib.is_reset(s)
    row, = a.access(1)
    assert row["response_flags"] == "DPE" and row["closed_by"] == "src" and "PROXY header" in row["error"]
    assert a.stat("proxy_refused") == 1 and a.stat("proxy_headers") == 0
    assert not back.conns


def test_strangers_are_refused(w, node):
    """who is not in proxy_from cannot say who he is"""
    a, listen, back = inbound(w, node, trusted=["10.0.0.0/8"])
    s = w.app(listen)
    lib.is_reset(s)
    a.until("proxy_refused", 1)
    a.logged("not in proxy_from of listener 'entry'")
    assert not back.conns and a.stat("connections_accepted") == 0


def test_a_header_is_not_waited_for_for_ever(w, node):
    """bounded by timeouts.open, and by the end of the connection"""
    a, listen, _ = inbound(w, node, timeouts={"open": "300ms"})
    silent, slow, leaves = w.app(listen), w.app(listen), w.app(listen)
    slow.sendall(b"PROXY TCP4 ")
    leaves.sendall(b"PROXY TCP4 ")
    lib.fin(leaves)
    lib.is_reset(leaves, 2)
    t = time.monotonic()
    assert all(r["state"] == "opening" and r["chain"] == "entry" for r in a.rows("conn"))
    lib.is_reset(silent)
    lib.is_reset(slow)
    assert time.monotonic() - t < 3
    assert a.until("proxy_refused", 3)
    assert a.stat("connections") == 0


# ---- out

def reads_v1(c):
    c.line = line_of(c.sock)
    lib.serve_echo(c)


def reads_v2(c):
    c.header = read_v2(c.sock)
    lib.serve_echo(c)


@pytest.mark.san
@pytest.mark.rows("53")
def test_version_1_goes_out(w, node):
    back = w.backend(node, reads_v1)
    listen = node.at()
    a = w.agent(node, "one", {"listeners": [lib.tcp("entry", listen, "app")],
                              "clusters": [lib.cluster("app", back.where, proxy_protocol="v1")]})
    s = w.app(listen)
    lib.echo(s, b"hello")
    assert back.conn().line == v1("%s:%d" % s.getsockname(), listen)
    s.close()
    row, = a.access(1)
    assert row["bytes_sent"] == row["bytes_recv"] == 5, "the header is not counted"


@pytest.mark.san
@pytest.mark.rows("53", "A30")
def test_version_2_goes_out_with_principal_and_service(w, node):
    """behind a tunnel: the client's address, the name that was asked for, and who the peer agent is"""
    back = w.backend(node, reads_v2)
    _, server = w.pair(back, node, app={"proxy_protocol": "v2"}, authority="echo.shop.svc:80")
    s = w.app(w.agents[1].listen)
    data = lib.pattern(300000)
    s.sendall(data)
    assert lib.recv_exact(s, len(data)) == data
    src, dst, tlvs = back.conn().header
    assert src == "%s:%d" % s.getsockname() and dst == back.where
    assert tlvs == {0xd0: b"spiffe://cluster.local/ns/test/sa/client", 0xd1: b"echo.shop.svc"}
    s.close()
    assert server.access(1)[0]["bytes_sent"] == len(data)


def test_from_header_to_header(w, node):
    """what came in with version 1 goes out with version 2"""
    back = w.backend(node, reads_v2)
    listen = node.at()
    w.agent(node, "edge", {"listeners": [lib.tcp("entry", listen, "app", proxy_protocol=True, proxy_from=["127.0.0.1"])],
                           "clusters": [lib.cluster("app", back.where, proxy_protocol="v2")]})
    s = w.app(listen)
    s.sendall(v1("2001:db8::7:4711", "2001:db8::1:443") + b"hello")
    assert lib.recv_exact(s, 5) == b"hello"
    assert back.conn().header == ("2001:db8::7:4711", "2001:db8::1:443", {})


def test_the_upstream_that_speaks_first_gets_its_header(w, node):
    def handler(c):
        c.sock.sendall(b"220 ready\r\n")
        reads_v1(c)
    back = w.backend(node, handler)
    listen = node.at()
    w.agent(node, "one", {"listeners": [lib.tcp("entry", listen, "app")],
                          "clusters": [lib.cluster("app", back.where, proxy_protocol="v1")]})
    s = w.app(listen)
    assert lib.recv_exact(s, 11) == b"220 ready\r\n"
    lib.echo(s)
    lib.fin(s)
    assert lib.recv_all(s) == (b"", "fin")


@pytest.mark.parametrize("to", ["socket", "tunnel"])
def test_all_at_once(w, node, to):
    """header, bytes and FIN are there before anybody looks"""
    back = w.backend(node, lib.serve_count)
    listen, tun = node.at(), node.at()
    w.agent(node, "edge", {"listeners": [lib.tcp("entry", listen, "far" if to == "tunnel" else "count", proxy_protocol=True, proxy_from=["127.0.0.1"]),
                                         lib.tunnel("in", tun, "count", tls=False)],
                           "clusters": [lib.cluster("count", back.where), lib.far("far", tun, tls=False, authority="a:1")]})
    data = lib.pattern(60000)
    for i in range(10):
        s = w.app(listen)
        s.sendall(HEADERS["v2-4"] + data)
        lib.fin(s)
        got, end = lib.recv_all(s)
        assert end == "fin" and int(got.split()[0]) == len(data) and back.conn(i).first == data[:64]


def test_bulk_behind_headers(w, node):
    """whatever moves it: each byte once, in order, and none of the headers'"""
    back = w.backend(node, reads_v2)
    listen = node.at()
    a = w.agent(node, "edge", {"listeners": [lib.tcp("entry", listen, "app", proxy_protocol=True, proxy_from=["127.0.0.1"])],
                               "clusters": [lib.cluster("app", back.where, proxy_protocol="v2")]})
    s = w.app(listen)
    data = lib.pattern((24 << 20) // lib.SLOW)
    threading.Thread(target=s.sendall, args=(HEADERS["v1-4"] + data,), daemon=True).start()
    assert lib.recv_exact(s, len(data)) == data
    lib.fin(s)
    assert lib.recv_all(s) == (b"", "fin")
    row, = a.access(1)
    assert row["bytes_sent"] == row["bytes_recv"] == len(data)
    assert back.conn().header[0] == "192.0.2.7:4711"


def test_bypass_behind_headers(w, node, tmp_path):
    """joined end to end although the two ends counted differently from the start"""
    pin = tmp_path / "bpf"
    pin.mkdir()
    if subprocess.run(["mount", "-t", "bpf", "bpf", str(pin)], check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("bpffs cannot be mounted here")
    try:
        def polls(c):
            c.sock.settimeout(lib.TIMEOUT)
            reads_v2(c)
        back = w.backend(node, polls)
        listen = node.at()
        ports = [back.port, lib.split(listen)[1]]
        a = w.agent(node, "edge", {"listeners": [lib.tcp("entry", listen, "app", proxy_protocol=True, proxy_from=["127.0.0.1"])],
                                   "clusters": [lib.cluster("app", back.where, proxy_protocol="v2")],
                                   "kernel": {"pin": str(pin / "adit"), "bypass": {"enabled": True, "after": 2, "allow": [{"ports": ports}]}}})
        state = next(r for r in a.ctl("kernel")["means"] if r["name"] == "bypass")
        if state["state"] != "on":
            pytest.skip("no bypass here: " + state["why"])
        s = w.app(listen)
        s.sendall(HEADERS["v2-6"])
        total = 0
        for i in range(300):
            data = lib.pattern(1 + 37 * i % 3000, i)
            lib.echo(s, data)
            total += len(data)
            time.sleep(0.0005)
        row = lib.wait_for(lambda: [r for r in a.rows("conn") if r["mover"] == "bypass"], lambda: a.rows("conn"))[0]
        assert row["bypassed_sent"] > 0 and row["bypassed_recv"] > 0
        lib.fin(s)
        assert lib.recv_all(s) == (b"", "fin")
        done, = a.access(1)
        assert done["bytes_sent"] == done["bytes_recv"] == total
        a.stop()
    finally:
        subprocess.run(["umount", "-l", str(pin)], check=False)


def test_haproxy_understands_us_and_we_it(w, node):
    """another implementation on both sides"""
    if node.run("which", "haproxy", check=False).returncode:
        pytest.skip("no haproxy")
    back = w.backend(node, reads_v2)
    listen, mid, out = node.at(), node.at(), node.at()
    a = w.agent(node, "one", {"listeners": [lib.tcp("entry", listen, "mid"),
                                            lib.tcp("again", out, "app", proxy_protocol=True, proxy_from=["127.0.0.1"])],
                              "clusters": [lib.cluster("mid", mid, proxy_protocol="v2"),
                                           lib.cluster("app", back.where, proxy_protocol="v2")]})
    path = w.dir / "haproxy.cfg"
    path.write_text(f"defaults\n mode tcp\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n"
                    f"listen x\n bind {mid} accept-proxy\n server a {out} send-proxy\n")
    p = subprocess.Popen(node.argv("haproxy", "-f", str(path), "-db"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        lib.wait_for(lambda: node.listening(lib.split(mid)[1]), "haproxy listens")
        s = w.app(listen)
        lib.echo(s, lib.pattern(50000))
        assert back.conn().header[:2] == ("%s:%d" % s.getsockname(), listen)
        lib.wait_for(lambda: a.stat("proxy_headers") == 1, "header taken")
    finally:
        p.terminate()
        p.wait()
