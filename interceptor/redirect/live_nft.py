"""What ``nft -j list ruleset`` prints, read into live rules. A statement that is not known makes its rule unreadable."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Final

from interceptor.model.record import replace
from interceptor.redirect.live import LABELS, Action, Base, LiveRule, LiveTable, Packet
from interceptor.redirect.simulate import through

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.redirect.rules import Family

Condition = Callable[[Packet], bool | None]
Form = Mapping[str, object]

_FAMILIES: Final[dict[object, tuple[Family, ...]]] = {"ip": (4,), "ip6": (6,), "inet": (4, 6)}
_PLAIN: Final = {
    "accept": Action.ACCEPT,
    "drop": Action.DROP,
    "reject": Action.REJECT,
    "return": Action.RETURN,
    "notrack": Action.UNTRACK,
    "dnat": Action.DNAT,
}
_HARMLESS: Final = frozenset({"counter", "log", "comment", "ct helper", "ct zone", "meter"})
_ALL_BITS: Final = 0xFFFF_FFFF
_UNKNOWN: Final = object()  # a value that is not understood


def tables(text: str, skip: frozenset[str] = frozenset()) -> Iterator[Base]:
    """The base chains in what nft lists; ``skip`` names tables that were read otherwise: 'ip nat'."""
    objects = json.loads(text or '{"nftables": []}')["nftables"]
    named: dict[tuple[str, str], dict[str, Sequence[object]]] = {}
    for each in (*_of(objects, "set"), *_of(objects, "map")):
        named.setdefault((each["family"], each["table"]), {})[f"@{each['name']}"] = each.get("elem", [])
    chains: dict[tuple[str, str], dict[str, list[LiveRule]]] = {}
    for chain in _of(objects, "chain"):
        chains.setdefault((chain["family"], chain["table"]), {})[chain["name"]] = []
    for rule in _of(objects, "rule"):
        place = rule["family"], rule["table"]
        chains[place][rule["chain"]] += _rules(rule, named.get(place, {}))
    for chain in _of(objects, "chain"):
        family, table = chain["family"], chain["table"]
        if "hook" not in chain or family not in _FAMILIES or f"{family} {table}" in skip:
            continue
        live = LiveTable(f"nft {family} {table}", _FAMILIES[family], chains[family, table])
        priority = chain["prio"] if isinstance(chain["prio"], int) else 0
        drops = chain.get("policy") == "drop"
        yield Base(live, chain["name"], chain["hook"].upper(), priority, chain.get("type") == "nat", drops)


def of_iptables(text: str) -> frozenset[str]:
    """The tables whose rules nft cannot show in full, because iptables-nft made them: 'ip nat'."""
    objects = json.loads(text or '{"nftables": []}')["nftables"]
    return frozenset(
        f"{rule['family']} {rule['table']}"
        for rule in _of(objects, "rule")
        if any("xt" in statement for statement in rule["expr"])
    )


def _of(objects: Sequence[Mapping[str, dict[str, object]]], kind: str) -> Iterator[dict]:  # type: ignore[type-arg]
    return (each[kind] for each in objects if kind in each)


def _rules(rule: dict, named: Mapping[str, Sequence[object]]) -> Iterator[LiveRule]:  # type: ignore[type-arg]
    """A rule; what it notes on the packet, and each element of its verdict map, as rules of their own before it.

    One that looks into a set is a rule for each element, so that the answer names the one that fits.
    """
    text, comment = _text(rule), str(rule.get("comment", ""))
    conditions: list[Condition] = []
    in_set: list[tuple[Condition, object, Sequence[object]]] = []
    action, argument = Action.NOTHING, ""
    for statement in rule["expr"]:
        (kind, body), *_ = statement.items()
        if kind == "match":
            conditions.append(_match(body, named))
            in_set += [(conditions[-1], body["left"], elements) for elements in _whose(body, named)]
        elif kind == "limit":
            conditions.append(lambda _: None)
        elif kind == "vmap":
            for key, verdict in _elements(body["data"], named):
                fits = _match({"op": "==", "left": body["key"], "right": key}, named)
                yield LiveRule(text, [*conditions, fits], *_verdict(verdict), comment)
        elif kind not in _HARMLESS:
            does, to = _verdict(statement)
            if does in LABELS:
                yield LiveRule(text, list(conditions), does, to, comment)
            elif action is Action.NOTHING or does is Action.UNKNOWN:  # 'tproxy to :1 accept' is a TPROXY
                action, argument = does, to
    whole = LiveRule(text, conditions, action, argument, comment)
    yield from _by_element(whole, *in_set[0]) if in_set else [whole]


def _whose(body: dict, named: Mapping[str, Sequence[object]]) -> Iterator[Sequence[object]]:  # type: ignore[type-arg]
    """The elements of the set that a match looks into, where one of them is what fits."""
    right = body["right"]
    if isinstance(right, str) and right in named and body["op"] in {"==", "in"}:
        yield named[right]


def _by_element(
    whole: LiveRule, looked: Condition, left: object, elements: Sequence[object]
) -> Iterator[LiveRule]:
    """A rule for each element of a set that it looks into."""
    others = [condition for condition in whole.conditions if condition is not looked]
    for element in elements:
        which, own = _element(element)
        yield replace(
            whole,
            text=f"{whole.text}, element {which}",
            conditions=[*others, _match({"op": "==", "left": left, "right": element}, {})],
            comment=own or whole.comment,
        )


def _element(element: object) -> tuple[str, str]:
    """An element of a set for a person, and its comment."""
    match element:
        case {"elem": {"val": value, **rest}}:
            return _element(value)[0], str(rest.get("comment", ""))
        case {"prefix": {"addr": address, "len": length}}:
            return f"{address}/{length}", ""
        case {"range": [first, last]}:
            return f"{first}-{last}", ""
        case {"concat": list(parts)}:
            return " . ".join(_element(part)[0] for part in parts), ""
        case _:
            return str(element), ""


def _elements(data: object, named: Mapping[str, Sequence[object]]) -> Iterator[tuple[object, object]]:
    """Key and verdict of each element of a map; of one that is not listed, what cannot be read."""
    match data:
        case str(name) if name in named:
            pairs = named[name]
        case {"set": list() as pairs}:
            pass
        case _:
            pairs = [(None, None)]
    for pair in pairs:
        key, verdict = pair if isinstance(pair, list | tuple) else (None, None)
        yield key, verdict


def _verdict(statement: object) -> tuple[Action, str]:
    """What a statement does, and the chain, port or mark of it."""
    match statement:
        case {"jump": {"target": str(chain)}}:
            return Action.JUMP, chain
        case {"goto": {"target": str(chain)}}:
            return Action.GOTO, chain
        case {"redirect": body}:
            return Action.REDIRECT, str((body or {}).get("port", ""))
        case {"tproxy": {"port": port}}:
            return Action.TPROXY, str(port)
        case {"mangle": {"key": key, "value": value}}:
            return _mangled(key, value)
        case dict() if _PLAIN.keys() & statement.keys():
            return _PLAIN[next(iter(statement))], json.dumps(statement)
        case _:
            return Action.UNKNOWN, ""


def _mangled(key: object, value: object) -> tuple[Action, str]:
    """A mark as iptables' --set-xmark has it: the bits to clear first and those to flip then."""
    match key:
        case {"meta": {"key": "mark"}}:
            action = Action.MARK
        case {"ct": {"key": "mark"}}:
            action = Action.MARK_CONNECTION
        case _:
            return Action.NOTHING, ""  # what no rule looks at
    match value:
        case int(mark):
            return action, f"{mark:#x}/{_ALL_BITS:#x}"
        case {"|": [{"&": [same, int(kept)]}, int(mark)]} if same == key:
            return action, f"{mark:#x}/{_ALL_BITS & ~kept | mark:#x}"
        case {"|": [same, int(mark)]} if same == key:
            return action, f"{mark:#x}/{mark:#x}"
        case _:
            return Action.UNKNOWN, ""


def _text(rule: dict) -> str:  # type: ignore[type-arg]
    """Enough to find it again: 'nft -a list ruleset' shows handles."""
    comment = f" ({rule['comment']})" if rule.get("comment") else ""
    return f"rule with handle {rule['handle']} in {rule['family']} {rule['table']} {rule['chain']}{comment}"


def _match(body: dict, named: Mapping[str, Sequence[object]]) -> Condition:  # type: ignore[type-arg]
    left, right, negated = body["left"], body["right"], body["op"] == "!="
    if body["op"] not in {"==", "!=", "in"}:
        return lambda _: None
    if isinstance(right, str) and right.startswith("@"):
        if right not in named:
            return lambda _: None
        right = {"set": named[right]}

    def fits(packet: Packet) -> bool | None:
        value = _value(left, packet)
        if value is _UNKNOWN:
            return None
        held = _is(value, right)
        return None if held is None else held != negated

    return fits


def _value(left: object, packet: Packet) -> object:
    """What a left-hand side is for a packet."""
    match left:
        case {"meta": {"key": str(key)}}:
            return _meta(key, packet)
        case {"payload": {"protocol": str(protocol), "field": str(name)}}:
            return _payload(protocol, name, packet)
        case {"ct": {"key": str(key)}}:
            return _tracked(key, packet)
        case {"fib": {"result": "type", "flags": ["daddr" | "saddr" as name]}}:
            return "local" if _is_ours(name, packet) else "unicast"
        case {"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, list(flags)]} if "syn" in flags:
            return "syn" if packet.connection.protocol.value == "tcp" else None
        case {"concat": list(parts)}:
            return [_value(part, packet) for part in parts]
        case {"&": [masked, int(mask)]}:
            value = _value(masked, packet)
            return value & mask if isinstance(value, int) else _UNKNOWN
        case _:
            return _UNKNOWN


def _is_ours(field: str, packet: Packet) -> bool:
    """Whether an address is one of this host's."""
    connection = packet.connection
    if field == "daddr":
        return connection.local or packet.rewritten
    return connection.direction.value == "egress" or connection.interface == "lo"


def _payload(protocol: str, name: str, packet: Packet) -> object:
    """A header's field; None where the packet has no such header."""
    if protocol in {"ip", "ip6"} and name in {"saddr", "daddr"}:
        if packet.connection.family != (4 if protocol == "ip" else 6):
            return None
        return packet.connection.source if name == "saddr" else ip_address(packet.destination)
    if protocol in {"tcp", "udp", "th"} and name == "dport":
        return packet.port if protocol in {"th", packet.connection.protocol.value} else None
    return _UNKNOWN


def _tracked(key: str, packet: Packet) -> object:
    """What conntrack knows of a first packet."""
    status = "dnat" if packet.rewritten else "none"
    state = "new" if packet.tracked else "untracked"
    return {"state": state, "status": status, "mark": packet.connection_mark, "direction": "original"}.get(
        key, _UNKNOWN
    )


def _meta(key: str, packet: Packet) -> object:
    connection = packet.connection
    outwards = connection.direction.value == "egress"
    values: dict[str, object] = {
        "l4proto": connection.protocol.value,
        "nfproto": f"ipv{connection.family}",
        "protocol": "ip" if connection.family == 4 else "ip6",
        "mark": packet.mark,
        "oifname": connection.interface if outwards else "",
        "iifname": "" if outwards else connection.interface,
        "oif": connection.interface if outwards else "",
        "iif": "" if outwards else connection.interface,
        "skuid": connection.uid if outwards else None,
        "skgid": connection.gid if outwards else None,
    }
    value = values.get(key, _UNKNOWN)
    unknown_owner = key in {"skuid", "skgid"} and outwards and value is None
    return _UNKNOWN if unknown_owner else value


def _is(value: object, right: object) -> bool | None:
    """Whether a value is what a right-hand side says."""
    match right:
        case {"concat": list(parts)} if isinstance(value, list):
            each = [
                None if one is _UNKNOWN else _is(one, part) for one, part in zip(value, parts, strict=True)
            ]
            return False if False in each else None if None in each else True
        case {"set": list() | tuple() as elements} | list(elements):
            held = [_is(value, element) for element in elements]
            return True if True in held else None if None in held else False
        case {"elem": {"val": element}}:
            return _is(value, element)
        case {"range": [first, last]}:
            return value is not None and _number(first) <= _number(value) <= _number(last)
        case {"prefix": {"addr": str(address), "len": int(length)}}:
            return value is not None and value in ip_network(f"{address}/{length}")
        case str(name) if isinstance(value, str):
            return through(f"{name[:-1]}+" if name.endswith("*") else name, value)
        case str() | int():
            return value is not None and (value == right or str(value) == right)
        case _:
            return None


def _all_are(values: Sequence[object], parts: Sequence[object]) -> bool | None:
    """Whether each of several values is what its part of the right-hand side says."""
    held = [
        None if value is _UNKNOWN else _is(value, part) for value, part in zip(values, parts, strict=False)
    ]
    return False if False in held else None if None in held else True


def _number(value: object) -> int:
    return int(ip_address(value)) if isinstance(value, str) else int(value)  # type: ignore[call-overload]
