"""Containers and virtual machines behind an interface of this host: what they open to other hosts counts as egress.

What they open to this host itself is ingress, as of any peer; only name queries are captured wherever they go, because
the resolver that a guest is given mostly is its bridge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.model.record import replace
from interceptor.redirect.parts import DNS, Part, covers, egress_places, egress_selection
from interceptor.redirect.rules import Match

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.config.redirect import RedirectSettings


def excluded_interfaces(settings: RedirectSettings) -> Iterator[Part]:
    """Exclude wins, also where a pattern names both."""
    for name in settings.exclude_interfaces if settings.virtual_interfaces else ():
        match = Match(in_interface=name)
        yield Part(f"exclude-interface-{name}", match, "--exclude-interfaces", "this interface is excluded")


def exemptions(settings: RedirectSettings) -> Iterator[Part]:
    """What guests reach directly; it has no owner here."""
    for name in settings.virtual_interfaces:
        yield from (_behind(name, part) for part in egress_places(settings))


def selection(settings: RedirectSettings) -> Iterator[Part]:
    """What guests open that is captured."""
    for name in settings.virtual_interfaces:
        for part in egress_selection(settings):
            because = "what guests open to other hosts counts as egress"
            yield _behind(name, part)._replace(flag="--virtual-interfaces", because=because)


def dns_exemptions(settings: RedirectSettings) -> Iterator[Part]:
    """Resolvers whose addresses are excluded, be they this host's."""
    for name in settings.virtual_interfaces:
        for part in egress_places(settings):
            if not part.match.ports:
                match = replace(part.match, in_interface=name, ports=DNS)
                yield part._replace(id=f"{name}-dns-{part.id}", match=match)


def dns_selection(settings: RedirectSettings) -> Iterator[Part]:
    """Name queries of guests; none where the port is excluded."""
    if not covers(settings.exclude_egress_ports, DNS[0].first):
        for name in settings.virtual_interfaces:
            match = Match(in_interface=name, ports=DNS)
            yield Part(f"{name}-dns", match, "--dns", "name queries of guests go to the proxy")


def _behind(name: str, part: Part) -> Part:
    match = replace(part.match, in_interface=name, remote_destination=True)
    return part._replace(id=f"{name}-{part.id}", match=match)
