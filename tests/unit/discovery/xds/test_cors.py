from __future__ import annotations

import pytest

from interceptor.discovery.xds import cors
from interceptor.discovery.xds.messages import Body

ANY = [{"exact": "https://a.example.com"}, {"safe_regex": {"regex": "https://[a-z]+\\.b\\.org"}}]


def policy(**given: object) -> Body:
    return {"@type": cors.POLICY, "allow_origin_string_match": ANY, **given}


def test_a_policy_is_a_virtual_services() -> None:
    said: list[str] = []
    made = cors.read(
        policy(
            allow_methods="GET, POST",
            allow_headers="x-a",
            expose_headers="x-b",
            max_age="600",
            allow_credentials=True,
            filter_enabled={"default_value": {"numerator": 100}},
        ),
        "",
        said,
    )
    assert said == []
    assert made == {
        "allowOrigins": [{"exact": "https://a.example.com"}, {"regex": "https://[a-z]+\\.b\\.org"}],
        "allowMethods": ["GET", "POST"],
        "allowHeaders": ["x-a"],
        "exposeHeaders": ["x-b"],
        "maxAge": "600s",
        "allowCredentials": True,
        "unmatchedPreflights": "FORWARD",
    }


def test_what_says_little_says_what_envoy_does() -> None:
    made = cors.read(policy(forward_not_matching_preflights=False), "", [])
    assert made["unmatchedPreflights"] == "IGNORE"


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"allow_origin_string_match": []}, "allow_origin_string_match: is required"),
        ({"filter_enabled": {"default_value": {"numerator": 50}}}, "filter_enabled: only 100"),
        (
            {"filter_enabled": {"default_value": {"numerator": 100, "denominator": "MILLION"}}},
            "filter_enabled:",
        ),
        ({"shadow_enabled": {}}, "shadow_enabled:"),
        ({"allow_methods": "GET,P ST"}, "allow_methods: 'P ST'"),
        ({"max_age": "0"}, "max_age: '0'"),
        ({"max_age": "soon"}, "max_age: 'soon'"),
    ],
)
def test_what_is_not_honoured_is_said_with_its_path(given: dict[str, object], path: str) -> None:
    said: list[str] = []
    cors.read(policy(**given), "x.", said)
    assert said, given
    assert said[0].startswith(f"x.{path}"), said
