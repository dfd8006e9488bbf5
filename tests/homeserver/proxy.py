"""The proxy under test: ringfence, or nginx in its place (see `run`)."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess

from processes import Processes, accepts, wait_until
from synapse import Synapse
from wire import Endpoint


@dataclasses.dataclass(frozen=True)
class Ports:
    """Where one proxy listens."""

    client: Endpoint
    federation: Endpoint
    # Without TLS, role client: shows that the scheme is told as it is.
    plain: Endpoint


class Proxy:
    """One running proxy in front of one homeserver."""

    def __init__(self, name: str, folder: pathlib.Path, ports: Ports) -> None:
        self.name = name
        self.folder = folder
        self.ports = ports
        self.access_log = folder / "access.log"
        self._child: subprocess.Popen | None = None
        folder.mkdir(parents=True)

    def start(
        self, kind: str, binary: pathlib.Path | None, synapse: Synapse, chain: tuple, processes: Processes
    ) -> None:
        """Starts it; returns when each of its ports accepts."""
        if kind == "ringfence":
            command = self._ringfence(binary, synapse, chain)
        else:
            command = self._nginx(synapse, chain, "/" if kind == "nginx" else "")
        self._child = processes.start(self.name, command, cwd=self.folder)
        for endpoint in (self.ports.client, self.ports.federation, self.ports.plain):
            address = (endpoint.host, endpoint.port)
            wait_until(f"{self.name} on {endpoint.authority}", lambda: accepts(address), self._child, START_S)

    def running(self) -> bool:
        return self._child.poll() is None

    def terminate(self, seconds_max: float) -> int:
        """SIGTERM; the exit code. Too slow is an exception."""
        self._child.send_signal(signal.SIGTERM)
        return self._child.wait(seconds_max)

    def _ringfence(self, binary: pathlib.Path, synapse: Synapse, chain: tuple) -> list[object]:
        listeners = [
            listener(self.ports.client, "client", tls=True),
            listener(self.ports.federation, "federation", tls=True),
            listener(self.ports.plain, "client", tls=False),
        ]
        config = RINGFENCE.format(
            access_log=json.dumps(str(self.access_log)),
            server_name=json.dumps(synapse.server_name),
            public_host=json.dumps(self.ports.client.authority),
            federation_host=json.dumps(self.ports.federation.authority),
            upstream=json.dumps(synapse.upstream),
            support=json.dumps(WELL_KNOWN_SUPPORT),
            chain=json.dumps(str(chain[0])),
            key=json.dumps(str(chain[1])),
            listeners="\n".join(listeners),
        )
        file = self.folder / "ringfence.toml"
        file.write_text(config)
        return [binary, "run", "--config", file]

    def _nginx(self, synapse: Synapse, chain: tuple, proxy_pass_path: str) -> list[object]:
        listens = [
            f"listen {self.ports.client.authority} ssl;",
            f"listen {self.ports.federation.authority} ssl;",
            f"listen {self.ports.plain.authority};",
        ]
        config = NGINX.format(
            folder=self.folder,
            listens=" ".join(listens),
            chain=chain[0],
            key=chain[1],
            proxy_pass=synapse.upstream_nginx + proxy_pass_path,
        )
        file = self.folder / "nginx.conf"
        file.write_text(config)
        return ["nginx", "-p", self.folder, "-e", "stderr", "-c", file]


def listener(endpoint: Endpoint, role: str, tls: bool) -> str:
    """A `[[listener]]` table."""
    return f'[[listener]]\naddress = "{endpoint.authority}"\nrole = "{role}"\ntls = {str(tls).lower()}\n'


def ringfence_binary(repository: pathlib.Path) -> pathlib.Path:
    """The binary that `RINGFENCE` names, else a release build of this checkout, wherever cargo puts it."""
    if named := os.environ.get("RINGFENCE"):
        return pathlib.Path(named).resolve(strict=True)
    print("# building ringfence", flush=True)
    command = ["cargo", "build", "--release", "--locked", "--package", "ringfence", "--bin", "ringfence"]
    built = subprocess.run(
        [*command, "--message-format", "json-render-diagnostics"],
        cwd=repository,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=True,
    )
    messages = map(json.loads, built.stdout.splitlines())
    return pathlib.Path(next(path for message in messages if (path := message.get("executable"))))


START_S = 15.0

WELL_KNOWN_SUPPORT = '{"contacts":[{"role":"m.role.admin","matrix_id":"@alice:example.com"}]}'

# JSON strings are TOML strings.
RINGFENCE = """\
[server]
access_log = {access_log}
access_log_format = "json"

[[homeserver]]
server_name = {server_name}
public_host = {public_host}
federation_host = {federation_host}
upstream = {upstream}
well_known_support = {support}

[[certificate]]
chain = {chain}
key = {key}

{listeners}

# Every user registers from one address.
[rate_limits]
exempt = ["127.0.0.0/8"]
"""

# `proxy_pass` with a path normalises the request target, without one forwards it raw. One process, so that ending it
# by its id ends all of it.
NGINX = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 1024; }}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  merge_slashes off;
  server {{
    {listens}
    ssl_certificate {chain};
    ssl_certificate_key {key};
    client_max_body_size 50m;
    location / {{
      proxy_pass {proxy_pass};
      proxy_http_version 1.1;
      proxy_read_timeout 300s;
      proxy_set_header Host $http_host;
      proxy_set_header Connection "";
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Request-ID $request_id;
      add_header X-Request-ID $request_id always;
    }}
  }}
}}
"""
