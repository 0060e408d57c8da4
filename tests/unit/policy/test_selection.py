from __future__ import annotations

import pytest

from interceptor.policy.selection import Workload, age, selects
from tests.support.documents import configuration, sidecar
from tests.support.policies import WORKLOAD, named, policy_text


@pytest.mark.parametrize(
    ("namespace", "labels", "about_it"),
    [
        ("shop", "", True),
        ("shop", "selector: {}", True),
        ("shop", "selector: {matchLabels: {app: web}}", True),
        ("shop", "selector: {matchLabels: {app: web, tier: front}}", True),
        ("shop", "selector: {matchLabels: {app: web, tier: back}}", False),
        ("shop", "selector: {matchLabels: {zone: a}}", False),
        ("other", "", False),
        ("istio-system", "", True),
        ("istio-system", "selector: {matchLabels: {app: web}}", True),
        ("istio-system", "selector: {matchLabels: {app: x}}", False),
    ],
)
def test_a_policy_is_about_workloads_of_its_namespace_with_its_labels(
    namespace: str, labels: str, about_it: bool
) -> None:
    [policy] = configuration(policy_text(f"{{{labels}}}", named("p", namespace))).authorization_policies
    assert selects(policy, WORKLOAD) is about_it


def test_the_oldest_comes_first_and_whoever_tells_no_age_last() -> None:
    times = ["2026-02-01T00:00:00Z", "null", "2026-01-01T00:00:00Z"]
    texts = (
        policy_text("{}", named(f"p{index}", more=f", creationTimestamp: {time}"))
        for index, time in enumerate(times)
    )
    made = sorted(configuration(*texts).authorization_policies, key=age)
    assert [each.metadata.name for each in made] == ["p2", "p0", "p1"]


def test_the_workload_is_the_sidecars() -> None:
    assert Workload.of(sidecar("{rootNamespace: mesh}")) == Workload("default", {}, "mesh")
    assert Workload.of(sidecar()).root_namespace == "istio-system"
