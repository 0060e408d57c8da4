from __future__ import annotations

import itertools
from collections import defaultdict

from hypothesis import given, strategies as st

from interceptor.policy.rate_limit import SECOND, SWEEP, Claim, Key, Limiter, LocalStore, Quota

QUOTAS = st.builds(Quota, interval=st.integers(1, 7), burst=st.integers(1, 5))
EVENTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 12)), max_size=80)  # key, time since the last

# A few keys that want more than they may and more buckets than there are: what is forgotten matters.
GREEDY = st.lists(st.tuples(st.integers(0, 3), st.sampled_from((0, 0, 0, 1, 1, 5, 40))), max_size=120)


def limiter(capacity: int, per_key: Quota | None = None, total: Quota | None = None) -> Limiter:
    return Limiter(LocalStore(capacity), total=total, per_key=per_key, overrides={})


def key(number: int) -> Key:
    return (b"%d" % number,)


def admitted(one: Limiter, events: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The key and the time of everything that passed."""
    passed, now = [], 1000
    for number, after in events:
        now += after
        if not one.admit(key(number), now):
            passed.append((number, now))
    return passed


def within(times: list[int], quota: Quota) -> bool:
    """Whether in no stretch of time more than the burst and the rate's share passed."""
    return all(
        later - earlier + 1 <= quota.burst + (times[later] - times[earlier]) // quota.interval
        for earlier, later in itertools.combinations(range(len(times)), 2)
    )


@given(st.builds(Quota, interval=st.integers(2, 9), burst=st.integers(2, 5)), GREEDY, st.integers(1, 2))
def test_no_key_ever_gets_more_than_burst_and_rate_however_few_keys_are_kept(
    quota: Quota, events: list[tuple[int, int]], capacity: int
) -> None:
    one = limiter(capacity, quota)
    times: dict[int, list[int]] = defaultdict(list)
    for number, now in admitted(one, events):
        times[number].append(now)
    assert all(within(each, quota) for each in times.values())


@given(QUOTAS, QUOTAS, EVENTS)
def test_all_together_never_get_more_than_the_total(
    total: Quota, quota: Quota, events: list[tuple[int, int]]
) -> None:
    assert within([now for _, now in admitted(limiter(3, quota, total), events)], total)


@given(QUOTAS, EVENTS)
def test_with_room_for_all_each_key_gets_exactly_what_a_bucket_of_its_own_gives(
    quota: Quota, events: list[tuple[int, int]]
) -> None:
    alone: list[tuple[int, int]] = []
    for number in range(10):
        now, own = 1000, []
        for each, after in events:
            now += after
            if each == number:
                own.append(now)
        tokens, last = quota.burst * quota.interval, 0  # a token bucket, in units of time
        for at in own:
            tokens = min(quota.burst * quota.interval, tokens + (at - last))
            last = at
            if tokens >= quota.interval:
                tokens -= quota.interval
                alone.append((number, at))
    assert sorted(alone) == sorted(admitted(limiter(10, quota), events))


@given(QUOTAS, EVENTS, st.integers(1, 4))
def test_never_more_keys_are_kept_than_allowed(
    quota: Quota, events: list[tuple[int, int]], capacity: int
) -> None:
    store, now = LocalStore(capacity), 0
    for number, after in events:
        now += after
        store.take([Claim(key(number), quota, pinned=False)], now)
        assert len(store) <= capacity


@given(QUOTAS, QUOTAS, EVENTS)
def test_the_order_of_claims_does_not_matter(
    first: Quota, second: Quota, events: list[tuple[int, int]]
) -> None:
    one, other, now = LocalStore(2), LocalStore(2), 0
    for number, after in events:
        now += after
        claims = [Claim((b"total",), first, pinned=True), Claim(key(number), second, pinned=False)]
        assert one.take(claims, now) == other.take(claims[::-1], now)


@given(QUOTAS, EVENTS)
def test_what_is_told_to_wait_passes_after_that_and_not_before(
    quota: Quota, events: list[tuple[int, int]]
) -> None:
    store, now = LocalStore(10), 0
    for number, after in events:
        now += after
        claim = Claim(key(number), quota, pinned=False)
        wait = store.take([claim], now)
        if wait:
            assert store.take([claim], now + wait - 1) == 1
            now += wait
            assert store.take([claim], now) == 0


def test_what_one_bucket_refuses_takes_nothing_from_another() -> None:
    one = limiter(10, per_key=Quota(10, 1), total=Quota(10, 3))
    assert one.admit(key(1), 0) == 0
    assert one.admit(key(1), 0) == 10  # its own bucket is empty: the total's is not touched
    assert one.admit(key(2), 0) == 0
    assert one.admit(key(3), 0) == 0
    assert one.admit(key(4), 0) == 10  # the total is used up: the key's own bucket is not touched
    assert one.admit(key(4), 10) == 0


def test_an_override_has_a_bucket_of_its_own_that_is_never_dropped() -> None:
    one = Limiter(
        LocalStore(1), total=None, per_key=Quota(10, 1), overrides={key(7): Quota(1, 3), key(8): Quota(10, 2)}
    )
    assert [one.admit(key(7), 0) for _ in range(4)] == [0, 0, 0, 1]
    assert [one.admit(key(1), 0) for _ in range(2)] == [0, 10]
    assert [one.admit(key(8), 0) for _ in range(3)] == [0, 0, 10]


def test_where_no_bucket_can_be_dropped_new_keys_share_one() -> None:
    one = limiter(1, Quota(10, 2))
    assert [one.admit(key(1), 0) for _ in range(3)] == [0, 0, 10]
    assert [one.admit(key(2), 0), one.admit(key(3), 0), one.admit(key(4), 0)] == [0, 0, 10]
    # 20: the first bucket is full again and is dropped; the shared one is full as well, so 2 begins anew.
    assert [one.admit(key(2), 20) for _ in range(3)] == [0, 0, 10]


def test_a_key_that_leaves_the_shared_bucket_takes_its_debt_along() -> None:
    one = limiter(1, Quota(10, 3))
    assert one.admit(key(1), 0) == 0
    assert [one.admit(key(2), 0) for _ in range(4)] == [0, 0, 0, 10]
    assert [one.admit(key(2), 10) for _ in range(2)] == [0, 10]  # in a bucket of its own, and as empty


def test_a_full_bucket_is_found_in_time_behind_others() -> None:
    quota, store = Quota(10, 9), LocalStore(SWEEP + 2)
    for number in range(SWEEP + 2):  # all but the last are far from full
        for _ in range(9 if number < SWEEP + 1 else 1):
            assert store.take([Claim(key(number), quota, pinned=False)], 0) == 0
    new = Claim(key(99), quota, pinned=False)
    assert store.take([new], 20) == 0
    assert new.key not in store._tats  # only the first few were looked at
    assert store.take([new], 20) == 0
    assert new.key in store._tats  # and then the next few
    assert key(SWEEP + 1) not in store._tats


def test_nothing_asked_for_is_nothing_refused() -> None:
    assert limiter(1).admit(key(1), 0) == 0


def test_a_quota_is_rounded_against_its_user() -> None:
    assert Quota.of(3, 1) == Quota(SECOND // 3 + 1, 3)
    assert Quota.of(10, 60, burst=1) == Quota(6 * SECOND, 1)
