"""Unmodified applications, once direct and once through two agents on two nodes: the same result."""
import hashlib
import json
import os
import re
import shutil
import subprocess
import time

import pytest

import lib

pytestmark = [pytest.mark.rows("A09"), pytest.mark.skipif(bool(lib.SAN), reason="applications are not the subject of sanitizers")]


def need(*programs):
    for p in programs:
        if not shutil.which(p) and not os.path.exists(p):
            pytest.skip(f"{p} is not installed")


class Wired:
    """two nodes, an agent on each; `listen` on node a leads to `port` on node b"""

    def __init__(self, w):
        self.w = w
        self.a, self.b = w.two_nodes()
        self.procs = []

    def tunnel(self, port, host="127.0.0.1"):
        self.client, self.server = self.w.pair(f"{host}:{port}", node=self.a, far_node=self.b)
        return self.client.listen

    def start(self, node, *argv, port=None, **kw):
        p = subprocess.Popen(node.argv(*argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kw)
        self.procs.append(p)
        if port:
            def up():
                assert p.poll() is None, p.stdout.read()
                return node.listening(port)
            lib.wait_for(up, f"{argv[0]} listens on {port}", 20)
        return p

    def finish(self):
        for p in self.procs[::-1]:
            p.terminate()
        for p in self.procs:
            try:
                p.wait(8)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()


@pytest.fixture
def wired(w):
    x = Wired(w)
    yield x
    x.finish()


@pytest.mark.limit(60)
def test_redis(wired, tmp_path):
    need("redis-server", "redis-cli", "redis-benchmark")
    wired.start(wired.b, "redis-server", "--port", "6379", "--save", "", "--dir", str(tmp_path), "--bind", "127.0.0.1", wired.b.address,
                "--protected-mode", "no", port=6379)
    host, port = lib.split(wired.tunnel(6379))
    direct = ["redis-cli", "-h", wired.b.address]
    through = ["redis-cli", "-h", host, "-p", str(port)]
    for args in (["PING"], ["SET", "k", "v" * 100000], ["GET", "k"], ["STRLEN", "k"], ["LPUSH", "l", *map(str, range(500))],
                 ["LRANGE", "l", "0", "-1"], ["BOGUS"], ["EVAL", "return redis.call('GET', 'k')", "0"]):
        one, two = (wired.a.run(*c, *args).stdout for c in (direct, through))
        if args[0] != "LPUSH":
            assert one == two, args
    out = wired.a.run("redis-benchmark", "-h", host, "-p", port, "-n", "20000", "-c", "50", "-P", "4", "-t", "set,get,incr,lpush", "--csv").stdout
    assert len([x for x in out.splitlines() if re.match(r'"(SET|GET|INCR|LPUSH)', x)]) == 4, out
    out = wired.a.run("redis-benchmark", "-h", host, "-p", port, "-n", "500", "-c", "20", "-k", "0", "-t", "ping_mbulk", "--csv").stdout
    assert "PING" in out
    stats = wired.client.stats()
    assert stats["tls_handshakes_client"] <= 4 and stats["connections_accepted"] > 500
    # pub/sub: a connection on which only the server speaks
    sub = wired.start(wired.a, *through, "--csv", "SUBSCRIBE", "news")
    lib.wait_for(lambda: wired.a.run(*direct, "PUBSUB", "NUMSUB", "news").stdout.split()[-1] == "1", "the subscription")
    for i in range(3):
        wired.a.run(*direct, "PUBLISH", "news", f"item{i}")
    lines = []
    while len(lines) < 8 and "item2" not in "".join(lines):
        lines.append(sub.stdout.readline())
    assert "item2" in lines[-1], lines
    # the server dies: the client sees an error, not a clean end
    wired.procs[0].kill()
    assert wired.a.run(*through, "PING", check=False).stdout.lower().startswith(("error", "could not", "i/o")), "an error is an error"


def postgres_bin():
    base = "/usr/lib/postgresql"
    if not os.path.isdir(base):
        pytest.skip("postgresql is not installed")
    return os.path.join(base, sorted(os.listdir(base))[-1], "bin")


@pytest.mark.limit(90)
def test_postgres(wired, tmp_path):
    need("psql", "setpriv")
    pg = postgres_bin()
    data = tmp_path / "pg"
    data.mkdir()
    shutil.chown(data, "postgres", "postgres")
    d = str(tmp_path)
    while d != "/":
        os.chmod(d, os.stat(d).st_mode | 0o055)
        d = os.path.dirname(d)
    as_postgres = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--init-groups"]
    r = subprocess.run([*as_postgres, f"{pg}/initdb", "-D", str(data), "-A", "trust", "--no-sync", "-U", "postgres"], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, cwd="/", check=False)
    assert r.returncode == 0, r.stdout
    with open(data / "pg_hba.conf", "a", encoding="utf-8") as f:
        f.write("host all all 10.0.0.0/8 trust\n")
    wired.start(wired.b, *as_postgres, f"{pg}/postgres", "-D", str(data), "-p", "5432", "-c", f"listen_addresses=127.0.0.1,{wired.b.address}",
                "-c", "fsync=off", "-c", f"unix_socket_directories={data}", port=5432, cwd="/")
    host, port = lib.split(wired.tunnel(5432))

    def psql(h, p, sql, **kw):
        return wired.a.run("psql", "-X", "-A", "-t", "-h", h, "-p", p, "-U", "postgres", "-c", sql, **kw).stdout
    lib.wait_for(lambda: wired.a.run("psql", "-h", wired.b.address, "-U", "postgres", "-c", "select 1", check=False).returncode == 0, "postgres is up", 20)
    psql(host, port, "create table t as select i, md5(i::text) as h from generate_series(1, 50000) i")
    for sql in ("select count(*), min(h), max(h) from t", "select * from t order by i", "select 1/0", "select repeat('x', 3000000)"):
        one, two = (psql(h, p, sql, check=False) for h, p in ((wired.b.address, 5432), (host, port)))
        assert one == two and one
    rows = "".join(f"{i}\tvalue {i}\n" for i in range(30000))
    psql(host, port, "create table u (a int, b text)")
    src = tmp_path / "rows"
    src.write_text(rows)
    wired.a.run("psql", "-X", "-h", host, "-p", port, "-U", "postgres", "-c", f"\\copy u from '{src}'")
    assert psql(host, port, "select count(*), sum(a) from u").strip() == f"30000|{sum(range(30000))}"
    assert wired.a.run("psql", "-X", "-h", host, "-p", port, "-U", "postgres", "-c", "copy (select a, b from u order by a) to stdout").stdout == rows
    # cancel goes over a connection of its own
    t = time.monotonic()
    p = subprocess.Popen(wired.a.argv("psql", "-X", "-h", host, "-p", port, "-U", "postgres", "-c", "select pg_sleep(30)"), stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True)
    time.sleep(1)
    p.send_signal(2)
    out, _ = p.communicate(timeout=15)
    assert "cancel" in out.lower() and time.monotonic() - t < 10, out


@pytest.mark.limit(60)
def test_nginx_and_curl(wired, tmp_path):
    need("nginx", "curl")
    os.chmod(tmp_path, 0o755)
    web = tmp_path / "web"
    web.mkdir()
    big = lib.pattern(64 << 20)
    (web / "big").write_bytes(big)
    (web / "index.html").write_text("hello\n")
    d = str(tmp_path)
    while d != "/":
        os.chmod(d, os.stat(d).st_mode | 0o055)
        d = os.path.dirname(d)
    conf = tmp_path / "nginx.conf"
    conf.write_text(f"""
pid {tmp_path}/nginx.pid; error_log {tmp_path}/error.log; worker_processes 1; daemon off;
events {{ worker_connections 512; }}
http {{ access_log off; client_body_temp_path {tmp_path}/b; proxy_temp_path {tmp_path}/p; fastcgi_temp_path {tmp_path}/f;
        uwsgi_temp_path {tmp_path}/u; scgi_temp_path {tmp_path}/s; client_max_body_size 100m;
        server {{ listen 8080; root {web}; location /put {{ return 200 "$content_length\\n"; }} }}
        server {{ listen 8081 http2; root {web}; }} }}
""")
    wired.start(wired.b, "nginx", "-c", str(conf), "-e", f"{tmp_path}/error.log", port=8081)
    listen = wired.tunnel(8080)

    def curl(url, *more, **kw):
        return wired.a.run("curl", "-sS", "--max-time", "40", *more, url, **kw)
    for base in (f"http://{wired.b.address}:8080", f"http://{listen}"):
        assert curl(base + "/").stdout == "hello\n"
        out = tmp_path / "got"
        curl(base + "/big", "-o", str(out))
        assert hashlib.sha256(out.read_bytes()).digest() == hashlib.sha256(big).digest()
        assert "404" in curl(base + "/none", "-o", "/dev/null", "-w", "%{http_code}").stdout
        r = curl(base + "/big", "-r", "1000-1999", text=False)
        assert r.stdout == big[1000:2000]
    # keep-alive, many at once, and a client that gives up
    r = curl(f"http://{listen}/[1-40]", "-Z", "-o", "/dev/null", "-w", "%{http_code}\\n")
    assert r.stdout.count("404") == 40
    assert curl(f"http://{listen}/big", "-o", "/dev/null", "--max-filesize", "1000", check=False).returncode == 63
    # A10: cleartext HTTP/2 through the same pair of agents
    c2, _ = wired.w.pair("127.0.0.1:8081", node=wired.a, far_node=wired.b)
    r = curl(f"http://{c2.listen}/", "--http2-prior-knowledge", "-w", "%{http_version}")
    assert r.stdout == "hello\n2", r.stdout
    out = tmp_path / "got2"
    curl(f"http://{c2.listen}/big", "--http2-prior-knowledge", "-o", str(out))
    assert out.read_bytes() == big


@pytest.mark.rows("A10")
def test_http1_and_h2c_through_one_tunnel(w, node):
    """two requests of different protocols share the tunnel"""
    def handler(c):
        first = c.read()
        if first.startswith(b"PRI * HTTP/2.0"):
            c.sock.sendall(b"\0\0\0\4\0\0\0\0\0")  # SETTINGS
        else:
            c.sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        lib.serve_sink(c)
    back = w.backend(node, handler)
    client, _ = w.pair(back)
    h1, h2 = w.app(client.listen), w.app(client.listen)
    h1.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    h2.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
    assert lib.recv_exact(h1, 40).endswith(b"ok")
    assert lib.recv_exact(h2, 9) == b"\0\0\0\4\0\0\0\0\0"
    assert client.stat("tunnels_out") == 1 and client.stat("streams") == 2


@pytest.mark.limit(60)
def test_ssh(wired, tmp_path):
    need("/usr/sbin/sshd", "ssh", "scp", "ssh-keygen")
    os.makedirs("/run/sshd", exist_ok=True)
    for k in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / k)], check=True)
    shutil.copy(tmp_path / "user.pub", tmp_path / "keys")
    conf = tmp_path / "sshd_config"
    conf.write_text(f"Port 2222\nHostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/keys\nStrictModes no\nPermitRootLogin prohibit-password\n"
                    "PasswordAuthentication no\nUsePAM no\nPidFile none\nLogLevel ERROR\nSubsystem sftp internal-sftp\n")
    wired.start(wired.b, "/usr/sbin/sshd", "-D", "-e", "-f", str(conf), port=2222)
    host, port = lib.split(wired.tunnel(2222))
    options = ["-F", "none", "-i", str(tmp_path / "user"), "-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={tmp_path}/known",
               "-o", "LogLevel=ERROR", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]

    def ssh(h, p, command, **kw):
        return wired.a.run("ssh", *options, "-p", p, f"root@{h}", command, **kw)
    for command in ("echo hello; exit 7", "seq 1 20000", "head -c 5000000 /dev/zero | sha256sum"):
        one, two = (ssh(h, p, command, check=False) for h, p in ((wired.b.address, 2222), (host, port)))
        assert (one.returncode, one.stdout) == (two.returncode, two.stdout)
    data = lib.pattern(20 << 20)
    (tmp_path / "src").write_bytes(data)
    wired.a.run("scp", *options, "-P", port, str(tmp_path / "src"), f"root@{host}:{tmp_path}/there")
    wired.a.run("scp", *options, "-P", port, f"root@{host}:{tmp_path}/there", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == data
    # half-close: the remote command sees the end of its input
    r = wired.a.run("sh", "-c", f"head -c 3000000 {tmp_path}/src | ssh {' '.join(options)} -p {port} root@{host} wc -c")
    assert r.stdout.strip() == "3000000"


@pytest.mark.limit(60)
def test_iperf3(wired):
    need("iperf3")
    wired.start(wired.b, "iperf3", "-s", "-p", "5201", port=5201)
    host, port = lib.split(wired.tunnel(5201))
    for more in ([], ["-R"], ["-P", "4"]):
        r = wired.a.run("iperf3", "-c", host, "-p", port, "-t", "1", "-J", *more)
        v = json.loads(r.stdout)
        assert "error" not in v and v["end"]["sum_received"]["bytes"] > 10e6, v.get("error")


@pytest.mark.limit(40)
def test_netcat_half_close(wired, tmp_path):
    need("nc")
    data = lib.pattern(3 << 20)
    (tmp_path / "in").write_bytes(data)
    wired.start(wired.b, "sh", "-c", f"nc -N -l 127.0.0.1 7000 < {tmp_path}/in > {tmp_path}/out", port=7000)
    host, port = lib.split(wired.tunnel(7000))
    r = wired.a.run("sh", "-c", f"nc -N {host} {port} < {tmp_path}/in", text=False)
    assert r.stdout == data
    lib.wait_for(lambda: (tmp_path / "out").stat().st_size == len(data), "all bytes there")
    assert (tmp_path / "out").read_bytes() == data


@pytest.mark.rows("A02")
def test_h2_clients_of_others(w, node):
    """CONNECT as curl sends it (HTTP/2 proxy, where this curl can) and as a plain h2 peer does"""
    need("curl", "nghttp")
    back = w.backend(node, lambda c: (c.read(), c.sock.sendall(b"HTTP/1.0 200 OK\r\n\r\nfrom the origin\n")))
    tun = node.at()
    w.agent(node, "server", {"identities": [w.certs.identity("server")], "listeners": [lib.tunnel("inbound", tun, "anywhere")],
                             "clusters": [lib.anywhere()]})
    r = node.run("nghttp", "-nv", "--timeout=3", f"--cert={w.certs.file('client.pem')}", f"--key={w.certs.file('client.key')}",
                 f"https://{tun}/", check=False)
    assert ":status: 400" in r.stdout or "status: 400" in r.stdout, "a GET is refused, not a hang:\n" + r.stdout
    assert "SETTINGS_MAX_CONCURRENT_STREAMS" in r.stdout
    if "--proxy-http2" not in node.run("curl", "--help", "all").stdout:
        return  # this curl cannot talk HTTP/2 to a proxy; nghttp did its part
    r = node.run("curl", "-sS", "--max-time", "10", "--proxy-http2", "--proxytunnel", "-x", f"https://{tun}", "--proxy-cacert", w.certs.file("ca.pem"),
                 "--proxy-insecure", "--proxy-cert", w.certs.file("client.pem"), "--proxy-key", w.certs.file("client.key"), f"http://{back.where}/")
    assert "from the origin" in r.stdout
