from __future__ import annotations

import contextlib

from hypothesis import given, strategies as st

from interceptor.policy.rate_limit import SECOND, Claim, LocalStore, Quota
from interceptor.policy.shared_buckets import CELLS, PLACES, WINDOW, SharedBuckets

QUOTA = Quota.of(10, 1.0, 3)


def memory() -> memoryview[int]:
    return memoryview(bytearray(8 * CELLS)).cast("q")


def store(cells: memoryview[int], name: str = "limit", secret: bytes = b"secret") -> SharedBuckets:
    return SharedBuckets(cells, contextlib.nullcontext, secret, name)


def one(key: bytes, quota: Quota = QUOTA) -> list[Claim]:
    return [Claim((key,), quota, pinned=False)]


def test_what_one_process_takes_the_other_has_not() -> None:
    cells = memory()
    first, second = store(cells), store(cells)
    assert [first.take(one(b"a"), 1), second.take(one(b"a"), 1), first.take(one(b"a"), 1)] == [0, 0, 0]
    assert second.take(one(b"a"), 1) == SECOND // 10
    assert second.take(one(b"b"), 1) == 0
    assert second.take(one(b"a"), 1 + SECOND // 10) == 0


def test_limiters_of_other_names_have_other_buckets() -> None:
    cells = memory()
    for _ in range(3):
        assert store(cells).take(one(b"a"), 1) == 0
    assert store(cells, "other").take(one(b"a"), 1) == 0
    assert store(cells).take(one(b"a"), 1) > 0


def test_what_is_refused_takes_from_no_bucket() -> None:
    cells = memory()
    tight = Quota.of(1, 60.0)
    both = [Claim((b"total",), QUOTA, pinned=True), Claim((b"a",), tight, pinned=False)]
    assert store(cells).take(both, 1) == 0
    assert store(cells).take(both, 1) == 60 * SECOND
    assert [store(cells).take([both[0]], 1) for _ in range(3)] == [0, 0, SECOND // 10]


def test_where_no_place_is_free_new_keys_share_one_bucket_and_those_there_keep_theirs() -> None:
    cells = memory()
    full = store(cells)
    assert full.take(one(b"here"), 1) == 0
    known = [bytes(cells)].copy()
    for at in range(-(PLACES + WINDOW), 0):  # every place is taken by somebody else
        if cells[at] <= 1:
            cells[at] = 1 << 60
    assert known != [bytes(cells)]
    assert [full.take(one(b"here"), 1) for _ in range(3)] == [0, 0, SECOND // 10]
    assert [full.take(one(b"%d" % number), 1) for number in range(4)] == [0, 0, 0, SECOND // 10]


@given(st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.integers(0, SECOND)), max_size=60))
def test_it_decides_as_the_store_of_one_process_does(asked: list[tuple[bytes, int]]) -> None:
    cells, local, now = memory(), LocalStore(100), 1
    for turn, (key, later) in enumerate(asked):
        now += later
        claims = [Claim((b"total",), Quota.of(20, 1.0, 5), pinned=True), *one(key)]
        assert store(cells, secret=b"s").take(claims, now) == local.take(claims, now), turn
