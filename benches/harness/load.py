"""Loads a server with wrk, and measures what that cost it."""

import dataclasses
import json
import pathlib
import shutil
import subprocess

from harness import account
from harness.project import Failure

SCRIPT = pathlib.Path(__file__).with_name("done.lua")


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One load of one server."""

    requests: int
    rate: float          # requests per second
    p50: float           # microseconds
    p99: float
    p999: float
    cpu: float           # the server's CPU time per request, microseconds
    cores: float         # how many cores it kept busy
    rss: int             # bytes, at the end of the load
    anonymous: int


def require_wrk():
    if not shutil.which("wrk"):
        raise Failure("wrk makes the load, and is not installed (Debian: apt install wrk)")


def load(url, placement, *, connections, seconds, script=SCRIPT):
    """What wrk measured. Anything that was not answered, or not well, is a failure."""
    threads = min(placement.load_threads, connections)
    command = placement.load(
        ["wrk", f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script), url])
    done = subprocess.run(command, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines or not lines[-1].startswith("{"):
        raise Failure(f"wrk failed on {url}: {done.stdout}{done.stderr}")
    said = json.loads(lines[-1])
    if any(said["errors"].values()) or not said["requests"]:
        raise Failure(f"{url} was not answered well: {lines[-1]}")
    return said


def measure(server, url, placement, *, connections, seconds, script=SCRIPT):
    """Loads `url`, which `server` serves, and reads what that cost it."""
    before = account.cpu_seconds(server.pid)
    said = load(url, placement, connections=connections, seconds=seconds, script=script)
    cpu = account.cpu_seconds(server.pid) - before
    if server.process.poll() is not None:
        raise Failure(f"{server.launch.name} ended under load")
    memory = account.memory(server.pid)
    elapsed = said["duration"] / 1e6
    return Measurement(
        requests=said["requests"], rate=said["requests"] / elapsed, p50=said["p50"], p99=said["p99"], p999=said["p999"],
        cpu=cpu / said["requests"] * 1e6, cores=cpu / elapsed, rss=memory.rss, anonymous=memory.anonymous,
    )
