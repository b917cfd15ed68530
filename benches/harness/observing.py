"""What it costs to watch and to bill each request, and whether what is told of requests is true."""

import contextlib
import http.client
import json
import math
import re
import statistics
import time

from harness import account, build as builds, contenders, servers
from harness.load import measure
from harness.project import CACHE, Failure, say
from harness.rounds import PLACEMENTS
from harness.servers import Launch
from harness.sweeps import Table, app, function, guest

PINNED, SHARED = PLACEMENTS["pinned"], PLACEMENTS["shared"]
# The receiver of traces is not the host, so it runs where the load does.
BESIDE_THE_LOAD = servers.Placement(server_cores=PINNED.load_cores)
ROUNDS = 9
SECONDS = 4
CONNECTIONS = 16
PHASES = ("queue_ns", "store_ns", "instantiate_ns", "handler_ns", "body_ns")
OFF = '[observe]\nmetrics = false\nusage = false\nkeep-receipts = 0\nkeep-logs = "off"\n'
ADMIN = r"admin on http://127\.0\.0\.1:(\d+)\n"
LISTEN = r"listening on http://127\.0\.0\.1:(\d+)\n"


def host(build, name, toml, log="info"):
    """A host with an admin API, that says so much on stderr."""
    command = ("env", f"FNHOST_LOG={log}", builds.host(build, "dist"), "up", "-c", toml, "--no-build",
               "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    return Launch(name, command, {"http": LISTEN, "admin": ADMIN}, mute=True)


def ask(server, name, path):
    """What the admin API answers."""
    token = (CACHE / "sweeps" / name / "state/admin-token").read_text().strip()
    connection = http.client.HTTPConnection("127.0.0.1", server.ports["admin"], timeout=60)
    connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    if answer.status != 200:
        raise Failure(f"{path} answered {answer.status}: {body[:200]!r}")
    return json.loads(body)


def observing(build):
    """Requests/s with nothing watched, with everything, and with everything and a tenth of the traces exported."""
    hello = function("hello", contenders.component(build, "0.2"), "/")
    receiver = Launch("receiver", (builds.example(build, "receiver"),), {"http": LISTEN}, mute=True)
    with servers.running(receiver, BESIDE_THE_LOAD) as traces:
        otlp = f'[observe]\notlp = "{traces.url(path="")}"\notlp-sample = "10%"\n'
        kinds = {
            "nothing": host(build, "watch-nothing", app("watch-nothing", OFF + hello), log="off"),
            "metrics, receipts, usage, logs": host(build, "watch-all", app("watch-all", hello)),
            "and 10% of the traces": host(build, "watch-traces", app("watch-traces", otlp + hello)),
        }
        tables, answered = [], 0
        for mode, placement in (("pinned", PINNED), ("shared", SHARED)):
            rows, traced = rows_of(mode, kinds, placement)
            tables += rows
            answered += traced
    told = require_spans(answered)
    return Table(("mode", "watched", "requests/s", "of nothing watched", "least and most", "CPU µs/request", "of nothing watched"),
                 tables,
                 f"hello 0.2, {CONNECTIONS} connections, {ROUNDS} alternating rounds of {SECONDS} s; ratios are medians of those "
                 "within each round. A receipt for each request goes to stderr (thrown away) where logs are on. The receiver of "
                 f"the traces is `benches/receiver.rs`, on the core of the load; it got the spans of {told:,} of {answered:,} requests.")


def require_spans(answered):
    """How many requests the receiver was told of, which has ended: a tenth of those that were answered, by a lot that falls
    at random."""
    said = (servers.LOGS / "receiver.stdout").read_text()
    told = int(re.search(r"spans of (\d+) requests", said)[1])
    expected, deviation = answered / 10, math.sqrt(answered * 0.1 * 0.9)
    if abs(told - expected) > 6 * deviation:
        raise Failure(f"spans of {told:,} requests came, of {expected:,.0f} that were to be sampled: some were lost")
    return told


def rows_of(mode, kinds, placement):
    """A row for each kind, and how many requests the one with traces has answered."""
    counted = lambda: ask(running["and 10% of the traces"], "watch-traces", "/v1/usage")["total"]["requests"]
    found = {kind: [] for kind in kinds}
    running = {}
    with contextlib.ExitStack() as stack:
        for kind, launch in kinds.items():
            running[kind] = stack.enter_context(servers.running(launch, placement))
        # The ledger has those of other runs as well.
        counted_before = counted()
        for kind in kinds:
            measure(running[kind], running[kind].url(), placement, connections=CONNECTIONS, seconds=1)
        for number in range(ROUNDS):
            say(f"{mode}: round {number + 1} of {ROUNDS}")
            for kind in kinds if number % 2 == 0 else reversed(kinds):
                server = running[kind]
                found[kind].append(measure(server, server.url(), placement, connections=CONNECTIONS, seconds=SECONDS))
        traced = counted() - counted_before
    rows = []
    base = found["nothing"]
    for kind, measured in found.items():
        rates = [each.rate / off.rate for each, off in zip(measured, base)]
        cpu = [each.cpu / off.cpu for each, off in zip(measured, base)]
        rows.append((mode, kind, f"{statistics.median(each.rate for each in measured):,.0f}", f"{statistics.median(rates):.3f}",
                     f"{min(rates):.3f} to {max(rates):.3f}", f"{statistics.median(each.cpu for each in measured):.1f}",
                     f"{statistics.median(cpu):.3f}"))
    return rows, traced


def accounts(build):
    """CPU time that the ledger has, against what the kernel counts."""
    wanted = 100_000
    limits = '[functions.busy.limits]\ncpu = "10s"\n'
    rows = []
    for millis in (2, 5):
        name = f"accounts-{millis}"
        toml = app(name, function("busy", guest(build, "misbehave"), "/misbehave/{*rest}", limits))
        with servers.running(host(build, name, toml), SHARED) as server:
            idle = idle_share(server)
            before, used_before, began = account.cpu_seconds(server.pid), ask(server, name, "/v1/usage")["total"], time.monotonic()
            sent = 0
            while sent < wanted:
                seconds = max(1, min(20, int((wanted - sent) * millis / 1000 / 2)))
                sent += measure(server, server.url(path=f"/misbehave/spin?ms={millis}"), SHARED, connections=2,
                                seconds=seconds).requests
                say(f"{sent:,} requests of {millis} ms")
            used = ask(server, name, "/v1/usage")["total"]
            kernel = account.cpu_seconds(server.pid) - before - idle * (time.monotonic() - began)
        ledger = (used["cpu_ms"] - used_before["cpu_ms"]) / 1000
        counted = used["requests"] - used_before["requests"]
        rows.append((f"{millis}", f"{counted:,}", f"{ledger:.2f}", f"{kernel:.2f}", f"{(ledger / kernel - 1) * 100:+.1f}%"))
    return Table(("guest spins for ms", "requests", "ledger, CPU s", "kernel, CPU s", "difference"), rows,
                 "`misbehave`, 2 connections, host and load on two cores. The kernel's count is that of the process "
                 "(utime and stime of proc(5)), less what it takes when idle, in the same time. The ledger has the guest's time "
                 "and not that of HTTP, of taking sandboxes apart, and of watching.")


def idle_share(server):
    """CPU seconds each second that an idle host takes."""
    time.sleep(3)
    before, began = account.cpu_seconds(server.pid), time.monotonic()
    time.sleep(5)
    return (account.cpu_seconds(server.pid) - before) / (time.monotonic() - began)


def phases(build):
    """The sum of the phases of a request, against what a client sees, and what it sees of bare axum."""
    toml = app("phases", function("hello", contenders.component(build, "0.2"), "/")
               + function("busy", guest(build, "misbehave"), "/misbehave/{*rest}"))
    rows = []
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(servers.running(host(build, "phases", toml), SHARED))
        floor = stack.enter_context(servers.running(contenders.floor(build), SHARED))
        for path, name in (("/", "hello"), ("/misbehave/spin?ms=1", "busy")):
            found = []
            for each in (server, floor):
                measure(each, each.url(path=path), SHARED, connections=1, seconds=1)
            for _ in range(ROUNDS):
                axum = measure(floor, floor.url(), SHARED, connections=1, seconds=SECONDS).p50
                client = measure(server, server.url(path=path), SHARED, connections=1, seconds=SECONDS).p50
                receipts = ask(server, "phases", f"/v1/receipts?limit=1000&function={name}")["receipts"]
                summed = statistics.median(sum(each[phase] for phase in PHASES) for each in receipts) / 1000
                found.append((client, summed, client - summed, axum, client - summed - axum))
            client, summed, difference, axum, left = (statistics.median(column) for column in zip(*found))
            rows.append((name, f"{client:.0f}", f"{summed:.0f}", f"{difference:.0f}", f"{difference / client * 100:.0f}%",
                         f"{axum:.0f}", f"{left:.0f}"))
    return Table(("function", "client sees, p50 µs", "sum of the phases, p50 µs", "difference µs", "of what the client sees",
                  "client sees of bare axum, p50 µs", "difference less that µs"), rows,
                 f"One connection of wrk, medians of {ROUNDS} alternating loads of {SECONDS} s; the phases are of the last 1,000 "
                 "receipts of each. Between the two are loopback both ways, waking both sides, and reading and writing HTTP: what a "
                 "client sees of a server that does nothing else.")
