"""How long it takes from a saved source to its release, beyond what the compiler takes."""

import http.client
import json
import re
import shutil
import statistics
import time

from harness import build as builds
from harness import servers
from harness.project import CACHE, PROJECT, Failure, say
from harness.rounds import PLACEMENTS
from harness.sweeps import Table

FOLDER = CACHE / "sweeps/loop"
SAVES = 20
# The guest example, which answers with its build's number.
SOURCE = """use wstd::http::{Body, Error, Request, Response};

#[wstd::http_server]
async fn main(_: Request<Body>) -> Result<Response<Body>, Error> {
    Ok(Response::new("build NUMBER\\n".to_owned().into()))
}
"""
# The compiler's own time is what a clock around the command says.
BUILD = ("begun=$(date +%s%N); cargo build --release --target wasm32-wasip2; code=$?; "
         "echo $begun $(date +%s%N) >> ../times; exit $code")


def prepare():
    """The project, and where it is described."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "hello/src").mkdir(parents=True)
    manifest = (PROJECT / "guest-examples/hello/Cargo.toml").read_text()
    shared = (PROJECT / "guest-examples/Cargo.toml").read_text()
    # A package of its own: what it has from its workspace is written out.
    for key, value in re.findall(r"^(\w[\w-]*) = (.+)$", shared.split("[workspace.package]")[-1], re.MULTILINE):
        manifest = manifest.replace(f"{key}.workspace = true", f"{key} = {value}")
    manifest = re.sub(r"\[lints\]\nworkspace = true\n?", "", manifest)
    profile = re.search(r"\[profile\.release\]\n(?:[^\[]+)", shared)
    (FOLDER / "hello/Cargo.toml").write_text(manifest + "\n" + (profile[0] if profile else "") + "\n[workspace]\n")
    shutil.copy(PROJECT / "guest-examples/Cargo.lock", FOLDER / "hello/Cargo.lock")
    save(0)
    toml = FOLDER / "functions.toml"
    toml.write_text('name = "loop"\n[host]\nstate = "state"\n[functions.hello]\n'
                    'component = "hello/target/wasm32-wasip2/release/hello.wasm"\n'
                    f"build = '{BUILD}'\nbuild-dir = \"hello\"\nroutes = [\"/\"]\n")
    return toml


def save(number):
    (FOLDER / "hello/src/main.rs").write_text(SOURCE.replace("NUMBER", str(number)))


def loop(build):
    """Sources saved one after the other, while `fnhost up --watch` builds and serves them."""
    toml = prepare()
    command = (builds.host(build), "up", "--watch", "-c", toml, "--listen", "127.0.0.1:0", "--admin", "off", "--log", "json")
    launch = servers.Launch("sweep-loop", command, {"http": r"listening on http://127\.0\.0\.1:(\d+)\n"})
    total, beyond = [], []
    with servers.running(launch, PLACEMENTS["shared"]) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.ports["http"], timeout=30)
        expect(connection, 0)
        for number in range(1, SAVES + 1):
            save(number)
            saved = time.time_ns()
            live = expect(connection, number)
            begun, done = map(int, (FOLDER / "times").read_text().splitlines()[-1].split())
            total.append((live - saved) / 1e6)
            beyond.append((live - saved - (done - begun)) / 1e6)
            # Whatever is left to do behind the first answer is done.
            time.sleep(1)
        if len((FOLDER / "times").read_text().splitlines()) != SAVES + 1:
            raise Failure("there were other builds than those of the saved sources")
    log = (servers.LOGS / "sweep-loop.stderr").read_text().splitlines()
    told = [line for line in map(json.loads, filter(lambda line: line.startswith("{"), log))
            if line.get("message") == "the change is live"]
    if len(told) != SAVES:
        raise Failure(f"{len(told)} releases of {SAVES} saved sources")
    rows = [("saved to live", *spread(total)), ("beyond the compiler", *spread(beyond)),
            *((f"…of that, {step} as the host tells it", *spread([millis(line[step]) for line in told]))
              for step in ("compile", "install"))]
    say(f"loop: {statistics.median(beyond):.0f} ms beyond the compiler")
    return Table(("", "median ms", "least ms", "most ms"), rows,
                 f"{SAVES} saves of the guest example `hello` with another text, one at a time: from the write to the first answer "
                 "that has the text, asked for every 2 ms. The compiler's time is that of `cargo build --release`, by a clock around it.")


def expect(connection, number):
    """When the answer was this build's, in nanoseconds of Unix."""
    wanted = f"build {number}\n".encode()
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        connection.request("GET", "/")
        answer = connection.getresponse()
        if answer.read() == wanted:
            return time.time_ns()
        time.sleep(0.002)
    raise Failure(f"build {number} was never live; see {servers.LOGS / 'sweep-loop.stderr'}")


def millis(text):
    """A time as the host writes it."""
    amount, unit = re.fullmatch(r"([\d.]+)(ns|us|ms|s)", text).groups()
    return float(amount) * {"ns": 1e-6, "us": 1e-3, "ms": 1, "s": 1e3}[unit]


def spread(times):
    return tuple(f"{pick(times):.0f}" for pick in (statistics.median, min, max))
