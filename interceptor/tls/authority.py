"""A small certificate authority for people who have none: makes roots and workload certificates that any program can use.

Keys are on P-256: handshakes with RSA cost many times as much.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from interceptor.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from interceptor.model.identity import SpiffeId

BACKDATE: Final = 60.0  # seconds: the clock of whoever verifies may be behind ours

_PURPOSES: Final = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, in PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


def make_root(trust_domain: str, *, lifetime: float, now: float) -> Pair:
    """A new root of a trust domain, which signs workloads and no other authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain[:64]),
            # Two roots of one trust domain overlap in a bundle: OpenSSL finds an issuer by its name.
            x509.NameAttribute(
                NameOID.COMMON_NAME, f"interceptor root {x509.random_serial_number() >> 96:x}"
            ),
        ]
    )
    builder = (
        _builder(name, name, key.public_key(), lifetime, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]),
            critical=False,
        )
    )
    return _pair(builder.sign(key, hashes.SHA256()), key)


def issue(
    root: Pair, identity: SpiffeId, *, dns_names: Sequence[str] = (), lifetime: float, now: float
) -> Pair:
    """A certificate of an identity, for both ends of a connection; it never outlives its root."""
    authority = x509.load_pem_x509_certificate(root.certificate)
    signer = serialization.load_pem_private_key(root.key, password=None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise ConfigError(
            "the authority's key is not one of ours (an elliptic curve); make one with 'interceptor certs init'"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(identity))]
    names += map(x509.DNSName, dns_names)
    lifetime = min(lifetime, authority.not_valid_after_utc.timestamp() - now)
    if lifetime <= 0:
        raise ConfigError(
            "the authority's certificate has expired; make a new one with 'interceptor certs init'"
        )
    # RFC 5280, section 4.1.2.6: without a subject the alternative names are critical.
    builder = (
        _builder(x509.Name([]), authority.subject, key.public_key(), lifetime, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(_PURPOSES), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    return _pair(builder.sign(signer, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lifetime: float, now: float
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(now - BACKDATE))
        .not_valid_after(_time(now + lifetime))
    )


def _time(unix: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(int(unix), dt.UTC)


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    return Pair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )
