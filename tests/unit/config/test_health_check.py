"""spec.healthChecks of a Sidecar: what is accepted, and what is said about the rest."""

from __future__ import annotations

import pytest

from interceptor.config.health_check import HealthCheck, HttpCheck
from tests.support.documents import problems, sidecar


def checks(text: str) -> list[str]:
    head = "apiVersion: interceptor/v1\nkind: Sidecar\nmetadata: {name: app}\n"
    return [line.partition(": ")[2] for line in problems(f"{head}spec: {{healthChecks: [{text}]}}\n")]


def test_everything_that_may_be_said() -> None:
    [one] = sidecar(
        "{healthChecks: [{host: '*.b.example', port: 80, interval: 5s, timeout: 500ms, unhealthyThreshold: 1,"
        " healthyThreshold: 1, unhealthyInterval: 1s, intervalJitter: 100ms, healthyPanicThreshold: 50,"
        " http: {path: /healthz?deep=1, host: 'a:80', expectedStatuses: [{start: 200, end: 300}]}}]}"
    ).spec.healthChecks
    assert one.http is not None
    assert one.http.statuses == frozenset(range(200, 300))
    assert (one.interval, one.timeout) == (5, 0.5)


def test_defaults() -> None:
    one = HealthCheck(host="a.b", http=HttpCheck(path="/"))
    assert (one.interval, one.timeout, one.unhealthyThreshold, one.healthyThreshold) == (10, 1, 3, 2)
    assert HttpCheck(path="/").statuses == {200}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{host: a.b}", "spec.healthChecks[0]: needs one of http, tcp and grpc; write tcp: {} to have it connect only"),
        ("{host: a.b, tcp: {}, grpc: {}}", "spec.healthChecks[0]: needs one of http, tcp and grpc; write tcp: {} to have it connect only"),
        ("{host: a.b, tcp: {}}, {host: a.b, tcp: {}}", "spec.healthChecks[1].host: 'a.b' without a port is given twice, first in spec.healthChecks[0]"),
        ("{host: a.b, port: 1, tcp: {}}, {host: a.b, port: 1, tcp: {}}", "spec.healthChecks[1].host: 'a.b' with the port 1 is given twice, first in spec.healthChecks[0]"),
        ("{host: a.b, http: {path: healthz}}", "spec.healthChecks[0].http.path: 'healthz' is not a path; write it like /healthz"),
        ("{host: a.b, http: {path: '/a b'}}", "spec.healthChecks[0].http.path: '/a b' is not a path; write it like /healthz"),
        ("{host: a.b, http: {path: /, host: 'a/b'}}", "spec.healthChecks[0].http.host: 'a/b' is not a host, or a host and a port"),
        ("{host: a.b, tcp: {send: abc}}", "spec.healthChecks[0].tcp.send: 'abc' is not bytes in hexadecimal; write them like '50494e47', with the quotes"),
        ("{host: a.b, http: {path: /, expectedStatuses: [{start: 300, end: 300}]}}", "spec.healthChecks[0].http.expectedStatuses[0].end: must be more than start: it is the first status that is not expected any more"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(text: str, said: str) -> None:
    assert checks(text) == [said]


def test_bounds_hold() -> None:
    assert checks("{host: a.b, tcp: {}, interval: 0s}")
    assert checks("{host: a.b, tcp: {}, unhealthyThreshold: 0}")
    assert checks("{host: a.b, tcp: {}, healthyPanicThreshold: 101}")
    assert checks("{host: a.b, tcp: {}, jitter: 1s}")
    assert not checks("{host: a.b, tcp: {}}, {host: a.b, port: 1, tcp: {}}")
