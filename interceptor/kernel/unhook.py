"""The first half of a removal: our chains stay, and nothing leads to them any more.

Connections that were redirected live on as long as the kernel has our chains; new ones go their own way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from interceptor.kernel import child, iptables, nftables, xtables_lock
from interceptor.kernel.driver import undisturbed
from interceptor.redirect.rules import FAMILIES, Family, Table

if TYPE_CHECKING:
    from pathlib import Path


# Not mangle: what TPROXY diverts is diverted packet by packet, and would be cut off. It goes with the removal.
_TABLES: Final = frozenset({Table.NAT, Table.FILTER})


def unhook(namespace: Path | None, *, wait: float) -> None:
    """Take out the jumps to our chains, wherever they are. KernelError: some may be left, which status shows."""
    iptables.load()
    with xtables_lock.held(wait):
        for family in FAMILIES:
            for table in child.call(namespace, iptables.existing_tables, family) & _TABLES:
                child.call(namespace, _legacy, family, table)
        nftables.unhook(namespace, _TABLES)


def _legacy(family: Family, table: Table) -> None:
    """In a child: one commit."""
    found = iptables.read(family, table)
    if found.jumps:
        iptables.write(family, table, iptables.Layout(found.chains), undisturbed)
