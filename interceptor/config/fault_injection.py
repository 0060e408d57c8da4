"""The faults that a VirtualService injects: delays and aborted requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Final

from pydantic import BeforeValidator

from interceptor.config.base import Duration, Strict
from interceptor.config.route_words import Percent, Status  # noqa: TC001 (pydantic reads them)

if TYPE_CHECKING:
    from collections.abc import Mapping


class Percentage(Strict):
    """A share in per cent."""

    value: Percent = 0.0


class Delay(Strict):
    """Requests that are held back."""

    refused: ClassVar[Mapping[str, str]] = {
        "exponentialDelay": "Istio has no use for it either: give fixedDelay",
        "percent": "Istio has percentage: {value: ...} in its place",
    }

    percentage: Percentage = Percentage(value=100.0)
    fixedDelay: Duration  # noqa: N815


# gRPC's statuscodes.md, by number.
GRPC_STATUSES: Final = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *(
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
    ),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)


def _grpc_status(value: object) -> object:
    if value in GRPC_STATUSES:
        return GRPC_STATUSES.index(str(value))
    raise ValueError(f"{value!r} is not a status of gRPC; use one of {', '.join(GRPC_STATUSES)}")


GrpcStatus = Annotated[int, BeforeValidator(_grpc_status)]


class Abort(Strict):
    """Requests that are answered with an error."""

    refused: ClassVar[Mapping[str, str]] = {
        "http2Error": "Istio has no use for it either: give httpStatus or grpcStatus"
    }

    percentage: Percentage = Percentage(value=100.0)
    httpStatus: Status | None = None  # noqa: N815
    grpcStatus: GrpcStatus | None = None  # noqa: N815


class HTTPFaultInjection(Strict):
    """Faults to try a client with."""

    delay: Delay | None = None
    abort: Abort | None = None
