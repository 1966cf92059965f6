"""
A wire between two nodes with delay, loss and a bandwidth, where the kernel has no netem: two TUN devices and a process that carries the
packets. As a module: connect(); as a program: the carrier.
"""
import collections
import fcntl
import os
import random
import select
import signal
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454ca, 1, 0x1000


class Link:
    def __init__(self, a, b, n=2, delay_ms=0.0, loss=0.0, mbit=0.0):
        """nodes get 10.88.N.1 and 10.88.N.2; delay is one way, loss a fraction"""
        fds = []
        for node, host in ((a, 1), (b, 2)):
            with node:
                fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", f"t{n}".encode(), IFF_TUN | IFF_NO_PI))
            node.address = f"10.88.{n}.{host}"
            node.run("ip", "addr", "add", f"{node.address}/24", "dev", f"t{n}")
            node.run("ip", "link", "set", f"t{n}", "txqueuelen", "2000", "up")
            fds.append(fd)
        self.proc = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", sys.executable, os.path.abspath(__file__), *map(str, fds),
                                      str(delay_ms), str(loss), str(mbit)], pass_fds=fds)
        for fd in fds:
            os.close(fd)

    def cut(self):
        """nothing arrives any more, and nobody is told"""
        self.proc.send_signal(signal.SIGSTOP)

    def mend(self):
        self.proc.send_signal(signal.SIGCONT)

    def close(self):
        self.proc.kill()
        self.proc.wait()


def carry(a, b, delay, loss, rate):
    rnd = random.Random(1)
    ways = [[a, b, collections.deque(), 0.0], [b, a, collections.deque(), 0.0]]
    poll = select.epoll()
    for fd in (a, b):
        poll.register(fd, select.EPOLLIN)
    while True:
        now = time.monotonic()
        due = min((q[0][0] for _, _, q, _ in ways if q), default=now + 1)
        poll.poll(max(0.0, due - now))
        now = time.monotonic()
        for w in ways:
            src, dst, queue, free = w
            for _ in range(64):
                try:
                    packet = os.read(src, 65536)
                except BlockingIOError:
                    break
                if rnd.random() < loss or len(queue) > 4000:
                    continue
                free = max(free, now) + (len(packet) / rate if rate else 0)
                queue.append((free + delay, packet))
            w[3] = free
            while queue and queue[0][0] <= now:
                try:
                    os.write(dst, queue.popleft()[1])
                except (BlockingIOError, OSError):
                    pass


if __name__ == "__main__":
    one, two = map(int, sys.argv[1:3])
    carry(one, two, float(sys.argv[3]) / 1e3, float(sys.argv[4]), float(sys.argv[5]) * 125000)
