"""The comparison itself: all servers up, answers checked, rounds of load there and back, ratios in each round."""

import contextlib
import dataclasses
import statistics

from harness import contenders, servers
from harness.load import measure
from harness.project import Failure, say

PLACEMENTS = {
    # One thread of the server on one core, the load on another: what repeats.
    "pinned": servers.Placement(server_cores="0", load_cores="1", worker_threads=1, load_threads=1),
    # Both on all cores: what threads of one process cost each other shows.
    "shared": servers.Placement(load_threads=2),
}
WARM_UP_SECONDS = 1


@dataclasses.dataclass
class Results:
    """What the rounds of one mode measured."""

    mode: str
    contenders: list
    rounds: list          # of {contender's name: Measurement}
    failures: dict        # contender's name: why it was not measured to the end

    def column(self, name, field):
        return [getattr(measured[name], field) for measured in self.rounds if name in measured]

    def median(self, name, field):
        return statistics.median(self.column(name, field))

    def ratios(self, pair):
        """Within each round: their CPU time by ours, and our requests/s by theirs."""
        both = [each for each in self.rounds if pair.ours in each and pair.theirs in each]
        cpu = [each[pair.theirs].cpu / each[pair.ours].cpu for each in both]
        rate = [each[pair.ours].rate / each[pair.theirs].rate for each in both]
        return cpu, rate

    def measured(self):
        return [each for each in self.contenders if self.column(each.name, "cpu")]


def compare(entries, mode, *, rounds, seconds, connections):
    placement = PLACEMENTS[mode]
    results = Results(mode, [entry.contender for entry in entries], [], {})
    with contextlib.ExitStack() as stack:
        # All are up at once and idle but one; which one, alternates.
        running = start_all(entries, placement, results, stack)

        def one(entry, seconds):
            server = running[entry.launch.name]
            url = server.url(path=entry.path)
            check(entry, url)
            return measure(server, url, placement, connections=connections, seconds=seconds)

        for entry in entries:
            attempt(results, entry, lambda entry: one(entry, WARM_UP_SECONDS))
        for number in range(rounds):
            say(f"{mode}: round {number + 1} of {rounds}")
            measured = {}
            for entry in entries if number % 2 == 0 else reversed(entries):
                measurement = attempt(results, entry, lambda entry: one(entry, seconds))
                if measurement:
                    measured[entry.contender.name] = measurement
            results.rounds.append(measured)
    return results


def start_all(entries, placement, results, stack):
    running = {}
    for entry in entries:
        if entry.launch.name not in running:
            say(f"starting {entry.launch.name}")

            def start(entry):
                return stack.enter_context(servers.running(entry.launch, placement))

            running[entry.launch.name] = attempt(results, entry, start)
        elif not running[entry.launch.name]:
            results.failures[entry.contender.name] = f"{entry.launch.name} did not start"
    return running


def attempt(results, entry, action):
    """What `action` makes of a contender that has not failed; a failure is said, kept, and the contender is out."""
    name = entry.contender.name
    if name in results.failures:
        return None
    try:
        return action(entry)
    except Failure as failure:
        results.failures[name] = str(failure)
        say(f"FAILED: {name}: {failure}")
        return None


def check(entry, url):
    """That the answer is the right one, whole, and by whom it should be."""
    status, headers, body = servers.ask(url)
    if status != 200 or body != contenders.BODY:
        raise Failure(f"{url} answered {status}, {body[:200]!r}")
    missing = [name for name in contenders.FNHOST_HEADERS if name not in headers]
    if entry.contender.kind == "fnhost" and missing:
        raise Failure(f"{url} answered without {', '.join(missing)}")
