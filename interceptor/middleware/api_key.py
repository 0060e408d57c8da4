"""PURE. A key for each client. Keys are kept and looked up as keyed hashes, so that no comparison tells anything of one."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from interceptor.middleware.credentials import named_lines, refused
from interceptor.model.http import get_all, put, remove

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.middleware.api import Exchange
    from interceptor.model.http import LocalReply, ResponseHead

_SHA256: Final = re.compile(r"\{SHA256\}([0-9a-f]{64})")
_CHALLENGE: Final = b"ApiKey"


@dataclass(frozen=True, slots=True)
class Keys:
    """The clients by the hash of their key."""

    _pepper: bytes = field(repr=False)
    _clients: dict[bytes, tuple[bytes, str]] = field(repr=False)  # the keyed hash; the hash and the client

    def client(self, key: bytes) -> str | None:
        """Whose key it is."""
        hashed = hashlib.sha256(key).digest()
        found = self._clients.get(_keyed(hashed, self._pepper))
        return found[1] if found is not None and hmac.compare_digest(found[0], hashed) else None


def parse_keys(data: bytes, pepper: bytes) -> Keys:
    """The keys of a file, one ``client:key`` or ``client:{SHA256}hex`` a line; the pepper is random, of this process."""
    clients: dict[bytes, tuple[bytes, str]] = {}
    for number, name, value in named_lines(data, "of the form client:key or client:{SHA256}hex"):
        hashed = hashlib.sha256(value.encode()).digest()
        if value.startswith("{"):
            match = _SHA256.fullmatch(value)
            if match is None:
                raise ValueError(f"line {number}: a hashed key is {{SHA256}} and 64 hexadecimal digits")
            hashed = bytes.fromhex(match.group(1))
        keyed = _keyed(hashed, pepper)
        if keyed in clients:
            raise ValueError(f"line {number} gives the key of another client; each has its own")
        clients[keyed] = hashed, name
    return Keys(pepper, clients)


def _keyed(hashed: bytes, pepper: bytes) -> bytes:
    return hmac.digest(pepper, hashed, "sha256")


@dataclass(frozen=True, slots=True)
class ApiKeyFilter:
    """Lets pass who gives a known key, in a header or in the query."""

    name: str
    keys: Callable[[], Keys]
    header: bytes | None  # in lower case
    query: bytes | None
    client_header: bytes | None  # where the app is told the client; what a client writes there is dropped
    forward: bool  # the key as well

    def request(self, exchange: Exchange) -> LocalReply | None:
        headers = exchange.request.headers
        if self.client_header is not None:
            remove(headers, self.client_header.lower())
        given = get_all(headers, self.header) if self.header is not None else self._in_query(exchange)
        if not given:
            return self._refused("the API key is missing", "missing")
        client = self.keys().client(given[0]) if len(given) == 1 else None
        if client is None:
            return self._refused("the API key is wrong", "wrong")
        exchange.principal = client
        if not self.forward:
            self._hide(exchange)
        if self.client_header is not None:
            put(headers, self.client_header, client.encode())
        return None

    def response(self, exchange: Exchange, head: ResponseHead) -> None:
        """What passed is left as it is."""

    def _in_query(self, exchange: Exchange) -> list[bytes]:
        query = exchange.request.target.partition(b"?")[2]
        pairs = (pair.partition(b"=") for pair in query.split(b"&"))
        return [_decoded(value) for name, _, value in pairs if _decoded(name) == self.query]

    def _hide(self, exchange: Exchange) -> None:
        if self.header is not None:
            remove(exchange.request.headers, self.header)
            return
        path, _, query = exchange.request.target.partition(b"?")
        kept = [pair for pair in query.split(b"&") if _decoded(pair.partition(b"=")[0]) != self.query]
        exchange.request.target = path + b"?" + b"&".join(kept) if kept else path

    def _refused(self, reason: str, word: str) -> LocalReply:
        return refused(reason, f"api_key_auth_access_denied{{{self.name},{word}}}", _CHALLENGE)


def _decoded(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" "))
