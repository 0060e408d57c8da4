"""The ruleset as JSON, for programs: every rule with its match, verdict, flag and reason."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypedDict, assert_never

from interceptor.redirect.rules import (
    DETOUR_NUMBER,
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
    from interceptor.redirect.rules import Chain, Detour, Match, Rule, Ruleset, Verdict


class RuleForm(TypedDict):
    """One rule."""

    id: str
    match: dict[str, object]
    verdict: dict[str, object]
    flag: str
    because: str


class ChainForm(TypedDict):
    """One chain of ours and the jump to it."""

    table: str
    name: str
    hook: str
    families: list[int]
    jump: RuleForm
    rules: list[RuleForm]


def render(ruleset: Ruleset) -> str:
    """The whole ruleset as one indented JSON object."""
    form = {
        "version": 1,
        "hash": ruleset.hash,
        "chains": [_chain(chain) for chain in ruleset.chains],
        "detour": ruleset.detour and _detour(ruleset.detour),
    }
    return json.dumps(form, indent=2) + "\n"


def _detour(detour: Detour) -> dict[str, object]:
    return {
        "mark": str(detour.mark),
        "table": DETOUR_NUMBER,
        "preference": DETOUR_NUMBER,
        "families": list(detour.families),
    }


def _chain(chain: Chain) -> ChainForm:
    return {
        "table": chain.table.value,
        "name": chain.name,
        "hook": chain.hook.value,
        "families": list(chain.families),
        "jump": _rule(chain.jump),
        "rules": [_rule(rule) for rule in chain.rules],
    }


def _rule(rule: Rule) -> RuleForm:
    return {
        "id": rule.id,
        "match": _match(rule.match),
        "verdict": _verdict(rule.verdict),
        "flag": rule.flag,
        "because": rule.because,
    }


def _match(match: Match) -> dict[str, object]:
    """Only what the rule says something about."""
    said: dict[str, object] = {
        "protocol": match.protocol and match.protocol.value,
        "in_interface": match.in_interface,
        "out_interface": match.out_interface,
        "source": match.source and str(match.source),
        "destination": match.destination and str(match.destination),
        "ports": [str(ports) for ports in match.ports] or None,
        "uid": match.uid,
        "gid": match.gid,
        "supplementary": match.supplementary or None,
        "mark": match.mark and str(match.mark),
        "connection_mark": match.connection_mark and str(match.connection_mark),
        "local_destination": match.local_destination or None,
        "remote_destination": match.remote_destination or None,
        "remote_source": match.remote_source or None,
        "new": match.new or None,
        "syn": match.syn or None,
        "reply": match.reply or None,
        "rewritten": match.rewritten or None,
    }
    return {name: value for name, value in said.items() if value is not None}


def _verdict(verdict: Verdict) -> dict[str, object]:
    match verdict:
        case Return():
            return {"action": "return"}
        case Redirect(port):
            return {"action": "redirect", "port": port}
        case Tproxy(port):
            return {"action": "tproxy", "port": port}
        case Jump(chain):
            return {"action": "jump", "chain": chain}
        case Reject(answer):
            return {"action": "reject", "answer": answer.value}
        case MarkPacket(mark):
            return {"action": "mark-packet", "mark": str(mark)}
        case MarkConnection(mark):
            return {"action": "mark-connection", "mark": str(mark)}
        case Zone(number):
            return {"action": "zone", "number": number}
        case _:
            assert_never(verdict)
