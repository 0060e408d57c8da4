from __future__ import annotations

from interceptor.routing.age import oldest_first
from tests.support.documents import configuration
from tests.support.routed import document


def test_the_oldest_comes_first_and_what_has_no_age_last_in_the_order_given() -> None:
    text = document(
        "ServiceEntry", "hosts: [a.example]\nports: [{number: 80, name: a}]\nresolution: DNS", "NAME"
    )
    born = {"c": None, "b": "2026-01-02T00:00:00Z", "d": None, "a": "2026-01-01T00:00:00Z"}
    names = [
        text.replace("NAME", name if age is None else f"{name}, creationTimestamp: {age}")
        for name, age in born.items()
    ]
    made = configuration(*names).service_entries
    assert [each.metadata.name for each in oldest_first(made)] == ["a", "b", "c", "d"]
