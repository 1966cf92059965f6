"""Certificates that run out, are replaced, revoked, and bad, while connections live."""
import datetime
import os
import re
import threading
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

import lib

TRUST = "cluster.local"


def moment(seconds):
    return datetime.datetime.utcnow() + datetime.timedelta(seconds=seconds)


def pem(cert):
    return cert.public_bytes(serialization.Encoding.PEM)


def name_of(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    """signs certificates that live as long as a test wants"""

    def __init__(self, name="Rotation authority"):
        self.key, self.name, self.revoked = ec.generate_private_key(ec.SECP256R1()), name_of(name), []
        self.cert = (x509.CertificateBuilder().subject_name(self.name).issuer_name(self.name).public_key(self.key.public_key())
                     .serial_number(x509.random_serial_number()).not_valid_before(moment(-3600)).not_valid_after(moment(36000))
                     .add_extension(x509.BasicConstraints(True, None), True)
                     .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), True)
                     .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), False).sign(self.key, hashes.SHA256()))

    def issue(self, sa, seconds=3600, start=-5, trust=TRUST):
        """Return: certificate and key, both PEM, and the certificate itself"""
        key = ec.generate_private_key(ec.SECP256R1())
        usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        cert = (x509.CertificateBuilder().subject_name(name_of(sa)).issuer_name(self.name).public_key(key.public_key())
                .serial_number(x509.random_serial_number()).not_valid_before(moment(start)).not_valid_after(moment(seconds))
                .add_extension(x509.BasicConstraints(False, None), True)
                .add_extension(x509.KeyUsage(True, False, False, False, False, False, False, False, False), True)
                .add_extension(x509.ExtendedKeyUsage(usage), False)
                .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust}/ns/test/sa/{sa}")]), False)
                .sign(self.key, hashes.SHA256()))
        return pem(cert), key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()), cert

    def crl(self, *certs):
        self.revoked += certs
        b = x509.CertificateRevocationListBuilder().issuer_name(self.name).last_update(moment(-60)).next_update(moment(3600))
        b = b.add_extension(x509.CRLNumber(len(self.revoked) + 1), False)
        for c in self.revoked:
            b = b.add_revoked_certificate(x509.RevokedCertificateBuilder().serial_number(c.serial_number).revocation_date(moment(-1)).build())
        return b.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


class Files:
    """the files of one identity; `how` they are replaced: rename, truncate, or swap (a link to a folder)"""

    def __init__(self, folder, ca, sa, how="rename", crl=None, **life):
        self.dir, self.ca, self.sa, self.how, self.n = str(folder), ca, sa, how, 0
        os.makedirs(self.dir, exist_ok=True)
        self.has_crl = crl is not None
        self.renew(crl=crl, **life)

    def path(self, name):
        return os.path.join(self.dir, name)

    def put(self, **files):
        names = {"crt": "tls.crt", "key": "tls.key", "ca": "ca.crt", "crl": "ca.crl"}
        if self.how == "swap":
            self.n += 1
            new = f"..{self.n}"
            os.mkdir(self.path(new))
            for k, name in names.items():
                data = files.get(k)
                if data is None and os.path.exists(self.path(name)):
                    with open(self.path(name), "rb") as f:
                        data = f.read()
                if data is None:
                    continue
                with open(self.path(f"{new}/{name}"), "wb") as f:
                    f.write(data)
                if not os.path.islink(self.path(name)):
                    os.symlink(f"..data/{name}", self.path(name))
            os.symlink(new, self.path("..new"))
            os.rename(self.path("..new"), self.path("..data"))
            return
        for k, data in files.items():
            path = self.path(names[k])
            with open(path + ".new" if self.how == "rename" else path, "wb") as f:
                f.write(data)
            if self.how == "rename":
                os.rename(path + ".new", path)

    def renew(self, ca=None, crl=None, **life):
        crt, key, self.cert = self.ca.issue(self.sa, **life)
        more = {"crl": crl} if crl is not None else {}
        if not os.path.exists(self.path("ca.crt")) or ca:
            more["ca"] = ca or pem(self.ca.cert)
        self.put(crt=crt, key=key, **more)

    @property
    def serial(self):
        s = f"{self.cert.serial_number:X}"
        return s if len(s) % 2 == 0 else "0" + s

    def identity(self, **more):
        d = {"name": self.sa, "certificate": self.path("tls.crt"), "key": self.path("tls.key"), "ca": self.path("ca.crt")}
        if self.has_crl:
            d["crl"] = self.path("ca.crl")
        return dict(d, **more)


@pytest.fixture
def ca():
    return Authority()


def two(w, node, ca, how=("rename", "rename"), back=None, client=None, server=None, grace="3s", **life):
    """client -> tunnel -> server -> backend, each with files of its own"""
    back = back or w.backend(node)
    fc = Files(os.path.join(w.dir, "id-client"), ca, "client", how[0], **dict(life, **(client or {})))
    fs = Files(os.path.join(w.dir, "id-server"), ca, "server", how[1], **dict(life, **(server or {})))
    times = {"timeouts": {"expiry_grace": grace}}
    c, s = w.pair(back, client={"identities": [fc.identity()], **times}, server={"identities": [fs.identity()], **times})
    return c, s, fc, fs


def cert_of(agent, name):
    row, = [r for r in agent.ctl("cert")["certs"] if r["identity"] == name]
    return row


def has(agent, files, timeout=None):
    """wait until the files as they are now are in force"""
    lib.wait_for(lambda: cert_of(agent, files.sa)["serial"] == files.serial, lambda: f"{agent.name} has {files.serial}\n{agent.log()[-2000:]}", timeout)


def exchange(w, where, data=b"hello"):
    s = w.app(where)
    lib.echo(s, data)
    s.close()


class Load:
    """short connections one after the other, and long ones that talk now and then; keeps what went wrong"""

    def __init__(self, node, where, longs=4, shorts=2, long_life=8):
        self.node, self.where, self.stop, self.wrong, self.done, self.long_done = node, where, threading.Event(), [], 0, 0
        self.long_life = long_life
        self.threads = [threading.Thread(target=self.long if i < longs else self.short, daemon=True) for i in range(longs + shorts)]
        for t in self.threads:
            t.start()

    def short(self):
        while not self.stop.is_set():
            try:
                s = self.node.connect(self.where)
                lib.echo(s, b"short")
                lib.fin(s)
                assert lib.recv_all(s) == (b"", "fin")
                s.close()
                self.done += 1
            except Exception as e:  # pylint: disable=broad-except
                self.wrong.append(f"short, {time.time():.2f}: {e!r}")
            time.sleep(0.01)

    def long(self):
        while not self.stop.is_set():
            try:
                s, end = self.node.connect(self.where), time.time() + self.long_life
                while time.time() < end and not self.stop.is_set():
                    lib.echo(s, os.urandom(2000))
                    time.sleep(0.05)
                lib.fin(s)
                assert lib.recv_all(s) == (b"", "fin")
                s.close()
                self.long_done += 1
            except Exception as e:  # pylint: disable=broad-except
                self.wrong.append(f"long, {time.time():.2f}: {e!r}")

    def end(self):
        self.stop.set()
        for t in self.threads:
            t.join(20 * lib.SLOW)
        assert not self.wrong, f"{len(self.wrong)} of {self.done + self.long_done}: {self.wrong[:5]}"
        return self.done, self.long_done


@pytest.mark.slow
@pytest.mark.limit(120)
@pytest.mark.rows("B18", "C14")
def test_certificates_of_twenty_seconds_under_load(w, node, ca):
    """both sides renew every 6 to 8 seconds for more than a minute, in every way that files are replaced"""
    c, s, fc, fs = two(w, node, ca, how=("swap", "truncate"), seconds=20)
    load = Load(node, c.listen)
    end, seen, turn = time.time() + 66, set(), 0
    while time.time() < end:
        time.sleep(3.5)
        (fc, fs)[turn % 2].renew(seconds=20)
        turn += 1
        seen |= {(t["own_serial"], t["id"]) for t in c.tunnels("out")}
    short, long_ = load.end()
    assert short > 500 and long_ >= 16
    has(c, fc)
    has(s, fs)
    assert len({x for x, _ in seen}) >= 5, "tunnels with ever new certificates"
    assert c.stat("tunnels_rotated") >= 8 and s.stat("tunnels_rotated") >= 4
    for a in (c, s):
        assert a.stat("tunnels_expired") == 0 and a.stat("tls_handshake_failures") == 0
        assert cert_of(a, a.name)["reload_failures"] == 0 or a is s  # a truncated file may be seen as one
    # the old ones are gone
    lib.wait_for(lambda: all(t["own_serial"] == fc.serial for t in c.tunnels("out")), "tunnels of old certificates have gone", 15)


@pytest.mark.san
@pytest.mark.rows("B18")
@pytest.mark.parametrize("how", ("rename", "truncate", "swap"))
def test_a_renewed_certificate_is_used(w, node, ca, how):
    """by new tunnels at once; a live one is replaced, and what it carries goes on until it ends"""
    c, s, fc, _ = two(w, node, ca, how=(how, "rename"))
    held = w.app(c.listen)
    lib.echo(held)
    old, = c.tunnels("out")
    assert old["own_serial"] == fc.serial and old["identity"] == "client"
    fc.renew()
    has(c, fc)
    lib.wait_for(lambda: {t["own_serial"] for t in c.tunnels("out") if t["state"] == "open"} == {fc.serial}, "a tunnel with the new certificate", 15)
    t, = [t for t in c.tunnels("out") if t["id"] == old["id"]]
    assert t["state"] == "draining" and t["streams"] == 1
    lib.echo(held, b"still on the old one")
    exchange(w, c.listen)
    held.close()
    lib.wait_for(lambda: [t["own_serial"] for t in c.tunnels("out")] == [fc.serial], "the old tunnel has gone")
    assert c.stat("tunnels_rotated") == 1
    c.logged(r"certificates changed: ~ identity client: certificate renewed, serial " + fc.serial)


BAD = {
    "key of another certificate": (lambda f, ca: f.put(key=ca.issue("client")[1]), "does not belong to"),
    "cut off": (lambda f, ca: f.put(crt=ca.issue("client")[0][:300]), "is cut off"),
    "empty": (lambda f, ca: f.put(crt=b""), "is empty"),
    "gone": (lambda f, ca: os.unlink(f.path("tls.key")), "No such file"),
    "no certificate": (lambda f, ca: f.put(ca=b"hello\n"), "has no CERTIFICATE"),
    "a CA's": (lambda f, ca: f.put(crt=pem(ca.cert)), "CA's"),
    "not a CA": (lambda f, ca: f.put(ca=ca.issue("client")[0]), "is no CA's"),
}


@pytest.mark.rows("B18")
@pytest.mark.parametrize("case", BAD)
def test_bad_files_leave_the_old_in_force(w, node, ca, case):
    c, _, fc, _ = two(w, node, ca)
    exchange(w, c.listen)
    was = fc.serial
    spoil, words = BAD[case]
    spoil(fc, ca)
    c.logged(re.escape(words) + ".*stays in force")
    row = cert_of(c, "client")
    assert row["serial"] == was and row["state"] == "bad" and words in row["error"] and row["reload_failures"] >= 1
    m = c.metrics()
    assert 'adit_identity_bad{identity="client"' in m
    assert re.search(r'adit_identity_bad\{identity="client"[^}]*\} 1\n', m) and re.search(r'adit_identity_reload_failures_total\{.*\} [1-9]', m)
    assert "bad" in c.ctl("cert", as_json=False)
    exchange(w, c.listen)
    c.ctl("reload")  # nor does somebody's reload
    exchange(w, c.listen)
    fc.renew(ca=pem(ca.cert))
    has(c, fc)
    row = cert_of(c, "client")
    assert row["state"] == "good" and row["error"] is None
    assert re.search(r'adit_identity_bad\{identity="client"[^}]*\} 0\n', c.metrics())
    c.logged("its files are good again")
    exchange(w, c.listen)


@pytest.mark.san
@pytest.mark.rows("B18")
def test_crl_closes_the_revoked_peer_only(w, node, ca):
    """at both sides: accepted tunnels and dialled ones"""
    back = w.backend(node)
    folder = lambda x: os.path.join(w.dir, "id-" + x)  # noqa: E731
    fs = Files(folder("server"), ca, "server", crl=ca.crl())
    good, bad = Files(folder("good"), ca, "good"), Files(folder("bad"), ca, "bad")
    tun = node.at()
    s = w.agent(node, "server", {"identities": [fs.identity()], "listeners": [lib.tunnel("inbound", tun, "app")],
                                 "clusters": [lib.cluster("app", back.where)]})
    apps, clients = {}, {}
    for f in (good, bad):
        a = clients[f] = w.agent(node, f.sa, {"identities": [f.identity()], "listeners": [lib.tcp("out", node.at(), "far")],
                                              "clusters": [lib.far("far", tun, authority=back.where)]})
        apps[f] = w.app(a.config["listeners"][0]["address"])
        lib.echo(apps[f])
    assert s.stat("tunnels_in") == 2
    fs.put(crl=ca.crl(bad.cert))
    lib.is_reset(apps[bad])
    lib.echo(apps[good], b"untouched")
    assert [t["peer_identity"].rsplit("/", 1)[1] for t in s.tunnels("in")] == ["good"]
    assert s.stat("tunnels_untrusted") == 1
    s.logged("no longer trusted: peer's certificate is revoked")
    clients[bad].logged("revoked")
    row, = s.access(1, src_identity=f"spiffe://{TRUST}/ns/test/sa/bad")
    assert "no longer trusted" in str(row) and row["response_flags"] == "LR" and row["closed_by"] == "adit"
    # and it does not come back
    again = w.app(clients[bad].config["listeners"][0]["address"])
    lib.is_reset(again)
    crl, = cert_of(s, "server")["crls"]
    assert crl["revoked"] == 1 and crl["seconds_left"] > 3000
    lib.echo(apps[good], b"untouched")


@pytest.mark.rows("B18")
def test_crl_closes_dialled_tunnels(w, node, ca):
    back = w.backend(node)
    folder = lambda x: os.path.join(w.dir, "id-" + x)  # noqa: E731
    fc = Files(folder("client"), ca, "client", crl=ca.crl())
    servers = [Files(folder(x), ca, x) for x in ("one", "two")]
    at = [node.at() for _ in servers]
    for f, t in zip(servers, at):
        w.agent(node, f.sa, {"identities": [f.identity()], "listeners": [lib.tunnel("inbound", t, "app")], "clusters": [lib.cluster("app", back.where)]})
    listen = [node.at() for _ in servers]
    c = w.agent(node, "client", {"identities": [fc.identity()], "listeners": [lib.tcp(f"l{i}", x, f"far{i}") for i, x in enumerate(listen)],
                                 "clusters": [lib.far(f"far{i}", t, authority=back.where) for i, t in enumerate(at)]})
    apps = [w.app(x) for x in listen]
    for a in apps:
        lib.echo(a)
    fc.put(crl=ca.crl(servers[1].cert))
    lib.is_reset(apps[1])
    lib.echo(apps[0], b"untouched")
    t, = c.tunnels("out")
    assert t["peer_identity"].endswith("/one") and c.stat("tunnels_untrusted") == 1
    lib.is_reset(w.app(listen[1]))


@pytest.mark.rows("B18")
def test_ca_removed(w, node, ca):
    """two authorities are trusted, then one: its peer is closed, the other's is not; and back again"""
    other = Authority("Another authority")
    both = pem(ca.cert) + pem(other.cert)
    back = w.backend(node)
    folder = lambda x: os.path.join(w.dir, "id-" + x)  # noqa: E731
    fs = Files(folder("server"), ca, "server")
    fs.put(ca=both)
    files = [Files(folder("ours"), ca, "ours"), Files(folder("theirs"), other, "theirs")]
    files[1].put(ca=both)
    tun = node.at()
    s = w.agent(node, "server", {"identities": [fs.identity()], "listeners": [lib.tunnel("inbound", tun, "app")],
                                 "clusters": [lib.cluster("app", back.where)]})
    listen, apps = [node.at(), node.at()], []
    for f, x in zip(files, listen):
        w.agent(node, f.sa, {"identities": [f.identity()], "listeners": [lib.tcp("out", x, "far")],
                             "clusters": [lib.far("far", tun, authority=back.where)]})
        apps.append(w.app(x))
        lib.echo(apps[-1])
    assert len(cert_of(s, "server")["cas"]) == 2
    fs.put(ca=pem(ca.cert))
    lib.is_reset(apps[1])
    lib.echo(apps[0], b"untouched")
    s.logged("no longer trusted: peer's certificate is not signed by our CA")
    lib.is_reset(w.app(listen[1]))
    fs.put(ca=both)
    lib.wait_for(lambda: len(cert_of(s, "server")["cas"]) == 2, "both authorities again")
    exchange(w, listen[1])
    lib.echo(apps[0], b"untouched")


@pytest.mark.slow
@pytest.mark.rows("B18")
@pytest.mark.parametrize("who", ("client", "server"))
def test_expired_without_replacement_ends(w, node, ca, who):
    """the tunnel goes on over notAfter, and ends after the grace; so at both ends, whoever's certificate it was"""
    c, s, *_ = two(w, node, ca, **{who: {"seconds": 5}})
    held = w.app(c.listen)
    began = time.time()
    while time.time() - began < 6:
        lib.echo(held, b"goes on")
        time.sleep(0.2)
    lib.is_reset(held, 8)
    assert 6.5 < time.time() - began < 12
    lib.wait_for(lambda: not c.tunnels("out") and not s.tunnels("in"), "no tunnel is left")
    assert c.stat("tunnels_expired") + s.stat("tunnels_expired") >= 1
    a = c if who == "client" else s
    a.logged(f"identity '{who}': certificate .* expired")
    assert cert_of(a, who)["state"] == "expired" and cert_of(a, who)["seconds_left"] < 0
    lib.is_reset(w.app(c.listen))
    c.logged("expired")


@pytest.mark.rows("B18")
def test_what_peers_would_refuse_is_said(w, node, ca):
    """valid files that are of no use: another trust domain, not yet valid"""
    c, s, fc, _ = two(w, node, ca)
    exchange(w, c.listen)
    fc.renew(start=1000, seconds=5000)
    c.logged("identity 'client': certificate .* is valid only in")
    assert cert_of(c, "client")["state"] == "not yet valid"
    fc.renew(trust="elsewhere.example")
    has(c, fc)
    lib.wait_for(lambda: not [t for t in c.tunnels("out") if t["state"] == "open"] or s.stat("identity_refused"), "the other trust domain is refused", 15)
    fc.renew()
    has(c, fc)
    exchange(w, c.listen)


@pytest.mark.rows("B18")
def test_aditctl_cert(w, node, ca):
    c, s, fc, fs = two(w, node, ca, seconds=3 * 86400, server={"seconds": 60, "start": -600})
    held = w.app(c.listen)
    lib.echo(held)
    row = cert_of(c, "client")
    assert row["spiffe_id"] == f"spiffe://{TRUST}/ns/test/sa/client" and row["state"] == "good" and 2.9 < row["days_left"] < 3.1
    assert row["certificate"] == fc.path("tls.crt") and row["issuer"].endswith("Rotation authority") and row["crl"] is None
    t, = row["tunnels"]
    assert t["current"] and t["dir"] == "out" and t["streams"] == 1
    text = c.ctl("cert", as_json=False)
    assert "client" in text and "good" in text and fc.serial[:8] in text
    assert cert_of(s, "server")["state"] == "expiring"
    assert any("a third of its life is left" in n for n in cert_of(s, "server")["notes"])
    s.logged("identity 'server': certificate .* expires in .*: a third of its life is left")
    assert "expiring" in s.ctl("cert", as_json=False)
    one = c.ctl("cert", "client", as_json=False)
    assert fc.path("tls.crt") in one and "Rotation authority" in one
    assert c.ctl("cert", "nobody", check=False, as_json=False) is not None
    assert fs.serial


@pytest.mark.slow
@pytest.mark.limit(90)
@pytest.mark.rows("B18")
def test_rotate_before_expiry(w, node, ca):
    """rotate: expiry: a renewed certificate waits until two thirds of the old one's time are over"""
    back = w.backend(node)
    fc, fs = (Files(os.path.join(w.dir, "id-" + x), ca, x, seconds=s) for x, s in (("client", 18), ("server", 3600)))
    c, _ = w.pair(back, client={"identities": [fc.identity(rotate="expiry")]}, server={"identities": [fs.identity()]})
    held = w.app(c.listen)
    lib.echo(held)
    first, = c.tunnels("out")
    began = time.time()
    fc.renew(seconds=3600)
    has(c, fc)
    time.sleep(4)
    assert [t["id"] for t in c.tunnels("out")] == [first["id"]], "not yet"
    lib.wait_for(lambda: {t["own_serial"] for t in c.tunnels("out") if t["state"] == "open"} == {fc.serial}, "replaced in time", 18)
    assert 8 < time.time() - began < 18
    lib.echo(held, b"still there")
