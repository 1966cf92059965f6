"""Listeners and clusters in other network namespaces: by name, by process, by path; and what happens when one is removed."""
import os
import signal
import subprocess
import threading
import time

import pytest

import lib

ME = "10.78.1.1"
THERE = "10.78.1.2"


class Named(lib.Node):
    """a namespace that `ip netns` knows, with one address and, when asked for, a veth to another node"""

    def __init__(self, name, address=THERE):
        self.name, self.fd = f"adit-{os.getpid()}-{name}", -1
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        self.fd = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
        self.back, self.address, self.ports = threading.local(), address, 21000
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "addr", "add", f"{address}/32", "dev", "lo")

    def forget(self):
        """what the test itself holds"""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def remove(self):
        self.forget()
        subprocess.run(["ip", "netns", "del", self.name], check=False, stderr=subprocess.DEVNULL)

    close = remove


@pytest.fixture
def named(w):
    def make(name="there", **kw):
        w.links.append(Named(name, **kw))
        return w.links[-1]
    return make


class Sleeper:
    """a process that lives in a namespace"""

    def __init__(self, node):
        self.p = subprocess.Popen(node.argv("sleep", "600"))

    def close(self):
        self.p.kill()
        self.p.wait()


def handles(w, there, how):
    """how the configuration names the namespace"""
    if how == "name":
        return there.name
    if how == "path":
        return f"/run/netns/{there.name}"
    s = Sleeper(there)
    w.links.insert(0, s)
    lib.wait_for(lambda: os.stat(f"/proc/{s.p.pid}/ns/net").st_ino == os.fstat(there.fd).st_ino, "the process is there")
    return f"pid:{s.p.pid}"


@pytest.mark.san
@pytest.mark.rows("21")
@pytest.mark.parametrize("how", ["name", "path", "pid"])
def test_in_and_out_by_every_kind_of_name(w, node, named, how):
    """an application in one namespace reaches a backend in another, neither of which the agent lives in"""
    here, there = named("here"), named("there")
    back = w.backend(there)
    listen = here.at()
    a = w.agent(node, "one", {"workers": 2, "listeners": [lib.tcp("entry", listen, "app", netns=handles(w, here, how))],
                              "clusters": [lib.cluster("app", back.where, netns=handles(w, there, how))]})
    lib.wait_for(lambda: here.listening(lib.split(listen)[1]), "it listens there")
    assert not node.listening(lib.split(listen)[1])
    data = lib.pattern(200000)
    for _ in range(10):
        s = w.app(listen, here)
        s.sendall(data)
        assert lib.recv_exact(s, len(data)) == data
        lib.fin(s)
        assert lib.recv_all(s) == (b"", "fin")
    before = a.descriptors()
    for _ in range(20):
        s = w.app(listen, here)
        lib.echo(s)
        s.close()
    a.until("connections", 0)
    assert a.descriptors() == before


@pytest.mark.rows("21")
def test_tunnels_in_other_namespaces(w, node, named):
    """the tunnel listener is in one, the tunnel is dialled from there by an agent that is not"""
    there = named()
    back = w.backend(node)
    tun, listen = there.at(), node.at()
    w.agent(node, "server", {"identities": [w.certs.identity("server")], "listeners": [lib.tunnel("inbound", tun, "app", netns=there.name)],
                             "clusters": [lib.cluster("app", back.where)]})
    client = w.agent(node, "client", {"identities": [w.certs.identity("client")], "listeners": [lib.tcp("entry", listen, "far")],
                                      "clusters": [lib.far("far", tun, netns=there.name, authority="a:1")]})
    lib.wait_for(lambda: there.listening(lib.split(tun)[1]), "it listens there")
    lib.echo(w.app(listen))
    assert client.tunnels("out")[0]["peer"] == tun


def test_without_the_right_to_enter(w, node, named):
    """a listener cannot be bound: no start, with what is missing; a cluster cannot be dialled: those connections fail, others do not"""
    there = named()
    back = w.backend(node)
    listen, other = node.at(), node.at()
    cl = [lib.cluster("app", back.where), lib.cluster("inside", "127.0.0.1:1", netns=there.name)]
    a = w.agent(node, "one", {"listeners": [lib.tcp("entry", there.at(), "app", netns=there.name)], "clusters": cl}, start=False, user="nobody")
    a.start(wait=False)
    a.wait(status=1)
    a.logged("CAP_SYS_ADMIN")
    a.proc = None
    a = w.agent(node, "two", {"listeners": [lib.tcp("plain", listen, "app"), lib.tcp("entry", other, "inside")], "clusters": cl}, user="nobody")
    lib.echo(w.app(listen))
    lib.is_reset(w.app(other))
    assert "CAP_SYS_ADMIN" in a.access(1)[0]["error"]
    lib.echo(w.app(listen))


@pytest.mark.parametrize("name,says", [("no-such-namespace", "ip netns list"), ("/no/such/path", "No such file"), ("pid:999999", "no such process")])
def test_a_cluster_whose_namespace_is_not_there(w, node, name, says):
    listen = node.at()
    a = w.agent(node, "one", {"listeners": [lib.tcp("entry", listen, "inside")], "clusters": [lib.cluster("inside", "127.0.0.1:1", netns=name)]})
    lib.is_reset(w.app(listen))
    row, = a.access(1)
    assert name in row["error"] and says in row["error"]


@pytest.mark.rows("21")
def test_removed_and_made_again(w, node, named):
    """connections end, dials fail with the reason, nothing keeps the namespace alive, nothing else notices; a new one is taken"""
    there = named()
    subprocess.run(["ip", "link", "add", "gone0", "type", "veth", "peer", "name", "gone1", "netns", there.name], check=True)
    subprocess.run(["ip", "link", "set", "gone0", "netns", f"/proc/{os.getpid()}/fd/{node.fd}"], check=True)
    node.run("ip", "addr", "add", f"{ME}/24", "dev", "gone0")
    node.run("ip", "link", "set", "gone0", "up")
    for cmd in (["ip", "addr", "flush", "dev", "lo"], ["ip", "addr", "add", f"{THERE}/24", "dev", "gone1"], ["ip", "link", "set", "gone1", "up"]):
        there.run(*cmd)
    far = w.backend(node, address=ME)  # what the cluster reaches from inside
    back = w.backend(node)
    inner, outer, plain = f"{THERE}:7001", node.at(), node.at()
    a = w.agent(node, "one", {
        "workers": 2,
        "listeners": [lib.tcp("inside", inner, "app", netns=there.name), lib.tcp("outwards", outer, "from-there"), lib.tcp("plain", plain, "app")],
        "clusters": [lib.cluster("app", back.where), lib.cluster("from-there", far.where, netns=there.name)]})
    lib.wait_for(lambda: there.listening(7001), "it listens there")
    held = [w.app(inner), w.app(outer)]
    still = w.app(plain)
    for s in (*held, still):
        lib.echo(s)
    assert far.conn().peer[0] == THERE
    there.remove()
    for s in held[1:]:
        lib.is_reset(s)
    # our end of the pair goes away when the namespace does: nobody holds it
    lib.wait_for(lambda: "gone0" not in node.run("ip", "link").stdout, "the namespace is gone for good")
    a.logged("network namespace .* was removed")
    rows = lib.wait_for(lambda: [r for r in a.access() if "was removed" in r.get("error", "")], "the reason is in the access log")
    assert {r["listener"] for r in a.access(2)} >= {"inside", "outwards"} and rows
    lib.is_reset(w.app(outer))
    assert there.name in a.access(3)[-1]["error"]
    lib.echo(still)
    lib.echo(w.app(plain))
    again = named()
    assert again.name == there.name
    again.run("ip", "addr", "add", f"{ME}/32", "dev", "lo")
    lib.wait_for(lambda: again.listening(7001), "the listener is back", 10)
    inside = w.app(inner, again)
    lib.echo(inside)
    w.backend(again, address=ME, port=far.port)
    lib.echo(w.app(outer))
    assert again.sockets() != []


def test_a_listener_waits_for_its_namespace(w, node, named):
    back = w.backend(node)
    name = f"adit-{os.getpid()}-late"
    a = w.agent(node, "one", {"listeners": [lib.tcp("entry", f"{THERE}:7001", "app", netns=name), lib.tcp("plain", node.at(), "app")],
                              "clusters": [lib.cluster("app", back.where)]})
    a.logged("ip netns list; it waits")
    late = named("late")
    lib.wait_for(lambda: late.listening(7001), "it listens", 5)
    lib.echo(w.app(f"{THERE}:7001", late))


def test_the_process_that_names_it_ends(w, node, named):
    """pid:N is that process; another that gets the number is a stranger"""
    there = named()
    back = w.backend(there)
    listen = node.at()
    name = handles(w, there, "pid")
    a = w.agent(node, "one", {"listeners": [lib.tcp("entry", listen, "app")], "clusters": [lib.cluster("app", back.where, netns=name)]})
    lib.echo(w.app(listen))
    os.kill(int(name[4:]), signal.SIGKILL)
    w.links[0].p.wait()
    time.sleep(0.05)
    lib.is_reset(w.app(listen))
    assert "has ended" in a.access(1, response_flags="UF")[0]["error"]
