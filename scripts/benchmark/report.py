"""The result as a table for a terminal, as Markdown and as JSON: the same cells in each."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from rich.table import Table

from scripts.benchmark.contestants import CONTESTANTS
from scripts.benchmark.http_files import HTTP_FEATURES
from scripts.benchmark.measures import OURS

if TYPE_CHECKING:
    from scripts.benchmark.measures import Direction
    from scripts.benchmark.options import Options
    from scripts.benchmark.results import Results

EMPTY: Final = "-"


@dataclass(frozen=True)
class Machine:
    """What it was measured on, and how busy that was with other things just before."""

    cpus: int
    processor: str
    memory_gb: float
    kernel: str
    congestion_control: str  # cubic is Linux's default; bbr paces, which bulk feels
    busy_before: float  # 0 - 1
    versions: dict[str, str]

    def lines(self) -> list[str]:
        return [
            f"{self.cpus} CPUs ({self.processor}), {self.memory_gb:.0f} GB, Linux {self.kernel}, TCP {self.congestion_control}",
            f"{self.busy_before:.0%} busy with other things before the first run",
            *(f"{name}: {version}" for name, version in self.versions.items()),
        ]


def table(results: Results, direction: Direction, workers: int) -> tuple[list[str], list[list[str]]]:
    """Header and rows: for each peer its median and, in brackets, the ratio us/peer; on ingress the bar as well."""
    names = results.names()
    barred = direction == "ingress" and OURS in names and "envoy" in names
    header = ["", "unit", *names, *([f"bar, {workers} against {workers}"] if barred else [])]
    rows = []
    for metric in results.metrics(direction):
        cells = [_cell(results, direction, metric.key, name) for name in names]
        bars = ["; ".join(map(str, results.verdicts(metric)))] if barred else []
        rows.append([metric.title, metric.unit, *cells, *bars])
    return header, rows


def _cell(results: Results, direction: Direction, metric: str, name: str) -> str:
    value = results.median(direction, name, metric)
    if value is None:
        return EMPTY
    ratio = None if name == OURS else results.ratio(direction, metric, name)
    return number(value) + ("" if ratio is None else f" ({ratio:.2f})")


def number(value: float) -> str:
    """Three digits that matter, and thousands apart: more would be a pretence."""
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}"


def terminal(results: Results, direction: Direction, workers: int) -> Table:
    """The table of a direction."""
    header, rows = table(results, direction, workers)
    shown = Table()
    for title in header:
        is_text = title in {"", "unit"} or title.startswith("bar")
        shown.add_column(title, justify="left" if is_text else "right")
    for row in rows:
        shown.add_row(*row)
    return shown


def notes(results: Results) -> list[str]:
    """What a reader must know to judge the figures: features, and the runs that were discarded."""
    served = {sample.name for sample in results.samples if sample.metric.startswith("http")}
    relayed = {sample.name for sample in results.samples if not sample.metric.startswith("http")}
    features = [f"{name}: {CONTESTANTS[name].features}" for name in results.names() if name in relayed]
    features += [f"{name}, serving HTTP: {HTTP_FEATURES[name]}" for name in results.names() if name in served]
    thrown = [
        f"discarded: {run.name}, {run.direction}, round {run.round + 1}, {run.measure}: {run.reason}"
        for run in results.discarded
    ]
    return [*features, *thrown]


def timings(results: Results) -> list[str]:
    """What the redirect rules took, a line each."""
    return [f"{timing.title}: {timing.milliseconds:.0f} ms" for timing in results.rules]


def markdown(results: Results, options: Options, machine: Machine) -> str:
    """The report as a page."""
    parts = ["# Benchmark", "", *(f"- {line}" for line in machine.lines()), f"- {_how(options)}", ""]
    for direction in options.directions:
        header, rows = table(results, direction, options.workers)
        parts += [f"## {direction}", "", _row(header), _row(["---"] * len(header)), *map(_row, rows), ""]
    if results.rules:
        parts += ["## Redirect rules", "", *(f"- {line}" for line in timings(results)), ""]
    parts += ["Medians; in brackets the ratio us/peer.", "", "## What was on", ""]
    return "\n".join([*parts, *(f"- {note}" for note in notes(results)), "", "![plot](plot.svg)", ""])


def as_json(results: Results, options: Options, machine: Machine) -> str:
    """The report for machines."""
    asked = {**asdict(options), "output": str(options.output)}
    return json.dumps({"machine": asdict(machine), "options": asked, **results.as_json()}, indent=1) + "\n"


def _how(options: Options) -> str:
    return f"{options.rounds} round(s) of {options.seconds} s runs, {options.workers} worker(s), up to {options.idle} idle connections"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
