from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import load_pem_x509_certificate

from interceptor.tls import certificates, vouching
from interceptor.tls.authority import Pair
from interceptor.tls.vouching import Vouching
from tests.support.identities import Root


@pytest.fixture(scope="module")
def root() -> Root:
    return Root()


def der(pair: Pair) -> bytes:
    return load_pem_x509_certificate(pair.certificate).public_bytes(serialization.Encoding.DER)


def vouched(*roots: Root) -> Vouching:
    return Vouching([certificates.parsed(der(each.pair)) for each in roots])


def never() -> Sequence[bytes]:
    raise AssertionError("nothing has to be asked for")


def shown(*pairs: Pair) -> Callable[[], Sequence[bytes]]:
    return lambda: list(map(der, pairs))


def test_where_the_bundle_issued_it_itself_nothing_is_asked(root: Root) -> None:
    leaf = der(root.issue())
    peer, _ = certificates.peer(leaf)
    assert vouched(root).traced(peer, leaf, never) == peer
    assert vouched().traced(peer, leaf, never) == peer, "the system's authorities are judged by nobody again"


def test_the_root_above_and_those_between_are_remembered_for_sessions_that_are_resumed(root: Root) -> None:
    upper = root.odd((), is_authority=True)
    lower = root.odd((), is_authority=True, issuer=upper)
    leaf = root.odd(issuer=lower)
    peer, _ = certificates.peer(der(leaf))
    made = vouched(root)
    assert made.traced(peer, der(leaf), shown()) == peer, "it was not seen yet"
    traced = made.traced(peer, der(leaf), shown(leaf, lower, upper, root.pair))
    facts = [certificates.parsed(der(each)) for each in (lower, upper)]
    assert traced.above == tuple((each.issuer, each.serial) for each in facts)
    assert traced.authority == certificates.parsed(der(root.pair)).key_id
    assert traced._replace(authority=peer.authority, above=()) == peer
    assert made.traced(peer, der(leaf), never) == traced


def test_only_so_many_are_remembered(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vouching, "KEPT", 2)
    between = root.odd((), is_authority=True)
    leaves = [root.odd(issuer=between) for _ in range(3)]
    made = vouched(root)
    for leaf in leaves:
        peer, _ = certificates.peer(der(leaf))
        assert made.traced(peer, der(leaf), shown(leaf, between, root.pair)).above
    first, _ = certificates.peer(der(leaves[0]))
    assert made.traced(first, der(leaves[0]), shown()) == first, "the oldest went"
    assert len(made._seen) == 2
