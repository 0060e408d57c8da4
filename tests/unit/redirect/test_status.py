"""What is wrong with what is installed."""

from __future__ import annotations

from interceptor.config.redirect import Backend
from interceptor.redirect.foreign import REDIRECT, ForeignChain, ForeignRule
from interceptor.redirect.rules import EGRESS_CHAIN, Family, Table, Tag
from interceptor.redirect.status import Hits, InstalledChain, Status

OURS = Hits(Tag("abc", "id"), 1, 60)


def chain(family: Family, hits: Hits = OURS, hook: str | None = "OUTPUT", *before: str) -> InstalledChain:
    return InstalledChain(Backend.LEGACY, (family,), Table.NAT, EGRESS_CHAIN, (hits,), hook, before)


def test_nothing_installed_is_nothing_wrong() -> None:
    assert list(Status(()).warnings()) == []


def test_both_families_by_one_configuration_is_nothing_wrong() -> None:
    status = Status((chain(4), chain(6)))
    assert list(status.warnings()) == []
    assert status.hashes == ("abc",)
    assert status.of(6) == (chain(6),)


def test_two_configurations() -> None:
    (warning,) = Status((chain(4), chain(6, Hits(Tag("def", "id"), 0, 0)))).warnings()
    assert "abc, def" in warning


def test_a_chain_that_nothing_leads_to() -> None:
    (warning,) = Status((chain(4), chain(6, hook=None))).warnings()
    assert "IPv6 nat INTERCEPTOR_EGRESS is not hooked in" in warning


def test_a_foreign_rule_before_ours() -> None:
    (warning,) = Status((chain(4, OURS, "OUTPUT", "-p tcp -j ACCEPT"), chain(6))).warnings()
    assert warning == "in IPv4 nat OUTPUT a foreign rule comes before ours: -p tcp -j ACCEPT"


def test_a_foreign_rule_in_our_chain() -> None:
    (warning,) = Status((chain(4), chain(6), chain(6, Hits(None, 0, 0)))).warnings()
    assert "holds a rule that is not ours" in warning


def test_a_family_that_is_missing() -> None:
    (warning,) = Status((chain(4),)).warnings()
    assert warning == "nothing of ours is installed for IPv6: its connections bypass the proxy"


def test_one_chain_for_both_families_is_nothing_wrong() -> None:
    both = InstalledChain(Backend.NFT, (4, 6), Table.NAT, EGRESS_CHAIN, (OURS,), "OUTPUT", ())
    status = Status((both,))
    assert (list(status.warnings()), status.of(4), status.of(6)) == ([], (both,), (both,))
    assert both.place == "IPv4 and IPv6 nat"


def test_policy_routing_without_its_rules_and_rules_without_it() -> None:
    marking = InstalledChain(Backend.NFT, (4, 6), Table.MANGLE, EGRESS_CHAIN, (OURS,), "OUTPUT", ())
    assert list(Status((marking,), routed={4: True, 6: True}).warnings()) == []
    (missing,) = Status((marking,), routed={4: True, 6: False}).warnings()
    assert missing.startswith("the policy routing of IPv6 is missing or not whole")
    (left,) = Status((), routed={4: False}).warnings()
    assert left.startswith("policy routing of ours stands for IPv4 and no rule that needs it")
    assert "run 'sidecar-setup apply' or 'sidecar-setup remove'" in left


def test_rules_in_both_backends() -> None:
    both = InstalledChain(Backend.NFT, (4, 6), Table.NAT, EGRESS_CHAIN, (OURS,), "OUTPUT", ())
    (warning,) = Status((chain(4), chain(6), both)).warnings()
    assert "installed twice" in warning


def test_a_foreign_redirection_is_named() -> None:
    theirs = ForeignChain(
        Backend.NFT, (4,), "ip theirs", "o", (ForeignRule("redirect to :1", REDIRECT),), "output", -100
    )
    (warning,) = Status((chain(4), chain(6)), (theirs,)).warnings()
    assert warning.startswith(
        "IPv4 output in nftables' table ip theirs takes connections before or after ours"
    )


def test_without_the_redirects_that_are_told_elsewhere() -> None:
    before = ("-p tcp -j ACCEPT", "-p tcp -j REDIRECT")
    status = Status(
        (chain(4, OURS, "OUTPUT", *before), chain(6)),
        (
            ForeignChain(
                Backend.NFT,
                (4,),
                "ip nat",
                "OUTPUT",
                (ForeignRule("r", REDIRECT, ()),),
                "output",
                -100,
                nat=True,
            ),
        ),
    )
    assert len(list(status.warnings())) == 3
    assert [warning.rpartition(": ")[2] for warning in status.without({"legacy", "nft"}).warnings()] == [
        before[0]
    ]
    assert status.without(()) == status
