"""The ruleset in the form of nftables: one ``inet`` table of our own, for both families, with all our chains.

Each part of a rule is written in both of nft's languages side by side: the text that people read and the JSON that the
driver hands over. Both are spelt as nft lists them, so that what is read back can be compared with what is wanted.
Consecutive rules that differ by one address only become one rule over a named set, whose elements are tagged and
counted like rules: a thousand CIDRs cost a look-up, not a thousand comparisons.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, NamedTuple, assert_never

from interceptor.errors import ConfigError
from interceptor.model.record import Record, replace
from interceptor.redirect.foreign import NFT_NAT_PRIORITY
from interceptor.redirect.rules import (
    FAMILIES,
    Answer,
    Hook,
    Jump,
    MarkConnection,
    MarkPacket,
    Redirect,
    Reject,
    Return,
    Table,
    Tproxy,
    Zone,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from interceptor.config.redirect import Mark, PortRange
    from interceptor.redirect.rules import Chain, Family, Label, Match, Network, Rule, Ruleset, Verdict

Json = None | bool | int | str | list["Json"] | dict[str, "Json"]

FAMILY: Final = "inet"
TABLE: Final = "interceptor"
UNHEARD: Final = "-unheard"
# Just before iptables' (linux/netfilter_ipv4.h), as for nat. After raw and before nat the kernel tracks connections.
_PRIORITIES: Final = {Table.RAW: -301, Table.MANGLE: -151, Table.NAT: NFT_NAT_PRIORITY, Table.FILTER: -1}
FULL_MASK: Final = 0xFFFF_FFFF
_NFPROTO: Final[dict[Family, str]] = {4: "ipv4", 6: "ipv6"}
_ADDRESS_TYPE: Final[dict[Family, str]] = {4: "ipv4_addr", 6: "ipv6_addr"}


class Statement(NamedTuple):
    """One part of a rule, in nft's text and in its JSON."""

    text: str
    form: Json


class Element(NamedTuple):
    """A network in a named set, tagged like the rule it stands for."""

    network: Network
    comment: str


class NamedSet(Record):
    """The networks of one family that one rule looks up."""

    name: str
    type: str
    elements: tuple[Element, ...]


class RuleForm(Record):
    """A rule as nft has it."""

    comment: str
    statements: tuple[Statement, ...]


class Base(NamedTuple):
    """Where and when the kernel calls a base chain."""

    type: str
    hook: str
    priority: int


class ChainForm(Record):
    """A base chain, which holds only jumps, or one of our chains."""

    name: str
    base: Base | None
    rules: tuple[RuleForm, ...]


class TableForm(Record):
    """Everything in our table."""

    sets: tuple[NamedSet, ...]
    chains: tuple[ChainForm, ...]


def table_form(ruleset: Ruleset) -> TableForm:
    """The table that a ruleset asks for; without chains, no table."""
    sets: list[NamedSet] = []
    bases: dict[tuple[Table, Hook], list[RuleForm]] = {}
    chains: list[ChainForm] = []
    for chain in ruleset.chains:
        bases.setdefault((chain.table, chain.hook), []).append(_jump(ruleset, chain))
        forms: list[RuleForm] = []
        for group in _groups(chain.rules):
            form = _rule(ruleset, group[0])
            if len(group) > 1:
                named, form = _set(ruleset, group)
                sets.append(named)
            forms.append(form)
            if isinstance(group[0].verdict, Tproxy):
                forms.append(_unheard(form))
        chains.append(ChainForm(_name(chain.table, chain.name, chain.families), None, tuple(forms)))
    return TableForm(
        tuple(sets),
        (
            *(
                ChainForm(_name(table, hook.value), _base(table, hook), tuple(jumps))
                for (table, hook), jumps in bases.items()
            ),
            *chains,
        ),
    )


def planned_name(name: str) -> tuple[Table, str] | None:
    """The table and the chain that a chain of our nft table stands for; None for one that is not ours."""
    prefix, _, chain = name.partition("_")
    table = next((table for table in Table if table.value == prefix), None)
    for suffix in _NFPROTO.values():
        chain = chain.removesuffix(f"_{suffix}")
    return (table, chain) if table and chain else None


def _name(table: Table, chain: str, families: tuple[Family, ...] = FAMILIES) -> str:
    """Chains of one name in several tables, and of several families, of iptables share one table here."""
    suffix = "" if set(families) == set(FAMILIES) else f"_{_NFPROTO[families[0]]}"
    return f"{table.value}_{chain}{suffix}"


def _base(table: Table, hook: Hook) -> Base:
    kind = "filter"
    if table is Table.NAT:
        kind = "nat"
    elif table is Table.MANGLE and hook is Hook.OUTPUT:
        kind = "route"  # a packet that is marked here is routed anew
    return Base(kind, hook.value.lower(), _PRIORITIES[table])


def _groups(rules: Sequence[Rule]) -> Iterator[list[Rule]]:
    """Rules that can be one: consecutive, of one family, different in their address only."""
    for _, group in itertools.groupby(enumerate(rules), _kind):
        yield [rule for _, rule in group]


def _kind(numbered: tuple[int, Rule]) -> tuple[object, ...]:
    number, rule = numbered
    match = rule.match
    if (match.source is None) == (match.destination is None):
        return (number,)  # looks at no address or at two: a kind of its own
    rest = replace(match, source=None, destination=None)
    return (match.family, match.source is None, rest, rule.verdict, _group_id(rule))


def _group_id(rule: Rule) -> str:
    network = rule.match.source or rule.match.destination
    assert network is not None
    return rule.id.replace(f"-{network}", f"s-v{network.version}")


def _set(ruleset: Ruleset, group: Sequence[Rule]) -> tuple[NamedSet, RuleForm]:
    first = group[0]
    family, name = first.match.family, _group_id(first)
    assert family is not None
    networks = [(rule, rule.match.source or rule.match.destination) for rule in group]
    elements = tuple(Element(network, ruleset.comment(rule)) for rule, network in networks if network)
    form = _rule(ruleset, replace(first, id=name), f"@{name}")
    return NamedSet(name, _ADDRESS_TYPE[family], elements), form


def _jump(ruleset: Ruleset, chain: Chain) -> RuleForm:
    """What brings packets to a chain; one that is there for one family says so."""
    jump = chain.jump
    family = None if set(chain.families) == set(FAMILIES) else chain.families[0]
    verdict = Jump(_name(chain.table, chain.name, chain.families))
    return _rule(ruleset, replace(jump, verdict=verdict), family=family)


def _rule(
    ruleset: Ruleset, rule: Rule, addresses: str | None = None, *, family: Family | None = None
) -> RuleForm:
    """A rule; ``addresses`` names the set that stands for its address."""
    statements = (
        *(() if family is None else (_equals("meta nfproto", _meta("nfproto"), _NFPROTO[family]),)),
        *_match(rule.match, addresses),
        Statement("counter", {"counter": None}),
        *_verdict(rule.verdict),
    )
    return RuleForm(ruleset.comment(rule), statements)


def _unheard(form: RuleForm) -> RuleForm:
    """What follows a rule that hands packets to a transparent listener: where nobody listens nft goes on, iptables drops."""
    matches = itertools.takewhile(lambda statement: statement.text != "counter", form.statements)
    verdict = (Statement("counter", {"counter": None}), Statement("drop", {"drop": None}))
    return RuleForm(f"{form.comment}{UNHEARD}", (*matches, *verdict))


def _match(match: Match, addresses: str | None) -> Iterator[Statement]:
    if match.protocol is not None and not match.ports and not match.syn:
        yield _equals("meta l4proto", _meta("l4proto"), match.protocol.value)
    yield from _of_socket(match)
    yield from _of_way(match, addresses)
    for holds, text, left, right, operator in (
        (match.local_destination, "fib daddr type local", _fib("daddr"), "local", "=="),
        (match.remote_destination, "fib daddr type != local", _fib("daddr"), "local", "!="),
        (match.remote_source, "fib saddr type != local", _fib("saddr"), "local", "!="),
        (match.new, "ct state new", _ct("state"), "new", "in"),
        (match.rewritten, "ct status dnat", _ct("status"), "dnat", "in"),
        (match.reply, "ct direction reply", _ct("direction"), "reply", "=="),
        (match.syn, "tcp flags & (fin | syn | rst | ack) == syn", _FLAGS, "syn", "=="),
    ):
        if holds:
            yield Statement(text, _matching(left, right, operator))
    if match.protocol is not None and match.ports:
        protocol = match.protocol.value
        text, form = _ports(match.ports)
        yield Statement(f"{protocol} dport {text}", _matching(_payload(protocol, "dport"), form))


def _of_socket(match: Match) -> Iterator[Statement]:
    for key, left, mark in (
        ("meta mark", _meta("mark"), match.mark),
        ("ct mark", _ct("mark"), match.connection_mark),
    ):
        if mark is not None and mark.mask == FULL_MASK:
            yield Statement(f"{key} {mark.value:#010x}", _matching(left, mark.value))
        elif mark is not None:
            text = f"{key} & {mark.mask:#010x} == {mark.value:#010x}"
            yield Statement(text, _matching({"&": [left, mark.mask]}, mark.value))
    if match.supplementary:
        raise ConfigError(
            "--supplementary-groups cannot be had with nftables, which knows a program's first group only: "
            "give --backend legacy, or exempt by --proxy-uid or --exclude-uids"
        )
    for key, number in (("skuid", match.uid), ("skgid", match.gid)):
        if number is not None:
            yield _equals(f"meta {key}", _meta(key), number)


def _of_way(match: Match, addresses: str | None) -> Iterator[Statement]:
    """Interfaces and addresses."""
    for key, name in (("iifname", match.in_interface), ("oifname", match.out_interface)):
        if name is not None:
            pattern = f"{name[:-1]}*" if name.endswith("+") else name
            yield Statement(f'{key} "{pattern}"', _matching(_meta(key), pattern))
    for field, network in (("saddr", match.source), ("daddr", match.destination)):
        if network is not None:
            protocol = "ip" if network.version == 4 else "ip6"
            text, form = addresses or network_text(network), addresses or network_form(network)
            yield Statement(f"{protocol} {field} {text}", _matching(_payload(protocol, field), form))


def network_text(network: Network) -> str:
    """A network as nft writes it: one address without a length."""
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


def network_form(network: Network) -> Json:
    """The same in JSON."""
    if network.prefixlen == network.max_prefixlen:
        return str(network.network_address)
    return {"prefix": {"addr": str(network.network_address), "len": network.prefixlen}}


def _ports(ports: Sequence[PortRange]) -> tuple[str, Json]:
    """One port or range by itself, several as an anonymous set."""
    forms: list[Json] = [
        port.first if port.first == port.last else {"range": [port.first, port.last]} for port in ports
    ]
    if len(ports) == 1:
        return str(ports[0]), forms[0]
    return f"{{ {', '.join(map(str, ports))} }}", {"set": forms}


def _equals(text: str, left: Json, right: str | int) -> Statement:
    return Statement(f"{text} {right}", _matching(left, right))


def _meta(key: str) -> Json:
    return {"meta": {"key": key}}


def _matching(left: Json, right: Json, operator: str = "==") -> Json:
    return {"match": {"op": operator, "left": left, "right": right}}


def _ct(key: str) -> Json:
    return {"ct": {"key": key}}


def _fib(field: str) -> Json:
    return {"fib": {"result": "type", "flags": [field]}}


def _payload(protocol: str, field: str) -> Json:
    return {"payload": {"protocol": protocol, "field": field}}


_FLAGS: Final[Json] = {"&": [_payload("tcp", "flags"), ["fin", "syn", "rst", "ack"]]}


_ANSWERS: Final = {
    Answer.RESET: Statement("reject with tcp reset", {"reject": {"type": "tcp reset"}}),
    Answer.UNREACHABLE: Statement(
        "reject with icmpx type port-unreachable", {"reject": {"type": "icmpx", "expr": "port-unreachable"}}
    ),
}


def _verdict(verdict: Verdict) -> tuple[Statement, ...]:
    """A label is no end: the next rule follows."""
    match verdict:
        case Return():
            return (Statement("return", {"return": None}),)
        case Jump(chain):
            return (Statement(f"jump {chain}", {"jump": {"target": chain}}),)
        case Redirect(port):
            return (Statement(f"redirect to :{port}", {"redirect": {"port": port}}),)
        case Tproxy(port):
            handed = Statement(f"tproxy to :{port}", {"tproxy": {"port": port}})
            return handed, Statement("accept", {"accept": None})
        case Reject(answer):
            return (_ANSWERS[answer],)
        case MarkPacket() | MarkConnection() | Zone():
            return (_label(verdict),)
        case _:
            assert_never(verdict)


def _label(label: Label) -> Statement:
    match label:
        case MarkPacket(mark):
            return _set_mark("meta mark", _meta("mark"), mark)
        case MarkConnection(mark):
            return _set_mark("ct mark", _ct("mark"), mark)
        case Zone(number):
            key: Json = {"ct": {"key": "zone", "dir": "original"}}
            return Statement(f"ct original zone set {number}", {"mangle": {"key": key, "value": number}})
        case _:
            assert_never(label)


def _set_mark(text: str, key: Json, mark: Mark) -> Statement:
    """Set the bits that the mask covers; those that will be one need not be cleared first, says nft."""
    if mark.mask == FULL_MASK:
        return Statement(f"{text} set {mark.value:#010x}", {"mangle": {"key": key, "value": mark.value}})
    kept = FULL_MASK & ~mark.mask | mark.value
    value: Json = {"|": [{"&": [key, kept]}, mark.value]}
    return Statement(
        f"{text} set {text} & {kept:#010x} | {mark.value:#010x}", {"mangle": {"key": key, "value": value}}
    )
