"""Finds the rules that can match at all, by hash: a decision looks at a few rules out of thousands.

A rule matches only where one alternative of each of its groups does, so it is enough to find it by one group, and there
by one check of each alternative. Of all these ways the one is taken that has the least company: a thousand rules for
one principal are told apart by their paths.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from interceptor.policy.match import Address, Begin, End, Exact, Network

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from interceptor.policy.facts import ConnectionFacts, RequestFacts
    from interceptor.policy.match import Key, Subject
    from interceptor.policy.rules import Alternative, Check, Group, Rule
    from interceptor.policy.words import Word

Rows: TypeAlias = list[int]  # places in the list of all rules


@dataclass(slots=True)
class _Table:
    """The rules that are found by one word."""

    word: Word
    exact: dict[str, Rows] = field(default_factory=dict)
    begins: dict[int, dict[str, Rows]] = field(default_factory=dict)  # by length
    ends: dict[int, dict[str, Rows]] = field(default_factory=dict)
    networks: dict[tuple[int, int], dict[int, Rows]] = field(default_factory=dict)  # by version and shift

    def add(self, key: Key, row: int) -> None:
        match key:
            case Exact(text):
                self.exact.setdefault(text, []).append(row)
            case Begin(text):
                self.begins.setdefault(len(text), {}).setdefault(text, []).append(row)
            case End(text):
                self.ends.setdefault(len(text), {}).setdefault(text, []).append(row)
            case Network(version, shift, prefix):
                self.networks.setdefault((version, shift), {}).setdefault(prefix, []).append(row)

    def find(self, subject: Subject, found: Rows) -> None:
        if isinstance(subject, Address):
            for (version, shift), prefixes in self.networks.items():
                if version == subject.version:
                    found += prefixes.get(subject.number >> shift, ())
            return
        found += self.exact.get(subject, ())
        for length, texts in self.begins.items():
            found += texts.get(subject[:length], ())
        for length, texts in self.ends.items():
            found += texts.get(subject[-length:], ())


class Index:
    """Some rules, in their order."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = rules
        self._always: Rows = []
        tables: dict[str, _Table] = {}
        company = Counter(
            (check.word.about, key)
            for rule in rules
            for check in _checks(rule)
            for key in check.matcher.keys or ()
        )
        for row, rule in enumerate(rules):
            way = _cheapest(rule, company)
            if way is None:
                self._always.append(row)
                continue
            for check in way:
                table = tables.setdefault(check.word.about, _Table(check.word))
                for key in check.matcher.keys or ():
                    table.add(key, row)
        self._tables = tuple(tables.values())

    def matching(self, connection: ConnectionFacts, request: RequestFacts | None) -> Iterator[Rule]:
        """Every rule that matches, in order."""
        rows = self._always
        for table in self._tables:
            found: Rows = []
            for subject in table.word.ask(connection, request):  # type: ignore[arg-type]  # as in Check.holds
                table.find(subject, found)
            if found:
                rows = rows + found
        if rows is not self._always:
            rows = sorted(set(rows))
        rules = self.rules
        return (rules[row] for row in rows if rules[row].matches(connection, request))

    def first(self, connection: ConnectionFacts, request: RequestFacts | None) -> Rule | None:
        """The first rule that matches."""
        return next(self.matching(connection, request), None)


def _checks(rule: Rule) -> Iterator[Check]:
    return (check for group in rule.groups for alternative in group for check in alternative)


def _cheapest(rule: Rule, company: Counter[tuple[str, Key]]) -> list[Check] | None:
    """The checks to find a rule by: one of each alternative of one group; None where no group has them."""
    ways = [way for group in rule.groups if (way := _way(group, company)) is not None]
    return min(ways, key=lambda way: sum(_cost(check, company) for check in way), default=None)


def _way(group: Group, company: Counter[tuple[str, Key]]) -> list[Check] | None:
    chosen = [_best(alternative, company) for alternative in group]
    return None if None in chosen else [check for check in chosen if check is not None]


def _best(alternative: Alternative, company: Counter[tuple[str, Key]]) -> Check | None:
    findable = [check for check in alternative if not check.negated and check.matcher.keys is not None]
    return min(findable, key=lambda check: _cost(check, company), default=None)


def _cost(check: Check, company: Counter[tuple[str, Key]]) -> int:
    return sum(company[check.word.about, key] for key in check.matcher.keys or ())
