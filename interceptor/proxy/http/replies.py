"""The one table of local replies: what went wrong becomes a status, a response flag and a line for the client."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from interceptor.model.connection import ResponseFlag
from interceptor.model.http import LocalReply
from interceptor.proxy import endings

if TYPE_CHECKING:
    from interceptor.model.http import Headers
    from interceptor.protocol.http1 import MalformedError

_REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}


def reason(status: int) -> bytes:
    """The phrase that goes with a status."""
    return _REASONS.get(status, b"")


def reply(status: int, flag: ResponseFlag, details: str, sentence: str) -> LocalReply:
    """A reply whose body is one line that names the gateway and the reason."""
    return LocalReply(status, flag, details, f"interceptor: {sentence}\n".encode())


def headers(local: LocalReply) -> Headers:
    """A local reply's headers, with those that its body needs."""
    if not local.body:
        return [*local.headers, (b"content-length", b"0")]
    length = b"%d" % len(local.body)
    return [*local.headers, (b"content-type", b"text/plain"), (b"content-length", length)]


def of_malformed_request(error: MalformedError) -> LocalReply:
    """What the client sent is not passed on."""
    sentence = f"the request was refused: {error.details.replace('_', ' ')}"
    return reply(error.status, ResponseFlag.DOWNSTREAM_PROTOCOL, error.details, sentence)


def of_malformed_response(error: MalformedError) -> LocalReply:
    """What the upstream sent is not passed on."""
    sentence = f"the upstream's response was refused: {error.details.replace('_', ' ')}"
    return reply(502, ResponseFlag.UPSTREAM_PROTOCOL, error.details, sentence)


def of_dial(failure: endings.DialError) -> LocalReply:
    """No upstream could be reached."""
    flag, details = endings.of_dial(failure)
    return reply(503, flag, details, details)


_CLOSED: Final = "the upstream closed the connection before it had answered"
CLOSED: Final = reply(503, ResponseFlag.UPSTREAM_CLOSED, "upstream_reset_before_response_started", _CLOSED)
TIMEOUT: Final = reply(
    504, ResponseFlag.UPSTREAM_TIMEOUT, "response_timeout",
    "the upstream did not answer within spec.timeouts.request",
)  # fmt: skip
SLOW_HEAD: Final = reply(
    408, ResponseFlag.IDLE_TIMEOUT, "request_head_timeout",
    "the request's headers did not arrive within spec.timeouts.requestHead",
)  # fmt: skip
SLOW_BODY: Final = reply(
    408, ResponseFlag.IDLE_TIMEOUT, "stream_idle_timeout",
    "nothing more of the request arrived within spec.timeouts.idle",
)  # fmt: skip
SILENT: Final = reply(
    504, ResponseFlag.IDLE_TIMEOUT, "stream_idle_timeout", "the upstream was silent for spec.timeouts.idle"
)  # fmt: skip
TOO_LARGE: Final = reply(
    413, ResponseFlag.DOWNSTREAM_PROTOCOL, "request_payload_too_large",
    "the request's body is larger than the body limit allows",
)  # fmt: skip
FAULT: Final = reply(500, ResponseFlag.LOCAL_RESET, "internal_error", "a fault of the gateway")
