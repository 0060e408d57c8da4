"""PURE. Which matches of a VirtualService are for this workload: those of its gateway, its labels and its namespace."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from interceptor.config.virtual_service import HTTPMatchRequest, L4Match

    M = TypeVar("M", HTTPMatchRequest, L4Match)

MESH = "mesh"


class Source(NamedTuple):
    """Who asks: this workload."""

    labels: Mapping[str, str]
    namespace: str = ""

    def takes(self, match: HTTPMatchRequest | L4Match) -> bool:
        """Whether a match is not for other gateways, or for other workloads."""
        return (
            (not match.gateways or MESH in match.gateways)
            and match.sourceLabels.items() <= self.labels.items()
            and match.sourceNamespace in {None, self.namespace}
        )

    def own(self, matches: Iterable[M]) -> list[M]:
        """The matches that are for it."""
        return [match for match in matches if self.takes(match)]
