from __future__ import annotations

import pytest

from interceptor.middleware.credentials import named_lines, refused
from interceptor.model.connection import ResponseFlag

SECRET = "s3cret-value"


def test_a_refusal_says_how_to_ask() -> None:
    reply = refused("the key is wrong", "details", b"ApiKey")
    assert (reply.status, reply.flag) == (401, ResponseFlag.EXTERNAL_DENIAL)
    assert reply.headers == [(b"www-authenticate", b"ApiKey")]
    assert reply.body == b"interceptor: the key is wrong\n"


def test_comments_and_empty_lines_are_left_out() -> None:
    assert list(named_lines(b"# who\n\n a:b:c \r\n", "x")) == [(3, "a", "b:c")]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (SECRET.encode(), "line 1 is not of the form"),
        (f"a:{SECRET}\n:{SECRET}".encode(), "line 2 is not of the form"),
        (b"a:", "line 1 is not of the form"),
        (f"a:{SECRET}\na:{SECRET}2".encode(), "line 2 gives the name of line 1 again"),
        (f"\xe4:{SECRET}".encode(), "line 1: a name is of printable ASCII"),
        (f"a\x01b:{SECRET}".encode(), "line 1: a name is of printable ASCII"),
        (b"a:\xff" + SECRET.encode(), "not UTF-8"),
    ],
)
def test_what_is_wrong_is_said_by_line_and_without_the_secret(data: bytes, found: str) -> None:
    with pytest.raises(ValueError, match=found) as raised:
        list(named_lines(data, "of the form name:value"))
    assert SECRET not in str(raised.value)
