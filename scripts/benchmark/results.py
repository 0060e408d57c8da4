"""From samples to medians, ratios and the bar. Ratios are of medians."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field

from scripts.benchmark.measures import BARS, METRICS, NAMES, OURS, Bar, Direction, Metric


@dataclass(frozen=True)
class Sample:
    """One measured value."""

    round: int
    direction: Direction
    name: str
    metric: str
    value: float


@dataclass(frozen=True)
class Discarded:
    """A run that counts for nothing, and why."""

    round: int
    direction: Direction
    name: str
    measure: str
    reason: str


@dataclass(frozen=True)
class Timing:
    """What was timed once, beside the contestants, and the median."""

    title: str
    milliseconds: float


@dataclass
class Results:
    """Everything that was measured."""

    samples: list[Sample] = field(default_factory=list)
    discarded: list[Discarded] = field(default_factory=list)
    rules: list[Timing] = field(default_factory=list)

    def values(self, direction: Direction, name: str, metric: str) -> list[float]:
        wanted = (direction, name, metric)
        return [
            sample.value
            for sample in self.samples
            if (sample.direction, sample.name, sample.metric) == wanted
        ]

    def median(self, direction: Direction, name: str, metric: str) -> float | None:
        """The median over the rounds; None where nothing was measured."""
        values = self.values(direction, name, metric)
        return statistics.median(values) if values else None

    def ratio(self, direction: Direction, metric: str, peer: str) -> float | None:
        """Our median through the peer's."""
        us, them = self.median(direction, OURS, metric), self.median(direction, peer, metric)
        return us / them if us is not None and them else None

    def names(self) -> tuple[str, ...]:
        """The contestants with at least one sample, in the known order."""
        measured = {sample.name for sample in self.samples}
        return tuple(name for name in NAMES if name in measured)

    def metrics(self, direction: Direction) -> tuple[Metric, ...]:
        """The metrics with at least one sample in a direction, in the known order."""
        measured = {sample.metric for sample in self.samples if sample.direction == direction}
        return tuple(metric for metric in METRICS if metric.key in measured)

    def verdicts(self, metric: Metric) -> list[Verdict]:
        """The bars of a metric, with what was reached: ingress only, as the bar is set."""
        return [
            Verdict(bar, metric, self.ratio("ingress", bar.metric, bar.peer))
            for bar in BARS
            if bar.metric == metric.key
        ]

    def as_json(self) -> dict[str, object]:
        """Everything, for machines."""
        directions = sorted({sample.direction for sample in self.samples}, reverse=True)
        medians = {
            direction: {
                metric.key: {
                    "unit": metric.unit,
                    "better": metric.better,
                    "medians": {name: self.median(direction, name, metric.key) for name in self.names()},
                    "ratio_us_to": {
                        name: self.ratio(direction, metric.key, name) for name in self.names() if name != OURS
                    },
                }
                for metric in self.metrics(direction)
            }
            for direction in directions
        }
        verdicts = [verdict for metric in METRICS for verdict in self.verdicts(metric)]
        return {
            "results": medians,
            "bar": [
                {**asdict(verdict.bar), "ratio": verdict.ratio, "reached": verdict.reached}
                for verdict in verdicts
            ],
            "samples": [asdict(sample) for sample in self.samples],
            "discarded": [asdict(discarded) for discarded in self.discarded],
            "rules": [asdict(timing) for timing in self.rules],
        }


@dataclass(frozen=True)
class Verdict:
    """A bar and the ratio that was measured."""

    bar: Bar
    metric: Metric
    ratio: float | None

    @property
    def reached(self) -> bool | None:
        """None where it was not measured."""
        if self.ratio is None:
            return None
        return (
            self.ratio >= self.bar.factor if self.metric.better == "higher" else self.ratio <= self.bar.factor
        )

    def __str__(self) -> str:
        sign = ">=" if self.metric.better == "higher" else "<="
        word = {None: "not measured", True: "reached", False: "NOT reached"}[self.reached]
        return f"{sign} {self.bar.factor:g} x {self.bar.peer}: {word}"
