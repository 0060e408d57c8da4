"""Why each policy matches or does not: the same checks as a decision, one by one, each with what it saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from interceptor.policy.match import Address
from interceptor.policy.rules import for_tcp

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from interceptor.policy.facts import ConnectionFacts, RequestFacts
    from interceptor.policy.match import Subject
    from interceptor.policy.rules import Alternative, Check, Policy, Rule


_ABSENT: Final = "what is absent"


@dataclass(frozen=True, slots=True)
class RuleReason:
    """One rule: whether it matches, and a sentence for each thing that tells."""

    number: int
    matches: bool
    because: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PolicyReason:
    """One policy with its rules."""

    policy: Policy
    rules: tuple[RuleReason, ...]

    @property
    def matches(self) -> bool:
        """Whether one of its rules does."""
        return any(rule.matches for rule in self.rules)

    def as_mapping(self) -> dict[str, object]:
        """For JSON."""
        return {
            "policy": str(self.policy),
            "action": self.policy.action,
            "dryRun": self.policy.dry_run,
            "matches": self.matches,
            "rules": [
                {"rule": rule.number, "matches": rule.matches, "because": list(rule.because)}
                for rule in self.rules
            ],
        }


def reasons(
    policies: Sequence[tuple[Policy, Sequence[Rule]]],
    connection: ConnectionFacts,
    request: RequestFacts | None,
) -> list[PolicyReason]:
    """Every policy of an authorizer, in its order."""
    return [
        PolicyReason(policy, tuple(_of_rule(rule, connection, request) for rule in rules))
        for policy, rules in policies
    ]


def _of_rule(rule: Rule, connection: ConnectionFacts, request: RequestFacts | None) -> RuleReason:
    if request is not None:
        return _judged(rule, connection, request, ())
    fields = ", ".join(check.field for check in _checks(rule) if check.word.http_only)
    narrowed = for_tcp(rule)
    if narrowed is None:
        because = f"on TCP there is no {fields}: a rule of an ALLOW policy that asks for it never matches"
        return RuleReason(rule.number, matches=False, because=(because,))
    wider = (f"on TCP there is no {fields}: without it the rule is wider",) if fields else ()
    return _judged(narrowed, connection, request, wider)


def _judged(
    rule: Rule, connection: ConnectionFacts, request: RequestFacts | None, before: tuple[str, ...]
) -> RuleReason:
    if rule.matches(connection, request):
        because = "it matches" if rule.groups else "it asks for nothing, so it matches everything"
        return RuleReason(rule.number, matches=True, because=(*before, because))
    failing = tuple(
        "; and ".join(_failing(alternative, connection, request) for alternative in group)
        for group in rule.groups
        if not any(all(check.holds(connection, request) for check in each) for each in group)
    )
    return RuleReason(rule.number, matches=False, because=(*before, *failing))


def _checks(rule: Rule) -> Iterator[Check]:
    return (check for group in rule.groups for alternative in group for check in alternative)


def _failing(alternative: Alternative, connection: ConnectionFacts, request: RequestFacts | None) -> str:
    """The first check of an alternative that does not hold, with what it saw."""
    check = next(check for check in alternative if not check.holds(connection, request))
    seen = [_text(subject) for subject in check.word.ask(connection, request)]  # type: ignore[arg-type]
    subjects = " or ".join(dict.fromkeys(seen)) or _ABSENT
    verb = "matches" if check.negated else "does not match"
    return f"{check.field} [{', '.join(check.values)}] {verb} {subjects}"


def _text(subject: Subject) -> str:
    if isinstance(subject, Address):
        return str(subject)
    return f"'{subject}'" if subject else _ABSENT
