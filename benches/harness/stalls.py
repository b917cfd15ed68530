"""Thousands of connections that stall, while others are served: whether each is closed in its time, and what that costs the others."""

import contextlib
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

from harness import account, contenders, many, servers
from harness.load import SCRIPT, load, measure
from harness.project import Failure, say
from harness.rounds import PLACEMENTS
from harness.sweeps import app, function, guest

SHARED = PLACEMENTS["shared"]
STALLED = pathlib.Path(__file__).with_name("stalled.py")
PACED = pathlib.Path(__file__).with_name("paced.lua")
CONNECTIONS = 5000
WAVES = 3
SECONDS = 4
# The load beside them: so many requests in a second, by so many clients.
RATE = 4000
CLIENTS = 32
# How long the host may take, behind the last end that a client saw, to be rid of all that it had of them.
RID_SECONDS_MAX = 20
# How long after that memory is looked at: the host gives it back when for half a minute, in parts of ten seconds, it was not wanted.
BACK_SECONDS = 45
TIMEOUTS = {"header-timeout": 15, "body-timeout": 17, "idle-timeout": 19, "write-timeout": 21}


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to stall, and what of the host's ends it."""

    name: str
    what: str
    timeout: str
    schemes: tuple = ("http", "https")


WAYS = (
    Way("handshake", "half a handshake", "header-timeout", ("https",)),
    Way("silent", "no byte is sent", "header-timeout"),
    Way("line", "half a request line", "header-timeout"),
    Way("drip", "a head without end, a byte a second", "header-timeout"),
    Way("upload", "an upload stops", "body-timeout"),
    Way("idle", "nothing more is asked", "idle-timeout"),
    Way("reader", "an answer is not read", "write-timeout"),
)
# What `stalled.py` tells besides.
GONE = Way("gone", "… and the kernel gives up what it was to send", "write-timeout")
SPOKEN = {"http": "HTTP", "https": "TLS 1.3"}
NOTE = (
    f"Stalled: {CONNECTIONS:,} connections by one process that hardly computes, as many of each way; how late each was closed behind its "
    "timeout, which counts from the connection or, with TLS, from the end of the handshake for what never finishes a head; from the last "
    "byte for an upload; from sending the request for what asks nothing more, and for what does not read. Closed means that the client "
    "sees an end or a reset; to one that does not read none can come, so there it is the host's end that is closed, and then, when the kernel gives up "
    "what was not taken, gone (looked for ten times a second). No client closes; when the host has no descriptor left of them is "
    f"\"rid of all\". The load beside them is hello with {CLIENTS} connections at {RATE:,} requests/s for {SECONDS} s, "
    f"during each of {WAVES} waves, and before and behind it, which p99 is held against; a failure would end the sweep. Memory is PSS behind such a "
    f"load, {BACK_SECONDS} s after a wave, and before the first as long after the start. Uploads go to a guest that waits for them, and answers come from one that writes for ever, so "
    "a third of the connections has a sandbox each; `concurrency` is 2,000, and all other limits are as they come."
)


def described(build, name, tls):
    """An app with what is asked here, and with these timeouts."""
    settings = "concurrency = 2000\n" + "".join(f'{key} = "{seconds}s"\n' for key, seconds in TIMEOUTS.items())
    many_at_once = '[functions.{}.limits]\nconcurrency = 1000\ntimeout = "10m"\ncpu = "5m"\n'
    return app(name, settings + tls
               + function("hello", contenders.component(build, "0.2"), "/hello")
               + function("echo", guest(build, "echo"), "/echo", many_at_once.format("echo"))
               + function("misbehave", guest(build, "misbehave"), "/misbehave/{*rest}", many_at_once.format("misbehave")))


def rows(build, scheme, tls):
    """What came of all waves over `scheme`."""
    name = f"edge-{scheme}"
    os.environ["FNHOST_BENCH_DONE"] = str(SCRIPT)
    os.environ["FNHOST_BENCH_DELAY_MS"] = f"{CLIENTS / RATE * 1000:.2f}"
    ways = [way for way in WAYS if scheme in way.schemes]
    launch = contenders.host_of(build, name, described(build, name, tls), scheme=scheme)
    # A start that compiles leaves more memory behind than others, which a wave would be held against.
    with servers.running(launch, SHARED):
        pass
    with servers.running(launch, SHARED) as server:
        url = server.url(path="/hello")
        measure(server, url, SHARED, connections=64, seconds=SECONDS)
        # As behind each wave: what the start and the first load had goes back first, or a wave is held against what it did not cost.
        time.sleep(BACK_SECONDS)
        alone, memory, waves = [p99(url)], [account.proportional(server.pid)], []
        at_once = []
        for number in range(WAVES):
            say(f"{SPOKEN[scheme]}: wave {number + 1} of {WAVES}")
            waves.append(wave(server, url, scheme, ways))
            at_once.append(account.proportional(server.pid))
            time.sleep(BACK_SECONDS)
            # As before the first: behind a load, which has an allocator give back what it kept.
            alone.append(p99(url))
            memory.append(account.proportional(server.pid))
    spoken = SPOKEN[scheme]
    return [*(closed_row(spoken, way, waves) for way in ways), closed_row(spoken, GONE, waves), *cost_rows(spoken, waves, alone, memory, at_once)]


@dataclasses.dataclass(frozen=True)
class Wave:
    """What one wave came to."""

    during: float    # hello's p99, microseconds
    opened: float    # seconds
    late: dict       # for each way, how late each was closed; nothing for what never was
    rid: float       # seconds from the last end until the host had nothing of them
    computed: tuple  # CPU seconds that the host and the process that stalls took each second that all stood still, without the load


def p99(url):
    return load(url, SHARED, connections=CLIENTS, seconds=SECONDS, script=PACED)["p99"]


def wave(server, url, scheme, ways):
    idle = many.descriptors(server.pid)
    with stalling(server, scheme, ways) as staller:
        told = answer(staller)
        if told["until_first"] < SECONDS + 2:
            raise Failure(f"it took {told['took']:.1f} s until all stood still, so that the load would not see all of them")
        computed = idle_cores(server, staller)
        during = p99(url)
        late = answer(staller)
        rid = seconds_until(lambda: many.descriptors(server.pid) <= idle, RID_SECONDS_MAX)
    for way in ways:
        early = [each for each in late[way.name] if each is not None and each < -0.1]
        if early:
            raise Failure(f"{way.what}: {len(early)} were closed up to {-min(early):.2f} s before their time")
    return Wave(during, told["took"], late, rid, computed)


def idle_cores(*processes):
    """What each of them computes in a second in which nothing is asked."""
    before = [account.cpu_seconds(each.pid) for each in processes]
    time.sleep(1)
    return tuple(account.cpu_seconds(each.pid) - used for each, used in zip(processes, before))


@contextlib.contextmanager
def stalling(server, scheme, ways):
    each = CONNECTIONS // len(ways)
    listed = [{"name": way.name, "timeout": TIMEOUTS[way.timeout], "source": f"127.0.1.{number + 1}",
               "count": each + (number < CONNECTIONS % len(ways))} for number, way in enumerate(ways)]
    wanted = json.dumps({"port": server.ports["http"], "tls": scheme == "https", "ways": listed})
    process = subprocess.Popen([sys.executable, "-B", str(STALLED), wanted], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               text=True)
    try:
        yield process
        process.stdin.close()
        process.wait(timeout=30)
    finally:
        process.kill()
        process.wait()


def answer(staller):
    line = staller.stdout.readline()
    if not line:
        raise Failure("the process that stalls has failed; what it said is above")
    return json.loads(line)


def seconds_until(holds, most):
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > most:
            return float("inf")
        time.sleep(0.05)
    return time.monotonic() - began


def closed_row(spoken, way, waves):
    all_of_them = [each for wave in waves for each in wave.late[way.name]]
    late = [each for each in all_of_them if each is not None]
    never = len(all_of_them) - len(late)
    seen = f"{max(late):+.2f} s" if late and not never else f"{never} never"
    return (f"{spoken}: {way.what}", f"{len(all_of_them):,} × {way.timeout} {TIMEOUTS[way.timeout]} s", "+1 s at the most", seen,
            f"{min(late):+.2f} to {max(late):+.2f} s" if late else "")


def cost_rows(spoken, waves, alone, memory, at_once):
    """`alone` is hello's p99 around each wave, `memory` that of the host a while after it, and `at_once` right behind it."""
    ratios = [2 * wave.during / (before + behind) for wave, before, behind in zip(waves, alone, alone[1:])]
    rid, opened = [wave.rid for wave in waves], [wave.opened for wave in waves]
    return [
        (f"{spoken}: hello's p99 beside them", f"{statistics.median(alone):,.0f} µs ({min(alone):,.0f} to {max(alone):,.0f})", "2 × at the most",
         f"{statistics.median(ratios):.2f} ×", f"{min(ratios):.2f} to {max(ratios):.2f} ×"),
        memory_row(f"{spoken}: memory {BACK_SECONDS} s afterwards", memory[0], "within 10%", memory[1:]),
        memory_row(f"{spoken}: … and right behind the last end", memory[0], "", at_once),
        (f"{spoken}: rid of all, behind the last end", "", "", f"{statistics.median(rid):.1f} s", f"{min(rid):.1f} to {max(rid):.1f} s"),
        *((f"{spoken}: CPU of {who} while all stand still", "", "", f"{statistics.median(each):.0%} of a core", f"{min(each):.0%} to {max(each):.0%}")
          for who, each in zip(("the host", "the clients"), zip(*(wave.computed for wave in waves)))),
        (f"{spoken}: until all stood still", "", "", f"{statistics.median(opened):.1f} s", f"{min(opened):.1f} to {max(opened):.1f} s"),
    ]


def memory_row(what, before, wanted, behind):
    grown = [each / before - 1 for each in behind]
    return (what, f"{before / 2**20:.1f} MiB", wanted, f"{grown[-1]:+.1%}", f"{min(grown):+.1%} to {max(grown):+.1%}")
