"""Matrix as a client and as a server speak it, no more than the facts need."""

import itertools
import json
import threading
import time
from collections.abc import Callable
from urllib.parse import quote

import signedjson.sign

from report import Unmet, expect
from synapse import Synapse
from wire import Answer, Connection, Endpoint


def encoded(text: str) -> str:
    """One path segment: all that is reserved becomes percent-encoded, `/` too."""
    return quote(text, safe="")


class User:
    """A user with a device. Its requests share a kept-alive connection; use it from one thread at a time."""

    def __init__(self, endpoint: Endpoint, user_id: str, token: str, device_id: str) -> None:
        self.endpoint = endpoint
        self.user_id = user_id
        self.device_id = device_id
        self.authorization = ("Authorization", f"Bearer {token}")
        self._connection: Connection | None = None
        self._used = 0.0

    def twin(self) -> "User":
        """The same device over a connection of its own, for another thread."""
        return User(self.endpoint, self.user_id, self.authorization[1].removeprefix("Bearer "), self.device_id)

    def call(self, method: str, target: str, body: dict | None = None) -> Answer:
        """One request with a JSON body, whatever its answer."""
        content = None if body is None else json.dumps(body).encode()
        return self.raw(method, target, content, [("Content-Type", "application/json")] if body is not None else [])

    def raw(self, method: str, target: str, content: bytes | None = None, fields: list = ()) -> Answer:
        connection = self._connected()
        answer = connection.request(method, target, [self.authorization, *fields], content)
        self._used = time.monotonic()
        return answer

    def ok(self, method: str, target: str, body: dict | None = None) -> dict:
        """One request whose answer has to be a 200; its JSON."""
        answer = self.call(method, target, body)
        expect(answer.status == 200, f"{method} {target}: {answer}")
        return answer.json()

    def _connected(self) -> Connection:
        stale = self._connection is None or self._connection.closed or time.monotonic() - self._used > REUSE_S
        if stale:
            if self._connection:
                self._connection.close()
            self._connection = self.endpoint.connect()
        return self._connection

    def create_room(self, **options: object) -> str:
        return self.ok("POST", "/_matrix/client/v3/createRoom", options)["room_id"]

    def join(self, room: str, via: str) -> None:
        self.ok("POST", f"/_matrix/client/v3/join/{encoded(room)}?via={encoded(via)}", {})

    def send(self, room: str, text: str) -> str:
        """Sends a message; its event id."""
        target = f"/_matrix/client/v3/rooms/{encoded(room)}/send/m.room.message/{transaction()}"
        return self.ok("PUT", target, {"msgtype": "m.text", "body": text})["event_id"]

    def sync(self, since: str | None = None, timeout_ms: int = 0) -> dict:
        position = f"&since={encoded(since)}" if since else ""
        return self.ok("GET", f"/_matrix/client/v3/sync?set_presence=offline&timeout={timeout_ms}{position}")

    def body_of(self, room: str, event_id: str) -> str | None:
        """The text of a message once this user's homeserver has it."""
        answer = self.call("GET", f"/_matrix/client/v3/rooms/{encoded(room)}/event/{encoded(event_id)}")
        return answer.json()["content"].get("body") if answer.status == 200 else None

    def upload(self, content: bytes, fields: list = ()) -> Answer:
        octets = ("Content-Type", "application/octet-stream")
        return self.raw("POST", "/_matrix/media/v3/upload?filename=f.bin", content, [octets, *fields])

    def download(self, uri: str) -> Answer:
        """What an `mxc://server/id` holds, through this user's homeserver."""
        server, media = uri.removeprefix("mxc://").split("/")
        return self.raw("GET", f"/_matrix/client/v1/media/download/{encoded(server)}/{encoded(media)}")


def register(endpoint: Endpoint, name: str) -> User:
    body = {"username": name, "password": PASSWORD, "auth": {"type": "m.login.dummy"}}
    return session(endpoint, "/_matrix/client/v3/register", body)


def login(endpoint: Endpoint, name: str) -> User:
    body = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": name},
        "password": PASSWORD,
    }
    return session(endpoint, "/_matrix/client/v3/login", body)


def session(endpoint: Endpoint, target: str, body: dict) -> User:
    with endpoint.connect() as connection:
        answer = connection.request("POST", target, [("Content-Type", "application/json")], json.dumps(body).encode())
    expect(answer.status == 200, f"POST {target}: {answer}")
    said = answer.json()
    return User(endpoint, said["user_id"], said["access_token"], said["device_id"])


def signed(origin: Synapse, destination: Synapse, target: str, signed_target: str | None = None) -> str:
    """The `Authorization` value of a federation GET of `target`. The signature covers the target's bytes, or those of
    `signed_target` to show that it does."""
    request = {
        "method": "GET",
        "uri": signed_target or target,
        "origin": origin.server_name,
        "destination": destination.server_name,
    }
    signedjson.sign.sign_json(request, origin.server_name, origin.signing_key)
    ((key, signature),) = request["signatures"][origin.server_name].items()
    return x_matrix(origin, destination, key, signature)


def x_matrix(origin: Synapse, destination: Synapse, key: str, signature: str) -> str:
    return (
        f'X-Matrix origin="{origin.server_name}",destination="{destination.server_name}",key="{key}",sig="{signature}"'
    )


def eventually(what: str, check: Callable[[], object], seconds: float = 20.0) -> None:
    """Federation takes a moment. What never comes is unmet."""
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            raise Unmet(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.1)


def transaction() -> str:
    """A transaction id of its own."""
    with TRANSACTIONS_LOCK:
        return f"t{next(TRANSACTIONS)}"


TRANSACTIONS = itertools.count()
TRANSACTIONS_LOCK = threading.Lock()

PASSWORD = "correct horse battery staple"

# Well below the 75 s after which proxies close idle connections: a request must not race with that.
REUSE_S = 20.0
