from __future__ import annotations

import pytest

from interceptor.model.http import RequestHead
from interceptor.proxy.http.mirror import copied, shadowed


@pytest.mark.parametrize(
    ("authority", "shadow"),
    [
        (b"a.example", b"a.example-shadow"),
        (b"a.example:8080", b"a.example-shadow:8080"),
        (b"[2001:db8::1]", b"[2001:db8::1]"),
        (b"[2001:db8::1]:80", b"[2001:db8::1]:80"),
        (b"", b""),
    ],
)
def test_the_host_says_that_it_is_a_copy(authority: bytes, shadow: bytes) -> None:
    headers = [(b"Host", authority)] if authority else []
    made = copied(shadowed(RequestHead(b"GET", b"/x", authority, b"http", b"1.1", headers)), 0)
    assert made.authority == shadow
    assert made.headers == ([(b"host", shadow)] if shadow else [])


def test_a_body_has_its_length_and_nothing_of_how_it_came() -> None:
    headers = [
        (b"Host", b"a"), (b"Expect", b"100-continue"), (b"Trailer", b"x"), (b"Content-Length", b"9"),
        (b"x-envoy-attempt-count", b"1"), (b"x-a", b"1"),
    ]  # fmt: skip
    original = RequestHead(b"POST", b"/", b"a", b"http", b"1.1", headers)
    made = copied(original, 5)
    assert made.headers == [(b"x-a", b"1"), (b"host", b"a"), (b"content-length", b"5")]
    assert (b"content-length", b"0") in copied(original, 0).headers
    assert original.headers[0] == (b"Host", b"a")
