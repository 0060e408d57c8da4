"""What a DestinationRule says of connections, in the kernel's and the pool's terms."""

from __future__ import annotations

import math

import pytest

from interceptor.config.destination_rule import ConnectionPool
from interceptor.routing.reuse import KeepAlive, Reuse, idle_timeout, of_pool


def pool(**given: object) -> ConnectionPool:
    return ConnectionPool.model_validate(given)


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({}, None),
        ({"http": {"maxRequestsPerConnection": 0}, "tcp": {"connectTimeout": "1s"}}, None),
        ({"http": {"idleTimeout": "2s"}}, Reuse(idle=2)),
        ({"http": {"maxRequestsPerConnection": 3, "maxConcurrentStreams": 4}}, Reuse(None, 3, 4)),
        ({"tcp": {"tcpKeepalive": {}}}, Reuse(keepalive=KeepAlive())),
        ({"tcp": {"tcpKeepalive": {"probes": 0}}}, Reuse(keepalive=KeepAlive())),
        (
            {"tcp": {"tcpKeepalive": {"time": "1m", "interval": "1500ms", "probes": 5}}},
            Reuse(keepalive=KeepAlive(60, 1, 5)),
        ),
    ],
)
def test_what_is_said_of_connections(given: dict[str, object], made: Reuse | None) -> None:
    assert of_pool(pool(**given)) == made


@pytest.mark.parametrize(
    ("given", "seconds"),
    [({}, None), ({"idleTimeout": "90s"}, 90), ({"idleTimeout": "0s"}, math.inf)],
)
def test_how_long_a_flow_may_be_silent(given: dict[str, object], seconds: float | None) -> None:
    assert idle_timeout(pool(tcp=given)) == seconds
