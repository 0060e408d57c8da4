"""The question that ``explain`` is asked: one connection, as an operator describes it."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address, ip_address as parse_address
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from interceptor.config.addresses import ip_address, socket_address
from interceptor.errors import ConfigError
from interceptor.model.connection import Direction
from interceptor.model.record import Record
from interceptor.redirect.simulate import Connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.redirect.rules import Protocol
    from interceptor.redirect.simulate import Explanation

T = TypeVar("T")

_LARGEST_ID: Final = 0xFFFF_FFFE  # the one above it means 'no id' to the kernel
_DIGITS: Final = 10  # of the largest id


class Way(NamedTuple):
    """How the namespace reaches an address: through which interface, from which of its own addresses."""

    interface: str
    own: str
    local: bool  # the address is this host's own


class Asked(Record, kw_only=True):
    """What was typed. ``to`` is for egress; ``peer`` with ``to_port`` for ingress."""

    to: str | None
    peer: str | None
    to_port: int | None
    uid: int | None
    gid: int | None
    mark: int
    interface: str | None
    protocol: Protocol
    groups: str = ""  # supplementary ones, comma-separated


def far_address(asked: Asked) -> str:
    """The address at the other end. Raises ConfigError for what is no question."""
    if (asked.to is None) == (asked.peer is None):
        raise ConfigError(
            "give --to IP:PORT for a connection opened here, or --from IP with --to-port for one that arrives"
        )
    if asked.peer is not None:
        if asked.to_port is None:
            raise ConfigError("--from: says nothing without --to-port, the port that the peer connects to")
        if asked.uid is not None or asked.gid is not None or asked.groups:
            raise ConfigError(
                "--uid, --gid, --groups: a connection that arrives has no user here; leave them out with --from"
            )
        return _read("--from", ip_address, asked.peer)
    if asked.to_port is not None:
        raise ConfigError("--to-port: belongs to --from; --to has its port already")
    if asked.uid is None:
        raise ConfigError("--to: needs --uid, the user of the program that connects: rules tell users apart")
    return _read("--to", socket_address, asked.to or "").host


def connection(asked: Asked, way: Way | None) -> Connection:
    """The connection that was meant; ``way`` None: nothing leads there from here, and a link is assumed."""
    far = far_address(asked)
    inwards = asked.peer is not None
    address = parse_address(far)
    local = way.local if way else address.is_loopback
    own = parse_address(way.own) if way else _unspecified(address)
    interface = asked.interface or ("lo" if local else way.interface if way else "eth0")
    port = asked.to_port if inwards else socket_address(asked.to or "").port
    return Connection(
        direction=Direction.INGRESS if inwards else Direction.EGRESS,
        source=address if inwards else own,
        destination=own if inwards else address,
        port=port or 0,
        interface=interface,
        local=inwards or local,
        protocol=asked.protocol,
        uid=asked.uid,
        gid=asked.gid if asked.gid is not None else asked.uid,
        groups=_groups(asked.groups),
        mark=asked.mark,
    )


def _groups(text: str) -> frozenset[int]:
    words = [word.strip() for word in text.split(",")] if text else []
    for word in words:
        if not (word.isascii() and word.isdigit() and len(word) <= _DIGITS and int(word) <= _LARGEST_ID):
            raise ConfigError(f"--groups: '{word}' is not the number of a group, 0 to {_LARGEST_ID}")
    return frozenset(map(int, words))


def _read(flag: str, read: Callable[[str], T], text: str) -> T:
    try:
        return read(text)
    except ValueError as error:
        raise ConfigError(f"{flag}: {error}") from error


def _unspecified(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    return parse_address("0.0.0.0" if address.version == 4 else "::")  # noqa: S104 (stands for an unknown address)


def text(found: Explanation) -> str:
    """The answer for a person: the verdict, the rule, and why."""
    rule = f" by {found.rule}" if found.rule else ""
    return f"{found.verdict}{rule}: {because(found)}.\n"


def because(found: Explanation) -> str:
    """Why, with the flag that made the rule."""
    flag = f" ({found.flag})" if found.flag and found.flag != "always" else ""
    return f"{found.because}{flag}"


def as_json(found: Explanation) -> str:
    """The answer for a program."""
    return json.dumps({"verdict": found.verdict, "rule": found.rule, "because": because(found)}) + "\n"
