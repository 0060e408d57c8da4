from __future__ import annotations

from interceptor.model.connection import Direction
from interceptor.policy.authorization import Shadow
from interceptor.telemetry.shadows import MAX_SERIES, Shadows


def counted(made: Shadows) -> dict[tuple[str, ...], float]:
    [family] = made.collect()
    return {tuple(sample.labels.values()): sample.value for sample in family.samples}


def test_each_policy_is_counted_by_what_it_would_have_done() -> None:
    made = Shadows()
    deny = Shadow("AuthorizationPolicy shop/p", "deny", "denied")
    for direction in (Direction.INGRESS, Direction.INGRESS, Direction.EGRESS):
        made.add(direction, (deny, Shadow("AuthorizationPolicy shop/a", "audit", "matched")))
    made.add(Direction.INGRESS, ())
    assert counted(made) == {
        ("ingress", *deny): 2,
        ("ingress", "AuthorizationPolicy shop/a", "audit", "matched"): 2,
        ("egress", *deny): 1,
        ("egress", "AuthorizationPolicy shop/a", "audit", "matched"): 1,
    }


def test_policies_without_end_make_no_series_without_end() -> None:
    made = Shadows()
    for number in range(MAX_SERIES + 10):
        made.add(Direction.INGRESS, (Shadow(f"AuthorizationPolicy shop/p{number}", "deny", "denied"),))
    made.add(Direction.INGRESS, (Shadow("AuthorizationPolicy shop/p0", "deny", "denied"),))
    found = counted(made)
    assert len(found) == MAX_SERIES + 1
    assert found["ingress", "AuthorizationPolicy shop/p0", "deny", "denied"] == 2
    assert found["ingress", "other", "deny", "denied"] == 10
