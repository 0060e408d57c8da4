"""Whether policies let a flow through: asked when it begins, and of every open flow again when policies change."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from interceptor.model.connection import Direction
from interceptor.proxy import endings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from interceptor.model.address import OriginalDestination
    from interceptor.model.connection import Flow
    from interceptor.policy.policies import Policies
    from interceptor.routing.destinations import Decision

_log: Final = logging.getLogger(__name__)


class SnapshotView(Protocol):
    """What the path asks one version of the configuration."""

    @property
    def policies(self) -> Policies | None: ...

    def ingress(self, destination: OriginalDestination) -> Decision: ...

    def egress(self, destination: OriginalDestination) -> Decision: ...


def decided(flow: Flow, destination: OriginalDestination, view: SnapshotView) -> Decision:
    """Where a flow goes by one version of the configuration, or why it is refused."""
    ingress = flow.direction is Direction.INGRESS
    decision = view.ingress(destination) if ingress else view.egress(destination)
    if view.policies is None or decision.denied is not None:
        return decision
    return _permitted(flow, decision, view.policies)


def _permitted(flow: Flow, decision: Decision, policies: Policies) -> Decision:
    """The decision, with the policy that lets the flow through or refuses it."""
    assert flow.original_dst is not None
    if flow.direction is Direction.INGRESS and (refusal := policies.refuses_plaintext(flow)) is not None:
        return _refused(decision, "plaintext", *refusal)
    authorizer = policies.authorizer(flow.direction, decision.entry)
    if authorizer is None:
        return decision
    verdict = authorizer.decide(policies.connection(flow))
    for policy in verdict.audited:
        _log.info("%s matched flow %d from %s to %s", policy, flow.id, flow.peer, flow.original_dst)
    if verdict.shadow.startswith("denied"):
        _log.info(
            "dry run: flow %d from %s to %s would be %s",
            flow.id,
            flow.peer,
            flow.original_dst,
            verdict.shadow,
        )
    if not verdict.allowed:
        return _refused(decision, "policy", verdict.policy, verdict.details)
    return decision if verdict.policy == "-" else replace(decision, policy=verdict.policy)


def _refused(decision: Decision, reason: str, policy: str, details: str) -> Decision:
    return replace(decision, upstreams=(), policy=policy, denied=reason, details=details)


def revoke(flows: Iterable[Flow], view: SnapshotView) -> int:
    """Decide open flows again, and note the refusal in those that lost permission; how many did.

    A flow is registered before it is decided, so it is decided by the new version or found here.
    """
    lost = 0
    for flow in flows:
        if flow.original_dst is None or flow.denied is not None:
            continue
        decision = decided(flow, flow.original_dst, view)
        flow.policy = decision.policy
        if decision.denied is not None:
            deny(flow, decision)
            flow.details = f"permission was withdrawn by configuration: {flow.details}"
            lost += 1
    return lost


def deny(flow: Flow, decision: Decision) -> None:
    """Note a refusal in its flow."""
    assert decision.denied is not None
    flow.denied = decision.denied
    flow.flag, flow.details = endings.of_denial(decision.denied, decision.details)
