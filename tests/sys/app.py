"""Applications for the scenarios of capture: processes of their own, in a cgroup of their own, with a user of their own."""
import itertools
import json
import os
import subprocess
import sys

import lib

CHILD = r"""
import errno, json, os, select, signal, socket, struct, sys, threading, time
def exact(s, n):
    out = b""
    while len(out) < n:
        got = s.recv(n - len(out))
        if not got:
            raise EOFError("end after %d of %d bytes" % (len(out), n))
        out += got
    return out
def name(a):  # as addresses are written in the tests
    return "[%s]:%d" % a[:2] if ":" in a[0] else "%s:%d" % a[:2]
def dial(host, port, timeout=5, family=None, bind=None, fast=None):
    s = socket.socket(family or (socket.AF_INET6 if ":" in host else socket.AF_INET))
    s.settimeout(timeout)
    if bind:
        s.bind(bind)
    if fast:
        s.settimeout(None)  # else it may say EINPROGRESS
        s.sendto(fast, socket.MSG_FASTOPEN, (host, port))
        s.settimeout(timeout)
    else:
        s.connect((host, port))
    return s
def ask(host, port, **kw):  # what the backend says of itself, and what getpeername says
    s = dial(host, port, **kw)
    try:
        line = b""
        while not line.endswith(b"\n"):
            got = s.recv(1)
            if not got:
                raise EOFError("end")
            line += got
        return [line.decode().strip(), name(s.getpeername())]
    finally:
        s.close()
env = dict(globals())
for line in sys.stdin:
    env["_"] = None
    try:
        exec(json.loads(line), env)
        answer = {"value": env["_"]}
    except BaseException as e:
        answer = {"error": type(e).__name__, "errno": getattr(e, "errno", None), "text": str(e)}
    print(json.dumps(answer), flush=True)
"""
numbers = itertools.count()


def cgroup_mount():
    with open("/proc/self/mounts", encoding="ascii") as f:
        for line in f:
            v = line.split()
            if v[2] == "cgroup2":
                return v[1]
    return None


class Cgroup:
    """a cgroup below the top, gone with close(); `path` is as the configuration names it"""

    def __init__(self, name=None, parent=None):
        self.path = (parent.path if parent else "") + "/" + (name or f"adit-test-{os.getpid()}-{next(numbers)}")
        self.dir = cgroup_mount() + self.path
        os.mkdir(self.dir)

    def enter(self):
        """the start of a command line that runs the rest in it"""
        return ["sh", "-c", f"echo $$ > {self.dir}/cgroup.procs && exec \"$@\"", "-"]

    def close(self):
        def empty():
            try:
                os.rmdir(self.dir)
            except FileNotFoundError:
                pass
            except OSError:
                return False
            return True
        lib.wait_for(empty, f"nobody left in {self.path}")


class Refused(Exception):
    """what the application's own exception was: kind, errno"""

    def __init__(self, answer):
        super().__init__(f"{answer['error']}: {answer['text']}")
        self.kind, self.errno = answer["error"], answer["errno"]


class App:
    """a process that does what run() tells it; `where`: its node, in `cgroup`, as `uid`"""

    def __init__(self, where, cgroup=None, uid=None):
        argv = [*(cgroup.enter() if cgroup else []), *(["setpriv", "--reuid", str(uid), "--clear-groups"] if uid else []), sys.executable, "-c", CHILD]
        self.p = subprocess.Popen(where.argv(*argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self, code):
        self.p.stdin.write(json.dumps(code) + "\n")
        self.p.stdin.flush()

    def result(self):
        line = self.p.stdout.readline()
        assert line, f"the application ended with {self.p.wait()}"
        answer = json.loads(line)
        if "error" in answer:
            raise Refused(answer)
        return answer["value"]

    def run(self, code):
        """execute it; Return: what it left in `_`"""
        self.start(code)
        return self.result()

    def ask(self, where, **kw):
        """connect; Return: (what the backend says of itself, getpeername)"""
        host, port = lib.split(where)
        more = "".join(f", {k}={v!r}" for k, v in kw.items())
        return tuple(self.run(f"_ = ask({host!r}, {port}{more})"))

    def refused(self, where, **kw):
        """connect must fail; Return: errno, or the kind of exception where there is none"""
        try:
            got = self.ask(where, **kw)
        except Refused as e:
            return e.errno or e.kind
        raise AssertionError(f"{where} answered {got}")

    def close(self):
        self.p.stdin.close()
        try:
            self.p.wait(5)
        except subprocess.TimeoutExpired:
            self.p.kill()
            self.p.wait()
        self.p.stdout.close()
