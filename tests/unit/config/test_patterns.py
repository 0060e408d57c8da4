from __future__ import annotations

from collections.abc import Callable

import pytest

from interceptor.config.patterns import path, pattern, port, principal, service_account, some


@pytest.mark.parametrize(
    ("judge", "good"),
    [
        (pattern, ["a", "a*", "*a", "*", "a{b}"]),
        (principal, ["mesh/ns/a/sa/b", "*/sa/b"]),
        (service_account, ["a", "a/b", "a-b.c/d"]),
        (
            path,
            [
                "/",
                "/a*",
                "*/a",
                "*",
                "/a/{*}",
                "/{*}/b/{**}",
                "/a/..*",
                "/a%2Fb",
                "/a%",
                "/...",
                "/{**}",
                "/{**}/a",
                "/{*}/{**}/",
            ],
        ),
        (port, ["1", "65535"]),
    ],
)
def test_what_can_match_is_taken(judge: Callable[[str], str], good: list[str]) -> None:
    assert [judge(text) for text in good] == good


@pytest.mark.parametrize(
    ("judge", "bad", "why"),
    [
        (pattern, ["", "**", "*a*", "a*b", "*a*b"], "must not be empty|a '\\*' that is not its only one"),
        (principal, ["spiffe://a/ns/b/sa/c"], "write it without 'spiffe://': 'a/ns/b/sa/c'"),
        (service_account, ["*", "a/*", "a/b/c", "A", ""], "is not a service account"),
        (path, ["a", ""], "a path begins with '/'; write '/"),
        (path, ["/a?b"], "compared without its query"),
        (
            path,
            ["/a b", "/a#b", "/a\\b", "/a\n", "*/a b", "/{*}/a b"],
            "would never match: no path that is let through",
        ),
        (path, ["/a/../b", "/./a", "/a/..", "*/../a", "/{*}/../a"], "'.' and '..' are taken out"),
        (path, ["/%61dmin", "/a%2e", "/%7E*"], "are decoded before paths are compared"),
        (
            path,
            [
                "/{*",
                "/a}",
                "/x{*}",
                "/{*}x",
                "/{**}/{*}",
                "/{**}/{**}",
                "/{id}",
                "/{*}/a*",
                "*/{*}",
                "/{}",
                "/{***}",
            ],
            "is not a path template",
        ),
        (path, ["/a*b"], "a '\\*' that is not its only one"),
        (port, ["0", "65536", "080", "a", "-1", "1.5", "", "\u0661"], "is not a port"),
    ],
)
def test_what_would_never_match_is_refused(judge: Callable[[str], str], bad: list[str], why: str) -> None:
    for text in bad:
        with pytest.raises(ValueError, match=why):
            judge(text)


def test_a_list_names_something() -> None:
    assert some((1,)) == (1,)
    with pytest.raises(ValueError, match="leave the field out where anything may match"):
        some(())
