from __future__ import annotations

import pytest

from interceptor.middleware.access_log import LONGEST, Condition, LogFilter
from interceptor.model.connection import ResponseFlag
from interceptor.model.http import ResponseHead
from tests.support.exchanges import an_exchange

NONE, FLAG = ResponseFlag.NONE, ResponseFlag.UPSTREAM_FAILURE


def filtered(*when: Condition, chance: float = 0.5) -> LogFilter:
    return LogFilter(when, (), (), (), lambda: chance)


@pytest.mark.parametrize(
    ("condition", "status", "seconds", "flag", "logged"),
    [
        (Condition(), 200, 0.0, NONE, True),
        (Condition(min_status=400), 399, 9.0, FLAG, False),
        (Condition(min_status=400), 400, 0.0, NONE, True),
        (Condition(min_status=400), 0, 0.0, NONE, True),  # no answer at all
        (Condition(min_seconds=1), 200, 0.9, NONE, False),
        (Condition(min_seconds=1), 200, 1.0, NONE, True),
        (Condition(flagged=True), 200, 0.0, NONE, False),
        (Condition(flagged=True), 200, 0.0, FLAG, True),
        (Condition(flagged=False), 200, 0.0, FLAG, False),
        (Condition(percentage=50), 200, 0.0, NONE, False),
        (Condition(percentage=50.1), 200, 0.0, NONE, True),
        (Condition(min_status=400, min_seconds=1), 500, 0.5, NONE, False),
    ],
)
def test_everything_that_is_given_must_hold(
    condition: Condition, status: int, seconds: float, flag: ResponseFlag, logged: bool
) -> None:
    assert filtered(condition).logs(status, seconds, flag) is logged


def test_one_condition_suffices_and_none_is_always() -> None:
    assert filtered().logs(200, 0, NONE)
    one = filtered(Condition(min_status=500), Condition(min_seconds=1))
    assert one.logs(200, 2, NONE)
    assert one.logs(503, 0, NONE)
    assert not one.logs(200, 0, NONE)


def test_fields_are_plain_or_from_a_header() -> None:
    one = LogFilter(
        (),
        (("env", "prod"),),
        (("tenant", b"x-tenant"), ("none", b"x-none")),
        (("cache", b"x-cache"),),
        lambda: 0,
    )
    exchange = an_exchange([(b"X-Tenant", b"a" * 5000)])
    one.request(exchange)
    one.request(exchange)  # of two filters, the fields are added up
    one.response(exchange, ResponseHead(200, b"", [(b"X-Cache", b"h\xffit")]))
    assert exchange.fields == {"env": "prod", "tenant": "a" * LONGEST, "none": "-", "cache": "h�it"}


def test_an_answer_to_what_it_never_saw_has_no_fields() -> None:
    exchange = an_exchange()
    filtered().response(exchange, ResponseHead(200, b"", []))
    assert exchange.fields is None
