"""What ``nft -j list ruleset`` prints, read into live rules. A statement that is not known makes its rule unreadable."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Final

from interceptor.redirect.live import Action, Base, LiveRule, LiveTable, Packet
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
}
_JUMPS: Final = {"jump": Action.JUMP, "goto": Action.GOTO}
_HARMLESS: Final = frozenset(
    {"counter", "log", "limit", "comment", "ct helper", "notrack", "ct zone", "meter"}
)
_UNKNOWN: Final = object()  # a value that is not understood


def tables(text: str, skip: frozenset[str] = frozenset()) -> Iterator[Base]:
    """The base chains in what nft lists; ``skip`` names tables that were read otherwise: 'ip nat'."""
    objects = json.loads(text or '{"nftables": []}')["nftables"]
    sets = {
        (each["family"], each["table"], each["name"]): each.get("elem", []) for each in _of(objects, "set")
    }
    chains: dict[tuple[str, str], dict[str, list[LiveRule]]] = {}
    for chain in _of(objects, "chain"):
        chains.setdefault((chain["family"], chain["table"]), {})[chain["name"]] = []
    for rule in _of(objects, "rule"):
        named = {
            name: elements
            for (family, table, name), elements in sets.items()
            if (family, table) == (rule["family"], rule["table"])
        }
        chains[rule["family"], rule["table"]][rule["chain"]].append(_rule(rule, named))
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


def _rule(rule: dict, sets: Mapping[str, Sequence[object]]) -> LiveRule:  # type: ignore[type-arg]
    conditions: list[Condition] = []
    action, argument = Action.NOTHING, ""
    for statement in rule["expr"]:
        (kind, body), *_ = statement.items()
        if kind == "match":
            conditions.append(_match(body, sets))
        elif kind in _PLAIN:
            action = _PLAIN[kind]
        elif kind in _JUMPS:
            action, argument = _JUMPS[kind], body["target"]
        elif kind in {"redirect", "tproxy"}:
            action = Action.REDIRECT if kind == "redirect" else Action.TPROXY
            argument = str((body or {}).get("port", ""))
        elif kind == "dnat":
            action, argument = Action.DNAT, json.dumps(body)
        elif kind not in _HARMLESS:
            action = Action.UNKNOWN
    return LiveRule(_text(rule), conditions, action, argument, str(rule.get("comment", "")))


def _text(rule: dict) -> str:  # type: ignore[type-arg]
    """Enough to find it again: 'nft -a list ruleset' shows handles."""
    comment = f" ({rule['comment']})" if rule.get("comment") else ""
    return f"rule with handle {rule['handle']} in {rule['family']} {rule['table']} {rule['chain']}{comment}"


def _match(body: dict, sets: Mapping[str, Sequence[object]]) -> Condition:  # type: ignore[type-arg]
    left, right, negated = body["left"], body["right"], body["op"] == "!="
    if body["op"] not in {"==", "!=", "in"}:
        return lambda _: None
    if isinstance(right, str) and right.startswith("@"):
        if right[1:] not in sets:
            return lambda _: None
        right = {"set": sets[right[1:]]}

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
    return {"state": "new", "status": status, "mark": 0, "direction": "original"}.get(key, _UNKNOWN)


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
        case str(address):
            return value is not None and str(value) == address
        case int(number):
            return value == number
        case _:
            return None


def _number(value: object) -> int:
    return int(ip_address(value)) if isinstance(value, str) else int(value)  # type: ignore[call-overload]
