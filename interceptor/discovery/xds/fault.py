"""PURE. Envoy's injected faults of a route, as a VirtualService has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from interceptor.config.fault_injection import GRPC_STATUSES
from interceptor.discovery.xds.reading import mapping, number, seconds, share, unknown

if TYPE_CHECKING:
    from interceptor.discovery.xds.messages import Body

FILTER: Final = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault"
FIELDS: Final = frozenset({"@type", "delay", "abort"})
_DELAY: Final = frozenset({"fixed_delay", "percentage"})
_ABORT: Final = frozenset({"http_status", "grpc_status", "percentage"})


def read(body: Body, path: str, said: list[str]) -> dict[str, object] | None:
    """A fault; None where it does nothing. Without a percentage Envoy injects none."""
    said += unknown(body, FIELDS, path)
    delay, abort = mapping(body, "delay"), mapping(body, "abort")
    said += unknown(delay, _DELAY, f"{path}delay.")
    said += unknown(abort, _ABORT, f"{path}abort.")
    made: dict[str, object] = {}
    if delay:
        if not (pause := seconds(delay, "fixed_delay")):
            said.append(f"{path}delay.fixed_delay: is required, and must be more than 0s")
        made["delay"] = {
            "fixedDelay": f"{pause or 0.0:f}s",
            "percentage": {"value": share(delay, "percentage")},
        }
    if abort:
        answer = _answer(abort, f"{path}abort.", said)
        made["abort"] = {**answer, "percentage": {"value": share(abort, "percentage")}}
    return made or None


def _answer(body: Body, path: str, said: list[str]) -> dict[str, object]:
    if "grpc_status" in body:
        status = number(body, "grpc_status", 0)
        if status < len(GRPC_STATUSES):
            return {"grpcStatus": GRPC_STATUSES[status]}
        said.append(f"{path}grpc_status: {status} is none of gRPC's")
        return {}
    status = number(body, "http_status", 0)
    if not 200 <= status <= 599:
        said.append(f"{path}http_status: {status} is not honoured; known are 200 to 599")
    return {"httpStatus": status}
