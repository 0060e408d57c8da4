"""Connections that were open before the rules: which of them would be captured if they were opened now."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.model.connection import Direction
from interceptor.model.record import Record
from interceptor.redirect.simulate import Connection, explain

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from interceptor.redirect.rules import Family, Ruleset

SHOWN: Final = 5  # connections named in a sentence; the rest is a number


class Ends(NamedTuple):
    """Where a connection's first packet came from and went to."""

    source: str
    source_port: int
    destination: str
    destination_port: int


class Established(Record, kw_only=True):
    """An open TCP connection of this host; ``accepted`` says that somebody else opened it."""

    family: Family
    ends: Ends
    accepted: bool
    interface: str  # it goes through; ``lo`` between addresses of this host
    uid: int
    gid: int | None
    mark: int
    cookie: int  # the kernel's name for its socket

    def __str__(self) -> str:
        source, source_port, destination, port = self.ends
        form = "{}:{}" if self.family == 4 else "[{}]:{}"
        return f"{form.format(source, source_port)} to {form.format(destination, port)}"


def bypassing(
    ruleset: Ruleset, connections: Iterable[Established], redirected: Collection[Ends]
) -> tuple[Established, ...]:
    """Those that the ruleset would capture, and that are not redirected."""
    return tuple(
        each
        for each in connections
        if each.ends not in redirected
        and not (each.accepted and each.interface == "lo")  # nat PREROUTING never runs for loopback
        and explain(ruleset, _described(each)).verdict in {"egress", "ingress"}
    )


def _described(each: Established) -> Connection:
    source, _, destination, port = each.ends
    return Connection(
        direction=Direction.INGRESS if each.accepted else Direction.EGRESS,
        source=ip_address(source),
        destination=ip_address(destination),
        port=port,
        interface=each.interface,
        local=each.accepted or each.interface == "lo",
        uid=None if each.accepted else each.uid,
        gid=None if each.accepted else each.gid,
        mark=each.mark,
    )


def describe(found: Sequence[Established], ended: int | None) -> str:
    """A sentence for the operator; ``ended`` is how many were reset, None when that was not asked for."""
    number = f"{len(found)} connection{'s' * (len(found) != 1)}"
    shown = ", ".join(map(str, found[:SHOWN])) + (", ..." if len(found) > SHOWN else "")
    if ended is None:
        return f"{number} opened before the rules bypass the proxy ({shown}); --existing reset ends them"
    if ended < len(found):
        return (
            f"{number} opened before the rules bypassed the proxy ({shown}); only {ended} could be reset at once, "
            "the others end with their next packet"
        )
    return f"{number} opened before the rules bypassed the proxy and were reset ({shown})"
