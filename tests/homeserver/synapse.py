"""A Synapse homeserver: its configuration, its life, and what it writes about requests."""

import dataclasses
import http.client
import json
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import signedjson.key

from processes import Processes, free_port, wait_until
from wire import Endpoint


@dataclasses.dataclass(frozen=True)
class LoggedRequest:
    """One of Synapse's "Processed request" lines."""

    request_id: str
    client: str
    method: str
    target: str


class Synapse:
    """One homeserver. It listens where only its proxy should reach it, on TCP or on a Unix socket."""

    def __init__(self, folder: pathlib.Path, socket_path: pathlib.Path | None, client: Endpoint, federation: Endpoint):
        self.folder = folder
        self.server_name = federation.authority
        self.signing_key = signedjson.key.generate_signing_key("a_test")
        self._public_baseurl = f"https://{client.authority}/"
        self._root = federation.root
        self._socket_path = socket_path
        self._port = None if socket_path else free_port(LOOPBACK)
        self._log = folder / "homeserver.log"
        self._child: subprocess.Popen | None = None
        self._write_files()

    @property
    def upstream(self) -> str:
        """As ringfence's configuration writes it."""
        return f"unix:{self._socket_path}" if self._socket_path else f"http://{LOOPBACK}:{self._port}"

    @property
    def upstream_nginx(self) -> str:
        """As nginx's `proxy_pass` writes it, without a trailing slash."""
        return f"http://unix:{self._socket_path}:" if self._socket_path else self.upstream

    def start(self, processes: Processes) -> None:
        command = [sys.executable, "-m", "synapse.app.homeserver", "--config-path", self.folder / "homeserver.yaml"]
        self._child = processes.start(self.folder.name, command, cwd=self.folder)

    def wait_ready(self) -> None:
        """Returns when Synapse itself answers, the proxy not asked."""
        wait_until(f"start of {self.folder.name}", self.healthy, self._child, START_S)

    def kill(self) -> None:
        """SIGKILL: no goodbye to open connections; returns when the process is gone."""
        self._child.send_signal(signal.SIGKILL)
        self._child.wait()

    def healthy(self) -> bool:
        stream = self._dial()
        if stream is None:
            return False
        try:
            stream.sendall(b"GET /health HTTP/1.1\r\nHost: health\r\nConnection: close\r\n\r\n")
            response = http.client.HTTPResponse(stream)
            response.begin()
            return response.status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            stream.close()

    def _dial(self) -> socket.socket | None:
        family, address = (
            (socket.AF_UNIX, str(self._socket_path)) if self._socket_path else (socket.AF_INET, (LOOPBACK, self._port))
        )
        stream = socket.socket(family, socket.SOCK_STREAM)
        stream.settimeout(5)
        if stream.connect_ex(address) == 0:
            return stream
        stream.close()
        return None

    def requests(self) -> list[LoggedRequest]:
        """What Synapse says it was asked so far, oldest first; its own health checks are not in its log."""
        lines = self._log.read_text(errors="replace").splitlines()
        found = (PROCESSED.match(line) for line in lines)
        return [LoggedRequest(**match.groupdict()) for match in found if match]

    def logged(self, request_id: str) -> LoggedRequest:
        """The request of that id. Synapse writes its line after its answer: so wait for it."""
        deadline = time.monotonic() + LOG_S
        while time.monotonic() < deadline:
            for request in self.requests():
                if request.request_id == request_id:
                    return request
            time.sleep(0.05)
        raise LookupError(f"no request {request_id} in Synapse's log")

    def _write_files(self) -> None:
        self.folder.mkdir(parents=True)
        with open(self.folder / "signing.key", "w") as file:
            signedjson.key.write_signing_keys(file, [self.signing_key])
        # JSON is YAML.
        (self.folder / "homeserver.yaml").write_text(json.dumps(self._config(), indent=1))
        (self.folder / "log.yaml").write_text(json.dumps(self._log_config(), indent=1))

    def _config(self) -> dict:
        where = (
            {"path": str(self._socket_path)}
            if self._socket_path
            else {"port": self._port, "bind_addresses": [LOOPBACK]}
        )
        http_listener = {
            **where,
            "type": "http",
            "x_forwarded": True,
            "request_id_header": "X-Request-ID",
            "resources": [{"names": ["client", "federation"], "compress": False}],
        }
        return {
            "server_name": self.server_name,
            "public_baseurl": self._public_baseurl,
            "listeners": [http_listener],
            "database": {"name": "sqlite3", "args": {"database": str(self.folder / "homeserver.db")}},
            "media_store_path": str(self.folder / "media"),
            "log_config": str(self.folder / "log.yaml"),
            "signing_key_path": str(self.folder / "signing.key"),
            "federation_custom_ca_list": [str(self._root)],
            "max_upload_size": "50M",
            "enable_registration": True,
            "enable_registration_without_verification": True,
            # Never contacted: it makes Synapse answer single sign-on redirects, which show the scheme that it saw.
            "cas_config": {"enabled": True, "server_url": CAS_SERVER},
            **SECRETS,
            **OPEN_LOOPBACK,
            **RATES_OPENED,
            **QUIET,
        }

    def _log_config(self) -> dict:
        return {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s [%(request)s] %(message)s"}},
            "handlers": {"file": {"class": "logging.FileHandler", "formatter": "line", "filename": str(self._log)}},
            "root": {"level": "INFO", "handlers": ["file"]},
        }


LOOPBACK = "127.0.0.1"
CAS_SERVER = "https://cas.invalid/"

# On a machine of two busy cores; the first start makes the database.
START_S = 120.0
LOG_S = 10.0

# `... [GET-0123abcd] 127.0.0.1 - 8008 - {@u:hs} Processed request: 0.1sec/... 12B 200 "GET /target HTTP/1.1" "agent"`
PROCESSED = re.compile(
    r"\S+ \S+ INFO synapse\.access\.\S+ \[[A-Z]+-(?P<request_id>[^\]]*)\] (?P<client>\S+) - .* Processed request: "
    r'.*? \d+B \S+ "(?P<method>\S+) (?P<target>\S*) HTTP/1\.[01]" "'
)

SECRETS = {"macaroon_secret_key": "test", "form_secret": "test", "registration_shared_secret": "test"}

# Synapse refuses by default to talk to addresses that are not public, and asks matrix.org for keys.
OPEN_LOOPBACK = {"ip_range_blacklist": [], "federation_ip_range_blacklist": [], "trusted_key_servers": []}

# Nothing here may wait for Synapse to sleep, nor for statistics or presence that wake a sync.
QUIET = {"report_stats": False, "presence": {"enabled": False}, "url_preview_enabled": False}

RATE = {"per_second": 10_000, "burst_count": 10_000}
RATES_OPENED = {
    "rc_message": RATE,
    "rc_registration": RATE,
    "rc_login": {"address": RATE, "account": RATE, "failed_attempts": RATE},
    "rc_joins": {"local": RATE, "remote": RATE},
    "rc_joins_per_room": RATE,
    "rc_invites": {"per_room": RATE, "per_user": RATE, "per_issuer": RATE},
    "rc_media_create": RATE,
    "rc_room_creation": RATE,
    "rc_federation": {
        "window_size": 1000, "sleep_limit": 10_000, "sleep_delay": 1, "reject_limit": 10_000, "concurrent": 100,
    },
    "remote_media_download_per_second": "1024M",
    "remote_media_download_burst_count": "1024M",
}  # fmt: skip
