"""What two homeservers say to each other through their proxies. Each request's signature covers its target's bytes."""

from facts.client import expect_same
from matrix import encoded, eventually, signed, x_matrix
from report import Report, Scene, expect
from wire import Answer
from world import Side, World


def check_federation(world: World, report: Report, scene: Scene) -> None:
    with report.fact("alias_resolves_over_federation"):
        found = scene.bob.ok("GET", f"/_matrix/client/v3/directory/room/{encoded(scene.alias)}")
        expect(found["room_id"] == scene.room, "another room")
    check_meeting(world, report, scene)
    with report.fact("user_id_with_a_slash_joins_over_federation"):
        scene.slash.join(scene.room, world.a.synapse.server_name)
        paths = [one.target for one in world.a.synapse.requests() if "/make_join/" in one.target]
        expect(any("%2Fob" in path for path in paths), f"A saw {paths}")
    for name, (uri, content) in vars(scene).get("media", {}).items():
        with report.fact(f"remote_media_of_{name}_has_an_equal_hash"):
            expect_same(scene.bob.download(uri), content)


def check_meeting(world: World, report: Report, scene: Scene) -> None:
    """Invite, join, and a message each way."""
    with report.fact("invite_arrives_on_the_other_server"):
        meeting = scene.alice.create_room(preset="private_chat", invite=[scene.bob.user_id])
        eventually("invite", lambda: meeting in scene.bob.sync().get("rooms", {}).get("invite", {}))
        scene.meeting = meeting
    with report.fact("invited_user_joins_from_the_other_server"):
        scene.bob.join(scene.meeting, world.a.synapse.server_name)
        scene.joined = scene.meeting
    with report.fact("message_from_a_arrives_on_b"):
        event = scene.alice.send(scene.joined, "from a")
        eventually("message", lambda: scene.bob.body_of(scene.joined, event) == "from a")
    with report.fact("message_from_b_arrives_on_a"):
        event = scene.bob.send(scene.joined, "from b")
        eventually("message", lambda: scene.alice.body_of(scene.joined, event) == "from b")


def check_signatures(world: World, report: Report, scene: Scene) -> None:
    """Requests that B signs and this run sends, so that their bytes are ours."""
    a, b = world.a, world.b
    for name, recode in {"upper_case": str.upper, "lower_case": str.lower}.items():
        with report.fact(f"signed_path_with_{name}_percent_encoding_is_accepted"):
            target = make_join(scene.room, f"@c/d:{b.synapse.server_name}", recode)
            answer = federation_get(a, target, [signed(b.synapse, a.synapse, target)])
            expect(answer.status == 200, f"{target}: {answer}")
    with report.fact("signature_over_other_bytes_is_refused_by_synapse"):
        target = make_join(scene.room, f"@c/d:{b.synapse.server_name}", str.lower)
        upper = make_join(scene.room, f"@c/d:{b.synapse.server_name}", str.upper)
        answer = federation_get(a, target, [signed(b.synapse, a.synapse, target, signed_target=upper)])
        expect(answer.status == 401, f"{answer}")
    # Synapse needs one line that it can verify: so each has to arrive, wherever it stands.
    unknown = x_matrix(b.synapse, a.synapse, "ed25519:unknown", "c2lnbmF0dXJl")
    for name, order in {"first": 1, "second": -1}.items():
        with report.fact(f"duplicate_authorization_arrives_with_the_valid_one_{name}"):
            target = make_join(scene.room, f"@e:{b.synapse.server_name}", str.upper)
            answer = federation_get(a, target, [signed(b.synapse, a.synapse, target), unknown][::order])
            expect(answer.status == 200, f"{answer}")


def make_join(room: str, user: str, recode) -> str:
    """The target of a federation request with two encoded segments, their hex digits as `recode` has them."""

    def segment(text: str) -> str:
        return "".join(recode(part) if part.startswith("%") else part for part in pieces(encoded(text)))

    return f"/_matrix/federation/v1/make_join/{segment(room)}/{segment(user)}?{VERSIONS}"


def pieces(text: str) -> list[str]:
    """Splits into percent-encoded octets and single characters."""
    found, at = [], 0
    while at < len(text):
        width = 3 if text[at] == "%" else 1
        found.append(text[at : at + width])
        at += width
    return found


def federation_get(side: Side, target: str, authorizations: list[str]) -> Answer:
    with side.federation.connect() as connection:
        return connection.request("GET", target, [("Authorization", value) for value in authorizations])


# Every room version that a Synapse of today may create rooms with.
VERSIONS = "&".join(f"ver={version}" for version in range(1, 13))
