"""Fixtures. `w` makes nodes, agents, backends and peers, and takes all of them down again; an agent that ended badly or that a
sanitizer complained about fails the test that used it."""
import os
import signal
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import h2raw  # noqa: E402
import lib  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line("markers", "san: worth running with sanitizers, too")
    config.addinivalue_line("markers", "slow: takes more than ten seconds")
    config.addinivalue_line("markers", "limit(seconds): how long the test may take (default 40)")
    config.addinivalue_line("markers", "rows(...): rows of the acceptance list")


def pytest_collection_modifyitems(items):
    why = "needs root" if os.geteuid() else None if os.access(os.path.join(lib.BUILD, "aditd"), os.X_OK) else f"no {lib.BUILD}/aditd"
    for item in items:
        if why:
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    """what the agents logged belongs to a failure"""
    outcome = yield
    report = outcome.get_result()
    world = item.funcargs.get("w") if hasattr(item, "funcargs") else None
    if report.when == "call" and report.failed and world:
        for a in world.agents:
            report.sections.append((f"log of {a.name}", a.log()[-4000:]))


@pytest.fixture(autouse=True)
def time_limit(request):
    mark = request.node.get_closest_marker("limit")
    seconds = (mark.args[0] if mark else 40) * lib.SLOW

    def expired(*_):
        raise TimeoutError(f"the test took more than {seconds} s")
    before = signal.signal(signal.SIGALRM, expired)
    signal.alarm(int(seconds))
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def scratch(tmp_path_factory):
    """a folder that agents of other users can reach"""
    d = str(tmp_path_factory.mktemp("adit"))
    while d != "/" and os.stat(d).st_uid == os.geteuid() and d.startswith("/tmp/"):
        os.chmod(d, 0o755)
        d = os.path.dirname(d)
    return tmp_path_factory.mktemp("certs")


@pytest.fixture(scope="session")
def certs(scratch):
    os.chmod(scratch, 0o755)
    names = ["client", "server", "blue", "green"]
    return lib.Certs(scratch, *[x for n in names for x in ("--id", f"{n}=ns/test/sa/{n}")], "--expired", "expired", "--foreign", "stranger",
                     "--no-san", "nameless", "--two-sans", "double")


@pytest.fixture(scope="session")
def other_domain(tmp_path_factory, certs):
    """the same authority, another trust domain"""
    d = tmp_path_factory.mktemp("other")
    os.chmod(d, 0o755)
    for f in ("ca.pem", "ca.key"):
        subprocess.run(["cp", certs.file(f), str(d)], check=True)
    return lib.Certs(d, "--trust-domain", "elsewhere.example", "--id", "visitor=ns/test/sa/visitor")


class World:
    def __init__(self, directory, certs):
        self.dir, self.certs = directory, certs
        self.agents, self.backends, self.nodes, self.socks, self.links = [], [], [], [], []

    # -- making things

    def node(self, name="node", address="127.0.0.1"):
        n = lib.Node(name, address)
        self.nodes.append(n)
        return n

    def two_nodes(self):
        a, b = self.node("a"), self.node("b")
        lib.join(a, b, 1)
        return a, b

    def agent(self, node, name, config, start=True, **kw):
        same = sum(a.name.rstrip("0123456789") == name for a in self.agents)
        name += str(same + 1) if same else ""
        a = lib.Agent(node, name, self.dir, config, **kw)
        self.agents.append(a)
        return a.start() if start else a

    def backend(self, node, handler=lib.serve_echo, **kw):
        b = lib.Backend(node, handler, **kw)
        self.backends.append(b)
        return b

    def keep(self, sock):
        """close it when the test ends"""
        self.socks.append(sock)
        return sock

    def app(self, where, node=None, **kw):
        """an application's connection"""
        return self.keep((node or self.nodes[0]).connect(where, **kw))

    def h2_client(self, node, where, tls="client", settings=None, ca="ca.pem", start=True, timeout=None):
        """a raw peer towards a tunnel listener; tls: name of its certificate, None for plain text"""
        s = self.keep(node.connect(where))
        if tls:
            s = self.keep(self.certs.context(True, tls, ca).wrap_socket(s))
            assert s.selected_alpn_protocol() == "h2"
        h = h2raw.H2(s, True, timeout or lib.TIMEOUT)
        return h.start(settings) if start else h

    def h2_server(self, node, tls="server", ca="ca.pem", settings=None):
        return H2Server(self, node, self.certs.context(False, tls, ca) if tls else None, settings)

    # -- the usual two agents

    def pair(self, backend, node=None, far_node=None, tls=True, client=None, server=None, outbound=None, inbound=None, pool=None,
             to_far=None, app=None, authority=None, agent=None):
        """application -> client agent -> tunnel -> server agent -> backend. The dicts are merged into the configuration: client, server
        (top level), outbound, inbound (listeners), pool, to_far (tunnel cluster), app (backend's cluster)."""
        node = node or self.nodes[0]
        far_node = far_node or node
        listen, tun = node.at(), far_node.at()
        ids = ({"identities": [self.certs.identity("client")]}, {"identities": [self.certs.identity("server")]}) if tls else ({}, {})
        safe = {} if tls else {"tls": False}
        app_cluster = lib.cluster("app", backend.where if hasattr(backend, "where") else backend, **(app or {}))
        server = self.agent(far_node, "server", {
            **ids[1], "listeners": [lib.tunnel("inbound", tun, "app", **safe, **(inbound or {}))], "clusters": [app_cluster],
            **(server or {})}, **(agent or {}))
        client = self.agent(node, "client", {
            **ids[0], "listeners": [lib.tcp("outbound", listen, "far", **(outbound or {}))],
            "clusters": [lib.far("far", tun, authority=authority or app_cluster["endpoints"][0], pool=pool or {}, **safe, **(to_far or {}))],
            **(client or {})}, **(agent or {}))
        client.listen, server.tunnel = listen, tun
        return client, server

    # -- the end

    def finish(self):
        for s in self.socks:
            try:
                s.close()
            except OSError:
                pass
        for b in self.backends:
            b.close()
        wrong = [x for a in self.agents[::-1] for x in a.finish()]
        for x in self.links:
            x.close()
        for n in self.nodes:
            n.close()
        return wrong


class H2Server:
    """a raw peer in place of the server agent"""

    def __init__(self, w, node, context, settings):
        self.w, self.context, self.settings = w, context, settings
        self.sock = w.keep(node.listen())
        self.port = self.sock.getsockname()[1]
        self.where = node.at(self.port)

    def accept(self, start=True, timeout=None):
        self.sock.settimeout(lib.TIMEOUT if timeout is None else timeout)
        s, _ = self.sock.accept()
        s.settimeout(lib.TIMEOUT)
        self.w.keep(s)
        if self.context:
            s = self.w.keep(self.context.wrap_socket(s, server_side=True))
        h = h2raw.H2(s, False, lib.TIMEOUT)
        return h.start(self.settings).expect_preface() if start else h


@pytest.fixture
def w(tmp_path, certs):
    tmp_path.chmod(0o755)
    world = World(tmp_path, certs)
    yield world
    wrong = world.finish()
    assert not wrong, "\n".join(wrong)


@pytest.fixture
def node(w):
    """one namespace with loopback"""
    return w.node()


@pytest.fixture(params=["tls", "plain"])
def tls(request):
    return request.param == "tls"
