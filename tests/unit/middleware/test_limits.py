from __future__ import annotations

import pytest

from interceptor.middleware.api import Connection, Exchange
from interceptor.middleware.limits import (
    LONGEST_PART,
    BodyLimit,
    KeyOf,
    RateLimit,
    peer_key,
    too_large,
    written_key,
)
from interceptor.model.connection import ResponseFlag
from interceptor.model.http import ResponseHead
from interceptor.policy.rate_limit import Key, Limiter, LocalStore, Quota
from tests.support.exchanges import a_flow, an_exchange

ID = "spiffe://cluster.local/ns/shop/sa/web"


def limit(
    by: tuple[str, ...],
    quota: Quota,
    overrides: dict[Key, Quota] | None = None,
    now: float = 0.0,
) -> RateLimit:
    limiter = Limiter(LocalStore(100), total=None, per_key=quota, overrides=overrides or {})
    return RateLimit("calls", limiter, KeyOf(by), lambda: now)


def test_the_answer_names_the_limit_and_says_when_to_come_back() -> None:
    one = limit(("peer",), Quota.of(1, 90))
    assert one.request(an_exchange()) is None
    reply = one.request(an_exchange())
    assert reply is not None
    assert (reply.status, reply.flag) == (429, ResponseFlag.RATE_LIMITED)
    assert reply.headers == [(b"retry-after", b"90")]
    assert reply.body == b"interceptor: rate limit 'calls' is exceeded\n"
    assert reply.details == "local_rate_limited{calls}"


def test_coming_back_is_never_told_to_be_at_once() -> None:
    one = limit(("peer",), Quota.of(1000, 1, burst=1))
    assert one.request(an_exchange()) is None
    reply = one.request(an_exchange())
    assert reply is not None
    assert reply.headers == [(b"retry-after", b"1")]


def test_connections_are_refused_by_the_same_rule() -> None:
    one = limit(("peer",), Quota.of(1, 60))
    assert one.connection(Connection(a_flow())) is None
    refusal = one.connection(Connection(a_flow()))
    assert refusal is not None
    assert (refusal.reason, "'calls'" in refusal.details) == ("rate_limit", True)
    assert one.connection(Connection(a_flow(peer="10.0.0.2"))) is None


@pytest.mark.parametrize(
    ("by", "same", "other"),
    [
        ("peer", an_exchange(), an_exchange(flow=a_flow(peer="10.0.0.2"))),
        ("peer", an_exchange(flow=a_flow(peer="fd00::1")), an_exchange(flow=a_flow(peer="fd00:0:0:1::1"))),
        ("identity", an_exchange(flow=a_flow(identity=ID)), an_exchange(flow=a_flow(identity=f"{ID}2"))),
        ("header:x-tenant", an_exchange([(b"X-Tenant", b"a")]), an_exchange([(b"x-tenant", b"b")])),
        ("header:x-tenant", an_exchange(), an_exchange([(b"x-tenant", b"b")])),
        ("pathPrefix", an_exchange(target=b"/api/1?x"), an_exchange(target=b"/")),
    ],
)
def test_each_key_has_a_limit_of_its_own(by: str, same: Exchange, other: Exchange) -> None:
    one = limit((by,), Quota(10, 1))
    if by == "pathPrefix":
        limiter = Limiter(LocalStore(100), total=None, per_key=Quota(10, 1), overrides={})
        one = RateLimit("calls", limiter, KeyOf((by,), (b"/api",)), lambda: 0.0)
    assert one.request(same) is None
    assert one.request(same) is not None
    assert one.request(other) is None
    one.response(other, ResponseHead(200, b"", []))


def test_a_principal_is_a_key() -> None:
    one = limit(("principal",), Quota(10, 1))
    exchange = an_exchange()
    exchange.principal = "issuer/me"
    assert one.request(exchange) is None
    assert one.request(exchange) is not None
    assert one.request(an_exchange()) is None


def test_the_longest_prefix_counts() -> None:
    of = KeyOf(("pathPrefix",), (b"/api/login", b"/api"))
    assert of.exchange(an_exchange(target=b"/api/login?x")) == (b"/api/login",)
    assert of.exchange(an_exchange(target=b"http://h/api/x")) == (b"/api",)
    assert of.exchange(an_exchange(target=b"/")) == (b"",)


@pytest.mark.parametrize(
    "target",
    [b"//api/x", b"/%61pi/x", b"/./api/x", b"/a/../api/x", b"/%2fapi", b"/\\api", b"/api?a=/../b", b"/api%"],
)
def test_a_path_written_otherwise_has_no_limit_of_its_own(target: bytes) -> None:
    assert KeyOf(("pathPrefix",), (b"/api",)).exchange(an_exchange(target=target)) == (b"/api",)


def test_a_connections_key_has_peer_and_identity() -> None:
    assert KeyOf(("peer", "identity")).flow(a_flow(identity=ID)) == (
        b"10.0.0.1", b"cluster.local/ns/shop/sa/web"
    )  # fmt: skip
    assert KeyOf(("identity",)).flow(a_flow()) == (b"",)


def test_an_ipv6_peer_has_a_whole_network_to_come_from() -> None:
    assert peer_key("fd00::1") == peer_key("fd00::ffff:1") == b"fd00::/64"
    assert peer_key("10.0.0.1") == b"10.0.0.1"


def test_a_long_part_costs_no_more_than_its_hash() -> None:
    of = KeyOf(("header:a",))
    long, other = (of.exchange(an_exchange([(b"a", b"x" * size)])) for size in (5000, 5001))
    assert long != other
    assert len(long[0]) == LONGEST_PART


def test_an_override_is_written_as_the_key_is_made() -> None:
    by = ("peer", "header:x-tenant")
    key = written_key(by, ("fd00::9", "big"))
    one = limit(by, Quota(10, 1), {key: Quota(10, 3)})
    exchange = an_exchange([(b"x-tenant", b"big")], flow=a_flow(peer="fd00::1"))
    assert [one.request(exchange) is None for _ in range(4)] == [True, True, True, False]


def test_a_body_whose_length_is_announced_is_refused_at_once() -> None:
    one = BodyLimit(10)
    assert one.request(an_exchange([(b"Content-Length", b"11")])) == too_large(10)
    reply = too_large(10)
    assert (reply.status, reply.details) == (413, "request_payload_too_large")


def test_any_other_is_counted_while_it_comes() -> None:
    exchange = an_exchange([(b"content-length", b"10")])
    assert BodyLimit(10).request(exchange) is None
    assert exchange.body_limit == 10
    assert BodyLimit(20).request(exchange) is None
    assert exchange.body_limit == 10
    BodyLimit(5).response(exchange, ResponseHead(200, b"", []))
