"""Heads and headers."""

from __future__ import annotations

import pytest

from interceptor.model.http import Headers, RequestHead, ResponseHead, get, get_all, put, remove


def some_headers() -> Headers:
    return [(b"Host", b"a"), (b"X-One", b"1"), (b"x-one", b"2"), (b"Accept", b"*/*")]


def test_the_first_value_of_a_name_in_any_case() -> None:
    assert get(some_headers(), b"x-one") == b"1"
    assert get(some_headers(), b"cookie") is None


def test_every_value_in_order() -> None:
    assert get_all(some_headers(), b"x-one") == [b"1", b"2"]


def test_removing_and_setting_keep_the_order_of_the_others() -> None:
    headers = some_headers()
    remove(headers, b"x-one")
    assert headers == [(b"Host", b"a"), (b"Accept", b"*/*")]
    put(headers, b"HOST", b"b")
    assert headers == [(b"Accept", b"*/*"), (b"HOST", b"b")]


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/a?b=http://c/d", b"/a?b=http://c/d"),
        (b"http://host/a?b", b"/a?b"),
        (b"http://host", b"/"),
        (b"http://host?a=/b", b"/?a=/b"),
        (b"*", b"*"),
        (b"host:443", b"host:443"),
    ],
)
def test_the_path_of_each_form_of_a_target(target: bytes, path: bytes) -> None:
    assert RequestHead(b"GET", target, b"host", b"http", b"1.1", []).path == path


def test_a_copy_may_be_changed() -> None:
    asked = RequestHead(b"GET", b"/", b"a", b"http", b"1.1", some_headers(), line=("", "", None, ""))
    answered = ResponseHead(200, b"OK", some_headers(), written=b"HTTP/1.1 200 OK\r\n")
    for head in (asked, answered):
        copy = head.copy()
        assert copy == head
        copy.headers.clear()
        assert head.headers == some_headers()
    assert asked.copy().line is None
    assert answered.copy().written is None
