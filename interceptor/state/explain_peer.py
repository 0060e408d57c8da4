"""PURE. Whom the path would know the peer of a question to be, by its certificate and by its token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.policy.jwts import TokenError
from interceptor.policy.peer_authentication import Mode
from interceptor.policy.tokens import SENTENCES

if TYPE_CHECKING:
    from interceptor.config.sidecar import SidecarSpec
    from interceptor.model.identity import SpiffeId
    from interceptor.policy.jwts import Claims
    from interceptor.policy.tokens import Tokens
    from interceptor.state.question import Question


def proved(
    identity: SpiffeId | None, mode: Mode, spec: SidecarSpec, notes: list[str]
) -> tuple[SpiffeId | None, str | None]:
    """Who a certificate proves a peer of the app to be, or why the handshake is refused."""
    if identity is None:
        return None, None
    if mode is Mode.DISABLE:
        notes.append("the mode is DISABLE: TLS is not terminated, so who the peer is cannot be known")
        return None, None
    if spec.tls is None:
        notes.append("spec.tls is absent: without certificates of its own the proxy knows no peer's identity")
    if identity.trust_domain in {spec.trustDomain, *spec.trustDomainAliases}:
        return identity._replace(trust_domain=spec.trustDomain), None
    if spec.tls is not None and spec.tls.workloadApi is not None:
        notes.append(
            f"whether the trust domain '{identity.trust_domain}' is believed the agent says: it is taken to be federated"
        )
        return identity, None
    return None, (
        f"the trust domain '{identity.trust_domain}' is neither spec.trustDomain nor one of spec.trustDomainAliases"
    )


def said(question: Question, tokens: Tokens | None, notes: list[str]) -> tuple[Claims | None, str | None]:
    """What the token of a request says, or Envoy's sentence for why it is refused. Its signature and times are taken to hold."""
    claims = dict(question.claims)
    if not claims:
        return None, None
    if question.to is not None or tokens is None:
        notes.append(
            "the claims count for nothing: no token of what the app sends is looked at"
            if question.to is not None
            else "the claims count for nothing: no RequestAuthentication is about this workload"
        )
        return None, None
    issuers = tokens.issuers
    if "iss" not in claims and len(issuers) == 1:
        claims["iss"] = issuers[0]
        notes.append(f"the token is taken to be of the one issuer that is trusted, {issuers[0]}")
    try:
        tokens.check(claims)
    except TokenError as error:
        return None, SENTENCES[error.fault]
    return claims, None
