from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from interceptor.model.address import SocketAddress, UpstreamAddress
from interceptor.routing.balance import Endpoint
from interceptor.routing.locality import (
    Locality,
    Nearness,
    distributed,
    graded,
    is_in,
    own_locality,
    parse,
    place_by,
    priorities,
    ranking,
    untried,
)


def at(number: int, *locality: str) -> Endpoint:
    return Endpoint(UpstreamAddress(SocketAddress(f"10.0.0.{number}", 80)), 1, locality)


NEAR, ZONE, REGION = at(1, "r", "z", "s"), at(2, "r", "z", "t"), at(3, "r", "y", "s")
FAR, UNKNOWN, NEXT = at(4, "q", "z", "s"), at(5), at(6, "n", "z")


@pytest.mark.parametrize(
    ("text", "locality"),
    [("a/b/c", ("a", "b", "c")), ("a/*", ("a",)), ("*", ()), ("", ()), ("a", ("a",))],
)
def test_a_locality_as_it_is_written(text: str, locality: Locality) -> None:
    assert parse(text) == locality


@pytest.mark.parametrize(
    ("labels", "locality"),
    [
        ({"istio-locality": "r.z.s"}, ("r", "z", "s")),
        ({"topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": "z"}, ("r", "z")),
        ({"topology.kubernetes.io/zone": "z"}, ()),
        (
            {
                "topology.kubernetes.io/region": "r",
                "topology.kubernetes.io/zone": "z",
                "topology.istio.io/subzone": "s",
            },
            ("r", "z", "s"),
        ),
    ],
)
def test_where_a_workload_is(labels: dict[str, str], locality: Locality) -> None:
    assert own_locality(labels) == locality


def test_a_place_holds_what_is_within_it() -> None:
    assert is_in(("r", "z", "s"), ("r",))
    assert is_in(("r",), ())
    assert not is_in(("r",), ("r", "z"))


def test_nearest_first_and_the_region_to_fail_over_to_before_the_rest() -> None:
    near = Nearness(("r", "z", "s"), {"r": "n"})
    groups = priorities((FAR, ZONE, UNKNOWN, NEXT, NEAR, REGION), near)
    assert groups == ((NEAR,), (ZONE,), (REGION,), (NEXT,), (FAR, UNKNOWN))
    assert priorities((FAR, NEAR), Nearness((), {"r": "n"})) == ((FAR, NEAR),)


SHARES = Nearness(("r",), {}, ((("r",), 50), (("r", "z"), 30), (("q",), 20)))


def test_shares_go_to_the_most_exact_place() -> None:
    groups = distributed((NEAR, REGION, FAR, UNKNOWN), SHARES, lambda _: True)
    assert sorted((round(share, 9), *found) for share, found in groups) == [
        (0.2, FAR),
        (0.3, NEAR),
        (0.5, REGION),
    ]


@given(st.sets(st.sampled_from([NEAR, ZONE, REGION, FAR])))
def test_what_a_place_cannot_take_goes_to_the_others(healthy: set[Endpoint]) -> None:
    groups = distributed((NEAR, ZONE, REGION, FAR), SHARES, healthy.__contains__)
    assert {endpoint for _, group in groups for endpoint in group} == healthy
    assert sum(share for share, _ in groups) == pytest.approx(1.0 if healthy else 0.0)


def test_labels_count_in_the_order_of_failover_priority() -> None:
    counting = ("topology.kubernetes.io/region", "version=v2", "none")
    wanted = ranking(counting, {"topology.kubernetes.io/region": "r", "version": "v1"})
    assert [name for name, _ in wanted] == ["topology.kubernetes.io/region", "version", "none"]
    near = Nearness(tuple(value for _, value in wanted), {})
    labels: tuple[dict[str, str], ...] = (
        {"version": "v2"},
        {"version": "v1"},
        {"version": "v2", "topology.kubernetes.io/region": "q"},
        {},
    )
    places = [place_by(counting, each, ("r",)) for each in labels]
    assert places[0] == ("r", "v2", "")
    found = priorities([at(number, *place) for number, place in enumerate(places)], near)
    assert [[each.address.host for each in group] for group in found] == [
        ["10.0.0.0"],
        ["10.0.0.1", "10.0.0.3"],
        ["10.0.0.2"],
    ]


def graded_at(number: int, priority: int, share: int = 0, *place: str) -> Endpoint:
    return Endpoint(UpstreamAddress(SocketAddress(f"10.0.0.{number}", 80)), 1, place, priority, share)


def test_priorities_of_a_document_take_the_load_in_their_order() -> None:
    one, other, spare, last = (graded_at(n, p) for n, p in ((1, 0), (2, 0), (3, 1), (4, 5)))
    endpoints = [last, one, spare, other]
    assert graded(endpoints, lambda _: True, panic_below=0) == ((1.0, [one, other]),)
    [(first, _), (second, group)] = graded(endpoints, lambda each: each is not one, panic_below=0)
    assert (round(first, 2), round(second, 2), group) == (0.7, 0.3, [spare])
    assert graded(endpoints, lambda each: each is last, panic_below=0) == ((1.0, [last]),)
    assert graded(endpoints, lambda _: False, panic_below=0) == ()


def test_localities_of_a_priority_share_its_load_by_their_weights() -> None:
    west = [graded_at(number, 0, 3, "w") for number in (1, 2)]
    east, far = graded_at(3, 0, 1, "e"), graded_at(4, 1, 5, "w")
    nobody = graded_at(5, 0, 0, "n")
    endpoints = [*west, east, nobody, far]
    assert graded(endpoints, lambda _: True, panic_below=0) == ((0.75, west), (0.25, [east]))
    half = graded(endpoints, lambda each: each not in {west[0], far, nobody}, panic_below=0)
    assert [group for _, group in half] == [[west[1]], [east]]
    assert [round(share, 3) for share, _ in half] == [round(2.1 / 3.1, 3), round(1 / 3.1, 3)]
    assert graded(endpoints, lambda each: each is far, panic_below=0) == ((1.0, [far]),)


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 9), st.sampled_from("abc"), st.booleans()), min_size=1
    )
)
def test_all_of_the_load_goes_somewhere_and_nowhere_else(
    made: list[tuple[int, int, str, bool]],
) -> None:
    weights = {(priority, place): share for priority, share, place, _ in made}
    endpoints = [
        graded_at(number, priority, weights[priority, place], place)
        for number, (priority, _, place, _) in enumerate(made, 1)
    ]
    healthy = {each for each, (*_, up) in zip(endpoints, made, strict=True) if up}
    groups = graded(endpoints, healthy.__contains__, panic_below=0)
    assert sum(share for share, _ in groups) == pytest.approx(1.0 if healthy else 0.0)
    assert all(each in healthy for _, group in groups for each in group)


def test_what_was_not_tried_is_elsewhere() -> None:
    endpoints, near = [NEAR, ZONE, REGION, FAR], Nearness(("r", "z", "s"), {})
    assert untried(endpoints, near, [NEAR.address]) == [[ZONE], [REGION], [FAR]]
    shares = Nearness(("r",), {}, ((("r",), 100),))
    assert untried(endpoints, shares, [FAR.address]) == [[NEAR], [ZONE], [REGION]]
    one, other, spare = graded_at(1, 0), graded_at(2, 0), graded_at(3, 1)
    assert untried([spare, one, other], None, [one.address]) == [[spare]]
    assert untried([one, other], None, [one.address]) == []
