"""Active health checks: connects to the endpoints of the services that are checked, and publishes which are unhealthy.

One prober for the whole proxy, whatever number of workers. What a check says and what checks come to is decided
elsewhere (``protocol.health``, ``routing.health``); here are the sockets, the clock, and the order of the checks. The
connections are the proxy's own: no rule of ours captures them, and TLS is spoken where the service is spoken to by TLS.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import logging
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import trio

from interceptor.model.address import OriginalDestination, PeerAddress, SocketAddress
from interceptor.model.connection import Direction, Flow
from interceptor.model.health import Outcome, Result
from interceptor.protocol.health import (
    GrpcConversation,
    Http1Conversation,
    Http2Conversation,
    TcpConversation,
)
from interceptor.proxy import upstream
from interceptor.proxy.endings import DialError, TlsDialError
from interceptor.proxy.waits import TrioWaits
from interceptor.routing import health
from interceptor.routing.health import Health

if TYPE_CHECKING:
    from interceptor.config.health_check import Check
    from interceptor.model.address import UpstreamAddress
    from interceptor.model.chance import Chance
    from interceptor.model.connection import ProtocolName
    from interceptor.model.health import Key
    from interceptor.protocol.health import Conversation
    from interceptor.proxy.loop import Leg
    from interceptor.proxy.transport import Transport
    from interceptor.routing.clusters import Cluster
    from interceptor.routing.destinations import Decision
    from interceptor.state.health import Board
    from interceptor.state.snapshot import Snapshot
    from interceptor.state.store import Store

_log: Final = logging.getLogger(__name__)

AT_ONCE: Final = 64  # checks under way: a descriptor each
FEW: Final = 50  # services that are looked at before the data path has its turn
TOGETHER: Final = (
    0.02  # seconds in which changes are told together: of a thousand endpoints that fail at once
)
BEHIND: Final = 5.0  # seconds that a check may be late before the log says that there are too many
_CHUNK: Final = 16 * 1024
# What says something of this machine, and nothing of the endpoint.
_OURS: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL))


class Counts(Protocol):
    """Where checks are counted."""

    def checked(self, cluster: str, outcome: Outcome) -> None:
        """A check has ended."""

    def members(self, cluster: str, healthy: int, total: int) -> None:
        """How many endpoints there are, and how many of them are healthy."""

    def forget(self, cluster: str) -> None:
        """It is not checked any more."""


@dataclass(slots=True, eq=False)
class Target:
    """One endpoint that is checked."""

    cluster: Cluster
    check: Check
    address: UpstreamAddress
    health: Health = field(default_factory=Health)
    due: float = 0.0
    gone: bool = False

    @property
    def key(self) -> Key:
        """The service it is one of."""
        return self.cluster.base.service, self.cluster.port

    @property
    def decision(self) -> Decision:
        """Who is there, and how it is spoken to."""
        return self.cluster.decisions[self.address]


class Prober:
    """Checks the endpoints of each snapshot, until cancelled."""

    def __init__(
        self, store: Store, board: Board, counts: Counts, chance: Chance, transport: Transport | None = None
    ) -> None:
        """``transport``: by certificates of the proxy's, where it has any."""
        self._store = store
        self._board = board
        self._counts = counts
        self._chance = chance
        self._transport = transport
        self._services: dict[Key, dict[UpstreamAddress, Target]] = {}
        self._due: list[tuple[float, int, Target]] = []
        self._numbers = itertools.count()
        self._limit = trio.CapacityLimiter(AT_ONCE)
        self._wake = trio.Event()
        self._told = trio.Event()  # something is dirty
        self._dirty: dict[
            Key, str
        ] = {}  # services of which other endpoints are healthy, or there; their clusters
        self._late = False

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow the store and check."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            nursery.start_soon(self._publish_often)
            task_status.started()
            while True:
                await self._wait_due()
                while self._due and self._due[0][0] <= trio.current_time():
                    at, _, target = heapq.heappop(self._due)
                    if target.gone or at != target.due:  # another one was scheduled in its place
                        continue
                    self._note_lateness(trio.current_time() - target.due)
                    place = object()
                    await self._limit.acquire_on_behalf_of(place)
                    nursery.start_soon(self._look, target, place)

    async def _watch(self) -> None:
        """Follow the store; of thousands of services a few at a time: the data path may be in this process."""
        while True:
            current = self._store.current
            await self._follow(current)
            await self._store.wait_changed(current.version)

    async def _wait_due(self) -> None:
        """Until a check is due, or something has changed."""
        wait = self._due[0][0] - trio.current_time() if self._due else float("inf")
        with trio.move_on_after(max(0.0, wait)):
            await self._wake.wait()
        self._wake = trio.Event()

    async def _follow(self, snapshot: Snapshot) -> None:
        """Check what this snapshot has. What is known of endpoints that it still has, by the same check, stays."""
        seen: set[Key] = set()
        clusters = iter(()) if snapshot.routing is None else snapshot.routing.clusters.checked()
        number = sum(map(len, self._services.values()))
        for count, cluster in enumerate(clusters, 1):
            key = cluster.base.service, cluster.port
            seen.add(key)
            number += len(cluster.endpoints)
            self._take(key, cluster, number)
            if not count % FEW:
                self._wake.set()
                await trio.lowlevel.checkpoint()
        for key in self._services.keys() - seen:
            for target in self._services.pop(key).values():
                target.gone = True
                self._note_dirty(key, target.cluster.name)
        self._wake.set()

    def _take(self, key: Key, cluster: Cluster, number: int) -> None:
        """Check what a service has now, one of so many endpoints in all."""
        check, now = cluster.traffic.check, trio.current_time()
        assert check is not None  # it is one of those that are checked
        known = self._services.setdefault(key, {})
        for address in known.keys() - cluster.decisions.keys():
            known.pop(address).gone = True
            self._note_dirty(key, cluster.name)
        for address in cluster.decisions.keys() - known.keys():
            target = known[address] = Target(cluster, check, address)
            self._note_dirty(key, cluster.name)
            self._schedule(target, now + health.first_pause(check, number, self._chance))
        for target in known.values():
            target.cluster = cluster
            if target.check != check:
                target.check = check
                self._schedule(target, now)

    def _note_dirty(self, key: Key, cluster: str) -> None:
        self._dirty[key] = cluster
        self._told.set()

    def _schedule(self, target: Target, at: float) -> None:
        target.due = at
        heapq.heappush(self._due, (at, next(self._numbers), target))

    def _note_lateness(self, seconds: float) -> None:
        late = seconds > BEHIND
        if late and not self._late:
            _log.warning(
                "health checks are %.0f s behind: %d endpoints, %d at once; make spec.healthChecks' intervals longer",
                *(seconds, sum(map(len, self._services.values())), AT_ONCE),
            )
        self._late = late

    async def _look(self, target: Target, place: object) -> None:
        """Check one endpoint, and note what came of it."""
        began = target.due
        result: Result | None = None
        try:
            result = await self._probe(target)
        except Exception:  # noqa: BLE001 (the last resort: one check must not end the others)
            _log.exception("the health check of %s failed by a fault of the proxy", target.address)
        finally:
            self._limit.release_on_behalf_of(place)
        if target.gone:
            return
        if result is not None:
            self._note(target, result)
        if target.due == began:  # not scheduled meanwhile, by another check
            self._schedule(
                target, trio.current_time() + health.pause(target.check, target.health, self._chance)
            )
        self._wake.set()

    def _note(self, target: Target, result: Result) -> None:
        self._counts.checked(target.cluster.name, result.outcome)
        changed = target.health.note(result, target.check)
        if changed and target.health.healthy:
            _log.info("%s of %s is healthy again", target.address, target.cluster.name)
        elif changed:
            _log.warning(
                "%s of %s is unhealthy and gets nothing new: %s",
                *(target.address, target.cluster.name, result.details),
            )
        if changed:
            self._note_dirty(target.key, target.cluster.name)

    async def _publish_often(self) -> None:
        """Tell what has changed, all that came together at once."""
        while True:
            await self._told.wait()
            self._told = trio.Event()
            self._publish()
            await trio.sleep(TOGETHER)

    def _publish(self) -> None:
        dirty, self._dirty = self._dirty, {}
        found = {key: down for key, down in self._board.current.items() if key not in dirty}
        for key, name in sorted(dirty.items()):
            targets = self._services.get(key, {})
            down = {
                target.address: target.health.details
                for target in targets.values()
                if target.health.healthy is False
            }
            if targets:
                self._counts.members(name, len(targets) - len(down), len(targets))
            else:
                self._counts.forget(name)
            if down:
                found[key] = down
        if found != self._board.current:
            self._board.publish(found)

    async def _probe(self, target: Target) -> Result | None:
        """One check, within its time; None where it was this machine that could not."""
        talk = conversation(target.check, target.decision, target.cluster)
        with trio.move_on_after(target.check.timeout):
            try:
                leg = await self._connect(target)
            except DialError as error:
                if error.errno in _OURS:
                    _log.warning(
                        "the health check of %s could not begin: %s", target.address, os.strerror(error.errno)
                    )
                    return None
                return Result(Outcome.NETWORK_FAILURE, _why(error))
            try:
                return await _converse(leg, talk)
            except OSError as error:
                return Result(Outcome.NETWORK_FAILURE, f"the connection broke: {error.strerror}")
            finally:
                leg.close()
        return Result(Outcome.NETWORK_FAILURE, f"no answer within {target.check.timeout:g} s")

    async def _connect(self, target: Target) -> Leg:
        """A connection as the service's requests have it. Raises DialError."""
        waits, decision = TrioWaits(), target.decision
        sock, address = await upstream.dial((target.address,), waits, timeout=target.check.timeout)
        # What is noted of a connection is noted here: nobody asks for it.
        nobody = Flow(
            id=0,
            direction=Direction.EGRESS,
            peer=PeerAddress(SocketAddress("127.0.0.1", 0)),
            started_at=0.0,
            opened=0.0,
            original_dst=OriginalDestination(SocketAddress(target.address.host, target.cluster.port)),
        )
        return await upstream.secured(
            sock, address, nobody, decision, self._transport, protocol=_spoken(target.check, decision)
        )


def _why(error: DialError) -> str:
    return (
        error.details
        if isinstance(error, TlsDialError)
        else f"it cannot be reached: {os.strerror(error.errno)}"
    )


def _spoken(check: Check, decision: Decision) -> ProtocolName:
    if check.grpc is not None:
        return "grpc"
    if check.http is not None:
        return "http2" if decision.protocol in {"http2", "grpc"} else "http"
    return "tcp"


def conversation(check: Check, decision: Decision, cluster: Cluster) -> Conversation:
    """What is said to an endpoint."""
    if check.tcp is not None:
        tcp = check.tcp
        return TcpConversation(bytes.fromhex(tcp.send or ""), [bytes.fromhex(each) for each in tcp.receive])
    service = cluster.base.service
    if check.grpc is not None:
        authority = check.grpc.authority or service
        return GrpcConversation(authority.encode(), check.grpc.serviceName.encode())
    assert check.http is not None
    made = Http2Conversation if _spoken(check, decision) == "http2" else Http1Conversation
    return made((check.http.host or service).encode(), check.http.path.encode(), check.http.statuses)


async def _converse(leg: Leg, talk: Conversation) -> Result:
    await _send(leg, talk.start())
    while talk.result is None:
        try:
            data = leg.recv(_CHUNK)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(leg.fileno())
            continue
        if not data:
            talk.end()
            break
        await _send(leg, talk.receive(data))
    assert talk.result is not None
    return talk.result


async def _send(leg: Leg, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[leg.send(rest) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(leg.fileno())
