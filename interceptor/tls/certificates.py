"""Reads certificates, keys, trust bundles and revocation lists from PEM files and says what is wrong with them.

What may be used is decided by ``judgement``; this module parses (with cryptography) and touches files. Keys are read
once and never shown: no error text holds a byte of a file.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeVar
from urllib.parse import quote

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from interceptor.errors import ConfigError
from interceptor.tls import judgement
from interceptor.tls.judgement import Facts, PeerCertificate, Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

    from interceptor.model.forwarding import CertificateDetails
    from interceptor.model.identity import CertificateFiles, SpiffeId


class Read(Protocol):
    """Gets the bytes of a file, or of what stands for one. Raises ConfigError."""

    def __call__(self, path: str, *, private: bool = False) -> bytes: ...


E = TypeVar("E", bound=x509.ExtensionType)

LARGEST: Final = 1 << 20  # bytes of a file; a bundle of all public authorities has 220 KB
CERTIFICATE: Final = b"CERTIFICATE"
LIST: Final = b"X509 CRL"

# What cryptography raises for certificates, lists and keys that are none, or that it does not know.
UNREADABLE: Final = (
    *(ValueError, TypeError, UnsupportedAlgorithm),
    *(x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType),
)

_HOST: Final = re.compile(r"[A-Za-z0-9_.*-]+", re.ASCII)

_PURPOSES: Final = {
    ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth",
    ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What the files of one identity held, judged good."""

    identity: SpiffeId | None = None
    chain: tuple[Facts, ...] = ()
    bundle: tuple[Facts, ...] = ()
    revoked: frozenset[tuple[str, int]] = frozenset()
    pair_pem: bytes | None = field(default=None, repr=False)  # key and chain
    bundle_pem: bytes | None = field(default=None, repr=False)
    # Trust domain -> fingerprints of the authorities that may vouch for it; empty: any of the bundle, for any.
    anchors: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def expires(self) -> float:
        """When the pair can no longer be used; never where there is none."""
        return min((each.not_after for each in self.chain), default=float("inf"))


def load(
    files: CertificateFiles, *, now: float, trust_domain: str | None, read: Read | None = None
) -> Material:
    """Read and judge all files of an identity; ConfigError says, for each file, why it may not be used.

    With a trust domain it is a mesh's: the certificate is an X.509-SVID and the bundle holds authorities. ``read`` gets
    the bytes where some are in no file.
    """
    read = read or read_file
    pair_pem, chain, identity = _load_pair(files, now, trust_domain, read)
    bundle_pem: bytes | None = None
    bundle: tuple[Facts, ...] = ()
    if files.trust_bundle is not None:
        bundle_pem, bundle = _load_bundle(files.trust_bundle, now, read, mesh=trust_domain is not None)
    revoked: frozenset[tuple[str, int]] = frozenset()
    if files.revocation_list is not None:
        revoked = _load_revoked(files.revocation_list, bundle_pem or b"", now, read)
    return Material(
        identity=identity,
        chain=chain,
        bundle=bundle,
        revoked=revoked,
        pair_pem=pair_pem,
        bundle_pem=bundle_pem,
    )


def _load_pair(
    files: CertificateFiles, now: float, trust_domain: str | None, read: Read
) -> tuple[bytes | None, tuple[Facts, ...], SpiffeId | None]:
    if files.certificate is None or files.private_key is None:
        return None, (), None
    certificate_pem = read(files.certificate)
    chain = _facts(files.certificate, certificate_pem)
    if not chain:
        raise ConfigError(
            f"{files.certificate}: it holds no certificate; give the workload's, then its chain"
        )
    key_pem = read(files.private_key, private=True)
    key = _public_digest(files.private_key, key_pem)
    identity = judge_own(files.certificate, chain, key, now, trust_domain)
    return key_pem + b"\n" + certificate_pem, chain, identity


def judge_own(
    where: str, chain: Sequence[Facts], key: bytes, now: float, trust_domain: str | None
) -> SpiffeId | None:
    """Who we are by our own certificates and the digest of our key; ConfigError says why they may not be used."""
    wrong = judgement.judge_pair(chain[0], key, now)
    identity: SpiffeId | None = None
    if wrong is None and trust_domain is not None:
        judged = judgement.judge_workload(chain[0], trust_domain)
        if isinstance(judged, Refusal):
            wrong = judged
        else:
            identity = judged
    for each in chain[1:]:
        wrong = wrong or judgement.judge_time(each, now)
    if wrong is not None:
        raise ConfigError(f"{where}: {wrong} [{wrong.reason}]")
    return identity


def _load_bundle(path: str, now: float, read: Read, *, mesh: bool) -> tuple[bytes, tuple[Facts, ...]]:
    pem = read(path)
    bundle = _facts(path, pem)
    wrong = judgement.judge_bundle(bundle, now) if mesh or not bundle else None
    if wrong is not None:
        raise ConfigError(f"{path}: {wrong} [{wrong.reason}]")
    return pem, bundle


def _load_revoked(path: str, bundle_pem: bytes, now: float, read: Read) -> frozenset[tuple[str, int]]:
    """Who was revoked by authorities of the bundle; a list that none of them signed proves nothing and is refused."""
    authorities = x509.load_pem_x509_certificates(bundle_pem) if bundle_pem else []
    lists = []
    for block in _blocks(path, read(path), LIST):
        try:
            lists.append(x509.load_pem_x509_crl(block))
        except UNREADABLE:
            raise ConfigError(f"{path}: it holds a damaged revocation list; write it again") from None
    return revoked_by(path, lists, authorities, now)


def revoked_by(
    where: str,
    lists: Sequence[x509.CertificateRevocationList],
    authorities: Sequence[x509.Certificate],
    now: float,
) -> frozenset[tuple[str, int]]:
    """Who some revocation lists name, as (issuer, serial number). Raises ConfigError."""
    revoked: set[tuple[str, int]] = set()
    for found in lists:
        issuer = found.issuer.rfc4514_string()
        signers = [each for each in authorities if each.subject == found.issuer]
        if not any(found.is_signature_valid(each.public_key()) for each in signers):  # type: ignore[arg-type]  # a key of another kind raises nothing
            raise ConfigError(
                f"{where}: the revocation list of '{issuer}' is signed by no authority of the trust bundle"
            )
        if found.next_update_utc is not None and found.next_update_utc.timestamp() <= now:
            raise ConfigError(
                f"{where}: the revocation list of '{issuer}' is out of date; fetch the next one"
            )
        revoked.update((issuer, each.serial_number) for each in found)
    return frozenset(revoked)


def facts(certificate: x509.Certificate) -> Facts:
    """What a certificate says, as plain data."""
    extensions = certificate.extensions
    basic = _extension(extensions, x509.BasicConstraints)
    usage = _extension(extensions, x509.KeyUsage)
    purposes = _extension(extensions, x509.ExtendedKeyUsage)
    names = _extension(extensions, x509.SubjectAlternativeName)
    key = _extension(extensions, x509.SubjectKeyIdentifier)
    uris = tuple(names.get_values_for_type(x509.UniformResourceIdentifier)) if names else ()
    return Facts(
        subject=certificate.subject.rfc4514_string() or next(iter(uris), "-"),
        issuer=certificate.issuer.rfc4514_string(),
        serial=certificate.serial_number,
        not_before=certificate.not_valid_before_utc.timestamp(),
        not_after=certificate.not_valid_after_utc.timestamp(),
        public_key=digest(certificate.public_key()),
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        uris=uris,
        dns_names=tuple(names.get_values_for_type(x509.DNSName)) if names else (),
        is_authority=bool(basic and basic.ca),
        usages=None if usage is None else _usages(usage),
        key_id=None if key is None else key.digest.hex(),
        purposes=None
        if purposes is None
        else frozenset(_PURPOSES.get(each, each.dotted_string) for each in purposes),
    )


def parsed(der: bytes) -> Facts:
    """What a certificate says that OpenSSL has verified."""
    return facts(x509.load_der_x509_certificate(der))


@lru_cache(maxsize=1024)
def forwarded(der: bytes, details: CertificateDetails) -> bytes:
    """What an app is told of the certificate that its peer presented: of an element of x-forwarded-client-cert, as Envoy's."""
    certificate = x509.load_der_x509_certificate(der)
    said = facts(certificate)
    # A name may hold any character, and nothing that would end the text or the header may come from it. There is one
    # URI, which was parsed strictly.
    parts = [f"Hash={said.fingerprint}"]
    if details.cert:
        parts.append(f'Cert="{quote(pem(certificate), safe="")}"')
    if details.subject:
        subject = said.subject if said.subject not in said.uris else ""
        plain = "".join(each if " " <= each <= "~" else "?" for each in subject)
        quoted = plain.replace("\\", "\\\\").replace('"', '\\"')
        parts.append(f'Subject="{quoted}"')
    if details.uri:
        parts.append(f"URI={said.uris[0]}")
    if details.dns:
        parts += [f"DNS={name}" for name in said.dns_names if _HOST.fullmatch(name)]
    return ";".join(parts).encode()


@lru_cache(maxsize=1024)  # peers come again; some 2 KB each
def peer(der: bytes) -> tuple[PeerCertificate, tuple[str, ...]]:
    """Who presented a certificate, not yet judged, and the URIs among its names. OpenSSL has parsed and verified it."""
    certificate = x509.load_der_x509_certificate(der)
    names = _extension(certificate.extensions, x509.SubjectAlternativeName)
    issuer = _extension(certificate.extensions, x509.AuthorityKeyIdentifier)
    key = None if issuer is None else issuer.key_identifier
    basic = _extension(certificate.extensions, x509.BasicConstraints)
    usage = _extension(certificate.extensions, x509.KeyUsage)
    uris: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    if names is not None:
        uris = tuple(names.get_values_for_type(x509.UniformResourceIdentifier))
        others = (
            *names.get_values_for_type(x509.DNSName),
            *map(str, names.get_values_for_type(x509.IPAddress)),
        )
    made = PeerCertificate(
        None,
        (*uris, *others),
        certificate.issuer.rfc4514_string(),
        certificate.serial_number,
        certificate.not_valid_after_utc.timestamp(),
        certificate.issuer.rfc4514_string() if key is None else key.hex(),
        bool((basic and basic.ca) or (usage and (usage.key_cert_sign or usage.crl_sign))),
    )
    return made, uris


def _extension(extensions: x509.Extensions, kind: type[E]) -> E | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _usages(usage: x509.KeyUsage) -> frozenset[str]:
    given = {"digitalSignature": usage.digital_signature, "keyCertSign": usage.key_cert_sign}
    return frozenset(name for name, has in given.items() if has)


def digest(key: PublicKeyTypes) -> bytes:
    """Equal where, and only where, two keys are the same."""
    made = hashes.Hash(hashes.SHA256())
    made.update(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))
    return made.finalize()


def _public_digest(path: str, pem: bytes) -> bytes:
    """The digest of a private key's public half; nothing of the key gets into a message."""
    try:
        return digest(serialization.load_pem_private_key(pem, password=None).public_key())
    except TypeError:
        raise ConfigError(
            f"{path}: the private key is encrypted; give one without a passphrase that only the proxy's user can read"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{path}: it holds no whole private key in PEM; write it again") from None


def _facts(path: str, pem: bytes) -> tuple[Facts, ...]:
    found = _certificates(path, pem)
    try:
        return tuple(map(facts, found))
    except UNREADABLE as error:
        raise ConfigError(f"{path}: it holds a certificate that cannot be read: {error}") from None


def _certificates(path: str, pem: bytes) -> list[x509.Certificate]:
    try:
        return [x509.load_pem_x509_certificate(block) for block in _blocks(path, pem, CERTIFICATE)]
    except UNREADABLE:
        raise ConfigError(f"{path}: it holds a damaged certificate; write the file again") from None


def _blocks(path: str, pem: bytes, label: bytes) -> list[bytes]:
    """The PEM blocks of one kind. A file that ends in the middle of one is refused, not read as far as it goes."""
    begin, end = b"-----BEGIN " + label + b"-----", b"-----END " + label + b"-----"
    blocks = pem.split(begin)[1:]
    if any(block.count(end) != 1 for block in blocks) or pem.count(end) != len(blocks):
        raise ConfigError(f"{path}: the file is cut off inside a PEM block; write it again, and whole")
    return [begin + block.partition(end)[0] + end + b"\n" for block in blocks]


def own_authorities(material: Material) -> bytes:
    """The trust bundle without the authorities that vouch for foreign trust domains alone, in PEM."""
    bundle = material.bundle_pem or b""
    if not material.anchors:
        return bundle
    assert material.identity is not None  # it came with the bundles
    own = material.anchors[material.identity.trust_domain]
    return b"".join(
        pem(each)
        for each in x509.load_pem_x509_certificates(bundle)
        if each.fingerprint(hashes.SHA256()).hex() in own
    )


def read(path: Path) -> list[x509.Certificate]:
    """Every certificate of a file. Raises ConfigError."""
    return _certificates(str(path), read_file(str(path)))


def read_bytes(path: Path) -> bytes:
    """A file's content. Raises ConfigError."""
    return read_file(str(path))


def pem(certificate: x509.Certificate) -> bytes:
    """A certificate as it stands in a file."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def read_file(path: str, *, private: bool = False) -> bytes:
    """The bytes of a file; a private key's must not be everybody's. Raises ConfigError."""
    try:
        with Path(path).open("rb") as file:
            if private and os.fstat(file.fileno()).st_mode & stat.S_IROTH:
                raise ConfigError(
                    f"{path}: every user of this machine can read the private key; run 'chmod o-rwx {path}', and issue "
                    "a new pair if anybody may have"
                )
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); it must be a file that the proxy's user may read"
        ) from None
    if len(data) > LARGEST:
        raise ConfigError(f"{path}: the file is larger than {LARGEST >> 20} MB")
    return data
