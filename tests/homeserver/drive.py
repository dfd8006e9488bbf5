"""The run itself: starts the world, checks the facts, cleans up. Started by `run`, in Synapse's environment."""

import os
import pathlib
import re
import shutil
import sys
import tempfile
import time

from facts import client, edge, federation, restart
from processes import Overdue, Processes, end_run_on_signals, limit_run
from proxy import ringfence_binary
from report import Report, Scene, expect
from world import World, start_world


def main() -> int:
    kind = os.environ.get("HOMESERVER_PROXY", "ringfence")
    if kind not in KINDS:
        sys.exit(f"HOMESERVER_PROXY is one of {', '.join(KINDS)}")
    end_run_on_signals()
    binary = ringfence_binary(HERE.parents[1]) if kind == "ringfence" else None
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir()
    report, started = Report(), time.monotonic()
    try:
        limit_run(RUN_S_MAX)
        with tempfile.TemporaryDirectory(prefix="hs") as sockets, Processes(LOGS) as processes:
            with report.fact("two_homeservers_behind_two_proxies_start"):
                world = start_world(LOGS, pathlib.Path(sockets), kind, binary, processes)
            if not report.failed:
                check(world, report)
    except Overdue as overdue:
        with report.fact("the_run_ends_in_time"):
            expect(False, str(overdue))
    report.note(f"{time.monotonic() - started:.0f} s; logs in tests/homeserver/.run")
    if report.failed:
        print_tails()
    print(report.totals(), flush=True)
    return 1 if report.failed else 0


def check(world: World, report: Report) -> None:
    """All facts, in an order in which each finds what it needs."""
    scene = Scene()
    client.check_accounts(world, report, scene)
    slow = client.start_idle_sync(report, scene)
    client.check_rooms(world, report, scene)
    client.check_sync(report, scene)
    edge.check_forwarding_fields(world, report, scene)
    edge.check_targets(world, report, scene)
    edge.check_doors(world, report, scene)
    edge.check_well_known(world, report, scene)
    client.check_media(report, scene)
    edge.check_limits(world, report, scene)
    federation.check_federation(world, report, scene)
    federation.check_signatures(world, report, scene)
    slow.join()
    restart.check_restart(world, report, scene)
    check_end(world, report)


def check_end(world: World, report: Report) -> None:
    """What holds of the whole run, and how it ends."""
    with report.fact("every_request_in_synapse_logs_came_through_a_proxy"):
        for side in (world.a, world.b):
            requests = side.synapse.requests()
            strays = [one for one in requests if not edge.REQUEST_ID.fullmatch(one.request_id)]
            expect(requests and not strays, f"{len(strays)} of {len(requests)}: {strays[:1]}")
    with report.fact("proxies_end_on_sigterm_with_code_0"):
        for side in (world.a, world.b):
            expect(side.proxy.running(), f"{side.proxy.name} has ended before")
            code = side.proxy.terminate(DRAIN_S_MAX)
            expect(code == 0, f"{side.proxy.name} ended with code {code}")
    with report.fact("proxies_never_panicked"):
        for side in (world.a, world.b):
            log = (LOGS / f"{side.proxy.name}.log").read_text(errors="replace")
            expect(not re.search("panick", log), f"{side.proxy.name}: {log[-300:]}")


def print_tails() -> None:
    """The ends of all logs, for readers of a CI run who have nothing else."""
    for log in sorted(LOGS.rglob("*.log")):
        lines = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        print(f"--- {log.relative_to(HERE)}")
        for line in lines:
            print(f"    {line[:300]}")


KINDS = ("ringfence", "nginx", "nginx-good")
HERE = pathlib.Path(__file__).resolve().parent
LOGS = HERE / ".run"

# Some 90 s on two idle cores.
RUN_S_MAX = 480
# Longer than the proxy's own deadline for draining.
DRAIN_S_MAX = 40.0
TAIL_LINES = 20

if __name__ == "__main__":
    sys.exit(main())
