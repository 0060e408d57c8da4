from __future__ import annotations

import json
from typing import Any

import pytest

from interceptor.config.documents import load
from interceptor.config.problems import Source
from interceptor.discovery.xds import health_checks
from interceptor.discovery.xds.protocols import PROTOCOLS

BASE = {"timeout": "1s", "interval": "5s", "unhealthy_threshold": 3, "healthy_threshold": 2}
COMMON = {
    "timeout": "1.000000s",
    "interval": "5.000000s",
    "unhealthyThreshold": 3,
    "healthyThreshold": 2,
    "healthyPanicThreshold": 50,
}
HTTP2: dict[str, Any] = {
    "typed_extension_protocol_options": {PROTOCOLS: {"explicit_http_config": {"http2_protocol_options": {}}}}
}


def of(more: Any = None, **check: Any) -> dict[str, Any]:
    return {"health_checks": [{**BASE, **check}], **(more or {})}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (of(http_health_check={"path": "/ok"}), {"http": {"path": "/ok", "host": "web"}}),
        (
            of(
                http_health_check={
                    "path": "/ok", "host": "a.b", "expected_statuses": [{"start": "200", "end": "300"}], "method": "GET",
                },
                interval_jitter="1s", unhealthy_interval="2s", reuse_connection=False,
            ),
            {
                "http": {"path": "/ok", "host": "a.b", "expectedStatuses": [{"start": 200, "end": 300}]},
                "intervalJitter": "1.000000s", "unhealthyInterval": "2.000000s",
            },
        ),
        (of(HTTP2, http_health_check={"path": "/", "codec_client_type": "HTTP2"}), {"http": {"path": "/", "host": "web"}}),
        (of(grpc_health_check={"service_name": "s"}), {"grpc": {"serviceName": "s", "authority": "web"}}),
        (of(grpc_health_check={"authority": "x"}), {"grpc": {"authority": "x"}}),
        (of(tcp_health_check={}), {"tcp": {}}),
        (
            of(tcp_health_check={"send": {"text": "50494e47"}, "receive": [{"binary": "UE9ORw=="}]}),
            {"tcp": {"send": "50494e47", "receive": ["504f4e47"]}},
        ),
    ],
)  # fmt: skip
def test_a_check_is_a_destination_rules(body: dict[str, Any], expected: dict[str, object]) -> None:
    assert list(health_checks.judge("EDS", body)) == []
    made = health_checks.written("web", body)
    assert made == {**COMMON, **expected}
    text = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": "x"},
        "spec": {"host": "a.b", "trafficPolicy": {"healthCheck": made}},
    }
    loaded = load([Source("x", json.dumps(text))], sidecar_required=False)
    assert loaded.problems == ()


def test_a_name_that_is_no_host_is_not_sent_as_one() -> None:
    body = of(http_health_check={"path": "/"})
    made = health_checks.written("outbound|80||web.example", body)
    assert made is not None
    assert made["http"] == {"path": "/"}
    assert health_checks.written("web", {}) is None


@pytest.mark.parametrize(
    ("kind", "body", "path"),
    [
        ("EDS", {"health_checks": [BASE, BASE]}, "health_checks: several"),
        ("ORIGINAL_DST", of(tcp_health_check={}), "health_checks: are not honoured in a cluster"),
        ("EDS", of(alt_port=5, tcp_health_check={}), "health_checks[0].alt_port:"),
        ("EDS", of(timeout="0s", tcp_health_check={}), "health_checks[0].timeout: is required"),
        ("EDS", of(healthy_threshold=0, tcp_health_check={}), "health_checks[0].healthy_threshold: must"),
        ("EDS", of(), "health_checks[0]: needs one of"),
        ("EDS", of(http_health_check={"path": "x"}), "health_checks[0].http_health_check.path: 'x'"),
        ("EDS", of(http_health_check={"path": "/", "host": "a b"}), "health_checks[0].http_health_check.host: 'a b'"),
        ("EDS", of(HTTP2, http_health_check={"path": "/"}), "health_checks[0].http_health_check.codec_client_type: only HTTP2"),
        ("EDS", of(http_health_check={"path": "/", "method": "HEAD"}), "health_checks[0].http_health_check.method:"),
        ("EDS", of(http_health_check={"path": "/", "expected_statuses": [{"start": "300", "end": "200"}]}), "health_checks[0].http_health_check.expected_statuses[0]:"),
        ("EDS", of(http_health_check={"path": "/", "send": {}}), "health_checks[0].http_health_check.send:"),
        ("EDS", of(tcp_health_check={"send": {"text": "xyz"}}), "health_checks[0].tcp_health_check.send: needs"),
        ("EDS", of(tcp_health_check={"receive": [{"binary": "?"}]}), "health_checks[0].tcp_health_check.receive: needs"),
        ("EDS", of(grpc_health_check={"initial_metadata": []}), "health_checks[0].grpc_health_check.initial_metadata:"),
    ],
)  # fmt: skip
def test_what_is_not_honoured_is_said_with_its_path(kind: str, body: dict[str, Any], path: str) -> None:
    said = list(health_checks.judge(kind, body))
    assert any(each.startswith(path) for each in said), said
