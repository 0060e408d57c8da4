"""Certificates for tests: a root, workloads of it, and whatever is wrong with a certificate."""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from interceptor.model.identity import CertificateFiles, SpiffeId
from interceptor.tls import authority
from interceptor.tls.authority import Pair
from interceptor.tls.certificates import load
from interceptor.tls.contexts import Contexts

HOUR = 3600.0
WEB = SpiffeId("cluster.local", "shop", "web")
DB = SpiffeId("cluster.local", "shop", "db")


@dataclass
class Root:
    """An authority, and what it issues."""

    trust_domain: str = "cluster.local"
    now: float = field(default_factory=time.time)
    pair: Pair = field(init=False)

    def __post_init__(self) -> None:
        self.pair = authority.make_root(self.trust_domain, lifetime=30 * 24 * HOUR, now=self.now)

    def issue(
        self, identity: SpiffeId = WEB, lifetime: float = HOUR, dns_names: tuple[str, ...] = ()
    ) -> Pair:
        return authority.issue(self.pair, identity, lifetime=lifetime, now=self.now, dns_names=dns_names)

    def _at(self, seconds: float) -> dt.datetime:
        return dt.datetime.fromtimestamp(int(self.now + seconds), dt.UTC)

    def odd(
        self,
        uris: tuple[str, ...] = (str(WEB),),
        *,
        begins: float = -HOUR,
        ends: float = HOUR,
        purposes: tuple[x509.ObjectIdentifier, ...] = (
            ExtendedKeyUsageOID.SERVER_AUTH,
            ExtendedKeyUsageOID.CLIENT_AUTH,
        ),
        usage: x509.KeyUsage | None = None,
        is_authority: bool = False,
        dns_names: tuple[str, ...] = (),
        issuer: Pair | None = None,
        self_signed: bool = False,
    ) -> Pair:
        """A certificate that ``authority`` would never issue."""
        key = ec.generate_private_key(ec.SECP256R1())
        above = issuer or self.pair
        signer = serialization.load_pem_private_key(above.key, None)
        parent = x509.load_pem_x509_certificate(above.certificate)
        assert isinstance(signer, ec.EllipticCurvePrivateKey)
        name = x509.Name(
            [x509.NameAttribute(NameOID.COMMON_NAME, f"odd {x509.random_serial_number():x}"[:30])]
        )
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name if self_signed else parent.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._at(begins))
            .not_valid_after(self._at(ends))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        names = [*map(x509.UniformResourceIdentifier, uris), *map(x509.DNSName, dns_names)]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if purposes:
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        if usage is not None:
            builder = builder.add_extension(usage, critical=True)
        made = builder.sign(key if self_signed else signer, hashes.SHA256())
        return authority._pair(made, key)

    def revocation_list(self, *revoked: Pair, ends: float = HOUR) -> bytes:
        """A list of this root's."""
        signer = serialization.load_pem_private_key(self.pair.key, None)
        assert isinstance(signer, ec.EllipticCurvePrivateKey)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(x509.load_pem_x509_certificate(self.pair.certificate).subject)
            .last_update(self._at(-2 * HOUR))
            .next_update(self._at(ends))
        )
        for each in revoked:
            serial = x509.load_pem_x509_certificate(each.certificate).serial_number
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(self._at(-1))
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def write(directory: Path, pair: Pair, *roots: Root, name: str = "tls") -> CertificateFiles:
    """A pair and a trust bundle as files."""
    directory.mkdir(exist_ok=True, parents=True)
    certificate, key, bundle = (directory / each for each in (f"{name}.crt", f"{name}.key", "ca.crt"))
    certificate.write_bytes(pair.certificate)
    key.touch(0o600)
    key.write_bytes(pair.key)
    bundle.write_bytes(b"".join(root.pair.certificate for root in roots))
    return CertificateFiles(str(certificate), str(key), str(bundle))


def contexts(
    directory: Path, pair: Pair, *roots: Root, trust_domain: str | None = "cluster.local"
) -> Contexts:
    """Contexts of a pair that trust some roots."""
    return Contexts(load(write(directory, pair, *roots), now=time.time(), trust_domain=trust_domain))
