"""The text of each redirect flag becomes a value here; what is wrong with it becomes a sentence that names the flag."""

from __future__ import annotations

import itertools
import re
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import TYPE_CHECKING, Final, TypeVar

from interceptor.config.redirect import (
    DEFAULT_WAIT,
    PROXY_UID,
    Backend,
    Dns,
    Invocation,
    Ipv6Policy,
    Mark,
    Mode,
    PortRange,
    Quic,
    RedirectSettings,
    UserPorts,
    merge_ranges,
)
from interceptor.errors import ConfigError
from interceptor.model.ports import DNS_PORT, EGRESS_PORT, INGRESS_PORT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from interceptor.config.redirect import Given, Names, Source

T = TypeVar("T")
E = TypeVar("E", bound=Enum)

MAX_ID: Final = 2**32 - 2  # (uid_t)-1 means "no user" to the kernel
MAX_WAIT: Final = 3600.0
EVERYTHING: Final = "*"
# What a name may hold that the kernel accepts (dev_valid_name) and that no rule syntax can mistake: no leading "-" or "!".
_INTERFACE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:-]{0,14}|[A-Za-z0-9_][A-Za-z0-9_.@:-]{0,13}\+")
_NUMBER: Final = re.compile(r"[0-9]{1,10}")
_MARK: Final = re.compile(r"(0x[0-9A-Fa-f]{1,8}|[0-9]{1,10})(?:/(0x[0-9A-Fa-f]{1,8}|[0-9]{1,10}))?")
_SECONDS: Final = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6})?")
_SWITCH: Final = {
    **dict.fromkeys(("yes", "true", "on", "1"), True),
    **dict.fromkeys(("no", "false", "off", "0"), False),
}


def parse(sources: Sequence[Source], names: Names) -> Invocation:
    """Settle what was asked; a later source wins. Raises ConfigError with every problem there is."""
    problems = [problem for source in sources for problem in source.problems]
    given = {name: value for source in sources for name, value in source.given.items()}
    invocation = _Reader(given, names, problems).invocation()
    if problems:
        raise ConfigError(*problems)
    return invocation


class _Reader:
    """Reads each flag out of what was given; problems are collected, so that all are told at once."""

    def __init__(self, given: Mapping[str, Given], names: Names, problems: list[str]) -> None:
        self._given = given
        self._names = names
        self._problems = problems

    def invocation(self) -> Invocation:
        """Everything that was asked; not to be used when there were problems."""
        return Invocation(
            settings=self._settings(),
            netns=self._one("netns", str, None),
            wait=self._one("wait", _seconds, DEFAULT_WAIT),
            backend=self._one("backend", _backend, None),
        )

    def _settings(self) -> RedirectSettings:
        gids = self._ids("proxy-gid", self._proxy_gid)
        uids = self._ids("proxy-uid", self._proxy_uid)
        ports = self._ports("include-egress-ports", everything=True)
        cidrs = self._cidrs("include-egress-cidrs", everything=True)
        everything = ports is None or cidrs is None
        settings = RedirectSettings(
            proxy_uids=uids if uids or gids else (PROXY_UID,),
            proxy_gids=gids,
            proxy_mark=self._one("proxy-mark", _mark, None),
            mode=self._one("mode", _one_of(Mode), Mode.REDIRECT),
            ingress_port=self._one("ingress-port", _port, INGRESS_PORT),
            egress_port=self._one("egress-port", _port, EGRESS_PORT),
            dns_port=self._one("dns-port", _port, DNS_PORT),
            include_ingress_ports=self._ports("include-ingress-ports", everything=True) or (),
            exclude_ingress_ports=self._ports("exclude-ingress-ports") or (),
            include_egress_ports=() if everything else ports or (),
            exclude_egress_ports=self._ports("exclude-egress-ports") or (),
            exclude_egress_ports_for_uids=self._user_ports("exclude-egress-ports-for-uids"),
            include_egress_cidrs=() if everything else cidrs or (),
            exclude_egress_cidrs=self._cidrs("exclude-egress-cidrs") or (),
            exclude_ingress_cidrs=self._cidrs("exclude-ingress-cidrs") or (),
            exclude_uids=self._ids("exclude-uids", self._uid),
            exclude_gids=self._ids("exclude-gids", self._gid),
            supplementary_groups=self._one("supplementary-groups", _switch, default=False),
            exclude_interfaces=tuple(sorted(set(self._items("exclude-interfaces", _interface)))),
            virtual_interfaces=tuple(sorted(set(self._items("virtual-interfaces", _interface)))),
            ipv6=self._one("ipv6", _one_of(Ipv6Policy), Ipv6Policy.AUTO),
            dns=self._one("dns", _one_of(Dns), Dns.OFF),
            strict=self._one("strict", _switch, default=False),
            quic=self._one("quic", _one_of(Quic), Quic.ALLOW),
        )
        self._problems += _contradictions(settings)
        return settings

    def _one(self, flag: str, read: Callable[[str], T], default: T) -> T:
        """The value of a flag that has exactly one."""
        given = self._given.get(flag)
        if given is None:
            return default
        if not given.text.strip():
            self._problems.append(f"{given.where}: is empty; give a value or leave it out")
            return default
        try:
            return read(given.text.strip())
        except ValueError as error:
            self._problems.append(f"{given.where}: {error}")
            return default

    def _items(self, flag: str, read: Callable[[str], T]) -> list[T]:
        """The values of a flag that is a comma-separated list."""
        given = self._given.get(flag)
        values: list[T] = []
        for item in given.text.split(",") if given else ():
            try:
                values.append(read(_filled(item)))
            except ValueError as error:
                self._problems.append(f"{given.where if given else flag}: {error}")
        return values

    def _ports(self, flag: str, *, everything: bool = False) -> tuple[PortRange, ...] | None:
        """Merged port ranges; None for the ``*`` that an include may be."""
        ranges = self._items(flag, _everything_or(_port_range) if everything else _port_range)
        return None if None in ranges else merge_ranges([port for port in ranges if port is not None])

    def _cidrs(self, flag: str, *, everything: bool = False) -> tuple[IPv4Network | IPv6Network, ...] | None:
        """Merged networks, IPv4 first; None for the ``*`` that an include may be."""
        networks = self._items(flag, _everything_or(_network) if everything else _network)
        v4 = [network for network in networks if isinstance(network, IPv4Network)]
        v6 = [network for network in networks if isinstance(network, IPv6Network)]
        return None if None in networks else (*collapse_addresses(v4), *collapse_addresses(v6))

    def _ids(self, flag: str, read: Callable[[str], int]) -> tuple[int, ...]:
        return tuple(sorted(set(self._items(flag, read))))

    def _user_ports(self, flag: str) -> tuple[UserPorts, ...]:
        """For each user, by uid, his ports."""
        found: dict[int, list[PortRange]] = {}
        for port_range, uid in self._items(flag, self._port_of_user):
            found.setdefault(uid, []).append(port_range)
        return tuple(UserPorts(uid, merge_ranges(ports)) for uid, ports in sorted(found.items()))

    def _port_of_user(self, text: str) -> tuple[PortRange, int]:
        ports, colon, user = text.partition(":")
        if not colon:
            raise ValueError(f"'{text}' names no user; write PORT:UID, such as 443:envoy or 8000-8100:1000")
        return _port_range(ports.strip()), self._uid(user.strip())

    def _uid(self, text: str) -> int:
        return _id(text, "user", self._names.uid)

    def _gid(self, text: str) -> int:
        return _id(text, "group", self._names.gid)

    def _proxy_uid(self, text: str) -> int:
        uid = self._uid(text)
        if uid == 0:
            raise ValueError(
                f"'{text}' is root: every program of root would bypass the proxy; run the proxy as a user of its own"
            )
        return uid

    def _proxy_gid(self, text: str) -> int:
        gid = self._gid(text)
        if gid == 0:
            raise ValueError(
                f"'{text}' is root's group: every program of root would bypass the proxy; give the proxy a group of its own"
            )
        return gid


def _contradictions(settings: RedirectSettings) -> Iterator[str]:
    """Flags that cannot both be meant."""
    listeners = (
        ("--ingress-port", settings.ingress_port),
        ("--egress-port", settings.egress_port),
        ("--dns-port", settings.dns_port),
    )
    for (first, port), (second, other) in itertools.combinations(listeners, 2):
        if port == other:
            yield f"{first} and {second} are both {port}: each listener needs a port of its own"
    for name in sorted({*settings.exclude_interfaces} & {*settings.virtual_interfaces}):
        yield f"--exclude-interfaces and --virtual-interfaces both name {name}: leave it out of one of them"
    if settings.supplementary_groups and not settings.proxy_gids and not settings.exclude_gids:
        yield "--supplementary-groups says nothing without --proxy-gid or --exclude-gids"


def _filled(item: str) -> str:
    if not item.strip():
        raise ValueError("has an empty item; write values separated by single commas, such as 22,8000-8100")
    return item.strip()


def _everything_or(read: Callable[[str], T]) -> Callable[[str], T | None]:
    return lambda text: None if text == EVERYTHING else read(text)


def _port(text: str) -> int:
    if not _NUMBER.fullmatch(text) or not 1 <= int(text) <= 65535:
        raise ValueError(f"'{text}' is not a port; ports are 1 to 65535")
    return int(text)


def _port_range(text: str) -> PortRange:
    first, dash, last = text.partition("-")
    port_range = PortRange(_port(first.strip()), _port(last.strip() if dash else first.strip()))
    if port_range.first > port_range.last:
        raise ValueError(
            f"'{text}' runs backwards; write the lower port first: {port_range.last}-{port_range.first}"
        )
    return port_range


def _network(text: str) -> IPv4Network | IPv6Network:
    """A network, host bits cleared; a bare address is a network of one."""
    _, slash, length = text.partition("/")
    try:
        if "%" in text or (slash and not _NUMBER.fullmatch(length)):
            raise ValueError(text)  # noqa: TRY301 (the same sentence for all malformed ones)
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(
            f"'{text}' is not a CIDR or address; write it like 10.0.0.0/8, 192.0.2.1 or fd00::/8"
        ) from None
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is not None and network.prefixlen >= 96:
        raise ValueError(
            f"'{text}' is IPv4 in disguise, which no IPv6 packet carries; write {mapped}/{network.prefixlen - 96}"
        )
    return network


def _id(text: str, what: str, lookup: Callable[[str], int | None]) -> int:
    if _NUMBER.fullmatch(text):
        number = int(text)
        if number > MAX_ID:
            raise ValueError(f"'{text}' is not a {what} id; ids are 0 to {MAX_ID}")
        return number
    found = lookup(text)
    if found is None:
        raise ValueError(f"there is no {what} '{text}' on this machine; give the number instead")
    return found


def _mark(text: str) -> Mark:
    match = _MARK.fullmatch(text)
    parts = [part for part in match.groups() if part] if match else [str(2**32)]
    mark = Mark(*(int(part, 16 if part.startswith("0x") else 10) for part in parts))
    if max(mark) >= 2**32:
        raise ValueError(f"'{text}' is not a mark; write it like 0x539 or 0x539/0xfff")
    if mark.value & mark.mask == 0:
        raise ValueError(f"'{text}' is the mark of every unmarked packet: nothing would be captured")
    if mark.value & ~mark.mask:
        raise ValueError(f"'{text}' can never match: the value has bits that the mask leaves out")
    return mark


def _interface(text: str) -> str:
    if not _INTERFACE.fullmatch(text):
        raise ValueError(
            f"'{text}' is not an interface name: at most 15 letters, digits and _.@:-, a last '+' for any ending"
        )
    return text


def _one_of(kind: type[E]) -> Callable[[str], E]:
    def read(text: str) -> E:
        values = [str(member.value) for member in kind]
        if text not in values:
            raise ValueError(f"'{text}' is not one of {', '.join(values)}")
        return kind(text)

    return read


def _switch(text: str) -> bool:
    if text not in _SWITCH:
        raise ValueError(f"'{text}' is neither yes nor no")
    return _SWITCH[text]


def _backend(text: str) -> Backend | None:
    if text not in {"auto", *(backend.value for backend in Backend)}:
        raise ValueError(f"'{text}' is not one of auto, legacy, nft")
    return None if text == "auto" else Backend(text)


def _seconds(text: str) -> float:
    if not _SECONDS.fullmatch(text) or float(text) > MAX_WAIT:
        raise ValueError(f"'{text}' is not a number of seconds between 0 and {MAX_WAIT:g}")
    return float(text)
