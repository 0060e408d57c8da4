"""What the tools and the kernel say, as numbers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final

WRK_MARK: Final = "bench: "  # in front of wrk.lua's line
TOLERATED_ERRORS: Final = 0.001  # of all requests; more, and the run measured something else


class OutputError(Exception):
    """A tool did not say what was expected: the run counts for nothing, and the report says why."""


@dataclass(frozen=True)
class Requests:
    """What wrk measured."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    connect_errors: int
    other_errors: int  # reading, writing, and answers that are not 2xx or 3xx
    timeouts: int

    def flaw(self) -> str | None:
        """Why this run is to be discarded, or None.

        Connections that could not be made are most often local ports that ran out: then the rate says how fast ports
        come back, not how fast the proxy is. Timeouts alone are slowness, which is what is measured.
        """
        if not self.requests:
            return "no request was answered"
        if self.connect_errors:
            return f"{self.connect_errors} connections could not be made (local ports exhausted?)"
        if self.other_errors > self.requests * TOLERATED_ERRORS:
            return f"{self.other_errors} of {self.requests} requests failed"
        return None


def parse_wrk(text: str) -> Requests:
    """The result of wrk, from the line that wrk.lua prints."""
    lines = [line.removeprefix(WRK_MARK) for line in text.splitlines() if line.startswith(WRK_MARK)]
    if len(lines) != 1:
        raise OutputError(f"wrk printed no result: {_last_line(text)}")
    said: dict[str, float] = json.loads(lines[0])
    return Requests(
        requests=int(said["requests"]),
        seconds=said["duration_us"] / 1e6,
        p50_ms=said["p50_us"] / 1e3,
        p99_ms=said["p99_us"] / 1e3,
        connect_errors=int(said["connect"]),
        other_errors=int(said["read"] + said["write"] + said["status"]),
        timeouts=int(said["timeout"]),
    )


def parse_h2load(text: str) -> float:
    """h2load's requests per second, where all of them succeeded."""
    rate = re.search(r"^finished in [^,]+, ([0-9.]+) req/s", text, re.MULTILINE)
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", text)
    if rate is None or counts is None or not int(counts[1]):
        raise OutputError(f"h2load printed no result: {_last_line(text)}")
    if any(int(counts[at]) for at in (2, 3, 4)):
        raise OutputError(f"h2load: {counts[0]}")
    return float(rate[1])


@dataclass(frozen=True)
class Bulk:
    """What iperf3's receiver got."""

    bytes: int
    seconds: float

    @property
    def gbit(self) -> float:
        return self.bytes * 8 / self.seconds / 1e9


def parse_iperf3(text: str) -> Bulk:
    """iperf3 --json: what was received, on whichever side received."""
    try:
        said = json.loads(text)
    except ValueError:
        raise OutputError(f"iperf3 printed no JSON: {_last_line(text)}") from None
    if error := said.get("error"):
        raise OutputError(f"iperf3: {error}")
    received: dict[str, float] = said["end"].get("sum_received", {})
    if not received.get("bytes") or not received.get("seconds"):
        raise OutputError("iperf3 received nothing")
    return Bulk(int(received["bytes"]), received["seconds"])


def busy_seconds(proc_stat: str, ticks: int) -> float:
    """CPU seconds spent by the whole machine, kernel threads and interrupts included, from /proc/stat.

    Not idle, not waiting for disks, and not what the host gave to other guests (steal); guest time is in user's.
    """
    user, nice, system, _idle, _iowait, irq, softirq, *_ = (
        int(field) for field in proc_stat.split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) / ticks


def total_seconds(proc_stat: str, ticks: int) -> float:
    """All CPU seconds there were, idle ones too."""
    return sum(int(field) for field in proc_stat.split("\n", 1)[0].split()[1:9]) / ticks


@dataclass(frozen=True)
class Process:
    """The parts of /proc/PID/stat we need."""

    pid: int
    parent: int
    cpu_seconds: float


def parse_process(stat: str, ticks: int) -> Process:
    """/proc/PID/stat; the name in it may hold spaces and parentheses."""
    pid, rest = stat.split(" (", 1)
    fields = rest.rsplit(") ", 1)[1].split()
    return Process(int(pid), int(fields[1]), (int(fields[11]) + int(fields[12])) / ticks)


def descendants(processes: list[Process], root: int) -> list[Process]:
    """A process and all below it."""
    members = {root}
    while found := {process.pid for process in processes if process.parent in members} - members:
        members |= found
    return [process for process in processes if process.pid in members]


def memory_mb(rollups: list[str]) -> float:
    """Resident memory of a contestant from its processes' smaps_rollup: RSS of one process, PSS where several share."""
    field = "Rss" if len(rollups) == 1 else "Pss"
    kilobytes = 0
    for rollup in rollups:
        match = re.search(rf"^{field}:\s+(\d+) kB$", rollup, re.MULTILINE)
        if not match:
            raise OutputError(f"the kernel does not tell {field} of a process")
        kilobytes += int(match[1])
    return kilobytes / 1024


def listening_ports(proc_net_tcp: str) -> set[int]:
    """The ports in state LISTEN (0A) of /proc/net/tcp or tcp6."""
    rows = (line.split() for line in proc_net_tcp.splitlines()[1:])
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"}


def redirected(saved: str, port: int) -> int:
    """How many connections the REDIRECT to a port took, from iptables-save -c."""
    return sum(
        int(found) for found in re.findall(rf"^\[(\d+):\d+\] .* --to-ports {port}$", saved, re.MULTILINE)
    )


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it printed nothing"])[-1]
