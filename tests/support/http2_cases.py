"""h2spec's cases (version 2.6, RFC 7540 and 7541), each as bytes to send and what RFC 9113 has us do then.

The ids are h2spec's: specification, section, number. Where RFC 9113 says something else, the outcome says so.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from interceptor.protocol.http2 import codes
from interceptor.protocol.http2.codes import (
    ACK,
    CANCEL,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADERS,
    LARGEST,
    PADDED,
    PING,
    PRIORITIZED,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
)
from interceptor.protocol.http2.leg import Limits
from interceptor.protocol.http2.reader import MAX_FRAME
from tests.support.http2 import GET, POST, Fields, Sent, frame, goaway, rst_stream, settings, window_update


@dataclass(frozen=True)
class Answer:
    """The app answers these streams of the client's, and the client has heard it."""

    streams: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class Ended:
    """The connection ends with this code."""

    code: int


@dataclass(frozen=True)
class Reset:
    """A stream ends with this code, and the connection lives."""

    code: int
    stream: int = 1


@dataclass(frozen=True)
class Served:
    """These requests are answered, nothing is reset, the connection lives."""

    streams: tuple[int, ...] = (1,)
    body: bytes = b"hello"
    seen: Callable[[list[Sent]], bool] = lambda _told: True  # whether what was heard is right


Script = Iterable["bytes | Answer"]
Outcome = Ended | Reset | Served


def headers(number: int, fields: Fields, *, end: bool = False) -> bytes:
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), number, _block(fields))


def _block(fields: Fields) -> bytes:
    """Every field as a literal that enters no table: a case needs no other before it."""
    return b"".join(b"\0" + _string(name) + _string(value) for name, value in fields)


def data(number: int, data: bytes, *, end: bool = False) -> bytes:
    return frame(DATA, END_STREAM if end else 0, number, data)


def _string(text: bytes, huffman: bytes | None = None) -> bytes:
    return bytes([len(text)]) + text if huffman is None else bytes([0x80 | len(huffman)]) + huffman


def _data_frames(*sizes: int) -> Callable[[list[Sent]], bool]:
    return lambda told: [len(each.payload) for each in told if each.kind == DATA] == list(sizes)


def _heard(kind: int, flags: int, payload: bytes) -> Callable[[list[Sent]], bool]:
    return lambda told: (kind, flags, payload) in [(each.kind, each.flags, each.payload) for each in told]


def _priority(number: int, dependency: int, weight: int, size: int = 5) -> bytes:
    return frame(PRIORITY, 0, number, (struct.pack(">LB", dependency, weight) + b"\0")[:size])


EXCLUSIVE = 1 << 31
UNKNOWN = 0x16
TRAILERS = [(b"t", b"1")]
FIRST = b"\x82\x86\x84\x41" + _string(b"app")  # GET http /, :authority app, as it is
HUFFMAN_A = b"\x1f"  # a, and five bits of padding


def _cases() -> dict[str, tuple[Script, Outcome]]:
    get = headers(1, GET, end=True)
    return {
        **_generic(get),
        **_generic_hpack(),
        **_frames(get),
        **_streams(get),
        **_definitions(get),
        **_settings_and_windows(get),
        **_messages(),
        **_hpack(),
    }


def _generic(get: bytes) -> dict[str, tuple[Script, Outcome]]:
    post, block = headers(1, POST), _block(GET)
    third = len(block) // 3
    return {
        "generic/1/1": ([], Served(())),
        "generic/2/1": ([_priority(1, 0, 15), get], Served()),
        "generic/2/2": ([get, window_update(1, 100)], Served()),
        "generic/2/3": ([get, _priority(1, 0, 255)], Served()),
        "generic/2/4": ([get, rst_stream(1, CANCEL)], Served(())),
        "generic/2/5": ([get, Answer(), _priority(1, 0, 255)], Served(())),
        "generic/3.1/1": ([post, data(1, b"test", end=True)], Served()),
        "generic/3.1/2": ([post, data(1, b"test"), data(1, b"test", end=True)], Served()),
        "generic/3.1/3": ([post, frame(DATA, PADDED | END_STREAM, 1, b"\6test" + bytes(6))], Served()),
        "generic/3.2/1": ([get], Served()),
        "generic/3.2/2": (
            [frame(HEADERS, PADDED | END_HEADERS | END_STREAM, 1, b"\6" + block + bytes(6))],
            Served(),
        ),
        "generic/3.2/3": (
            [frame(HEADERS, PRIORITIZED | END_HEADERS | END_STREAM, 1, bytes(4) + b"\xff" + block)],
            Served(),
        ),
        "generic/3.3/1": ([_priority(1, 0, 0), get], Served()),
        "generic/3.3/2": ([_priority(1, 0, 255), get], Served()),
        "generic/3.3/3": ([_priority(1, 0, 255), _priority(3, 1, 255), get], Served()),
        "generic/3.3/4": ([_priority(1, 0, 255), _priority(3, EXCLUSIVE | 1, 255), get], Served()),
        "generic/3.3/5": ([_priority(5, 3, 255), headers(3, GET, end=True)], Served((3,))),
        "generic/3.4/1": ([get, rst_stream(1, CANCEL)], Served(())),
        "generic/3.5/1": (
            [settings((codes.MAX_CONCURRENT_STREAMS, 100))],
            Served((), seen=_heard(SETTINGS, ACK, b"")),
        ),
        "generic/3.7/1": (
            [frame(PING, 0, 0, b"h2spec\0\0")],
            Served((), seen=_heard(PING, ACK, b"h2spec\0\0")),
        ),
        "generic/3.8/1": ([goaway(0, 0, b"h2spec")], Served(())),
        "generic/3.9/1": ([window_update(0, 1)], Served(())),
        "generic/3.9/2": ([get, window_update(1, 1)], Served()),
        "generic/3.10/1": (
            [
                frame(HEADERS, END_STREAM, 1, block[:third]),
                frame(CONTINUATION, END_HEADERS, 1, block[third:]),
            ],
            Served(),
        ),
        "generic/3.10/2": (
            [
                frame(HEADERS, END_STREAM, 1, block[:third]),
                frame(CONTINUATION, 0, 1, block[third : 2 * third]),
                frame(CONTINUATION, END_HEADERS, 1, block[2 * third :]),
            ],
            Served(),
        ),
        "generic/4/1": ([get], Served()),
        "generic/4/2": ([headers(1, [(b":method", b"HEAD"), *GET[1:]], end=True)], Served(body=b"")),
        "generic/4/3": ([post, data(1, b"test", end=True)], Served()),
        "generic/4/4": (
            [
                headers(1, [*POST, (b"trailer", b"t")]),
                data(1, b"test"),
                headers(1, TRAILERS, end=True),
            ],
            Served(),
        ),
    }


def _generic_hpack() -> dict[str, tuple[Script, Outcome]]:
    """A request with one more field, in every representation there is."""
    name = _string(b"a")  # beside user-agent, which is 58 in the static table
    huffman = _string(b"", HUFFMAN_A)
    ways = {
        1: b"\x90",  # accept-encoding: gzip, deflate
        2: b"\x7a" + _string(b"x"),
        3: b"\x7a" + huffman,
        4: b"\x40" + name + _string(b"x"),
        5: b"\x40" + huffman * 2,
        6: b"\x0f\x2b" + _string(b"x"),
        7: b"\x0f\x2b" + huffman,
        8: b"\x00" + name + _string(b"x"),
        9: b"\x00" + huffman * 2,
        10: b"\x1f\x2b" + _string(b"x"),
        11: b"\x1f\x2b" + huffman,
        12: b"\x10" + name + _string(b"x"),
        13: b"\x10" + huffman * 2,
    }
    cases: dict[str, tuple[Script, Outcome]] = {
        f"generic/5/{number}": ([_request(FIRST + way)], Served()) for number, way in ways.items()
    }
    cases["generic/5/14"] = ([_request(b"\x3e" + FIRST)], Served())
    cases["generic/5/15"] = ([_request(b"\x20\x3e" + FIRST)], Served())
    return cases


def _request(block: bytes, number: int = 1) -> bytes:
    return frame(HEADERS, END_HEADERS | END_STREAM, number, block)


def _frames(get: bytes) -> dict[str, tuple[Script, Outcome]]:
    post, block = headers(1, POST), _block(GET)
    ping = frame(PING, 0, 0, bytes(8))
    return {
        "http2/3.5/1": ([], Served(())),
        "http2/4.1/1": (
            [frame(UNKNOWN, 0, 0, b"h2spec"), ping],
            Served((), seen=_heard(PING, ACK, bytes(8))),
        ),
        "http2/4.1/2": ([frame(PING, UNKNOWN, 0, bytes(8))], Served((), seen=_heard(PING, ACK, bytes(8)))),
        "http2/4.1/3": ([frame(PING, 0, 1 << 31, bytes(8))], Served((), seen=_heard(PING, ACK, bytes(8)))),
        "http2/4.2/1": ([post, data(1, b"x" * 16_384, end=True)], Served()),
        "http2/4.2/2": ([post, data(1, b"x" * (MAX_FRAME + 1), end=True)], Ended(FRAME_SIZE_ERROR)),
        "http2/4.2/3": ([_request(b"x" * (MAX_FRAME + 1))], Ended(FRAME_SIZE_ERROR)),
        "http2/4.3/1": ([_request(b"\x40")], Ended(COMPRESSION_ERROR)),
        "http2/4.3/2": (
            [frame(HEADERS, END_STREAM, 1, block), _priority(1, 0, 255)],
            Ended(PROTOCOL_ERROR),
        ),
        "http2/4.3/3": ([frame(HEADERS, END_STREAM, 1, block), _request(block, 3)], Ended(PROTOCOL_ERROR)),
        "http2/5.5/1": ([frame(UNKNOWN, 0, 0, bytes(8)), ping], Served((), seen=_heard(PING, ACK, bytes(8)))),
        "http2/5.5/2": (
            [frame(HEADERS, END_STREAM, 1, block), frame(UNKNOWN, 0, 0, bytes(8))],
            Ended(PROTOCOL_ERROR),
        ),
        "http2/7/1": ([goaway(0, 0xFF), ping], Served((), seen=_heard(PING, ACK, bytes(8)))),
        "http2/7/2": ([get, rst_stream(1, 0xFF), ping], Served((), seen=_heard(PING, ACK, bytes(8)))),
    }


def _streams(get: bytes) -> dict[str, tuple[Script, Outcome]]:
    block, post = _block(GET), headers(1, POST)
    trailer = headers(1, TRAILERS, end=True)
    more = frame(CONTINUATION, END_HEADERS, 1, block)
    depends_on_itself = frame(HEADERS, PRIORITIZED | END_HEADERS | END_STREAM, 1, b"\0\0\0\1\xff" + block)
    return {
        "http2/5.1/1": ([data(1, b"test", end=True)], Ended(PROTOCOL_ERROR)),
        "http2/5.1/2": ([rst_stream(1, CANCEL)], Ended(PROTOCOL_ERROR)),
        "http2/5.1/3": ([window_update(1, 100)], Ended(PROTOCOL_ERROR)),
        "http2/5.1/4": ([more], Ended(PROTOCOL_ERROR)),
        "http2/5.1/5": ([get, data(1, b"test", end=True)], Reset(STREAM_CLOSED)),
        "http2/5.1/6": ([get, trailer], Reset(STREAM_CLOSED)),
        "http2/5.1/7": ([get, more], Ended(PROTOCOL_ERROR)),
        "http2/5.1/8": (
            [post, rst_stream(1, CANCEL), data(1, b"test", end=True)],
            Ended(STREAM_CLOSED),
        ),
        "http2/5.1/9": ([post, rst_stream(1, CANCEL), trailer], Ended(STREAM_CLOSED)),
        "http2/5.1/10": ([post, rst_stream(1, CANCEL), more], Ended(PROTOCOL_ERROR)),
        "http2/5.1/11": ([get, Answer(), data(1, b"test", end=True)], Ended(STREAM_CLOSED)),
        "http2/5.1/12": ([get, Answer(), trailer], Ended(STREAM_CLOSED)),
        "http2/5.1/13": ([get, Answer(), more], Ended(PROTOCOL_ERROR)),
        "http2/5.1.1/1": ([headers(2, GET, end=True)], Ended(PROTOCOL_ERROR)),
        "http2/5.1.1/2": (
            [headers(5, GET, end=True), headers(3, GET, end=True)],
            Ended(STREAM_CLOSED),  # the RFC names no code for a number that was passed over
        ),
        "http2/5.1.2/1": (
            [headers(number, GET, end=True) for number in range(1, 2 * Limits().streams + 3, 2)],
            Reset(REFUSED_STREAM, 2 * Limits().streams + 1),
        ),
        # RFC 9113 section 5.3.2: priorities are ignored, so no stream can depend on itself any more.
        "http2/5.3.1/1": ([depends_on_itself], Served()),
        "http2/5.3.1/2": ([_priority(1, 1, 255), get], Served()),
        "http2/5.4.1/1": ([frame(PING, 0, 0, bytes(6))], Ended(FRAME_SIZE_ERROR)),
        "http2/5.4.1/2": (
            [frame(PING, 0, 0, bytes(6)), frame(PING, 0, 0, bytes(8))],
            Ended(FRAME_SIZE_ERROR),
        ),
    }


def _definitions(get: bytes) -> dict[str, tuple[Script, Outcome]]:
    post, block = headers(1, POST), _block(GET)
    begun, more = frame(HEADERS, END_STREAM, 1, block[:1]), frame(CONTINUATION, END_HEADERS, 1, block[1:])
    return {
        "http2/6.1/1": ([data(0, b"test", end=True)], Ended(PROTOCOL_ERROR)),
        "http2/6.1/2": ([get, data(1, b"test", end=True)], Reset(STREAM_CLOSED)),
        "http2/6.1/3": ([post, frame(DATA, PADDED | END_STREAM, 1, b"\6test")], Ended(PROTOCOL_ERROR)),
        "http2/6.2/1": ([frame(HEADERS, END_STREAM, 1, block), _priority(1, 0, 255)], Ended(PROTOCOL_ERROR)),
        "http2/6.2/2": ([frame(HEADERS, END_STREAM, 1, block), _request(block, 3)], Ended(PROTOCOL_ERROR)),
        "http2/6.2/3": ([_request(block, 0)], Ended(PROTOCOL_ERROR)),
        "http2/6.2/4": (
            [frame(HEADERS, PADDED | END_HEADERS | END_STREAM, 1, bytes([len(block) + 1]) + block)],
            Ended(PROTOCOL_ERROR),
        ),
        "http2/6.3/1": ([_priority(0, 1, 255)], Ended(PROTOCOL_ERROR)),
        "http2/6.3/2": ([get, _priority(1, 0, 255, 4)], Ended(FRAME_SIZE_ERROR)),
        "http2/6.4/1": ([rst_stream(0, CANCEL)], Ended(PROTOCOL_ERROR)),
        "http2/6.4/2": ([rst_stream(1, CANCEL)], Ended(PROTOCOL_ERROR)),
        "http2/6.4/3": ([get, frame(RST_STREAM, 0, 1, bytes(3))], Ended(FRAME_SIZE_ERROR)),
        "http2/6.7/1": (
            [frame(PING, 0, 0, b"h2spec\0\0")],
            Served((), seen=_heard(PING, ACK, b"h2spec\0\0")),
        ),
        "http2/6.7/2": (
            [frame(PING, ACK, 0, b"invalid\0"), frame(PING, 0, 0, b"h2spec\0\0")],
            Served(
                (),
                seen=lambda told: next(each.payload for each in told if each.kind == PING) == b"h2spec\0\0",
            ),
        ),
        "http2/6.7/3": ([frame(PING, 0, 1, bytes(8))], Ended(PROTOCOL_ERROR)),
        "http2/6.7/4": ([frame(PING, 0, 0, bytes(6))], Ended(FRAME_SIZE_ERROR)),
        "http2/6.8/1": ([frame(GOAWAY, 0, 1, bytes(8))], Ended(PROTOCOL_ERROR)),
        "http2/6.10/1": (
            [begun, frame(CONTINUATION, 0, 1, b""), frame(CONTINUATION, 0, 1, b""), more],
            Served(),
        ),
        "http2/6.10/2": ([begun, data(1, b"test", end=True)], Ended(PROTOCOL_ERROR)),
        "http2/6.10/3": ([begun, frame(CONTINUATION, END_HEADERS, 0, block[1:])], Ended(PROTOCOL_ERROR)),
        "http2/6.10/4": ([post, frame(CONTINUATION, END_HEADERS, 1, block)], Ended(PROTOCOL_ERROR)),
        "http2/6.10/5": ([begun, more, more], Ended(PROTOCOL_ERROR)),
        "http2/6.10/6": ([post, data(1, b"test"), more], Ended(PROTOCOL_ERROR)),
        "http2/8.2/1": (
            [frame(PUSH_PROMISE, END_HEADERS, 1, struct.pack(">L", 2) + block)],
            Ended(PROTOCOL_ERROR),
        ),
    }


def _settings_and_windows(get: bytes) -> dict[str, tuple[Script, Outcome]]:
    window = codes.INITIAL_WINDOW_SIZE
    half = LARGEST // 2 + 1
    acked = _heard(SETTINGS, ACK, b"")
    return {
        "http2/6.5/1": ([frame(SETTINGS, ACK, 0, bytes(6))], Ended(FRAME_SIZE_ERROR)),
        "http2/6.5/2": ([frame(SETTINGS, 0, 1, bytes(6))], Ended(PROTOCOL_ERROR)),
        "http2/6.5/3": ([frame(SETTINGS, 0, 0, bytes(3))], Ended(FRAME_SIZE_ERROR)),
        "http2/6.5.2/1": ([settings((codes.ENABLE_PUSH, 2))], Ended(PROTOCOL_ERROR)),
        "http2/6.5.2/2": ([settings((window, LARGEST + 1))], Ended(FLOW_CONTROL_ERROR)),
        "http2/6.5.2/3": ([settings((codes.MAX_FRAME_SIZE, 16_383))], Ended(PROTOCOL_ERROR)),
        "http2/6.5.2/4": ([settings((codes.MAX_FRAME_SIZE, 1 << 24))], Ended(PROTOCOL_ERROR)),
        "http2/6.5.2/5": ([settings((0xFF, 1)), get], Served((1,), seen=acked)),
        "http2/6.5.3/1": ([settings((window, 100), (window, 1)), get], Served((1,), seen=_data_frames(1))),
        "http2/6.5.3/2": ([settings()], Served((), seen=acked)),
        "http2/6.9/1": ([window_update(0, 0)], Ended(PROTOCOL_ERROR)),
        "http2/6.9/2": ([get, window_update(1, 0)], Reset(PROTOCOL_ERROR)),
        "http2/6.9/3": ([frame(codes.WINDOW_UPDATE, 0, 0, bytes(3))], Ended(FRAME_SIZE_ERROR)),
        "http2/6.9.1/1": ([settings((window, 1)), get], Served((1,), seen=_data_frames(1))),
        "http2/6.9.1/2": ([window_update(0, LARGEST), window_update(0, LARGEST)], Ended(FLOW_CONTROL_ERROR)),
        "http2/6.9.1/3": (
            [get, window_update(1, LARGEST), window_update(1, LARGEST)],
            Reset(FLOW_CONTROL_ERROR),
        ),
        "http2/6.9.2/1": (
            [settings((window, 0)), get, Answer(), settings((window, 1))],
            Served((), seen=_data_frames(1)),
        ),
        "http2/6.9.2/2": (
            [settings((window, 3)), get, Answer(), settings((window, 2)), window_update(1, 2)],
            Served((), seen=_data_frames(3, 1)),
        ),
        "http2/6.9.2/3": ([settings((window, LARGEST + 1))], Ended(FLOW_CONTROL_ERROR)),
        # Beside h2spec's: a window that grows too far by SETTINGS is a fault of the connection.
        "rfc9113/6.9.2": (
            [get, window_update(1, half), settings((window, LARGEST))],
            Ended(FLOW_CONTROL_ERROR),
        ),
    }


def _messages() -> dict[str, tuple[Script, Outcome]]:
    def malformed(fields: Fields) -> tuple[Script, Outcome]:
        return [headers(1, fields, end=True)], Reset(PROTOCOL_ERROR)

    def without(name: bytes) -> Fields:
        return [field for field in GET if field[0] != name]

    with_length = headers(1, [*POST, (b"content-length", b"1")])
    return {
        "http2/8.1/1": (
            [headers(1, POST), data(1, b"test"), headers(1, TRAILERS)],
            Reset(PROTOCOL_ERROR),
        ),
        "http2/8.1.2/1": malformed([*GET, (b"X-TEST", b"ok")]),
        "http2/8.1.2.1/1": malformed([*GET, (b":test", b"ok")]),
        "http2/8.1.2.1/2": malformed([*GET, (b":status", b"200")]),
        "http2/8.1.2.1/3": (
            [headers(1, POST), data(1, b"test"), headers(1, [(b":method", b"x")], end=True)],
            Reset(PROTOCOL_ERROR),
        ),
        "http2/8.1.2.1/4": malformed([*GET[:3], (b"x-test", b"ok"), GET[3]]),
        "http2/8.1.2.2/1": malformed([*GET, (b"connection", b"keep-alive")]),
        "http2/8.1.2.2/2": malformed([*GET, (b"trailers", b"test"), (b"te", b"trailers, deflate")]),
        "http2/8.1.2.3/1": malformed([*without(b":path"), (b":path", b"")]),
        "http2/8.1.2.3/2": malformed(without(b":method")),
        "http2/8.1.2.3/3": malformed(without(b":scheme")),
        "http2/8.1.2.3/4": malformed(without(b":path")),
        "http2/8.1.2.3/5": malformed([*GET, GET[0]]),
        "http2/8.1.2.3/6": malformed([*GET, GET[1]]),
        "http2/8.1.2.3/7": malformed([*GET, GET[3]]),
        "http2/8.1.2.6/1": ([with_length, data(1, b"test", end=True)], Reset(PROTOCOL_ERROR)),
        "http2/8.1.2.6/2": (
            [headers(1, [*POST, (b"content-length", b"4")]), data(1, b"te"), data(1, b"x", end=True)],
            Reset(PROTOCOL_ERROR),
        ),
        # RFC 9113 section 8.2.1, which h2spec is older than.
        "rfc9113/8.2.1/name": malformed([*GET, (b"a b", b"x")]),
        "rfc9113/8.2.1/colon": malformed([*GET, (b"a:b", b"x")]),
        "rfc9113/8.2.1/line": malformed([*GET, (b"a", b"x\ny")]),
        "rfc9113/8.2.1/nul": malformed([*GET, (b"a", b"x\0")]),
        "rfc9113/8.2.1/outer": malformed([*GET, (b"a", b" x")]),
        "rfc9113/8.3.1/host": malformed([*GET, (b"host", b"other")]),
        "rfc9113/8.5/scheme": malformed([(b":method", b"CONNECT"), *GET[1:3]]),
    }


def _hpack() -> dict[str, tuple[Script, Outcome]]:
    blocks = {
        "2.3.3/1": FIRST + b"\xc6",
        "2.3.3/2": FIRST + b"\x7f\x07" + _string(b"x"),
        "4.2/1": FIRST + b"\x21",
        "5.2/1": FIRST + b"\x00" + _string(b"a") + _string(b"", HUFFMAN_A + b"\xff"),
        "5.2/2": FIRST + b"\x00" + _string(b"a") + _string(b"", b"\x18"),
        "5.2/3": FIRST + b"\x00" + _string(b"a") + _string(b"", b"\xff\xff\xff\xff"),
        "6.1/1": b"\x80",
        "6.3/1": b"\x3f\xe2\x1f" + FIRST,
    }
    return {f"hpack/{name}": ([_request(block)], Ended(COMPRESSION_ERROR)) for name, block in blocks.items()}


CASES = _cases()
