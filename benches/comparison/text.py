"""The table of the terminal: a block for each workload."""

HEADINGS = ["cost", "requests/s", "core", "p50 µs", "p99 µs", "p99.9 µs", "RSS MiB", "ratio (min to max)", "target"]
WIDTHS = [9, 11, 6, 9, 9, 9, 9, 21, 9]
COSTS = {"cpu": "CPU µs / {}", "memory": "bytes / {}", "latency": "p99 µs at equal load"}


def block(workload, outcome, result):
    lines = [f"\n{workload.name}: {COSTS[workload.kind].format(workload.unit)}"
             + (f", {outcome['rate']} requests/s" if workload.kind == "latency" else "")]
    lines.append(" " * 15 + "".join(f"{heading:>{width}}" for heading, width in zip(HEADINGS, WIDTHS)))
    for peer, values in result["peers"].items():
        shown = cells(workload.kind, values, result["ratios"].get(peer))
        lines.append(f"{peer + ('' if values['quiet'] else ' ~'):<15}"
                     + "".join(f"{cell:>{width}}" for cell, width in zip(shown, WIDTHS)).rstrip())
    lines += [f"{peer:<15}failed: {why.splitlines()[0]}" for peer, why in outcome["failed"].items()]
    lines += [f"  {mark(promise['met'])} {promise['text']}" for promise in result["promises"]]
    lines += [f"  note: {remark}" for remark in result["remarks"]]
    return "\n".join(lines)


def cells(kind, values, ratio):
    """What stands below the headings for one proxy."""
    return [number(values["cost"], 1 if kind == "cpu" else 0), number(values["requests_per_second"], 0),
            percent(values["core_busy_share"]), number(values["p50_us"], 0), number(values["p99_us"], 0),
            number(values["p999_us"], 0), number(values["resident_bytes"] / (1 << 20), 1), *ratio_cells(ratio)]


def ratio_cells(ratio):
    if ratio is None:
        return ["", ""]
    target = "" if ratio["target"] is None else f"{ratio['target']:.2f} {mark(ratio['met'])}"
    if "refused" in ratio:
        return ["refused", target]
    return [f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})", target]


def mark(met):
    return {True: "✓", False: "✗", None: "?"}[met]


def number(value, digits):
    return "" if value is None else f"{value:,.{digits}f}".replace(",", " ")


def percent(share):
    return "" if share is None else f"{share:.0%}"
