"""PURE. What stands in a list of middleware: each with its name, how it fails, and what is called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from interceptor.middleware.api import ConnectionFilter, ConnectionMiddleware, Filter, Middleware

Failure: TypeAlias = Literal["open", "closed"]


class Observer(Protocol):
    """Who counts what the middleware does."""

    def failed(self, name: str) -> None:
        """It raised an exception, or took longer than its time budget."""

    def took(self, name: str, seconds: float) -> None:
        """The user's own was done with a request or a connection; waiting for others is not in the time."""


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """A filter of requests in its place."""

    name: str
    failure: Failure
    filter: Filter
    authenticates: bool = False


@dataclass(frozen=True, slots=True)
class Users:
    """The user's own, for requests, in its place."""

    name: str
    failure: Failure
    call: Middleware
    timeout: float  # seconds of its own time


@dataclass(frozen=True, slots=True)
class BuiltInConnection:
    """A filter of connections in its place."""

    name: str
    failure: Failure
    filter: ConnectionFilter


@dataclass(frozen=True, slots=True)
class UsersConnection:
    """The user's own, for connections, in its place."""

    name: str
    failure: Failure
    call: ConnectionMiddleware
    timeout: float


Link: TypeAlias = BuiltIn | Users
ConnectionLink: TypeAlias = BuiltInConnection | UsersConnection
