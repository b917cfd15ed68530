"""What middleware costs: components in a chain, and the limit that is built in."""

import contextlib
import json
import pathlib
import statistics
import subprocess
import time

from harness import account, build as builds, components, contenders, servers
from harness.load import measure
from harness.project import PROJECT, Failure, run, say
from harness.rounds import PLACEMENTS
from harness.servers import Launch
from harness.sweeps import Table, app, function

SHARED = PLACEMENTS["shared"]
ROUNDS = 7
SECONDS = 4
LINKS_MAX = 3
LISTEN = r"listening on http://127\.0\.0\.1:(\d+)\n"
LIMITED = pathlib.Path(__file__).with_name("limited.lua")
PER_SECOND = 1000
BURST = PER_SECOND // 10
CLIENTS = 64


def gate(build, name):
    """A test guest that is middleware, and lets pass what does not say otherwise."""
    folder = PROJECT / "tests/guests"
    command = ["cargo", "build", "--locked", "--release", "--target", "wasm32-wasip2", "-p", name]
    file = folder / "target/wasm32-wasip2/release" / f"{name.replace('-', '_')}.wasm"
    return build.made(file, lambda: run(command, cwd=folder))


# What is before hello, of which WASI, and what it does.
LINKS = (
    ("0.3", "hands the request on", lambda build: components.rust(build, "pass_p3.wasm")),
    ("0.3", "makes another response", lambda build: gate(build, "gate-p3-probe")),
    ("0.2", "hands the request on", lambda build: gate(build, "gate-probe")),
)


def chains(build):
    """CPU of a request behind 0 to 3 middleware components."""
    rows = []
    for version, what, made in LINKS:
        link, hello = made(build), contenders.component(build, version)
        tables = "".join(f'[middleware.gate{number}]\ncomponent = "{link}"\n' for number in range(LINKS_MAX))
        chain = lambda links: "middleware = [" + ", ".join(f'"gate{number}"' for number in range(links)) + "]\n"
        functions = "".join(function(f"behind{links}", hello, f"/{links}", chain(links)) for links in range(LINKS_MAX + 1))
        found = {links: [] for links in range(LINKS_MAX + 1)}
        with servers.running(contenders.host_of(build, "chains", app("chains", tables + functions)),
                             SHARED) as server:
            for number in range(ROUNDS + 1):
                say(f"{version}, {what}: round {number} of {ROUNDS}")
                for links in found if number % 2 == 0 else reversed(found):
                    each = measure(server, server.url(path=f"/{links}"), SHARED, connections=16, seconds=SECONDS)
                    # The first round warms up.
                    found[links] += [each] if number else []
        for links, measured in found.items():
            ratios = [each.cpu / alone.cpu for each, alone in zip(measured, found[0])]
            ratio = statistics.median(ratios)
            rows.append((version, what, str(links), f"{statistics.median(each.rate for each in measured):,.0f}",
                         f"{statistics.median(each.cpu for each in measured):.1f}", f"{ratio:.2f}",
                         f"{min(ratios):.2f} to {max(ratios):.2f}", f"{(ratio - 1) / links:.2f}" if links else ""))
    return Table(("WASI", "each component", "components before hello", "requests/s", "CPU µs/request", "of none", "least and most", "each adds"), rows,
                 "hello behind components, composed: `benches/guests/pass-p3` (0.3) and `tests/guests/gate-probe` (0.2) hand the request "
                 "on; `tests/guests/gate-p3-probe` (0.3) copies the response's headers, adds one, and hands its body on. Before "
                 "the 0.3 hello is a stream between two tasks, as it comes. "
                 f"16 connections, host and load on two cores, {ROUNDS} "
                 f"alternating rounds of {SECONDS} s; ratios are medians of those within each round. Goal: each adds 0.4 at the most.")


def limited(server):
    """What came of as much load as wrk makes: how long, what was let through, what was refused, and the CPU time."""
    command = SHARED.load(["wrk", f"-t{SHARED.load_threads}", f"-c{CLIENTS}", f"-d{SECONDS}s", "--timeout", "10s", "-s", str(LIMITED),
                           server.url()])
    # Until the whole burst is to be had again.
    time.sleep(2 * BURST / PER_SECOND + 0.5)
    before = account.cpu_seconds(server.pid)
    done = subprocess.run(command, capture_output=True, text=True)
    cpu = account.cpu_seconds(server.pid) - before
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines or not lines[-1].startswith("{"):
        raise Failure(f"wrk failed: {done.stdout}{done.stderr}")
    said = json.loads(lines[-1])
    if said["failed"]:
        raise Failure(f"not all was let through or refused: {lines[-1]}")
    return said["duration"] / 1e6, said["admitted"], said["refused"], cpu


def limits(build):
    """What a limit of 1,000/s lets through of all that 64 clients can offer, and how fast it refuses the rest."""
    hello = function("hello", contenders.component(build, "0.2"), "/", 'middleware = ["limit"]\n')
    limit = f'[middleware.limit]\nrate-limit = {{ requests = {PER_SECOND}, per = "1s", burst = {BURST}, by = "client" }}\n'
    axum = Launch("floor-limit", (builds.example(build, "floor_limit"), str(PER_SECOND)), {"http": LISTEN}, mute=True)
    found = {"axum and governor": [], "fnhost": []}
    with contextlib.ExitStack() as stack:
        running = {
            "axum and governor": stack.enter_context(servers.running(axum, SHARED)),
            "fnhost": stack.enter_context(servers.running(contenders.host_of(build, "limits", app("limits", hello + limit)), SHARED)),
        }
        for number in range(ROUNDS + 1):
            say(f"round {number} of {ROUNDS}")
            for name in found if number % 2 == 0 else reversed(found):
                each = limited(running[name])
                found[name] += [each] if number else []
    rows = []
    for name, measured in found.items():
        # Each begins with the whole burst.
        ratios = [admitted / (PER_SECOND * seconds + BURST) for seconds, admitted, _, _ in measured]
        rates = [refused / seconds for seconds, _, refused, _ in measured]
        of_axum = [rate / (other[2] / other[0]) for rate, other in zip(rates, found["axum and governor"])]
        offered = [(admitted + refused) / seconds for seconds, admitted, refused, _ in measured]
        cpu = [used / (admitted + refused) * 1e6 for _, admitted, refused, used in measured]
        rows.append((name, f"{statistics.median(offered):,.0f}", f"{statistics.median(ratios):.4f}", f"{min(ratios):.4f} to {max(ratios):.4f}",
                     f"{statistics.median(rates):,.0f}", f"{statistics.median(of_axum):.2f}", f"{min(of_axum):.2f} to {max(of_axum):.2f}",
                     f"{statistics.median(cpu):.1f}"))
    return Table(("server", "offered/s", "let through, of what should be", "least and most", "refused/s", "of axum", "least and most",
                  "CPU µs/request"), rows,
                 f"{CLIENTS} connections as fast as wrk goes, {ROUNDS} alternating rounds of {SECONDS} s, server and load on two cores. The limit "
                 f"is {PER_SECOND:,}/s with {BURST} at once, by the client's address. axum is `benches/floor_limit.rs`: the same crate, the "
                 "same headers, about the same body; what fnhost does besides is a request id and a receipt for each. Goals: within "
                 "2% of what should be let through; refusals at 0.8 of axum's rate at the least.")
