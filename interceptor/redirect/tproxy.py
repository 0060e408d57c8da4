"""TPROXY: ingress reaches the proxy with its addresses unchanged, and the proxy calls the app by the client's address.

Two connections carry addresses that no other rule knows how to bring home; each is marked when it is opened. One is the
client's, ``taken``: all its segments go to the proxy's listener, where the kernel prefers the established connection; a
segment that is not of a marked connection is never touched, so the answers to the app's own connections are not stolen.
The other is the proxy's to the app, ``spoofed``: it never leaves this host, but the app's answers to it are addressed to
the client, so a mark turns them round (policy routing) to the proxy, which sits on this host.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.config.redirect import Dns, Mark
from interceptor.model.record import replace
from interceptor.redirect import guests
from interceptor.redirect.parts import (
    INWARD_LOOPBACK,
    Part,
    Protocols,
    chain,
    ingress_exemptions,
    ingress_selection,
    jump,
    returns,
    rule,
)
from interceptor.redirect.rules import (
    EGRESS_CHAIN,
    INGRESS_CHAIN,
    Detour,
    Hook,
    MarkConnection,
    MarkPacket,
    Match,
    Protocol,
    Table,
    Tproxy,
    read_comment,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.config.redirect import RedirectSettings
    from interceptor.redirect.rules import Chain, Family, Rule

FIRST_MARK: Final = 0x53A  # next to Istio's 0x539, which operators give as --proxy-mark
MASK: Final = 0xFFF
_TCP: Final = Protocols((Protocol.TCP,), Protocol.TCP)
_FLAG: Final = "--mode"
_TAKEN: Final = "ingress-taken"
_LOOPBACK: Final = f"ingress-{INWARD_LOOPBACK.id}"


class Marks(NamedTuple):
    """The marks of the two kinds of connections; the second is also that of the packets that are turned round."""

    taken: Mark
    spoofed: Mark


def marks(settings: RedirectSettings) -> Marks:
    """Two marks that neither are read as the proxy's own nor the other way round."""
    own = settings.proxy_mark
    free = (
        Mark(value, MASK)
        for value in itertools.count(FIRST_MARK)
        if own is None or (value & own.mask != own.value and own.value & MASK != value)
    )
    return Marks(next(free), next(free))


def opens(comment: str) -> bool:
    """Whether a rule with this comment, in the mangle table, takes a connection that is being opened."""
    tag = read_comment(comment)
    return tag is not None and tag.rule.startswith("ingress-") and tag.rule not in {_LOOPBACK, _TAKEN}


def detour(settings: RedirectSettings, families: tuple[Family, ...]) -> Detour:
    """The policy routing that the rules need."""
    return Detour(marks(settings).spoofed, families)


def chains(settings: RedirectSettings, families: tuple[Family, ...]) -> tuple[Chain, ...]:
    """The mangle chains."""
    taken, spoofed = marks(settings)
    tcp = Match(protocol=Protocol.TCP)
    calls = Part(
        "tproxy-call",
        Match(out_interface="lo", remote_source=True, syn=True),
        _FLAG,
        "the proxy calls the app by the client's address",
    )
    answers = Part(
        "tproxy-answer",
        Match(connection_mark=spoofed, reply=True),
        _FLAG,
        "the app's answers to the client's address turn round to the proxy",
    )
    egress = (
        rule(calls.id, calls, Protocol.TCP, MarkConnection(spoofed)),
        rule(answers.id, answers, Protocol.TCP, MarkPacket(spoofed)),
    )
    arrives = jump("tproxy-ingress", tcp, INGRESS_CHAIN, "every TCP segment that arrives is looked at")
    leaves = jump("tproxy-egress", tcp, EGRESS_CHAIN, "every TCP segment sent here is looked at")
    return (
        chain(Table.MANGLE, INGRESS_CHAIN, Hook.PREROUTING, arrives, _ingress(settings, taken), families),
        chain(Table.MANGLE, EGRESS_CHAIN, Hook.OUTPUT, leaves, egress, families),
    )


def _ingress(settings: RedirectSettings, taken: Mark) -> Iterator[Rule]:
    yield from returns("ingress", [INWARD_LOOPBACK], _TCP)
    because = "the rest of a connection goes where its first segment went"
    going_on = Part(_TAKEN, Match(connection_mark=taken), _FLAG, because)
    yield rule(going_on.id, going_on, Protocol.TCP, Tproxy(settings.ingress_port))
    if (
        settings.dns is Dns.CAPTURE
    ):  # taken here and redirected there, a connection would reach neither listener
        queries = (*guests.dns_exemptions(settings), *guests.dns_selection(settings))
        because = "name queries of guests are for the nat table to bring to the proxy"
        yield from returns("ingress", [query._replace(because=because) for query in queries], _TCP)
    yield from returns("ingress", ingress_exemptions(settings), _TCP)
    for part in ingress_selection(settings):
        opening = part._replace(match=replace(part.match, syn=True))
        yield rule(f"ingress-{part.id}-mark", opening, Protocol.TCP, MarkConnection(taken))
        yield rule(f"ingress-{part.id}", opening, Protocol.TCP, Tproxy(settings.ingress_port))
