"""PURE. How Envoy's clusters speak HTTP, and how long their connections are kept: judged, and as a DestinationRule has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from interceptor.discovery.xds.reading import mapping, number, seconds, unknown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.discovery.xds.messages import Body

PROTOCOLS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_NAMES: Final = "upstream_http_protocol_options"
_COMMON: Final = "common_http_protocol_options"
COMMON: Final = frozenset({"idle_timeout", "max_connection_duration", "max_requests_per_connection"})
_ENDLESS: Final = 2**30  # streams of a connection: more than any has, and what Istio writes


def judge(kind: str, body: Body) -> Iterator[str]:
    """What of it is not honoured."""
    options = mapping(body, "typed_extension_protocol_options")
    path = "typed_extension_protocol_options."
    yield from unknown(options, frozenset({PROTOCOLS}), path)
    given = mapping(options, PROTOCOLS)
    kinds = frozenset({"explicit_http_config", "use_downstream_protocol_config"})
    here = f"{path}{PROTOCOLS}."
    yield from unknown(given, frozenset({"@type", _NAMES, _COMMON, *kinds}), here)
    yield from unknown(mapping(given, _NAMES), frozenset({"auto_san_validation"}), f"{here}{_NAMES}.")
    yield from _common_faults(kind, mapping(given, _COMMON), f"{here}{_COMMON}")
    for name in sorted(kinds & given.keys()):
        inside = mapping(given, name)
        yield from unknown(
            inside, frozenset({"http_protocol_options", "http2_protocol_options"}), f"{here}{name}."
        )
        for version in sorted(inside):
            streams, at = mapping(inside, version), f"{here}{name}.{version}."
            yield from unknown(streams, frozenset({"max_concurrent_streams"}), at)
            if number(streams, "max_concurrent_streams", _ENDLESS) < 1:
                yield f"{at}max_concurrent_streams: must be at least 1"


def _common_faults(kind: str, body: Body, path: str) -> Iterator[str]:
    yield from unknown(body, COMMON, f"{path}.")
    for name in ("idle_timeout", "max_connection_duration"):
        if seconds(body, name) == 0:
            yield f"{path}.{name}: must be more than 0s"
    if body and kind == "ORIGINAL_DST":
        yield f"{path}: is not honoured in a cluster of the type ORIGINAL_DST; the Sidecar's spec.timeouts hold there"


def speaks_http2(body: Body) -> bool:
    """Whether a cluster that was judged is spoken to in HTTP/2."""
    return "http2_protocol_options" in mapping(_of(body), "explicit_http_config")


def checks_names(body: Body) -> bool:
    """Whether the names of its certificates are compared with the one that it is asked for."""
    return mapping(_of(body), _NAMES).get("auto_san_validation") is True


def written(body: Body) -> tuple[dict[str, object], dict[str, object]]:
    """What a connection pool says of it, about requests and about connections."""
    options = _of(body)
    common = mapping(options, _COMMON)
    http: dict[str, object] = {}
    tcp: dict[str, object] = {}
    if idle := seconds(common, "idle_timeout"):
        http["idleTimeout"] = f"{idle:f}s"
    if most := number(common, "max_requests_per_connection", 0):
        http["maxRequestsPerConnection"] = most
    if longest := seconds(common, "max_connection_duration"):
        tcp["maxConnectionDuration"] = f"{longest:f}s"
    for name in ("explicit_http_config", "use_downstream_protocol_config"):
        streams = mapping(mapping(options, name), "http2_protocol_options")
        if (at_once := number(streams, "max_concurrent_streams", _ENDLESS)) < _ENDLESS:
            http["maxConcurrentStreams"] = at_once
    return http, tcp


def _of(body: Body) -> Body:
    return mapping(mapping(body, "typed_extension_protocol_options"), PROTOCOLS)
