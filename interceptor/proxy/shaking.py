"""One step of a TLS handshake, and what is said of one that failed."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from interceptor.model.connection import ResponseFlag
from interceptor.proxy.endings import HandshakeError, TlsDialError

if TYPE_CHECKING:
    from interceptor.model.address import UpstreamAddress
    from interceptor.routing.security import UpstreamTls
    from interceptor.tls.stream import TlsStream


def go_on(stream: TlsStream, who: str) -> bool:
    """Go on with a handshake as far as the socket allows; whether it is done. Raises HandshakeError."""
    try:
        return stream.handshake() and not stream.holds
    except ssl.SSLCertVerificationError as error:
        raise HandshakeError(
            "certificate",
            f"{who}'s certificate does not stand against the trust bundle: {error.verify_message}",
            ResponseFlag.DENY,
        ) from None
    except ssl.SSLError as error:
        raise HandshakeError("handshake", f"the TLS handshake with {who} failed: {_said(error)}") from None
    except OSError as error:
        raise HandshakeError("handshake", f"{who} broke off the TLS handshake: {error.strerror}") from None


def too_slow(who: str) -> HandshakeError:
    """It took longer than it may."""
    return HandshakeError(
        "handshake", f"{who} did not complete the TLS handshake within spec.timeouts.handshake"
    )


def no_tls(address: UpstreamAddress, tls: UpstreamTls, error: HandshakeError) -> TlsDialError:
    """What a flow is told whose upstream cannot be spoken to."""
    return TlsDialError(address, f"no TLS to {address} as {tls.policy} asks for it: {error}")


def _said(error: ssl.SSLError) -> str:
    """OpenSSL's reason in words: a fixed set of its own, nothing that a peer wrote."""
    return (error.reason or "the connection ended").lower().replace("_", " ")
