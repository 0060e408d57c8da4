"""The verdict over a connection or a request, in Istio's order: AUDIT says, DENY refuses, ALLOW lets through.

What a DENY policy matches is refused. Where there are ALLOW policies what none of them matches is refused; where there
are none it is allowed. Policies in dry run have a verdict of their own, which decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.policy.index import Index
from interceptor.policy.rules import checks, compiled, for_any, for_tcp
from interceptor.policy.selection import age, selects
from interceptor.policy.words import SNI

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from interceptor.config.authorization_policy import AuthorizationPolicy
    from interceptor.policy.facts import ConnectionFacts, RequestFacts
    from interceptor.policy.rules import Policy, Rule
    from interceptor.policy.selection import Workload

DENIED_BODY: Final = b"RBAC: access denied"  # of a 403: Istio's exact words
NO_MATCH: Final = "AuthorizationPolicy none"  # decided where ALLOW policies exist and none of them matches


class Shadow(NamedTuple):
    """What would have been decided, in Istio's words: by which kind of policies (``deny``, ``allow``, ``audit``), and how."""

    policy: str
    action: str
    result: str  # allowed or denied; matched of an audit


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided, and by what."""

    allowed: bool
    policy: str  # the document that decided; "-" where none did
    details: str = "-"  # of a refusal: Envoy's words for the log
    shadow: str = "-"  # what policies in dry run would have decided, where there are any
    audited: tuple[str, ...] = ()  # AUDIT policies that want it said
    shadows: tuple[Shadow, ...] = field(default=(), compare=False)  # both of these, to be counted


_UNDECIDED: Final = Verdict(allowed=True, policy="-")


@dataclass(frozen=True, slots=True)
class _Set:
    """The policies of one kind of decision, enforced or in dry run."""

    deny: Index
    allow: Index
    has_allow: bool

    def decide(self, connection: ConnectionFacts, request: RequestFacts | None) -> Verdict:
        denied = self.deny.first(connection, request)
        if denied is not None:
            return Verdict(allowed=False, policy=str(denied.policy), details=_details(denied))
        if not self.has_allow:
            return _UNDECIDED
        allowed = self.allow.first(connection, request)
        if allowed is None:
            return Verdict(allowed=False, policy=NO_MATCH, details=_details(None))
        return Verdict(allowed=True, policy=str(allowed.policy))


@dataclass(frozen=True, slots=True)
class _Form:
    """Everything that is looked at, for requests or for TCP."""

    enforced: _Set
    dry: _Set | None
    audit: Index | None

    def decide(self, connection: ConnectionFacts, request: RequestFacts | None) -> Verdict:
        verdict = self.enforced.decide(connection, request)
        if self.dry is None and self.audit is None:
            return verdict
        shadow = "-"
        audited: tuple[str, ...] = ()
        shadows: list[Shadow] = []
        if self.dry is not None:
            would = self.dry.decide(connection, request)
            result = "allowed" if would.allowed else "denied"
            shadow = f"{result} by {would.policy}"
            by_allow = would.policy == NO_MATCH or (would.allowed and would is not _UNDECIDED)
            shadows.append(Shadow(would.policy, "allow" if by_allow else "deny", result))
        if self.audit is not None:
            audited = tuple(
                dict.fromkeys(str(rule.policy) for rule in self.audit.matching(connection, request))
            )
            shadows += (Shadow(policy, "audit", "matched") for policy in audited)
        return Verdict(verdict.allowed, verdict.policy, verdict.details, shadow, audited, tuple(shadows))


class Authorizer:
    """The policies about one workload, or about one destination of it, ready to decide."""

    def __init__(self, policies: Sequence[tuple[Policy, Sequence[Rule]]]) -> None:
        self.policies = policies  # as they are for requests; for explaining
        rules = [rule for _, each in policies for rule in each]
        # Whether the ClientHello has to be waited for, also where no bytes are looked at otherwise.
        self.asks_name = any(check.word.about == SNI for rule in rules for check in checks(rule))
        names = [policy for policy, _ in policies]
        self._http = _form(names, rules)
        self._tcp = _form(names, [each for rule in rules if (each := for_tcp(rule)) is not None])
        enforced = [policy for policy in names if not policy.dry_run]
        self._any = _set(enforced, [each for rule in rules if (each := for_any(rule)) is not None])

    def decide(self, connection: ConnectionFacts, request: RequestFacts | None = None) -> Verdict:
        """The verdict over a request, or over a connection of which nothing more is known: opaque TCP."""
        return (self._tcp if request is None else self._http).decide(connection, request)

    def refuses_all(self, connection: ConnectionFacts) -> Verdict | None:
        """The refusal of a connection whatever is asked over it; None where some request may be let through."""
        verdict = self._any.decide(connection, None)
        return None if verdict.allowed else verdict


def for_workload(
    documents: Iterable[AuthorizationPolicy], workload: Workload, trust_domains: Sequence[str]
) -> Authorizer | None:
    """The policies about peers' connections to a workload; None where there are none."""
    about = [each for each in documents if not each.spec.targetRefs and selects(each, workload)]
    # The mesh's come first, then the namespace's: an order for the log, no verdict hangs on it.
    about.sort(key=lambda each: (each.metadata.namespace != workload.root_namespace, age(each)))
    return Authorizer([compiled(each, trust_domains) for each in about]) if about else None


def for_destinations(
    documents: Iterable[AuthorizationPolicy], trust_domains: Sequence[str]
) -> dict[str, Authorizer]:
    """The policies about an app's own connections, by the ServiceEntry (``namespace/name``) that they target."""
    about: dict[str, list[AuthorizationPolicy]] = {}
    for each in sorted(documents, key=age):
        for target in each.spec.targetRefs:
            about.setdefault(f"{each.metadata.namespace}/{target.name}", []).append(each)
    return {
        entry: Authorizer([compiled(each, trust_domains) for each in members])
        for entry, members in about.items()
    }


def _form(policies: Sequence[Policy], rules: Sequence[Rule]) -> _Form:
    enforced = _set([each for each in policies if not each.dry_run], rules)
    dry = [each for each in policies if each.dry_run]
    audit = [rule for rule in rules if rule.policy.action == "AUDIT" and not rule.policy.dry_run]
    return _Form(enforced, _set(dry, rules) if dry else None, Index(audit) if audit else None)


def _set(policies: Sequence[Policy], rules: Sequence[Rule]) -> _Set:
    chosen = [rule for rule in rules if rule.policy in set(policies)]
    return _Set(
        Index([rule for rule in chosen if rule.policy.action == "DENY"]),
        Index([rule for rule in chosen if rule.policy.action == "ALLOW"]),
        any(policy.action == "ALLOW" for policy in policies),
    )


def _details(rule: Rule | None) -> str:
    """Envoy's and Istio's detail of a refusal, which tools look for."""
    if rule is None:
        return "rbac_access_denied_matched_policy[none]"
    policy = rule.policy
    return (
        f"rbac_access_denied_matched_policy[ns[{policy.namespace}]-policy[{policy.name}]-rule[{rule.number}]]"
    )
