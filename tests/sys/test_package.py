"""What packaging/ and make install promise, as far as no systemd has to run: that is tests/vm/service.sh."""
import configparser
import glob
import json
import os
import re
import shutil
import subprocess
import time

import pytest

import lib

PACKAGING = os.path.join(lib.TOP, "packaging")
SECURE = 2.5  # of systemd-analyze: docs/OPERATIONS.md says what it is now


def read(*path):
    with open(os.path.join(lib.TOP, *path), encoding="utf-8") as f:
        return f.read()


def run(cmd, **more):
    done = subprocess.run(cmd, cwd=lib.TOP, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **more)
    assert done.returncode == 0, f"{cmd}: {done.stdout}{done.stderr}"
    return done.stdout


def make(*args):
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "SAN")}
    return run(["make", "--no-print-directory", *args], env=env)


def unit_text(dropin=None):
    text = read("packaging/aditd.service")
    for name, path in (("sbindir", "/usr/sbin"), ("bindir", "/usr/bin"), ("libdir", "/usr/lib"), ("sysconfdir", "/etc")):
        text = text.replace(f"@{name}@", path)
    if dropin:
        text += re.sub(r"(?m)^#(?=[A-Z]\w+=)", "", read(f"packaging/examples/{dropin}.conf"))  # with all that is optional in it
    return text


def exposure(tmp_path, text):
    unit = tmp_path / "aditd.service"
    unit.write_text(text)
    rows = json.loads(run(["systemd-analyze", "security", "--offline=true", "--no-pager", "--json=short", str(unit)]))
    told = run(["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)])
    assert rows
    return float(re.search(r"exposure level for aditd.service: ([\d.]+)", told).group(1))


needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze on this machine: run make setup")


@needs_systemd
@pytest.mark.rows("12: hardened")
def test_the_unit_is_hardened_and_the_docs_say_how_much(tmp_path):
    got = {"aditd.service": exposure(tmp_path, unit_text()), "bypass.conf": exposure(tmp_path, unit_text("bypass")),
           "netns.conf": exposure(tmp_path, unit_text("netns"))}
    assert got["aditd.service"] < SECURE
    table = dict(re.findall(r"(?m)^\| `([\w.]+)`[^|]*\| ([\d.]+) \|", read("docs/OPERATIONS.md")))
    assert {k: float(v) for k, v in table.items() if k in got} == got


@pytest.mark.rows("12: unprivileged")
def test_the_unit_gives_no_more_capabilities_than_it_needs():
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str
    unit.read_string(unit_text())
    service = unit["Service"]
    assert service["User"] == "adit" and service["NoNewPrivileges"] == "yes"
    four = {"CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON", "CAP_NET_BIND_SERVICE"}
    assert set(service["AmbientCapabilities"].split()) == set(service["CapabilityBoundingSet"].split()) == four


@needs_systemd
def test_the_unit_has_no_key_that_systemd_does_not_know(tmp_path):
    for dropin in None, "bypass", "netns":
        text = unit_text(dropin).replace("/usr/sbin/aditd", "/bin/true").replace("/usr/bin/aditctl", "/bin/true")
        (tmp_path / "aditd.service").write_text(re.sub(r"(?m)^Documentation=.*$", "", text))
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(tmp_path / "aditd.service")], capture_output=True, text=True,
                              check=False)
        assert "aditd.service" not in done.stderr, done.stderr


def test_install_and_uninstall(tmp_path):
    where = {"DESTDIR": str(tmp_path), "prefix": "/opt/adit", "sysconfdir": "/etc/opt", "unitdir": "/units", "bindir": "/somewhere/bin",
             "mandir": "/man", "docdir": "/doc"}
    args = [f"{k}={v}" for k, v in where.items()]

    def files():
        return {"/" + os.path.relpath(os.path.join(d, f), tmp_path) for d, _, names in os.walk(tmp_path) for f in names}

    make("install", *args)
    there = files()
    assert {"/opt/adit/sbin/aditd", "/somewhere/bin/aditctl", "/units/aditd.service", "/etc/opt/adit/adit.yaml", "/etc/opt/logrotate.d/adit",
            "/man/man8/aditd.8", "/man/man5/adit.yaml.5", "/man/man1/aditctl.1", "/opt/adit/lib/sysusers.d/adit.conf",
            "/opt/adit/lib/tmpfiles.d/adit.conf", "/opt/adit/lib/modules-load.d/adit.conf", "/doc/examples/two-nodes-a.yaml",
            "/opt/adit/share/bash-completion/completions/aditctl"} <= there
    unit = (tmp_path / "units/aditd.service").read_text()
    assert not re.search(r"@\w+@", unit)
    assert "ExecStart=/opt/adit/sbin/aditd --config /etc/opt/adit/adit.yaml" in unit and "/somewhere/bin/aditctl reload" in unit
    assert (tmp_path / "opt/adit/lib/adit/pins/adit").is_dir()

    conf = tmp_path / "etc/opt/adit/adit.yaml"
    conf.write_text("# mine\n")
    make("install", *args)
    assert conf.read_text() == "# mine\n"
    make("uninstall", *args)
    assert files() == {"/etc/opt/adit/adit.yaml", "/etc/opt/logrotate.d/adit"}


@pytest.fixture(name="certs", scope="module")
def _certs(tmp_path_factory):
    return lib.Certs(tmp_path_factory.mktemp("certs"), "--id", "node=ns/shop/sa/web").dir


def parts(text):
    """the commented-out parts of the default configuration, by number"""
    found = re.split(r"(?m)^# ---- (\d)\..*$", text)
    return found[0], dict(zip(found[1::2], found[2::2]))


def enable(part):
    return re.sub(r"(?m)^#", "", re.sub(r"(?m)^# .*\n", "", part))


def test_the_default_configuration_starts(tmp_path):
    text = read("packaging/adit.yaml")
    for what, here in (("/run/adit/", f"{tmp_path}/"), ("/var/log/adit/", f"{tmp_path}/"), ("127.0.0.1:15020", "127.0.0.1:15941")):
        assert what in text
        text = text.replace(what, here)
    (tmp_path / "adit.yaml").write_text(text)
    with open(tmp_path / "log", "wb") as log:
        proc = subprocess.Popen([os.path.join(lib.BUILD, "aditd"), "-c", str(tmp_path / "adit.yaml")], stdin=subprocess.DEVNULL, stdout=log,
                                stderr=log)
    try:
        end = time.monotonic() + 10 * lib.SLOW
        while not (tmp_path / "admin.sock").exists() or b"ready" not in (tmp_path / "log").read_bytes():
            assert proc.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.05)
        run([os.path.join(lib.BUILD, "aditctl"), "-s", str(tmp_path / "admin.sock"), "status"])
    finally:
        proc.terminate()
        assert proc.wait(20 * lib.SLOW) == 0


@pytest.mark.parametrize("which", ["1", "123", "124", "1235", "1245"])
def test_what_the_default_configuration_suggests_is_right(tmp_path, certs, which):
    head, part = parts(read("packaging/adit.yaml"))
    assert sorted(part) == ["1", "2", "3", "4", "5"]
    text = head + "".join(enable(part[n]) for n in which)
    (tmp_path / "adit.yaml").write_text(re.sub(r"/etc/adit/(?=\w+\.(pem|key))", f"{certs}/", text))
    told = run([os.path.join(lib.BUILD, "aditd"), "--check", str(tmp_path / "adit.yaml")])
    assert "ok" in told


@pytest.mark.skipif(not shutil.which("setpriv"), reason="no setpriv on this machine")
@pytest.mark.rows("12: unprivileged")
def test_no_bypass_where_the_kernel_hides_its_addresses(tmp_path):
    """with the unit's capabilities alone, the gate could not tell a sleeping reader: it must not be loaded"""
    four = "-all,+net_admin,+bpf,+perfmon,+net_bind_service"
    folder = tmp_path
    while str(folder) != "/tmp":
        os.chmod(folder, 0o755)
        folder = folder.parent
    os.chmod(tmp_path, 0o777)
    with open("/proc/sys/kernel/kptr_restrict", encoding="ascii") as f:
        if f.read().strip() == "0":
            seen = run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "grep", "-m1", " _stext$", "/proc/kallsyms"])
            if not seen.startswith("0000000000000000"):
                pytest.skip("this kernel shows its addresses to everybody")
    shutil.copy(os.path.join(lib.BUILD, "aditd"), tmp_path / "aditd")
    (tmp_path / "c.yaml").write_text(f"""
state_dir: none
workers: 1
admin: {{ socket: {tmp_path}/s }}
kernel: {{ pin: none, bypass: {{ enabled: true, allow: [ {{ ports: [9911, 9912] }} ] }} }}
listeners: [ {{ name: a, type: tcp, address: "127.0.0.1:9911", cluster: c }} ]
clusters: [ {{ name: c, type: tcp, endpoints: ["127.0.0.1:9912"] }} ]
""")
    cmd = ["unshare", "-n", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", f"--inh-caps={four}", f"--ambient-caps={four}",
           f"--bounding-set={four}", str(tmp_path / "aditd"), "-c", str(tmp_path / "c.yaml")]
    with open(tmp_path / "log", "wb") as log:
        proc = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 20 * lib.SLOW
        while b"ready" not in (tmp_path / "log").read_bytes():
            assert proc.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.05)
        told = json.loads(run([os.path.join(lib.BUILD, "aditctl"), "-s", str(tmp_path / "s"), "-o", "json", "kernel"]))
        bypass = [m for m in told["means"] if m["name"] == "bypass"][0]
        assert bypass["state"] == "missing" and "CAP_SYSLOG" in bypass["why"]
    finally:
        proc.terminate()
        assert proc.wait(20 * lib.SLOW) == 0


def test_configurations_of_the_docs_are_right(tmp_path, certs):
    blocks = re.findall(r"(?ms)^ *```yaml\n(.*?)^ *```", read("docs/OPERATIONS.md"))
    rules = [b for b in blocks if b.startswith("groups:")]
    assert len(rules) == 1 and len(blocks) >= 3
    for n, block in enumerate(b for b in blocks if b not in rules):
        block = re.sub(r"(?m)^   ", "", block) if block.startswith("   ") else block
        (tmp_path / f"{n}.yaml").write_text(block.replace("/etc/adit/", f"{certs}/"))
        run([os.path.join(lib.BUILD, "aditd"), "--check", str(tmp_path / f"{n}.yaml")])
    yaml = pytest.importorskip("yaml")
    for rule in yaml.safe_load(rules[0])["groups"][0]["rules"]:
        assert rule["alert"].startswith("Adit") and "adit" in rule["expr"] and rule["annotations"]["look"]


def metrics_named(text):
    return set(re.findall(r"\badit_[a-z_]+\b", text))


def test_every_metric_of_the_alerts_exists():
    assert metrics_named(read("docs/OPERATIONS.md")) <= metrics_named(read("docs/METRICS.md"))


def commands_of_help():
    """first words, and what follows them, of the summary"""
    text = run([os.path.join(lib.BUILD, "aditctl"), "--help"])
    return {m for m in re.findall(r"(?m)^  ([a-z][a-z-]*)\b", text)}


def test_every_command_has_help_completion_and_a_place_in_the_man_page():
    commands = commands_of_help()
    assert {"status", "conn", "help"} <= commands
    completion = read("packaging/completion/aditctl.bash")
    listed = set(re.search(r"local commands='([^']*)'", completion).group(1).split())
    assert listed == commands
    man = read("docs/man/aditctl.1.scd")
    for c in commands:
        assert re.search(rf"(?m)^\*{re.escape(c)}( |\*|$)", man), f"aditctl(1) lacks {c}"
        assert f"usage: aditctl {c}" in run([os.path.join(lib.BUILD, "aditctl"), "help", c]), c


def shown(text):
    """what stands behind `aditctl` in code of a document: a list of words per use"""
    code = re.findall(r"(?ms)^ *```(?:sh|console)?\n(.*?)^ *```", text) + re.findall(r"`([^`\n]+)`", text) + \
        re.findall(r"\*(aditctl [^*\n]+)\*", text)
    found = []
    for block in code:
        for use in re.findall(r"(?m)(?:^|[\s$(/`])aditctl((?: +[^\s|;&)<>`]+)+)", block):
            words, skip = [], False
            for w in use.split(",")[0].split():
                if skip:
                    skip = False
                elif w in ("-s", "-o", "--socket", "--output"):
                    skip = True
                elif not w.startswith("-"):
                    words.append(w)
            found.append(words)
    return found


def test_every_command_shown_in_the_docs_exists():
    commands, subs = commands_of_help(), {}
    for c in commands:
        usage = run([os.path.join(lib.BUILD, "aditctl"), "help", c]).split("\n\n")[0]
        subs[c] = set(re.findall(r"(?<![-=])\b[a-z]{2,}\b", usage)) - {"usage", "aditctl", c}
    seen = set()
    for path in ["README.md"] + sorted(glob.glob("docs/*.md", root_dir=lib.TOP)) + sorted(glob.glob("docs/man/*.scd", root_dir=lib.TOP)):
        for words in shown(read(path)):
            if not words or not re.fullmatch(r"[a-z][a-z-]*", words[0]):
                continue
            assert words[0] in commands, f"{path}: aditctl {' '.join(words)}"
            seen.add(words[0])
            if len(words) > 1 and subs[words[0]] and re.fullmatch(r"[a-z]+", words[1]) and words[0] not in ("stats", "log-level"):
                assert words[1] in subs[words[0]], f"{path}: aditctl {' '.join(words)}: help knows {sorted(subs[words[0]])}"
    assert {"status", "reload", "conn", "kernel"} <= seen


@pytest.mark.limit(180)
@pytest.mark.skipif(not (shutil.which("lintian") and shutil.which("dh")), reason="no lintian or debhelper on this machine: run make setup")
@pytest.mark.rows("12: deb")
def test_the_package_is_clean():
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "SAN")}
    told = run(["scripts/deb", "--lint"], env=env)
    deb = re.search(r"(?m)^(\S+/adit_\S+\.deb)$", told).group(1)
    held = run(["dpkg-deb", "--contents", deb])
    assert " ./usr/sbin/aditd\n" in held and " ./lib/systemd/system/aditd.service\n" in held and "/usr/local/" not in held
    control = run(["dpkg-deb", "--field", deb, "Depends"])
    assert "libc6" in control and "libnghttp2-14" in control and "libwolfssl" not in control.replace("libwolfssl-dev", "")
    conffiles = run(["dpkg-deb", "--ctrl-tarfile", deb], errors="replace")
    assert "/etc/adit/adit.yaml" in conffiles and "/etc/logrotate.d/adit" in conffiles
