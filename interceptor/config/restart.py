"""What of a Sidecar cannot change while the proxy runs, said by name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.config.configuration import Configuration
    from interceptor.config.sidecar import Sidecar

# What is read anew for each decision. All else was used up at the start: sockets, limits, files, labels of metrics.
LIVE: Final = (
    "spec.egress.policy",
    "spec.ingress.ports",
    "spec.trustDomainAliases",
    "spec.serviceAccount",
    "spec.rootNamespace",
    "spec.pathNormalization",
    "spec.gatewayTopology",
    "spec.healthChecks",
    "metadata.annotations",
    "metadata.creationTimestamp",
)
_SHOWN: Final = 60  # characters of a value


def restart_needed(started: Sidecar, asked: Configuration) -> list[str]:
    """A sentence for each field that a proxy which was started with one configuration cannot take from another."""
    before, after = (each.model_dump(mode="json") for each in (started, asked.sidecar))
    place = next(
        (f"{each.file}:{each.line}" for each in asked.documents if each.kind == "Sidecar"), "Sidecar"
    )
    return [
        f"{place}: {path}: cannot change from {_shown(was)} to {_shown(now)} while the proxy runs; "
        "restart the proxy, or take the change back"
        for path, was, now in _changes("", before, after)
        if not any(path == live or path.startswith(f"{live}.") for live in LIVE)
    ]


def _changes(path: str, before: object, after: object) -> Iterator[tuple[str, object, object]]:
    if before == after:
        return
    if not (isinstance(before, dict) and isinstance(after, dict)):
        yield path, before, after
        return
    for name in sorted(before.keys() | after.keys()):
        yield from _changes(f"{path}.{name}".lstrip("."), before.get(name), after.get(name))


def _shown(value: object) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
