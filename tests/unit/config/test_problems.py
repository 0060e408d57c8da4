from __future__ import annotations

from interceptor.config.problems import Problem


def test_a_problem_prints_its_place_first() -> None:
    assert (
        str(Problem("f.yaml", 3, "spec.egress.policy", "is wrong"))
        == "f.yaml:3: spec.egress.policy: is wrong"
    )
    assert str(Problem("f.yaml", 3, "", "is wrong")) == "f.yaml:3: is wrong"
    assert str(Problem("f.yaml", 0, "", "is wrong")) == "f.yaml: is wrong"
