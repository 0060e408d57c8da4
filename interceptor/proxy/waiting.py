"""A flow that has to wait for something, in a task of its own: a handshake, the first bytes, an upstream, requests."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import trio

from interceptor.kernel import sockets
from interceptor.middleware.api import Connection
from interceptor.protocol.detect import HTTP1, HTTP2, OPAQUE
from interceptor.proxy import endings, nowhere, permission, reach, sniff
from interceptor.proxy.endings import DialError, GoneError, HandshakeError
from interceptor.proxy.http import http1
from interceptor.proxy.http.serve import Service, pool_key
from interceptor.proxy.lifetime import Lifetime

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.model.connection import Flow
    from interceptor.proxy.endings import Ended
    from interceptor.proxy.http.client import Dialled
    from interceptor.proxy.loop import Leg
    from interceptor.proxy.services import Services
    from interceptor.proxy.sniff import Found
    from interceptor.proxy.upstream import Dial
    from interceptor.routing.destinations import Decision


class Met(NamedTuple):
    """A peer's connection, as it is spoken on from here, and what was decided of it."""

    leg: Leg
    decision: Decision
    found: Found | None = None  # what its first bytes say, where they were looked at and are the app's
    dialled: Dialled | None = None  # the upstream, where it was dialled meanwhile


async def serve(
    flow: Flow, met: Met, begun: Dial | None, services: Services, mode: str | None = None
) -> None:
    """Go on with a flow that has to wait for something; with a mode it is still to be met."""
    relayed, downstream = False, met.leg
    sockets.finish_on_close(downstream)  # whoever serves it from here says himself what its end is
    try:
        if mode is not None:
            met = await _meet(flow, met, services, strict=mode == "STRICT")
            services.tracker.decided(flow)
        if met.decision.denied is None:
            relayed = await _serve_within(flow, met, begun, services)
        elif nowhere.answers(met.decision, services):
            await nowhere.refuse(flow, met.leg, met.decision, services)
        else:
            permission.deny(flow, met.decision)
    except HandshakeError as failure:
        permission.deny_handshake(flow, failure)
    except (DialError, GoneError) as failure:
        permission.note_failure(flow, failure)
    except trio.Cancelled:
        flow.flag, flow.details = endings.of_abort(services.abort_reason)
        raise
    except Exception:  # noqa: BLE001 (see fault)
        flow.flag, flow.details = endings.FAULT
        services.fault(flow.peer, flow.id)
    finally:
        if not relayed:
            end(flow, downstream, services)


async def _meet(flow: Flow, met: Met, services: Services, *, strict: bool) -> Met:
    """Let a peer that calls as one of the mesh prove who it is; a port that refuses plaintext waits for that.

    Where plaintext is let in the peer may also be silent, and the app speak first; the app's own TLS passes through.
    Raises HandshakeError, DialError and GoneError.
    """
    downstream, decision, serving = met.leg, met.decision, services.http
    assert serving.transport is not None
    assert isinstance(downstream, socket.SocketType)
    dial = reach.dialler(flow, decision, services) if decision.denied is None else None
    found = await sniff.find_out(flow, downstream, dial, serving, services.handshake_timeout)
    hello = found.detected.hello
    flow.server_name = None if hello is None else hello.server_name
    if hello is None or not (strict or any(name.startswith(b"istio") for name in hello.alpn)):
        return Met(downstream, decision, found, found.dialled)
    try:
        stream = await serving.transport.accept(flow, downstream)
    except BaseException:
        if found.dialled is not None:
            sockets.reset(found.dialled.sock)
        raise
    assert flow.original_dst is not None
    again = permission.decided(flow, flow.original_dst, services.snapshot())
    note(flow, again)
    if again.denied is not None and found.dialled is not None:
        sockets.reset(found.dialled.sock)
    return Met(stream, again, None, found.dialled)


async def _serve_within(flow: Flow, met: Met, begun: Dial | None, services: Services) -> bool:
    """Serve it inside the middleware that stands around connections, where there is any; that waits until it is over.

    True: the hub has it, or had. False: it is over.
    """
    chain = None if services.middleware is None else services.middleware.connection_chain(flow)
    if chain is None:
        return await _find_out_and_serve(flow, met, begun, services)
    relayed, over = False, trio.Event()

    async def serve() -> None:
        nonlocal relayed
        relayed = await _find_out_and_serve(flow, met, begun, services, over.set)
        if relayed:
            await over.wait()

    refusal = await chain.run(Connection(flow), serve)
    if refusal is not None and flow.denied is None:
        flow.denied = refusal.reason
        flow.flag, flow.details = endings.of_denial(refusal.reason, refusal.details)
        if met.dialled is not None:
            sockets.reset(met.dialled.sock)
    return relayed


def _is_asked_who(flow: Flow, services: Services, found: Found) -> bool:
    """Whether a filter asks the flow's requests who they are from. What carries none does not get past it."""
    name = None if services.middleware is None else services.middleware.authenticates(flow)
    if name is None:
        return False
    if found.dialled is not None:
        sockets.reset(found.dialled.sock)
    if flow.denied is None:
        flow.denied = "middleware"
        details = f"the middleware '{name}' authenticates requests, and this connection carries no HTTP that is understood"
        flow.flag, flow.details = endings.of_denial(flow.denied, details)
    return True


async def _find_out_and_serve(
    flow: Flow, met: Met, begun: Dial | None, services: Services, over: Callable[[], None] | None = None
) -> bool:
    """Find out what the flow carries, and serve it so. Policies may deny it at any moment from here on.

    True: it is the hub's now. False: it is over.
    """
    found = await _find_out(flow, met, services)
    if found.detected is HTTP1 and flow.denied is None:
        await _serve_http(flow, met, found, services)
        return False
    if found.detected is HTTP2 and flow.denied is None:
        await _serve_http2(flow, met, found.dialled, services)
        return False
    if _is_asked_who(flow, services, found):
        return False
    decision, dialled = met.decision, found.dialled
    if dialled is not None and services.courses.may_depart(flow, decision):
        sockets.reset(dialled.sock)
        dialled = None
    if begun is not None or permission.lets_through(
        flow, decision, services.snapshot().policies, services.recorder
    ):
        dialled = dialled or await reach.dial(flow, decision, services, begun)
        permission.lets_through(flow, decision, services.snapshot().policies)
    if flow.denied is not None or dialled is None:
        if dialled is not None:
            sockets.reset(dialled.sock)
        return False
    relay(flow, met.leg, dialled, services, over)
    return True


def relay(
    flow: Flow,
    downstream: Leg,
    dialled: Dialled,
    services: Services,
    over: Callable[[], None] | None = None,
    *,
    fresh: bool = False,
) -> None:
    """Hand both sockets over to the hub; the flow is recorded when it tells the end. Fresh: just accepted."""
    lifetime: Lifetime | None = None

    def done(ended: Ended) -> None:
        try:
            if lifetime is not None:
                lifetime.stop()
            if flow.denied is None:
                flow.flag, flow.details = endings.of_relay(ended)
            services.courses.leave(flow)
            services.tracker.close(flow)
        except Exception:  # noqa: BLE001 (see fault)
            services.fault(flow.peer, flow.id)
        if over is not None:
            over()

    pair = services.hub.start(flow, downstream, dialled.sock, done, fresh=fresh)
    if not fresh and (cluster := services.courses.cluster(flow)) is not None:
        terms = cluster.traffic
        if terms.idle_timeout is not None:
            setting = f"connectionPool.tcp.idleTimeout of {cluster.rule}"
            services.hub.allow_silence(pair, terms.idle_timeout, setting)
        if terms.longest is not None:
            setting = f"connectionPool.tcp.maxConnectionDuration of {cluster.rule}"
            lifetime = Lifetime(services.hub, flow, terms.longest, setting)
        pair.probed = terms.reuse is not None and terms.reuse.keepalive is not None


def end(flow: Flow, downstream: Leg, services: Services) -> None:
    """Record a flow that is over, or was never relayed; reset the connection if it is still open."""
    if downstream.fileno() != -1:
        sockets.reset(downstream)
    try:
        services.courses.leave(flow)
        services.tracker.close(flow)
    except Exception:  # noqa: BLE001 (see fault)
        services.fault(flow.peer, flow.id)


async def _find_out(flow: Flow, met: Met, services: Services) -> Found:
    """What the flow carries: as it is declared, or else by its first bytes."""
    found, decision = met.found, met.decision
    asks_name = services.courses.asks_name(flow, decision)
    compared = permission.asks_name(flow, decision, services.snapshot().policies)
    looked_at = {"auto"} | ({"tls"} if asks_name else set()) | ({"tls", "tcp"} if compared else set())
    if decision.protocol not in looked_at:
        return replace(sniff.DECLARED[decision.protocol], dialled=met.dialled)
    if services.detect_timeout is None and not asks_name and not compared:
        return replace(sniff.DECLARED["tcp"], dialled=met.dialled)
    if found is None:
        dial = None if asks_name else reach.dialler(flow, decision, services, met.dialled)
        patience = services.detect_timeout or services.handshake_timeout
        found = await sniff.find_out(flow, met.leg, dial, services.http, patience)
        if found.dialled is None and met.dialled is not None:
            found = replace(found, dialled=met.dialled)
    services.recorder.detected(flow, found.result)
    if found.detected.hello is not None and flow.server_name is None:
        flow.server_name = found.detected.hello.server_name
    if decision.protocol != "auto" or services.detect_timeout is None:
        return replace(found, detected=OPAQUE)  # whatever it says, it is declared
    return found


def _service(flow: Flow, decision: Decision, services: Services) -> Service:
    """What serves the flow's requests. Connections to the upstream are shared, but where it is to see its peer's address."""
    flow.http, flow.relay = True, "http"
    sources = reach.sources(flow, services)
    return Service(
        services.http, flow, decision, pool_key(decision, None if sources is None else flow.id), sources
    )


async def _serve_http(flow: Flow, met: Met, found: Found, services: Services) -> None:
    """Serve the flow's requests, which turn out to be of HTTP/2 where the port was only declared to be of HTTP."""
    service = _service(flow, met.decision, services)
    dialled_by = services.courses.turn_back(flow, met.decision)
    if found.dialled is not None:
        key = pool_key(dialled_by, None if service.sources is None else flow.id)
        services.http.pool.keep(services.http.pool.adopt(key, found.dialled))
    early = await http1.serve(service, met.leg)
    if early:
        await _serve_http2(flow, met, None, services, early)


async def _serve_http2(
    flow: Flow, met: Met, dialled: Dialled | None, services: Services, early: bytes = b""
) -> None:
    """Serve the flow's requests, over one connection to an upstream that speaks HTTP/2 too."""
    from interceptor.proxy.http import http2  # noqa: PLC0415 (costs nothing until the first client speaks it)

    service = _service(flow, met.decision, services)
    service.multiplexed = met.decision.protocol != "http"

    async def dial() -> Dialled:
        return await reach.dial(flow, met.decision, services, protocol="http2")

    await http2.serve(service, met.leg, dialled, dial, early)


def note(flow: Flow, decision: Decision) -> None:
    """What is recorded of where a flow goes."""
    flow.upstream_cluster = decision.cluster
    flow.destination_service = decision.service
    flow.destination_namespace = decision.namespace
    flow.policy = decision.policy
