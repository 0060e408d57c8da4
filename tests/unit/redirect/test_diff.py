from __future__ import annotations

from interceptor.config.redirect import Backend, PortRange, RedirectSettings
from interceptor.model.record import replace
from interceptor.redirect.diff import difference
from interceptor.redirect.ipv6 import Ipv6
from interceptor.redirect.plan import plan
from interceptor.redirect.rules import EGRESS_CHAIN, FAMILIES, Ruleset, Tag
from interceptor.redirect.status import Hits, InstalledChain, Status

PLAN = plan(RedirectSettings(exclude_egress_ports=(PortRange(22, 22),)))


def installed(ruleset: Ruleset = PLAN) -> Status:
    """What a status shows after these rules were applied."""
    return Status(
        tuple(
            InstalledChain(
                Backend.LEGACY,
                (family,),
                chain.table,
                chain.name,
                tuple(Hits(Tag(ruleset.hash, rule.id), 0, 0) for rule in chain.rules_for(family)),
                chain.hook.value,
                (),
            )
            for family in FAMILIES
            for chain in ruleset.chains
            if family in chain.families
        )
    )


def changed(name: str, **fields: object) -> Status:
    """The same with one chain changed, in both families."""
    chains = installed().chains
    return Status(tuple(replace(chain, **fields) if chain.name == name else chain for chain in chains))  # type: ignore[arg-type]  # mypy cannot see through **


def test_what_was_applied_is_no_difference() -> None:
    assert difference(PLAN, installed()) == []


def test_nothing_installed_lacks_every_rule_and_jump() -> None:
    lines = difference(PLAN, Status(()))
    assert lines[:3] == [
        "IPv4 nat INTERCEPTOR_EGRESS:",
        "  + the jump from OUTPUT to INTERCEPTOR_EGRESS",
        "  + egress-proxy-uid-1337",
    ]
    assert not [line for line in lines if line.startswith("  -")]


def test_a_missing_rule_and_one_too_many_are_named() -> None:
    without = plan(RedirectSettings())
    assert "  + egress-exclude-ports-1" in difference(PLAN, installed(without))
    assert "  - egress-exclude-ports-1" in difference(without, installed())


def test_order_counts() -> None:
    (chain, *_) = [chain for chain in installed().chains if chain.name == EGRESS_CHAIN]
    first, second, *rest = chain.rules
    lines = difference(PLAN, changed(EGRESS_CHAIN, rules=(second, first, *rest)))
    moved = {line.strip("+- ") for line in lines if line.startswith(("  +", "  -"))}
    assert len(moved) == 1
    assert len([line for line in lines if line.startswith("IPv")]) == 2


def test_a_jump_that_is_gone_or_elsewhere_is_named() -> None:
    assert "  + the jump from OUTPUT to INTERCEPTOR_EGRESS" in difference(
        PLAN, changed(EGRESS_CHAIN, hook=None)
    )
    assert "  - the jump from INPUT to INTERCEPTOR_EGRESS" in difference(
        PLAN, changed(EGRESS_CHAIN, hook="INPUT")
    )


def test_a_rule_of_others_in_our_chain_is_a_difference() -> None:
    (chain, *_) = [chain for chain in installed().chains if chain.name == EGRESS_CHAIN]
    lines = difference(PLAN, changed(EGRESS_CHAIN, rules=(Hits(None, 0, 0), *chain.rules)))
    assert "  - a rule that is not ours" in lines


def test_what_is_for_one_family_is_not_missed_in_the_other() -> None:
    v4 = plan(RedirectSettings(), Ipv6.LEAVE)
    assert difference(v4, installed(v4)) == []
