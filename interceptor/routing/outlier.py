"""PURE. Passive health: an endpoint that fails again and again is left out for a while (Istio's outlierDetection).

Source: Envoy's "Outlier detection" page; the defaults are Istio's (DestinationRule, OutlierDetection). Times are seconds
on one monotonic scale.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

    from interceptor.model.address import UpstreamAddress

LONGEST: Final = 300.0  # seconds: Envoy's max_ejection_time


class Outcome(Enum):
    """How one request or connection went, as its endpoint's health sees it."""

    SUCCESS = "success"
    SERVER_ERROR = "5xx"  # any 5xx that is none of the next
    GATEWAY_ERROR = "gateway"  # 502, 503, 504
    LOCAL_FAILURE = "local"  # no connection, a reset, a timeout: no answer of the endpoint's own


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierDetection:
    """When an endpoint is ejected; a count of 0 switches that reason off."""

    consecutive_5xx: int = 5
    consecutive_gateway_errors: int = 0
    consecutive_local_failures: int = 5  # only where ``split_local``
    split_local: bool = False  # else a local failure counts as a gateway error
    interval: float = 10.0
    base_ejection_time: float = 30.0
    max_ejection_percent: float = 10.0


@dataclass(slots=True)
class Record:
    """What is remembered of one endpoint."""

    server_errors: int = 0  # in a row
    gateway_errors: int = 0
    local_failures: int = 0
    ejected_until: float | None = None
    ejections: int = 0  # in a row: each lasts longer than the one before


@dataclass(slots=True)
class Outliers:
    """The endpoints of one cluster that fail, and those that are ejected."""

    settings: OutlierDetection
    records: dict[UpstreamAddress, Record] = field(default_factory=dict)
    ejected: set[UpstreamAddress] = field(default_factory=set)

    def note(
        self, address: UpstreamAddress, outcome: Outcome, now: float, members: Collection[UpstreamAddress]
    ) -> str | None:
        """Take one outcome in; the reason, when this one ejects the endpoint.

        Envoy's bound: one endpoint may always go, where the percentage is not 0, and others as long as no more than
        ``max_ejection_percent`` of the members are ejected then: never all of several where it is below 100.
        """
        record = self.records.get(address)
        if outcome is Outcome.SUCCESS:
            if record is not None:
                record.server_errors = record.gateway_errors = record.local_failures = 0
            return None
        if address not in members:
            return None  # gone in the meantime: nothing to remember
        if record is None:
            record = self.records[address] = Record()
        self._count(record, outcome)
        reason = self._reason(record)
        if reason is None or record.ejected_until is not None:
            return None
        most = self.settings.max_ejection_percent * len(members)
        if not most or (self.ejected and (len(self.ejected) + 1) * 100 > most):
            return None
        record.ejections += 1
        lasts = min(self.settings.base_ejection_time * record.ejections, LONGEST)
        record.ejected_until = now + max(lasts, self.settings.base_ejection_time)
        record.server_errors = record.gateway_errors = record.local_failures = 0
        self.ejected.add(address)
        return reason

    def sweep(self, now: float, members: Collection[UpstreamAddress]) -> list[UpstreamAddress]:
        """Once every ``interval``: those that come back. One that stayed well is forgiven an ejection each time."""
        for address in self.records.keys() - set(members):
            del self.records[address]
            self.ejected.discard(address)
        back = []
        for address, record in self.records.items():
            if record.ejected_until is None:
                record.ejections = max(0, record.ejections - 1)
            elif record.ejected_until <= now:
                record.ejected_until = None
                self.ejected.discard(address)
                back.append(address)
        return back

    def _count(self, record: Record, outcome: Outcome) -> None:
        """Gateway errors are server errors too; a local failure is a gateway error unless they are told apart."""
        if outcome is Outcome.LOCAL_FAILURE and self.settings.split_local:
            record.local_failures += 1
            return
        record.server_errors += 1
        record.gateway_errors = 0 if outcome is Outcome.SERVER_ERROR else record.gateway_errors + 1

    def _reason(self, record: Record) -> str | None:
        """The first limit that is reached."""
        settings = self.settings
        limits = (
            ("consecutive5xxErrors", record.server_errors, settings.consecutive_5xx),
            ("consecutiveGatewayErrors", record.gateway_errors, settings.consecutive_gateway_errors),
            ("consecutiveLocalOriginFailures", record.local_failures, settings.consecutive_local_failures),
        )
        return next((name for name, count, limit in limits if limit and count >= limit), None)
