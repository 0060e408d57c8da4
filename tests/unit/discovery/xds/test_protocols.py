from __future__ import annotations

from typing import Any

import pytest

from interceptor.discovery.xds import protocols

PATH = f"typed_extension_protocol_options.{protocols.PROTOCOLS}."


def of(**given: Any) -> dict[str, Any]:
    return {"typed_extension_protocol_options": {protocols.PROTOCOLS: given}}


def test_how_long_connections_are_kept_is_a_destination_rules() -> None:
    common = {"idle_timeout": "30s", "max_connection_duration": "600s", "max_requests_per_connection": 7}
    body = of(
        common_http_protocol_options=common,
        explicit_http_config={"http2_protocol_options": {"max_concurrent_streams": 50}},
        upstream_http_protocol_options={"auto_san_validation": True},
    )
    assert list(protocols.judge("EDS", body)) == []
    assert protocols.written(body) == (
        {"idleTimeout": "30.000000s", "maxRequestsPerConnection": 7, "maxConcurrentStreams": 50},
        {"maxConnectionDuration": "600.000000s"},
    )
    assert protocols.speaks_http2(body)
    assert protocols.checks_names(body)


def test_what_says_nothing_changes_nothing() -> None:
    endless = {"http2_protocol_options": {"max_concurrent_streams": 2**30}}
    body = of(use_downstream_protocol_config=endless)
    assert list(protocols.judge("EDS", body)) == []
    assert protocols.written(body) == ({}, {})
    assert not protocols.speaks_http2(body)
    assert not protocols.checks_names({})


@pytest.mark.parametrize(
    ("kind", "body", "path"),
    [
        ("EDS", of(common_http_protocol_options={"max_headers_count": 5}), f"{PATH}common_http_protocol_options.max_headers_count:"),
        ("ORIGINAL_DST", of(common_http_protocol_options={"idle_timeout": "5s"}), f"{PATH}common_http_protocol_options: is not honoured in a cluster"),
        ("EDS", of(common_http_protocol_options={"idle_timeout": "0s"}), f"{PATH}common_http_protocol_options.idle_timeout: must be more"),
        ("EDS", of(explicit_http_config={"http3_protocol_options": {}}), f"{PATH}explicit_http_config.http3_protocol_options:"),
        ("EDS", of(explicit_http_config={"http2_protocol_options": {"max_concurrent_streams": 0}}), f"{PATH}explicit_http_config.http2_protocol_options.max_concurrent_streams: must"),
        ("EDS", of(auto_config={}), f"{PATH}auto_config:"),
        ("EDS", {"typed_extension_protocol_options": {"x": {}}}, "typed_extension_protocol_options.x:"),
    ],
)  # fmt: skip
def test_what_is_not_honoured_is_said_with_its_path(kind: str, body: dict[str, Any], path: str) -> None:
    said = list(protocols.judge(kind, body))
    assert any(each.startswith(path) for each in said), said
