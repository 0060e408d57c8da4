from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings, strategies as st

from interceptor.model.address import SocketAddress, UpstreamAddress
from interceptor.routing.balance import (
    POINTS_LIMIT,
    Balancer,
    Choice,
    Endpoint,
    LeastRequest,
    Ring,
    RoundRobin,
    Weighted,
    drawn,
    hash_of,
    loads,
    usable,
    warmed,
)


def address(number: int) -> UpstreamAddress:
    return UpstreamAddress(SocketAddress(f"10.0.{number // 256}.{number % 256}", 80))


def endpoints(*weights: int) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(address(number), weight) for number, weight in enumerate(weights))


def choice(
    seed: int = 1, key: bytes | None = None, active: dict[UpstreamAddress, int] | None = None
) -> Choice:
    return Choice(random.Random(seed), active or {}, key)


weights = st.lists(st.integers(1, 20), min_size=1, max_size=12)


@given(weights, st.integers(1, 5), st.integers())
def test_round_robin_gives_every_endpoint_its_weight_in_each_round(
    given_weights: list[int], rounds: int, seed: int
) -> None:
    members = endpoints(*given_weights)
    balancer, one = RoundRobin(), choice(seed)
    chosen = Counter(balancer.choose(members, one).address for _ in range(rounds * sum(given_weights)))
    for endpoint in members:  # each began at a random point of its own turn
        assert abs(chosen[endpoint.address] - rounds * endpoint.weight) <= 1


def test_round_robin_begins_anew_when_the_endpoints_change() -> None:
    balancer, one = RoundRobin(), choice()
    assert balancer.choose(endpoints(1, 1), one).address in {address(0), address(1)}
    assert balancer.choose(endpoints(1), one).address == address(0)


@pytest.mark.parametrize("balancer", [Weighted(), LeastRequest()], ids=["random", "least request"])
def test_chance_follows_the_weights(balancer: Balancer) -> None:
    members, one = endpoints(1, 3), choice()
    chosen = Counter(balancer.choose(members, one).address for _ in range(4000))
    assert chosen[address(1)] > 2.4 * chosen[address(0)]


def test_least_request_avoids_the_loaded_one() -> None:
    members = endpoints(1, 1)
    one = choice(active={address(0): 50})
    balancer = LeastRequest()
    chosen = Counter(balancer.choose(members, one).address for _ in range(1000))
    assert chosen[address(1)] > 650  # three draws of four have the other one in them


@given(st.integers(2, 12), st.data())
def test_a_key_moves_only_when_its_endpoint_goes(count: int, data: st.DataObject) -> None:
    members = endpoints(*[1] * count)
    gone = data.draw(st.sampled_from(members))
    left = tuple(endpoint for endpoint in members if endpoint is not gone)
    whole, rest = Ring(), Ring()
    for number in range(60):
        one = choice(key=str(number).encode())
        before = whole.choose(members, one)
        after = rest.choose(left, one)
        assert before in {after, gone}


def test_a_ring_is_even_and_weighted() -> None:
    members, ring = endpoints(1, 1, 2), Ring()
    chosen = Counter(ring.choose(members, choice(key=str(number).encode())).address for number in range(8000))
    for endpoint in members:
        assert 0.7 < chosen[endpoint.address] / (8000 * endpoint.weight / 4) < 1.3


def test_without_a_key_a_ring_goes_anywhere() -> None:
    members, ring, one = endpoints(1, 1), Ring(), choice()
    assert {ring.choose(members, one) for _ in range(50)} == set(members)


@pytest.mark.parametrize(
    ("healthy", "shares"),
    [
        ([(10, 10), (10, 10)], [1.0, 0.0]),
        ([(8, 10), (10, 10)], [1.0, 0.0]),  # 80 % times 1.4 is still all of it
        ([(5, 10), (10, 10)], [0.7, 0.3]),
        ([(0, 10), (10, 10)], [0.0, 1.0]),
        ([(2, 10), (2, 10)], [0.5, 0.5]),
        ([(0, 10), (0, 10)], [0.0, 0.0]),
        ([], []),
    ],
)
def test_load_spills_over(healthy: list[tuple[int, int]], shares: list[float]) -> None:
    assert loads(healthy) == pytest.approx(shares)


@given(
    st.lists(
        st.integers(1, 9).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))), min_size=1
    )
)
def test_all_load_goes_somewhere_healthy(healthy: list[tuple[int, int]]) -> None:
    shares = loads(healthy)
    assert all(share >= 0 for share in shares)
    assert all(not share or up for share, (up, _) in zip(shares, healthy, strict=True))
    assert sum(shares) == pytest.approx(1.0 if any(up for up, _ in healthy) else 0.0)


@given(
    st.lists(st.booleans(), min_size=1, max_size=8),
    st.lists(st.booleans(), max_size=8),
    st.floats(0, 0.999),
)
def test_only_healthy_ones_without_panic(near: list[bool], far: list[bool], point: float) -> None:
    health: dict[UpstreamAddress, bool] = {}
    groups = []
    for base, flags in ((0, near), (100, far)):
        group = tuple(Endpoint(address(base + number)) for number in range(len(flags)))
        health.update(zip((endpoint.address for endpoint in group), flags, strict=True))
        groups.append(group)
    made = usable(
        [group for group in groups if group], lambda endpoint: health[endpoint.address], panic_below=0
    )
    assert bool(made) == any(health.values())
    assert sum(share for share, _ in made) == pytest.approx(1.0 if made else 0.0)
    if made:
        assert all(health[endpoint.address] for endpoint in made[drawn(made, point)][1])


def test_in_panic_all_are_used() -> None:
    members = endpoints(1, 1, 1, 1)
    up = {address(0)}
    assert usable([members], lambda e: e.address in up, panic_below=0.5) == ((1.0, members),)
    assert usable([members], lambda e: False, panic_below=0.5) == ((1.0, members),)
    assert usable([members], lambda e: False, panic_below=0) == ()
    assert usable([], lambda e: True, panic_below=0.5) == ()


def test_a_point_falls_to_a_group_by_its_share_and_rounding_leaves_none_out() -> None:
    groups = ((0.25, endpoints(1)), (0.75, endpoints(1)))
    assert [drawn(groups, point) for point in (0.0, 0.24, 0.26, 0.99, 1.0)] == [0, 0, 1, 1, 1]


@given(st.floats(0, 20), st.floats(1, 5), st.integers(1, 9))
def test_a_new_endpoint_gets_its_share_little_by_little(age: float, aggression: float, weight: int) -> None:
    [old] = endpoints(weight)
    new = Endpoint(address(99), weight)

    def share(now: float) -> int:
        made = warmed((old, new), {new.address: 0.0}, now, seconds=10, least=0.1, aggression=aggression)
        assert made[0].weight == 100 * weight
        return made[1].weight

    assert 10 * weight <= share(age) <= share(age + 1) <= 100 * weight
    assert share(10) == 100 * weight
    assert share(-1.0) == share(0.0)  # a clock that went back


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_shares_follow_the_weights(given_weights: list[int], seed: int) -> None:
    """Of chance, and of the least loaded where all are as loaded as their weights say."""
    members = endpoints(*given_weights)
    whole, draws = sum(given_weights), 2000
    for balancer in (Weighted(), LeastRequest()):
        active = {each.address: 10_000 * each.weight for each in members}
        one = Choice(random.Random(seed), active)
        chosen = Counter(balancer.choose(members, one).address for _ in range(draws))
        for each in members:
            expected = draws * each.weight / whole
            assert abs(chosen[each.address] - expected) <= 6 * (expected**0.5) + 1


@given(st.lists(st.integers(1, 5), min_size=2, max_size=8), st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_requests_that_never_end_are_spread_by_the_weights(given_weights: list[int], seed: int) -> None:
    members, active = endpoints(*given_weights), Counter[UpstreamAddress]()
    one = Choice(random.Random(seed), active)
    balancer, total = LeastRequest(), 200 * sum(given_weights)
    for _ in range(total):
        active[balancer.choose(members, one).address] += 1
    for each in members:
        share = total * each.weight / sum(given_weights)
        assert 0.7 * share < active[each.address] < 1.3 * share


@given(st.integers(3, 20), st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_one_endpoint_more_or_less_moves_its_own_share_of_the_keys(count: int, salt: int) -> None:
    members = endpoints(*[1] * (count + 1))
    left = members[:-1]
    whole, rest = Ring(), Ring()
    points = [hash_of(f"{salt} {number}".encode()) for number in range(1000)]
    moved = sum(whole.owner(members, point) is not rest.owner(left, point) for point in points)
    expected = 1000 / (count + 1)
    assert 0.4 * expected - 10 < moved < 1.8 * expected + 10


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.floats(0.01, 1))
def test_below_the_panic_threshold_all_are_used_and_above_it_only_the_healthy(
    healthy: list[bool], panic_below: float
) -> None:
    members = endpoints(*[1] * len(healthy))
    up = {each.address for each, good in zip(members, healthy, strict=True) if good}
    [(share, used)] = usable([members], lambda each: each.address in up, panic_below=panic_below)
    assert share == 1
    panics = len(up) < panic_below * len(members)
    assert {each.address for each in used} == ({each.address for each in members} if panics else up)


def test_a_ring_is_as_large_as_it_is_asked_to_be_and_doubles() -> None:
    members = endpoints(1, 1)
    small, large = Ring(), Ring(5_000)
    for ring in (small, large):
        ring.owner(members, 0)
    assert (len(small._points), len(large._points)) == (320, 5120)
    huge = Ring(8 * 1024 * 1024)
    huge.owner(members, 0)
    assert len(huge._points) == 2 * POINTS_LIMIT
