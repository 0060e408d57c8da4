"""What redirect settings are: merged, hashed, found in the environment."""

from __future__ import annotations

import itertools

from hypothesis import given, strategies as st

from interceptor.config.redirect import (
    FLAG_NAMES,
    FLAGS,
    Given,
    Mark,
    PortRange,
    RedirectSettings,
    from_command_line,
    from_environment,
    merge_ranges,
)

ranges = st.builds(
    lambda first, size: PortRange(first, min(first + size, 65535)), st.integers(1, 65535), st.integers(0, 20)
)


@given(st.lists(ranges, max_size=30))
def test_merged_ranges_name_the_same_ports_and_never_touch(given_ranges: list[PortRange]) -> None:
    merged = merge_ranges(given_ranges)
    assert {port for first, last in merged for port in range(first, last + 1)} == {
        port for first, last in given_ranges for port in range(first, last + 1)
    }
    assert all(left.last + 1 < right.first for left, right in itertools.pairwise(merged))


def test_the_hash_tells_settings_apart_and_nothing_else() -> None:
    assert RedirectSettings().hash == RedirectSettings().hash
    assert len({RedirectSettings().hash, RedirectSettings(proxy_uids=(7,)).hash}) == 2
    assert len(RedirectSettings().hash) == 12


def test_the_proxys_own_ports_include_the_listeners_it_was_given() -> None:
    settings = RedirectSettings(
        ingress_port=16006, egress_port=16001, dns_port=16002, other_own_ports=(16000,)
    )
    assert settings.own_ports == (PortRange(16000, 16002), PortRange(16006, 16006))


def test_ranges_and_marks_print_as_an_operator_writes_them() -> None:
    assert str(PortRange(80, 80)) == "80"
    assert str(PortRange(80, 90)) == "80-90"
    assert str(Mark(0x539)) == "0x539"
    assert str(Mark(0x539, 0xFFF)) == "0x539/0xfff"


def test_each_flag_has_its_variable() -> None:
    environ = {flag.variable: flag.name for flag in FLAGS}
    source = from_environment(environ)
    assert source.problems == ()
    assert {name: value.text for name, value in source.given.items()} == {name: name for name in FLAG_NAMES}
    assert source.given["proxy-uid"] == Given("proxy-uid", "SIDECAR_SETUP_PROXY_UID")


def test_a_variable_that_names_no_flag_is_a_problem() -> None:
    environ = {"SIDECAR_SETUP_PROXYUID": "1", "SIDECAR_SETUP_LOG_FORMAT": "json", "PATH": "/bin"}
    source = from_environment(environ, frozenset({"SIDECAR_SETUP_LOG_FORMAT"}))
    assert source.given == {}
    assert [problem.partition(":")[0] for problem in source.problems] == ["SIDECAR_SETUP_PROXYUID"]


def test_a_repeated_flag_is_a_list() -> None:
    assert from_command_line({"proxy-uid": ["1", "2,3"]}).given == {
        "proxy-uid": Given("1,2,3", "--proxy-uid")
    }
