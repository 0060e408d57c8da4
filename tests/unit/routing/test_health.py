"""When an endpoint counts as healthy, by Envoy's rules."""

from __future__ import annotations

from random import Random

from hypothesis import given, strategies as st

from interceptor.config.health_check import HealthCheck
from interceptor.model.health import HEALTHY, Outcome, Result
from interceptor.routing.health import AT_ONCE, Health, first_pause, pause

SAID_SO = Result(Outcome.FAILURE, "it answered 503")
SILENT = Result(Outcome.NETWORK_FAILURE, "no answer")
RESULTS = st.lists(st.sampled_from((HEALTHY, SAID_SO, SILENT)), max_size=40)


def check(unhealthy: int = 3, healthy: int = 2, **fields: object) -> HealthCheck:
    return HealthCheck.model_validate(
        {"host": "a.b", "tcp": {}, "unhealthyThreshold": unhealthy, "healthyThreshold": healthy, **fields}
    )


def test_the_first_result_decides_at_once_and_only_a_bad_one_changes_anything() -> None:
    well, silent = Health(), Health()
    assert (well.note(HEALTHY, check()), well.healthy) == (False, True)
    assert (silent.note(SILENT, check()), silent.healthy) == (True, False)


def test_silence_has_to_last_and_so_has_recovery() -> None:
    health = Health()
    health.note(HEALTHY, check())
    assert [health.note(SILENT, check()) for _ in range(3)] == [False, False, True]
    assert [health.note(SILENT, check()) for _ in range(3)] == [False] * 3
    assert [health.note(each, check()) for each in (HEALTHY, SILENT, HEALTHY)] == [False] * 3
    assert (health.note(HEALTHY, check()), health.healthy) == (True, True)


def test_an_endpoint_that_says_so_is_unhealthy_at_once() -> None:
    health = Health()
    health.note(HEALTHY, check())
    assert (health.note(SAID_SO, check()), health.healthy) == (True, False)
    assert health.details == "it answered 503"


@given(RESULTS, st.integers(1, 5), st.integers(1, 5))
def test_no_change_without_the_results_it_takes(results: list[Result], unhealthy: int, healthy: int) -> None:
    asked, health = check(unhealthy, healthy), Health()
    for number, result in enumerate(results):
        before = health.healthy is not False
        changed = health.note(result, asked)
        assert changed == (before != (health.healthy is not False))
        if not changed:
            continue
        good = health.healthy is True
        row = results[max(0, number + 1 - (healthy if good else unhealthy)) : number + 1]
        enough = len(row) == (healthy if good else unhealthy) or number == 0
        same = all((each.outcome is Outcome.SUCCESS) is good for each in row)
        assert (enough and same) or (not good and result is SAID_SO)


@given(RESULTS, st.integers(1, 5), st.integers(1, 5))
def test_enough_results_of_one_kind_decide_whatever_was_before(
    results: list[Result], unhealthy: int, healthy: int
) -> None:
    asked, health = check(unhealthy, healthy), Health()
    for result in results:
        health.note(result, asked)
    for _ in range(unhealthy):
        health.note(SILENT, asked)
    assert health.healthy is False
    for _ in range(healthy):
        health.note(HEALTHY, asked)
    assert health.healthy is True


def test_pauses() -> None:
    rng = Random(1)
    plain = check(interval="10s")
    assert pause(plain, Health(healthy=False), rng) == 10
    other = check(interval="10s", unhealthyInterval="2s", intervalJitter="1s")
    assert {2 <= pause(other, Health(healthy=False), rng) <= 3 for _ in range(50)} == {True}
    assert {10 <= pause(other, Health(healthy=True), rng) <= 11 for _ in range(50)} == {True}
    assert len({pause(other, Health(), rng) for _ in range(50)}) == 50
    assert first_pause(plain, AT_ONCE, rng) == 0
    assert {0 <= first_pause(plain, AT_ONCE + 1, rng) <= 5 for _ in range(50)} == {True}
