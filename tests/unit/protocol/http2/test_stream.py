"""What a stream and a call begin with."""

from __future__ import annotations

import pytest

from interceptor.model.connection import ResponseFlag
from interceptor.model.http import RequestHead
from interceptor.protocol.http2.stream import Call, Stream


class Nobody:
    def consumed(self, stream: Stream, size: int) -> None: ...


@pytest.mark.parametrize(
    ("content_type", "grpc"), [(b"application/grpc+proto", True), (b"text/plain", False)]
)
def test_a_call_knows_whether_it_is_grpc(content_type: bytes, grpc: bool) -> None:
    head = RequestHead(b"POST", b"/", b"app", b"http", b"2", [(b"content-type", content_type)])
    near, far = Stream(1, Nobody(), 10, 20), Stream(0, Nobody(), 30, 40)
    call = Call(head, None, near, far)
    assert (call.grpc, call.flag, call.status, call.response) == (grpc, ResponseFlag.NONE, 0, None)
    assert (near.window, near.receivable, far.id, len(far.pending)) == (10, 20, 0, 0)
