"""PURE. Whether a certificate, a key and a trust bundle may be used, by facts that somebody else parsed.

Two judges: one of what we are given for ourselves (a bad one is refused and the old one kept), one of what a peer
presented after OpenSSL verified its chain, times and purpose: who it is. Every refusal has a reason, for labels and
tests, and a sentence for the operator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from interceptor.model.identity import Issued, SpiffeId

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

# How far a certificate may lie in the future: clocks of two machines differ (dapr#3058).
SKEW: Final = 60.0
WARN_FRACTION: Final = 0.25  # of the lifetime left: a rotation at half of it has failed for some time
DAY: Final = 86_400.0
JITTER: Final = 0.05  # of the lifetime: workloads that started together do not rotate together


class Refusal(NamedTuple):
    """Why something may not be used."""

    reason: str  # one word, for a label
    sentence: str

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What one certificate says. Times are Unix seconds."""

    subject: str
    issuer: str
    serial: int
    not_before: float
    not_after: float
    public_key: bytes  # digest of the SubjectPublicKeyInfo
    fingerprint: str  # SHA-256 of the whole, in hexadecimal
    uris: tuple[str, ...] = ()
    dns_names: tuple[str, ...] = ()
    is_authority: bool = False
    usages: frozenset[str] | None = None  # of the key; None: it does not say
    purposes: frozenset[str] | None = None  # extended usages
    key_id: str | None = None  # of an authority, as what it issues names it

    @property
    def lifetime(self) -> float:
        """How long it is valid, in seconds."""
        return self.not_after - self.not_before


def judge_pair(leaf: Facts, key: bytes, now: float) -> Refusal | None:
    """Whether a certificate is of a private key, by the digest of its public half, and valid."""
    if leaf.public_key != key:
        return Refusal(
            "mismatch",
            "the private key does not belong to the certificate; give the pair that was issued together",
        )
    return judge_time(leaf, now)


def judge_workload(leaf: Facts, trust_domain: str) -> SpiffeId | Refusal:
    """Who we are by a certificate, if it may be presented at both ends of a connection: an X.509-SVID."""
    identity = identity_of(leaf.uris)
    if isinstance(identity, Refusal):
        return identity
    if identity.trust_domain != trust_domain:
        return Refusal(
            "trust_domain",
            f"the certificate is of the trust domain '{identity.trust_domain}' and spec.trustDomain is "
            f"'{trust_domain}'; change one of them",
        )
    return judge_usage(leaf) or identity


def judge_time(facts: Facts, now: float) -> Refusal | None:
    """Whether a certificate is valid now."""
    if now >= facts.not_after:
        return Refusal(
            "expired",
            f"the certificate '{facts.subject}' expired {span(now - facts.not_after)} ago; issue a new one",
        )
    if facts.not_before - now > SKEW:
        return Refusal(
            "not_yet_valid",
            f"the certificate '{facts.subject}' becomes valid in {span(facts.not_before - now)}; wait, or set the clock",
        )
    return None


def judge_usage(leaf: Facts) -> Refusal | None:
    """A gateway is the client of one connection and the server of the next with the same certificate."""
    if leaf.is_authority or (leaf.usages is not None and "keyCertSign" in leaf.usages):
        return Refusal("usage", "the certificate is an authority's; issue one for the workload with it")
    if leaf.usages is not None and "digitalSignature" not in leaf.usages:
        return Refusal(
            "usage",
            "the certificate's key may not sign handshakes (key usage digitalSignature); issue one that may",
        )
    missing = {"serverAuth", "clientAuth"} - leaf.purposes if leaf.purposes is not None else set()
    if missing:
        return Refusal(
            "usage",
            f"the certificate is not meant for {' and '.join(sorted(missing))} (extended key usage); issue one for both",
        )
    return None


def judge_bundle(bundle: Sequence[Facts], now: float) -> Refusal | None:
    """Whether a trust bundle is one: authorities, of which one at least is valid now."""
    if not bundle:
        return Refusal(
            "empty", "the trust bundle holds no certificate: nobody could be trusted; give the authority's"
        )
    for each in bundle:
        if not each.is_authority:
            return Refusal(
                "not_an_authority",
                f"the trust bundle holds '{each.subject}', which is not an authority's certificate; give the authority's",
            )
    wrong = [judge_time(each, now) for each in bundle]
    return wrong[0] if all(wrong) else None


def identity_of(uris: Sequence[str]) -> SpiffeId | Refusal:
    """The one SPIFFE id among the names of a certificate: none or two prove nothing (X.509-SVID, section 2)."""
    if not uris:
        return Refusal(
            "no_san", "the certificate names no SPIFFE id (a URI among its subject alternative names)"
        )
    if len(uris) > 1:
        return Refusal("two_sans", f"the certificate names {len(uris)} URIs; an identity is exactly one")
    try:
        return SpiffeId.parse(uris[0])
    except ValueError as error:
        return Refusal("san", f"the certificate's name {error}")


class PeerCertificate(NamedTuple):
    """Who presented a certificate that OpenSSL verified."""

    identity: SpiffeId | None  # None: not of a mesh
    names: tuple[str, ...]  # every subject alternative name that an expectation may be compared with
    issuer: str
    serial: int
    not_after: float
    authority: str  # the issuer's key identifier, or its name; of the root where others stand between
    signs: bool = False  # whether it may sign certificates
    above: tuple[tuple[str, int], ...] = ()  # issuer and serial number of those others


def judge_presented(
    certificate: PeerCertificate, revoked: Collection[tuple[str, int]], now: float
) -> Refusal | None:
    """Whether a certificate that OpenSSL verified, perhaps when a session began that is resumed now, still holds."""
    if now >= certificate.not_after:
        return Refusal("expired", f"the peer's certificate expired {span(now - certificate.not_after)} ago")
    return _judge_revoked(certificate, revoked)


def judge_peer(
    certificate: PeerCertificate,
    uris: Sequence[str],
    trust_domains: Mapping[str, str],
    revoked: Collection[tuple[str, int]],
    now: float,
) -> PeerCertificate | Refusal:
    """Who a peer of the mesh is; a trust domain's alias is written as its primary (``trust_domains``: alias -> primary)."""
    if (wrong := judge_presented(certificate, revoked, now)) is not None:
        return wrong
    if certificate.signs:  # X.509-SVID, section 5.2
        return Refusal("usage", "the peer's certificate is an authority's, which is nobody's identity")
    identity = identity_of(uris)
    if isinstance(identity, Refusal):
        return Refusal(
            identity.reason, identity.sentence.replace("the certificate", "the peer's certificate", 1)
        )
    primary = trust_domains.get(identity.trust_domain)
    if primary is None:
        return Refusal(
            "trust_domain",
            f"the peer's certificate is of the trust domain '{identity.trust_domain}', which is neither ours nor an alias of it",
        )
    return certificate._replace(identity=identity._replace(trust_domain=primary))


def judge_authority(
    identity: SpiffeId, root: str | None, own: str, anchors: Mapping[str, Collection[str]]
) -> Refusal | None:
    """Whether the authority that vouches for a peer may do so for its trust domain (SPIFFE Workload API, section 4.6).

    ``identity`` is as the certificate says it. ``root`` is the fingerprint of the authority that the handshake ended at;
    None where it did not show. A trust domain without a bundle of its own, an alias, is vouched for by ours (``own``).
    """
    if root is not None and root in anchors.get(identity.trust_domain, anchors[own]):
        return None
    return Refusal(
        "trust_domain",
        f"the peer's certificate is of the trust domain '{identity.trust_domain}', and an authority of another one vouches for it",
    )


def judge_again(
    certificate: Issued | PeerCertificate,
    before: Collection[str],
    now: Collection[str],
    revoked: Collection[tuple[str, int]],
) -> Refusal | None:
    """Whether the peer of an open connection is still believed, by the authorities before and now.

    A certificate expires without ending its connection. One by an intermediate authority is judged by the root above it.
    """
    if (wrong := _judge_revoked(certificate, revoked)) is not None:
        return wrong
    if certificate.authority in before and certificate.authority not in now:
        issuer = f"'{certificate.issuer}', which issued the peer's certificate"
        if certificate.above:
            issuer = f"the root above {issuer}"
        return Refusal("trust_bundle", f"the trust bundle no longer has the key of {issuer}")
    return None


def authorities(bundle: Sequence[Facts]) -> frozenset[str]:
    """What the certificates of peers may name as their authority."""
    return frozenset(name for each in bundle for name in (each.subject, each.key_id) if name is not None)


def _judge_revoked(
    certificate: Issued | PeerCertificate, revoked: Collection[tuple[str, int]]
) -> Refusal | None:
    if (certificate.issuer, certificate.serial) in revoked:
        told = f"the peer's certificate with the serial number {certificate.serial:x} was revoked"
        return Refusal("revoked", told)
    for issuer, serial in certificate.above:
        if (issuer, serial) in revoked:
            told = f"the authority with the serial number {serial:x} between '{issuer}' and the peer's certificate was revoked"
            return Refusal("revoked", told)
    return None


def judge_names(names: Sequence[str], expected: Sequence[str]) -> Refusal | None:
    """Whether an upstream is one of those we want to speak to; Istio's exact match of any name with any expectation."""
    if not expected or set(names) & set(expected):
        return None
    return Refusal(
        "san",
        f"the upstream's certificate is of {', '.join(map(repr, names)) or 'nobody'}, and none of the expected "
        f"subjectAltNames: {', '.join(map(repr, expected))}",
    )


def warning(facts: Facts, now: float) -> str | None:
    """What to tell the operator of a certificate that is about to expire."""
    left = facts.not_after - now
    if left > facts.lifetime * WARN_FRACTION:
        return None
    if left <= 0:
        return f"the certificate '{facts.subject}' has expired: connections that need it are refused; issue a new one"
    return f"the certificate '{facts.subject}' expires in {span(left)} and was not rotated; issue a new one"


def rotation_due(not_before: float, not_after: float, jitter: float) -> float:
    """When a certificate that we issue is to be replaced: at half its lifetime, a little sooner or later.

    ``jitter`` is between -1 and 1, by chance.
    """
    lifetime = not_after - not_before
    return not_before + lifetime * (0.5 + JITTER * jitter)


def span(seconds: float) -> str:
    """A length of time as an operator reads it."""
    for unit, size in (("days", DAY), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
