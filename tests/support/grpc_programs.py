"""A gRPC server and a client, as programs of their own: for a namespace.

Usage: python -m tests.support.grpc_programs server HOST PORT [FILE] | client HOST PORT | calls HOST PORT NUMBER
The server ends its connections by GOAWAY when they are half a second old. Asked by grpc.health.v1 it serves while FILE is there.
The client does one of everything and prints what came of it as one JSON object.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
BIG = 10_000_000
CANCELLED = threading.Event()


def unary(request: bytes, context: grpc.ServicerContext) -> bytes:
    """Backwards; metadata come back as trailers."""
    said = dict(context.invocation_metadata())
    context.set_trailing_metadata((("x-said", str(said.get("x-say"))), ("x-bin", b"\0\1\2")))
    return request[::-1]


def fail(_request: bytes, context: grpc.ServicerContext) -> bytes:
    context.abort(grpc.StatusCode.NOT_FOUND, "50% not found: ü")
    return b""


def wait(_request: bytes, context: grpc.ServicerContext) -> bytes:
    context.add_callback(CANCELLED.set)
    deadline = time.monotonic() + 20
    while context.is_active() and time.monotonic() < deadline:
        time.sleep(0.02)
    return b""


def was_cancelled(_request: bytes, _context: grpc.ServicerContext) -> bytes:
    seen = CANCELLED.wait(10)
    CANCELLED.clear()
    return b"yes" if seen else b"no"


def down(request: bytes, _context: grpc.ServicerContext) -> Iterator[bytes]:
    for _ in range(int(request)):
        yield b"x" * 10_000


def up(requests: Iterator[bytes], _context: grpc.ServicerContext) -> bytes:
    return str(sum(map(len, requests))).encode()


def both(requests: Iterator[bytes], _context: grpc.ServicerContext) -> Iterator[bytes]:
    for request in requests:
        yield request[::-1]


METHODS = {
    "unary": grpc.unary_unary_rpc_method_handler(unary),
    "fail": grpc.unary_unary_rpc_method_handler(fail),
    "wait": grpc.unary_unary_rpc_method_handler(wait),
    "was_cancelled": grpc.unary_unary_rpc_method_handler(was_cancelled),
    "down": grpc.unary_stream_rpc_method_handler(down),
    "up": grpc.stream_unary_rpc_method_handler(up),
    "both": grpc.stream_stream_rpc_method_handler(both),
}


# What the client says when all went well.
TOLD = {
    "unary": "cba",
    "trailers": ["this", "000102"],
    "fail": ["NOT_FOUND", "50% not found: ü"],
    "unknown": "UNIMPLEMENTED",
    "deadline": "DEADLINE_EXCEEDED",
    "deadline passed on": "yes",
    "big": True,
    "down": 5_000_000,
    "up": 5_000_000,
    "both": True,
    "cancel passed on": "yes",
    "at once": True,
}


def serve(host: str, port: int, file: str = "") -> None:
    ages = [("grpc.max_connection_age_ms", 500), ("grpc.max_connection_age_grace_ms", 30_000)]
    server = grpc.server(ThreadPoolExecutor(16), options=OPTIONS + ages)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", METHODS),))
    check = grpc.unary_unary_rpc_method_handler(
        lambda _asked, _context: b"\x08\x01" if Path(file).exists() else b"\x08\x02"
    )
    health = grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check})
    server.add_generic_rpc_handlers((health,))
    server.add_insecure_port(f"{host}:{port}")
    server.start()
    server.wait_for_termination()


def outcome(call: grpc.UnaryUnaryMultiCallable, **options: object) -> list[str]:
    """How a call that fails does so."""
    try:
        call(b"", **options)
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
    return ["OK", ""]


def ask(host: str, port: int) -> dict[str, object]:
    with grpc.insecure_channel(f"{host}:{port}", options=OPTIONS) as channel:

        def method(kind: str, name: str) -> grpc.UnaryUnaryMultiCallable:
            return getattr(channel, kind)(f"/test.Service/{name}")

        one = method("unary_unary", "unary")
        answer, call = one.with_call(b"abc", metadata=(("x-say", "this"),), timeout=20)
        trailers = {key: value for key, value in call.trailing_metadata() if key.startswith("x-")}
        big = bytes(BIG)
        waiting = method("unary_unary", "wait")
        told: dict[str, object] = {
            "unary": answer.decode(),
            "trailers": [trailers["x-said"], trailers["x-bin"].hex()],
            "fail": outcome(method("unary_unary", "fail"), timeout=20),
            "unknown": outcome(method("unary_unary", "nothing"), timeout=20)[0],
            "deadline": outcome(waiting, timeout=0.3)[0],
            "deadline passed on": method("unary_unary", "was_cancelled")(b"", timeout=20).decode(),
            "big": one(big, timeout=60) == big,
            "down": sum(map(len, method("unary_stream", "down")(b"500", timeout=60))),
            "up": int(method("stream_unary", "up")((b"x" * 10_000 for _ in range(500)), timeout=60)),
            "both": b"".join(method("stream_stream", "both")((b"ab" for _ in range(500)), timeout=60))
            == b"ba" * 500,
        }
        future = waiting.future(b"", timeout=20)
        time.sleep(0.2)  # until it has reached the server; were it not, the next line would tell
        future.cancel()
        told["cancel passed on"] = method("unary_unary", "was_cancelled")(b"", timeout=20).decode()
        with ThreadPoolExecutor(16) as threads:
            told["at once"] = all(
                threads.map(lambda at: one(b"%d" % at, timeout=30) == (b"%d" % at)[::-1], range(200))
            )
    return told


if __name__ == "__main__":
    role, where, number, *more = sys.argv[1:]
    if role == "server":
        serve(where, int(number), *more)
    elif role == "calls":
        with grpc.insecure_channel(f"{where}:{number}") as channel:
            for _ in range(int(more[0])):
                channel.unary_unary("/test.Service/unary")(b"abc", timeout=20)
    else:
        print(json.dumps(ask(where, int(number))))  # noqa: T201 (its output is its purpose)
