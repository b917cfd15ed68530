"""What a deploy costs those who are being served, and how long it takes."""

import http.client
import json
import os
import pathlib
import statistics
import subprocess
import threading
import time

from harness import build as builds
from harness import contenders, servers
from harness.load import SCRIPT, load
from harness.project import CACHE, Failure, say
from harness.rounds import PLACEMENTS
from harness.sweeps import Table, guest

DEPLOYS = 200
CONNECTIONS = 64
PACED = pathlib.Path(__file__).with_name("paced.lua")
FOLDER = CACHE / "sweeps/deploys"
ANSWERS = ("/hello", "/stream?count=20&interval-ms=20")


def deploys(build):
    """Deploys in a row, each with a component that is compiled, while clients ask: on connections that they keep, on new
    ones, and for streams."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    state = FOLDER / "state"
    subprocess.run(["rm", "-rf", str(state)], check=True)
    command = (builds.host(build, "release"), "up", "--state", state, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    ports = {"http": r"listening on http://127\.0\.0\.1:(\d+)\n", "admin": r"admin on http://127\.0\.0\.1:(\d+)\n"}
    launch = servers.Launch("sweep-deploys", command, ports, mute=True)
    with servers.running(launch, PLACEMENTS["shared"]) as server:
        project = Project(build, server)
        project.deploy(0)
        url = server.url(path=ANSWERS[0])
        most = statistics.median(load(url, PLACEMENTS["shared"], connections=CONNECTIONS, seconds=5)["requests"] / 5
                                 for _ in range(3))
        os.environ["FNHOST_BENCH_DONE"] = str(SCRIPT)
        os.environ["FNHOST_BENCH_DELAY_MS"] = f"{CONNECTIONS / (most / 2) * 1000:.2f}"
        rows, taken = [], []
        clients = Clients(server)
        for number, deploying in enumerate([False, True, False, True, False, True]):
            said, times = paced(project, url, number, deploying)
            taken += times
            rows.append(("with" if deploying else "without", f"{said['requests'] / said['duration'] * 1e6:,.0f}",
                         *(f"{said[key]:,.0f}" for key in ("p50", "p99", "p999")), str(len(times)), "0"))
        failures, asked, streamed = clients.stop()
        unchanged = [project.timed_deploy() for _ in range(20)]
        back = project.timed_rollbacks(20)
    if failures:
        raise Failure(f"{len(failures)} requests failed, such as {failures[0]}")
    median = statistics.median
    note = (
        f"{len(taken)} deploys, each with a component of its own, one after the other, in three of six stretches of load: "
        f"{CONNECTIONS} connections that are kept, at half of the {most:,.0f} requests/s that the host does with them; beside "
        f"them {asked:,} requests on new connections each, and {streamed} streams of 20 events, of which none failed; a "
        f"stretch with a failure would end the sweep. A deploy took {median(taken) * 1000:.0f} ms (at most "
        f"{max(taken) * 1000:.0f}), from the start of the command to its end; one of an app that has not changed "
        f"{median(unchanged) * 1000:.0f} ms (at most {max(unchanged) * 1000:.0f}); going back, from the request to the first "
        f"answer of the old release, {median(back) * 1000:.1f} ms (at most {max(back) * 1000:.1f}).")
    return Table(("deploys", "requests/s", "p50 µs", "p99 µs", "p99.9 µs", "deploys done", "failures"), rows, note)


def paced(project, url, number, deploying):
    """One stretch: what wrk measured, and how long each deploy in it took."""
    seconds = 45 if deploying else 15
    said, failed = {}, []

    def work():
        try:
            said.update(load(url, PLACEMENTS["shared"], connections=CONNECTIONS, seconds=seconds, script=PACED))
        except Failure as failure:
            failed.append(failure)

    say(f"deploys: stretch {number + 1} of 6")
    thread = threading.Thread(target=work)
    thread.start()
    began, taken = time.monotonic(), []
    share = DEPLOYS // 3 + (1 if deploying else 0)
    while deploying and len(taken) < share:
        taken.append(project.deploy(number * 1000 + len(taken) + 1))
    if time.monotonic() - began > seconds - 1:
        raise Failure(f"{share} deploys took longer than the load of {seconds} s")
    thread.join()
    if failed:
        raise failed[0]
    return said, taken


class Project:
    """An app that is deployed again and again, by the command."""

    def __init__(self, build, server):
        self.host = builds.host(build, "release")
        self.server = server
        self.hello = contenders.component(build, "0.2").read_bytes()
        self.stream = guest(build, "stream")
        self.token = (FOLDER / "state/admin-token").read_text().strip()

    def write(self, number):
        # A custom section makes it another component.
        text = f"{number:08}".encode()
        (FOLDER / "hello.wasm").write_bytes(self.hello + bytes([0, len(text) + 2, 1]) + b"n" + text)
        (FOLDER / "functions.toml").write_text(
            'name = "deploys"\n[functions.hello]\ncomponent = "hello.wasm"\nroutes = ["/hello"]\n'
            f'env = {{ NUMBER = "{number}" }}\n'
            f'[functions.stream]\ncomponent = "{self.stream}"\nroutes = ["/stream"]\n')

    def deploy(self, number):
        self.write(number)
        return self.timed_deploy()

    def timed_deploy(self):
        """Seconds that `fnhost deploy` took."""
        began = time.monotonic()
        command = [str(self.host), "deploy", "--to", self.server.url("admin", "")]
        done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True,
                              env=os.environ | {"FNHOST_ADMIN_TOKEN": self.token})
        if done.returncode != 0:
            raise Failure(f"a deploy failed: {done.stderr}")
        return time.monotonic() - began

    def timed_rollbacks(self, count):
        """Seconds from asking for the old release to its first answer, on a connection that is there."""
        taken = []
        number = self.releases()[0]
        admin = http.client.HTTPConnection("127.0.0.1", self.server.ports["admin"], timeout=30)
        client = http.client.HTTPConnection("127.0.0.1", self.server.ports["http"], timeout=30)
        for attempt in range(count):
            to = number - 1 - attempt % 2
            began = time.monotonic()
            admin.request("POST", "/v1/apps/deploys/rollback", json.dumps({"to": to}),
                          {"Authorization": f"Bearer {self.token}"})
            answer = admin.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise Failure(f"going back failed: {text!r}")
            client.request("GET", "/hello")
            first = client.getresponse()
            if first.status != 200 or first.read() != contenders.BODY:
                raise Failure(f"the first answer was {first.status}")
            taken.append(time.monotonic() - began)
        return taken

    def releases(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.ports["admin"], timeout=30)
        connection.request("GET", "/v1/apps/deploys/releases", headers={"Authorization": f"Bearer {self.token}"})
        return [each["number"] for each in json.loads(connection.getresponse().read())["releases"]]


class Clients:
    """Clients beside the load: one that connects anew for each request, and one that reads streams."""

    def __init__(self, server):
        self.port = server.ports["http"]
        self.failures = []
        self.counts = [0, 0]
        self.done = threading.Event()
        self.threads = [threading.Thread(target=self.work, args=each) for each in enumerate(ANSWERS)]
        for thread in self.threads:
            thread.start()

    def work(self, index, path):
        while not self.done.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                text = answer.read()
                whole = text == contenders.BODY if index == 0 else text.count(b"data:") == 20
                if answer.status != 200 or not whole:
                    self.failures.append(f"{path}: {answer.status} {text[:100]!r}")
                self.counts[index] += 1
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(f"{path}: {error!r}")
            finally:
                connection.close()
            # It takes CPU time that the host and its load should have.
            time.sleep(0.01)

    def stop(self):
        self.done.set()
        for thread in self.threads:
            thread.join()
        return self.failures, *self.counts
