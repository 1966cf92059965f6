"""Why: what a connection would meet, what it met, who was denied; told by aditctl, and compared with what really happens."""
import os
import random
import subprocess
import time

import pytest

import h2raw
import lib
from app import cgroup_mount
from test_capture import cell, pin  # noqa: F401  pylint: disable=unused-import
from test_local import here, one_agent  # noqa: F401  pylint: disable=unused-import
from test_policy import allow, deny
from test_proxy import tlv, v2
from test_wire import client_agent, server_agent

SHOP = "spiffe://cluster.local/ns/shop/sa/web"
MIB = 1 << 20


def explain(a, **kw):
    """GET /v1/explain by aditctl; header and metadata are lists"""
    argv = []
    for k, v in kw.items():
        for one in v if isinstance(v, list) else [v]:
            if one is not None:
                argv += ["--" + k, one]
    return a.ctl("policy", "explain", *argv)


def told(a, **fields):
    """the one denial with these fields"""
    def find():
        return [d for d in a.ctl("denied", "-n", 0)["denied"] if all(d[k] == v for k, v in fields.items())]
    lib.wait_for(find, lambda: f"a denial {fields} among {a.ctl('denied')['denied']}")
    row, = find()
    return row


def why(a, row):
    """runs the command that the row names; Return: its JSON"""
    words = subprocess.run(["sh", "-c", f"printf '%s\\n' {row['explain']}"], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    assert words[0] == "aditctl"
    return a.ctl(*words[1:])


def outcome(row):
    """verdict of an access record"""
    return {"NR": "no-route", "UAEX": "denied", "-": "go", "UF": "go", "DC": "go", "UC": "go"}[row["response_flags"]]


# ---- the prediction is what happens

def crossing(w, node, seed):
    """routes, chains, policies with everything that can be looked at"""
    back = w.backend(node)
    entry, tun = node.at(), node.at()
    rules = [{"namespace": ["shop", "ops"]}, {"source_ip": "10.9.0.0/16"}, {"not_source_ip": "10.0.0.0/8"}, {"destination_port": "6000-7000"},
             {"authority": "*.prod"}, {"metadata": {"x-team": "shop"}}, {"not_metadata": {"x-team": "*"}}, {"listener": "entry"},
             {"principal": "*/sa/web", "not_destination_ip": "10.1.0.0/16"}, {"destination_ip": ["10.1.0.0/16", "127.0.0.1"]},
             {"metadata": {"k8s.cluster.name": "a*"}}, {"trust_domain": "cluster.local"}]
    rnd = random.Random(seed)
    policies = []
    for i in range(8):
        scope = rnd.choice([{}, {}, {"listeners": [rnd.choice(["entry", "inbound", "audit"])]}, {"clusters": [rnd.choice(["app", "any"])]}])
        action = rnd.choice([allow, deny, deny])
        some = rnd.sample(rules, rnd.choice([1, 1, 2, 3]))
        policies.append(action(f"p{i}", *some, **({"scope": scope} if scope else {}), **({"dry_run": True} if rnd.random() < .2 else {})))
    routes = [lib.route("@audit", "by-port", port=6379), lib.route("app", "by-net", cidr="10.1.0.0/16"),
              lib.route("app", "by-name", authority={"suffix": ".prod"})]
    a = w.agent(node, "server", {
        "workers": 2,
        "listeners": [
            lib.tcp("entry", entry, "any", proxy_protocol=True, proxy_from=["127.0.0.0/8"], routes=routes),
            lib.tunnel("inbound", tun, tls=False, routes=[*routes, lib.route("app", "by-team", headers=[{"name": "x-team", "exact": "shop"}]),
                                                         lib.route("any", "local", cidr="127.0.0.0/8")]),
            lib.internal("audit", "app", routes=[lib.route("any", "old", authority={"prefix": "10.2"})])],
        "clusters": [lib.cluster("app", back.where), lib.anywhere("any", ["127.0.0.0/8"])],
        "policies": policies, "limits": {"recent": 4096}})
    a.entry, a.tun, a.back = entry, tun, back
    return a


def made(w, node, a, rnd, port):
    """a connection at random; Return: how aditctl is asked for it"""
    src = f"{rnd.choice(['10.9.0.7', '10.0.0.7', '192.0.2.1'])}:{port}"
    dst = rnd.choice(["10.1.0.5:80", "10.2.0.5:6379", "10.1.0.5:6379", "127.0.0.1:%d" % lib.split(a.back.where)[1], "10.3.0.1:6500", "198.51.100.1:443"])
    if rnd.random() < .5:
        who = rnd.choice([None, SHOP, "spiffe://cluster.local/ns/dev/sa/x", "spiffe://other.test/odd"])
        s = w.app(a.entry)
        s.sendall(v2(src, dst, tlv(0xd0, who.encode()) if who else b"") + b"x")
        s.close()
        return {"listener": "entry", "src": src, "dst": dst, "principal": who}
    name = rnd.choice([dst, dst, "db.prod:5432", "Cache.Prod:6379", "db.dev:80"])
    team, members = rnd.choice([None, "shop", "ops"]), rnd.choice([None, "k8s.cluster.name=alpha", "k8s.cluster.name=beta"])
    extra = [("forwarded", f'for="{src}"')] + ([("x-team", team)] if team else []) + ([("baggage", members)] if members else [])
    h = w.h2_client(node, a.tun, None)
    sid = h.connect(name, extra)
    h.status(sid)
    h.rst(sid)
    return {"listener": "inbound", "src": src, "authority": name, "header": [f"x-team={team}"] if team else [], "metadata": [members] if members else []}


@pytest.mark.limit(90)
@pytest.mark.rows("16", "gap 7")
@pytest.mark.parametrize("seed", [1, 2, 4, 5])
def test_the_prediction_is_what_happens(w, node, seed):
    seed = int(os.environ.get("TEST_SEED", seed))
    print("TEST_SEED", seed)
    a = crossing(w, node, seed)
    rnd = random.Random(seed)
    seen = set()
    for i in range(50):
        ask = made(w, node, a, rnd, 20000 + i)
        row = next(r for r in a.access(1, src_addr=ask["src"]) if r["listener"] == ask["listener"])
        said = explain(a, **ask)
        if said["verdict"] == "go" and said["cluster"]["name"] == "any" and said["cluster"]["goes_to"] is None:
            assert row["response_flags"] in ("DF", "DC"), (ask, row)  # a name that nobody resolves
            continue
        assert said["verdict"] == outcome(row), (ask, said, row)
        seen.add(said["verdict"])
        last = said["steps"][-1]
        if said["verdict"] == "go":
            assert said["cluster"]["name"] == row["cluster"], (ask, said, row)
        else:
            assert said["why"] == row["error"], (ask, said, row)
        if said["verdict"] == "denied" and "policies" in last and not last["policies"]["allowed"]:
            assert last["policies"]["by"] == row["policy"], (ask, said, row)
            decided = [p for p in last["policies"]["list"] if p["decided"]]
            assert [p["policy"] for p in decided] == ([] if row["policy"] == "default-deny" else [row["policy"].split("/")[0]])
        # every rule that did not match has its reasons, and no policy matches without a rule that does
        for step in said["steps"]:
            for p in step["policies"]["list"]:
                assert p["matched"] == any(r["matched"] for r in p["rules"])
                assert all(r["matched"] or r["failed"] for r in p["rules"])
    assert len(seen) > 1 or "TEST_SEED" in os.environ, "the configuration decides everything alike"


@pytest.mark.rows("16")
def test_the_short_way_is_foreseen(w, here):  # noqa: F811
    a = one_agent(w, here, w.backend(here), policies=[deny("late", {"destination_port": 81}, scope={"listeners": ["inbound"]})])
    said = explain(a, dst=a.listen)
    assert said["entry"]["how"] == "address" and said["verdict"] == "go"
    assert [s["at"] for s in said["steps"]] == ["listener", "cluster", "short-way", "listener", "cluster"]
    assert said["cluster"]["name"] == "app"
    lib.echo(w.app(a.listen))
    assert a.stat("shortcuts") == 1
    b = one_agent(w, here, w.backend(here), far={"authority": "echo.shop:81"}, policies=[deny("late", {"destination_port": 81}, scope={"listeners": ["inbound"]})])
    said = explain(b, dst=b.listen)
    assert said["verdict"] == "denied" and "late/rules/0" in said["why"] and said["steps"][-1]["name"] == "inbound"
    s = w.app(b.listen)
    lib.is_reset(s)
    assert why(b, told(b, kind="policy"))["end"]["why"] == said["why"]


@pytest.mark.rows("16", "20")
def test_tunnels_are_foreseen(w, node):
    """a new one is dialled, then there is one with room; a name is not resolved before somebody asks"""
    client, _ = w.pair(w.backend(node), pool={"max_tunnels": 1})
    said = explain(client, dst=client.listen)
    worker, = said["cluster"]["workers"]
    assert "a new tunnel is dialled" in worker["tunnel"] and worker["tunnels_open"] == 0
    assert said["cluster"]["identity"] == "spiffe://cluster.local/ns/test/sa/client"
    s = w.app(client.listen)
    lib.echo(s)
    worker, = explain(client, dst=client.listen)["cluster"]["workers"]
    tunnel, = client.tunnels("out")
    assert worker["tunnel_id"] == tunnel["id"] and f"tunnel {tunnel['id']}" in worker["tunnel"]
    assert worker["streams"] == 1 and worker["tunnels_open"] == 1


# ---- each kind of refusal

@pytest.mark.rows("16", "17", "gap 7")
def test_denied_by_policy(w, node):
    a = server_agent(w, node, clusters=[lib.cluster("app", w.backend(node).where)],
                     policies=[deny("no-client", {"namespace": "other"}, {"service_account": "client", "metadata": {"x-team": "shop"}})])
    h = w.h2_client(node, a.tunnel)
    for _ in range(5):
        assert h.status(h.connect("db.prod:5432", [("x-team", "shop")])) == 401
    row = told(a, kind="policy")
    assert row["count"] == 5 and row["policy"] == "no-client/rules/1" and row["listener"] == "inbound"
    assert row["src_identity"] == "spiffe://cluster.local/ns/test/sa/client" and row["authority"] == "db.prod:5432"
    said = why(a, row)
    assert said["state"] == "ended" and said["end"]["by"] == "adit" and said["end"]["flags"] == "UAEX" and not said["end"]["was_open"]
    assert said["end"]["policy"] == "no-client/rules/1" and said["end"]["why"] == row["why"]
    # its metadata is not remembered, and what it says now says so
    assert not said["metadata_known"] and said["now"]["verdict"] == "go"
    again = explain(a, listener="inbound", authority="db.prod:5432", principal=row["src_identity"], src=row["src"], header=["X-Team=shop"])
    assert again["verdict"] == "denied" and again["why"] == row["why"]
    rules = again["steps"][0]["policies"]["list"][0]["rules"]
    assert rules[0]["failed"] == ["namespace is 'test'; the rule wants other"] and rules[1]["matched"]


@pytest.mark.rows("16", "17")
def test_denied_for_its_identity(w, node, other_domain):
    a = server_agent(w, node, inbound={"accept": ["spiffe://cluster.local/ns/shop/*"]}, clusters=[lib.cluster("app", w.backend(node).where)])
    with pytest.raises((h2raw.Closed, OSError, TimeoutError)):
        h = w.h2_client(node, a.tunnel, timeout=2)
        h.status(h.connect("a:1"))
    row = told(a, kind="identity")
    assert row["src_identity"] == "spiffe://cluster.local/ns/test/sa/client" and row["conn"] == 0 and "accepted ids" in row["why"]
    said = why(a, row)
    assert said["verdict"] == "identity" and not said["identity"]["accepted"] and row["why"] in said["why"]


@pytest.mark.rows("16", "17")
def test_denied_later(w, node):
    """an open connection that a new policy ends is a denial, too"""
    a = server_agent(w, node, tls=False, clusters=[lib.cluster("app", w.backend(node).where)])
    h = w.h2_client(node, a.tunnel, None)
    h.opened("db.prod:5432")
    path = os.path.join(a.dir, "late.yaml")
    with open(path, "w", encoding="utf-8") as f:
        f.write("- { name: late, action: deny, rules: [ { authority: db.prod } ] }\n")
    a.ctl("policy", "apply", "-f", path)
    row = told(a, kind="policy")
    assert row["policy"] == "late/rules/0" and row["count"] == 1
    said = why(a, row)
    assert said["end"]["was_open"] and said["end"]["by"] == "adit" and said["end"]["policy"] == "late/rules/0"
    assert said["now"]["verdict"] == "denied"


def refused_no_route(w, node):
    a = server_agent(w, node, to=None, tls=False, clusters=[lib.cluster("app", w.backend(node).where)],
                     inbound={"routes": [lib.route("app", "only", port=80)]})
    h = w.h2_client(node, a.tunnel, None)
    assert h.status(h.connect("a:81")) == 404
    return a, "no-route", "no-route"


def refused_destination(w, node):
    a = server_agent(w, node, to="any", tls=False, clusters=[lib.anywhere("any", ["10.0.0.0/8"])])
    h = w.h2_client(node, a.tunnel, None)
    assert h.status(h.connect("127.0.0.1:81")) == 401
    return a, "destination", "denied"


def refused_limit(w, node):
    a = w.agent(node, "one", {"listeners": [lib.tcp("outbound", node.at(), "app")], "clusters": [lib.cluster("app", w.backend(node).where, max_connections=1)]})
    where = a.config["listeners"][0]["address"]
    lib.echo(w.app(where))
    lib.is_reset(w.app(where))
    return a, "limit", "limit"


def refused_proxy(w, node):
    a = w.agent(node, "edge", {"listeners": [lib.tcp("outbound", node.at(), "app", proxy_protocol=True, proxy_from=["127.0.0.1"])],
                               "clusters": [lib.cluster("app", w.backend(node).where)]})
    s = w.app(a.config["listeners"][0]["address"])
    s.sendall(b"GET / HTTP/1.1\r\n\r\n")
    lib.is_reset(s)
    return a, "proxy", "go"


@pytest.mark.rows("16", "17")
@pytest.mark.parametrize("make", [refused_no_route, refused_destination, refused_limit, refused_proxy])
def test_refused(w, node, make):
    a, kind, now = make(w, node)
    row = told(a, kind=kind)
    assert row["count"] == 1 and row["why"]
    said = why(a, row)
    assert said["end"]["why"] == row["why"] and not said["end"]["was_open"]
    assert said["now"]["verdict"] == now
    if now != "go":
        assert said["now"]["why"] == row["why"]


@pytest.mark.rows("16", "17")
def test_refused_at_the_door(w, node):
    """no connection was made of it: the command is another one"""
    a = w.agent(node, "one", {"listeners": [lib.tcp("outbound", node.at(), "app", max_connections=1)], "clusters": [lib.cluster("app", w.backend(node).where)]})
    where = a.config["listeners"][0]["address"]
    lib.echo(w.app(where))
    for _ in range(3):
        lib.is_reset(w.app(where))
    row = told(a, kind="limit")
    assert row["count"] == 3 and row["conn"] == 0 and row["src"].startswith("127.0.0.1:")
    assert why(a, row)["verdict"] == "limit"


@pytest.mark.rows("16", "17")
@pytest.mark.parametrize("who", ["listener", "cluster", "source"])
def test_too_often(w, node, who):
    rate = {"per_second": 1, "burst": 2}
    a = w.agent(node, "one", {"listeners": [lib.tcp("outbound", node.at(), "app", **({"rate": rate} if who == "listener" else {}))],
                              "clusters": [lib.cluster("app", w.backend(node).where, **({"rate": rate} if who == "cluster" else {}))],
                              **({"limits": {"sources": [{"name": "all", "rate": rate}]}} if who == "source" else {})})
    where = a.config["listeners"][0]["address"]
    assert explain(a, listener="outbound", src="127.0.0.1", dst=where)["verdict"] == "go"
    for _ in range(2):
        lib.echo(w.app(where))
    for _ in range(2):
        lib.is_reset(w.app(where))
    said = explain(a, listener="outbound", src="127.0.0.1", dst=where)
    row = told(a, kind="rate")
    assert row["count"] == 2 and "per second" in row["why"]
    assert said["verdict"] == "limit" and "per second" in said["why"], said["why"]
    time.sleep(1.1)
    assert explain(a, listener="outbound", src="127.0.0.1", dst=where)["verdict"] == "go"


@pytest.mark.rows("16", "17")
def test_denied_by_the_peer(w, node):
    client, server = w.pair(w.backend(node), server={"policies": [deny("nobody", {"listener": "*"})]})
    lib.is_reset(w.app(client.listen))
    here_, there = told(client, kind="peer"), told(server, kind="policy")
    assert why(client, here_)["end"]["by"] == "peer" and "denied" in here_["why"]
    assert there["policy"] == "nobody/rules/0" and why(server, there)["end"]["policy"] == "nobody/rules/0"


@pytest.mark.rows("17")
def test_a_flood_hides_nobody(w, node):
    a = server_agent(w, node, tls=False, clusters=[lib.cluster("app", w.backend(node).where)],
                     policies=[deny("rare", {"destination_port": 7}), deny("scan", {"not_destination_port": 7})])
    h = w.h2_client(node, a.tunnel, None)
    assert h.status(h.connect("a:7")) == 401
    for port in range(1000, 1400):
        assert h.status(h.connect(f"a:{port}")) == 401
    rows = a.ctl("denied", "-n", 0)["denied"]
    assert len(rows) == 256
    assert [r["policy"] for r in rows].count("rare/rules/0") == 1
    assert rows[0]["authority"] == "a:1399", "the newest first"
    # the first one has ended long ago, and is still explained: by what the denial says
    row, = [r for r in rows if r["policy"] == "rare/rules/0"]
    assert why(a, row)["end"]["policy"] == "rare/rules/0"
    assert a.ctl("denied", "--listener", "elsewhere")["matched"] == 0
    time.sleep(1.1)
    assert a.ctl("denied", "--since", "500ms")["matched"] == 0 and a.ctl("denied", "--since", "1h")["matched"] == 256


# ---- why it ended, why it is slow

def explained(a, n, what):
    """explanation of connection @n once it has a sentence with @what"""
    def look():
        said = a.ctl("conn", "explain", n)
        return said if any(what in s for s in said["slow"]) else None
    lib.wait_for(look, lambda: f"{what!r} in {a.ctl('conn', 'explain', n)}")
    return look()


@pytest.mark.rows("15", "16")
def test_endings(w, node):
    """who ended it, and how long each phase took"""
    back = w.backend(node)
    client, server = w.pair(back)
    s = w.app(client.listen)
    lib.echo(s)
    n = client.rows("conn")[0]["id"]
    live = client.ctl("conn", "explain", n)
    assert live["state"] == "open" and "end" not in live and live["now"]["verdict"] == "go"
    lib.rst(s)
    client.until("connections", 0)
    said = client.ctl("conn", "explain", n)
    assert said["state"] == "ended" and said["end"]["by"] == "src" and said["end"]["flags"] == "DC" and said["end"]["was_open"]
    assert said["bytes_sent"] == 5 and said["bytes_recv"] == 5
    p = said["phases"]
    assert 0 < p["answer_us"] <= p["open_us"] <= said["duration_us"] and p["queue_us"] > 0, "it waited for its tunnel"
    server.until("connections", 0)
    peer = server.ctl("conn", "explain", 1)
    assert peer["end"]["was_open"] and peer["phases"]["connect_us"] > 0
    dead = w.agent(node, "dead", {"listeners": [lib.tcp("outbound", node.at(), "app")], "clusters": [lib.cluster("app", node.at())]})
    lib.is_reset(w.app(dead.config["listeners"][0]["address"]))
    lib.wait_for(lambda: dead.stat("upstream_connect_failures"), "a failure")
    said = dead.ctl("conn", "explain", 1)
    assert said["end"]["flags"] == "UF" and "Connection refused" in said["end"]["why"] and said["end"]["by"] == "dst"
    assert dead.ctl("denied")["total"] == 0, "a backend that is away denies nobody"


@pytest.mark.rows("15", "16")
def test_an_application_that_does_not_read(w, node):
    """known at both agents: by the socket at its own, by the window at the other"""
    back = w.backend(node, lib.serve_source(64 * MIB))
    client, server = w.pair(back)
    s = w.app(client.listen)
    s.recv(1000)
    n = client.rows("conn")[0]["id"]
    said = explained(client, n, "application at the source does not read")
    assert not any("window" in x for x in said["slow"])
    assert said["tcp"]["source"]["application"]["rqueue"] > 0
    m = server.rows("conn")[0]["id"]
    explained(server, m, "flow control window towards the source is used up")
    text = client.ctl("conn", "explain", n, as_json=False)
    assert "does not read" in text and "unread" in text
    s.close()
    client.until("connections", 0)
    said = client.ctl("conn", "explain", n)
    assert any("ms bytes for the source waited because its application did not read," in x for x in said["slow"])


@pytest.mark.rows("15", "16")
def test_the_window_of_the_peer(w, node):
    far = w.h2_server(node, tls=None, settings={h2raw.INITIAL_WINDOW_SIZE: 1000})
    a = client_agent(w, node, far, False)
    s = w.app(a.listen)
    h = far.accept()
    h.auto_window = False
    h.requests(1)
    h.accept(1)
    s.sendall(lib.pattern(20000))
    h.body(1, 1000)
    n = a.rows("conn")[0]["id"]
    said = explained(a, n, "the peer agent's flow control window towards the destination is used up")
    assert said["phases"]["first_byte_us"] == 0
    time.sleep(0.1)
    h.update(1, 100000)
    h.body(1, 20000)
    said = explained(a, n, "ms bytes for the destination waited for the peer agent's flow control window")
    assert not any(x.startswith("now:") for x in said["slow"])


@pytest.mark.rows("15", "16", "20")
def test_waiting_for_a_tunnel(w, node):
    client, _ = w.pair(w.backend(node), pool={"max_tunnels": 1, "max_streams": 1})
    one = w.app(client.listen)
    lib.echo(one)
    two = w.app(client.listen)
    two.sendall(b"hello")
    lib.wait_for(lambda: len(client.rows("conn")) == 2, "two connections")
    n = next(r["id"] for r in client.rows("conn") if r["state"] == "opening")
    explained(client, n, "now: it waits for a tunnel with room")
    worker, = explain(client, dst=client.listen)["cluster"]["workers"]
    assert "all 1 tunnels are full" in worker["tunnel"] and worker["queued"] == 1
    time.sleep(0.15)
    one.close()
    assert lib.recv_exact(two, 5) == b"hello"
    said = explained(client, n, "ms for a tunnel with room")
    assert said["phases"]["queue_us"] >= 100000 and said["state"] == "open"


@pytest.mark.rows("15", "16")
def test_a_peer_that_answers_late(w, node):
    far = w.h2_server(node, tls=None)
    a = client_agent(w, node, far, False)
    s = w.app(a.listen)
    h = far.accept()
    h.requests(1)
    n = a.rows("conn")[0]["id"]
    explained(a, n, "now: it waits for the peer agent's answer")
    time.sleep(0.2)
    h.accept(1)
    said = explained(a, n, "ms to answer the CONNECT")
    assert said["phases"]["answer_us"] >= 200000
    s.close()


# ---- the commands

def test_for_people(w, node):
    a = server_agent(w, node, clusters=[lib.cluster("app", w.backend(node).where)],
                     policies=[allow("shop", {"namespace": "shop"}, {"metadata": {"x-team": "shop"}}), deny("try", {"listener": "*"}, dry_run=True)])
    text = a.ctl("policy", "explain", "--listener", "inbound", "--authority", "db.prod:80", "--principal", "spiffe://cluster.local/ns/test/sa/x",
                 "--header", "x-team=o\u0085ps", as_json=False)
    assert text.startswith("DENIED: no ALLOW policy at listener 'inbound' matches (default-deny)\n"), text
    for part in ("[+] identity spiffe://cluster.local/ns/test/sa/x is accepted", "[x] listener 'inbound'", "[-] allow shop",
                 "rule 0: namespace is 'test'; the rule wants shop", "rule 1: x-team is 'o??ps'", "(dry run)"):
        assert part in text, text
    assert "\u0085" not in text and "\x1b" not in text
    h = w.h2_client(node, a.tunnel)
    h.status(h.connect("db.prod:80"))
    row = told(a, kind="policy")
    text = a.ctl("denied", as_json=False)
    assert "default-deny" in text and row["explain"] in text
    text = a.ctl("conn", "explain", row["conn"], as_json=False)
    assert "ended by aditd (UAEX)" in text and "such a connection now (the peer's metadata is not remembered): DENIED" in text
    p = subprocess.Popen([os.path.join(lib.BUILD, "aditctl"), "-s", a.socket, "denied", "-f"], stdout=subprocess.PIPE, text=True)
    try:
        assert p.stdout.readline().startswith("TIME") and "db.prod:80" in p.stdout.readline()
        h.status(h.connect("other.prod:81"))
        assert "other.prod:81" in p.stdout.readline()
    finally:
        p.kill()
        p.wait()


@pytest.mark.parametrize("argv,said", [
    (["policy", "explain"], "want --dst"),
    (["policy", "explain", "--dst", "nonsense"], "want ADDRESS:PORT or NAME:PORT"),
    (["policy", "explain", "--dst", "db:80", "--listener", "outbound"], "the name is not seen at listener 'outbound'"),
    (["policy", "explain", "--dst", "10.0.0.1:80", "--src", "nobody"], "want ADDRESS"),
    (["policy", "explain", "--dst", "10.0.0.1:80", "--listener", "nobody"], "there is no listener 'nobody'"),
    (["policy", "explain", "--dst", "10.0.0.1:80", "--listener", "inner"], "an internal one"),
    (["policy", "explain", "--authority", "db:80"], "no tunnel listener"),
    (["policy", "explain", "--dst", "10.0.0.1:80", "--header", "novalue"], "want NAME=VALUE"),
    (["conn", "explain", "4711"], "neither live nor remembered"),
    (["conn", "explain", "x"], "is no connection id"),
    (["denied", "--since", "soon"], "want a time"),
    (["denied", "-f", "-o", "json"], "--follow is for people")])
def test_wrong_questions(w, node, argv, said):
    a = w.agent(node, "one", {"listeners": [lib.tcp("outbound", node.at(), "app"), lib.internal("inner", "app")],
                              "clusters": [lib.cluster("app", w.backend(node).where)]})
    r = a.ctl(*argv, check=False, as_json=False)
    assert not isinstance(r, str) and said in r.stderr, r


def test_where_it_enters(w, node):
    a = w.agent(node, "one", {"listeners": [lib.tcp("outbound", node.at(), "app"), lib.tunnel("inbound", node.at(), "app", tls=False)],
                              "clusters": [lib.cluster("app", w.backend(node).where)]})
    tcp, tun = (x["address"] for x in a.config["listeners"])
    assert explain(a, dst=tcp)["entry"] == {"listener": "outbound", "how": "address", "why": "it listens there", "note": None}
    assert explain(a, authority="db:80")["entry"]["how"] == "tunnel"
    assert explain(a, dst=tun)["entry"]["listener"] == "inbound"
    assert explain(a, dst="192.0.2.1:80")["verdict"] == "elsewhere"
    full = explain(a, dst=tcp)
    assert [m["mover"] for m in full["movers"]][-1] == "relay" and full["movers"][-1]["may"]
    assert full["cluster"]["endpoints"][0]["addresses"] == [a.config["clusters"][0]["endpoints"][0]]


@pytest.mark.skipif(not cgroup_mount(), reason="no cgroup2 is mounted")
def test_captured_and_steered_are_foreseen(cell):
    """as applications in the cgroup then find it"""
    node = cell.node
    node.run("ip", "route", "add", "local", "10.88.0.0/16", "dev", "lo")
    caught, steered = cell.backend("caught"), cell.backend("steered")
    direct = cell.backend("direct", address=cell.address("10.99.0.1"))
    p = direct.port
    a = cell.agent(cell.capture("caught", ports=[p, f"{p + 100}-{p + 103}"], except_ports=[p + 102], to=["10.99.0.0/16"], **{"except": ["10.99.7.0/24"]}),
                   lib.tcp("general", node.at(), "steered", steer={"to": ["10.88.0.0/16"], "ports": ["7000-7100"], "except_ports": [7050]}),
                   clusters=[lib.cluster("caught", caught.where), lib.cluster("steered", steered.where)])
    app = cell.app()
    for where, listener in ((direct.where, "outbound"), (f"10.99.1.1:{p + 103}", "outbound"), (f"10.99.1.1:{p + 102}", None), (f"10.99.7.1:{p}", None),
                            (f"10.98.0.1:{p}", None), ("10.88.3.4:7001", "general"), ("10.88.3.4:7050", None), ("10.88.3.4:6999", None)):
        said = explain(a, dst=where)
        assert said["entry"]["listener"] == listener, (where, said["entry"])
        if listener:
            assert app.ask(where)[0] == said["cluster"]["name"]
            assert cell.cgroup.path in said["entry"]["why"] or listener == "general"
        else:
            assert said["verdict"] == "elsewhere" and app.refused(where)


def test_nothing_remembered(w, node):
    """limits.recent: 0: denials are still told"""
    a = server_agent(w, node, tls=False, clusters=[lib.cluster("app", w.backend(node).where)], limits={"recent": 0}, policies=[deny("no", {"listener": "*"})])
    h = w.h2_client(node, a.tunnel, None)
    assert h.status(h.connect("db:1")) == 401
    row = told(a, kind="policy")
    assert why(a, row)["end"]["policy"] == "no/rules/0" and "phases" not in why(a, row)


def test_asked_while_connections_come_and_go(w, node):
    """each answer is whole, or says that it is over"""
    client, _ = w.pair(w.backend(node), client={"workers": 2, "limits": {"recent": 16}})
    apps = []
    for i in range(60):
        apps.append(w.app(client.listen))
        lib.echo(apps[-1])
        if i % 3 == 0:
            apps.pop(0).close()
        for r in client.rows("conn")[-2:]:
            said = client.ctl("conn", "explain", r["id"], check=False)
            assert said["id"] == r["id"] and said["now"]["verdict"] == "go" if isinstance(said, dict) else "neither live" in said.stderr
    assert explain(client, dst=client.listen)["verdict"] == "go"
