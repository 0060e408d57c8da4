"""PURE. As much of protocol buffers' encoding as a few small messages need: numbers, and fields of bytes.

Read here, they cost no library at rest. Messages of a control plane are another matter, and the library's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# Wire types (protobuf.dev, "Encoding"), and how many bytes a value of a fixed one has.
_NUMBER: Final = 0
_BYTES: Final = 2
_FIXED: Final = {1: 8, 5: 4}


def number(value: int) -> bytes:
    """As it is written: seven bits a byte, the lowest first."""
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def field(at: int, data: bytes) -> bytes:
    """A field of bytes, text or a message, by its number."""
    return number(at << 3 | _BYTES) + number(len(data)) + data


def fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Each field of bytes with its number; those of other types are passed over. ValueError says what makes no sense."""
    return ((at, value) for at, value in _fields(data) if isinstance(value, bytes))


def numbers(data: bytes) -> Iterator[tuple[int, int]]:
    """Each field that is a number, likewise."""
    return ((at, value) for at, value in _fields(data) if isinstance(value, int))


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Each field of bytes and each that is a number; those of a fixed size are passed over."""
    at = 0
    while at < len(data):
        tag, at = _number(data, at)
        kind = tag & 7
        if kind == _NUMBER:
            value, at = _number(data, at)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            size, at = _number(data, at)
        elif kind in _FIXED:
            size = _FIXED[kind]
        else:
            raise ValueError(f"it is no protocol buffer (wire type {kind})")
        if at + size > len(data):
            raise ValueError("it ends inside a field")
        if kind == _BYTES:
            yield tag >> 3, data[at : at + size]
        at += size


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):  # 64 bits
        if at >= len(data):
            raise ValueError("it ends inside a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte <= 0x7F:
            return value, at
    raise ValueError("a number in it is too long")
