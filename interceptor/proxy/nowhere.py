"""What a connection of the app's is told that may go nowhere: an answer where it carries requests, else a reset.

Nothing is dialled, and no route, filter or policy has a say: the connection is refused already.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from interceptor.model.request import Destination
from interceptor.protocol.detect import HTTP1, HTTP2
from interceptor.proxy import endings, permission, sniff
from interceptor.proxy.http import http1, replies
from interceptor.proxy.http.serve import Service
from interceptor.routing.destinations import ANSWERS

if TYPE_CHECKING:
    from interceptor.model.connection import Flow
    from interceptor.model.http import LocalReply
    from interceptor.model.request import RequestRecord
    from interceptor.proxy.loop import Leg
    from interceptor.proxy.services import Services
    from interceptor.routing.destinations import Decision

_ROUTES: Final = {"registry": "block_all"}  # Istio's name for where such requests end
# Seconds for a client to show that it speaks HTTP: it does so within a round trip and what its machine has to do else.
# One that waits for its server to speak is reset that much later.
PATIENCE: Final = 1.0


def answers(decision: Decision, services: Services) -> bool:
    """Whether what a refused connection carries is looked at."""
    if decision.denied not in ANSWERS:
        return False
    if decision.protocol == "auto":
        return services.detect_timeout is not None
    return sniff.DECLARED[decision.protocol].detected in {HTTP1, HTTP2}


async def refuse(flow: Flow, downstream: Leg, decision: Decision, services: Services) -> None:
    """Answer its first request and end it; the caller resets what carries none. Raises GoneError."""
    try:
        if decision.protocol == "auto":
            patience = min(PATIENCE, services.detect_timeout or PATIENCE)
            found = await sniff.find_out(flow, downstream, None, services.http, patience)
            services.recorder.detected(flow, found.result)
        else:
            found = sniff.DECLARED[decision.protocol]
        if found.detected is HTTP1 or found.detected is HTTP2:
            await _serve(flow, downstream, decision, services, multiplexed=found.detected is HTTP2)
    finally:
        permission.deny(flow, decision)


async def _serve(
    flow: Flow, downstream: Leg, decision: Decision, services: Services, *, multiplexed: bool
) -> None:
    """It is served until it was asked something, by a configuration that may soon be another one."""
    assert decision.denied is not None
    flag, details = endings.of_denial(decision.denied, decision.details)
    route = _ROUTES.get(decision.denied)
    local = replies.reply(ANSWERS[decision.denied], flag, details, details)

    def answer(record: RequestRecord, _decision: Decision) -> LocalReply:
        record.destination = Destination(decision.cluster, decision.service, decision.namespace, route)
        serving.drain()
        return local

    every = services.http
    serving = replace(
        every,
        authorize=answer,
        looks=lambda _flow: True,
        filters=None,
        router=None,
        metadata=None,
        live=set(),
        idle_timeout=every.head_timeout,
    )
    flow.http, flow.relay = True, "http"
    service = Service(serving, flow, decision, None)
    early = b"" if multiplexed else await http1.serve(service, downstream)
    if multiplexed or early:
        from interceptor.proxy.http import http2  # noqa: PLC0415 (costs nothing until the first client speaks it)

        await http2.serve(service, downstream, None, trio.sleep_forever, early)
