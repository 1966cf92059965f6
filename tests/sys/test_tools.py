"""scripts/pair and scripts/demo do what they promise."""
import os
import re
import signal
import subprocess
import time

import pytest

import lib


class Pair:
    def __init__(self, w, node, backend, *args):
        self.listen, self.tunnel = node.at(21000), node.at(22000)
        self.err = os.path.join(str(w.dir), "pair.err")
        with open(self.err, "wb") as err:
            self.proc = subprocess.Popen(
                node.argv(os.path.join(lib.TOP, "scripts", "pair"), "--listen", self.listen, "--tunnel", self.tunnel, "--backend", backend, *args),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err, text=True)
        assert self.proc.stdout.readline() == "ready\n", self.said()

    def said(self):
        with open(self.err, encoding="utf-8") as f:
            return f.read()

    def pids(self):
        return {n: int(p) for n, p in re.findall(r"pair: (\w+): pid (\d+)", self.said())}

    def stop(self, status=0):
        self.proc.terminate()
        assert self.proc.wait(20) == status, self.said()
        for p in self.pids().values():
            assert not os.path.exists(f"/proc/{p}"), self.said()
        folder = re.search(r"admin socket (\S+)/\w+\.sock", self.said()).group(1)
        assert not os.path.exists(folder)


@pytest.mark.rows("13: pair")
@pytest.mark.parametrize("args", [[], ["--tls", "off"], ["--workers", "2", "--mover", "relay"], ["--forward-hops", "2"], ["--chain", "3"]], ids=" ".join)
def test_pair(w, node, args):
    back = w.backend(node)
    p = Pair(w, node, back.where, *args)
    try:
        s = w.app(p.listen)
        data = lib.pattern(200000)
        s.sendall(data)
        assert lib.recv_exact(s, len(data)) == data
        assert len(p.pids()) == (4 if "--forward-hops" in args else 2)
        s.close()
    finally:
        p.stop()


@pytest.mark.rows("13: pair")
def test_pair_with_certificates_drains(w, node, tmp_path):
    """--certs; open connections have until the drain's deadline to finish"""
    certs = lib.Certs(tmp_path / "c", "--trust-domain", "bench.example", "--id", "node=ns/a/sa/b")
    back = w.backend(node)
    p = Pair(w, node, back.where, "--certs", certs.dir)
    s = w.app(p.listen)
    lib.echo(s)
    p.proc.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    lib.echo(s, b"still here")
    s.close()
    p.stop()


@pytest.mark.rows("13: pair")
def test_pair_notices_a_dead_agent(w, node):
    back = w.backend(node)
    p = Pair(w, node, back.where)
    os.kill(p.pids()["client"], signal.SIGKILL)
    assert p.proc.wait(15) == 128 + signal.SIGKILL
    assert "client ended by itself" in p.said()


@pytest.mark.rows("13: pair")
def test_pair_explains(node):
    r = node.run(os.path.join(lib.TOP, "scripts", "pair"), "--listen", "nonsense", "--tunnel", "1.2.3.4:1", "--backend", "1.2.3.4:2", check=False)
    assert r.returncode == 2 and "IP:PORT" in r.stdout
    taken = node.listen()
    r = node.run(os.path.join(lib.TOP, "scripts", "pair"), "--listen", node.at(), "--tunnel", node.at(taken.getsockname()[1]), "--backend", node.at(),
                 check=False)
    taken.close()
    assert r.returncode not in (0, 2) and "in use" in r.stdout


@pytest.mark.slow
@pytest.mark.limit(100)
@pytest.mark.skipif(bool(lib.SAN) or os.path.exists("/run/adit-demo"), reason="with a sanitizer, or a demo runs here")
@pytest.mark.rows("12: demo")
def test_demo(w):
    """it works, shows what it should, and leaves nothing"""
    env = dict(os.environ, ADIT_BUILD=lib.BUILD)
    env.pop("KEEP", None)
    r = subprocess.run([os.path.join(lib.TOP, "scripts", "demo")], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       timeout=90, env=env, check=False)
    assert r.returncode == 0, r.stdout
    n = int(re.search(r"(\d+) connections of applications", r.stdout).group(1))
    assert n > 500 and "1 TLS handshake between" in r.stdout
    for word in ("aditctl conn", "aditctl kernel", "ENGINE", "MOVER", "requests/s", "audit", '"outer_listener": "hbone"', "spiffe://cluster.local/ns/shop/sa/web"):
        assert word in r.stdout, word
    assert not os.path.exists("/run/adit-demo")
    assert "adit-demo" not in subprocess.run(["ip", "netns", "list"], stdout=subprocess.PIPE, text=True, check=True).stdout
