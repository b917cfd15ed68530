"""Says what was measured: a table for the terminal, Markdown, and JSON with every round."""

import dataclasses
import json
import statistics

from harness.contenders import PAIRS

MODES = {
    "pinned": "the server has one worker thread on one core, the load is on another",
    "shared": "the server and the load are both on all cores, with as many threads as the server takes by itself",
}
HEADER = ("contender", "requests/s", "p50 µs", "p99 µs", "p99.9 µs", "CPU µs/request", "spread", "cores", "RSS MiB",
          "anon MiB")


def contender_rows(results):
    rows = []
    for contender in results.contenders:
        name = contender.name
        cpu = results.column(name, "cpu")
        if name in results.failures or not cpu:
            rows.append((name, "FAILED", *[""] * (len(HEADER) - 2)))
            continue
        median = {field: results.median(name, field)
                  for field in ("rate", "p50", "p99", "p999", "cpu", "cores", "rss", "anonymous")}
        spread = (max(cpu) - min(cpu)) / median["cpu"] if median["cpu"] else 0
        rows.append((
            name, f"{median['rate']:,.0f}", f"{median['p50']:,.0f}", f"{median['p99']:,.0f}", f"{median['p999']:,.0f}",
            f"{median['cpu']:,.1f}", f"{spread:.0%}", f"{median['cores']:.2f}",
            f"{median['rss'] / 2**20:,.1f}", f"{median['anonymous'] / 2**20:,.1f}",
        ))
    return rows


def pair_rows(results):
    """For each pair of which both were measured: how many times as cheap and as fast, and whether that is the goal."""
    rows = []
    names = {contender.name for contender in results.contenders}
    for pair in PAIRS:
        if pair.ours not in names or pair.theirs not in names:
            continue
        cpu, rate = results.ratios(pair)
        goal = f"≥ {pair.goal:g} ×" if pair.goal and results.mode == "pinned" else "–"
        failed = {pair.ours, pair.theirs} & set(results.failures)
        if failed or not cpu:
            rows.append((pair.ours, pair.theirs, goal, "FAILED", "", "FAILED", ""))
        else:
            rows.append((pair.ours, pair.theirs, goal, ratio(cpu), met(cpu, goal, pair),
                         ratio(rate), met(rate, goal, pair)))
    return rows


def ratio(values):
    return f"{statistics.median(values):.2f} × ({min(values):.2f}–{max(values):.2f})"


def met(values, goal, pair):
    if goal == "–":
        return "–"
    return "yes" if statistics.median(values) >= pair.goal else "**no**"


PAIR_HEADER = ("ours", "theirs", "goal", "CPU: theirs ÷ ours", "met", "requests/s: ours ÷ theirs", "met")


def text(results):
    """Both tables for the terminal."""
    pairs = [tuple(cell.replace("*", "") for cell in row) for row in pair_rows(results)]
    parts = [f"{results.mode}: {MODES[results.mode]}", plain(HEADER, contender_rows(results))]
    if pairs:
        parts.append(plain(PAIR_HEADER, pairs))
    parts.extend(f"FAILED: {name}: {why}" for name, why in results.failures.items())
    return "\n\n".join(parts) + "\n"


def plain(header, rows):
    widths = [max(len(row[at]) for row in [header, *rows]) for at in range(len(header))]
    left = sum(1 for name in header if name in ("contender", "ours", "theirs"))
    return "\n".join(
        "  ".join(cell.ljust(width) if at < left else cell.rjust(width)
                  for at, (cell, width) in enumerate(zip(row, widths)))
        for row in [header, *rows])


def markdown_table(header, rows):
    left = sum(1 for name in header if name in ("contender", "ours", "theirs"))
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * left + " ---: |" * (len(header) - left)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def markdown(results, command, machine, versions):
    connections = command.settings["connections"]
    parts = [
        f"# A fresh sandbox per request, against peers: {results.mode} mode",
        f"Written by `{command}`: {MODES[results.mode]}. Every contender answers GET with the same 14 bytes. Rounds: "
        f"{command.settings['rounds']} of {command.settings['seconds']} s for each contender at {connections} connections, "
        f"forward and backward in turn; what is shown are medians.",
        f"![CPU time per request](compare-{results.mode}.svg)",
        markdown_table(HEADER, contender_rows(results)),
        "CPU is user and system time of the server's process and its descendants, by the kernel's accounting; `spread` "
        "is of that, (max − min) ÷ median; `cores` is how many of them it kept busy: less than one in pinned mode means "
        "that the load was the slower, or that something else ran. RSS is read at the end of each load; all of fnhost's "
        "rows of one build are one process that serves all of its components, and the process of `axum` has a whole fnhost "
        "beside it. "
        "fnhost writes its log, a line for each request, to /dev/null; the others write none.",
        "## Pair by pair",
        "Ratios within each round: their median (and least–most). "
        + ("More is better for fnhost." if results.mode == "pinned"
           else "More is better for fnhost; the goals are for pinned mode."),
        markdown_table(PAIR_HEADER, pair_rows(results)),
    ]
    if results.failures:
        lines = [f"- **{name}**: {first_line(why)}" for name, why in results.failures.items()]
        parts += ["## What failed", "\n".join(lines)]
    parts += [
        "## Who they are",
        markdown_table(("contender", "what it is"), [(each.name, described(each)) for each in results.contenders])
        .replace("---: |", "--- |"),
        "## Where",
        markdown_table(("machine", ""), list(machine.items())).replace("---: |", "--- |"),
        markdown_table(("version of", ""), list(versions.items())).replace("---: |", "--- |"),
    ]
    return "\n\n".join(parts) + "\n"


def first_line(why):
    """A failure without what may name this machine's files; all of it was said on the terminal."""
    return why.splitlines()[0].partition(": /")[0]


def described(contender):
    if contender.kind != "wasmtime":
        return contender.what
    options = " ".join(("-S cli", *contender.options))
    return f"{contender.what} (`wasmtime serve {options}`)"


def raw(results, command, machine, versions):
    return json.dumps({
        "command": str(command), "settings": command.settings, "mode": results.mode, "machine": machine,
        "versions": versions, "failures": {name: first_line(why) for name, why in results.failures.items()},
        "rounds": [{name: dataclasses.asdict(measured) for name, measured in each.items()} for each in results.rounds],
        "pairs": [{"ours": pair.ours, "theirs": pair.theirs, "goal": pair.goal, "cpu": cpu, "rate": rate}
                  for pair in PAIRS for cpu, rate in [results.ratios(pair)] if cpu],
    }, indent=1) + "\n"
