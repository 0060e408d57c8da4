from __future__ import annotations

import pytest

from interceptor.discovery.xds import balancers
from interceptor.discovery.xds.messages import Body

SLOW = {"slow_start_window": "30s"}


@pytest.mark.parametrize(
    ("body", "hash_on", "expected"),
    [
        ({}, None, {"simple": "ROUND_ROBIN"}),
        ({"lb_policy": "RANDOM"}, None, {"simple": "RANDOM"}),
        ({"lb_policy": "MAGLEV"}, None, {"simple": "RANDOM"}),
        ({"lb_policy": "MAGLEV"}, {"useSourceIp": True}, {"consistentHash": {"useSourceIp": True}}),
        (
            {"lb_policy": "RING_HASH", "ring_hash_lb_config": {"minimum_ring_size": "1024"}},
            {"httpHeaderName": "x"},
            {"consistentHash": {"httpHeaderName": "x", "ringHash": {"minimumRingSize": 1024}}},
        ),
        (
            {"round_robin_lb_config": {"slow_start_config": SLOW}},
            None,
            {"simple": "ROUND_ROBIN", "warmup": {"duration": "30.000000s", "aggression": 1.0, "minimumPercent": 10.0}},
        ),
        (
            {
                "lb_policy": "LEAST_REQUEST",
                "least_request_lb_config": {
                    "choice_count": 2,
                    "slow_start_config": {
                        **SLOW,
                        "aggression": {"default_value": 2.0, "runtime_key": "x"},
                        "min_weight_percent": {"value": 20.0},
                    },
                },
            },
            None,
            {"simple": "LEAST_REQUEST", "warmup": {"duration": "30.000000s", "aggression": 2.0, "minimumPercent": 20.0}},
        ),
    ],
)  # fmt: skip
def test_a_policy_is_a_destination_rules(
    body: Body, hash_on: Body | None, expected: dict[str, object]
) -> None:
    assert list(balancers.judge(body)) == []
    assert balancers.written(body, hash_on) == expected


def test_localities_have_shares_where_that_is_said() -> None:
    body: Body = {"common_lb_config": {"locality_weighted_lb_config": {}}}
    assert list(balancers.judge(body)) == []
    assert balancers.by_locality(body)
    assert not balancers.by_locality({"common_lb_config": {}})


@pytest.mark.parametrize(
    ("common", "percent"),
    [({}, 50), ({"healthy_panic_threshold": {}}, 0), ({"healthy_panic_threshold": {"value": 20.0}}, 20)],
)
def test_the_panic_threshold(common: Body, percent: int) -> None:
    assert balancers.panic({"common_lb_config": common}) == percent


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"least_request_lb_config": {"choice_count": 3}}, "least_request_lb_config.choice_count:"),
        (
            {"least_request_lb_config": {"active_request_bias": {}}},
            "least_request_lb_config.active_request_bias:",
        ),
        (
            {"round_robin_lb_config": {"slow_start_config": {"aggression": {"default_value": 2.0}}}},
            "round_robin_lb_config.slow_start_config.slow_start_window: must",
        ),
        (
            {"round_robin_lb_config": {"slow_start_config": {**SLOW, "aggression": {"default_value": 0.5}}}},
            "round_robin_lb_config.slow_start_config.aggression: must",
        ),
        ({"ring_hash_lb_config": {"minimum_ring_size": 2**24}}, "ring_hash_lb_config.minimum_ring_size:"),
        ({"ring_hash_lb_config": {"maximum_ring_size": 1000}}, "ring_hash_lb_config.maximum_ring_size:"),
        (
            {"ring_hash_lb_config": {"hash_function": "MURMUR_HASH_2"}},
            "ring_hash_lb_config.hash_function: only",
        ),
        ({"maglev_lb_config": {"table_size": 7}}, "maglev_lb_config.table_size:"),
        ({"common_lb_config": {"zone_aware_lb_config": {}}}, "common_lb_config.zone_aware_lb_config:"),
        (
            {"common_lb_config": {"locality_weighted_lb_config": {"x": 1}}},
            "common_lb_config.locality_weighted_lb_config.x:",
        ),
    ],
)
def test_what_is_not_honoured_is_said_with_its_path(body: Body, path: str) -> None:
    said, *_ = balancers.judge(body)
    assert said.startswith(path)
