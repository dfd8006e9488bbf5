"""HTTP/1.1 over one connection, with the request's bytes exactly as given.

No library stands between a fact and the wire: targets, field lines and their order are what the proxy is judged on.
Answers are read by the standard library, which notices those that are cut short.
"""

import dataclasses
import http.client
import json
import pathlib
import socket
import ssl
import time
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """Where to connect, and whose certificates to accept there (`None`: plain TCP)."""

    host: str
    port: int
    root: pathlib.Path | None

    @property
    def authority(self) -> str:
        """As it stands in `Host` and in server names."""
        return f"{self.host}:{self.port}"

    def connect(self, source: str | None = None, timeout_s: float = 60.0) -> "Connection":
        """A connection of its own, from the address `source` if given: all of 127.0.0.0/8 is this machine."""
        plain = socket.create_connection(
            (self.host, self.port), timeout_s, source_address=(source, 0) if source else None
        )
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.root is None:
            return Connection(plain, self.authority)
        context = ssl.create_default_context(cafile=str(self.root))
        try:
            # A TLS stream that ends without close_notify is an error: else an answer could look complete.
            secured = context.wrap_socket(plain, server_hostname=self.host, suppress_ragged_eofs=False)
        except BaseException:
            plain.close()
            raise
        return Connection(secured, self.authority)


@dataclasses.dataclass(frozen=True)
class Answer:
    """One complete answer, and how long it took from the first byte written."""

    status: int
    field_lines: list[tuple[str, str]]
    content: bytes
    seconds: float

    def values(self, name: str) -> list[str]:
        """The values of all field lines of that name."""
        return [value for line, value in self.field_lines if line.lower() == name.lower()]

    def value(self, name: str) -> str:
        """The value of the only field line of that name; a missing or repeated one is an error."""
        values = self.values(name)
        if len(values) != 1:
            raise ValueError(f"{len(values)} field lines {name} where one is expected")
        return values[0]

    def json(self) -> dict:
        return json.loads(self.content)

    def errcode(self) -> str | None:
        """What Matrix calls the error; None when the content is no Matrix error."""
        try:
            return self.json().get("errcode")
        except (ValueError, AttributeError):
            return None

    def __str__(self) -> str:
        return f"{self.status} {self.content[:200]!r}"


class Connection:
    """Requests one after the other; `closed` once the other side has said that it will close."""

    def __init__(self, stream: socket.socket, authority: str) -> None:
        self.stream = stream
        self.closed = False
        self._authority = authority

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.closed = True
        self.stream.close()

    def request(
        self, method: str, target: str, fields: Iterable[tuple[str, str]] = (), content: bytes | None = None
    ) -> Answer:
        """Writes head and content, both whole, and only then reads: as the simplest of clients do."""
        started = time.monotonic()
        self.write_head(method, target, fields, None if content is None else len(content))
        if content:
            self.stream.sendall(content)
        return self.answer(method, started)

    def write_head(self, method: str, target: str, fields: Iterable[tuple[str, str]], length: int | None) -> None:
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._authority}"]
        lines += [f"{name}: {value}" for name, value in fields]
        if length is not None:
            lines.append(f"Content-Length: {length}")
        self.stream.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def answer(self, method: str, started: float) -> Answer:
        """Reads one final answer (interim ones are passed over)."""
        response = http.client.HTTPResponse(self.stream, method=method)
        try:
            response.begin()
            content = response.read()
            self.closed = self.closed or response.will_close
            return Answer(response.status, response.getheaders(), content, time.monotonic() - started)
        except BaseException:
            self.closed = True
            raise
        finally:
            response.close()
