"""What the edge costs and withstands: clients that stall, TLS against none, new handshakes, certificates that change under load."""

import contextlib
import json
import os
import signal
import socket
import ssl
import statistics
import subprocess
import threading
import time

from harness import account, build as builds, contenders, servers, stalls
from harness.load import SCRIPT, measure
from harness.project import CACHE, Failure, run, say
from harness.rounds import PLACEMENTS
from harness.servers import Launch
from harness.sweeps import Table, app, function

PINNED, SHARED = PLACEMENTS["pinned"], PLACEMENTS["shared"]
FOLDER = CACHE / "sweeps/edge-certificates"
ROUNDS = 5
SECONDS = 3
KEPT = 64
# New connections at once; more of them do not make more in a second.
NEW = 16
RELOADS = 100
# While certificates change: less than all that there is, for the host has to find time to read them.
KEPT_WHILE_RELOADED = 16
NEW_WHILE_RELOADED = 2
RELOAD_SECONDS_MAX = 30
LISTEN = r"listening on https://127\.0\.0\.1:(\d+)\n"


def edge(build):
    """Each measure of the edge, against what is wanted of it."""
    cert, key = certificate("one")
    tls = tls_of(cert, key)
    rows = [row for scheme in ("http", "https") for row in stalls.rows(build, scheme, tls if scheme == "https" else "")]
    kept = keep_alive(build, tls)
    new, kinds = new_handshakes(build, cert, key, tls)
    reloaded, note = reloads(build)
    return Table(("measure", "of, or against", "wanted", "seen", "least and most"), [*rows, *kept, *new, *reloaded],
                 f"{stalls.NOTE} TLS against none: hello 0.2, {KEPT} connections of wrk that are kept, a host each, one core for the "
                 f"server and one for the load, {ROUNDS} alternating rounds of {SECONDS} s; ratios are medians of those within each "
                 "round. New handshakes: `benches/handshakes.rs` makes connections of TLS 1.3, without resuming, with no request or one, "
                 f"as fast as a core can with {NEW} at once, placed and timed likewise; the bare server is `benches/floor_tls.rs`, which had "
                 f"{kinds}. Per core: what one would do that did nothing else, by its CPU time. Where the server's core was not busy, the load "
                 f"was the slower, and CPU time alone is to be believed. {note} Certificates are ECDSA P-256, made by openssl.")


def certificate(name):
    """A new certificate and its key."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    cert, key = FOLDER / f"{name}.pem", FOLDER / f"{name}.key"
    run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}",
         "-addext", "subjectAltName=DNS:edge", "-days", "100", "-keyout", key, "-out", cert], quiet=True)
    return cert, key


def tls_of(cert, key):
    return f'[host.tls]\ncertificates = [{{ cert = "{cert}", key = "{key}" }}]\n'


def host(build, name, tls):
    hello = function("hello", contenders.component(build, "0.2"), "/")
    return contenders.host_of(build, name, app(name, tls + hello), scheme="https" if tls else "http")


def keep_alive(build, tls):
    """hello by TLS against hello without, on connections that are kept."""
    found = {"https": [], "http": []}
    with contextlib.ExitStack() as stack:
        running = {"https": stack.enter_context(servers.running(host(build, "edge-kept-https", tls), PINNED)),
                   "http": stack.enter_context(servers.running(host(build, "edge-kept-http", ""), PINNED))}
        for number, name in alternating("kept connections", found):
            server = running[name]
            each = measure(server, server.url(), PINNED, connections=KEPT, seconds=SECONDS)
            found[name] += [each] if number else []
    pairs = list(zip(found["https"], found["http"]))
    return [ratio_row("TLS 1.3, kept connections: requests/s", f"no TLS: {median_of(found['http'], 'rate'):,.0f}/s", "0.8 × at the least",
                      [ours.rate / theirs.rate for ours, theirs in pairs]),
            ratio_row("TLS 1.3, kept connections: CPU time", f"no TLS: {median_of(found['http'], 'cpu'):.1f} µs", "",
                      [ours.cpu / theirs.cpu for ours, theirs in pairs])]


def alternating(what, names):
    """Rounds there and back, of which the first, number 0, warms up."""
    for number in range(ROUNDS + 1):
        say(f"{what}: round {number} of {ROUNDS}")
        for name in list(names) if number % 2 == 0 else list(reversed(names)):
            yield number, name


def median_of(measured, field):
    return statistics.median(getattr(each, field) for each in measured)


def ratio_row(what, against, wanted, ratios):
    return (what, against, wanted, f"{statistics.median(ratios):.2f} ×", f"{min(ratios):.2f} to {max(ratios):.2f} ×")


def new_handshakes(build, cert, key, tls):
    """New connections by the host against those by a bare server; rows, and what the bare one says of its handshakes."""
    floor = Launch("floor-tls", (builds.example(build, "floor_tls"), cert, key), {"http": LISTEN}, mute=True, scheme="https")
    found = {(requests, name): [] for requests in (0, 1) for name in ("host", "bare")}
    made = 0
    with contextlib.ExitStack() as stack:
        running = {"host": stack.enter_context(servers.running(host(build, "edge-new", tls), PINNED)),
                   "bare": stack.enter_context(servers.running(floor, PINNED))}
        for number, (requests, name) in alternating("new connections", found):
            server = running[name]
            before = account.cpu_seconds(server.pid)
            said = connect(build, server, PINNED, NEW, requests)
            cpu = account.cpu_seconds(server.pid) - before
            if said["failed"] or not said["answered"]:
                raise Failure(f"{name}: {said['failed']} of the new connections failed")
            made += said["answered"] if name == "bare" else 0
            found[requests, name] += [{"rate": said["answered"] / said["seconds"], "cpu": cpu / said["answered"] * 1e6,
                                       "cores": cpu / said["seconds"]}] if number else []
    kinds = (servers.LOGS / "floor-tls.stdout").read_text().splitlines()[-1]
    if {int(word) for word in kinds.replace(",", "").split() if word.isdigit()} != {made}:
        raise Failure(f"not each of {made} connections was a full handshake of TLS 1.3: {kinds}")
    return [row for requests in (0, 1) for row in handshake_rows(requests, found[requests, "host"], found[requests, "bare"])], kinds


def handshake_rows(requests, ours, bare):
    median = lambda measured, field: statistics.median(each[field] for each in measured)
    ratios = lambda field: [each[field] / other[field] for each, other in zip(ours, bare)]
    what = "handshakes and a request each" if requests else "handshakes"
    cpu = median(bare, "cpu")
    busy = f"{median(ours, 'cores'):.2f} of a core, bare {median(bare, 'cores'):.2f}"
    return [ratio_row(f"new {what}/s per core, by CPU time", f"bare rustls: {1e6 / cpu:,.0f}/s ({cpu:.0f} µs each)",
                      "" if requests else "0.8 × at the least", [1 / ratio for ratio in ratios("cpu")]),
            ratio_row(f"new {what}/s, as they came", f"bare rustls: {median(bare, 'rate'):,.0f}/s ({busy})", "", ratios("rate"))]


def connect(build, server, placement, connections, requests, seconds=SECONDS):
    """What became of new connections, with so many requests each."""
    numbers = map(str, (server.ports["http"], connections, seconds, requests))
    done = subprocess.run(placement.load([str(builds.example(build, "handshakes")), *numbers]), capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"the load of new connections failed: {done.stderr}")
    return json.loads(done.stdout)


def reloads(build):
    """Certificates replaced again and again, each seen before the next, under load on kept connections and on new ones."""
    pairs = [certificate(name) for name in ("odd", "even")]
    live = [FOLDER / "live.pem", FOLDER / "live.key"]
    replace(pairs[0], live)
    with servers.running(host(build, "edge-reloads", tls_of(*live)), SHARED) as server:
        with Kept(server) as kept, Resumed(server) as resumed, New(build, server) as new:
            time.sleep(1)
            taken = []
            for number in range(1, RELOADS + 1):
                replace(pairs[number % 2], live)
                taken.append(seconds_until_served(server, pairs[number % 2][0]))
                if number % 10 == 0:
                    say(f"{number} of {RELOADS} certificates were served")
        counts = {"kept": kept.counts, "resumed": resumed.counts, "new": new.counts}
    rows = [(f"{RELOADS} new certificates: requests that failed, {what}", f"{sum(counts[name]):,} requests", "0", f"{counts[name][1]:,}", "")
            for name, what in (("kept", "on kept connections"), ("new", "on new connections, full handshakes"),
                               ("resumed", "on new connections, resumed sessions"))]
    rows.append(("… until a handshake gets it", "", "", f"{statistics.median(taken):.2f} s", f"{min(taken):.2f} to {max(taken):.2f} s"))
    return rows, (f"Certificates that change: two by turns, the files of both renamed into place, and the next when a handshake had seen the last, "
                  f"while wrk asks on {KEPT_WHILE_RELOADED} connections that it keeps and on {NEW_WHILE_RELOADED} at once that resume sessions, and "
                  f"{NEW_WHILE_RELOADED} at once begin anew; a handshake that fails, an answer that is another, and an end that is not told are failures.")


def replace(pair, live):
    """As people do it: each is written beside, and then takes the place of the one that is there."""
    for file, place in zip(pair, live):
        beside = place.with_suffix(place.suffix + ".new")
        beside.write_bytes(file.read_bytes())
        os.replace(beside, place)


def seconds_until_served(server, cert):
    wanted = ssl.PEM_cert_to_DER_cert(cert.read_text())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    began = time.monotonic()
    while time.monotonic() - began < RELOAD_SECONDS_MAX:
        with socket.create_connection(("127.0.0.1", server.ports["http"]), timeout=10) as plain, context.wrap_socket(plain) as client:
            if client.getpeercert(binary_form=True) == wanted:
                return time.monotonic() - began
        time.sleep(0.01)
    raise Failure(f"a new certificate was not served within {RELOAD_SECONDS_MAX} s")


class Kept:
    """wrk, until it is told to stop; what it counted, answered and failed."""

    connections, headers = KEPT_WHILE_RELOADED, ()

    def __init__(self, server):
        self.command = ["wrk", "-t1", f"-c{self.connections}", "-d3600s", "--timeout", "10s", "-s", str(SCRIPT),
                        *self.headers, server.url()]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        said = json.loads(self.process.communicate(timeout=30)[0].strip().splitlines()[-1])
        # Of a status that is none of success wrk counts the request as well.
        self.counts = (said["requests"] - said["errors"]["status"], sum(said["errors"].values()))


class Resumed(Kept):
    """The same with a connection for each request. wrk resumes the sessions of those before."""

    connections, headers = NEW_WHILE_RELOADED, ("-H", "Connection: close")


class New:
    """New connections, one load after the other until the end of the context; what they came to, answered and failed."""

    def __init__(self, build, server):
        self.build, self.server = build, server
        self.ending = threading.Event()
        self.said, self.failed = [], []
        self.thread = threading.Thread(target=self.work)

    def work(self):
        try:
            while not self.ending.is_set():
                self.said.append(connect(self.build, self.server, SHARED, NEW_WHILE_RELOADED, 1, seconds=1))
        except Failure as failure:
            self.failed.append(failure)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ending.set()
        self.thread.join()
        if self.failed:
            raise self.failed[0]
        self.counts = tuple(sum(each[field] for each in self.said) for field in ("answered", "failed"))
