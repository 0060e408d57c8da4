"""Whether policies let a flow through: asked when it begins, and of every open flow again when policies change."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from interceptor.model.connection import Direction
from interceptor.policy.facts import RequestFacts
from interceptor.proxy import endings
from interceptor.proxy.endings import TurnedAwayError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from interceptor.model.address import OriginalDestination
    from interceptor.model.connection import Flow
    from interceptor.model.http import LocalReply
    from interceptor.model.request import RequestRecord
    from interceptor.policy.authorization import Verdict
    from interceptor.policy.policies import Policies
    from interceptor.proxy.endings import DialError, GoneError, HandshakeError
    from interceptor.proxy.tracker import Recorder
    from interceptor.routing.destinations import Decision
    from interceptor.routing.table import Routing

_log: Final = logging.getLogger(__name__)
_WITHDRAWN: Final = "permission was withdrawn by configuration"
_NOT_YET: Final = "-"  # relay: it is not known yet what the flow carries


class SnapshotView(Protocol):
    """What the path asks one version of the configuration."""

    @property
    def policies(self) -> Policies | None: ...

    @property
    def routing(self) -> Routing | None: ...

    def ingress(self, destination: OriginalDestination) -> Decision: ...

    def egress(self, destination: OriginalDestination) -> Decision: ...


def decided(flow: Flow, destination: OriginalDestination, view: SnapshotView) -> Decision:
    """Where a flow goes by one version of the configuration, or why it is refused whatever it carries."""
    ingress = flow.direction is Direction.INGRESS
    decision = view.ingress(destination) if ingress else view.egress(destination)
    if not ingress or view.policies is None or decision.denied is not None:
        return decision
    refusal = view.policies.refuses_plaintext(flow)
    return decision if refusal is None else _refused(decision, "plaintext", *refusal)


def egress(flow: Flow, view: SnapshotView) -> Decision:
    """Where a flow goes that has an upstream already."""
    assert flow.original_dst is not None
    return view.egress(flow.original_dst)


def deny_handshake(flow: Flow, failure: HandshakeError) -> None:
    """Note in its flow that a peer did not prove who it is."""
    flow.denied, flow.flag, flow.details = failure.reason, failure.flag, str(failure)


def note_failure(flow: Flow, failure: DialError | GoneError) -> None:
    """Note in its flow that it never came to be relayed; where it was denied meanwhile, that is why."""
    if flow.denied is None:
        flow.flag, flow.details = endings.of_failure(failure)
        if isinstance(failure, TurnedAwayError) and failure.denied is not None:
            flow.denied, flow.policy = failure.denied, failure.policy


def asks_name(flow: Flow, decision: Decision, policies: Policies | None) -> bool:
    """Whether policies compare the server name of the flow's ClientHello, which nobody has looked at yet."""
    authorizer = None if policies is None else policies.authorizer(flow.direction, decision.entry)
    return authorizer is not None and authorizer.asks_name and flow.server_name is None


def opaque(flow: Flow, decision: Decision, policies: Policies | None) -> Decision:
    """The decision over a flow that is relayed as it is, with the policy that lets it through or refuses it."""
    return _opaque(flow, decision, policies)[0]


def lets_through(
    flow: Flow, decision: Decision, policies: Policies | None, recorder: Recorder | None = None
) -> bool:
    """Whether a flow may be relayed as it is; noted in the flow, and what policies want to be said with the recorder."""
    if flow.denied is None and policies is not None:
        decision, verdict = _opaque(flow, decision, policies)
        flow.policy = decision.policy
        if decision.denied is not None:
            deny(flow, decision)
        if verdict is not None and verdict.shadows and recorder is not None:
            recorder.shadowed(flow, verdict.shadows)
            _say(verdict, flow, "")
    return flow.denied is None


def _opaque(flow: Flow, decision: Decision, policies: Policies | None) -> tuple[Decision, Verdict | None]:
    authorizer = None if policies is None else policies.authorizer(flow.direction, decision.entry)
    if policies is None or authorizer is None:
        return decision, None
    verdict = authorizer.decide(policies.connection(flow))
    if not verdict.allowed:
        return _refused(decision, "policy", verdict.policy, verdict.details), verdict
    return decision if verdict.policy == "-" else replace(decision, policy=verdict.policy), verdict


def of_request(
    record: RequestRecord, decision: Decision, policies: Policies, recorder: Recorder
) -> LocalReply | None:
    """The answer to a request that policies refuse, None where they do not; noted in its record.

    The head is changed to what may be forwarded.
    """
    verdict, reply, facts = policies.request(record.flow, decision.entry, record.head, record.started_at)
    if verdict.policy != "-":
        record.policy = verdict.policy
    record.asked += ((decision.entry, None if facts is None else facts.keep()),)
    if verdict.shadows:  # so that the text is made only where it is wanted
        recorder.shadowed(record.flow, verdict.shadows)
        path = record.head.path.partition(b"?")[0]  # what is compared; a token may stand behind it
        _say(verdict, record.flow, f", {record.head.method!r} {path!r}")
    return reply


def again(record: RequestRecord, decision: Decision, policies: Policies) -> LocalReply | None:
    """The answer to a request that is under way and that policies refuse by now; None where they do not.

    ``decision`` is its connection's. What it said was read when it began: a token that ends meanwhile is none of this.
    """
    flow = record.flow
    for entry, facts in record.asked or ((decision.entry, None),):
        answer = (
            policies.request_again(flow, entry, facts)
            if isinstance(facts, RequestFacts)
            else policies.request(flow, entry, record.head.copy(), record.started_at)
        )
        if answer.verdict.policy != "-":
            record.policy = answer.verdict.policy
        if answer.reply is not None:
            return replace(answer.reply, details=f"{_WITHDRAWN}: {answer.reply.details}")
    return None


def _say(verdict: Verdict, flow: Flow, request: str) -> None:
    about = f"flow {flow.id} from {flow.peer} to {flow.original_dst}{request}"
    for policy in verdict.audited:
        _log.info("%s matched %s", policy, about)
    if verdict.shadow.startswith("denied"):
        _log.info("dry run: %s would be %s", about, verdict.shadow)


def _refused(decision: Decision, reason: str, policy: str, details: str) -> Decision:
    return replace(decision, upstreams=(), policy=policy, denied=reason, details=details)


def revoke(flows: Iterable[Flow], view: SnapshotView) -> int:
    """Decide open flows again, and note the refusal in those that lost permission; how many did.

    A flow is registered before it is decided, so it is decided by the new version or found here. Requests are decided
    one by one (``again``): a flow of HTTP, or that may turn out to be, is ended here where nothing could be asked over
    it any more.
    """
    lost = 0
    for flow in flows:
        if flow.original_dst is None or flow.denied is not None:
            continue
        decision = decided(flow, flow.original_dst, view)
        if decision.denied is None:
            judge = _anything if flow.http or flow.relay == _NOT_YET else opaque
            judged = judge(flow, decision, view.policies)
            if judged.denied is None and flow.routed_entry is not None:
                judged = judge(flow, replace(decision, entry=flow.routed_entry), view.policies)
            decision = judged
        flow.policy = decision.policy
        if decision.denied is not None:
            deny(flow, decision)
            flow.details = f"{_WITHDRAWN}: {flow.details}"
            lost += 1
    return lost


def _anything(flow: Flow, decision: Decision, policies: Policies | None) -> Decision:
    """The decision over a flow that may carry any request."""
    authorizer = None if policies is None else policies.authorizer(flow.direction, decision.entry)
    if policies is None or authorizer is None:
        return decision
    verdict = authorizer.refuses_all(policies.connection(flow))
    return decision if verdict is None else _refused(decision, "policy", verdict.policy, verdict.details)


def deny(flow: Flow, decision: Decision) -> None:
    """Note a refusal in its flow."""
    assert decision.denied is not None
    flow.denied = decision.denied
    flow.flag, flow.details = endings.of_denial(decision.denied, decision.details)
