"""How long the route of a request is looked for among the virtual hosts of many services, in this process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from interceptor.config.documents import load
from interceptor.config.plain import plain
from interceptor.config.problems import Source
from interceptor.model.address import OriginalDestination, SocketAddress
from interceptor.model.http import RequestHead
from interceptor.routing.destinations import Decision
from interceptor.routing.routes import Question
from interceptor.state.snapshot import take

TIMES: Final = 5000
HOSTS: Final = (b"s2507.example", b"S2507.Example:8080", b"shop.example", b"nobody.example")


def microseconds(texts: Sequence[str], port: int) -> float:
    """For one request, of the slowest kind of host: with what is asked about it, the one before may have had another head."""
    documents = load([Source(str(number), text) for number, text in enumerate(texts)])
    routing = take(plain(documents.configuration())).routing
    assert routing is not None
    destination = OriginalDestination(SocketAddress("192.0.2.1", port))
    decision = Decision((), "PassthroughCluster", "PassthroughCluster", "-")
    slowest = 0.0
    for host in HOSTS:
        began = time.perf_counter()
        for _ in range(TIMES):
            head = RequestHead(b"GET", b"/v2/thing", host, b"http", b"1.1", [(b"x-user", b"you")])
            routing.find(Question(head, port), decision, destination)
        slowest = max(slowest, (time.perf_counter() - began) / TIMES * 1e6)
    return slowest
