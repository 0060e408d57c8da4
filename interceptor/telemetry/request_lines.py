"""The access log's line of a request: Istio's keys as Envoy fills them for HTTP, then ours."""

from __future__ import annotations

import re
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quoted
from typing import TYPE_CHECKING, Final

from interceptor.model.connection import ResponseFlag
from interceptor.telemetry.access_log import address_text, start_time, text_or_null, word

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.model.address import SocketAddress
    from interceptor.model.connection import Flow
    from interceptor.model.identity import SpiffeId
    from interceptor.model.request import RequestRecord

# Where Envoy says that the upstream's connection, and not its answer, was what went wrong.
_TRANSPORT: Final = frozenset(
    (ResponseFlag.UPSTREAM_FAILURE, ResponseFlag.UPSTREAM_RESET, ResponseFlag.UPSTREAM_CLOSED)
)
_PLAIN: Final = re.compile(rb"[ !#-\[\]-~]*").fullmatch  # what JSON writes as it is


def json_line(record: RequestRecord) -> bytes:
    """One JSON object."""
    head, flow = record.head, record.flow
    names = {name.lower(): value for name, value in head.headers}
    get = names.get
    transport = text_or_null(record.details) if record.flag in _TRANSPORT else "null"
    tail = _tail(flow, record)
    fields = "" if record.fields is None else f',"fields":{_object(record.fields)}'
    return (
        f'{{"start_time":"{start_time(record.started_at)}","method":{_known(head.method)},"path":{_json(head.path)},'
        f'"protocol":"{_protocol(head.version)}","response_code":{record.status},'
        f'"response_flags":"{record.flag.value}","response_code_details":{text_or_null(record.details)},'
        f'"connection_termination_details":null,"bytes_received":{record.bytes_received},'
        f'"bytes_sent":{record.bytes_sent},"duration":{_milliseconds(record.ended - record.began)},'
        f'"upstream_service_time":{_service_time(record)},"x_forwarded_for":{_known(get(b"x-forwarded-for"))},'
        f'"user_agent":{_known(get(b"user-agent"))},"request_id":{_json(get(b"x-request-id"))},'
        f'"authority":{_known(head.authority or None)},{tail[0]}"upstream_transport_failure_reason":{transport},{tail[1]}'
        f"{fields}}}\n"
    ).encode("ascii")


def text_line(record: RequestRecord) -> bytes:
    """The same in the order of Istio's text format; ``-`` is what is absent."""
    head, flow = record.head, record.flow
    names = {name.lower(): value for name, value in head.headers}
    transport = record.details if record.flag in _TRANSPORT else "-"
    upstream, local = record.upstream or flow.upstream, record.upstream_local or flow.upstream_local
    peer = word(str(flow.peer))
    service = "-" if record.service_seconds is None else str(_milliseconds(record.service_seconds))
    quoted_names = (b"x-forwarded-for", b"user-agent", b"x-request-id")
    said = " ".join(quoted(names.get(name, b"-").decode("latin-1")) for name in quoted_names)
    request = f"{_text(head.method)} {_text(head.path)} {_protocol(head.version)}"
    return (
        f"[{start_time(record.started_at)}] {quoted(request)} {record.status} {record.flag.value} {word(record.details)} - "
        f"{quoted(transport)} {record.bytes_received} {record.bytes_sent} {_milliseconds(record.ended - record.began)} "
        f"{service} {said} {quoted(_text(head.authority) or '-')} {quoted(str(upstream or '-'))} "
        f"{word(flow.upstream_cluster)} {word(str(local or '-'))} {word(str(flow.original_dst or '-'))} {peer} "
        f"{word(flow.server_name or '-')} - direction={flow.direction.value} original_dst={word(str(flow.original_dst or '-'))} "
        f"peer={peer} peer_identity={flow.peer_identity or '-'} policy={word(record.policy or flow.policy)} relay=http\n"
    ).encode("ascii")


REQUEST_LINES: Final[dict[str, Callable[[RequestRecord], bytes]]] = {"json": json_line, "text": text_line}


def _tail(flow: Flow, record: RequestRecord) -> tuple[str, str]:
    """What is the same for all requests of a flow to one connection of the upstream's."""
    return _flow_text(
        *(record.upstream or flow.upstream, record.upstream_local or flow.upstream_local),
        *(flow.upstream_cluster, flow.original_dst, flow.peer, flow.server_name, flow.direction.value),
        *(flow.peer_identity, record.policy or flow.policy),
    )


@lru_cache(maxsize=1024)
def _flow_text(  # noqa: PLR0913, PLR0917 (what a line is made of; the cache compares them)
    upstream: SocketAddress | None,
    local: SocketAddress | None,
    cluster: str,
    original_dst: SocketAddress | None,
    peer: SocketAddress,
    server_name: str | None,
    direction: str,
    identity: SpiffeId | None,
    policy: str,
) -> tuple[str, str]:
    peer_text = address_text(peer)
    before = (
        f'"upstream_host":{address_text(upstream)},"upstream_cluster":{quoted(cluster)},'
        f'"upstream_local_address":{address_text(local)},"downstream_local_address":{address_text(original_dst)},'
        f'"downstream_remote_address":{peer_text},"requested_server_name":{text_or_null(server_name or "-")},'
        '"route_name":null,'
    )
    after = (
        f'"direction":"{direction}","original_dst":{address_text(original_dst)},"peer":{peer_text},'
        f'"peer_identity":{text_or_null(str(identity or "-"))},"policy":{text_or_null(policy)},"relay":"http"'
    )
    return before, after


@lru_cache(maxsize=256)  # what clients say again and again
def _known(value: bytes | None) -> str:
    return _json(value)


def _json(value: bytes | None) -> str:
    if value is None:
        return "null"
    return f'"{value.decode("ascii")}"' if _PLAIN(value) else quoted(value.decode("latin-1"))


def _text(value: bytes) -> str:
    return value.decode("latin-1")


def _object(fields: dict[str, str]) -> str:
    return "{" + ",".join(f"{quoted(name)}:{quoted(value)}" for name, value in fields.items()) + "}"


def _protocol(version: bytes) -> str:
    return f"HTTP/{version.decode('ascii')}"


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _service_time(record: RequestRecord) -> str:
    return "null" if record.service_seconds is None else f'"{_milliseconds(record.service_seconds)}"'
