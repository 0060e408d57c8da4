"""What the main process and its workers tell each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from interceptor.config.configuration import Configuration

Kind: TypeAlias = Literal[
    "publish",
    "health",
    "collect",
    "connections",
    "clusters",
    "plaintext",
    "drain",
    "abort",
    "log_level",
    "reopen_log",
]


@dataclass(frozen=True, slots=True)
class Message:
    """A request of the main process, or the worker's answer to the last one of that kind."""

    kind: Kind
    value: object = None


@dataclass(frozen=True, slots=True)
class Handover:
    """What a worker makes the next snapshot of; of one version in all of them."""

    configuration: Configuration | None  # None: the one that the worker has
    resolved: Mapping[str, tuple[str, ...]]
    places: Mapping[str, int]
