"""A peer's settings, one by one."""

from __future__ import annotations

import pytest

from interceptor.protocol.http2 import codes
from interceptor.protocol.http2.codes import LARGEST, LegError
from interceptor.protocol.http2.settings import PeerSettings
from interceptor.protocol.http2.stream import Stream
from interceptor.protocol.http2.writer import Writer


class Nobody:
    def consumed(self, stream: Stream, size: int) -> None: ...


def peer(*, server: bool = True) -> tuple[PeerSettings, Writer]:
    writer = Writer(lambda stream: None)
    return PeerSettings(writer, server=server), writer


def test_what_is_in_force_before_any() -> None:
    settings, writer = peer()
    assert (settings.window, settings.streams, settings.connect_protocol) == (65_535, 100, False)
    assert writer.max_frame == 16_384


def test_each_is_taken() -> None:
    settings, writer = peer()
    for key, value in (
        (codes.MAX_CONCURRENT_STREAMS, 7),
        (codes.MAX_FRAME_SIZE, codes.LARGEST_MAX_FRAME),
        (codes.ENABLE_CONNECT_PROTOCOL, 1),
        (codes.ENABLE_PUSH, 1),
        (codes.HEADER_TABLE_SIZE, 0),
        (codes.MAX_HEADER_LIST_SIZE, 0),
        (0xFFFF, 1),
    ):
        settings.apply(key, value)
    assert (settings.streams, settings.connect_protocol, writer.max_frame) == (
        7,
        True,
        codes.LARGEST_MAX_FRAME,
    )
    assert writer.encoder.encode([(b"x", b"y")]) == b"\x20\x00\x01x\x01y"


def test_a_window_changes_the_streams_that_there_are() -> None:
    settings, writer = peer()
    writer.streams[1] = Stream(1, Nobody(), 100, 0)
    settings.apply(codes.INITIAL_WINDOW_SIZE, 65_535 - 200)
    assert writer.streams[1].window == -100
    settings.apply(codes.INITIAL_WINDOW_SIZE, 65_535)
    writer.streams[1].window += 65_535
    with pytest.raises(LegError):
        settings.apply(codes.INITIAL_WINDOW_SIZE, LARGEST)


@pytest.mark.parametrize(
    ("server", "key", "value"),
    [
        (True, codes.ENABLE_PUSH, 2),
        (False, codes.ENABLE_PUSH, 1),
        (True, codes.INITIAL_WINDOW_SIZE, LARGEST + 1),
        (True, codes.MAX_FRAME_SIZE, 16_383),
        (True, codes.MAX_FRAME_SIZE, 1 << 24),
        (True, codes.ENABLE_CONNECT_PROTOCOL, 2),
    ],
)
def test_an_invalid_one_ends_the_connection(server: bool, key: int, value: int) -> None:
    settings, _ = peer(server=server)
    with pytest.raises(LegError):
        settings.apply(key, value)


def test_extended_connect_cannot_be_taken_back() -> None:
    settings, _ = peer(server=False)
    settings.apply(codes.ENABLE_CONNECT_PROTOCOL, 1)
    with pytest.raises(LegError):
        settings.apply(codes.ENABLE_CONNECT_PROTOCOL, 0)
