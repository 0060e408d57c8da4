"""The command line: what is to be measured, and how long that will take."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from scripts.benchmark.measures import (
    CONNECTION_COUNTS,
    DIRECTIONS,
    HTTP2_SHAPES,
    HTTP_MEASURES,
    HTTP_NAMES,
    MEASURES,
    MESH_MEASURE,
    MESH_NAMES,
    NAMES,
    OURS,
    ROUTES_MEASURE,
    STREAM_COUNTS,
    TCP_MEASURES,
    Direction,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DEFAULT_OUTPUT: Final = Path("build/bench")

# What a step takes beside its measured seconds: starting and ending the tools and the contestant.
SET_UP_SECONDS: Final = 3.0
RUN_OVERHEAD_SECONDS: Final = 0.4
RULES_SECONDS: Final = 25.0
IDLE_SECONDS_PER_THOUSAND: Final = 0.8
MESH_RUNS: Final = 5
ROUTES_SECONDS: Final = 70.0  # 24 runs, and reading 5 000 services


@dataclass(frozen=True)
class Options:
    """One benchmark."""

    names: tuple[str, ...]
    measures: tuple[str, ...]
    directions: tuple[Direction, ...]
    rounds: int
    seconds: int
    idle: int
    workers: int
    output: Path
    profile: bool
    rules: bool

    def visits(self) -> Iterator[tuple[int, Direction, str]]:
        """Round, direction and contestant in the order they run: each round starts with another contestant."""
        for number in range(self.rounds):
            turn = number % max(len(self.names), 1)
            for direction in self.directions:
                for name in (*self.names[turn:], *self.names[:turn]):
                    yield number, direction, name

    def estimated_seconds(self) -> float:
        """How long all visits will take."""
        runs = {
            "memory": 0,
            "requests": len(CONNECTION_COUNTS),
            "connections": 1,
            "bulk": 2 * len(STREAM_COUNTS),
            "fairness": 1,
            "http": len(CONNECTION_COUNTS),
            "http2": len(HTTP2_SHAPES),
        }
        idle = IDLE_SECONDS_PER_THOUSAND * self.idle / 1000 if "memory" in self.measures else 0
        total = 0.0
        for group, names in ((TCP_MEASURES, self.names), (HTTP_MEASURES, HTTP_NAMES)):
            count = sum(runs[measure] for measure in self.measures if measure in group)
            visit = SET_UP_SECONDS + count * (self.seconds + RUN_OVERHEAD_SECONDS)
            if count or idle:
                total += visit * len(set(names) & set(self.names))
        total += idle * len(self.names)
        if MESH_MEASURE in self.measures:
            visit = 2 * SET_UP_SECONDS + MESH_RUNS * (self.seconds + RUN_OVERHEAD_SECONDS)
            total += visit * len(set(MESH_NAMES) & set(self.names)) / len(self.directions)
        if ROUTES_MEASURE in self.measures and OURS in self.names:
            total += ROUTES_SECONDS / len(self.directions)
        total *= len(self.directions) * self.rounds + self.profile / max(1, len(self.names))
        return total + RULES_SECONDS * self.rules


def parse(argv: Sequence[str]) -> Options:
    """The options of a command line. Ends the program with status 2 where it does not understand."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Run us and the peers in turn, in network namespaces, with the same client and app; save medians and ratios.",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="about 3 minutes: 1 round of 1 s runs, ingress, 1 000 idle connections",
    )
    parser.add_argument(
        "--rounds", type=_positive(20), metavar="N", help="rounds; each starts with another contestant [3]"
    )
    parser.add_argument("--seconds", type=_positive(60), metavar="S", help="length of each run [4]")
    parser.add_argument(
        "--idle", type=_positive(5000), metavar="N", help="idle connections, at most 5000 [5000]"
    )
    parser.add_argument(
        "--only", type=_subset(NAMES), default=NAMES, metavar="NAMES", help=f"some of {','.join(NAMES)}"
    )
    parser.add_argument(
        "--measures",
        type=_subset(MEASURES),
        metavar="LIST",
        help=f"some of {','.join(MEASURES)} [all; with --quick not {ROUTES_MEASURE}]",
    )
    parser.add_argument("--direction", choices=(*DIRECTIONS, "both"), help="[both; with --quick ingress]")
    parser.add_argument(
        "--workers", type=int, choices=(1, 2), default=1, help="our workers and the peers' threads [1]"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=DEFAULT_OUTPUT,
        metavar="DIR",
        help=f"for results.json, report.md, plot.svg [{DEFAULT_OUTPUT}]",
    )
    parser.add_argument(
        "--profile", action="store_true", help="afterwards, one more run of ours under py-spy or cProfile"
    )
    parser.add_argument(
        "--rules",
        choices=("yes", "no", "only"),
        help="time sidecar-setup and iptables-restore as well [yes; with --quick no]",
    )
    given = parser.parse_args(argv)
    direction = given.direction or ("ingress" if given.quick else "both")
    directions = tuple(way for way in DIRECTIONS if direction in {way, "both"})
    usual = tuple(each for each in MEASURES if each != ROUTES_MEASURE or not given.quick)
    return Options(
        names=() if given.rules == "only" else given.only,
        measures=given.measures or usual,
        directions=directions,
        rounds=given.rounds or (1 if given.quick else 3),
        seconds=given.seconds or (1 if given.quick else 4),
        idle=given.idle or (1000 if given.quick else 5000),
        workers=given.workers,
        output=given.output,
        profile=given.profile,
        rules=given.rules in {"yes", "only"} or (given.rules is None and not given.quick),
    )


class _positive:  # noqa: N801 (reads as the type of an option)
    """A whole number from 1 to a bound: nothing here may run without end."""

    def __init__(self, most: int) -> None:
        self.most = most

    def __call__(self, text: str) -> int:
        if not text.isdigit() or not 1 <= int(text) <= self.most:
            raise argparse.ArgumentTypeError(f"'{text}' is not a number from 1 to {self.most}")
        return int(text)


class _subset:  # noqa: N801 (reads as the type of an option)
    """Some of the known names, in the known order."""

    def __init__(self, known: tuple[str, ...]) -> None:
        self.known = known

    def __call__(self, text: str) -> tuple[str, ...]:
        asked = set(text.split(","))
        if unknown := asked.difference(self.known):
            raise argparse.ArgumentTypeError(f"'{min(unknown)}' is not one of {', '.join(self.known)}")
        return tuple(name for name in self.known if name in asked)
