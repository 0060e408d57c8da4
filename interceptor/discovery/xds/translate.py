"""PURE. Envoy's resources, in their JSON form, become our documents; what cannot be honoured is said with its path.

Every field of a resource is honoured, or says nothing of where a connection goes, or is refused by name: nothing is
ignored in silence. ``judge`` looks at one resource alone, ``documents`` at what is in use together.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.discovery.xds import (
    clusters as reading_clusters,
    endpoints as reading_endpoints,
    filters,
    inbound,
    listeners as reading_listeners,
    secrets,
    virtual,
)
from interceptor.discovery.xds.assembly import Assembly
from interceptor.discovery.xds.memory import Memory
from interceptor.discovery.xds.messages import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET, Judged
from interceptor.discovery.xds.reading import document_name, mappings
from interceptor.discovery.xds.routes import read

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from interceptor.discovery.xds.assembly import Made
    from interceptor.discovery.xds.messages import Body, Key
    from interceptor.discovery.xds.secrets import Check

_NONE: Final[Mapping[str, Body]] = MappingProxyType({})
_GROUPS: Final = {
    **dict.fromkeys(("AuthorizationPolicy", "PeerAuthentication"), "security.istio.io"),
    "RateLimit": "interceptor",
}
_DRY_RUN: Final = {"istio.io/dry-run": "true"}


class Translation(NamedTuple):
    """The documents by ``Kind/namespace/name``; the resources that are in none of them, and why; and files they name."""

    documents: dict[str, str]
    left_out: dict[str, str]
    files: dict[str, bytes]  # in memory only: certificates and keys


def _any(_name: str, _files: Mapping[str, bytes]) -> None:
    """Takes every secret."""


def _inbound_needs(body: Body) -> Iterator[Key]:
    for port in inbound.ports(body):
        yield from reading_listeners.of_filters(port.filters)
    for name in inbound.secrets(body):
        yield SECRET, name


@dataclass(frozen=True, slots=True)
class Translator:
    """What of it depends on this proxy."""

    namespace: str  # of the documents
    connect: float  # seconds that the proxy waits for an upstream where a cluster cannot say otherwise
    own: tuple[str, str] | None = None  # the secrets that are the workload's certificate and trust bundle
    limits: bool = False  # whether there is a place for RateLimit documents
    labels: Mapping[str, str] = field(default_factory=dict)  # the workload's
    check: Check = _any  # what is wrong with the PEM of a secret
    trusted: tuple[str, ...] = ()  # the trust domains of peers; none: mutual TLS is not spoken
    registry_only: bool = False  # spec.egress.policy
    _memory: Memory = field(default_factory=Memory, init=False, repr=False, compare=False)

    def judge(self, type_url: str, name: str, body: Body) -> Judged:
        """Whether one resource can be honoured, as far as it says so itself, and what it needs."""
        if type_url == CLUSTER:
            problems = (
                *reading_clusters.judge(body, self.connect, self.own, self.trusted),
                *self._inline(body),
            )
            service = reading_endpoints.service(name, body)
            needs: list[Key] = [] if service is None else [(ENDPOINT, service)]
            needs += ((SECRET, each) for each in reading_clusters.secrets(body))
            return Judged(problems, tuple(dict.fromkeys(needs)))
        if type_url == ENDPOINT:
            return Judged(tuple(reading_endpoints.judge_assignment(body, "", names=False)))
        if type_url == LISTENER and inbound.is_inbound(body):
            problems = tuple(inbound.judge(body, self.own, self.trusted)) or self._placeless(body)
            return Judged(problems, () if problems else tuple(dict.fromkeys(_inbound_needs(body))))
        if type_url == LISTENER:
            problems = tuple(reading_listeners.judge(body)) or self._placeless(body)
            return Judged(problems, () if problems else tuple(dict.fromkeys(reading_listeners.needs(body))))
        if type_url == ROUTE:
            found = read(body)
            return Judged(tuple(found.said), tuple((CLUSTER, cluster) for cluster in found.needs()))
        if type_url == SECRET:
            return Judged(tuple(secrets.judge(name, body, self.check)))
        return Judged((f"a {type_url.rpartition('.')[2]} is not honoured by this version",))

    def _placeless(self, body: Body) -> tuple[str, ...]:
        """What is wrong with the limits of a listener that is right otherwise."""
        if self.limits or not any(filters.read(chain).limits for chain in mappings(body, "filter_chains")):
            return ()
        why = "is enforced by an item 'use: rateLimitDocuments' in the Sidecar's spec.middleware, and there is none"
        return (f"filter_chains: a local_ratelimit filter {why}",)

    def _inline(self, body: Body) -> Iterator[str]:
        """What is wrong with certificates that came inside a cluster."""
        for each in reading_clusters.contexts(body):
            if each.files and not each.said and (wrong := self.check("", each.files)) is not None:
                yield f"transport_socket: {wrong}"

    def documents(
        self,
        clusters: Mapping[str, Body],
        endpoints: Mapping[str, Body],
        listeners: Mapping[str, Body],
        routes: Mapping[str, Body],
        given: Mapping[str, Body] = _NONE,
    ) -> Translation:
        """The documents of what is in use; ``given`` are the secrets."""
        assembly = Assembly(clusters, endpoints, routes, self.labels, self._memory)
        assembly.take_inbound({name: body for name, body in listeners.items() if inbound.is_inbound(body)})
        for name, body in listeners.items():
            if inbound.is_inbound(body):
                continue
            if virtual.is_virtual(body):
                assembly.take_virtual(f"listener {name}", body, registry_only=self.registry_only)
            else:
                assembly.take(f"listener {name}", list(reading_listeners.chains(body)))
        made = Translation({}, assembly.left_out, {})
        for name, body in given.items():
            made.files.update(secrets.files(secrets.read(name, body)[0]))
        made.files.update(assembly.files())
        made.documents.update(assembly.documents(self._write))
        return made

    def _write(self, made: Made) -> tuple[str, str]:
        """A document's key, and the document as JSON."""
        name = document_name(made.resource, made.told)
        annotations = {"interceptor/xds": made.resource, **(_DRY_RUN if made.dry_run else {})}
        metadata = {"name": name, "namespace": self.namespace, "annotations": annotations}
        version = f"{_GROUPS.get(made.kind, 'networking.istio.io')}/v1"
        head = json.dumps({"apiVersion": version, "kind": made.kind, "metadata": metadata})
        spec = made.spec if isinstance(made.spec, str) else json.dumps(made.spec)
        return f"{made.kind}/{self.namespace}/{name}", f'{head[:-1]}, "spec": {spec}}}'
