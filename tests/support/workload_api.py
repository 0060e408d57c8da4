"""A SPIFFE agent that knows nothing of ours: grpcio on a unix socket; what it says is what a test tells it to."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import load_pem_x509_certificate, load_pem_x509_crl

from interceptor.proxy.transport import Credentials
from interceptor.tls.authority import Pair
from tests.support.documents import SIDECAR, configuration
from tests.support.identities import Root

DER = serialization.Encoding.DER


def varint(value: int) -> bytes:
    made = bytearray()
    while value >= 0x80:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*made, value))


def field(number: int, value: bytes) -> bytes:
    """A field of a protocol buffer."""
    return varint(number << 3 | 2) + varint(len(value)) + value


def svid(spiffe_id: str, chain: bytes, key: bytes, bundle: bytes, hint: bytes = b"") -> bytes:
    """An X509SVID from its parts."""
    given = enumerate((spiffe_id.encode(), chain, key, bundle, hint), 1)
    return b"".join(field(number, value) for number, value in given if value)


def svid_of(spiffe_id: object, pair: Pair, *roots: Root, hint: str = "") -> bytes:
    """The X509SVID of a pair, which believes some roots."""
    key = serialization.load_pem_private_key(pair.key, None)
    plain = key.private_bytes(DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return svid(str(spiffe_id), der(pair.certificate), plain, bundle_of(*roots), hint.encode())


def der(pem: bytes) -> bytes:
    return load_pem_x509_certificate(pem).public_bytes(DER)


def bundle_of(*roots: Root) -> bytes:
    return b"".join(der(root.pair.certificate) for root in roots)


def answer(*svids: bytes, federated: dict[str, bytes] | None = None, crl: bytes | None = None) -> bytes:
    """An X509SVIDResponse; the revocation list is given in PEM."""
    made = b"".join(field(1, each) for each in svids)
    if crl is not None:
        made += field(2, load_pem_x509_crl(crl).public_bytes(DER))
    for name, bundle in (federated or {}).items():
        made += field(3, field(1, name.encode()) + field(2, bundle))
    return made


def credentials() -> Credentials:
    """The certificates of a gateway whose agent says what ``take`` is called with."""
    text = f"{SIDECAR}spec: {{tls: {{workloadApi: {{socket: 'unix:///nowhere'}}}}}}\n"
    return Credentials(configuration(text), time.time)


class Agent:
    """Answers each stream with what it says now, and with all that it says later; may die and come back."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "agent.sock"
        self.asked: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()  # the metadata of each call
        self._says: bytes | grpc.StatusCode | None = grpc.StatusCode.PERMISSION_DENIED
        self._streams: list[queue.SimpleQueue[bytes | grpc.StatusCode | None]] = []
        self._server: Any = None

    @property
    def address(self) -> str:
        return f"unix://{self.path}"

    def start(self) -> None:
        self._server = grpc.server(ThreadPoolExecutor(8))
        handler = grpc.unary_stream_rpc_method_handler(self._fetch)
        methods = grpc.method_handlers_generic_handler("SpiffeWorkloadAPI", {"FetchX509SVID": handler})
        self._server.add_generic_rpc_handlers((methods,))
        assert self._server.add_insecure_port(self.address)
        self._server.start()

    def say(self, what: bytes | grpc.StatusCode | None) -> None:
        """To every stream that there is, and at first to those that will be; a status ends them, None is silence."""
        self._says = what
        for stream in list(self._streams) if what is not None else ():
            stream.put(what)

    def stop(self) -> None:
        for stream in list(self._streams):
            stream.put(None)
        self._server.stop(0).wait()

    def _fetch(self, _request: bytes, context: Any) -> Iterator[bytes]:
        metadata = dict(context.invocation_metadata())
        self.asked.put(metadata)
        if metadata.get("workload.spiffe.io") != "true":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")
        stream: queue.SimpleQueue[bytes | grpc.StatusCode | None] = queue.SimpleQueue()
        if self._says is not None:
            stream.put(self._says)
        self._streams.append(stream)
        context.add_callback(lambda: stream.put(None))
        try:
            while (said := stream.get()) is not None:
                if isinstance(said, grpc.StatusCode):
                    context.abort(said, "no identity issued")
                yield said
        finally:
            self._streams.remove(stream)
