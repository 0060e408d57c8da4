"""What stands in this namespace, seen by files and one netlink dump: the drivers are loaded for what there is, not to look.

Makes no table. A throw-away thread may ask about another namespace: the paths are its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from interceptor.config.redirect import Backend
from interceptor.kernel import netlink
from interceptor.model.record import Record
from interceptor.redirect.rules import DETOUR_NUMBER, FAMILIES, Table

if TYPE_CHECKING:
    from interceptor.redirect.rules import Family

_NAMES: Final[dict[Family, Path]] = {
    4: Path("/proc/thread-self/net/ip_tables_names"),
    6: Path("/proc/thread-self/net/ip6_tables_names"),
}
_ROUTES: Final = Path("/proc/thread-self/net/fib_trie")

Legacy = dict["Family", frozenset[Table]]
Nft = frozenset[tuple[int, str]]  # each with the number of its family


class Standing(Record):
    """The tables of both backends; for nftables None where only nft itself may know."""

    legacy: Legacy
    nft: Nft | None
    route: bool  # there may be a route of IPv4 in our routing table

    def has(self, backend: Backend) -> bool:
        """Whether a backend may hold anything."""
        return any(self.legacy.values()) if backend is Backend.LEGACY else self.nft is None or bool(self.nft)


def standing() -> Standing:
    """All of it."""
    return Standing(legacy(), nft(), _route())


def legacy() -> Legacy:
    """The tables of iptables there are. Looking into any other would create it."""
    return {family: existing(family) for family in FAMILIES}


def existing(family: Family) -> frozenset[Table]:
    """Those of one family."""
    if not kernel_has_loaded(family):  # then there is no rule of ours
        return frozenset()
    names = _NAMES[family].read_text(encoding="utf-8").split()
    return frozenset(table for table in Table if table.value in names)


def kernel_has_loaded(family: Family) -> bool:
    """Whether the kernel has ip_tables, or ip6_tables, at hand."""
    return _NAMES[family].exists()


def nft() -> Nft | None:
    """The tables of nftables; None where only nft itself may know."""
    try:
        return netlink.nftables()
    except OSError:  # a kernel without nftables, or no right to look
        return None


def _route() -> bool:
    """It comes first and goes last of all that is ours in mangle and routing: an apply that was killed leaves it."""
    try:
        routes = _ROUTES.read_text(encoding="utf-8")
    except OSError:  # not there, or not for us to see
        return True
    return f"Id {DETOUR_NUMBER}:" in routes
