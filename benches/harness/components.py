"""Builds the components that are measured: in Rust, JavaScript and Python, each with the same 14 bytes to say."""

import json
import pathlib
import re
import shutil

from harness import build as builds
from harness.project import BENCHES, CACHE, TARGET, Failure, once, output_of, run, say

GUESTS = BENCHES / "guests"
RUST_TARGET = TARGET / "bench-guests"
MADE = CACHE / "components"


def rust(build, file):
    """A component of the workspace benches/guests."""
    command = ["cargo", "build", "--release", "--locked", "--target", "wasm32-wasip2",
               "--manifest-path", GUESTS / "Cargo.toml", "--target-dir", RUST_TARGET]
    return build.made(RUST_TARGET / "wasm32-wasip2/release" / file, lambda: run(command, quiet=True))


def javascript(build):
    """A component of StarlingMonkey, by componentize-js."""
    source = GUESTS / "js/hello.js"
    component = MADE / "hello_js.wasm"

    def make():
        tool = builds.npm_package(build, "@bytecodealliance/componentize-js/src/cli.js")
        engine = tool.parent.parent / "lib/starlingmonkey_embedding.wasm"
        wit = javascript_wit(engine.read_bytes())
        # Not `jco componentize`, which calls the same function and in 1.35 does not find the WIT (its file system's
        # fault); jco makes the component of the module all the same.
        make_once(component, [source, GUESTS / "js/package-lock.json", *sorted(wit.rglob("*.wit"))],
                  ["node", tool, source.name, "--wit", wit, "--world-name", "bindings", "-o", component],
                  cwd=source.parent)

    return build.made(component, make)


def python(build):
    """A component of CPython, by componentize-py."""
    source = GUESTS / "python/hello.py"
    component = MADE / "hello_py.wasm"

    def make():
        tool = builds.componentize_py(build)
        wit = wasi_http_wit()
        # A copy, for the tool leaves compiled Python beside what it is given.
        copy = CACHE / "python-source"
        copy.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, copy)
        make_once(component, [source, GUESTS / "python/requirements.txt", *sorted(wit.rglob("*.wit"))],
                  [tool, "-d", wit, "-w", "bindings", "componentize", source.stem, "-p", copy, "-o", component], cwd=copy)

    return build.made(component, make)


def make_once(component, inputs, command, cwd):
    """Runs a slow command unless its inputs are those that the component was made of."""

    def make():
        say(f"making {component.name}")
        run(command, cwd=cwd, quiet=True)

    MADE.mkdir(parents=True, exist_ok=True)
    once(component.with_suffix(".inputs"), inputs, make)


def wasi_http_wit():
    """The WIT of wasi:http 0.2 and all that it uses, with a world `bindings`, from the crate that the host uses."""
    packages = json.loads(output_of(["cargo", "metadata", "--format-version", "1", "--locked"]))["packages"]
    crate = next(package for package in packages if package["name"] == "wasmtime-wasi-http")
    copy = CACHE / "wit"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(pathlib.Path(crate["manifest_path"]).parent / "wit", copy)
    return copy


def javascript_wit(engine):
    """The same at the version that the JavaScript engine was built for: it exports that and no other."""
    found = re.search(rb"wasi:http/incoming-handler@(0\.2\.\d+)", engine)
    if not found:
        raise Failure("the JavaScript engine does not say which wasi:http it is for")
    version = found[1].decode()
    copy = CACHE / "wit-javascript"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(wasi_http_wit(), copy)
    for file in copy.rglob("*.wit"):
        text = re.sub(r"0\.2\.\d+", lambda at: min(at[0], version, key=patch), file.read_text())
        # The engine's own world has what this feature gates, and the two are merged.
        file.write_text(text.replace("@unstable(feature = network-error-code)\n", "\n"))
    return copy


def patch(version):
    return int(version.rpartition(".")[2])

