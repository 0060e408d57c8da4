"""PURE. What documents refer to that no other document has: nothing is wrong with it, and requests will show it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.routing import delegates

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from interceptor.config.destination_rule import DestinationRule
    from interceptor.config.service_entry import ServiceEntry
    from interceptor.config.virtual_service import Destination, VirtualService

_ANSWER = "what is sent there is answered with 503 (NC), a connection reset"


def dangling(
    entries: Sequence[ServiceEntry], rules: Sequence[DestinationRule], services: Sequence[VirtualService]
) -> Iterator[tuple[str, str, str]]:
    """For each such reference the document's kind, its namespace and name, and a sentence."""
    ports: dict[str, set[int]] = {}
    for entry in entries:
        for host in entry.spec.hosts:
            ports.setdefault(host, set()).update(port.number for port in entry.spec.ports)
    subsets = {rule.spec.host: {each.name for each in rule.spec.subsets} for rule in rules}
    for rule in rules:
        host = rule.spec.host
        if not any(_covers(host, each) for each in ports):
            yield (
                "DestinationRule",
                rule.full_name,
                f"no ServiceEntry has the host {host}, so it holds for nothing",
            )
    known = delegates.named(services)
    for service in services:
        said_of = delegates.without_effect(service, known)
        yield from (("VirtualService", service.full_name, said) for said in said_of)
        yield from _unknown(service, ports, subsets)


def _unknown(
    service: VirtualService, ports: Mapping[str, set[int]], subsets: Mapping[str, set[str]]
) -> Iterator[tuple[str, str, str]]:
    """The destinations of a VirtualService that are not there."""
    for told in dict.fromkeys(_destinations(service)):
        host, number, subset = told
        if host not in ports:
            said = f"no ServiceEntry has the host {host}"
        elif number is not None and number not in ports[host]:
            said = f"no ServiceEntry of {host} has the port {number}"
        elif subset is not None and subset not in _of(subsets, host):
            said = f"no DestinationRule about {host} has the subset {subset}"
        else:
            continue
        yield "VirtualService", service.full_name, f"{said}: {_ANSWER}"


def _covers(host: str, other: str) -> bool:
    return host == other or (host[:2] == "*." and other.endswith(host[1:]))


def _of(subsets: Mapping[str, set[str]], host: str) -> set[str]:
    """The subsets of the rule about a host: its own, else that of the longest wildcard."""
    about = [each for each in subsets if _covers(each, host)]
    return subsets[max(about, key=lambda each: (each == host, len(each)))] if about else set()


def _destinations(service: VirtualService) -> Iterator[tuple[str, int | None, str | None]]:
    spec = service.spec
    found: list[Destination] = [each.destination for route in spec.http for each in route.route]
    found += [each for route in spec.http for each, *_ in route.copies]
    found += [each.destination for routes in (spec.tcp, spec.tls) for route in routes for each in route.route]
    for each in found:
        yield each.host, None if each.port is None else each.port.number, each.subset
