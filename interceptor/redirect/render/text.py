"""The ruleset in plain language, for someone who sees it for the first time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, assert_never

from interceptor.redirect.rules import (
    DETOUR_NUMBER,
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
    from collections.abc import Iterator

    from interceptor.redirect.rules import Chain, Match, Protocol, Ruleset, Verdict

_HEADINGS: Final = {
    Hook.PREROUTING: "Ingress: connections that peers open to this host",
    Hook.OUTPUT: "Egress: connections that programs here open",
    Hook.INPUT: "Ingress: connections that peers open to this host",
    Hook.FORWARD: "Forwarded: connections of guests behind virtual interfaces",
}
_PARTICULAR: Final = {
    (Table.RAW, Hook.PREROUTING): "Zones: name queries of guests that are captured are tracked apart",
    (Table.RAW, Hook.OUTPUT): "Zones: name queries that are captured are tracked apart",
    (Table.MANGLE, Hook.OUTPUT): "Way back: what the app answers to a client whose address the proxy uses",
}


def render(ruleset: Ruleset) -> str:
    """All chains, each rule as a sentence with its reason and the flag that made it."""
    lines = [
        f"Redirect rules of configuration {ruleset.hash}. The first line that fits a connection decides."
    ]
    for chain in ruleset.chains:
        lines += ["", *_chain(chain)]
    if ruleset.detour is not None:
        families = " and ".join(f"IPv{family}" for family in ruleset.detour.families)
        place = f"ip rule {DETOUR_NUMBER}, table {DETOUR_NUMBER}"
        lines += [
            "",
            f"Routing ({families}): packets marked {ruleset.detour.mark} are delivered on this host ({place})",
        ]
    return "\n".join(lines) + "\n"


def _chain(chain: Chain) -> Iterator[str]:
    families = " and ".join(f"IPv{family}" for family in chain.families)
    known = chain.jump.match.protocol
    captures = chain.table is not Table.FILTER and (chain.table, chain.hook) not in _PARTICULAR
    left = outcome(Return()) if captures else "passes"
    heading = _PARTICULAR.get((chain.table, chain.hook), _HEADINGS[chain.hook])
    yield f"{heading} ({families}, {known.value.upper() if known else 'all protocols'})"
    subjects = [", ".join(describe(rule.match, known)) or "everything" for rule in chain.rules]
    width = max(map(len, subjects))
    for number, (subject, rule) in enumerate(zip(subjects, chain.rules, strict=True), start=1):
        flag = "" if rule.flag == "always" else f" [{rule.flag}]"
        what = left if isinstance(rule.verdict, Return) else outcome(rule.verdict)
        yield f"  {number:2}. {subject:{width}}  {what}: {rule.because}{flag}"
    yield f"      anything else: {left}"


def describe(match: Match, known: Protocol | None = None) -> Iterator[str]:
    """What a match says, phrase by phrase; the protocol that is known anyway is left out."""
    if match.protocol is not None and match.protocol is not known:
        yield match.protocol.value.upper()
    for phrase, value in (
        ("of a connection marked", match.connection_mark),
        ("marked", match.mark),
        ("opened by uid", match.uid),
        ("opened by a member of gid" if match.supplementary else "opened by gid", match.gid),
        ("arriving on", match.in_interface),
        ("leaving by", match.out_interface),
        ("from", match.source),
        ("to", match.destination),
        ("from", "an address that is not this host's" if match.remote_source else None),
        ("to", "an address of this host" if match.local_destination else None),
        ("to", "another host" if match.remote_destination else None),
        ("to port", ", ".join(map(str, match.ports)) or None),
    ):
        if value is not None:
            yield f"{phrase} {value}"
    for holds, phrase in (
        (match.syn, "when it is opened"),
        (match.reply, "on the way back"),
        (match.rewritten, "redirected"),
    ):
        if holds:
            yield phrase


def outcome(verdict: Verdict) -> str:
    """What becomes of a connection, in a word or three."""
    match verdict:
        case Return():
            return "direct"
        case Redirect(port):
            return f"to the proxy, port {port}"
        case Tproxy(port):
            return f"to the proxy, port {port}, addresses kept"
        case Reject():
            return "refused"
        case MarkPacket(mark):
            return f"marked {mark}"
        case MarkConnection(mark):
            return f"its connection is marked {mark}"
        case Zone(number):
            return f"tracked in zone {number}"
        case Jump(chain):
            return f"see {chain}"
        case _:
            assert_never(verdict)
