"""The first half of a removal: our chains stay, and nothing leads to them any more.

Connections that were redirected live on as long as the kernel has our chains; new ones go their own way. What TPROXY took
is brought to the proxy segment by segment: there only the rules go that take new connections.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from interceptor.kernel import child, iptables, nftables, tables, x_entry, xtables_lock
from interceptor.kernel.driver import undisturbed
from interceptor.redirect.rules import FAMILIES, Family, Table
from interceptor.redirect.tproxy import opens

if TYPE_CHECKING:
    from pathlib import Path


_TABLES: Final = frozenset({Table.NAT, Table.FILTER})


def unhook(namespace: Path | None, *, wait: float) -> None:
    """Take out what leads new connections to us, wherever it is. KernelError: some may be left, which status shows."""
    iptables.load()
    with xtables_lock.held(wait):
        for family in FAMILIES:
            for table in child.call(namespace, tables.existing, family):
                child.call(namespace, _legacy, family, table)
        nftables.unhook(namespace, _TABLES)


def _legacy(family: Family, table: Table) -> None:
    """In a child: one commit."""
    found = iptables.read(family, table)
    if table in _TABLES and found.jumps:
        iptables.write(family, table, iptables.Layout(found.chains, ()), undisturbed)
    if table is Table.MANGLE and found.chains:
        kept = {
            name: tuple(rule for rule in rules if not opens(x_entry.comment(rule, family)))
            for name, rules in found.chains.items()
        }
        iptables.write(family, table, iptables.Layout(kept, found.jumps), undisturbed)
