"""Rules in the form of the kernel's x_tables: matches and a target with parameters, by iptables' names.

One translation for both who need it: the driver hands it to python-iptables, the rendering writes it as ``iptables-save``
does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, assert_never

from interceptor.model.record import Record
from interceptor.redirect.rules import (
    Answer,
    Jump,
    MarkConnection,
    MarkPacket,
    Redirect,
    Reject,
    Return,
    Tproxy,
    Zone,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.redirect.rules import Family, Match, Rule, Ruleset, Verdict


class Extension(NamedTuple):
    """A match or target extension and its parameters; a leading ``!`` of a name inverts, a switch's value is empty."""

    name: str
    parameters: tuple[tuple[str, str], ...] = ()


class Entry(Record):
    """A rule as x_tables has it; matches in the order they are written."""

    source: str | None
    destination: str | None
    in_interface: str | None
    out_interface: str | None
    protocol: str | None
    matches: tuple[Extension, ...]
    target: Extension


def entry(ruleset: Ruleset, rule: Rule, family: Family) -> Entry:
    """The x_tables form of a rule for one family."""
    match = rule.match
    return Entry(
        source=None if match.source is None else str(match.source),
        destination=None if match.destination is None else str(match.destination),
        in_interface=match.in_interface,
        out_interface=match.out_interface,
        protocol=None if match.protocol is None else match.protocol.value,
        matches=(*_extensions(match), Extension("comment", (("comment", ruleset.comment(rule)),))),
        target=_target(rule.verdict, family),
    )


def _extensions(match: Match) -> Iterator[Extension]:
    for number, name, parameter in (
        (match.mark, "mark", "mark"),
        (match.connection_mark, "connmark", "mark"),
        (match.uid, "owner", "uid-owner"),
    ):
        if number is not None:
            yield Extension(name, ((parameter, str(number)),))
    if match.gid is not None:
        also = (("suppl-groups", ""),) if match.supplementary else ()
        yield Extension("owner", (("gid-owner", str(match.gid)), *also))
    for holds, name, parameter, value in (
        (match.local_destination, "addrtype", "dst-type", "LOCAL"),
        (match.remote_destination, "addrtype", "!dst-type", "LOCAL"),
        (match.remote_source, "addrtype", "!src-type", "LOCAL"),
        (match.new, "conntrack", "ctstate", "NEW"),
        (match.rewritten, "conntrack", "ctstate", "DNAT"),
        (match.reply, "conntrack", "ctdir", "REPLY"),
        (match.syn, "tcp", "tcp-flags", "FIN,SYN,RST,ACK SYN"),
    ):
        if holds:
            yield Extension(name, ((parameter, value),))
    if match.ports:
        ports = ",".join(f"{first}" if first == last else f"{first}:{last}" for first, last in match.ports)
        yield Extension("multiport", (("dports", ports),))


def _target(verdict: Verdict, family: Family) -> Extension:
    match verdict:
        case Return():
            return Extension("RETURN")
        case Jump(chain):
            return Extension(chain)
        case Redirect(port):
            return Extension("REDIRECT", (("to-ports", str(port)),))
        case Tproxy(port):
            anywhere = "0.0.0.0" if family == 4 else "::"  # noqa: S104 (the listener's address, as iptables-save prints it)
            words = (("on-port", str(port)), ("on-ip", anywhere), ("tproxy-mark", "0x0/0x0"))
            return Extension("TPROXY", words)
        case Reject(answer):
            return Extension("REJECT", (("reject-with", _answer(answer, family)),))
        case MarkPacket(mark):
            return Extension("MARK", (("set-xmark", f"{mark.value:#x}/{mark.mask:#x}"),))
        case MarkConnection(mark):
            return Extension("CONNMARK", (("set-xmark", f"{mark.value:#x}/{mark.mask:#x}"),))
        case Zone(number):
            return Extension("CT", (("zone-orig", str(number)),))
        case _:
            assert_never(verdict)


def _answer(answer: Answer, family: Family) -> str:
    if answer is Answer.RESET:
        return "tcp-reset"
    return "icmp-port-unreachable" if family == 4 else "icmp6-port-unreachable"
