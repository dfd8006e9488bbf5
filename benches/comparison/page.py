"""The HTML report: one file, charts as inline SVG, readable by day and by night."""

import html

from . import text

WIDTH, LEFT, RIGHT, ROW = 860, 130, 150, 26
COLOURS = {"ringfence": "var(--ours)", "ringfence-off": "var(--soft)", "nginx": "var(--nginx)", "nginx-tuned": "var(--nginx)",
           "nginx-awslc": "var(--nginx)", "haproxy": "var(--haproxy)", "haproxy-tuned": "var(--haproxy)",
           "caddy": "var(--caddy)"}
STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5c6670; --line: #d5dade; --paper: #ffffff; --card: #f6f7f9;
  --ours: #0b7a63; --nginx: #5b7fa6; --haproxy: #b0813a; --caddy: #8d6fa8; --good: #0b7a63; --bad: #b3372f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #9aa5b0; --line: #3a434c; --paper: #14181c;
  --card: #1c2228; --ours: #35c2a0; --nginx: #7aa3d0; --haproxy: #d6a75c; --caddy: #b597d1; --good: #35c2a0; --bad: #f0796f; } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 940px; padding: 28px 20px 60px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 26px; margin: 0 0 4px } h2 { font-size: 17px; margin: 0 0 2px } p { margin: 4px 0 }
.soft { color: var(--soft); font-size: 13px } .card { background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; padding: 16px 18px; margin: 18px 0; overflow-x: auto }
svg { display: block; width: 100%; min-width: 620px; height: auto } svg text { font: 13px system-ui, sans-serif; fill: var(--ink) }
svg .soft { fill: var(--soft); font-size: 12px }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: 3px 8px; border-bottom: 1px solid var(--line); white-space: nowrap }
th:first-child, td:first-child { text-align: left } th { color: var(--soft); font-weight: 500 }
.good { color: var(--good) } .bad { color: var(--bad) } svg text.good { fill: var(--good) } svg text.bad { fill: var(--bad) }
details { margin: 8px 0 } summary { cursor: pointer; color: var(--soft) }
pre { overflow-x: auto; font-size: 12px; background: var(--card); border: 1px solid var(--line); padding: 10px; border-radius: 6px }
"""


def render(report):
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>",
        f"<title>ringfence beside its peers</title><style>{STYLE}</style>",
        "<h1>ringfence beside its peers</h1>", preface(report), overview(report),
        *(card(entry) for entry in report["workloads"]), system_calls(report["system_calls"]), configurations(report)]
    return "\n".join(parts) + "</html>\n"


def preface(report):
    facts = report["machine"]
    where = f"{facts['processor']}, {facts['cores']} cores{', virtual' if facts['virtual'] else ''}, Linux {facts['kernel']}"
    given = ", a binary that was given" if report["binary_given"] else ""
    peers = "; ".join(version if peer in version.lower() else f"{peer} {version}" for peer, version in report["versions"].items())
    notes = "".join(f"<p class='soft'>Note: {html.escape(note)}.</p>" for note in report["notes"])
    return (f"<p>{html.escape(where)}. Commit {html.escape(report['commit'])}{given}. {report['rounds']} interleaved rounds of "
            f"{report['seconds']:g} s, {report['started']}.</p><p class='soft'>{html.escape(peers)}.</p>{notes}"
            "<p class='soft'>The proxy is alone on a core; cost is its CPU time by what it did. A ratio is a peer's cost by "
            "ringfence's in the same round: more than 1 means that ringfence needs less.</p>")


def overview(report):
    """All ratios in one chart, with the targets as marks."""
    rows = [(entry["workload"]["name"], peer, ratio) for entry in report["workloads"]
            for peer, ratio in entry["result"]["ratios"].items() if "median" in ratio]
    if not rows:
        return ""
    left, most = 470, max(3.0, *(min(ratio["max"], 6) for _, _, ratio in rows))
    scale = lambda value: left + (WIDTH - left - 60) * min(value, most) / most  # noqa: E731
    height, marks, shown = 30 + 20 * len(rows), [], None
    for number, (name, peer, ratio) in enumerate(rows):
        y = 36 + 20 * number
        if name != shown:
            marks.append(line(0, y - 11, WIDTH, y - 11, "var(--line)"))
            marks.append(label(0, y + 4, name))
            shown = name
        verdict = {True: "good", False: "bad", None: ""}[ratio["met"]]
        marks.append(label(left - 8, y + 4, peer, "soft", "end"))
        marks.append(line(scale(ratio["min"]), y, scale(ratio["max"]), y, COLOURS[peer], 3))
        marks.append(f"<circle cx='{scale(ratio['median']):.1f}' cy='{y}' r='5' fill='{COLOURS[peer]}'/>")
        if ratio["target"] is not None:
            marks.append(line(scale(ratio["target"]), y - 8, scale(ratio["target"]), y + 8, "var(--ink)", 2))
        marks.append(label(WIDTH, y + 4, f"{ratio['median']:.2f} {text.mark(ratio['met']) if verdict else ''}", verdict, "end"))
    axis = [line(scale(1), 14, scale(1), height, "var(--soft)", 1, "4 3"), label(scale(1), 11, "equal", "soft", "middle")]
    return ("<div class='card'><h2>Ratios</h2><p class='soft'>Dot: median; bar: smallest to largest round; upright mark: "
            f"target. To the right of the dashed line ringfence needs less.</p>{svg(height + 6, axis + marks)}</div>")


def card(entry):
    workload, outcome, result = entry["workload"], entry["outcome"], entry["result"]
    unit = text.COSTS[workload["kind"]].format(workload["unit"])
    parts = [f"<div class='card'><h2>{html.escape(workload['name'])}</h2><p class='soft'>{unit}"
             + (f", {outcome['rate']} requests/s" if workload["kind"] == "latency" else "") + "; dots are rounds</p>",
             bars(result["peers"], workload["kind"]), table(result, workload["kind"])]
    parts += [f"<p class='{'good' if promise['met'] else 'bad'}'>{text.mark(promise['met'])} {html.escape(promise['text'])}</p>"
              for promise in result["promises"]]
    parts += [f"<p class='bad'>{peer} failed: {html.escape(why.splitlines()[0])}</p>" for peer, why in outcome["failed"].items()]
    if result["disturbed"]:
        parts.append(f"<p class='soft'>{result['disturbed']} windows were disturbed and left out.</p>")
    parts += [f"<p class='soft'>Note: {html.escape(remark)}.</p>" for remark in result["remarks"]]
    if "ringfence" in outcome["negotiated"]:
        parts.append(f"<p class='soft'>{html.escape(outcome['negotiated']['ringfence'])}</p>")
    return "".join(parts) + "</div>"


def bars(peers, kind):
    if not peers:
        return ""
    most = max(max(values["costs"]) for values in peers.values()) or 1
    scale = lambda value: (WIDTH - LEFT - RIGHT) * value / most  # noqa: E731
    marks = []
    for number, (peer, values) in enumerate(peers.items()):
        y = 4 + ROW * number
        faint = "" if values["quiet"] else " opacity='0.4'"
        marks.append(label(LEFT - 8, y + 15, peer, "", "end"))
        marks.append(f"<rect x='{LEFT}' y='{y}' width='{scale(values['cost']):.1f}' height='20' rx='3' "
                     f"fill='{COLOURS[peer]}'{faint}/>")
        marks += [f"<circle cx='{LEFT + scale(cost):.1f}' cy='{y + 10}' r='2.5' fill='var(--paper)' stroke='var(--ink)'/>"
                  for cost in values["costs"]]
        told = text.number(values["cost"], 1 if kind == "cpu" else 0)
        marks.append(label(LEFT + scale(max(values["costs"])) + 10, y + 15, told + ("" if values["quiet"] else " (disturbed)")))
    return svg(8 + ROW * len(peers), marks)


def table(result, kind):
    rows = ["<tr>" + "".join(f"<th>{heading}</th>" for heading in ["", *text.HEADINGS]) + "</tr>"]
    for peer, values in result["peers"].items():
        ratio = result["ratios"].get(peer)
        verdict = {True: "good", False: "bad", None: ""}[ratio["met"] if ratio else None]
        cells = text.cells(kind, values, ratio)
        rows.append(f"<tr><td>{peer}</td>" + "".join(f"<td>{cell}</td>" for cell in cells[:-1])
                    + f"<td class='{verdict}'>{cells[-1]}</td></tr>")
    return "<table>" + "".join(rows) + "</table>"


def system_calls(calls):
    if not calls:
        return ""
    rows = "".join(
        f"<tr><td>{peer}</td><td>{counts['all']:.2f}</td><td>"
        + ", ".join(f"{name} {count:.2f}" for name, count in counts.items() if name not in ("all", "requests")) + "</td></tr>"
        for peer, counts in calls.items())
    return ("<div class='card'><h2>System calls a request</h2><p class='soft'>plain GET, 64 connections, counted by strace in a "
            f"run of its own</p><table><tr><th></th><th>all</th><th>which</th></tr>{rows}</table></div>")


def configurations(report):
    files = "".join(f"<details><summary>{name}</summary><pre>{html.escape(content)}</pre></details>"
                    for name, content in report["configurations"].items())
    return f"<div class='card'><h2>Configurations</h2>{files}</div>"


def svg(height, marks):
    return f"<svg viewBox='0 0 {WIDTH} {height}' role='img'>{''.join(marks)}</svg>"


def line(x1, y1, x2, y2, colour, width=1, dashes=""):
    dashed = f" stroke-dasharray='{dashes}'" if dashes else ""
    return (f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' stroke='{colour}' stroke-width='{width}'"
            f"{dashed}/>")


def label(x, y, words, kind="", anchor="start"):
    return f"<text x='{x:.1f}' y='{y:.1f}' class='{kind}' text-anchor='{anchor}'>{html.escape(words)}</text>"
