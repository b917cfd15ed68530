"""Builds the host and installs its peers, from package registries alone, into target/compare.

Each function is idempotent, and quick when there is nothing to do. With `Build(allowed=False)` nothing is built: what
is there is used, and what is not is a failure.
"""

import dataclasses
import functools
import shutil
import subprocess
import sys

from harness.project import BENCHES, CACHE, TARGET, Failure, once, run, say

WASMTIME_VERSION = "48.0.8"
NPM = CACHE / "npm"
VENV = CACHE / "python"


@dataclasses.dataclass(frozen=True)
class Build:
    """Whether what is missing or old may be built."""

    allowed: bool = True

    def made(self, path, make):
        """`path`, after `make` was called if it may be."""
        if self.allowed:
            make()
        if not path.exists():
            raise Failure(f"{path.name} is not at {path.parent}; run without --no-build")
        return path


# As binaries are published, and as `cargo run --release` and `cargo install` build.
PROFILES = ("dist", "release")
WASMTIME_CONFIG = {
    "release": (),
    "dist": ('profile.release.lto="fat"', "profile.release.codegen-units=1"),
}

# Builds of the host that were there before: their names, and their files.
OTHERS = {}


@functools.cache
def host(build, profile="dist"):
    if profile in OTHERS:
        return build.made(OTHERS[profile], lambda: None)
    command = ["cargo", "build", "--profile", profile, "--locked", "--bin", "fnhost"]
    return build.made(TARGET / profile / "fnhost", lambda: run(command))


@functools.cache
def example(build, name):
    """What the host is held against, or what loads it, of benches/NAME.rs."""
    command = ["cargo", "build", "--profile", "dist", "--locked", "--example", name]
    return build.made(TARGET / "dist/examples" / name, lambda: run(command))


def wasmtime_root(profile):
    return CACHE / ("wasmtime" if profile == "release" else f"wasmtime-{profile}")


@functools.cache
def wasmtime(build, profile="release"):
    """`wasmtime-cli` as `cargo install` builds it, or with what our profile `dist` changes of that."""
    root = wasmtime_root(profile)
    program = root / "bin/wasmtime"

    def install():
        if program.exists() and f" {WASMTIME_VERSION}" in version_of([program, "--version"]):
            return
        say(f"building wasmtime-cli {WASMTIME_VERSION} by the profile {profile}, which takes a while")
        run(["cargo", "install", "--locked", "--version", WASMTIME_VERSION, "wasmtime-cli", "--force",
             "--root", root, "--target-dir", CACHE / "build", *(f"--config={each}" for each in WASMTIME_CONFIG[profile])])

    return build.made(program, install)


def npm_package(build, path):
    """A file of the packages of benches/guests/js/package.json."""
    files = [BENCHES / "guests/js" / name for name in ("package.json", "package-lock.json")]

    def install():
        say("installing what is taken from npm")
        shutil.rmtree(NPM, ignore_errors=True)
        NPM.mkdir(parents=True)
        for file in files:
            shutil.copy(file, NPM)
        # Not `npm ci`: it refuses a lock without the optional packages of every other platform, and a registry need
        # not have those. The versions and hashes of the lock hold all the same.
        run(["npm", "install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=NPM, quiet=True)

    build.made(NPM / "node_modules", lambda: once(NPM / "installed", files, install))
    found = sorted((NPM / "node_modules").glob(path))
    if not found:
        raise Failure(f"npm did not install {path}: is there a package for this machine?")
    return found[0]


def workerd(build):
    # The program itself: what npm puts on the path may be a script that starts it.
    return npm_package(build, "@cloudflare/workerd-*/bin/workerd")


@functools.cache
def componentize_py(build):
    wanted = BENCHES / "guests/python/requirements.txt"

    def install():
        say("installing what is taken from PyPI")
        shutil.rmtree(VENV, ignore_errors=True)
        run([sys.executable, "-m", "venv", VENV], quiet=True)
        run([VENV / "bin/pip", "install", "--quiet", "--disable-pip-version-check", "-r", wanted], quiet=True)

    return build.made(VENV / "bin/componentize-py", lambda: once(VENV / "installed", [wanted], install))


def version_of(command):
    """The first line that a program says of its version; some end with an error all the same."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    return ((done.stdout or done.stderr).strip().splitlines() or ["unknown"])[0]
