"""ClientHellos with bytes changed, lost, doubled and moved, by a seed that is told: none may do more than end its connection."""

import random
import socket

from hello import (
    AEAD_TLS12, AEAD_TLS13, P256, TLS12, TLS13, X25519, Answer, client_hello, extensions, record, records,
)  # fmt: skip

HELLOS = 3000
PATIENCE = 3.0


def run(address, check, seed=None):
    seed = random.SystemRandom().getrandbits(32) if seed is None else seed
    source = random.Random(seed)
    endings, faults = {}, []
    for _ in range(HELLOS):
        sent = mutated(source)
        answer = outcome(address, sent)
        name = "hello" if answer.hello else answer.alert or answer.ended
        endings[name] = endings.get(name, 0) + 1
        if name in ("open", "internal_error"):
            faults.append(f"{name}: {sent.hex()}")
    told = ", ".join(f"{count} {name}" for name, count in sorted(endings.items(), key=lambda item: -item[1]))
    print(f"         seed {seed}: {told}")
    check(not faults, f"{HELLOS} mutated hellos each end in a hello, an alert that says what is wrong, or a close (seed {seed})", faults[:3])
    check(len(endings) > 5, "the mutations are of many kinds", endings)
    whole = outcome(address, record(client_hello()))
    check(whole.hello is not None, "a whole hello is answered behind them", whole)


def mutated(source):
    """What goes over the wire: a hello, changed at a few places of the message or of its records."""
    version = source.choice((TLS12, TLS13))
    suites = [*AEAD_TLS12.values(), *AEAD_TLS13.values()]
    source.shuffle(suites)
    listed = extensions(version=version, groups=source.choice(((X25519, P256), (P256,), (X25519,))), protocols=[b"http/1.1"])
    if source.random() < 0.3:
        source.shuffle(listed)
    hello = client_hello(suites=suites[: source.randint(1, len(suites))], version=version, listed=listed)
    if source.random() < 0.8:
        hello = changed(hello, source)
        if source.random() < 0.5:
            # Lengths that are right around content that is not: the faults further in.
            hello = hello[:1] + (len(hello) - 4).to_bytes(3, "big") + hello[4:]
        return records(hello, source.choice((16384, 16384, 200, 50)))
    return changed(record(hello), source)


def changed(data, source):
    data = bytearray(data)
    for _ in range(source.choice((1, 1, 1, 2, 4, 16))):
        at, length = source.randrange(len(data)), source.choice((1, 1, 2, 4, 32))
        kind = source.randrange(6)
        if kind == 0:
            data[at] ^= 1 << source.randrange(8)
        elif kind == 1:
            data[at] = source.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF))
        elif kind == 2 and len(data) > 64:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + length]
        elif kind == 4:
            data[at:at] = source.randbytes(length)
        else:
            other = source.randrange(len(data))
            data[at], data[other] = data[other], data[at]
    return bytes(data)


def outcome(address, sent):
    """Sends it and an end, so that the server need not wait for what a length promises."""
    data, ended = b"", "open"
    with socket.create_connection(address, timeout=PATIENCE) as connection:
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            while more := connection.recv(65536):
                data += more
            ended = "closed"
        except TimeoutError:
            pass
        except OSError:
            ended = "reset"
    return Answer(data, ended)
