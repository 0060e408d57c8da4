"""PURE. One immutable version of everything decided by configuration; a flow sees one from start to end."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from interceptor.config.configuration import PLACES
from interceptor.routing.destinations import Registry, egress_decision, ingress_decision
from interceptor.routing.names import Names, allocate, needs_virtual
from interceptor.routing.security import Security

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from interceptor.config.base import Document
    from interceptor.config.configuration import Configuration
    from interceptor.config.destination_rule import DestinationRule
    from interceptor.config.service_entry import ServiceEntry
    from interceptor.config.virtual_service import VirtualService
    from interceptor.model.address import OriginalDestination
    from interceptor.policy.policies import Policies
    from interceptor.routing.destinations import Decision
    from interceptor.routing.routes import RouteTable
    from interceptor.routing.table import Routing


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The configuration, the addresses its hosts have now, and what follows from both."""

    version: str  # equal where, and only where, both are
    configuration: Configuration
    resolved: Mapping[str, tuple[str, ...]]
    registry: Registry
    policies: Policies | None = None  # where no document is a policy nothing is asked
    security: Security | None = None  # where everything is spoken to in the clear nothing is asked
    # Where name queries are answered: the hosts' places in the virtual ranges, and what is answered.
    places: Mapping[str, int] = field(default_factory=dict)
    names: Names = field(default_factory=Names)
    routing: Routing | None = None  # where no document says where requests go nothing is asked

    def ingress(self, destination: OriginalDestination) -> Decision:
        """Where a peer's connection goes."""
        return ingress_decision(self.configuration.sidecar, destination)

    def egress(self, destination: OriginalDestination) -> Decision:
        """Where a connection of the app goes."""
        decision = egress_decision(self.configuration.sidecar.spec.egress.policy, self.registry, destination)
        if self.security is None or decision.entry is None:
            return decision
        tls = self.security.of(decision.entry, decision.service, destination)
        return decision if tls is None else replace(decision, tls=tls)

    def dump(self) -> dict[str, object]:
        """For ``/config_dump``: what was asked for, what became of each document, what the hosts resolve to."""
        return {
            "version": self.version,
            "documents": [document.as_mapping() for document in self.configuration.documents],
            **_canonical(self.configuration, self.resolved),
        }


def take(
    configuration: Configuration,
    resolved: Mapping[str, Sequence[str]] | None = None,
    *,
    places: Mapping[str, int] | None = None,
    before: Snapshot | None = None,
) -> Snapshot:
    """A snapshot of a configuration with the addresses its hosts resolve to, and the places that hosts already have.

    What follows from the configuration alone is taken from the one before, where that is of the same configuration.
    """
    addresses = {host: tuple(sorted(found)) for host, found in sorted((resolved or {}).items())}
    version = _version(configuration, addresses)
    entries = visible_entries(configuration)
    if places is None:
        places = {} if before is None else before.places
    names = Names()
    if configuration.sidecar.spec.dns is not None:
        places = allocate((host for entry in entries for host in needs_virtual(entry)), places)
        names = Names(entries, places)
    registry = Registry(entries, addresses, places)
    if before is not None and before.configuration is configuration:
        policies, security = before.policies, before.security
        table = None if before.routing is None else before.routing.table
    else:
        policies, security, table = _policies(configuration), _security(configuration), None
    routing = _routing(configuration, addresses, security, table)
    return Snapshot(version, configuration, addresses, registry, policies, security, places, names, routing)


def _routing(
    configuration: Configuration,
    resolved: Mapping[str, Sequence[str]],
    security: Security | None,
    table: RouteTable | None,
) -> Routing | None:
    """Where no document says where requests go, or which endpoint gets what, there is none."""
    if not configuration.virtual_services and not any(map(manages, configuration.destination_rules)):
        return None
    from interceptor.routing.clusters import Clusters  # noqa: PLC0415 (for those who have such documents)
    from interceptor.routing.routes import RouteTable  # noqa: PLC0415
    from interceptor.routing.table import Routing  # noqa: PLC0415

    metadata = configuration.sidecar.metadata
    if table is None:
        seen = [each for each in configuration.virtual_services if visible(each, metadata.namespace)]
        table = RouteTable(seen, metadata.labels)
    rules = [rule for rule in configuration.destination_rules if visible(rule, metadata.namespace)]
    entries = visible_entries(configuration)
    return Routing(table, Clusters(entries, rules, resolved, security), entries, resolved)


def manages(rule: DestinationRule) -> bool:
    """Whether a rule says which endpoint gets what."""
    policy = rule.spec.trafficPolicy
    return any(
        each is not None for each in (policy.loadBalancer, policy.connectionPool, policy.outlierDetection)
    )


def _version(configuration: Configuration, resolved: Mapping[str, tuple[str, ...]]) -> str:
    """From what each document says of itself: thousands of them are not written out again for every change."""
    said = hashlib.sha256(json.dumps(resolved, sort_keys=True).encode())
    for kind, documents in _by_kind(configuration).items():
        said.update("\n".join((kind, *(document.digest for document in documents), "")).encode())
    return said.hexdigest()[:16]  # 64 bits: chance never makes two alike


def _by_kind(configuration: Configuration) -> dict[str, Sequence[Document]]:
    places = {name: getattr(configuration, place) for name, place in PLACES.items()}
    return {"Sidecar": (configuration.sidecar,), **places}


def _security(configuration: Configuration) -> Security | None:
    """Where no document speaks of TLS there is none."""
    spec, namespace = configuration.sidecar.spec, configuration.sidecar.metadata.namespace
    rules = [rule for rule in configuration.destination_rules if visible(rule, namespace)]
    if not rules and spec.tls is None:
        return None
    return Security(
        rules, visible_entries(configuration), spec.trustDomain, has_identity=spec.tls is not None
    )


def _policies(configuration: Configuration) -> Policies | None:
    if not policy_documents(configuration):
        return None
    from interceptor.policy import policies  # noqa: PLC0415 (a proxy without policies does without it)

    return policies.compiled(configuration)


def policy_documents(configuration: Configuration) -> tuple[Document, ...]:
    """Every document of the configuration that is a policy."""
    return (
        *configuration.peer_authentications,
        *configuration.authorization_policies,
        *configuration.request_authentications,
    )


def visible_entries(configuration: Configuration) -> tuple[ServiceEntry, ...]:
    """The service entries that are for this workload's namespace."""
    namespace = configuration.sidecar.metadata.namespace
    return tuple(entry for entry in configuration.service_entries if visible(entry, namespace))


def visible(entry: ServiceEntry | DestinationRule | VirtualService, namespace: str) -> bool:
    """Whether a workload in a namespace may use it: ``*`` is every namespace, ``.`` the document's own."""
    own = {".": entry.metadata.namespace}
    return any(name == "*" or own.get(name, name) == namespace for name in entry.spec.exportTo)


def _canonical(configuration: Configuration, resolved: Mapping[str, tuple[str, ...]]) -> dict[str, object]:
    return {
        "sidecar": configuration.sidecar.model_dump(mode="json"),
        "serviceEntries": [entry.model_dump(mode="json") for entry in configuration.service_entries],
        "peerAuthentications": [each.written for each in configuration.peer_authentications],
        "authorizationPolicies": [each.written for each in configuration.authorization_policies],
        "requestAuthentications": [each.written for each in configuration.request_authentications],
        "virtualServices": [each.written for each in configuration.virtual_services],
        "destinationRules": [rule.model_dump(mode="json") for rule in configuration.destination_rules],
        "resolved": {host: list(addresses) for host, addresses in resolved.items()},
    }
