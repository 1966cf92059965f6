"""
A service manager as far as a daemon notices it: a socket for sd_notify(3) datagrams, which also keeps descriptors. And ptrace(2), to stop
one thread of a process and no other.
"""
import array
import ctypes
import os
import socket
import threading
import time

import lib

PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17
WALL = 0x40000000


class Manager:
    """heard: [(time, {NAME: VALUE}, [descriptors], pid)]; stored: {FDNAME: [descriptors]}"""

    def __init__(self, directory, node=None):
        self.sock = None
        if node:  # abstract names belong to a network namespace
            self.path = f"@adit-manager-{os.getpid()}-{id(self):x}"
            with node:
                self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self.sock.bind("\0" + self.path[1:])
        else:
            self.path = os.path.join(str(directory), "notify")
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self.sock.bind(self.path)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.heard, self.stored, self.closing = [], {}, False
        self.thread = threading.Thread(target=self.listen, daemon=True)
        self.thread.start()

    def listen(self):
        while True:
            try:
                data, control, _, _ = self.sock.recvmsg(65536, 4096)
            except OSError:
                return
            if self.closing:
                return
            fds, pid = array.array("i"), 0
            for level, kind, value in control:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds.frombytes(value[:len(value) - len(value) % fds.itemsize])
                elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                    pid = array.array("i", value)[0]
            said = dict(line.split("=", 1) for line in data.decode().splitlines() if "=" in line)
            if said.get("FDSTORE") == "1":
                self.stored.setdefault(said.get("FDNAME", "stored"), []).extend(fds)
            if said.get("FDSTOREREMOVE") == "1":
                for fd in self.stored.pop(said.get("FDNAME"), []):
                    os.close(fd)
            self.heard.append((time.monotonic(), said, list(fds), pid))

    def said(self, name, value=None):
        """[(time, value)] of one variable"""
        return [(t, v[name]) for t, v, _, _ in self.heard if name in v and value in (None, v[name])]

    def hears(self, name, value=None, timeout=None, since=0.0):
        return lib.wait_for(lambda: [x for x in self.said(name, value) if x[0] >= since],
                            lambda: f"{name}={value}; heard {[v for _, v, _, _ in self.heard]}", timeout)

    def env(self, watchdog_s=None):
        e = {"NOTIFY_SOCKET": self.path}
        if watchdog_s:
            e["WATCHDOG_USEC"] = str(int(watchdog_s * 1000000))
        return e

    def close(self):
        self.closing = True
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()
        for fds in self.stored.values():
            for fd in fds:
                os.close(fd)
        self.stored = {}


def threads(pid):
    """{name: tid}"""
    out = {}
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/comm", encoding="ascii") as f:
            out[f.read().strip()] = int(tid)
    return out


class Stopped:
    """`with Stopped(tid):` that thread alone does not run. ptrace(2) wants every call from the same thread: do not leave it."""

    def __init__(self, tid):
        self.tid = tid

    def ptrace(self, request):
        lib.libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        lib.libc.ptrace.restype = ctypes.c_long
        lib.check(lib.libc.ptrace(request, self.tid, None, None), f"ptrace({request:#x})")

    def __enter__(self):
        self.ptrace(PTRACE_SEIZE)
        self.ptrace(PTRACE_INTERRUPT)
        os.waitpid(self.tid, WALL)
        return self

    def __exit__(self, *_):
        self.ptrace(PTRACE_DETACH)
