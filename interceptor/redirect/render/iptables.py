"""The ruleset as ``iptables-restore`` reads and ``iptables-save`` writes it, and the policy routing as ``ip`` does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.redirect.rules import DETOUR_NUMBER, DETOUR_PROTOCOL, FAMILIES, Table
from interceptor.redirect.xtables import Entry, entry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.redirect.rules import Chain, Family, Ruleset


def render(ruleset: Ruleset) -> str:
    """The text for ``iptables-restore --noflush`` and ``ip6tables-restore --noflush``, one after the other."""
    return "\n".join(line for family in FAMILIES for line in _family(ruleset, family)) + "\n"


def _family(ruleset: Ruleset, family: Family) -> Iterator[str]:
    tool = "iptables-restore" if family == 4 else "ip6tables-restore"
    tables = [table for table in Table if ruleset.chains_in(family, table)]
    if not tables:
        yield f"# IPv{family}: nothing"
        return
    yield f"# IPv{family}: {tool} --noflush"
    for table in tables:
        chains = ruleset.chains_in(family, table)
        yield f"*{table.value}"
        yield from (f":{chain.name} - [0:0]" for chain in chains)
        yield from (
            f"-I {chain.hook.value} 1 {arguments(entry(ruleset, chain.jump, family))}" for chain in chains
        )
        yield from (line for chain in chains for line in rule_lines(ruleset, chain, family))
        yield "COMMIT"
    yield from routing_lines(ruleset, family)


def routing_lines(ruleset: Ruleset, family: Family) -> Iterator[str]:
    """The policy routing, which is no rule of netfilter's, as comments with the commands for it."""
    if ruleset.detour is not None and family in ruleset.detour.families:
        ip = "ip" if family == 4 else "ip -6"
        yield f"# {ip} route add local default dev lo table {DETOUR_NUMBER} proto {DETOUR_PROTOCOL}"
        yield (
            f"# {ip} rule add pref {DETOUR_NUMBER} fwmark {ruleset.detour.mark} table {DETOUR_NUMBER} "
            f"protocol {DETOUR_PROTOCOL}"
        )


def rule_lines(ruleset: Ruleset, chain: Chain, family: Family) -> Iterator[str]:
    """A chain's rules as ``iptables-save`` lists them."""
    return (f"-A {chain.name} {arguments(entry(ruleset, rule, family))}" for rule in chain.rules_for(family))


def arguments(form: Entry) -> str:
    """One rule's arguments, in the order and spelling of ``iptables-save``."""
    words: list[str] = []
    for option, value in (
        ("-s", form.source),
        ("-d", form.destination),
        ("-i", form.in_interface),
        ("-o", form.out_interface),
        ("-p", form.protocol),
    ):
        words += [option, value] if value is not None else []
    for extension in form.matches:
        words += ["-m", extension.name]
        words += [word for parameter in extension.parameters for word in _option(*parameter)]
    words += ["-j", form.target.name]
    words += [word for parameter in form.target.parameters for word in _option(*parameter)]
    return " ".join(words)


def _option(name: str, value: str) -> Iterator[str]:
    if name.startswith("!"):
        yield "!"
    yield f"--{name.removeprefix('!')}"
    if value:
        yield f'"{value}"' if name == "comment" else value
