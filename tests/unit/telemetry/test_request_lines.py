"""A request's line in the access log: every key, and nothing that a client sent breaks out of its place."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st

from interceptor.model.address import LocalAddress, SocketAddress
from interceptor.model.connection import ResponseFlag
from interceptor.model.http import RequestHead
from interceptor.model.request import RequestRecord
from interceptor.telemetry.request_lines import json_line, text_line
from tests.support.sample_flows import OK, flow
from tests.unit.telemetry.test_access_log import ISTIO_KEYS, OUR_KEYS


def record(**changes: object) -> RequestRecord:
    head = RequestHead(
        b"GET", b"/a?b", b"shop.example", b"http", b"1.1",
        [(b"Host", b"shop.example"), (b"User-Agent", b"curl/8"), (b"X-Request-Id", b"some-id"), (b"X-Forwarded-For", b"1.2.3.4")],
    )  # fmt: skip
    made = RequestRecord(flow(), head, 1790000000.1239, 100.0)
    made.ended, made.status, made.details = 100.25, 200, "via_upstream"
    made.bytes_received, made.bytes_sent, made.service_seconds = 5, 7, 0.2
    made.upstream, made.upstream_local = OK.upstream, OK.upstream_local
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_every_key_is_there_in_istios_order() -> None:
    found = json.loads(json_line(record()))
    assert list(found) == ISTIO_KEYS + OUR_KEYS
    assert found == {
        **dict.fromkeys(ISTIO_KEYS),
        "start_time": "2026-09-21T14:13:20.123Z",
        "method": "GET",
        "path": "/a?b",
        "protocol": "HTTP/1.1",
        "response_code": 200,
        "response_flags": "-",
        "response_code_details": "via_upstream",
        "bytes_received": 5,
        "bytes_sent": 7,
        "duration": 250,
        "upstream_service_time": "200",
        "x_forwarded_for": "1.2.3.4",
        "user_agent": "curl/8",
        "request_id": "some-id",
        "authority": "shop.example",
        "upstream_host": "93.184.216.34:443",
        "upstream_cluster": "outbound|443||example.com",
        "upstream_local_address": "10.0.0.1:50000",
        "downstream_local_address": "93.184.216.34:443",
        "downstream_remote_address": "10.0.0.1:40000",
        "direction": "egress",
        "original_dst": "93.184.216.34:443",
        "peer": "10.0.0.1:40000",
        "peer_identity": None,
        "policy": "ServiceEntry shop/example",
        "relay": "http",
    }


def test_the_text_form_has_the_same() -> None:
    assert text_line(record()).decode() == (
        '[2026-09-21T14:13:20.123Z] "GET /a?b HTTP/1.1" 200 - via_upstream - "-" 5 7 250 200 "1.2.3.4" "curl/8" "some-id" '
        '"shop.example" "93.184.216.34:443" outbound|443||example.com 10.0.0.1:50000 93.184.216.34:443 10.0.0.1:40000 - - '
        'direction=egress original_dst=93.184.216.34:443 peer=10.0.0.1:40000 peer_identity=- policy="ServiceEntry shop/example" '
        "relay=http\n"
    )


def test_what_differs_between_the_requests_of_a_flow_is_told_of_each() -> None:
    first = record()
    second = record(
        flow=first.flow, policy="ns/allow", upstream_local=LocalAddress(SocketAddress("10.0.0.1", 50001)),
        service_seconds=None, fields={"user": 'a"b'}, flag=ResponseFlag.UPSTREAM_FAILURE, details="refused",
    )  # fmt: skip
    third = record(flow=first.flow)
    lines = [json.loads(json_line(each)) for each in (first, second, third)]
    assert [line["policy"] for line in lines] == [
        "ServiceEntry shop/example",
        "ns/allow",
        "ServiceEntry shop/example",
    ]
    assert [line["upstream_local_address"] for line in lines] == [
        "10.0.0.1:50000",
        "10.0.0.1:50001",
        "10.0.0.1:50000",
    ]
    assert lines[1]["fields"] == {"user": 'a"b'}
    assert lines[1]["upstream_service_time"] is None
    assert [line["upstream_transport_failure_reason"] for line in lines] == [None, "refused", None]


@pytest.mark.parametrize("line", [json_line, text_line])
@given(
    method=st.binary(max_size=10),
    path=st.binary(max_size=30),
    agent=st.binary(max_size=30),
    details=st.text(max_size=20),
)
def test_nothing_breaks_out_of_its_place(
    line: Callable[[RequestRecord], bytes], method: bytes, path: bytes, agent: bytes, details: str
) -> None:
    head = RequestHead(
        method, path, agent, b"http", b"1.0", [(b"user-agent", agent), (b"x-request-id", path)]
    )
    said = line(record(head=head, details=details))
    assert said.count(b"\n") == 1
    assert all(0x20 <= byte < 0x7F for byte in said[:-1])
    if line is json_line:
        found = json.loads(said)
        assert (found["method"], found["user_agent"]) == (method.decode("latin-1"), agent.decode("latin-1"))


@pytest.mark.parametrize("line", [json_line, text_line])
def test_an_id_that_we_gave_is_told_where_the_head_has_none(line: Callable[[RequestRecord], bytes]) -> None:
    head = RequestHead(b"GET", b"/", b"a", b"http", b"1.1", [])
    given, none = (line(record(head=head, request_id=each)) for each in (b"given", None))
    assert b'"given"' in given
    assert given != none
    assert (b'"request_id":null' in none) is (line is json_line)
