"""The daemon's log: levels at run time, the journal, floods, and a reader that does not read."""
import contextlib
import json
import os
import re
import socket
import struct
import subprocess
import threading
import time

import pytest

import h2raw
import lib

pytestmark = pytest.mark.rows("B22", "7")


def levels(a):
    return {r["area"]: r for r in a.ctl("log")["levels"]}


def test_levels_per_area_for_a_while_and_back(w, node):
    back = w.backend(node)
    client, _ = w.pair(back, client={"log": {"level": "info", "areas": {"admin": "warn"}}})
    assert {a: r["level"] for a, r in levels(client).items()} == {
        "main": "info", "config": "info", "admin": "warn", "chain": "info", "tunnel": "info", "tls": "info", "net": "info"}
    out = client.ctl("log", "set", "--for", "2s", "chain=debug", "tunnel=debug", as_json=False)
    assert re.search(r"chain +debug +info +[12]", out), out
    row = levels(client)["chain"]
    assert row["level"] == "debug" and row["configured"] == "info" and 0 < row["for_ms"] <= 2000
    s = w.app(client.listen)
    lib.echo(s)
    s.close()
    client.logged(r"debug chain  conn \d+ ended")
    lib.wait_for(lambda: levels(client)["chain"]["level"] == "info", "it falls back by itself")
    client.logged("log level of chain is info again: its time is over")
    assert "for_ms" not in levels(client)["chain"]
    client.ctl("log", "set", "error", as_json=False)
    assert all(r["level"] == "error" for r in levels(client).values())
    client.ctl("log", "reset", "tunnel", as_json=False)
    assert levels(client)["tunnel"]["level"] == "info" and levels(client)["chain"]["level"] == "error"
    client.ctl("log", "reset", as_json=False)
    assert all(r["level"] == r["configured"] for r in levels(client).values()) and levels(client)["admin"]["level"] == "warn"


def test_a_reload_brings_other_levels_or_leaves_them(w, node):
    a = w.agent(node, "one", {})
    a.ctl("log", "set", "chain=debug", as_json=False)
    a.config["node"]["zone"] = "z"
    a.write()
    a.ctl("reload", as_json=False)
    assert levels(a)["chain"]["level"] == "debug", "what an operator has set stays"
    a.config["log"] = {"level": "warn", "areas": {"tunnel": "debug"}}
    a.write()
    a.ctl("reload", as_json=False)
    assert levels(a)["chain"]["level"] == "warn" and levels(a)["tunnel"] == {"area": "tunnel", "level": "debug", "configured": "debug"}


@pytest.mark.parametrize("words, because", [
    (("set", "nowhere=debug"), "unknown log area"), (("set", "chain=loud"), "unknown log level"), (("set",), "want AREA=LEVEL"), (("set", "=x"), "want AREA=LEVEL"),
    (("set", "--for", "soon", "debug"), "want a time"), (("set", "--for", "30h", "chain=loud"), "unknown log level"), (("reset", "nowhere"), "unknown log area"),
    (("reset", "--for", "1s"), "--for is for set"), (("list", "x"), "unexpected"), (("other",), "want list, set or reset")])
def test_what_is_wrong_changes_nothing(w, node, words, because):
    a = w.agent(node, "one", {})
    before = levels(a)
    r = a.ctl("log", *words, as_json=False, check=False)
    assert r.returncode in (1, 2) and because in r.stderr, r.stderr
    assert levels(a) == before
    for body in ('{"levels": {"chain": "debug"}, "for_ms": -1}', '{"levels": {}, "reset": ["all"]}', '{"reset": []}', '{"reset": [1]}', '{}', '{"x": 1}', '[]', "{",
                 '{"levels": {"chain": 1}}', '{"levels": {"chain": "debug"}, "for_ms": 99999999999}'):
        out = subprocess.run(["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", a.socket, "-X", "PUT", "-d", body, "http://adit/v1/log"],
                             stdout=subprocess.PIPE, text=True, check=True)
        assert out.stdout == "400", (body, out.stdout)
    assert levels(a) == before


class Journal:
    """/run/systemd/journal/socket, as an agent sees it"""

    def __init__(self, directory):
        self.dir = os.path.join(str(directory), "systemd")
        os.makedirs(os.path.join(self.dir, "journal"))
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(os.path.join(self.dir, "journal", "socket"))
        self.sock.settimeout(0.2)
        self.entries = []

    def read(self):
        try:
            while True:
                self.entries.append(dict(x.split("=", 1) for x in self.sock.recv(65536).decode().splitlines()))
        except (socket.timeout, TimeoutError):
            return self.entries

    def until(self, **fields):
        return lib.wait_for(lambda: next((e for e in self.read() if all(re.search(v, e.get(k, "")) for k, v in fields.items())), None),
                            lambda: f"{fields} in {self.entries}")


def test_the_journal_gets_priorities_and_fields(w, node, tmp_path):
    """as systemd starts it: stderr is a stream socket whose device and inode JOURNAL_STREAM names"""
    journal = Journal(tmp_path)
    a = w.agent(node, "one", {"listeners": [lib.tcp("entry", node.at(), "app")], "clusters": [lib.cluster("app", node.at())]}, start=False)
    del a.config["log"]
    a.write()
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    st = os.fstat(its.fileno())
    mount = 'mkdir -p /run/systemd && mount --bind "$0" /run/systemd && exec "$@"'
    argv = ["unshare", "--mount", "sh", "-c", mount, journal.dir, os.path.join(lib.BUILD, "aditd"), "-c", a.config_path]
    a.proc = subprocess.Popen(node.argv(*argv), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=its,
                              env=dict(os.environ, JOURNAL_STREAM=f"{st.st_dev}:{st.st_ino}"))
    its.close()
    a.ready()
    ready = journal.until(MESSAGE="ready: node one")
    assert ready["PRIORITY"] == "6" and ready["ADIT_AREA"] == "main" and ready["SYSLOG_IDENTIFIER"] == "aditd"
    assert not re.search(r"\d{4}-\d\d-\d\dT", ready["MESSAGE"]), "the journal has its own time"
    lib.is_reset(w.app(a.config["listeners"][0]["address"]))
    e = journal.until(MESSAGE="failed: connect failed")
    assert e["PRIORITY"] == "4" and e["ADIT_AREA"] == "chain" and e["ADIT_CONN"].isdigit() and e["ADIT_PEER"].startswith("127.0.0.1:")
    ours.settimeout(0.2)
    with pytest.raises((socket.timeout, TimeoutError)):
        assert not ours.recv(4096), "nothing is said twice"
    # the journal goes away: stderr has the lines then, with priorities
    journal.sock.close()
    os.unlink(os.path.join(journal.dir, "journal", "socket"))
    a.ctl("log", "set", "chain=debug", as_json=False)
    ours.settimeout(5)
    assert re.match(r"<6>admin: ", ours.recv(4096).decode())
    ours.close()
    a.stop()


def test_another_stream_is_not_the_journal(w, node):
    a = w.agent(node, "one", {}, env={"JOURNAL_STREAM": "8:12345"}, start=False)
    del a.config["log"]
    a.write()
    a.start()
    a.logged(r"(?m)^\d{4}-\d\d-\d\dT.*Z info  main   aditd")
    a.stop()


def flood(node, where, n, first, wait=False):
    """n connections, 16 at a time, each says `first` and is gone; or waits for what happens to it"""
    def one(k):
        for _ in range(k):
            try:
                s = node.connect(where, timeout=2)
                s.sendall(first)
                if wait:
                    s.recv(1)
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                s.close()
            except OSError:
                pass
    threads = [threading.Thread(target=one, args=(n // 16,)) for _ in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


def suppressed(a):
    return {k["kind"]: k["suppressed"] for k in a.ctl("log")["kinds"]}


@pytest.mark.limit(60)
def test_floods_leave_few_lines(w, node):
    """whatever strangers, peers and applications do thousands of times: lines stay few, the rest is counted"""
    client, server = w.pair(node.at(), pool={"queue_timeout": "1s"}, inbound={"max_connections": 5})
    began = time.monotonic()
    flood(node, server.tunnel, 640, b"GET / HTTP/1.1\r\n\r\n")            # strangers at the tunnel port
    flood(node, server.tunnel, 640, b"")                                    # who only knock
    flood(node, client.listen, 640, b"x", wait=True)                        # applications whose backend is dead
    seconds = time.monotonic() - began + 2
    for a in (client, server):
        lines = a.log().splitlines()
        assert len(lines) < 20 + 8 * seconds, f"{len(lines)} lines in {seconds} s"
        held = suppressed(a)
        assert sum(held.values()) > 300, held
        text = a.metrics()
        for kind in ("connection-failed", "tunnel-refused"):
            m = re.search(r'adit_log_suppressed_total\{area="[a-z]+",kind="%s"\} (\d+)' % kind, text)
            assert m and int(m.group(1)) >= held[kind], kind
    assert suppressed(server)["tunnel-refused"] > 300 and suppressed(client)["connection-failed"] + suppressed(client)["no-tunnel"] > 300
    time.sleep(1.1)
    flood(node, server.tunnel, 16, b"GET / HTTP/1.1\r\n\r\n")
    server.logged(r"tunnel \d+ from .* refused .*\(\d+ more since the last line\)")
    assert "tunnel-refused" in server.ctl("log", as_json=False)


def test_a_flood_of_tunnels_and_goaways(w, node):
    """peers with good certificates who come, say GOAWAY many times, and go"""
    _, server = w.pair(w.backend(node))
    before = len(server.log().splitlines())
    began = time.monotonic()
    for _ in range(60):
        with contextlib.suppress(OSError, h2raw.Closed):
            h = w.h2_client(node, server.tunnel)
            for code in (0, 0, 6, 2):
                h.goaway(0, code, b"x" * 50)
            h.close()
    lines = len(server.log().splitlines()) - before
    assert lines <= 60 * (time.monotonic() - began + 2), "20 opened, 20 closed, 5 GOAWAYs and a few lost per second at the most"


def test_orders_on_the_admin_socket_are_limited_too(w, node):
    a = w.agent(node, "one", {})
    for _ in range(8):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(a.socket)
            for _ in range(50):
                s.sendall(b"POST /v1/nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
                assert s.recv(65536)
    assert len(re.findall("POST /v1/nothing by uid 0", a.log())) < 200
    assert suppressed(a)["admin-request"] > 0


@pytest.mark.limit(60)
def test_a_pipe_that_nobody_reads_stops_no_worker(w, node):
    back = w.backend(node)
    listen = node.at()
    a = w.agent(node, "one", {"listeners": [lib.tcp("entry", listen, "app")], "clusters": [lib.cluster("app", back.where)], "log": {"level": "debug"}}, start=False)
    r, wr = os.pipe()
    a.proc = subprocess.Popen(node.argv(os.path.join(lib.BUILD, "aditd"), "-c", a.config_path), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=wr)
    os.close(wr)
    a.ready()
    lost = 0
    end = time.monotonic() + 40
    slowest = 0
    while lost < 100 and time.monotonic() < end:
        for _ in range(100):
            t = time.monotonic()
            s = node.connect(listen)
            lib.echo(s)
            s.close()
            slowest = max(slowest, time.monotonic() - t)
        lost = a.ctl("log")["lost"]
    assert lost >= 100, "the pipe and the queue are full"
    assert slowest < 5
    assert f"adit_log_lost_total {a.ctl('log')['lost']}" in a.metrics() or a.ctl("log")["lost"] > lost
    got = bytearray()
    os.set_blocking(r, False)

    def read():
        try:
            while True:
                piece = os.read(r, 1 << 16)
                if not piece:
                    return True
                got.extend(piece)
        except BlockingIOError:
            pass
        return re.search(rb"(\d+) log lines were lost: whoever reads the log was too slow", got)
    m = lib.wait_for(read, "the reader is back and is told")
    assert int(m.group(1)) >= 100
    assert all(re.match(rb"\d{4}-\d\d-\d\dT\S+Z (error|warn |info |debug) ", x) for x in bytes(got).splitlines()[:-1]), "no line is cut"
    a.proc.terminate()
    lib.wait_for(lambda: read() and a.proc.poll() is not None, "it ends")
    os.close(r)


def test_json_lines_have_fields(w, node):
    client, _ = w.pair(node.at(), client={"log": {"format": "json"}})
    lib.is_reset(w.app(client.listen))
    client.logged('"conn":')
    rows = [json.loads(x) for x in client.log().splitlines()]
    failed = next(r for r in rows if "failed:" in r["message"])
    assert failed["conn"] > 0 and failed["peer"].startswith("127.0.0.1:") and failed["area"] == "chain"
    tunnel = next(r for r in rows if " open: " in r["message"])
    assert tunnel["tunnel"] == 1 and tunnel["area"] == "tunnel"
