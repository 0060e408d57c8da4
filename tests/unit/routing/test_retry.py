from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from interceptor.routing.retry import (
    CONDITIONS,
    UNSEEN,
    Attempt,
    Failure,
    RetryBudget,
    RetryPolicy,
    backoff,
    reason_to_retry,
    retried_below_500,
    retry_policy,
)
from tests.support.documents import virtual_service


def policy(*conditions: str, codes: tuple[int, ...] = (), explicit: bool = False) -> RetryPolicy:
    return RetryPolicy(conditions=frozenset(conditions), status_codes=frozenset(codes), explicit=explicit)


@pytest.mark.parametrize(
    ("condition", "attempt", "held"),
    [
        ("5xx", Attempt(status=500), True),
        ("5xx", Attempt(status=499), False),
        ("5xx", Attempt(Failure.RESET), True),
        ("gateway-error", Attempt(status=503), True),
        ("gateway-error", Attempt(status=500), False),
        ("retriable-4xx", Attempt(status=409), True),
        ("retriable-4xx", Attempt(status=404), False),
        ("retriable-status-codes", Attempt(status=418), True),
        ("retriable-status-codes", Attempt(status=419), False),
        ("reset", Attempt(Failure.RESET), True),
        ("reset", Attempt(Failure.CONNECT), False),
        ("reset-before-request", Attempt(Failure.BEFORE_REQUEST), True),
        ("reset-before-request", Attempt(Failure.RESET), False),
        ("connect-failure", Attempt(Failure.CONNECT), True),
        ("refused-stream", Attempt(Failure.REFUSED_STREAM), True),
        ("unavailable", Attempt(status=200, grpc_status=14), True),
        ("unavailable", Attempt(status=200, grpc_status=0), False),
    ],
)
def test_conditions(condition: str, attempt: Attempt, *, held: bool) -> None:
    asked = policy(condition, codes=(418,))
    assert reason_to_retry(asked, b"GET", attempt) == (condition if held else None)


@given(st.sets(st.sampled_from(sorted(CONDITIONS))), st.sampled_from(Failure))
def test_what_the_upstream_may_have_done_is_not_done_twice(conditions: set[str], failure: Failure) -> None:
    asked = policy(*conditions)
    if failure not in UNSEEN:
        assert reason_to_retry(asked, b"POST", Attempt(failure)) is None
    assert reason_to_retry(asked, b"POST", Attempt(status=503)) is None


def test_a_document_may_say_otherwise() -> None:
    assert reason_to_retry(policy("5xx", explicit=True), b"POST", Attempt(status=503)) == "5xx"


@given(st.integers(1, 40), st.integers())
def test_backoff_grows_to_a_bound(attempt: int, seed: int) -> None:
    wait = backoff(RetryPolicy(), attempt, random.Random(seed))
    assert 0 <= wait <= min(0.025 * (2**attempt - 1), 0.25)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (RetryPolicy(), {409}),
        (RetryPolicy(attempts=0, status_codes=frozenset((418,))), set()),
        (RetryPolicy(status_codes=frozenset((200, 418, 503))), {200, 409, 418}),
    ],
)
def test_answers_that_may_be_tried_again_although_the_server_is_well(
    asked: RetryPolicy, expected: set[int]
) -> None:
    found = retried_below_500(asked)
    assert found == expected
    every = replace(asked, conditions=CONDITIONS)
    tried = {
        each for each in range(100, 500) if reason_to_retry(every, b"GET", Attempt(status=each)) is not None
    }
    assert tried <= found or not asked.attempts


@pytest.mark.parametrize(
    ("requests", "retries", "allowed"), [(0, 2, True), (0, 3, False), (100, 19, True), (100, 20, False)]
)
def test_budget(requests: int, retries: int, *, allowed: bool) -> None:
    assert RetryBudget().allows(requests, retries) is allowed


@pytest.mark.parametrize(
    ("spec", "policy"),
    [
        ("{attempts: 3}", RetryPolicy(attempts=3)),
        (
            "{attempts: 1, retryOn: '503,reset', perTryTimeout: 2s, backoff: 1s}",
            RetryPolicy(
                attempts=1, conditions=frozenset({"reset", "retriable-status-codes"}), status_codes=frozenset({503}),
                per_try_timeout=2, base_interval=1, explicit=True,
            ),
        ),
        ("{retryOn: 5xx}", RetryPolicy(conditions=frozenset({"5xx"}), explicit=True)),
    ],
)  # fmt: skip
def test_what_a_document_asks_for(spec: str, policy: RetryPolicy) -> None:
    document = virtual_service(
        f"hosts: [a.example]\nhttp: [{{retries: {spec}, route: [{{destination: {{host: a.example}}}}]}}]"
    )
    assert retry_policy(document.spec.http[0].retries) == policy


def test_without_a_document_it_is_istios_default() -> None:
    assert retry_policy(None) == RetryPolicy()


@given(st.lists(st.sampled_from(("begin", "end", "fail")), max_size=300), st.integers(1, 100))
def test_retries_in_flight_never_go_beyond_the_budget(events: list[str], percent: int) -> None:
    budget, active, retries = RetryBudget(percent=percent), 0, 0
    for event in events:
        if event == "begin":
            active += 1
        elif event == "end":
            active, retries = max(0, active - 1), max(0, min(retries, active - 1))
        elif budget.allows(active, retries):
            retries += 1
            assert retries <= max(budget.minimum, active * percent / 100 + 1)


def test_where_another_attempt_may_go() -> None:
    def made(text: str) -> RetryPolicy:
        route = f"hosts: [a.b]\nhttp: [{{route: [{{destination: {{host: a.b}}}}], retries: {text}}}]"
        return retry_policy(virtual_service(route).spec.http[0].retries)

    assert (made("{}").other_endpoints, made("{}").other_places) == (True, False)
    assert not made("{retryIgnorePreviousHosts: false}").other_endpoints
    remote = made("{retryRemoteLocalities: true, retryIgnorePreviousHosts: false}")
    assert (remote.other_endpoints, remote.other_places) == (True, True)
