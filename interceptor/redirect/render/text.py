"""The ruleset in plain language, for someone who sees it for the first time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, assert_never

from interceptor.redirect.rules import Hook, Jump, Redirect, Reject, Return

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.redirect.rules import Chain, Match, Protocol, Ruleset, Verdict

_HEADINGS: Final = {
    Hook.PREROUTING: "Ingress: connections that peers open to this host",
    Hook.OUTPUT: "Egress: connections that programs here open",
    Hook.INPUT: "Ingress: connections that peers open to this host",
}


def render(ruleset: Ruleset) -> str:
    """All chains, each rule as a sentence with its reason and the flag that made it."""
    lines = [
        f"Redirect rules of configuration {ruleset.hash}. The first line that fits a connection decides."
    ]
    for chain in ruleset.chains:
        lines += ["", *_chain(chain)]
    return "\n".join(lines) + "\n"


def _chain(chain: Chain) -> Iterator[str]:
    families = " and ".join(f"IPv{family}" for family in chain.families)
    known = chain.jump.match.protocol
    yield f"{_HEADINGS[chain.hook]} ({families}, {known.value.upper() if known else 'all protocols'})"
    subjects = [", ".join(describe(rule.match, known)) or "everything" for rule in chain.rules]
    width = max(map(len, subjects))
    for number, (subject, rule) in enumerate(zip(subjects, chain.rules, strict=True), start=1):
        flag = "" if rule.flag == "always" else f" [{rule.flag}]"
        yield f"  {number:2}. {subject:{width}}  {outcome(rule.verdict)}: {rule.because}{flag}"
    yield f"      anything else: {outcome(Return())}"


def describe(match: Match, known: Protocol | None = None) -> Iterator[str]:
    """What a match says, phrase by phrase; the protocol that is known anyway is left out."""
    if match.protocol is not None and match.protocol is not known:
        yield match.protocol.value.upper()
    for phrase, value in (
        ("marked", match.mark),
        ("opened by uid", match.uid),
        ("opened by gid", match.gid),
        ("arriving on", match.in_interface),
        ("leaving by", match.out_interface),
        ("from", match.source),
        ("to", match.destination),
        ("to", "an address of this host" if match.local_destination else None),
        ("to port", ", ".join(map(str, match.ports)) or None),
    ):
        if value is not None:
            yield f"{phrase} {value}"


def outcome(verdict: Verdict) -> str:
    """What becomes of a connection, in a word or three."""
    match verdict:
        case Return():
            return "direct"
        case Redirect(port):
            return f"to the proxy, port {port}"
        case Reject():
            return "refused"
        case Jump(chain):
            return f"see {chain}"
        case _:
            assert_never(verdict)
