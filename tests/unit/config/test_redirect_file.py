"""A YAML file of flags."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from interceptor.config.redirect import Given
from interceptor.config.redirect_file import from_yaml


def test_values_and_lists_are_texts_with_their_line() -> None:
    source = from_yaml(
        "# rules\nproxy-uid: 1337\nexclude-egress-ports: [22, 8000-8100]\nipv6: off\n", "r.yaml"
    )
    assert source.problems == ()
    assert source.given == {
        "proxy-uid": Given("1337", "r.yaml:2: proxy-uid"),
        "exclude-egress-ports": Given("22,8000-8100", "r.yaml:3: exclude-egress-ports"),
        "ipv6": Given("off", "r.yaml:4: ipv6"),
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- a\n", "r.yaml: is not a mapping"),
        ("just text", "r.yaml: is not a mapping"),
        ("a: [", "r.yaml:1: is not one YAML document"),
        ("wait: 1\n---\nwait: 2\n", "r.yaml:2: is not one YAML document"),
        ("wait: \x00", "r.yaml: is not one YAML document"),
        ("\nproxyuid: 1\n", "r.yaml:2: proxyuid: there is no such flag"),
        ("root:$6$secret:19000:: 1\n", "r.yaml:1: there is no such flag"),
        ("[a, b]: 1\n", "r.yaml:1: there is no such flag"),
        ("wait: 1\nwait: 2\n", "r.yaml:2: wait: is given twice"),
        ("wait: {a: 1}\n", "r.yaml:1: wait: must be a value"),
        ("wait: [[1]]\n", "r.yaml:1: wait: must be a value"),
    ],
)
def test_what_is_wrong_is_said_with_the_line(text: str, says: str) -> None:
    (problem,) = from_yaml(text, "r.yaml").problems
    assert problem.startswith(says)


def test_an_empty_file_gives_nothing() -> None:
    assert from_yaml("# nothing\n", "r.yaml").given == {}


@given(st.text(max_size=200))
def test_no_text_is_more_than_a_problem(text: str) -> None:
    from_yaml(text, "r.yaml")
