"""What the edge itself owes the homeserver: who asks and how, the target's bytes, limits, closed doors."""

import re
import time
from urllib.parse import quote

from matrix import encoded, login
from report import Report, Scene, expect
from synapse import CAS_SERVER, LoggedRequest
from wire import Answer, Endpoint
from world import World


def check_forwarding_fields(world: World, report: Report, scene: Scene) -> None:
    with report.fact("x_forwarded_for_is_the_peer_and_spoofs_are_ignored"):
        answer, seen = ask(world, world.a.client, SPOOFS, source=FAR_ADDRESS)
        expect(answer.status == 200, f"{answer}")
        expect(seen.client == FAR_ADDRESS, f"Synapse saw {seen.client}")
    with report.fact("last_seen_ip_of_a_device_is_the_peer"):
        alice = login(world.a.client, "alice")
        with world.a.client.connect(source=FAR_ADDRESS) as connection:
            connection.request("GET", "/_matrix/client/v3/account/whoami", [alice.authorization, *SPOOFS])
            device = f"/_matrix/client/v3/devices/{alice.device_id}"
            shown = connection.request("GET", device, [alice.authorization, *SPOOFS]).json()
        expect(shown["last_seen_ip"] == FAR_ADDRESS, f"{shown}")
    with report.fact("scheme_is_https_behind_tls"):
        expect_redirect(world.a.client, CAS_SERVER, [("X-Forwarded-Proto", "http"), ("Forwarded", "proto=http")])
    with report.fact("scheme_is_http_on_a_plain_listener"):
        # Synapse sends those who came by http to its public address; a believed spoof would send them on to CAS.
        base = f"https://{world.a.client.authority}/_matrix/client/v3/login/sso/redirect"
        expect_redirect(world.a.proxy.ports.plain, base, [("X-Forwarded-Proto", "https")])
    check_request_ids(world, report)


def check_request_ids(world: World, report: Report) -> None:
    with report.fact("request_id_returned_stands_in_synapse_log"):
        answer, seen = ask(world, world.a.client, [])
        expect(REQUEST_ID.fullmatch(answer.value("X-Request-ID")), f"{answer.field_lines}")
        expect(seen.target == VERSIONS, f"{seen}")
    with report.fact("request_id_of_the_client_is_overwritten"):
        spoof = "f" * 32
        answer, _ = ask(world, world.a.client, [("X-Request-ID", spoof), ("x-request-id", spoof)])
        expect(answer.value("X-Request-ID") != spoof, "the client chose it")
    with report.fact("request_id_stands_in_the_proxy_access_log"):
        answer, _ = ask(world, world.a.client, [])
        request_id, deadline = answer.value("X-Request-ID"), time.monotonic() + 5
        while request_id not in world.a.proxy.access_log.read_text():
            expect(time.monotonic() < deadline, f"{request_id} is not in the access log")
            time.sleep(0.05)


def ask(world: World, endpoint: Endpoint, fields: list, source: str | None = None) -> tuple[Answer, LoggedRequest]:
    """A request, and A's own log line about it."""
    with endpoint.connect(source=source) as connection:
        answer = connection.request("GET", VERSIONS, fields)
    return answer, world.a.synapse.logged(answer.value("X-Request-ID"))


def expect_redirect(endpoint: Endpoint, location: str, fields: list) -> None:
    """Starts a single sign-on. Synapse compares scheme, Host and target with its public address: equal goes to CAS."""
    with endpoint.connect() as connection:
        host = endpoint.authority
        target = f"/_matrix/client/v3/login/sso/redirect?redirectUrl={quote(f'https://{host}/', safe='')}"
        answer = connection.request("GET", target, fields)
    expect(answer.status == 302, f"{answer}")
    expect(answer.value("Location").startswith(location), f"redirected to {answer.value('Location')}")


def check_targets(world: World, report: Report, scene: Scene) -> None:
    for name, targets in TARGETS.items():
        with report.fact(f"{name}_request_targets_reach_synapse_byte_for_byte"):
            with world.a.client.connect() as connection:
                for target in targets:
                    answer = connection.request("GET", target)
                    expect(not connection.closed, f"{target} closed the connection: {answer}")
                    seen = world.a.synapse.logged(answer.value("X-Request-ID"))
                    expect(seen.target == target, f"{target} became {seen.target}")


def check_limits(world: World, report: Report, scene: Scene) -> None:
    octets = ("Content-Type", "application/octet-stream")
    with report.fact("upload_over_the_limit_is_413_after_all_is_written"):
        with world.a.client.connect() as connection:
            fields = [scene.alice.authorization, octets]
            answer = connection.request("POST", UPLOAD, fields, bytes(OVER_LIMIT))
        expect_matrix_error(answer, 413, "M_TOO_LARGE")
    with report.fact("upload_over_the_limit_is_413_before_its_content"):
        with world.a.client.connect(timeout_s=5) as connection:
            connection.write_head("POST", UPLOAD, [scene.alice.authorization, octets], OVER_LIMIT)
            expect_matrix_error(connection.answer("POST", time.monotonic()), 413, "M_TOO_LARGE")
    with report.fact("chunked_upload_over_the_limit_is_413"):
        with world.a.client.connect() as connection:
            chunked = ("Transfer-Encoding", "chunked")
            connection.write_head("POST", UPLOAD, [scene.alice.authorization, octets, chunked], None)
            chunk = b"%x\r\n%b\r\n" % (1 << 20, bytes(1 << 20))
            for _ in range(OVER_LIMIT >> 20):
                connection.stream.sendall(chunk)
            connection.stream.sendall(b"0\r\n\r\n")
            expect_matrix_error(connection.answer("POST", time.monotonic()), 413, "M_TOO_LARGE")


def check_doors(world: World, report: Report, scene: Scene) -> None:
    for name, path in ADMIN_PATHS.items():
        with report.fact(f"admin_path_is_closed_{name}"):
            for endpoint in (world.a.client, world.a.federation):
                with endpoint.connect() as connection:
                    expect_error(connection.request("GET", path), 403, "M_FORBIDDEN")
            expect(path not in [one.target for one in world.a.synapse.requests()], "Synapse was asked")
    with report.fact("path_that_nobody_claims_is_404"):
        with world.a.client.connect() as connection:
            expect_error(connection.request("GET", "/wp-login.php"), 404, "M_UNRECOGNIZED")
    with report.fact("cors_fields_of_synapse_pass_once"):
        with world.a.client.connect() as connection:
            preflight = [("Origin", "https://app.example"), ("Access-Control-Request-Method", "PUT")]
            for method in ("GET", "OPTIONS"):
                answer = connection.request(method, VERSIONS, preflight)
                origins = answer.values("Access-Control-Allow-Origin")
                expect(answer.status in (200, 204) and origins == ["*"], f"{method}: {answer.status} {origins}")


def expect_error(answer: Answer, status: int, errcode: str) -> None:
    """An error in Matrix JSON."""
    expect(answer.status == status, f"{answer}")
    expect(answer.errcode() == errcode, f"{answer}")
    expect(answer.value("Content-Type").split(";")[0] == "application/json", f"{answer.field_lines}")


def expect_matrix_error(answer: Answer, status: int, errcode: str) -> None:
    """An error on a Matrix path: with CORS, so that a web client's browser lets it be read."""
    expect_error(answer, status, errcode)
    expect(answer.values("Access-Control-Allow-Origin") == ["*"], f"{answer.field_lines}")


def expect_well_known(world: World, endpoint: Endpoint) -> None:
    """The three documents, whatever the homeserver does."""
    with endpoint.connect() as connection:
        client, server, support = (
            connection.request("GET", f"/.well-known/matrix/{name}") for name in ("client", "server", "support")
        )
    for answer in (client, server, support):
        expect(answer.status == 200, f"{answer}")
        origins = answer.values("Access-Control-Allow-Origin")
        expect(origins == ["*"], f"Access-Control-Allow-Origin: {origins}")
    base = client.json()["m.homeserver"]["base_url"].rstrip("/")
    expect(base == f"https://{world.a.client.authority}", f"base_url {base}")
    expect(server.json()["m.server"] == world.a.federation.authority, f"{server}")
    expect("contacts" in support.json(), f"{support}")


def check_well_known(world: World, report: Report, scene: Scene) -> None:
    with report.fact("well_known_documents_have_one_cors_line"):
        expect_well_known(world, world.a.client)


VERSIONS = "/_matrix/client/versions"
UPLOAD = "/_matrix/media/v3/upload"
OVER_LIMIT = 60 << 20
REQUEST_ID = re.compile("[0-9a-f]{32}")

# An address of this machine that neither homeserver nor proxy uses: what Synapse sees can only be the client's.
FAR_ADDRESS = "127.0.0.77"

SPOOFS = [
    ("X-Forwarded-For", "198.51.100.1"),
    ("x-forwarded-for", "198.51.100.2, 198.51.100.3"),
    ("Forwarded", 'for=198.51.100.4;proto=http;host="evil.example"'),
    ("X-Real-IP", "198.51.100.5"),
    ("X-Forwarded-Host", "evil.example"),
]

ALIAS = encoded("#a/b?c;d%e:hs")
TARGETS = {
    "usual": [
        VERSIONS,
        VERSIONS + "?",
        VERSIONS + "??",
        VERSIONS + "?a=%2F&b=%2f&c=+&d=%20&&=",
        "/_matrix/client/v3/directory/room/" + ALIAS,
        "/_matrix/client/v3/directory/room/" + ALIAS.replace("%2F", "%2f").replace("%3F", "%3f"),
        "/_matrix/client/v3/rooms/!room:hs/state/m.room.name/",
        "/_matrix/client/versions/%2e%2e/%2E",
        "/_matrix/client/versions;v=1;w=%3B",
        "/_matrix/client/%76ersions",
        "/_matrix/client/~!$&'()*+,;=:@-._",
    ],
    "odd": [
        "/_matrix/client/v3/directory/room/%2523double:hs",
        "/_matrix/client/v3/rooms/%21room%3Ahs/state//",
        "/_matrix//client///versions",
        "/_matrix/client/./versions",
        "/_matrix/client/v3/../versions",
        "/_matrix/client/a|b^c[d]{e}",
        "/_matrix/client/%zz/%",
        "/_matrix/client/" + "%2F" * 1000,
    ],
}

ADMIN_PATHS = {
    "raw": "/_synapse/admin/v1/server_version",
    "with_an_encoded_letter": "/_synapse/%61dmin/v1/server_version",
    "with_an_encoded_slash": "/_synapse%2Fadmin/v1/server_version",
    "with_doubled_slashes": "/_synapse//admin/v1/server_version",
    "behind_dot_segments": "/_matrix/../_synapse/admin/v1/server_version",
    "behind_encoded_dot_segments": "/_synapse/client/%2e%2e/admin/v1/server_version",
}
