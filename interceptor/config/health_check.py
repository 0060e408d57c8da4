"""Active health checks, by Envoy's terms (config.core.v3.HealthCheck): which service, how it is asked, when it counts as healthy."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from interceptor.config.addresses import host_name
from interceptor.config.base import Duration, Fault, Port, Strict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def _path(value: str) -> str:
    if not re.fullmatch(r"/[!-~]*", value, re.ASCII):
        raise ValueError(f"'{value}' is not a path; write it like /healthz")
    return value


def _authority(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?", value, re.ASCII):
        raise ValueError(f"'{value}' is not a host, or a host and a port")
    return value


def _hex(value: str) -> str:
    if not re.fullmatch(r"([0-9A-Fa-f]{2})+", value, re.ASCII):
        raise ValueError(
            f"'{value}' is not bytes in hexadecimal; write them like '50494e47', with the quotes"
        )
    return value


Authority = Annotated[str, Field(max_length=255), AfterValidator(_authority)]
Hex = Annotated[str, Field(max_length=2048), AfterValidator(_hex)]


class StatusRange(Strict):
    """Statuses from ``start`` up to and without ``end``, as Envoy has it."""

    start: int = Field(ge=100, le=599)
    end: int = Field(ge=101, le=600)


class HttpCheck(Strict):
    """A GET, by HTTP/2 where the service's port is declared so; healthy by its status."""

    path: Annotated[str, Field(max_length=2048), AfterValidator(_path)]
    host: Authority | None = None  # the service's own where none is given
    expectedStatuses: tuple[StatusRange, ...] = Field(  # noqa: N815 (the document's spelling, here and below)
        default=(StatusRange(start=200, end=201),), strict=False
    )

    @property
    def statuses(self) -> frozenset[int]:
        """Those of a healthy one's answer."""
        return frozenset(status for each in self.expectedStatuses for status in range(each.start, each.end))


class TcpCheck(Strict):
    """A connection; what is sent on it, and what must come in answer, one after the other, is bytes in hexadecimal."""

    send: Hex | None = None
    receive: tuple[Hex, ...] = Field(default=(), max_length=16, strict=False)


class GrpcCheck(Strict):
    """``grpc.health.v1.Health/Check`` for a service of the server's, or for all of it."""

    serviceName: Annotated[str, Field(max_length=1024)] = ""  # noqa: N815
    authority: Authority | None = None


class Check(Strict):
    """How endpoints are asked. Intervals are from the end of a check to the next one."""

    interval: Duration = 10.0
    unhealthyInterval: Duration | None = None  # noqa: N815 (of an endpoint that is unhealthy)
    intervalJitter: Duration | None = None  # noqa: N815 (at most so much more, by chance)
    timeout: Duration = 1.0
    unhealthyThreshold: int = Field(default=3, ge=1, le=1000)  # noqa: N815 (checks in a row)
    healthyThreshold: int = Field(default=2, ge=1, le=1000)  # noqa: N815
    healthyPanicThreshold: int | None = Field(default=None, ge=0, le=100)  # noqa: N815 (per cent)
    http: HttpCheck | None = None
    tcp: TcpCheck | None = None
    grpc: GrpcCheck | None = None

    def faults(self) -> Iterator[Fault]:
        """One way of asking, and ranges that hold something."""
        if sum(each is not None for each in (self.http, self.tcp, self.grpc)) != 1:
            yield Fault((), "needs one of http, tcp and grpc; write tcp: {} to have it connect only")
        for index, each in enumerate(self.http.expectedStatuses if self.http else ()):
            if each.end <= each.start:
                message = "must be more than start: it is the first status that is not expected any more"
                yield Fault(("http", "expectedStatuses", index, "end"), message)


class HealthCheck(Check):
    """One service's."""

    host: Annotated[str, AfterValidator(host_name)]
    port: Port | None = None  # of the service; None: all of its ports


def faults(checks: Sequence[HealthCheck], at: tuple[str | int, ...]) -> Iterator[Fault]:
    """Those of all of them; a port of a host is checked once."""
    seen: dict[tuple[str, int | None], int] = {}
    for index, check in enumerate(checks):
        for fault in check.faults():
            yield Fault((*at, index, *fault.location), fault.message)
        first = seen.setdefault((check.host, check.port), index)
        if first != index:
            which = "without a port" if check.port is None else f"with the port {check.port}"
            message = f"'{check.host}' {which} is given twice, first in {'.'.join(map(str, at))}[{first}]"
            yield Fault((*at, index, "host"), message)
