"""What ``explain`` is asked, and how it answers."""

from __future__ import annotations

import json
from ipaddress import ip_address

import pytest

from interceptor.errors import ConfigError
from interceptor.model.connection import Direction
from interceptor.redirect.question import Asked, Way, as_json, connection, far_address, text
from interceptor.redirect.rules import Protocol
from interceptor.redirect.simulate import Explanation


def asked(**given: object) -> Asked:
    nothing: dict[str, object] = dict.fromkeys(("to", "peer", "to_port", "uid", "gid", "interface"))
    return Asked(**{**nothing, "mark": 0, "protocol": Protocol.TCP, **given})  # type: ignore[arg-type]  # its fields


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "give --to IP:PORT"),
        ({"to": "10.0.0.1:1", "peer": "10.0.0.1"}, "give --to IP:PORT"),
        ({"peer": "10.0.0.1"}, "--from: says nothing without --to-port"),
        ({"peer": "10.0.0.1", "to_port": 1, "uid": 0}, "--uid, --gid"),
        ({"peer": "10.0.0.1", "to_port": 1, "gid": 0}, "--uid, --gid"),
        ({"peer": "10.0.0.1", "to_port": 1, "groups": "4"}, "--uid, --gid, --groups"),
        ({"peer": "example.com", "to_port": 1}, "--from: 'example.com' is not an IP address"),
        ({"to": "10.0.0.1:1", "to_port": 1}, "--to-port: belongs to --from"),
        ({"to": "10.0.0.1:1"}, "--to: needs --uid"),
        ({"to": "10.0.0.1", "uid": 1}, "--to: '10.0.0.1' is not an address with a port"),
    ],
)
def test_what_is_no_question(given: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        far_address(asked(**given))
    assert str(error.value).startswith(says)


def test_a_connection_opened_here() -> None:
    found = connection(asked(to="[fd00::1]:443", uid=5, mark=7), Way("eth1", "fd00::2", local=False))
    assert (found.direction, found.source, found.destination) == (
        Direction.EGRESS,
        ip_address("fd00::2"),
        ip_address("fd00::1"),
    )
    assert (found.port, found.interface, found.local, found.uid, found.gid, found.mark) == (
        443,
        "eth1",
        False,
        5,
        5,
        7,
    )


def test_supplementary_groups() -> None:
    found = connection(asked(to="10.0.0.1:443", uid=5, groups="7, 4294967294"), None)
    assert (found.gid, found.groups) == (5, frozenset({7, 4294967294}))
    assert connection(asked(to="10.0.0.1:443", uid=5), None).groups == frozenset()


@pytest.mark.parametrize("groups", ["staff", "-1", "4294967295", "1,,2", "1;2", "\u0663", "9" * 5000])
def test_what_is_no_group(groups: str) -> None:
    with pytest.raises(ConfigError, match=r"--groups: '.*' is not the number of a group, 0 to 4294967294"):
        connection(asked(to="10.0.0.1:443", uid=5, groups=groups), None)


def test_a_connection_that_arrives() -> None:
    found = connection(asked(peer="10.0.0.1", to_port=80), Way("eth0", "10.0.0.2", local=False))
    assert (found.direction, found.source, found.destination, found.port) == (
        Direction.INGRESS,
        ip_address("10.0.0.1"),
        ip_address("10.0.0.2"),
        80,
    )
    assert (found.interface, found.local, found.uid) == ("eth0", True, None)


@pytest.mark.parametrize(
    ("to", "way", "interface", "local"),
    [
        ("10.0.0.2:80", Way("lo", "10.0.0.2", local=True), "lo", True),
        ("127.0.0.1:80", None, "lo", True),
        ("[::1]:80", None, "lo", True),
        ("8.8.8.8:80", None, "eth0", False),
        ("[2001:db8::1]:80", None, "eth0", False),
    ],
)
def test_the_interface(to: str, way: Way | None, interface: str, local: bool) -> None:
    found = connection(asked(to=to, uid=1, gid=2), way)
    assert (found.interface, found.local, found.gid) == (interface, local, 2)
    assert connection(asked(to=to, uid=1, interface="tun0"), way).interface == "tun0"


@pytest.mark.parametrize(
    ("flag", "because"),
    [("--exclude-uids", "excluded (--exclude-uids)"), ("always", "excluded"), (None, "excluded")],
)
def test_the_answer(flag: str | None, because: str) -> None:
    found = Explanation("direct", "rule-1", "excluded", flag)
    assert json.loads(as_json(found)) == {"verdict": "direct", "rule": "rule-1", "because": because}
    assert text(found) == f"direct by rule-1: {because}.\n"
    assert text(Explanation("direct", None, "no rule", None)) == "direct: no rule.\n"
