"""The guard: filter rules that refuse what would have been captured and was not, and what nobody can capture.

Three flags ask for it, each for its share: ``--strict`` for TCP that no nat rule brought to the proxy and for
connections from outside straight to the proxy's listeners, ``--quic block`` for UDP port 443, ``--ipv6 block`` for all
of IPv6. Only first packets are looked at, and the exemptions of capture are exempt here as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from interceptor.config.redirect import Dns, Mode, PortRange, Quic
from interceptor.model.record import replace
from interceptor.redirect import dns, guests, tproxy
from interceptor.redirect.parts import (
    INWARD_LOOPBACK,
    OUTWARD_LOOPBACK,
    Part,
    Protocols,
    chain,
    covers,
    egress_exemptions,
    egress_selection,
    ingress_exemptions,
    ingress_selection,
    jump,
    returns,
    rule,
)
from interceptor.redirect.rules import (
    EGRESS_CHAIN,
    FORWARD_CHAIN,
    INGRESS_CHAIN,
    Answer,
    Hook,
    Match,
    Protocol,
    Reject,
    Return,
    Table,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from interceptor.config.redirect import RedirectSettings
    from interceptor.redirect.rules import Chain, Family, Rule

_QUIC: Final = (PortRange(443, 443),)
_DISCOVERY: Final = Part(
    "icmpv6",
    Match(protocol=Protocol.ICMPV6),
    "always",
    "IPv6 does not work without ICMPv6: neighbour discovery, path MTU",
)


def chains(settings: RedirectSettings, families: tuple[Family, ...], *, blocked: bool) -> Iterator[Chain]:
    """The filter chains for these families: those that are captured, or the one that is blocked."""
    guard = _Guard(settings, blocked=blocked)
    for hook, name, rules, what in (
        (Hook.INPUT, INGRESS_CHAIN, guard.ingress(), "that arrives"),
        (Hook.FORWARD, FORWARD_CHAIN, guard.forward(), "that is forwarded"),
        (Hook.OUTPUT, EGRESS_CHAIN, guard.egress(), "opened here"),
    ):
        if rules:
            of_family = "IPv6 " if blocked else ""
            match = Match(new=True, protocol=guard.only)
            way = name.removeprefix("INTERCEPTOR_").lower()
            leads = jump(
                f"{guard.prefix}-{way}", match, name, f"every {of_family}connection {what} is looked at"
            )
            yield chain(Table.FILTER, name, hook, leads, rules, families)


class _Guard:
    """The rules of one guard, and what it must look at for them."""

    def __init__(self, settings: RedirectSettings, *, blocked: bool) -> None:
        self.settings = settings
        self.blocked = blocked
        self.strict = (
            settings.strict and not blocked
        )  # where all is blocked there is nothing left to be strict with
        self.quic = settings.quic is Quic.BLOCK and not blocked
        self.dns = self.strict and settings.dns is Dns.CAPTURE
        self.prefix = "block" if blocked else "guard"
        tcp = (Protocol.TCP,) if blocked or settings.strict else ()
        udp = (Protocol.UDP,) if blocked or self.quic or self.dns else ()
        self.only = tcp[0] if not udp and tcp else udp[0] if not tcp and udp else None
        self.protocols = Protocols(tcp + udp, None if blocked else self.only)

    def egress(self) -> tuple[Rule, ...]:
        """What programs here open."""
        if not (self.blocked or self.strict or self.quic):
            return ()
        prefix = f"{self.prefix}-egress"
        ports = (self.settings.egress_port, *((self.settings.dns_port,) if self.dns else ()))
        return (
            *self._discovery(prefix),
            *(self._captured(prefix, ports) if self.strict else ()),
            *returns(prefix, egress_exemptions(self.settings), self.protocols),
            *(self._queries(prefix, [dns.SELECTION]) if self.dns else ()),
            *returns(prefix, [OUTWARD_LOOPBACK], self.protocols),
            *self._refusals(prefix, list(egress_selection(self.settings))),
        )

    def forward(self) -> tuple[Rule, ...]:
        """What guests open to other hosts."""
        if not self.settings.virtual_interfaces or not (self.blocked or self.strict or self.quic):
            return ()
        prefix = f"{self.prefix}-forward"
        return (
            *self._discovery(prefix),
            *returns(prefix, guests.excluded_interfaces(self.settings), self.protocols),
            *(returns(prefix, guests.dns_exemptions(self.settings), self.protocols) if self.dns else ()),
            *(self._queries(prefix, guests.dns_selection(self.settings)) if self.dns else ()),
            *returns(prefix, guests.exemptions(self.settings), self.protocols),
            *self._refusals(prefix, list(guests.selection(self.settings))),
        )

    def ingress(self) -> tuple[Rule, ...]:
        """What peers open."""
        settings = self.settings
        if not (self.blocked or self.strict):
            return ()
        prefix = f"{self.prefix}-ingress"
        return (
            *self._discovery(prefix),
            *returns(prefix, [INWARD_LOOPBACK], self.protocols),
            *(self._arrived(prefix) if self.strict else ()),
            *(self._straight(prefix) if settings.strict else ()),
            *returns(prefix, ingress_exemptions(settings), self.protocols),
            *(self._rejects(prefix, ingress_selection(settings))),
        )

    def _discovery(self, prefix: str) -> Iterator[Rule]:
        return returns(prefix, [_DISCOVERY] if self.blocked else [], self.protocols)

    def _captured(self, prefix: str, ports: Iterable[int]) -> Iterator[Rule]:
        """By the rewritten destination and nothing else: what was redirected still leaves by its first interface."""
        ranges = tuple(PortRange(port, port) for port in sorted(ports))
        match = Match(rewritten=True, ports=ranges)
        part = Part("captured", match, "always", "it was brought to the proxy, as it should be")
        return returns(prefix, [part], self.protocols)

    def _arrived(self, prefix: str) -> Iterator[Rule]:
        settings = self.settings
        ports = []
        if settings.mode is Mode.TPROXY:
            match = Match(connection_mark=tproxy.marks(settings).taken)
            part = Part("taken", match, "always", "it was brought to the proxy, as it should be")
            yield rule(f"{prefix}-{part.id}", part, Protocol.TCP, Return())
        else:
            ports.append(settings.ingress_port)
        if settings.virtual_interfaces:
            ports += [settings.egress_port, *((settings.dns_port,) if self.dns else ())]
        if ports:
            yield from self._captured(prefix, ports)

    def _straight(self, prefix: str) -> Iterator[Rule]:
        settings = self.settings
        listeners = sorted((settings.ingress_port, settings.egress_port, settings.dns_port))
        match = Match(ports=tuple(PortRange(port, port) for port in listeners))
        part = Part(
            "listeners", match, "--strict", "nobody outside connects straight to the proxy's listeners"
        )
        yield rule(f"{prefix}-{part.id}", part, Protocol.TCP, Reject(Answer.RESET))
        if Protocol.UDP in self.protocols.with_ports and settings.dns is Dns.CAPTURE:
            only = PortRange(settings.dns_port, settings.dns_port)
            query = part._replace(match=Match(ports=(only,)))
            yield rule(f"{prefix}-{part.id}-udp", query, Protocol.UDP, Reject(Answer.UNREACHABLE))

    def _queries(self, prefix: str, parts: Iterable[Part]) -> Iterator[Rule]:
        for part in parts:
            missed = part._replace(
                flag="--strict", because="name queries should have been captured and were not"
            )
            yield rule(f"{prefix}-{part.id}-udp", missed, Protocol.UDP, Reject(Answer.UNREACHABLE))
            yield rule(f"{prefix}-{part.id}-tcp", missed, Protocol.TCP, Reject(Answer.RESET))

    def _refusals(self, prefix: str, parts: Sequence[Part]) -> Iterator[Rule]:
        if self.quic:
            for part in parts:
                if not part.match.ports or covers(part.match.ports, _QUIC[0].first):
                    because = "QUIC cannot be captured: programs go on by TCP, which is"
                    quic = part._replace(
                        match=replace(part.match, ports=_QUIC), flag="--quic", because=because
                    )
                    yield rule(f"{prefix}-quic-{part.id}", quic, Protocol.UDP, Reject(Answer.UNREACHABLE))
        if self.blocked or self.strict:
            yield from self._rejects(prefix, parts)

    def _rejects(self, prefix: str, parts: Iterable[Part]) -> Iterator[Rule]:
        """TCP by a reset, so that a client gives up at once; the rest, where all is blocked, by ICMP."""
        for selected in parts:
            part = selected._replace(flag="--strict", because="it should have been captured and was not")
            if self.blocked:
                because = "it would have been captured, and IPv6 is blocked"
                part = selected._replace(flag="--ipv6", because=because)
            yield rule(f"{prefix}-{part.id}", part, Protocol.TCP, Reject(Answer.RESET))
            if self.blocked:
                other = Protocol.UDP if part.match.ports else None
                yield rule(f"{prefix}-{part.id}-other", part, other, Reject(Answer.UNREACHABLE))
