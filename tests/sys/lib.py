"""
What the scenarios are made of: nodes (network namespaces), agents, backends, applications' sockets.

A namespace has no name and is held by a descriptor, so nothing is left behind even if the tests are killed; every process is
started to die with them.
"""
import contextlib
import ctypes
import hashlib
import json
import os
import pwd
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time

import yaml

import h2raw

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("ADIT_BUILD") or os.path.join(TOP, "build")
SAN = os.environ.get("SAN", "")
SLOW = 4 if SAN else 1  # sanitizers: time limits grow, amounts shrink
TIMEOUT = 10 * SLOW
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000


def check(result, what):
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def wait_for(condition, what, timeout=None, every=0.02):
    """poll until condition() is true; Return: its value"""
    timeout = TIMEOUT if timeout is None else timeout
    end = time.monotonic() + timeout
    while True:
        v = condition()
        if v:
            return v
        if time.monotonic() > end:
            raise AssertionError(f"after {timeout} s still not: {what() if callable(what) else what}")
        time.sleep(every)


# ---- nodes

class Node:
    """one network namespace. `with node:` puts the calling thread into it: sockets made there belong to it."""

    def __init__(self, name, address="127.0.0.1"):
        self.name, self.address = name, address
        ready, self.fd = threading.Event(), -1

        def make():
            check(libc.unshare(CLONE_NEWNET), "unshare")
            self.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            ready.set()
        t = threading.Thread(target=make)
        t.start()
        t.join()
        assert ready.is_set(), "no network namespace (these tests need root)"
        self.back = threading.local()
        self.run("ip", "link", "set", "lo", "up")
        self.ports = 20000

    def __enter__(self):
        stack = self.back.__dict__.setdefault("stack", [])
        stack.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        check(libc.setns(self.fd, CLONE_NEWNET), "setns")
        return self

    def __exit__(self, *_):
        fd = self.back.stack.pop()
        check(libc.setns(fd, CLONE_NEWNET), "setns")
        os.close(fd)

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def argv(self, *argv):
        """the command line that runs argv in this namespace, without a process in between; it dies with the tests"""
        return ["nsenter", f"--net=/proc/{os.getpid()}/fd/{self.fd}", "--", "setpriv", "--pdeathsig", "KILL", *map(str, argv)]

    def run(self, *argv, check=True, timeout=60, **kw):
        """run to the end; Return: CompletedProcess with text output"""
        r = subprocess.run(self.argv(*argv), stdin=kw.pop("stdin", subprocess.DEVNULL), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           text=kw.pop("text", True), timeout=timeout, check=False, **kw)
        assert not check or r.returncode == 0, f"{' '.join(map(str, argv))}: status {r.returncode}\n{r.stdout}"
        return r

    def port(self):
        """a port nobody uses here: the namespace is ours alone"""
        self.ports += 1
        return self.ports

    def at(self, port=None):
        """ADDRESS:PORT on this node"""
        return f"{self.address}:{port or self.port()}"

    def listening(self, port):
        with self:
            for table in ("/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"):
                try:
                    with open(table, encoding="ascii") as f:
                        for v in map(str.split, f.readlines()[1:]):
                            if v[3] == "0A" and v[1].endswith(":%04X" % port):
                                return True
                except OSError:
                    pass
        return False

    def sockets(self, *filters):
        """established TCP connections, lines of ss"""
        return self.run("ss", "-Htn", "state", "established", *filters).stdout.splitlines()

    # -- applications' sockets

    def connect(self, where, timeout=None, **options):
        """a TCP connection to "ADDRESS:PORT" or a port of this node"""
        host, port = split(where) if isinstance(where, str) else (self.address, where)
        with self:
            s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        for name, value in options.items():
            s.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
        s.settimeout(TIMEOUT if timeout is None else timeout)
        try:
            s.connect((host, port))
        except ConnectionResetError:  # accepted, and reset before we looked
            s.close()
            return Dead()
        except BaseException:
            s.close()
            raise
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return s

    def listen(self, port=None, backlog=512, address=None):
        """a listening socket"""
        address = address or self.address
        with self:
            s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((address, port or self.port()))
        s.listen(backlog)
        return s


class Dead:
    """a connection that was reset before connect() returned"""

    def gone(self, *_):
        raise ConnectionResetError("reset while connecting")
    recv = send = sendall = getsockname = gone

    def close(self):
        pass
    settimeout = setblocking = setsockopt = shutdown = lambda self, *_: None


def split(where):
    host, port = where.rsplit(":", 1)
    return host.strip("[]"), int(port)


def join(a, b, n):
    """a veth pair between two nodes: 10.77.N.1 and 10.77.N.2"""
    one, two = f"v{n}a", f"v{n}b"
    subprocess.run(["ip", "link", "add", one, "type", "veth", "peer", "name", two], check=True)
    for node, dev, host in ((a, one, 1), (b, two, 2)):
        subprocess.run(["ip", "link", "set", dev, "netns", f"/proc/{os.getpid()}/fd/{node.fd}"], check=True)
        node.address = f"10.77.{n}.{host}"
        node.run("ip", "addr", "add", f"{node.address}/24", "dev", dev)
        node.run("ip", "link", "set", dev, "up")
        node.device = dev


# ---- what applications do

def fin(s):
    s.shutdown(socket.SHUT_WR)


def rst(s):
    """close with RST"""
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


def recv_exact(s, n):
    out = bytearray()
    while len(out) < n:
        got = s.recv(min(n - len(out), 1 << 20))
        if not got:
            raise AssertionError(f"end of stream after {len(out)} of {n} bytes")
        out += got
    return bytes(out)


def recv_all(s):
    """to the end; Return: (bytes, "fin" | "rst")"""
    out = bytearray()
    try:
        while True:
            got = s.recv(1 << 20)
            if not got:
                return bytes(out), "fin"
            out += got
    except ConnectionResetError:
        return bytes(out), "rst"


def ending(s, timeout=None):
    """how the connection ends: "fin" or "rst", or the bytes that came instead"""
    if timeout is not None:
        s.settimeout(timeout)
    try:
        got = s.recv(65536)
    except (ConnectionResetError, BrokenPipeError):
        return "rst"
    return got or "fin"


def is_reset(s, timeout=None):
    end = ending(s, timeout)
    assert end == "rst", f"wanted a reset, the application saw {end!r}"


def still(s, seconds=0.3):
    """nothing happens on the connection for that long"""
    s.settimeout(seconds)
    try:
        got = s.recv(1)
    except (socket.timeout, TimeoutError):
        s.settimeout(TIMEOUT)
        return True
    except ConnectionResetError:
        got = "rst"
    raise AssertionError(f"wanted nothing, the application saw {got!r}")


def echo(s, data=b"hello"):
    s.sendall(data)
    got = recv_exact(s, len(data))
    assert got == data
    return got


def pattern(n, seed=0):
    """bytes in which every shift, loss and doubling shows"""
    block = random.Random(seed).randbytes(min(n, 1048573))
    return (block * (n // len(block) + 1))[:n] if n else b""


# ---- backends

class Conn:
    """one connection a backend took"""

    def __init__(self, sock, peer):
        self.sock, self.peer = sock, peer
        self.received, self.sha = 0, hashlib.sha256()
        self.first = b""  # the first bytes, at most 64
        self.end = None  # "fin", "rst", or an error
        self.done = threading.Event()

    def take(self, data):
        self.received += len(data)
        self.sha.update(data)
        if len(self.first) < 64:
            self.first += data[:64 - len(self.first)]

    def read(self, n=1 << 18):
        """Return: bytes, b"" at FIN"""
        try:
            data = self.sock.recv(n)
        except ConnectionResetError:
            self.end = "rst"
            raise
        if not data:
            self.end = self.end or "fin"
        self.take(data)
        return data

    def finished(self, timeout=None):
        assert self.done.wait(TIMEOUT if timeout is None else timeout), f"backend connection goes on, {self.received} bytes so far"
        return self


class Backend:
    """A TCP server whose connections each run handler(conn) in a thread. conns: all of them, in the order of accept()."""

    def __init__(self, node, handler, port=None, address=None, backlog=512, rcvbuf=None):
        self.node, self.handler = node, handler
        self.sock = node.listen(port, backlog, address)
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        host, self.port = self.sock.getsockname()[:2]
        self.where = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self.conns, self.closing = [], False
        self.thread = threading.Thread(target=self.accept, daemon=True)
        self.thread.start()

    def accept(self):
        while True:
            try:
                s, peer = self.sock.accept()
            except OSError:
                return
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            c = Conn(s, peer)
            self.conns.append(c)
            threading.Thread(target=self.serve, args=(c,), daemon=True).start()

    def serve(self, c):
        try:
            self.handler(c)
        except OSError as e:
            c.end = c.end or ("rst" if isinstance(e, (ConnectionResetError, BrokenPipeError)) else str(e))
        finally:
            with contextlib.suppress(OSError):
                c.sock.close()
            c.done.set()

    def conn(self, i=0, timeout=None):
        """the i-th connection, waited for"""
        wait_for(lambda: len(self.conns) > i, f"connection {i} at the backend", timeout)
        return self.conns[i]

    def close(self):
        self.closing = True
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        for c in self.conns:  # wakes the handlers; unread bytes must not hold up an agent that drains
            with contextlib.suppress(OSError):
                c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                c.sock.shutdown(socket.SHUT_RDWR)
                c.sock.close()


def serve_echo(c):
    while True:
        data = c.read()
        if not data:
            return
        c.sock.sendall(data)


def serve_sink(c):
    while c.read():
        pass


def serve_count(c):
    """swallow to FIN, then answer with how much it was and its digest, then close"""
    while c.read():
        pass
    c.sock.sendall(f"{c.received} {c.sha.hexdigest()}\n".encode())


def serve_source(n, seed=1):
    def handler(c):
        c.sock.sendall(pattern(n, seed))
    return handler


def serve_hold(c):
    """never read; until the other side is gone"""
    while c.sock.fileno() >= 0:
        time.sleep(0.2)
        try:
            info = c.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)
        except OSError:
            return
        if info[0] in (7, 8):  # TCP_CLOSE, TCP_CLOSE_WAIT
            if info[0] == 7:
                c.end = "rst"
            return


def serve_name(name):
    """say who it is, then echo"""
    def handler(c):
        c.sock.sendall(name.encode() + b"\n")
        serve_echo(c)
    return handler


# ---- certificates

class Certs:
    """a directory made by scripts/mkcerts"""

    def __init__(self, directory, *args):
        self.dir = str(directory)
        r = subprocess.run([os.path.join(TOP, "scripts", "mkcerts"), self.dir, *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           text=True, check=False)
        assert r.returncode == 0, r.stdout
        subprocess.run(["chmod", "-R", "a+rX", self.dir], check=True)  # also for agents that do not run as root
        for f in os.listdir(self.dir):
            if f.endswith(".key"):
                os.chmod(os.path.join(self.dir, f), 0o644)

    def file(self, name):
        return os.path.join(self.dir, name)

    def identity(self, name="node", ca="ca.pem", trust_domain="cluster.local", called=None):
        """an entry of `identities`"""
        return {"name": called or name, "certificate": self.file(name + ".pem"), "key": self.file(name + ".key"), "ca": self.file(ca),
                "trust_domain": trust_domain}

    def context(self, client, name="node", ca="ca.pem", alpn=("h2",)):
        """for h2raw peers; name None: no certificate"""
        return h2raw.tls_context(client, name and self.file(name + ".pem"), name and self.file(name + ".key"), ca and self.file(ca), alpn)


# ---- agents

SANITIZER = re.compile(r"ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|runtime error:|LeakSanitizer: |Assertion .* failed|stack smashing")


class Agent:
    """one aditd. Give it a configuration as Python data; node, admin socket, log and access log are filled in."""

    def __init__(self, node, name, directory, config, argv=(), env=None, user=None, nofile=None, access="native", expect_log=None, etc=None):
        """etc: {"resolv.conf": text}: files that it sees in /etc in place of the machine's"""
        self.node, self.name, self.etc = node, name, etc or {}
        self.dir = os.path.join(str(directory), name)
        os.makedirs(self.dir, exist_ok=True)
        os.chmod(self.dir, 0o755)
        if user:
            shutil.chown(self.dir, user)
        self.socket = os.path.join(self.dir, "admin.sock")
        self.log_path = os.path.join(self.dir, "log")
        self.access_path = os.path.join(self.dir, "access.log")
        self.config_path = os.path.join(self.dir, "adit.yaml")
        self.config = dict({"workers": 1, "state_dir": os.path.join(self.dir, "state")}, **config)
        self.config["node"] = dict({"id": name}, **self.config.get("node", {}))
        self.config["admin"] = dict({"socket": self.socket}, **self.config.get("admin", {}))
        self.config["log"] = dict({"level": "debug" if os.environ.get("ADIT_DEBUG") else "info"}, **self.config.get("log", {}))
        if access:
            self.config["access_log"] = dict({"path": self.access_path, "format": access}, **self.config.get("access_log", {}))
        self.more, self.env, self.user, self.nofile = list(argv), env, user, nofile
        self.proc, self.settled = None, False
        self.write()

    def write(self):
        with open(self.config_path, "w", encoding="utf-8") as f:
            yaml.safe_dump(self.config, f, sort_keys=False)
        os.chmod(self.config_path, 0o644)

    def start(self, wait=True):
        self.settled = False
        argv = [os.path.join(BUILD, "aditd"), "-f", "-c", self.config_path, *self.more]
        if self.user:
            who = pwd.getpwnam(self.user)
            argv = ["setpriv", "--reuid", str(who.pw_uid), "--regid", str(who.pw_gid), "--clear-groups", "--bounding-set", "-all", "--inh-caps", "-all",
                    "--pdeathsig", "KILL", *argv]
        for name, text in self.etc.items():
            path = os.path.join(self.dir, name)
            with open(path, "w", encoding="utf-8") as f:
                f.write(text)
            argv = ["unshare", "--mount", "sh", "-c", f"mount --bind {path} /etc/{name} && exec \"$@\"", "sh", *argv]
        if self.nofile:
            argv = ["prlimit", f"--nofile={self.nofile}:{self.nofile}", *argv]
        env = dict(os.environ, **(self.env or {}))
        env.setdefault("ASAN_OPTIONS", "detect_leaks=1:abort_on_error=0:exitcode=99")
        env.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
        with open(self.log_path, "ab") as log:
            self.proc = subprocess.Popen(self.node.argv(*argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)
        if wait:
            self.ready()
        return self

    def ready(self):
        ports = [split(x["address"])[1] for x in self.config.get("listeners", []) if "address" in x and "netns" not in x]

        def up():
            assert self.proc.poll() is None, f"{self.name} ended with {self.proc.returncode}:\n{self.log()}"
            return os.path.exists(self.socket) and all(self.node.listening(p) for p in ports)
        wait_for(up, lambda: f"{self.name} accepts on {ports}\n{self.log()}", 15 * SLOW)

    @property
    def pid(self):
        return self.proc.pid

    def log(self):
        try:
            with open(self.log_path, encoding="utf-8", errors="replace") as f:
                return f.read()
        except OSError:
            return ""

    def logged(self, what, timeout=None):
        """wait for a log line that matches the expression"""
        rx = re.compile(what, re.I)
        return wait_for(lambda: rx.search(self.log()), lambda: f"{self.name} logs {what!r}; it said:\n{self.log()[-3000:]}", timeout)

    def access(self, n=0, timeout=None, **fields):
        """access log records as dicts, those with these fields; waits until there are n"""
        def read():
            try:
                with open(self.access_path, encoding="utf-8") as f:
                    rows = [json.loads(line) for line in f.read().splitlines(True) if line.endswith("\n")]
            except FileNotFoundError:
                rows = []
            rows = [r for r in rows if all(r.get(k) == v for k, v in fields.items())]
            return (rows, len(rows) >= n)
        wait_for(lambda: read()[1], lambda: f"{n} access log records {fields}; there are {read()[0]}", timeout)
        return read()[0]

    # -- control

    def ctl(self, *argv, check=True, as_json=True, timeout=20):
        """aditctl; Return: its JSON, or with as_json=False its text"""
        argv = [os.path.join(BUILD, "aditctl"), "-s", self.socket, *map(str, argv)] + (["-o", "json"] if as_json else [])
        r = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                           timeout=timeout * SLOW, check=False)
        assert not check or r.returncode == 0, f"{' '.join(argv)}: status {r.returncode}\n{r.stdout}{r.stderr}\n{self.log()[-2000:]}"
        if not check and r.returncode:
            return r
        return json.loads(r.stdout) if as_json else r.stdout

    def rows(self, command):
        """the list in the answer of listener, cluster, tunnel or conn"""
        v = self.ctl(command)
        if isinstance(v, dict):
            v = next((x for x in v.values() if isinstance(x, list)), [])
        return v

    def stats(self):
        """all counters and gauges by name"""
        v = self.ctl("stats")
        return {**v["counters"], **v["gauges"]}

    def stat(self, name):
        v = self.stats()
        assert name in v, f"no counter {name} in {sorted(v)}"
        return v[name]

    def until(self, name, wanted, timeout=None):
        """wait until a counter or gauge is what it should be (a number, or a function of it)"""
        test = wanted if callable(wanted) else lambda v: v == wanted
        wait_for(lambda: test(self.stat(name)), lambda: f"{self.name}: {name} is {self.stat(name)}", timeout, 0.05)
        return self.stat(name)

    def metrics(self):
        """the Prometheus text, by the admin socket"""
        r = subprocess.run(["curl", "-sS", "--max-time", "10", "--unix-socket", self.socket, "http://adit/metrics"],
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert r.returncode == 0, r.stdout
        return r.stdout

    def tunnels(self, direction=None):
        rows = self.rows("tunnel")
        return [r for r in rows if not direction or r.get("dir", r.get("direction")) == direction]

    # -- looking at the process

    def rss(self):
        """resident bytes, anonymous"""
        with open(f"/proc/{self.pid}/status", encoding="ascii") as f:
            for line in f:
                if line.startswith("RssAnon:"):
                    return int(line.split()[1]) * 1024
        return 0

    def descriptors(self):
        if not self.settled:  # it listens before the last descriptor is open: those that its looking thread keeps
            self.ctl("status")
            time.sleep(0.6)
            self.settled = True
        # its looking thread opens files for a moment, several times a second; a connection of aditctl may be closed a moment later
        return min(self.descriptors_now() for _ in range(6))

    def descriptors_now(self):
        time.sleep(0.015)
        with open(f"/proc/{self.pid}/net/unix", encoding="utf-8", errors="replace") as f:
            unix = {f"socket:[{line.split()[6]}]" for line in f.readlines()[1:]}
        n = 0
        for fd in os.listdir(f"/proc/{self.pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                n += os.readlink(f"/proc/{self.pid}/fd/{fd}") not in unix
        return n

    # -- ending

    def signal(self, n):
        self.proc.send_signal(n)

    def kill(self):
        """kill -9"""
        self.proc.kill()
        self.proc.wait()

    def stop(self, timeout=None, status=0):
        """SIGTERM; must end with this status and without complaint"""
        if self.proc and self.proc.poll() is None:
            self.proc.terminate()
        self.wait(timeout, status)

    def wait(self, timeout=None, status=0):
        try:
            r = self.proc.wait(15 * SLOW if timeout is None else timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} does not stop:\n{self.log()[-3000:]}") from None
        assert r == status, f"{self.name} ended with status {r}, wanted {status}:\n{self.log()[-6000:]}"

    def finish(self):
        """for fixtures: stop whatever state it is in; Return: what was wrong"""
        wrong = []
        if self.proc is None:
            return wrong
        if self.proc.poll() is None:
            self.proc.terminate()
            try:
                r = self.proc.wait(12 * SLOW)
                if r != 0:
                    wrong.append(f"{self.name} ended with status {r}")
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()
                wrong.append(f"{self.name} did not stop")
        elif self.proc.returncode not in (0, -signal.SIGKILL):
            wrong.append(f"{self.name} ended with status {self.proc.returncode}")
        found = SANITIZER.search(self.log())
        if found:
            wrong.append(f"{self.name}: {found.group(0)}")
        return [w + "\n" + self.log()[-5000:] for w in wrong]


# ---- shapes of configuration

def target(to):
    """"CLUSTER", "@LISTENER", or ">CLUSTER" to forward the CONNECT into; as keys of a listener or route"""
    return {} if to is None else {"listener": to[1:]} if to[0] == "@" else {"forward": to[1:]} if to[0] == ">" else {"cluster": to}


def tcp(name, address, to=None, **more):
    return {"name": name, "type": "tcp", "address": address, **target(to), **more}


def tunnel(name, address, to=None, **more):
    return {"name": name, "type": "tunnel", "address": address, **target(to), **more}


def internal(name, to=None, **more):
    return {"name": name, "type": "internal", **target(to), **more}


def route(to, name=None, **match):
    """match: authority, cidr, port, headers"""
    return {**({"name": name} if name else {}), **({"match": match} if match else {}), **target(to)}


def cluster(name, *endpoints, **more):
    return {"name": name, "type": "tcp", "endpoints": list(endpoints), **more}


def far(name, *endpoints, **more):
    """a tunnel cluster"""
    return {"name": name, "type": "tunnel", "endpoints": list(endpoints), **more}


def anywhere(name="anywhere", destinations=("0.0.0.0/0", "::/0"), **more):
    """dials what the CONNECT asks for"""
    return {"name": name, "type": "original_dst", "destinations": list(destinations), **more}
