from __future__ import annotations

from dataclasses import replace

from interceptor.config.plain import plain
from interceptor.model.address import SocketAddress, UpstreamAddress
from interceptor.proxy.clusters import FORGET, ClusterState, ClusterStates
from interceptor.routing.clusters import Cluster, Clusters
from interceptor.routing.outlier import Outcome
from tests.support.documents import configuration
from tests.support.routed import document, shop

A, B, C = (UpstreamAddress(SocketAddress(f"10.1.0.{number}", 80)) for number in (1, 2, 3))


def cluster(
    policy: str = "{loadBalancer: {simple: ROUND_ROBIN}}", hosts: tuple[int, ...] = (1, 2)
) -> Cluster:
    text = f"host: shop.example\ntrafficPolicy: {policy}"
    versions = [(f"10.1.0.{number}", "v1") for number in hosts]
    made = plain(configuration(shop(80, *versions), document("DestinationRule", text)))
    found = Clusters(made.service_entries, made.destination_rules, {}, None).find(
        "shop.example", None, None, 80
    )
    assert found is not None
    return found


def picked(state: ClusterState, times: int, now: float = 0.0) -> set[UpstreamAddress | None]:
    return {state.pick(now, None) for _ in range(times)}


def test_turns_go_on_when_a_snapshot_changes_nothing_and_follow_what_it_changes() -> None:
    states = ClusterStates(seed=1)
    state = states.of(cluster(), 0)
    first = state.pick(0, None)
    assert states.of(cluster(), 0) is state
    assert state.pick(0, None) != first
    states.of(cluster(hosts=(3,)), 0)
    assert picked(state, 4) == {C}
    states.of(cluster("{loadBalancer: {simple: RANDOM}}", hosts=(1, 3)), 0)
    assert picked(state, 40) == {A, C}


def test_a_retry_prefers_what_was_not_tried() -> None:
    state = ClusterStates(seed=1).of(cluster(), 0)
    assert all(state.pick(0, None, [A]) == B for _ in range(10))
    assert state.pick(0, None, [A, B]) in {A, B}


def test_the_less_loaded_is_chosen() -> None:
    state = ClusterStates(seed=1).of(cluster("{loadBalancer: {simple: LEAST_REQUEST}}"), 0)
    for _ in range(3):
        state.begin(A)
    chosen = [state.pick(0, None) for _ in range(100)]
    assert chosen.count(B) > chosen.count(A)
    for _ in range(3):
        state.end(A)
    assert state._active == {}


def test_an_endpoint_is_left_out_and_comes_back() -> None:
    policy = "{outlierDetection: {consecutive5xxErrors: 1, maxEjectionPercent: 100, interval: 1s, baseEjectionTime: 10s}}"
    state = ClusterStates(seed=1).of(cluster(policy), 0)
    state.note(A, Outcome.SUCCESS, 0)
    state.note(A, Outcome.SERVER_ERROR, 0)
    assert set(state.ejected) == {A}
    assert picked(state, 20, now=5) == {B}
    state.note(B, Outcome.LOCAL_FAILURE, 5)
    assert picked(state, 5, now=6) == {None}
    assert picked(state, 40, now=12) == {A}
    assert picked(state, 40, now=30) == {A, B}


def test_with_too_few_healthy_ones_all_are_used() -> None:
    policy = "{outlierDetection: {consecutive5xxErrors: 1, maxEjectionPercent: 100, minHealthPercent: 60}}"
    state = ClusterStates(seed=1).of(cluster(policy), 0)
    state.note(A, Outcome.SERVER_ERROR, 0)
    assert picked(state, 40) == {A, B}


def test_other_settings_forget_who_failed() -> None:
    policy = "{outlierDetection: {consecutive5xxErrors: 1, maxEjectionPercent: 100}}"
    states = ClusterStates(seed=1)
    state = states.of(cluster(policy), 0)
    state.note(A, Outcome.SERVER_ERROR, 0)
    states.of(cluster(), 0)
    assert state.ejected == ()
    state.note(A, Outcome.SERVER_ERROR, 0)
    assert picked(state, 40) == {A, B}


def test_limits() -> None:
    state = ClusterStates().of(cluster("{connectionPool: {http: {http2MaxRequests: 2, maxRetries: 1}}}"), 0)
    assert not state.full()
    state.requests = 2
    assert state.full()
    assert state.may_retry()
    state.retries = 1
    assert not state.may_retry()
    free = ClusterStates().of(cluster(), 0)
    free.retries = 3
    assert not free.may_retry()
    free.requests = 20
    assert free.may_retry()
    assert not free.full()


def test_what_nobody_uses_is_dropped_and_what_is_used_is_kept() -> None:
    states = ClusterStates()
    old, busy = cluster(), replace(cluster(), name="busy")
    first = states.of(old, 0)
    states.of(busy, 0).requests = 1
    states.of(replace(old, name="new"), FORGET)
    assert states.of(old, FORGET) is not first
    assert states.of(busy, FORGET).requests == 1


def subset_of(*hosts: int) -> tuple[Clusters, Cluster]:
    """A subset of a name that has to be told from the rest of the cluster's."""
    rule = document("DestinationRule", "host: shop.example\nsubsets: [{name: 'a|b', labels: {version: v1}}]")
    versions = [(f"10.1.0.{number}", "v1") for number in hosts]
    made = plain(configuration(shop(80, *versions), rule))
    clusters = Clusters(made.service_entries, made.destination_rules, {}, None)
    found = clusters.find("shop.example", None, "a|b", 80)
    assert found is not None
    return clusters, found


def test_what_is_in_use_follows_other_clusters_at_once_and_tells_who_left() -> None:
    states = ClusterStates(seed=1)
    _, before = subset_of(1, 2)
    state = states.of(before, 0)
    after, _ = subset_of(2, 3)
    assert states.follow(after, 1.0) == ({A}, {B, C})
    assert picked(state, 40) == {B, C}
    assert states.follow(after, 2.0) == (set(), {B, C})
    state.requests = 1
    assert states.follow(None, 3.0) == ({B, C}, set())
    assert state.cluster.name in states.dump(), "it carries something"
    state.requests = 0
    states.follow(None, 4.0)
    assert states.dump() == {}


def test_what_checks_say_holds_for_subsets_and_for_what_is_used_later() -> None:
    states = ClusterStates(seed=1)
    _, found = subset_of(1, 2)
    state = states.of(found, 0)
    states.judge({("shop.example", 80): {A: "no answer"}}, 1.0)
    assert picked(state, 20) == {B}
    other = ClusterStates(seed=1)
    other.judge({("shop.example", 80): {A: "no answer"}}, 1.0)
    assert picked(other.of(found, 2.0), 20) == {B}
    states.judge({}, 3.0)
    assert picked(state, 40) == {A, B}


def graded(*endpoints: tuple[int, int, str], policy: str = "{outlierDetection: {}}") -> Cluster:
    """Endpoints by number, priority and locality."""
    ends = ", ".join(
        f"{{address: 10.1.0.{number}, priority: {priority}, locality: {place}}}"
        for number, priority, place in endpoints
    )
    entry = document(
        "ServiceEntry",
        f"hosts: [shop.example]\nresolution: STATIC\nports: [{{number: 80, name: http, protocol: HTTP}}]\nendpoints: [{ends}]",
    )
    rule = document("DestinationRule", f"host: shop.example\ntrafficPolicy: {policy}")
    made = plain(configuration(entry, rule))
    own = {"istio-locality": "near"}
    found = Clusters(made.service_entries, made.destination_rules, {}, None, own).find(
        "shop.example", None, None, 80
    )
    assert found is not None
    return found


def test_what_has_a_higher_priority_waits_until_the_others_fail() -> None:
    state = ClusterStates(seed=1).of(graded((1, 1, "near"), (2, 0, "far")), 0)
    assert picked(state, 20) == {B}, "priorities count before localities"
    state.judge(frozenset({B}), 0)
    assert picked(state, 20) == {A}
    assert state.pick(0, None, [A], elsewhere=True) == A, "there is no other healthy one"


def test_a_retry_goes_to_another_place_where_that_is_asked_for() -> None:
    near = graded((1, 0, "near"), (2, 0, "near"), (3, 0, "far"))
    state = ClusterStates(seed=1).of(near, 0)
    assert picked(state, 20) == {A, B}
    assert state.pick(0, None, [A]) == B
    assert {state.pick(0, None, [A], elsewhere=True) for _ in range(10)} == {C}
    assert state.pick(0, None, [A, C], elsewhere=True) in {A, B}


def test_the_retries_that_a_budget_allows() -> None:
    state = ClusterStates(seed=1).of(cluster("{retryBudget: {percent: 50, minRetryConcurrency: 1}}"), 0)
    state.requests = 4
    state.retries = 1
    assert state.may_retry()
    state.retries = 2
    assert not state.may_retry()


def test_another_ring_is_another_balancer() -> None:
    states = ClusterStates(seed=1)
    ring = "{{loadBalancer: {{consistentHash: {{httpHeaderName: x, minimumRingSize: {}}}}}}}"
    state = states.of(cluster(ring.format(1)), 0)
    state.pick(0, b"key")
    before = state._balancers[0]
    states.of(cluster(ring.format(5000)), 0)
    state.pick(0, b"key")
    assert state._balancers[0] is not before
