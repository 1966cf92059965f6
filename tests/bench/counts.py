"""System calls, copies and records per gigabyte of payload through a tunnel, both agents together, with each engine of the records.

Counted by the agents themselves while counts.sh moves bytes in a virtual machine whose kernel has TLS (scripts/vm). Emulated, so these are
counts and no times.
"""
import os
import shutil
import subprocess
import tempfile

import peers

COLUMNS = ("variant", "engine", "system calls", "recv and send", "splice", "copies of each byte to or from user space", "records sent")


def stage(d):
    build = os.environ.get("ADIT_BUILD") or os.path.join(peers.TOP, "build")
    subprocess.run(["make", "-s", "--no-print-directory", "build/tests/vm/transfer"], cwd=peers.TOP, check=True, stdout=subprocess.DEVNULL)
    os.makedirs(f"{d}/tests/vm")
    for name in ("aditd", "aditctl", "tests/vm/transfer"):
        subprocess.run(["strip", "-g", "-o", f"{d}/{name}", f"{build}/{name}"], check=True)
    for path in ("tests/vm/lib.sh", "tests/bench/counts.sh"):
        shutil.copy(os.path.join(peers.TOP, path), d)
    subprocess.run([f"{peers.TOP}/scripts/mkcerts", f"{d}/certs", "--id", "one=ns/test/sa/one", "--id", "two=ns/test/sa/two"], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def run(kernel="6.12"):
    """Return: did it fail?"""
    with tempfile.TemporaryDirectory(dir=peers.BUILD) as d:
        stage(d)
        r = subprocess.run([f"{peers.TOP}/scripts/vm", "-k", kernel, "-t", "300", "-p", "ip", "-p", "nsenter", d, "--", "bash ./counts.sh"],
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    rows = [line.split("\t")[1:] for line in r.stdout.splitlines() if line.startswith("COUNT\t")]
    print(f"\n### Per GB of payload through a tunnel, both agents together, counted on Linux {kernel} in a virtual machine\n")
    if not rows:
        print(f"not counted: scripts/vm ended with status {r.returncode}\n" + "\n".join(r.stdout.splitlines()[-5:]))
        return r.returncode not in (1, 125)  # no virtual machine here: said, and no fault of ours
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    return r.returncode != 0
