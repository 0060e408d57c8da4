"""A configuration, whole and valid, and what became of each document; importing this costs nothing.

The models that judge documents bring pydantic, 10 MB that a running proxy has no use for. So a child process judges,
and the proxy keeps what it found as plain data: see ``interceptor.config.plain``.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final, cast

from interceptor.model.work import STEP, Work, done, steps

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Literal

    from interceptor.config.authorization_policy import AuthorizationPolicy
    from interceptor.config.base import Document
    from interceptor.config.destination_rule import DestinationRule
    from interceptor.config.peer_authentication import PeerAuthentication
    from interceptor.config.problems import Problem
    from interceptor.config.rate_limit import RateLimit
    from interceptor.config.request_authentication import RequestAuthentication
    from interceptor.config.service_entry import ServiceEntry
    from interceptor.config.sidecar import Sidecar
    from interceptor.config.virtual_service import VirtualService


@dataclass(frozen=True, slots=True)
class DocumentStatus:
    """What became of one document: accepted, or rejected and why."""

    file: str
    line: int
    kind: str
    namespace: str
    name: str
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()  # of an accepted one: what an operator should know

    @property
    def accepted(self) -> bool:
        """Whether nothing is wrong with it."""
        return not self.problems

    def __str__(self) -> str:
        verdict = "accepted" if self.accepted else f"rejected ({len(self.problems)} problems)"
        if len(self.problems) == 1:
            verdict = "rejected (1 problem)"
        return f"{self.file}:{self.line}: {self.kind} {self.namespace}/{self.name}: {verdict}"

    def as_mapping(self) -> dict[str, object]:
        """For a dump as JSON."""
        return {
            "kind": self.kind,
            "namespace": self.namespace,
            "name": self.name,
            "file": self.file,
            "line": self.line,
            "status": "accepted" if self.accepted else "rejected",
            "problems": [str(problem) for problem in self.problems],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class Configuration:
    """What was asked for, whole and valid."""

    sidecar: Sidecar
    service_entries: tuple[ServiceEntry, ...] = ()
    documents: tuple[DocumentStatus, ...] = ()
    peer_authentications: tuple[PeerAuthentication, ...] = ()
    authorization_policies: tuple[AuthorizationPolicy, ...] = ()
    request_authentications: tuple[RequestAuthentication, ...] = ()
    destination_rules: tuple[DestinationRule, ...] = ()
    virtual_services: tuple[VirtualService, ...] = ()
    rate_limits: tuple[RateLimit, ...] = ()


# Where the documents of a kind stand in a configuration.
PLACES: Final = {
    "ServiceEntry": "service_entries",
    "PeerAuthentication": "peer_authentications",
    "AuthorizationPolicy": "authorization_policies",
    "RequestAuthentication": "request_authentications",
    "DestinationRule": "destination_rules",
    "VirtualService": "virtual_services",
    "RateLimit": "rate_limits",
}


def assembled(judged: Iterable[tuple[DocumentStatus, Document]]) -> Configuration:
    """The configuration that accepted documents make; one of them is the Sidecar."""
    return done(assembling(tuple(judged)))


def assembling(judged: Sequence[tuple[DocumentStatus, Document]]) -> Work[Configuration]:
    """The same."""
    by_kind: dict[str, list[Document]] = {}
    statuses: list[DocumentStatus] = []
    for some in steps(judged, 10 * STEP):
        yield
        for status, document in some:
            statuses.append(status)
            by_kind.setdefault(status.kind, []).append(document)
    [sidecar] = by_kind.pop("Sidecar")
    fields = {PLACES[kind]: tuple(documents) for kind, documents in by_kind.items()}
    return Configuration(cast("Sidecar", sidecar), documents=tuple(statuses), **fields)  # type: ignore[arg-type]  # by PLACES


def taken_apart(configuration: Configuration) -> tuple[tuple[DocumentStatus, Document], ...]:
    """The documents that a configuration was assembled of, in their order."""
    by_kind = {kind: iter(getattr(configuration, place)) for kind, place in PLACES.items()}
    by_kind["Sidecar"] = iter((configuration.sidecar,))
    return tuple((status, next(by_kind[status.kind])) for status in configuration.documents)


class Plain(SimpleNamespace):
    """A document, or a part of one, with the fields and the properties of its model as attributes."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"'{name}' cannot be set: a configuration never changes")

    def model_dump(self, *, mode: Literal["json"]) -> object:
        """As the model's: the form for a dump as JSON."""
        return self.__dict__[mode]
