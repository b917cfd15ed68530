"""The sweeps: how the cost of a request, and of the host, grows with one thing at a time."""

import dataclasses
import http.client
import random
import statistics
import subprocess
import time

from harness import account, contenders, many, servers
from harness.load import measure
from harness.project import CACHE, PROJECT, Failure, run, say
from harness.rounds import PLACEMENTS

PINNED, SHARED = PLACEMENTS["pinned"], PLACEMENTS["shared"]
ROUNDS = 3
SECONDS = 2


@dataclasses.dataclass(frozen=True)
class Table:
    """What a sweep found."""

    header: tuple
    rows: list
    note: str


def guest(build, name):
    """A component of guest-examples."""
    target = PROJECT / "guest-examples/target/wasm32-wasip2/release"
    command = ["cargo", "build", "--release", "--locked", "--target", "wasm32-wasip2", "-p", name]
    return build.made(target / f"{name}.wasm", lambda: run(command, cwd=PROJECT / "guest-examples", quiet=True))


def app(name, text):
    folder = CACHE / "sweeps" / name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "functions.toml"
    path.write_text(f'name = "{name}"\n[host]\nstate = "state"\n{text}')
    return path


def function(name, component, route, more=""):
    return f'[functions.{name}]\ncomponent = "{component}"\nroutes = ["{route}"]\n{more}'


def medians(server, url, placement, connections, rounds=ROUNDS):
    measure(server, url, placement, connections=connections, seconds=1)
    found = [measure(server, url, placement, connections=connections, seconds=SECONDS) for _ in range(rounds)]
    return {field.name: statistics.median(getattr(each, field.name) for each in found)
            for field in dataclasses.fields(found[0])}


def connections(build):
    """The same hello, asked by more and more clients at once."""
    hello = contenders.component(build, "0.2")
    toml = app("connections", function("hello", hello, "/") + '[functions.hello.limits]\nconcurrency = 1000\n')
    rows = []
    with servers.running(contenders.host_of(build, "sweep-connections", toml), PINNED) as server:
        for count in (1, 2, 4, 16, 64, 256, 1000):
            found = medians(server, server.url(), PINNED, count)
            rows.append((str(count), *(f"{found[key]:,.0f}" for key in ("rate", "p50", "p99", "p999")),
                         f"{found['cpu']:.1f}", f"{found['rss'] / 2**20:.1f}"))
    return Table(("connections", "requests/s", "p50 µs", "p99 µs", "p99.9 µs", "CPU µs/request", "RSS MiB"), rows,
                 f"Pinned mode, hello 0.2, medians of {ROUNDS} loads of {SECONDS} s.")


def functions(build, counts):
    """More and more functions installed, each with a component of its own."""
    rows, alone = [], None
    for count in counts:
        say(f"{count} functions")
        toml = many.prepare(build, count, SHARED)
        launch = contenders.host_of(build, f"many-{count}", toml)
        # The first start reads every component; what it notes, the later ones need not. Only files that have not
        # changed for two seconds are noted.
        time.sleep(2.5)
        with servers.running(launch, SHARED):
            pass
        ready = []
        for _ in range(ROUNDS):
            began = time.monotonic()
            with servers.running(launch, SHARED) as server:
                ready.append(time.monotonic() - began)
                idle = account.memory(server.pid)
                maps = many.mappings(server.pid)
        with servers.running(launch, PINNED) as server:
            cold, wall = first_calls(server, random.Random(count).sample(range(count), min(count, 1000)))
            loaded = account.memory(server.pid)
            found = medians(server, server.url(path="/f0"), PINNED, 16)
        alone = alone or found["cpu"]
        rows.append((
            f"{count:,}", f"{statistics.median(ready):.2f}", f"{idle.anonymous / 2**20:.1f}",
            f"{(loaded.anonymous) / 2**20:.1f}", f"{maps:,}", f"{quantile(cold, 0.5):.0f}", f"{quantile(cold, 0.99):.0f}",
            f"{quantile(wall, 0.5):.0f}", f"{max(wall):.0f}", f"{found['cpu']:.1f}", f"{found['cpu'] / alone:.2f}"))
    header = ("functions", "ready s", "private MiB, idle", "…after first calls", "mappings", "first call: cold start p50 µs",
              "p99 µs", "…as the client sees it p50 µs", "max µs", "CPU µs/request of one", "against the first row")
    return Table(header, rows,
                 "Ready: from the start of the process until it listens, with everything compiled before, median of "
                 f"{ROUNDS}. Private memory is what no file backs (RssAnon). First calls: of up to 1,000 functions that were never called in that process, "
                 "one after the other on one connection; cold start is `store` and `instantiate` of Server-Timing, and "
                 "has loading the code in it where that is not mapped yet.")


def first_calls(server, numbers):
    """Cold start and round trip of one request to each of these functions, in microseconds."""
    connection = http.client.HTTPConnection("127.0.0.1", server.ports["http"], timeout=30)
    cold, wall = [], []
    for number in numbers:
        began = time.perf_counter()
        connection.request("GET", f"/f{number}")
        response = connection.getresponse()
        body = response.read()
        wall.append((time.perf_counter() - began) * 1e6)
        if response.status != 200 or body != contenders.BODY:
            raise Failure(f"/f{number} answered {response.status}, {body[:100]!r}")
        cold.append(many.cold_start_micros({name.lower(): value for name, value in response.getheaders()}))
    connection.close()
    return cold, wall


def quantile(values, at):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(at * len(ordered)))]


def bodies(build):
    """Uploads that come back, through the guest `echo` and through bare axum."""
    limits = '[functions.echo.limits]\nrequest-body = "1 GiB"\ntimeout = "none"\n'
    toml = app("bodies", function("echo", guest(build, "echo"), "/echo", limits))
    rows = []
    upload = CACHE / "sweeps/upload"
    with servers.running(contenders.floor_of(build, "sweep-bodies", toml), SHARED) as server:
        for size in (1, 1 << 10, 64 << 10, 1 << 20, 16 << 20, 256 << 20):
            upload.write_bytes(b"x" * size)
            rates = {"http": [], "fnhost": []}
            before = account.memory(server.pid).anonymous
            for _ in range(ROUNDS):
                for address in rates:
                    rates[address].append(size / transfer(server.url(address, "/echo"), upload, size))
            grown = account.memory(server.pid).anonymous - before
            ratio = statistics.median(ours / floor for ours, floor in zip(rates["fnhost"], rates["http"]))
            rows.append((f"{size:,}", *(f"{statistics.median(rates[address]) / 2**20:,.1f}" for address in ("fnhost", "http")),
                         f"{ratio:.2f}", f"{grown / 2**20:+.1f}"))
    upload.unlink()
    return Table(("bytes", "fnhost MiB/s", "axum MiB/s", "fnhost ÷ axum", "private memory MiB"), rows,
                 "POST to `echo`, which streams the upload back: each byte goes both ways. One curl at a time, both sides "
                 f"on all cores; medians of {ROUNDS} in turn. Below 1 MiB it is the start of a connection that is measured. "
                 "Private memory: how much more the host holds after the transfers than before.")


def transfer(url, upload, size):
    """Seconds that curl took to send it and have it back."""
    command = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code} %{size_download} %{time_total}", "-H", "Expect:",
               "-H", "Content-Type: application/octet-stream", "-T", upload, "-X", "POST", url]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    said = done.stdout.split()
    if done.returncode != 0 or said[:2] != ["200", str(size)]:
        raise Failure(f"{url}: curl said {done.stdout!r} {done.stderr!r}")
    return float(said[2])


def routes(build):
    """One function, more and more routes."""
    rows, alone = [], None
    for count in (1, 10, 100, 1000, 10_000):
        listed = ", ".join(f'"/r{number}/{{name}}/end"' for number in range(count))
        toml = app(f"routes-{count}", f'[functions.hello]\ncomponent = "{contenders.component(build, "0.2")}"\nroutes = [{listed}]\n')
        with servers.running(contenders.host_of(build, f"sweep-routes-{count}", toml), PINNED) as server:
            found = medians(server, server.url(path=f"/r{count - 1}/you/end"), PINNED, 16)
        alone = alone or found["cpu"]
        rows.append((f"{count:,}", f"{found['rate']:,.0f}", f"{found['cpu']:.1f}", f"{found['cpu'] / alone:.2f}"))
    return Table(("routes", "requests/s", "CPU µs/request", "against one route"), rows,
                 f"Pinned mode, 16 connections, medians of {ROUNDS} loads of {SECONDS} s, a host for each row.")


def neighbours(build):
    """hello, alone and while other guests compute on every core without ever waiting."""
    toml = app("neighbours", function("hello", contenders.component(build, "0.2"), "/")
               + function("spin", guest(build, "misbehave"), "/misbehave/{*rest}",
                          '[functions.spin.limits]\ncpu = "10m"\ntimeout = "10m"\n'))
    rows = []
    with servers.running(contenders.host_of(build, "sweep-neighbours", toml), SHARED) as server:
        for spinners in (0, 2, 4):
            busy = [subprocess.Popen(["curl", "-s", "-o", "/dev/null", server.url(path="/misbehave/spin?millis=30000")])
                    for _ in range(spinners)]
            time.sleep(0.5)
            found = [measure(server, server.url(), SHARED, connections=4, seconds=SECONDS) for _ in range(ROUNDS)]
            for each in busy:
                each.kill()
                each.wait()
            rows.append((str(spinners), *(f"{statistics.median(getattr(each, key) for each in found):,.0f}"
                                          for key in ("rate", "p50", "p99", "p999")), "0"))
    return Table(("guests that spin", "requests/s", "p50 µs", "p99 µs", "p99.9 µs", "failures"), rows,
                 "Two cores, shared by the host and the load, which has 4 connections; a load with a failure would end the sweep.")


def start(build):
    """From the start of the process to the first answer, with everything compiled before."""
    hello = contenders.component(build, "0.2")
    toml = app("start", "".join(function(f"f{number}", hello, f"/f{number}") for number in range(10)))
    launch = contenders.host_of(build, "sweep-start", toml)
    taken = []
    for attempt in range(21):
        began = time.monotonic()
        process = subprocess.Popen(list(map(str, launch.command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        url = process.stdout.readline().removeprefix("listening on ").strip()
        status, _, body = servers.ask(f"{url}/f3")
        taken.append((time.monotonic() - began) * 1000)
        process.terminate()
        process.wait()
        if status != 200 or body != contenders.BODY:
            raise Failure(f"the first answer was {status}, {body!r}")
    warm = taken[1:]
    row = (f"{statistics.median(warm):.0f}", f"{min(warm):.0f}", f"{max(warm):.0f}")
    return Table(("median ms", "least ms", "most ms"), [row],
                 "`fnhost up --no-build` with 10 functions: from the start of the process to the first answer, 20 times.")


def endurance(build):
    """Memory after many requests."""
    toml = app("endurance", function("hello", contenders.component(build, "0.2"), "/"))
    rows, first, sent = [], None, 0
    with servers.running(contenders.host_of(build, "sweep-endurance", toml), SHARED) as server:
        for goal in (20_000, 200_000, 1_000_000, 2_000_000):
            while sent < goal:
                sent += measure(server, server.url(), SHARED, connections=16,
                                seconds=max(1, min(20, (goal - sent) // 30_000))).requests
            memory = account.memory(server.pid)
            first = first or memory.rss
            rows.append((f"{sent:,}", f"{memory.rss / 2**20:.1f}", f"{memory.anonymous / 2**20:.1f}", f"{memory.rss / first:.3f}"))
    return Table(("requests", "RSS MiB", "private MiB", "RSS against the first row"), rows, "hello 0.2, 16 connections, one process.")
