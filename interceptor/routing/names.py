"""PURE. The names of the registry and their addresses: those that documents give, else virtual ones that stay the same.

A service without addresses of its own gets a virtual one of each family, so that an opaque connection to it can be told
from all others: Istio's DNS proxy does the same, from the same IPv4 range. Nothing on a network has such an address.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache, partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from interceptor.config.addresses import is_ip_address
from interceptor.model.work import Kept, Work, done, steps

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from interceptor.config.service_entry import ServiceEntry

VIRTUAL_V4: Final = ipaddress.IPv4Network("240.240.0.0/16")  # of class E, which no network uses
VIRTUAL_V6: Final = ipaddress.IPv6Network(
    "2001:2::/48"
)  # for benchmarks of devices (RFC 5180), routed nowhere
ROOM: Final = VIRTUAL_V4.num_addresses - 2  # without the first and the last one


@dataclass(frozen=True, slots=True)
class Answer:
    """The addresses of a name of the registry; none of a family is an answer too: there are none."""

    host: str  # as the document writes it
    v4: tuple[str, ...]
    v6: tuple[str, ...]


def allocate(hosts: Iterable[str], previous: Mapping[str, int]) -> dict[str, int]:
    """A place in the virtual ranges for each host: the one it had, else one that follows from its name.

    So a host keeps its address while others come and go, and gets the same after a restart unless two names fall on
    one place. Raises ValueError when there are more hosts than places.
    """
    wanted = sorted(set(hosts))
    if len(wanted) > ROOM:
        raise ValueError(
            f"{len(wanted)} hosts need virtual addresses and there are {ROOM}: give some of them addresses"
        )
    places = {host: previous[host] for host in wanted if host in previous}
    taken = set(places.values())
    for host in wanted:
        if host in places:
            continue
        place = int.from_bytes(blake2b(host.encode(), digest_size=8).digest(), "big") % ROOM
        while place in taken:
            place = (place + 1) % ROOM
        taken.add(place)
        places[host] = place
    return places


def virtual_addresses(place: int) -> tuple[str, str]:
    """The IPv4 and the IPv6 address of a place."""
    return str(VIRTUAL_V4[place + 1]), str(VIRTUAL_V6[place + 1])


@lru_cache(maxsize=1024)  # asked about the same few addresses with every request
def is_virtual(host: str) -> bool:
    """Whether an IP address is one that only we give out."""
    address = ipaddress.ip_address(host)
    return address in (VIRTUAL_V4 if address.version == 4 else VIRTUAL_V6)


def needs_virtual(entry: ServiceEntry) -> tuple[str, ...]:
    """The hosts of an entry that have no address of their own to be known by.

    With the resolution NONE a connection goes where its sender sent it, so its name is asked of the real name server.
    """
    if entry.spec.resolution == "NONE" or any("/" not in address for address in entry.spec.addresses):
        return ()
    return tuple(host for host in entry.spec.hosts if not is_ip_address(host))


class Names:
    """Every name of the registry that is answered here; immutable once made."""

    def __init__(self, entries: Sequence[ServiceEntry] = (), places: Mapping[str, int] | None = None) -> None:
        self._exact: dict[str, Answer] = {}
        self._suffixes: dict[str, Answer] = {}
        self.answers: Kept[ServiceEntry, tuple[Answer, ...]] = Kept()
        done(self.fill(entries, places or {}))

    def fill(
        self, entries: Sequence[ServiceEntry], places: Mapping[str, int], before: Names | None = None
    ) -> Work[None]:
        """Take the names of all entries, once; of those that the one before had too what they came to then."""
        self.answers = Kept(None if before is None else before.answers)
        for some in steps(entries):
            yield
            for entry in some:
                depends = tuple(map(places.get, entry.spec.hosts))
                for answer in self.answers.of(entry, depends, partial(_answers, entry, places)):
                    self._add(answer)
        self.answers.close()

    def _add(self, answer: Answer) -> None:
        """The first document for a name wins, as in the registry."""
        if answer.host.startswith("*."):
            self._suffixes.setdefault(answer.host[1:], answer)
        else:
            self._exact.setdefault(answer.host, answer)

    def find(self, name: str, search: Sequence[str] = ()) -> tuple[str, Answer] | None:
        """The name meant, and its answer; None where the registry has none.

        The name is in lower case without a dot at its end. A resolver that appends its search domains first asks for
        ``api.example.com.default.svc.cluster.local``: the name meant is the one before the domain.
        """
        for candidate in (
            name,
            *(name[: -len(domain) - 1] for domain in search if name.endswith("." + domain)),
        ):
            answer = self._exact.get(candidate) or self._by_suffix(candidate)
            if answer is not None:
                return candidate, answer
        return None

    def _by_suffix(self, name: str) -> Answer | None:
        at = name.find(".") if self._suffixes else -1
        while at >= 0:
            answer = self._suffixes.get(name[at:])
            if answer is not None:
                return answer
            at = name.find(".", at + 1)
        return None


def _answers(entry: ServiceEntry, places: Mapping[str, int]) -> tuple[Answer, ...]:
    """What is answered for the hosts of one entry."""
    given = [address for address in entry.spec.addresses if "/" not in address]
    virtual = needs_virtual(entry)
    made: list[Answer] = []
    for host in entry.spec.hosts:
        if host in virtual:
            v4, v6 = virtual_addresses(places[host])
            made.append(Answer(host, (v4,), (v6,)))
        elif given and not is_ip_address(host):
            v4s = tuple(address for address in given if ":" not in address)
            made.append(Answer(host, v4s, tuple(address for address in given if ":" in address)))
    return tuple(made)
