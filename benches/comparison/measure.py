"""One workload: rounds over all its peers in turn, each a window of CPU time and of requests that the origin counted.

The window opens when the load is steady and closes before it ends, so that making connections, TLS handshakes that are
not the workload, and the generator's own start are outside. A window in which somebody else ran is told as disturbed and
repeated.
"""

import dataclasses
import os
import statistics
import sys
import time
from dataclasses import dataclass

from . import loads, machine, servers

# What others may take of the proxy's core during a window. 3 % of 14 µs are 0.4 µs of evicted caches at worst.
OTHERS_SHARE_MAX = 0.03
# What the hypervisor may take: its neighbours evict caches too.
STEAL_SHARE_MAX = 0.01
# What others may take of the load's core where latency is told: it shows there.
LOAD_OTHERS_SHARE_MAX = 0.05
# What a core needs to go idle and to wake, which is nobody's time: 4 to 5 µs a sleep of the proxy, whichever proxy, on a
# virtual machine, where the hypervisor takes part in it. It is not counted as others' time.
SLEEP_NS = 5_000
# Latencies of a load whose core is busier than this are those of its own queue as well: no target is judged by them.
LOAD_BUSY_SHARE_MAX = 0.9
# A disturbed window is repeated so often; then the machine is not quiet enough.
REPEATS_MAX = 3
# Of the rounds wanted, how many have to be undisturbed for a ratio.
UNDISTURBED_SHARE_MIN = 0.8
# From the start of a closed-loop load to the window: connections are made, buffers have grown.
WARM_UP_SECONDS = 0.7
# How long an open-loop load may take to reach its rate.
STEADY_SECONDS_MAX = 60
# Connections that a server has already had when its memory is first read: tables and pools are there.
FIRST_CONNECTIONS = 100
# Until servers have freed what handshakes needed, and have taken what they need later.
SETTLE_SECONDS = 15


@dataclass(frozen=True)
class Reading:
    """Everything that a window is the difference of."""

    at: int
    requests: int
    proxy: int
    kernel: int
    queued: int
    sleeps: int
    proxy_core: machine.CoreTime
    load_core: machine.CoreTime
    load: int

    @staticmethod
    def take(server, load, origin, setting, threads):
        return Reading(
            requests=origin.requests(),
            at=time.monotonic_ns(),
            proxy=machine.cpu_ns(server.pids),
            proxy_core=machine.CoreTime.read(setting.cores.proxy),
            kernel=machine.kernel_ns(threads),
            queued=machine.queued_ns(server.pids),
            sleeps=machine.sleeps(server.pids),
            load_core=machine.CoreTime.read(setting.cores.load),
            load=machine.cpu_ns([load.process.pid, *origin.server.pids, os.getpid()]))


def window(workload, server, origin, setting, seconds):
    """Loads a server and tells what it cost, as a sample."""
    load = loads.start(workload, server, setting, seconds)
    threads = machine.kernel_threads(setting.cores.proxy)
    try:
        wait_until_steady(workload, load, origin)
        before = Reading.take(server, load, origin, setting, threads)
        time.sleep(seconds)
        load.fail_if_ended()
        after = Reading.take(server, load, origin, setting, threads)
        resident = machine.resident_bytes(server.pids)
        seen = load.finish()
    finally:
        load.kill()
    if machine.family(server.process.pid) != server.pids:
        raise RuntimeError(f"{server.name} has lost a process:\n{server.log()}")
    return sample(workload, before, after) | {"resident_bytes": resident, "load": seen}


def wait_until_steady(workload, load, origin):
    time.sleep(WARM_UP_SECONDS)
    deadline = time.monotonic() + STEADY_SECONDS_MAX
    while workload.rate:
        before, at = origin.requests(), time.monotonic()
        time.sleep(0.5)
        if (origin.requests() - before) / (time.monotonic() - at) >= 0.9 * workload.rate:
            return
        load.fail_if_ended()
        if time.monotonic() > deadline:
            raise RuntimeError(f"{workload.name}: the load does not reach its rate")


def sample(workload, before, after):
    wall = after.at - before.at
    requests = (after.requests - before.requests) / workload.origin_requests
    if requests <= 0:
        raise RuntimeError(f"{workload.name}: no request reached the origin")
    busy = wall - (after.proxy_core.idle - before.proxy_core.idle) - (after.proxy_core.steal - before.proxy_core.steal)
    load_busy = wall - (after.load_core.idle - before.load_core.idle) - (after.load_core.steal - before.load_core.steal)
    own = after.proxy - before.proxy + after.kernel - before.kernel
    if machine.interrupts_are_apart():
        # The proxy is alone there: the core's interrupts are its network's.
        own += after.proxy_core.interrupts - before.proxy_core.interrupts
    sleeps = after.sleeps - before.sleeps
    units = requests * workload.units
    result = {
        "cpu_us": own / units / 1000,
        "core_us": busy / units / 1000,
        "kernel_thread_us": (after.kernel - before.kernel) / units / 1000,
        "requests_per_second": requests / wall * 1e9,
        "seconds": wall / 1e9,
        "core_busy_share": busy / wall,
        "load_core_busy_share": load_busy / wall,
        "others_share": max(0, busy - own - sleeps * SLEEP_NS) / wall,
        "load_others_share": max(0, load_busy - (after.load - before.load)) / wall,
        "steal_share": (after.proxy_core.steal - before.proxy_core.steal) / wall,
        "sleeps_per_second": sleeps / wall * 1e9,
        "queued_share": (after.queued - before.queued) / wall,
    }
    return result | {"disturbed": disturbance(workload, result)}


def disturbance(workload, result):
    """What was not quiet, in words; empty where nothing was."""
    found = []
    if result["others_share"] > OTHERS_SHARE_MAX:
        found.append(f"others took {result['others_share']:.1%} of the proxy's core")
    if result["steal_share"] > STEAL_SHARE_MAX:
        found.append(f"the hypervisor took {result['steal_share']:.1%}")
    if workload.kind == "latency" and result["load_others_share"] > LOAD_OTHERS_SHARE_MAX:
        found.append(f"others took {result['load_others_share']:.1%} of the load's core")
    return ", ".join(found)


def idle_memory(workload, server, setting):
    """Resident memory that each of so many idle connections adds, as a sample."""
    first = rest = None
    try:
        first = loads.Idle(workload, server, setting, FIRST_CONNECTIONS)
        time.sleep(1)
        before = machine.resident_bytes(server.pids)
        rest = loads.Idle(workload, server, setting, workload.connections)
        time.sleep(SETTLE_SECONDS)
        rest.fail_if_ended()
        after = machine.resident_bytes(server.pids)
    finally:
        for load in (first, rest):
            if load:
                load.kill()
    return {"bytes": (after - before) / workload.connections, "resident_bytes": after, "disturbed": ""}


def saturation(workload, setting, origin, seconds):
    """Requests per second of nginx in a closed loop with the generator that then makes the equal load."""
    failed = {}
    with servers.started(["nginx"], workload, setting, origin, failed) as started:
        if failed:
            raise RuntimeError(failed["nginx"])
        rates = [window(workload, started["nginx"], origin, setting, seconds)["requests_per_second"] for _ in range(3)]
    return statistics.median(rates)


def run(workload, peers, setting, origin, rounds, seconds, latency_load):
    """All samples of a workload, by peer, with what TLS was negotiated and who failed."""
    # Memory is read once: the same load in a fresh process takes the same.
    rounds = 1 if workload.kind == "memory" else rounds
    outcome = {"rate": workload.rate, "negotiated": {}, "failed": {}, "samples": {peer: [] for peer in peers}}
    if workload.kind == "latency":
        try:
            rate = saturation(workload, setting, origin, seconds) * latency_load
        except servers.FAULTS as error:
            return outcome | {"failed": {peer: f"no equal load: {error}" for peer in peers}}
        workload = dataclasses.replace(workload, rate=round(rate))
        outcome["rate"] = workload.rate
    with servers.started(peers, workload, setting, origin, outcome["failed"]) as started:
        for peer, why in outcome["failed"].items():
            print(f"  failed, {peer}: {why}", file=sys.stderr)
        if workload.tls:
            outcome["negotiated"] = {peer: servers.negotiated(server, setting) for peer, server in started.items()}
        for number in range(rounds):
            # Another one is first in each round: who follows whom must not matter.
            turn = number % len(peers)
            for peer in peers[turn:] + peers[:turn]:
                if peer not in outcome["failed"]:
                    outcome["samples"][peer] += attempt(workload, started[peer], setting, origin, seconds, number,
                                                        outcome["failed"])
    return outcome


def attempt(workload, server, setting, origin, seconds, number, failed):
    """Samples of one round: the last is undisturbed, or all of them are disturbed."""
    samples = []
    try:
        while not samples or (samples[-1]["disturbed"] and len(samples) <= REPEATS_MAX):
            if workload.kind == "memory":
                result = idle_memory(workload, server, setting)
            else:
                result = window(workload, server, origin, setting, seconds)
            samples.append({"round": number} | result)
            if result["disturbed"]:
                print(f"  disturbed, round {number + 1}, {server.name}: {result['disturbed']}", file=sys.stderr)
    except servers.FAULTS as error:
        failed[server.name] = str(error)
        print(f"  failed, {server.name}: {error}", file=sys.stderr)
    return samples
