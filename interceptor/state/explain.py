"""PURE. Why a snapshot decides about a connection or a request as it does, for people and for programs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from interceptor.config.addresses import is_ip_address
from interceptor.model.address import OriginalDestination, SocketAddress
from interceptor.model.connection import Direction
from interceptor.model.http import get
from interceptor.policy import paths
from interceptor.policy.authorization import Verdict
from interceptor.policy.because import PolicyReason, reasons
from interceptor.policy.facts import ConnectionFacts, RequestFacts, remote_address
from interceptor.policy.peer_authentication import Effective, Mode
from interceptor.policy.policies import Policies, compiled
from interceptor.policy.selection import Workload, selects
from interceptor.routing.destinations import ANSWERS, reached
from interceptor.state import explain_peer
from interceptor.state.explain_route import flow_reason, left_out, route_reason
from interceptor.state.question import read
from interceptor.state.snapshot import take, visible_entries

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from interceptor.config.service_entry import ServiceEntry
    from interceptor.model.health import Unhealthy
    from interceptor.policy.jwts import Claims
    from interceptor.routing.destinations import Decision
    from interceptor.state.explain_route import RouteReason
    from interceptor.state.question import Question
    from interceptor.state.snapshot import Snapshot

_RESET: Final = "the connection is reset without a byte"
_EXAMPLE: Final = "192.0.2.1"  # stands for a name whose address nobody looked up


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A decision with everything that led to it."""

    direction: Direction
    asked: str
    route: Decision
    mutual_tls: Effective | None  # of ingress
    policies: tuple[PolicyReason, ...]
    others: tuple[str, ...]  # policies that are about somebody else, and why
    notes: tuple[str, ...]
    verdict: Verdict
    outcome: str  # what the client sees
    routed: RouteReason | None = None  # where a document says where it goes, and to which endpoint

    def as_mapping(self) -> dict[str, object]:
        """For JSON."""
        mode = self.mutual_tls
        return {
            "direction": self.direction.value,
            "asked": self.asked,
            "verdict": "allowed" if self.verdict.allowed else "denied",
            "policy": self.verdict.policy,
            "details": self.verdict.details,
            "outcome": self.outcome,
            "shadow": self.verdict.shadow,
            "audited": list(self.verdict.audited),
            "route": {
                "cluster": self.route.cluster,
                "service": self.route.service,
                "policy": self.route.policy,
            },
            "requestRoute": self.routed and self.routed.as_mapping(),
            "mutualTls": mode and {"mode": mode.mode.value, "policy": mode.policy, "trace": list(mode.trace)},
            "policies": [each.as_mapping() for each in self.policies],
            "notAboutIt": list(self.others),
            "notes": list(self.notes),
            "text": list(self.lines()),
        }

    def lines(self) -> Iterator[str]:
        """For a terminal."""
        yield f"{self.direction.value}: {self.asked}"
        yield f"route: {self.route.cluster} ({self.route.policy})"
        if self.routed is not None:
            yield from (f"  {sentence}" for sentence in self.routed.because)
        if self.mutual_tls is not None:
            yield f"mutual TLS: {self.mutual_tls.mode.value}, by {self.mutual_tls.policy}"
            yield from (f"  {step}" for step in self.mutual_tls.trace)
        yield "policies:" if self.policies else "policies: none is asked"
        for each in self.policies:
            dry = " (dry run)" if each.policy.dry_run else ""
            yield f"  {each.policy.action:<5} {each.policy}{dry}: {'matches' if each.matches else 'does not match'}"
            if not each.rules:
                yield "    there are no rules, so it never matches"
            for rule in each.rules:
                yield from (f"    rule {rule.number}: {sentence}" for sentence in rule.because)
        yield from (f"  not asked: {other}" for other in self.others)
        yield from (f"note: {note}" for note in self.notes)
        if self.verdict.shadow != "-":
            yield f"dry run: it would be {self.verdict.shadow}"
        yield from (f"audit: {policy} says that it matched" for policy in self.verdict.audited)
        yield f"verdict: {'allowed' if self.verdict.allowed else 'denied'} by {self.verdict.policy}"
        if self.verdict.details != "-":
            yield f"  {self.verdict.details}"
        yield f"  {self.outcome}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """A question with all that a decision over it needs."""

    question: Question
    policies: Policies
    destination: OriginalDestination
    route: Decision
    mode: Effective | None
    connection: ConnectionFacts
    request: RequestFacts | None
    stranger: str | None  # why the peer's certificate proves nothing here
    malformed: str | None  # why the request has no path that could be compared
    bad_token: str | None  # why its token does not hold
    routed: RouteReason | None

    @property
    def direction(self) -> Direction:
        return Direction.INGRESS if self.question.to is None else Direction.EGRESS


def answer(
    snapshot: Snapshot, given: Mapping[str, Sequence[str]], unhealthy: Unhealthy | None = None
) -> Explanation:
    """The same for a question as it is typed; raises ConfigError with everything that is wrong with it.

    ``unhealthy``: what a running proxy knows by its health checks.
    """
    made = explain(snapshot, read(given))
    if made.routed is None or not unhealthy:
        return made
    return replace(made, notes=(*made.notes, *left_out(made.routed, unhealthy)))


def explain(snapshot: Snapshot, question: Question) -> Explanation:
    """What a snapshot decides, and why."""
    notes: list[str] = []
    case = _case(snapshot, question, notes)
    verdict, outcome = _judged(case)
    unasked = case.stranger or case.malformed or case.bad_token
    authorizer = None if unasked else case.policies.authorizer(case.direction, case.route.entry)
    return Explanation(
        direction=case.direction,
        asked=_asked(case),
        route=case.route,
        mutual_tls=case.mode,
        policies=tuple(reasons(authorizer.policies, case.connection, case.request)) if authorizer else (),
        others=tuple(_others(snapshot, case)),
        notes=tuple(notes),
        verdict=verdict,
        outcome=outcome,
        routed=case.routed,
    )


def _case(snapshot: Snapshot, question: Question, notes: list[str]) -> _Case:
    policies = snapshot.policies or compiled(snapshot.configuration)
    if question.to is None:
        destination = OriginalDestination(SocketAddress(_EXAMPLE, question.port))
        route, mode = snapshot.ingress(destination), policies.modes.effective(question.port)
        spec = snapshot.configuration.sidecar.spec
        identity, stranger = explain_peer.proved(question.identity, mode.mode, spec, notes)
    else:
        snapshot, destination = _destination(snapshot, question.to, question.port, notes)
        route, mode, identity, stranger = snapshot.egress(destination), None, policies.identity, None
    malformed = _normalised(snapshot, question, notes)
    claims, bad_token = explain_peer.said(question, policies.tokens, notes)
    routed = None
    if question.to is not None and snapshot.routing and not route.denied:
        head = question.request
        routed = (
            flow_reason(snapshot.routing, question, route, destination)
            if head is None
            else route_reason(snapshot.routing, head, question, route, destination)
        )
        if head is None and route.protocol in {"http", "http2", "grpc"}:
            notes.append(
                f"port {question.port} is declared to carry HTTP, each request of which is routed by itself: ask with a path"
            )
        if routed is None and head is not None and snapshot.routing.is_elsewhere(head.authority, route):
            notes.append(
                f"the Host {head.authority.decode('latin-1')} has routes at the ports of its service; what is sent to this "
                "address and port passes, as in Istio"
            )
    return _Case(
        question=question,
        policies=policies,
        destination=destination,
        route=route,
        mode=mode,
        connection=ConnectionFacts(SocketAddress(question.peer, 0), destination, identity, question.sni),
        request=None if malformed else _request(snapshot, question, claims),
        stranger=stranger,
        malformed=malformed,
        bad_token=bad_token,
        routed=routed,
    )


def _judged(case: _Case) -> tuple[Verdict, str]:
    """The verdict, and what the client sees of it; in the order of the path."""
    route = case.route
    if route.denied is not None:
        return Verdict(allowed=False, policy=route.policy, details=route.details), _nowhere(case)
    if (refused := _unheard(case)) is not None:
        return refused
    verdict = Verdict(allowed=True, policy=route.policy)
    if (authorizer := case.policies.authorizer(case.direction, route.entry)) is not None:
        decided = authorizer.decide(case.connection, case.request)
        verdict = decided if decided.policy != "-" else replace(decided, policy=route.policy)
    if verdict.allowed and case.routed is not None:
        verdict = _elsewhere(case, case.routed, verdict)
    if verdict.allowed:
        where = "the app" if case.direction is Direction.INGRESS else "where the app connects to"
        if case.routed is not None and not case.routed.clusters:
            return (
                verdict,
                "404, for no route takes it" if case.routed.route is None else "what its route answers",
            )
        if case.routed is not None and not case.routed.served:
            nobody = "for nobody is where it goes"
            return verdict, f"503, {nobody}" if case.question.request is not None else f"a reset, {nobody}"
        where = where if case.routed is None else "where its route says"
        return verdict, f"it goes on to {where}"
    head = case.question.request
    if head is None:
        return verdict, _RESET
    grpc = (get(head.headers, b"content-type") or b"").startswith(b"application/grpc")
    return (
        verdict,
        "grpc-status 7 (PERMISSION_DENIED)" if grpc else "403 Forbidden, body 'RBAC: access denied'",
    )


def _unheard(case: _Case) -> tuple[Verdict, str] | None:
    """The refusal of what no policy is asked about: whom the mode does not let in, and what is no good request."""
    mode = case.mode
    if case.stranger is not None:
        return Verdict(allowed=False, policy="-", details=case.stranger), "the TLS handshake is refused"
    if mode is not None and mode.mode is Mode.STRICT and not case.connection.principal:
        details = f"a peer that does not speak mutual TLS is refused: {mode.policy} is STRICT"
        return Verdict(allowed=False, policy=mode.policy, details=details), _RESET
    if case.malformed is not None:
        return Verdict(allowed=False, policy="-", details=case.malformed), "400 Bad Request"
    if case.bad_token is not None and (tokens := case.policies.tokens) is not None:
        return Verdict(allowed=False, policy=tokens.name, details=case.bad_token), "401 Unauthorized"
    return None


def _nowhere(case: _Case) -> str:
    """What a client sees whose connection may go nowhere, whatever it carries."""
    status = ANSWERS.get(case.route.denied or "")
    if status is None or case.route.protocol in {"tcp", "tls"}:
        return _RESET
    if case.question.request is None:
        return f"{_RESET}; a request of HTTP would be answered with {status}"
    return f"{status} {HTTPStatus(status).phrase}, and the connection ends"


def _elsewhere(case: _Case, routed: RouteReason, allowed: Verdict) -> Verdict:
    """The verdict of other services that a route leads to: denied where all that it leads to deny it."""
    verdicts = []
    for entry in routed.entries:
        authorizer = None if entry == case.route.entry else case.policies.authorizer(case.direction, entry)
        verdicts.append(allowed if authorizer is None else authorizer.decide(case.connection, case.request))
    refused = [each for each in verdicts if not each.allowed]
    return refused[0] if refused and len(refused) == len(verdicts) else allowed


def _normalised(snapshot: Snapshot, question: Question, notes: list[str]) -> str | None:
    """Put the request's path into the form that is compared and forwarded; why it has none, if so."""
    head = question.request
    if head is None:
        return None
    before = head.target
    try:
        paths.normalise(head, snapshot.configuration.sidecar.spec.pathNormalization.normalization)
    except ValueError as error:
        return str(error)
    if head.target != before:
        notes.append(f"the path {before.decode()} is compared and forwarded as {head.target.decode()}")
    return None


def _request(snapshot: Snapshot, question: Question, claims: Claims | None) -> RequestFacts | None:
    if question.request is None:
        return None
    trusted = snapshot.configuration.sidecar.spec.gatewayTopology.numTrustedProxies
    remote = remote_address(question.request.headers, question.peer, trusted)
    return RequestFacts(question.request, remote=remote, claims=claims)


def _destination(
    snapshot: Snapshot, to: str, port: int, notes: list[str]
) -> tuple[Snapshot, OriginalDestination]:
    """The address that the app would dial; for a name nobody looked up an address that stands for it."""
    host = to
    if not is_ip_address(to):
        host, entry = _address(snapshot, to)
        if entry is not None and not entry.spec.addresses and (names := entry.spec.names_to_resolve):
            told = {to: (host,)} if entry.spec.hosts_to_resolve else dict.fromkeys(names, (host,))
            snapshot = take(snapshot.configuration, {**snapshot.resolved, **told}, before=snapshot)
        if host == _EXAMPLE:
            notes.append(f"the address of {to} is not known here; {_EXAMPLE} stands for it")
        if (answered := snapshot.names.find(to)) is not None:
            given = (*answered[1].v4, *answered[1].v6)
            if host not in given:
                host = given[0]
                notes.append(f"the app's query for {to} is answered with {host}")
    return snapshot, OriginalDestination(SocketAddress(host, port))


def _address(snapshot: Snapshot, name: str) -> tuple[str, ServiceEntry | None]:
    entries = [entry for entry in visible_entries(snapshot.configuration) if name in entry.spec.hosts]
    entry = entries[0] if entries else None
    if known := snapshot.resolved.get(name):
        return known[0], entry
    given: list[str] = []
    if entry is not None:
        spec, resolved = entry.spec, snapshot.resolved
        behind = (address for each in spec.endpoints for address in reached(spec, each, resolved))
        given = [*spec.addresses, *behind]
    return (given[0].partition("/")[0] if given else _EXAMPLE), entry


def _asked(case: _Case) -> str:
    question, facts = case.question, case.connection
    who = f" ({facts.principal})" if facts.principal else ""
    if question.to is None:
        text = f"{question.peer}{who} to port {question.port} of the app"
    else:
        text = f"the app{who} to {case.destination}"
    head = question.request
    return text if head is None else f"{text}, {head.method.decode()} {head.target.decode()}"


def _others(snapshot: Snapshot, case: _Case) -> Iterator[str]:
    """The policies that were not asked, and why not."""
    workload = Workload.of(snapshot.configuration.sidecar)
    for document in snapshot.configuration.authorization_policies:
        targets = [f"{document.metadata.namespace}/{target.name}" for target in document.spec.targetRefs]
        name = f"AuthorizationPolicy {document.full_name}"
        if case.direction is Direction.EGRESS:
            if not targets:
                yield f"{name}: it is about connections to workloads, not about those of the app"
            elif case.route.entry not in targets:
                yield f"{name}: it is about ServiceEntry {', '.join(targets)}"
        elif targets:
            yield f"{name}: it is about what the app connects to"
        elif not selects(document, workload):
            labels = ", ".join(f"{key}={value}" for key, value in document.selected_labels.items())
            about = f"namespace {document.metadata.namespace}" + (f", labels {labels}" if labels else "")
            yield f"{name}: it is about other workloads ({about})"
