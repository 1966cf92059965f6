"""Health and the service manager: what is said when, by whom, and what a stuck thread does to it."""
import os
import signal
import socket
import subprocess
import threading
import time

import pytest

import lib
import manager


@pytest.fixture
def mgr(tmp_path):
    m = manager.Manager(tmp_path)
    yield m
    m.close()


def get(node, port, path, timeout=5):
    """(status, text) over TCP"""
    s = node.connect(port, timeout=timeout)
    try:
        s.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer, _ = lib.recv_all(s)
    finally:
        s.close()
    head, _, body = answer.decode().partition("\r\n\r\n")
    return int(head.split()[1]), body


def agent(w, node, back, m=None, name="agent", **more):
    a = w.agent(node, name, {"admin": {"metrics": node.at()}, "listeners": [lib.tcp("in", node.at(), "app")],
                             "clusters": [lib.cluster("app", back.where)], **more},
                env=m.env(more.pop("watchdog_s", None)) if m else None)
    a.port = lib.split(a.config["listeners"][0]["address"])[1]
    a.health = lib.split(a.config["admin"]["metrics"])[1]
    return a


@pytest.mark.rows("B18", "12: systemd", "13: health")
@pytest.mark.parametrize("abstract", [False, True])
def test_the_manager_is_told(w, node, tmp_path, abstract):
    """READY when the listeners are open and not before, STOPPING at the end; a path or an abstract name"""
    m = manager.Manager(tmp_path, node if abstract else None)
    try:
        back = w.backend(node)
        a = agent(w, node, back, m)
        m.hears("READY", "1")
        assert node.listening(a.port) and get(node, a.health, "/healthz/ready") == (200, "ready\n")
        assert m.heard[-1][3] == a.pid or any(pid == a.pid for _, v, _, pid in m.heard if "READY" in v)
        assert m.said("STATUS")
        a.stop()
        m.hears("STOPPING", "1")
        assert m.said("READY")[0][0] < m.said("STOPPING")[0][0]
    finally:
        m.close()


@pytest.mark.rows("12: systemd", "13: health")
def test_a_stuck_worker(w, node, mgr):
    """one thread stopped: said in the log with its number, live fails, the watchdog is not fed; then all is well again"""
    back = w.backend(node)
    a = w.agent(node, "agent", {"workers": 2, "watchdog": "600ms", "admin": {"metrics": node.at()},
                                "listeners": [lib.tcp("in", node.at(), "app")], "clusters": [lib.cluster("app", back.where)]},
                env=mgr.env(watchdog_s=0.4))
    health = lib.split(a.config["admin"]["metrics"])[1]
    mgr.hears("WATCHDOG", "1")
    time.sleep(1.5)  # idle workers are none that are stuck
    assert get(node, health, "/healthz/live") == (200, "live\n")
    fed = [t for t, _ in mgr.said("WATCHDOG")]
    assert max(b - x for x, b in zip(fed, fed[1:])) < 0.4 * lib.SLOW, "fed at least every half of WATCHDOG_USEC"
    tid = manager.threads(a.pid)["worker-1"]
    with manager.Stopped(tid):
        stopped = time.monotonic()
        lib.wait_for(lambda: get(node, health, "/healthz/live")[0] == 503, "live fails")
        took = time.monotonic() - stopped
        assert 0.4 < took < 2 * lib.SLOW
        status, text = get(node, health, "/healthz/live")
        assert text.startswith("stuck\n") and f"worker 1 (thread {tid}) does not turn; it is at: waiting for events" in text
        a.logged(rf"worker 1 \(thread {tid}\) has not turned for 0\.\d s; it was at: waiting for events; thread state: t")
        assert a.ctl("status")["stuck_workers"] == 1 and "\nSTUCK        1 workers" in a.ctl("status", as_json=False)
        assert "\nadit_worker_stuck 1\n" in get(node, health, "/metrics")[1]
        assert get(node, health, "/healthz/ready")[0] == 200, "one of two workers still accepts"
        since = time.monotonic()
        time.sleep(1)
        assert not [t for t, _ in mgr.said("WATCHDOG") if t > since], "the manager is not fed"
    lib.wait_for(lambda: get(node, health, "/healthz/live")[0] == 200, "live again")
    a.logged("worker 1 turns again")
    mgr.hears("WATCHDOG", "1", since=time.monotonic())
    assert "\nadit_worker_stuck 0\n" in get(node, health, "/metrics")[1] and "\nadit_stuck_total 1\n" in get(node, health, "/metrics")[1]


@pytest.mark.rows("13: health")
def test_a_stopped_process_is_not_stuck(w, node):
    """SIGSTOP of the whole process for longer than the limit: nobody was stuck, everybody was away"""
    back = w.backend(node)
    a = agent(w, node, back, watchdog="400ms")
    time.sleep(0.5)
    a.signal(signal.SIGSTOP)
    time.sleep(1.2)
    a.signal(signal.SIGCONT)
    time.sleep(0.6)
    assert get(node, a.health, "/healthz/live")[0] == 200
    assert "not turned" not in a.log()


@pytest.mark.rows("13: health")
def test_health_does_not_wait_for_the_main_thread(w, node):
    """the main thread is stopped: health and metrics are answered as before"""
    back = w.backend(node)
    a = agent(w, node, back)
    a.ctl("status")
    time.sleep(0.1)
    with manager.Stopped(a.pid):
        for path in ("/healthz/live", "/healthz/ready", "/metrics"):
            t = time.monotonic()
            status, _ = get(node, a.health, path)
            assert status == 200 and time.monotonic() - t < 1 * lib.SLOW, path
        s = w.app(node.at(a.port))
        lib.echo(s)


def big(n):
    """a configuration with n policies"""
    rules = "".join(f"- {{name: p{i}, action: deny, rules: [{{principal: cluster.local/ns/n{i}/sa/s}}]}}\n" for i in range(n))
    return "node: {id: x}\nadmin: {socket: ''}\npolicies:\n" + rules


@pytest.mark.limit(60)
@pytest.mark.rows("13: health")
def test_probes_during_a_big_configuration(w, node, tmp_path):
    """configurations of 10,000 policies are judged one after the other: a probe takes no longer for that"""
    back = w.backend(node)
    a = agent(w, node, back)
    path = tmp_path / "big.yaml"
    path.write_text(big(10000))
    took, stop = [], threading.Event()

    def judge():
        while not stop.is_set():
            t = time.monotonic()
            r = subprocess.run(["curl", "-sS", "--max-time", "60", "--unix-socket", a.socket, "-d", f'{{"path": "{path}"}}',
                                "http://adit/v1/config/check"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            took.append((time.monotonic() - t, r.stdout))
    t = threading.Thread(target=judge)
    t.start()
    worst = {"/healthz/live": 0.0, "/healthz/ready": 0.0, "/metrics": 0.0}
    end = time.monotonic() + 3
    try:
        while time.monotonic() < end:
            for p in worst:
                x = time.monotonic()
                assert get(node, a.health, p)[0] == 200
                worst[p] = max(worst[p], time.monotonic() - x)
    finally:
        stop.set()
        t.join()
    print("judged in", [round(x, 3) for x, _ in took], "worst probes", {k: round(v, 4) for k, v in worst.items()})
    assert all("ok" in out for _, out in took), took[0][1][:400]
    assert max(worst.values()) < min(0.5 * max(x for x, _ in took), 0.5) * lib.SLOW or max(x for x, _ in took) < 0.1


@pytest.mark.rows("9: reload", "12: systemd")
def test_reloads_are_told(w, node, mgr):
    """RELOADING with the time, READY after it; a refused one, too; the watchdog's limit changes"""
    back = w.backend(node)
    a = agent(w, node, back, mgr)
    mgr.hears("READY", "1")
    a.config["watchdog"] = "300ms"
    a.write()
    before, since = time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6, time.monotonic()
    a.signal(signal.SIGHUP)
    at = mgr.hears("RELOADING", "1", since=since)[0][0]
    usec = int(mgr.said("MONOTONIC_USEC")[-1][1])
    assert before <= usec <= time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6
    assert mgr.hears("READY", "1", since=since)[0][0] >= at
    a.config["watchdog"] = "yes"
    a.write()
    since = time.monotonic()
    a.signal(signal.SIGHUP)
    mgr.hears("READY", "1", since=since)
    assert "refused" in mgr.said("STATUS")[-1][1]
    with manager.Stopped(manager.threads(a.pid)["worker-0"]):
        lib.wait_for(lambda: get(node, a.health, "/healthz/live")[0] == 503, "live fails", 3)


@pytest.mark.rows("12: systemd")
def test_wrong_notify_socket(w, node):
    """nobody there, or nonsense: the daemon runs all the same"""
    back = w.backend(node)
    for i, path in enumerate(("/nowhere/at/all", "@adit-nobody", "relative")):
        a = w.agent(node, f"agent{i}", {"listeners": [lib.tcp("in", node.at(), "app")], "clusters": [lib.cluster("app", back.where)]},
                    env={"NOTIFY_SOCKET": path})
        lib.echo(w.app(a.config["listeners"][0]["address"]))
        assert path != "relative" or "NOTIFY_SOCKET" in a.log()
