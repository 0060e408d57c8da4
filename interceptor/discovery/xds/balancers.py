"""PURE. How Envoy's clusters choose among their endpoints: judged, and as a DestinationRule has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from interceptor.discovery.xds.reading import decimal, mapping, number, seconds, unknown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.discovery.xds.messages import Body

HASHES: Final = frozenset({"RING_HASH", "MAGLEV"})
POLICIES: Final = frozenset({"ROUND_ROBIN", "LEAST_REQUEST", "RANDOM", *HASHES})
# The settings of each policy; Envoy looks at those of the cluster's own alone.
FIELDS: Final = {
    "round_robin_lb_config": frozenset({"slow_start_config"}),
    "least_request_lb_config": frozenset({"choice_count", "slow_start_config"}),
    "ring_hash_lb_config": frozenset({"minimum_ring_size", "maximum_ring_size", "hash_function"}),
    "maglev_lb_config": frozenset[str](),
}
COMMON: Final = frozenset({"healthy_panic_threshold", "locality_weighted_lb_config"})
_SLOW: Final = frozenset({"slow_start_window", "aggression", "min_weight_percent"})
LARGEST_RING: Final = 8 * 1024 * 1024  # Envoy's bound, and Istio's


def judge(body: Body) -> Iterator[str]:
    """What of it is not honoured."""
    for field, honoured in FIELDS.items():
        given = mapping(body, field)
        yield from unknown(given, honoured, f"{field}.")
        yield from _slow_faults(mapping(given, "slow_start_config"), f"{field}.slow_start_config.")
    if number(mapping(body, "least_request_lb_config"), "choice_count", 2) != 2:
        yield "least_request_lb_config.choice_count: only 2 is honoured"
    ring = mapping(body, "ring_hash_lb_config")
    for name in ("minimum_ring_size", "maximum_ring_size"):
        if number(ring, name, 1) > LARGEST_RING:
            yield f"ring_hash_lb_config.{name}: is more than {LARGEST_RING}"
    if number(ring, "maximum_ring_size", LARGEST_RING) < number(ring, "minimum_ring_size", 1024):
        yield "ring_hash_lb_config.maximum_ring_size: is less than minimum_ring_size"
    if ring.get("hash_function", "XX_HASH") != "XX_HASH":
        yield "ring_hash_lb_config.hash_function: only XX_HASH, Envoy's default, is honoured: it only spreads keys"
    common = mapping(body, "common_lb_config")
    yield from unknown(common, COMMON, "common_lb_config.")
    weighted = mapping(common, "locality_weighted_lb_config")
    yield from unknown(weighted, frozenset(), "common_lb_config.locality_weighted_lb_config.")


def _slow_faults(body: Body, path: str) -> Iterator[str]:
    yield from unknown(body, _SLOW, path)
    aggression = mapping(body, "aggression")
    yield from unknown(aggression, frozenset({"default_value", "runtime_key"}), f"{path}aggression.")
    if body and not seconds(body, "slow_start_window"):
        yield f"{path}slow_start_window: must be more than 0s"
    if not 1 <= decimal(aggression, "default_value", 1.0) <= 100:
        yield f"{path}aggression: must be from 1 to 100"


def written(body: Body, hash_on: Body | None) -> dict[str, object]:
    """The load balancer of a cluster that was judged."""
    policy = str(body.get("lb_policy", "ROUND_ROBIN"))
    if policy in HASHES:  # Envoy: without anything to hash on, any endpoint
        return {"simple": "RANDOM"} if hash_on is None else {"consistentHash": {**hash_on, **_ring(body)}}
    slow = mapping(mapping(body, f"{policy.lower()}_lb_config"), "slow_start_config")
    if not slow or policy == "RANDOM":
        return {"simple": policy}
    warmup = {
        "duration": f"{seconds(slow, 'slow_start_window') or 0.0:f}s",
        "aggression": decimal(mapping(slow, "aggression"), "default_value", 1.0),
        "minimumPercent": decimal(mapping(slow, "min_weight_percent"), "value", 10.0),
    }
    return {"simple": policy, "warmup": warmup}


def _ring(body: Body) -> dict[str, object]:
    size = number(mapping(body, "ring_hash_lb_config"), "minimum_ring_size", 0)
    return {"ringHash": {"minimumRingSize": size}} if size and body.get("lb_policy") == "RING_HASH" else {}


def by_locality(body: Body) -> bool:
    """Whether localities have shares of their own."""
    return "locality_weighted_lb_config" in mapping(body, "common_lb_config")


def panic(body: Body) -> int:
    """In per cent; Envoy's default where none is given."""
    common = mapping(body, "common_lb_config")
    if "healthy_panic_threshold" not in common:
        return 50
    return int(decimal(mapping(common, "healthy_panic_threshold"), "value", 0.0))
