"""What a Matrix client does all day, through the proxy of its homeserver."""

import hashlib
import random
import threading
import time

from matrix import User, encoded, login, register
from report import Report, Scene, expect
from wire import Answer
from world import World


def check_accounts(world: World, report: Report, scene: Scene) -> None:
    a, b = world.a.client, world.b.client
    with report.fact("register_through_the_proxy"):
        register(a, "alice")
        scene.bob = register(b, "bob")
        scene.idler = register(b, "idler")
        scene.loader = register(a, "loader")
        # User ids may hold a slash: it becomes %2F in the paths that homeservers sign for each other.
        scene.slash = register(b, "b/ob+2")
    with report.fact("login_through_the_proxy"):
        scene.alice = login(a, "alice")
        who = scene.alice.ok("GET", "/_matrix/client/v3/account/whoami")
        expect(who["user_id"] == scene.alice.user_id, f"{who}")
    with report.fact("login_with_a_user_id_that_holds_a_slash"):
        slash = login(b, "b/ob+2")
        profile = slash.ok("GET", f"/_matrix/client/v3/profile/{encoded(slash.user_id)}")
        expect(profile.get("displayname") == "b/ob+2", f"{profile}")


def check_rooms(world: World, report: Report, scene: Scene) -> None:
    with report.fact("create_room_with_reserved_characters_in_its_alias"):
        scene.room = scene.alice.create_room(preset="public_chat", room_alias_name=ALIAS_LOCALPART)
        scene.alias = f"#{ALIAS_LOCALPART}:{world.a.synapse.server_name}"
    with report.fact("alias_resolves_by_its_encoded_path"):
        target = f"/_matrix/client/v3/directory/room/{encoded(scene.alias)}"
        for code in ("%2F", "%3F", "%3B", "%25"):
            expect(code in target, f"the run itself asks for {target}")
        expect(scene.alice.ok("GET", target)["room_id"] == scene.room, "another room")
    with report.fact("message_sent_is_the_message_stored"):
        text = 'ünï 😀 \\u0000 "quoted" </script>'
        event = scene.alice.send(scene.room, text)
        expect(scene.alice.body_of(scene.room, event) == text, "another text")
    with report.fact("state_with_an_empty_state_key_keeps_its_trailing_slash"):
        target = f"/_matrix/client/v3/rooms/{encoded(scene.room)}/state/m.room.topic/"
        answer = scene.alice.call("PUT", target, {"topic": "empty key"})
        expect(answer.status == 200, f"{answer}")
        seen = world.a.synapse.logged(answer.value("X-Request-ID"))
        expect(seen.target == target, f"Synapse saw {seen.target}")
        expect(scene.alice.ok("GET", target)["topic"] == "empty key", "another topic")


def check_sync(report: Report, scene: Scene) -> None:
    with report.fact("sync_wakes_early_by_a_message"):
        since = scene.alice.sync()["next_batch"]
        sender, sent = scene.alice.twin(), []
        timer = threading.Timer(WAKE_AFTER_S, lambda: sent.append((sender.send(scene.room, "wake"), time.monotonic())))
        started = time.monotonic()
        timer.start()
        update = scene.alice.sync(since, LONG_POLL_MS)
        ended = time.monotonic()
        timer.join()
        expect(sent, "the message was not sent")
        event, sent_at = sent[0]
        timeline = update["rooms"]["join"][scene.room]["timeline"]["events"]
        expect(event in [one["event_id"] for one in timeline], "woke without the message")
        expect(ended - started >= WAKE_AFTER_S, "answered before the message")
        expect(ended - sent_at < WAKE_S_MAX, f"{ended - sent_at:.1f} s after the message")


def start_idle_sync(report: Report, scene: Scene) -> threading.Thread:
    """The one slow fact, in a thread beside the others: join it before the homeserver is disturbed."""
    thread = threading.Thread(target=check_idle_sync, args=(report, scene), daemon=True)
    thread.start()
    return thread


def check_idle_sync(report: Report, scene: Scene) -> None:
    with report.fact("sync_returns_empty_at_its_30_s_timeout"):
        since = scene.idler.sync()["next_batch"]
        started = time.monotonic()
        update = scene.idler.sync(since, LONG_POLL_MS)
        seconds = time.monotonic() - started
        expect(29.5 <= seconds <= 36, f"after {seconds:.1f} s")
        expect("rooms" not in update, f"not empty: {update}")


def check_media(report: Report, scene: Scene) -> None:
    for name, length in MEDIA_LENGTHS.items():
        with report.fact(f"media_of_{name}_up_and_down_with_equal_hashes"):
            content = random.Random(length).randbytes(length)
            uri = uploaded(scene.alice.upload(content))
            expect_same(scene.alice.download(uri), content)
            scene.media = {**vars(scene).get("media", {}), name: (uri, content)}
    with report.fact("upload_that_expects_100_continue_is_continued"):
        check_expect_continue(scene.alice)


def check_expect_continue(user: User) -> None:
    """The content is withheld until the interim answer is here, longer than any client would."""
    content = random.Random(100).randbytes(4096)
    with user.endpoint.connect(timeout_s=10) as connection:
        fields = [user.authorization, ("Content-Type", "application/octet-stream"), ("Expect", "100-continue")]
        connection.write_head("POST", "/_matrix/media/v3/upload", fields, len(content))
        interim = connection.stream.recv(4096)
        expect(interim.startswith(b"HTTP/1.1 100 ") and interim.endswith(b"\r\n\r\n"), f"{interim!r}")
        connection.stream.sendall(content)
        uri = uploaded(connection.answer("POST", time.monotonic()))
    expect_same(user.download(uri), content)


def uploaded(answer: Answer) -> str:
    expect(answer.status == 200, f"upload: {answer}")
    return answer.json()["content_uri"]


def expect_same(answer: Answer, content: bytes) -> None:
    expect(answer.status == 200, f"download: {answer}")
    expect(len(answer.content) == len(content), f"{len(answer.content)} bytes of {len(content)}")
    expect(hashlib.sha256(answer.content).digest() == hashlib.sha256(content).digest(), "another hash")


ALIAS_LOCALPART = "a/b?c;d%e&f=g+h~i"

LONG_POLL_MS = 30_000
WAKE_AFTER_S = 1.0
WAKE_S_MAX = 5.0

# 45 MiB is just under the limit of 50 MiB that homeserver and proxy share.
MEDIA_LENGTHS = {"1_byte": 1, "1_MiB": 1 << 20, "45_MiB": 45 << 20}
