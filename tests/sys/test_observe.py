"""Access log, metrics, admin API and aditctl, on both sides of a tunnel."""
import json
import os
import re
import signal
import subprocess
import time

import pytest

import lib

SIDES = {"namespace": "shop", "workload": "cart", "service": "cart", "cluster": "c1", "version": "v1"}, \
        {"namespace": "data", "workload": "db", "service": "db", "cluster": "c2", "version": "v2"}


def traffic(w, node, client, up=1000, down=5000):
    """one connection: `up` bytes up, `down` bytes down, closed"""
    s = w.app(client.listen)
    me = "%s:%d" % s.getsockname()
    s.sendall(b"u" * up)
    lib.fin(s)
    got, end = lib.recv_all(s)
    assert len(got) == down and end == "fin"
    s.close()
    return me


def answering(down):
    def handler(c):
        while c.read():
            pass
        c.sock.sendall(b"d" * down)
    return handler


@pytest.fixture
def pair(w, node):
    back = w.backend(node, answering(5000))
    client, server = w.pair(back, client={"node": SIDES[0]}, server={"node": SIDES[1]})
    client.back = back
    return client, server


@pytest.mark.san
@pytest.mark.rows("A25", "C8")
def test_access_log_native(w, node, pair):
    client, server = pair
    me = traffic(w, node, client)
    one, = client.access(1)
    two, = server.access(1)
    for r, direction in ((one, "outbound"), (two, "inbound")):
        assert r["level"] == "info" and r["scope"] == "access" and r["message"] == "connection complete"
        assert r["direction"] == direction
        assert r["bytes_sent"] == 1000 and r["bytes_recv"] == 5000
        assert r["status"] == 200 and r["response_flags"] == "-" and not r.get("error")
        assert r["tls"] is True and r["stream"] == 1 and r["tunnel"] >= 1
        assert 0 < r["open_us"] <= r["duration_us"] < 30e6
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", r["time"])
        assert r["src_workload"] == "cart" and r["dst_workload"] == "db"
        assert r["closed_by"] in ("src", "dst", "peer")
    assert one["src_addr"] == me and one["hbone_addr"] == client.back.where
    assert one["dst_addr"] == server.tunnel and two["dst_addr"] == client.back.where
    assert two["src_identity"].endswith("/sa/client") and one["dst_identity"].endswith("/sa/server")


@pytest.mark.rows("A25", "C8")
def test_access_log_ztunnel(w, node):
    """the keys of ztunnel; each side counts towards its peer"""
    back = w.backend(node, answering(5000))
    client, server = w.pair(back, client={"node": SIDES[0]}, server={"node": SIDES[1]}, agent={"access": "ztunnel"})
    traffic(w, node, client)
    one, = client.access(1)
    two, = server.access(1)
    assert (one["bytes_sent"], one["bytes_recv"]) == (1000, 5000)
    assert (two["bytes_sent"], two["bytes_recv"]) == (5000, 1000)
    for r, direction in ((one, "outbound"), (two, "inbound")):
        assert r["scope"] == "access" and r["message"] == "connection complete" and r["direction"] == direction
        assert re.fullmatch(r"\d+ms", r["duration"])
        assert r["src.workload"] == "cart" and r["dst.workload"] == "db"
        assert r["src.identity"].endswith("/sa/client")
    assert one["dst.addr"] == server.tunnel and one["dst.hbone_addr"] == back.where


@pytest.mark.rows("A25", "C8")
def test_access_log_envoy_and_fields(w, node):
    back = w.backend(node, answering(50))
    client, server = w.pair(back, agent={"access": "envoy"}, client={"access_log": {"fields": ["bytes_sent", "response_code", "route_name"]}})
    traffic(w, node, client, 10, 50)
    assert list(client.access(1)[0]) == ["bytes_sent", "response_code", "route_name"]
    r = server.access(1)[0]
    assert r["method"] == "CONNECT" and r["response_code"] == 200 and r["bytes_received"] == 10 and r["bytes_sent"] == 50


@pytest.mark.rows("A25")
def test_access_log_rotation(w, node, pair):
    client, _ = pair
    traffic(w, node, client)
    client.access(1)
    os.rename(client.access_path, client.access_path + ".1")
    client.signal(signal.SIGUSR1)
    lib.wait_for(lambda: os.path.exists(client.access_path), "the access log is opened again")
    traffic(w, node, client)
    assert len(client.access(1)) == 1


def samples(text, name):
    """[(labels, value)] of a metric"""
    out = []
    for line in text.splitlines():
        m = re.match(r"(\w+)(?:\{(.*)\})? (\S+)$", line)
        if m and m.group(1) == name:
            out.append((dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', m.group(2) or "")), float(m.group(3))))
    return out


@pytest.mark.rows("A27", "C6")
def test_istio_tcp_metrics(w, node, pair):
    """both reporters; received is client -> server on both"""
    client, server = pair
    traffic(w, node, client)
    traffic(w, node, client)
    s = w.app(client.listen)
    s.sendall(b"x")
    client.until("connections", 1)
    server.until("connections", 1)
    for a, reporter in ((client, "source"), (server, "destination")):
        client.access(2)
        server.access(2)
        text = a.metrics()
        want = {"istio_tcp_connections_opened_total": 3, "istio_tcp_connections_closed_total": 2, "istio_tcp_sent_bytes_total": 10000}
        for name, value in want.items():
            assert sum(v for l, v in samples(text, name) if l["reporter"] == reporter) == value, (a.name, name)
        got = sum(v for l, v in samples(text, "istio_tcp_received_bytes_total") if l["reporter"] == reporter)
        assert got in (2000, 2001)
        labels = next(l for l, v in samples(text, "istio_tcp_connections_closed_total") if v and l["reporter"] == reporter)
        assert list(labels)[0] == "reporter" and len(labels) == 27
        assert labels["source_workload"] == "cart" and labels["destination_workload"] == "db"
        assert labels["source_workload_namespace"] == "shop" and labels["destination_workload_namespace"] == "data"
        assert labels["source_principal"].endswith("cluster.local/ns/test/sa/client")
        assert labels["destination_principal"].endswith("cluster.local/ns/test/sa/server")
        assert labels["request_protocol"] == "tcp" and labels["connection_security_policy"] == "mutual_tls"
        assert labels["response_flags"] == "-" and labels["source_version"] == "v1"


@pytest.mark.rows("A27", "C6")
def test_failed_connections_are_counted(w, node):
    client, server = w.pair(node.at())
    lib.is_reset(w.app(client.listen))
    for a in (client, server):
        a.access(1)
        got = samples(a.metrics(), "istio_tcp_connections_failed_total")
        assert sum(v for _, v in got) == 1 and got[0][0]["response_flags"] != "-"


@pytest.mark.rows("A27", "11")
def test_metrics_are_well_formed(w, node, pair):
    client, _ = pair
    traffic(w, node, client)
    text = client.metrics()
    kinds, seen = {}, set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            name, kind = line.split()[2:4]
            assert name not in kinds, f"TYPE of {name} twice"
            kinds[name] = kind
        elif line and not line.startswith("#"):
            m = re.fullmatch(r"([a-zA-Z_:][\w:]*)(\{.*\})? ([-+\w.]+)", line)
            assert m, line
            assert (m.group(1), m.group(2)) not in seen, f"twice: {line}"
            seen.add((m.group(1), m.group(2)))
            base = re.sub(r"_(bucket|sum|count)$", "", m.group(1))
            assert m.group(1) in kinds or kinds.get(base) == "histogram", line
    for name in ("adit_tunnels_opened_total", "adit_streams_opened_total", "adit_pool_hits_total", "adit_tls_handshakes_client_total",
                 "adit_tunnels_out", "adit_streams", "adit_pool_queue"):
        assert name in kinds, name
    assert "histogram" in kinds.values(), "open latency"
    if subprocess.run(["which", "promtool"], stdout=subprocess.DEVNULL, check=False).returncode == 0:
        r = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        assert r.returncode in (0, 3), r.stdout


@pytest.mark.rows("11")
def test_metrics_and_health_by_tcp(w, node):
    back = w.backend(node)
    where = node.at()
    client, _ = w.pair(back, client={"admin": {"metrics": where}})

    def get(path):
        r = node.run("curl", "-s", "-o", "-", "-w", "\n%{http_code}", "--max-time", "5", f"http://{where}{path}")
        body, code = r.stdout.rsplit("\n", 1)
        return int(code), body
    assert get("/healthz/ready")[0] == 200
    assert "adit_connections" in get("/metrics")[1]
    assert "istio_build" in get("/stats/prometheus")[1] or get("/stats/prometheus")[0] == 200
    for path in ("/v1/status", "/v1/conns", "/", "/v1/drain"):
        assert get(path)[0] == 404, "the admin API is not on TCP"
    s = w.app(client.listen)
    lib.echo(s)
    client.signal(signal.SIGTERM)
    lib.wait_for(lambda: node.run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "5", f"http://{where}/healthz/ready",
                                  check=False).stdout in ("503", "000"), "readiness fails first")


COMMANDS = ["status", "listener", "chain", "cluster", "tunnel", "conn", "kernel", "stats", "log-level", "version"]


@pytest.mark.san
@pytest.mark.rows("11: aditctl", "A25")
@pytest.mark.parametrize("command", COMMANDS)
def test_aditctl(w, node, pair, command):
    """a table for people, and JSON that says the same"""
    client, server = pair
    s = w.app(client.listen)
    s.sendall(b"x")
    for a in (client, server):
        a.until("connections", 1)
        v = a.ctl(command)
        assert isinstance(v, (dict, list)) and v
        table = a.ctl(command, as_json=False)
        assert table.strip() and not table.lstrip().startswith("{")
        words = {"status": [a.name], "listener": ["outbound" if a is client else "inbound"], "chain": ["outbound" if a is client else "inbound"],
                 "cluster": ["far" if a is client else "app"], "tunnel": ["ns/test/sa/"], "conn": [client.back.where if a is server else server.tunnel], "kernel": ["splice", "bypass", "ktls"],
                 "stats": ["tunnels_opened"], "log-level": ["info"], "version": ["aditctl"]}[command]
        for word in words:
            assert word in table, f"{word} in\n{table}"
        assert max(map(len, table.splitlines())) < 400


@pytest.mark.rows("11: aditctl conn")
def test_conn_shows_both_legs(w, node, pair):
    client, server = pair
    s = w.app(client.listen)
    s.sendall(b"12345")
    lib.wait_for(lambda: [r["bytes_sent"] for r in server.rows("conn")] == [5], "the bytes show")
    time.sleep(0.2)
    one, = client.rows("conn")
    two, = server.rows("conn")
    me = "%s:%d" % s.getsockname()
    assert one["src"] == me and one["authority"] == client.back.where and one["bytes_sent"] == 5
    assert one["dst_identity"].endswith("/sa/server") and one["peer_id"] == "server"
    assert two["src_identity"].endswith("/sa/client") and two["peer_id"] == "client" and two["dst"] == client.back.where
    assert one["stream_out"] == two["stream_in"] == 1 and one["age_us"] > 100000
    assert "outbound" in one["chain"] and "far" in one["chain"] and one["mover"]
    assert client.ctl("conn", "show", one["id"])["id"] == one["id"]
    assert "sa/server" in client.ctl("conn", "show", one["id"], as_json=False)


@pytest.mark.rows("11: aditctl")
def test_conn_kill(w, node, pair):
    client, _ = pair
    s = w.app(client.listen)
    s.sendall(b"x")
    client.until("streams", 1)
    row, = client.rows("conn")
    client.ctl("conn", "kill", row["id"], as_json=False)
    lib.is_reset(s)
    client.back.conn().finished()
    assert client.back.conn().end == "rst"
    r = client.ctl("conn", "kill", row["id"], as_json=False, check=False)
    assert not isinstance(r, str) and r.returncode != 0, "it is gone"


@pytest.mark.rows("11: aditctl")
def test_log_level(w, node, pair):
    client, _ = pair
    client.ctl("log-level", "all=debug", as_json=False)
    before = len(client.log())
    traffic(w, node, client)
    assert len(client.log()) > before, "debug says more"
    assert "debug" in json.dumps(client.ctl("log-level"))
    client.ctl("log-level", "all=warn", as_json=False)
    r = client.ctl("log-level", "all=loud", as_json=False, check=False)
    assert r.returncode != 0 and "loud" in r.stdout + r.stderr


@pytest.mark.rows("11: aditctl", "2: check")
def test_config_check(w, node, pair, tmp_path):
    client, _ = pair
    assert client.ctl("config", "check", client.config_path, as_json=False) is not None
    bad = tmp_path / "bad.yaml"
    bad.write_text("listeners:\n  - name: a\n    type: tcp\n    adress: 127.0.0.1:1\n")
    r = client.ctl("config", "check", str(bad), as_json=False, check=False)
    assert r.returncode == 1
    assert f"{bad}:4:5" in r.stdout + r.stderr and "adress" in r.stdout + r.stderr and "address" in r.stdout + r.stderr


@pytest.mark.rows("11: aditctl")
def test_aditctl_says_what_is_wrong(w, node, tmp_path):
    run = subprocess.run([f"{lib.BUILD}/aditctl", "-s", str(tmp_path / "none.sock"), "status"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         text=True, check=False)
    assert run.returncode == 3 and "none.sock" in run.stderr
    run = subprocess.run([f"{lib.BUILD}/aditctl", "bogus"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    assert run.returncode == 2 and "bogus" in run.stderr
    for argv in (["--help"], ["--version"]):
        run = subprocess.run([f"{lib.BUILD}/aditctl", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
        assert run.returncode == 0 and run.stdout
        run = subprocess.run([f"{lib.BUILD}/aditd", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
        assert run.returncode == 0 and run.stdout


@pytest.mark.rows("11")
def test_admin_api_by_curl(w, node, pair):
    client, _ = pair

    def curl(path, *more):
        r = subprocess.run(["curl", "-sS", "--max-time", "5", "-w", "\n%{http_code}", "--unix-socket", client.socket, f"http://adit{path}", *more],
                           stdout=subprocess.PIPE, text=True, check=True)
        body, code = r.stdout.rsplit("\n", 1)
        return int(code), body
    code, body = curl("/v1")
    assert code == 200
    for p in json.loads(body)["paths"]:
        if p["method"] == "GET" and not p["path"].endswith(("ID", "NAME")):
            code, body = curl(p["path"])
            asks = p["path"] in ("/v1/explain", "/v1/trace")  # nothing to answer without a question
            assert code == (400 if asks else 200) and body, p
    assert curl("/v1/nothing")[0] == 404
    assert curl("/v1/status", "-X", "DELETE")[0] == 405
    assert curl("/v1/conns?bogus=1")[0] == 400
    assert curl("/v1/conns/x")[0] in (400, 404)
    assert curl("/v1/log-level", "-X", "PUT", "-d", "{broken")[0] == 400
    assert oct(os.stat(client.socket).st_mode & 0o777) == "0o660"


@pytest.mark.rows("A28")
def test_adopting_is_a_small_change(w, node):
    """from a plain TCP listener to a tunnelled one: a few lines"""
    plain = {"listeners": [lib.tcp("db", node.at(), "db")], "clusters": [lib.cluster("db", node.at())]}
    tunnelled = {"identities": [w.certs.identity("client")], "listeners": plain["listeners"],
                 "clusters": [lib.far("db", node.at(), authority="10.0.0.7:5432")]}
    import difflib
    import yaml
    a, b = (yaml.safe_dump(x, sort_keys=False).splitlines() for x in (plain, tunnelled))
    changed = [x for x in difflib.ndiff(a, b) if x[0] in "+-"]
    assert len(changed) <= 14, changed
    w.agent(node, "plain", plain).stop()
    w.agent(node, "tunnelled", tunnelled).stop()


@pytest.mark.rows("11")
def test_log_formats(w, node):
    back = w.backend(node)
    client, server = w.pair(back, client={"log": {"format": "json"}}, server={"log": {"format": "journal"}})
    lib.echo(w.app(client.listen))
    client.stop()
    server.stop()
    lines = client.log().strip().splitlines()
    assert lines and all(isinstance(json.loads(x), dict) for x in lines)
    assert all(re.match(r"<[0-7]>", x) for x in server.log().strip().splitlines())
