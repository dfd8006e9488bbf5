"""The load generators: wrk where it fits, ringfence-load for handshakes, open-loop arrivals and idle connections."""

import json
import os
import select
import signal
import subprocess
import time

from . import servers

# A generator that has not ended this long after it should have is stuck.
END_SECONDS = 30
# Head of an answer, in bytes: no server here sends a longer one.
HEAD_BYTES_MAX = 1024
# What a server sends in a handshake, which ringfence-load counts: a short chain and two tickets.
HANDSHAKE_BYTES_MAX = 4096
# ringfence-load measures so much longer than we do: its own warm-up overlaps with ours, and we wait for its rate.
LONGER_SECONDS = 2.5
# Of all that a process of OpenSSL's speaks with.
OPENSSL_CONF = """openssl_conf = all
[all]
ssl_conf = ssl
[ssl]
system_default = tls
[tls]
Ciphersuites = {}
"""


class Load:
    """A running load."""

    def __init__(self, workload, arguments, core, environment=None):
        self.workload = workload
        self.process = subprocess.Popen(
            servers.on_core(core, arguments), start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})})

    def fail_if_ended(self):
        if self.process.poll() is not None:
            out, error = self.process.communicate()
            raise RuntimeError(f"the load ended early with {self.process.returncode}: {error or out}")

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


class Wrk(Load):
    """wrk, ended by us: it takes SIGINT for the end of its time."""

    def __init__(self, workload, server, setting):
        url = f"{workload.scheme}://127.0.0.1:{server.port(workload.tls)}{workload.target}"
        environment = {"WRK_METHOD": workload.method, "WRK_BODY_BYTES": str(workload.body_bytes)}
        if setting.cipher_suite:
            # wrk has no option for it, its library has a file.
            (setting.folder / "wrk.cnf").write_text(OPENSSL_CONF.format(setting.cipher_suite))
            environment["OPENSSL_CONF"] = str(setting.folder / "wrk.cnf")
        super().__init__(
            workload,
            ["wrk", "-t1", f"-c{workload.connections}", "-d600", "--timeout", "10", "-s",
             servers.CONFIGURATIONS / "wrk.lua", url],
            setting.cores.load, environment)

    def finish(self):
        self.fail_if_ended()
        self.process.send_signal(signal.SIGINT)
        out, error = self.process.communicate(timeout=END_SECONDS)
        lines = [line for line in out.splitlines() if line.startswith("JSON ")]
        if self.process.returncode != 0 or not lines:
            raise RuntimeError(f"wrk failed: {out}{error}")
        seen = json.loads(lines[0].removeprefix("JSON "))
        check(self.workload, seen)
        return seen


class Flood(Load):
    """ringfence-load flood, which ends by itself."""

    def __init__(self, workload, server, setting, seconds, warmup):
        url = f"{workload.scheme}://127.0.0.1:{server.port(workload.tls)}{workload.target}"
        arguments = [setting.load, "flood", "--url", url, "--connections", workload.connections, "--method", workload.method,
                     "--handshake", workload.handshake, "--seconds", seconds, "--warmup", warmup, "--json"]
        if workload.body_bytes:
            arguments += ["--body", workload.body_bytes]
        if workload.rate:
            arguments += ["--rate", workload.rate]
        super().__init__(workload, arguments + suites(setting), setting.cores.load)
        self.seconds = seconds + warmup

    def finish(self):
        out, error = self.process.communicate(timeout=self.seconds + END_SECONDS)
        if self.process.returncode != 0:
            raise RuntimeError(f"ringfence-load failed: {error}{out}")
        seen = json.loads(out)
        check(self.workload, seen)
        check_handshakes(self.workload, seen)
        return seen


class Idle(Load):
    """ringfence-load idle: connections that are up and say nothing."""

    def __init__(self, workload, server, setting, connections):
        url = f"{workload.scheme}://127.0.0.1:{server.port(workload.tls)}{workload.target}"
        arguments = [setting.load, "idle", "--url", url, "--connections", connections]
        super().__init__(workload, arguments + suites(setting), setting.cores.load)
        deadline = time.monotonic() + END_SECONDS
        while not select.select([self.process.stdout], [], [], 0.1)[0]:
            self.fail_if_ended()
            if time.monotonic() > deadline:
                raise RuntimeError(f"{connections} connections are not up after {END_SECONDS} s")
        line = self.process.stdout.readline()
        if "ready" not in line:
            self.kill()
            raise RuntimeError(f"ringfence-load idle says: {line}")


def suites(setting):
    return ["--cipher-suite", setting.cipher_suite] if setting.cipher_suite else []


def start(workload, server, setting, seconds):
    """What fits: wrk has no open loop, and keeps or resumes sessions as its library likes."""
    if workload.rate or workload.handshake != "keep" or workload.kind == "latency":
        return Flood(workload, server, setting, seconds + LONGER_SECONDS, warmup=1)
    return Wrk(workload, server, setting)


def check(workload, seen):
    """No errors, and as many bytes as so many answers have."""
    if seen["errors"] or not seen["requests"]:
        raise RuntimeError(f"{workload.name}: {seen}")
    bytes_each = seen["bytes_received"] / seen["requests"]
    unfinished = workload.answer_bytes * workload.connections / seen["requests"]
    around = HEAD_BYTES_MAX + (HANDSHAKE_BYTES_MAX if workload.handshake != "keep" else workload.answer_bytes // 100)
    if not workload.answer_bytes <= bytes_each <= workload.answer_bytes + around + unfinished:
        raise RuntimeError(f"{workload.name}: {bytes_each:.0f} bytes an answer instead of {workload.answer_bytes}")


def check_handshakes(workload, seen):
    """A workload of one kind of handshake made that kind only, but for the first of each connection's place."""
    counts = seen["handshakes"]
    wrong = {"new": counts["resumed"], "resumed": counts["full"]}.get(workload.handshake, 0)
    allowed = {"new": 0, "resumed": 2 * workload.connections + seen["requests"] // 100}.get(workload.handshake, 0)
    if wrong > allowed:
        raise RuntimeError(f"{workload.name}: {counts} handshakes")
