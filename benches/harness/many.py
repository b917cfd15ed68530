"""Thousands of distinct components, compiled as if each had been: what an app of many functions is on disk.

A component stays itself with a custom section more (WebAssembly core specification, 5.5.3), and its sha256 does not; a
custom section makes no code, so the compiled code of each is that of the first. Each gets files of its own all the same,
so nothing is shared that would not be.
"""

import hashlib
import os
import re

from harness import contenders, servers
from harness.project import CACHE

FOLDER = CACHE / "many"


def custom_section(text):
    """Section 0: its size, the name `n`, and `text`; short enough for sizes of one byte."""
    payload = b"\x01n" + text
    return bytes([0, len(payload)]) + payload


def prepare(build, count, placement):
    """A functions.toml of `count` functions, with all of their components and compiled code in place."""
    components = FOLDER / "components"
    compiled = FOLDER / "state/compiled"
    components.mkdir(parents=True, exist_ok=True)
    base = contenders.component(build, "0.2").read_bytes()
    number_of = lambda number: base + custom_section(f"{number:08}".encode())
    first = components / "0.wasm"
    write_if_other(first, number_of(0))
    with servers.running(contenders.host_of(build, "many-first", write_manifest(1)), placement):
        pass
    digest = hashlib.sha256(number_of(0)).hexdigest()
    stem = next(path.stem for path in compiled.glob(f"{digest}-*.note"))
    code, note = (compiled / f"{stem}.cwasm").read_bytes(), (compiled / f"{stem}.note").read_bytes()
    for number in range(count):
        text = number_of(number)
        write_if_other(components / f"{number}.wasm", text)
        own = hashlib.sha256(text).hexdigest() + stem[len(digest):]
        for suffix, content in ((".cwasm", code), (".note", note)):
            path = compiled / (own + suffix)
            if not path.exists() or path.stat().st_size != len(content):
                path.write_bytes(content)
    return write_manifest(count)


def write_if_other(path, content):
    if not path.exists() or path.stat().st_size != len(content):
        path.write_bytes(content)


def write_manifest(count):
    lines = ['name = "many"', "", "[host]", 'state = "state"']
    for number in range(count):
        lines += [f"[functions.f{number}]", f'component = "components/{number}.wasm"', f'routes = ["/f{number}"]']
    path = FOLDER / f"functions-{count}.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def cold_start_micros(headers):
    """`store` and `instantiate` of one answer, from its Server-Timing."""
    phases = dict(re.findall(r"(\w+);dur=([\d.]+)", headers["server-timing"]))
    return (float(phases["store"]) + float(phases["instantiate"])) * 1000


def mappings(pid):
    with open(f"/proc/{pid}/maps", "rb") as maps:
        return sum(1 for _ in maps)


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))
