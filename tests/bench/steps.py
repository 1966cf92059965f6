"""Starting a peer, and the steps that are measured on it. CPU is what the proxies used during a step, divided by all bytes, messages
or connections of the step: unlike MB/s it does not depend on what generator and backend leave over."""
import json
import os
import signal
import subprocess
import time

import peers

HZ = os.sysconf("SC_CLK_TCK")
LOAD = os.path.join(peers.BUILD, "meshload")


def tree(pids):
    """pids and all their living descendants"""
    children = {}
    for d in os.listdir("/proc"):
        if d.isdigit():
            try:
                with open(f"/proc/{d}/stat", encoding="utf-8") as f:
                    children.setdefault(int(f.read().rsplit(")", 1)[1].split()[1]), []).append(int(d))
            except OSError:
                pass
    out, todo = [], list(pids)
    while todo:
        p = todo.pop()
        out.append(p)
        todo += children.get(p, [])
    return out


def cpu(pids):
    """CPU seconds of the trees, reaped children included"""
    t = 0
    for p in tree(pids):
        try:
            with open(f"/proc/{p}/stat", encoding="utf-8") as f:
                t += sum(int(x) for x in f.read().rsplit(")", 1)[1].split()[11:15])
        except OSError:
            pass
    return t / HZ


def memory(pids):
    rss = pss = 0
    for p in tree(pids):
        try:
            with open(f"/proc/{p}/smaps_rollup", encoding="utf-8") as f:
                for line in f:
                    k, v = line.split()[:2]
                    if k == "Rss:":
                        rss += int(v)
                    elif k == "Pss:":
                        pss += int(v)
        except (OSError, ValueError):
            pass
    return {"rss_kB": rss, "pss_kB": pss}


def listening(port):
    """The listening table is read instead of connecting: a probe would leave a trace."""
    with open("/proc/net/tcp", encoding="utf-8") as f:
        return any(v[3] == "0A" and v[1].endswith(":%04X" % port) for v in map(str.split, f.readlines()[1:]))


def wait_port(port, proc, limit=20):
    end = time.time() + limit
    while time.time() < end:
        if proc.poll() is not None:
            raise RuntimeError(f"{os.path.basename(proc.args[0])} exited with {proc.returncode}")
        if listening(port):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on {port}")


class Peer:
    def __init__(self, name):
        self.name, self.spec = name, peers.PEERS[name]()
        self.procs, self.server = [], None
        self.log = os.path.join(peers.RUN, name + ".log")

    def __enter__(self):
        with open(self.log, "wb") as log:
            self.server = subprocess.Popen([LOAD, "server", "--listen", f"127.0.0.1:{peers.BACK}", "--shm", f"{peers.RUN}/shm"],
                                           stdout=subprocess.DEVNULL, stderr=log)
            try:
                wait_port(peers.BACK, self.server)
                for argv, port in zip(self.spec["procs"], (peers.TUN, peers.APP)):
                    self.procs.append(subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL))
                    wait_port(port, self.procs[-1])
                if self.spec.get("pair"):
                    wait_port(peers.APP, self.procs[-1])
                time.sleep(self.spec.get("delay", 0.3))
            except BaseException:
                self.__exit__()
                raise
        return self

    def __exit__(self, *_):
        roots = self.procs[::-1] + [self.server]
        every = tree([p.pid for p in roots])
        for p in roots:
            if p.poll() is None:
                p.terminate()
        for p in roots:
            try:
                p.wait(8)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
        for pid in every:  # descendants that outlived their parent
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass

    def pids(self):
        """the proxies' processes; of scripts/pair its children only"""
        roots = [p.pid for p in self.procs]
        return [p for p in tree(roots) if p not in roots] if self.spec.get("pair") else roots

    def sockets(self):
        """Adit's admin sockets"""
        with open(self.log, encoding="utf-8") as f:
            return [line.rsplit(" ", 1)[1].strip() for line in f if line.startswith("pair: ") and "admin socket" in line]

    def argv(self, mode, *args):
        v = [LOAD, mode, "--target", f"127.0.0.1:{self.spec.get('front', peers.APP)}", "--shm", f"{peers.RUN}/shm", *map(str, args)]
        if self.spec.get("connect"):
            v += ["--connect", f"127.0.0.1:{peers.BACK}"]
        return v

    def load(self, mode, *args):
        c0 = cpu(self.pids())
        r = subprocess.run(self.argv(mode, *args), stdout=subprocess.PIPE, text=True, timeout=120, check=False)
        try:
            d = json.loads(r.stdout)
        except ValueError:
            return {"broken": r.returncode}
        d["cpu_s"] = round(cpu(self.pids()) - c0, 3)
        if d.get("total_bytes"):
            d["cpu_s_per_GB"] = round(d["cpu_s"] / d["total_bytes"] * 1e9, 4)
        if d.get("completed"):
            d["cpu_us_per_conn"] = round(d["cpu_s"] / d["completed"] * 1e6, 1)
        return d

    def idle(self, count):
        """open that many connections, read the memory, use each again"""
        m0 = memory(self.pids())
        p = subprocess.Popen(self.argv("idle", "--count", count), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        opened = json.loads(p.stdout.readline() or "{}")
        time.sleep(0.5)
        m = memory(self.pids())
        out, _ = p.communicate(timeout=120)
        again = json.loads(out or "{}")
        return {"count": count, "opened": opened.get("verified"), "reused": again.get("verified"), "errors": again.get("errors"),
                "before": m0, "held": m, "bytes_per_conn": round((m["pss_kB"] - m0["pss_kB"]) * 1024 / count)}

    def beside(self, direction, window):
        """latency of a paced 100-byte request while ten streams move data as fast as they can; direction None: while none does"""
        bulk = None
        if direction:
            bulk = subprocess.Popen(self.argv("bulk", "--dir", direction, "--streams", 10, "--warmup", .2, "--time", window + 1),
                                    stdout=subprocess.PIPE, text=True)
            time.sleep(0.5)
        r = self.load("pingpong", "--streams", 1, "--size", 100, "--rate", 1000, "--first-slot", 2000, "--warmup", .1, "--time", window)
        if bulk:
            out, _ = bulk.communicate(timeout=60)
            try:
                b = json.loads(out)
                r["bulk_MBps"] = b["up_MBps"] + b["down_MBps"]
                r["errors"] = r.get("errors", 0) + b["errors"]
                r["failed"] = r.get("failed", 0) + b["failed"]
            except ValueError:
                r["broken"] = 1
        return r


def matrix(p, scale=1.0):
    """one round of one peer, without the idle steps"""
    def window(warmup, seconds):
        return ("--warmup", warmup, "--time", round(seconds * scale, 2))
    r = {"peer": p.name, "start": memory(p.pids())}
    r["pp1"] = p.load("pingpong", "--streams", 1, *window(.2, 1))
    r["pp64"] = p.load("pingpong", "--streams", 64, *window(.2, 1))
    for d in ("up", "down"):
        for n in (1, 16):
            r[f"{d}{n}"] = p.load("bulk", "--dir", d, "--streams", n, *window(.4, 1.2))
    r["both16"] = p.load("bulk", "--dir", "both", "--streams", 16, *window(.4, 1.2))
    r["short1"] = p.load("short", "--streams", 1, "--size", 100, *window(.2, 1))
    r["short16"] = p.load("short", "--streams", 16, "--size", 100, *window(.3, 1.2))
    r["alone"] = p.beside(None, 1.5 * scale)
    r["beside_down"] = p.beside("down", 1.5 * scale)
    r["beside_up"] = p.beside("up", 1.5 * scale)
    r["end"] = memory(p.pids())
    return r


def idle(name, count):
    """on proxies that have seen nothing but one connection: what a busy one keeps in its allocator would hide what connections cost"""
    with Peer(name) as p:
        p.load("pingpong", "--streams", 1, "--time", .3)
        time.sleep(0.3)
        return p.idle(count)


# ---- Adit's own counters

def stats(socket):
    """all counters and gauges of an agent"""
    argv = [os.path.join(os.environ.get("ADIT_BUILD") or os.path.join(peers.TOP, "build"), "aditctl"), "-s", socket, "stats", "-o", "json"]
    text = subprocess.run(argv, stdout=subprocess.PIPE, text=True, timeout=20, check=True).stdout
    v = json.loads(text)
    return {**v["counters"], **v["gauges"]}


def moved(before, after, *names):
    return sum(a.get(n, 0) - b.get(n, 0) for b, a in zip(before, after) for n in names)


CALLS = ("syscalls_recv", "syscalls_send", "syscalls_epoll_wait", "syscalls_other")


def design(p, big, rounds):
    """what only Adit's own counters can say, and growth"""
    def now():
        return [stats(s) for s in p.sockets()]
    out = {}
    for n in (1, 64):
        b = now()
        r = p.load("pingpong", "--streams", n, "--warmup", 0, "--time", 1.5)
        a = now()
        trips = r["per_s"] * 1.5
        out[f"calls_per_trip_{n}"] = {k: round(moved(b, a, k) / trips, 3) for k in CALLS}
        out[f"calls_per_trip_{n}"]["sum"] = round(moved(b, a, *CALLS) / trips, 3)
    for d in ("up", "down"):
        b = now()
        r = p.load("bulk", "--dir", d, "--streams", 16, "--warmup", .1, "--time", 1.5)
        a = now()
        out[f"copies_{d}"] = round(moved(b, a, "copied_bytes") / r["total_bytes"], 4)
        out[f"bytes_per_call_{d}"] = round(r["total_bytes"] * 2 / max(1, moved(b, a, "syscalls_recv", "syscalls_send")))
    growth = []
    for _ in range(rounds):
        p.idle(big)
        time.sleep(0.5)
        growth.append(memory(p.pids())["pss_kB"])
    out["after_rounds_kB"] = growth
    out["growth_connections"] = big
    return out
