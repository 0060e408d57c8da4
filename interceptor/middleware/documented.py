"""PURE. The limits that RateLimit documents ask for, as one filter in the list: which one a flow has, documents say.

A limit that stays as it is keeps its bucket through changes of the others.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.middleware.limits import KeyOf, RateLimit
from interceptor.policy.rate_limit import Limiter, Quota

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from interceptor.config import rate_limit as documents
    from interceptor.middleware.api import Connection, Exchange, Refusal
    from interceptor.model.connection import Flow
    from interceptor.model.http import LocalReply, ResponseHead
    from interceptor.policy.rate_limit import Store

_EVERYBODY: Final = KeyOf(())


class Place(NamedTuple):
    """Which flows a limit is about."""

    direction: str
    ports: frozenset[int]
    others: frozenset[int]
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]

    def takes(self, flow: Flow) -> bool:
        """Whether a flow is one of these."""
        destination = flow.original_dst
        if destination is None or flow.direction.value != self.direction or destination.port in self.others:
            return False
        if self.ports and destination.port not in self.ports:
            return False
        if not self.networks:
            return True
        address = ipaddress.ip_address(destination.host)
        return any(address in network for network in self.networks)


class _Limit(NamedTuple):
    """One document."""

    scope: str
    place: Place
    limit: RateLimit


class DocumentedLimits:
    """The filter."""

    def __init__(
        self,
        given: Callable[[], Sequence[documents.RateLimit]],
        store: Callable[[str, int], Store],
        clock: Callable[[], float],
    ) -> None:
        """``given`` are the documents in force."""
        self._given = given
        self._store = store
        self._clock = clock
        self._read: Sequence[documents.RateLimit] = ()
        self._limits: dict[str, _Limit] = {}  # by what the document says
        self._all: tuple[_Limit, ...] = ()

    def request(self, exchange: Exchange) -> LocalReply | None:
        """The first refusal of those that the request has."""
        for each in self._current():
            if each.scope == "request" and each.place.takes(exchange.flow):
                reply = each.limit.request(exchange)
                if reply is not None:
                    return reply
        return None

    def response(self, exchange: Exchange, head: ResponseHead) -> None:
        """What passed is left as it is."""

    def connection(self, connection: Connection) -> Refusal | None:
        """The same of a connection."""
        for each in self._current():
            if each.scope == "connection" and each.place.takes(connection.flow):
                refusal = each.limit.connection(connection)
                if refusal is not None:
                    return refusal
        return None

    def _current(self) -> tuple[_Limit, ...]:
        given = self._given()
        if given is not self._read:
            self._read = given
            before = self._limits
            self._limits = {
                key: before.get(key) or self._made(each) for each in given for key in (each.digest,)
            }
            self._all = tuple(self._limits.values())
        return self._all

    def _made(self, document: documents.RateLimit) -> _Limit:
        spec, name = document.spec, document.full_name
        quota = Quota.of(spec.number, spec.interval, spec.burst)
        limiter = Limiter(self._store(f"RateLimit {name}", 1), total=quota, per_key=None, overrides={})
        networks = tuple(map(ipaddress.ip_network, spec.addresses))
        place = Place(spec.direction, frozenset(spec.ports), frozenset(spec.exceptPorts), networks)
        return _Limit(spec.scope, place, RateLimit(name, limiter, _EVERYBODY, self._clock))
