"""The admin app (loopback only: looks inside, and the few switches) and the telemetry app (metrics and health).

What they show and switch is handed in as callables: nothing here knows the proxy.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from interceptor.admin.server import App, Request, Response
from interceptor.errors import ConfigError
from interceptor.telemetry import logs
from interceptor.telemetry.metrics import exposition

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from prometheus_client import Metric

# Literal addresses cannot be rebound by DNS, and browsers resolve localhost themselves.
_LOOPBACK: Final = r"(?:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::[0-9]{1,5})?"
_loopback_host = re.compile(_LOOPBACK, re.IGNORECASE).fullmatch
_loopback_origin = re.compile(f"https?://{_LOOPBACK}", re.IGNORECASE).fullmatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """What runtime gives the admin app. What is returned must be plain data that JSON can hold, without secrets."""

    collect: Callable[[], Awaitable[Iterable[Metric]]]
    connections: Callable[[], Awaitable[Sequence[str]]]  # the live flows, each as JSON
    config_dump: Callable[[], Mapping[str, object]]
    listeners: Callable[[], Sequence[Mapping[str, object]]]
    clusters: Callable[[], Awaitable[Sequence[Mapping[str, object]]]]
    certs: Callable[[], Sequence[Mapping[str, object]]]  # without keys
    ready: Callable[[], str | None]  # None when ready, else what is pending
    remark: Callable[[], str | None]  # what is to be said although it is ready
    drain: Callable[[], None]  # readiness off, stop accepting, let flows end
    explain: Callable[[Mapping[str, Sequence[str]]], Mapping[str, object]]  # ConfigError: not a question
    readiness: Callable[[], Awaitable[Sequence[Mapping[str, object]]]]  # who did without mutual TLS, by port
    quit: Callable[[], None]  # end the program; called after the answer was sent
    set_level: Callable[[str], None]  # of the program log; ConfigError where there is no such level
    pushed: App  # GET and PUT of /config


@dataclass(frozen=True, slots=True)
class _Endpoint:
    method: str
    path: str
    answer: App
    does: str = ""
    also: tuple[str, ...] = ()  # methods that it takes besides


def admin_app(controls: Controls) -> App:
    """The app for 127.0.0.1:15000; a browser on a rebound or foreign page gets nothing from it."""
    admin = _Admin(controls)
    endpoints = (
        _Endpoint("GET", "/config_dump", admin.config_dump, "the configuration in force, secrets redacted"),
        _Endpoint("GET", "/config", controls.pushed, "the pushed documents; PUT: push others", also=("PUT",)),
        _Endpoint("GET", "/connections", admin.connections, "the live flows"),
        _Endpoint("GET", "/listeners", admin.listeners, "where this proxy listens"),
        _Endpoint(
            "GET",
            "/clusters",
            admin.clusters,
            "the destinations that are known, and the health of the endpoints in use",
        ),
        _Endpoint(
            "GET", "/explain", admin.explain, "?from=IP&to-port=P or ?to=HOST:PORT: what is decided, and why"
        ),
        _Endpoint("GET", "/certs", admin.certs, "the certificates in use, and until when"),
        _Endpoint("GET", "/stats", admin.stats, "every counter and gauge, one a line"),
        _Endpoint("GET", "/stats/prometheus", admin.prometheus, "the metrics as Prometheus reads them"),
        _Endpoint("GET", "/ready", admin.ready, "200 when ready, else 503 and what is pending"),
        _Endpoint("POST", "/logging", admin.logging, "?level=debug|info|warning|error: change the log level"),
        _Endpoint("POST", "/drain", admin.drain, "readiness off, stop accepting, let flows end"),
        _Endpoint("POST", "/quitquitquit", admin.quitquitquit, "end the program"),
    )
    index = "".join(f"{each.method:<5}{each.path:<19}{each.does}\n" for each in endpoints)

    async def home(_: Request) -> Response:
        return Response(index)

    routed = _routed(_Endpoint("GET", "/", home), *endpoints)

    async def answer(request: Request) -> Response:
        refusal = _refusal(request)
        return await routed(request) if refusal is None else Response(refusal, 403)

    return answer


def telemetry_app(
    collect: Callable[[], Awaitable[Iterable[Metric]]],
    ready: Callable[[], str | None],
    remark: Callable[[], str | None],
) -> App:
    """The app for :15020, open to scrapers and probes: it changes nothing and names no client."""

    async def scrape(_: Request) -> Response:
        return _exposition(await collect())

    async def answer_ready(_: Request) -> Response:
        return _readiness(ready(), "ready", remark())

    async def answer_live(_: Request) -> Response:
        return Response("live\n")

    return _routed(
        _Endpoint("GET", "/metrics", scrape),
        _Endpoint("GET", "/stats/prometheus", scrape),
        _Endpoint("GET", "/healthz/ready", answer_ready),
        _Endpoint("GET", "/healthz/live", answer_live),
    )


def push_app(pushed: App) -> App:
    """The app for pushes from other machines: it shows and takes pushed documents, and nothing else."""
    return _routed(_Endpoint("GET", "/config", pushed, also=("PUT",)))


def _routed(*endpoints: _Endpoint) -> App:
    """Each path with its one method; HEAD is a GET whose body nobody wants."""
    by_path = {each.path: each for each in endpoints}

    async def answer(request: Request) -> Response:
        endpoint = by_path.get(request.path)
        if endpoint is None:
            return Response("there is no such path\n", 404)
        allowed = ("GET", "HEAD", *endpoint.also) if endpoint.method == "GET" else (endpoint.method,)
        if request.method not in allowed:
            allow = ", ".join(allowed)
            return Response(f"{request.path} takes {allow}\n", 405, headers=(("Allow", allow),))
        return await endpoint.answer(request)

    return answer


class _Admin:
    """The endpoints of the admin app."""

    def __init__(self, controls: Controls) -> None:
        self._controls = controls

    async def config_dump(self, _: Request) -> Response:
        # Aside: written out, thousands of documents take seconds.
        return await trio.to_thread.run_sync(lambda: _json(self._controls.config_dump()))

    async def listeners(self, _: Request) -> Response:
        return _json(self._controls.listeners())

    async def clusters(self, _: Request) -> Response:
        return _json(await self._controls.clusters())

    async def certs(self, _: Request) -> Response:
        return _json(self._controls.certs())

    async def explain(self, request: Request) -> Response:
        """Several values of one field stand on lines of their own. ``?readiness``: who still does without mutual TLS."""
        if request.query.keys() == {"readiness"}:
            return _json(await self._controls.readiness())
        given = {name: value.split("\n") for name, value in request.query.items()}
        try:
            return _json(self._controls.explain(given))
        except ConfigError as error:
            return Response(f"{error}\n", 400)

    async def connections(self, _: Request) -> Response:
        """One flow a line."""
        rows = await self._controls.connections()
        body = "[\n" + ",\n".join(rows) + "\n]\n" if rows else "[]\n"
        return Response(body, content_type="application/json")

    async def stats(self, _: Request) -> Response:
        return Response(envoy_stats(await self._controls.collect()))

    async def prometheus(self, _: Request) -> Response:
        return _exposition(await self._controls.collect())

    async def ready(self, _: Request) -> Response:
        return _readiness(self._controls.ready(), "LIVE", self._controls.remark())  # Envoy's word

    async def logging(self, request: Request) -> Response:
        level = request.query.get("level", "")
        try:
            self._controls.set_level(level)
        except ConfigError as error:
            return Response(f"{error}\n", 400)
        return Response(f"log level: {level}\n")

    async def drain(self, _: Request) -> Response:
        self._controls.drain()
        return Response("draining\n")

    async def quitquitquit(self, _: Request) -> Response:
        return Response("quitting\n", then=self._controls.quit)


def _refusal(request: Request) -> str | None:
    """Why this is refused: a web page could make a browser send it, by a rebound Host or from a foreign Origin."""
    hosts = request.values(b"host")
    if not hosts or not all(map(_loopback_host, hosts)):
        return "this endpoint answers only to a loopback Host; use http://127.0.0.1 or http://localhost\n"
    if request.method not in ("GET", "HEAD") and not all(map(_loopback_origin, request.values(b"origin"))):
        return "a page of another origin may not change anything here\n"
    return None


def envoy_stats(families: Iterable[Metric]) -> str:
    """Envoy's form: name, then label and value by dots, a colon, the value. Histograms keep count and sum."""
    lines = (
        f"{'.'.join((sample.name, *(part for pair in sample.labels.items() for part in pair)))}: {sample.value:.15g}"
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_bucket")
    )
    return "".join(f"{logs.printable(line)}\n" for line in sorted(lines))


def _readiness(pending: str | None, ready: str, remark: str | None) -> Response:
    if pending is None:
        return Response(f"{ready}\n" if remark is None else f"{ready}\n{remark}\n")
    return Response(f"not ready: {pending}\n", 503)


def _exposition(families: Iterable[Metric]) -> Response:
    return Response(exposition(families), content_type=CONTENT_TYPE_PLAIN_0_0_4)


def _json(value: object) -> Response:
    return Response(json.dumps(value, indent=2) + "\n", content_type="application/json")
