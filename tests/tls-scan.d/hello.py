"""ClientHellos of every shape, and what a server says to them (RFC 8446 §4.1.2, RFC 5246 §7.4.1.2)."""

import os
import socket
import struct

SSL3, TLS10, TLS11, TLS12, TLS13 = 0x0300, 0x0301, 0x0302, 0x0303, 0x0304

AEAD_TLS12 = {
    "ECDHE-ECDSA-AES128-GCM": 0xC02B,
    "ECDHE-ECDSA-AES256-GCM": 0xC02C,
    "ECDHE-ECDSA-CHACHA20": 0xCCA9,
    "ECDHE-RSA-AES128-GCM": 0xC02F,
    "ECDHE-RSA-AES256-GCM": 0xC030,
    "ECDHE-RSA-CHACHA20": 0xCCA8,
}
AEAD_TLS13 = {"AES128-GCM": 0x1301, "AES256-GCM": 0x1302, "CHACHA20": 0x1303}
"""Every suite number that has ever been assigned below 0xD000, but for those above and the signalling ones."""
EVERYTHING_ELSE = [
    suite
    for suite in [*range(0x0000, 0x00C6), *range(0xC001, 0xC0B6), *range(0xCC13, 0xCC16), 0xCCAA, 0xCCAB, 0xCCAC, 0xCCAD, 0xCCAE]
    if suite not in AEAD_TLS12.values()
]

ALERTS = {
    10: "unexpected_message",
    20: "bad_record_mac",
    22: "record_overflow",
    40: "handshake_failure",
    47: "illegal_parameter",
    50: "decode_error",
    70: "protocol_version",
    80: "internal_error",
    86: "inappropriate_fallback",
    109: "missing_extension",
    112: "unrecognized_name",
    120: "no_application_protocol",
}

X25519, P256, P384, HYBRID = 0x001D, 0x0017, 0x0018, 0x11EC


def vector(width, body):
    """A variable-length vector with a length of `width` bytes."""
    return len(body).to_bytes(width, "big") + body


def numbers(values):
    return b"".join(struct.pack("!H", value) for value in values)


def server_name(name):
    return vector(2, b"\0" + vector(2, name))


def alpn(protocols):
    return vector(2, b"".join(vector(1, protocol) for protocol in protocols))


def key_share(groups):
    sizes = {X25519: 32, P256: 65, P384: 97}
    return vector(2, b"".join(struct.pack("!H", group) + vector(2, os.urandom(sizes[group])) for group in groups))


def extensions(version=TLS13, groups=(X25519, P256), shares=(X25519,), protocols=None, name=b"matrix.example.com", changes=None):
    """The extensions of an ordinary client; `changes` replaces some by type, or removes them by None."""
    found = {
        0: server_name(name),
        10: vector(2, numbers(groups)),
        11: vector(1, b"\0"),
        13: vector(2, numbers([0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0807])),
        23: b"",
        0xFF01: b"\0",
    }
    if protocols is not None:
        found[16] = alpn(protocols)
    if version == TLS13:
        found[43] = vector(1, numbers([TLS13]))
        found[45] = vector(1, b"\x01")
        found[51] = key_share(shares)
    found.update(changes or {})
    return [(kind, body) for kind, body in found.items() if body is not None]


def encoded(listed):
    return b"".join(struct.pack("!H", kind) + vector(2, body) for kind, body in listed)


def client_hello(suites=None, legacy=TLS12, compression=b"\0", listed=None, version=TLS13, session=b"", **rest):
    """A handshake message. `listed` replaces the extensions; other arguments go to `extensions`."""
    default = AEAD_TLS13 if version == TLS13 else AEAD_TLS12
    suites = list(default.values()) if suites is None else suites
    listed = extensions(version=version, **rest) if listed is None else listed
    body = struct.pack("!H", legacy) + os.urandom(32) + vector(1, session)
    body += vector(2, numbers(suites)) + vector(1, compression) + vector(2, encoded(listed))
    return b"\x01" + vector(3, body)


def record(content, kind=22, version=TLS10):
    return struct.pack("!BH", kind, version) + vector(2, content)


def records(content, size, kind=22):
    """`content` over records of `size` bytes."""
    return b"".join(record(content[at : at + size], kind) for at in range(0, len(content), size))


class Answer:
    """What came back: records, the first alert, the ServerHello."""

    def __init__(self, data, ended):
        self.data, self.ended = data, ended
        self.alert = self.hello = None
        while len(data) >= 5:
            kind, _, length = struct.unpack("!BHH", data[:5])
            content, data = data[5 : 5 + length], data[5 + length :]
            if kind == 21 and len(content) == 2 and self.alert is None:
                self.alert = ALERTS.get(content[1], str(content[1]))
            if kind == 22 and content[:1] == b"\x02" and self.hello is None:
                self.hello = ServerHello(content)

    def __str__(self):
        what = f"alert {self.alert}" if self.alert else str(self.hello or f"{self.data[:12]!r}")
        return f"{what}, {self.ended}"


class ServerHello:
    """The fields of a ServerHello that a scan judges."""

    def __init__(self, content):
        body = content[4:]
        self.version = struct.unpack("!H", body[:2])[0]
        self.random = body[2:34]
        self.is_retry = self.random.hex() == "cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c"
        at = 35 + body[34]
        self.suite, self.compression = struct.unpack("!HB", body[at : at + 3])
        rest, self.extensions = body[at + 5 :], {}
        while len(rest) >= 4:
            kind, length = struct.unpack("!HH", rest[:4])
            self.extensions[kind], rest = rest[4 : 4 + length], rest[4 + length :]
        if 43 in self.extensions:
            self.version = struct.unpack("!H", self.extensions[43])[0]

    def protocol(self):
        """The protocol chosen by ALPN, as far as it is in the clear."""
        return self.extensions[16][3:] if 16 in self.extensions else None

    def __str__(self):
        return f"{'retry' if self.is_retry else 'hello'} {self.version:#06x} suite {self.suite:#06x}"


def say(address, *pieces, patience=4.0, until_hello=True):
    """Sends pieces, each in a segment of its own, and reads until a ServerHello, an end, or for `patience` seconds."""
    data, ended = b"", "open"
    with socket.create_connection(address, timeout=patience) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for piece in pieces:
                connection.sendall(piece)
            while True:
                more = connection.recv(65536)
                if not more:
                    ended = "closed"
                    break
                data += more
                if until_hello and Answer(data, ended).hello:
                    break
        except TimeoutError:
            pass
        except (ConnectionResetError, BrokenPipeError):
            ended = "reset"
    return Answer(data, ended)
