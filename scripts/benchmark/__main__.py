"""The benchmark's course: say how long it takes, visit every contestant, print and save. See scripts/bench."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from scripts.benchmark import mesh, outputs, plot, policy, report, routing, rules
from scripts.benchmark.contestants import CONTESTANTS, Place
from scripts.benchmark.load import LOADS, check_path
from scripts.benchmark.measures import (
    HTTP_MEASURES,
    HTTP_NAMES,
    MESH_MEASURE,
    MESH_NAMES,
    OURS,
    POLICY_MEASURE,
    ROUTES_MEASURE,
    TCP_MEASURES,
    Direction,
)
from scripts.benchmark.options import Options, parse
from scripts.benchmark.outputs import OutputError
from scripts.benchmark.profile import profile
from scripts.benchmark.report import Machine
from scripts.benchmark.results import Discarded, Results, Sample
from scripts.benchmark.stage import APP, TICKS, WORK, StageError, interrupt_on, run, stage

console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
RULE_ROUNDS = 7  # of a command that takes a fraction of a second
FAILURES = (
    OutputError,
    StageError,
    subprocess.TimeoutExpired,
    OSError,
)  # OSError: a process is gone, a tool missing


def main() -> int:
    """Run it; what was measured is saved even when it is interrupted."""
    options = parse(sys.argv[1:])
    if not WORK.is_dir():
        console.print("bench: run it as 'sudo scripts/bench', which makes the namespaces it works in")
        return 2
    interrupt_on(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (most, most)
    )  # two descriptors a connection, in every contestant
    machine = describe_machine(options)
    for line in machine.lines():
        console.print(line, markup=False)
    console.print(
        f"\nThis takes about {options.estimated_seconds() / 60:.1f} minutes. Ctrl-C ends it and keeps what was measured."
    )
    results = Results()
    began = time.monotonic()
    status = 0
    try:
        for number, direction, name in options.visits():
            visit(results, options, number, direction, name)
        if options.rules:
            console.print("rules")
            try:
                results.rules += rules.measure(RULE_ROUNDS)
            except FAILURES as error:
                console.print(f"No timing of rules: {error}", markup=False)
        if options.profile:
            try:
                profile(options, console)
            except FAILURES as error:
                console.print(f"No profile: {error}", markup=False)
    except KeyboardInterrupt:
        console.print("\nInterrupted: this is what was measured until then.")
        status = 1
    save(results, options, machine)
    console.print(
        f"{time.monotonic() - began:.0f} s. Saved: {options.output}/results.json, report.md, plot.svg"
    )
    return status


def visit(results: Results, options: Options, number: int, direction: Direction, name: str) -> None:
    """One contestant, one direction, once: all measures. A failure is noted, and the next one has its turn."""
    console.print(f"round {number + 1}, {direction}, {name}:", end="")
    began = time.monotonic()
    for serving, group in ((False, TCP_MEASURES), (True, HTTP_MEASURES)):
        measures = [measure for measure in group if measure in options.measures]
        if measures and not (serving and name not in HTTP_NAMES):
            measure_all(results, options, (number, direction, name), measures, http=serving)
    if direction == options.directions[0]:
        measure_once(results, options, (number, direction, name))
    console.print(f" ({time.monotonic() - began:.1f} s)")


def measure_all(
    results: Results,
    options: Options,
    visited: tuple[int, Direction, str],
    measures: list[str],
    *,
    http: bool,
) -> None:
    """The measures for which a contestant is started once."""
    number, direction, name = visited
    measure = "start"
    try:
        with stage(name, direction, options.workers, http=http) as place:
            for measure in measures:
                console.print(f" {measure}", end="")
                try:
                    check_path(place)
                    load = LOADS[measure](place, options.seconds, options.idle)
                    results.samples += [
                        Sample(number, direction, name, metric, value) for metric, value in load
                    ]
                except FAILURES as error:
                    discard(results, Discarded(number, direction, name, measure, str(error)))
    except FAILURES as error:
        discard(results, Discarded(number, direction, name, measure, str(error)))


def measure_once(results: Results, options: Options, visited: tuple[int, Direction, str]) -> None:
    """What has no direction: two gateways with mutual TLS between them, policies, and routes."""
    number, direction, name = visited
    loads: dict[str, tuple[tuple[str, ...], Callable[[], Iterator[tuple[str, float]]]]] = {
        MESH_MEASURE: (MESH_NAMES, lambda: mesh.measure(name, options.seconds)),
        POLICY_MEASURE: ((OURS,), policy.measure),
        ROUTES_MEASURE: ((OURS,), lambda: routing.measure(options.seconds)),
    }
    for measure, (names, load) in loads.items():
        if measure not in options.measures or name not in names:
            continue
        console.print(f" {measure}", end="")
        try:
            results.samples += [Sample(number, direction, name, metric, value) for metric, value in load()]
        except FAILURES as error:
            discard(results, Discarded(number, direction, name, measure, str(error)))


def discard(results: Results, discarded: Discarded) -> None:
    """Keep the reason with the results, and say it now."""
    results.discarded.append(discarded)
    console.print(f" [discarded: {discarded.reason}]", end="", markup=False)


def describe_machine(options: Options) -> Machine:
    """The machine, the versions, and how busy it is with nothing of ours running."""

    def times() -> tuple[float, float]:
        text = Path("/proc/stat").read_text()
        return outputs.busy_seconds(text, TICKS), outputs.total_seconds(text, TICKS)

    before = times()
    time.sleep(1)  # long enough for a figure of two digits at 100 ticks a second
    after = times()
    place = Place(WORK, WORK / "peers", WORK / "ours", APP)
    versions = {}
    for name in options.names:
        with contextlib.suppress(StageError, StopIteration):
            said = run(*CONTESTANTS[name].version(place)).splitlines()
            line = next(line.strip() for line in said if line.strip())
            versions[name] = line.rpartition("version: ")[2]
    for tool in ("wrk", "iperf3"):
        versions[tool] = version_of(tool)
    if commit := commit_of_ours():
        versions[OURS] = f"{versions.get(OURS, '')} ({commit})".strip()
    processors = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    return Machine(
        cpus=len(os.sched_getaffinity(0)),
        processor=processors[0].partition(": ")[2] if processors else platform.machine(),
        memory_gb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
        kernel=platform.release(),
        congestion_control=Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
        busy_before=(after[0] - before[0]) / (after[1] - before[1]),
        versions=versions,
    )


def version_of(tool: str) -> str:
    """The first line a tool says of itself: wrk ends with status 1 when asked."""
    said = subprocess.run([tool, "--version"], check=False, capture_output=True, text=True, timeout=10)
    return (said.stdout or said.stderr).splitlines()[0].strip()


def commit_of_ours() -> str | None:
    """Which commit was measured, where this is a checkout."""
    with contextlib.suppress(StageError):
        return run("git", "-c", "safe.directory=*", "describe", "--always", "--dirty").strip()
    return None


def save(results: Results, options: Options, machine: Machine) -> None:
    """Print the tables; write the files."""
    for direction in options.directions:
        if results.metrics(direction):
            console.print(
                f"\n{direction}: medians of {options.rounds} round(s), in brackets the ratio us/peer"
            )
            console.print(report.terminal(results, direction, options.workers))
    for line in report.timings(results):
        console.print(line, markup=False)
    for note in report.notes(results):
        console.print(f"- {note}", markup=False)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "results.json").write_text(report.as_json(results, options, machine))
    (options.output / "report.md").write_text(report.markdown(results, options, machine))
    (options.output / "plot.svg").write_text(plot.svg(results, options.directions))


if __name__ == "__main__":
    sys.exit(main())
