"""The ruleset as a mermaid flow chart: the way of a packet, chain by chain, as Markdown viewers draw it."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final

from interceptor.redirect.render.text import describe, outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.redirect.rules import Chain, Protocol, Rule, Ruleset

SHOWN: Final = 6  # rules of one outcome in a row that are written out; a thousand CIDRs are a number


def render(ruleset: Ruleset) -> str:
    """A chart with one lane for each chain: each question a packet is asked, and where the answer leads."""
    lines = ["flowchart TD", f"    %% configuration {ruleset.hash}"]
    for number, chain in enumerate(ruleset.chains):
        lines += _lane(chain, f"c{number}")
    if ruleset.detour is not None:
        lines.append(f'    detour["routing: what is marked {ruleset.detour.mark} is delivered on this host"]')
    return "\n".join(lines) + "\n"


def _lane(chain: Chain, name: str) -> Iterator[str]:
    families = " and ".join(f"IPv{family}" for family in chain.families)
    known = chain.jump.match.protocol
    yield f'    subgraph {name} ["{chain.table.value} {chain.hook.value}, {families}"]'
    yield "        direction TD"
    asked = ", ".join(describe(chain.jump.match)) or "every packet"
    yield f'        {name}s(["{_quoted(asked)}"])'
    previous, arrow = f"{name}s", "-->"
    for number, (ending, group) in enumerate(groupby(chain.rules, key=lambda rule: outcome(rule.verdict))):
        node, end = f"{name}q{number}", f"{name}e{number}"
        yield f'        {previous} {arrow} {node}{{"{"<br>or ".join(_questions(list(group), known))}"}}'
        yield f'        {node} -- yes --> {end}["{_quoted(ending)}"]'
        previous, arrow = node, "-- no -->"
    yield f'        {previous} {arrow} {name}d["goes on as it is"]'
    yield "    end"


def _questions(rules: list[Rule], known: Protocol | None) -> Iterator[str]:
    """Neighbours with one outcome are one question with alternatives."""
    for rule in rules[:SHOWN]:
        yield _quoted(", ".join(describe(rule.match, known)) or "anything")
    if len(rules) > SHOWN:
        yield f"one of {len(rules) - SHOWN} more"


def _quoted(text: str) -> str:
    """Mermaid's entity for the one character that ends a label."""
    return text.replace('"', "#quot;")
