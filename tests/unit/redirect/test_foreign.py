"""What others' nat rules mean for ours, and for the choice of a backend."""

from __future__ import annotations

import pytest

from interceptor.config.redirect import Backend
from interceptor.model.record import replace
from interceptor.redirect.foreign import (
    DNAT,
    REDIRECT,
    TPROXY,
    Choice,
    ForeignChain,
    ForeignRule,
    Presence,
    choose,
    conflicts,
    redirections,
)

TO_PORT = ForeignRule("-p tcp -j REDIRECT", REDIRECT)
TO_HOST = ForeignRule("-p tcp -j DNAT", DNAT)
NOTHING = Presence(ours=False, foreign=(), ipv6_nat=True)
OURS = Presence(ours=True, foreign=(), ipv6_nat=True)


def legacy(*rules: ForeignRule, name: str = "OUTPUT") -> ForeignChain:
    hook = name.lower() if name == "OUTPUT" else ""
    return ForeignChain(Backend.LEGACY, (4,), "nat", name, rules, hook, -100)


def nft(*rules: ForeignRule, priority: int = -100, hook: str = "output") -> ForeignChain:
    return ForeignChain(Backend.NFT, (4, 6), "inet theirs", "out", rules, hook, priority)


def holding(*chains: ForeignChain) -> Presence:
    return Presence(ours=False, foreign=chains, ipv6_nat=True)


@pytest.mark.parametrize(
    ("in_legacy", "in_nft", "chosen"),
    [
        (OURS, NOTHING, Backend.LEGACY),
        (NOTHING, OURS, Backend.NFT),
        (OURS, holding(nft(TO_PORT)), Backend.LEGACY),
        (holding(legacy(TO_HOST)), NOTHING, Backend.LEGACY),
        (NOTHING, holding(nft(TO_HOST)), Backend.NFT),
        (holding(legacy()), holding(nft(TO_HOST)), Backend.NFT),
        (holding(legacy(TO_HOST)), holding(replace(nft(TO_HOST), nat=False)), Backend.LEGACY),
        (OURS, OURS, None),
        (NOTHING, NOTHING, None),
        (holding(legacy(TO_HOST)), holding(nft(TO_HOST)), None),
    ],
)
def test_the_choice_follows_our_rules_and_then_the_nat_rules_of_others(
    in_legacy: Presence, in_nft: Presence, chosen: Backend | None
) -> None:
    choice = choose(in_legacy, in_nft)
    assert (choice and choice.backend) == chosen


def test_the_choice_says_why() -> None:
    assert choose(OURS, NOTHING) == Choice(Backend.LEGACY, "our rules are there already")
    assert choose(NOTHING, holding(nft(TO_PORT))) == Choice(Backend.NFT, "other nat rules are there")


def test_what_a_base_chain_leads_to_counts_and_what_nothing_leads_to_does_not() -> None:
    lead = ForeignRule("-j DOCKER", leads_to=("DOCKER",))
    back = ForeignRule("-j OUTPUT", leads_to=("OUTPUT", "RETURN"))
    base, docker = legacy(lead), legacy(back, TO_HOST, name="DOCKER")
    (found,) = redirections((base, docker, legacy(TO_PORT, name="UNUSED")))
    assert found == (base, (TO_HOST,))


def test_only_the_hooks_that_redirect_count() -> None:
    assert list(redirections((nft(TO_PORT, hook="postrouting"), legacy()))) == []


@pytest.mark.parametrize(
    ("ours", "theirs", "says"),
    [
        (
            Backend.LEGACY,
            nft(TO_HOST, priority=-150),
            "takes connections before our rules see them: -p tcp -j DNAT",
        ),
        (Backend.LEGACY, nft(TO_PORT), "before or after ours, whichever was made last"),
        (Backend.LEGACY, nft(TO_HOST, priority=-90), None),
        (Backend.LEGACY, nft(TO_PORT, priority=-90), "takes what our rules leave direct"),
        (Backend.LEGACY, legacy(TO_PORT), "takes what our rules leave direct"),
        (Backend.LEGACY, legacy(TO_HOST), None),
        (Backend.NFT, nft(TO_HOST, priority=-150), "takes connections before our rules see them"),
        (Backend.NFT, nft(TO_HOST, priority=-101), "before or after ours"),
        (Backend.NFT, nft(TO_HOST), None),
        (Backend.NFT, legacy(TO_HOST), None),
        (Backend.NFT, legacy(TO_HOST, TO_PORT), "the proxy's own connections as well: -p tcp -j REDIRECT"),
        (
            Backend.NFT,
            replace(nft(ForeignRule("tproxy to :1", TPROXY), priority=-150, hook="prerouting"), nat=False),
            "IPv4 and IPv6 prerouting in nftables' table inet theirs takes connections before our rules",
        ),
    ],
)
def test_each_order_has_its_sentence(ours: Backend, theirs: ForeignChain, says: str | None) -> None:
    sentences = list(conflicts(ours, (theirs,)))
    if says is None:
        assert sentences == []
    else:
        (sentence,) = sentences
        assert says in sentence


def test_one_sentence_for_a_chain_however_many_rules() -> None:
    (sentence,) = conflicts(Backend.LEGACY, (nft(TO_HOST, TO_PORT, TO_PORT, priority=-150),))
    assert sentence.endswith("-p tcp -j DNAT and 2 more")


def test_a_chain_of_iptables_is_named_as_such() -> None:
    (sentence,) = conflicts(Backend.NFT, (legacy(TO_PORT),))
    assert sentence.startswith("IPv4 nat OUTPUT of iptables-legacy takes")
