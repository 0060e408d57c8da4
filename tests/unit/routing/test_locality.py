from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from interceptor.model.address import SocketAddress, UpstreamAddress
from interceptor.routing.balance import Endpoint
from interceptor.routing.locality import (
    Locality,
    Nearness,
    distributed,
    is_in,
    own_locality,
    parse,
    place_by,
    priorities,
    ranking,
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
