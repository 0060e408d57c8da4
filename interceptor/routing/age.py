"""PURE. Istio's order of documents of equal rank: the oldest first, by its creationTimestamp; without one it counts as younger."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from interceptor.config.base import Document

D = TypeVar("D", bound="Document")


def oldest_first(documents: Sequence[D]) -> Sequence[D]:
    """Documents by their age, those of one age as they were given."""
    return sorted(documents, key=lambda each: each.metadata.creationTimestamp or "~")
