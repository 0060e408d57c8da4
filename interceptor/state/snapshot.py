"""PURE. One immutable version of everything decided by configuration; a flow sees one from start to end."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, TypeGuard, TypeVar

from interceptor.config.configuration import PLACES
from interceptor.model.work import STEP, Work, done, steps
from interceptor.routing.age import oldest_first
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
    from interceptor.routing.table import Routing


MOST_KEPT: Final = 1024  # decisions, for each direction: some 0.5 KB each
Visible = TypeVar("Visible", "ServiceEntry", "DestinationRule", "VirtualService")
Decisions: TypeAlias = "dict[OriginalDestination, Decision]"


class _Seen(NamedTuple):
    """What is for this workload's namespace, the oldest first."""

    entries: Sequence[ServiceEntry]
    rules: Sequence[DestinationRule]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The configuration, the addresses its hosts have now, and what follows from both."""

    version: str  # equal where, and only where, both are
    configuration: Configuration
    resolved: Mapping[str, tuple[str, ...]]
    former: Mapping[str, tuple[str, ...]]  # of these, those that are no endpoints any more
    registry: Registry
    policies: Policies | None = None  # where no document is a policy nothing is asked
    security: Security | None = None  # where everything is spoken to in the clear nothing is asked
    # Where name queries are answered: the hosts' places in the virtual ranges, and what is answered.
    places: Mapping[str, int] = field(default_factory=dict)
    names: Names = field(default_factory=Names)
    routing: Routing | None = None  # where no document says where requests go nothing is asked
    # Decisions made: a destination is mostly asked for again.
    _ingress: Decisions = field(default_factory=dict, init=False, repr=False, compare=False)
    _egress: Decisions = field(default_factory=dict, init=False, repr=False, compare=False)

    def ingress(self, destination: OriginalDestination) -> Decision:
        """Where a peer's connection goes."""
        found = self._ingress.get(destination)
        if found is None:
            decision = ingress_decision(self.configuration.sidecar, destination)
            found = _kept(self._ingress, destination, decision)
        return found

    def egress(self, destination: OriginalDestination) -> Decision:
        """Where a connection of the app goes."""
        found = self._egress.get(destination)
        if found is None:
            found = _kept(self._egress, destination, self._egress_decision(destination))
        return found

    def _egress_decision(self, destination: OriginalDestination) -> Decision:
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
            "former": {host: list(addresses) for host, addresses in self.former.items()},
        }


def letting_go(snapshot: Snapshot) -> Work[None]:
    """Let go of a version that is used no more, piece by piece: freeing all of it at once takes as long as making it.

    What the next one shares stays. Whoever gives it has no other name for it.
    """
    configuration, routing = snapshot.configuration, snapshot.routing
    pieces: list[list[object]] = [list(getattr(configuration, place)) for place in PLACES.values()]
    pieces += (list(configuration.documents), list(snapshot.registry.parts.made.values()))
    if routing is not None:
        pieces += (list(routing.table.compiled.made.values()), [routing.table], [routing.clusters], [routing])
    pieces.append([snapshot.registry])
    del snapshot, configuration, routing
    while pieces:
        yield
        del pieces[-1][-STEP:]
        if not pieces[-1]:
            pieces.pop()


def _kept(decisions: Decisions, destination: OriginalDestination, decision: Decision) -> Decision:
    """The decision, kept for the next one who asks; a client that asks for everything there is fills no memory."""
    if len(decisions) >= MOST_KEPT:
        decisions.clear()
    decisions[destination] = decision
    return decision


def take(
    configuration: Configuration,
    resolved: Mapping[str, Sequence[str]] | None = None,
    *,
    former: Mapping[str, Sequence[str]] | None = None,
    places: Mapping[str, int] | None = None,
    before: Snapshot | None = None,
) -> Snapshot:
    """A snapshot of a configuration with the addresses its hosts resolve to, and the places that hosts already have.

    What follows from the same documents is taken from the one before.
    """
    return done(taking(configuration, resolved or {}, former=former, places=places, before=before))


def taking(
    configuration: Configuration,
    resolved: Mapping[str, Sequence[str]],
    *,
    former: Mapping[str, Sequence[str]] | None = None,
    places: Mapping[str, int] | None = None,
    before: Snapshot | None = None,
) -> Work[Snapshot]:
    """What ``take`` returns."""
    addresses = {host: tuple(sorted(found)) for host, found in sorted(resolved.items())}
    gone = {host: tuple(sorted(found)) for host, found in sorted((former or {}).items())}
    version = yield from _version(configuration, addresses, gone)
    seen = _Seen(
        (yield from seen_by(configuration, configuration.service_entries)),
        (yield from seen_by(configuration, configuration.destination_rules)),
    )
    entries = seen.entries
    if places is None:
        places = {} if before is None else before.places
    names, registry = Names(), Registry()
    if configuration.sidecar.spec.dns is not None:
        places = allocate((host for entry in entries for host in needs_virtual(entry)), places)
        yield from names.fill(entries, places, None if before is None else before.names)
    yield from registry.fill(entries, addresses, places, None if before is None else before.registry)
    policies = _policies(configuration, before)
    yield
    security = before.security if _is_of(before, configuration) else _security(configuration, seen)
    routing = yield from _routing(configuration, seen, addresses, gone, security, before)
    return Snapshot(
        version, configuration, addresses, gone, registry, policies, security, places, names, routing
    )


def _is_of(before: Snapshot | None, configuration: Configuration) -> TypeGuard[Snapshot]:
    return before is not None and before.configuration is configuration


def _routing(
    configuration: Configuration,
    seen: _Seen,
    resolved: Mapping[str, Sequence[str]],
    former: Mapping[str, Sequence[str]],
    security: Security | None,
    before: Snapshot | None,
) -> Work[Routing | None]:
    """Where no document says where requests go, or which endpoint gets what, there is none."""
    entries, rules = seen
    answers_names = configuration.sidecar.spec.dns is not None
    if (
        not configuration.virtual_services
        and not configuration.sidecar.spec.healthChecks
        and not any(map(manages, rules))
        and not (yield from _any_stands_for_others(entries, answers_names=answers_names))
    ):
        return None
    from interceptor.routing.clusters import Clusters  # noqa: PLC0415 (for those who have such documents)

    yield  # each may be loaded now
    from interceptor.routing.flow_routes import FlowTable  # noqa: PLC0415 (as above)

    yield
    from interceptor.routing.routes import RouteTable  # noqa: PLC0415 (as above)
    from interceptor.routing.sources import Source  # noqa: PLC0415 (as above)
    from interceptor.routing.table import Routing  # noqa: PLC0415 (as above)

    known = None if before is None else before.routing
    metadata = configuration.sidecar.metadata
    if known is not None and _is_of(before, configuration):
        table, flows = known.table, known.flows
    else:
        table, flows = RouteTable(), FlowTable()
        services = yield from seen_by(configuration, configuration.virtual_services)
        source = Source(metadata.labels, metadata.namespace)
        yield from table.fill(services, source, None if known is None else known.table)
        yield from flows.fill(services, source, None if known is None else known.flows)
    checks = configuration.sidecar.spec.healthChecks
    endpoints = {
        host: [each for each in found if each not in former[host]] if host in former else found
        for host, found in resolved.items()
    }
    clusters = Clusters((), (), endpoints, security, metadata.labels, checks)
    yield from clusters.fill(entries, rules, None if known is None else known.clusters)
    routing = Routing(table, flows, clusters)
    yield from routing.fill(entries, resolved)
    return routing


def manages(rule: DestinationRule) -> bool:
    """Whether a rule says which endpoint gets what."""
    policy = rule.spec.trafficPolicy
    said = [(policy.loadBalancer, policy.connectionPool, policy.outlierDetection)]
    said += [
        (each.loadBalancer, each.connectionPool, each.outlierDetection) for each in policy.portLevelSettings
    ]
    ours = (policy.retryBudget, policy.healthCheck)
    return any(each is not None for each in ours) or any(
        each is not None for all_of_it in said for each in all_of_it
    )


def stands_for_others(entry: ServiceEntry, *, answers_names: bool) -> bool:
    """Whether connections are dialled to an address, or at a port, of an entry that is not one of its endpoints'."""
    spec = entry.spec
    if answers_names and needs_virtual(entry):
        return True
    return bool(spec.endpoints) and (bool(spec.addresses) or spec.translates)


def _version(
    configuration: Configuration,
    resolved: Mapping[str, tuple[str, ...]],
    former: Mapping[str, tuple[str, ...]],
) -> Work[str]:
    """From what each document says of itself: thousands of them are not written out again for every change."""
    found = [resolved, former] if former else resolved
    said = hashlib.sha256(json.dumps(found, sort_keys=True).encode())
    for kind, documents in _by_kind(configuration).items():
        said.update(f"{kind}\n".encode())
        for some in steps(documents, 10 * STEP):
            yield
            said.update("".join([f"{document.digest}\n" for document in some]).encode())
    return said.hexdigest()[:16]  # 64 bits: chance never makes two alike


def _by_kind(configuration: Configuration) -> dict[str, Sequence[Document]]:
    places = {name: getattr(configuration, place) for name, place in PLACES.items()}
    return {"Sidecar": (configuration.sidecar,), **places}


def _security(configuration: Configuration, seen: _Seen) -> Security | None:
    """Where no document speaks of TLS there is none."""
    entries, rules = seen
    spec = configuration.sidecar.spec
    if not rules and spec.tls is None:
        return None
    return Security(rules, entries, spec.trustDomain, has_identity=spec.tls is not None)


def _policies(configuration: Configuration, before: Snapshot | None) -> Policies | None:
    documents = policy_documents(configuration)
    if not documents:
        return None
    if before is not None:
        was = before.configuration
        if _same((was.sidecar, *policy_documents(was)), (configuration.sidecar, *documents)):
            return before.policies
    from interceptor.policy import policies  # noqa: PLC0415 (a proxy without policies does without it)

    return policies.compiled(configuration)


def _same(were: Sequence[Document], documents: Sequence[Document]) -> bool:
    """Whether some documents ask for what others asked for, in the same order."""
    if len(were) != len(documents):
        return False
    return all(each is was or each.digest == was.digest for was, each in zip(were, documents, strict=True))


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


def seen_by(configuration: Configuration, documents: Sequence[Visible]) -> Work[Sequence[Visible]]:
    """Those of some documents that are for this workload's namespace, the oldest first."""
    namespace = configuration.sidecar.metadata.namespace
    found: list[Visible] = []
    dated = False
    for some in steps(documents):
        yield
        for each in some:
            if visible(each, namespace):
                found.append(each)
                dated = dated or each.metadata.creationTimestamp is not None
    return oldest_first(found) if dated else found


def _any_stands_for_others(entries: Sequence[ServiceEntry], *, answers_names: bool) -> Work[bool]:
    for some in steps(entries):
        yield
        if any(stands_for_others(entry, answers_names=answers_names) for entry in some):
            return True
    return False


def visible(entry: ServiceEntry | DestinationRule | VirtualService, namespace: str) -> bool:
    """Whether a workload in a namespace may use it: ``*`` is every namespace, ``.`` the document's own."""
    if entry.spec.exportTo == ("*",):  # as thousands are
        return True
    own = {".": entry.metadata.namespace}
    return any(name == "*" or own.get(name, name) == namespace for name in entry.spec.exportTo)


def _canonical(configuration: Configuration, resolved: Mapping[str, tuple[str, ...]]) -> dict[str, object]:
    return {
        "sidecar": configuration.sidecar.model_dump(mode="json"),
        "serviceEntries": [entry.model_dump(mode="json") for entry in configuration.service_entries],
        "peerAuthentications": [each.written for each in configuration.peer_authentications],
        "authorizationPolicies": [each.written for each in configuration.authorization_policies],
        "requestAuthentications": [each.written for each in configuration.request_authentications],
        "rateLimits": [each.written for each in configuration.rate_limits],
        "virtualServices": [each.written for each in configuration.virtual_services],
        "destinationRules": [rule.model_dump(mode="json") for rule in configuration.destination_rules],
        "resolved": {host: list(addresses) for host, addresses in resolved.items()},
    }
