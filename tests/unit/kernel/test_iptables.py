"""python-iptables or its libraries missing: a sentence with the remedy."""

from __future__ import annotations

import sys
from ipaddress import ip_network
from pathlib import Path

import pytest

from interceptor.config.redirect import RedirectSettings
from interceptor.errors import KernelError
from interceptor.kernel import child, iptables, iptc_import
from interceptor.redirect.ipv6 import Ipv6
from interceptor.redirect.plan import plan
from interceptor.redirect.rules import FAMILIES, Family, Table


def test_the_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "iptc", None)
    with pytest.raises(KernelError, match="'iptc' is missing; install it with 'pip install python-iptables'"):
        iptables.load()


def test_the_iptables_libraries_are_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What python-iptables does without libip4tc: it uses the None that it found."""
    tmp_path.joinpath("iptc.py").write_text("None.iptc_init\n")
    monkeypatch.delitem(sys.modules, "iptc", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KernelError, match=r"cannot find the iptables libraries.*apt install iptables"):
        iptables.load()


NETWORKS = [
    ip_network(text)
    for text in ("10.0.0.0/8", "192.0.2.1", "198.51.100.128/25", "fd00::/8", "2001:db8::1", "2001:db8:1::/64")
]
MANY = plan(
    RedirectSettings(
        exclude_egress_cidrs=tuple(NETWORKS), exclude_ingress_cidrs=tuple(NETWORKS), exclude_uids=(5, 6)
    ),
    Ipv6.CAPTURE,
)


def _both_ways(family: Family) -> tuple[list[tuple[bytes, ...]], list[tuple[bytes, ...]]]:
    """In a child: each chain's rules by ``build``, and each rule built by itself."""
    chains = MANY.chains_in(family, Table.NAT)
    quick = list(iptables.build(MANY, family, Table.NAT).chains.values())
    return quick, [
        tuple(iptables._bytes(MANY, rule, family) for rule in chain.rules_for(family)) for chain in chains
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_rules_that_differ_in_addresses_are_what_each_would_be(family: Family) -> None:
    if iptc_import.find("ip4tc") is None:
        pytest.skip("needs the iptables libraries: apt install iptables")
    quick, slow = child.call(None, _both_ways, family)
    assert quick == slow
    assert sum(map(len, quick)) == len({rule for rules in quick for rule in rules}) > 2 * 3
