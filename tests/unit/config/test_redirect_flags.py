"""The text of every flag: what it means, and what is wrong with it."""

from __future__ import annotations

import contextlib
from ipaddress import ip_network

import pytest
from hypothesis import given, strategies as st

from interceptor.config.redirect import (
    FLAG_NAMES,
    Backend,
    Dns,
    Invocation,
    Ipv6Policy,
    Mark,
    Mode,
    Names,
    PortRange,
    Quic,
    RedirectSettings,
    Source,
    UserPorts,
    from_command_line,
    from_environment,
)
from interceptor.config.redirect_flags import parse
from interceptor.errors import ConfigError

NAMES = Names({"envoy": 101, "root": 0, "app": 4000000000}.get, {"mesh": 7, "root": 0}.get)


def read(**flags: str) -> Invocation:
    texts = {name.replace("_", "-"): [text] for name, text in flags.items()}
    return parse([from_command_line(texts)], NAMES)


def problems(**flags: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        read(**flags)
    return caught.value.problems


def test_nothing_given_is_the_defaults() -> None:
    assert read() == Invocation(RedirectSettings(), None, 30.0)


def test_every_flag_arrives_in_its_place() -> None:
    invocation = read(
        netns="app",
        proxy_uid="envoy,1338",
        proxy_gid="mesh",
        proxy_mark="0x539/0xfff",
        ingress_port="16006",
        egress_port="16001",
        include_ingress_ports="80, 443",
        exclude_ingress_ports="22",
        include_egress_ports="8000-8100,80,81",
        exclude_egress_ports="25",
        include_egress_cidrs="10.0.0.7/8,fd00::1/8",
        exclude_egress_cidrs="10.1.0.0/16,10.0.0.0/16",
        exclude_ingress_cidrs="192.0.2.1",
        exclude_uids="app,0",
        exclude_gids="0,mesh",
        exclude_interfaces="eth1,docker+",
        exclude_egress_ports_for_uids="443:app, 8000-8100:0,80:app,444:app",
        supplementary_groups="yes",
        virtual_interfaces="virbr+,br0",
        mode="tproxy",
        dns="capture",
        dns_port="16053",
        strict="true",
        quic="block",
        ipv6="block",
        wait="2.5",
    )
    assert invocation == Invocation(
        RedirectSettings(
            proxy_uids=(101, 1338),
            proxy_gids=(7,),
            proxy_mark=Mark(0x539, 0xFFF),
            ingress_port=16006,
            egress_port=16001,
            include_ingress_ports=(PortRange(80, 80), PortRange(443, 443)),
            exclude_ingress_ports=(PortRange(22, 22),),
            include_egress_ports=(PortRange(80, 81), PortRange(8000, 8100)),
            exclude_egress_ports=(PortRange(25, 25),),
            include_egress_cidrs=(ip_network("10.0.0.0/8"), ip_network("fd00::/8")),
            exclude_egress_cidrs=(ip_network("10.0.0.0/15"),),
            exclude_ingress_cidrs=(ip_network("192.0.2.1/32"),),
            exclude_uids=(0, 4000000000),
            exclude_gids=(0, 7),
            exclude_interfaces=("docker+", "eth1"),
            exclude_egress_ports_for_uids=(
                UserPorts(0, (PortRange(8000, 8100),)),
                UserPorts(4000000000, (PortRange(80, 80), PortRange(443, 444))),
            ),
            supplementary_groups=True,
            virtual_interfaces=("br0", "virbr+"),
            mode=Mode.TPROXY,
            dns=Dns.CAPTURE,
            dns_port=16053,
            strict=True,
            quic=Quic.BLOCK,
            ipv6=Ipv6Policy.BLOCK,
        ),
        "app",
        2.5,
    )


@pytest.mark.parametrize(
    ("flag", "text", "says"),
    [
        ("exclude_egress_ports", "0", "'0' is not a port"),
        ("exclude_egress_ports", "65536", "'65536' is not a port"),
        ("exclude_egress_ports", "25-23", "write the lower port first: 23-25"),
        ("exclude_egress_ports", "abc", "'abc' is not a port"),
        ("exclude_egress_ports", "", "empty item"),
        ("exclude_egress_ports", "80,,81", "empty item"),
        ("exclude_egress_ports", "80-", "'' is not a port"),
        ("exclude_egress_ports", "-80", "'' is not a port"),
        ("exclude_egress_ports", "*", "'*' is not a port"),
        ("exclude_egress_ports", "٨٠", "is not a port"),
        ("exclude_egress_ports", "80 -j ACCEPT", "is not a port"),
        ("include_ingress_ports", "99999999999999999999", "is not a port"),
        ("ingress_port", "15006,15007", "is not a port"),
        ("egress_port", " ", "is empty"),
        ("egress_port", "15006", "both 15006"),
        ("exclude_egress_cidrs", "10.0.0.0/33", "is not a CIDR"),
        ("exclude_egress_cidrs", "10.0.0/8", "is not a CIDR"),
        ("exclude_egress_cidrs", "10.0.0.0/0.255.255.255", "is not a CIDR"),
        ("exclude_egress_cidrs", "10.0.0.0/", "is not a CIDR"),
        ("exclude_egress_cidrs", "fe80::1%eth0", "is not a CIDR"),
        ("exclude_egress_cidrs", "example.com", "is not a CIDR"),
        ("exclude_egress_cidrs", "*", "is not a CIDR"),
        ("exclude_egress_cidrs", "::ffff:10.0.0.0/104", "write 10.0.0.0/8"),
        ("exclude_egress_ports_for_uids", "443", "names no user; write PORT:UID"),
        ("exclude_egress_ports_for_uids", "443:", "there is no user ''"),
        ("exclude_egress_ports_for_uids", ":app", "'' is not a port"),
        ("exclude_egress_ports_for_uids", "443:1:2", "there is no user '1:2'"),
        ("exclude_egress_ports_for_uids", "443:4294967295", "is not a user id"),
        ("mode", "TPROXY", "'TPROXY' is not one of redirect, tproxy"),
        ("dns", "on", "'on' is not one of off, capture"),
        ("quic", "no", "'no' is not one of allow, block"),
        ("strict", "maybe", "'maybe' is neither yes nor no"),
        ("egress_port", "15053", "--egress-port and --dns-port are both 15053"),
        ("ingress_port", "15053", "--ingress-port and --dns-port are both 15053"),
        ("supplementary_groups", "on", "says nothing without --proxy-gid or --exclude-gids"),
        ("virtual_interfaces", "-j", "is not an interface name"),
        ("proxy_uid", "0", "is root"),
        ("proxy_uid", "root", "is root"),
        ("proxy_gid", "0", "is root's group"),
        ("proxy_uid", "nobodyhere", "there is no user 'nobodyhere'"),
        ("exclude_gids", "nobodyhere", "there is no group 'nobodyhere'"),
        ("exclude_uids", "4294967295", "is not a user id"),
        ("exclude_uids", "-1", "there is no user '-1'"),
        ("proxy_mark", "zzz", "is not a mark"),
        ("proxy_mark", "4294967296", "is not a mark"),
        ("proxy_mark", "08x", "is not a mark"),
        ("proxy_mark", "0", "every unmarked packet"),
        ("proxy_mark", "0x10/0x1", "every unmarked packet"),
        ("proxy_mark", "0x11/0x1", "can never match"),
        ("exclude_interfaces", "!eth0", "is not an interface name"),
        ("exclude_interfaces", "--help", "is not an interface name"),
        ("exclude_interfaces", "a234567890123456", "is not an interface name"),
        ("exclude_interfaces", "+", "is not an interface name"),
        ("exclude_interfaces", "eth 0", "is not an interface name"),
        ("ipv6", "maybe", "not one of auto, on, block, off"),
        ("wait", "soon", "is not a number of seconds"),
        ("wait", "3601", "is not a number of seconds"),
        ("wait", "-1", "is not a number of seconds"),
        ("netns", "", "is empty"),
    ],
)
def test_what_is_wrong_is_said_with_the_flag(flag: str, text: str, says: str) -> None:
    (problem,) = problems(**{flag: text})
    assert says in problem
    assert problem.startswith(f"--{flag.replace('_', '-')}") or flag == "egress_port"


def test_every_problem_is_told_at_once_with_its_place() -> None:
    environment = from_environment({"SIDECAR_SETUP_WAIT": "x", "SIDECAR_SETUP_TYPO": "1"})
    file = Source({}, ("rules.yaml:1: broken",))
    with pytest.raises(ConfigError) as caught:
        parse([file, environment, from_command_line({"ipv6": ["x"], "proxy-uid": ["0", "?"]})], NAMES)
    places = [problem.partition(":")[0] for problem in caught.value.problems]
    assert places == [
        "rules.yaml",
        "SIDECAR_SETUP_TYPO",
        "--proxy-uid",
        "--proxy-uid",
        "--ipv6",
        "SIDECAR_SETUP_WAIT",
    ]


def test_the_command_line_wins_over_the_environment() -> None:
    environment = from_environment({"SIDECAR_SETUP_WAIT": "1", "SIDECAR_SETUP_NETNS": "one"})
    invocation = parse([environment, from_command_line({"wait": ["2"]})], NAMES)
    assert (invocation.wait, invocation.netns) == (2.0, "one")


def test_a_star_means_everything_and_leaves_nothing_else_to_say() -> None:
    assert read(include_egress_ports="*", include_egress_cidrs="10.0.0.0/8").settings == RedirectSettings()
    assert read(include_egress_ports="80", include_egress_cidrs="*").settings == RedirectSettings()
    assert read(include_ingress_ports="80,*").settings == RedirectSettings()


def test_a_proxy_known_by_its_group_needs_no_uid() -> None:
    settings = read(proxy_gid="mesh").settings
    assert (settings.proxy_uids, settings.proxy_gids) == ((), (7,))


def test_a_mark_does_not_replace_the_default_uid() -> None:
    assert read(proxy_mark="1337").settings.proxy_uids == (1337,)


def test_the_same_meaning_has_the_same_hash() -> None:
    one = read(exclude_egress_ports="81,80", exclude_egress_cidrs="10.9.9.9/8", exclude_uids="101,envoy")
    two = read(exclude_egress_ports="80-81", exclude_egress_cidrs="10.0.0.0/8", exclude_uids="envoy")
    assert one.settings.hash == two.settings.hash


@given(st.sampled_from(sorted(FLAG_NAMES)), st.text(max_size=40))
def test_any_text_is_settings_or_a_sentence(flag: str, text: str) -> None:
    with contextlib.suppress(ConfigError):  # any other exception fails the test
        assert len(parse([from_command_line({flag: [text]})], NAMES).settings.hash) == 12


@pytest.mark.parametrize(
    ("text", "value"), [("yes", True), ("on", True), ("1", True), ("no", False), ("off", False), ("0", False)]
)
def test_a_switch_has_words(text: str, value: bool) -> None:
    assert read(strict=text).settings.strict is value


def test_an_interface_cannot_be_excluded_and_virtual() -> None:
    (problem,) = problems(exclude_interfaces="br0,eth0", virtual_interfaces="br0")
    assert problem == (
        "--exclude-interfaces and --virtual-interfaces both name br0: leave it out of one of them"
    )


def test_the_backend_is_chosen_or_left_to_us() -> None:
    assert read().backend is None
    assert read(backend="auto").backend is None
    assert read(backend="legacy").backend is Backend.LEGACY
    assert read(backend="nft").backend is Backend.NFT
    assert problems(backend="iptables") == ("--backend: 'iptables' is not one of auto, legacy, nft",)
    assert (
        read(backend="nft").settings.hash == read().settings.hash
    )  # one configuration, wherever it is installed
