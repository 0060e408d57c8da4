from __future__ import annotations

import pytest

from interceptor.discovery.xds import headers
from interceptor.discovery.xds.headers import Operations


def option(name: str, value: str, **more: object) -> dict[str, object]:
    return {"header": {"key": name, "value": value}, **more}


def test_a_level_sets_adds_and_removes() -> None:
    said: list[str] = []
    body = {
        "request_headers_to_add": [
            option("X-A", "100%%"),
            option("x-b", "b", append_action="OVERWRITE_IF_EXISTS_OR_ADD"),
            option("x-c", "c", append=False),
        ],
        "request_headers_to_remove": ["X-D"],
    }
    made = headers.read(body, "request", "", said)
    assert made.written() == {"set": {"x-b": "b", "x-c": "c"}, "add": {"x-a": "100%"}, "remove": ["x-d"]}
    assert said == []
    assert headers.read(body, "response", "", said).written() == {}


def test_a_later_level_has_the_last_word() -> None:
    first = Operations({"a": "1", "b": "1"}, {"c": "1", "d": "1", "e": "1"}, ["z"])
    second = Operations({"a": "2", "d": "2"}, {"c": "2"}, ["b", "e"])
    made = headers.together((first, second))
    assert made == Operations({"a": "2", "d": "2"}, {"c": "1,2"}, ["z", "b", "e"])


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (option("x y", "1"), "header.key: 'x y' is not a header's name"),
        (option("Host", "1"), "header.key: 'host' frames or routes"),
        (option("x", "a\nb"), "header.value: has a line break"),
        (option("x", "%REQ(a)%"), "header.value: formats"),
        (option("x", ""), "header.value: is empty"),
        (option("x", "1", append_action="ADD_IF_ABSENT"), "append_action: ADD_IF_ABSENT"),
        (option("x", "1", other=1), "other: is not honoured"),
    ],
)
def test_what_is_not_honoured_is_said(given: dict[str, object], problem: str) -> None:
    said: list[str] = []
    headers.read({"request_headers_to_add": [given]}, "request", "", said)
    assert any(each.startswith(f"request_headers_to_add[0].{problem}") for each in said), said


def test_a_header_given_twice_is_said() -> None:
    said: list[str] = []
    headers.read({"request_headers_to_add": [option("x", "1"), option("X", "2")]}, "request", "", said)
    assert said == [
        "request_headers_to_add[1].header.key: 'x' is given twice, which is not honoured by this version"
    ]
