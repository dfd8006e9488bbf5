"""What is measured, and what was promised of it (the table of targets).

A ratio is a peer's cost by ringfence's in the same round: more than 1 means that ringfence needs less. Targets name a
peer; its tuned variant has the same one.
"""

from dataclasses import dataclass, field, replace

SMALL = ["ringfence", "nginx", "haproxy"]
SMALL_TLS = [*SMALL, "nginx-awslc"]
BULK = ["ringfence", "nginx", "nginx-tuned", "haproxy", "haproxy-tuned"]
BULK_TLS = [*BULK, "nginx-awslc"]
VERSIONS = "/_matrix/client/versions"
MEDIA = "/_matrix/client/v1/media/download/mebibyte"
UPLOAD = "/_matrix/media/v3/upload"
SEND = "/_matrix/federation/v1/send/1"
MEBIBYTE = 1 << 20
JSON_BYTES = 200


@dataclass(frozen=True)
class Workload:
    name: str
    peers: list
    # "cpu": CPU time a unit; "memory": resident bytes an idle connection; "latency": the 99th percentile.
    kind: str = "cpu"
    tls: bool = False
    connections: int = 64
    method: str = "GET"
    target: str = VERSIONS
    body_bytes: int = 0
    answer_bytes: int = JSON_BYTES
    # What the origin counts for one: an upload is asked for once more, of the sink.
    origin_requests: int = 1
    # What one request is divided by: 1 MiB downloads are told by the MiB as well as 20 MiB uploads.
    unit: str = "request"
    units: int = 1
    # For `ringfence-load`: "new" or "resumed" TLS sessions, one a request; open-loop arrivals a second.
    handshake: str = "keep"
    rate: int = 0
    unix_upstream: bool = False
    access_log: bool = False
    # The same workload without what this one adds: with access log, or with more connections.
    base: str = ""
    # Smallest ratio to each peer; how much lower than `base` a ratio may be; how much dearer than `base` ringfence may be.
    targets: dict = field(default_factory=dict)
    ratio_loss_max: float | None = None
    growth_max: float | None = None
    # Bytes an idle connection may take.
    bytes_max: int | None = None

    @property
    def scheme(self):
        return "https" if self.tls else "http"


CPU = [
    Workload("plain GET 200 B, 64 connections", [*SMALL, "caddy"], targets={"nginx": 1.2, "haproxy": 1.25}),
    Workload("plain GET 200 B, 1024 connections", SMALL, connections=1024, targets={"nginx": 1.6, "haproxy": 1.6}),
    Workload("TLS 1.3 GET 200 B, 64 connections", [*SMALL_TLS, "caddy"], tls=True,
             targets={"nginx": 1.25, "haproxy": 1.3}),
    Workload("TLS 1.3 PUT 2 KB, 64 connections", SMALL_TLS, tls=True, method="PUT", target=SEND, body_bytes=2048,
             answer_bytes=2, origin_requests=2, targets={"nginx": 1.25, "haproxy": 1.3}),
    Workload("full TLS 1.3 handshake a request", [*SMALL_TLS, "caddy"], tls=True, connections=32, handshake="new",
             targets={"nginx": 2.2, "haproxy": 2.4, "nginx-awslc": 1.1}),
    Workload("resumed TLS 1.3 handshake a request", SMALL_TLS, tls=True, connections=32, handshake="resumed",
             targets={"nginx": 1.8, "haproxy": 1.8, "nginx-awslc": 1.1}),
    Workload("1 MiB download, plain", BULK, connections=16, target=MEDIA, answer_bytes=MEBIBYTE, unit="MiB",
             targets={"nginx": 1.05, "haproxy": 1.1}),
    Workload("1 MiB download, TLS 1.3", BULK_TLS, tls=True, connections=16, target=MEDIA, answer_bytes=MEBIBYTE,
             unit="MiB", targets={"nginx": 1.6, "haproxy": 1.65, "nginx-awslc": 1.15}),
    Workload("20 MiB upload, plain", BULK, connections=4, method="PUT", target=UPLOAD, body_bytes=20 * MEBIBYTE,
             answer_bytes=2, origin_requests=2, unit="MiB", units=20, targets={"nginx": 1.5, "haproxy": 1.8}),
    Workload("20 MiB upload, TLS 1.3", BULK_TLS, tls=True, connections=4, method="PUT", target=UPLOAD,
             body_bytes=20 * MEBIBYTE, answer_bytes=2, origin_requests=2, unit="MiB", units=20,
             targets={"nginx": 1.15, "haproxy": 1.3, "nginx-awslc": 1.05}),
    Workload("4 000 requests/s over 100 TLS connections", SMALL, tls=True, connections=100, rate=4000),
    Workload("4 000 requests/s over 10 000 TLS connections", SMALL, tls=True, connections=10_000, rate=4000,
             base="4 000 requests/s over 100 TLS connections", growth_max=1.25, targets={"nginx": 1.2, "haproxy": 1.7}),
    Workload("Unix-socket upstream, plain GET 200 B, 64 connections", SMALL, unix_upstream=True,
             targets={"nginx": 1.25, "haproxy": 1.3}),
]
MEMORY = [
    Workload("idle TLS 1.3 connection, 5 000 of them", [*SMALL_TLS, "caddy"], kind="memory", tls=True,
             connections=5_000, unit="connection"),
    Workload("idle TLS 1.3 connection, 10 000 of them", [*SMALL_TLS, "caddy"], kind="memory", tls=True,
             connections=10_000, unit="connection", bytes_max=5_500, base="idle TLS 1.3 connection, 5 000 of them",
             growth_max=1.1),
]
LATENCY = [
    Workload("p99 at equal load, plain GET, 64 connections", SMALL, kind="latency",
             targets={"nginx": 1.0, "haproxy": 1.0}),
    Workload("p99 at equal load, TLS 1.3 GET, 64 connections", SMALL, kind="latency", tls=True,
             targets={"nginx": 1.0, "haproxy": 1.0}),
]
# What ringfence costs with neither metrics nor access log, by what it costs with both: these cost 5 % at most.
WATCHED_SHARE_MIN = 0.95
# Of nginx's saturation, what "equal load" is unless told otherwise.
LOAD_OF_SATURATION = 0.7


def with_access_log(workload):
    """The same with access logs; the ratios of both are compared."""
    peers = [peer for peer in workload.peers if peer in SMALL_TLS or peer.endswith("-tuned")]
    return replace(workload, name=f"{workload.name}, access log", peers=peers, access_log=True, base=workload.name,
                   targets={}, ratio_loss_max=0.05, growth_max=None)


def watched(workload):
    """The same with metrics and access log, against ringfence itself with neither."""
    return replace(workload, name=f"{workload.name}, metrics and access log", peers=["ringfence", "ringfence-off"],
                   access_log=True, targets={"ringfence": WATCHED_SHARE_MIN})


def all_workloads(log_everywhere):
    logged = CPU if log_everywhere else CPU[:3]
    return (MEMORY + CPU + [with_access_log(workload) for workload in logged] + [watched(workload) for workload in CPU[:3]]
            + LATENCY)


# What CI runs: that everything works, and figures for nobody.
QUICK = ["plain GET 200 B, 64", "TLS 1.3 GET 200 B, 64", "full TLS", "1 MiB download, plain", "20 MiB upload, TLS"]
