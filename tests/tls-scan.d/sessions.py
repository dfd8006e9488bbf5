"""Records that no library would send inside an established session; tlslite-ng keeps the keys.

Each conversation has one right end: the request behind it is answered, or the connection ends by an alert before a flood
has cost anything. Floods are also weighed: what they cost the proxy in processor time.
"""

import os
import pathlib
import socket
import struct
import time

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tlslite.api import HandshakeSettings, TLSConnection
from tlslite.constants import ContentType, HandshakeType
from tlslite.errors import TLSAbruptCloseError, TLSLocalAlert, TLSRemoteAlert
from tlslite.extensions import TLSExtension
from tlslite.handshakehelpers import HandshakeHelpers
from tlslite.mathtls import HKDF_expand_label, derive_secret, secureHMAC
from tlslite.messages import Message

from hello import TLS12, client_hello, record

REQUEST = b"GET /%s HTTP/1.1\r\nHost: matrix.example.com\r\nConnection: close\r\n\r\n"
EARLY_DATA = 42
PATIENCE = 5.0


class Session:
    """A session of one version, and records of any shape within it."""

    def __init__(self, address, version, session=None, groups=None, kind=TLSConnection):
        self.plain = socket.create_connection(address, timeout=PATIENCE)
        self.plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.tls = kind(self.plain)
        # Where a session ends is the test; the library is not to close it by itself.
        self.tls.closeSocket = self.tls.ignoreAbruptClose = False
        settings = HandshakeSettings()
        settings.minVersion = settings.maxVersion = version
        settings.cipherNames = ["aes128gcm"]
        settings.keyShares = ["x25519"] if groups is None else groups
        self.tls.handshakeClientCert(settings=settings, session=session, serverName="matrix.example.com", alpn=[b"http/1.1"])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.plain.close()

    def send(self, kind, content, times=1):
        """Sends records, each with this content; stops when the peer has closed."""
        try:
            for _ in range(times):
                for _ in self.tls._recordLayer.sendRecord(Message(kind, bytearray(content))):
                    pass
        except OSError:
            pass

    def send_plain(self, data):
        try:
            self.plain.sendall(data)
        except OSError:
            pass

    def update_keys(self, request, times=1):
        """Sends KeyUpdate messages, and takes the new keys."""
        try:
            for _ in range(times):
                for _ in self.tls.send_keyupdate_request(request):
                    pass
        except OSError:
            pass

    def asks(self, target=b"_matrix/x"):
        """Asks for something, and returns what comes of it."""
        self.send(ContentType.application_data, REQUEST % target)
        return self.end()

    def end(self):
        """How it ends: the status of an answer, `alert NAME`, `closed`, `cut`, `reset` or `open`."""
        try:
            read = bytes(self.tls.read(max=65536, min=1))
            return read.split(b" ")[1].decode() if read.startswith(b"HTTP/1.1 ") else "closed" if not read else repr(read)
        except TLSRemoteAlert as alert:
            return f"alert {alert}"
        except TLSAbruptCloseError:
            return "cut"
        except TLSLocalAlert as alert:
            return f"our own alert {alert}"
        except TimeoutError:
            return "open"
        except OSError:
            return "reset"


def run(address, check, pid, targets):
    """Holds all conversations. `pid` is the proxy's, to weigh floods; `targets` is what the origin was asked for."""
    for part in (renegotiation, contents, sizes, closes, messages_of_tls13, keys, floods, retries, early_data):
        part(address, check, pid)
    check("/_matrix/x" in targets, "what is asked for in sessions reaches the origin")
    check(not any("early" in target for target in targets), "no request in early data reaches the origin", targets)


NAMES = {(3, 3): "TLS 1.2", (3, 4): "TLS 1.3"}
ENDS = ("alert", "cut", "reset")


def ends(check, what, seen, *alerts):
    """The connection ends; where alerts are named, by one of these."""
    # A reset may overtake an alert: bytes that came behind what ended it were not read.
    wanted = tuple(f"alert {alert}" for alert in alerts) or ENDS
    check(seen.startswith((*wanted, "reset", "cut")), what, seen)


def renegotiation(address, check, _):
    again = client_hello(version=TLS12)
    with Session(address, (3, 3)) as session:
        session.send(ContentType.handshake, again)
        seen = session.end()
        check(seen == "alert no_renegotiation" or seen.startswith(ENDS), "a client that renegotiates is told no_renegotiation (RFC 5746 §4.5)", seen)
    with Session(address, (3, 3)) as session:
        for _ in range(5):
            session.send(ContentType.handshake, again)
        session.send(ContentType.application_data, REQUEST % b"_matrix/x")
        seen = [session.end()]
        while seen[-1] == "alert no_renegotiation" and len(seen) < 9:
            seen.append(session.end())
        cut_off = seen[-1].startswith((*ENDS, "closed")) and seen.count("alert no_renegotiation") <= 1
        check(cut_off, "one that goes on trying is told so once, cut off, and not served", seen)
    with Session(address, (3, 3)) as session:
        session.send(ContentType.handshake, b"\x00\x00\x00\x00")
        ends(check, "a HelloRequest of a client ends it", session.end(), "unexpected_message")
    with Session(address, (3, 4)) as session:
        session.send(ContentType.handshake, client_hello())
        ends(check, "TLS 1.3: a ClientHello in a session is unexpected (RFC 8446 §4.1.2)", session.end(), "unexpected_message")


def contents(address, check, _):
    for version, name in NAMES.items():
        for kind in (ContentType.heartbeat, 0, 99, 255):
            with Session(address, version) as session:
                session.send(kind, b"\x01\x00\x03abc" + b"\x55" * 16)
                ends(check, f"{name}: content of type {kind} is unexpected (RFC 8446 §5)", session.end(), "unexpected_message", "decode_error")
        with Session(address, version) as session:
            session.send_plain(record(b"\x01", kind=20, version=TLS12))
            ends(check, f"{name}: a change_cipher_spec in a session ends it", session.end())
        with Session(address, version) as session:
            # RFC 8446 §5.4 wants unexpected_message at once; rustls overlooks a few, and takes nothing from them.
            session.send(ContentType.handshake, b"")
            seen = session.asks()
            check(seen == "200" or seen.startswith(ENDS), f"{name}: an empty fragment of a handshake message ends it, or changes nothing", seen)
        with Session(address, version) as session:
            session.send(ContentType.alert, b"\x02\x50")
            ends(check, f"{name}: a fatal alert ends it", session.end())
        with Session(address, version) as session:
            session.send(ContentType.alert, b"\x01")
            ends(check, f"{name}: half an alert ends it", session.end(), "decode_error", "unexpected_message")
    with Session(address, (3, 4)) as session:
        session.send(0, b"")
        ends(check, "TLS 1.3: a record of zeros without content is unexpected (RFC 8446 §5.4)", session.end(), "unexpected_message", "decode_error")


def sizes(address, check, _):
    for version, name in NAMES.items():
        request = REQUEST % b"_matrix/x"
        with Session(address, version) as session:
            seen = ""
            for at in range(len(request)):
                session.send(ContentType.application_data, request[at : at + 1])
            seen = session.end()
            check(seen == "200", f"{name}: a request in records of one byte is answered", seen)
        with Session(address, version) as session:
            session.send(ContentType.application_data, b"\0" * (2**14 + 1))
            ends(check, f"{name}: 2^14 + 1 bytes of plaintext overflow a record (RFC 8446 §5.1)", session.end(), "record_overflow")
        with Session(address, version) as session:
            session.send_plain(struct.pack("!BHH", 23, TLS12, 2**14 + 2049) + b"\0" * (2**14 + 2049))
            ends(check, f"{name}: a record longer than any may be is refused", session.end(), "record_overflow", "decode_error", "bad_record_mac")
        with Session(address, version) as session:
            session.send_plain(struct.pack("!BHH", 23, TLS12, 0))
            ends(check, f"{name}: a record without the tag of its cipher ends it", session.end(), "bad_record_mac", "decode_error", "record_overflow")
    with Session(address, (3, 4)) as session:
        session.tls._recordLayer.padding_cb = lambda length, *_: 2**14 + 1 - length
        seen = session.asks()
        check(seen == "200", "TLS 1.3: a request padded to a whole record is answered (RFC 8446 §5.4)", seen)
    with Session(address, (3, 4)) as session:
        session.send_plain(struct.pack("!BHH", 23, TLS12, 2**14 + 257) + b"\0" * (2**14 + 257))
        ends(check, "TLS 1.3: a record over 2^14 + 256 bytes is refused (RFC 8446 §5.2)", session.end(), "record_overflow", "bad_record_mac")


def closes(address, check, _):
    for version, name in NAMES.items():
        with Session(address, version) as session:
            session.send(ContentType.alert, b"\x01\x00")
            check(session.end() == "closed", f"{name}: close_notify is answered by close_notify")
        with Session(address, version) as session:
            session.send(ContentType.alert, b"\x01\x00")
            seen = session.asks()
            check(seen == "closed", f"{name}: what follows close_notify is not served (RFC 8446 §6.1)", seen)
        with Session(address, version) as session:
            session.plain.shutdown(socket.SHUT_WR)
            seen = session.end()
            check(seen in ("closed", "cut", "reset"), f"{name}: an end without close_notify is the end", seen)


def messages_of_tls13(address, check, _):
    verify = b"\x08\x04" + struct.pack("!H", 64) + os.urandom(64)
    for what, kind, body in (
        ("Finished", HandshakeType.finished, os.urandom(32)),
        ("NewSessionTicket", HandshakeType.new_session_ticket, b"\0" * 8 + b"\x01\x01" + b"\x00\x04abcd" + b"\0\0"),
        ("CertificateRequest", HandshakeType.certificate_request, b"\x00\x00\x08\x00\x0d\x00\x04\x00\x02\x08\x04"),
        ("Certificate (post-handshake authentication)", HandshakeType.certificate, b"\0\0\0\0"),
        ("CertificateVerify", HandshakeType.certificate_verify, verify),
        ("EndOfEarlyData", 5, b""),
        ("a message of type 99", 99, b"abc"),
    ):
        with Session(address, (3, 4)) as session:
            session.send(ContentType.handshake, bytes([kind]) + len(body).to_bytes(3, "big") + body)
            ends(check, f"TLS 1.3: {what} of a client in a session is unexpected", session.end(), "unexpected_message", "decode_error", "illegal_parameter")
    with Session(address, (3, 4)) as session:
        session.send(ContentType.handshake, b"\x18\xff\xff\xff")
        for _ in range(64):
            session.send(ContentType.handshake, b"\0" * 16000)
        ends(check, "TLS 1.3: a handshake message of 16 MiB is cut off early", session.end())


def keys(address, check, _):
    for request, what in ((0, "without asking for ours"), (1, "asking for ours")):
        with Session(address, (3, 4)) as session:
            session.update_keys(request, 3)
            seen = session.asks()
            check(seen == "200", f"TLS 1.3: a request behind three key updates {what} is answered", seen)
    with Session(address, (3, 4)) as session:
        session.send(ContentType.handshake, b"\x18\x00\x00\x01\x02")
        ends(check, "TLS 1.3: a key update of an unknown kind is illegal (RFC 8446 §4.6.3)", session.end(), "illegal_parameter", "decode_error")
    with Session(address, (3, 4)) as session:
        session.send(ContentType.handshake, b"\x18\x00\x00\x01\x00" * 2)
        ends(check, "TLS 1.3: a message behind a key update in its record is unexpected (RFC 8446 §5.1)", session.end(), "unexpected_message")
    with Session(address, (3, 3)) as session:
        session.send(ContentType.handshake, b"\x18\x00\x00\x01\x00")
        ends(check, "TLS 1.2: a key update is unexpected", session.end(), "unexpected_message", "decode_error")


def floods(address, check, pid):
    """Each goes on until the connection ends, at most for 100,000 records; none may cost more than a handshake or two."""
    empty, warning = (ContentType.application_data, b""), (ContentType.alert, b"\x01\x5a")
    for version, name in NAMES.items():
        for what, record_of in (("empty records", empty), ("empty handshake records", (ContentType.handshake, b"")), ("warnings", warning)):
            flood(address, check, pid, f"{name}: {what} without end", version, lambda session, of=record_of: session.send(*of, times=100))
        spec = record(b"\x01", kind=20, version=TLS12) * 100
        flood(address, check, pid, f"{name}: change_cipher_spec without end", version, lambda session: session.send_plain(spec))
    for request in (0, 1):
        flood(address, check, pid, f"TLS 1.3: key updates without end ({request})", (3, 4), lambda session, of=request: session.update_keys(of, 100))
    # Before the handshake has ended, in the clear, where one is allowed (RFC 8446 §D.4).
    before = processor_time(pid)
    with socket.create_connection(address, timeout=PATIENCE) as plain:
        plain.sendall(record(client_hello(session=os.urandom(32))))
        ended = goes_on_until_closed(lambda: plain.sendall(record(b"\x01", kind=20, version=TLS12) * 100))
    check(ended, "change_cipher_spec without end in a handshake is cut off")
    cheap(check, "change_cipher_spec without end in a handshake", processor_time(pid) - before)


def flood(address, check, pid, what, version, some):
    with Session(address, version) as session:
        before = processor_time(pid)

        def more():
            some(session)
            # Raises when the peer has closed, which `some` bears.
            session.plain.send(b"", socket.MSG_NOSIGNAL)
            if has_ended(session.plain):
                raise ConnectionResetError

        ended = goes_on_until_closed(more)
    check(ended, f"{what} are cut off")
    cheap(check, what, processor_time(pid) - before)


def goes_on_until_closed(more):
    begun = time.monotonic()
    try:
        for _ in range(1000):
            more()
            if time.monotonic() - begun > PATIENCE:
                return False
    except OSError:
        return True
    return False


def has_ended(plain):
    """Whether the peer has closed or reset, looking past what it has sent; it answers some floods."""
    plain.setblocking(False)
    try:
        while read := plain.recv(65536):
            del read
        return True
    except BlockingIOError:
        return False
    finally:
        plain.settimeout(PATIENCE)


def cheap(check, what, seconds):
    check(seconds < 0.25, f"{what} cost hardly anything", f"{seconds:.2f} s of processor time")


def processor_time(pid):
    """Of the proxy so far, in seconds."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def retries(address, check, _):
    with Session(address, (3, 4), groups=[]) as session:
        seen = session.asks()
        check(seen == "200", "a handshake over a HelloRetryRequest is completed and served", seen)


class EarlyClient(TLSConnection):
    """Offers early data with its ticket, and sends a request in it, encrypted by the keys that a server would have."""

    early = None

    def _sendMsg(self, message, *arguments, **named):
        yield from super()._sendMsg(message, *arguments, **named)
        if self.early and getattr(message, "handshakeType", None) == HandshakeType.client_hello:
            early, self.early = self.early, None
            secret = secureHMAC(bytearray(32), early["psk"], "sha256")
            secret = derive_secret(secret, b"c e traffic", self._handshake_hash, "sha256")
            key = HKDF_expand_label(secret, b"key", b"", 16, "sha256")
            iv = HKDF_expand_label(secret, b"iv", b"", 12, "sha256")
            content = early["data"] + bytes([ContentType.application_data])
            header = struct.pack("!BHH", 23, TLS12, len(content) + 16)
            self.sock.sendall(header + AESGCM(bytes(key)).encrypt(bytes(iv), content, header))


def early_data(address, check, _):
    with Session(address, (3, 4)) as session:
        seen = session.asks()
        check(seen == "200", "TLS 1.3: a session to come back to", seen)
        earlier = session.tls.session
        tickets = session.tls.tickets
    check(tickets, "TLS 1.3: it has tickets", tickets)
    if not tickets:
        return
    earlier.tickets = list(tickets)

    original = HandshakeHelpers.update_binders

    def with_early_data(hello, hashes, configs, tickets, secret):
        hello.extensions.insert(-1, TLSExtension(extType=EARLY_DATA).create(EARLY_DATA, bytearray()))
        identity = hello.extensions[-1].identities[0]
        EarlyClient.early = {
            "psk": HandshakeHelpers.calc_res_binder_psk(identity, secret, tickets),
            "data": REQUEST % b"_matrix/early",
        }
        return original(hello, hashes, configs, tickets, secret)

    HandshakeHelpers.update_binders = staticmethod(with_early_data)
    try:
        with Session(address, (3, 4), session=earlier, kind=EarlyClient) as session:
            check(session.tls.resumed, "TLS 1.3: a client that offers early data resumes")
            seen = session.asks(b"_matrix/late")
            check(seen == "200", "TLS 1.3: it is served what it asks for behind the handshake", seen)
    except (TLSRemoteAlert, TLSAbruptCloseError, OSError) as refusal:
        check(True, f"TLS 1.3: a client that sends early data is refused ({refusal})")
    finally:
        HandshakeHelpers.update_binders, EarlyClient.early = original, None
