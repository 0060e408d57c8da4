"""Two budgets: what ends them, what restores them."""

from __future__ import annotations

import pytest

from interceptor.protocol.http2 import patience
from interceptor.protocol.http2.codes import ENHANCE_YOUR_CALM, LegError
from interceptor.protocol.http2.patience import Patience


def spend(made: Patience, what: str, times: int) -> None:
    for _ in range(times):
        getattr(made, what)()


@pytest.mark.parametrize(
    ("what", "burst", "rate"),
    [
        ("waste", patience.FRAMES, patience.FRAMES_A_SECOND),
        ("reset", patience.RESETS, patience.RESETS_A_SECOND),
    ],
)
def test_a_burst_then_a_rate(what: str, burst: int, rate: int) -> None:
    made = Patience(100.0)
    spend(made, what, burst)
    made.now = 102.0
    spend(made, what, 2 * rate)
    with pytest.raises(LegError) as error:
        spend(made, what, 1)
    assert error.value.code == ENHANCE_YOUR_CALM


def test_a_useful_frame_pays_for_some() -> None:
    made = Patience(0.0)
    spend(made, "waste", patience.FRAMES)
    made.useful()
    spend(made, "waste", patience.FRAMES_FOR_ONE_USEFUL)
    with pytest.raises(LegError):
        made.waste()


def test_little_is_saved_up() -> None:
    """The burst, and once more what a long time has restored."""
    made = Patience(0.0)
    spend(made, "useful", 100_000)
    made.now = 1_000_000.0
    spend(made, "waste", 2 * patience.FRAMES + 1)  # the one that finds the first gone is free
    with pytest.raises(LegError):
        made.waste()
