"""What becomes of IPv6: a decision over what was asked and what the kernel and the namespace have.

IPv6 is never left open in silence: where it cannot be captured although the app has addresses, we refuse.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from interceptor.config.redirect import Ipv6Policy
from interceptor.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Sequence


class Ipv6(Enum):
    """What the rules do with IPv6."""

    CAPTURE = "captured"
    BLOCK = "refused"
    LEAVE = "left alone"


def decide(policy: Ipv6Policy, *, nat: bool, addresses: Sequence[str]) -> Ipv6:
    """Decide. ``nat``: the kernel has an IPv6 nat table; ``addresses``: the namespace's, without loopback.

    Raises KernelError when IPv6 is wanted and cannot be had.
    """
    if policy is Ipv6Policy.BLOCK:
        return Ipv6.BLOCK
    if policy is Ipv6Policy.OFF:
        return Ipv6.LEAVE
    if nat:
        return Ipv6.CAPTURE
    if policy is Ipv6Policy.ON:
        raise KernelError(
            "--ipv6 on cannot be honoured: this kernel has no IPv6 nat table; "
            "load it with 'modprobe ip6table_nat', or give --ipv6 block"
        )
    if addresses:
        raise KernelError(
            f"this kernel has no IPv6 nat table, but there are IPv6 addresses ({', '.join(addresses)}) "
            "through which connections would bypass the proxy; load it with 'modprobe ip6table_nat', "
            "or give --ipv6 block to refuse IPv6, or --ipv6 off to leave it uncaptured"
        )
    return Ipv6.LEAVE


def assume(policy: Ipv6Policy) -> Ipv6:
    """What a plan shows where no kernel is asked."""
    return decide(policy, nat=True, addresses=())


def describe(policy: Ipv6Policy, decision: Ipv6) -> str:
    """The decision as a sentence for the operator."""
    if decision is Ipv6.CAPTURE:
        return "IPv6 is captured like IPv4"
    if decision is Ipv6.BLOCK:
        return "IPv6 is refused where it would have been captured (--ipv6 block)"
    if policy is Ipv6Policy.OFF:
        return "IPv6 is left alone and bypasses the proxy (--ipv6 off)"
    return (
        "IPv4 only: the kernel has no IPv6 nat table, and there is no IPv6 address to bypass the proxy with"
    )
