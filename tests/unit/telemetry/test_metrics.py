"""The exact series, labels and values that dashboards read."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from prometheus_client.parser import text_string_to_metric_families

from interceptor.config.sidecar import Sidecar
from interceptor.model.address import OriginalDestination, PeerAddress, SocketAddress
from interceptor.model.connection import Direction, Flow, ResponseFlag
from interceptor.telemetry.connection_metrics import MOST_PORTS
from interceptor.telemetry.labels import tcp_labels
from interceptor.telemetry.metrics import Metrics
from tests.support.sample_flows import DENIED, NOT_REDIRECTED, RESET, UPSTREAM_FAILURE, flow

ISTIO = [
    "istio_tcp_connections_opened_total",
    "istio_tcp_connections_closed_total",
    "istio_tcp_sent_bytes_total",
    "istio_tcp_received_bytes_total",
]


def sidecar(**metadata: Any) -> Sidecar:
    return Sidecar.model_validate({"metadata": {"name": "web-7d9", "namespace": "shop", **metadata}})


def samples(metrics: Metrics) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """The sum over the series that carry these labels."""
    return sum(amount for found, amount in samples(metrics).get(name, ()) if labels.items() <= found.items())


def record(metrics: Metrics, *flows: Flow) -> None:
    for each in flows:
        metrics.opened(each)
        metrics.closed(each)


def test_egress_flow_has_exactly_istios_labels() -> None:
    metrics = Metrics(sidecar(labels={"app": "web", "version": "v2"}))
    record(metrics, flow())
    expected = {
        "reporter": "source",
        "source_workload": "web-7d9",
        "source_workload_namespace": "shop",
        "source_principal": "unknown",
        "source_app": "web",
        "source_version": "v2",
        "source_canonical_service": "web",
        "source_canonical_revision": "v2",
        "source_cluster": "unknown",
        "destination_workload": "unknown",
        "destination_workload_namespace": "unknown",
        "destination_principal": "unknown",
        "destination_app": "unknown",
        "destination_version": "unknown",
        "destination_canonical_service": "unknown",
        "destination_canonical_revision": "unknown",
        "destination_cluster": "unknown",
        "destination_service": "example.com",
        "destination_service_name": "example.com",
        "destination_service_namespace": "shop",
        "request_protocol": "tcp",
        "response_flags": "-",
        "connection_security_policy": "unknown",
    }
    found = samples(metrics)
    assert [found[name] for name in ISTIO] == [[(expected, amount)] for amount in (1, 1, 5000, 100)]


def test_ingress_flow_reports_us_as_the_destination() -> None:
    document = sidecar(labels={"app.kubernetes.io/name": "shop-web", "app.kubernetes.io/version": "3"})
    labels = tcp_labels(document, Direction.INGRESS, "unknown", "unknown", ResponseFlag.DENY)
    assert labels["reporter"] == "destination"
    assert labels["connection_security_policy"] == "none"
    assert labels["response_flags"] == "DENY"
    assert {labels[name] for name in labels if name.startswith("source_")} == {"unknown"}
    assert labels["destination_workload"] == "web-7d9"
    assert labels["destination_workload_namespace"] == "shop"
    assert labels["destination_app"] == "unknown"
    assert labels["destination_version"] == "unknown"
    assert labels["destination_canonical_service"] == "shop-web"
    assert labels["destination_canonical_revision"] == "3"


@pytest.mark.parametrize(
    ("labels", "service", "revision"),
    [
        ({}, "web-7d9", "latest"),
        ({"app": "a", "version": "v"}, "a", "v"),
        ({"app": "a", "app.kubernetes.io/name": "k"}, "k", "latest"),
        (
            {"app": "a", "service.istio.io/canonical-name": "c", "service.istio.io/canonical-revision": "r"},
            "c",
            "r",
        ),
    ],
)
def test_canonical_names_fall_back_in_istios_order(
    labels: dict[str, str], service: str, revision: str
) -> None:
    found = tcp_labels(sidecar(labels=labels), Direction.EGRESS, "unknown", "unknown", ResponseFlag.NONE)
    assert (found["source_canonical_service"], found["source_canonical_revision"]) == (service, revision)


@pytest.mark.parametrize(
    ("own", "direction", "service", "expected"),
    [
        (None, Direction.EGRESS, "PassthroughCluster", ("unknown", "PassthroughCluster", "unknown")),
        (None, Direction.EGRESS, "BlackHoleCluster", ("unknown", "BlackHoleCluster", "unknown")),
        ("web", Direction.EGRESS, "unknown", ("unknown", "unknown", "unknown")),
        (None, Direction.EGRESS, "db.example", ("db.example", "db.example", "ns")),
        (None, Direction.INGRESS, "unknown", ("unknown", "unknown", "unknown")),
        ("web", Direction.INGRESS, "unknown", ("web.shop.svc.cluster.local", "web", "shop")),
        ("web.example.com", Direction.INGRESS, "unknown", ("web.example.com", "web", "shop")),
    ],
)
def test_destination_service(
    own: str | None, direction: Direction, service: str, expected: tuple[str, str, str]
) -> None:
    document = Sidecar.model_validate(
        {"metadata": {"name": "web", "namespace": "shop"}, "spec": {"serviceName": own}}
    )
    labels = tcp_labels(document, direction, service, "ns", ResponseFlag.NONE)
    assert expected == (
        labels["destination_service"],
        labels["destination_service_name"],
        labels["destination_service_namespace"],
    )


def test_a_live_flow_counts_once_it_is_decided() -> None:
    metrics = Metrics(sidecar())
    live = flow(closed=None, bytes_received=0, bytes_sent=0, upstream_cluster="unknown")
    metrics.opened(live)
    assert value(metrics, ISTIO[0]) == 0
    assert value(metrics, "interceptor_connections_active", direction="egress") == 1
    live.upstream_cluster = "outbound|443||example.com"
    assert value(metrics, ISTIO[0]) == value(metrics, ISTIO[0]) == 1
    live.bytes_received, live.bytes_sent = 10, 20
    assert value(metrics, ISTIO[2]) == 20
    live.bytes_received, live.closed, live.flag = 15, 101.0, ResponseFlag.IDLE_TIMEOUT
    metrics.closed(live)
    assert value(metrics, ISTIO[3], response_flags="-") == 10
    assert value(metrics, ISTIO[3], response_flags="SI") == 5
    assert value(metrics, ISTIO[0]) == value(metrics, ISTIO[1], response_flags="SI") == 1
    assert value(metrics, "interceptor_relay_bytes_total", direction="egress", relay="splice") == 35
    assert value(metrics, "interceptor_connections_active", direction="egress") == 0


@pytest.mark.slow
@settings(max_examples=30, deadline=None)  # each renders several times
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**40), st.integers(0, 2**40)), max_size=30))
def test_scrapes_at_any_time_lose_and_double_nothing(steps: list[tuple[int, int, int]]) -> None:
    metrics = Metrics(sidecar())
    flows = [flow(bytes_received=0, bytes_sent=0, relay=("copy", "splice")[i % 2]) for i in range(3)]
    for each in flows:
        metrics.opened(each)
    for which, received, sent in steps:
        if which == 3:
            metrics.render()
        else:
            flows[which].bytes_received += received
            flows[which].bytes_sent += sent
    for each in flows:
        metrics.closed(each)
    received, sent = sum(each.bytes_received for each in flows), sum(each.bytes_sent for each in flows)
    found = {name: sum(amount for _, amount in series) for name, series in samples(metrics).items()}
    assert [found[name] for name in ISTIO] == [3, 3, sent, received]
    assert found.get("interceptor_relay_bytes_total", 0) == received + sent


def test_denials_and_errors_by_flag() -> None:
    metrics = Metrics(sidecar())
    record(metrics, flow(), *(flow(each) for each in (DENIED, UPSTREAM_FAILURE, RESET, NOT_REDIRECTED)))
    found = samples(metrics)
    assert found["interceptor_connections_denied_total"] == [
        ({"direction": "egress", "reason": "registry"}, 1),
        ({"direction": "egress", "reason": "loop"}, 1),
    ]
    assert found["interceptor_connection_errors_total"] == [
        ({"direction": "egress", "response_flags": flag}, 1) for flag in ("UF", "DC", "NR")
    ]
    assert value(metrics, ISTIO[1], destination_service_name="BlackHoleCluster", response_flags="DENY") == 1
    assert value(metrics, ISTIO[1]) == 5


def test_durations_are_counted_where_they_are_known() -> None:
    metrics = Metrics(sidecar())
    record(metrics, flow(), flow(UPSTREAM_FAILURE), flow(NOT_REDIRECTED))
    connect, duration = "interceptor_connect_duration_seconds", "interceptor_connection_duration_seconds"
    assert value(metrics, f"{connect}_count", direction="egress") == 1
    assert value(metrics, f"{connect}_sum", direction="egress") == 0.012
    assert value(metrics, f"{connect}_bucket", direction="egress", le="0.01") == 0
    assert value(metrics, f"{connect}_bucket", direction="egress", le="0.025") == 1
    assert value(metrics, f"{duration}_count", direction="egress") == 2
    assert value(metrics, f"{duration}_bucket", direction="egress", le="86400.0") == 2
    assert value(metrics, f"{duration}_count", direction="ingress") == 0


def test_state_of_the_proxy() -> None:
    metrics = Metrics(sidecar())
    found = samples(metrics)
    assert found["interceptor_connections_active"] == [
        ({"direction": "ingress"}, 0),
        ({"direction": "egress"}, 0),
    ]
    assert found["interceptor_config_version_info"] == [({"version": "unknown"}, 1)]
    assert found["interceptor_access_log_dropped_total"] == [({}, 0)]
    assert found["interceptor_internal_errors_total"] == [({}, 0)]
    assert found["interceptor_build_info"][0][1] == 1
    assert found["interceptor_build_info"][0][0]["version"].startswith("0.")
    assert found["process_resident_memory_bytes"][0][1] > 1_000_000
    metrics.config_version("sha-1")
    metrics.config_version("sha-2")
    metrics.access_log_dropped(7)
    metrics.internal_error()
    metrics.accept_error(errno.EMFILE)
    metrics.accept_error(9999)
    found = samples(metrics)
    assert found["interceptor_config_version_info"] == [({"version": "sha-2"}, 1)]
    assert found["interceptor_access_log_dropped_total"] == [({}, 7)]
    assert found["interceptor_internal_errors_total"] == [({}, 1)]
    assert found["interceptor_accept_errors_total"] == [({"errno": "EMFILE"}, 1), ({"errno": "unknown"}, 1)]


def test_no_series_per_client() -> None:
    metrics = Metrics(sidecar())
    record(metrics, flow())
    before = len(metrics.render().splitlines())
    record(metrics, *(flow(peer=PeerAddress(SocketAddress(f"10.1.0.{i}", 1000 + i))) for i in range(200)))
    assert len(metrics.render().splitlines()) == before
    assert b"_created" not in metrics.render()


def test_ingress_flow_counts_on_its_side() -> None:
    metrics = Metrics(sidecar())
    live = flow(direction=Direction.INGRESS, destination_service="unknown")
    metrics.opened(live)
    assert value(metrics, "interceptor_connections_active", direction="ingress") == 1
    metrics.closed(live)
    assert value(metrics, "interceptor_connections_active", direction="ingress") == 0
    assert value(metrics, ISTIO[1], reporter="destination") == 1
    assert {family.name for family in metrics.collect()} >= {"istio_tcp_sent_bytes"}


def test_detections_are_counted_for_each_port_and_result() -> None:
    metrics = Metrics(sidecar())
    mail = OriginalDestination(SocketAddress("10.0.0.9", 25))
    for result in ("timeout", "http1", "timeout"):
        metrics.detected(flow(direction=Direction.INGRESS, original_dst=mail), result)
    metrics.detected(flow(), "tls")
    metrics.detected(flow(original_dst=None), "opaque")
    assert [
        (*labels.values(), amount) for labels, amount in samples(metrics)["interceptor_detections_total"]
    ] == [
        ("ingress", "25", "timeout", 2),
        ("ingress", "25", "http1", 1),
        ("egress", "443", "tls", 1),
        ("egress", "unknown", "opaque", 1),
    ]


def test_a_client_that_asks_for_every_port_makes_no_more_series() -> None:
    metrics = Metrics(sidecar())
    for port in range(1, MOST_PORTS + 101):
        metrics.detected(flow(original_dst=OriginalDestination(SocketAddress("10.0.0.9", port))), "opaque")
    assert len(samples(metrics)["interceptor_detections_total"]) == MOST_PORTS + 1
    assert value(metrics, "interceptor_detections_total", port="other") == 100
