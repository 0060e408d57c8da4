"""Policy routing: our rule and our route in a namespace, by netlink.

The work is done in a helper. What is ours is known by its table and protocol
numbers, so that it is found again without any flag. Netlink takes one request at a time: a write that fails half-way is
undone by writing what was there before.
"""

from __future__ import annotations

import errno
import socket
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from interceptor.config.redirect import Mark
from interceptor.errors import KernelError
from interceptor.kernel.driver import Step
from interceptor.model.record import Record
from interceptor.redirect.rules import DETOUR_NUMBER, DETOUR_PROTOCOL, FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from interceptor.kernel.child import Helpers
    from interceptor.redirect.rules import Detour, Family

_LOCAL: Final = 2  # RTN_LOCAL, linux/rtnetlink.h
_HOST: Final = 254  # RT_SCOPE_HOST
_FULL_MASK: Final = 0xFFFF_FFFF
_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
# A kernel without the family, or without policy routing for it, has nothing of ours.
_NO_SUCH: Final = frozenset((errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT))


class Routing(Record):
    """What is ours: the marks that our rules look for, and whether our route stands."""

    marks: tuple[Mark, ...] = ()
    route: bool = False


NOTHING: Final = Routing()


class RoutingChange(NamedTuple):
    """One family's policy routing of ours, as it is and as it is wanted."""

    family: Family
    before: Routing
    wanted: Routing

    @property
    def needed(self) -> bool:
        return self.before != self.wanted

    @property
    def installs(self) -> bool:
        return self.before == NOTHING

    @property
    def removes(self) -> bool:
        return self.wanted == NOTHING

    @property
    def whole(self) -> bool:
        """Whether there is the route and a rule that leads to it."""
        return bool(self.before.marks) and self.before.route

    @property
    def rank(self) -> tuple[int, int]:
        return self.family, 1  # before any rule that marks (kernel.legacy)

    @property
    def helper(self) -> Family:
        return 4  # for both: pyroute2 takes a tenth of a second to load

    @property
    def phrase(self) -> str:
        where = f"IPv{self.family} routing"
        marks = ", ".join(map(str, self.wanted.marks))
        return f"{where}: what is marked {marks} is delivered here" if marks else f"{where}: removed"

    def make(self, before_commit: Callable[[Step], None]) -> None:
        write(self.family, self.wanted, before_commit)

    def undo(self, before_commit: Callable[[Step], None]) -> None:
        write(self.family, self.before, before_commit)


def changes(helpers: Helpers, detour: Detour | None) -> Sequence[RoutingChange]:
    """Our policy routing, where there is any or shall be some."""
    return [
        RoutingChange(family, helpers.call(4, read, family), build(detour, family)) for family in FAMILIES
    ]


def build(detour: Detour | None, family: Family) -> Routing:
    """What a ruleset wants."""
    if detour is None or family not in detour.families:
        return NOTHING
    return Routing((detour.mark,), route=True)


def read(family: Family) -> Routing:
    """What is ours in this namespace."""
    from pyroute2 import IPRoute  # noqa: PLC0415 (heavy, and seldom needed)
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415

    try:
        with IPRoute() as netlink:
            return _current(netlink, family)
    except NetlinkError as error:
        if error.code in _NO_SUCH:
            return NOTHING
        raise KernelError(
            f"cannot read the IPv{family} routing rules: {error.args[-1]}; run as root"
        ) from error


def write(family: Family, wanted: Routing, before_change: Callable[[Step], None]) -> None:
    """Make what is ours be ``wanted``; the route stands whenever a rule leads to it."""
    from pyroute2 import IPRoute  # noqa: PLC0415 (heavy, and seldom needed)
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415

    try:
        with IPRoute() as netlink:
            changes = _changes(_current(netlink, family), wanted)
            for number, (what, verb, arguments) in enumerate(changes, start=1):
                before_change(Step(None, number, family))
                getattr(netlink, what)(verb, family=_FAMILIES[family], table=DETOUR_NUMBER, **arguments)
    except NetlinkError as error:
        raise KernelError(
            f"the kernel refused our IPv{family} policy routing ({error.args[-1]}): --mode tproxy needs a kernel with policy "
            f"routing, and the routing table {DETOUR_NUMBER} for itself; 'ip -{family} route show table {DETOUR_NUMBER}' "
            "shows what stands there"
        ) from error


def _changes(current: Routing, wanted: Routing) -> Iterator[tuple[str, str, dict[str, object]]]:
    route = {
        "type": "local",
        "dst": "default",
        "oif": 1,
        "scope": _HOST,
        "proto": DETOUR_PROTOCOL,
    }  # lo is always 1
    surplus = Counter(current.marks) - Counter(wanted.marks)
    missing = Counter(wanted.marks) - Counter(current.marks)
    if wanted.route and not current.route:
        yield "route", "add", route
    for mark in missing.elements():
        yield "rule", "add", _rule(mark)
    for mark in surplus.elements():
        yield "rule", "del", _rule(mark)
    if current.route and not wanted.route:
        yield "route", "del", route


def _rule(mark: Mark) -> dict[str, object]:
    return {
        "priority": DETOUR_NUMBER,
        "fwmark": mark.value,
        "fwmask": mark.mask,
        "protocol": DETOUR_PROTOCOL,
    }


def _current(netlink: Any, family: Family) -> Routing:
    number = _FAMILIES[family]
    rules = [rule for rule in netlink.get_rules(family=number) if rule["family"] == number]
    ours = [
        Mark(rule.get_attr("FRA_FWMARK") or 0, rule.get_attr("FRA_FWMASK") or _FULL_MASK)
        for rule in rules
        if rule.get_attr("FRA_TABLE") == DETOUR_NUMBER and rule.get_attr("FRA_PROTOCOL") == DETOUR_PROTOCOL
    ]
    routes = [
        route
        for route in netlink.get_routes(family=number, table=DETOUR_NUMBER)
        if (route["family"], route["type"], route["proto"]) == (number, _LOCAL, DETOUR_PROTOCOL)
    ]
    return Routing(tuple(ours), route=bool(routes))
