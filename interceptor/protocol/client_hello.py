"""The TLS ClientHello in bytes that were looked at before anybody took them: server name and ALPN.

Only what decides a flow is read. Whatever is not well-formed is not TLS to us: the flow is then opaque, or refused
where TLS is asked for. RFC 8446 sections 4.1.2 and 5.1, RFC 6066 section 3, RFC 7301 section 3.1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# A hello with post-quantum keys has 2 KB and one with a session ticket as much again; what is longer than a record is
# nobody's first message.
MAX_HELLO: Final = 16 * 1024
MAX_RECORDS: Final = 64  # a hello cut into smaller pieces than this is an attack
# What has to be looked at, at most: the hello, its own header, and those of its records.
MAX_BYTES: Final = MAX_HELLO + 4 + 5 * MAX_RECORDS

_CLIENT_HELLO: Final = 0x01
_SERVER_NAME: Final = 0
_ALPN: Final = 16
_HOST_NAME: Final = re.compile(rb"(?=.{1,254}\Z)[0-9A-Za-z_](?:[-0-9A-Za-z_.]*[0-9A-Za-z_])?\.?")


class NoHello(Enum):
    """Why there is no hello."""

    INCOMPLETE = "incomplete"  # it may become one
    NOT_TLS = "not tls"


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What a TLS client says before anything is encrypted."""

    server_name: str | None = None  # lower case, without a trailing dot
    alpn: tuple[bytes, ...] = ()


class _MalformedError(Exception):
    """The bytes are no ClientHello, whatever follows."""


class _ShortError(Exception):
    """The bytes end inside the hello."""


def parse(data: bytes) -> ClientHello | NoHello:
    """Read the first bytes of a connection. Anything may be given, and nothing is raised."""
    try:
        return _hello(_message(data))
    except _ShortError:
        return NoHello.INCOMPLETE
    except _MalformedError:
        return NoHello.NOT_TLS


def _message(data: bytes) -> bytes:
    """The body of the handshake message, put together from its records."""
    message = bytearray()
    at, size = 0, -1
    for _ in range(MAX_RECORDS):
        header = data[at : at + 5]
        # The version is 3.1 or 3.3 in practice; 3.x is what servers accept.
        if header[:1] not in {b"", b"\x16"} or header[1:2] not in {b"", b"\x03"}:
            raise _MalformedError
        if len(header) < 5:
            raise _ShortError
        length = int.from_bytes(header[3:5], "big")
        if not 0 < length <= MAX_HELLO:
            raise _MalformedError
        message += data[at + 5 : at + 5 + length]
        if message and message[0] != _CLIENT_HELLO:
            raise _MalformedError
        if len(message) >= 4:
            size = 4 + int.from_bytes(message[1:4], "big")
            if size > MAX_HELLO:
                raise _MalformedError
            if len(message) >= size:
                return bytes(message[4:size])
        at += 5 + length
        if at > len(data):
            raise _ShortError
    raise _MalformedError


class _Reader:
    """Takes a complete piece of the hello apart."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise _MalformedError
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, length_size: int) -> bytes:
        return self.take(self.number(length_size))

    @property
    def more(self) -> bool:
        return self._at < len(self._data)


def _hello(body: bytes) -> ClientHello:
    reader = _Reader(body)
    reader.take(2 + 32)  # version, random
    if len(reader.vector(1)) > 32:  # the session's id
        raise _MalformedError
    if len(suites := reader.vector(2)) < 2 or len(suites) % 2:
        raise _MalformedError
    if not reader.vector(1):  # compression methods
        raise _MalformedError
    extensions = _extensions(reader.vector(2)) if reader.more else {}
    if reader.more:
        raise _MalformedError
    return ClientHello(
        _server_name(extensions[_SERVER_NAME]) if _SERVER_NAME in extensions else None,
        tuple(_protocols(extensions[_ALPN])) if _ALPN in extensions else (),
    )


def _extensions(data: bytes) -> dict[int, bytes]:
    """Each by its type; there are many, so they are counted out by hand."""
    found: dict[int, bytes] = {}
    at, end = 0, len(data)
    while at < end:
        if at + 4 > end:
            raise _MalformedError
        kind, begin = data[at] << 8 | data[at + 1], at + 4
        at = begin + (data[at + 2] << 8 | data[at + 3])
        if at > end or kind in found:
            raise _MalformedError
        found[kind] = data[begin:at]
    return found


def _server_name(data: bytes) -> str:
    """The one host name: other types of names were never defined."""
    outer = _Reader(data)
    reader = _Reader(outer.vector(2))
    if reader.number(1) != 0:
        raise _MalformedError
    name = reader.vector(2)
    if reader.more or outer.more or not _HOST_NAME.fullmatch(name):
        raise _MalformedError
    return name.decode("ascii").lower().removesuffix(".")


def _protocols(data: bytes) -> Iterator[bytes]:
    outer = _Reader(data)
    reader = _Reader(outer.vector(2))
    if outer.more or not reader.more:
        raise _MalformedError
    while reader.more:
        name = reader.vector(1)
        if not name:
            raise _MalformedError
        yield name
