"""Mutual TLS around the HTTP server, for pushes from other machines: who a client is, by its certificate.

Certificates are those of the moment, so a rotation is in force for the next handshake. A connection that is open then
is closed before its next answer: whoever lost the trust cannot go on by an old one.
"""

from __future__ import annotations

import hashlib
import logging
import ssl
from typing import TYPE_CHECKING, Final

import trio

from interceptor.admin.server import Greeted
from interceptor.kernel import openssl
from interceptor.tls import certificates, judgement
from interceptor.tls.judgement import Refusal

if TYPE_CHECKING:
    from collections.abc import Collection

    from interceptor.tls.contexts import Contexts
    from interceptor.tls.rotation import Keeper

TELL_SECONDS: Final = 60.0  # between two log lines of one reason: anybody can connect and fail

_log: Final = logging.getLogger(__name__)


class Greeter:
    """Lets clients in that prove who they are; ``trusted`` are the names that may push."""

    def __init__(self, keeper: Keeper, trusted: Collection[str]) -> None:
        self._keeper = keeper
        self._trusted = frozenset(trusted)
        self._told: dict[str, float] = {}

    async def __call__(self, stream: trio.SocketStream) -> Greeted | None:
        """Shake hands, for as long as the server allows."""
        if (own := self._keeper.refusal()) is not None:
            self._refused(f"{own}; until then pushes are refused")
            return None
        contexts = self._keeper.current
        secured = trio.SSLStream(
            stream, contexts.server(("http/1.1",)), server_side=True, https_compatible=True
        )
        try:
            await secured.do_handshake()
        except trio.BrokenResourceError as error:
            cause = error.__cause__
            if not isinstance(cause, ssl.SSLError):
                return None  # it is gone
            said = getattr(cause, "verify_message", None) or (cause.reason or "the connection ended").lower()
            self._refused(f"the TLS handshake failed: {said.replace('_', ' ')}")
            return None
        names = _proved(secured, contexts, self._keeper.now())
        if isinstance(names, Refusal):
            self._refused(str(names))
            return None
        return Greeted(
            secured,
            names,
            trusted=not self._trusted.isdisjoint(names),
            holds=lambda: self._keeper.current is contexts,
        )

    def _refused(self, reason: str) -> None:
        now = trio.current_time()
        if (
            now - self._told.get(reason, -TELL_SECONDS) >= TELL_SECONDS
        ):  # a fixed set of reasons, OpenSSL's and ours
            self._told[reason] = now
            _log.warning("a push from another machine was refused: %s", reason)


def _proved(
    secured: trio.SSLStream[trio.SocketStream], contexts: Contexts, now: float
) -> tuple[str, ...] | Refusal:
    """The names that a client proved to have.

    Where foreign trust domains have authorities of their own in the bundle, no other name than an identity counts, and
    that only by an authority of its trust domain: else any of them could make itself ours.
    """
    der = secured.getpeercert(binary_form=True)
    assert der is not None  # OpenSSL asked for it
    chain = openssl.verified_chain(secured._ssl_object)  # noqa: SLF001 (trio shows no chain; its TLS object is ssl's)
    peer, uris = certificates.peer(der)
    material, peer = contexts.material, contexts.vouching.traced(peer, der, lambda: chain)
    if (wrong := judgement.judge_presented(peer, material.revoked, now)) is not None:
        return wrong
    if not material.anchors:
        return peer.names
    assert material.identity is not None  # it came with the bundles
    identity = judgement.identity_of(uris)
    if isinstance(identity, Refusal):
        return identity
    fingerprint = hashlib.sha256(chain[-1]).hexdigest() if chain else None
    own = material.identity.trust_domain
    return judgement.judge_authority(identity, fingerprint, own, material.anchors) or uris
