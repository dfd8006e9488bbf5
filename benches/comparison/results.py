"""What follows from the samples: medians, ratios with their spread, and whether targets are met. Pure."""

import math
import statistics

from . import measure

# What a workload of a kind is judged by.
COST = {"cpu": "cpu_us", "memory": "bytes", "latency": "p99_us"}


def cost(workload, sample):
    return sample["load"]["latency_us"]["p99"] if workload.kind == "latency" else sample[COST[workload.kind]]


def rounds_needed(rounds):
    return max(1, math.ceil(rounds * measure.UNDISTURBED_SHARE_MIN))


def summary(workload, outcome, rounds, earlier):
    """By peer the medians, by peer the ratio, and the promises that concern ringfence alone.

    `earlier` holds the summaries so far by workload, of which `workload.base` is one.
    """
    if workload.kind == "memory":
        rounds = 1
    quiet = {peer: {sample["round"]: sample for sample in samples if not sample["disturbed"]}
             for peer, samples in outcome["samples"].items()}
    result = {
        "peers": {peer: medians(workload, list((quiet[peer] or {0: samples[-1]}).values()), bool(quiet[peer]))
                  for peer, samples in outcome["samples"].items() if samples and peer not in outcome["failed"]},
        "ratios": {}, "promises": [],
        "disturbed": sum(bool(sample["disturbed"]) for samples in outcome["samples"].values() for sample in samples),
    }
    for peer in outcome["samples"]:
        if peer != "ringfence" and "ringfence" in result["peers"] and peer in result["peers"]:
            result["ratios"][peer] = ratio(workload, quiet["ringfence"], quiet[peer], peer, rounds)
    result["remarks"] = remarks(workload, outcome, result)
    if load_is_the_bottleneck(workload, result):
        for entry in result["ratios"].values():
            entry["met"] = None
    result["promises"] = promises(workload, result, earlier.get(workload.base))
    return result


def remarks(workload, outcome, result):
    """What a reader of the figures has to know."""
    found = []
    ours = outcome["negotiated"].get("ringfence")
    found += [f"not ringfence's TLS: {peer}, {theirs}" for peer, theirs in outcome["negotiated"].items() if theirs != ours]
    if load_is_the_bottleneck(workload, result):
        found.append("the load's core is nearly always busy, so these are latencies of its own queue as well and judge no "
                     "target: use more cores, or a smaller --latency-load")
    return found


def load_is_the_bottleneck(workload, result):
    return workload.kind == "latency" and any(
        values["load_core_busy_share"] > measure.LOAD_BUSY_SHARE_MAX for values in result["peers"].values())


def medians(workload, samples, quiet):
    def median(value):
        values = [value(sample) for sample in samples]
        return statistics.median(values) if all(value is not None for value in values) else None

    def latency(name):
        return median(lambda sample: sample.get("load", {}).get("latency_us", {}).get(name))

    return {
        "quiet": quiet,
        "cost": median(lambda sample: cost(workload, sample)),
        "costs": [cost(workload, sample) for sample in samples],
        "resident_bytes": median(lambda sample: sample["resident_bytes"]),
        "requests_per_second": median(lambda sample: sample.get("requests_per_second")),
        "core_busy_share": median(lambda sample: sample.get("core_busy_share")),
        "load_core_busy_share": median(lambda sample: sample.get("load_core_busy_share")),
        "p50_us": latency("p50"), "p99_us": latency("p99"), "p999_us": latency("p999"),
    }


def ratio(workload, ours, theirs, peer, rounds):
    """The peer's cost by ringfence's, round by round; none where too few rounds were quiet for both."""
    both = sorted(ours.keys() & theirs.keys())
    family = "nginx-awslc" if peer == "nginx-awslc" else peer.split("-")[0]
    target = workload.targets.get(family)
    if len(both) < rounds_needed(rounds):
        return {"refused": f"{len(both)} of {rounds} rounds undisturbed", "target": target, "met": None}
    values = [cost(workload, theirs[number]) / cost(workload, ours[number]) for number in both]
    median = statistics.median(values)
    return {"median": median, "min": min(values), "max": max(values), "values": values, "target": target,
            "met": None if target is None else round(median, 2) >= target}


def promises(workload, result, base):
    """What is promised of ringfence besides ratios, each with whether it holds."""
    found = []
    ours = result["peers"].get("ringfence")
    if ours is None:
        return found
    if workload.bytes_max:
        found.append(promise(f"{ours['cost']:.0f} bytes a connection, at most {workload.bytes_max}",
                             ours["cost"] <= workload.bytes_max))
    based = base and base["peers"].get("ringfence")
    if workload.growth_max and based and ours["quiet"] and based["quiet"]:
        growth = ours["cost"] / based["cost"]
        found.append(promise(f"{growth:.2f} times {workload.base}, at most {workload.growth_max}",
                             growth <= workload.growth_max))
    for peer, own in result["ratios"].items():
        before = base and base["ratios"].get(peer, {}).get("median")
        if workload.ratio_loss_max is not None and before and "median" in own:
            loss = before - own["median"]
            found.append(promise(f"ratio to {peer} {own['median']:.2f} instead of {before:.2f} without, "
                                 f"at most {workload.ratio_loss_max} lower", loss <= workload.ratio_loss_max))
    return found


def promise(text, met):
    return {"text": text, "met": met}


def tally(summaries):
    """How many promises hold, of how many that could be judged."""
    judged = [entry["met"] for result in summaries
              for entry in [*result["ratios"].values(), *result["promises"]] if entry["met"] is not None]
    return sum(judged), len(judged)
