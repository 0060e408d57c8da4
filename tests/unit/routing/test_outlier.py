from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from interceptor.model.address import SocketAddress, UpstreamAddress
from interceptor.routing.outlier import LONGEST, Outcome, OutlierDetection, Outliers

MEMBERS = [UpstreamAddress(SocketAddress(f"10.0.0.{number}", 80)) for number in range(10)]
ONE = MEMBERS[0]


def fail(outliers: Outliers, times: int, outcome: Outcome, now: float = 0.0) -> list[str | None]:
    return [outliers.note(ONE, outcome, now, MEMBERS) for _ in range(times)]


@pytest.mark.parametrize(
    ("settings", "outcome", "reason"),
    [
        (OutlierDetection(consecutive_5xx=3), Outcome.SERVER_ERROR, "consecutive5xxErrors"),
        (OutlierDetection(consecutive_5xx=3), Outcome.GATEWAY_ERROR, "consecutive5xxErrors"),
        (OutlierDetection(consecutive_5xx=3), Outcome.LOCAL_FAILURE, "consecutive5xxErrors"),
        (
            OutlierDetection(consecutive_5xx=0, consecutive_gateway_errors=3),
            Outcome.GATEWAY_ERROR,
            "consecutiveGatewayErrors",
        ),
        (
            OutlierDetection(consecutive_5xx=0, consecutive_gateway_errors=3),
            Outcome.LOCAL_FAILURE,
            "consecutiveGatewayErrors",
        ),
        (
            OutlierDetection(consecutive_local_failures=3, split_local=True),
            Outcome.LOCAL_FAILURE,
            "consecutiveLocalOriginFailures",
        ),
    ],
)
def test_the_last_of_a_row_ejects(settings: OutlierDetection, outcome: Outcome, reason: str) -> None:
    outliers = Outliers(settings)
    assert fail(outliers, 3, outcome) == [None, None, reason]
    assert outliers.ejected == {ONE}
    assert fail(outliers, 3, outcome) == [None] * 3  # what was in flight does not count twice


def test_a_success_ends_a_row_and_a_plain_error_one_of_gateway_errors() -> None:
    outliers = Outliers(OutlierDetection(consecutive_5xx=3, consecutive_gateway_errors=2))
    assert fail(outliers, 1, Outcome.GATEWAY_ERROR) == [None]
    assert fail(outliers, 1, Outcome.SERVER_ERROR) == [None]
    assert fail(outliers, 1, Outcome.SUCCESS) == [None]
    assert fail(outliers, 2, Outcome.SERVER_ERROR) == [None, None]


def test_each_ejection_lasts_longer_and_wellness_forgives() -> None:
    outliers = Outliers(OutlierDetection(consecutive_5xx=1, base_ejection_time=30))
    now = 0.0
    for lasts in (30, 60, 90):
        assert fail(outliers, 1, Outcome.SERVER_ERROR, now) == ["consecutive5xxErrors"]
        assert outliers.sweep(now + lasts - 1, MEMBERS) == []
        assert outliers.sweep(now + lasts, MEMBERS) == [ONE]
        now += lasts
    for _ in range(3):
        outliers.sweep(now, MEMBERS)
    fail(outliers, 1, Outcome.SERVER_ERROR, now)
    assert outliers.sweep(now + 30, MEMBERS) == [ONE]


def test_the_longest_ejection_is_bounded() -> None:
    outliers = Outliers(OutlierDetection(consecutive_5xx=1, base_ejection_time=200))
    for now in (0.0, 1000.0, 2000.0):
        fail(outliers, 1, Outcome.SERVER_ERROR, now)
        outliers.sweep(now + LONGEST, MEMBERS)
        assert not outliers.ejected


def test_who_is_gone_is_forgotten() -> None:
    outliers = Outliers(OutlierDetection(consecutive_5xx=1))
    fail(outliers, 1, Outcome.SERVER_ERROR)
    outliers.sweep(0.0, MEMBERS[1:])
    assert (outliers.ejected, outliers.records) == (set(), {})
    assert outliers.note(ONE, Outcome.SERVER_ERROR, 0.0, MEMBERS[1:]) is None
    assert not outliers.records


@given(
    st.integers(0, 100),
    st.integers(1, 10),
    st.floats(1, 100),
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from(Outcome), st.floats(0, 100)), max_size=80),
)
def test_ejections_are_bounded_in_number_and_in_time(
    percent: int, size: int, base: float, events: list[tuple[int, Outcome, float]]
) -> None:
    members = MEMBERS[:size]
    settings = OutlierDetection(consecutive_5xx=1, max_ejection_percent=percent, base_ejection_time=base)
    outliers = Outliers(settings)
    now = 0.0
    for number, outcome, passes in events:
        now += passes
        member = members[number % size]
        if outliers.note(member, outcome, now, members) is not None:
            record = outliers.records[member]
            assert record.ejected_until is not None
            lasts = record.ejected_until - now
            assert lasts == pytest.approx(max(base, min(base * record.ejections, LONGEST)))
        assert len(outliers.ejected) <= max(1 if percent else 0, size * percent / 100)
        assert size == 1 or percent == 100 or len(outliers.ejected) < size, "never all of several"
        outliers.sweep(now, members)
        assert all((record.ejected_until or now + 1) > now for record in outliers.records.values())
        assert outliers.ejected == {each for each, known in outliers.records.items() if known.ejected_until}


@given(st.lists(st.booleans(), max_size=40))
def test_an_ejection_lasts_longer_the_more_came_before(fails: list[bool]) -> None:
    outliers, before, now = Outliers(OutlierDetection(consecutive_5xx=1)), 0.0, 0.0
    for failed in fails:
        if failed and outliers.note(ONE, Outcome.SERVER_ERROR, now, MEMBERS) is not None:
            until = outliers.records[ONE].ejected_until
            assert until is not None
            assert until - now >= before, "without a sweep between, where it was well"
            before, now = until - now, until
        else:
            before = 0.0
        outliers.sweep(now, MEMBERS)


def test_a_clock_that_stands_or_jumps_ahead_only_ends_ejections() -> None:
    outliers = Outliers(OutlierDetection(consecutive_5xx=1))
    fail(outliers, 1, Outcome.SERVER_ERROR, now=1000.0)
    assert outliers.sweep(1000.0, MEMBERS) == []
    assert outliers.sweep(1e9, MEMBERS) == [ONE]
