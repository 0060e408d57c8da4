from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from interceptor.errors import ConfigError
from interceptor.model.forwarding import CertificateDetails
from interceptor.model.identity import CertificateFiles
from interceptor.tls import certificates
from interceptor.tls.authority import Pair
from interceptor.tls.certificates import load
from interceptor.tls.contexts import SESSIONS, Contexts, Upstream
from tests.support.identities import WEB, Root, contexts, write


@pytest.fixture(scope="module")
def root() -> Root:
    return Root()


def loaded(paths: CertificateFiles, trust_domain: str | None = "cluster.local") -> certificates.Material:
    return load(paths, now=time.time(), trust_domain=trust_domain)


def test_good_files_are_read_and_the_key_is_not_shown(tmp_path: Path, root: Root) -> None:
    pair = root.issue(dns_names=("web.shop",))
    material = loaded(write(tmp_path, pair, root))
    assert material.identity == WEB
    assert material.chain[0].dns_names == ("web.shop",)
    assert material.expires == material.chain[0].not_after
    assert material.bundle[0].is_authority
    assert "PRIVATE" not in repr(material)
    assert "PRIVATE" not in repr(pair)


def key_usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(sign, False, not sign, False, False, False, False, False, False)


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda _, root: root.odd(ends=-1), "expired"),
        (lambda _, root: root.odd(begins=600), "not_yet_valid"),
        (lambda _, root: root.odd(uris=("spiffe://other/ns/shop/sa/web",)), "trust_domain"),
        (lambda _, root: root.odd(uris=()), "no_san"),
        (lambda _, root: root.odd(uris=(), dns_names=("web",)), "no_san"),
        (lambda _, root: root.odd(uris=(str(WEB), "spiffe://cluster.local/ns/a/sa/b")), "two_sans"),
        (lambda _, root: root.odd(uris=("spiffe://cluster.local/web",)), "san"),
        (lambda _, root: root.odd(purposes=(ExtendedKeyUsageOID.SERVER_AUTH,)), "usage"),
        (lambda _, root: root.odd(purposes=(ExtendedKeyUsageOID.CODE_SIGNING,)), "usage"),
        (lambda _, root: root.odd(usage=key_usage(sign=False)), "usage"),
        (lambda _, root: root.odd(is_authority=True), "usage"),
        (lambda _, root: Pair(root.issue().certificate, root.issue().key), "mismatch"),
        (lambda _, root: Pair(root.issue().certificate, b"nonsense"), "no whole private key"),
        (lambda _, root: Pair(b"nothing here", root.issue().key), "it holds no certificate"),
        (
            lambda _, root: Pair(root.issue().certificate[:-30], root.issue().key),
            "cut off inside a PEM block",
        ),
        (
            lambda _, root: Pair(root.issue().certificate, (key := root.issue().key)[: len(key) // 2]),
            "no whole private",
        ),
        (
            lambda _, root: Pair(root.issue().certificate + root.issue().certificate[:200], root.issue().key),
            "cut off inside a PEM block",
        ),
        (
            lambda _, root: Pair(
                b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", root.issue().key
            ),
            "damaged certificate",
        ),
    ],
)
def test_a_pair_that_may_not_be_used_is_refused_by_name(
    tmp_path: Path, root: Root, spoil: Callable[[Path, Root], Pair], found: str
) -> None:
    paths = write(tmp_path, spoil(tmp_path, root), root)
    with pytest.raises(ConfigError, match=found) as raised:
        loaded(paths)
    assert "PRIVATE" not in str(raised.value)


def test_an_expired_certificate_of_the_chain_is_refused(tmp_path: Path, root: Root) -> None:
    pair, old = root.issue(), root.odd(is_authority=True, ends=-1)
    with pytest.raises(ConfigError, match="expired"):
        loaded(write(tmp_path, Pair(pair.certificate + old.certificate, pair.key), root))


def test_an_encrypted_key_is_refused(tmp_path: Path, root: Root) -> None:
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    with pytest.raises(ConfigError, match="is encrypted"):
        loaded(write(tmp_path, Pair(root.issue().certificate, key), root))


def test_a_key_that_everybody_can_read_is_refused_with_the_remedy(tmp_path: Path, root: Root) -> None:
    paths = write(tmp_path, root.issue(), root)
    assert paths.private_key
    Path(paths.private_key).chmod(0o644)
    with pytest.raises(ConfigError, match=f"run 'chmod o-rwx {paths.private_key}'"):
        loaded(paths)
    Path(paths.private_key).chmod(0o640)  # Kubernetes' fsGroup
    assert loaded(paths).identity == WEB


@pytest.mark.parametrize(
    ("bundle", "found"),
    [
        (b"", "empty"),
        (b"# nobody\n", "empty"),
        ("leaf", "not_an_authority"),
        ("old", "expired"),
        ("half", "cut off inside a PEM block"),
    ],
)
def test_a_bundle_that_trusts_nobody_is_refused(
    tmp_path: Path, root: Root, bundle: bytes | str, found: str
) -> None:
    paths = write(tmp_path, root.issue(), root)
    contents = {
        "leaf": root.issue().certificate,
        "old": root.odd(is_authority=True, ends=-1).certificate,
        "half": root.pair.certificate + root.pair.certificate[:100],
    }
    (tmp_path / "ca.crt").write_bytes(bundle if isinstance(bundle, bytes) else contents[bundle])
    with pytest.raises(ConfigError, match=found):
        loaded(paths)


def test_two_roots_overlap_in_a_bundle(tmp_path: Path, root: Root) -> None:
    assert len(loaded(write(tmp_path, root.issue(), Root(), root)).bundle) == 2


def test_files_that_cannot_be_read_are_named(tmp_path: Path, root: Root) -> None:
    paths = write(tmp_path, root.issue(), root)
    with pytest.raises(ConfigError, match=r"nowhere: cannot be read \(No such file"):
        loaded(paths._replace(trust_bundle=str(tmp_path / "nowhere")))
    (tmp_path / "ca.crt").write_bytes(bytes(certificates.LARGEST + 1))
    with pytest.raises(ConfigError, match="larger than 1 MB"):
        loaded(paths)


def test_a_revocation_list_names_whom_its_authority_revoked(tmp_path: Path, root: Root) -> None:
    pair = root.issue()
    (tmp_path / "crl.pem").write_bytes(root.revocation_list(pair))
    paths = write(tmp_path, root.issue(), root)._replace(revocation_list=str(tmp_path / "crl.pem"))
    serial = x509.load_pem_x509_certificate(pair.certificate).serial_number
    assert [found for _, found in loaded(paths).revoked] == [serial]


@pytest.mark.parametrize("kind", ["foreign", "old", "damaged"])
def test_a_revocation_list_that_proves_nothing_is_refused(tmp_path: Path, root: Root, kind: str) -> None:
    lists = {
        "foreign": (Root().revocation_list(), "signed by no authority"),
        "old": (root.revocation_list(ends=-1), "out of date"),
        "damaged": (b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "damaged revocation list"),
    }
    data, found = lists[kind]
    (tmp_path / "crl.pem").write_bytes(data)
    paths = write(tmp_path, root.issue(), root)._replace(revocation_list=str(tmp_path / "crl.pem"))
    with pytest.raises(ConfigError, match=found):
        loaded(paths)


def test_outside_a_mesh_a_certificate_names_no_identity(tmp_path: Path, root: Root) -> None:
    paths = write(tmp_path, root.odd(uris=(), dns_names=("client",)), root)
    assert loaded(paths, None).identity is None
    only_trust = paths._replace(certificate=None, private_key=None)
    assert loaded(only_trust, None).expires == float("inf")
    with pytest.raises(ConfigError, match="mismatch"):
        loaded(write(tmp_path, Pair(root.issue().certificate, root.issue().key), root), None)


def test_contexts_are_made_once_and_never_weak(tmp_path: Path, root: Root) -> None:
    made = contexts(tmp_path, root.issue(), root)
    assert made.server(("h2",)) is made.server(("h2",))
    assert made.server(("h2",)) is not made.server(())
    client = made.client((), check_host=True)
    assert (client.check_hostname, client.minimum_version.name) == (True, "TLSv1_2")
    assert not {"RC4", "3DES", "CBC", "RSA-AES"} & {each["name"] for each in client.get_ciphers()}


def test_the_system_bundle_is_trusted_where_none_is_given() -> None:
    made = Contexts(loaded(CertificateFiles(None, None, None), None))
    assert made.client(()).cert_store_stats()["x509_ca"] >= 0


def test_only_sessions_that_can_be_resumed_are_kept_and_not_for_ever(tmp_path: Path, root: Root) -> None:
    class Session:
        has_ticket, id = True, b""

    class Named(Session):
        has_ticket, id = False, b"named"

    made = contexts(tmp_path, root.issue(), root)
    upstreams = [Upstream(str(number), None, (), ()) for number in range(SESSIONS + 1)]
    for upstream in upstreams:
        made.keep(upstream, Session())  # type: ignore[arg-type]  # a session of one's own making is not possible
    made.keep(upstreams[0], None)
    assert made.session(upstreams[0]) is None
    assert made.session(upstreams[-1]) is not None
    made.keep(upstreams[0], Named())  # type: ignore[arg-type]  # the same
    assert made.session(upstreams[0]) is None, "TLS 1.3 has no sessions without a ticket"
    made.keep(upstreams[0], Named(), by_id=True)  # type: ignore[arg-type]  # the same
    assert made.session(upstreams[0]) is not None


def test_what_an_app_is_told_of_a_certificate_ends_no_text_and_no_line(root: Root) -> None:
    issued = x509.load_pem_x509_certificate(root.issue(WEB).certificate)
    der = issued.public_bytes(serialization.Encoding.DER)
    digest = issued.fingerprint(hashes.SHA256()).hex()
    assert certificates.forwarded(der, CertificateDetails()) == f'Hash={digest};Subject="";URI={WEB}'.encode()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, 'a";URI=x\r\nb\\\u00e9')])
    key = ec.generate_private_key(ec.SECP256R1())
    odd = (
        x509.CertificateBuilder(
            name, name, key.public_key(), 1, issued.not_valid_before_utc, issued.not_valid_after_utc
        )
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(WEB))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    told = certificates.forwarded(odd.public_bytes(serialization.Encoding.DER), CertificateDetails()).decode()
    subject = told.partition('Subject="')[2].removesuffix(f'";URI={WEB}')
    assert subject.isprintable()
    assert subject.isascii()
    assert not re.search(r'(?<!\\)(\\\\)*"', subject), subject


@pytest.mark.parametrize("subject", [False, True])
@pytest.mark.parametrize("cert", [False, True])
@pytest.mark.parametrize("dns", [False, True])
@pytest.mark.parametrize("uri", [False, True])
def test_an_app_is_told_what_was_asked_for_in_envoys_order(
    root: Root, subject: bool, cert: bool, dns: bool, uri: bool
) -> None:
    pair = root.odd((str(WEB),), dns_names=("web.shop", "*.web.shop", "a;URI=spiffe://x", "b\r\nc: d", 'e"'))
    issued = x509.load_pem_x509_certificate(pair.certificate)
    der = issued.public_bytes(serialization.Encoding.DER)
    told = certificates.forwarded(der, CertificateDetails(subject, cert, dns, uri)).decode()
    expected = [f"Hash={issued.fingerprint(hashes.SHA256()).hex()}"]
    pem = told.partition('Cert="')[2].partition('"')[0]
    assert unquote(pem) == (pair.certificate.decode() if cert else "")
    assert not set(pem) & set('/+= \n";,')
    expected += [f'Cert="{pem}"'] if cert else []
    expected += [f'Subject="{issued.subject.rfc4514_string()}"'] if subject else []
    expected += [f"URI={WEB}"] if uri else []
    expected += ["DNS=web.shop", "DNS=*.web.shop"] if dns else []
    assert told == ";".join(expected)
