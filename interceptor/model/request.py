"""A request as it is recorded: what was asked, what was answered, and what happened in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from interceptor.model.connection import ResponseFlag

if TYPE_CHECKING:
    from interceptor.model.address import LocalAddress, UpstreamAddress
    from interceptor.model.connection import Flow
    from interceptor.model.http import RequestHead
    from interceptor.model.workload import Workload

VIA_UPSTREAM = "via_upstream"  # Envoy's word for a response that was not ours


class Passing(Protocol):
    """A request in its filters."""

    def finished(self) -> None:
        """It is over, and is recorded next."""


class Messages(Protocol):
    """How many messages of gRPC have passed; they grow while the request lasts."""

    @property
    def requests(self) -> int: ...

    @property
    def responses(self) -> int: ...


class Destination(NamedTuple):
    """Where a request went, when it was routed by itself and not with its flow."""

    cluster: str
    service: str
    namespace: str
    route: str | None = None  # its name


class RequestRecord:
    """One request. Byte counts are of bodies, from the client's point of view, as in Envoy's access log.

    Times: ``started_at`` is Unix time in seconds; the others are in seconds on the monotonic clock's scale.
    """

    __slots__ = (
        "asked", "began", "bytes_received", "bytes_sent", "destination", "details", "ended", "fields", "flag", "flow", "grpc_status", "head",
        "logged", "messages", "passing", "policy", "request_id", "service_seconds", "started_at", "status", "upstream", "upstream_local", "workload",
    )  # fmt: skip

    def __init__(self, flow: Flow, head: RequestHead, started_at: float, began: float) -> None:
        self.flow = flow
        self.head = head
        self.started_at = started_at
        self.began = began
        self.ended = began
        self.status = 0  # 0: the client was gone before there was an answer
        self.flag = ResponseFlag.NONE
        self.details = "-"  # why it was answered so
        self.bytes_received = 0
        self.bytes_sent = 0
        self.upstream: UpstreamAddress | None = None
        self.upstream_local: LocalAddress | None = None
        self.service_seconds: float | None = None  # from the request's last byte to the response's head
        self.grpc_status: str | None = None
        self.request_id: bytes | None = None  # that we gave it, where it is not in the head
        self.policy: str | None = None  # that decided on this request; else the flow's
        # What its policies were asked, each time: the ServiceEntry on egress, and what was known then.
        self.asked: tuple[tuple[str | None, object], ...] = ()
        self.fields: dict[str, str] | None = None  # what filters add to the log
        self.destination: Destination | None = None  # None: the flow's
        self.passing: Passing | None = None  # where it meets filters
        self.messages: Messages | None = None  # where they are counted
        self.workload: Workload | None = None  # what the other side said of itself, where it is of the mesh
        self.logged = True  # where filters do not keep it out of the log
