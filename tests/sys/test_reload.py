"""What is in force changes while connections run: nothing is lost, nothing is refused, nothing leaks; what is wrong changes nothing."""
import os
import signal
import socket
import threading
import time

import pytest

import lib
from lib import cluster, echo, internal, route, tcp, tunnel

RELOADS = 1000 // lib.SLOW // (2 if lib.SLOW > 1 else 1)


def reload(agent, **change):
    """write the changed configuration and have it read; Return: what the agent says has changed"""
    agent.config.update(change)
    agent.write()
    return agent.ctl("reload")["changes"]


def refused(agent, **change):
    before = dict(agent.config)
    agent.config.update(change)
    agent.write()
    r = agent.ctl("reload", check=False)
    agent.config = before
    agent.write()
    assert r.returncode == 1, r
    return r.stderr


def config(agent):
    return agent.ctl("status")["config"]


class Knocking(threading.Thread):
    """connects again and again, sends and reads; counts what went wrong"""

    def __init__(self, node, where, pause=0.0):
        super().__init__(daemon=True)
        self.node, self.where, self.pause = node, where, pause
        self.over, self.done, self.wrong = threading.Event(), 0, []
        self.start()

    def run(self):
        while not self.over.is_set():
            try:
                s = self.node.connect(self.where, timeout=5)
                data = b"%d" % self.done
                s.sendall(data)
                assert lib.recv_exact(s, len(data)) == data
                s.close()
                self.done += 1
            except (OSError, AssertionError) as e:
                self.wrong.append(repr(e))
            time.sleep(self.pause)

    def finish(self, least=1):
        self.over.set()
        self.join(10)
        assert not self.wrong, self.wrong[:5]
        assert self.done >= least, f"only {self.done} connections in that time"


class Talking(threading.Thread):
    """one connection that goes on and on"""

    def __init__(self, s):
        super().__init__(daemon=True)
        self.s, self.over, self.bytes, self.wrong = s, threading.Event(), 0, None
        self.start()

    def run(self):
        n = 0
        while not self.over.is_set():
            data = lib.pattern(1 + n % 5000, n)
            n += 1
            try:
                self.s.sendall(data)
                if lib.recv_exact(self.s, len(data)) != data:
                    raise AssertionError("other bytes came back")
            except (OSError, AssertionError) as e:
                self.wrong = repr(e)
                return
            self.bytes += len(data)

    def finish(self):
        self.over.set()
        self.join(10)
        assert self.wrong is None, self.wrong
        assert self.bytes


@pytest.mark.san
@pytest.mark.rows("C14")
def test_listeners_come_change_and_go(w, node):
    back = w.backend(node)
    a, b, c = node.at(), node.at(), node.at()
    agent = w.agent(node, "a", {"listeners": [tcp("one", a, "app")], "clusters": [cluster("app", back.where)]})
    s = w.keep(node.connect(a))
    echo(s)
    assert reload(agent, listeners=[tcp("one", a, "app"), tcp("two", b, "app")]) == ["+ listener two"]
    echo(w.keep(node.connect(b)))
    assert reload(agent, listeners=[tcp("one", a, "app", max_connections=50), tcp("two", c, "app")]) == [
        "~ listener one: max_connections", "~ listener two: address"]
    echo(w.keep(node.connect(c)))
    with pytest.raises(ConnectionRefusedError):
        node.connect(b)
    assert reload(agent, listeners=[tcp("two", c, "app")]) == ["- listener one"]
    with pytest.raises(ConnectionRefusedError):
        node.connect(a)
    echo(s)  # its listener is gone, it is not
    row = [r for r in agent.rows("conn") if r["listener"] == "one"]
    assert len(row) == 1
    assert reload(agent) == []
    s.close()
    # the connections to the two addresses of "two" are still there, each with what it began with
    lib.wait_for(lambda: config(agent)["snapshots"] == 3, lambda: config(agent), 15)
    assert config(agent)["generation"] == 5


@pytest.mark.san
@pytest.mark.rows("C14")
def test_what_is_refused_changes_nothing(w, node):
    back, busy = w.backend(node), w.keep(node.listen())
    a, b = node.at(), node.at()
    taken = node.at(busy.getsockname()[1])
    agent = w.agent(node, "a", {"listeners": [tcp("one", a, "app")], "clusters": [cluster("app", back.where)]})
    s = w.keep(node.connect(a))
    echo(s)
    before = agent.descriptors()
    assert "adit.yaml:" in refused(agent, listeners=[tcp("one", a, "nowhere")])
    said = refused(agent, listeners=[tcp("new", b, "app"), tcp("taken", taken, "app")])
    assert "listener 'taken'" in said and "in use" in said
    with open(agent.config_path, "w", encoding="utf-8") as f:
        f.write("listeners: [\n")
    agent.signal(signal.SIGHUP)
    agent.logged("SIGHUP refused, nothing has changed")
    os.remove(agent.config_path)
    assert agent.ctl("reload", check=False).returncode == 1
    agent.write()
    echo(s)
    echo(w.keep(node.connect(a)))
    with pytest.raises(ConnectionRefusedError):
        node.connect(b)
    got = config(agent)
    assert got["generation"] == 1 and got["refused"] == 4 and got["refused_why"]
    assert "adit_config_last_refused 1" in agent.metrics()
    assert "REFUSED" in agent.ctl("status", as_json=False)
    assert agent.descriptors() <= before + 6  # the connections made since, nothing else
    assert reload(agent, listeners=[tcp("one", a, "app"), tcp("new", b, "app")]) == ["+ listener new"]
    assert config(agent)["refused_why"] is None


@pytest.mark.rows("C14")
@pytest.mark.limit(60)
def test_routes_change_under_load(w, node):
    """row C14: 0 resets; streams of a live tunnel follow the new routes"""
    blue, green = w.backend(node, lib.serve_name("blue")), w.backend(node, lib.serve_name("green"))
    client, server = w.pair(blue, server={"clusters": [cluster("app", blue.where), cluster("green", green.where)]})

    def who():
        s = w.keep(node.connect(client.listen))
        s.sendall(b"x")
        name, _, echoed = lib.recv_exact(s, 7 if green_now else 6).partition(b"\n")
        assert echoed == b"x"
        return name, s
    green_now = False
    name, old = who()
    assert name == b"blue"
    tunnels = {t["id"] for t in server.tunnels("in")}
    inbound = server.config["listeners"][0]
    for i in range(20):
        to = "green" if i % 2 == 0 else "app"
        reload(server, listeners=[{**inbound, "cluster": to}])
        green_now = to == "green"
        assert who()[0] == (b"green" if i % 2 == 0 else b"blue")
    old.sendall(b"still")
    assert {t["id"] for t in server.tunnels("in")} == tunnels, "the tunnel went on"
    assert lib.recv_exact(old, 5) == b"still"


@pytest.mark.rows("C14")
@pytest.mark.limit(60)
def test_an_address_keeps_its_sockets(w, node):
    """a listener gets another name, another type of target, more workers' sockets: whoever connects is served"""
    back = w.backend(node)
    at = node.at()
    agent = w.agent(node, "a", {"workers": 2, "listeners": [tcp("l0", at, "app")],
                                "clusters": [cluster("app", back.where)]})
    knock = [Knocking(node, at) for _ in range(3)]
    for i in range(1, 60 // lib.SLOW):
        to = "app" if i % 2 else "@inner"
        more = [] if i % 2 else [internal("inner", "app")]
        reload(agent, listeners=[tcp(f"l{i}", at, to, spread=["source", "connection"][i % 2])] + more)
    for k in knock:
        k.finish(30)


@pytest.mark.slow
@pytest.mark.limit(240)
@pytest.mark.rows("C14", "C42")
def test_a_thousand_reloads_under_load(w, node):
    """lose nothing and leak nothing"""
    backs = [w.backend(node) for _ in range(3)]
    client, server = w.pair(backs[0], client={"workers": 2}, server={"workers": 2})
    out, inb = client.config["listeners"][0], server.config["listeners"][0]
    far = client.config["clusters"][0]
    talks = [Talking(w.keep(node.connect(client.listen))) for _ in range(4)]
    extra = [node.at() for _ in range(3)]

    def step(i):
        more = [tcp(f"more{i % 7}", extra[i % 3], "far")] if i % 3 else []
        client.config["listeners"] = [{**out, "max_connections": 1000 + i % 5}, *more]
        client.config["clusters"] = [{**far, "pool": {"max_tunnels": 4 + i % 3}}, *([cluster(f"other{i % 5}", backs[1].where)] if i % 2 else [])]
        ends = [b.where for b in (backs[:2], backs[1:], backs)[i % 3]]
        server.config["listeners"] = [{**inb, "max_streams": 1000 + i % 4}]
        server.config["clusters"] = [cluster("app", *ends, balance="least_request" if i % 2 else "round_robin")]
        for a in (client, server):
            a.write()
            a.signal(signal.SIGHUP)

    def settle(n):
        for a in (client, server):
            lib.wait_for(lambda a=a: config(a)["changes"] >= n, lambda a=a: config(a), 60)

    def size():
        lib.wait_for(lambda: all(config(a)["snapshots"] <= 3 for a in (client, server)), lambda: [config(a) for a in (client, server)], 20)
        return [a.rss() for a in (client, server)], [a.descriptors() for a in (client, server)]
    done = 0
    for i in range(RELOADS // 10):  # so that what is warm is warm
        step(done := i + 1)
        settle(done)
    knock = [Knocking(node, client.listen, 0.002) for _ in range(2)]
    time.sleep(0.5)
    warm = config(client)["changes"]
    before = size()
    for i in range(RELOADS):
        step(i)
        warm += 1
        settle(warm)
    for k in knock:
        k.finish(100 // lib.SLOW)
    for t in talks:
        t.finish()
    after = size()
    assert max(b - a for a, b in zip(before[1], after[1])) <= 8, (before, after)
    if not lib.SAN:
        assert max(b - a for a, b in zip(before[0], after[0])) < 3 << 20, (before, after)
    for a in (client, server):
        assert config(a)["refused"] == 0


@pytest.mark.san
@pytest.mark.rows("C14", "B18")
def test_a_tunnel_listener_that_goes_lets_its_streams_finish(w, node):
    back = w.backend(node)
    client, server = w.pair(back, server={"workers": 1})
    s = w.keep(node.connect(client.listen))
    echo(s)
    inbound = server.config["listeners"][0]
    other = node.at()
    reload(server, listeners=[{**inbound, "name": "elsewhere", "address": other}])
    echo(s, lib.pattern(100000))
    lib.wait_for(lambda: client.tunnels("out")[0]["state"] == "draining", lambda: client.tunnels())
    reload(client, clusters=[{**client.config["clusters"][0], "endpoints": [other]}])
    echo(w.keep(node.connect(client.listen)))
    echo(s)
    s.close()
    lib.wait_for(lambda: len(server.tunnels("in")) == 1, lambda: server.tunnels())
    lib.wait_for(lambda: config(server)["snapshots"] == 1, lambda: config(server), 15)


@pytest.mark.rows("A26", "C14")
def test_ids_no_longer_accepted_lose_their_tunnels(w, node):
    back = w.backend(node)
    client, server = w.pair(back)
    s = w.keep(node.connect(client.listen))
    echo(s)
    inbound = server.config["listeners"][0]
    reload(server, listeners=[{**inbound, "accept": ["spiffe://cluster.local/ns/test/sa/client"]}])
    echo(s)
    reload(server, listeners=[{**inbound, "accept": ["spiffe://cluster.local/ns/test/sa/other"]}])
    lib.is_reset(s)
    server.logged("not among the 1 accepted ids")


@pytest.mark.rows("C14")
def test_endpoints_come_and_go(w, node):
    one, two = w.backend(node, lib.serve_name("one")), w.backend(node, lib.serve_name("two"))
    at = node.at()
    agent = w.agent(node, "a", {"listeners": [tcp("l", at, "app")], "clusters": [cluster("app", one.where)]})

    def who(keep=True):
        s = w.keep(node.connect(at))
        return s, s.makefile("rb").readline().strip()
    held, name = who()
    assert name == b"one"
    reload(agent, clusters=[cluster("app", one.where, two.where)])
    assert {who()[1] for _ in range(8)} == {b"one", b"two"}
    rows = agent.rows("cluster")[0]["endpoints"]
    assert rows[0]["active"] >= 1, rows  # counted since before the change
    assert reload(agent, clusters=[cluster("app", two.where)]) == ["~ cluster app: endpoints"]
    assert {who()[1] for _ in range(4)} == {b"two"}
    held.sendall(b"x")
    assert lib.recv_exact(held, 1) == b"x"


@pytest.mark.rows("C14")
def test_files_that_change_are_read_if_so_configured(w, node):
    back = w.backend(node)
    a, b, c = node.at(), node.at(), node.at()
    agent = w.agent(node, "a", {"watch": True, "listeners": [tcp("one", a, "app")], "clusters": [cluster("app", back.where)]})
    agent.config["listeners"].append(tcp("two", b, "app"))
    agent.write()
    agent.logged(r"changed files: \+ listener two")
    echo(w.keep(node.connect(b)))
    os.makedirs(os.path.join(agent.dir, "conf.d"), exist_ok=True)
    with open(os.path.join(agent.dir, "conf.d", "more.yaml"), "w", encoding="utf-8") as f:
        f.write(f"listeners:\n  - {{ name: three, type: tcp, address: \"{c}\", cluster: app }}\n")
    agent.logged(r"changed files: \+ listener three", 20)
    echo(w.keep(node.connect(c)))
    agent.config["watch"] = False
    agent.write()
    agent.logged("changed files: ~ watch")
    agent.config["listeners"].pop()
    agent.write()
    time.sleep(1)
    echo(w.keep(node.connect(b)))  # nobody looks any more
    agent.ctl("reload")
    with pytest.raises(ConnectionRefusedError):
        node.connect(b)


@pytest.mark.rows("C14")
def test_what_waits_for_a_restart_is_said(w, node):
    agent = w.agent(node, "a", {"listeners": [tcp("one", node.at(), "app")], "clusters": [cluster("app", node.at())]})
    assert reload(agent, workers=2, kernel={"splice": "off"}) == [
        "! kernel: takes effect after a restart", "! workers: takes effect after a restart"]
    assert agent.ctl("status")["workers"] == 1
    assert "nothing has changed" in agent.ctl("reload", as_json=False)


@pytest.mark.rows("C14", "A16")
def test_access_log_and_limits_change(w, node):
    back = w.backend(node)
    at = node.at()
    agent = w.agent(node, "a", {"listeners": [tcp("one", at, "app")], "clusters": [cluster("app", back.where)]})
    s = node.connect(at)
    echo(s)
    other = os.path.join(agent.dir, "other.log")
    reload(agent, access_log={"path": other, "format": "native"}, limits={"max_connections": 1})
    t = node.connect(at)
    assert lib.ending(t) == "rst"  # the first still counts
    s.close()
    agent.until("connections", 0)
    lib.wait_for(lambda: os.path.exists(other) and '"listener":"one"' in open(other, encoding="utf-8").read().replace(" ", ""), "a record in the new file")
    assert "cannot open" in refused(agent, access_log={"path": "/nonexistent/folder/log"})
    echo(w.keep(node.connect(at)))


@pytest.mark.rows("C14")
def test_only_root_and_the_daemons_user_reload(w, node):
    agent = w.agent(node, "a", {"admin": {"mode": "0666"}, "listeners": [tcp("one", node.at(), "app")], "clusters": [cluster("app", node.at())]})
    r = node.run("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", os.path.join(lib.BUILD, "aditctl"), "-s", agent.socket, "reload",
                 check=False)
    assert r.returncode == 1 and config(agent)["changes"] == 0, r.stdout
