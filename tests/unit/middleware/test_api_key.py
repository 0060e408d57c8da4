from __future__ import annotations

import hashlib

import pytest

from interceptor.middleware.api_key import ApiKeyFilter, parse_keys
from interceptor.model.http import Headers, ResponseHead, get_all
from tests.support.exchanges import an_exchange

FILE = f"# clients\nshop:k-1\nbilling:{{SHA256}}{hashlib.sha256(b'k-2').hexdigest()}\n".encode()
PEPPER = bytes(32)


def one(
    *,
    header: bytes | None = b"x-api-key",
    query: bytes | None = None,
    told: bytes | None = None,
    forward: bool = False,
) -> ApiKeyFilter:
    keys = parse_keys(FILE, PEPPER)
    return ApiKeyFilter("door", lambda: keys, header, query, told, forward)


@pytest.mark.parametrize(("key", "client"), [(b"k-1", "shop"), (b"k-2", "billing")])
def test_a_known_key_lets_pass_and_goes_no_further(key: bytes, client: str) -> None:
    exchange = an_exchange([(b"X-API-Key", key), (b"X-Client", b"root"), (b"a", b"b")])
    assert one(told=b"x-client").request(exchange) is None
    assert exchange.principal == client
    assert exchange.request.headers == [(b"a", b"b"), (b"x-client", client.encode())]
    one().response(exchange, ResponseHead(200, b"", []))


def test_the_key_goes_on_where_that_is_asked_for() -> None:
    exchange = an_exchange([(b"x-api-key", b"k-1")])
    assert one(forward=True).request(exchange) is None
    assert exchange.request.headers == [(b"x-api-key", b"k-1")]


@pytest.mark.parametrize(
    ("headers", "word"),
    [
        ([], "missing"),
        ([(b"x-api-key", b"k-3")], "wrong"),
        ([(b"x-api-key", b"")], "wrong"),
        ([(b"x-api-key", b"k-1"), (b"x-api-key", b"k-1")], "wrong"),
        ([(b"x-api-key", hashlib.sha256(b"k-2").hexdigest().encode())], "wrong"),
    ],
)
def test_anything_else_is_refused(headers: Headers, word: str) -> None:
    exchange = an_exchange([*headers, (b"x-client", b"root")])
    reply = one(told=b"x-client").request(exchange)
    assert reply is not None
    assert (reply.status, reply.details) == (401, f"api_key_auth_access_denied{{door,{word}}}")
    assert get_all(exchange.request.headers, b"x-client") == []


@pytest.mark.parametrize(
    ("target", "forwarded"),
    [
        (b"/a?key=k-1", b"/a"),
        (b"/a?x=1&key=k-1&y=2", b"/a?x=1&y=2"),
        (b"/a?x&%6bey=k%2D1", b"/a?x"),
        (b"/?key=k-1&keys=2", b"/?keys=2"),
    ],
)
def test_a_key_in_the_query_is_taken_out_of_it(target: bytes, forwarded: bytes) -> None:
    exchange = an_exchange(target=target)
    assert one(header=None, query=b"key").request(exchange) is None
    assert exchange.request.target == forwarded


@pytest.mark.parametrize("target", [b"/", b"/?key=", b"/?key=k-3", b"/?key=k-1&key=k-1", b"/?KEY=k-1"])
def test_a_wrong_key_in_the_query_is_refused(target: bytes) -> None:
    exchange = an_exchange(target=target)
    assert one(header=None, query=b"key").request(exchange) is not None
    assert exchange.request.target == target


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"a:{SHA256}xyz", "line 1: a hashed key is"),
        (b"a:{MD5}00", "line 1: a hashed key is"),
        (b"a:same\nb:same", "line 2 gives the key of another client"),
    ],
)
def test_a_file_that_is_wrong_is_refused(data: bytes, found: str) -> None:
    with pytest.raises(ValueError, match=found):
        parse_keys(data, PEPPER)


def test_nothing_shows_a_key() -> None:
    assert repr(parse_keys(FILE, PEPPER)) == "Keys()"
