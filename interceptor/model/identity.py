"""SPIFFE identities, as Istio writes them: ``spiffe://<trust domain>/ns/<namespace>/sa/<service account>``."""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple, TypeAlias

# How the connection that faces the network is secured: the peer's on ingress, the upstream's on egress.
Security: TypeAlias = Literal["mutual_tls", "tls", "none"]

SECRETS: Final = (
    "sds://"  # what the path of a file begins with that a control plane's secret is: in memory only
)
LONGEST: Final = 2048  # bytes of a SPIFFE id (SPIFFE-ID, section 2.3)
_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]{1,255}", re.ASCII)  # SPIFFE-ID, section 2.1
_SEGMENT: Final = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]+", re.ASCII)  # section 2.2: no dot segments


class Issued(NamedTuple):
    """Who issued a certificate: what its bearer is judged by again, where authorities or revocations change."""

    issuer: str
    serial: int
    authority: str  # the issuer's key identifier, or its name; of the root where others stand between
    above: tuple[tuple[str, int], ...] = ()  # issuer and serial number of those


class SpiffeId(NamedTuple):
    """Who a workload is, by a certificate; its text is the URI."""

    trust_domain: str
    namespace: str
    service_account: str

    @classmethod
    def parse(cls, uri: str) -> SpiffeId:
        """The identity that a URI names; ValueError for every other form: nothing is guessed, decoded or left out."""
        if len(uri) > LONGEST:
            raise ValueError(
                f"a SPIFFE id of {len(uri)} characters is too long; at most {LONGEST} are allowed"
            )
        scheme, separator, rest = uri.partition("://")
        parts = rest.split("/")
        if (
            scheme != "spiffe"
            or not separator
            or len(parts) != 5
            or (parts[1], parts[3]) != ("ns", "sa")
            or not is_trust_domain(parts[0])
            or not (is_segment(parts[2]) and is_segment(parts[4]))
        ):
            raise ValueError(
                f"{uri!a} is not of the form spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT"
            )
        return cls(parts[0], parts[2], parts[4])

    def __str__(self) -> str:
        return f"spiffe://{self.principal}"

    @property
    def principal(self) -> str:
        """The form without ``spiffe://``, in which policies name it."""
        return f"{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"


def is_trust_domain(text: str) -> bool:
    """Whether a text is the name of a trust domain."""
    return _TRUST_DOMAIN.fullmatch(text) is not None


def is_segment(text: str) -> bool:
    """Whether a text can be the namespace or the service account of an identity."""
    return _SEGMENT.fullmatch(text) is not None


class CertificateFiles(NamedTuple):
    """Where the PEM files of one identity are; without a certificate it only believes others."""

    certificate: str | None  # the workload's, then the chain up to, and without, the root
    private_key: str | None
    trust_bundle: str | None  # None: the system's
    revocation_list: str | None = None

    def paths(self) -> tuple[str, ...]:
        """Every file that there is to read."""
        return tuple(path for path in self if path is not None)
