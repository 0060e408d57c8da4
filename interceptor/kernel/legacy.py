"""The legacy driver: our chains in iptables' own tables, one change for each table of each family.

Asks ``kernel.iptables`` for everything, in child processes: python-iptables can do one family in a process.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.config.redirect import Backend
from interceptor.errors import KernelError
from interceptor.kernel import child, iptables, x_entry
from interceptor.kernel.netns import CLONE_NEWNET
from interceptor.redirect.foreign import LEGACY_NAT_PRIORITY, ForeignChain, Presence
from interceptor.redirect.rules import FAMILIES, Family, Ruleset, Table, read_comment
from interceptor.redirect.status import Hits, InstalledChain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from interceptor.kernel.driver import Step
    from interceptor.kernel.iptables import Layout

# What prepares comes first, what refuses last; policy routing is 1 (kernel.iproute): it stands before what marks for it.
_PLACES: Final = {Table.RAW: 0, Table.MANGLE: 2, Table.NAT: 3, Table.FILTER: 4}

Tables = dict[Family, frozenset[Table]]


class TableChange(NamedTuple):
    """One table's rules of ours, as they are and as they are wanted."""

    family: Family
    table: Table
    before: Layout
    wanted: Layout

    @property
    def needed(self) -> bool:
        return self.before != self.wanted

    @property
    def installs(self) -> bool:
        return self.before == iptables.NOTHING

    @property
    def removes(self) -> bool:
        return self.wanted == iptables.NOTHING

    @property
    def rank(self) -> tuple[int, int]:
        return self.family, _PLACES[self.table]

    @property
    def phrase(self) -> str:
        rules = sum(map(len, self.wanted.chains.values()))
        where = f"IPv{self.family} {self.table.value}"
        if not rules:
            return f"{where}: removed"
        return f"{where}: {rules} rules in {', '.join(sorted(self.wanted.chains))}"

    def make(self, before_commit: Callable[[Step], None]) -> None:
        iptables.write(self.family, self.table, self.wanted, before_commit)

    def undo(self, before_commit: Callable[[Step], None]) -> None:
        iptables.write(self.family, self.table, self.before, before_commit)


def look(namespace: Path | None) -> Presence:
    """What there is in the tables that exist."""
    existing = _tables(namespace)
    found = [
        child.call(namespace, _look, family, existing[family]) for family in FAMILIES if existing[family]
    ]
    return Presence(
        any(presence.ours for presence in found),
        tuple(chain for presence in found for chain in presence.foreign),
        Table.NAT in existing[6],
        any(Table.MANGLE in tables for tables in existing.values()),
    )


def changes(namespace: Path | None, ruleset: Ruleset) -> Sequence[TableChange]:
    """Every table that holds or shall hold something of ours; one child for each family."""
    planned = set(ruleset.tables())
    if planned:
        iptables.load()
    existing = _tables(namespace)
    changed: list[TableChange] = []
    for family in FAMILIES:
        tables = [table for table in Table if table in existing[family] or (family, table) in planned]
        if tables:
            changed += child.call(namespace, _compare, family, tables, existing[family], ruleset)
    return changed


def installed(namespace: Path | None) -> Sequence[InstalledChain]:
    """Our chains in the tables that exist."""
    existing = _tables(namespace)
    return [
        chain
        for family in FAMILIES
        if existing[family]
        for chain in child.call(namespace, _installed, family, existing[family])
    ]


def can_nat(family: Family) -> bool:
    """Whether the kernel has a nat table for a family.

    Asked in a namespace made for the question where that is allowed, because asking makes the table.
    """
    iptables.load()
    return child.call(None, _try_nat, family)


def _try_nat(family: Family) -> bool:
    # Refused without CAP_SYS_ADMIN: then the table is made here, empty.
    ctypes.CDLL(None).unshare(CLONE_NEWNET)
    return iptables.has_table(family, Table.NAT)


def available() -> bool:
    """Whether this kernel and this machine's libraries can do it; makes nothing where our rules would be."""
    try:
        iptables.load()
        return child.call(None, _try_elsewhere)
    except KernelError:
        return False


def _try_elsewhere() -> bool:
    if ctypes.CDLL(None).unshare(CLONE_NEWNET) == 0:
        return iptables.has_table(4, Table.NAT)
    return iptables.kernel_has_loaded(4)


def _tables(namespace: Path | None) -> Tables:
    """The tables of each family; with python-iptables at hand where there are any."""
    existing = child.call(namespace, _existing)
    if any(existing.values()):
        iptables.load()  # in the parent, once for all children
    return existing


def _existing() -> Tables:
    return {family: iptables.existing_tables(family) for family in FAMILIES}


def _look(family: Family, tables: frozenset[Table]) -> Presence:
    """In a child: whether any table holds something of ours, and the nat chains of others."""
    ours = any(iptables.read(family, table) != iptables.NOTHING for table in tables)
    foreign: list[ForeignChain] = []
    for table in tables & {Table.NAT, Table.MANGLE}:
        for name, rules in iptables.foreign_rules(family, table).items():
            hook = name.lower() if name in {"PREROUTING", "OUTPUT"} else ""
            where = (Backend.LEGACY, (family,), table.value, name, rules, hook, LEGACY_NAT_PRIORITY)
            foreign.append(ForeignChain(*where, nat=table is Table.NAT))
    return Presence(ours, tuple(foreign), ipv6_nat=family == 6 and Table.NAT in tables)


def _compare(
    family: Family, tables: Sequence[Table], existing: frozenset[Table], ruleset: Ruleset
) -> list[TableChange]:
    """In a child: what there is and what is wanted. A table that does not exist is not looked into."""
    return [
        TableChange(
            family,
            table,
            iptables.read(family, table) if table in existing else iptables.NOTHING,
            iptables.build(ruleset, family, table),
        )
        for table in tables
    ]


def _installed(family: Family, tables: frozenset[Table]) -> list[InstalledChain]:
    """In a child: our chains in the tables that exist."""
    chains: list[InstalledChain] = []
    for table in (table for table in Table if table in tables):
        found = iptables.read_with_counters(family, table)
        for name, rules in found.layout.chains.items():
            tags = [read_comment(x_entry.comment(rule, family)) for rule in rules]
            jumps = [jump for jump in found.layout.jumps if x_entry.target(jump.entry, family) == name]
            chains.append(
                InstalledChain(
                    Backend.LEGACY,
                    (family,),
                    table,
                    name,
                    tuple(Hits(tag, *hits) for tag, hits in zip(tags, found.counters[name], strict=True)),
                    jumps[0].chain if jumps else None,
                    found.before_ours[jumps[0].chain] if jumps else (),
                )
            )
    return chains
