"""The peers, the origin, and their processes: started on their cores, checked, and ended whatever happens."""

import contextlib
import http.client
import os
import pathlib
import re
import signal
import socket
import ssl
import subprocess
import time
from dataclasses import dataclass

from . import machine, workloads

BENCHES = pathlib.Path(__file__).resolve().parent.parent
ROOT = BENCHES.parent
CONFIGURATIONS = BENCHES / "peers"
NGINX_AWSLC = ROOT / "target" / "nginx-awslc" / "sbin" / "nginx"
# Below the ports that the kernel gives to clients, of which the load takes thousands.
PORTS = iter(range(20_000, 32_000))
START_SECONDS = 10
# What a proxy or a load that fails looks like from here; anything else is our own mistake.
FAULTS = (RuntimeError, OSError, subprocess.SubprocessError, http.client.HTTPException)
STOP_SECONDS = 5

# The file of a peer; of `nginx-awslc` the tuned one where nginx's tuned one is measured too.
FILES = {"ringfence": "ringfence.toml", "ringfence-off": "ringfence.toml", "nginx": "nginx.conf", "nginx-tuned": "nginx-tuned.conf",
         "nginx-awslc": "nginx.conf", "haproxy": "haproxy.cfg", "haproxy-tuned": "haproxy-tuned.cfg",
         "caddy": "Caddyfile"}
PEERS = list(FILES)


def free_port():
    for port in PORTS:
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port is left")


@dataclass
class Setting:
    """What all servers of a run share."""

    folder: pathlib.Path
    cores: machine.Cores
    descriptors: int
    ringfence: str
    load: str
    # The only one that clients offer; None: what their libraries do.
    cipher_suite: str | None


def configuration(peer, workload):
    if peer == "nginx-awslc" and "nginx-tuned" in workload.peers:
        return CONFIGURATIONS / "nginx-tuned.conf"
    return CONFIGURATIONS / FILES[peer]


def upstream(peer, origin, through_socket):
    """The origin's address as the peer spells it."""
    if through_socket:
        return {"caddy": "unix/", "haproxy": "unix@", "haproxy-tuned": "unix@"}.get(peer, "unix:") + origin.socket
    return ("http://" if peer.startswith("ringfence") else "") + f"127.0.0.1:{origin.plain}"


def access_log(peer, folder, wanted):
    """What the configuration says about the log."""
    if peer.startswith("haproxy"):
        return "log stdout format raw local0\n    option httplog" if wanted else ""
    file = folder / f"{peer}.access.log"
    if not wanted or peer == "ringfence-off":
        return "off"
    return f"{file} combined buffer=64k" if peer.startswith("nginx") else str(file)


def admin(peer, folder):
    """Whether ringfence counts exchanges by kind: where it has an admin listener."""
    return "off" if peer == "ringfence-off" else f"unix:{folder}/{peer}.admin.sock"


def command(peer, setting, file):
    binary = str(NGINX_AWSLC) if peer == "nginx-awslc" else peer.removesuffix("-tuned")
    if peer.startswith("ringfence"):
        return [setting.ringfence, "run", "--config", file]
    if binary == "haproxy":
        return [binary, "-db", "-f", file]
    if binary == "caddy":
        return [binary, "run", "--adapter", "caddyfile", "--config", file]
    return [binary, "-c", file, "-e", file.with_suffix(".log")]


class Server:
    """A process with its descendants on one core, listening on a plain port and a TLS port."""

    def __init__(self, name, plain, tls, process, files):
        self.name, self.plain, self.tls, self.process, self.files = name, plain, tls, process, files
        self.pids = []

    def wait_until_it_listens(self):
        deadline = time.monotonic() + START_SECONDS
        for port in (self.plain, self.tls):
            while port is not None:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    if self.process.poll() is not None or time.monotonic() > deadline:
                        raise RuntimeError(f"{self.name} does not listen:\n{self.log()}") from None
                    time.sleep(0.05)
        self.pids = machine.family(self.process.pid)

    def log(self):
        return "\n".join(file.read_text(errors="replace")[-500:] for file in self.files if file.exists())

    def port(self, is_tls):
        return self.tls if is_tls else self.plain

    def stop(self):
        """First as it likes, then at once; the whole group, so that no worker is left behind."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def on_core(core, arguments):
    """A command bound to a core that ends with us, also when we are killed."""
    return ["setpriv", "--pdeathsig", "TERM", "taskset", "-c", str(core), *map(str, arguments)]


def start(name, setting, core, template, places, arguments, plain, tls):
    """Fills a template in, starts `arguments(file)` and waits until it listens."""
    text = template.read_text()
    for place, value in {"DIR": setting.folder, "DESCRIPTORS": setting.descriptors, **places}.items():
        text = text.replace(f"@{place}@", str(value))
    file = setting.folder / f"{plain}-{template.name}"
    file.write_text(text)
    output = setting.folder / f"{plain}-{name}.output"
    with open(output, "wb") as sink:
        process = subprocess.Popen(
            on_core(core, arguments(file)), start_new_session=True, cwd=setting.folder, stdin=subprocess.DEVNULL,
            stdout=sink, stderr=sink, env={**os.environ, "HOME": str(setting.folder)})
    server = Server(name, plain, tls, process, [output])
    try:
        server.wait_until_it_listens()
    except BaseException:
        server.stop()
        raise
    return server


class Origin:
    """nginx in the homeserver's place, which counts the requests that reach it."""

    def __init__(self, setting):
        media = setting.folder / "media"
        media.mkdir()
        (media / "mebibyte").write_bytes(bytes(range(256)) * (workloads.MEBIBYTE // 256))
        self.plain = free_port()
        self.socket = str(setting.folder / "origin.sock")
        self.server = start("origin", setting, setting.cores.origin, CONFIGURATIONS / "origin.conf",
                            {"PLAIN": self.plain},
                            lambda file: ["nginx", "-c", file, "-e", file.with_suffix(".log")], self.plain, None)
        self.status = None
        self.asked = 0

    def requests(self):
        """How many requests have come, ours for this number not counted."""
        if self.status is None:
            self.status = http.client.HTTPConnection("127.0.0.1", self.plain, timeout=10)
        self.status.request("GET", "/origin-status")
        answer = self.status.getresponse().read().decode()
        self.asked += 1
        return int(re.search(r"requests\n \d+ \d+ (\d+)", answer)[1]) - self.asked

    def stop(self):
        self.server.stop()


@contextlib.contextmanager
def started(peers, workload, setting, origin, failed):
    """Fresh processes for a workload, so that no earlier load has left memory or buffers behind.

    Each has answered one request as it should; why one did not goes to `failed`.
    """
    servers = {}
    try:
        for peer in peers:
            plain, tls = free_port(), free_port()
            places = {"PLAIN": plain, "TLS": tls, "UPSTREAM": upstream(peer, origin, workload.unix_upstream),
                      "ACCESS_LOG": access_log(peer, setting.folder, workload.access_log),
                      "ADMIN": admin(peer, setting.folder)}
            try:
                servers[peer] = start(peer, setting, setting.cores.proxy, configuration(peer, workload), places,
                                      lambda file, peer=peer: command(peer, setting, file), plain, tls)
                check_answer(servers[peer], workload)
            except FAULTS as error:
                failed[peer] = str(error)
        yield servers
    finally:
        for server in servers.values():
            server.stop()


def check_answer(server, workload):
    """One request, its answer checked: status, length, and for uploads that all of it has arrived."""
    if workload.tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", server.tls, timeout=30, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", server.plain, timeout=30)
    body = b"x" * workload.body_bytes if workload.body_bytes else None
    with contextlib.closing(connection):
        connection.request(workload.method, workload.target, body, {"Host": "localhost"})
        answer = connection.getresponse()
        content = answer.read()
    received = answer.headers.get("X-Received-Bytes")
    if answer.status != 200 or len(content) != workload.answer_bytes:
        raise RuntimeError(f"{server.name} answers {answer.status} with {len(content)} bytes to: {workload.name}")
    if body and received != str(len(body)):
        raise RuntimeError(f"{server.name} passed {received} of {len(body)} bytes on: {workload.name}")


def negotiated(server, setting):
    """Version, cipher and key exchange that a client of today's default gets: unequal ones are unequal work."""
    suites = ["-ciphersuites", setting.cipher_suite] if setting.cipher_suite else []
    output = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{server.tls}", "-servername", "localhost", "-alpn", "http/1.1", *suites],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10).stdout
    cipher = re.search(r"New, (\S+), Cipher is (\S+)", output)
    group = re.search(r"(?:Server Temp Key|Negotiated TLS1.3 group): ([^\n]+)", output)
    return f"{cipher[1]} {cipher[2]} {group[1] if group else '?'}" if cipher else "?"


def version(peer, setting):
    arguments = {"haproxy": ["haproxy", "-v"], "caddy": ["caddy", "version"],
                 "ringfence": [setting.ringfence, "--version"], "ringfence-off": [setting.ringfence, "--version"], "nginx-awslc": [NGINX_AWSLC, "-V"]}
    run = subprocess.run(list(map(str, arguments.get(peer.removesuffix("-tuned"), ["nginx", "-V"]))),
                         capture_output=True, text=True)
    lines = [line for line in (run.stdout + run.stderr).splitlines()
             if line and not line.startswith(("configure", "built by", "TLS SNI", "Status", "Known", "Running"))]
    return ", ".join(re.sub(r"(nginx version: | - https?://\S+)", "", line) for line in lines)
