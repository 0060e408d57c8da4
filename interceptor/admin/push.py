"""``/config``: the pushed documents, for whoever may push. What it does is handed in: nothing here knows discovery.

The app shares the loopback interface, so the address alone says nothing about who asks: it has the token of a file, or,
from another machine, a certificate of the right name.
"""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from interceptor.admin.server import Request, Response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
    from typing import TypeAlias

    Refusal: TypeAlias = Callable[[Request], Response | None]  # why whoever asks may not

MAX_BODY: Final = 16 << 20  # bytes: some 200 000 endpoints
MAX_WAITING: Final = 4  # pushes at a time, with their bodies; one is judged after the other
MIN_TOKEN: Final = 16  # characters: 64 bits as hexadecimal digits; shorter ones are guessed
_MAX_TOKEN: Final = 4096
DISABLED: Final = (
    "pushes to this port are off; to allow them, set spec.discovery.push {enabled: true, tokenFile: FILE} in the Sidecar and restart "
    "the proxy\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """What pushes can do. ``push`` raises what it finds wrong as one of the two errors given."""

    etag: Callable[[], str]
    shown: Callable[[], str]
    types: Sequence[str]
    patch: str  # the one of them that needs an If-Match
    push: Callable[[str, bytes, str | None], Awaitable[tuple[str, str]]]
    refused: type[Exception]
    stale: type[Exception]


class PushEndpoint:
    """GET and PUT of ``/config``."""

    def __init__(self, door: Door | None, refusal: Refusal) -> None:
        self._door = door
        self._refusal = refusal
        self._waiting = trio.CapacityLimiter(MAX_WAITING)

    def wants(self, request: Request) -> int | Response:
        """How large a body is kept: of nobody's but who may push."""
        if request.path != "/config" or request.method != "PUT":
            return 0
        if self._door is None:
            return Response(DISABLED, 403)
        return self._refusal(request) or MAX_BODY

    async def answer(self, request: Request) -> Response:
        """What is pushed, or what came of a push."""
        if self._door is None:
            return Response(DISABLED, 403)
        if (refusal := self._refusal(request)) is not None:
            return refusal
        if request.method != "PUT":
            return Response(
                self._door.shown(), content_type="application/json", headers=(("ETag", self._door.etag()),)
            )
        try:
            self._waiting.acquire_on_behalf_of_nowait(place := object())
        except trio.WouldBlock:
            return Response(
                "other pushes wait already; try again later\n", 503, headers=(("Retry-After", "1"),)
            )
        try:
            return await self._push(self._door, request)
        finally:
            self._waiting.release_on_behalf_of(place)

    async def _push(self, door: Door, request: Request) -> Response:
        content_type = "".join(request.values(b"content-type")).partition(";")[0].strip().lower()
        if content_type not in door.types:
            return Response(f"send one of these content types: {', '.join(door.types)}\n", 415)
        expected = "".join(request.values(b"if-match")) or None
        if content_type == door.patch and expected is None:
            return Response("a patch needs If-Match with the ETag of GET /config\n", 428)
        try:
            version, etag = await door.push(content_type, request.body, expected)
        except door.stale:
            message = "other documents were pushed meanwhile; GET /config has them and their ETag\n"
            return Response(message, 412, headers=(("ETag", door.etag()),))
        except door.refused as error:
            return _json({"problems": list(error.args)}, 422, door.etag())
        return _json({"version": version}, 200, etag)


def _json(value: Mapping[str, object], status: int, etag: str) -> Response:
    text = json.dumps(value, indent=2) + "\n"
    return Response(text, status, content_type="application/json", headers=(("ETag", etag),))


def by_token(token_file: str) -> Refusal:
    """Who has the token of a file may push; it is read each time, so that it can be replaced."""

    def refusal(request: Request) -> Response | None:
        try:
            with Path(token_file).open("rb") as file:
                token = file.read(_MAX_TOKEN).strip()
        except OSError as error:
            return Response(f"the token file {token_file} cannot be read: {error.strerror}\n", 403)
        if len(token) < MIN_TOKEN:
            message = (
                f"the token in {token_file} is shorter than {MIN_TOKEN} characters; write a longer one\n"
            )
            return Response(message, 403)
        given = "".join(request.values(b"authorization")).partition(" ")
        if given[0].lower() == "bearer" and hmac.compare_digest(given[2].strip().encode("latin-1"), token):
            return None
        return Response(
            "send the token of the token file as 'Authorization: Bearer TOKEN'\n",
            401,
            headers=(("WWW-Authenticate", "Bearer"),),
        )

    return refusal


def by_name(names: Collection[str]) -> Refusal:
    """Who proved one of these names by a certificate may push."""

    def refusal(request: Request) -> Response | None:
        if not set(request.names).isdisjoint(names):
            return None
        shown = ", ".join(map(ascii, request.names)) or "nobody"
        message = f"the client's certificate is of {shown}, which is none of spec.discovery.push.remote.subjectAltNames\n"
        return Response(message, 403)

    return refusal
