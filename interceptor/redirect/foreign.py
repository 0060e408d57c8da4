"""Rules of others that bring connections elsewhere, and what that means for ours; and which backend a namespace lives in.

Both backends of the kernel run side by side: every nat chain at a hook is called in the order of its priority, until one
has rewritten the connection. An exemption in one does not protect from a redirection in the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.config.redirect import Backend
from interceptor.model.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from interceptor.redirect.rules import Family

REDIRECT: Final = "redirect"  # to a port of this host
DNAT: Final = "dnat"
TPROXY: Final = "tproxy"

LEGACY_NAT_PRIORITY: Final = -100  # NF_IP_PRI_NAT_DST, linux/netfilter_ipv4.h
# Ours: just before iptables and everybody else, so that whose chain runs first is no matter of who came last.
NFT_NAT_PRIORITY: Final = LEGACY_NAT_PRIORITY - 1
_PRIORITY: Final = {Backend.LEGACY: LEGACY_NAT_PRIORITY, Backend.NFT: NFT_NAT_PRIORITY}


class ForeignRule(Record):
    """What it looks like, what it does (``REDIRECT``, ``DNAT``, ``TPROXY`` or nothing of these), where it leads."""

    text: str
    does: str = ""
    leads_to: tuple[str, ...] = ()


class ForeignChain(Record):
    """A chain of somebody else's; ``hook`` and ``priority`` where the kernel calls it."""

    backend: Backend
    families: tuple[Family, ...]
    table: str
    name: str
    rules: tuple[ForeignRule, ...]
    hook: str = ""
    priority: int = 0
    nat: bool = True


class Redirection(NamedTuple):
    """All that brings connections elsewhere below one base chain, with the first such rule as the example."""

    base: ForeignChain
    rules: tuple[ForeignRule, ...]


class Presence(Record):
    """What one backend holds in a namespace."""

    ours: bool
    foreign: tuple[ForeignChain, ...]
    ipv6_nat: bool  # it is there already; where not, the kernel may still have it
    mangle: bool = False  # there may be rules of ours that mark packets, with which policy routing stands


class Choice(Record):
    """A backend and why it was chosen."""

    backend: Backend
    because: str


def choose(legacy: Presence, nft: Presence) -> Choice | None:
    """Where our rules are; else where others' nat rules are; None when neither decides."""
    for because, (in_legacy, in_nft) in (
        ("our rules are there already", (legacy.ours, nft.ours)),
        ("other nat rules are there", (_has_nat(legacy), _has_nat(nft))),
    ):
        if in_legacy != in_nft:
            return Choice(Backend.LEGACY if in_legacy else Backend.NFT, because)
    return None


def _has_nat(presence: Presence) -> bool:
    return any(chain.nat and chain.rules for chain in presence.foreign)


def redirections(chains: Sequence[ForeignChain]) -> Iterator[Redirection]:
    """Per base chain, the rules that bring connections elsewhere, in its own and in the chains it leads to."""
    named = {(chain.backend, chain.families, chain.table, chain.name): chain for chain in chains}
    for base in chains:
        if base.hook not in {"prerouting", "output"}:
            continue
        seen = [base]
        for chain in seen:  # grows while it is walked
            for name in (name for rule in chain.rules for name in rule.leads_to):
                target = named.get((base.backend, base.families, base.table, name))
                if target is not None and target not in seen:
                    seen.append(target)
        found = tuple(rule for chain in seen for rule in chain.rules if rule.does)
        if found:
            yield Redirection(base, found)


def conflicts(ours: Backend, chains: Sequence[ForeignChain]) -> Iterator[str]:
    """Sentences on what others' redirections do to ours, installed in a backend."""
    for base, rules in redirections(chains):
        where = _where(base)
        first = rules[0].text
        more = f" and {len(rules) - 1} more" if len(rules) > 1 else ""
        same_table = base.backend is ours is Backend.LEGACY and base.table == "nat"
        if same_table:
            order = 1  # our jump comes first in there; status tells when it does not
        elif any(rule.does == TPROXY for rule in rules):
            order = -1
        else:
            order = base.priority - _PRIORITY[ours]
        if order < 0:
            yield f"{where} takes connections before our rules see them: {first}{more}"
        elif order == 0:
            yield (
                f"{where} takes connections before or after ours, whichever was made last: {first}{more}; "
                "with --backend nft ours always come first"
            )
        elif any(rule.does == REDIRECT for rule in rules):
            example = next(rule.text for rule in rules if rule.does == REDIRECT)
            yield f"{where} takes what our rules leave direct, the proxy's own connections as well: {example}"


def _where(base: ForeignChain) -> str:
    families = " and ".join(f"IPv{family}" for family in base.families)
    if base.backend is Backend.LEGACY:
        return f"{families} {base.table} {base.hook.upper()} of iptables-legacy"
    return f"{families} {base.hook} in nftables' table {base.table}"
