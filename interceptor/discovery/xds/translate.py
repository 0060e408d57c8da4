"""PURE. Envoy's resources, in their JSON form, become our documents; what cannot be honoured is said with its path.

Every field of a resource is honoured, or says nothing of where a connection goes, or is refused by name: nothing is
ignored in silence. ``judge`` looks at one resource alone, ``documents`` at what is in use together.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.discovery.xds import clusters as reading_clusters, listeners as reading_listeners
from interceptor.discovery.xds.assembly import Assembly
from interceptor.discovery.xds.messages import CLUSTER, ENDPOINT, LISTENER, ROUTE, Judged
from interceptor.discovery.xds.reading import slug
from interceptor.discovery.xds.routes import read

if TYPE_CHECKING:
    from collections.abc import Mapping

    from interceptor.discovery.xds.messages import Body

_API: Final = "networking.istio.io/v1"


class Translation(NamedTuple):
    """The documents by ``Kind/namespace/name``; and the resources that are in none of them, and why."""

    documents: dict[str, str]
    left_out: dict[str, str]


@dataclass(frozen=True, slots=True)
class Translator:
    """What of it depends on this proxy."""

    namespace: str  # of the documents
    connect: float  # seconds that the proxy waits for an upstream where a cluster cannot say otherwise

    def judge(self, type_url: str, name: str, body: Body) -> Judged:
        """Whether one resource can be honoured, as far as it says so itself, and what it needs."""
        if type_url == CLUSTER:
            service = reading_clusters.service(name, body)
            problems = tuple(reading_clusters.judge(body, self.connect))
            return Judged(problems, () if service is None else ((ENDPOINT, service),))
        if type_url == ENDPOINT:
            return Judged(tuple(reading_clusters.judge_assignment(body, "", names=False)))
        if type_url == LISTENER:
            problems = tuple(reading_listeners.judge(body))
            return Judged(problems, () if problems else tuple(dict.fromkeys(reading_listeners.needs(body))))
        if type_url == ROUTE:
            found = read(body)
            return Judged(tuple(found.said), tuple((CLUSTER, cluster) for cluster in found.clusters))
        return Judged((f"a {type_url.rpartition('.')[2]} is not honoured by this version",))

    def documents(
        self,
        clusters: Mapping[str, Body],
        endpoints: Mapping[str, Body],
        listeners: Mapping[str, Body],
        routes: Mapping[str, Body],
    ) -> Translation:
        """The documents of what is in use."""
        assembly = Assembly(clusters, endpoints, routes)
        for name, body in listeners.items():
            for index, chain in enumerate(reading_listeners.chains(body)):
                assembly.take(f"listener {name}", f"filter_chains[{index}].filters[0]", chain)
        made = Translation({}, assembly.left_out)
        for kind, resource, told, spec in assembly.specs():
            self._add(made, kind, resource, told, spec)
        return made

    def _add(
        self, made: Translation, kind: str, resource: str, told: str, spec: Mapping[str, object]
    ) -> None:
        name = f"{slug(resource)}-{sha256(f'{resource} {told}'.encode()).hexdigest()[:12]}"
        metadata = {"name": name, "namespace": self.namespace, "annotations": {"interceptor/xds": resource}}
        document = {"apiVersion": _API, "kind": kind, "metadata": metadata, "spec": spec}
        made.documents[f"{kind}/{self.namespace}/{name}"] = json.dumps(document)
