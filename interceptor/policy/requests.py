"""Whether policies let a request through: its path in one form, its token, then the verdict; or what to answer instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.model.connection import ResponseFlag
from interceptor.model.http import LocalReply, get, put
from interceptor.policy import paths
from interceptor.policy.authorization import DENIED_BODY, Verdict
from interceptor.policy.facts import RequestFacts, remote_address
from interceptor.policy.jwts import TokenError
from interceptor.policy.tokens import SENTENCES

if TYPE_CHECKING:
    from interceptor.model.http import RequestHead
    from interceptor.policy.authorization import Authorizer
    from interceptor.policy.facts import ConnectionFacts
    from interceptor.policy.paths import Normalization
    from interceptor.policy.tokens import Tokens

UNDECIDED: Final = Verdict(allowed=True, policy="-")


class Answer(NamedTuple):
    """What policies say to a request."""

    verdict: Verdict
    reply: LocalReply | None  # in the upstream's place, where it is refused
    facts: RequestFacts | None = None  # of one that goes on: for when it is decided again


class RequestRules(NamedTuple):
    """How requests are read before they are compared."""

    normalization: Normalization
    trusted_proxies: int

    def decide(
        self,
        authorizer: Authorizer | None,
        tokens: Tokens | None,
        connection: ConnectionFacts,
        head: RequestHead,
        now: float,
    ) -> Answer:
        """The verdict over a request; the head is changed to what may be forwarded. ``now`` is Unix time."""
        try:
            paths.normalise(head, self.normalization)
        except ValueError as error:
            body = f"interceptor: {error}\n".encode()
            reply = LocalReply(400, ResponseFlag.DOWNSTREAM_PROTOCOL, "path_normalization_failed", body)
            return Answer(UNDECIDED, reply)
        try:
            claims = None if tokens is None else tokens.claims(head, now)
        except TokenError as error:
            assert tokens is not None
            reply = _unauthorized(SENTENCES[error.fault])
            return Answer(Verdict(allowed=False, policy=tokens.name, details=reply.details), reply)
        if authorizer is None and claims is None:
            return Answer(UNDECIDED, None)
        if head.target[:1] not in {b"/", b"*"} and get(head.headers, b"host") != head.authority:
            put(head.headers, b"Host", head.authority)  # the target says whom it is for: RFC 9112, 3.2.2
        remote = remote_address(head.headers, connection.peer.host, self.trusted_proxies)
        facts = RequestFacts(head, remote=remote, claims=claims)
        verdict = UNDECIDED if authorizer is None else authorizer.decide(connection, facts)
        return answered(verdict, facts)


def answered(verdict: Verdict, facts: RequestFacts) -> Answer:
    """What a verdict means for its request."""
    if verdict.allowed:
        return Answer(verdict, None, facts)
    return Answer(verdict, LocalReply(403, ResponseFlag.DENY, verdict.details, DENIED_BODY))


def _unauthorized(sentence: str) -> LocalReply:
    """Envoy's answer to a token that does not hold."""
    details = f"jwt_authn_access_denied{{{sentence.replace(' ', '_')}}}"
    challenge = (b"www-authenticate", b'Bearer error="invalid_token"')
    return LocalReply(401, ResponseFlag.DENY, details, sentence.encode(), [challenge])
