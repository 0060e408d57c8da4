"""Fuzz the entrances by coverage, with atheris (the extra ``fuzz``): no other exception than those that are said, no hang.

    .venv/bin/python -m tests.fuzz hello|request|response|http2 [-max_total_time=60] [DIRECTORY]
    .venv/bin/python -m tests.fuzz seeds DIRECTORY

What follows the entrance is libFuzzer's. The seeds are for http2: every case of conformance, as it reads them. The properties of hypothesis, which run with the tests, look at the same entrances.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from pathlib import Path
from typing import Any

atheris: Any = importlib.import_module("atheris")
with atheris.instrument_imports(include=["interceptor.protocol"]):
    from interceptor.protocol import client_hello, detect, http1
    from interceptor.protocol.http2.leg import Limits
    from tests.support.http2 import OK, Bridged
    from tests.support.http2_cases import CASES, Answer, data as body, headers

LIMITS = Limits(streams=4, window=100_000, connection_window=200_000)


def hello(data: bytes) -> None:
    size = len(data)
    client_hello.parse(data)
    inside = b"\x01" + size.to_bytes(3, "big") + data  # a handshake message in one record
    client_hello.parse(b"\x16\x03\x01" + (len(inside) % 65536).to_bytes(2, "big") + inside)
    detect.detect(data)
    detect.is_http2_server(data)


def request(data: bytes) -> None:
    with contextlib.suppress(http1.MalformedError):
        http1.check_incomplete(data)
    for start in (b"", b"POST /a HTTP/1.1\r\nhost: a\r\n"):
        with contextlib.suppress(http1.MalformedError):
            http1.parse_request(start + data + b"\r\n")


def response(data: bytes) -> None:
    method = b"HEAD" if data[:1] == b"H" else b"GET"
    for start in (b"", b"HTTP/1.1 200 OK\r\n"):
        with contextlib.suppress(http1.MalformedError):
            http1.parse_response(start + data + b"\r\n", method)


def http2(data: bytes) -> None:
    """Pieces from either side in turn; the first two bytes of each say how long it is."""
    pair = Bridged(limits=LIMITS)
    sends = (pair.from_client, pair.from_app)
    turn = 0
    while len(data) > 2:
        size = int.from_bytes(data[:2], "big") % 2000
        sends[turn % 2](data[2 : 2 + size])
        data, turn = data[2 + size :], turn + 1
        for leg in (pair.bridge.downstream, pair.bridge.upstream):
            assert sum(len(stream.pending) for stream in leg.streams.values()) <= LIMITS.connection_window
            assert len(leg.streams) <= LIMITS.streams


def seeds(directory: Path) -> None:
    """Write what ``http2`` may begin with."""
    app = headers(1, OK) + body(1, b"hello", end=True)
    answered = len(app).to_bytes(2, "big") + app
    for name, (script, _) in CASES.items():
        out = b""
        for step in script:
            if isinstance(step, Answer):
                out += b"\0\0" + answered
            elif len(step) < 2000 and len(out) < 10_000:
                out += len(step).to_bytes(2, "big") + step + b"\0\0"
        (directory / name.replace("/", "-")).write_bytes(out.removesuffix(b"\0\0") + answered)


ENTRANCES = {each.__name__: each for each in (hello, request, response, http2)}

if __name__ == "__main__":
    if sys.argv[1:2] == ["seeds"] and len(sys.argv) == 3:
        seeds(Path(sys.argv[2]))
        sys.exit()
    if len(sys.argv) < 2 or sys.argv[1] not in ENTRANCES:
        sys.exit(f"which entrance: {', '.join(ENTRANCES)}?")
    atheris.Setup([sys.argv[0], *sys.argv[2:]], ENTRANCES[sys.argv[1]])
    atheris.Fuzz()
