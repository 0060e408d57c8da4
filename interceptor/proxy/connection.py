"""THE path: the life of one intercepted connection, from its original destination to its record.

Whoever has to wait for something more than a socket goes on in a task (``waiting``); the hub relays.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

from interceptor.kernel import sockets
from interceptor.model.address import LocalAddress, OriginalDestination
from interceptor.model.connection import Direction
from interceptor.protocol.detect import OPAQUE
from interceptor.proxy import endings, nowhere, permission, reach, sniff, upstream, waiting
from interceptor.proxy.endings import DialError, GoneError, HandshakeError, TlsDialError
from interceptor.proxy.underway import Way
from interceptor.routing.destinations import Decision

if TYPE_CHECKING:
    from collections.abc import Callable

    import trio
    from outcome import Outcome

    from interceptor.model.address import SocketAddress
    from interceptor.model.connection import Flow
    from interceptor.proxy.http.client import Dialled
    from interceptor.proxy.loop import Leg
    from interceptor.proxy.services import Services
    from interceptor.proxy.sniff import Found
    from interceptor.proxy.upstream import Dial
    from interceptor.proxy.waiting import Met
    from interceptor.tls.stream import TlsStream


_NOT_REDIRECTED: Final = Decision(
    upstreams=(),
    cluster="BlackHoleCluster",
    service="BlackHoleCluster",
    policy="-",
    denied="loop",
    details="the connection was made straight to the proxy's own listener and not redirected to it: "
    "connect to the app's port",
)


def intercept(flow: Flow, downstream: socket.socket, services: Services, tasks: trio.Nursery) -> None:
    """Serve one accepted connection, whose flow is registered; record it exactly once, however it ends.

    A flow that is relayed as it is and whose upstream is there at once has no task, from accept to end. Every end but an
    orderly one is a RST to the peer: it must never take a failure for a complete answer.
    """

    def begin() -> bool:
        met = waiting.Met(downstream, decide(flow, downstream, services))
        mode = None if services.http.transport is None else _mode(flow, met.decision, services)
        if mode is None:
            return _go_on(flow, met, services, tasks)
        if mode == "STRICT":
            _let_prove(flow, met, services, tasks)
        else:
            tasks.start_soon(waiting.serve, flow, met, None, services, mode)
        return True

    _carry_on(flow, downstream, services, begin)


def _carry_on(flow: Flow, downstream: Leg, services: Services, step: Callable[[], bool]) -> None:
    """Bring a flow that has no task one step further; it ends here where the step has not passed it on."""
    passed_on = False
    try:
        passed_on = step()
    except HandshakeError as failure:
        permission.deny_handshake(flow, failure)
    except (DialError, GoneError) as failure:
        permission.note_failure(flow, failure)
    except Exception:  # noqa: BLE001 (see fault)
        flow.flag, flow.details = endings.FAULT
        services.fault(flow.peer, flow.id)
    finally:
        if not passed_on:
            waiting.end(flow, downstream, services)


def _way(flow: Flow, downstream: Leg, services: Services, timeout: float) -> Way:
    def aborted() -> None:
        flow.flag, flow.details = endings.of_abort(services.abort_reason)
        waiting.end(flow, downstream, services)

    return Way(flow, services.hub, services.underway, timeout, aborted)


def _let_prove(flow: Flow, met: Met, services: Services, tasks: trio.Nursery) -> None:
    """Let a peer prove who it is, where nothing else is let in, and go on."""
    transport, downstream = services.http.transport, met.leg
    assert transport is not None
    assert isinstance(downstream, socket.SocketType)

    def proved(result: Outcome[TlsStream | Found]) -> None:
        def step() -> bool:
            came = result.unwrap()
            if isinstance(came, sniff.Found):
                return _go_on(flow, met, services, tasks)
            assert flow.original_dst is not None
            again = permission.decided(flow, flow.original_dst, services.snapshot())
            waiting.note(flow, again)
            return _go_on(flow, waiting.Met(came, again), services, tasks)

        _carry_on(flow, downstream, services, step)

    from interceptor.proxy.handshakes import Meeting  # noqa: PLC0415 (TLS, for who asks for it)

    way = _way(flow, downstream, services, services.handshake_timeout)
    Meeting(way, downstream, transport, proved)


def _go_on(flow: Flow, met: Met, services: Services, tasks: trio.Nursery) -> bool:
    """Relay it at once, where it is known that nothing looks at its bytes; else a task goes on. False: it is over."""
    decision = met.decision
    services.tracker.decided(flow)
    if decision.denied is not None and not nowhere.answers(decision, services):
        permission.deny(flow, decision)
        return False
    begun = None
    if decision.denied is None and _is_opaque(flow, decision, services):
        if not permission.lets_through(flow, decision, services.snapshot().policies, services.recorder):
            return False
        try:
            local = flow.direction is Direction.INGRESS
            begun = upstream.begin(decision.upstreams[0], reach.sources(flow, services), local=local)
        except DialError as failure:
            flow.upstream = failure.address
            raise
        if decision.tls is not None and begun.errno in upstream.UNDER_WAY:
            _call(flow, met, begun, services, tasks)
            return True
        if decision.tls is None and not begun.errno:
            dialled = reach.note_dialled(flow, begun.sock, begun.address, flow.opened, services)
            waiting.relay(flow, met.leg, dialled, services, fresh=True)
            return True
    tasks.start_soon(waiting.serve, flow, met, begun, services)
    return True


def _call(flow: Flow, met: Met, begun: Dial, services: Services, tasks: trio.Nursery) -> None:
    """Speak TLS to an upstream, and go on."""
    transport, decision, started = services.http.transport, met.decision, services.http.clock()
    assert transport is not None
    assert decision.tls is not None

    dialled: list[Dialled] = []

    def accepted() -> None:
        dialled.append(reach.note_dialled(flow, begun.sock, begun.address, started, services))

    def called(result: Outcome[TlsStream]) -> None:
        def step() -> bool:
            try:
                stream = result.unwrap()
            except TlsDialError:
                raise
            except DialError as failure:  # the next upstream may take it
                tasks.start_soon(waiting.serve, flow, met, begun._replace(errno=failure.errno), services)
                return True
            permission.lets_through(flow, decision, services.snapshot().policies)
            if flow.denied is not None:
                sockets.reset(stream)
                return False
            waiting.relay(flow, met.leg, dialled[0]._replace(sock=stream), services, fresh=True)
            return True

        _carry_on(flow, met.leg, services, step)

    from interceptor.proxy.handshakes import Calling  # noqa: PLC0415 (as above)

    way = _way(flow, met.leg, services, services.connect_timeout)
    Calling(way, begun, (transport, decision.tls), accepted, called)


def _mode(flow: Flow, decision: Decision, services: Services) -> str | None:
    """Whether a peer must or may speak mutual TLS here; None where it is not even looked for."""
    transport, policies = services.http.transport, services.snapshot().policies
    if (
        flow.direction is Direction.EGRESS
        or transport is None
        or transport.workload is None
        or decision.denied not in {None, "plaintext"}
    ):
        return None
    assert flow.original_dst is not None
    mode = "PERMISSIVE" if policies is None else policies.modes.mode(flow.original_dst.port).value
    return None if mode == "DISABLE" else mode


def _is_opaque(flow: Flow, decision: Decision, services: Services) -> bool:
    """Whether it is known from the start that the bytes are relayed as they are, and nothing else looks at them."""
    if services.middleware is not None or not services.courses.silent(flow, decision):
        return False
    if decision.tls is not None and services.http.transport is None:  # which is told by who dials
        return False
    if permission.asks_name(flow, decision, services.snapshot().policies):
        return False
    if decision.protocol == "auto":
        return services.detect_timeout is None
    return sniff.DECLARED[decision.protocol].detected is OPAQUE


def decide(flow: Flow, downstream: socket.socket, services: Services) -> Decision:
    """Find the original destination and ask one snapshot; note both in the flow."""
    view = services.snapshot()
    kept = reach.keeps_addresses(flow, services)
    destination = (
        OriginalDestination(sockets.local_address(downstream))
        if kept
        else services.original_destination(downstream, flow.peer)
    )
    if destination is None or (
        destination.port in services.ports and (kept or _is_ours(destination, downstream))
    ):
        flow.downstream_local = LocalAddress(sockets.local_address(downstream))
        decision = _NOT_REDIRECTED
    else:
        flow.original_dst = destination
        decision = permission.decided(flow, destination, view)
    flow.original_dst = destination
    if services.unproved is not None and flow.direction is Direction.INGRESS:
        flow.peer_presented = services.unproved
    waiting.note(flow, decision)
    return decision


def _is_ours(destination: SocketAddress, downstream: socket.socket) -> bool:
    """Whether a connection goes where it was accepted: conntrack names that for what was never redirected."""
    return destination == sockets.local_address(downstream)
