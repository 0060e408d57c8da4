"""AuthorizationPolicy documents become rules of checks: one form for requests, one for TCP.

A rule is groups that must all match; a group is alternatives of which one must; an alternative is checks that must all
hold. On TCP nothing is known of a request. A rule of an ALLOW policy that asks for it never matches there, and a rule of
a DENY or AUDIT policy loses the checks that do: both ways less is let through (Istio's rule).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from interceptor.policy.words import OPERATION, SOURCE, Scope, condition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from interceptor.config.authorization_policy import (
        AuthorizationPolicy,
        Operation,
        Rule as RuleDocument,
        Source,
    )
    from interceptor.policy.facts import ConnectionFacts, RequestFacts
    from interceptor.policy.match import Matcher
    from interceptor.policy.words import Word


@dataclass(frozen=True, slots=True)
class Check:
    """One field of a rule: what it looks at, and the values of which one must, or none may, be there."""

    field: str  # as it is written: from[0].source.principals, to[0].operation.notPorts
    word: Word
    matcher: Matcher
    values: tuple[str, ...]
    negated: bool

    def holds(self, connection: ConnectionFacts, request: RequestFacts | None) -> bool:
        """Whether one of the subjects matches; negated, whether none does."""
        match = self.matcher.match
        # Without a request there are no checks left that look at it.
        for subject in self.word.ask(connection, request):  # type: ignore[arg-type]
            if match(subject):
                return not self.negated
        return self.negated


Alternative: TypeAlias = tuple[Check, ...]
Group: TypeAlias = tuple[Alternative, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """What a rule belongs to."""

    name: str
    namespace: str
    action: str
    dry_run: bool

    def __str__(self) -> str:
        return f"AuthorizationPolicy {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """One rule of a policy."""

    policy: Policy
    number: int
    groups: tuple[Group, ...]  # from, to, and each condition of when

    def matches(self, connection: ConnectionFacts, request: RequestFacts | None) -> bool:
        """Whether the policy does what it does."""
        for group in self.groups:
            for alternative in group:
                for check in alternative:
                    if not check.holds(connection, request):
                        break
                else:
                    break
            else:
                return False
        return True


def compiled(document: AuthorizationPolicy, trust_domains: Sequence[str]) -> tuple[Policy, list[Rule]]:
    """A policy and its rules, as they are for requests; our trust domain stands first, its aliases after it."""
    metadata, spec = document.metadata, document.spec
    policy = Policy(metadata.name, metadata.namespace, spec.action, document.dry_run)
    scope = Scope(metadata.namespace, trust_domains)
    return policy, [
        Rule(policy, number, tuple(_groups(rule, scope))) for number, rule in enumerate(spec.rules)
    ]


def checks(rule: Rule) -> Iterator[Check]:
    """Everything that a rule compares."""
    return (check for group in rule.groups for alternative in group for check in alternative)


def for_tcp(rule: Rule) -> Rule | None:
    """A rule where there is no request; None where it must not match."""
    allow = rule.policy.action == "ALLOW"
    return _without(rule, lambda check: check.word.http_only, dropped=allow)


def for_any(rule: Rule) -> Rule | None:
    """A rule by which no request at all would be let through: the opposite of ``for_tcp``.

    A DENY rule counts where it matches whatever is asked, an ALLOW rule where it could match something.
    """
    deny = rule.policy.action != "ALLOW"
    return _without(rule, lambda check: check.word.of_request, dropped=deny)


def _without(rule: Rule, hidden: Callable[[Check], bool], *, dropped: bool) -> Rule | None:
    """A rule where some checks cannot be made: without them, or none where it is to be dropped then."""
    if not any(map(hidden, checks(rule))):
        return rule
    if dropped:
        return None
    groups = tuple(
        tuple(tuple(check for check in alternative if not hidden(check)) for alternative in group)
        for group in rule.groups
    )
    return replace(rule, groups=groups)


def _groups(rule: RuleDocument, scope: Scope) -> Iterator[Group]:
    if rule.from_:
        yield tuple(
            tuple(_checks(f"from[{index}].source", each.source, SOURCE, scope))
            for index, each in enumerate(rule.from_)
        )
    if rule.to:
        yield tuple(
            tuple(_checks(f"to[{index}].operation", each.operation, OPERATION, scope))
            for index, each in enumerate(rule.to)
        )
    for index, each in enumerate(rule.when):
        word = condition(each.key)
        both = (
            (f"when[{index}].values", each.values, False),
            (f"when[{index}].notValues", each.notValues, True),
        )
        yield (tuple(_check(*one, word, scope) for one in both if one[1]),)


def _checks(at: str, given: Source | Operation, words: Mapping[str, Word], scope: Scope) -> Iterator[Check]:
    for field, word in words.items():
        if values := getattr(given, field):
            yield _check(f"{at}.{field}", values, False, word, scope)  # noqa: FBT003 (the field's own name says it)
        opposite = f"not{field[0].upper()}{field[1:]}"
        if values := getattr(given, opposite):
            yield _check(f"{at}.{opposite}", values, True, word, scope)  # noqa: FBT003


def _check(field: str, values: tuple[str, ...], negated: bool, word: Word, scope: Scope) -> Check:  # noqa: FBT001
    return Check(field, word, word.matcher(values, scope), values, negated)
