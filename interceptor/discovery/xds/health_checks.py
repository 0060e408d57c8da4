"""PURE. Envoy's active health checks of a cluster: judged, and as a DestinationRule has them."""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Final

from interceptor.discovery.xds import balancers, protocols
from interceptor.discovery.xds.reading import mapping, mappings, number, seconds, unknown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.discovery.xds.messages import Body

# What only Envoy's connections and its log of checks go by.
_OBSERVED: Final = frozenset(
    {
        *("initial_jitter", "reuse_connection", "event_log_path", "event_logger"),
        *("always_log_health_check_failures", "always_log_health_check_success"),
    }
)
_KINDS: Final = ("http_health_check", "tcp_health_check", "grpc_health_check")
FIELDS: Final = _OBSERVED | {
    *("timeout", "interval", "interval_jitter", "unhealthy_interval"),
    *("unhealthy_threshold", "healthy_threshold", *_KINDS),
}
_HTTP: Final = frozenset({"host", "path", "expected_statuses", "codec_client_type", "method"})
_AUTHORITY: Final = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?", re.ASCII)
_PATH: Final = re.compile(r"/[!-~]*", re.ASCII)


def judge(kind: str, body: Body) -> Iterator[str]:
    """What of them is not honoured."""
    given = mappings(body, "health_checks")
    if len(given) > 1:
        yield "health_checks: several are not honoured by this version"
    if given and kind == "ORIGINAL_DST":
        yield "health_checks: are not honoured in a cluster of the type ORIGINAL_DST"
    for index, each in enumerate(given):
        here = f"health_checks[{index}]."
        yield from unknown(each, FIELDS, here)
        for name in ("timeout", "interval"):
            if not seconds(each, name):
                yield f"{here}{name}: is required, and must be more than 0s"
        for name in ("unhealthy_threshold", "healthy_threshold"):
            if not 1 <= number(each, name, 1) <= 1000:
                yield f"{here}{name}: must be from 1 to 1000"
        if sum(name in each for name in _KINDS) != 1:
            yield f"{here.removesuffix('.')}: needs one of {', '.join(_KINDS)}"
        yield from _http_faults(mapping(each, "http_health_check"), body, f"{here}http_health_check.")
        yield from _tcp_faults(mapping(each, "tcp_health_check"), f"{here}tcp_health_check.")
        yield from _grpc_faults(mapping(each, "grpc_health_check"), f"{here}grpc_health_check.")


def _http_faults(given: Body, body: Body, path: str) -> Iterator[str]:
    yield from unknown(given, _HTTP, path)
    if not given:
        return
    if not _PATH.fullmatch(str(given.get("path", ""))):
        yield f"{path}path: '{given.get('path', '')}' is not a path"
    yield from _authority_faults(given, "host", path)
    codec = "HTTP2" if protocols.speaks_http2(body) else "HTTP1"
    if given.get("codec_client_type", "HTTP1") != codec:
        yield f"{path}codec_client_type: only {codec} is honoured here: checks speak as requests do"
    if given.get("method", "METHOD_UNSPECIFIED") not in {"METHOD_UNSPECIFIED", "GET"}:
        yield f"{path}method: only GET is honoured"
    for index, each in enumerate(mappings(given, "expected_statuses")):
        if not 100 <= number(each, "start", 0) < number(each, "end", 0) <= 600:
            yield f"{path}expected_statuses[{index}]: must hold statuses from 100 to 599"


def _authority_faults(given: Body, name: str, path: str) -> Iterator[str]:
    if given.get(name) and not _AUTHORITY.fullmatch(str(given[name])):
        yield f"{path}{name}: '{given[name]}' is not a host, or a host and a port"


def _tcp_faults(given: Body, path: str) -> Iterator[str]:
    yield from unknown(given, frozenset({"send", "receive"}), path)
    for name, each in (
        ("send", given.get("send")),
        *(("receive", each) for each in mappings(given, "receive")),
    ):
        if each is not None and _hex(mapping({"given": each}, "given")) is None:
            yield f"{path}{name}: needs text, which is hexadecimal, or binary"


def _grpc_faults(given: Body, path: str) -> Iterator[str]:
    yield from unknown(given, frozenset({"service_name", "authority"}), path)
    yield from _authority_faults(given, "authority", path)


def _hex(payload: Body) -> str | None:
    if "binary" in payload:
        try:
            return base64.b64decode(str(payload["binary"]), validate=True).hex() or None
        except binascii.Error:
            return None
    text = str(payload.get("text", ""))
    return text if re.fullmatch(r"([0-9A-Fa-f]{2})+", text, re.ASCII) else None


def written(name: str, body: Body) -> dict[str, object] | None:
    """The check of a cluster that was judged; None where it has none."""
    if not (given := mappings(body, "health_checks")):
        return None
    check = given[0]
    made: dict[str, object] = {
        "timeout": f"{seconds(check, 'timeout') or 0.0:f}s",
        "interval": f"{seconds(check, 'interval') or 0.0:f}s",
        "unhealthyThreshold": number(check, "unhealthy_threshold", 1),
        "healthyThreshold": number(check, "healthy_threshold", 1),
        "healthyPanicThreshold": balancers.panic(body),
    }
    for ours, theirs in {
        "intervalJitter": "interval_jitter",
        "unhealthyInterval": "unhealthy_interval",
    }.items():
        if value := seconds(check, theirs):
            made[ours] = f"{value:f}s"
    authority = name if _AUTHORITY.fullmatch(name) else None  # Envoy: the cluster's name, where none is given
    if "http_health_check" in check:
        made["http"] = _http(mapping(check, "http_health_check"), authority)
    elif "grpc_health_check" in check:
        grpc = mapping(check, "grpc_health_check")
        named = {"serviceName": grpc.get("service_name"), "authority": grpc.get("authority") or authority}
        made["grpc"] = {field: value for field, value in named.items() if value}
    else:
        tcp = mapping(check, "tcp_health_check")
        received = [_hex(each) for each in mappings(tcp, "receive")]
        sent = {"send": _hex(mapping(tcp, "send"))} if "send" in tcp else {}
        made["tcp"] = {**sent, **({"receive": received} if received else {})}
    return made


def _http(given: Body, authority: str | None) -> dict[str, object]:
    made: dict[str, object] = {"path": str(given["path"])}
    if host := given.get("host") or authority:
        made["host"] = host
    if ranges := mappings(given, "expected_statuses"):
        made["expectedStatuses"] = [
            {"start": number(each, "start", 0), "end": number(each, "end", 0)} for each in ranges
        ]
    return made
