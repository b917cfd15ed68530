"""Starts servers, waits until they listen, asks them, and stops them whatever happens."""

import contextlib
import dataclasses
import http.client
import os
import re
import shlex
import signal
import subprocess
import time

from harness.project import CACHE, Failure

START_SECONDS_MAX = 600   # the first start of a component may compile it, on one core
STOP_SECONDS_MAX = 10
LOGS = CACHE / "logs"


@dataclasses.dataclass(frozen=True)
class Launch:
    """How a server is started, and how it says that it listens."""

    name: str
    command: tuple
    # For each of its addresses, a pattern of which the first group is the port, in what it says.
    ports: dict
    # It says nothing on stderr that is worth the disk.
    mute: bool = False
    scheme: str = "http"


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where servers and load run: cores for `taskset`, if any, and the threads of each."""

    server_cores: str = ""
    load_cores: str = ""
    worker_threads: int = 0   # 0 for what the server takes by itself
    load_threads: int = 1

    def server(self, command):
        return pinned(self.server_cores, command)

    def load(self, command):
        return pinned(self.load_cores, command)


def pinned(cores, command):
    return ["taskset", "-c", cores, *command] if cores else list(command)


@dataclasses.dataclass
class Server:
    """A server that listens."""

    launch: Launch
    process: subprocess.Popen
    ports: dict

    @property
    def pid(self):
        return self.process.pid

    def url(self, address="http", path="/"):
        return f"{self.launch.scheme}://127.0.0.1:{self.ports[address]}{path}"


@contextlib.contextmanager
def running(launch, placement):
    """A server that listens, for as long as the context lasts."""
    process, said = spawn(launch, placement)
    try:
        yield Server(launch, process, wait_for_ports(launch, process, said))
    finally:
        stop(process)


def spawn(launch, placement):
    LOGS.mkdir(parents=True, exist_ok=True)
    said = [LOGS / f"{launch.name}.{stream}" for stream in ("stdout", "stderr")]
    environment = dict(os.environ)
    # Where it is set, wasmtime captures a backtrace for each error that is made, on fast paths too: what is measured
    # would depend on who measures.
    environment.pop("RUST_BACKTRACE", None)
    environment.pop("RUST_LOG", None)
    environment.pop("FNHOST_LOG", None)
    environment["XDG_CACHE_HOME"] = str(CACHE / "cache")   # `wasmtime serve` keeps compiled code there
    if placement.worker_threads:
        environment["TOKIO_WORKER_THREADS"] = str(placement.worker_threads)
    with open(said[0], "wb") as stdout, open(os.devnull if launch.mute else said[1], "wb") as stderr:
        process = subprocess.Popen(
            placement.server(list(map(str, launch.command))), env=environment, cwd=CACHE,
            stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
            start_new_session=True,   # Ctrl-C is for this process alone, which then stops the others
        )
    return process, said[:1] if launch.mute else said


def wait_for_ports(launch, process, said):
    deadline = time.monotonic() + START_SECONDS_MAX
    while True:
        ended = process.poll() is not None
        text = "".join(file.read_text(errors="replace") for file in said)
        found = {address: re.search(pattern, text) for address, pattern in launch.ports.items()}
        if all(found.values()) and not ended:
            return {address: int(match[1]) for address, match in found.items()}
        if ended or time.monotonic() > deadline:
            why = f"ended with {process.returncode}" if ended else f"did not listen in {START_SECONDS_MAX} s"
            kept = "what it said on stderr was not kept; run it by hand" if launch.mute else text[-2000:]
            raise Failure(f"the server {launch.name} {why}: {shlex.join(map(str, launch.command))}\n{kept}")
        time.sleep(0.02)


def stop(process):
    """Asks the server and all it started to end, and makes them if they do not."""
    for wanted in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, wanted)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS_MAX)
            return


def ask(url):
    """One GET: status, headers, body."""
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=30)
    try:
        connection.request("GET", f"/{path}")
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    except OSError as error:
        raise Failure(f"{url}: {error}") from error
    finally:
        connection.close()
