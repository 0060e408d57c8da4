"""Where a flow is recorded: the sink that the proxy's tracker calls, exactly once at each end of a flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from interceptor.telemetry.request_lines import REQUEST_LINES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from interceptor.model.connection import Flow
    from interceptor.model.request import RequestRecord
    from interceptor.policy.authorization import Shadow
    from interceptor.telemetry.access_log import AccessLog
    from interceptor.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Recorder:
    """Counts a flow and, at its end, writes its line."""

    metrics: Metrics
    access_log: AccessLog

    def opened(self, flow: Flow) -> None:
        """A flow was accepted and registered."""
        self.metrics.opened(flow)

    def closed(self, flow: Flow) -> None:
        """A flow ended; everything recorded of it is final. Where it carried requests, these have their lines."""
        self.metrics.closed(flow)
        if not flow.http:
            self.access_log.write(flow)

    def request(self, record: RequestRecord) -> None:
        """A request is over."""
        self.metrics.request(record)
        if record.logged:
            self.access_log.write_line(REQUEST_LINES[self.access_log.format], record)

    def call(self, record: RequestRecord) -> None:
        """A request whose messages are counted while it lasts has begun."""
        self.metrics.call(record)

    def detected(self, flow: Flow, result: str) -> None:
        """What a flow carries was found out, or was not in time."""
        self.metrics.detected(flow, result)

    def shadowed(self, flow: Flow, shadows: Sequence[Shadow]) -> None:
        """Policies in dry run, or that only audit, have something to say."""
        self.metrics.shadowed(flow, shadows)

    def mirrored(self, *, sent: bool) -> None:
        """A copy of a request was sent, or dropped."""
        self.metrics.mirrored(sent=sent)

    def accept_error(self, number: int) -> None:
        """Accepting failed with this errno."""
        self.metrics.accept_error(number)

    def internal_error(self) -> None:
        """A connection was ended by a fault of ours."""
        self.metrics.internal_error()
