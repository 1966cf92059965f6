"""
One daemon takes over from another, by `aditd --upgrade` and by the service manager's descriptor store, while connections come all the
time: nobody is refused, nobody is reset before the drain's deadline, every byte is right.
"""
import contextlib
import copy
import json
import os
import signal
import socket
import struct
import subprocess
import threading
import time

import pytest

import lib
import manager
import test_bypass
from app import cgroup_mount
from test_capture import VIP, Cell, means
from test_health import get


@pytest.fixture
def mgr(tmp_path):
    m = manager.Manager(tmp_path)
    yield m
    m.close()


def successor(w, a, start=True, argv=("--upgrade",), **config):
    """another daemon with a's configuration, told to take over"""
    b = copy.copy(a)
    b.more, b.proc, b.settled = [*a.more, *argv] if "--upgrade" not in a.more else list(a.more), None, False
    b.config = dict(a.config, **config)
    b.log_path = a.log_path + "+"
    b.write()
    w.agents.append(b)
    return b.start(wait=False) if start else b


def took_over(b, a, timeout=15):
    lib.wait_for(lambda: f"pid {b.pid} is the daemon now" in a.log(), lambda: f"{b.pid} takes over\n{a.log()[-1500:]}\n{b.log()[-1500:]}", timeout, 0.005)
    return b


class Load:
    """threads that connect, send, read back and compare, again and again"""

    def __init__(self, w, node, where, threads=4, size=2000):
        self.node, self.where, self.size = node, lib.split(where), size
        self.done, self.wrong, self.stop = 0, [], threading.Event()
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.run, args=(i,), daemon=True) for i in range(threads)]
        for t in self.threads:
            t.start()
        w.keep(self)

    def run(self, i):
        data = lib.pattern(self.size, i)
        with self.node:
            while not self.stop.is_set():
                s = socket.socket()
                s.settimeout(20)
                began = time.monotonic()
                try:
                    s.connect(self.where)
                    lib.echo(s, data)
                    lib.fin(s)
                    assert lib.recv_all(s) == (b"", "fin")
                    with self.lock:
                        self.done += 1
                except (OSError, AssertionError) as e:
                    self.wrong.append(f"{time.monotonic() - began:.3f} s: {e!r}")
                s.close()

    def more(self, n, timeout=20):
        """so many more connections"""
        want = self.done + n
        lib.wait_for(lambda: self.done >= want or self.wrong, f"{n} more connections", timeout)
        assert not self.wrong, (len(self.wrong), self.wrong[:3], self.done)

    def finish(self):
        self.stop.set()
        for t in self.threads:
            t.join(30)
        assert not self.wrong, (len(self.wrong), self.wrong[:3], self.done)
        return self.done

    def close(self):
        self.stop.set()


def front(w, node, back, m=None, **more):
    a = w.agent(node, "front", {"admin": {"metrics": node.at()}, "listeners": [lib.tcp("in", node.at(), "app")],
                                "clusters": [lib.cluster("app", back.where)], "workers": 2, "drain": {"within": "20s", "jitter": 0}, **more},
                env=m.env() if m else None)
    a.where = a.config["listeners"][0]["address"]
    a.health = lib.split(a.config["admin"]["metrics"])[1]
    return a


@pytest.mark.rows("B18", "11: upgrade")
def test_one_upgrade(w, node):
    """what is open stays open with the old one; what is new goes to the new one; admin and metrics answer all the time"""
    back = w.backend(node)
    a = front(w, node, back)
    live = w.app(a.where)
    lib.echo(live)
    load = Load(w, node, a.where)
    load.more(50)
    b = successor(w, a)
    answers = []
    while "is the daemon now" not in a.log():
        answers.append((get(node, a.health, "/healthz/ready")[0], a.ctl("status")["pid"]))
        assert len(answers) < 500
    took_over(b, a)
    assert {s for s, _ in answers} == {200}, answers
    assert {p for _, p in answers} <= {a.pid, b.pid}
    load.more(50)
    lib.wait_for(lambda: b.ctl("status")["pid"] == b.pid, "the new one answers")
    assert get(node, a.health, "/healthz/ready") == (200, "ready\n")
    lib.echo(live)
    assert a.proc.poll() is None
    live.close()
    a.wait(5)
    load.more(50)
    load.finish()
    assert os.path.exists(b.socket) and os.path.exists(b.socket + ".upgrade")
    assert b.ctl("status")["pid"] == b.pid
    b.stop()
    assert not os.path.exists(b.socket) and not os.path.exists(b.socket + ".upgrade")


@pytest.mark.rows("B18", "11: upgrade")
def test_another_configuration(w, node):
    """a listener that keeps its name and changes its address, one that keeps its address and changes its name, one that goes"""
    back = w.backend(node)
    a = front(w, node, back, listeners=[lib.tcp(n, node.at(), "app") for n in ("moved", "called", "gone")])
    moved, called, gone = (x["address"] for x in a.config["listeners"])
    new = node.at()
    load = Load(w, node, called, threads=2)
    load.more(10)
    b = successor(w, a, listeners=[lib.tcp("moved", new, "app"), lib.tcp("otherwise", called, "app")])
    took_over(b, a)
    a.wait(8)
    for where in (new, called):
        lib.echo(w.app(where))
    for where in (moved, gone):
        with pytest.raises(ConnectionRefusedError):
            node.connect(where)
    load.more(10)
    load.finish()
    assert b.log().count("was handed to us, but no listener") == 4


@pytest.mark.limit(240)
@pytest.mark.slow
@pytest.mark.rows("B18", "11: upgrade")
def test_fifty_upgrades(w, node):
    """two nodes: a TCP listener and its tunnel peer, each upgraded 25 times in turn, with other numbers of workers each time"""
    back = w.backend(node)
    more = {"drain": {"within": "20s", "jitter": 0}}
    client, server = w.pair(back, client=dict(more, workers=2), server=dict(more, workers=2))
    load = Load(w, node, client.listen, threads=4)
    load.more(50)
    old = []
    took = []
    for i in range(50):
        a = client if i % 2 else server
        t = time.monotonic()
        b = successor(w, a, workers=1 + (i * 7 + i // 2) % 4)
        took_over(b, a)
        took.append(time.monotonic() - t)
        old.append(a)
        if i % 2:
            client = b
        else:
            server = b
        load.more(5)
        assert not load.wrong, (i, load.wrong)
    load.more(50)
    n = load.finish()
    for a in old:
        a.wait(25)
    print(f"{n} connections, upgrades took {sorted(took)[25]:.3f} s (median), {max(took):.3f} s at most")
    assert n >= 300


@pytest.mark.rows("B18", "11: upgrade")
def test_connections_in_the_queue(w, node):
    """the old one is stopped with a queue full of connections: fewer workers take over, and serve all of them"""
    back = w.backend(node)
    a = front(w, node, back, workers=4)
    tids = [t for n, t in manager.threads(a.pid).items() if n.startswith("worker-")]
    b = successor(w, a, start=False, workers=1)
    with contextlib.ExitStack() as stopped:
        for t in tids:
            stopped.enter_context(manager.Stopped(t))
        apps = [w.app(a.where, timeout=10) for _ in range(60)]
        b.start(wait=False)
        took_over(b, a)
        for i, s in enumerate(apps):
            lib.echo(s, b"%d" % i)
    more = [w.app(a.where) for _ in range(20)]
    for s in more:
        lib.echo(s)
    for s in apps + more:
        s.close()
    a.wait(25)
    lib.wait_for(lambda: len(b.node.run("ss", "-Hltn", "sport", "=", f":{lib.split(a.where)[1]}").stdout.splitlines()) == 1, "one socket is left")


@pytest.mark.rows("B18", "11: upgrade")
def test_a_new_one_that_fails(w, node):
    """wrong configuration, wrong program, port taken: the old one goes on, aditctl says why"""
    back = w.backend(node)
    a = front(w, node, back)
    load = Load(w, node, a.where, threads=2)
    load.more(20)
    good = a.config
    # its configuration is broken
    b = successor(w, a, workers="many")
    assert b.proc.wait(10) == 1 and "workers" in b.log()
    w.agents.remove(b)
    # it cannot bind an address that is new
    taken = node.listen()
    b = successor(w, a, listeners=[*good["listeners"], lib.tcp("more", "127.0.0.1:%d" % taken.getsockname()[1], "app")])
    assert b.proc.wait(10) == 1 and "cannot listen" in b.log(), b.log()
    w.agents.remove(b)
    a.logged("it ended before it was ready")
    assert os.path.exists(a.socket)
    # what is started is no daemon; and there is none
    a.write()
    for program, why in (("/bin/false", "it ended with status 1 before it was ready"), ("/nowhere", "is no program"), ("relative", "is no program")):
        r = a.ctl("upgrade", program, check=False, as_json=False)
        assert r.returncode == 1 and why in r.stderr, (program, r)
    assert get(node, a.health, "/healthz/ready") == (200, "ready\n")
    load.more(50)
    load.finish()
    assert a.ctl("status")["pid"] == a.pid
    # and then it can
    out = a.ctl("upgrade", as_json=False)
    assert "upgraded: aditd" in out
    pid = int(out.split("started pid ")[1].split()[0])
    a.wait(5)
    assert a.ctl("status")["pid"] == pid
    s = w.app(a.where)
    lib.echo(s)
    s.close()
    os.kill(pid, signal.SIGTERM)
    lib.wait_for(lambda: not os.path.exists(a.socket), "the new one ends", 8)


@pytest.mark.limit(60)
@pytest.mark.rows("B18", "11: upgrade")
def test_killed_in_the_middle(w, node):
    """kill -9 of the new one at any moment before it is ready: nobody notices"""
    back = w.backend(node)
    a = front(w, node, back)
    load = Load(w, node, a.where, threads=2)
    load.more(20)
    killed = 0
    for i in range(16):
        b = successor(w, a)
        time.sleep(0.003 * i)
        b.signal(signal.SIGSTOP)
        time.sleep(0.02)
        if f"pid {b.pid} is the daemon now" in a.log():  # too late: it was ready
            b.signal(signal.SIGCONT)
            a = b
            continue
        b.kill()
        w.agents.remove(b)
        killed += 1
        load.more(10)
    print(killed, "killed")
    assert killed >= 3
    assert a.proc.poll() is None and a.ctl("status")["pid"] == a.pid and get(node, a.health, "/healthz/ready")[0] == 200
    load.more(20)
    load.finish()
    b = took_over(successor(w, a), a)
    lib.echo(w.app(b.where))


def talk(path, kind, version=1, magic=0x41444954):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.settimeout(5)
    s.connect(path)
    with contextlib.suppress(BrokenPipeError):  # refused at once
        s.send(struct.pack("IIII256s", magic, version, kind, 0, b""))
    return s


def said(s):
    data, fds, _, _ = socket.recv_fds(s, 4096, 300)
    for fd in fds:
        os.close(fd)
    if not data:
        return None, "", 0
    _, _, kind, _, text = struct.unpack("IIII256s", data)
    return kind, text.rstrip(b"\0").decode(), len(fds)


@pytest.mark.rows("B18", "11: upgrade")
def test_strangers(w, node):
    """another version, nonsense, other users, somebody who stays silent, a second one: the daemon goes on"""
    back = w.backend(node)
    a = front(w, node, back)
    path = a.socket + ".upgrade"
    s = talk(path, 1, version=2)
    kind, text, _ = said(s)
    assert kind == 8 and "version 2" in text and "version 1" in text
    assert said(s)[0] is None
    for bad in (dict(kind=1, magic=7), dict(kind=4), dict(kind=6), dict(kind=99)):
        assert said(talk(path, **bad))[0] is None, bad
    s = talk(path, 1)
    got = []
    while not got or got[-1][0] != 3:
        got.append(said(s))
    assert sum(n for _, _, n in got) == 4 and {t for _, t, _ in got} == {"kept=in", "kept=admin", "kept=admin.metrics", ""}
    assert "another upgrade is under way" in said(talk(path, 1))[1]
    s.send(struct.pack("IIII256s", 0x41444954, 1, 6, 0, b""))  # TAKEN before READY
    assert said(s)[0] is None
    a.logged("it speaks out of turn")
    r = subprocess.run(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--", "/usr/bin/python3", "-c",
                        f"import socket; socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect({path!r})"],
                       stderr=subprocess.PIPE, text=True, check=False)
    assert r.returncode and "Permission" in r.stderr
    lib.echo(w.app(a.where))
    assert get(node, a.health, "/healthz/ready")[0] == 200
    took_over(successor(w, a), a)


@pytest.mark.rows("B18", "11: upgrade")
def test_nobody_to_take_over_from(w, node):
    back = w.backend(node)
    a = w.agent(node, "front", {"listeners": [lib.tcp("in", node.at(), "app")], "clusters": [lib.cluster("app", back.where)]}, argv=["--upgrade"])
    assert "starting as usual" in a.log()
    lib.echo(w.app(a.config["listeners"][0]["address"]))


@pytest.mark.rows("B18", "11: upgrade")
def test_the_manager_learns_who_it_is(w, node, mgr):
    """MAINPID from the old one, then READY from the new one; no STOPPING from the old one"""
    back = w.backend(node)
    a = front(w, node, back, mgr)
    mgr.hears("READY", "1")
    since = time.monotonic()
    out = a.ctl("upgrade", as_json=False)
    pid = int(out.split("started pid ")[1].split()[0])
    at = mgr.hears("MAINPID", str(pid), since=since)[0][0]
    ready = [(t, p) for t, v, _, p in mgr.heard if v.get("READY") == "1" and t > since]
    lib.wait_for(lambda: [1 for t, v, _, p in mgr.heard if v.get("READY") == "1" and t > since and p == pid], "the new one says READY")
    ready = [t for t, v, _, p in mgr.heard if v.get("READY") == "1" and t > since and p == pid]
    assert ready[0] > at
    a.wait(5)
    assert not mgr.said("STOPPING")
    os.kill(pid, signal.SIGTERM)
    mgr.hears("STOPPING", "1")


# ---- what is pinned

@pytest.fixture
def pin(tmp_path):
    d = tmp_path / "bpf"
    d.mkdir()
    if subprocess.run(["mount", "-t", "bpf", "bpf", str(d)], check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("bpffs cannot be mounted here")
    yield str(d / "adit")
    subprocess.run(["umount", "-l", str(d)], check=False)


@pytest.mark.limit(60)
@pytest.mark.skipif(not cgroup_mount(), reason="no cgroup2 is mounted")
@pytest.mark.parametrize("away", ["open", "closed"])
@pytest.mark.rows("11: upgrade", "A09")
def test_capture_goes_on(w, pin, away):
    """applications that connect all the time are captured by the old one or by the new one, never by nobody, never for nothing"""
    cell = Cell(w, pin)
    try:
        direct, caught = cell.backend("direct", address=cell.address(VIP)), cell.backend("caught")
        a = cell.agent(cell.capture("caught", when_away=away), clusters=[lib.cluster("caught", caught.where)], drain={"within": "5s"}, workers=2)
        app = cell.app()
        app.run("stop = False; seen = {}")
        app.run(f"""
def hammer():
    while not stop:
        try:
            k = ask({VIP!r}, {direct.port})[0]
        except Exception as e:
            k = type(e).__name__
        seen[k] = seen.get(k, 0) + 1
threads = [threading.Thread(target=hammer) for _ in range(3)]
for t in threads: t.start()
""")
        old = []
        for i in range(6):
            time.sleep(0.2)
            b = successor(w, a, workers=1 + i % 3)
            took_over(b, a)
            old.append(a)
            a = b
        for x in old:
            x.wait(8)
        time.sleep(0.3)  # the last of the old ones has ended: what it had pinned is there
        seen = app.run("stop = True\nfor t in threads: t.join()\n_ = seen")
        print(seen)
        assert set(seen) == {"caught"} and seen["caught"] > 200, seen
        assert means(a)["state"] == "on" and "1 rules" in means(a)["detail"], means(a)
        a.stop()
        assert app.run(f"_ = ask({VIP!r}, {direct.port})[0]" if away == "open" else "_ = 'closed'") in ("direct", "closed")
    finally:
        cell.close()


@pytest.mark.rows("11: upgrade")
def test_steering_goes_on(w, node):
    """sk_lookup sends to sockets that the new one has, too: nobody is refused while the old one leaves"""
    back = w.backend(node)
    a = front(w, node, back, listeners=[lib.tcp("in", node.at(), "app", steer={"to": ["10.88.0.0/16"], "ports": ["7000-7009"]})])
    node.run("ip", "route", "add", "local", "10.88.0.0/16", "dev", "lo")
    row = {r["name"]: r for r in a.ctl("kernel")["means"]}["steer"]
    if row["state"] != "on":
        pytest.skip("no sk_lookup here: " + row["why"])
    load = Load(w, node, "10.88.0.1:7003")
    load.more(20)
    for i in range(4):
        b = took_over(successor(w, a, workers=1 + i % 3), a)
        load.more(30)
        a.wait(8)
        a = b
    load.more(30)
    load.finish()


@pytest.mark.rows("11: upgrade")
def test_joined_connections(w, node, pin):
    """what the bypass moves goes on with the old one until it ends; new connections are joined by the new one, in the same maps"""
    (a,), listen, _ = test_bypass.chain(w, node, pin)
    s = w.app(listen)
    test_bypass.trips(s, 40)
    test_bypass.joined(a)
    b = took_over(successor(w, a), a)
    lib.wait_for(lambda: b.ctl("status")["pid"] == b.pid, "the new one answers")
    test_bypass.trips(s, 40)
    t = w.app(listen)
    test_bypass.trips(t, 40)
    test_bypass.joined(b)
    lib.fin(s)
    assert lib.ending(s) == "fin"
    a.wait(8)
    test_bypass.trips(t, 40)  # the old one has taken nothing away
    test_bypass.joined(b)
    u = w.app(listen)
    test_bypass.trips(u, 40)
    assert {r["mover"] for r in b.rows("conn")} == {"bypass"}


# ---- the service manager's sockets

def with_sockets(agent, fds, names=True):
    """start the agent with descriptors from 3 on, as a service manager does"""
    argv = [os.path.join(lib.BUILD, "aditd"), "-c", agent.config_path, *agent.more]
    script = ("import os, sys\n"
              "fds = [int(x) for x in sys.argv[1].split(',')] if sys.argv[1] else []\n"
              "high = [os.dup(f) for f in fds]\n"
              "import fcntl\n"
              "high = [fcntl.fcntl(f, fcntl.F_DUPFD, 100) for f in high]\n"
              "for i, f in enumerate(high): os.dup2(f, 3 + i, inheritable=True)\n"
              "os.closerange(3 + len(fds), 300)\n"
              "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=sys.argv[2])\n"
              "os.execv(sys.argv[3], sys.argv[3:])\n")
    flat = [(n, f) for n, v in fds.items() for f in v]
    cmd = agent.node.argv("/usr/bin/python3", "-c", script, ",".join(str(f) for _, f in flat), ":".join(n for n, _ in flat) if names else "", *argv)
    with open(agent.log_path, "ab") as log:
        agent.proc = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(os.environ, **(agent.env or {})),
                                      pass_fds=[f for _, f in flat])
    agent.ready()
    return agent


@pytest.mark.rows("B18", "12: socket activation")
@pytest.mark.parametrize("share", [False, True])
def test_socket_activation(w, node, share):
    """by name, wherever it is bound; by address; what nobody wants is said and closed"""
    back = w.backend(node)
    with node:
        socks = []
        for _ in range(3):
            s = socket.socket()
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, share)
            s.bind(("127.0.0.1", 0))
            s.listen(64)
            socks.append(s)
    at = ["127.0.0.1:%d" % s.getsockname()[1] for s in socks]
    a = w.agent(node, "front", {"workers": 2, "listeners": [lib.tcp("named", node.at(), "app"), lib.tcp("placed", at[1], "app"), lib.tcp("own", node.at(), "app")],
                                "clusters": [lib.cluster("app", back.where)]}, start=False)
    a.config["listeners"][0]["address"], a.ask = at[0], a.config["listeners"][0]["address"]  # what ready() looks at
    early = [w.app(x) for x in at[:2] for _ in range(4)]  # they wait in the queues
    with_sockets(a, {"named": [socks[0].fileno()], "something": [socks[1].fileno()], "stray": [socks[2].fileno()]})
    for s in socks:
        s.close()
    for s in early:
        lib.echo(s)
    for x in (at[0], at[1], a.config["listeners"][2]["address"]):
        for s in [w.app(x) for _ in range(8)]:
            lib.echo(s)
            s.close()
    a.logged(f"socket 'stray' at {at[2]} was handed to us, but no listener of the configuration")
    with pytest.raises(ConnectionRefusedError):
        node.connect(at[2])
    fds = os.listdir(f"/proc/{a.pid}/environ") if False else open(f"/proc/{a.pid}/environ", "rb").read()
    assert b"LISTEN_FDS" in fds  # it was there, and is for this process alone
    took_over(successor(w, a), a)
    for x in (at[0], at[1]):
        lib.echo(w.app(x))


@pytest.mark.rows("B18", "11: upgrade", "12: FDSTORE")
def test_restart_through_the_store(w, node, mgr):
    """the manager keeps the sockets: connections wait while no daemon runs, also after kill -9, and then are served"""
    back = w.backend(node)
    a = front(w, node, back, mgr, drain={"within": "300ms"})
    mgr.hears("READY", "1")
    assert set(mgr.stored) == {"kept=in", "kept=admin.metrics"} and len(mgr.stored["kept=in"]) == 2
    load = Load(w, node, a.where, threads=4)
    for end in ("term", "kill", "term"):
        load.more(30)
        if end == "kill":
            with contextlib.suppress(AssertionError):
                pass
            load.stop.set()  # what is open dies with it: that is not asked here
            for t in load.threads:
                t.join(20)
            a.kill()
            load = Load(w, node, a.where, threads=4)
        else:
            a.signal(signal.SIGTERM)
            a.wait(5)
        time.sleep(0.3)  # nobody is there
        w.agents.remove(a)
        a = copy.copy(a)
        a.proc, a.settled = None, False
        w.agents.append(a)
        assert not load.wrong
        with_sockets(a, mgr.stored)
        load.more(30)
        assert not load.wrong, load.wrong
    load.finish()
    # fewer workers: a socket more than workers must not stay in the store, or who gets into its queue waits for ever
    b = took_over(successor(w, a, workers=1), a)
    load = Load(w, node, a.where, threads=4)
    load.more(30)
    a.wait(5)
    lib.wait_for(lambda: len(mgr.stored.get("kept=in", ())) == 1, lambda: f"one socket is kept: {mgr.stored}")
    lib.wait_for(lambda: len(node.run("ss", "-Hltn", "sport", "=", f":{lib.split(a.where)[1]}").stdout.splitlines()) == 1, "one socket is left")
    load.more(30)
    load.finish()
    a = b
    # a listener goes, another one comes: the store follows
    a.config["listeners"] = [lib.tcp("other", node.at(), "app")]
    a.write()
    a.ctl("reload")
    lib.wait_for(lambda: set(mgr.stored) == {"kept=other", "kept=admin.metrics"}, lambda: f"the store follows: {set(mgr.stored)}")
