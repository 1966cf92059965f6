"""What is measured: two proxies, app -> 127.0.0.1:9100 -> TLS 127.0.0.1:9200 -> backend 127.0.0.1:9000.

A peer is a function that returns its command lines; the far proxy comes first. One process or worker per side where the peer has
such a setting; Go and Rust keep their default threads.
"""
import os

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(TOP, "build", "bench")
RUN = os.path.join(BUILD, "run")
APP, TUN, BACK = 9100, 9200, 9000
MAXCONN = 10000  # set by run: what the descriptor limit allows
PEERS = {}
TLS = ("haproxy-tls", "nginx-tls", "nghttpx-tuned", "go-h2", "rust-h2")  # Adit's figures are measured against the best of these


def peer(f):
    PEERS[f.__name__.replace("_", "-")] = f
    return f


def cert(name):
    return os.path.join(BUILD, "certs", name)


def conf(name, text):
    path = os.path.join(RUN, name)
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    return path


@peer
def direct():
    """no proxy: the generator straight to the backend"""
    return {"procs": [], "front": BACK}


# ---- Adit

def adit(*more):
    """scripts/pair starts both agents; its children are what is counted"""
    return {"procs": [[os.path.join(TOP, "scripts", "pair"), "--listen", f"127.0.0.1:{APP}", "--tunnel", f"127.0.0.1:{TUN}",
                       "--backend", f"127.0.0.1:{BACK}", "--workers", "1", *more]], "pair": True}


@peer
def adit_tls():
    """Adit, mutual TLS, movers as it chooses"""
    return adit("--tls", "on")


@peer
def adit_relay():
    """Adit, mutual TLS, user-space relay only"""
    return adit("--tls", "on", "--mover", "relay")


@peer
def adit_plain():
    """Adit without TLS between the agents, beside haproxy-tcp"""
    return adit("--tls", "off")


# ---- a TLS connection per application connection

def haproxy(server, bind):
    def cfg(listen, to):
        return f"""
global
  nbthread 1
  maxconn {MAXCONN}
  nosplice
defaults
  mode tcp
  maxconn {MAXCONN}
  timeout connect 5s
  timeout client 1h
  timeout server 1h
listen l
  {listen}
  {to}
"""
    far = conf("haproxy-server.cfg", cfg(bind, f"server b 127.0.0.1:{BACK}"))
    near = conf("haproxy-client.cfg", cfg(f"bind 127.0.0.1:{APP} backlog 4096", server))
    return {"procs": [["haproxy", "-db", "-f", far], ["haproxy", "-db", "-f", near]]}


@peer
def haproxy_tls():
    """TLS sessions resumed"""
    suite = "ssl-min-ver TLSv1.3 ciphersuites TLS_AES_128_GCM_SHA256"
    return haproxy(f"server s 127.0.0.1:{TUN} ssl crt {cert('client.pem')} ca-file {cert('ca.crt')} verify required "
                   f"sni str(server.mesh) verifyhost server.mesh {suite}",
                   f"bind 127.0.0.1:{TUN} backlog 4096 ssl crt {cert('server.pem')} ca-file {cert('ca.crt')} "
                   f"verify required {suite}")


@peer
def haproxy_tcp():
    """plain two-hop TCP relay, no TLS"""
    return haproxy(f"server s 127.0.0.1:{TUN}", f"bind 127.0.0.1:{TUN} backlog 4096")


@peer
def nginx_tls():
    """stream + ssl, TLS sessions resumed, 16 KB buffers"""
    module = "/usr/lib/nginx/modules/ngx_stream_module.so"
    load = f"load_module {module};" if os.path.exists(module) else ""
    suite = "Ciphersuites TLS_AES_128_GCM_SHA256"
    near = f"""proxy_ssl on; proxy_ssl_protocols TLSv1.3; proxy_ssl_conf_command {suite};
    proxy_ssl_certificate {cert('client.crt')}; proxy_ssl_certificate_key {cert('client.key')};
    proxy_ssl_trusted_certificate {cert('ca.crt')}; proxy_ssl_verify on; proxy_ssl_server_name on; proxy_ssl_name server.mesh;"""
    far = f"""ssl_protocols TLSv1.3; ssl_conf_command {suite};
    ssl_certificate {cert('server.crt')}; ssl_certificate_key {cert('server.key')};
    ssl_client_certificate {cert('ca.crt')}; ssl_verify_client on; ssl_session_tickets on;"""
    procs = []
    for name, listen, to, extra in (("server", f"127.0.0.1:{TUN} ssl", BACK, far), ("client", f"127.0.0.1:{APP}", TUN, near)):
        path = conf(f"nginx-{name}.conf", f"""{load}
worker_processes 1;
pid {RUN}/nginx-{name}.pid;
error_log {RUN}/nginx-{name}.log;
events {{ worker_connections {2 * MAXCONN}; }}
stream {{
  tcp_nodelay on;
  server {{
    listen {listen} backlog=4096;
    proxy_pass 127.0.0.1:{to};
    proxy_timeout 1h;
    {extra}
  }}
}}
""")
        procs.append(["nginx", "-c", path, "-e", f"{RUN}/nginx-{name}.log", "-g", "daemon off;"])
    return {"procs": procs}


# ---- HTTP/2 CONNECT, one TLS connection

@peer
def nghttpx_tuned():
    """nghttp2's proxy, 1 MB stream and 16 MB connection windows; the backend answers the inner CONNECT"""
    hour = ("frontend-read", "frontend-write", "backend-read", "backend-write", "stream-read", "stream-write", "frontend-http2-read",
            "backend-keep-alive")
    common = ["nghttpx", "--conf=/dev/null", "--workers=1", "--http2-proxy", "--tls-min-proto-version=TLSv1.3", "--log-level=ERROR",
              *[f"--{h}-timeout=1h" for h in hour], "--worker-frontend-connections=0",
              # the defaults would allow 8 streams
              "--backend-connections-per-host=100000", "--backend-connections-per-frontend=100000",
              "--backend-request-buffer=256K", "--backend-response-buffer=256K"]
    far = common + [f"--frontend=127.0.0.1,{TUN}", f"--backend=127.0.0.1,{BACK}", cert("server.key"), cert("server.crt"),
                    "--verify-client", f"--verify-client-cacert={cert('ca.crt')}", "--tls13-ciphers=TLS_AES_128_GCM_SHA256",
                    "--frontend-http2-max-concurrent-streams=100000", "--frontend-http2-window-size=1M",
                    "--frontend-http2-connection-window-size=16M"]
    near = common + [f"--frontend=127.0.0.1,{APP};no-tls", f"--backend=127.0.0.1,{TUN};;proto=h2;tls;sni=server.mesh",
                     f"--cacert={cert('ca.crt')}", f"--client-cert-file={cert('client.crt')}",
                     f"--client-private-key-file={cert('client.key')}", "--tls13-client-ciphers=TLS_AES_128_GCM_SHA256",
                     "--backend-http2-max-concurrent-streams=100000", "--backend-http2-window-size=1M",
                     "--backend-http2-connection-window-size=16M"]
    return {"procs": [far, near], "connect": True, "delay": 0.5}


def tunnel_pair(program):
    return {"procs": [[program, "server", f"127.0.0.1:{TUN}", cert("server.crt"), cert("server.key"), cert("ca.crt")],
                      [program, "client", f"127.0.0.1:{APP}", f"127.0.0.1:{TUN}", f"127.0.0.1:{BACK}",
                       cert("client.crt"), cert("client.key"), cert("ca.crt")]]}


GO = os.path.join(BUILD, "go-h2tunnel", "go-h2tunnel")
RUST = os.path.join(BUILD, "rust-h2tunnel", "target", "release", "rust-h2tunnel")


@peer
def go_h2():
    """x/net/http2 over crypto/tls"""
    return tunnel_pair(GO)


@peer
def rust_h2():
    """h2, tokio and rustls crates, the stack and windows of istio's ztunnel"""
    return tunnel_pair(RUST)
