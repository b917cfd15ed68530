"""Who is compared: each contender, what it serves, how its server is started, and the pairs that matter."""

import dataclasses
import functools
import os

from harness import build as builds
from harness import components
from harness.project import BENCHES, CACHE, Failure
from harness.servers import Launch

BODY = b"Hello, world!\n"
FNHOST_HEADERS = ("x-request-id", "server-timing")

COMPONENTS = {
    "0.2": lambda build: components.rust(build, "hello_p2.wasm"),
    "0.3": lambda build: components.rust(build, "hello_p3.wasm"),
    "wstd": lambda build: components.rust(build, "hello-wstd.wasm"),
    "wstd-axum": lambda build: components.rust(build, "hello-wstd-axum.wasm"),
    "js": components.javascript,
    "py": components.python,
}


@functools.cache
def component(build, key):
    return COMPONENTS[key](build)


# By hand: a memory and a table stay mapped, up to these bounds (as much as the host keeps), and what was written is found
# by scanning the page map.
TUNED = ("-O", "pooling-allocator=y", "-O", f"pooling-memory-keep-resident={1 << 20}",
         "-O", f"pooling-table-keep-resident={64 << 10}", "-O", "pooling-pagemap-scan=y")


@dataclasses.dataclass(frozen=True)
class Contender:
    name: str
    kind: str               # axum, fnhost, wasmtime or workerd
    what: str
    component: str = ""     # a key of COMPONENTS
    options: tuple = ()     # of `wasmtime serve`, beyond what the component cannot do without
    profile: str = ""       # of cargo, if not the one that it is published or installed by

    @property
    def built_by(self):
        return self.profile or {"fnhost": "dist", "wasmtime": "release"}.get(self.kind, "")

    @property
    def panel(self):
        """Whom it can be drawn beside: one is a hundred times another."""
        return {"js": "JavaScript component", "py": "Python component"}.get(self.component, "Rust components, and peers")


CONTENDERS = [
    Contender("axum", "axum", "axum and hyper without Wasm: the floor"),
    Contender("fnhost-0.2", "fnhost", "crate wasip2, fresh sandbox", "0.2"),
    Contender("fnhost-0.3", "fnhost", "crate wasip3, fresh sandbox", "0.3"),
    Contender("fnhost-wstd", "fnhost", "crate wstd, fresh sandbox", "wstd"),
    Contender("fnhost-wstd-axum", "fnhost", "crate wstd-axum, fresh sandbox", "wstd-axum"),
    Contender("fnhost-0.2-release", "fnhost", "as fnhost-0.2, built without link-time optimisation",
              "0.2", profile="release"),
    Contender("fnhost-0.3-release", "fnhost", "as fnhost-0.3, built without link-time optimisation",
              "0.3", profile="release"),
    Contender("wasmtime-0.2", "wasmtime", "as it comes: fresh instance", "0.2"),
    Contender("wasmtime-0.2-tuned", "wasmtime", "tuned by hand: fresh instance", "0.2", TUNED),
    Contender("wasmtime-0.3", "wasmtime", "as it comes: an instance serves 128 requests", "0.3"),
    Contender("wasmtime-0.3-noreuse", "wasmtime", "fresh instance", "0.3", ("--max-instance-reuse-count", "1")),
    Contender("wasmtime-0.2-lto", "wasmtime", "as wasmtime-0.2, built with link-time optimisation", "0.2", profile="dist"),
    Contender("wasmtime-0.2-tuned-lto", "wasmtime", "as wasmtime-0.2-tuned, built with link-time optimisation", "0.2", TUNED,
              profile="dist"),
    Contender("wasmtime-0.3-lto", "wasmtime", "as wasmtime-0.3, built with link-time optimisation", "0.3", profile="dist"),
    Contender("wasmtime-0.3-noreuse-lto", "wasmtime", "as wasmtime-0.3-noreuse, built with link-time optimisation", "0.3",
              ("--max-instance-reuse-count", "1"), profile="dist"),
    Contender("wasmtime-wstd", "wasmtime", "as it comes: fresh instance", "wstd"),
    Contender("workerd", "workerd", "JavaScript, one warm isolate"),
    Contender("fnhost-js", "fnhost", "componentize-js, fresh sandbox", "js"),
    Contender("wasmtime-js", "wasmtime", "as it comes: fresh instance", "js"),
    Contender("wasmtime-js-tuned", "wasmtime", "tuned by hand: fresh instance", "js", TUNED),
    Contender("fnhost-py", "fnhost", "componentize-py, fresh sandbox", "py"),
    Contender("wasmtime-py", "wasmtime", "as it comes: fresh instance", "py"),
    Contender("wasmtime-py-tuned", "wasmtime", "tuned by hand: fresh instance", "py", TUNED),
]


@dataclasses.dataclass(frozen=True)
class Pair:
    """`ours` against `theirs`: how many times as cheap, and as fast; `goal` is for pinned mode."""

    ours: str
    theirs: str
    goal: float | None = None


PAIRS = [
    Pair("fnhost-0.2", "wasmtime-0.2", 3.2),
    Pair("fnhost-0.2", "wasmtime-0.2-tuned", 2.0),
    Pair("fnhost-0.2", "wasmtime-0.3", 1.2),
    Pair("fnhost-0.2", "workerd", 2.1),
    Pair("fnhost-0.2", "axum", 0.25),
    Pair("fnhost-0.3", "wasmtime-0.3-noreuse", 3.5),
    Pair("fnhost-0.3", "wasmtime-0.3", 1.0),
    Pair("fnhost-0.2", "wasmtime-0.2-lto"),
    Pair("fnhost-0.2", "wasmtime-0.2-tuned-lto"),
    Pair("fnhost-0.2", "wasmtime-0.3-lto"),
    Pair("fnhost-0.3", "wasmtime-0.3-noreuse-lto"),
    Pair("fnhost-0.3", "wasmtime-0.3-lto"),
    Pair("fnhost-0.2-release", "wasmtime-0.2"),
    Pair("fnhost-0.2-release", "wasmtime-0.2-tuned"),
    Pair("fnhost-0.3-release", "wasmtime-0.3-noreuse"),
    Pair("fnhost-wstd", "wasmtime-wstd"),
    Pair("fnhost-js", "wasmtime-js", 3.0),
    Pair("fnhost-js", "wasmtime-js-tuned"),
    Pair("fnhost-py", "wasmtime-py", 3.0),
    Pair("fnhost-py", "wasmtime-py-tuned"),
]


def add_other_build(program):
    """Another build of fnhost, to be compared with this one: what a change did."""
    builds.OTHERS["against"] = program
    for key in ("0.2", "0.3"):
        CONTENDERS.append(Contender(f"against-{key}", "fnhost", f"as fnhost-{key}, of another build", key, profile="against"))
        PAIRS.append(Pair(f"fnhost-{key}", f"against-{key}"))


def select(names):
    """The contenders of these names, in the order of the list; all of them for no name."""
    unknown = set(names) - {contender.name for contender in CONTENDERS}
    if unknown:
        known = ", ".join(contender.name for contender in CONTENDERS)
        raise Failure(f"no such contender: {', '.join(sorted(unknown))}; there are {known}")
    return [contender for contender in CONTENDERS if not names or contender.name in names]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A contender, and where its server has it."""

    contender: Contender
    launch: Launch
    path: str


def enter(contenders, build):
    """Builds all they need. All functions of one build of fnhost are served by one process, every other contender has its
    own."""
    hosts = {}
    for profile in (*builds.PROFILES, *builds.OTHERS):
        ours = {each.component: component(build, each.component)
                for each in contenders if each.kind == "fnhost" and each.built_by == profile}
        if ours:
            hosts[profile] = fnhost(build, "fnhost" if profile == "dist" else f"fnhost-{profile}", ours, profile)
    entries = []
    for each in contenders:
        launch = {"fnhost": lambda each: hosts[each.built_by], "axum": lambda _: floor(build), "workerd": lambda _: workerd(build),
                  "wasmtime": lambda each: wasmtime(build, each)}[each.kind](each)
        entries.append(Entry(each, launch, route(each.component) if each.kind == "fnhost" else "/"))
    return entries


def route(component):
    return f"/{component}"


def functions_toml(name, functions):
    """Writes an app: routes alone, and all else as it comes."""
    folder = CACHE / name
    folder.mkdir(parents=True, exist_ok=True)
    text = f'name = "{name}"\n\n[host]\nstate = "state"\n'
    for key, component in functions.items():
        text += f'\n[functions.hello-{key.replace(".", "-")}]\n'
        text += f'component = "{os.path.relpath(component, folder)}"\nroutes = ["{route(key)}"]\n'
    path = folder / "functions.toml"
    path.write_text(text)
    return path


def fnhost(build, name, functions, profile="dist"):
    """One host for these functions: component by the name that `route` makes its path of."""
    return host_of(build, name, functions_toml(name, functions), profile)


def host_of(build, name, toml, profile="dist", scheme="http"):
    """One host of an app, which says by its functions.toml whether it speaks TLS."""
    command = (builds.host(build, profile), "up", "-c", toml, "--no-build", "--listen", "127.0.0.1:0", "--admin", "off")
    # It has a line for each request to say; they are made and written, and not kept.
    return Launch(name, command, {"http": rf"listening on {scheme}://127\.0\.0\.1:(\d+)\n"}, mute=True, scheme=scheme)


def floor(build):
    return floor_of(build, "floor", functions_toml("floor", {"0.2": component(build, "0.2")}))


def floor_of(build, name, toml):
    """One process with a host of an app, and bare axum beside it."""
    ports = {"http": r"floor on http://127\.0\.0\.1:(\d+)\n", "fnhost": r"listening on http://127\.0\.0\.1:(\d+)\n"}
    return Launch(name, (builds.example(build, "floor"), toml), ports, mute=True)


def wasmtime(build, contender):
    # `-S cli`: even a component that only says hello imports wasi:cli, by its standard library.
    command = (builds.wasmtime(build, contender.built_by), "serve", "-S", "cli", "--addr", "127.0.0.1:0", *contender.options,
               component(build, contender.component))
    return Launch(contender.name, command, {"http": r"Serving HTTP on http://127\.0\.0\.1:(\d+)/"})


def workerd(build):
    command = (builds.workerd(build), "serve", BENCHES / "guests/workerd/config.capnp",
               "--socket-addr=http=127.0.0.1:0", "--control-fd=1")
    return Launch("workerd", command, {"http": r'"socket":"http","port":(\d+)'})
