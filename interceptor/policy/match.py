"""What policies compare: texts, path templates and networks, compiled once and asked by the million.

A matcher answers ``match(subject)`` for one subject, and tells by which ``keys`` it can be found in an index: a
matcher without keys has to be asked every time. By its ``sure`` keys it is found only where it does match, if not always.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

OPERATOR: Final = re.compile(r"\{\*{1,2}\}")  # of a path template
_SEGMENT: Final = {"{*}": "[^/]+", "{**}": ".*"}


class Address(NamedTuple):
    """An IP address as a number."""

    version: int
    number: int

    @classmethod
    def of(cls, host: str) -> Address:
        """The address that a canonical text names."""
        parsed = ipaddress.ip_address(host)
        return cls(parsed.version, int(parsed))

    def __str__(self) -> str:
        made = ipaddress.IPv4Address if self.version == 4 else ipaddress.IPv6Address
        return str(made(self.number))


class Network(NamedTuple):
    """A CIDR: an address whose last ``shift`` bits say nothing."""

    version: int
    shift: int
    prefix: int

    @classmethod
    def of(cls, cidr: str) -> Network:
        """The network of a canonical text."""
        parsed = ipaddress.ip_network(cidr)
        shift = parsed.max_prefixlen - parsed.prefixlen
        return cls(parsed.version, shift, int(parsed.network_address) >> shift)


class Exact(NamedTuple):
    """A text that is found as it is."""

    text: str


class Begin(NamedTuple):
    """A text that is found by how it begins."""

    text: str


class End(NamedTuple):
    """A text that is found by how it ends."""

    text: str


class Present(NamedTuple):
    """Any text but the empty one."""


Key: TypeAlias = Exact | Begin | End | Network | Present
Subject: TypeAlias = str | Address


class Matcher(Protocol):
    """Compares one subject with the values of a field; any of them will do."""

    keys: Sequence[Key] | None  # in an index; None: it cannot be found by keys
    sure: Sequence[Key]

    def match(self, subject: Subject) -> bool: ...


class Texts:
    """Patterns over text: exact, ``x*``, ``*x``, ``*``."""

    __slots__ = ("_begins", "_ends", "_exact", "_present", "keys", "sure")

    def __init__(self, patterns: Iterable[str]) -> None:
        exact, begins, ends, self._present = set(), [], [], False
        for pattern in patterns:
            if pattern == "*":
                self._present = True
            elif pattern.endswith("*"):
                begins.append(pattern[:-1])
            elif pattern.startswith("*"):
                ends.append(pattern[1:])
            else:
                exact.add(pattern)
        self._exact, self._begins, self._ends = frozenset(exact), tuple(begins), tuple(ends)
        told: tuple[Key, ...] = (*map(Exact, sorted(exact)), *map(Begin, begins), *map(End, ends))
        self.keys: Sequence[Key] | None = None if self._present else told
        self.sure: Sequence[Key] = (*told, Present()) if self._present else told

    def match(self, subject: Subject) -> bool:
        """Whether the text fits a pattern."""
        assert isinstance(subject, str)
        return (
            subject in self._exact
            or subject.startswith(self._begins)
            or subject.endswith(self._ends)
            or (self._present and subject != "")
        )


class Paths:
    """Patterns and templates over the path of a request."""

    __slots__ = ("_templates", "_texts", "keys", "sure")

    def __init__(self, patterns: Sequence[str]) -> None:
        templates = [pattern for pattern in patterns if OPERATOR.search(pattern)]
        self._texts = Texts(pattern for pattern in patterns if not OPERATOR.search(pattern))
        self._templates = tuple(map(_template, templates))
        self.keys: Sequence[Key] | None = None
        if self._texts.keys is not None:
            self.keys = (*self._texts.keys, *(Begin(OPERATOR.split(each)[0]) for each in templates))
        self.sure = self._texts.sure

    def match(self, subject: Subject) -> bool:
        """Whether the path fits one of them."""
        assert isinstance(subject, str)
        return self._texts.match(subject) or any(template.fullmatch(subject) for template in self._templates)


class Networks:
    """CIDRs, by hash for each length of prefix."""

    __slots__ = ("_lengths", "keys", "sure")

    def __init__(self, cidrs: Iterable[str]) -> None:
        networks = [Network.of(cidr) for cidr in cidrs]
        self.keys: Sequence[Key] | None = networks
        self.sure: Sequence[Key] = networks
        self._lengths: dict[int, dict[int, set[int]]] = {4: {}, 6: {}}
        for network in networks:
            self._lengths[network.version].setdefault(network.shift, set()).add(network.prefix)

    def match(self, subject: Subject) -> bool:
        """Whether the address is in one of them."""
        assert isinstance(subject, Address)
        lengths = self._lengths[subject.version]
        return any(subject.number >> shift in prefixes for shift, prefixes in lengths.items())


def _template(pattern: str) -> re.Pattern[str]:
    """``/users/{*}/{**}`` as a regular expression without back-tracking over segments."""
    literals = OPERATOR.split(pattern)
    operators = OPERATOR.findall(pattern)
    parts = [re.escape(literals[0])]
    for operator, literal in zip(operators, literals[1:], strict=True):
        parts += (_SEGMENT[operator], re.escape(literal))
    return re.compile("".join(parts), re.DOTALL)
