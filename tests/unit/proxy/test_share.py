"""Shares of workers in one process: what they may take together, and what is left when one is gone."""

from __future__ import annotations

import os
from itertools import islice

import pytest
from hypothesis import given, strategies as st

from interceptor.kernel.shared_memory import SharedMemory
from interceptor.proxy.share import FIRST_SOURCE_PORT, PORTS, PartialShare, Share, Shares

HIGH = 40_000  # a port of Linux's own range


def shares(workers: int, limit: int) -> tuple[Shares, list[PartialShare]]:
    made = Shares(SharedMemory(Shares.cells(workers)), workers, limit)
    return made, [PartialShare(made, slot) for slot in range(workers)]


def test_a_lone_worker_has_every_seat_id_and_port() -> None:
    share = Share(2)
    assert [share.take_seat(HIGH) for _ in range(3)] == [True, True, False]
    share.give_back_seat(HIGH)
    assert share.take_seat(HIGH)
    assert list(islice(share.ids, 3)) == [1, 2, 3]
    ports = list(islice(share.source_ports, PORTS - FIRST_SOURCE_PORT + 1))
    assert ports[:2] == [FIRST_SOURCE_PORT, FIRST_SOURCE_PORT + 1]
    assert ports[-2:] == [PORTS - 1, FIRST_SOURCE_PORT]
    assert not share.elsewhere(FIRST_SOURCE_PORT)


@given(
    st.integers(1, 4), st.integers(1, 6), st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=40)
)
def test_the_limit_is_for_all_of_them_together(
    workers: int, limit: int, steps: list[tuple[int, bool]]
) -> None:
    _, parts = shares(workers, limit)
    held = [0] * workers
    for at, takes in steps:
        slot = at % workers
        if takes:
            assert parts[slot].take_seat(HIGH) == (sum(held) < limit)
            held[slot] += sum(held) < limit
        elif held[slot]:
            parts[slot].give_back_seat(HIGH)
            held[slot] -= 1


def test_who_replaces_a_worker_finds_its_seats_free_and_goes_on_with_its_ids() -> None:
    whole, (first, second) = shares(2, 3)
    assert first.take_seat(2000)
    assert first.take_seat(HIGH)
    assert second.take_seat(2001)
    assert not second.take_seat(HIGH)
    used = {*islice(first.ids, 3), *islice(second.ids, 3)}
    assert used == set(range(1, 7))
    assert whole.vacate(0) == 2
    assert (list(whole.seats), second.elsewhere(2000)) == ([0, 1], False)
    again = PartialShare(whole, 0)
    assert next(again.ids) == 7
    assert [again.take_seat(HIGH) for _ in range(3)] == [True, True, False]


def test_no_two_workers_choose_one_port_and_each_sees_what_peers_of_the_others_use() -> None:
    _, parts = shares(3, 9)
    chosen = [set(islice(part.source_ports, 20_000)) for part in parts]
    assert set.union(*chosen) == set(range(FIRST_SOURCE_PORT, PORTS))
    assert sum(map(len, chosen)) == PORTS - FIRST_SOURCE_PORT
    assert parts[0].take_seat(2000)
    assert [part.elsewhere(2000) for part in parts] == [False, True, True]
    parts[0].give_back_seat(2000)
    assert not parts[1].elsewhere(2000)


@pytest.mark.parametrize("limit", [1, 2, 4])
def test_processes_that_race_for_the_last_seats_never_have_more_than_there_are(limit: int) -> None:
    """Forked, as workers are: each takes and gives back as fast as it can; who has one is counted under a lock."""
    workers = 4
    whole, parts = shares(workers, limit)
    count = SharedMemory(3)  # seated, the most ever seated, refused
    children = []
    for part in parts:
        child = os.fork()
        if child == 0:
            for _ in range(1000):
                if part.take_seat(HIGH):
                    with count.locked():
                        count.cells[0] += 1
                        count.cells[1] = max(count.cells[:2])
                    with count.locked():
                        count.cells[0] -= 1
                    part.give_back_seat(HIGH)
                else:
                    with count.locked():
                        count.cells[2] += 1
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * workers
    assert list(whole.seats) == [0] * workers
    assert 1 <= count.cells[1] <= limit
    if limit == workers:
        assert count.cells[2] == 0, "there were seats for all of them at any time"
