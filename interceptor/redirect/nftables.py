"""The ruleset in the form of nftables: one ``inet`` table of our own, for both families, with all our chains.

Each part of a rule is written in both of nft's languages side by side: the text that people read and the JSON that the
driver hands over. Both are spelt as nft lists them, so that what is read back can be compared with what is wanted.
Consecutive rules that differ by one address only become one rule over a named set, whose elements are tagged and
counted like rules: a thousand CIDRs cost a look-up, not a thousand comparisons.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Final, NamedTuple, assert_never

from interceptor.errors import ConfigError
from interceptor.redirect.rules import (
    FAMILIES,
    Answer,
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

    from interceptor.config.redirect import PortRange
    from interceptor.redirect.rules import Chain, Family, Hook, Match, Network, Rule, Ruleset, Verdict

Json = None | bool | int | str | list["Json"] | dict[str, "Json"]

FAMILY: Final = "inet"
TABLE: Final = "interceptor"
LEGACY_REMEDY: Final = "--mode tproxy, --dns capture and groups need --backend legacy"
# Before dstnat, where iptables and everybody else redirects: whose nat chain runs first is then no matter of who came last.
NAT_PRIORITY: Final = -101
FILTER_PRIORITY: Final = 0  # NF_IP_PRI_FILTER, linux/netfilter_ipv4.h; a refusal counts wherever it stands
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


@dataclass(frozen=True, slots=True)
class NamedSet:
    """The networks of one family that one rule looks up."""

    name: str
    type: str
    elements: tuple[Element, ...]


@dataclass(frozen=True, slots=True)
class RuleForm:
    """A rule as nft has it."""

    comment: str
    statements: tuple[Statement, ...]


class Base(NamedTuple):
    """Where and when the kernel calls a base chain."""

    type: str
    hook: str
    priority: int


@dataclass(frozen=True, slots=True)
class ChainForm:
    """A base chain, which holds only jumps, or one of our chains."""

    name: str
    base: Base | None
    rules: tuple[RuleForm, ...]


@dataclass(frozen=True, slots=True)
class TableForm:
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
            if len(group) == 1:
                forms.append(_rule(ruleset, group[0]))
            else:
                named, form = _set(ruleset, group)
                sets.append(named)
                forms.append(form)
        chains.append(ChainForm(_name(chain.table, chain.name), None, tuple(forms)))
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
    return (table, chain) if table and chain else None


def _name(table: Table, chain: str) -> str:
    """Chains of one name in several tables of iptables share one table here."""
    return f"{table.value}_{chain}"


def _base(table: Table, hook: Hook) -> Base:
    match table:
        case Table.NAT:
            return Base("nat", hook.value.lower(), NAT_PRIORITY)
        case Table.FILTER:
            return Base("filter", hook.value.lower(), FILTER_PRIORITY)
        case Table.RAW | Table.MANGLE:
            raise ConfigError(f"the nft backend has no {table.value} rules; {LEGACY_REMEDY}")
        case _:
            assert_never(table)


def _groups(rules: Sequence[Rule]) -> Iterator[list[Rule]]:
    """Rules that can be one: consecutive, of one family, different in their address only."""
    for _, group in groupby(enumerate(rules), _kind):
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
    verdict = Jump(_name(chain.table, chain.name))
    return _rule(ruleset, replace(jump, verdict=verdict), family=family)


def _rule(
    ruleset: Ruleset, rule: Rule, addresses: str | None = None, *, family: Family | None = None
) -> RuleForm:
    """A rule; ``addresses`` names the set that stands for its address."""
    statements = (
        *(() if family is None else (_equals("meta nfproto", _meta("nfproto"), _NFPROTO[family]),)),
        *_match(rule.match, addresses),
        Statement("counter", {"counter": None}),
        _verdict(rule.verdict),
    )
    return RuleForm(ruleset.comment(rule), statements)


def _match(match: Match, addresses: str | None) -> Iterator[Statement]:
    if match.protocol is not None and not match.ports:
        yield _equals("meta l4proto", _meta("l4proto"), match.protocol.value)
    yield from _of_socket(match)
    yield from _of_way(match, addresses)
    yield from _of_connection(match)
    if match.protocol is not None and match.ports:
        protocol = match.protocol.value
        text, form = _ports(match.ports)
        payload: Json = {"payload": {"protocol": protocol, "field": "dport"}}
        yield Statement(f"{protocol} dport {text}", _matching(payload, form))


def _of_connection(match: Match) -> Iterator[Statement]:
    """What conntrack knows, and the flags of a first segment."""
    for holds, key, value, operator in (
        (match.new, "state", "new", "in"),
        (match.rewritten, "status", "dnat", "in"),
        (match.reply, "direction", "reply", "=="),
    ):
        if holds:
            yield Statement(f"ct {key} {value}", _matching({"ct": {"key": key}}, value, operator))
    if match.syn:
        flags: Json = {
            "&": [{"payload": {"protocol": "tcp", "field": "flags"}}, ["fin", "syn", "rst", "ack"]]
        }
        yield Statement("tcp flags syn / fin,syn,rst,ack", _matching(flags, "syn"))


def _of_socket(match: Match) -> Iterator[Statement]:
    if match.mark is not None:
        value, mask = match.mark
        if mask == 0xFFFF_FFFF:
            yield Statement(f"meta mark {value:#010x}", _matching(_meta("mark"), value))
        else:
            masked: Json = {"&": [_meta("mark"), mask]}
            yield Statement(f"meta mark & {mask:#010x} == {value:#010x}", _matching(masked, value))
    if match.supplementary or match.connection_mark is not None:
        raise ConfigError(
            f"the nft backend knows neither supplementary groups nor connection marks; {LEGACY_REMEDY}"
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
            payload: Json = {"payload": {"protocol": protocol, "field": field}}
            text, form = addresses or network_text(network), addresses or network_form(network)
            yield Statement(f"{protocol} {field} {text}", _matching(payload, form))
    for holds, field, operator in (
        (match.local_destination, "daddr", "=="),
        (match.remote_destination, "daddr", "!="),
        (match.remote_source, "saddr", "!="),
    ):
        if holds:
            fib: Json = {"fib": {"result": "type", "flags": [field]}}
            words = "local" if operator == "==" else "!= local"
            yield Statement(f"fib {field} type {words}", _matching(fib, "local", operator))


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


def _verdict(verdict: Verdict) -> Statement:
    match verdict:
        case Return():
            return Statement("return", {"return": None})
        case Jump(chain):
            return Statement(f"jump {chain}", {"jump": {"target": chain}})
        case Redirect(port):
            return Statement(f"redirect to :{port}", {"redirect": {"port": port}})
        case Reject(answer) if answer is Answer.RESET:
            return Statement("reject with tcp reset", {"reject": {"type": "tcp reset"}})
        case Reject():  # by ICMP of the packet's family
            return Statement("reject", {"reject": {"type": "icmpx", "expr": "port-unreachable"}})
        case Tproxy() | MarkPacket() | MarkConnection() | Zone():
            raise ConfigError(f"the nft backend neither marks nor diverts packets; {LEGACY_REMEDY}")
        case _:
            assert_never(verdict)
