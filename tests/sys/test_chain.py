"""Chained listeners inside one agent, and CONNECT handed on from agent to agent."""
import re
import subprocess
import time

import pytest
import yaml

import h2raw
import lib


def stages(n, last, prefix="stage"):
    """n internal listeners one behind the other; Return: (what leads to the first, the listeners)"""
    names = [f"{prefix}{i}" for i in range(1, n + 1)]
    return "@" + names[0], [lib.internal(name, "@" + names[i + 1] if i + 1 < n else last) for i, name in enumerate(names)]


def four_forms(w, node, form, depth, echo):
    """an agent whose connections pass `depth` internal listeners; Return: (agent, function that talks through it, listener names)"""
    cert = {"identities": [w.certs.identity("server")]}
    if form == "tcp-tunnel":
        tun, listen = node.at(), node.at()
        w.agent(node, "far", {**cert, "listeners": [lib.tunnel("inbound", tun, "app")], "clusters": [lib.cluster("app", echo.where)]})
        first, inner = stages(depth, "far")
        a = w.agent(node, "near", {"identities": [w.certs.identity("client")], "listeners": [lib.tcp("entry", listen, first), *inner],
                                   "clusters": [lib.far("far", tun, authority="a:1")]})
    elif form == "tunnel-tcp":
        tun, listen = node.at(), node.at()
        first, inner = stages(depth, "app")
        a = w.agent(node, "far", {**cert, "listeners": [lib.tunnel("entry", tun, first), *inner], "clusters": [lib.cluster("app", echo.where)]})
        w.agent(node, "near", {"identities": [w.certs.identity("client")], "listeners": [lib.tcp("outbound", listen, "far")],
                               "clusters": [lib.far("far", tun, authority="a:1")]})
    elif form == "tcp-tcp":
        listen = node.at()
        first, inner = stages(depth, "app")
        a = w.agent(node, "near", {"listeners": [lib.tcp("entry", listen, first), *inner], "clusters": [lib.cluster("app", echo.where)]})
    else:  # tunnel-tunnel: the CONNECT goes on
        tun, mid, listen = node.at(), node.at(), node.at()
        w.agent(node, "far", {**cert, "listeners": [lib.tunnel("inbound", tun, "app")], "clusters": [lib.cluster("app", echo.where)]})
        first, inner = stages(depth, ">next")
        a = w.agent(node, "middle", {"identities": [w.certs.identity("green")], "listeners": [lib.tunnel("entry", mid, first), *inner],
                                     "clusters": [lib.far("next", tun)]})
        w.agent(node, "near", {"identities": [w.certs.identity("client")], "listeners": [lib.tcp("outbound", listen, "mid")],
                               "clusters": [lib.far("mid", mid, authority="echo.shop:80")]})
    return a, listen


FORMS = ["tcp-tunnel", "tunnel-tcp", "tcp-tcp", "tunnel-tunnel"]


@pytest.mark.san
@pytest.mark.rows("A15", "A14", "A17", "A16")
@pytest.mark.parametrize("form", FORMS)
def test_four_forms_three_deep(w, node, form):
    """bytes and half-close pass; each listener writes its own record with the outermost leg's principal and addresses"""
    back = w.backend(node, lib.serve_count)
    a, listen = four_forms(w, node, form, 3, back)
    s = w.app(listen)
    me = "%s:%d" % s.getsockname()
    data = lib.pattern(500000)
    s.sendall(data)
    back.conn()
    row, = a.rows("conn")
    for name in ("entry", "stage1", "stage2", "stage3"):
        assert name in str(row["chain"])
    lib.fin(s)
    got, end = lib.recv_all(s)
    assert end == "fin" and int(got.split()[0]) == len(data)
    rows = a.access(4)
    assert len(rows) == 4, "one record per listener"
    assert {r["listener"] for r in rows} == {"entry", "stage1", "stage2", "stage3"}
    by = {r["listener"]: r for r in rows}
    for name, r in by.items():
        assert r["bytes_sent"] == len(data) and r["bytes_recv"] == len(got)
        assert r["src_addr"] == by["entry"]["src_addr"]
        assert r.get("outer_listener", "entry") == "entry"
        if form.startswith("tunnel"):
            assert r["src_identity"] == "spiffe://cluster.local/ns/test/sa/client", name
        else:
            assert r["src_addr"] == me
    rows = {r["name"]: r for r in a.rows("listener")}
    assert all(rows[n]["accepted"] == 1 for n in by)


@pytest.mark.rows("A15", "A17")
def test_cluster_of_type_internal(w, node):
    """a cluster may lead to an internal listener"""
    back = w.backend(node)
    listen = node.at()
    a = w.agent(node, "one", {"listeners": [lib.tcp("entry", listen, "inside"), lib.internal("stage", "app")],
                              "clusters": [{"name": "inside", "type": "internal", "listener": "stage"}, lib.cluster("app", back.where)]})
    s = w.app(listen)
    lib.echo(s)
    s.close()
    assert {r["listener"] for r in a.access(2)} == {"entry", "stage"}


@pytest.mark.rows("A13", "A14", "A17")
def test_inner_routes_see_the_outer_leg(w, node):
    """a route of the third listener matches on metadata that came in with the CONNECT"""
    blue, red = w.backend(node, lib.serve_name("blue")), w.backend(node, lib.serve_name("red"))
    tun = node.at()
    w.agent(node, "server", {"listeners": [
        lib.tunnel("entry", tun, "@one", tls=False), lib.internal("one", "@two"),
        lib.internal("two", routes=[lib.route("blue", headers=[{"name": "x-tenant", "exact": "blue"}]), lib.route("red", authority="red:1")])],
        "clusters": [lib.cluster("blue", blue.where), lib.cluster("red", red.where)]})
    h = w.h2_client(node, tun, None)
    assert h.body(h.opened("a:1", [("x-tenant", "blue")]), 5) == b"blue\n"
    assert h.body(h.opened("red:1"), 4) == b"red\n"
    assert h.status(h.connect("a:1")) == 404
    rows = w.agents[0].access(1, status=404)
    assert rows and all("NR" in r["response_flags"] for r in rows)


@pytest.mark.rows("A14")
def test_access_log_can_be_off_for_a_stage(w, node):
    back = w.backend(node)
    listen = node.at()
    a = w.agent(node, "one", {"listeners": [lib.tcp("entry", listen, "@stage", access_log=False), lib.internal("stage", "app")],
                              "clusters": [lib.cluster("app", back.where)]})
    s = w.app(listen)
    lib.echo(s)
    s.close()
    a.access(1)
    time.sleep(0.2)
    assert [r["listener"] for r in a.access()] == ["stage"]


def check_config(node, directory, config):
    path = directory / "check.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    r = subprocess.run([f"{lib.BUILD}/aditd", "--check", str(path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=20,
                       check=False)
    return r.returncode, r.stdout, str(path)


@pytest.mark.rows("A14", "2: check")
@pytest.mark.parametrize("length", [1, 2, 5])
def test_loop_is_found(node, tmp_path, length):
    ring = [lib.internal(f"s{i}", f"@s{(i + 1) % length}") for i in range(length)]
    code, out, path = check_config(node, tmp_path, {"listeners": [lib.tcp("entry", "127.0.0.1:1", "@s0"), *ring]})
    assert code != 0 and "loop" in out and "s0" in out
    assert re.search(re.escape(path) + r":\d+:\d+", out)


@pytest.mark.rows("A14", "2: check")
def test_loop_through_a_cluster_and_a_route_is_found(node, tmp_path):
    code, out, _ = check_config(node, tmp_path, {
        "listeners": [lib.tcp("entry", "127.0.0.1:1", "@one"), lib.internal("one", "app", routes=[lib.route("back", port=80)])],
        "clusters": [{"name": "back", "type": "internal", "listener": "one"}, lib.cluster("app", "127.0.0.1:2")]})
    assert code != 0 and "loop" in out


@pytest.mark.rows("A14", "2: check")
def test_good_and_too_long_chains(node, tmp_path):
    def chain(n):
        first, inner = stages(n, "app")
        return {"listeners": [lib.tcp("entry", "127.0.0.1:1", first), *inner], "clusters": [lib.cluster("app", "127.0.0.1:2")]}
    assert check_config(node, tmp_path, chain(15))[0] == 0
    code, out, _ = check_config(node, tmp_path, chain(16))
    assert code != 0 and "16" in out


@pytest.mark.san
@pytest.mark.rows("A03")
def test_forward_per_route(w, node):
    """one route terminates, the other hands the CONNECT on; the second arrives at the next hop as CONNECT"""
    back = w.backend(node)
    far = w.h2_server(node, tls=None)
    tun = node.at()
    a = w.agent(node, "middle", {"listeners": [lib.tunnel("inbound", tun, tls=False, routes=[
        lib.route("app", authority={"suffix": ".here:80"}), lib.route(">next", authority={"suffix": ".there:80"})])],
        "clusters": [lib.cluster("app", back.where), lib.far("next", far.where, tls=False)]})
    h = w.h2_client(node, tun, None)
    sid = h.opened("x.here:80")
    h.data(sid, b"terminated")
    assert h.body(sid, 10) == b"terminated"
    two = h.connect("x.there:80", [("x-tenant", "blue"), ("baggage", "k8s.namespace.name=shop")])
    n = far.accept()
    got, = n.requests(1)
    head = dict(n.answers[got])
    assert head[":method"] == "CONNECT" and head[":authority"] == "x.there:80"
    h.drain(0.2)
    assert two not in h.answers, "the 200 waits for the next hop's"
    n.accept(got)
    assert h.status(two) == 200
    h.data(two, b"forwarded", end=True)
    assert n.whole(got) == b"forwarded"
    n.data(got, b"and back", end=True)
    assert h.whole(two) == b"and back"
    h.rst(sid)
    rows = a.access(2)
    assert {r["hbone_addr"] for r in rows} == {"x.here:80", "x.there:80"}


@pytest.mark.rows("A03", "A23")
@pytest.mark.parametrize("status", [401, 404, 503])
def test_forwarded_refusal(w, node, status):
    """the next hop's refusal comes back as a refusal"""
    far = w.h2_server(node, tls=None)
    tun = node.at()
    w.agent(node, "middle", {"listeners": [lib.tunnel("inbound", tun, ">next", tls=False)], "clusters": [lib.far("next", far.where, tls=False)]})
    h = w.h2_client(node, tun, None)
    sid = h.connect("a:1")
    n = far.accept()
    got, = n.requests(1)
    n.accept(got, status, end=True)
    assert h.status(sid) == status


@pytest.mark.rows("A03", "A22")
@pytest.mark.parametrize("code", [h2raw.CANCEL, h2raw.CONNECT_ERROR, h2raw.INTERNAL_ERROR])
def test_forwarded_resets(w, node, code):
    far = w.h2_server(node, tls=None)
    tun = node.at()
    w.agent(node, "middle", {"listeners": [lib.tunnel("inbound", tun, ">next", tls=False)], "clusters": [lib.far("next", far.where, tls=False)]})
    h = w.h2_client(node, tun, None)
    sids = [h.connect("a:1") for _ in range(2)]
    n = far.accept()
    got = n.requests(2)
    for g in got:
        n.accept(g)
    for s in sids:
        h.status(s)
    n.rst(got[0], code)
    h.seen(lambda: sids[0] in h.resets)
    assert h.resets[sids[0]] != h2raw.NO_ERROR
    h.rst(sids[1], code)
    n.seen(lambda: got[1] in n.resets)
    assert n.resets[got[1]] != h2raw.NO_ERROR


@pytest.mark.rows("A03", "A04", "A19")
def test_three_agents(w, node):
    """client -> forwarding agent -> server: two tunnels carry everything; megabytes both ways"""
    back = w.backend(node)
    tun, mid, listen = node.at(), node.at(), node.at()
    w.agent(node, "server", {"identities": [w.certs.identity("server")], "listeners": [lib.tunnel("inbound", tun, "app")],
                             "clusters": [lib.cluster("app", back.where)]})
    m = w.agent(node, "middle", {"identities": [w.certs.identity("green")], "listeners": [lib.tunnel("inbound", mid, ">next")],
                                 "clusters": [lib.far("next", tun)]})
    w.agent(node, "client", {"identities": [w.certs.identity("client")], "listeners": [lib.tcp("outbound", listen, "mid")],
                             "clusters": [lib.far("mid", mid, authority="a:1")]})
    apps = [w.app(listen) for _ in range(20)]
    for s in apps:
        lib.echo(s)
    assert m.stat("tunnels_in") == 1 and m.stat("tunnels_out") == 1
    import threading
    data = lib.pattern(8 << 20)
    t = threading.Thread(target=lambda: (apps[0].sendall(data), lib.fin(apps[0])), daemon=True)
    t.start()
    got, end = lib.recv_all(apps[0])
    assert got == data and end == "fin"


def calls_per_message(w, node, form, depth, messages):
    back = w.backend(node)
    a, listen = four_forms(w, node, form, depth, back)
    s = w.app(listen)
    for _ in range(50):
        lib.echo(s, b"x" * 64)
    before = a.stats()
    for _ in range(messages):
        lib.echo(s, b"x" * 64)
    after = a.stats()
    calls = {k: (after[k] - before[k]) / messages for k in ("syscalls_recv", "syscalls_send", "syscalls_epoll_wait", "syscalls_other")}
    copied = (after["copied_bytes"] - before["copied_bytes"]) / messages
    s.close()
    return calls, copied


@pytest.mark.limit(60)
@pytest.mark.rows("A18", "4: chain cost")
@pytest.mark.parametrize("form", FORMS)
def test_a_hop_costs_nothing(w, node, form):
    """system calls and copied bytes per message are equal with 1 and with 4 chained listeners"""
    n = 1000 // lib.SLOW
    one, copied1 = calls_per_message(w, node, form, 1, n)
    four, copied4 = calls_per_message(w, node, form, 4, n)
    print(form, one, four, copied1, copied4)
    for k in ("syscalls_recv", "syscalls_send", "syscalls_other"):
        assert four[k] <= one[k] + 0.05, (k, one, four)
    assert sum(four.values()) <= sum(one.values()) * 1.05 + 0.05
    assert copied4 <= copied1 * 1.01 + 1


@pytest.mark.limit(60)
@pytest.mark.skipif(bool(lib.SAN), reason="sanitizers make system calls of their own")
@pytest.mark.rows("A18", "4: chain cost")
def test_a_hop_costs_nothing_says_strace(w, node):
    """the kernel's view of the same: strace counts what the counters say"""
    got = {}
    for depth in (1, 4):
        back = w.backend(node)
        a, listen = four_forms(w, node, "tunnel-tcp", depth, back)
        s = w.app(listen)
        for _ in range(20):
            lib.echo(s, b"x" * 64)
        out = a.dir + "/strace"
        p = subprocess.Popen(["strace", "-f", "-c", "-o", out, "-p", str(a.pid)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        line = p.stderr.readline()
        assert "attach" in line, line
        n, before = 300, a.stats()
        for _ in range(n):
            lib.echo(s, b"x" * 64)
        after = a.stats()
        p.terminate()
        p.wait(10)
        with open(out, encoding="utf-8") as f:
            table = {v[-1]: int(v[3]) for v in map(str.split, f) if len(v) >= 5 and v[3].isdigit()}
        data = sum(v for k, v in table.items() if re.fullmatch(r"(recv|send)(from|to|msg)|p?(read|write)v?2?|splice", k))
        said = sum(after[k] - before[k] for k in ("syscalls_recv", "syscalls_send"))
        got[depth] = data / n
        assert data >= said * 0.95, (table, said)
        s.close()
    print("data system calls per round trip", got)
    assert got[4] <= got[1] + 0.1
