"""Series of several processes made one: what counts is added, what describes is told once.

A worker's registry is its own, so nothing is shared while flows are counted, and nothing is left in files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import Metric

if TYPE_CHECKING:
    from collections.abc import Iterable

# What only grows: a process that ended takes nothing of it away.
_GROWING: Final = frozenset(("counter", "histogram", "summary"))


def merged(parts: Iterable[Iterable[Metric]]) -> list[Metric]:
    """Each family once, with the samples of all parts, in the order in which they are met."""
    families: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for part in parts:
        for family in part:
            known = families.setdefault(
                family.name, Metric(family.name, family.documentation, family.type, family.unit)
            )
            found = values.setdefault(family.name, {})
            for sample in family.samples:
                key = sample.name, tuple(sample.labels.items())
                found[key] = _added(known, found[key], sample.value) if key in found else sample.value
    for name, family in families.items():
        for (sample_name, labels), value in values[name].items():
            family.add_sample(sample_name, dict(labels), value)
    return list(families.values())


def kept(families: Iterable[Metric]) -> list[Metric]:
    """What stays of a process that ended."""
    return [family for family in families if family.type in _GROWING]


def _added(family: Metric, one: float, other: float) -> float:
    """Times, limits and facts are everybody's; whatever else a gauge shows is a part of a whole."""
    if family.type == "info" or (
        family.type == "gauge" and family.name.endswith(("_seconds", "_info", "_max_fds"))
    ):
        return min(one, other)
    return one + other
