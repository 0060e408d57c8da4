"""Finds the rules that can match at all, by hash: a decision looks at a few rules out of thousands.

A rule matches only where one alternative of each of its groups does, so it is enough to find it by one group, and there
by one check of each alternative. Of all these ways the one is taken that has the least company: a thousand rules for
one principal are told apart by their paths. A rule that says only what must not be is looked at each time, unless what
must not be is found by hash.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from interceptor.policy.match import Address, Begin, End, Exact, Network, Present
from interceptor.policy.rules import checks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from interceptor.policy.facts import ConnectionFacts, RequestFacts
    from interceptor.policy.match import Key
    from interceptor.policy.rules import Alternative, Check, Group, Rule
    from interceptor.policy.words import Word

Rows: TypeAlias = int  # places in the list of all rules, as bits


@dataclass(slots=True)
class _Table:
    """The rules that are found by one word."""

    word: Word
    exact: dict[str, Rows] = field(default_factory=dict)
    begins: dict[int, dict[str, Rows]] = field(default_factory=dict)  # by length
    ends: dict[int, dict[str, Rows]] = field(default_factory=dict)
    networks: dict[tuple[int, int], dict[int, Rows]] = field(default_factory=dict)  # by version and shift
    present: Rows = 0

    def add(self, key: Key, rows: Rows) -> None:
        match key:
            case Exact(text):
                self.exact[text] = self.exact.get(text, 0) | rows
            case Begin(text):
                texts = self.begins.setdefault(len(text), {})
                texts[text] = texts.get(text, 0) | rows
            case End(text):
                texts = self.ends.setdefault(len(text), {})
                texts[text] = texts.get(text, 0) | rows
            case Network(version, shift, prefix):
                prefixes = self.networks.setdefault((version, shift), {})
                prefixes[prefix] = prefixes.get(prefix, 0) | rows
            case Present():
                self.present |= rows

    def find(self, connection: ConnectionFacts, request: RequestFacts | None) -> Rows:
        found = 0
        for subject in self.word.ask(connection, request):  # type: ignore[arg-type]  # as in Check.holds
            if isinstance(subject, Address):
                for (version, shift), prefixes in self.networks.items():
                    if version == subject.version:
                        found |= prefixes.get(subject.number >> shift, 0)
                continue
            found |= self.exact.get(subject, 0)
            for length, texts in self.begins.items():
                found |= texts.get(subject[:length], 0)
            for length, texts in self.ends.items():
                found |= texts.get(subject[-length:], 0)
            if subject:
                found |= self.present
        return found


class Index:
    """Some rules, in their order."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = rules
        self._always: Rows = 0
        found_by: dict[str, _Table] = {}
        excluded_by: dict[str, _Table] = {}
        company = Counter(
            (check.word.about, key)
            for rule in rules
            for check in checks(rule)
            for key in check.matcher.keys or ()
        )
        for row, rule in enumerate(rules):
            way = _cheapest(rule, company)
            if way is None:
                self._always |= 1 << row
            tables = excluded_by if way is None else found_by
            for check in _excluding(rule) if way is None else way:
                table = tables.setdefault(check.word.about, _Table(check.word))
                for key in check.matcher.sure if way is None else check.matcher.keys or ():
                    table.add(key, 1 << row)
        self._found_by, self._excluded_by = tuple(found_by.values()), tuple(excluded_by.values())

    def matching(self, connection: ConnectionFacts, request: RequestFacts | None) -> Iterator[Rule]:
        """Every rule that matches, in order."""
        rows = self._always
        for table in self._excluded_by:
            rows &= ~table.find(connection, request)
        for table in self._found_by:
            rows |= table.find(connection, request)
        rules = self.rules
        while rows:
            lowest = rows & -rows
            rows ^= lowest
            rule = rules[lowest.bit_length() - 1]
            if rule.matches(connection, request):
                yield rule

    def first(self, connection: ConnectionFacts, request: RequestFacts | None) -> Rule | None:
        """The first rule that matches."""
        return next(self.matching(connection, request), None)


def _excluding(rule: Rule) -> Iterator[Check]:
    """What must not be, by one of which alone a rule is known not to match."""
    for group in rule.groups:
        if len(group) == 1:
            yield from (check for check in group[0] if check.negated)


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
