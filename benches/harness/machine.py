"""What it ran on, and which versions of everything."""

import datetime
import json
import os
import pathlib
import re
import tomllib

from harness import build as builds
from harness.project import PROJECT, output_of


def machine():
    cpu = re.search(r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    total = int(re.search(r"MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())[1])
    return {
        "CPU": cpu[1] if cpu else os.uname().machine,
        "cores": str(os.cpu_count()),
        "memory": f"{total / 1024 / 1024:.1f} GiB",
        "kernel": f"{os.uname().sysname} {os.uname().release}",
        "load average at the start": f"{os.getloadavg()[0]:.2f}",
        "date": datetime.date.today().isoformat(),
    }


def versions():
    """Of what is installed; nothing is said of what this run did not need."""
    found = {"fnhost": commit()}
    for crate in ("axum", "hyper", "wasmtime"):
        found[f"{crate}, in fnhost" if crate == "wasmtime" else crate] = crate_version(PROJECT / "Cargo.lock", crate)
    wasmtime = builds.wasmtime_root("release") / "bin/wasmtime"
    if wasmtime.exists():
        found["wasmtime"] = builds.version_of([wasmtime, "--version"]).removeprefix("wasmtime ")
    found.update(npm_versions())
    requirements = builds.VENV / "installed"
    if requirements.exists():
        found["componentize-py"] = builds.version_of([builds.VENV / "bin/componentize-py", "--version"]).split()[-1]
    for crate in ("wasip2", "wasip3", "wstd", "wstd-axum"):
        found[crate] = crate_version(PROJECT / "benches/guests/Cargo.lock", crate)
    found["rustc"] = output_of(["rustc", "--version"]).removeprefix("rustc ").split()[0]
    found["wrk"] = builds.version_of(["wrk", "-v"]).removeprefix("wrk ").split()[0]
    return found


def commit():
    short = output_of(["git", "rev-parse", "--short", "HEAD"])
    changed = output_of(["git", "status", "--porcelain", "--", "src", "Cargo.toml", "Cargo.lock"])
    return f"{short}, with changes that are not committed" if changed else short


def crate_version(lock, crate):
    """The newest that the lock has: an older one is there for somebody else's sake."""
    packages = tomllib.loads(lock.read_text())["package"]
    found = [package["version"].split("+")[0] for package in packages if package["name"] == crate]
    return max(found, key=lambda version: [int(part) for part in re.findall(r"\d+", version)], default="unknown")


def npm_versions():
    lock = builds.NPM / "package-lock.json"
    if not (builds.NPM / "installed").exists():
        return {}
    packages = json.loads(lock.read_text())["packages"]
    names = ("workerd", "@bytecodealliance/jco", "@bytecodealliance/componentize-js")
    return {name.rpartition("/")[2]: packages[f"node_modules/{name}"]["version"] for name in names}
