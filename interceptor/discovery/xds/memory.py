"""PURE. What was made of each resource the last time, so that a change of one does not make all of them anew.

A resource that is the same object as before says what it said before; what follows from it is kept beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from interceptor.discovery.xds import clusters as of_clusters, endpoints as of_endpoints, routes as of_routes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from interceptor.discovery.xds.endpoints import Address
    from interceptor.discovery.xds.messages import Body
    from interceptor.discovery.xds.routes import Configuration, Place, VirtualHost


@dataclass(slots=True)
class KnownCluster:
    """A cluster and its endpoints, and what they come to."""

    body: Body
    assignment: Body | None
    found: list[Address]
    place: Place
    tls: dict[str, object] | None
    problem: str | None
    files: dict[str, bytes]
    key: tuple[object, ...] = ()  # what its documents depended on besides
    written: list[tuple[str, str]] = field(default_factory=list)  # its documents


class Routed(NamedTuple):
    """The routes of a host and a port, and what they were made of."""

    virtual_host: VirtualHost
    fields: frozenset[str]  # of routes that are honoured where their filters are
    places: Mapping[str, Place | None]
    made: list[dict[str, object]]
    text: str  # the same as JSON
    problems: tuple[str, ...]

    def holds(self, virtual_host: VirtualHost, places: Mapping[str, Place], fields: frozenset[str]) -> bool:
        """Whether nothing that they were made of has changed."""
        if self.virtual_host is not virtual_host or self.fields != fields:
            return False
        return all(places.get(name) is place for name, place in self.places.items())


class Memory:
    """Of one control plane's resources."""

    def __init__(self) -> None:
        self._clusters: dict[str, KnownCluster] = {}
        self._read: dict[str, tuple[Body, Configuration]] = {}
        self.routed: dict[tuple[str, int, str], Routed] = {}
        self._documents: dict[tuple[str, str], tuple[str, str]] = {}  # of routes, as they were written

    def written(
        self, given: Mapping[tuple[str, str], Callable[[], tuple[str, str]]]
    ) -> Iterator[tuple[str, str]]:
        """Documents by all that they say, written anew where they say something new; others are forgotten."""
        self._documents = {said: self._documents.get(said) or write() for said, write in given.items()}
        yield from self._documents.values()

    def clusters(self, given: Mapping[str, Body], endpoints: Mapping[str, Body]) -> dict[str, KnownCluster]:
        """Each cluster; those that are gone are forgotten."""
        self._clusters = {name: self._cluster(name, body, endpoints) for name, body in given.items()}
        return self._clusters

    def _cluster(self, name: str, body: Body, endpoints: Mapping[str, Body]) -> KnownCluster:
        asked = of_endpoints.service(name, body)
        assignment = None if asked is None else endpoints.get(asked)
        before = self._clusters.get(name)
        if before is not None and before.body is body and before.assignment is assignment:
            return before
        found = of_endpoints.addresses(name, body, endpoints)
        tls = of_clusters.transport(name, body, endpoints)
        place: Place = tls if isinstance(tls, str) else of_clusters.destination(name, body, found)
        if before is not None and before.place == place:
            place = before.place  # the same object: routes to it are as they were
        problem = tls if isinstance(tls, str) else None
        files = {path: data for each in of_clusters.contexts(body) for path, data in each.files.items()}
        said = None if isinstance(tls, str) else tls
        return KnownCluster(body, assignment, found, place, said, problem, files)

    def routes(self, name: str, body: Body) -> Configuration:
        """A route configuration, read."""
        before = self._read.get(name)
        if before is None or before[0] is not body:
            before = self._read[name] = body, of_routes.read(body)
        return before[1]

    def forget(self, routes: Mapping[str, Body], routed: Mapping[tuple[str, int, str], Routed]) -> None:
        """Keep what is in use and nothing else."""
        self._read = {name: each for name, each in self._read.items() if name in routes}
        self.routed = dict(routed)
