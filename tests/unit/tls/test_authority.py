from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from interceptor.errors import ConfigError
from interceptor.tls import authority
from interceptor.tls.authority import BACKDATE, Pair
from interceptor.tls.certificates import facts
from tests.support.identities import WEB

NOW = 1_700_000_000.0
DAY = 86_400.0


@pytest.fixture(scope="module")
def root() -> Pair:
    return authority.make_root("cluster.local", lifetime=10 * DAY, now=NOW)


def read(pair: Pair) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.certificate)


def test_a_root_signs_workloads_and_nothing_else(root: Pair) -> None:
    said = facts(read(root))
    assert said.is_authority
    assert said.usages == frozenset(("keyCertSign",))
    assert said.uris == ("spiffe://cluster.local",)
    assert (said.not_before, said.not_after) == (NOW - BACKDATE, NOW + 10 * DAY)
    assert read(root).extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    read(root).verify_directly_issued_by(read(root))


def test_two_roots_of_a_trust_domain_have_names_of_their_own(root: Pair) -> None:
    assert read(root).subject != read(authority.make_root("cluster.local", lifetime=DAY, now=NOW)).subject


def test_a_workloads_certificate_serves_both_ends_and_names_who_it_is(root: Pair) -> None:
    pair = authority.issue(root, WEB, dns_names=("web.shop",), lifetime=DAY, now=NOW)
    said = facts(read(pair))
    read(pair).verify_directly_issued_by(read(root))
    assert (said.uris, said.dns_names, said.is_authority) == ((str(WEB),), ("web.shop",), False)
    assert (said.usages, said.purposes) == (
        frozenset(("digitalSignature",)),
        frozenset(("serverAuth", "clientAuth")),
    )
    assert said.not_after == NOW + DAY
    assert read(pair).extensions.get_extension_for_class(x509.SubjectAlternativeName).critical
    key = serialization.load_pem_private_key(pair.key, None)
    assert key.public_key() == read(pair).public_key()
    assert "PRIVATE" not in repr(pair)


def test_nothing_outlives_its_root(root: Pair) -> None:
    assert facts(read(authority.issue(root, WEB, lifetime=100 * DAY, now=NOW))).not_after == NOW + 10 * DAY
    with pytest.raises(ConfigError, match="has expired"):
        authority.issue(root, WEB, lifetime=DAY, now=NOW + 10 * DAY)


def test_a_key_that_is_not_ours_signs_nothing(root: Pair) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(ConfigError, match="elliptic curve"):
        authority.issue(Pair(root.certificate, key), WEB, lifetime=DAY, now=NOW)
