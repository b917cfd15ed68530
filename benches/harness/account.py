"""What the kernel accounts to a server: CPU time and memory of a process and all its descendants, from proc(5)."""

import dataclasses
import os
import pathlib

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True)
class Memory:
    """Resident bytes: all, and those that no file backs."""

    rss: int
    anonymous: int


def family(pid):
    """The process, and all its descendants that live."""
    children = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = stat_fields(entry.name)
            if fields:
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for parent in found:
        found.extend(children.get(parent, []))
    return found


def stat_fields(pid):
    """The fields of /proc/PID/stat from the third on; nothing if the process is gone."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def cpu_seconds(pid):
    """User and system time of the whole family, with the children that were waited for (fields 14 to 17)."""
    return sum(sum(map(int, stat_fields(each)[11:15])) for each in family(pid)) / CLOCK_TICKS


def memory(pid):
    rss = anonymous = 0
    for each in family(pid):
        try:
            lines = pathlib.Path(f"/proc/{each}/status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        wanted = (line.split() for line in lines if line.startswith(("VmRSS:", "RssAnon:")))
        kibibytes = {name: int(value) for name, value, _unit in wanted}
        rss += kibibytes.get("VmRSS:", 0) * 1024
        anonymous += kibibytes.get("RssAnon:", 0) * 1024
    return Memory(rss, anonymous)


def proportional(pid):
    """Resident bytes of one process (PSS), each page once: what many sandboxes map of one file is not many times as much."""
    rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) * 1024
