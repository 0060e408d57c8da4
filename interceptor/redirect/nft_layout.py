"""What is in our nftables table: as planned, as the kernel lists it, and the commands that lead from one to the other.

Objects are kept in nft's JSON without what changes by itself (handles, counters), so that two tables are the same when
their layouts are equal. Objects that are not ours, or that we do not know, are kept as well: they count as a difference,
and a failed change can put them back.
"""

from __future__ import annotations

import json
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.config.redirect import Backend
from interceptor.model.record import Record
from interceptor.redirect.nft_foreign import describe, each_object
from interceptor.redirect.nftables import FAMILY, TABLE, UNHEARD, network_form, planned_name, table_form
from interceptor.redirect.rules import FAMILIES, read_comment
from interceptor.redirect.status import Hits, InstalledChain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from interceptor.redirect.nftables import ChainForm, Json, NamedSet
    from interceptor.redirect.rules import Family, Ruleset

Form = dict[str, "Json"]

_HERE: Final[Form] = {"family": FAMILY, "table": TABLE}
_TABLE: Final[Form] = {"family": FAMILY, "name": TABLE}
_NO_HITS: Final[Form] = {"packets": 0, "bytes": 0}
_NFPROTO: Final[dict[object, tuple[Family, ...]]] = {"ipv4": (4,), "ipv6": (6,)}


class Key(NamedTuple):
    """An object of a table: ``table``, ``set`` or ``chain`` and its name."""

    kind: str
    name: str


class Layout(Record):
    """The objects in our table, and the rules of each chain in order. Without objects there is no table."""

    objects: dict[Key, Form]
    rules: dict[str, tuple[Form, ...]]

    @property
    def size(self) -> int:
        """How many rules our chains hold; those in base chains only lead to them."""
        return sum(len(rules) for chain, rules in self.rules.items() if self.base(chain) is None)

    def base(self, chain: str) -> str | None:
        """The hook of a base chain; None for any other, and for all chains of a table that is switched off."""
        if "flags" in self.objects[Key("table", TABLE)]:  # dormant is the only flag that comes and goes
            return None
        hook = self.objects[Key("chain", chain)].get("hook")
        return str(hook) if hook else None


NOTHING: Final = Layout({}, {})


def wanted(ruleset: Ruleset) -> Layout:
    """What a ruleset asks for."""
    form = table_form(ruleset)
    if not form.chains:
        return NOTHING
    objects = {Key("table", TABLE): dict(_TABLE)}
    objects.update((Key("set", named.name), _set(named)) for named in form.sets)
    objects.update((Key("chain", chain.name), _chain(chain)) for chain in form.chains)
    return Layout(objects, {chain.name: tuple(_rules(chain)) for chain in form.chains})


def _set(named: NamedSet) -> Form:
    elements: list[Json] = [
        {"elem": {"val": network_form(network), "comment": comment, "counter": dict(_NO_HITS)}}
        for network, comment in named.elements
    ]
    return {
        **_HERE,
        "name": named.name,
        "type": named.type,
        "flags": ["interval"],
        "elem": sorted(elements, key=_sortable),
        "stmt": [{"counter": None}],
    }


def _chain(chain: ChainForm) -> Form:
    where: Form = {**_HERE, "name": chain.name}
    if chain.base is not None:
        kind, hook, priority = chain.base
        where |= {"type": kind, "hook": hook, "prio": priority, "policy": "accept"}
    return where


def _rules(chain: ChainForm) -> Iterator[Form]:
    for rule in chain.rules:
        expressions = [statement.form for statement in rule.statements]
        yield {**_HERE, "chain": chain.name, "comment": rule.comment, "expr": expressions}


def listed(objects: Sequence[Mapping[str, Json]]) -> Layout:
    """What ``nft -j list table`` says there is."""
    found = Layout({}, {})
    for kind, form in each_object(objects):
        plain = {name: _plain(value) for name, value in form.items() if name != "handle"}
        if kind == "rule":
            chain = str(form["chain"])
            found.rules[chain] = (*found.rules.get(chain, ()), plain)
            continue
        elements = plain.get("elem")
        if isinstance(elements, list):
            plain["elem"] = sorted(elements, key=_sortable)
        found.objects[Key(kind, str(form["name"]))] = plain
        if kind == "chain":
            found.rules.setdefault(str(form["name"]), ())
    return found


def _plain(value: Json) -> Json:
    """Without counts; IPv6 addresses as Python spells them (nft writes ::102:304 as ::1.2.3.4)."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {
            name: (dict(_NO_HITS) if "val" in value else None) if name == "counter" else _plain(item)
            for name, item in value.items()
        }
    if isinstance(value, str) and value.startswith("::"):
        return str(IPv6Address(value))
    return value


def _sortable(value: Json) -> str:
    return json.dumps(value, sort_keys=True)


def commands(before: Layout, after: Layout) -> list[Json]:
    """What leads from one layout to the other, in one transaction.

    Base chains that are right stay: a packet meets either all old rules or all new ones, and never a chain between two.
    """
    if after == NOTHING:
        return [{"delete": {"table": dict(_TABLE)}}] if before != NOTHING else []
    stale = [key for key, form in before.objects.items() if after.objects.get(key) != form]
    made: list[Json] = [{"add": {"table": dict(_TABLE)}}, {"flush": {"table": dict(_TABLE)}}]
    # Whatever is no chain may be mapped to chains, and so goes first.
    made += [
        {"delete": {kind: {**_HERE, "name": name}}}
        for kind, name in sorted(stale, key=lambda key: key.kind == "chain")
        if kind != "table"
    ]
    made += [
        {"add": {key.kind: form}}
        for key, form in after.objects.items()
        if key.kind != "table" and (key in stale or key not in before.objects)
    ]
    made += [{"add": {"rule": rule}} for rules in after.rules.values() for rule in rules]
    return made


def installed(objects: Sequence[Mapping[str, Json]]) -> tuple[InstalledChain, ...]:
    """Our chains with the hits of each rule, as ``nft -j list table`` tells them."""
    layout = listed(objects)
    hits = _hits(objects)
    chains: list[InstalledChain] = []
    for name in layout.rules:
        planned = planned_name(name)
        if planned is None or "hook" in layout.objects[Key("chain", name)]:
            continue
        table, chain = planned
        jump = _jump_to(layout, name)
        base = jump and layout.base(str(jump.rule["chain"]))
        chains.append(
            InstalledChain(
                Backend.NFT,
                _NFPROTO.get(jump and _family(jump.rule), FAMILIES),
                table,
                chain,
                tuple(hits[name]),
                base.upper() if base else None,
                jump.before if base and jump else (),
            )
        )
    return tuple(chains)


class _Jump(NamedTuple):
    rule: Form
    before: tuple[str, ...]  # the rules that are not ours and stand before it


def _jump_to(layout: Layout, chain: str) -> _Jump | None:
    target: Json = {"jump": {"target": chain}}
    for rules in layout.rules.values():
        foreign: list[str] = []
        for rule in rules:
            if target in _expressions(rule):
                return _Jump(rule, tuple(foreign))
            if read_comment(str(rule.get("comment", ""))) is None:
                foreign.append(describe(rule))
    return None


def _family(rule: Form) -> Json:
    """What a rule says of ``meta nfproto``, if anything."""
    for expression in _expressions(rule):
        match expression:
            case {"match": {"left": {"meta": {"key": "nfproto"}}, "right": family}}:
                return family
            case _:
                continue
    return None


def _expressions(rule: Form) -> list[Json]:
    found = rule.get("expr")
    return found if isinstance(found, list) else []


def _hits(objects: Sequence[Mapping[str, Json]]) -> dict[str, list[Hits]]:
    """Each chain's rules with their hits; a rule over one of our sets is as many rules as the set has elements."""
    forms = list(each_object(objects))
    sets = {f"@{form['name']}": form.get("elem") for kind, form in forms if kind == "set"}
    found: dict[str, list[Hits]] = {str(form["name"]): [] for kind, form in forms if kind == "chain"}
    for kind, form in forms:
        if kind == "rule" and not str(form.get("comment")).endswith(UNHEARD):
            found[str(form["chain"])] += _hits_of_rule(form, sets)
    return found


def _hits_of_rule(rule: Form, sets: Mapping[str, Json]) -> Iterator[Hits]:
    expressions = _expressions(rule)
    for expression in expressions:
        match expression:
            case {"match": {"right": str(name)}} if isinstance(elements := sets.get(name), list):
                for element in elements:
                    match element:
                        case {"elem": {"comment": str(comment), "counter": counter}}:
                            yield _count(comment, counter)
                        case _:
                            yield Hits(None, 0, 0)
                return
    counters = [each["counter"] for each in expressions if isinstance(each, dict) and "counter" in each]
    yield _count(str(rule.get("comment", "")), counters[0] if counters else None)


def _count(comment: str, counter: Json) -> Hits:
    match counter:
        case {"packets": int(packets), "bytes": int(octets)}:
            return Hits(read_comment(comment), packets, octets)
        case _:
            return Hits(read_comment(comment), 0, 0)
