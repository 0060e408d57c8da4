"""One HTTP/1.1 request over a plain trio stream, with exactly the bytes a test wants to send."""

from __future__ import annotations

from dataclasses import dataclass

import trio


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: str


async def request(
    address: tuple[str, int], method: str, target: str, *, host: str = "localhost", headers: str = ""
) -> Answer:
    """Send a request (``headers`` are whole lines) and read until the server closes."""
    stream = await trio.open_tcp_stream(*address)
    head = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n"
    return await exchange(stream, head.encode("latin-1"))


async def exchange(stream: trio.SocketStream, sent: bytes) -> Answer:
    """Send bytes and read one answer, until the server closes."""
    async with stream:
        await stream.send_all(sent)
        received = b""
        with trio.fail_after(10):
            while chunk := await stream.receive_some(65536):
                received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.split(": ", 1) for line in lines)
    return Answer(int(first.split()[1]), {name.lower(): value for name, value in pairs}, body.decode())
