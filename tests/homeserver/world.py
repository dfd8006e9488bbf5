"""Two homeservers, each behind its own proxy. A is reached over TCP, B over a Unix socket, by their proxies."""

import dataclasses
import pathlib

from certificates import Authority
from processes import Processes, free_port
from proxy import Ports, Proxy
from synapse import Synapse
from wire import Endpoint


@dataclasses.dataclass(frozen=True)
class Side:
    """A homeserver and its proxy."""

    synapse: Synapse
    proxy: Proxy

    @property
    def client(self) -> Endpoint:
        return self.proxy.ports.client

    @property
    def federation(self) -> Endpoint:
        return self.proxy.ports.federation


@dataclasses.dataclass(frozen=True)
class World:
    """Everything that a fact may talk to. `processes` is for those that restart a homeserver."""

    a: Side
    b: Side
    processes: Processes


def start_world(folder: pathlib.Path, sockets: pathlib.Path, kind: str, binary, processes: Processes) -> World:
    """Starts everything; returns when all of it answers. `sockets` is a folder with a short name: the path of a Unix
    socket has 107 bytes at most."""
    authority = Authority(folder)
    a = side("a", "127.0.0.1", None, folder, authority.root)
    b = side("b", "127.0.0.2", sockets / "b.sock", folder, authority.root)
    for one in (a, b):
        one.synapse.start(processes)
    for one in (a, b):
        chain = authority.issue(one.client.host)
        one.proxy.start(kind, binary, one.synapse, chain, processes)
    for one in (a, b):
        one.synapse.wait_ready()
    return World(a, b, processes)


def side(name: str, host: str, socket_path: pathlib.Path | None, folder: pathlib.Path, root: pathlib.Path) -> Side:
    secure = [Endpoint(host, free_port(host), root) for _ in range(2)]
    ports = Ports(secure[0], secure[1], plain=Endpoint(host, free_port(host), None))
    synapse = Synapse(folder / f"synapse-{name}", socket_path, ports.client, ports.federation)
    return Side(synapse, Proxy(f"proxy-{name}", folder / f"proxy-{name}", ports))
