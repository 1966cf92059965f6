"""The kernel plane as operators see it: what this node can do and why not more, by aditctl, the API and metrics; without privileges; switched off."""
import re
import subprocess

import pytest

import lib

MEANS = ["bypass", "evidence", "capture", "steer", "splice", "ktls", "netlink", "transparent"]
STATES = {"on", "off", "idle", "missing"}


def means(agent):
    return {m["name"]: m for m in agent.ctl("kernel")["means"]}


@pytest.fixture
def pair(w, node):
    back = w.backend(node)
    client, server = w.pair(back)
    client.back = back
    return client, server


@pytest.mark.san
@pytest.mark.rows("11: aditctl kernel", "39")
def test_every_means_is_explained(w, node, pair):
    """on with figures, or not on with a reason; the same in the table, in JSON, in metrics, and in one line of status"""
    client, _ = pair
    v = client.ctl("kernel")
    rows = means(client)
    assert v["release"] == subprocess.run(["uname", "-r"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    assert set(MEANS) <= set(rows)
    table = client.ctl("kernel", as_json=False)
    text = client.metrics()
    status = client.ctl("status")["kernel"]
    for m in rows.values():
        assert m["state"] in STATES, m
        assert m["detail"] if m["state"] == "on" else m["why"], m
        line, = re.findall(rf"^{m['name']} +{m['state']} +(.*)$", table, re.M)
        assert line == (f"{m['detail']} ({m['why']})" if m["why"] and m["detail"] else m["why"] or m["detail"])
        assert f'adit_kernel_feature{{name="{m["name"]}",state="{m["state"]}"}} 1' in text
        assert (m["name"] in status["on"]) == (m["state"] == "on") and (m["name"] in status["missing"]) == (m["state"] == "missing")
    assert rows["bypass"]["state"] == "off" and "enabled" in rows["bypass"]["why"]
    assert rows["capture"]["state"] == rows["steer"]["state"] == "idle"
    assert re.search(r"^kernel +\S+: ", client.ctl("status", as_json=False), re.M)


@pytest.mark.rows("39")
def test_mover_relay_switches_all_off(w, node):
    back = w.backend(node)
    client, server = w.pair(back, agent={"argv": ["--mover", "relay"]})
    s = w.app(client.listen)
    lib.echo(s, lib.pattern(300000))
    for a in (client, server):
        for name in ("bypass", "splice", "ktls"):
            m = means(a)[name]
            assert m["state"] == "off" and m["why"], m
        assert [r["mover"] for r in a.rows("conn")] == ["relay"]
        assert {r["engine"] for r in a.rows("tunnel")} == {"user"}


@pytest.mark.rows("39", "unprivileged start")
def test_without_privileges(w, node):
    """an agent without capabilities works, and says what it would need"""
    back = w.backend(node)
    where = node.at()
    a = w.agent(node, "plain", {
        "listeners": [lib.tcp("in", where, "app", capture={"cgroups": ["/adit-nobody"]})], "clusters": [lib.cluster("app", back.where)],
        "kernel": {"bypass": {"enabled": True, "allow": [{"cgroups": ["/"]}]}}}, user="nobody")
    lib.echo(w.app(where), lib.pattern(100000))
    rows = means(a)
    for name in ("bypass", "capture"):
        assert rows[name]["state"] == "missing", rows[name]
        assert re.search(r"CAP_|capabilit|privilege|permi|root", rows[name]["why"], re.I), rows[name]
    r = a.ctl("kernel", "bypass", "off", as_json=False, check=False)
    assert r.returncode == 1 and "no bypass to switch" in r.stderr


@pytest.mark.rows("41: kill switch", "A18")
def test_bypass_is_switched(w, node):
    """joined, switched off, on again: shown everywhere, and every byte arrives"""
    def serve(c):
        c.sock.settimeout(lib.TIMEOUT)  # polls, then reads: never asleep within recv()
        lib.serve_echo(c)
    back, where = w.backend(node, serve), node.at()
    a = w.agent(node, "agent", {
        "kernel": {"pin": "none", "bypass": {"enabled": True, "allow": [{"ports": [back.port]}]}},
        "listeners": [lib.tcp("in", where, "app")], "clusters": [lib.cluster("app", back.where)]})
    if means(a)["bypass"]["state"] != "on":
        pytest.skip("no bypass here: " + means(a)["bypass"]["why"])
    s = w.app(where)

    def trips(n):
        for i in range(n):
            lib.echo(s, lib.pattern(100, i))
        return a.ctl("conn", 1)
    row = trips(200)
    assert row["mover"] == "bypass" and row["mover_why"] is None and row["bypassed_sent"] > 10000 < row["bypassed_recv"], row
    assert "bypass, since the start: 1 joined" in a.ctl("kernel", as_json=False)
    a.ctl("kernel", "bypass", "off", as_json=False)
    was, row = row, trips(200)
    assert row["mover"] == "relay" and "switched off" in row["mover_why"] and row["bypassed_sent"] == was["bypassed_sent"], row
    assert "switched off 400" in row["bypass_refused"] and means(a)["bypass"]["state"] == "off"
    assert re.search(r"messages that went by TCP: .*switched off 400", a.ctl("kernel", as_json=False))
    assert 'adit_bypass_messages_refused_total{reason="switched off"} 400' in a.metrics()
    a.ctl("kernel", "bypass", "on", as_json=False)
    row = trips(200)
    assert row["mover"] == "bypass" and row["bypassed_sent"] > was["bypassed_sent"] + 10000, row
    a.logged("bypass switched off by an operator")


@pytest.mark.rows("11: aditctl tunnel", "10")
def test_tunnel_shows_engines(w, node, pair):
    """each direction has its engine; one that is not the kernel's says why"""
    client, server = pair
    lib.echo(w.app(client.listen), lib.pattern(100000))
    for a in (client, server):
        row, = a.rows("tunnel")
        assert row["engine_tx"] in ("ktls", "user") and row["engine_rx"] in ("ktls", "user"), row
        want = row["engine_tx"] if row["engine_tx"] == row["engine_rx"] else "mixed"
        assert row["engine"] == want
        if want != "ktls":
            assert row["why"] and len(row["why"]) > 8, row
        table = a.ctl("tunnel", as_json=False)
        shown = row["engine_tx"] if want != "mixed" else f"{row['engine_tx']}/{row['engine_rx']}"
        assert re.search(rf"^ID .* ENGINE +WHY$", table, re.M) and re.search(rf" {shown} +\S", table)


@pytest.mark.rows("11: aditctl conn", "3: sock_diag")
def test_conn_shows_tcp_of_both_ends(w, node, pair):
    """our sockets and the applications', with owner and unread bytes; null where a leg is a stream"""
    client, server = pair
    s = w.app(client.listen)
    lib.echo(s)
    one, = client.rows("conn")
    two, = server.rows("conn")
    assert one["mover"] in ("relay", "leg", "splice") and one["mover_why"], one
    tcp = client.ctl("conn", one["id"])["tcp"]
    me = "%s:%d" % s.getsockname()
    assert tcp["destination"] is None
    for end, local, remote in (("agent", client.listen, me), ("application", me, client.listen)):
        x = tcp["source"][end]
        assert (x["local"], x["remote"], x["state"]) == (local, remote, "established")
        assert x["received_bytes"] == 5 and x["rtt_us"] > 0 and x["congestion"] and x["inode"]
    s.sendall(b"")
    tcp = server.ctl("conn", "show", two["id"])["tcp"]
    assert tcp["source"] is None
    assert tcp["destination"]["agent"]["remote"] == tcp["destination"]["application"]["local"] == client.back.where
    table = client.ctl("conn", one["id"], as_json=False)
    assert re.search(rf"^source, its end +{me} > {client.listen}, established, uid 0$", table, re.M), table
    assert re.search(rf"^source, our end +{client.listen} > {me}, established", table, re.M), table
    assert re.search(r"^mover +relay|^mover +leg|^mover +splice", table, re.M) and "why no faster one" in table
    assert re.search(r" MOVER +CHAIN", client.ctl("conn", as_json=False).splitlines()[0])


@pytest.mark.rows("11: aditctl conn")
def test_conn_of_an_application_elsewhere(w):
    """the other node's end of the connection is not ours to see"""
    a, b = w.two_nodes()
    back = w.backend(b)
    where = a.at()
    agent = w.agent(a, "agent", {"listeners": [lib.tcp("in", where, "app")], "clusters": [lib.cluster("app", back.where)]})
    s = w.app(where, node=a)
    lib.echo(s)
    row, = agent.rows("conn")
    tcp = agent.ctl("conn", row["id"])["tcp"]
    assert tcp["source"]["application"] and tcp["destination"]["agent"] and tcp["destination"]["application"] is None


@pytest.mark.rows("11: aditctl conn")
def test_conn_in_a_namespace(w):
    """a listener in another namespace: its sockets are looked for there"""
    host, pod = w.node("host"), w.node("pod")
    where, back = "127.0.0.1:7000", w.backend(host)
    holder = subprocess.Popen(pod.argv("sleep", "60"), stdin=subprocess.DEVNULL)
    try:
        agent = w.agent(host, "agent", {
            "listeners": [lib.tcp("in", where, "app", netns=f"pid:{holder.pid}")], "clusters": [lib.cluster("app", back.where)]}, start=False)
        agent.start(wait=False)
        lib.wait_for(lambda: pod.listening(7000), lambda: f"the listener opens in the namespace\n{agent.log()}")
        s = w.app(where, node=pod)
        lib.echo(s)
        row, = agent.rows("conn")
        tcp = agent.ctl("conn", row["id"])["tcp"]
        assert tcp["source"]["application"]["remote"] == where and tcp["destination"]["application"]["local"] == back.where
        assert next(x for x in agent.rows("listener"))["netns"] == f"pid:{holder.pid}"
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.rows("11: aditctl")
def test_what_listeners_take_is_shown(w, node):
    where, other = node.at(), node.at()
    a = w.agent(node, "agent", {
        "listeners": [lib.tcp("out", where, "any", capture={"cgroups": ["/adit-nobody"], "ports": [80, "8000-9000"], "when_away": "closed"}),
                      lib.tcp("lb", other, "any", proxy_protocol=True, proxy_from=["127.0.0.0/8"])],
        "clusters": [lib.anywhere("any", source="agent")]})
    out, lb = a.rows("listener")
    assert out["capture"]["cgroups"] == ["/adit-nobody"] and out["capture"]["ports"] == ["80", "8000-9000"] and out["capture"]["when_away"] == "closed"
    assert lb["proxy_protocol"] is True and "capture" not in lb
    assert re.search(r" captured", a.ctl("listener", "-o", "wide", as_json=False)) and "PROXY" in a.ctl("listener", "-o", "wide", as_json=False)


@pytest.mark.rows("13: mistakes")
@pytest.mark.parametrize("more,says", [
    ("kernel: {bypas: {}}", r":1:10: kernel: unknown key 'bypas' \(did you mean 'bypass'\?\)"),
    ("kernel: {splice: yes}", r":1:18: kernel.splice: 'yes': want auto, on or off"),
    ("listeners: [{name: a, type: tcp, address: \"0.0.0.0:1\", cluster: c, capture: {uids: 1}}]\nclusters: [{name: c, type: tcp, endpoints: \"10.0.0.1:1\"}]",
     "needs an address to send applications to"),
    ("listeners: [{name: a, type: tcp, address: \"127.0.0.1:1\", cluster: c, proxy_protocol: true}]\nclusters: [{name: c, type: tcp, endpoints: \"10.0.0.1:1\"}]",
     "whose PROXY headers are to be believed"),
], ids=["key", "value", "address", "proxy_from"])
def test_config_check_knows_the_kernel_section(tmp_path, more, says):
    f = tmp_path / "adit.yaml"
    f.write_text(more + "\n", encoding="utf-8")
    r = subprocess.run([f"{lib.BUILD}/aditctl", "config", "check", str(f)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert r.returncode == 1 and re.search(says, r.stdout), r.stdout


def test_config_check_warns_of_a_bypass_for_nobody(tmp_path):
    f = tmp_path / "adit.yaml"
    f.write_text("kernel: {bypass: {enabled: true}}\n", encoding="utf-8")
    r = subprocess.run([f"{lib.BUILD}/aditctl", "config", "check", str(f)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert r.returncode == 0 and "nobody is on the list" in r.stdout, r.stdout
