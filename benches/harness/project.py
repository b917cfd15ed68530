"""Where things are, and how this package runs what it runs: paths, failures, commands that must succeed, once each."""

import hashlib
import pathlib
import shlex
import subprocess
import sys

PROJECT = pathlib.Path(__file__).resolve().parent.parent.parent
BENCHES = PROJECT / "benches"
TARGET = PROJECT / "target"
# All that is installed or generated, and nothing else's.
CACHE = TARGET / "compare"


class Failure(Exception):
    """What ends a run: said on stderr, without a traceback."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def run(command, *, cwd=PROJECT, quiet=False):
    """Runs a command that must succeed. With `quiet`, its output is shown only if it does not."""
    command = [str(part) for part in command]
    try:
        done = subprocess.run(
            command, cwd=cwd, text=True,
            stdout=subprocess.PIPE if quiet else sys.stderr, stderr=subprocess.STDOUT if quiet else None,
        )
    except FileNotFoundError:
        raise Failure(f"`{command[0]}` is not installed") from None
    if done.returncode != 0:
        raise Failure(f"failed: {shlex.join(command)}\n{done.stdout or ''}")
    return done.stdout


def output_of(command, *, cwd=PROJECT):
    """The stdout of a command that must succeed."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"failed: {shlex.join(map(str, command))}\n{done.stderr}")
    return done.stdout.strip()


def once(stamp, inputs, make):
    """Calls `make`, unless it was called with the same input files before; `stamp` remembers."""
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in inputs)).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return
    make()
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(digest)
