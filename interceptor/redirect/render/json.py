"""The ruleset as JSON, for programs: every rule with its match, verdict, flag and reason."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypedDict, assert_never

from interceptor.redirect.rules import Jump, Redirect, Reject, Return

if TYPE_CHECKING:
    from interceptor.redirect.rules import Chain, Match, Rule, Ruleset, Verdict


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
    form = {"version": 1, "hash": ruleset.hash, "chains": [_chain(chain) for chain in ruleset.chains]}
    return json.dumps(form, indent=2) + "\n"


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
        "mark": match.mark and str(match.mark),
        "local_destination": match.local_destination or None,
        "new": match.new or None,
    }
    return {name: value for name, value in said.items() if value is not None}


def _verdict(verdict: Verdict) -> dict[str, object]:
    match verdict:
        case Return():
            return {"action": "return"}
        case Redirect(port):
            return {"action": "redirect", "port": port}
        case Jump(chain):
            return {"action": "jump", "chain": chain}
        case Reject(answer):
            return {"action": "reject", "answer": answer}
        case _:
            assert_never(verdict)
