from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given, strategies as st

from interceptor.middleware.basic import BasicFilter, Password, parse_users
from interceptor.model.http import Headers, ResponseHead, get, get_all
from tests.support.exchanges import an_exchange

WORD = "corréct horse"


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def sha(word: str = WORD) -> str:
    return "{SHA}" + encoded(hashlib.sha1(word.encode()).digest())


def basic(user: str, word: str = WORD) -> bytes:
    return b"Basic " + base64.b64encode(f"{user}:{word}".encode())


def one(text: str | None = None, *, header: bytes | None = None, forward: bool = False) -> BasicFilter:
    users = parse_users((text or f"ann:{sha()}").encode())
    return BasicFilter("door", lambda: users, b'Basic realm="x"', header, forward)


def test_the_right_password_lets_pass_and_goes_no_further() -> None:
    exchange = an_exchange([(b"Authorization", basic("ann")), (b"X-User", b"root")])
    assert one(header=b"x-user").request(exchange) is None
    assert exchange.principal == "ann"
    assert exchange.request.headers == [(b"x-user", b"ann")]
    one().response(exchange, ResponseHead(200, b"", []))


def test_credentials_go_on_where_that_is_asked_for() -> None:
    exchange = an_exchange([(b"authorization", basic("ann"))])
    assert one(forward=True).request(exchange) is None
    assert get(exchange.request.headers, b"authorization") == basic("ann")


@pytest.mark.parametrize(
    ("headers", "word"),
    [
        ([], "missing"),
        ([(b"authorization", basic("ann", "wrong"))], "wrong"),
        ([(b"authorization", basic("bob"))], "wrong"),
        ([(b"authorization", basic("", ""))], "wrong"),
        ([(b"authorization", basic("ann")), (b"authorization", basic("ann"))], "wrong"),
        ([(b"authorization", b"Bearer " + basic("ann")[6:])], "wrong"),
        ([(b"authorization", b"Basic " + base64.b64encode(b"ann"))], "wrong"),
        ([(b"authorization", b"Basic ?")], "wrong"),
        ([(b"authorization", b"Basic " + base64.b64encode(b"\xff:x"))], "wrong"),
    ],
)
def test_anything_else_is_refused(headers: Headers, word: str) -> None:
    exchange = an_exchange([*headers, (b"x-user", b"root")])
    reply = one(header=b"x-user").request(exchange)
    assert reply is not None
    assert (reply.status, reply.details) == (401, f"basic_auth_access_denied{{door,{word}}}")
    assert reply.headers == [(b"www-authenticate", b'Basic realm="x"')]
    assert get_all(exchange.request.headers, b"x-user") == []
    assert exchange.principal is None


@pytest.mark.parametrize("scheme", ["{SHA}", "{SSHA}", "{SHA256}", "{SSHA256}"])
def test_every_kind_of_hash_is_understood(scheme: str) -> None:
    salt = b"salt" if "SS" in scheme else b""
    digest = hashlib.new("sha256" if "256" in scheme else "sha1", WORD.encode() + salt).digest()
    given_one = one(f"ann:{scheme}{encoded(digest + salt)}")
    assert given_one.request(an_exchange([(b"authorization", basic("ann"))])) is None
    assert given_one.request(an_exchange([(b"authorization", basic("ann", "x"))])) is not None


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("plain", "of no known kind; use one of {SHA}"),
        ("$2y$05$bcrypt", "of no known kind"),
        ("{SHA}!!!", "does not have the length"),
        ("{SHA}AAAA", "does not have the length"),
        ("{SHA}" + encoded(bytes(21)), "does not have the length"),
        ("{SSHA}" + encoded(bytes(20)), "does not have the length"),
        ("{SHA256}" + encoded(bytes(20)), "does not have the length"),
    ],
)
def test_a_hash_that_cannot_be_is_refused(value: str, found: str) -> None:
    with pytest.raises(ValueError, match=f"line 1.*{found}") as raised:
        parse_users(f"ann:{value}".encode())
    assert value not in str(raised.value)


def test_nothing_shows_a_hash() -> None:
    shown = repr(Password("sha1", b"SALT", b"HASH")) + repr(parse_users(f"ann:{sha()}".encode()))
    assert "SALT" not in shown
    assert "HASH" not in shown
    assert sha()[5:10] not in shown


@given(st.binary(max_size=60))
def test_no_header_is_an_accident(value: bytes) -> None:
    assert one().request(an_exchange([(b"authorization", b"Basic " + value)])) is not None
