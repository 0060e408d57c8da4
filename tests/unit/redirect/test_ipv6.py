"""What becomes of IPv6: never left open in silence."""

from __future__ import annotations

import pytest

from interceptor.config.redirect import Ipv6Policy
from interceptor.errors import KernelError
from interceptor.redirect.ipv6 import Ipv6, assume, decide, describe


@pytest.mark.parametrize(
    ("policy", "nat", "addresses", "decision"),
    [
        (Ipv6Policy.AUTO, True, (), Ipv6.CAPTURE),
        (Ipv6Policy.AUTO, True, ("fd09::2 on eth0",), Ipv6.CAPTURE),
        (Ipv6Policy.AUTO, False, (), Ipv6.LEAVE),
        (Ipv6Policy.ON, True, (), Ipv6.CAPTURE),
        (Ipv6Policy.BLOCK, False, ("fd09::2 on eth0",), Ipv6.BLOCK),
        (Ipv6Policy.BLOCK, True, (), Ipv6.BLOCK),
        (Ipv6Policy.OFF, False, ("fd09::2 on eth0",), Ipv6.LEAVE),
        (Ipv6Policy.OFF, True, (), Ipv6.LEAVE),
    ],
)
def test_the_decision(policy: Ipv6Policy, nat: bool, addresses: tuple[str, ...], decision: Ipv6) -> None:
    assert decide(policy, nat=nat, addresses=addresses) is decision


def test_an_open_ipv6_is_refused_with_the_remedies() -> None:
    with pytest.raises(
        KernelError, match=r"fd09::2 on eth0.*modprobe ip6table_nat.*--ipv6 block.*--ipv6 off"
    ):
        decide(Ipv6Policy.AUTO, nat=False, addresses=["fd09::2 on eth0"])


def test_ipv6_that_is_required_and_missing_is_refused() -> None:
    with pytest.raises(KernelError, match="modprobe ip6table_nat"):
        decide(Ipv6Policy.ON, nat=False, addresses=[])


def test_each_decision_is_told() -> None:
    said = {
        describe(policy, decision)
        for policy, decision in (
            (Ipv6Policy.AUTO, Ipv6.CAPTURE),
            (Ipv6Policy.BLOCK, Ipv6.BLOCK),
            (Ipv6Policy.OFF, Ipv6.LEAVE),
            (Ipv6Policy.AUTO, Ipv6.LEAVE),
        )
    }
    assert len(said) == 4


def test_a_plan_without_a_kernel_assumes_that_it_can() -> None:
    assert assume(Ipv6Policy.AUTO) is Ipv6.CAPTURE
