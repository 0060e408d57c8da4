from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from interceptor.discovery.xds import fault

if TYPE_CHECKING:
    from interceptor.discovery.xds.messages import Body


def test_a_fault_is_a_virtual_services() -> None:
    said: list[str] = []
    delay = {"fixed_delay": "0.250s", "percentage": {"numerator": 5000, "denominator": "TEN_THOUSAND"}}
    abort = {"http_status": 503, "percentage": {"numerator": 10}}
    assert fault.read({"@type": fault.FILTER, "delay": delay, "abort": abort}, "", said) == {
        "delay": {"fixedDelay": "0.250000s", "percentage": {"value": 50.0}},
        "abort": {"httpStatus": 503, "percentage": {"value": 10.0}},
    }
    made = fault.read({"abort": {"grpc_status": 14}}, "", said)
    assert made == {"abort": {"grpcStatus": "UNAVAILABLE", "percentage": {"value": 0.0}}}
    assert said == []


def test_an_empty_one_is_none() -> None:
    assert fault.read({"@type": fault.FILTER}, "", []) is None


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"upstream_cluster": "x"}, "upstream_cluster:"),
        ({"delay": {"header_delay": {}, "fixed_delay": "1s"}}, "delay.header_delay:"),
        ({"delay": {"percentage": {"numerator": 1}}}, "delay.fixed_delay: is required"),
        ({"abort": {"http_status": 99}}, "abort.http_status: 99"),
        ({"abort": {"grpc_status": 17}}, "abort.grpc_status: 17"),
        ({"abort": {"header_abort": {}}}, "abort.header_abort:"),
    ],
)
def test_what_is_not_honoured_is_said_with_its_path(given: Body, path: str) -> None:
    said: list[str] = []
    fault.read(given, "x.", said)
    assert said[0].startswith(f"x.{path}"), said
