from __future__ import annotations

import pytest

from interceptor.errors import ConfigError
from interceptor.model.identity import SpiffeId
from interceptor.state.question import Question, read


def asked(*pairs: str) -> Question:
    given: dict[str, list[str]] = {}
    for pair in pairs:
        name, _, value = pair.partition(" ")
        given.setdefault(name, []).append(value)
    return read(given)


def test_a_connection_to_the_app() -> None:
    question = asked("from 10.0.0.1", "to-port 8080", "identity spiffe://a/ns/b/sa/c", "sni x")
    assert (question.peer, question.port, question.to) == ("10.0.0.1", 8080, None)
    assert (question.identity, question.sni, question.request) == (SpiffeId("a", "b", "c"), "x", None)


@pytest.mark.parametrize(
    ("to", "found"),
    [
        ("10.0.0.1:443", ("10.0.0.1", 443)),
        ("[FD00::1]:443", ("fd00::1", 443)),
        ("API.example.com:443", ("api.example.com", 443)),
    ],
)
def test_a_connection_of_the_app(to: str, found: tuple[str, int]) -> None:
    question = asked(f"to {to}")
    assert (question.to, question.port) == found


def test_a_request_is_asked_about_where_anything_of_one_is_given() -> None:
    request = asked("to-port 1", "header X-A: b", "header c:d:e").request
    assert request is not None
    assert (request.method, request.target, request.authority) == (b"GET", b"/", b"")
    assert request.headers == [(b"X-A", b"b"), (b"c", b"d:e")]
    question = asked(
        *("to-port 1", "method PUT", "path /a?b", "host h", "jwt-claim iss=i", "jwt-claim groups=a"),
        *("jwt-claim groups=b", "jwt-claim groups=c=d"),
    )
    assert question.request is not None
    assert (question.request.method, question.request.target, question.request.authority) == (
        b"PUT",
        b"/a?b",
        b"h",
    )
    assert question.claims == {"iss": "i", "groups": ["a", "b", "c=d"]}
    nested = asked("to-port 1", "jwt-claim a[b][c]=x", "jwt-claim a[b][c]=y", "jwt-claim a[d]=z")
    assert nested.claims == {"a": {"b": {"c": ["x", "y"]}, "d": "z"}}


@pytest.mark.parametrize(
    ("pairs", "found"),
    [
        ((), "say where the connection goes"),
        (("to-port 1", "to a:1"), "say where the connection goes"),
        (("to-port 0",), "to-port: '0' is not a port"),
        (("to-port x",), "to-port: 'x' is not a port"),
        (("to-port \u0661",), "is not a port"),
        (("to-port 1", "to-port 2"), "to-port is given twice"),
        (("to a",), "to: 'a' has no port"),
        (("to a b:1",), "to: 'a b' is not a host name"),
        (("to-port 1", "from x"), "from: 'x' is not an IP address"),
        (("to-port 1", "identity a/ns/b"), "identity: 'a/ns/b' is not of the form spiffe://"),
        (("to-port 1", "header x"), "header: 'x' is not a header"),
        (("to-port 1", "header :x"), "header: ':x' is not a header"),
        (("to-port 1", "jwt-claim x"), "jwt-claim: 'x' is not a claim"),
        (("to-port 1", "jwt-claim =x"), "jwt-claim: '=x' is not a claim"),
        (("to-port 1", "jwt-claim a[b=x"), "jwt-claim: 'a[b=x' is not a claim"),
        (("to-port 1", "jwt-claim a=x", "jwt-claim a[b]=x"), "jwt-claim: 'a' is a text and holds others"),
        (("to-port 1", "jwt-claim a[b]=x", "jwt-claim a=x"), "jwt-claim: 'a' holds others and is no text"),
        (("to-port 1", "port 1"), "there is no field 'port'; known are: from,"),
    ],
)
def test_what_is_no_question_is_refused(pairs: tuple[str, ...], found: str) -> None:
    with pytest.raises(ConfigError) as caught:
        asked(*pairs)
    [problem] = caught.value.problems
    assert found in problem


def test_every_problem_is_told() -> None:
    with pytest.raises(ConfigError) as caught:
        asked("to x", "from y", "header z")
    assert len(caught.value.problems) == 3
