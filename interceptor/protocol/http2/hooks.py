"""What a bridge asks and tells whoever serves it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from interceptor.model.http import LocalReply, ResponseHead
    from interceptor.protocol.http2.stream import Call


class Wait:
    """A request is held until ``Bridge.forward`` or ``Bridge.reply``."""

    __slots__ = ()


WAIT: Final = Wait()


class Hooks(Protocol):
    """Who decides and records what passes."""

    def request(self, call: Call) -> LocalReply | Wait | None:
        """Let a request pass (None), answer it, or hold it. Its head is others' too: a copy may be altered."""

    def response(self, call: Call, head: ResponseHead) -> ResponseHead:
        """A final response, also one of ours, as the client is to see it. The head is others' too: a copy may be altered."""

    def malformed(self, details: str) -> None:
        """A request that cannot be understood was refused."""

    def finished(self, call: Call) -> None:
        """Nothing more comes of this call; told once for each that ``request`` was asked about."""
