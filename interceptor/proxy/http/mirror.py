"""Mirrored requests: copies for other destinations, whose answers nobody reads.

A copy is sent when all of the request has come, by a task and a connection of its own, and only where the request is no
longer than what is kept for another attempt. So it never delays the request, and whatever becomes of it concerns nobody:
where too many are under way, or its destination has no room, it is dropped, and counted.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from interceptor.model import http
from interceptor.model.connection import Flow, ResponseFlag
from interceptor.model.http import LocalReply, RequestHead
from interceptor.protocol import http1
from interceptor.proxy.http.exchange import Exchange
from interceptor.proxy.http.serve import Service

if TYPE_CHECKING:
    from collections.abc import Sequence

    from interceptor.model.address import UpstreamAddress
    from interceptor.model.http import Headers, ResponseHead
    from interceptor.proxy.clusters import ClusterState, ClusterStates
    from interceptor.proxy.http.client import Connection
    from interceptor.proxy.http.roles import Judge
    from interceptor.proxy.http.serve import Serving
    from interceptor.routing.clusters import Cluster

_log: Final = logging.getLogger(__name__)
SECONDS: Final = 15.0  # that a copy may take: Envoy's default of a route
MOST: Final = 100  # under way at once, of each worker: each takes a connection, and the bytes of a request
ANSWER: Final = 1 << 20  # bytes of an answer that are read for the sake of the connection; then it is closed
_LATE: Final = LocalReply(504, ResponseFlag.UPSTREAM_TIMEOUT, "response_timeout", b"")
_LONG: Final = LocalReply(502, ResponseFlag.LOCAL_RESET, "mirrored_answer_too_long", b"")
# The copy's body is all there: it has a length, and nobody is asked whether it may come.
_OF_THE_BODY: Final = frozenset((b"transfer-encoding", b"content-length", b"expect", b"trailer"))


class _Nobody:
    """Takes an answer, and leaves it at that."""

    def informational(self, head: ResponseHead) -> None:
        """Nothing."""

    def respond(self, head: ResponseHead, body: int) -> None:
        """Nothing."""

    def data(self, data: bytes) -> None:
        """Nothing."""

    def end(self, trailers: Headers) -> None:
        """Nothing."""

    def broken(self, details: str) -> None:
        """Nothing."""

    def flush(self) -> bool:
        """More may follow."""
        return True

    def resume(self) -> None:
        """All of the request has been given."""

    def switch(self, connection: Connection, early: bytes) -> None:
        """Never: what asks for another protocol is not copied."""
        raise AssertionError(connection, early)


class _Copy(Exchange):
    """A copy of a request, on its way."""

    __slots__ = ("_address", "_cluster", "_limit", "_mirrors", "_state")

    def __init__(
        self, mirrors: Mirrors, flow: Flow, request: http1.Request, cluster: Cluster, state: ClusterState
    ) -> None:
        super().__init__(Service(mirrors.serving, flow, cluster.base, None), _Nobody(), request)
        self._mirrors = mirrors
        self._cluster = cluster
        self._state = state
        self._address: UpstreamAddress | None = None
        self._limit = trio.CancelScope()

    def begin(self, address: UpstreamAddress, body: Sequence[bytes]) -> None:
        """Send it to an endpoint, once what asked for it is done."""
        every, state = self._mirrors.serving, self._state
        self._address = address
        state.begin(address)
        state.requests += 1
        state.connections += 1
        every.live.add(self)
        every.spawn(self._watch)
        for data in body:
            self.data(data)
        self.end([])
        self.spawn(self._send_copy)

    async def _watch(self) -> None:
        """End it where it takes too long, and with the proxy: no client's connection would."""
        with self._limit:
            try:
                await trio.sleep(SECONDS)
                self.refuse(_LATE)
            except Exception:  # noqa: BLE001 (a fault with one copy must not end everything)
                self._mirrors.serving.fault(self)
            finally:
                self.drain_now()

    async def _send_copy(self) -> None:
        address, cluster = self._address, self._cluster
        if address is None:  # over already
            return
        decision = cluster.decisions.get(address) or self._state.cluster.decisions[address]
        self.attempt(decision, self.head, cluster.traffic)
        self.catch_up()

    def drain_now(self) -> None:
        """Nobody waits for it."""
        self.abort(ResponseFlag.LOCAL_RESET, "-")

    def end_denied(self) -> None:
        """Its policies were asked a moment ago, as those of any request."""

    def reconsider(self, judge: Judge) -> int:  # noqa: ARG002 (as above)
        """The same."""
        return 0

    def response_flush(self) -> bool:
        """Whether more may follow."""
        if self.bytes_sent > ANSWER:
            self.refuse(_LONG)
        return True

    def _respond(self, head: ResponseHead, body: int) -> None:
        """The filters see nothing of it."""
        self.responded, self.status = True, head.status
        self._downstream.respond(head, body)

    def finish(self) -> None:
        super().finish()
        address, self._address = self._address, None
        if address is None:
            return
        self._limit.cancel()
        self._mirrors.active -= 1
        self._mirrors.serving.live.discard(self)
        self._state.end(address)
        self._state.requests -= 1
        self._state.leave_connection()

    def _record(self) -> None:
        pass


class Mirrors:
    """All that are under way."""

    def __init__(self, serving: Serving, states: ClusterStates) -> None:
        self.active = 0
        self.serving = serving
        self._states = states

    def send(
        self,
        flow: Flow,
        head: RequestHead,
        body: Sequence[bytes] | None,
        cluster: Cluster | None,
        *,
        keeps_host: bool = False,
    ) -> None:
        """Send a copy of a request to a cluster, or drop it; without a body, for that was too long to keep."""
        dropped = self._dropped(flow, head if keeps_host else shadowed(head), body, cluster)
        self.serving.recorder.mirrored(sent=dropped is None)
        if dropped is not None:
            name = "its destination" if cluster is None else cluster.name
            _log.debug("a copy of a request of flow %s for %s was dropped: %s", flow.id, name, dropped)

    def _dropped(
        self, flow: Flow, head: RequestHead, body: Sequence[bytes] | None, cluster: Cluster | None
    ) -> str | None:
        """Why a copy is not sent; None where it is."""
        every = self.serving
        if cluster is None:
            return "it is not in the registry"
        if body is None:
            return "the request is too long, or asks for another protocol"
        if every.draining or self.active >= MOST:
            return "too many are under way, or the proxy ends"
        state = self._states.of(cluster, every.clock())
        if state.full() or not state.has_connection():
            return "its limits are reached"
        length = sum(map(len, body))
        request = http1.Request(copied(head, length), length, keep_alive=True)
        # A flow of its own: what is noted of this connection is not the client's.
        own = Flow(
            id=flow.id,
            direction=flow.direction,
            peer=flow.peer,
            started_at=flow.started_at,
            opened=flow.opened,
            original_dst=flow.original_dst,
        )
        copy = _Copy(self, own, request, cluster, state)
        if every.authorize is not None and every.authorize(copy, cluster.base) is not None:
            return "a policy refuses it"
        address = state.pick(every.clock(), None)
        if address is None:
            return "no endpoint is there, or none is healthy"
        self.active += 1
        copy.begin(address, body)
        return None


def copied(head: RequestHead, length: int) -> RequestHead:
    """The head of a copy."""
    authority = head.authority
    headers = [
        each
        for each in head.headers
        if each[0].lower() not in _OF_THE_BODY and each[0].lower() != b"x-envoy-attempt-count"
    ]
    if authority:
        http.put(headers, b"host", authority)
    if length or head.method in {b"POST", b"PUT", b"PATCH"}:
        headers.append((b"content-length", b"%d" % length))
    return RequestHead(head.method, head.target, authority, head.scheme, head.version, headers)


def shadowed(head: RequestHead) -> RequestHead:
    """As Envoy has it, the destination sees by the host that it is a copy."""
    authority = head.authority
    host, colon, port = authority.rpartition(b":")
    if not (colon and port.isdigit()):
        host, colon, port = authority, b"", b""
    if not host or host.endswith(b"]"):  # an IPv6 address takes no suffix
        return head
    return replace(head, authority=b"%b-shadow%b%b" % (host, colon, port))
