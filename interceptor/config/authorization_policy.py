"""Istio's AuthorizationPolicy: who may do what with the app, and what the app may reach.

``rules`` absent and ``rules: []`` match nothing, ``rules: [{}]`` matches everything. A policy with ``targetRefs`` is
about the app's own connections to a ServiceEntry of its namespace (in Istio it is a waypoint that enforces those).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator, Field, ValidationInfo

from interceptor.config.addresses import ip_address_or_network
from interceptor.config.base import Document, Fault, Name, Strict
from interceptor.config.patterns import (
    IpBlocks,
    Paths,
    Patterns,
    Ports,
    Principals,
    Selector,
    ServiceAccounts,
    pattern,
    port,
    principal,
    service_account,
    some,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

DRY_RUN: Final = "istio.io/dry-run"


def _carried(value: str) -> str:
    if value not in {"http", "tcp"}:
        raise ValueError(f"'{value}' is not what a connection carries; write http or tcp")
    return value


# What each key of `when` is compared with, or how its values are judged.
_CONDITIONS: Final[dict[str, Callable[[str], str]]] = {
    "source.ip": ip_address_or_network,
    "remote.ip": ip_address_or_network,
    "source.namespace": pattern,
    "source.principal": principal,
    "source.serviceAccount": service_account,
    "request.auth.principal": pattern,
    "request.auth.audiences": pattern,
    "request.auth.presenter": pattern,
    "destination.ip": ip_address_or_network,
    "destination.port": port,
    "connection.sni": pattern,
    "connection.protocol": _carried,  # ours: whether it is a request, or a connection that is relayed as it is
}
_HEADER: Final = re.compile(r"request\.headers\[([!#$%&'*+.^_`|~0-9A-Za-z-]+)\]")
_CLAIM: Final = re.compile(r"request\.auth\.claims((?:\[[^\[\]]+\])+)")


def _key(value: str) -> str:
    if value.startswith("experimental."):
        raise ValueError(f"'{value}' is a filter's own metadata, which this version does not have; remove it")
    if value not in _CONDITIONS and not _HEADER.fullmatch(value) and not _CLAIM.fullmatch(value):
        known = ", ".join((*_CONDITIONS, "request.headers[NAME]", "request.auth.claims[NAME]"))
        raise ValueError(f"there is no condition '{value}'; known are: {known}")
    return value


def _value(value: str, info: ValidationInfo) -> str:
    """A condition's value, as its key has them; of a key that is wrong nothing more is said."""
    key = info.data.get("key")
    return value if key is None else _CONDITIONS.get(key, pattern)(value)


class Source(Strict):
    """Where a connection or request comes from: every field that is given must match."""

    principals: Principals = Field(default=(), strict=False)
    notPrincipals: Principals = Field(default=(), strict=False)  # noqa: N815 (the document's spelling, here and below)
    requestPrincipals: Patterns = Field(default=(), strict=False)  # noqa: N815
    notRequestPrincipals: Patterns = Field(default=(), strict=False)  # noqa: N815
    namespaces: Patterns = Field(default=(), strict=False)
    notNamespaces: Patterns = Field(default=(), strict=False)  # noqa: N815
    serviceAccounts: ServiceAccounts = Field(default=(), strict=False)  # noqa: N815
    notServiceAccounts: ServiceAccounts = Field(default=(), strict=False)  # noqa: N815
    ipBlocks: IpBlocks = Field(default=(), strict=False)  # noqa: N815
    notIpBlocks: IpBlocks = Field(default=(), strict=False)  # noqa: N815
    remoteIpBlocks: IpBlocks = Field(default=(), strict=False)  # noqa: N815
    notRemoteIpBlocks: IpBlocks = Field(default=(), strict=False)  # noqa: N815


class Operation(Strict):
    """What is asked for: every field that is given must match."""

    hosts: Patterns = Field(default=(), strict=False)
    notHosts: Patterns = Field(default=(), strict=False)  # noqa: N815
    ports: Ports = Field(default=(), strict=False)
    notPorts: Ports = Field(default=(), strict=False)  # noqa: N815
    methods: Patterns = Field(default=(), strict=False)
    notMethods: Patterns = Field(default=(), strict=False)  # noqa: N815
    paths: Paths = Field(default=(), strict=False)
    notPaths: Paths = Field(default=(), strict=False)  # noqa: N815


def _source(source: Source) -> Source:
    if not source.model_fields_set:
        raise ValueError("must give at least one field; leave 'from' out where any source may match")
    if (source.serviceAccounts or source.notServiceAccounts) and (
        source.principals or source.notPrincipals or source.namespaces or source.notNamespaces
    ):
        raise ValueError("serviceAccounts stand alone; give no principals and no namespaces beside them")
    return source


def _operation(operation: Operation) -> Operation:
    if not operation.model_fields_set:
        raise ValueError("must give at least one field; leave 'to' out where any operation may match")
    return operation


class From(Strict):
    """One source of a rule."""

    source: Annotated[Source, AfterValidator(_source)]


class To(Strict):
    """One operation of a rule."""

    operation: Annotated[Operation, AfterValidator(_operation)]


Values = Annotated[tuple[Annotated[str, AfterValidator(_value)], ...], AfterValidator(some)]


class Condition(Strict):
    """One more thing that must hold."""

    key: Annotated[str, AfterValidator(_key)]
    values: Values = Field(default=(), strict=False)
    notValues: Values = Field(default=(), strict=False)  # noqa: N815


def _condition(condition: Condition) -> Condition:
    if not condition.values and not condition.notValues:
        raise ValueError("must give values or notValues")
    return condition


class Rule(Strict):
    """One source, one operation and every condition must match; what is left out matches anything."""

    from_: Annotated[tuple[From, ...], AfterValidator(some)] = Field(default=(), alias="from", strict=False)
    to: Annotated[tuple[To, ...], AfterValidator(some)] = Field(default=(), strict=False)
    when: Annotated[tuple[Annotated[Condition, AfterValidator(_condition)], ...], AfterValidator(some)] = (
        Field(default=(), strict=False)
    )


class TargetRef(Strict):
    """The ServiceEntry whose traffic from the app a policy is about."""

    unsupported_values: ClassVar[dict[str, frozenset[str]]] = {
        "group": frozenset({"gateway.networking.k8s.io", ""}),
        "kind": frozenset({"Gateway", "GatewayClass", "Service"}),
    }

    group: Literal["networking.istio.io"]
    kind: Literal["ServiceEntry"]
    name: Name


class AuthorizationPolicySpec(Strict):
    """Whom a policy is about, what it does, and when."""

    unsupported: ClassVar[frozenset[str]] = frozenset({"provider", "targetRef"})
    unsupported_values: ClassVar[dict[str, frozenset[str]]] = {"action": frozenset({"CUSTOM"})}

    selector: Selector | None = None
    targetRefs: Annotated[tuple[TargetRef, ...], AfterValidator(some)] = Field(default=(), strict=False)  # noqa: N815
    action: Literal["ALLOW", "DENY", "AUDIT"] = "ALLOW"
    rules: tuple[Rule, ...] = Field(default=(), strict=False)


class AuthorizationPolicy(Document):
    """``apiVersion: security.istio.io/v1``, ``kind: AuthorizationPolicy``."""

    spec: AuthorizationPolicySpec = AuthorizationPolicySpec()

    @property
    def selected_labels(self) -> Mapping[str, str]:
        """The labels of the workloads it is about; none: all of its namespace, or of the mesh."""
        return self.spec.selector.matchLabels if self.spec.selector else {}

    @property
    def dry_run(self) -> bool:
        """Whether it is only to be said what it would decide."""
        return self.metadata.annotations.get(DRY_RUN) == "true"

    def faults(self) -> Iterator[Fault]:
        """Istio's rules between fields."""
        if self.spec.selector is not None and self.spec.targetRefs:
            yield Fault(("spec", "targetRefs"), "a policy has a selector or targetRefs, not both; remove one")
        if self.metadata.annotations.get(DRY_RUN, "true") not in {"true", "false"}:
            yield Fault(("metadata", "annotations", DRY_RUN), 'must be "true" or "false"')

    def notes(self) -> Iterator[str]:
        """A policy that does nothing, or everything, by what it does not say."""
        if not self.spec.rules:
            effect = {
                "ALLOW": "nothing is allowed where no other ALLOW policy matches",
                "DENY": "it denies nothing",
                "AUDIT": "it logs nothing",
            }
            yield f"spec.rules: there are none, so it never matches: {effect[self.spec.action]}"
        if self.dry_run:
            yield f'metadata.annotations: {DRY_RUN} is "true": it is evaluated and logged, and decides nothing'
