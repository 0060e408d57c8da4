from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from interceptor.policy.paths import Normalization, normalise, normalised
from tests.support.policies import head

MERGE: Normalization = "MERGE_SLASHES"
DECODE: Normalization = "DECODE_AND_MERGE_SLASHES"


@pytest.mark.parametrize(
    ("path", "base", "merged", "decoded"),
    [
        ("/", "/", "/", "/"),
        ("/a/b.c/~d", "/a/b.c/~d", "/a/b.c/~d", "/a/b.c/~d"),
        ("/a/../b", "/b", "/b", "/b"),
        ("/a/./b/.", "/a/b/", "/a/b/", "/a/b/"),
        ("/../../etc", "/etc", "/etc", "/etc"),
        ("/a/..", "/", "/", "/"),
        ("/a/b/../", "/a/", "/a/", "/a/"),
        ("/.hidden/..x", "/.hidden/..x", "/.hidden/..x", "/.hidden/..x"),
        ("/a\\b", "/a/b", "/a/b", "/a/b"),
        ("/a\\..\\b", "/b", "/b", "/b"),
        ("/%2e%2E/admin", "/admin", "/admin", "/admin"),
        ("/%61dmin", "/admin", "/admin", "/admin"),
        ("/a%7Eb%2D", "/a~b-", "/a~b-", "/a~b-"),
        ("/a%20b%3F", "/a%20b%3F", "/a%20b%3F", "/a%20b%3F"),
        ("//a///b//", "//a///b//", "/a/b/", "/a/b/"),
        ("/a//../b", "/a/b", "/a/b", "/a/b"),
        ("/a%2Fb%5cc", "/a%2Fb%5cc", "/a%2Fb%5cc", "/a/b/c"),
        ("/a%2F..%2Fb", "/a%2F..%2Fb", "/a%2F..%2Fb", "/b"),
        ("/a%252Fb", "/a%252Fb", "/a%252Fb", "/a%252Fb"),
    ],
)
def test_a_path_has_one_form(path: str, base: str, merged: str, decoded: str) -> None:
    ways: tuple[Normalization, ...] = ("DEFAULT", "BASE", MERGE, DECODE)
    found = [normalised(path.encode(), how).decode() for how in ways]
    assert found == [base, base, merged, decoded]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("a", "does not begin with '/'"),
        ("", "does not begin with '/'"),
        ("/a b", "a space"),
        ("/a\x00", "control character"),
        ("/a#b", "'#'"),
        ("/a%00b", "encoded NUL"),
        ("/a%", "'%' that two hexadecimal digits do not follow"),
        ("/a%2", "'%' that two hexadecimal digits do not follow"),
        ("/a%zz", "'%' that two hexadecimal digits do not follow"),
    ],
)
def test_what_has_no_one_form_is_refused(path: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        normalised(path.encode(), DECODE)


@given(
    st.text("/.\\%2eEfF5cCa", min_size=1, max_size=14).map(lambda text: "/" + text),
    st.sampled_from(["BASE", MERGE, DECODE]),
)
def test_nothing_climbs_and_merged_slashes_stay_merged(path: str, how: Normalization) -> None:
    try:
        form = normalised(path.encode(), how)
    except ValueError:
        return
    assert form.startswith(b"/")
    assert b"\\" not in form
    assert not {b".", b".."} & set(form.split(b"/"))
    if how != "BASE":
        assert b"//" not in form


@pytest.mark.parametrize(
    ("target", "forwarded"),
    [
        ("/a/../b?x=/../y", "/b?x=/../y"),
        ("/a?b", "/a?b"),
        ("http://h:80/a/../b?q", "http://h:80/b?q"),
        ("http://h", "http://h/"),
        ("http://h?q", "http://h/?q"),
        ("*", "*"),
    ],
)
def test_what_is_decided_is_what_is_forwarded(target: str, forwarded: str) -> None:
    asked = head(path=target)
    normalise(asked, "BASE")
    assert asked.target == forwarded.encode()


def test_a_connect_has_no_path() -> None:
    asked = head("CONNECT", "h:443")
    normalise(asked, "BASE")
    assert asked.target == b"h:443"
