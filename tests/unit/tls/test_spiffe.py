from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from interceptor.errors import ConfigError
from interceptor.model.identity import SpiffeId
from interceptor.tls.authority import Pair
from interceptor.tls.certificates import Material
from interceptor.tls.rotation import Keeper
from interceptor.tls.spiffe import VARIABLE, Agent, material
from interceptor.tls.workload_api import decode
from tests.support.identities import DB, HOUR, WEB, Root
from tests.support.workload_api import answer, bundle_of, svid, svid_of

FOREIGN = SpiffeId("other.org", "shop", "web")


@pytest.fixture(scope="module")
def root() -> Root:
    return Root()


@pytest.fixture(scope="module")
def other() -> Root:
    return Root("other.org")


def judged(data: bytes, hint: str | None = None, trust_domain: str = "cluster.local") -> Material:
    return material(decode(data), hint, "unix:///agent", time.time(), trust_domain)


def test_an_answer_is_what_files_would_be(root: Root) -> None:
    pair = root.issue(WEB)
    read = judged(answer(svid_of(WEB, pair, root), crl=root.revocation_list(pair)))
    assert read.identity == WEB
    assert len(read.chain) == len(read.bundle) == len(read.revoked) == 1
    assert read.pair_pem is not None
    assert pair.certificate in read.pair_pem
    assert pair.key.replace(b"\n", b"") in read.pair_pem.replace(b"\n", b"")
    assert (read.bundle_pem, read.anchors) == (root.pair.certificate, {})
    assert "PRIVATE" not in repr(read)


def test_the_first_identity_is_used_or_the_one_with_the_hint(root: Root) -> None:
    said = answer(svid_of(WEB, root.issue(WEB), root), svid_of(DB, root.issue(DB), root, hint="internal"))
    assert judged(said).identity == WEB
    assert judged(said, "internal").identity == DB
    with pytest.raises(ValueError, match="no SVID has the hint 'external'"):
        judged(said, "external")


def test_each_trust_domain_has_the_authorities_of_its_own_bundle(root: Root, other: Root) -> None:
    read = judged(
        answer(svid_of(WEB, root.issue(WEB), root), federated={"spiffe://other.org": bundle_of(other)})
    )
    assert read.anchors.keys() == {"cluster.local", "other.org"}
    assert not read.anchors["cluster.local"] & read.anchors["other.org"]
    assert len(read.bundle) == 2


@pytest.mark.parametrize(
    "bundle",
    [
        lambda root, _: {"spiffe://other.org": b""},
        lambda root, _: {"spiffe://other.org": b"garbage"},
        lambda root, other: {"spiffe://other.org": bundle_of(other)[:-1]},
        lambda root, other: {"spiffe://": bundle_of(other)},
        lambda root, other: {"spiffe://cluster.local": bundle_of(other)},  # our own has one already
        lambda root, other: {"spiffe://other.org": b"\x30\x03abc"},
    ],
    ids=["empty", "garbage", "cut off", "of nobody", "our own", "no certificate"],
)
def test_a_foreign_bundle_that_cannot_be_used_is_left_out_and_ours_is_not(
    root: Root,
    other: Root,
    bundle: Callable[[Root, Root], dict[str, bytes]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    read = judged(answer(svid_of(WEB, root.issue(WEB), root), federated=bundle(root, other)))
    assert (read.identity, read.bundle_pem, read.anchors) == (WEB, root.pair.certificate, {})
    assert "is left out" in caplog.text


Make = Callable[[Root, Root], bytes]


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda root, other: b"", "holds no SVID"),
        (lambda root, other: svid_of(FOREIGN, other.issue(FOREIGN), other), "trust_domain"),
        (lambda root, other: svid_of(WEB, root.issue(DB), root), "is called 'spiffe://cluster.local/ns/shop/sa/web'"),
        (lambda root, other: svid_of(WEB, Pair(root.issue(WEB).certificate, root.issue(WEB).key), root), "mismatch"),
        (lambda root, other: svid_of(WEB, root.odd(ends=-60), root), "expired"),
        (lambda root, other: svid_of(WEB, root.odd(begins=HOUR, ends=2 * HOUR), root), "not_yet_valid"),
        (lambda root, other: svid_of(WEB, root.odd(uris=()), root), "no_san"),
        (lambda root, other: svid_of(WEB, root.odd(uris=(str(WEB), str(DB))), root), "two_sans"),
        (lambda root, other: svid_of(WEB, root.odd(purposes=(ExtendedKeyUsageOID.SERVER_AUTH,)), root), "usage"),
        (lambda root, other: svid(str(WEB), b"\x30\x03abc", b"key", bundle_of(root)), "cannot be read"),
        (lambda root, other: svid(str(WEB), bundle_of(root), b"key", bundle_of(root)), "private key cannot be read"),
        (lambda root, other: svid(str(WEB), bundle_of(root), b"\x30\x01a", b"\x30\x03abc"), "cannot be read"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_with_the_reason(
    root: Root, other: Root, make: Make, problem: str
) -> None:
    one = make(root, other)
    with pytest.raises((ConfigError, ValueError), match=problem):
        judged(answer(*([one] if one else [])))


def test_a_bundle_must_hold_authorities(root: Root) -> None:
    leaf = root.issue(WEB)
    read = decode(answer(svid_of(WEB, leaf, root)))
    broken = answer(svid(str(WEB), read.svids[0].chain[0], read.svids[0].key, read.svids[0].chain[0]))
    with pytest.raises(ConfigError, match="not_an_authority"):
        judged(broken)


def test_a_revocation_list_must_be_one_and_by_an_authority(root: Root, other: Root) -> None:
    own = svid_of(WEB, root.issue(WEB), root)
    with pytest.raises(ConfigError, match="signed by no authority"):
        judged(answer(own, crl=other.revocation_list()))
    with pytest.raises(ConfigError, match="revocation list in its answer cannot be read"):
        judged(answer(own) + b"\x12\x03abc")


@pytest.mark.parametrize(
    ("socket", "environment", "target"),
    [
        ("unix:///run/agent.sock", {}, "unix:///run/agent.sock"),
        ("unix:/run/agent.sock", {VARIABLE: "tcp://x"}, "unix:///run/agent.sock"),
        (None, {VARIABLE: "unix:///a"}, "unix:///a"),
    ],
)
def test_the_agent_is_where_the_document_or_the_environment_says(
    socket: str | None, environment: dict[str, str], target: str
) -> None:
    assert Agent(socket, None, environment).names() == (target,)


@pytest.mark.parametrize(
    ("socket", "environment", "problem"),
    [
        (None, {}, "names no socket and SPIFFE_ENDPOINT_SOCKET is not set"),
        ("tcp://127.0.0.1:1", {}, "spec.tls.workloadApi.socket: 'tcp://127.0.0.1:1' is not a socket"),
        ("unix://agent.sock", {}, "is not a socket"),
        (None, {VARIABLE: "/run/agent.sock"}, "SPIFFE_ENDPOINT_SOCKET: '/run/agent.sock' is not a socket"),
    ],
)
def test_what_is_no_socket_is_refused_by_name(
    socket: str | None, environment: dict[str, str], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        Agent(socket, None, environment)


def keeper_of(agent: Agent) -> Keeper:
    return Keeper(agent, trust_domain="cluster.local", wall_clock=time.time)


def test_from_nothing_to_an_identity_to_another_and_to_nothing_again(
    root: Root, caplog: pytest.LogCaptureFixture
) -> None:
    agent = Agent("unix:///a", None, {})
    kept = keeper_of(agent)
    heard: list[bytes | None] = []
    agent.pass_on = heard.append
    assert "has given no certificate yet" in str(kept.refusal())
    assert agent.pending is not None
    assert kept.expiries() == {}
    agent.withdraw()  # there is nothing to take back
    assert heard == []
    first = answer(svid_of(WEB, root.issue(WEB), root))
    assert agent.take(first, kept)
    assert [kept.refusal(), agent.pending] == [None, None]
    assert kept.expiries().keys() == {"unix:///a", "unix:///a (trust bundle)"}
    assert kept.dump()["files"] == ["unix:///a"]
    in_use = kept.current
    assert not agent.take(b"garbage", kept)
    assert kept.current is in_use
    assert "its last answer is refused" in str(agent.remark)
    second = answer(svid_of(WEB, root.issue(WEB), root))
    assert agent.take(second, kept)
    assert kept.current is not in_use
    agent.withdraw()
    assert "took the identity of this workload back" in str(kept.refusal())
    assert "took the identity" in str(agent.pending)
    assert not agent.take(b"garbage", kept)
    assert kept.refusal() is not None
    assert agent.take(first, kept)
    assert kept.refusal() is None
    assert heard == [first, second, None, first]
    key = root.issue(WEB).key.splitlines()[0].decode()
    assert key not in caplog.text


def test_certificates_that_expired_refuse_by_themselves(root: Root) -> None:
    agent = Agent("unix:///a", None, {})
    now = time.time()
    kept = Keeper(agent, trust_domain="cluster.local", wall_clock=lambda: now)
    assert agent.take(answer(svid_of(WEB, root.issue(WEB, lifetime=60), root)), kept)
    now += 61
    assert "expired" in str(kept.refusal())
