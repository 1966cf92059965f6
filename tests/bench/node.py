"""Hops that stay on the node: application -> agent(s) -> application on one machine, with each mover, and what the kernel plane costs
those who do not gain from it.

A variant is a set of agents; the generator connects to 127.0.0.1:9100, the backend listens on 9000. CPU is that of
the agents and of both applications, since the work of a bypassed hop is done in the applications' own system calls.
Variants are interleaved, A B C, A B C, ...; medians. Printed by `make bench` below the tables of peers.
"""
import json
import os
import resource
import statistics
import subprocess
import sys
import time

import peers
import steps

BINARY = os.path.join(os.environ.get("ADIT_BUILD") or os.path.join(peers.TOP, "build"), "aditd")
PIN = f"/sys/fs/bpf/adit-bench-{os.getpid()}"
BYPASS = f"{{enabled: true, allow: [{{ports: [{peers.APP}, {peers.TUN}, {peers.BACK}]}}]}}"


def kernel(bypass="{enabled: false}", **more):
    rest = "".join(f", {k}: {v}" for k, v in more.items())
    return f"kernel: {{pin: {PIN}, bypass: {bypass}{rest}}}"


def agent(name, listen, to, chain=1, mover="auto", plane=None, more=""):
    """one agent; chain: listeners that a connection passes"""
    rows = [f"  - {{name: l0, type: tcp, address: '127.0.0.1:{listen}', {more}{'listener: l1' if chain > 1 else 'cluster: next'}}}"]
    for i in range(1, chain):
        rows.append(f"  - {{name: l{i}, type: internal, {f'listener: l{i + 1}' if i + 1 < chain else 'cluster: next'}}}")
    text = f"""workers: 1
mover: {mover}
state_dir: none
admin: {{socket: {peers.RUN}/{name}.sock}}
{plane or kernel()}
listeners:
{chr(10).join(rows)}
clusters:
  - {{name: next, type: tcp, endpoints: ['127.0.0.1:{to}']}}
"""
    return {"name": name, "conf": peers.conf(f"{name}.yaml", text), "port": listen}


def one(name, **k):
    return [agent(name, peers.APP, peers.BACK, **k)]


def two(name, **k):
    return [agent(name + "-far", peers.TUN, peers.BACK, **k), agent(name + "-near", peers.APP, peers.TUN, **k)]


def tunnel(name, plane):
    """what scripts/pair makes, with a kernel section"""
    d = os.path.join(peers.RUN, "certs-node")
    if not os.path.exists(d):
        subprocess.run([os.path.join(peers.TOP, "scripts", "mkcerts"), d, "--id", "node=ns/adit/sa/node"], check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
    head = f"""workers: 1
state_dir: none
{plane}
identities: [{{name: node, certificate: {d}/node.pem, key: {d}/node.key, ca: {d}/ca.pem}}]
"""
    far = head + f"""admin: {{socket: {peers.RUN}/{name}-far.sock}}
listeners: [{{name: in, type: tunnel, address: '127.0.0.1:{peers.TUN}', cluster: app}}]
clusters: [{{name: app, type: tcp, endpoints: ['127.0.0.1:{peers.BACK}']}}]
"""
    near = head + f"""admin: {{socket: {peers.RUN}/{name}-near.sock}}
listeners: [{{name: out, type: tcp, address: '127.0.0.1:{peers.APP}', cluster: far}}]
clusters: [{{name: far, type: tunnel, endpoints: ['127.0.0.1:{peers.TUN}']}}]
"""
    return [{"name": name + "-far", "conf": peers.conf(f"{name}-far.yaml", far), "port": peers.TUN},
            {"name": name + "-near", "conf": peers.conf(f"{name}-near.yaml", near), "port": peers.APP}]


def variants():
    on = kernel(BYPASS)
    late = kernel(BYPASS.replace("true,", "true, after: 30000,"))
    out = {"direct": []}
    for n in (1, 2, 4):
        out[f"relay {n}"] = one(f"relay{n}", chain=n, mover="relay")
        out[f"joined {n}"] = one(f"joined{n}", chain=n, plane=on)
    out["relay 2 agents"] = two("relay2a", mover="relay")
    out["joined 2 agents"] = two("joined2a", plane=on)
    out["splice 1"] = one("splice1", plane=kernel(splice="on"))
    out["armed"] = one("armed", plane=late)
    out["not armed"] = one("notarmed", plane=kernel())
    out["tunnel"] = tunnel("tunnel", kernel())
    out["tunnel, legs bypassed"] = tunnel("legs", on)
    return out


class Run:
    """a variant, running"""

    def __init__(self, spec):
        self.spec, self.procs, self.server = spec, [], None

    def __enter__(self):
        self.server = subprocess.Popen([steps.LOAD, "server", "--listen", f"127.0.0.1:{peers.BACK}", "--shm", f"{peers.RUN}/shm"],
                                       stdout=subprocess.DEVNULL)
        try:
            steps.wait_port(peers.BACK, self.server)
            for a in self.spec:
                with open(os.path.join(peers.RUN, a["name"] + ".log"), "wb") as log:
                    self.procs.append(subprocess.Popen([BINARY, "-c", a["conf"], "--log-level", "warn"], stdout=log, stderr=log))
                steps.wait_port(a["port"], self.procs[-1])
            time.sleep(0.2)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for p in [*self.procs, self.server]:
            p.terminate()
        for p in [*self.procs, self.server]:
            try:
                p.wait(8)
            except subprocess.TimeoutExpired:
                p.kill()

    def load(self, mode, *args):
        c0 = self.cpu()
        r = subprocess.run([steps.LOAD, mode, "--target", f"127.0.0.1:{peers.APP if self.spec else peers.BACK}", "--shm", f"{peers.RUN}/shm",
                            *map(str, args)], stdout=subprocess.PIPE, text=True, timeout=60, check=False)
        d = json.loads(r.stdout)
        d["busy_s"] = self.cpu() - c0
        return d

    def cpu(self):
        """CPU seconds of agents, backend and the generators that have ended"""
        u = resource.getrusage(resource.RUSAGE_CHILDREN)
        return steps.cpu([p.pid for p in [*self.procs, self.server]]) + u.ru_utime + u.ru_stime

    def counters(self):
        return [steps.stats(f"{peers.RUN}/{a['name']}.sock") for a in self.spec]

    def moved(self, before, *names):
        return steps.moved(before, self.counters(), *names)


def measure(spec, seconds):
    with Run(spec) as v:
        r = {}
        p = v.load("pingpong", "--streams", 1, "--warmup", 0.3, "--time", seconds)
        r["p50"], r["p99"] = p["lat_us"]["p50"], p["lat_us"]["p99"]
        r["cpu_us"] = p["busy_s"] / (p["per_s"] * (seconds + 0.3)) * 1e6
        r["errors"] = p["errors"] + p["failed"]
        before = v.counters()
        b = v.load("bulk", "--dir", "up", "--streams", 1, "--warmup", 0.3, "--time", seconds)
        gb = b["total_bytes"] / 1e9
        r["bulk"], r["s_per_GB"] = b["up_MBps"], b["busy_s"] / gb
        r["calls_per_GB"] = v.moved(before, "syscalls_recv", "syscalls_send", "syscalls_splice") / gb
        r["errors"] += b["errors"] + b["failed"]
        s = v.load("short", "--streams", 4, "--size", 100, "--warmup", 0.2, "--time", seconds)
        r["short"], r["errors"] = s["per_s"], r["errors"] + s["errors"] + s["failed"]
        for name in ("bypass_joins", "bypass_legs", "bypassed_bytes", "spliced_bytes"):
            r[name] = sum(c.get(name, 0) for c in v.counters())
        return r


def trip_of_peer(name, seconds):
    """p50 of a 64-byte round trip through another proxy pair"""
    with steps.Peer(name) as p:
        return p.load("pingpong", "--streams", 1, "--warmup", 0.3, "--time", seconds)["lat_us"]["p50"]


def verdict(m, trips):
    def line(what, have, limit, more=False):
        ok = have >= limit if more else have <= limit
        print(f"{'PASS' if ok else 'MISS'}  {what}: {have:.3g}, wanted {'at least' if more else 'at most'} {limit:.3g}")
        return ok

    for n in ("1", "2", "4", "2 agents"):
        if f"joined {n}" in m and f"relay {n}" in m:
            j, r = m[f"joined {n}"], m[f"relay {n}"]
            line(f"round trip p50, joined {n} / relay {n}", j["p50"] / r["p50"], 0.45)
            line(f"round trip p50, joined {n} / direct", j["p50"] / m["direct"]["p50"], 0.9)
            line(f"CPU per round trip, joined {n} / relay {n}", j["cpu_us"] / r["cpu_us"], 0.4)
    if "tunnel" in m:
        line("CPU per round trip, tunnel with both legs bypassed / plain legs", m["tunnel, legs bypassed"]["cpu_us"] / m["tunnel"]["cpu_us"], 0.7)
        others = {k: statistics.median(v) for k, v in trips.items() if v}
        if others:
            best = min(others, key=others.get)
            print(", ".join(f"{k} {v:.1f}" for k, v in others.items()), "us: 64 B round trip p50 of the TLS peers in the same rounds")
            line(f"round trip p50, tunnel with both legs bypassed / {best}", m["tunnel, legs bypassed"]["p50"] / others[best], 0.65)
    if "armed" in m:
        line("short connections per second, bypass armed / not", m["armed"]["short"] / m["not armed"]["short"], 0.97, True)
    if "splice 1" in m:
        line("CPU s/GB, splice / relay", m["splice 1"]["s_per_GB"] / m["relay 1"]["s_per_GB"], 0.85)


def run(rounds, seconds=1.0, only=None, others=peers.TLS):
    if subprocess.run(["mountpoint", "-q", "/sys/fs/bpf"], check=False).returncode:
        subprocess.run(["mount", "-t", "bpf", "bpf", "/sys/fs/bpf"], check=False)  # in a mount namespace of our own
    todo = {k: v for k, v in variants().items() if not only or k in only}
    got, trips = {k: [] for k in todo}, {k: [] for k in others}
    for _ in range(rounds):
        for name, spec in todo.items():
            try:
                got[name].append(measure(spec, seconds))
            except Exception as e:  # a variant that fails is a result, too
                print(f"{name}: {type(e).__name__}: {e}", flush=True)
        for name in trips:
            try:
                trips[name].append(trip_of_peer(name, seconds))
            except Exception as e:
                print(f"{name}: {type(e).__name__}: {e}", flush=True)
    m = {k: {f: statistics.median(r[f] for r in v) for f in v[0]} for k, v in got.items() if v}
    columns = [("p50", "64 B round trip p50 us", "%.1f"), ("p99", "p99", "%.0f"), ("cpu_us", "CPU us", "%.1f"), ("bulk", "bulk MB/s", "%.0f"),
               ("s_per_GB", "CPU s/GB", "%.2f"), ("calls_per_GB", "agents' calls/GB", "%.0f"), ("short", "short conn/s", "%.0f"),
               ("bypass_joins", "joins", "%.0f"), ("bypass_legs", "legs", "%.0f"), ("errors", "faults", "%.0f")]
    print(f"\n### On one node: {rounds} rounds of {seconds} s, medians; CPU of agents, generator and backend\n")
    print("| variant | " + " | ".join(c[1] for c in columns) + " |\n" + "|---" * (len(columns) + 1) + "|")
    for name, r in m.items():
        print(f"| {name} | " + " | ".join(f % r[k] for k, _, f in columns) + " |")
    print()
    if "direct" in m:
        verdict(m, trips)
    sys.stdout.flush()
    return any(r["errors"] for r in m.values())
