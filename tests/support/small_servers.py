"""Servers of real protocols, small enough for threads of the test: each talks to a real client of its protocol."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import h11

from tests.support.gateways import server
from tests.support.netns import Namespace


@contextmanager
def serving(where: Namespace, port: int, handle: Callable[[socket.socket], None]) -> Iterator[None]:
    """A function serves each connection to a namespace's own address, in a thread of its own, until it returns."""
    listener = server(where, where.v4, port)
    listener.settimeout(None)

    def serve(client: socket.socket) -> None:
        with client, contextlib.suppress(ConnectionError):
            handle(client)

    def accept() -> None:
        with contextlib.suppress(OSError):  # the listener's end
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def smtp(client: socket.socket) -> None:
    """Take one mail and say what came: the server speaks first, then line by line (RFC 5321)."""
    with client.makefile("rwb", buffering=0) as lines:
        lines.write(b"220 mail.test ESMTP\r\n")
        while line := lines.readline():
            word = line[:4].upper().rstrip()
            if word == b"DATA":
                lines.write(b"354 go on\r\n")
                size = sum(len(text) for text in iter(lines.readline, b".\r\n"))
                lines.write(b"250 took %d bytes\r\n" % size)
            elif word == b"QUIT":
                lines.write(b"221 bye\r\n")
                return
            else:
                lines.write(b"250 mail.test\r\n")


_OK = b"\x00\x00\x00\x02\x00\x00\x00"
_PROTOCOL_41, _SECURE, _PLUGIN = 0x200, 0x8000, 0x80000


def mysql(client: socket.socket) -> None:
    """Greet as MySQL does, believe every password, and answer OK to every command but QUIT."""
    flags = _PROTOCOL_41 | _SECURE | _PLUGIN
    greeting = b"\x0a8.0.0-test\0" + struct.pack("<I", 7) + b"12345678\0"
    greeting += struct.pack("<HBHH", flags & 0xFFFF, 45, 2, flags >> 16) + bytes([21]) + bytes(10)
    greeting += b"123456789012\0mysql_native_password\0"
    with client.makefile("rwb", buffering=0) as stream:
        stream.write(_mysql_packet(0, greeting))
        while len(head := stream.read(4) or b"") == 4:
            body = stream.read(int.from_bytes(head[:3], "little")) or b""
            if head[3] == 0 and body[:1] == b"\x01":  # COM_QUIT
                return
            stream.write(_mysql_packet(head[3] + 1, _OK))


def _mysql_packet(number: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "little") + bytes([number]) + body


def trailers(client: socket.socket) -> None:
    """Answer each request by what came: its body in chunks, and its trailers as trailers."""
    connection = h11.Connection(h11.SERVER)
    body, ended = b"", []
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                client.sendall(connection.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
            connection.receive_data(client.recv(65536))
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            ended = list(event.headers)
            answer = h11.Response(status_code=200, headers=[("transfer-encoding", "chunked")])
            for each in (answer, h11.Data(data=body), h11.EndOfMessage(headers=ended)):
                client.sendall(connection.send(each) or b"")
            connection.start_next_cycle()
            body = b""
        elif isinstance(event, h11.ConnectionClosed):
            return


def connect_proxy(client: socket.socket, reach: Callable[[int], socket.socket]) -> None:
    """Take one CONNECT and be the tunnel to a port."""
    head = b""
    while b"\r\n\r\n" not in head and (data := client.recv(65536)):
        head += data
    method, target, _ = head.split(b" ", 2)
    assert method == b"CONNECT"
    with reach(int(target.rpartition(b":")[2])) as there:
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        back = threading.Thread(target=_pump, args=(there, client))
        back.start()
        _pump(client, there)
        back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def count_body(client: socket.socket) -> None:
    """Take a request of any size, holding none of it, and say how much came."""
    head = b""
    while b"\r\n\r\n" not in head and (data := client.recv(65536)):
        head += data
    head, _, begun = head.partition(b"\r\n\r\n")
    length = next(
        int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
    )
    size, buffer = len(begun), bytearray(1 << 20)
    while size < length and (got := client.recv_into(buffer)):
        size += got
    said = b"%d" % size
    client.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(said), said)
    )
