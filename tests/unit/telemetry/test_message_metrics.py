"""gRPC messages as Istio's metrics: while calls last, and once they are over."""

from __future__ import annotations

from dataclasses import dataclass

from interceptor.model.connection import Direction, ResponseFlag
from interceptor.model.identity import SpiffeId
from interceptor.model.request import Destination, RequestRecord
from interceptor.telemetry.message_metrics import MessageMetrics
from tests.support.flows import settings
from tests.unit.telemetry.test_request_lines import record
from tests.unit.telemetry.test_request_metrics import scraped


@dataclass
class Passed:
    requests: int = 0
    responses: int = 0


def call(metrics: MessageMetrics, passed: Passed, **changes: object) -> RequestRecord:
    made = record(messages=passed, **changes)
    metrics.begun(made)
    return made


def totals(metrics: MessageMetrics) -> tuple[float, float]:
    found = scraped(metrics)
    both = ("istio_request_messages_total", "istio_response_messages_total")
    requests, responses = (sum(value for _, value in found[name]) for name in both)
    return requests, responses


def test_messages_are_counted_while_the_call_lasts_and_each_once() -> None:
    metrics, passed = MessageMetrics(settings()), Passed()
    made = call(metrics, passed)
    for passed.requests, passed.responses in ((0, 0), (3, 1), (3, 1), (4, 7)):
        assert totals(metrics) == (passed.requests, passed.responses)
    passed.responses = 9
    metrics.ended(made)
    assert totals(metrics) == (4, 9)
    metrics.ended(call(metrics, Passed(1, 1)))
    assert totals(metrics) == (5, 10)


def test_labels_are_istios_and_say_nothing_of_the_end() -> None:
    metrics = MessageMetrics(settings())
    metrics.ended(call(metrics, Passed(1, 2), flag=ResponseFlag.UPSTREAM_RESET, status=200, grpc_status="14"))
    ((labels, value),) = scraped(metrics)["istio_request_messages_total"]
    assert value == 1
    assert set(labels) == {
        "reporter",
        *(
            f"{side}_{name}"
            for side in ("source", "destination")
            for name in (
                *("workload", "workload_namespace", "principal", "app", "version"),
                *("canonical_service", "canonical_revision", "cluster"),
            )
        ),
        *("destination_service", "destination_service_name", "destination_service_namespace"),
    }
    assert (labels["reporter"], labels["destination_service"]) == ("source", "example.com")


def test_a_routed_call_counts_for_where_it_went() -> None:
    metrics = MessageMetrics(settings())
    made = call(metrics, Passed(2, 2))
    made.destination = Destination("outbound|80||shop.example", "shop.example", "other")
    metrics.ended(made)
    ((labels, _),) = scraped(metrics)["istio_response_messages_total"]
    assert (labels["destination_service"], labels["destination_service_namespace"]) == (
        "shop.example",
        "other",
    )


def test_who_the_other_side_proved_to_be_is_a_label() -> None:
    metrics = MessageMetrics(settings())
    made = call(metrics, Passed(1, 1))
    made.flow.direction = Direction.INGRESS
    made.flow.security, made.flow.peer_identity = "mutual_tls", SpiffeId("cluster.local", "shop", "web")
    metrics.ended(made)
    ((labels, _),) = scraped(metrics)["istio_request_messages_total"]
    assert labels["source_principal"] == "spiffe://cluster.local/ns/shop/sa/web"
