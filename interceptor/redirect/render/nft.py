"""The ruleset as ``nft -f`` reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.redirect.nftables import FAMILY, TABLE, network_text, table_form
from interceptor.redirect.render.iptables import routing_lines
from interceptor.redirect.rules import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.redirect.nftables import ChainForm, NamedSet, RuleForm
    from interceptor.redirect.rules import Ruleset


def render(ruleset: Ruleset) -> str:
    """A file that puts our table in the place of any earlier one, in one transaction."""
    return "\n".join(_lines(ruleset)) + "\n"


def _lines(ruleset: Ruleset) -> Iterator[str]:
    table = table_form(ruleset)
    yield "# nft -f: the first two lines make sure that an earlier table is replaced, at the same instant"
    yield f"add table {FAMILY} {TABLE}"
    yield f"delete table {FAMILY} {TABLE}"
    yield f"table {FAMILY} {TABLE} {{"
    for number, block in enumerate([*map(_set, table.sets), *map(_chain, table.chains)]):
        yield from ("",) if number else ()
        yield from (f"\t{line}" for line in block)
    yield "}"
    for family in FAMILIES:
        yield from routing_lines(ruleset, family)


def _set(named: NamedSet) -> Iterator[str]:
    yield f"set {named.name} {{"
    yield f"\ttype {named.type}"
    yield "\tflags interval"
    yield "\tcounter"
    yield "\telements = {"
    yield from (f'\t\t{network_text(network)} comment "{comment}",' for network, comment in named.elements)
    yield "\t}"
    yield "}"


def _chain(chain: ChainForm) -> Iterator[str]:
    yield f"chain {chain.name} {{"
    if chain.base is not None:
        kind, hook, priority = chain.base
        yield f"\ttype {kind} hook {hook} priority {priority}; policy accept;"
    yield from (f"\t{rule_line(rule)}" for rule in chain.rules)
    yield "}"


def rule_line(rule: RuleForm) -> str:
    """One rule as ``nft list`` writes it."""
    return f'{" ".join(statement.text for statement in rule.statements)} comment "{rule.comment}"'
