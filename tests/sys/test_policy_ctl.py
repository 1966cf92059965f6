"""aditctl policy: what each command does to what is in force, on disk and in the audit log; who may, and what a hostile client can do."""
import json
import os
import random
import re
import signal
import socket
import subprocess
import threading
import time

import pytest
import yaml

import lib
import policies
from policies import ANYBODY, allow, apply, audit, ctl, delete, deny, names

pytestmark = pytest.mark.rows("A26", "B22")
NOBODY = 65534


@pytest.fixture
def agent(w, node):
    """one TCP listener, one policy of its file"""
    back = w.backend(node)
    listen = node.at()
    a = w.agent(node, "agent", {"listeners": [lib.tcp("in", listen, "app")], "clusters": [lib.cluster("app", back.where)],
                                "policies": [deny("of-a-file", {"source_ip": "10.9.0.0/16"})],
                                "admin": {"mode": "0666"}})
    a.listen = listen
    return a


def state(a, name="policies.yaml"):
    return os.path.join(a.config["state_dir"], name)


def document(a):
    with open(state(a), encoding="utf-8") as f:
        return f.read()


@pytest.mark.san
def test_each_command(agent):
    a = agent
    assert names(a) == ["of-a-file"]
    got = apply(a, allow("us", {"source_ip": "127.0.0.0/8"}), deny("them", {"source_ip": "10.0.0.0/8"}))
    assert (got["generation"], got["added"], got["changed"], got["removed"]) == (1, ["us", "them"], [], [])
    assert names(a) == ["of-a-file", "us", "them"] and names(a, "applied") == ["us", "them"]
    lib.echo(lib.Node.connect(a.node, a.listen))
    # get writes what apply takes
    one = ctl(a, "policy", "get", "us")
    assert yaml.safe_load(one["yaml"]) == {"policies": [allow("us", {"source_ip": "127.0.0.0/8"})]} and one["generation"] == 1
    text = a.ctl("policy", "get", "us", as_json=False)
    assert ctl(a, "policy", "apply", "-f", "-", text=text)["unchanged"] == 2
    # diff and dry run change nothing
    for argv in (("policy", "diff", "-f", "-"), ("policy", "apply", "--dry-run", "-f", "-")):
        got = ctl(a, *argv, text=yaml.safe_dump([deny("us", {"source_ip": "127.0.0.0/8"})], sort_keys=False))
        assert got["changed"] == ["us"] and got["dry_run"] and got["generation"] == 1
        assert "- action: allow\n+ action: deny\n" in got["diff"]
    assert delete(a, "us", "--dry-run")["removed"] == ["us"]
    assert names(a, "applied") == ["us", "them"]
    # --prune
    assert apply(a, deny("them", {"source_ip": "10.0.0.0/8"}), argv=["--prune"])["removed"] == ["us"]
    assert delete(a, "them")["generation"] == 3
    assert names(a) == ["of-a-file"]
    # for people
    assert re.search(r"^of-a-file +deny +in force +1 +0 +0 +file$", a.ctl("policy", as_json=False), re.M)
    assert "generation 3; denied by default: 0" in a.ctl("policy", "list", as_json=False)


@pytest.mark.san
def test_what_is_refused(agent):
    """each with a sentence that says where, and nothing changed"""
    a = agent
    apply(a, deny("x", {"source_ip": "10.0.0.0/8"}))
    before = document(a)
    for text, said in (
            ("policies: [{name: y, action: deny, rules: [{listener: inn}]}]", r"stdin:1:55: .*there is no listener 'inn' \(did you mean 'in'\?\)"),
            ("policies:\n- {name: of-a-file, action: deny, rules: []}", r"policy 'of-a-file' stands in .*adit.yaml:\d+: change it there"),
            ("policies: [{name: y", r"stdin:2:1: did not find expected"),
            ("listeners: []", r"'listeners' cannot be applied: only policies can"),
            ("- {name: y, action: deny, rules: []}\n- {name: y, action: deny, rules: []}", "policy 'y' is here twice"),
            ("- {name: y, action: perhaps, rules: []}", "want allow or deny"),
            ("", "no body"), ("\x01", "control character")):
        assert re.search(said, ctl(a, "policy", "apply", "-f", "-", text=text, status=1)), text
    assert "stands in" in delete(a, "of-a-file", status=1)
    assert "there is no policy 'y'" in delete(a, "y", status=1)
    assert "there is no policy 'y'" in ctl(a, "policy", "get", "y", status=1)
    assert "generation 1 is in force, not 7" in delete(a, "x", "--if-generation", "7", status=1)
    assert document(a) == before and names(a) == ["of-a-file", "x"]
    assert delete(a, "x", "--if-generation", "1")["generation"] == 2


def test_kept_over_a_restart(agent):
    a = agent
    apply(a, deny("nobody", ANYBODY))
    lib.is_reset(a.node.connect(a.listen))
    a.stop()
    a.start()
    assert names(a) == ["of-a-file", "nobody"] and ctl(a, "policy", "list")["generation"] == 1
    lib.is_reset(a.node.connect(a.listen))
    assert os.stat(state(a)).st_mode & 0o777 == 0o600 and os.stat(a.config["state_dir"]).st_mode & 0o777 == 0o700
    delete(a, "nobody")
    a.stop()
    a.start()
    assert names(a) == ["of-a-file"]
    lib.echo(a.node.connect(a.listen))


def test_a_reload_keeps_them(agent):
    """and does not take what they need away"""
    a = agent
    apply(a, deny("x", {"listener": "in"}, scope={"clusters": "app"}, dry_run=True))
    a.config["policies"] = []
    a.write()
    a.ctl("reload")
    assert names(a) == ["x"]
    a.config["clusters"][0]["name"] = a.config["listeners"][0]["cluster"] = "other"
    a.write()
    r = a.ctl("reload", check=False)
    assert r.returncode == 1 and re.search(r"policies.yaml:\d+:\d+: .*there is no cluster 'app'", r.stderr), r.stderr
    assert names(a) == ["x"]
    delete(a, "x")
    a.ctl("reload")
    a.config["policies"] = [deny("y", ANYBODY, dry_run=True)]
    a.write()
    a.ctl("reload")
    assert "stands in" in apply(a, deny("y", ANYBODY), status=1)


@pytest.mark.slow
@pytest.mark.limit(120)
def test_killed_in_the_middle(agent):
    """kill -9 while policies are applied, again and again: the old set or the new one, never another"""
    a = agent
    rnd = random.Random(5)
    sets = [[deny(f"p{i}", {"source_ip": f"10.{k}.{i}.0/24"}) for i in range(40)] for k in range(2)]
    docs = [yaml.safe_dump({"policies": s}, sort_keys=False) for s in sets]
    apply(a, *sets[0])
    last = 1
    for n in range(50):
        done = threading.Event()

        def applier():
            k = 0
            while not done.is_set():
                k ^= 1
                subprocess.run([os.path.join(lib.BUILD, "aditctl"), "-s", a.socket, "policy", "apply", "-f", "-"], input=docs[k], text=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        t = threading.Thread(target=applier)
        t.start()
        time.sleep(rnd.random() * 0.06)
        a.kill()
        done.set()
        t.join()
        os.unlink(a.socket)
        a.start()
        v = ctl(a, "policy", "list")
        assert v["generation"] >= last, f"round {n}"
        last = v["generation"]
        assert names(a, "applied") == [p["name"] for p in sets[0]]
        held = yaml.safe_load(document(a))["policies"]
        assert held in sets, f"round {n}: a mixture"
    assert last > 10


@pytest.mark.parametrize("how", ["cut", "changed", "empty", "readable by others only"])
def test_damage_stops_the_start(agent, how):
    """deny on doubt, with a way out"""
    a = agent
    apply(a, deny("nobody", ANYBODY))
    a.stop()
    path = state(a)
    text = document(a)
    if how == "readable by others only":
        os.chmod(path, 0o666)
    else:
        with open(path, "w", encoding="utf-8") as f:
            f.write({"cut": text[:-20], "changed": text.replace("deny", "allow"), "empty": ""}[how])
    a.start(wait=False)
    assert a.proc.wait(10 * lib.SLOW) == 1
    assert ("can be written by others" if how[0] == "r" else "is damaged") in a.log() and path in a.log()
    os.chmod(path, 0o600)
    os.makedirs(os.path.join(a.dir, "conf.d"))
    os.rename(path, os.path.join(a.dir, "conf.d", "rescued.yaml"))  # the first way of docs/POLICY.md
    if how in ("changed", "readable by others only"):
        a.start()
        assert names(a) == ["of-a-file", "nobody"]
    else:
        a.proc = None


@pytest.mark.parametrize("how", ["a file", "none", "not ours"])
def test_without_a_state_folder(w, node, how):
    """changes are refused, and nothing else suffers"""
    back = w.backend(node)
    listen = node.at()
    d = os.path.join(str(w.dir), "state")
    if how == "a file":
        with open(d, "w", encoding="utf-8"):
            pass
    elif how == "not ours":
        os.mkdir(d)
        os.chmod(d, 0o777)
    a = w.agent(node, "agent", {"listeners": [lib.tcp("in", listen, "app")], "clusters": [lib.cluster("app", back.where)],
                                "state_dir": "none" if how == "none" else d})
    said = apply(a, deny("x", ANYBODY), status=1)
    assert {"a file": "is no folder", "none": "no state_dir is configured", "not ours": "can be written by others"}[how] in said
    lib.echo(w.app(listen))
    a.ctl("log-level", "info")
    a.ctl("reload")
    assert names(a) == []


# ---- who

@pytest.mark.san
def test_audit(agent):
    """one line per attempt, with who and what came of it"""
    a = agent
    apply(a, deny("x", {"source_ip": "10.0.0.0/8"}))
    apply(a, deny("of-a-file", ANYBODY), status=1)
    assert "only root" in apply(a, deny("y", ANYBODY), status=1, user=NOBODY)
    assert "only root" in delete(a, "x", status=1, user=NOBODY)
    assert "only root" in ctl(a, "audit", status=1, user=NOBODY)
    a.ctl("log-level", "debug")
    a.ctl("reload")
    s = a.node.connect(a.listen)
    lib.echo(s)
    conn, = a.rows("conn")
    a.ctl("conn", "kill", conn["id"], as_json=False)
    a.signal(signal.SIGHUP)
    lib.wait_for(lambda: len(audit(a)) == 8, lambda: audit(a))
    rows = audit(a)
    assert [(r["what"], r["result"], r["uid"]) for r in rows] == [
        ("POST /v1/policies", "done", 0), ("POST /v1/policies", "refused", 0), ("POST /v1/policies", "not allowed", NOBODY),
        ("DELETE /v1/policies/x", "not allowed", NOBODY), ("PUT /v1/log-level", "done", 0), ("POST /v1/reload", "done", 0),
        (f"DELETE /v1/conns/{conn['id']}", "done", 0), ("SIGHUP", "done", os.getuid())]
    assert rows[0]["comm"] == "aditctl" and rows[0]["added"] == ["x"] and rows[0]["generation"] == 1 and "+ name: x" in rows[0]["diff"]
    assert "stands in" in rows[1]["error"] and rows[2]["gid"] == NOBODY and rows[2]["pid"] > 0
    assert rows[4]["request"] == '{"all":"debug"}'
    assert rows[7]["pid"] == os.getpid()
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", r["time"]) for r in rows)
    assert len(audit(a, 3)) == 3
    # appended to after a restart; another file after rotation
    a.stop()
    a.start()
    apply(a, deny("z", ANYBODY, dry_run=True))
    with open(state(a, "audit.log"), encoding="utf-8") as f:
        lines = [json.loads(x) for x in f]
    assert len(lines) == 10 and lines[8]["what"] == "SIGTERM"
    os.rename(state(a, "audit.log"), state(a, "audit.log.1"))
    a.signal(signal.SIGUSR1)
    time.sleep(0.2)
    delete(a, "z")
    assert [r["what"] for r in audit(a)] == ["DELETE /v1/policies/z"]
    assert os.stat(state(a, "audit.log")).st_mode & 0o777 == 0o600


def test_strangers_do_not_fill_the_log(agent):
    a = agent
    for _ in range(40):
        delete(a, "of-a-file", status=1, user=NOBODY)
    apply(a, deny("x", ANYBODY, dry_run=True))
    rows = audit(a)
    assert len(rows) < 40 and rows[-1]["result"] == "done"
    assert sum(r["result"] == "not allowed" for r in rows) + sum(r.get("left_out", 0) for r in rows) == 40


def test_two_at_once(agent):
    """with --if-generation one of two wins each time; without it nothing is lost"""
    a = agent
    won = []

    def applier(who):
        for i in range(10):
            generation = ctl(a, "policy", "list")["generation"]
            r = subprocess.run([os.path.join(lib.BUILD, "aditctl"), "-s", a.socket, "policy", "apply", "-f", "-", "--if-generation", str(generation)],
                               input=yaml.safe_dump([deny(f"{who}-{i}", {"source_ip": "10.0.0.0/8"})]), text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, check=False)
            if r.returncode == 0:
                won.append(f"{who}-{i}")
            else:
                assert "is in force, not" in r.stderr
    threads = [threading.Thread(target=applier, args=(f"t{k}",)) for k in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    v = ctl(a, "policy", "list")
    assert v["generation"] == len(won) and sorted(names(a, "applied")) == sorted(won) and len(won) >= 10


# ---- many, and hostile

@pytest.mark.slow
@pytest.mark.limit(120)
def test_ten_thousand(agent):
    a = agent
    n = 10000 // lib.SLOW
    s = a.node.connect(a.listen)
    many = "policies:\n" + "".join(
        f"- {{name: p{i}, action: {'deny' if i % 2 else 'allow'}, scope: {{listeners: in}}, rules: [{{namespace: ns{i}, destination_port: {1000 + i % 5000}}},"
        f" {{principal: cluster.local/ns/a{i}/sa/b}}]}}\n" for i in range(n)) + "- {name: us, action: allow, rules: [{source_ip: 127.0.0.0/8}]}\n"
    begin = time.monotonic()
    got = ctl(a, "policy", "apply", "-f", "-", text=many)
    took = time.monotonic() - begin
    assert len(got["added"]) == n + 1 and got["diff_cut"]
    print(f"{n} policies, {len(many)} bytes: applied in {took:.2f} s")
    assert took < 10 * lib.SLOW
    lib.echo(s)
    begin = time.monotonic()
    assert ctl(a, "policy", "apply", "-f", "-", text=many)["unchanged"] == n + 1
    delete(a, "p7")
    print(f"the same again, and one deleted: {time.monotonic() - begin:.2f} s")
    assert len(names(a, "applied")) == n
    a.kill()
    os.unlink(a.socket)
    a.start()
    assert len(names(a, "applied")) == n
    lib.echo(a.node.connect(a.listen))


def raw(a):
    s = socket.socket(socket.AF_UNIX)
    s.connect(a.socket)
    s.settimeout(lib.TIMEOUT)
    return s


def answer(s):
    got = b""
    try:
        while b"\r\n\r\n" not in got:
            more = s.recv(65536)
            if not more:
                break
            got += more
    except ConnectionResetError:
        pass
    return got.split(b"\r\n")[0]


def test_hostile_bodies(agent):
    """too long, never ending, deep, and aliases that multiply: refused, while others are served"""
    a = agent
    with raw(a) as slow:
        slow.sendall(b"POST /v1/policies HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\npol")
        with raw(a) as s:
            s.sendall(b"POST /v1/policies HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n")
            assert b"413" in answer(s)
        with raw(a) as s:
            s.sendall(b"POST /v1/drain HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n")
            assert b"413" in answer(s), "long bodies are for policies"
        assert "nested deeper" in ctl(a, "policy", "apply", "-f", "-", text="[" * 100000, status=1)
        bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9))
        begin = time.monotonic()
        assert "too large" in ctl(a, "policy", "apply", "-f", "-", text=bomb, status=1)
        assert time.monotonic() - begin < 5 * lib.SLOW
        apply(a, deny("x", ANYBODY, dry_run=True))
    assert names(a) == ["of-a-file", "x"]
    rss = a.rss()
    big = "# " + "x" * (3 << 20) + "\npolicies: []\n"
    for _ in range(10):
        ctl(a, "policy", "apply", "-f", "-", text=big)
    if not lib.SAN:  # they keep what is freed
        assert a.rss() < rss + (24 << 20)


# ---- test, without a daemon

@pytest.mark.rows("demand 9")
def test_cases(tmp_path):
    p, c = tmp_path / "p.yaml", tmp_path / "c.yaml"
    p.write_text(yaml.safe_dump({"policies": [allow("shop", {"namespace": "shop"}, scope={"clusters": "db"})]}))
    ok = {"name": "shop may", "principal": "cluster.local/ns/shop/sa/web", "cluster": "db", "expect": "allow", "policy": "shop"}
    c.write_text(yaml.safe_dump({"cases": [ok, {"principal": "cluster.local/ns/x/sa/web", "cluster": "db", "expect": "deny", "policy": "default-deny"}]}))

    def run(*argv):
        return subprocess.run([os.path.join(lib.BUILD, "aditctl"), "policy", "test", "-f", str(p), str(c), *argv], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=20, check=False)
    r = run()
    assert r.returncode == 0 and r.stdout == "2 cases, 0 wrong\n"
    c.write_text(yaml.safe_dump({"cases": [ok, {"name": "all may", "cluster": "db", "expect": "allow"}]}))
    r = run()
    assert r.returncode == 1 and re.search(r"^all may +\d+ +WRONG +denied by default-deny at db +allowed$", r.stdout, re.M), r.stdout
    v = json.loads(run("-o", "json").stdout)
    assert v["failed"] == 1 and v["verdicts"][0]["policy"] == "shop/rules/0"
    c.write_text("cases: [{expect: maybe}]")
    r = run()
    assert r.returncode == 1 and f"{c}:1:18: cases[0].expect: 'maybe': want allow or deny" in r.stdout


def test_a_case_is_decided_as_a_connection(agent):
    """the same policies and facts, tried and in force"""
    a = agent
    policy = deny("loop", {"source_ip": "127.0.0.0/8", "listener": "in", "destination_port": int(a.listen.rsplit(":", 1)[1])}, scope={"clusters": "app"})
    path = os.path.join(a.dir, "cases.yaml")
    with open(path, "w", encoding="utf-8") as f:
        yaml.safe_dump({"cases": [{"source": "127.0.0.1", "destination": a.listen, "listener": "in", "cluster": "app", "expect": "deny", "policy": "loop"}]}, f)
    ctl(a, "policy", "test", "-f", "-", "-c", a.config_path, path, text=yaml.safe_dump([policy]))
    apply(a, policy)
    lib.is_reset(a.node.connect(a.listen))
    row, = a.access(1)
    assert row["policy"] == "loop/rules/0"
    assert policies.names(a, "applied") == ["loop"]
