from __future__ import annotations

import random

import pytest

from interceptor.middleware.api import Delay
from interceptor.middleware.fault import AbortFault, DelayFault
from interceptor.model.connection import ResponseFlag
from interceptor.model.http import ResponseHead
from tests.support.exchanges import an_exchange


def test_a_delay_is_noted_whatever_is_answered() -> None:
    exchange = an_exchange()
    one = DelayFault(2.5, 100, lambda: 0.999)
    assert one.request(exchange) == Delay(2.5)
    assert exchange.injected is ResponseFlag.DELAY_INJECTED
    head = ResponseHead(200, b"", [])
    one.response(exchange, head)
    assert head == ResponseHead(200, b"", [])


def test_an_abort_answers() -> None:
    one = AbortFault(503, 100, lambda: 0.999)
    reply = one.request(an_exchange())
    assert reply is not None
    assert (reply.status, reply.flag, reply.details) == (
        503,
        ResponseFlag.FAULT_INJECTED,
        "fault_filter_abort",
    )
    head = ResponseHead(200, b"", [])
    one.response(an_exchange(), head)
    assert head == ResponseHead(200, b"", [])


def test_none_of_a_hundred_is_none() -> None:
    exchange = an_exchange()
    assert DelayFault(1, 0, lambda: 0.0).request(exchange) is None
    assert AbortFault(500, 0, lambda: 0.0).request(exchange) is None
    assert exchange.injected is None


@pytest.mark.parametrize("percentage", [0.5, 10, 50])
def test_a_percentage_is_one(percentage: float) -> None:
    one = AbortFault(500, percentage, random.Random(5).random)
    hit = sum(one.request(an_exchange()) is not None for _ in range(20_000))
    assert hit / 200 == pytest.approx(percentage, rel=0.2)
