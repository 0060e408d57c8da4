"""Whether policies let a request through: its path in one form, its token, then the verdict; or what to answer instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.model.connection import Direction, ResponseFlag
from interceptor.model.http import LocalReply
from interceptor.policy import paths
from interceptor.policy.authorization import DENIED_BODY, Verdict
from interceptor.policy.facts import RequestFacts, remote_address
from interceptor.policy.tokens import TokenError

if TYPE_CHECKING:
    from interceptor.model.connection import Flow
    from interceptor.model.http import RequestHead
    from interceptor.policy.policies import Policies

_UNDECIDED: Final = Verdict(allowed=True, policy="-")


class Answer(NamedTuple):
    """What policies say to a request."""

    verdict: Verdict
    reply: LocalReply | None  # in the upstream's place, where it is refused


def decide(policies: Policies, flow: Flow, entry: str | None, head: RequestHead, now: float) -> Answer:
    """The verdict over a request of a flow; the head is changed to what may be forwarded.

    ``entry`` is the ServiceEntry that names the destination on egress, ``now`` Unix time.
    """
    try:
        paths.normalise(head, policies.normalization)
    except ValueError as error:
        reply = LocalReply(
            400,
            ResponseFlag.DOWNSTREAM_PROTOCOL,
            "path_normalization_failed",
            f"interceptor: {error}\n".encode(),
        )
        return Answer(_UNDECIDED, reply)
    claims = None
    if policies.tokens is not None and flow.direction is Direction.INGRESS:
        try:
            claims = policies.tokens.claims(head, now)
        except TokenError as error:
            return Answer(_UNDECIDED, _unauthorized(str(error)))
    authorizer = policies.authorizer(flow.direction, entry)
    if authorizer is None:
        return Answer(_UNDECIDED, None)
    remote = remote_address(head.headers, flow.peer.host, policies.trusted_proxies)
    facts = RequestFacts(head, remote=remote, claims=claims)
    verdict = authorizer.decide(policies.connection(flow), facts)
    if verdict.allowed:
        return Answer(verdict, None)
    return Answer(verdict, LocalReply(403, ResponseFlag.DENY, verdict.details, DENIED_BODY))


def _unauthorized(sentence: str) -> LocalReply:
    """Envoy's answer to a token that does not hold."""
    details = f"jwt_authn_access_denied{{{sentence.replace(' ', '_')}}}"
    challenge = (b"www-authenticate", b'Bearer error="invalid_token"')
    return LocalReply(401, ResponseFlag.DENY, details, sentence.encode(), [challenge])
