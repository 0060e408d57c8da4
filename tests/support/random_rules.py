"""Random flags of sidecar-setup and random connections, for a topology of an app, its peer and its guest."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from hypothesis import strategies as st

from interceptor.config.redirect import Backend, RedirectSettings, from_command_line
from interceptor.config.redirect_flags import parse
from interceptor.kernel.users import NAMES
from interceptor.redirect.rules import Protocol
from tests.support.netns import BRIDGE
from tests.support.reporters import Attempt

PORTS = [53, 80, 81, 443, 8080, 15020]
FAR = ["192.0.2.7", "198.51.100.9", "2001:db8::7", "2001:db9::9"]  # on the peer, behind the default route
PEER = ["10.9.0.1", "fd09::1"]
OWN = ["10.9.0.2", "fd09::2"]
LOOPBACK = ["127.0.0.1", "127.0.0.53", "::1"]

Flags = dict[str, list[str]]


class From(Enum):
    """Who opens a connection."""

    APP = "app"
    PEER = "peer"
    GUEST = "guest"


class Case(NamedTuple):
    """A connection to make, and from where."""

    by: From
    attempt: Attempt

    @property
    def protocol(self) -> Protocol:
        return Protocol(self.attempt.protocol)


def _lists(*items: str) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(items), min_size=1, max_size=3)


_ports = _lists("53", "80", "81", "80-81", "79-90", "443", "8000-8100", "15020", "1-65535")
_cidrs = _lists(
    "10.9.0.0/24", "10.9.0.1", "172.18.0.0/24", "192.0.2.0/24", "192.0.2.7", "198.51.100.0/25", "0.0.0.0/0", "127.0.0.0/8",
    "fd09::/64", "fd09::1", "fd18::/64", "2001:db8::/32", "2001:db8::7", "2001::/16", "::/0", "::1",
)  # fmt: skip
_ids = _lists("0", "7", "1000", "1001", "1000650000")
_proxy_ids = _lists("7", "1337", "1001")
_sometimes = st.sampled_from([["yes"], ["no"]])
_optional = {
    "mode": st.sampled_from([["redirect"], ["tproxy"]]),
    "proxy-uid": _proxy_ids,
    "proxy-gid": _proxy_ids,
    "proxy-mark": st.sampled_from([["0x539"], ["0x39/0xff"]]),
    "include-ingress-ports": _ports,
    "exclude-ingress-ports": _ports,
    "include-egress-ports": _ports,
    "exclude-egress-ports": _ports,
    "exclude-egress-ports-for-uids": _lists(
        "80:1000", "80-443:1001", "443:1000650000", "53:1000", "8000-8100:0"
    ),
    "include-egress-cidrs": _cidrs,
    "exclude-egress-cidrs": _cidrs,
    "exclude-ingress-cidrs": _cidrs,
    "exclude-uids": _ids,
    "exclude-gids": _ids,
    "supplementary-groups": _sometimes,
    "exclude-interfaces": st.sampled_from(
        [["eth0"], ["eth+"], ["lo"], ["et"], ["nope0"], ["vnet+"], ["vnet"]]
    ),
    "virtual-interfaces": st.sampled_from([["vnet0"], ["vnet0"], ["nope0", "vnet0"], ["v+"]]),
    "dns": st.sampled_from([["capture"], ["off"]]),
    "strict": _sometimes,
    "quic": st.sampled_from([["block"], ["allow"]]),
}


def flag_sets(backend: Backend) -> st.SearchStrategy[Flags]:
    """Sets of flags that belong together, and that the backend can do."""
    optional = dict(_optional)
    if backend is Backend.NFT:
        del optional["supplementary-groups"]
    drawn = st.fixed_dictionaries(
        {"ipv6": st.sampled_from([["on"], ["on"], ["block"], ["off"]])}, optional=optional
    )
    return drawn.map(_coherent)


def _coherent(flags: Flags) -> Flags:
    """Without what is refused as a contradiction."""
    if not {"proxy-gid", "exclude-gids"} & flags.keys():
        flags = {name: texts for name, texts in flags.items() if name != "supplementary-groups"}
    if set(flags.get("exclude-interfaces", [])) & set(flags.get("virtual-interfaces", [])):
        flags = {name: texts for name, texts in flags.items() if name != "exclude-interfaces"}
    return flags


def read(flags: Flags) -> RedirectSettings:
    """What the flags mean."""
    return parse([from_command_line(flags)], NAMES).settings


def _attempts(by: From, hosts: list[str], **of_whom: st.SearchStrategy[object]) -> st.SearchStrategy[Case]:
    tcp = st.fixed_dictionaries({"host": st.sampled_from(hosts), "port": st.sampled_from(PORTS), **of_whom})
    udp = st.fixed_dictionaries(
        {
            "host": st.sampled_from(hosts),
            "port": st.sampled_from([53, 443]),
            "protocol": st.just("udp"),
            **of_whom,
        }
    )
    return st.one_of(tcp, tcp, tcp, udp).map(lambda fields: Case(by, Attempt(**fields)))  # type: ignore[arg-type]  # fields of many types


_by_the_app = _attempts(
    From.APP,
    [*FAR, *FAR, *PEER, *OWN, *LOOPBACK, *BRIDGE.values()],
    uid=st.sampled_from([0, 7, 1000, 1000, 1001, 1337, 1000650000]),
    gid=st.sampled_from([0, 7, 1000, 1000, 1337]),
    groups=st.sampled_from([(), (), (7,), (1001, 1337)]),
    mark=st.sampled_from([0, 0, 0x539, 0x139]),
)
_by_the_peer = _attempts(From.PEER, OWN)
_to_a_listener = st.builds(
    lambda host, port: Case(From.PEER, Attempt(host, port)),
    st.sampled_from(OWN),
    st.sampled_from([15001, 15006]),
)
_by_the_guest = _attempts(From.GUEST, [*FAR, *FAR, *BRIDGE.values(), *OWN])
cases = st.lists(
    st.one_of(_by_the_app, _by_the_app, _by_the_app, _by_the_peer, _by_the_guest, _to_a_listener),
    min_size=30,
    max_size=60,
)
