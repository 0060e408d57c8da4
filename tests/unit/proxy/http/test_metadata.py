from __future__ import annotations

from dataclasses import replace

from interceptor.model.connection import Direction, Flow
from interceptor.model.http import RequestHead, ResponseHead
from interceptor.model.request import RequestRecord
from interceptor.model.workload import SILENT, Workload
from interceptor.protocol.peer_metadata import ID, VALUE, decode_untrusted
from interceptor.proxy.http.metadata import Metadata, metadata_of
from interceptor.routing.destinations import Decision
from interceptor.routing.security import UpstreamTls
from tests.support.documents import SIDECAR, configuration
from tests.support.sample_flows import OK

PEER = metadata_of(configuration().sidecar)
OTHER = Metadata("shop/other", {"WORKLOAD_NAME": "other", "NAMESPACE": "shop"})
MESH = Decision((), "c", "s", "p", tls=UpstreamTls("p", "mesh", None, None))
OUTSIDE = Decision((), "c", "s", "p", tls=UpstreamTls("p", "simple", None, None))


def record(
    direction: Direction, security: str, *headers: tuple[bytes, bytes], flow: Flow | None = None
) -> RequestRecord:
    made = flow or replace(OK, direction=direction, security=security)  # type: ignore[arg-type]  # one of its words
    return RequestRecord(made, RequestHead(b"GET", b"/", b"a", b"http", b"1.1", list(headers)), 0.0, 0.0)


def answered(of: RequestRecord, decision: Decision, *headers: tuple[bytes, bytes]) -> ResponseHead:
    head = ResponseHead(200, b"OK", [(b"a", b"1"), *headers])
    return PEER.response(of, head, decision)


def test_a_workload_is_told_by_istios_names() -> None:
    text = SIDECAR.replace("name: app", "name: app, labels: {app: shop, version: v3, secret: x}")
    said = metadata_of(configuration(f"{text}spec: {{meshId: m}}\n").sidecar)
    value = dict(said.headers)[VALUE]
    assert decode_untrusted(value) == Workload("app", "default", "shop", "v3", "shop", "v3")
    assert dict(said.headers)[ID] == b"default/app"
    assert said.lines == b"%b: default/app\r\n%b: %b\r\n" % (ID, VALUE, value)


def test_who_asks_is_noted_once_for_a_connection_and_answered_in_kind() -> None:
    asked = record(Direction.INGRESS, "mutual_tls", *OTHER.headers)
    PEER.begun(asked)
    assert asked.workload == Workload("other", "shop", canonical_service="other", canonical_revision="latest")
    again = record(Direction.INGRESS, "mutual_tls", (VALUE, b"else"), flow=asked.flow)
    PEER.begun(again)
    assert again.workload is asked.workload
    forged = answered(again, OUTSIDE, *OTHER.headers)
    assert forged.headers == [(b"a", b"1"), *PEER.headers]


def test_who_says_nothing_or_is_of_no_mesh_is_told_nothing() -> None:
    for asked in (record(Direction.INGRESS, "mutual_tls"), record(Direction.INGRESS, "none", *OTHER.headers)):
        PEER.begun(asked)
        assert asked.workload in {None, SILENT}
        assert answered(asked, OUTSIDE).headers == [(b"a", b"1")]


def test_an_upstream_of_the_mesh_is_believed_and_its_word_goes_no_further() -> None:
    asked = record(Direction.EGRESS, "mutual_tls")
    PEER.begun(asked)
    assert PEER.tells(asked.flow, MESH)
    assert answered(
        asked, MESH, (b"X-Envoy-Peer-Metadata", OTHER.headers[1][1]), OTHER.headers[0]
    ).headers == [(b"a", b"1")]
    assert asked.workload is not None
    assert asked.workload.workload == "other"
    silent = record(Direction.EGRESS, "mutual_tls")
    assert answered(silent, MESH).headers == [(b"a", b"1")]
    assert silent.workload is None


def test_an_upstream_outside_is_neither_told_nor_believed() -> None:
    asked = record(Direction.EGRESS, "tls")
    for decision in (OUTSIDE, Decision((), "c", "s", "p")):
        assert not PEER.tells(asked.flow, decision)
        answered(asked, decision, *OTHER.headers)
        assert asked.workload is None
