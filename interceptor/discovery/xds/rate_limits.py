"""PURE. Envoy's local rate limits, of requests and of connections, as RateLimit documents have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.discovery.xds.reading import mapping, number, seconds, unknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from interceptor.discovery.xds.messages import Body

HTTP: Final = "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
NETWORK: Final = "type.googleapis.com/envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit"
_FIELDS: Final = {
    True: frozenset({"@type", "stat_prefix", "status", "token_bucket", "filter_enabled", "filter_enforced"}),
    False: frozenset({"@type", "stat_prefix", "token_bucket"}),
}
_MOST: Final = 1_000_000_000


class Limit(NamedTuple):
    """So many every so many seconds, and so many at once."""

    scope: str
    number: int
    seconds: float
    burst: int

    def written(self) -> dict[str, object]:
        """As a document has it."""
        interval = f"{self.seconds:f}s"
        return {"scope": self.scope, "number": self.number, "interval": interval, "burst": self.burst}


def judge(body: Body, path: str, *, http: bool) -> Iterator[str]:
    """What of a filter is not honoured."""
    yield from unknown(body, _FIELDS[http], path)
    bucket, here = mapping(body, "token_bucket"), f"{path}token_bucket."
    yield from unknown(bucket, frozenset({"max_tokens", "tokens_per_fill", "fill_interval"}), here)
    if bucket or not http:
        for name in ("max_tokens", "tokens_per_fill"):
            if not 1 <= number(bucket, name, 1) <= _MOST:
                yield f"{here}{name}: {number(bucket, name, 1)} is not honoured; known are 1 to {_MOST}"
        if "max_tokens" not in bucket:
            yield f"{here}max_tokens: is required"
        if not seconds(bucket, "fill_interval"):
            yield f"{here}fill_interval: is required, and must be more than 0s"
    for name in ("filter_enabled", "filter_enforced") if bucket and http else ():
        share = mapping(mapping(body, name), "default_value")
        if number(share, "numerator", 0) != 100 or share.get("denominator", "HUNDRED") != "HUNDRED":
            yield f"{path}{name}: only 100 of HUNDRED is honoured"
    if mapping(body, "status").get("code", "TooManyRequests") != "TooManyRequests":
        yield f"{path}status.code: only TooManyRequests is honoured"


def read(configs: Iterable[Body]) -> list[Limit]:
    """The limits of filters that were judged; one without a bucket lets everything through."""
    scopes = {HTTP: "request", NETWORK: "connection"}
    found = []
    for each in configs:
        bucket = mapping(each, "token_bucket")
        if (scope := scopes.get(str(each.get("@type")))) is not None and bucket:
            interval = seconds(bucket, "fill_interval")
            assert interval is not None
            found.append(
                Limit(scope, number(bucket, "tokens_per_fill", 1), interval, number(bucket, "max_tokens", 1))
            )
    return found
