from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, strategies as st

from interceptor.config.addresses import (
    host_name,
    ip_address,
    ip_address_or_network,
    is_ip_address,
    is_loopback,
    socket_address,
)
from interceptor.model.address import SocketAddress


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("FD00:0::1", "fd00::1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
    ],
)
def test_addresses_are_made_canonical(text: str, canonical: str) -> None:
    assert ip_address(text) == canonical
    assert ip_address_or_network(text) == canonical


@pytest.mark.parametrize("text", ["", "x", "10.0.0", "10.0.0.256", "010.0.0.1", "fe80::1%eth0", "10.0.0.1 "])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        ip_address(text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("fd00::1/16", "fd00::/16"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
        ("2001:db8::/120", "2001:db8::/120"),
    ],
)
def test_networks_lose_their_host_bits(text: str, canonical: str) -> None:
    assert ip_address_or_network(text) == canonical


@pytest.mark.parametrize("text", ["10.0.0.0/33", "/8", "x/8", "10.0.0.0/", "10.0.0.0/8/8"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a CIDR; write it like"):
        ip_address_or_network(text)


@given(st.ip_addresses(), st.integers(1, 65535))
def test_a_socket_address_is_read_as_it_is_written(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    written = SocketAddress(ip_address(str(address).partition("%")[0]), port)
    assert socket_address(str(written)) == written


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("127.0.0.1", "is not an address with a port"),
        (":80", "'' is not an IP address"),
        ("::1:80", "is not an address with a port"),
        ("localhost:80", "'localhost' is not an IP address"),
        ("[]:80", "'' is not an IP address"),
        ("[127.0.0.1:80", "is not an address with a port"),
        ("127.0.0.1:0", "has the port 0; a port is a number from 1 to 65535"),
        ("127.0.0.1:65536", "has the port 65536"),
        ("127.0.0.1:http", "is not an address with a port"),
    ],
)
def test_what_is_no_socket_address_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        socket_address(text)


def test_all_of_127_is_loopback() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "10.0.0.1", "::")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_a_name_is_no_address() -> None:
    assert is_ip_address("fd00::1")
    assert not is_ip_address("fd00.example")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("API.Example.com.", "api.example.com"),
        ("*.example.com", "*.example.com"),
        ("redis", "redis"),
        ("my_db.internal", "my_db.internal"),
        ("FD00::1", "fd00::1"),
    ],
)
def test_host_names_are_made_canonical(text: str, name: str) -> None:
    assert host_name(text) == name


@pytest.mark.parametrize(
    "text", ["", "*", "*.", "a..b", "a.*.b", "-a.b", "a-.b", "a b", "a/b", "x" * 64, "a." * 127 + "com"]
)
def test_what_is_no_host_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"write it like|name hosts"):
        host_name(text)


@given(st.lists(st.integers(0, 300).map(str) | st.sampled_from(["00", "07", ""]), min_size=3, max_size=5))
def test_what_looks_like_ipv4_is_taken_where_it_is(parts: list[str]) -> None:
    for text in (".".join(parts), ".".join(parts) + "\n"):
        try:
            expected = str(ipaddress.ip_address(text))
        except ValueError:
            with pytest.raises(ValueError, match="is not an IP address"):
                ip_address(text)
        else:
            assert ip_address(text) == expected
