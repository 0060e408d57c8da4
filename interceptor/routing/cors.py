"""PURE. Cross-origin requests of browsers, as a route's corsPolicy has them: which are answered here, what is added.

Sources: Istio's CorsPolicy and Envoy's CORS filter; the Fetch standard says what a preflight is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from interceptor.model import http
from interceptor.routing.text_match import text_match

if TYPE_CHECKING:
    from interceptor.config.virtual_service import CorsPolicy
    from interceptor.model.http import Headers, RequestHead
    from interceptor.routing.text_match import TextMatch


@dataclass(frozen=True, slots=True)
class Cors:
    """One policy, compiled."""

    origins: tuple[TextMatch, ...]
    anyone: bool  # as Envoy has it, where '*' is one of the origins
    preflight: Headers  # of the answer to a preflight, beside the origin
    response: Headers  # of any other response, beside the origin
    ignores: bool  # a preflight of another origin is answered here, with nothing allowed

    def origin(self, head: RequestHead) -> bytes | None:
        """The origin of a request, where it is one that is allowed."""
        origin = http.get(head.headers, b"origin")
        if not origin:
            return None
        return origin if self.anyone or any(each.test(origin) for each in self.origins) else None

    def answer(self, head: RequestHead) -> Headers | None:
        """The headers of the answer to a preflight; None where the request goes on."""
        if head.method != b"OPTIONS" or not http.get(head.headers, b"access-control-request-method"):
            return None
        if not http.get(head.headers, b"origin"):
            return None
        origin = self.origin(head)
        if origin is None:
            return [] if self.ignores else None
        return [(b"access-control-allow-origin", origin), *self.preflight]

    def change(self, head: RequestHead, response: Headers) -> None:
        """Give a response its headers, in place of the upstream's own; a cache may not keep it for another origin."""
        origin = self.origin(head)
        if origin is None:
            return
        for name, value in ((b"access-control-allow-origin", origin), *self.response):
            http.put(response, name, value)
        response.append((b"vary", b"origin"))


def cors(asked: CorsPolicy | None) -> Cors | None:
    """What a route asks for."""
    if asked is None:
        return None
    always: Headers = [(b"access-control-allow-credentials", b"true")] if asked.allowCredentials else []
    given = (
        (b"access-control-allow-methods", ",".join(asked.allowMethods)),
        (b"access-control-allow-headers", ",".join(asked.allowHeaders)),
        (b"access-control-max-age", "" if asked.maxAge is None else f"{asked.maxAge:.0f}"),
    )
    exposed: Headers = []
    if asked.exposeHeaders:
        exposed = [(b"access-control-expose-headers", ",".join(asked.exposeHeaders).encode())]
    origins = tuple(map(text_match, asked.allowOrigins))
    return Cors(
        origins,
        any(each.test(b"*") for each in origins),
        [*always, *((name, value.encode()) for name, value in given if value)],
        [*always, *exposed],
        asked.unmatchedPreflights == "IGNORE",
    )
