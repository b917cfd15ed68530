"""What it costs to read and write through the host: key-value stores, and a database with a pool of connections."""

import contextlib
import os
import pathlib
import pwd
import shutil
import socket
import statistics
import subprocess
import tempfile
import time

from harness import build as builds, components, contenders, servers
from harness.load import SCRIPT, measure
from harness.project import Failure, say
from harness.rounds import PLACEMENTS
from harness.servers import Launch
from harness.sweeps import Table, app, function

SHARED = PLACEMENTS["shared"]
ROUNDS = 5
SECONDS = 4
SETS = pathlib.Path(__file__).with_name("sets.lua")
LISTEN = r"listening on http://127\.0\.0\.1:(\d+)\n"
POOL = 10


def rounds_of(running, connections, scripts=None):
    """Alternating loads of servers; for each its measurements."""
    os.environ["FNHOST_BENCH_DONE"] = str(SCRIPT)
    found = {name: [] for name in running}
    for number in range(ROUNDS + 1):
        say(f"round {number} of {ROUNDS}")
        for name in running if number % 2 == 0 else reversed(running):
            server, path = running[name]
            script = (scripts or {}).get(name, SCRIPT)
            each = measure(server, server.url(path=path), SHARED, connections=connections, seconds=SECONDS, script=script)
            # The first round warms up.
            found[name] += [each] if number else []
    return found


def rows_of(found, base):
    rows = []
    for name, measured in found.items():
        ratios = [each.rate / other.rate for each, other in zip(measured, found[base])]
        rows.append((name, f"{statistics.median(each.rate for each in measured):,.0f}", f"{statistics.median(ratios):.2f}",
                     f"{min(ratios):.2f} to {max(ratios):.2f}", f"{statistics.median(each.p50 for each in measured):,.0f}",
                     f"{statistics.median(each.p99 for each in measured):,.0f}",
                     f"{statistics.median(each.cpu for each in measured):.1f}"))
    return rows


HEADER = ("requests/s", "of the first", "least and most", "p50 µs", "p99 µs", "CPU µs/request of the server")


def stores(build):
    """Key-value gets and sets by guests, against a guest that only says hello."""
    kv = components.rust(build, "kv.wasm")
    hello = components.rust(build, "hello-wstd.wasm")
    toml = app("stores", "[stores.default]\n"
               + function("hello", hello, "/hello")
               + function("kv", kv, "/", 'stores = ["default"]\n'))
    with servers.running(contenders.host_of(build, "stores", toml), SHARED) as server:
        # The key that is read.
        subprocess.run(["curl", "-fsS", "-o", "/dev/null", server.url(path="/?key")], check=True)
        running = {"hello": (server, "/hello"), "get, embedded": (server, "/"), "set, embedded": (server, "/?set")}
        found = rounds_of(running, 64, {"set, embedded": SETS})
    return Table(("guest", *HEADER), rows_of(found, "hello"),
                 f"The crate `wstd`, `spin-sdk` for the store; 64 connections, host and load on two cores, {ROUNDS} alternating rounds "
                 f"of {SECONDS} s. Each set is a key of its own, and on the disk when it is answered.")


@contextlib.contextmanager
def postgres():
    """A PostgreSQL of its own, without a password, and its port."""
    programs = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))
    program = shutil.which("initdb") or (programs and programs[-1] / "initdb")
    if not program:
        raise Failure("PostgreSQL is not installed (Debian: apt install postgresql)")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="fnhost-bench-"))
    # It refuses to run as root.
    who = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
    if who:
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
    bin_folder = pathlib.Path(program).parent
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = lambda *command: subprocess.run([*who, *map(str, command)], check=True, capture_output=True, cwd=folder)
    run(bin_folder / "initdb", "-D", folder / "data", "-U", "postgres", "--auth=trust", "-N")
    server = subprocess.Popen([*who, str(bin_folder / "postgres"), "-D", str(folder / "data"), "-p", str(port), "-h", "127.0.0.1",
                               "-k", str(folder), "-c", "max_connections=600"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
    psql = lambda text: subprocess.run(["psql", "-qAt", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "-c", text],
                                       check=True, capture_output=True, text=True).stdout
    try:
        for attempt in range(100):
            try:
                psql("SELECT 1")
                break
            except subprocess.CalledProcessError:
                time.sleep(0.1)
        psql("CREATE TABLE greetings (id int PRIMARY KEY, text text NOT NULL)")
        psql("INSERT INTO greetings SELECT n, 'Hello, world!' || chr(10) FROM generate_series(1, 1000) AS n")
        yield port, psql
    finally:
        server.terminate()
        server.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


def databases(build):
    """500 requests at once that each ask a database: by the host's pool, by bare axum's, and by a connection of each guest's own."""
    query, sockets = components.rust(build, "query.wasm"), components.rust(build, "query-sockets.wasm")
    limits = "limits = { concurrency = 600, queue-wait = \"30s\" }\n"
    fitted = f"limits = {{ concurrency = {2 * POOL}, queue-wait = \"30s\" }}\n"
    with postgres() as (port, psql):
        url = f"postgres://postgres@127.0.0.1:{port}/postgres"
        toml = app("databases", f'[databases.main]\nurl = "{url}"\npool = {POOL}\n'
                   + function("query", query, "/", f'databases = ["main"]\n{limits}')
                   + function("fitted", query, "/fitted", f'databases = ["main"]\n{fitted}')
                   + function("hello", components.rust(build, "hello-wstd.wasm"), "/hello", limits)
                   + function("sockets", sockets, "/sockets",
                              f'outbound = ["tcp://127.0.0.1:{port}"]\nenv = {{ DATABASE = "127.0.0.1:{port}" }}\n{limits}'))
        axum = Launch("floor-query", (builds.example(build, "floor_query"), url, str(POOL)), {"http": LISTEN}, mute=True)
        with servers.running(axum, SHARED) as floor, servers.running(contenders.host_of(build, "databases", toml), SHARED) as host:
            running = {f"axum, pool of {POOL}": (floor, "/"),
                       f"fnhost, pool of {POOL}, `concurrency = 600`": (host, "/"),
                       f"fnhost, pool of {POOL}, `concurrency = {2 * POOL}`": (host, "/fitted"),
                       "fnhost, no query: it says hello": (host, "/hello"),
                       "fnhost, a connection for each request (wasi:sockets)": (host, "/sockets")}
            found = rounds_of(running, 500)
            held = psql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'").strip()
    base = next(iter(found))
    return Table(("500 requests at once", *HEADER), rows_of(found, base),
                 f"One row by its key from PostgreSQL, all on two cores: the load, the server, and the database. {ROUNDS} alternating "
                 f"rounds of {SECONDS} s. Client connections to the database at the end, both pools and the one that asks: {held}.")
