"""PURE. Active health: what the checks of one endpoint come to, and when the next one is due.

Source: Envoy's "Health checking" page. The first check decides at once. After that it takes ``unhealthyThreshold`` checks in
a row that got no answer, or one answer that says so, until an endpoint is unhealthy, and ``healthyThreshold`` good ones until
it is healthy again. One that was not checked yet is used. Times are seconds on one monotonic scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from interceptor.model.health import Outcome

if TYPE_CHECKING:
    from interceptor.config.health_check import Check
    from interceptor.model.chance import Chance
    from interceptor.model.health import Result

AT_ONCE: Final = 256  # endpoints; more are not checked at once but spread: a large registry is no burst


@dataclass(slots=True)
class Health:
    """What is known of one endpoint."""

    healthy: bool | None = None  # None: not checked yet
    streak: int = 0  # checks in a row that speak for the other
    details: str = "-"  # of the last check

    def note(self, result: Result, check: Check) -> bool:
        """Take one result in; whether the endpoint is now what it was not before. One nobody checked was healthy."""
        self.details = result.details
        good = result.outcome is Outcome.SUCCESS
        if self.healthy is good:
            self.streak = 0
            return False
        self.streak += 1
        limit = check.healthyThreshold if good else check.unhealthyThreshold
        if self.healthy is not None and self.streak < limit and result.outcome is not Outcome.FAILURE:
            return False
        before, self.healthy, self.streak = self.healthy, good, 0
        return good if before is False else not good


def pause(check: Check, health: Health, rng: Chance) -> float:
    """Seconds until an endpoint is checked again."""
    seconds = check.interval
    if health.healthy is False and check.unhealthyInterval is not None:
        seconds = check.unhealthyInterval
    return seconds + (rng.uniform(0, check.intervalJitter) if check.intervalJitter else 0.0)


def first_pause(check: Check, number: int, rng: Chance) -> float:
    """Seconds until the first check of one of so many endpoints: at once, but of many spread over half an interval."""
    return 0.0 if number <= AT_ONCE else rng.uniform(0, check.interval / 2)
