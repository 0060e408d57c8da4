"""What ``iptables-save`` prints, read into live rules. A word that is not known makes its rule one that cannot be read."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Final

from interceptor.redirect.live import Action, Base, LiveRule, LiveTable, Packet
from interceptor.redirect.simulate import through

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.redirect.rules import Family

Condition = Callable[[Packet], bool | None]

PRIORITIES: Final = {
    "raw": -300,
    "mangle": -150,
    "nat": -100,
    "filter": 0,
    "security": 50,
}  # linux/netfilter_ipv4.h
_TARGETS: Final = {
    "ACCEPT": Action.ACCEPT,
    "DROP": Action.DROP,
    "REJECT": Action.REJECT,
    "RETURN": Action.RETURN,
    "REDIRECT": Action.REDIRECT,
    "DNAT": Action.DNAT,
    "TPROXY": Action.TPROXY,
    "MARK": Action.MARK,
    "NOTRACK": Action.UNTRACK,
    **dict.fromkeys(
        (
            "LOG",
            "NFLOG",
            "CONNMARK",
            "CT",
            "TRACE",
            "TCPMSS",
            "DSCP",
            "TOS",
            "CHECKSUM",
            "CLASSIFY",
            "SET",
            "TTL",
            "HL",
        ),
        Action.NOTHING,
    ),
}
_ARGUMENT: Final = {
    "--to-ports": "REDIRECT",
    "--on-port": "TPROXY",
    "--set-xmark": "MARK",
    "--to-destination": "DNAT",
}


def tables(text: str, family: Family, backend: str) -> Iterator[Base]:
    """The base chains in the text of ``iptables-save`` or ``ip6tables-save``."""
    name = ""
    policies: dict[str, str] = {}
    chains: dict[str, list[LiveRule]] = {}
    for line in text.splitlines():
        if line.startswith("*"):
            name, policies, chains = line[1:].strip(), {}, {}
        elif line.startswith(":"):
            chain, policy, *_ = line[1:].split()
            policies[chain] = policy
            chains[chain] = []
        elif line.startswith("-A "):
            words = shlex.split(line)
            chains[words[1]].append(_rule(line, words[2:], chains.keys()))
        elif line.startswith("COMMIT"):
            table = LiveTable(f"{backend} IPv{family} {name}", (family,), chains)
            for chain, policy in policies.items():
                if policy != "-":
                    yield Base(table, chain, chain, PRIORITIES.get(name, 0), name == "nat", policy == "DROP")


def _rule(line: str, words: list[str], chains: Collection[str]) -> LiveRule:
    conditions: list[Condition] = []
    target, argument, comment, goto = "", "", "", False
    rest = iter(words)
    module, negated = "", False
    for word in rest:
        if word == "!":
            negated = True
            continue
        if word == "-m":
            module = next(rest)
        elif word in {"-j", "-g"}:
            target, goto = next(rest), word == "-g"
        elif word == "--comment":
            comment = next(rest)
        elif target:
            value = next(rest, "")
            argument = value if word in _ARGUMENT else argument
        else:
            if word == "--gid-owner" and "--suppl-groups" in words:
                word = "--any-gid-owner"  # noqa: PLW2901 (the option that follows makes it another)
            condition = _condition(module, word, rest)
            conditions.append(_negated(condition) if negated else condition)
        negated = False
    if target and target not in _TARGETS and target in chains:
        action, argument = (Action.GOTO if goto else Action.JUMP), target
    else:
        action = _action(target, words)
    return LiveRule(line, conditions, action, argument, comment)


def _action(target: str, words: Collection[str]) -> Action:
    """What a rule does that leads to no chain."""
    if target == "CT" and "--notrack" in words:
        return Action.UNTRACK
    if target == "CONNMARK" and "--set-xmark" in words:
        return Action.MARK_CONNECTION
    return _TARGETS.get(target, Action.UNKNOWN if target else Action.NOTHING)


def _negated(condition: Condition) -> Condition:
    def opposite(packet: Packet) -> bool | None:
        held = condition(packet)
        return None if held is None else not held

    return opposite


def _condition(module: str, option: str, rest: Iterator[str]) -> Condition:
    """The condition of an option, which takes its value; without one: not understood."""
    if option in _FLAGS:
        return _FLAGS[option]
    value = next(rest, "")
    if option == "--tcp-flags":
        flags = next(rest, "")
        return lambda _: True if flags == "SYN" and "SYN" in value else None
    reader = _connection_mark if (module, option) == ("connmark", "--mark") else _READERS.get(option)
    return reader(value) if reader else lambda _: None


def _outwards(packet: Packet) -> bool:
    return packet.connection.direction.value == "egress"


def _addresses(value: str, *, source: bool) -> Condition:
    network = ip_network(value, strict=False)
    return lambda packet: (packet.connection.source if source else ip_address(packet.destination)) in network


def _interface(value: str, *, out: bool) -> Condition:
    return lambda packet: through(value, packet.connection.interface if _outwards(packet) == out else None)


def _ports(value: str) -> Condition:
    ranges = [tuple(map(int, (part.split(":") * 2)[:2])) for part in value.split(",")]
    return lambda packet: any(first <= packet.port <= last for first, last in ranges)


def _ids(value: str, *, group: bool, supplementary: bool = False) -> Condition:
    first, last = map(int, (value.split("-") * 2)[:2])

    def owner(packet: Packet) -> bool | None:
        number = packet.connection.gid if group else packet.connection.uid
        if not _outwards(packet):
            return False  # what arrives has no owner
        if supplementary and any(first <= also <= last for also in packet.connection.groups):
            return True
        return None if number is None else first <= number <= last

    return owner


def _mark(value: str) -> Condition:
    number, _, mask = value.partition("/")
    return lambda packet: packet.mark & int(mask or "0xffffffff", 0) == int(number, 0)


def _connection_mark(value: str) -> Condition:
    number, _, mask = value.partition("/")
    return lambda packet: packet.connection_mark & int(mask or "0xffffffff", 0) == int(number, 0)


def _states(value: str) -> Condition:
    states = set(value.split(","))
    return lambda packet: (
        ("NEW" if packet.tracked else "UNTRACKED") in states or ("DNAT" in states and packet.rewritten)
    )


def _kind(value: str, *, source: bool) -> Condition:
    def local(packet: Packet) -> bool | None:
        if value != "LOCAL":
            return None
        if source:
            return _outwards(packet) or packet.connection.interface == "lo"
        return packet.connection.local or packet.rewritten

    return local


def _protocol(value: str) -> Condition:
    return lambda packet: value in {"all", packet.connection.protocol.value}


_READERS: Final[dict[str, Callable[[str], Condition]]] = {
    "-s": lambda value: _addresses(value, source=True),
    "-d": lambda value: _addresses(value, source=False),
    "-i": lambda value: _interface(value, out=False),
    "-o": lambda value: _interface(value, out=True),
    "-p": _protocol,
    "--dport": _ports,
    "--dports": _ports,
    "--uid-owner": lambda value: _ids(value, group=False),
    "--gid-owner": lambda value: _ids(value, group=True),
    "--any-gid-owner": lambda value: _ids(value, group=True, supplementary=True),
    "--mark": _mark,
    "--ctstate": _states,
    "--state": _states,
    "--dst-type": lambda value: _kind(value, source=False),
    "--src-type": lambda value: _kind(value, source=True),
    "--ctdir": lambda value: lambda _: value == "ORIGINAL",
}
_FLAGS: Final[dict[str, Condition]] = {
    "--syn": lambda packet: packet.connection.protocol.value == "tcp",
    "--suppl-groups": lambda _: True,
}
