"""The homeserver is killed and started again while clients go on asking: only clean answers, at once, and recovery."""

import contextlib
import dataclasses
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator

from facts.edge import ADMIN_PATHS, VERSIONS, expect_error, expect_matrix_error, expect_well_known
from matrix import User, encoded, eventually
from report import Report, Scene, expect
from wire import Answer, Connection
from world import World


@dataclasses.dataclass(frozen=True)
class Sample:
    """One request of the load: `flaw` says what was wrong with how it ended, None when clean."""

    started: float
    ended: float
    status: int
    flaw: str | None


@dataclasses.dataclass
class Outage:
    """When things happened, on the monotonic clock."""

    killed: float = 0.0
    dead: float = 0.0
    restarted: float = 0.0
    back: float = 0.0


class Load:
    """Threads that ask without pause, and what became of each request."""

    def __init__(self, user: User, room: str) -> None:
        self.samples: list[Sample] = []
        # Text sent to event id answered.
        self.acknowledged: dict[str, str] = {}
        self.user = user
        self._room = room
        self._stop = threading.Event()
        workers = [self._poll_versions, self._send_messages]
        self._threads = [
            threading.Thread(target=worker, args=(number,), daemon=True)
            for number, worker in enumerate(workers * LOAD_THREADS_EACH)
        ]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            deadline = time.monotonic() + HANG_S
            for thread in self._threads:
                thread.join(max(0.0, deadline - time.monotonic()))

    def hanging(self) -> int:
        return sum(thread.is_alive() for thread in self._threads)

    def _poll_versions(self, _number: int) -> None:
        with Caller(self.user, self.samples) as caller:
            while not self._stop.is_set():
                caller.ask("GET", VERSIONS, None, lambda answer: "versions" in answer.json())
                time.sleep(PAUSE_S)

    def _send_messages(self, number: int) -> None:
        """As clients do: a message that was not acknowledged is sent again under its transaction id."""
        with Caller(self.user, self.samples) as caller:
            for count in itertools.count():
                text = f"load {number} {count}"
                target = f"/_matrix/client/v3/rooms/{encoded(self._room)}/send/m.room.message/l{number}.{count}"
                body = json.dumps({"msgtype": "m.text", "body": text}).encode()
                while not (answer := caller.ask("PUT", target, body, lambda answer: "event_id" in answer.json())):
                    if self._stop.is_set():
                        return
                    time.sleep(PAUSE_S)
                self.acknowledged[text] = answer.json()["event_id"]
                if self._stop.is_set():
                    return


class Caller:
    """One kept-alive connection of the load; dialled anew only after the proxy said that it closes it."""

    def __init__(self, user: User, samples: list[Sample]) -> None:
        self._user = user
        self._samples = samples
        self._connection: Connection | None = None

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection:
            self._connection.close()

    def ask(self, method: str, target: str, body: bytes | None, right: Callable[[Answer], bool]) -> Answer | None:
        """One request; its answer when that is a 200."""
        started = time.monotonic()
        try:
            answer = self._connected().request(method, target, [self._user.authorization], body)
            status, flaw = answer.status, flaw_of(answer, right)
        except Exception as error:
            self._connection = None
            answer, status, flaw = None, 0, f"{method}: {type(error).__name__}: {error}"
        self._samples.append(Sample(started, time.monotonic(), status, flaw))
        return answer if status == 200 else None

    def _connected(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = self._user.endpoint.connect(timeout_s=HANG_S)
        return self._connection


def flaw_of(answer: Answer, right: Callable[[Answer], bool]) -> str | None:
    """Clean is: what was asked for, or a 502 that a client can read."""
    if answer.status == 200:
        return None if right(answer) else f"an answer to something else: {answer}"
    try:
        expect_matrix_error(answer, 502, answer.errcode() or "an errcode")
    except Exception as error:
        return str(error)
    return None


def check_restart(world: World, report: Report, scene: Scene) -> None:
    load, outage = None, Outage()
    with report.fact("homeserver_is_killed_and_restarted_under_load"):
        room = scene.loader.create_room(preset="private_chat")
        load = Load(scene.loader, room)
        with load.running():
            disturb(world, report, scene, outage)
        expect(load.acknowledged, "no message got through")
    if load:
        judge(load, outage, report, room)
    with report.fact("federation_works_after_the_restart"):
        event = scene.alice.send(scene.joined, "back again")
        eventually("message", lambda: scene.bob.body_of(scene.joined, event) == "back again", seconds=30)


def disturb(world: World, report: Report, scene: Scene, outage: Outage) -> None:
    """The course of events, while the load runs."""
    synapse = world.a.synapse
    poll = LongPoll(scene.loader.twin())
    time.sleep(LOAD_BEFORE_S)
    outage.killed = time.monotonic()
    synapse.kill()
    outage.dead = time.monotonic()
    check_while_down(world, report, poll, outage)
    # Long enough for a proxy that tries a failed upstream again only now and then to show it.
    time.sleep(max(0.0, outage.dead + DOWN_S - time.monotonic()))
    outage.restarted = time.monotonic()
    synapse.start(world.processes)
    synapse.wait_ready()
    outage.back = time.monotonic()
    time.sleep(LOAD_AFTER_S)


class LongPoll:
    """A sync that waits at the homeserver when that is killed."""

    def __init__(self, user: User) -> None:
        self.answer: Answer | None = None
        self.ended = 0.0
        self._user = user
        self._since = user.sync()["next_batch"]
        self.thread = threading.Thread(target=self._wait, daemon=True)
        self.thread.start()

    def _wait(self) -> None:
        # Filtered, so that the load's messages do not wake it.
        nothing = encoded('{"room":{"rooms":[]},"account_data":{"types":[]}}')
        target = f"/_matrix/client/v3/sync?set_presence=offline&timeout=30000&filter={nothing}&since={self._since}"
        self.answer = self._user.call("GET", target)
        self.ended = time.monotonic()


def check_while_down(world: World, report: Report, poll: LongPoll, outage: Outage) -> None:
    with report.fact("long_poll_at_the_kill_gets_a_clean_502_at_once"):
        poll.thread.join(HANG_S)
        expect(poll.answer, "no answer")
        expect_matrix_error(poll.answer, 502, poll.answer.errcode() or "an errcode")
        late = poll.ended - outage.dead
        expect(late < AT_ONCE_S_MAX, f"{late * 1000:.0f} ms after the homeserver's end")
    with report.fact("well_known_documents_have_one_cors_line_while_the_homeserver_is_down"):
        expect_well_known(world, world.a.client)
    with report.fact("admin_path_is_closed_while_the_homeserver_is_down"):
        with world.a.client.connect() as connection:
            expect_error(connection.request("GET", ADMIN_PATHS["raw"]), 403, "M_FORBIDDEN")


def judge(load: Load, outage: Outage, report: Report, room: str) -> None:
    samples = load.samples
    down = [one for one in samples if one.started >= outage.dead and one.ended <= outage.restarted]
    times = sorted(one.ended - one.started for one in down)
    with report.fact("under_restart_every_answer_is_a_clean_200_or_502"):
        flaws = [one.flaw for one in samples if one.flaw]
        expect(not flaws, f"{len(flaws)} of {len(samples)}: {flaws[0] if flaws else ''}")
        expect(len(down) >= DOWN_SAMPLES_MIN, f"only {len(down)} requests while it was down")
        expect(all(one.status == 502 for one in down), "an answer from a dead homeserver")
    with report.fact("while_down_502_comes_within_100_ms"):
        usual, slowest = times[len(times) * 95 // 100], times[-1]
        report.note(
            f"{len(samples)} requests, {len(down)} while down; 502 after "
            f"{times[len(times) // 2] * 1000:.1f} ms (median), "
            f"{usual * 1000:.1f} ms (95 %), {slowest * 1000:.1f} ms (slowest)"
        )
        # The slowest one measures the machine's scheduler as well; a proxy that waits shows in the 95 %.
        expect(usual <= 0.1, f"95 %: {usual * 1000:.0f} ms")
        expect(slowest <= AT_ONCE_S_MAX, f"slowest: {slowest * 1000:.0f} ms")
    with report.fact("under_restart_no_request_hangs"):
        slowest = max(one.ended - one.started for one in samples)
        expect(load.hanging() == 0 and slowest < HANG_S, f"{load.hanging()} hang, slowest {slowest:.1f} s")
    with report.fact("recovery_as_soon_as_the_homeserver_is_back"):
        recovered = min(one.ended for one in samples if one.status == 200 and one.started >= outage.dead)
        report.note(f"first 200 {(recovered - outage.back) * 1000:+.0f} ms after the homeserver's own")
        expect(recovered - outage.back <= RECOVERY_S_MAX, f"{recovered - outage.back:.1f} s later")
        settled = [one.status for one in samples if one.started > outage.back + RECOVERY_S_MAX]
        expect(settled and all(status == 200 for status in settled), "502 although it is back")
    with report.fact("under_restart_no_message_is_lost_or_doubled"):
        check_messages(load, room)


def check_messages(load: Load, room: str) -> None:
    """Every acknowledged text is stored once, as the event that was acknowledged: no answer was another's."""
    stored: dict[str, list[str]] = {}
    page = ""
    user = load.user.twin()
    while True:
        chunk = user.ok("GET", f"/_matrix/client/v3/rooms/{encoded(room)}/messages?dir=b&limit=500{page}")
        for event in chunk["chunk"]:
            if event["type"] == "m.room.message":
                stored.setdefault(event["content"]["body"], []).append(event["event_id"])
        if "end" not in chunk:
            break
        page = f"&from={encoded(chunk['end'])}"
    wrong = [text for text, event in load.acknowledged.items() if stored.get(text) != [event]]
    expect(not wrong, f"{len(wrong)} of {len(load.acknowledged)}: {wrong[:1]}")


LOAD_THREADS_EACH = 2
LOAD_BEFORE_S = 1.5
LOAD_AFTER_S = 3.0
DOWN_S = 3.0
PAUSE_S = 0.01
HANG_S = 15.0
AT_ONCE_S_MAX = 1.0
RECOVERY_S_MAX = 1.0
DOWN_SAMPLES_MIN = 50
