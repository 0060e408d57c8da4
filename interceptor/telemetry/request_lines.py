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

    from interceptor.model.connection import Flow
    from interceptor.model.http import RequestHead
    from interceptor.model.request import Destination, RequestRecord

# Where Envoy says that the upstream's connection, and not its answer, was what went wrong.
_TRANSPORT: Final = frozenset(
    (ResponseFlag.UPSTREAM_FAILURE, ResponseFlag.UPSTREAM_RESET, ResponseFlag.UPSTREAM_CLOSED)
)
_PLAIN: Final = re.compile(rb"[ !#-\[\]-~]*").fullmatch  # what JSON writes as it is


def json_line(record: RequestRecord) -> bytes:
    """One JSON object."""
    flow, flag = record.flow, record.flag
    asked, client, request_id, authority = record.head.line or _of_head(record.head)
    cluster, downstream, ours = _of_flow(flow, record.policy or flow.policy, record.destination)
    service = record.service_seconds
    transport = text_or_null(record.details) if flag in _TRANSPORT else "null"
    fields = "" if record.fields is None else f',"fields":{_object(record.fields)}'
    return (
        f'{{"start_time":"{start_time(record.started_at)}",{asked}{_of_answer(record.status, flag, record.details)}'
        f'"bytes_received":{record.bytes_received},"bytes_sent":{record.bytes_sent},'
        f'"duration":{int((record.ended - record.began) * 1000)},"upstream_service_time":'
        f"{_service_time(service)},{client}"
        f'"request_id":{request_id or _json(record.request_id)},{authority}{_address(record.upstream or flow.upstream)},'
        f'{cluster}"upstream_local_address":{_address(record.upstream_local or flow.upstream_local)},{downstream}'
        f'"upstream_transport_failure_reason":{transport},{ours}'
        f"{fields}}}\n"
    ).encode("ascii")


def text_line(record: RequestRecord) -> bytes:
    """The same in the order of Istio's text format; ``-`` is what is absent."""
    head, flow = record.head, record.flow
    names = {name.lower(): value for name, value in head.headers}
    names.setdefault(b"x-request-id", record.request_id or b"-")
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
        f"{word(_cluster(record))} {word(str(local or '-'))} {word(str(flow.original_dst or '-'))} {peer} "
        f"{word(flow.server_name or '-')} {word(_route(record))} direction={flow.direction.value} original_dst={word(str(flow.original_dst or '-'))} "
        f"peer={peer} peer_identity={flow.peer_identity or '-'} policy={word(record.policy or flow.policy)} relay=http\n"
    ).encode("ascii")


REQUEST_LINES: Final[dict[str, Callable[[RequestRecord], bytes]]] = {"json": json_line, "text": text_line}


def _of_head(head: RequestHead) -> tuple[str, str, str | None, str]:
    """What is the same for all requests with one head: before the answer, before the id, the id and after it."""
    names = {name.lower(): value for name, value in head.headers}
    get = names.get
    request_id = get(b"x-request-id")
    head.line = made = (
        f'"method":{_json(head.method)},"path":{_json(head.path)},"protocol":"{_protocol(head.version)}",',
        f'"x_forwarded_for":{_json(get(b"x-forwarded-for"))},"user_agent":{_known(get(b"user-agent"))},',
        None if request_id is None else _json(request_id),
        f'"authority":{_known(head.authority or None)},"upstream_host":',
    )
    return made


@lru_cache(maxsize=256)
def _of_answer(status: int, flag: ResponseFlag, details: str) -> str:
    return (
        f'"response_code":{status},"response_flags":"{flag.value}","response_code_details":{text_or_null(details)},'
        '"connection_termination_details":null,'
    )


def _of_flow(flow: Flow, policy: str, destination: Destination | None) -> tuple[str, str, str]:
    """What is the same for all requests of a flow to one destination: after the upstream's address, after our own, and at the end."""
    line = flow.line
    key = policy if destination is None else f"{policy} {destination.cluster} {destination.route}"
    if line is not None and line[0] == key:
        return line[1]
    peer, original_dst = address_text(flow.peer), address_text(flow.original_dst)
    made = (
        f'"upstream_cluster":{quoted(flow.upstream_cluster if destination is None else destination.cluster)},',
        (
            f'"downstream_local_address":{original_dst},"downstream_remote_address":{peer},'
            f'"requested_server_name":{text_or_null(flow.server_name or "-")},'
            f'"route_name":{text_or_null((destination and destination.route) or "-")},'
        ),
        (
            f'"direction":"{flow.direction.value}","original_dst":{original_dst},"peer":{peer},'
            f'"peer_identity":{text_or_null(str(flow.peer_identity or "-"))},"policy":{text_or_null(policy)},"relay":"http"'
        ),
    )
    flow.line = key, made
    return made


_address = lru_cache(maxsize=1024)(
    address_text
)  # of connections in the pool, which serve one flow after the other


def _cluster(record: RequestRecord) -> str:
    return record.flow.upstream_cluster if record.destination is None else record.destination.cluster


def _route(record: RequestRecord) -> str:
    return "-" if record.destination is None else record.destination.route or "-"


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


def _service_time(seconds: float | None) -> str:
    return "null" if seconds is None else f'"{int(seconds * 1000)}"'
