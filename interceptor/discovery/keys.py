"""The keys of RequestAuthentications that stand elsewhere: files that are watched, and URLs that are fetched.

A URL is fetched when a document first names it and every 20 minutes from then on, as Istio does, by the proxy's own
user, whose connections are not captured. Until its keys are there no token of its issuer holds; once they are, they
stay until better ones come.
"""

from __future__ import annotations

import logging
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from interceptor.discovery.verdict import Placed

    # Puts a key set into force, and answers with every problem where it is refused.
    Give = Callable[[str, str], Awaitable[tuple[str, ...]]]

HAS_KEYS: Final = "RequestAuthentication"
REFRESH: Final = 20 * 60.0  # seconds: Istio's PILOT_JWT_PUB_KEY_REFRESH_INTERVAL
FIRST_RETRY: Final = 1.0
LAST_RETRY: Final = 60.0
LOOK: Final = 1.0  # seconds between two looks at which URLs there are
MOST_BYTES: Final = 1 << 20
_CHUNK: Final = 1 << 16

_log: Final = logging.getLogger(__name__)


class Places(NamedTuple):
    """Where keys are."""

    files: tuple[str, ...] = ()
    urls: Mapping[str, float] = MappingProxyType({})  # each with the seconds that it may take


class FetchError(Exception):
    """There are no keys there, and why: a sentence."""


def places(documents: Iterable[Placed]) -> Places:
    """Where the documents that are in force have their keys."""
    files: dict[str, None] = {}
    urls: dict[str, float] = {}
    for document in (document for status, document in documents if status.kind == HAS_KEYS):
        for rule in document.spec.jwtRules:  # type: ignore[attr-defined]  # by its kind
            uri = rule.jwksUri
            if uri is not None and uri.startswith("file://"):
                files[uri.removeprefix("file://")] = None
            elif uri is not None:
                urls[uri] = min(rule.timeout, urls.get(uri, rule.timeout))
    return Places(tuple(files), urls)


def fetch(url: str, seconds: float, clock: Callable[[], float]) -> str:
    """The text that is there. Raises FetchError; blocks."""
    import http.client  # noqa: PLC0415 (for who has such keys, and so are the others)
    import urllib.error  # noqa: PLC0415 (as above)
    from urllib import request  # noqa: PLC0415 (as above)

    opener = request.OpenerDirector()  # nothing but HTTP: a redirect to a file of ours is none
    for handler in (
        *(request.HTTPHandler, request.HTTPSHandler, request.HTTPRedirectHandler),
        *(request.HTTPDefaultErrorHandler, request.HTTPErrorProcessor),
    ):
        opener.add_handler(handler())
    asked = request.Request(  # noqa: S310 (the document's rule is that it is http or https)
        url, headers={"Accept": "application/json", "User-Agent": "interceptor"}
    )
    deadline, data = clock() + seconds, b""
    try:
        with opener.open(asked, timeout=seconds) as answer:
            while chunk := answer.read1(_CHUNK):
                data += chunk
                if len(data) > MOST_BYTES:
                    raise FetchError(f"the answer has more than {MOST_BYTES} bytes")
                if clock() > deadline:
                    raise FetchError(f"the answer took longer than {seconds:g} s")
        return data.decode()
    except urllib.error.HTTPError as error:
        error.close()
        raise FetchError(f"the answer was {error.code}") from None
    except urllib.error.URLError as error:
        raise FetchError(str(error.reason)) from None
    except UnicodeDecodeError:
        raise FetchError("the answer is no text") from None
    except (OSError, http.client.HTTPException) as error:
        raise FetchError(str(error) or type(error).__name__) from None


class _Known(NamedTuple):
    due: float
    retry: float  # seconds to wait after the next failure
    text: str | None = None
    problem: str | None = None  # that was said


class Keys:
    """Fetches what documents name."""

    def __init__(self, wanted: Callable[[], Mapping[str, float]], give: Give) -> None:
        """``wanted``: the URLs of the moment, each with the seconds that it may take."""
        self._wanted = wanted
        self._give = give
        self._known: dict[str, _Known] = {}

    async def run(self) -> None:
        """Fetch when it is time, until cancelled."""
        while True:
            wanted, now = self._wanted(), trio.current_time()
            self._known = {
                url: self._known.get(url, _Known(now, FIRST_RETRY)) for url in wanted
            }  # what comes back later is fetched anew
            async with trio.open_nursery() as nursery:
                for url, seconds in wanted.items():
                    if self._known[url].due <= now:
                        nursery.start_soon(self._refresh, url, seconds)
            await trio.sleep(LOOK)

    async def _refresh(self, url: str, seconds: float) -> None:
        known = self._known[url]
        problem = None
        text = known.text
        try:
            # A thread cannot be cancelled; what it still reads ends by its own timeout.
            text = await trio.to_thread.run_sync(
                fetch, url, seconds, trio.lowlevel.current_clock().current_time, abandon_on_cancel=True
            )
            if text != known.text and (problems := await self._give(url, text)):
                text, problem = known.text, problems[0]
        except FetchError as error:
            problem = str(error)
        if problem is None:
            if text != known.text:
                _log.info("the keys of %s are in force", url)
            self._known[url] = _Known(trio.current_time() + REFRESH, FIRST_RETRY, text)
            return
        if problem != known.problem:
            then = (
                "those from before stay in force"
                if text
                else "no token of their issuer holds until they come"
            )
            _log.warning("the keys of %s cannot be had: %s; %s", url, problem, then)
        self._known[url] = _Known(
            trio.current_time() + known.retry, min(2 * known.retry, LAST_RETRY), text, problem
        )
