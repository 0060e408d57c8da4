"""The proxy: listeners, hub and live flows of one process, from start to drained."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from interceptor.kernel import sockets
from interceptor.model.connection import Direction
from interceptor.proxy import permission
from interceptor.proxy.clusters import ClusterStates
from interceptor.proxy.course import Courses
from interceptor.proxy.http.deadlines import Deadlines
from interceptor.proxy.http.metadata import metadata_of
from interceptor.proxy.http.pool import Pool
from interceptor.proxy.http.request_ids import request_ids
from interceptor.proxy.http.router import Router
from interceptor.proxy.http.serve import Serving
from interceptor.proxy.hub import Hub
from interceptor.proxy.listener import Listener
from interceptor.proxy.services import Services
from interceptor.proxy.share import Share
from interceptor.proxy.tracker import Tracker
from interceptor.proxy.underway import Underway

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Sequence

    from interceptor.config.sidecar import Sidecar
    from interceptor.middleware.build import Stack
    from interceptor.model.address import OriginalDestination, PeerAddress
    from interceptor.model.connection import Flow
    from interceptor.model.health import Unhealthy
    from interceptor.model.http import LocalReply
    from interceptor.model.request import RequestRecord
    from interceptor.proxy.http.roles import Filters
    from interceptor.proxy.permission import SnapshotView
    from interceptor.proxy.tracker import Recorder
    from interceptor.proxy.transport import Transport
    from interceptor.routing.destinations import Decision
    from interceptor.tls.certificates import Material
    from interceptor.tls.rotation import Keeper

_log: Final = logging.getLogger(__name__)


class Proxy:
    """Accepts on already open listeners and relays, until it is told to stop and its flows have ended."""

    def __init__(  # noqa: PLR0913 (the last three are the defaults, but in tests and among several workers)
        self,
        settings: Sidecar,
        listeners: Sequence[tuple[Direction, socket.socket]],
        snapshot: Callable[[], SnapshotView],
        recorder: Recorder,
        *,
        share: Share | None = None,
        middleware: Stack | None = None,
        original_destination: Callable[
            [socket.socket, PeerAddress], OriginalDestination | None
        ] = sockets.original_destination,
        wall_clock: Callable[[], float] = time.time,  # noqa: TID251 (for the log only; a test gives its own)
        transport: Callable[[Hub], Transport] | None = None,
    ) -> None:
        timeouts = settings.spec.timeouts
        self._sockets = listeners
        states = self._states = ClusterStates()
        hub = Hub(idle=timeouts.idle, linger=timeouts.linger, relay=settings.spec.relay)
        self._services = Services(
            snapshot=snapshot,
            tracker=Tracker(
                share or Share(settings.spec.limits.connections),
                recorder,
                clock=trio.current_time,
                wall_clock=wall_clock,
            ),
            recorder=recorder,
            hub=hub,
            http=Serving(
                hub=hub,
                pool=Pool(hub, timeouts.upstreamIdle),
                recorder=recorder,
                spawn=self._spawn,
                request_id=request_ids(),
                wall_clock=wall_clock,
                clock=trio.current_time,
                deadlines=Deadlines(trio.current_time),
                connect_timeout=timeouts.connect,
                head_timeout=timeouts.requestHead,
                idle_timeout=timeouts.idle,
                request_timeout=timeouts.request,
                looks=self._looks,
                authorize=self._authorize,
                transport=None if transport is None else transport(hub),
                filters=None if middleware is None else _filters(middleware),
            ),
            underway=Underway(),
            courses=Courses(snapshot, states, trio.current_time),
            connect_timeout=timeouts.connect,
            handshake_timeout=timeouts.handshake,
            detect_timeout=timeouts.detect if settings.spec.detection else None,
            ports=frozenset(sockets.local_address(sock).port for _, sock in listeners),
            original_destination=original_destination,
            middleware=middleware,
            transparent=settings.spec.ingress.mode == "TPROXY",
            unproved=settings.spec.proxyHeaders.forwarding.unproved,
        )
        self._services.http.router = Router(
            self._services.http,
            lambda: snapshot().routing,
            states,
            lambda: snapshot().policies is not None,
        )
        made = self._services.http.transport
        if made is not None:
            made.on_change = self._judge_peers
        if made is not None and made.workload is not None:
            self._services.http.metadata = metadata_of(settings)
            made.workload.on_change = partial(self._judge_peers, made.workload)
        self._accepting = trio.CancelScope()
        self._flowing = trio.CancelScope()
        self._drained = trio.Event()
        self._flows: trio.Nursery | None = None

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until ``stop_accepting`` was called and the last flow has ended, or until cancelled."""
        # As trio.current_time, without finding out each time which clock that is.
        clock = trio.lowlevel.current_clock().current_time
        self._services.http.clock = self._services.tracker.clock = clock
        self._services.http.deadlines.clock = clock
        self._services.hub.use_clock(clock)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._services.hub.run)
                nursery.start_soon(self._services.http.deadlines.run)
                with self._flowing:
                    async with trio.open_nursery() as flows:
                        self._flows = flows
                        await self._accept(flows, task_status)
                        await self._services.underway.wait_empty()  # they may begin tasks
                    await self._services.hub.wait_empty()
                nursery.cancel_scope.cancel()
        finally:
            self._services.underway.abort_all()
            self._services.hub.abort_all(self._services.abort_reason)
            self._services.http.close()
            self._services.hub.close()
            self._drained.set()

    async def _accept(self, flows: trio.Nursery, task_status: trio.TaskStatus[None]) -> None:
        """Accept on every listener until told to stop."""
        with self._accepting:
            async with trio.open_nursery() as accepts:
                for direction, sock in self._sockets:
                    accepts.start_soon(Listener(direction, sock, self._services, flows).run)
                task_status.started()

    def _spawn(self, task: Callable[[], Awaitable[None]]) -> None:
        """Run a task of a flow's beside it, as long as flows may run."""
        assert self._flows is not None
        self._flows.start_soon(task)

    def _looks(self, flow: Flow) -> bool:
        """Whether the configuration of now has anything that looks at the requests of a flow."""
        view = self._services.snapshot()
        return (
            self._services.http.filters is not None
            or view.policies is not None
            or flow.peer_presented is not None
            or (view.routing is not None and flow.direction is Direction.EGRESS)
        )

    def _authorize(self, record: RequestRecord, decision: Decision) -> LocalReply | None:
        """The answer to a request that the policies of now refuse."""
        policies, recorder = self._services.snapshot().policies, self._services.recorder
        return None if policies is None else permission.of_request(record, decision, policies, recorder)

    def stop_accepting(self) -> None:
        """Accept what is already queued, then close the listeners; running flows go on, idle HTTP connections end."""
        self._accepting.cancel()
        self._services.http.drain()

    async def wait_drained(self) -> None:
        """Wait until the listeners are closed and the last flow has ended."""
        await self._drained.wait()

    def abort_all(self, reason: str) -> None:
        """Stop accepting and reset every flow; each is recorded with the reason, a sentence."""
        self._services.abort_reason = reason
        self._flowing.cancel()

    def reconsider(self) -> int:
        """Decide every open flow and request again by the current snapshot, and end those it refuses; how many."""
        services = self._services
        view = services.snapshot()
        lost = permission.revoke(services.tracker.decided_flows(), view)
        if services.http.transport is not None:
            lost += services.http.transport.believed.expect_again(partial(permission.egress, view=view))
        services.http.end_denied()
        if (policies := view.policies) is not None:
            lost += services.http.reconsider(partial(permission.again, policies=policies))
        services.hub.end_denied()
        return lost

    def _judge_peers(self, keeper: Keeper, before: Material) -> None:
        """Other authorities or revocations are in force: end the connections to peers and upstreams that they do not accept."""
        services, transport = self._services, self._services.http.transport
        assert transport is not None
        lost = transport.believed.judge_again(keeper, before)
        if keeper is transport.workload:
            lost += transport.judge_again(services.tracker.flows(), before)
        if lost:
            _log.warning(
                "%d open connections end: new certificate files do not accept who they are with", lost
            )
            services.hub.end_denied()
            services.http.end_denied()

    def count(self) -> None:
        """Bring the byte counts of all live flows up to date."""
        self._services.hub.count()

    def connections(self) -> list[Flow]:
        """The live flows, oldest first, with their byte counts as of now."""
        self.count()
        return self._services.tracker.flows()

    def follow(self) -> None:
        """Another snapshot is in force: endpoints that it does not have get nothing new, and keep what they carry."""
        routing = self._services.snapshot().routing
        self._services.http.leave(
            *self._states.follow(None if routing is None else routing.clusters, trio.current_time())
        )

    def judge(self, unhealthy: Unhealthy) -> None:
        """What active checks say of the endpoints: those get no new flow or request."""
        self._states.judge(unhealthy, trio.current_time())

    def clusters(self) -> dict[str, dict[str, object]]:
        """Every cluster that is used, by its name: its endpoints, their health, what is under way."""
        return self._states.dump()

    @property
    def active(self) -> int:
        """How many flows are live."""
        return self._services.tracker.active


def _filters(middleware: Stack) -> Filters:
    from interceptor.proxy.http.filters import StackFilters  # noqa: PLC0415 (for those who have any)

    return StackFilters(middleware)
