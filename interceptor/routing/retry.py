"""PURE. Whether a request that failed is tried again, when, and whether there is budget for it.

Sources: Envoy's router filter (``x-envoy-retry-on``, retry budgets) and Istio's HTTPRetry, whose defaults these are. Time and
randomness are arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from interceptor.config.virtual_service import HTTPRetry
    from interceptor.model.chance import Chance

GATEWAY_ERRORS: Final = frozenset((502, 503, 504))
# RFC 9110, 9.2.2. Others are tried again only where the upstream never saw them, or where a document says so by name.
IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))
GRPC_STATUSES: Final = {
    "cancelled": 1,
    "deadline-exceeded": 4,
    "resource-exhausted": 8,
    "internal": 13,
    "unavailable": 14,
}


class Failure(Enum):
    """How an attempt failed that got no answer."""

    CONNECT = "connect-failure"  # no connection: the upstream saw nothing
    REFUSED_STREAM = "refused-stream"  # RST_STREAM with REFUSED_STREAM: it promised to have done nothing
    BEFORE_REQUEST = "reset-before-request"  # ended before the request was written
    RESET = "reset"  # ended, or timed out, after that


UNSEEN: Final = frozenset((Failure.CONNECT, Failure.REFUSED_STREAM, Failure.BEFORE_REQUEST))

CONDITIONS: Final = frozenset(
    (
        "5xx",
        "gateway-error",
        "retriable-4xx",
        "retriable-status-codes",
        *(failure.value for failure in Failure),
        *GRPC_STATUSES,
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and after what. ``attempts`` are those after the first."""

    attempts: int = 2
    conditions: frozenset[str] = frozenset(("connect-failure", "refused-stream", "unavailable", "cancelled"))
    status_codes: frozenset[int] = frozenset()  # for ``retriable-status-codes``
    per_try_timeout: float | None = None
    base_interval: float = 0.025
    other_endpoints: bool = True  # than those that were tried are preferred
    other_places: bool = False  # the same of priorities and localities
    explicit: bool = False  # a document names the conditions: they hold for any method


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one attempt at a request ended: a failure, or an answer."""

    failure: Failure | None = None
    status: int | None = None
    grpc_status: int | None = None


def reason_to_retry(policy: RetryPolicy, method: bytes, attempt: Attempt) -> str | None:
    """The condition by which this attempt may be tried again, if one holds."""
    safe = policy.explicit or method in IDEMPOTENT or attempt.failure in UNSEEN
    if not safe and attempt.grpc_status is None:
        return None
    return next((each for each in sorted(policy.conditions) if _holds(each, policy, attempt)), None)


def retried_below_500(policy: RetryPolicy) -> frozenset[int]:
    """The statuses below 500 after which there may be another attempt at a request that is not gRPC."""
    return frozenset(status for status in (409, *policy.status_codes) if status < 500 and policy.attempts)


def _holds(condition: str, policy: RetryPolicy, attempt: Attempt) -> bool:
    status = attempt.status
    match condition:
        case "5xx":  # Envoy: an upstream that answers nothing at all counts as 5xx
            return attempt.failure is not None or (status is not None and status >= 500)
        case "gateway-error":
            return status in GATEWAY_ERRORS
        case "retriable-4xx":
            return status == 409
        case "retriable-status-codes":
            return status in policy.status_codes
        case "reset":
            return attempt.failure in {Failure.RESET, Failure.BEFORE_REQUEST, Failure.REFUSED_STREAM}
        case _ if condition in GRPC_STATUSES:
            return attempt.grpc_status == GRPC_STATUSES[condition]
        case _:
            return attempt.failure is not None and attempt.failure.value == condition


def backoff(policy: RetryPolicy, attempt: int, rng: Chance) -> float:
    """Seconds to wait before the attempt with this number, 1 for the first retry: Envoy's jittered exponential."""
    longest = min(policy.base_interval * (2**attempt - 1), policy.base_interval * 10)
    return rng.uniform(0, longest)


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """Retries in flight at once, as a share of the requests in flight: a dying upstream is not buried under retries."""

    percent: float = 20.0
    minimum: int = 3

    def allows(self, active_requests: int, active_retries: int) -> bool:
        """Whether one more retry may begin."""
        return active_retries < max(self.minimum, active_requests * self.percent / 100)


def retry_policy(asked: HTTPRetry | None) -> RetryPolicy:
    """What a route asks for; without anything Istio's own: two more attempts where the upstream saw nothing."""
    default = RetryPolicy()
    if asked is None:
        return default
    named = asked.retryOn.split(",") if asked.retryOn else sorted(default.conditions)
    codes = frozenset(int(name) for name in named if name.isdigit())
    conditions = {name for name in named if not name.isdigit()}
    return RetryPolicy(
        attempts=asked.attempts,
        conditions=frozenset(conditions | ({"retriable-status-codes"} if codes else set())),
        status_codes=codes,
        per_try_timeout=asked.perTryTimeout,
        base_interval=default.base_interval if asked.backoff is None else asked.backoff,
        other_endpoints=asked.retryIgnorePreviousHosts or asked.retryRemoteLocalities,
        other_places=asked.retryRemoteLocalities,
        explicit=asked.retryOn is not None,
    )
