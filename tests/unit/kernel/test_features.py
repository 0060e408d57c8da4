"""Features are tried together, and by themselves only where the kernel refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.kernel.features import together_or_each
from interceptor.redirect.kernel_features import LEGACY_GROUPS, LEGACY_NAT, LEGACY_TPROXY

if TYPE_CHECKING:
    from interceptor.kernel.features import Changes
    from interceptor.redirect.kernel_features import Feature

CHANGES: dict[Feature, Changes] = {
    LEGACY_NAT: {},
    LEGACY_TPROXY: {"mode": 1},
    LEGACY_GROUPS: {"groups": 2, "gids": 3},
}


class Kernel:
    """Refuses some changes of settings, and remembers what it was asked."""

    def __init__(self, *refused: str) -> None:
        self.refused = frozenset(refused)
        self.asked: list[Changes] = []

    def __call__(self, changes: Changes) -> str:
        self.asked.append(changes)
        return "" if self.refused.isdisjoint(changes) else "no"


def test_a_kernel_that_takes_all_is_asked_once() -> None:
    kernel = Kernel()
    assert together_or_each(CHANGES, kernel) == {LEGACY_NAT: "", LEGACY_TPROXY: "", LEGACY_GROUPS: ""}
    assert kernel.asked == [{"mode": 1, "groups": 2, "gids": 3}]


def test_a_refusal_is_told_of_the_feature_alone() -> None:
    kernel = Kernel("groups")
    assert together_or_each(CHANGES, kernel) == {LEGACY_NAT: "", LEGACY_TPROXY: "", LEGACY_GROUPS: "no"}
    assert kernel.asked[1:] == list(CHANGES.values())
