"""Applications connect to the service's own address, where nobody listens; the kernel takes them to the agent, which knows the address."""
import errno
import os
import socket
import subprocess
import time

import pytest

import lib
from app import App, Cgroup, cgroup_mount

pytestmark = [pytest.mark.rows("A09", "A30", "A01"), pytest.mark.skipif(not cgroup_mount(), reason="no cgroup2 is mounted")]
VIP, VIP6 = "10.99.0.1", "fd99::1"


@pytest.fixture
def pin(tmp_path):
    """a bpffs of our own, so that agents of other tests share nothing"""
    d = tmp_path / "bpf"
    d.mkdir()
    if subprocess.run(["mount", "-t", "bpf", "bpf", str(d)], check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("bpffs cannot be mounted here")
    yield str(d / "adit")
    subprocess.run(["umount", "-l", str(d)], check=False)


class Cell:
    """a node with applications in a cgroup, and backends on addresses of its own"""

    def __init__(self, w, pin):
        self.w, self.pin, self.apps = w, pin, []
        self.node = w.node()
        self.groups = []
        self.cgroup = self.group()

    def group(self, name=None, parent=None):
        self.groups.append(Cgroup(name, parent))
        return self.groups[-1]

    def address(self, a):
        """it becomes one of the node's own"""
        self.node.run("ip", "addr", "add", a + ("/128" if ":" in a else "/32"), "dev", "lo", *(["nodad"] if ":" in a else []))
        return a

    def backend(self, name, address="127.0.0.1", **kw):
        return self.w.backend(self.node, lib.serve_name(name), address=address, **kw)

    def app(self, cgroup=None, **kw):
        self.apps.append(App(self.node, cgroup or self.cgroup, **kw))
        return self.apps[-1]

    def config(self, *listeners, clusters=(), kernel=None, **more):
        return {"kernel": {"pin": self.pin, **(kernel or {})}, "listeners": list(listeners), "clusters": list(clusters), **more}

    def capture(self, target, address=None, name="outbound", **capture):
        """a listener that captures what this cgroup connects to"""
        return lib.tcp(name, address or self.node.at(), target, capture={"cgroups": [self.cgroup.path], **capture})

    def agent(self, *listeners, name="agent", clusters=None, **kw):
        clusters = [lib.anywhere()] if clusters is None else clusters
        a = self.w.agent(self.node, name, self.config(*listeners, clusters=clusters, **kw))
        return a

    def close(self):
        for a in self.apps:
            a.close()
        for g in self.groups[::-1]:
            g.close()


@pytest.fixture
def cell(w, pin):
    c = Cell(w, pin)
    yield c
    c.close()


def means(a, name="capture"):
    return {r["name"]: r for r in a.ctl("kernel")["means"]}[name]


@pytest.mark.san
def test_original_destination(cell):
    """the agent knows where to; the application is told that it got there"""
    back = cell.backend("one", address=cell.address(VIP))
    a = cell.agent(cell.capture("anywhere"))
    assert means(a)["state"] == "on", means(a)
    app = cell.app()
    assert app.ask(back.where) == ("one", back.where)
    row = a.access(1)[0]
    assert row["original_dst"] == back.where, row
    assert a.stat("captured") == 1
    assert cell.app(cell.group()).ask(back.where) == ("one", back.where) and a.stat("captured") == 1, "another cgroup is left alone"


def test_service_address_through_a_tunnel(w, pin, certs):
    """nobody has the service's address on this node; the CONNECT names it"""
    cell = Cell(w, pin)
    far = w.node("far")
    lib.join(cell.node, far, 1)
    far.run("ip", "addr", "add", VIP + "/32", "dev", "lo")
    back = w.backend(far, lib.serve_name("far"), address=VIP)
    w.agent(far, "server", {"identities": [certs.identity("server")], "listeners": [lib.tunnel("inbound", far.at(15008), "anywhere")],
                            "clusters": [lib.anywhere(destinations=[VIP])]})
    a = cell.agent(cell.capture("far", address="127.0.0.1:15001"), clusters=[lib.far("far", far.at(15008))], identities=[certs.identity("client")])
    app = cell.app()
    assert app.ask(back.where) == ("far", back.where)
    assert w.agents[0].access(1)[0]["hbone_addr"] == back.where
    assert a.access(1)[0]["hbone_addr"] == back.where
    outside = cell.app(cell.group())
    assert outside.refused(back.where) == errno.ENETUNREACH
    cell.close()


# ---- which connections

def test_what_is_selected(cell):
    """ports, networks, exceptions; everything else goes where it always went"""
    direct, caught = cell.backend("direct", address=cell.address(VIP)), cell.backend("caught")
    p = direct.port
    more = [cell.backend("direct", address=VIP, port=p + i) for i in range(100, 105)]
    cell.address("10.99.7.7")
    other = cell.backend("direct", address="10.99.7.7", port=p)
    a = cell.agent(cell.capture("caught", ports=[p, f"{p + 100}-{p + 103}"], except_ports=[p + 102], to=["10.99.0.0/16", f"10.98.0.0/16:{p}"],
                                **{"except": ["10.99.7.0/24", f"{VIP}:{p + 101}"]}), clusters=[lib.cluster("caught", caught.where)])
    app = cell.app()
    got = [app.ask(b.where)[0] for b in [direct, *more, other]]
    assert got == ["caught", "caught", "direct", "direct", "caught", "direct", "direct"], got
    assert app.ask(f"10.98.1.1:{p}") == ("caught", f"10.98.1.1:{p}")
    assert app.refused(f"10.98.1.1:{p + 100}") == errno.ENETUNREACH
    assert app.refused(f"10.97.1.1:{p}") == errno.ENETUNREACH
    assert a.stat("captured") == 4
    lib.wait_for(lambda: "4 captured, 4 claimed" in means(a)["detail"], lambda: means(a))


def test_any_is_not_loopback(cell):
    """without `to` it is everything but this very node's own addresses, which one may name"""
    back, caught = cell.backend("direct"), cell.backend("caught", address=cell.address("10.99.5.5"))
    cell.agent(cell.capture("caught"), clusters=[lib.cluster("caught", caught.where)])
    app = cell.app()
    assert app.ask(back.where)[0] == "direct"
    assert app.ask(f"0.0.0.0:{back.port}")[0] == "direct", "connect(2) to INADDR_ANY is to loopback"
    assert app.ask(f"{VIP}:{back.port}")[0] == "caught"
    cell.w.agents[0].stop()
    cell.agent(cell.capture("caught", to=["127.0.0.0/8"]), clusters=[lib.cluster("caught", caught.where)])
    assert app.ask(back.where) == ("caught", back.where)
    assert app.ask(f"0.0.0.0:{back.port}")[0] == "caught"


def test_users(cell):
    back, caught = cell.backend("direct", address=cell.address(VIP)), cell.backend("caught")
    cell.agent(lib.tcp("outbound", cell.node.at(), "caught", capture={"uids": [12345, 12346]}), clusters=[lib.cluster("caught", caught.where)])
    assert [cell.app(uid=u).ask(back.where)[0] for u in (12345, 12346, 12347)] == ["caught", "caught", "direct"]


def test_only_tcp(cell):
    """UDP to the same address and port is not touched"""
    cell.address(VIP)
    cell.agent(cell.capture("caught"), clusters=[lib.cluster("caught", cell.backend("caught").where)])
    with cell.node:
        u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    u.bind((VIP, 5353))
    u.settimeout(5)
    app = cell.app()
    app.run(f"s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(({VIP!r}, 5353)); s.send(b'hello'); _ = name(s.getpeername())")
    assert u.recv(100) == b"hello"
    assert app.run("_ = name(s.getpeername())") == f"{VIP}:5353"
    u.close()
    assert app.ask(f"{VIP}:5353")[0] == "caught"


def test_cgroups_by_path(cell):
    """a cgroup and all below it; one that goes and comes again under its name is the same"""
    back, caught = cell.backend("direct", address=cell.address(VIP)), cell.backend("caught")
    below = cell.group("web.service", cell.cgroup)
    beside = cell.group(os.path.basename(cell.cgroup.dir) + "x")
    later = cell.cgroup.path + "/later"
    a = cell.agent(lib.tcp("outbound", cell.node.at(), "caught", capture={"cgroups": [below.path, later]}),
                   clusters=[lib.cluster("caught", caught.where)])
    deep = cell.group("deep", cell.group("er", below))
    assert [cell.app(g).ask(back.where)[0] for g in (below, deep, cell.cgroup, beside)] == ["caught", "caught", "direct", "direct"]
    for _ in range(3):
        g = cell.group("later", cell.cgroup)
        app = cell.app(g)
        assert app.ask(back.where)[0] == "caught"
        app.close()
        cell.apps.remove(app)
        g.close()
        cell.groups.remove(g)
    assert means(a)["state"] == "on"


def test_socket_says_whose(cell):
    """a socket made in one cgroup and connected from another belongs to where it was made, as for all cgroup programs of the kernel"""
    back, caught = cell.backend("direct", address=cell.address(VIP)), cell.backend("caught")
    cell.agent(cell.capture("caught"), clusters=[lib.cluster("caught", caught.where)])
    app = cell.app()
    outside = cell.group()
    app.run(f"s = socket.socket(); open({outside.dir + '/cgroup.procs'!r}, 'w').write(str(os.getpid()))")
    assert app.run(f"s.connect(({VIP!r}, {back.port})); _ = exact(s, 6).decode()") == "caught"
    assert app.ask(back.where)[0] == "direct"


# ---- loops

@pytest.mark.san
def test_agents_are_left_alone(cell):
    """everybody is captured, and two agents of one node dial what they capture: neither sees the other's connections nor its own"""
    cell.address(VIP)
    one, two, plain = cell.backend("one", address=VIP), cell.backend("two", address=VIP), cell.backend("plain", address=VIP)
    a = cell.agent(lib.tcp("outbound", "127.0.0.1:15001", "anywhere", capture={"cgroups": ["/"], "ports": [one.port, plain.port]}))
    b = cell.agent(lib.tcp("outbound", "127.0.0.1:15002", "anywhere", capture={"cgroups": ["/"], "ports": [two.port]}), name="other")
    c = cell.agent(lib.tcp("entry", "127.0.0.1:15003", "plain"), clusters=[lib.cluster("plain", plain.where)], name="third")
    app = cell.app()
    for _ in range(3):
        assert app.ask(one.where) == ("one", one.where)
        assert app.ask(two.where) == ("two", two.where)
    assert (a.stat("captured"), b.stat("captured")) == (3, 3)
    assert app.ask("127.0.0.1:15003")[0] == "plain", "an agent without capture is known as an agent, too"
    assert (a.stat("connections_accepted"), b.stat("connections_accepted"), c.stat("connections_accepted")) == (3, 3, 1)


def test_connected_to_the_listener_itself(cell):
    """there is no original destination: fine where none is needed, else said; never a loop"""
    caught = cell.backend("caught")
    a = cell.agent(cell.capture("caught", address="127.0.0.1:15001"), cell.capture("anywhere", address="127.0.0.1:15002", name="transparent"),
                   clusters=[lib.cluster("caught", caught.where), lib.anywhere()])
    app = cell.app()
    assert app.ask("127.0.0.1:15001") == ("caught", "127.0.0.1:15001")
    assert app.refused("127.0.0.1:15002") in (errno.ECONNRESET, "EOFError")
    assert a.stat("connections_accepted") == 2 and a.stat("captured") == 0
    a.logged("connected to listener 'transparent' itself")


# ---- while the agent is away

@pytest.mark.parametrize("away", ["open", "closed"])
def test_agent_away(cell, away):
    """killed: connect() goes where it would without us, or is refused, from the first moment on; and comes to us again with the next start"""
    direct, caught = cell.backend("direct", address=cell.address(VIP)), cell.backend("caught")
    a = cell.agent(cell.capture("caught", when_away=away), clusters=[lib.cluster("caught", caught.where)])
    app = cell.app()
    assert app.ask(direct.where)[0] == "caught"
    a.kill()
    for _ in range(3):
        if away == "open":
            assert app.ask(direct.where) == ("direct", direct.where)
        else:
            assert app.refused(direct.where) == errno.ECONNREFUSED
    a.start()
    assert app.ask(direct.where) == ("caught", direct.where)
    assert ("3 let through" if away == "open" else "3 refused") in means(a)["detail"], means(a)
    a.stop()  # in good order: what fails open is gone altogether, what fails closed stays
    assert os.path.isdir(cell.pin + "/capture-v2") == (away == "closed")
    if away == "open":
        assert app.ask(direct.where)[0] == "direct"
    else:
        assert app.refused(direct.where) == errno.ECONNREFUSED
        a.start()
        assert app.ask(direct.where)[0] == "caught"


@pytest.mark.limit(60)
@pytest.mark.parametrize("away", ["open", "closed"])
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_restart_has_no_hole(cell, away, how):
    """an application that connects in a loop while the agent is restarted: never past a closed capture, never refused by an open one"""
    direct, caught = cell.backend("direct", address=cell.address(VIP)), cell.backend("caught")
    a = cell.agent(cell.capture("caught", when_away=away), clusters=[lib.cluster("caught", caught.where)])
    app = cell.app()
    app.run("stop = False; seen = {}; total = 0")
    app.run(f"""
def hammer():
    global total
    while not stop:
        try:
            k = ask({VIP!r}, {direct.port})[0]
        except Exception as e:
            k = type(e).__name__
        seen.setdefault(k, []).append(time.monotonic())
        total += 1
threads = [threading.Thread(target=hammer) for _ in range(2)]
for t in threads: t.start()
""")
    for _ in range(4):
        time.sleep(0.3)
        if how == "kill":
            a.kill()
        else:
            a.stop()
        time.sleep(0.1)
        a.start()
    time.sleep(0.2)
    seen = app.run("stop = True\nfor t in threads: t.join()\n_ = {k: len(v) for k, v in seen.items()}")
    print(away, how, seen)
    assert seen.get("caught", 0) > 100, seen
    if away == "closed":
        # an agent that stops lets nobody in at the last moment: whose SYN it dropped comes back a second later, when the next one is there
        assert "direct" not in seen and (how == "stop" or seen.get("ConnectionRefusedError", 0) > 100), seen
    else:
        assert seen.get("direct", 0) > 100, seen
        # connect() succeeds; those that the agent had when it was killed, or got in its last moment, are reset, and a SYN may be on its
        # way in the very instant in which the socket goes: one per kill at the most
        lost = sum(v for k, v in seen.items() if k not in ("caught", "direct"))
        assert seen.get("ConnectionRefusedError", 0) <= (4 if how == "kill" else 0) and lost <= (2 * 4 * 4 if how == "kill" else 0), seen


def test_another_listener_in_our_place(cell):
    """whoever takes the port while the agent is away is not the agent"""
    direct, caught = cell.backend("direct", address=cell.address(VIP)), cell.backend("caught")
    a = cell.agent(cell.capture("caught", address="127.0.0.1:15001", when_away="closed"), clusters=[lib.cluster("caught", caught.where)])
    app, thief = cell.app(), cell.app(cell.group(), uid=12345)
    a.kill()
    thief.run("l = socket.socket(); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); l.bind(('127.0.0.1', 15001)); l.listen(8)")
    assert app.refused(direct.where) == errno.ECONNREFUSED
    thief.run("l.close()")
    a.start()
    assert app.ask(direct.where)[0] == "caught"


def test_configuration_changes(cell):
    """a restart with another configuration takes away what the former one left; what another agent left stays"""
    direct, caught = cell.backend("direct", address=cell.address(VIP)), cell.backend("caught")
    where = f"127.0.0.1:{cell.node.port()}"
    a = cell.agent(cell.capture("caught", address=where, when_away="closed", ports=[direct.port]), clusters=[lib.cluster("caught", caught.where)])
    b = cell.agent(cell.capture("caught", when_away="closed", ports=[direct.port + 1000]), clusters=[lib.cluster("caught", caught.where)], name="other")
    app = cell.app()
    a.kill()
    b.kill()
    assert app.refused(direct.where) == errno.ECONNREFUSED
    a.config["listeners"] = [lib.tcp("plain", where, "caught")]
    a.write()
    a.start()
    assert app.ask(direct.where)[0] == "direct"
    assert app.refused(f"{VIP}:{direct.port + 1000}") == errno.ECONNREFUSED
    b.start()
    assert app.ask(f"{VIP}:{direct.port + 1000}")[0] == "caught"
    b.config["listeners"][0]["capture"]["when_away"] = "open"
    b.write()
    b.stop()
    assert app.refused(f"{VIP}:{direct.port + 1000}") == errno.ECONNREFUSED
    b.start()
    b.stop()
    assert app.ask(direct.where)[0] == "direct"
    assert not os.path.exists(cell.pin + "/capture-v2"), "the last rule takes everything with it"


# ---- all at once

@pytest.mark.san
@pytest.mark.limit(60)
def test_parallel(cell):
    """200 at once to 50 addresses: each gets where it wanted"""
    vips = [f"10.99.2.{i + 1}" for i in range(50)]
    port = 8000
    for v in vips:
        cell.address(v)
        cell.backend(v, address=v, port=port)
    a = cell.agent(cell.capture("anywhere"), workers=2)
    apps = [cell.app() for _ in range(4)]
    for app in apps:
        app.start(f"""
got, vips = [], {vips!r}
def one(v):
    for _ in range(4):
        got.append((v, *ask(v, {port}, timeout=20)))
threads = [threading.Thread(target=one, args=(v,)) for v in vips]
for t in threads: t.start()
for t in threads: t.join()
_ = got
""")
    for app in apps:
        got = app.result()
        assert len(got) == 200 and all(said == v and peer == f"{v}:{port}" for v, said, peer in got), got
    assert a.stat("captured") == 800
    assert "800 captured, 800 claimed" in means(a)["detail"]


# ---- sockets of all kinds

def test_connect_as_programs_do(cell):
    """non-blocking, twice, again after a failure, after a disconnect, with the first bytes in the SYN, from an address of one's own"""
    back = cell.backend("one", address=cell.address(VIP))
    own = cell.address("10.99.3.3")
    with cell.node:
        with open("/proc/sys/net/ipv4/tcp_fastopen", "w", encoding="ascii") as f:
            f.write("3")
    a = cell.agent(cell.capture("anywhere", to=[VIP], when_away="closed"), clusters=[lib.anywhere(destinations=[VIP])])
    app = cell.app()
    to = f"({VIP!r}, {back.port})"
    assert app.run(f"""
s = socket.socket(); s.setblocking(False)
first = s.connect_ex({to})
select.select([], [s], [], 5)
_ = [first, s.connect_ex({to}), s.connect_ex({to}), name(s.getpeername())]
""") == [errno.EINPROGRESS, 0, errno.EISCONN, back.where]
    assert app.run("s.settimeout(5); _ = exact(s, 4).decode()") == "one\n"
    # one socket: refused while the agent is away, then connected, then disconnected and connected elsewhere
    a.kill()
    assert app.run(f"r = socket.socket(); r.settimeout(5); _ = r.connect_ex({to})") == errno.ECONNREFUSED
    a.start()
    assert app.run(f"r.connect({to}); _ = [exact(r, 4).decode(), name(r.getpeername())]") == ["one\n", back.where]
    cell.backend("plain", address=own, port=7000)
    assert app.run(f"""
import ctypes
ctypes.CDLL(None).connect(r.fileno(), b"\\0" * 16, 16)
r.connect(({own!r}, 7000))
_ = [exact(r, 6).decode(), name(r.getpeername())]
""") == ["plain\n", f"{own}:7000"]
    # MSG_FASTOPEN and TCP_FASTOPEN_CONNECT (30) connect without connect()
    assert app.ask(back.where, fast=b"x") == ("one", back.where)
    assert app.run(f"""
s = socket.socket(); s.settimeout(5); s.setsockopt(socket.IPPROTO_TCP, 30, 1)
s.connect({to}); s.sendall(b"x"); _ = [exact(s, 4).decode(), name(s.getpeername())]
""") == ["one\n", back.where]
    assert app.ask(back.where, bind=(own, 0)) == ("one", back.where)
    assert a.access(3)[-1]["src_addr"].startswith(own + ":")
    # a device that does not lead to the listener: `closed` lets nothing past
    assert app.run(f"s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'lo'); s.connect({to}); _ = exact(s, 3).decode()") == "one"


def test_port_used_again(cell):
    """a claim that nobody took is not found by the next connection from the same address and port"""
    cell.address(VIP)
    back, caught = cell.backend("one", address=VIP), cell.backend("caught")
    a = cell.agent(cell.capture("anywhere", address="127.0.0.1:15001"), cell.capture("caught", address="127.0.0.1:15002", name="tcp", ports=[9]),
                   clusters=[lib.anywhere(), lib.cluster("caught", caught.where)])
    app = cell.app()
    port = cell.node.port()
    reuse = "s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, " \
            f"struct.pack('ii', 1, 0)); s.bind(('127.0.0.1', {port})); s.settimeout(5); "
    a.signal(19)  # SIGSTOP: it accepts nothing
    app.run(f"{reuse} s.connect(({VIP!r}, {back.port})); s.close()")
    app.run(f"{reuse} s.connect(('127.0.0.1', 15001))")
    a.signal(18)
    lib.wait_for(lambda: a.stat("connections_accepted") == 2, "both are accepted")
    a.logged("connected to listener 'outbound' itself")


def test_never_claimed(cell):
    """more than fit into the queue of an agent that stands still: what is never accepted is forgotten after kernel.orphan"""
    back = cell.backend("one", address=cell.address(VIP))
    a = cell.agent({**cell.capture("anywhere"), "backlog": 1}, kernel={"orphan": "1s"})
    app = cell.app()
    a.signal(19)
    app.run(f"""
def one():
    try: ask({VIP!r}, {back.port}, timeout=0.5)
    except OSError: pass
threads = [threading.Thread(target=one) for _ in range(8)]
for t in threads: t.start()
for t in threads: t.join()
""")
    a.signal(18)
    lib.wait_for(lambda: " 0 never claimed" not in means(a)["detail"] and " 0 pending" in means(a)["detail"], lambda: means(a), 15)
    assert app.ask(back.where) == ("one", back.where)


# ---- IPv6

@pytest.mark.san
@pytest.mark.parametrize("listener", ["127.0.0.1", "[::1]"])
def test_ipv6(cell, listener):
    """an IPv6 application, to a listener of either family; an IPv4 one cannot be taken to an IPv6 listener"""
    six, four = cell.backend("six", address=cell.address(VIP6)), cell.backend("four", address=cell.address(VIP))
    a = cell.agent(cell.capture("anywhere", address=f"{listener}:15001"))
    app = cell.app()
    assert app.ask(six.where) == ("six", six.where)
    assert app.ask(f"[::ffff:{VIP}]:{four.port}") == ("four", f"[::ffff:{VIP}]:{four.port}")
    rows = [r["original_dst"] for r in a.access(2)]
    assert rows == [six.where, four.where], "v4-mapped is IPv4"
    assert app.ask(four.where) == ("four", four.where)
    assert a.stat("captured") == (2 if "::" in listener else 3)
    only = "s = socket.socket(socket.AF_INET6); s.settimeout(5); s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1); "
    assert app.run(f"{only} s.connect(({VIP6!r}, {six.port})); _ = exact(s, 3).decode()") == "six"
    assert a.stat("captured") == 3, "IPV6_V6ONLY: IPv6 listeners only"


def test_ipv6_closed(cell):
    """a socket that cannot be taken to the listener does not get past a closed capture either"""
    six = cell.backend("six", address=cell.address(VIP6))
    cell.agent(cell.capture("anywhere", when_away="closed"))
    app = cell.app()
    assert app.ask(six.where) == ("six", six.where)
    only = "s = socket.socket(socket.AF_INET6); s.settimeout(5); s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1); "
    assert app.run(f"{only} _ = s.connect_ex(({VIP6!r}, {six.port}))") == errno.ECONNREFUSED
    assert app.refused(six.where, bind=(VIP6, 0)) == errno.ECONNREFUSED


def test_both_families(cell):
    """two listeners of one configuration: each family goes to its own"""
    six, four = cell.backend("six", address=cell.address(VIP6)), cell.backend("four", address=cell.address(VIP))
    a = cell.agent(cell.capture("anywhere", address="127.0.0.1:15001", name="v4", when_away="closed"),
                   cell.capture("anywhere", address="[::1]:15001", name="v6", when_away="closed"))
    app = cell.app()
    assert app.ask(six.where)[0] == "six" and app.ask(four.where)[0] == "four"
    only = "s = socket.socket(socket.AF_INET6); s.settimeout(5); s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1); "
    assert app.run(f"{only} s.connect(({VIP6!r}, {six.port})); _ = exact(s, 3).decode()") == "six"
    n = {r["name"]: r["accepted"] for r in a.rows("listener")}
    assert n == {"v4": 1, "v6": 2}, n


def test_ipv6_after_ipv4(cell):
    """an IPv6 socket that was taken to an IPv4 listener and failed cannot go to IPv6 any more: it is refused, it does not hang"""
    six = cell.backend("six", address=cell.address(VIP6))
    a = cell.agent(cell.capture("anywhere"))
    app = cell.app()
    a.signal(19)
    app.run(f"s = socket.socket(socket.AF_INET6); s.setblocking(False); _ = s.connect_ex(({VIP6!r}, {six.port}))")
    a.kill()
    assert app.run(f"""
import ctypes
s.settimeout(5)
ctypes.CDLL(None).connect(s.fileno(), b"\\0" * 28, 28)
_ = s.connect_ex(({VIP6!r}, {six.port}))
""") == errno.ECONNREFUSED
    assert app.ask(six.where)[0] == "six"


# ---- namespaces

def test_listener_in_another_namespace(cell):
    """applications of a network namespace are captured where their listener is, by an agent that lives elsewhere; others are not"""
    inner = cell.w.node("inner")
    back, plain = cell.backend("caught"), cell.w.backend(inner, lib.serve_name("plain"), address="127.0.0.1")
    inner.run("ip", "addr", "add", VIP + "/32", "dev", "lo")
    a = cell.w.agent(cell.node, "agent", cell.config(
        lib.tcp("inside", "127.0.0.1:15001", "caught", netns=f"/proc/{os.getpid()}/fd/{inner.fd}", capture={"cgroups": [cell.cgroup.path], "when_away": "closed"}),
        clusters=[lib.cluster("caught", back.where)]), start=False)
    a.start(wait=False)
    lib.wait_for(lambda: inner.listening(15001) and os.path.exists(a.socket), lambda: a.log())
    there, here = App(inner, cell.cgroup), cell.app()
    cell.apps.append(there)
    assert there.ask(f"{VIP}:80") == ("caught", f"{VIP}:80")
    assert there.ask(plain.where)[0] == "plain"
    assert here.refused(f"{VIP}:80") == errno.ENETUNREACH
    assert a.stat("captured") == 1


# ---- what may be missing

def test_without_privilege(cell):
    """an agent that may not load programs says so and does what it can"""
    caught = cell.backend("caught")
    where = cell.node.at()
    a = cell.w.agent(cell.node, "agent", cell.config(cell.capture("caught", address=where), clusters=[lib.cluster("caught", caught.where)]), user="nobody")
    row = means(a)
    assert row["state"] == "missing" and "CAP_BPF" in row["why"], row
    a.logged("capture: .*CAP_BPF")
    assert cell.app().ask(where)[0] == "caught"


def test_without_bpffs(cell, tmp_path):
    """it works, and says what is the matter with restarts"""
    back = cell.backend("one", address=cell.address(VIP))
    a = cell.agent(cell.capture("anywhere"), kernel={"pin": str(tmp_path / "plain" / "adit")})
    assert cell.app().ask(back.where)[0] == "one" and a.stat("captured") == 1
    row = means(a)
    assert row["state"] == "on" and "bpffs" in row["why"], row


def test_attached_below_a_cgroup(cell):
    """kernel.cgroup that is removed and made again while the agent runs"""
    back = cell.backend("one", address=cell.address(VIP))
    inner = cell.group("inner", cell.cgroup)
    a = cell.agent(cell.capture("anywhere"), kernel={"cgroup": inner.path})
    outside, app = cell.app(), cell.app(inner)
    assert outside.ask(back.where)[0] == "one" and a.stat("captured") == 0
    assert app.ask(back.where)[0] == "one" and a.stat("captured") == 1
    app.close()
    cell.apps.remove(app)
    inner.close()
    cell.groups.remove(inner)
    lib.wait_for(lambda: means(a)["state"] == "missing", lambda: means(a), 12)
    app = cell.app(cell.group("inner", cell.cgroup))
    lib.wait_for(lambda: means(a)["state"] == "on", lambda: means(a), 12)
    assert app.ask(back.where)[0] == "one" and a.stat("captured") == 2


def test_older_pins_go(cell):
    """what another version pinned is replaced"""
    cell.backend("one", address=cell.address(VIP))
    os.makedirs(cell.pin + "/capture-v0")
    cell.agent(cell.capture("anywhere"))
    assert sorted(os.listdir(cell.pin)) == ["capture-v2"]


# ---- applications

def need(*programs):
    for p in programs:
        if not any(os.access(os.path.join(d, p), os.X_OK) for d in os.environ["PATH"].split(":")):
            pytest.skip(f"{p} is not installed")


@pytest.mark.limit(60)
@pytest.mark.skipif(bool(lib.SAN), reason="applications are not the subject of sanitizers")
def test_programs(cell, tmp_path):
    """curl and redis-cli as they are, to the service's own address, over a tunnel"""
    need("curl", "redis-cli", "redis-server")
    far = cell.w.node("far")
    lib.join(cell.node, far, 2)
    far.run("ip", "addr", "add", VIP + "/32", "dev", "lo")
    cell.w.agent(far, "server", {"identities": [cell.w.certs.identity("server")], "listeners": [lib.tunnel("inbound", far.at(15008), "anywhere")],
                                 "clusters": [lib.anywhere(destinations=[VIP])]})
    a = cell.agent(cell.capture("far", address="127.0.0.1:15001"), clusters=[lib.far("far", far.at(15008))],
                   identities=[cell.w.certs.identity("client")])
    procs = [subprocess.Popen(far.argv("redis-server", "--bind", VIP, "--port", "6379", "--save", "", "--protected-mode", "no", "--dir", str(tmp_path)), stdout=subprocess.DEVNULL),
             subprocess.Popen(far.argv("python3", "-m", "http.server", "--bind", VIP, "8080", "-d", str(tmp_path)), stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)]
    (tmp_path / "file").write_bytes(lib.pattern(5 << 20))
    try:
        lib.wait_for(lambda: far.listening(6379) and far.listening(8080), "servers")
        run = cell.cgroup.enter()
        assert cell.node.run(*run, "redis-cli", "-h", VIP, "set", "k", "v").stdout.strip() == "OK"
        assert cell.node.run(*run, "redis-cli", "-h", VIP, "get", "k").stdout.strip() == "v"
        out = cell.node.run(*run, "redis-benchmark", "-h", VIP, "-q", "-n", "2000", "-c", "20", "-t", "set,get").stdout
        assert "GET" in out, out
        got = cell.node.run(*run, "curl", "-sS", "--max-time", "20", f"http://{VIP}:8080/file", text=False).stdout
        assert got == lib.pattern(5 << 20)
        assert a.stat("captured") == a.stat("connections_accepted") > 40
    finally:
        for p in procs:
            p.kill()
            p.wait()


@pytest.mark.rows("C14")
def test_rules_change_with_a_reload(cell):
    """begun, changed and ended while the agent runs; what was captured before goes on"""
    one, two = cell.backend("one", address=cell.address(VIP)), cell.backend("two", address="127.0.0.1")
    at = cell.node.at()
    plain = lib.tcp("outbound", at, "anywhere")
    a = cell.agent(plain)
    app = cell.app()

    def reload(*listeners):
        a.config["listeners"] = list(listeners)
        a.write()
        return a.ctl("reload")["changes"]

    def captured():
        return a.stat("captured")
    assert app.ask(one.where) == ("one", one.where) and captured() == 0
    assert reload(cell.capture("anywhere", at)) == ["~ listener outbound: capture"]
    assert means(a)["state"] == "on", means(a)
    assert app.ask(one.where) == ("one", one.where) and captured() == 1
    reload(cell.capture("anywhere", at, to=["127.0.0.1/32"]))
    assert app.ask(one.where) == ("one", one.where) and captured() == 1, "not among `to` any more"
    assert app.ask(two.where) == ("two", two.where) and captured() == 2
    reload(cell.capture("anywhere", cell.node.at()))  # another address
    assert app.ask(one.where) == ("one", one.where) and captured() == 3
    reload(plain)
    assert app.ask(one.where) == ("one", one.where) and captured() == 3
    assert means(a)["state"] != "missing"
