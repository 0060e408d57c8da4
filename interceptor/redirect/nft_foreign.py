"""Rules of others as ``nft -j list`` tells them: where they are called, what they do to connections, where they lead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from interceptor.config.redirect import Backend
from interceptor.redirect.foreign import DNAT, REDIRECT, TPROXY, ForeignChain, ForeignRule
from interceptor.redirect.nftables import FAMILY, TABLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from interceptor.redirect.nftables import Json
    from interceptor.redirect.rules import Family

Form = dict[str, "Json"]

_FAMILIES: Final[dict[object, tuple[Family, ...]]] = {"ip": (4,), "ip6": (6,), "inet": (4, 6)}
_DOES: Final = {"redirect": REDIRECT, "dnat": DNAT, "tproxy": TPROXY}
_DOES_BY_XT: Final[dict[object, str]] = {  # targets of iptables-nft that nft does not translate
    "REDIRECT": REDIRECT,
    "DNAT": DNAT,
    "NETMAP": DNAT,
    "TPROXY": TPROXY,
}


def each_object(objects: Sequence[Mapping[str, Json]]) -> Iterator[tuple[str, Form]]:
    """The kind and the fields of each listed object."""
    for wrapped in objects:
        for kind, form in wrapped.items():
            if kind != "metainfo" and isinstance(form, dict):
                yield kind, form


def base_tables(chains: Sequence[Mapping[str, Json]]) -> list[tuple[str, str]]:
    """Family and name of each table of others that does nat or can steal a packet on its way in."""
    found = {
        (str(chain["family"]), str(chain["table"])): None
        for kind, chain in each_object(chains)
        if kind == "chain"
        and chain["family"] in _FAMILIES
        and (chain["family"], chain["table"]) != (FAMILY, TABLE)
        and (chain.get("type") == "nat" or chain.get("hook") == "prerouting")
    }
    return list(found)


def foreign_chains(family: str, table: str, objects: Sequence[Mapping[str, Json]]) -> list[ForeignChain]:
    """All chains of one listed table."""
    forms = list(each_object(objects))
    maps = {f"@{form['name']}": form.get("elem") for kind, form in forms if kind == "map"}
    rules: dict[object, list[ForeignRule]] = {}
    for kind, form in forms:
        if kind == "rule":
            rules.setdefault(form["chain"], []).append(_rule(form, maps))
    chains: list[ForeignChain] = []
    for chain in (form for kind, form in forms if kind == "chain"):
        priority = chain.get("prio")
        chains.append(
            ForeignChain(
                Backend.NFT,
                _FAMILIES[family],
                f"{family} {table}",
                str(chain["name"]),
                tuple(rules.get(chain["name"], ())),
                str(chain.get("hook", "")),
                priority if isinstance(priority, int) else 0,
                nat=chain.get("type") == "nat",
            )
        )
    return chains


def _rule(form: Form, maps: Mapping[str, Json]) -> ForeignRule:
    expressions = form.get("expr")
    parts = [part for part in expressions if isinstance(part, dict)] if isinstance(expressions, list) else []
    does = [action for part in parts for action in _actions(part)]
    return ForeignRule(
        describe(form),
        does[0] if does else "",
        tuple(target for part in parts for target in _targets(part, maps)),
    )


def _actions(part: Form) -> Iterator[str]:
    for name, parameters in part.items():
        if name in _DOES:
            yield _DOES[name]
        if name == "xt" and isinstance(parameters, dict) and parameters.get("name") in _DOES_BY_XT:
            yield _DOES_BY_XT[parameters["name"]]


def _targets(value: Json, maps: Mapping[str, Json]) -> Iterator[str]:
    """The chains that something jumps to, by itself or through a map."""
    if isinstance(value, str) and value in maps:
        yield from _targets(maps[value], {})
    elif isinstance(value, list):
        for item in value:
            yield from _targets(item, maps)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name in {"jump", "goto"} and isinstance(item, dict):
                yield str(item["target"])
            else:
                yield from _targets(item, maps)


def describe(rule: Mapping[str, Json]) -> str:
    """A rule for a person, nearly as nft writes it."""
    expressions = rule.get("expr")
    words = [_words(part) for part in expressions] if isinstance(expressions, list) else []
    comment = rule.get("comment")
    words += [f'comment "{comment}"'] if comment else []
    return " ".join(word for word in words if word)


def _words(part: Json) -> str:
    match part:
        case {"counter": _}:
            return ""
        case {"match": {"op": operator, "left": left, "right": right}}:
            shown = "" if operator in {"==", "in"} else f"{operator} "
            return f"{_value(left)} {shown}{_value(right)}"
        case dict():
            return " ".join(f"{name} {_value(value)}".rstrip() for name, value in part.items())
        case _:
            return _value(part)


def _value(value: Json) -> str:
    match value:
        case None:
            return ""
        case {"prefix": {"addr": address, "len": length}}:
            return f"{address}/{length}"
        case {"range": [first, last]}:
            return f"{_value(first)}-{_value(last)}"
        case {"set": list(items)}:
            return f"{{ {', '.join(map(_value, items))} }}"
        case list():
            return " ".join(map(_value, value))
        case dict():
            return " ".join(map(_value, value.values()))
        case _:
            return str(value)
