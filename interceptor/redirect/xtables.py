"""Rules in the form of the kernel's x_tables: matches and a target with parameters, by iptables' names.

One translation for both who need it: the driver hands it to python-iptables, the rendering writes it as ``iptables-save``
does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, assert_never

from interceptor.redirect.rules import Jump, Redirect, Reject, Return

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.redirect.rules import Match, Rule, Ruleset, Verdict


class Extension(NamedTuple):
    """A match or target extension and its parameters."""

    name: str
    parameters: tuple[tuple[str, str], ...] = ()


class Entry(NamedTuple):
    """A rule as x_tables has it; matches in the order they are written."""

    source: str | None
    destination: str | None
    in_interface: str | None
    out_interface: str | None
    protocol: str | None
    matches: tuple[Extension, ...]
    target: Extension


def entry(ruleset: Ruleset, rule: Rule) -> Entry:
    """The x_tables form of a rule."""
    match = rule.match
    return Entry(
        source=None if match.source is None else str(match.source),
        destination=None if match.destination is None else str(match.destination),
        in_interface=match.in_interface,
        out_interface=match.out_interface,
        protocol=None if match.protocol is None else match.protocol.value,
        matches=(*_extensions(match), Extension("comment", (("comment", ruleset.comment(rule)),))),
        target=_target(rule.verdict),
    )


def _extensions(match: Match) -> Iterator[Extension]:
    if match.mark is not None:
        yield Extension("mark", (("mark", str(match.mark)),))
    if match.uid is not None:
        yield Extension("owner", (("uid-owner", str(match.uid)),))
    if match.gid is not None:
        yield Extension("owner", (("gid-owner", str(match.gid)),))
    if match.local_destination:
        yield Extension("addrtype", (("dst-type", "LOCAL"),))
    if match.new:
        yield Extension("conntrack", (("ctstate", "NEW"),))
    if match.ports:
        ports = ",".join(f"{first}" if first == last else f"{first}:{last}" for first, last in match.ports)
        yield Extension("multiport", (("dports", ports),))


def _target(verdict: Verdict) -> Extension:
    match verdict:
        case Return():
            return Extension("RETURN")
        case Jump(chain):
            return Extension(chain)
        case Redirect(port):
            return Extension("REDIRECT", (("to-ports", str(port)),))
        case Reject(answer):
            return Extension("REJECT", (("reject-with", answer),))
        case _:
            assert_never(verdict)
