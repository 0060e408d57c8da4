"""How one active health check of an endpoint ended, and what checks come to."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from interceptor.model.address import UpstreamAddress

Key: TypeAlias = tuple[str, int]  # a service's host and port
Unhealthy: TypeAlias = "Mapping[Key, Mapping[UpstreamAddress, str]]"  # with why, in a few words


class Outcome(Enum):
    """The words are those of Envoy's counters."""

    SUCCESS = "success"
    FAILURE = "failure"  # it answered, and said that it is not well
    NETWORK_FAILURE = "network_failure"  # no answer, none in time, or none that could be read


class Result(NamedTuple):
    """One check's, with why it failed in a few words."""

    outcome: Outcome
    details: str = "-"


HEALTHY: Final = Result(Outcome.SUCCESS)
