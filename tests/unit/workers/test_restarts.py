from __future__ import annotations

from interceptor.workers.restarts import PATIENCE, YOUNG, delay, young_deaths


def test_one_death_is_replaced_at_once_and_many_in_a_row_more_and_more_slowly() -> None:
    delays = [delay(deaths) for deaths in range(PATIENCE + 1)]
    assert delays == [0.0, 0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert delay(PATIENCE + 1) is None


def test_who_served_for_a_while_begins_anew() -> None:
    deaths = 0
    for lived in (0.1, YOUNG - 0.1, YOUNG):
        deaths = young_deaths(deaths, lived)
    assert deaths == 0
    assert young_deaths(3, 0.0) == 4
