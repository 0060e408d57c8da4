"""The faults that a VirtualService injects: delays and aborted requests."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

from pydantic import BeforeValidator

from interceptor.config.base import Duration, Strict
from interceptor.config.route_words import Percent, Status  # noqa: TC001 (pydantic reads them)


class Percentage(Strict):
    """A share in per cent."""

    value: Percent = 0.0


class Delay(Strict):
    """Requests that are held back."""

    unsupported: ClassVar[frozenset[str]] = frozenset({"exponentialDelay", "percent"})

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

    unsupported: ClassVar[frozenset[str]] = frozenset({"http2Error"})

    percentage: Percentage = Percentage(value=100.0)
    httpStatus: Status | None = None  # noqa: N815
    grpcStatus: GrpcStatus | None = None  # noqa: N815


class HTTPFaultInjection(Strict):
    """Faults to try a client with."""

    delay: Delay | None = None
    abort: Abort | None = None
