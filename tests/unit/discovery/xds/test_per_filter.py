from __future__ import annotations

from interceptor.discovery.xds import cors, fault, per_filter


def test_what_a_route_has_for_filters_is_fields_of_its_own() -> None:
    said: list[str] = []
    pages = {"@type": cors.POLICY, "allow_origin_string_match": [{"exact": "https://a.b"}]}
    abort = {"@type": fault.FILTER, "abort": {"http_status": 500, "percentage": {"numerator": 1}}}
    made = per_filter.read({"typed_per_filter_config": {"a": pages, "b": abort}}, "", said)
    assert (sorted(made), said) == (["corsPolicy", "fault"], [])
    assert per_filter.read({"typed_per_filter_config": {"b": {"@type": fault.FILTER}}}, "", said) == {}


def test_what_is_for_another_filter_is_said() -> None:
    said: list[str] = []
    assert per_filter.read({"typed_per_filter_config": {"lua": {"@type": "x"}}}, "", said) == {}
    assert said == ["typed_per_filter_config[lua]: 'x' is not honoured; known are CorsPolicy and HTTPFault"]


def test_it_means_something_beside_its_filter_alone() -> None:
    assert per_filter.honoured([cors.FILTER, "x", None]) == {"corsPolicy"}
    assert per_filter.honoured([fault.FILTER]) == {"fault"}
