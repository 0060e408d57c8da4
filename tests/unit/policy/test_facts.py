from __future__ import annotations

import pytest

from interceptor.policy.facts import hosts, remote_address
from interceptor.policy.match import Address
from tests.support.policies import connection, request


def test_a_connection_says_who_where_and_by_what() -> None:
    facts = connection(sni="web.shop")
    assert (facts.principal, facts.namespace) == ("mesh.example/ns/shop/sa/reader", "shop")
    assert (facts.account, facts.port, facts.sni) == ("shop/reader", "8080", "web.shop")
    assert facts.address("10.0.0.1") is facts.address("10.0.0.1") == Address(4, 0x0A000001)


def test_a_peer_without_a_certificate_is_nobody() -> None:
    facts = connection(identity=None)
    assert (facts.principal, facts.namespace, facts.account) == ("", "", "")


@pytest.mark.parametrize(
    ("authority", "names"),
    [
        ("Web.Shop", ("web.shop",)),
        ("web.shop:8080", ("web.shop:8080", "web.shop")),
        ("web.shop.:80", ("web.shop.:80", "web.shop.", "web.shop")),
        ("[fd00::1]:80", ("[fd00::1]:80", "[fd00::1]")),
        ("[fd00::1]", ("[fd00::1]",)),
        ("", ("",)),
    ],
)
def test_a_host_has_several_names(authority: str, names: tuple[str, ...]) -> None:
    assert hosts(authority) == names


def test_a_request_says_what_it_asks_for() -> None:
    facts = request("POST", "http://h/a?b", "H", [(b"X-A", b"1"), (b"x-a", b"2"), (b"b", b"")])
    assert (facts.method, facts.path, facts.hosts, facts.principal) == ("POST", "/a", ("h",), "")
    assert (facts.header(b"x-a"), facts.header(b"b"), facts.header(b"c")) == (("1,2",), ("",), ())


def test_a_token_makes_a_principal() -> None:
    assert request(claims={"iss": "i", "sub": "s"}).principal == "i/s"
    assert request(claims={"iss": "i"}).principal == ""


@pytest.mark.parametrize(
    ("values", "trusted", "found"),
    [
        ([], 0, "10.0.0.1"),
        ([b"1.1.1.1"], 0, "1.1.1.1"),
        ([b"1.1.1.1, 2.2.2.2"], 0, "2.2.2.2"),
        ([b"1.1.1.1", b"2.2.2.2 "], 1, "1.1.1.1"),
        ([b"1.1.1.1"], 1, "10.0.0.1"),
        ([b"nonsense"], 0, "10.0.0.1"),
        ([b"::ffff:1.2.3.4"], 0, "1.2.3.4"),
        ([b"FD00::1"], 0, "fd00::1"),
    ],
)
def test_the_client_is_the_address_left_of_the_trusted_proxies(
    values: list[bytes], trusted: int, found: str
) -> None:
    headers = [(b"X-Forwarded-For", value) for value in values]
    assert remote_address(headers, "10.0.0.1", trusted) == found
