"""Dumps of the kernel, which answers these without any right."""

from __future__ import annotations

import errno
import os
import socket
import struct

import pytest

from interceptor.kernel import netlink

RTM_GETLINK, IFLA_IFNAME = 18, 3  # include/uapi/linux/rtnetlink.h, if_link.h


def test_the_links_of_this_namespace() -> None:
    answers = netlink.dump(netlink.ROUTE, RTM_GETLINK, struct.pack("=BxHiII", socket.AF_UNSPEC, 0, 0, 0, 0))
    names = {
        struct.unpack_from("=i", body, 4)[0]: netlink.attributes(body[16:])[IFLA_IFNAME]
        .rstrip(b"\0")
        .decode()
        for body in answers
    }
    assert names == dict(socket.if_nameindex())


def test_what_the_kernel_refuses_is_its_own_number() -> None:
    with pytest.raises(OSError) as refused:
        netlink.dump(netlink.SOCK_DIAG, 9999, b"")
    assert refused.value.errno in {errno.EINVAL, errno.EOPNOTSUPP}


@pytest.mark.skipif(os.geteuid() != 0, reason="the tables of nftables are for root to see")
def test_the_tables_of_nftables_have_names() -> None:
    try:
        found = netlink.nftables()
    except OSError as error:
        pytest.skip(f"this kernel has no nftables: {error}")
    assert all(name for _, name in found)


def test_attributes_are_what_was_put_in() -> None:
    inner = netlink.attribute(2, b"\x12\x34")
    data = netlink.attribute(1, b"abc") + netlink.nested(3, inner)
    assert len(data) % 4 == 0
    found = netlink.attributes(data)
    assert (found[1], dict(netlink.attributes(found[3]))) == (b"abc", {2: b"\x12\x34"})
    assert netlink.attributes(b"\0\0\0\0") == {0: b""}  # rubbish ends
