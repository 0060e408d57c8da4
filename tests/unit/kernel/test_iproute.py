"""Which changes make our policy routing what it should be, and in which order."""

from __future__ import annotations

import pytest

from interceptor.config.redirect import Mark
from interceptor.kernel.iproute import NOTHING, Routing, _changes, build
from interceptor.redirect.rules import Detour

ONE, OTHER = Mark(0x53B, 0xFFF), Mark(0x53C, 0xFFF)
WANTED = Routing((ONE,), route=True)


@pytest.mark.parametrize(
    ("current", "wanted", "changes"),
    [
        (NOTHING, NOTHING, []),
        (WANTED, WANTED, []),
        (NOTHING, WANTED, [("route", "add"), ("rule", "add", 0x53B)]),
        (WANTED, NOTHING, [("rule", "del", 0x53B), ("route", "del")]),
        (WANTED, Routing((OTHER,), route=True), [("rule", "add", 0x53C), ("rule", "del", 0x53B)]),
        (Routing((ONE, ONE), route=True), WANTED, [("rule", "del", 0x53B)]),
        (Routing((ONE,), route=False), WANTED, [("route", "add")]),
    ],
)
def test_the_route_stands_whenever_a_rule_leads_to_it(
    current: Routing, wanted: Routing, changes: list[tuple[object, ...]]
) -> None:
    found = [
        (what, verb, arguments["fwmark"]) if what == "rule" else (what, verb)
        for what, verb, arguments in _changes(current, wanted)
    ]
    assert found == changes


def test_a_family_that_is_left_alone_has_none() -> None:
    detour = Detour(ONE, (4,))
    assert build(detour, 4) == WANTED
    assert build(detour, 6) == build(None, 4) == NOTHING
