"""What an app is told of its peer's certificate by x-forwarded-client-cert, in the modes of Envoy and Istio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

ForwardingMode: TypeAlias = Literal[
    "SANITIZE", "FORWARD_ONLY", "APPEND_FORWARD", "SANITIZE_SET", "ALWAYS_FORWARD_ONLY"
]


class CertificateDetails(NamedTuple):
    """What of a certificate stands in an element, beside who we are and its digest; Istio's defaults."""

    subject: bool = True
    cert: bool = False
    dns: bool = True
    uri: bool = True


class Presented(NamedTuple):
    """What an app is told: what peers said of others before, and what this one presented of itself."""

    earlier: bool  # whether the former goes on
    element: bytes = b""  # none: nothing of its own


class Forwarding(NamedTuple):
    """What is told of peers that proved who they are, and of those that did not."""

    mode: ForwardingMode = "APPEND_FORWARD"
    details: CertificateDetails = CertificateDetails()

    def proved(self, element: Callable[[CertificateDetails], bytes]) -> Presented | None:
        """Of a peer of the mesh; ``element`` says what its certificate is. None: the header goes."""
        if self.mode == "SANITIZE":
            return None
        if self.mode in {"FORWARD_ONLY", "ALWAYS_FORWARD_ONLY"}:
            return Presented(earlier=True)
        return Presented(self.mode == "APPEND_FORWARD", element(self.details))

    @property
    def unproved(self) -> Presented | None:
        """Of anybody else."""
        return Presented(earlier=True) if self.mode == "ALWAYS_FORWARD_ONLY" else None
