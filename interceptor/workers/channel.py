"""Messages between the main process and a worker: whole, in order, over a pair of sockets that nobody else has.

Both ends are one program, forked, and run as one user: what arrives is as trusted as what is sent, so it is pickled.
"""

from __future__ import annotations

import contextlib
import math
import pickle
from typing import TYPE_CHECKING, Final

import trio

from interceptor.workers.message import Message

if TYPE_CHECKING:
    import socket

_LENGTH: Final = 8  # bytes before each message
_CHUNK: Final = 256 * 1024


class Channel:
    """One end."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(0)
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._outgoing, self._queue = trio.open_memory_channel[Message](math.inf)
        self._received = bytearray()

    def post(self, message: Message) -> None:
        """Queue a message. The queue is bounded by what is asked: one request of a kind at a time."""
        self._outgoing.send_nowait(message)

    def finish(self) -> None:
        """No more will be posted: ``run`` ends when all is sent."""
        self._outgoing.close()

    async def run(self) -> None:
        """Send what is posted."""
        with contextlib.suppress(trio.BrokenResourceError):  # the other process has ended
            async for message in self._queue:
                data = pickle.dumps(message)
                await self._stream.send_all(len(data).to_bytes(_LENGTH, "big") + data)

    def close(self) -> None:
        """Close this end, whatever is still to be sent."""
        self._stream.socket.close()

    async def receive(self) -> Message | None:
        """The next message; None when the other process has ended. To be called by one task only."""
        try:
            length = await self._take(_LENGTH)
            data = length and await self._take(int.from_bytes(length, "big"))
        except trio.BrokenResourceError:
            return None
        if not data:
            return None
        message = pickle.loads(data)  # noqa: S301 (see above)
        assert isinstance(message, Message)
        return message

    async def _take(self, size: int) -> bytes:
        """So many bytes; none where the stream ends before."""
        while len(self._received) < size:
            chunk = await self._stream.receive_some(_CHUNK)
            if not chunk:
                return b""
            self._received += chunk
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken
