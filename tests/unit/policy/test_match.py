from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, strategies as st

from interceptor.policy.match import Address, Begin, End, Exact, Network, Networks, Paths, Texts

words = st.text("ab/*", max_size=4)


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("ab", ["ab"], ["", "a", "abc", "AB"]),
        ("ab*", ["ab", "abc"], ["", "a", "xab"]),
        ("*ab", ["ab", "xab"], ["", "b", "abx"]),
        ("*", ["a", "*"], [""]),
    ],
)
def test_a_pattern_matches_as_it_is_by_its_beginning_by_its_end_or_by_being_there(
    pattern: str, matching: list[str], other: list[str]
) -> None:
    made = Texts([pattern])
    assert all(made.match(text) for text in matching)
    assert not any(made.match(text) for text in other)


def test_one_of_several_patterns_is_enough_and_none_match_nothing() -> None:
    made = Texts(["a", "b*", "*c"])
    assert [made.match(text) for text in ("a", "bx", "xc", "ax")] == [True, True, True, False]
    assert not Texts([]).match("")


def test_texts_are_found_by_keys_unless_anything_present_will_do() -> None:
    assert Texts(["b", "a", "c*", "*d"]).keys == (Exact("a"), Exact("b"), Begin("c"), End("d"))
    assert Texts(["a", "*"]).keys is None


@pytest.mark.parametrize(
    ("template", "matching", "other"),
    [
        ("/a/{*}", ["/a/b", "/a/b.c"], ["/a/", "/a", "/a/b/", "/a/b/c", "/x/b"]),
        ("/a/{*}/c", ["/a/b/c"], ["/a//c", "/a/b/x/c", "/a/b/c/"]),
        ("/a/{**}", ["/a/", "/a/b", "/a/b/c/"], ["/a", "/ab/"]),
        ("/a/{**}/", ["/a/b/", "/a/b/c/", "/a//"], ["/a/", "/a", "/a/b"]),
        ("/{**}/secret", ["/a/secret", "/a/b/secret", "//secret"], ["/secret", "/a/secrets", "/a/secret/"]),
        ("/{*}/{**}", ["/a/", "/a/b"], ["/a", "//b", "/"]),
        ("/a.b/{*}", ["/a.b/x"], ["/aXb/x"]),
        ("/a/{*}", ["/a/b\n"], []),
    ],
)
def test_a_template_stands_for_one_segment_or_the_rest(
    template: str, matching: list[str], other: list[str]
) -> None:
    made = Paths([template])
    assert all(made.match(path) for path in matching)
    assert not any(made.match(path) for path in other)


def test_templates_and_patterns_stand_side_by_side_and_are_found_by_what_they_begin_with() -> None:
    made = Paths(["/x*", "/a/{*}/b", "/{**}"])
    assert [made.match(path) for path in ("/xyz", "/a/1/b", "q")] == [True, True, False]
    assert made.keys == (Begin("/x"), Begin("/a/"), Begin("/"))
    assert Paths(["*", "/a/{*}"]).keys is None


def test_networks_of_both_families() -> None:
    made = Networks(["10.1.0.0/16", "10.2.0.1", "fd00::/8", "::/128"])
    inside = ["10.1.255.255", "10.2.0.1", "fd12::1", "::"]
    outside = ["10.2.0.2", "11.1.0.0", "::1", "0.0.0.0"]
    assert all(made.match(Address.of(host)) for host in inside)
    assert not any(made.match(Address.of(host)) for host in outside)
    assert made.keys == [Network.of(each) for each in ("10.1.0.0/16", "10.2.0.1", "fd00::/8", "::/128")]


@given(st.lists(st.ip_addresses(), min_size=1, max_size=4), st.integers(0, 128), st.ip_addresses())
def test_networks_are_what_the_library_says(
    hosts: list[ipaddress.IPv4Address | ipaddress.IPv6Address],
    length: int,
    asked: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    cidrs = [
        ipaddress.ip_network(
            (int(host), min(length, host.max_prefixlen))
            if host.version == 6
            else f"{host}/{min(length, 32)}",
            strict=False,
        )
        for host in hosts
    ]
    made = Networks(map(str, cidrs))
    for each in (asked, *hosts):
        assert made.match(Address.of(str(each))) is any(each in cidr for cidr in cidrs)


@given(st.lists(words.filter(lambda word: word.strip("*") == word), max_size=3), words)
def test_exact_texts_are_a_set(texts: list[str], asked: str) -> None:
    assert Texts(texts).match(asked) is (asked in texts)
