"""The plan against what is installed, chain by chain and rule by rule, in order."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from interceptor.redirect.rules import FAMILIES, Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from interceptor.redirect.rules import Family, Ruleset
    from interceptor.redirect.status import Status


def difference(ruleset: Ruleset, status: Status) -> list[str]:
    """One line for each rule that is planned and missing (``+``), or installed and not planned there (``-``).

    A rule that stands at another place is both. Empty: every chain holds its rules in their order; what the rules say
    inside is for the driver to compare.
    """
    return [
        line for family in FAMILIES for table in Table for line in _of_table(ruleset, status, family, table)
    ]


def _of_table(ruleset: Ruleset, status: Status, family: Family, table: Table) -> Iterator[str]:
    # A chain of nftables may hold the rules of both families.
    seen = {chain.name: chain.families for chain in status.of(family) if chain.table is table}
    planned = {
        chain.name: (
            chain.hook.value,
            [rule.id for rule in chain.rules if any(map(rule.applies_to, seen.get(chain.name, (family,))))],
        )
        for chain in ruleset.chains_in(family, table)
    }
    installed = {
        chain.name: (
            chain.hook,
            [hits.tag.rule if hits.tag else "a rule that is not ours" for hits in chain.rules],
        )
        for chain in status.of(family)
        if chain.table is table
    }
    for name in sorted({*planned, *installed}):
        hook, wanted = planned.get(name, (None, []))
        hooked, there = installed.get(name, (None, []))
        lines = [*_jump(hook, hooked, name), *_rules(wanted, there)]
        if lines:
            yield f"IPv{family} {table.value} {name}:"
            yield from (f"  {line}" for line in lines)


def _jump(wanted: str | None, there: str | None, name: str) -> Iterator[str]:
    if wanted != there:
        if there:
            yield f"- the jump from {there} to {name}"
        if wanted:
            yield f"+ the jump from {wanted} to {name}"


def _rules(wanted: Sequence[str], there: Sequence[str]) -> Iterator[str]:
    return (line for line in difflib.ndiff(there, wanted) if line.startswith(("+ ", "- ")))
