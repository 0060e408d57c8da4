"""What requests are served with, whatever version of HTTP they came by, and what is done to every one of them; see ``exchange``."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Final

from interceptor.model.http import get_all
from interceptor.protocol import http1
from interceptor.proxy.http import replies
from interceptor.proxy.http.expiring import Expiring
from interceptor.proxy.http.pool import Bounded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator

    from interceptor.model.address import SocketAddress, UpstreamAddress
    from interceptor.model.connection import Flow
    from interceptor.model.forwarding import Presented
    from interceptor.model.http import LocalReply, RequestHead
    from interceptor.model.request import RequestRecord
    from interceptor.proxy.http.deadlines import Deadlines
    from interceptor.proxy.http.metadata import Metadata
    from interceptor.proxy.http.pool import Pool
    from interceptor.proxy.http.roles import Filters, Judge, Live, Planned, Router, Served, Shared
    from interceptor.proxy.hub import Hub
    from interceptor.proxy.tracker import Recorder
    from interceptor.proxy.transport import Transport
    from interceptor.routing.destinations import Decision
    from interceptor.routing.reuse import Reuse

_log: Final = logging.getLogger(__name__)

# Who a peer is, as only the mesh's own proxies may say: from anybody else it is a lie, and outside it is a leak.
_CLIENT_CERTIFICATE: Final = b"x-forwarded-client-cert"
# An app behind CGI or WSGI reads the same name with any of its hyphens written as an underscore.
_IDENTITY_HEADERS: Final = frozenset(
    b"".join(made)
    for name in (_CLIENT_CERTIFICATE, b"l5d-client-id", b"x-envoy-peer-metadata", b"x-envoy-peer-metadata-id")
    for made in product(*((b"-", b"_") if part == b"-" else (part,) for part in re.split(rb"(-)", name)))
)
MOST_OTHERS: Final = 16  # upstreams of a connection's requests that are remembered
MARK: Final = b"\0"  # where an id belongs: no head has it


@dataclass(slots=True)
class Serving:
    """What the requests of all connections are served with."""

    hub: Hub
    pool: Pool
    recorder: Recorder
    spawn: Callable[[Callable[[], Awaitable[None]]], None]  # a task that nobody waits for
    request_id: Callable[[], bytes]
    wall_clock: Callable[[], float]
    clock: Callable[[], float]
    deadlines: Deadlines
    connect_timeout: float
    head_timeout: float
    idle_timeout: float
    request_timeout: float | None = None
    transport: Transport | None = None  # where TLS is configured
    looks: Callable[[Flow], bool] = lambda _flow: True  # whether anything may look at a flow's requests now
    filters: Filters | None = None
    router: Router | None = None
    authorize: Callable[[RequestRecord, Decision], LocalReply | None] | None = None
    metadata: Metadata | None = None  # where there is an identity to speak for
    trunks: Shared | None = None  # once a request needs one
    live: set[Live] = field(default_factory=set)  # connections that no relay has
    draining: bool = False  # no connection is kept for another request
    expiring: Expiring = field(init=False)

    def __post_init__(self) -> None:
        self.expiring = Expiring(self.hub)

    def drain(self) -> None:
        """Let every connection end: at once where it is idle, after the request that it carries where not."""
        self.draining = True
        for session in tuple(self.live):
            session.drain_now()

    def end_denied(self) -> None:
        """Reset the connections that are denied by now."""
        for session in tuple(self.live):
            session.end_denied()

    def reconsider(self, judge: Judge) -> int:
        """Decide on the requests that are under way again, and end those that are refused; how many."""
        return sum(session.reconsider(judge) for session in tuple(self.live))

    def leave(self, gone: Collection[UpstreamAddress], there: Collection[UpstreamAddress]) -> None:
        """Some addresses are endpoints no more: what they carry goes on, and what carries nothing is closed."""
        self.pool.leave(gone, there)
        if self.trunks is not None:
            self.trunks.leave(gone)

    def close(self) -> None:
        """Close the connections to upstreams that nobody has."""
        self.pool.close()
        if self.trunks is not None:
            self.trunks.close()

    def fault(self, exchange: Served) -> None:
        """The last resort: a fault while serving one request is logged and counted, and ends no other."""
        _log.exception("a request of flow %s failed by a fault of the proxy", exchange.flow.id)
        self.recorder.internal_error()
        exchange.lost(replies.FAULT)


@dataclass(slots=True)
class Service:
    """What the requests of one connection are served with."""

    all: Serving
    flow: Flow
    decision: Decision
    key: object  # connections to the upstream that have the same one are shared
    sources: Iterator[SocketAddress] | None = None
    multiplexed: bool = False  # requests go to the upstream on streams of HTTP/2
    planned: Planned | None = None  # the requests of the connection that go by plans
    _others: dict[int, Service] | None = (
        None  # what routes took requests elsewhere by, by the decision's very object
    )

    def towards(self, decision: Decision, reuse: Reuse | None, *, multiplexed: bool = False) -> Service:
        """The same towards another upstream; mostly one where requests of the connection went before."""
        others = self._others
        if others is None or len(others) >= MOST_OTHERS:
            others = self._others = {}
        found = others.get(id(decision))
        if found is None or found.decision is not decision or found.multiplexed is not multiplexed:
            key = pool_key(decision, reuse=reuse)
            found = others[id(decision)] = Service(
                self.all, self.flow, decision, key, multiplexed=multiplexed, _others=others
            )
        return found


def pool_key(decision: Decision, alone: int | None = None, reuse: Reuse | None = None) -> object:
    """What connections to the upstream that may be shared have in common; ``alone``: the one flow that they are for."""
    key: object = decision.upstreams if decision.tls is None else (decision.upstreams, decision.tls)
    if reuse is not None:
        return Bounded(key, reuse)
    return key if alone is None else (key, alone)


def prepare(service: Service, record: RequestRecord) -> LocalReply | None:
    """Make a head into what the upstream is to see, and ask the policies about it; the answer where they refuse it."""
    every = service.all
    complete(record.head, every.request_id, service.flow.peer_presented)
    return None if every.authorize is None else every.authorize(record, service.decision)


def onward(request: http1.Request) -> http1.Onward:
    """The same for a request that nothing looks at, once for all that have the same head."""
    head = request.head.copy()
    request_id = complete(head, lambda: MARK)
    before, _, after = http1.request_head(head, request.body, upgrade=request.upgrade).partition(MARK)
    request.onward = made = http1.Onward(before, request_id, after)
    return made


def complete(
    head: RequestHead, request_id: Callable[[], bytes], presented: Presented | None = None
) -> bytes | None:
    """Add what is missing and take away what nobody may say; the id, where it was there.

    Whether a peer may say whom it speaks for, and what it presented of itself to stand behind that, is ``presented``.
    """
    names = {name.lower(): value for name, value in head.headers}
    told = () if presented is None or not presented.earlier else get_all(head.headers, _CLIENT_CERTIFICATE)
    if not _IDENTITY_HEADERS.isdisjoint(names):
        head.headers = [each for each in head.headers if each[0].lower() not in _IDENTITY_HEADERS]
    if presented is not None and (elements := [*filter(None, (*told, presented.element))]):
        head.headers.append((_CLIENT_CERTIFICATE, b",".join(elements)))
    found = names.get(b"x-request-id")
    if found is None:
        head.headers.append((b"x-request-id", request_id()))
    if b"x-forwarded-proto" not in names:
        head.headers.append((b"x-forwarded-proto", head.scheme or b"http"))
    return found
