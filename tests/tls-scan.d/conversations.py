"""Handshakes that no library would make: each has one right answer, or a few."""

import os
import socket
import ssl
import struct
import subprocess
import tempfile
import time

from hello import (
    AEAD_TLS12, AEAD_TLS13, EVERYTHING_ELSE, P256, P384, SSL3, TLS10, TLS11, TLS12, TLS13, X25519,
    client_hello, extensions, record, records, say, vector,
)  # fmt: skip


def run(address, authority, check):
    """Holds all conversations; `check(holds, what, seen)` takes each judgement."""
    for part in (versions, suites, compression, alpns, fragments, sizes, sequences, broken, negotiation, established, tickets):
        part(address, authority, check)


def refused(check, what, answer, *alerts):
    """The server refuses by one of these alerts, and ends the connection."""
    check(answer.hello is None and answer.alert in alerts and answer.ended != "open", what, answer)


def versions(address, _, check):
    for name, version in (("SSL 3.0", SSL3), ("TLS 1.0", TLS10), ("TLS 1.1", TLS11)):
        hello = client_hello(suites=[0xC009, 0xC013, 0x002F, *AEAD_TLS12.values()], legacy=version, version=version)
        refused(check, f"{name} is refused with protocol_version", say(address, record(hello)), "protocol_version")
    listed = extensions(version=TLS13, changes={43: vector(1, struct.pack("!HH", TLS11, TLS10))})
    answer = say(address, record(client_hello(listed=listed)))
    refused(check, "supported_versions of old ones only is refused with protocol_version", answer, "protocol_version")
    sslv2 = b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + b"\x01\x00\x80\x02\x00\x80\x03\x00\x80" * 2 + b"\0" * 19
    answer = say(address, sslv2)
    check(answer.hello is None and answer.ended != "open", "an SSLv2 hello gets no ServerHello and an end", answer)
    answer = say(address, record(client_hello(version=TLS12)))
    check(answer.hello and answer.hello.version == TLS12, "TLS 1.2 is spoken", answer)
    answer = say(address, record(client_hello()))
    check(answer.hello and answer.hello.version == TLS13, "TLS 1.3 is spoken", answer)
    answer = say(address, record(client_hello(legacy=0x0399, version=TLS12)))
    check(answer.hello and answer.hello.version == TLS12, "an unknown version from the future gets TLS 1.2", answer)
    # rustls overlooks the signal of RFC 7507; the mark below is what took its place for clients of TLS 1.3.
    answer = say(address, record(client_hello(version=TLS12)))
    mark = answer.hello and answer.hello.random[24:]
    check(mark == b"DOWNGRD\x01", "a TLS 1.2 answer bears the downgrade mark (RFC 8446 §4.1.3)", mark)


def suites(address, _, check):
    spoken = []
    for suite in AEAD_TLS12.values():
        answer = say(address, record(client_hello(suites=[suite], version=TLS12)))
        spoken += [suite] if answer.hello and answer.hello.suite == suite else []
    check(len(spoken) == 6, "every AEAD suite with forward secrecy is spoken in TLS 1.2", [hex(suite) for suite in spoken])
    for name, suite in AEAD_TLS13.items():
        answer = say(address, record(client_hello(suites=[suite])))
        check(answer.hello and answer.hello.suite == suite, f"{name} is spoken in TLS 1.3", answer)
    answer = say(address, record(client_hello(suites=EVERYTHING_ELSE, version=TLS12)))
    refused(check, f"none of {len(EVERYTHING_ELSE)} other suites is spoken", answer, "handshake_failure")
    answer = say(address, record(client_hello(suites=[0x1304, 0x1305])))
    refused(check, "CCM is not spoken in TLS 1.3", answer, "handshake_failure")
    answer = say(address, record(client_hello(suites=[])))
    refused(check, "an empty list of suites is refused", answer, "decode_error", "illegal_parameter", "handshake_failure")


def compression(address, _, check):
    answer = say(address, record(client_hello(compression=b"\x01\x00", version=TLS12)))
    check(answer.hello and answer.hello.compression == 0, "compression that is offered is not chosen", answer)
    answer = say(address, record(client_hello(compression=b"\x01", version=TLS12)))
    refused(check, "a client of TLS 1.2 that insists on compression is refused", answer, "illegal_parameter", "decode_error", "handshake_failure")
    answer = say(address, record(client_hello(compression=b"\x01\x00")))
    refused(check, "compression offered with TLS 1.3 alone is illegal (RFC 8446 §4.1.2)", answer, "illegal_parameter")


def alpns(address, _, check):
    answer = say(address, record(client_hello(protocols=[b"h2"], version=TLS12)))
    refused(check, "ALPN without http/1.1 is refused in TLS 1.2 (RFC 7301 §3.2)", answer, "no_application_protocol")
    # In TLS 1.3 the alert is encrypted, and Python's module has no name for it.
    command = ["openssl", "s_client", "-connect", "%s:%d" % address, "-tls1_3", "-alpn", "h2"]
    seen = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True).stderr
    check("alert no application protocol" in seen, "ALPN without http/1.1 is refused in TLS 1.3", seen)
    answer = say(address, record(client_hello(protocols=[b"h2", b"http/1.1"], version=TLS12)))
    check(answer.hello and answer.hello.protocol() == b"http/1.1", "http/1.1 is chosen from several", answer)
    answer = say(address, record(client_hello(version=TLS12)))
    check(answer.hello and answer.hello.protocol() is None, "no ALPN gets none", answer)
    for what, body in (("an empty list", vector(2, b"")), ("an empty name", vector(2, b"\0")), ("a length too long", b"\0\x09\x08http/1")):
        answer = say(address, record(client_hello(listed=extensions(version=TLS12, changes={16: body}), version=TLS12)))
        refused(check, f"ALPN of {what} is refused", answer, "decode_error", "illegal_parameter")
    many = [b"x%d" % index for index in range(1000)] + [b"http/1.1"]
    answer = say(address, record(client_hello(protocols=many, version=TLS12)))
    check(answer.hello and answer.hello.protocol() == b"http/1.1", "http/1.1 is found behind a thousand others", answer)


def fragments(address, _, check):
    for version in (TLS12, TLS13):
        hello = client_hello(version=version)
        for size in (1, 2, 5, 64, len(hello) - 1):
            answer = say(address, records(hello, size))
            check(answer.hello is not None, f"a hello of {version:#06x} in records of {size} bytes is understood", answer)
        whole = record(hello)
        answer = say(address, *(whole[at : at + 1] for at in range(len(whole))))
        check(answer.hello is not None, f"a hello of {version:#06x} in segments of one byte is understood", answer)
        answer = say(address, record(hello[:40]), record(b"\x01\x00", kind=21), record(hello[40:]))
        check(answer.hello is None and answer.ended != "open", "an alert between fragments ends it (RFC 8446 §5.1)", answer)
        answer = say(address, record(hello[:40]) + record(b"") + record(hello[40:]))
        refused(check, "an empty fragment is refused (RFC 8446 §5.1)", answer, "unexpected_message", "decode_error")


def padded(size):
    return client_hello(listed=extensions(changes={21: b"\0" * size}))


def sizes(address, _, check):
    for size in (512, 4096, 12000):
        answer = say(address, records(padded(size), 16384))
        check(answer.hello is not None, f"a hello padded by {size} bytes is understood", answer)
    for size in (40000, 65000):
        answer = say(address, records(padded(size), 16384))
        refused(check, f"a hello padded by {size} bytes is refused", answer, "decode_error", "illegal_parameter", "record_overflow", "handshake_failure")
    endless = b"\x01\xff\xff\xff" + b"\0" * 16000
    begun = time.monotonic()
    answer = say(address, *[record(endless)] + [record(b"\0" * 16000)] * 20)
    check(answer.hello is None and answer.ended != "open" and time.monotonic() - begun < 3, "a hello of 16 MiB is cut off early", answer)
    answer = say(address, struct.pack("!BHH", 22, TLS10, 0xFFFF) + b"\0" * 0xFFFF)
    refused(check, "a record of 64 KiB is refused", answer, "record_overflow", "decode_error")
    answer = say(address, struct.pack("!BHH", 22, TLS10, 16384 + 2049) + b"\0" * 18433)
    refused(check, "a record over 2^14 + 2048 bytes is refused (RFC 8446 §5.2)", answer, "record_overflow", "decode_error")
    answer = say(address, record(b"") * 2000)
    check(answer.hello is None and answer.ended != "open", "empty records without end are cut off", answer)


def sequences(address, _, check):
    finished = b"\x14" + vector(3, os.urandom(12))
    refused(check, "a Finished first is unexpected", say(address, record(finished)), "unexpected_message")
    refused(check, "a ServerHello first is unexpected", say(address, record(b"\x02" + vector(3, os.urandom(70)))), "unexpected_message", "decode_error")
    refused(check, "application data first is unexpected", say(address, record(b"GET / ", kind=23)), "unexpected_message")
    refused(check, "change_cipher_spec first is unexpected", say(address, record(b"\x01", kind=20)), "unexpected_message")
    for kind in (24, 0, 99, 255):
        answer = say(address, record(b"\x01\x00\x10xxxx", kind=kind))
        check(answer.hello is None and answer.ended != "open", f"a record of type {kind} first ends it", answer)
    hello = client_hello()
    answer = say(address, record(hello), record(client_hello()), until_hello=False)
    check(answer.ended != "open", "a second hello behind the first ends it", answer.ended)
    answer = say(address, record(hello), record(os.urandom(64), kind=23), until_hello=False)
    check(answer.ended != "open", "garbage for a Finished ends it", answer.ended)
    answer = say(address, record(client_hello(version=TLS12)), record(b"\x01", kind=20), record(os.urandom(40)), until_hello=False)
    check(answer.ended != "open", "an early change_cipher_spec ends it (CVE-2014-0224)", answer.ended)
    answer = say(address, record(b"\x02\x28", kind=21), until_hello=False)
    check(answer.ended != "open", "a fatal alert first ends it", answer.ended)


def broken(address, _, check):
    good = extensions()
    twice = client_hello(listed=[*good, (13, dict(good)[13])])
    refused(check, "an extension twice is refused (RFC 8446 §4.2)", say(address, record(twice)), "illegal_parameter", "decode_error")
    for what, change in (
        ("key_share", {51: None}),
        ("signature_algorithms", {13: None}),
        ("supported_groups", {10: None}),
    ):
        answer = say(address, record(client_hello(listed=extensions(changes=change))))
        refused(check, f"TLS 1.3 without {what} is refused (RFC 8446 §9.2)", answer, "missing_extension", "handshake_failure")
    whole = client_hello()
    trailing = b"\x01" + vector(3, whole[4:] + b"\0")
    refused(check, "bytes behind the extensions are refused", say(address, record(trailing)), "decode_error")
    for cut in (1, 33, 60, len(whole) - 10):
        shorter = b"\x01" + vector(3, whole[4:-cut])
        refused(check, f"a hello that is {cut} bytes short is refused", say(address, record(shorter)), "decode_error", "illegal_parameter")
    for kind in (0, 10, 13, 16, 43, 45, 51):
        for body in (b"\xff", b"\xff\xff\xff", b"\0\xff" + b"x" * 4):
            answer = say(address, record(client_hello(listed=extensions(changes={kind: body}))))
            check(answer.hello is None and answer.alert not in (None, "internal_error"), f"extension {kind} of {body!r} is refused by an alert", answer)
    session = client_hello(session=os.urandom(33))
    refused(check, "a session id of 33 bytes is refused", say(address, record(session)), "decode_error", "illegal_parameter")
    share = extensions(changes={51: vector(2, struct.pack("!H", X25519) + vector(2, b"\0" * 32))})
    answer = say(address, record(client_hello(listed=share)))
    refused(check, "a key share of zeros is refused (RFC 7748 §6.1)", answer, "illegal_parameter", "handshake_failure")
    share = extensions(groups=(P256,), shares=(P256,))
    answer = say(address, record(client_hello(listed=share)))
    refused(check, "a key share off the curve is refused", answer, "illegal_parameter", "handshake_failure", "decode_error")
    share = extensions(shares=(X25519, X25519))
    refused(check, "two key shares of one group are refused (RFC 8446 §4.2.8)", say(address, record(client_hello(listed=share))), "illegal_parameter", "decode_error")


def negotiation(address, _, check):
    answer = say(address, record(client_hello(shares=(), groups=(X25519, P256))))
    check(answer.hello and answer.hello.is_retry, "no key share that is liked gets a HelloRetryRequest", answer)
    retried = say(address, record(client_hello(shares=())), record(client_hello(shares=())), until_hello=False)
    check(retried.ended != "open", "a second hello without a key share ends it", retried.ended)
    answer = say(address, record(client_hello(groups=(0x0019, 0x0100), shares=())))
    refused(check, "no group in common is refused", answer, "handshake_failure", "illegal_parameter")
    answer = say(address, record(client_hello(groups=(0x0100,), version=TLS12)))
    refused(check, "no group in common is refused in TLS 1.2", answer, "handshake_failure", "illegal_parameter")
    sha1 = extensions(changes={13: vector(2, struct.pack("!HH", 0x0203, 0x0201))})
    answer = say(address, record(client_hello(listed=sha1)), until_hello=False)
    check(answer.ended != "open" and len(answer.data) < 512, "signatures by SHA-1 only end it before a certificate, TLS 1.3", answer)
    sha1 = extensions(version=TLS12, changes={13: vector(2, struct.pack("!HH", 0x0203, 0x0201))})
    answer = say(address, record(client_hello(listed=sha1, version=TLS12)))
    refused(check, "signatures by SHA-1 only are refused, TLS 1.2", answer, "handshake_failure")
    answer = say(address, record(client_hello(groups=(P384,), version=TLS12)))
    check(answer.hello is not None, "P-384 is spoken", answer)
    for name in (b"unknown.example.net", b"127.0.0.1", b"UPPER.EXAMPLE.COM"):
        answer = say(address, record(client_hello(name=name)))
        check(answer.hello is not None, f"the name {name.decode()} gets the default certificate", answer)
    for name in (b"", b"nul\0.example.com", b"a" * 300):
        answer = say(address, record(client_hello(name=name)))
        check(answer.hello is not None or answer.alert is not None, f"the name {name[:8]!r} gets an answer", answer)
    answer = say(address, record(client_hello(version=TLS12)))
    check(answer.hello and answer.hello.extensions.get(0xFF01) == b"\0", "renegotiation_info is empty and there (RFC 5746)", answer)
    check(answer.hello and 23 in answer.hello.extensions, "the extended master secret is agreed on (RFC 7627)", answer)
    check(answer.hello and 15 not in answer.hello.extensions, "no heartbeat is agreed on", answer)
    without = extensions(version=TLS12, changes={23: None})
    answer = say(address, record(client_hello(listed=without, version=TLS12)))
    check(answer.hello is not None or answer.alert == "handshake_failure", "a client without the extended master secret gets one answer", answer)
    unknown = extensions(changes={0x0A0A: b"", 0xFAFA: b"\0", 0x1234: b"x" * 100})
    answer = say(address, record(client_hello(listed=unknown, suites=[0x0A0A, 0x1301])))
    check(answer.hello is not None, "what a client greases with is overlooked (RFC 8701)", answer)


def established(address, authority, check):
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        for what, junk in (
            ("garbage", record(os.urandom(40), kind=23, version=TLS12)),
            ("a record cut short of its tag", record(os.urandom(4), kind=23, version=TLS12)),
            ("an oversized record", struct.pack("!BHH", 23, TLS12, 20000) + b"\0" * 20000),
            ("plain text", b"GET / HTTP/1.1\r\n\r\n"),
            ("an alert in the clear", record(b"\x01\x00", kind=21, version=TLS12)),
            ("a handshake message in the clear", record(client_hello(), version=TLS12)),
        ):
            seen = after_handshake(address, authority, version, junk)
            check(seen.startswith(("alert", "closed", "reset")), f"{what} behind a {version.name} handshake ends it", seen)
    for protocols, chosen in ((["http/1.1"], "http/1.1"), (["h2", "http/1.1"], "http/1.1"), (None, None)):
        with connected(address, authority, ssl.TLSVersion.TLSv1_3, protocols) as connection:
            seen = connection.selected_alpn_protocol()
            check(seen == chosen, f"ALPN of {protocols} chooses {chosen} in TLS 1.3", seen)


def tickets(address, authority, check):
    with tempfile.TemporaryDirectory() as folder:
        session = f"{folder}/session"
        for version in ("-tls1_2", "-tls1_3"):
            command = ["openssl", "s_client", "-connect", "%s:%d" % address, version, "-CAfile", authority]
            request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

            def connect(*more):
                done = subprocess.run([*command, "-ign_eof", *more], input=request, capture_output=True, timeout=10)
                return done.stdout.decode("latin-1")

            first = connect("-sess_out", session)
            check("New, TLSv1" in first, f"a first handshake is a full one, {version}", first[-300:])
            again = connect("-sess_in", session)
            check("Reused, TLSv1" in again, f"a ticket resumes it, {version}", again[-300:])
            check(ticket(first) and ticket(first) != ticket(connect()), f"tickets differ, {version}", ticket(first))


def ticket(told):
    """The ticket that openssl shows; it begins with the name of its key, which several share."""
    lines = told.split("TLS session ticket:", 1)[-1].splitlines()[1:] if "TLS session ticket:" in told else []
    return [line for line in lines[: lines.index("")] if " - " in line]


def connected(address, authority, version, protocols=("http/1.1",)):
    context = ssl.create_default_context(cafile=authority)
    context.minimum_version = context.maximum_version = version
    if protocols:
        context.set_alpn_protocols(list(protocols))
    plain = socket.create_connection(address, timeout=4)
    return context.wrap_socket(plain, server_hostname="matrix.example.com")


def after_handshake(address, authority, version, junk):
    """Sends bytes past the session, and tells how the connection ends."""
    with connected(address, authority, version) as connection:
        with socket.socket(fileno=os.dup(connection.fileno())) as bare:
            bare.sendall(junk)
        try:
            return "closed" if connection.recv(1024) == b"" else "answered"
        except ssl.SSLError as error:
            return f"alert {error.reason}"
        except ConnectionResetError:
            return "reset"
        except TimeoutError:
            return "open"
