"""System calls per request, counted by strace in a short run of their own: strace slows everything, so no times."""

import re
import shutil
import signal
import subprocess
import time

from . import loads, measure, servers, workloads

SECONDS = 1
# The rest are timers and housekeeping.
SHOWN_MIN = 0.01


def count(peers, setting, origin):
    """By peer: calls per request by name, and together. None where strace may not attach."""
    workload = workloads.CPU[0]
    result = {}
    with servers.started(peers, workload, setting, origin, {}) as started:
        for peer, server in started.items():
            calls = traced(workload, server, setting, origin)
            if calls is None:
                return None
            result[peer] = calls
    return result


def traced(workload, server, setting, origin):
    if not shutil.which("strace"):
        return None
    load = loads.Wrk(workload, server, setting)
    try:
        time.sleep(measure.WARM_UP_SECONDS)
        pids = [argument for pid in server.pids for argument in ("-p", str(pid))]
        tracer = subprocess.Popen(servers.on_core(setting.cores.load, ["strace", "-f", "-c", "-U", "calls,name", *pids]),
                                  stderr=subprocess.PIPE, text=True)
        for _ in server.pids:
            # "strace: Process 1 attached", or why it may not.
            if "attached" not in tracer.stderr.readline():
                tracer.kill()
                return None
        before = origin.requests()
        time.sleep(SECONDS)
        requests = origin.requests() - before
        tracer.send_signal(signal.SIGINT)
        table = tracer.communicate(timeout=10)[1]
        load.finish()
    finally:
        load.kill()
    counts = {name: int(calls) for calls, name in re.findall(r"^\s*(\d+) (\w+)$", table, re.MULTILINE)}
    total = counts.pop("total", 0)
    if not total or not requests:
        return None
    share = {name: calls / requests for name, calls in counts.items()}
    return {"all": total / requests, "requests": requests,
            **{name: value for name, value in sorted(share.items(), key=lambda item: -item[1]) if value >= SHOWN_MIN}}
