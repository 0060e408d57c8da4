"""The legacy driver: our chains in iptables' own tables, one change for each table of each family.

Asks ``kernel.iptables`` for everything, in helpers: python-iptables can do one family in a process.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from typing import TYPE_CHECKING, Final

from interceptor.config.redirect import Backend
from interceptor.errors import KernelError
from interceptor.kernel import iptables, tables, x_entry
from interceptor.kernel.netns import CLONE_NEWNET, libc
from interceptor.model.record import Record
from interceptor.redirect.foreign import LEGACY_NAT_PRIORITY, ForeignChain, Presence
from interceptor.redirect.rules import FAMILIES, Family, Ruleset, Table, read_comment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from interceptor.kernel.child import Helpers
    from interceptor.kernel.driver import Step
    from interceptor.kernel.iptables import Layout
    from interceptor.redirect.status import InstalledChain

# What prepares comes first, what refuses last; policy routing is 1 (kernel.iproute): it stands before what marks for it.
_PLACES: Final = {Table.RAW: 0, Table.MANGLE: 2, Table.NAT: 3, Table.FILTER: 4}


class TableChange(Record):
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
    def helper(self) -> Family:
        return self.family

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
        try:
            iptables.write(self.family, self.table, self.before, before_commit)
        except iptables.MissingTableError:
            if self.before != iptables.NOTHING:
                raise  # else nothing can have been written where no table is


def look(helpers: Helpers) -> Presence:
    """What there is in the tables that exist."""
    existing = helpers.call(4, tables.legacy)
    found = helpers.each(_look, {family: (family, names) for family, names in existing.items() if names})
    return Presence(
        any(presence.ours for presence in found),
        tuple(chain for presence in found for chain in presence.foreign),
        Table.NAT in existing[6],
        any(Table.MANGLE in names for names in existing.values()),
    )


def changes(helpers: Helpers, ruleset: Ruleset) -> Sequence[TableChange]:
    """Every table that holds or shall hold something of ours; one helper for each family."""
    planned = set(ruleset.tables())
    existing = helpers.call(4, tables.legacy)
    work = {
        family: [table for table in Table if table in existing[family] or (family, table) in planned]
        for family in FAMILIES
    }
    compared = helpers.each(
        _compare,
        {family: (family, names, existing[family], ruleset) for family, names in work.items() if names},
    )
    return list(itertools.chain.from_iterable(compared))


def installed(helpers: Helpers) -> Sequence[InstalledChain]:
    """Our chains in the tables that exist."""
    existing = helpers.call(4, tables.legacy)
    found = helpers.each(_installed, {family: (family, names) for family, names in existing.items() if names})
    return list(itertools.chain.from_iterable(found))


def prepare() -> None:
    """Load python-iptables before the helpers are forked, so that they need not; where it is missing they will say so."""
    if tables.kernel_has_loaded(4):
        with contextlib.suppress(KernelError):
            iptables.load()


def can_nat(helpers: Helpers, family: Family, *, elsewhere: bool) -> bool:
    """Whether the kernel has a nat table for a family.

    Asking makes the table: so ``elsewhere``, in a namespace made for the question, where it shall not be made here.
    """
    return helpers.call(family, _try_nat if elsewhere else iptables.has_table, family, Table.NAT)


def _try_nat(family: Family, table: Table) -> bool:
    """In a helper, which comes back."""
    with open("/proc/thread-self/ns/net", "rb") as home:  # noqa: PTH123 (a descriptor is wanted)
        # Refused without CAP_SYS_ADMIN: then the table is made here, empty.
        left = libc.unshare(CLONE_NEWNET) == 0
        try:
            return iptables.has_table(family, table)
        finally:
            if left and libc.setns(home.fileno(), CLONE_NEWNET) != 0:
                os._exit(1)  # lost: this process must not touch another table


def available(helpers: Helpers) -> bool:
    """Whether this kernel and this machine's libraries can do it."""
    try:
        return can_nat(helpers, 4, elsewhere=True)
    except KernelError:
        return False


def _look(family: Family, names: frozenset[Table]) -> Presence:
    """In a helper: whether any table holds something of ours, and the nat chains of others."""
    ours = any(iptables.read(family, table) != iptables.NOTHING for table in names)
    foreign: list[ForeignChain] = []
    for table in names & {Table.NAT, Table.MANGLE}:
        for name, rules in iptables.foreign_rules(family, table).items():
            hook = name.lower() if name in {"PREROUTING", "OUTPUT"} else ""
            where = (Backend.LEGACY, (family,), table.value, name, rules, hook, LEGACY_NAT_PRIORITY)
            foreign.append(ForeignChain(*where, nat=table is Table.NAT))
    return Presence(ours, tuple(foreign), ipv6_nat=family == 6 and Table.NAT in names)


def _compare(
    family: Family, names: Sequence[Table], existing: frozenset[Table], ruleset: Ruleset
) -> list[TableChange]:
    """In a helper: what there is and what is wanted. A table that does not exist is not looked into."""
    iptables.without_names()
    return [
        TableChange(
            family,
            table,
            iptables.read(family, table) if table in existing else iptables.NOTHING,
            iptables.build(ruleset, family, table),
        )
        for table in names
    ]


def _installed(family: Family, names: frozenset[Table]) -> list[InstalledChain]:
    """In a helper: our chains in the tables that exist."""
    from interceptor.redirect.status import Hits, InstalledChain  # noqa: PLC0415 (not for apply)

    chains: list[InstalledChain] = []
    for table in (table for table in Table if table in names):
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
