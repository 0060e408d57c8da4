"""What ``verify`` found, for a person and for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, Literal

from interceptor.model.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from interceptor.redirect.probes import Probe, Result

Installed = Literal["exactly this", "something else", "nothing"]

COMPARED: Final[dict[str, Installed]] = {  # by what an apply would do
    "unchanged": "exactly this",
    "updated": "something else",
    "installed": "nothing",
}
_REMARKS: Final[dict[Installed, str]] = {
    "exactly this": "Exactly this configuration is installed.",
    "something else": "Warning: the rules installed are others: 'sidecar-setup apply' with the same flags puts them right.",
    "nothing": "Warning: no rules are installed: 'sidecar-setup apply' with the same flags installs them.",
}


class Tried(Record):
    """One path: what was expected of it and what came of it."""

    probe: Probe
    result: Result
    note: str = ""
    cause: str = ""  # of a failure, by what the kernel's rules say

    @property
    def ok(self) -> bool | None:
        """Whether it came as expected; None when it could not be tried."""
        return None if self.result == "untried" else self.result == self.probe.expected


class Report(Record):
    """Everything that was tried, and sentences about what no probe can try."""

    hash: str
    installed: Installed
    tried: Sequence[Tried]
    untried: Sequence[str]

    @property
    def status(self) -> int:
        """The exit status: 3 when the kernel does otherwise, 1 when something could not be tried, else 0."""
        if any(each.ok is False for each in self.tried):
            return 3
        return 1 if any(each.ok is None for each in self.tried) else 0


def text(report: Report) -> str:
    """A line for each path, and how it went in all."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield f"Configuration {report.hash}, from the flags given, tried with real connections."
    yield _REMARKS[report.installed]
    width = max((len(each.probe.path) for each in report.tried), default=0)
    for each in report.tried:
        probe = each.probe
        mark = {True: "ok", False: "FAILED", None: "not tried"}[each.ok]
        way = f"IPv{probe.family} {probe.direction.value:7}  {probe.path:{width}}"
        yield f"  {mark:9}  {way}  {_outcome(each)}"
        if each.cause:
            yield f"  {'':9}  {each.cause}"
    yield from (f"  {'not tried':9}  {sentence}" for sentence in report.untried)
    numbers = [sum(each.ok is wanted for each in report.tried) for wanted in (True, False, None)]
    yield f"{numbers[0]} as planned, {numbers[1]} failed, {numbers[2] + len(report.untried)} not tried."


def _outcome(each: Tried) -> str:
    note = f": {each.note}" if each.note else ""
    if each.ok is None:
        return each.note
    if each.ok:
        return f"{each.result}{note}"
    by = f" by {each.probe.rule}" if each.probe.rule else ""
    return f"must be {each.probe.expected}{by}, and is {each.result}{note}"


def as_json(report: Report) -> str:
    """The same as one indented JSON object."""
    form = {
        "hash": report.hash,
        "installed": report.installed,
        "ok": report.status == 0,
        "paths": [_path(each) for each in report.tried],
        "untried": list(report.untried),
    }
    return json.dumps(form, indent=2) + "\n"


def _path(each: Tried) -> dict[str, object]:
    probe = each.probe
    return {
        "path": probe.path,
        "direction": probe.direction.value,
        "family": probe.family,
        "from": probe.source,
        "to": probe.host,
        "port": probe.port,
        "uid": probe.uid if probe.direction.value == "egress" else None,
        "expected": probe.expected,
        "rule": probe.rule,
        "result": each.result,
        "ok": each.ok,
        "note": each.note,
        "cause": each.cause,
    }
