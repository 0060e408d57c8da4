"""PURE. Limits: how often requests and connections may come, and how long a request's body may be. The clock is given."""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from interceptor.middleware.api import Refusal
from interceptor.model.connection import ResponseFlag
from interceptor.model.http import LocalReply, get
from interceptor.policy.paths import normalised
from interceptor.policy.rate_limit import SECOND

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from interceptor.middleware.api import Connection, Exchange
    from interceptor.model.connection import Flow
    from interceptor.model.http import ResponseHead
    from interceptor.policy.rate_limit import Key, Limiter

LONGEST_PART: Final = 64  # bytes of a key kept as they are; a longer one is kept as its hash


@dataclass(frozen=True, slots=True)
class KeyOf:
    """Makes a request's key: the parts that were configured, in their order. What a request lacks is empty."""

    by: tuple[str, ...]
    path_prefixes: tuple[bytes, ...] = ()  # the longest first

    def exchange(self, exchange: Exchange) -> Key:
        """The key of a request."""
        return tuple(_bounded(self._part(part, exchange)) for part in self.by)

    def flow(self, flow: Flow) -> Key:
        """The key of a connection, which has only its peer and that one's identity."""
        return tuple(_bounded(_peer(flow) if part == "peer" else _identity(flow)) for part in self.by)

    def _part(self, part: str, exchange: Exchange) -> bytes:
        match part:
            case "peer":
                return _peer(exchange.flow)
            case "identity":
                return _identity(exchange.flow)
            case "principal":
                return (exchange.principal or "").encode()
            case "pathPrefix":
                path = _one_form(exchange.request.path)
                return next((each for each in self.path_prefixes if path.startswith(each)), b"")
            case _:
                return get(exchange.request.headers, part.removeprefix("header:").encode()) or b""


def peer_key(host: str) -> bytes:
    """Who an address stands for: an IPv6 peer has a whole /64 to come from."""
    if ":" not in host:
        return host.encode()
    return str(ipaddress.IPv6Network((host, 64), strict=False)).encode()


def written_key(by: Sequence[str], parts: Sequence[str]) -> Key:
    """The key that an override names."""
    encoded = (
        peer_key(text) if part == "peer" else text.encode() for part, text in zip(by, parts, strict=True)
    )
    return tuple(map(_bounded, encoded))


def _one_form(path: bytes) -> bytes:
    """A path as most apps will read it, so that no other way of writing it has a limit of its own."""
    path = path.partition(b"?")[0]
    try:
        return normalised(path, "DECODE_AND_MERGE_SLASHES")
    except ValueError:  # an app may take it all the same
        return path


def _peer(flow: Flow) -> bytes:
    return peer_key(flow.peer.host)


def _identity(flow: Flow) -> bytes:
    return b"" if flow.peer_identity is None else flow.peer_identity.principal.encode()


def _bounded(part: bytes) -> bytes:
    return part if len(part) <= LONGEST_PART else hashlib.blake2b(part, digest_size=LONGEST_PART).digest()


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Refuses what comes too often, requests with 429 and connections with a reset."""

    name: str
    limiter: Limiter
    key: KeyOf
    clock: Callable[[], float]  # seconds, monotonic

    def request(self, exchange: Exchange) -> LocalReply | None:
        wait = self.limiter.admit(self.key.exchange(exchange), int(self.clock() * SECOND))
        if not wait:
            return None
        body = f"interceptor: rate limit '{self.name}' is exceeded\n".encode()
        retry_after = b"%d" % -(-wait // SECOND)  # whole seconds, rounded up
        headers = [(b"retry-after", retry_after)]
        return LocalReply(429, ResponseFlag.RATE_LIMITED, f"local_rate_limited{{{self.name}}}", body, headers)

    def response(self, exchange: Exchange, head: ResponseHead) -> None:
        """What passed is left as it is."""

    def connection(self, connection: Connection) -> Refusal | None:
        if not self.limiter.admit(self.key.flow(connection.flow), int(self.clock() * SECOND)):
            return None
        return Refusal(
            f"more connections than the rate limit '{self.name}' of spec.middleware allows", "rate_limit"
        )


@dataclass(frozen=True, slots=True)
class BodyLimit:
    """Refuses a longer body: where its length is announced at once, else once so much has come."""

    longest: int

    def request(self, exchange: Exchange) -> LocalReply | None:
        announced = get(exchange.request.headers, b"content-length")
        if announced is not None and int(announced) > self.longest:
            return too_large(self.longest)
        if exchange.body_limit is None or self.longest < exchange.body_limit:
            exchange.body_limit = self.longest
        return None

    def response(self, exchange: Exchange, head: ResponseHead) -> None:
        """Answers may be of any length."""


def too_large(longest: int) -> LocalReply:
    """The answer to a body beyond the limit."""
    body = f"interceptor: the request's body is longer than {longest} bytes\n".encode()
    return LocalReply(413, ResponseFlag.NONE, "request_payload_too_large", body)
