"""PURE. VirtualService documents compiled: which route a request takes, and what is done to it on the way.

Source: Istio's VirtualService reference. A host is looked up by hash, a wildcard by its longest suffix; routes are tried in
the document's order, the first one of which a match holds (all conditions of it) is taken.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import unquote_to_bytes

from interceptor.model import http
from interceptor.model.work import Kept, Work, done, steps
from interceptor.routing import delegates
from interceptor.routing.age import oldest_first
from interceptor.routing.by_host import ByHost
from interceptor.routing.cors import Cors, cors
from interceptor.routing.retry import RetryPolicy, retry_policy
from interceptor.routing.sources import MESH, Source
from interceptor.routing.text_match import TextMatch, text_match

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from interceptor.config.virtual_service import (
        Destination,
        HeaderOperations,
        HTTPMatchRequest,
        HTTPRoute,
        HTTPRouteDestination,
        RouteDestination,
        StringMatch,
        VirtualService,
    )
    from interceptor.model.chance import Chance

T = TypeVar("T")
_DEFAULT_PORTS = {b"http": 80, b"https": 443}


@dataclass(slots=True)
class Question:
    """What is asked about a request; ``port`` is the one the app dialled."""

    head: http.RequestHead
    port: int
    path: bytes = b""  # without the query
    query: bytes = b""

    def __post_init__(self) -> None:
        """Take the target apart once: several routes may look at it."""
        self.path, _, self.query = self.head.path.partition(b"?")

    def header(self, name: bytes) -> bytes | None:
        """A header's values as one, as RFC 9110 (5.3) joins them."""
        values = http.get_all(self.head.headers, name)
        return b",".join(values) if values else None

    def parameter(self, name: bytes) -> bytes | None:
        """The first value of a query parameter."""
        for pair in self.query.split(b"&"):
            key, _, value = pair.partition(b"=")
            if unquote_to_bytes(key.replace(b"+", b" ")) == name:
                return unquote_to_bytes(value.replace(b"+", b" "))
        return None

    def cookie(self, name: bytes) -> bytes | None:
        """The first value of a cookie; an empty one counts for nothing."""
        for value in http.get_all(self.head.headers, b"cookie"):
            for pair in value.split(b";"):
                key, _, text = pair.strip(b" ").partition(b"=")
                if key == name:
                    return text.strip(b'"') or None
        return None


class Condition(NamedTuple):
    """One condition of a match, and how an operator would say it."""

    said: str
    holds: Callable[[Question], bool]


@dataclass(frozen=True, slots=True)
class Match:
    """Conditions that must all hold."""

    conditions: tuple[Condition, ...]
    uri: TextMatch | None = None
    ignore_case: bool = False

    def failing(self, question: Question) -> Condition | None:
        """The first condition that does not hold."""
        return next((each for each in self.conditions if not each.holds(question)), None)


@dataclass(frozen=True, slots=True)
class Route:
    """One http route of a document."""

    document: str  # namespace/name
    name: str  # the route's own, or its place: http[0]
    spec: HTTPRoute
    matches: tuple[Match, ...]  # none: everything
    sums: tuple[int, ...]  # of the destinations' weights
    retries: RetryPolicy
    cors: Cors | None = None

    def mirrored(self, chance: Chance) -> Iterator[tuple[Destination, bool]]:
        """Where a copy of a request goes, and whether with the host as it is."""
        for destination, percent, keeps_host in self.spec.copies:
            if percent >= 100 or chance.random() * 100 < percent:
                yield destination, keeps_host

    def taken_by(self, question: Question) -> tuple[bool, Match | None]:
        """Whether a request takes this route, and by which match."""
        if not self.matches:
            return True, None
        for match in self.matches:
            if match.failing(question) is None:
                return True, match
        return False, None

    def destination(self, chance: Chance) -> HTTPRouteDestination:
        """One of the destinations, by their weights."""
        return drawn(self.spec.route, self.sums, chance)


@dataclass(frozen=True, slots=True)
class Taken:
    """The route that a request takes."""

    route: Route
    match: Match | None


class Step(NamedTuple):
    """For explain: a route that was tried and why it was not taken, None for the one that was."""

    route: Route
    failed: tuple[str, ...] | None


class RouteTable:
    """Every VirtualService that is for this workload; immutable once made.

    Of two documents for one host the oldest wins, as in Istio's mesh; the other's routes for that host are not used.
    """

    def __init__(
        self, documents: Sequence[VirtualService] = (), labels: Mapping[str, str] | None = None
    ) -> None:
        self._hosts: ByHost[tuple[Route, ...]] = ByHost()
        self.shadowed: list[tuple[str, str]] = []  # document, host
        self.compiled: Kept[VirtualService, tuple[Route, ...]] = Kept()
        done(self.fill(oldest_first(documents), Source(labels or {})))

    def fill(
        self,
        documents: Sequence[VirtualService],
        source: Source,
        before: RouteTable | None = None,
    ) -> Work[None]:
        """Take the routes of all documents, the oldest first, once; of those of the one before what they came to then."""
        self.compiled = Kept(None if before is None else before.compiled)
        known = delegates.named(documents)
        for some in steps(documents):
            yield
            for document in some:
                if MESH in document.spec.gateways and document.spec.http:
                    self._add(document, source, known)
        self.compiled.close()

    def _add(self, document: VirtualService, source: Source, known: Mapping[str, VirtualService]) -> None:
        depends = (source, delegates.asked(document, known)) if known else (source, ())
        routes = self.compiled.of(document, depends, lambda: tuple(_compiled(document, source, known)))
        for host in document.spec.hosts:
            if not self._hosts.add(host, routes):
                self.shadowed.append((document.full_name, host))

    def routes(self, authority: bytes) -> tuple[Route, ...]:
        """The routes for the host of an authority, of which the port counts for nothing here."""
        return self.of_host(host_of(authority))

    def of_host(self, host: bytes) -> tuple[Route, ...]:
        """The routes for a host in lower case."""
        return self._hosts.find(host) or ()

    def take(self, question: Question, routes: tuple[Route, ...] | None = None) -> Taken | None:
        """The route a request takes, by its authority or of some; None where none of them holds."""
        for route in self.routes(question.head.authority) if routes is None else routes:
            taken, match = route.taken_by(question)
            if taken:
                return Taken(route, match)
        return None

    def explain(self, question: Question, host: bytes | None = None) -> Iterator[Step]:
        """Each route that is tried, in order, and what did not hold."""
        for route in self.routes(question.head.authority) if host is None else self.of_host(host):
            if route.taken_by(question)[0]:
                yield Step(route, None)
                return
            failing = (match.failing(question) for match in route.matches)
            yield Step(route, tuple(condition.said for condition in failing if condition is not None))


def host_of(authority: bytes) -> bytes:
    """The host of an authority, in lower case, without its port and without the brackets of an IPv6 address."""
    if authority[:1] == b"[":
        return authority[1:].partition(b"]")[0].lower()
    return authority.partition(b":")[0].lower().removesuffix(b".")


def port_of(authority: bytes) -> int | None:
    """The port of an authority, where it names one."""
    _, _, port = authority.rpartition(b"]")[2].partition(b":")
    return int(port) if port.isdigit() else None


def drawn(route: Sequence[T], sums: Sequence[int], chance: Chance) -> T:
    """One of several destinations, by the sums of their weights."""
    return route[0] if len(route) == 1 else route[bisect_right(sums, chance.random() * sums[-1])]


def weight_sums(route: Sequence[HTTPRouteDestination | RouteDestination]) -> tuple[int, ...]:
    """The sums of destinations' weights; a lone one gets everything."""
    return tuple(itertools.accumulate(each.weight or (len(route) == 1) for each in route))


def _compiled(
    document: VirtualService, source: Source, known: Mapping[str, VirtualService]
) -> Iterator[Route]:
    for said in delegates.routes(document, known):
        spec = said.spec
        ours = source.own(spec.match)
        if spec.match and not ours:
            continue
        yield Route(
            said.document,
            spec.name or said.place,
            spec,
            tuple(map(_match, ours)),
            weight_sums(spec.route),
            retry_policy(spec.retries),
            cors(spec.corsPolicy),
        )


def _match(asked: HTTPMatchRequest) -> Match:
    conditions: list[Condition] = []

    def add(what: str, match: TextMatch, read: Callable[[Question], bytes | None]) -> None:
        test = match.test

        def holds(question: Question) -> bool:
            value = read(question)
            return value is not None and test(value)

        conditions.append(Condition(f"{what} {match.said}", holds))

    uri = None if asked.uri is None else text_match(asked.uri, ignore_case=asked.ignoreUriCase)
    if uri is not None:
        add("the path", uri, lambda question: question.path)
    parts: tuple[tuple[str, StringMatch | None, Callable[[Question], bytes]], ...] = (
        ("the method", asked.method, lambda question: question.head.method),
        ("the scheme", asked.scheme, lambda question: question.head.scheme),
        ("the authority", asked.authority, lambda question: question.head.authority),
    )
    for what, wanted, read in parts:
        if wanted is not None:
            add(what, text_match(wanted), read)
    if asked.port is not None:
        conditions.append(
            Condition(f"the port is {asked.port}", lambda question: question.port == asked.port)
        )
    for name, value in asked.headers.items():
        add(f"the header {name}", text_match(value), _reader(Question.header, name))
    for name, value in asked.queryParams.items():
        add(f"the parameter {name}", text_match(value), _reader(Question.parameter, name))
    for name, value in asked.withoutHeaders.items():
        conditions.append(_without(name, text_match(value)))
    return Match(tuple(conditions), uri, asked.ignoreUriCase)


def _reader(read: Callable[[Question, bytes], bytes | None], name: str) -> Callable[[Question], bytes | None]:
    wanted = name.encode()
    return lambda question: read(question, wanted)


def _without(name: str, match: TextMatch) -> Condition:
    wanted, test = name.encode(), match.test

    def holds(question: Question) -> bool:
        value = question.header(wanted)
        return value is None or not test(value)

    return Condition(f"the header {name} is not there or not so that it {match.said}", holds)


def rewritten(taken: Taken, question: Question) -> bytes:
    """The target that the upstream gets: the path rewritten as the route asks, the query as it was."""
    rewrite = taken.route.spec.rewrite
    if rewrite is None:
        return question.head.target
    path = question.path
    if rewrite.uriRegexRewrite is not None:
        import re2  # noqa: PLC0415 (only who writes an expression pays for the library)

        pattern = re2.compile(rewrite.uriRegexRewrite.match.encode())
        path = pattern.sub(rewrite.uriRegexRewrite.rewrite.encode(), path)
    elif rewrite.uri is not None:
        path = _replaced(taken.match, path, rewrite.uri.encode())
    return path + b"?" + question.query if question.query else path


def _replaced(match: Match | None, path: bytes, by: bytes) -> bytes:
    """The matched prefix, or the whole path where something else was matched, by another one."""
    prefix = None if match is None or match.uri is None else match.uri.prefix
    if prefix is None and match is None:
        prefix = b"/"  # Istio: a route without a match is one with the prefix "/"
    return by if prefix is None else by + path[len(prefix) :]


def changed(
    head: http.RequestHead, taken: Taken, question: Question, chosen: HTTPRouteDestination
) -> http.RequestHead:
    """A request's head as the upstream is to see it; the log has the client's."""
    spec = taken.route.spec
    target = rewritten(taken, question)
    headers, authority = list(head.headers), head.authority
    if target != head.target:
        http.put(headers, b"x-envoy-original-path", question.head.path)
    if spec.rewrite is not None and spec.rewrite.authority is not None:
        authority = spec.rewrite.authority.encode()
        http.put(headers, b"host", authority)
    change_headers(headers, spec.headers.request, chosen.headers.request)
    return http.RequestHead(head.method, target, authority, head.scheme, head.version, headers)


def changes_answers(taken: Taken, chosen: HTTPRouteDestination) -> bool:
    """Whether the answer to a request is not passed on as it is."""
    route = taken.route
    return route.cors is not None or says(route.spec.headers.response) or says(chosen.headers.response)


def change_answer(
    head: http.ResponseHead, asked: http.RequestHead, taken: Taken, chosen: HTTPRouteDestination
) -> None:
    """Do to an upstream's answer what a route asks for; pages of other origins are told whether they may read it."""
    change_headers(head.headers, taken.route.spec.headers.response, chosen.headers.response)
    if taken.route.cors is not None:
        taken.route.cors.change(asked, head.headers)


def redirection(taken: Taken, question: Question) -> tuple[int, bytes]:
    """The status and the location of a route that redirects."""
    redirect = taken.route.spec.redirect
    assert redirect is not None
    head = question.head
    scheme = (redirect.scheme or "").encode() or head.scheme
    host = head.authority if redirect.authority is None else redirect.authority.encode()
    port = redirect.port
    if redirect.derivePort == "FROM_REQUEST_PORT":
        port = question.port
    elif redirect.derivePort == "FROM_PROTOCOL_DEFAULT" or (redirect.scheme and redirect.authority is None):
        port = _DEFAULT_PORTS[scheme]
    if port is not None:
        bare = host[: host.find(b"]") + 1] if host[:1] == b"[" else host.partition(b":")[0]
        host = bare if port == _DEFAULT_PORTS.get(scheme) else b"%b:%d" % (bare, port)
    path = question.path if redirect.uri is None else redirect.uri.encode()
    query = b"?" + question.query if question.query and b"?" not in path else b""
    return redirect.redirectCode, scheme + b"://" + host + path + query


def cluster_name(destination: Destination, dialled: int) -> str:
    """Envoy's name for a destination, as Istio writes it."""
    port = dialled if destination.port is None else destination.port.number
    return f"outbound|{port}|{destination.subset or ''}|{destination.host}"


def says(operations: HeaderOperations) -> bool:
    """Whether any header is changed."""
    return bool(operations.set or operations.add or operations.remove)


def change_headers(headers: http.Headers, *operations: HeaderOperations) -> None:
    """Do what a route, and then its destination, ask for."""
    for each in operations:
        for name in each.remove:
            http.remove(headers, name.encode())
        for name, value in each.set.items():
            http.put(headers, name.encode(), value.encode())
        if each.add:
            headers += [(name.encode(), value.encode()) for name, value in each.add.items()]
