from __future__ import annotations

from typing import Any

import pytest

from interceptor.discovery.xds import rate_limits
from interceptor.discovery.xds.rate_limits import HTTP, NETWORK, Limit

BUCKET = {"max_tokens": 3, "tokens_per_fill": 2, "fill_interval": "60s"}
ALL = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
ENFORCED: dict[str, Any] = {"filter_enabled": ALL, "filter_enforced": ALL}


def test_buckets_are_limits() -> None:
    http = {"@type": HTTP, "token_bucket": BUCKET, **ENFORCED}
    network = {"@type": NETWORK, "token_bucket": {"max_tokens": 5, "fill_interval": "1s"}}
    assert list(rate_limits.judge(http, "", http=True)) == []
    assert list(rate_limits.judge(network, "", http=False)) == []
    found = rate_limits.read([http, {"@type": "other"}, network])
    assert found == [Limit("request", 2, 60.0, 3), Limit("connection", 1, 1.0, 5)]
    assert found[0].written() == {"scope": "request", "number": 2, "interval": "60.000000s", "burst": 3}


def test_a_filter_of_requests_without_a_bucket_lets_all_through() -> None:
    assert list(rate_limits.judge({"@type": HTTP, "stat_prefix": "x"}, "", http=True)) == []
    assert rate_limits.read([{"@type": HTTP}]) == []


@pytest.mark.parametrize(
    ("http", "body", "said"),
    [
        (True, {"token_bucket": BUCKET, "descriptors": []}, "x.descriptors: is not honoured"),
        (True, {"token_bucket": BUCKET}, "x.filter_enabled: only 100"),
        (True, {"token_bucket": BUCKET, **ENFORCED, "filter_enforced": {"default_value": {"numerator": 100, "denominator": "MILLION"}}}, "x.filter_enforced: only 100"),
        (True, {"token_bucket": BUCKET, **ENFORCED, "status": {"code": "ServiceUnavailable"}}, "x.status.code:"),
        (True, {"token_bucket": {**BUCKET, "max_tokens": 0}, **ENFORCED}, "x.token_bucket.max_tokens: 0"),
        (True, {"token_bucket": {"fill_interval": "1s"}, **ENFORCED}, "x.token_bucket.max_tokens: is required"),
        (False, {"token_bucket": {"max_tokens": 1}}, "x.token_bucket.fill_interval: is required"),
        (False, {}, "x.token_bucket.max_tokens: is required"),
        (False, {"token_bucket": BUCKET, "share_key": "x"}, "x.share_key:"),
        (False, {"token_bucket": {**BUCKET, "x": 1}}, "x.token_bucket.x:"),
    ],
)  # fmt: skip
def test_what_is_not_honoured_is_said(*, http: bool, body: dict[str, Any], said: str) -> None:
    problems = list(rate_limits.judge(body, "x.", http=http))
    assert any(each.startswith(said) for each in problems), problems
