"""
A raw HTTP/2 peer on plain sockets: frames by hand, so that it can be a good peer as well as a hostile one.

Nothing is sent that the test did not ask for, except, while `auto` is set: SETTINGS and PING acknowledgements, and credit for
received DATA. Headers are written as HPACK literals without indexing; everything HPACK has can be read (RFC 7541).
"""
import collections
import socket
import ssl
import struct
import time

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED = 0x1, 0x1, 0x4, 0x8
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR = range(7)
REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM, INADEQUATE_SECURITY, HTTP_1_1_REQUIRED = range(7, 14)
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = range(1, 7)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
NAMES = "DATA HEADERS PRIORITY RST_STREAM SETTINGS PUSH_PROMISE PING GOAWAY WINDOW_UPDATE CONTINUATION".split()


# ---- HPACK

# The static table, RFC 7541 appendix A.
STATIC = [(":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"), (":scheme", "http"),
          (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"), (":status", "304"), (":status", "400"),
          (":status", "404"), (":status", "500"), ("accept-charset", ""), ("accept-encoding", "gzip, deflate")]
STATIC += [(n, "") for n in """accept-language accept-ranges accept access-control-allow-origin age allow authorization cache-control
content-disposition content-encoding content-language content-length content-location content-range content-type cookie date etag
expect expires from host if-match if-modified-since if-none-match if-range if-unmodified-since last-modified link location max-forwards
proxy-authenticate proxy-authorization range referer refresh retry-after server set-cookie strict-transport-security transfer-encoding
user-agent vary via www-authenticate""".split()]

# Length of each symbol's Huffman code in base 36 (appendix B); the code is canonical, so the lengths say all.
LENGTHS = ("dnsssssssoussussssssssusssssssss6aacd68baa8b8666555666666678f6cad677777777777777777777"
           "77878djde6f56565666577666567655677777fbedskmkkmmmnmnnnnnonoomnonnnnlmnmnnomlkmmnnlnmmo"
           "lmnnllmlnmnnkmmmnmmnqqkjmnmpqqqrrqopjlqrrqrollqqsrrrkoklmllnmmppooqnqrqqrrrrrsrrrrrqu")


def huffman_codes():
    code = previous = 0
    out = {}
    for length, symbol in sorted((int(c, 36), i) for i, c in enumerate(LENGTHS)):
        code <<= length - previous
        out[(length, code)] = symbol
        code += 1
        previous = length
    return out


HUFFMAN = huffman_codes()


def huffman_decode(data):
    out, code, length = bytearray(), 0, 0
    for byte in data:
        for bit in range(7, -1, -1):
            code = code << 1 | byte >> bit & 1
            length += 1
            symbol = HUFFMAN.get((length, code))
            if symbol is not None:
                out.append(symbol)
                code = length = 0
    assert length < 8 and code == (1 << length) - 1, "bad Huffman padding"
    return bytes(out)


def integer(value, prefix, first=0):
    top = (1 << prefix) - 1
    if value < top:
        return bytes([first | value])
    out, value = bytearray([first | top]), value - top
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def text(s):
    b = s if isinstance(s, bytes) else s.encode()
    return integer(len(b), 7) + b


def encode(headers):
    return b"".join(b"\0" + text(k) + text(v) for k, v in headers)


class Decoder:
    def __init__(self):
        self.table, self.size, self.limit = collections.deque(), 0, 4096

    def add(self, name, value):
        self.table.appendleft((name, value))
        self.size += len(name) + len(value) + 32
        self.shrink()

    def shrink(self):
        while self.size > self.limit:
            name, value = self.table.pop()
            self.size -= len(name) + len(value) + 32

    def entry(self, i):
        return STATIC[i - 1] if i <= 61 else self.table[i - 62]

    def decode(self, data):
        pos, out = 0, []

        def number(prefix):
            nonlocal pos
            top = (1 << prefix) - 1
            v = data[pos] & top
            pos += 1
            shift = 0
            while v >= top and (shift == 0 or data[pos - 1] & 128):
                v += (data[pos] & 127) << shift
                shift += 7
                pos += 1
            return v

        def string():
            nonlocal pos
            coded = data[pos] & 128
            n = number(7)
            s = data[pos:pos + n]
            pos += n
            return (huffman_decode(s) if coded else s).decode("latin-1")

        while pos < len(data):
            b = data[pos]
            if b & 128:
                out.append(self.entry(number(7)))
            elif b & 32 and not b & 64:
                self.limit = number(5)
                self.shrink()
            else:
                keep = b & 64
                i = number(6 if keep else 4)
                name = self.entry(i)[0] if i else string()
                value = string()
                if keep:
                    self.add(name, value)
                out.append((name, value))
        return out


# ---- frames

class Frame(collections.namedtuple("Frame", "type flags sid payload headers")):
    def code(self):
        """error code of RST_STREAM and GOAWAY"""
        return struct.unpack("!I", self.payload[4:8] if self.type == GOAWAY else self.payload[:4])[0]

    def last(self):
        """last stream id of a GOAWAY"""
        return struct.unpack("!I", self.payload[:4])[0] & 0x7fffffff

    def settings(self):
        return {struct.unpack_from("!H", self.payload, i)[0]: struct.unpack_from("!I", self.payload, i + 2)[0]
                for i in range(0, len(self.payload), 6)}

    def increment(self):
        return struct.unpack("!I", self.payload)[0] & 0x7fffffff

    def __repr__(self):
        name = NAMES[self.type] if self.type < 10 else str(self.type)
        more = f" {self.headers}" if self.headers else f" code {self.code()}" if self.type in (RST_STREAM, GOAWAY) else ""
        return f"<{name} stream {self.sid} flags {self.flags:#x} {len(self.payload)} bytes{more}>"


def frame(kind, flags=0, sid=0, payload=b""):
    return struct.pack("!I", len(payload))[1:] + bytes([kind, flags]) + struct.pack("!I", sid) + payload


def settings(values):
    return b"".join(struct.pack("!HI", k, v) for k, v in values.items())


class Closed(Exception):
    """the other side closed (reset: by RST)"""

    def __init__(self, reset):
        super().__init__("reset" if reset else "closed")
        self.reset = reset


class H2:
    """one connection; client says which side we are. Not for more than one thread at a time."""

    def __init__(self, sock, client=True, timeout=10):
        self.sock, self.client, self.timeout = sock, client, timeout
        self.buffer = bytearray()
        self.decoder, self.block = Decoder(), None
        self.frames = []  # all that were received
        self.auto = self.auto_window = True
        self.next_sid = 1 if client else 2
        self.peer = {INITIAL_WINDOW_SIZE: 65535, MAX_FRAME_SIZE: 16384}  # the other side's settings
        self.window = 65535  # what we may send on the connection
        self.windows = {}  # and on each stream
        self.bodies = collections.defaultdict(bytearray)  # DATA received, by stream
        self.ended, self.resets, self.goaways = set(), {}, []
        self.answers = {}  # headers received, by stream
        self.closed = None

    # -- sending

    def raw(self, data):
        self.sock.settimeout(self.timeout)
        try:
            self.sock.sendall(data)
        except (ConnectionResetError, BrokenPipeError, ssl.SSLError) as e:
            self.closed = Closed(True)
            raise self.closed from e

    def send(self, kind, flags=0, sid=0, payload=b""):
        self.raw(frame(kind, flags, sid, payload))

    def start(self, values=None):
        """preface (as client) and our SETTINGS"""
        self.raw((PREFACE if self.client else b"") + frame(SETTINGS, 0, 0, settings(values or {})))
        return self

    def expect_preface(self):
        """as server: read and check the client's 24 bytes"""
        while len(self.buffer) < len(PREFACE):
            self.fill(time.monotonic() + self.timeout)
        assert bytes(self.buffer[:len(PREFACE)]) == PREFACE, bytes(self.buffer[:40])
        del self.buffer[:len(PREFACE)]
        return self

    def headers(self, sid, headers, end=False):
        self.send(HEADERS, END_HEADERS | (END_STREAM if end else 0), sid, encode(headers))
        self.windows.setdefault(sid, self.peer[INITIAL_WINDOW_SIZE])

    def connect(self, authority, extra=(), end=False):
        """a CONNECT request; Return: its stream id"""
        sid, self.next_sid = self.next_sid, self.next_sid + 2
        self.headers(sid, [(":method", "CONNECT"), (":authority", authority), *extra], end)
        return sid

    def opened(self, authority, extra=()):
        """a CONNECT that must be answered with 200; Return: its stream id"""
        sid = self.connect(authority, extra)
        status = self.status(sid)
        assert status == 200, f"CONNECT {authority} answered {status}"
        return sid

    def data(self, sid, data, end=False):
        """within flow control: waits for credit"""
        data, view = memoryview(data), 0
        while True:
            n = min(len(data) - view, self.window, self.windows[sid], self.peer[MAX_FRAME_SIZE])
            if n > 0 or view == len(data):
                last = view + n == len(data)
                self.send(DATA, END_STREAM if end and last else 0, sid, bytes(data[view:view + n]))
                self.window -= n
                self.windows[sid] -= n
                view += n
                if last:
                    return
            else:
                before = (self.window, self.windows[sid])
                self.until(lambda f: (self.window, self.windows[sid]) != before or sid in self.resets)
                if sid in self.resets:
                    raise Closed(True)

    def rst(self, sid, code=CANCEL):
        self.send(RST_STREAM, 0, sid, struct.pack("!I", code))

    def goaway(self, last, code=NO_ERROR, debug=b""):
        self.send(GOAWAY, 0, 0, struct.pack("!II", last, code) + debug)

    def update(self, sid, n):
        self.send(WINDOW_UPDATE, 0, sid, struct.pack("!I", n))

    def ping(self, payload=b"12345678", ack=False):
        self.send(PING, ACK if ack else 0, 0, payload)

    # -- receiving

    def fill(self, deadline):
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"nothing came; so far {self.frames[-12:]}")
        self.sock.settimeout(left)
        try:
            got = self.sock.recv(262144)
        except (socket.timeout, TimeoutError, ssl.SSLWantReadError) as e:
            raise TimeoutError(f"nothing came; so far {self.frames[-12:]}") from e
        except (ConnectionResetError, BrokenPipeError, ssl.SSLError) as e:
            self.closed = Closed(True)
            raise self.closed from e
        if not got:
            self.closed = self.closed or Closed(False)
            raise self.closed
        self.buffer += got

    def read(self, timeout=None):
        """the next frame. TimeoutError when none comes, Closed when the connection is gone."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            if len(self.buffer) >= 9:
                n = int.from_bytes(self.buffer[:3], "big")
                if len(self.buffer) >= 9 + n:
                    f = self.take(n)
                    if f:
                        return f
                    continue
            self.fill(deadline)

    def take(self, n):
        kind, flags = self.buffer[3], self.buffer[4]
        sid = int.from_bytes(self.buffer[5:9], "big") & 0x7fffffff
        payload = bytes(self.buffer[9:9 + n])
        del self.buffer[:9 + n]
        headers = None
        if kind in (HEADERS, CONTINUATION):
            part = payload
            if kind == HEADERS:
                if flags & PADDED:
                    part = part[1:len(part) - part[0]]
                if flags & 0x20:
                    part = part[5:]
            self.block = part if kind == HEADERS else self.block + part
            if flags & END_HEADERS:
                headers = self.decoder.decode(self.block)
        f = Frame(kind, flags, sid, payload, headers)
        self.frames.append(f)
        self.note(f)
        return f

    def note(self, f):
        if f.type == SETTINGS and not f.flags & ACK:
            new = f.settings()
            grown = new.get(INITIAL_WINDOW_SIZE, self.peer[INITIAL_WINDOW_SIZE]) - self.peer[INITIAL_WINDOW_SIZE]
            self.peer.update(new)
            for sid in self.windows:
                self.windows[sid] += grown
            if self.auto:
                self.send(SETTINGS, ACK)
        elif f.type == PING and not f.flags & ACK and self.auto:
            self.ping(f.payload, True)
        elif f.type == WINDOW_UPDATE:
            if f.sid:
                self.windows[f.sid] = self.windows.get(f.sid, self.peer[INITIAL_WINDOW_SIZE]) + f.increment()
            else:
                self.window += f.increment()
        elif f.type == DATA:
            self.bodies[f.sid] += f.payload
            if f.payload and self.auto and self.auto_window:
                self.raw(frame(WINDOW_UPDATE, 0, 0, struct.pack("!I", len(f.payload))) +
                         (b"" if f.flags & END_STREAM else frame(WINDOW_UPDATE, 0, f.sid, struct.pack("!I", len(f.payload)))))
        elif f.type == RST_STREAM:
            self.resets[f.sid] = f.code()
        elif f.type == GOAWAY:
            self.goaways.append(f)
        if f.headers is not None:
            self.answers.setdefault(f.sid, f.headers)
            self.windows.setdefault(f.sid, self.peer[INITIAL_WINDOW_SIZE])
        if f.flags & END_STREAM and f.type in (DATA, HEADERS):
            self.ended.add(f.sid)

    def until(self, wanted, timeout=None):
        """read frames up to the first for which wanted(frame) is true"""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            f = self.read(max(0, deadline - time.monotonic()))
            if wanted(f):
                return f

    def seen(self, condition, timeout=None):
        """read frames until condition() holds; it may hold already"""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while not condition():
            self.read(max(0, deadline - time.monotonic()))

    def drain(self, seconds):
        """read whatever comes for that long; Return: False when the connection ended"""
        end = time.monotonic() + seconds
        try:
            while True:
                self.read(max(0, end - time.monotonic()))
        except TimeoutError:
            return True
        except Closed:
            return False

    def gone(self, timeout=None):
        """read to the end of the connection; Return: the last GOAWAY's code, None if there was none"""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        try:
            while True:
                self.read(max(0, deadline - time.monotonic()))
        except Closed:
            return self.goaways[-1].code() if self.goaways else None

    def status(self, sid, timeout=None):
        """the status of the answer on that stream; None if it was reset instead"""
        self.seen(lambda: sid in self.answers or sid in self.resets, timeout)
        return int(dict(self.answers[sid])[":status"]) if sid in self.answers else None

    def body(self, sid, n, timeout=None):
        """wait for n bytes of DATA on the stream"""
        self.seen(lambda: len(self.bodies[sid]) >= n or sid in self.ended or sid in self.resets, timeout)
        return bytes(self.bodies[sid])

    def whole(self, sid, timeout=None):
        """wait for END_STREAM"""
        self.seen(lambda: sid in self.ended or sid in self.resets, timeout)
        assert sid in self.ended, f"stream {sid} was reset with {self.resets.get(sid)}"
        return bytes(self.bodies[sid])

    def requests(self, n=1, timeout=None):
        """as server: wait until n streams were opened; Return: their ids in order"""
        self.seen(lambda: len(self.answers) >= n, timeout)
        return list(self.answers)

    def accept(self, sid, status=200, extra=(), end=False):
        """as server: answer a CONNECT"""
        self.headers(sid, [(":status", str(status)), *extra], end)

    def close(self):
        try:
            self.sock.close()
        except OSError:
            pass

    def abort(self):
        """RST instead of FIN"""
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass
        self.close()


# ---- TLS

def tls_context(client, certificate=None, key=None, ca=None, alpn=("h2",)):
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if client else ssl.PROTOCOL_TLS_SERVER)
    c.minimum_version = ssl.TLSVersion.TLSv1_3
    c.check_hostname = False  # certificates carry SPIFFE ids only
    c.verify_mode = ssl.CERT_REQUIRED if ca else ssl.CERT_NONE
    if ca:
        c.load_verify_locations(ca)
    if certificate:
        c.load_cert_chain(certificate, key)
    if alpn:
        c.set_alpn_protocols(list(alpn))
    return c


def spiffe_id(sock):
    """the SPIFFE id in the certificate of the other side of an SSL socket"""
    return next((v for k, v in (sock.getpeercert() or {}).get("subjectAltName", ()) if k == "URI"), None)
