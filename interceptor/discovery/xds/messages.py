"""PURE. What goes over an ADS stream, as plain data: the same for the state of the world and for delta."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

_PREFIX: Final = "type.googleapis.com/envoy."
CLUSTER: Final = f"{_PREFIX}config.cluster.v3.Cluster"
ENDPOINT: Final = f"{_PREFIX}config.endpoint.v3.ClusterLoadAssignment"
LISTENER: Final = f"{_PREFIX}config.listener.v3.Listener"
ROUTE: Final = f"{_PREFIX}config.route.v3.RouteConfiguration"
SECRET: Final = f"{_PREFIX}extensions.transport_sockets.tls.v3.Secret"

Body: TypeAlias = Mapping[str, object]  # a message in its JSON form, with the field names of its .proto
Key: TypeAlias = tuple[str, str]  # a type and a name


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource of a response; ``problem`` says why it could not be read at all."""

    name: str
    body: Body | None = None  # None without a problem: a heartbeat, which renews ``ttl`` and changes nothing
    version: str = ""
    ttl: float | None = None  # seconds
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """What a server says of one type."""

    type_url: str
    nonce: str
    version: str = ""
    resources: tuple[Resource, ...] = ()
    removed: tuple[str, ...] = ()  # delta only: these do not exist (any more)


@dataclass(frozen=True, slots=True)
class Request:
    """What we say of one type: a subscription, an ACK (``nonce``) or a NACK (``nonce`` and ``error``)."""

    type_url: str
    nonce: str = ""
    error: str | None = None
    first: bool = False  # of the stream: the only one that carries our node
    version: str = ""  # state of the world: the last one accepted
    names: tuple[str, ...] = ()  # state of the world: all that are wanted; none stands for all
    subscribe: tuple[str, ...] = ()  # delta
    unsubscribe: tuple[str, ...] = ()  # delta
    known: Mapping[str, str] = field(default_factory=dict)  # delta, after a reconnect: versions by name


@dataclass(frozen=True, slots=True)
class Judged:
    """What is wrong with a resource, each sentence with its path; and what it cannot be used without."""

    problems: tuple[str, ...] = ()
    needs: tuple[Key, ...] = ()
