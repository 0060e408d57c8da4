"""ClientHellos made by hand, as no library would send them."""

from __future__ import annotations


def vector(size: int, data: bytes) -> bytes:
    return len(data).to_bytes(size, "big") + data


def name_list(name: bytes, kind: int = 0) -> bytes:
    return vector(2, bytes([kind]) + vector(2, name))


def hello(
    *extensions: tuple[int, bytes], session: bytes = b"", suites: bytes = b"\x13\x01", tail: bytes = b""
) -> bytes:
    """A handshake message."""
    body = b"\x03\x03" + bytes(32) + vector(1, session) + vector(2, suites) + vector(1, b"\x00")
    body += vector(2, b"".join(kind.to_bytes(2, "big") + vector(2, data) for kind, data in extensions)) + tail
    return b"\x01" + vector(3, body)


def record(data: bytes) -> bytes:
    return b"\x16\x03\x01" + vector(2, data)
