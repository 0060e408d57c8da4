"""A call whose streams are parted: what each side hears, and when windows come back."""

from __future__ import annotations

from dataclasses import dataclass, field

from interceptor.model.connection import ResponseFlag
from interceptor.model.http import Headers, ResponseHead
from interceptor.protocol.http1 import CHUNKED
from interceptor.protocol.http2.codes import CANCEL, DATA, HEADERS, NO_ERROR, RST_STREAM, WINDOW_UPDATE
from interceptor.protocol.http2.diversion import Client, Way
from interceptor.protocol.http2.hooks import WAIT
from tests.support.http2 import GET, GRPC, OK, POST, Bridged, rst_stream


@dataclass
class Noting:
    """A taker or an asker that notes what it is told."""

    told: list[object] = field(default_factory=list)

    def data(self, data: bytes) -> None:
        self.told.append(data)

    def end(self, trailers: Headers) -> None:
        self.told.append(trailers)

    def resume(self) -> None:
        self.told.append("resume")

    def informational(self, head: ResponseHead) -> None:
        self.told.append(head.status)

    def respond(self, head: ResponseHead, body: int) -> None:
        self.told.append((head.status, body))

    def broken(self, details: str) -> None:
        self.told.append(details)


class Diverted(Bridged):
    """A request that somebody stands amid."""

    def __init__(self, fields: tuple[tuple[bytes, bytes], ...] = POST, *, end: bool = False) -> None:
        super().__init__()
        self.hooks.verdict = WAIT
        self.from_client(self.client.headers(1, fields, end=end))
        self.taker, self.asker = Noting(), Noting()
        self.call = self.hooks.calls[0]
        self.to_client = Client(self.bridge, self.call, self.taker)
        self.to_client.divert()

    def forward(self, body: int = CHUNKED) -> Way:
        way = Way(self.bridge, self.call, self.asker, self.call.request, body)
        way.forward()
        return way


def test_each_side_hears_what_came_and_nothing_passes_by_itself() -> None:
    made = Diverted()
    assert made.from_client(made.client.data(1, b"question", end=True)) == ([], [])
    assert made.taker.told == [b"question", []]
    way = made.forward()
    way.data(b"other")
    way.end([(b"X-Last", b"1")])
    _, heard = made.hear()
    assert [sent.kind for sent in heard] == [HEADERS, DATA, HEADERS]
    made.app.fields(heard[0])
    assert made.app.fields(heard[2]) == {b"x-last": b"1"}
    assert made.from_app(made.app.headers(1, OK), made.app.data(1, b"answer", end=True)) == ([], [])
    assert made.asker.told == ["resume", (200, CHUNKED), b"answer", []]
    made.to_client.respond(ResponseHead(201, b"", []), end=False)
    made.to_client.data(b"mine")
    made.to_client.end([])
    heard, _ = made.hear()
    assert [(sent.kind, sent.payload) for sent in heard[1:]] == [(DATA, b"mine"), (DATA, b"")]
    assert heard[-1].ends
    assert (made.call.status, made.call.bytes_received, made.call.bytes_sent) == (201, 8, 4)
    assert made.hooks.finished_calls == [made.call]


def test_windows_come_back_when_bytes_have_gone_on() -> None:
    made = Diverted()
    way = made.forward()
    made.hear()
    piece = made.client.data(1, b"x" * 16_384)
    assert made.from_client(*([piece] * 12)) == ([], [])
    made.to_client.used()
    assert {sent.kind for sent in made.hear()[0]} == {WINDOW_UPDATE}
    answer = made.app.data(1, b"x" * 16_384)
    assert made.from_app(made.app.headers(1, OK), *([answer] * 12)) == ([], [])
    way.resume()
    assert {sent.kind for sent in made.hear()[1]} == {WINDOW_UPDATE}


def test_heads_that_end_their_stream() -> None:
    made = Diverted(GET, end=True)
    assert made.taker.told == [[]]
    way = made.forward(0)
    way.end([])
    _, [asked] = made.hear()
    assert asked.ends
    made.from_app(made.app.headers(1, ((b":status", b"103"),)), made.app.headers(1, OK, end=True))
    assert made.asker.told == [103, (200, 0), []]
    made.to_client.informational(ResponseHead(103, b"", []))
    made.to_client.respond(ResponseHead(200, b"", [(b"grpc-status", b"0")]), end=True)
    assert [sent.ends for sent in made.hear()[0]] == [False, True]
    made.to_client.end([])  # it has
    made.to_client.data(b"late")
    assert made.hear() == ([], [])


def test_an_answer_before_the_end_of_the_request_resets_the_rest() -> None:
    made = Diverted(GRPC)
    made.to_client.respond(ResponseHead(200, b"", [(b"grpc-status", b"7")]), end=True)
    heard, _ = made.hear()
    assert [sent.kind for sent in heard] == [HEADERS, RST_STREAM]
    assert heard[1].code == NO_ERROR
    assert made.call.grpc_status == "7"


def test_what_the_upstream_breaks_off_is_told_once() -> None:
    made = Diverted()
    way = made.forward()
    made.hear()
    assert made.from_app(rst_stream(1, CANCEL)) == ([], [])
    assert made.asker.told[0] == (503, len(made.asker.told[1]))  # type: ignore[arg-type] # bytes
    assert made.asker.told[2] == []
    assert (way.over, way.flag) == (True, ResponseFlag.UPSTREAM_RESET)
    way.abort(ResponseFlag.NONE, "-")
    assert way.flag is ResponseFlag.UPSTREAM_RESET


def test_what_the_upstream_breaks_off_amid_its_answer_is_broken() -> None:
    made = Diverted()
    made.forward()
    made.hear()
    made.from_app(made.app.headers(1, OK), rst_stream(1, CANCEL))
    assert made.asker.told[0] == (200, CHUNKED)
    assert "the upstream reset the stream" in str(made.asker.told[1])


def test_who_wants_nothing_more_resets_the_upstream() -> None:
    made = Diverted()
    way = made.forward()
    made.hear()
    way.abort(ResponseFlag.NONE, "-")
    _, [reset] = made.hear()
    assert (reset.kind, reset.code) == (RST_STREAM, CANCEL)
    assert way.flush()
    way.data(b"late")
    way.end([])
    assert made.hear() == ([], [])
