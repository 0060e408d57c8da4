from __future__ import annotations

from hypothesis import given, strategies as st

from interceptor.model.chance import LONGEST_DELAY, backoff


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_the_next_connection_comes_after_a_bounded_wait(failures: int, chance: float) -> None:
    assert 0.25 <= backoff(failures, chance) <= LONGEST_DELAY * 1.5
    assert backoff(failures, chance) <= backoff(failures + 1, chance)
