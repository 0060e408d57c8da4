from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from interceptor.model.identity import SpiffeId
from interceptor.tls import judgement
from interceptor.tls.judgement import SKEW, Facts, PeerCertificate, Refusal

NOW = 1_000_000.0
WEB = SpiffeId("cluster.local", "shop", "web")
LEAF = Facts(
    subject="web",
    issuer="root",
    serial=1,
    not_before=NOW - 1000,
    not_after=NOW + 3000,
    public_key=b"k",
    fingerprint="f",
    uris=(str(WEB),),
    usages=frozenset({"digitalSignature"}),
    purposes=frozenset({"serverAuth", "clientAuth"}),
)
ROOT = replace(LEAF, subject="root", is_authority=True, usages=frozenset({"keyCertSign"}))


def reason(judged: object) -> str | None:
    return judged.reason if isinstance(judged, Refusal) else None


def test_a_pair_belongs_together_and_is_valid_now() -> None:
    assert judgement.judge_pair(LEAF, b"k", NOW) is None
    assert reason(judgement.judge_pair(LEAF, b"other", NOW)) == "mismatch"
    assert reason(judgement.judge_pair(LEAF, b"k", NOW + 3000)) == "expired"
    assert reason(judgement.judge_pair(LEAF, b"k", LEAF.not_before - SKEW - 1)) == "not_yet_valid"
    assert judgement.judge_pair(LEAF, b"k", LEAF.not_before - SKEW) is None


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, None),
        ({"usages": None, "purposes": None}, None),
        ({"uris": ()}, "no_san"),
        ({"uris": (str(WEB), str(WEB))}, "two_sans"),
        ({"uris": ("https://a.b",)}, "san"),
        ({"uris": ("spiffe://other/ns/shop/sa/web",)}, "trust_domain"),
        ({"is_authority": True}, "usage"),
        ({"usages": frozenset({"keyCertSign", "digitalSignature"})}, "usage"),
        ({"usages": frozenset()}, "usage"),
        ({"purposes": frozenset({"serverAuth"})}, "usage"),
        ({"purposes": frozenset({"clientAuth"})}, "usage"),
    ],
)
def test_a_workload_certificate_is_an_svid_of_our_trust_domain(
    changes: dict[str, object], found: str | None
) -> None:
    judged = judgement.judge_workload(replace(LEAF, **changes), "cluster.local")  # type: ignore[arg-type]  # test data
    assert reason(judged) == found
    assert found or judged == WEB


def test_a_bundle_holds_authorities_of_which_one_is_valid() -> None:
    old = replace(ROOT, not_after=NOW - 1)
    assert judgement.judge_bundle([ROOT], NOW) is None
    assert judgement.judge_bundle([old, ROOT], NOW) is None
    assert reason(judgement.judge_bundle([old], NOW)) == "expired"
    assert reason(judgement.judge_bundle([], NOW)) == "empty"
    assert reason(judgement.judge_bundle([ROOT, LEAF], NOW)) == "not_an_authority"


PEER = PeerCertificate(None, (str(WEB),), "root", 7, NOW + 10, "key")
TRUSTED = {"cluster.local": "cluster.local", "old.local": "cluster.local"}


@pytest.mark.parametrize(
    ("before", "now", "revoked", "found"),
    [
        (("root", "key"), ("root", "key"), (), None),
        (("root", "key"), ("root", "other"), (), "trust_bundle"),  # a new key of the same name
        (("root", "key"), (), (), "trust_bundle"),
        (("else",), (), (), None),  # nobody knows who issued it
        (("root", "key"), ("root", "key"), (("root", 7),), "revoked"),
        (("root", "key"), ("root", "key"), (("root", 8), ("else", 7)), None),
    ],
)
def test_an_open_connection_is_judged_again(
    before: tuple[str, ...], now: tuple[str, ...], revoked: tuple[tuple[str, int], ...], found: str | None
) -> None:
    refusal = judgement.judge_again(PEER, before, now, revoked)
    assert (None if refusal is None else refusal.reason) == found


@pytest.mark.parametrize(
    ("revoked", "now", "found"),
    [
        ((), ("key",), None),
        (
            (("root", 3),),
            ("key",),
            "the authority with the serial number 3 between 'root' and the peer's certificate was revoked",
        ),
        ((("root", 4),), ("key",), None),
        (
            (),
            (),
            "the trust bundle no longer has the key of the root above 'root', which issued the peer's certificate",
        ),
    ],
)
def test_who_stands_between_counts_as_well(
    revoked: tuple[tuple[str, int], ...], now: tuple[str, ...], found: str | None
) -> None:
    peer = PEER._replace(above=(("other", 4), ("root", 3)))
    refusal = judgement.judge_again(peer, ("key",), now, revoked)
    assert (None if refusal is None else refusal.sentence) == found
    if revoked:
        judged = judgement.judge_presented(peer, revoked, NOW)
        assert (None if judged is None else judged.sentence) == found


def test_authorities_are_known_by_name_and_by_key() -> None:
    assert judgement.authorities([ROOT, replace(ROOT, key_id="k")]) == {ROOT.subject, "k"}


def test_a_peer_is_who_its_one_uri_says() -> None:
    assert judgement.judge_peer(PEER, (str(WEB),), TRUSTED, (), NOW) == PEER._replace(identity=WEB)


def test_a_peer_of_an_alias_counts_as_of_the_primary() -> None:
    judged = judgement.judge_peer(PEER, ("spiffe://old.local/ns/shop/sa/web",), TRUSTED, (), NOW)
    assert judged == PEER._replace(identity=WEB)


@pytest.mark.parametrize(
    ("uris", "revoked", "now", "found"),
    [
        ((), (), NOW, "no_san"),
        ((str(WEB), "spiffe://b/ns/x/sa/y"), (), NOW, "two_sans"),
        (("spiffe://x",), (), NOW, "san"),
        (("spiffe://other/ns/shop/sa/web",), (), NOW, "trust_domain"),
        ((str(WEB),), {("root", 7)}, NOW, "revoked"),
        ((str(WEB),), (), NOW + 10, "expired"),
    ],
)
def test_a_peer_that_proves_nothing_is_refused(
    uris: tuple[str, ...], revoked: set[tuple[str, int]], now: float, found: str
) -> None:
    judged = judgement.judge_peer(PEER, uris, TRUSTED, revoked, now)
    assert reason(judged) == found
    assert "peer's certificate" in str(judged)


def test_an_authority_is_nobodys_identity() -> None:
    assert reason(judgement.judge_peer(PEER._replace(signs=True), (str(WEB),), TRUSTED, (), NOW)) == "usage"


ANCHORS = {"cluster.local": {"ours"}, "other.org": {"theirs", "both"}}


@pytest.mark.parametrize(
    ("trust_domain", "root", "believed"),
    [
        ("cluster.local", "ours", True),
        ("cluster.local", "theirs", False),
        ("other.org", "both", True),
        ("other.org", "ours", False),
        ("old.local", "ours", True),  # an alias has no bundle of its own
        ("old.local", "theirs", False),
        ("cluster.local", None, False),  # a session was resumed
    ],
)
def test_each_trust_domain_has_authorities_of_its_own(
    trust_domain: str, root: str | None, believed: bool
) -> None:
    identity = WEB._replace(trust_domain=trust_domain)
    refusal = judgement.judge_authority(identity, root, "cluster.local", ANCHORS)
    assert (None if refusal is None else refusal.reason) == (None if believed else "trust_domain")


def test_an_upstream_has_one_of_the_expected_names() -> None:
    assert judgement.judge_names(("a", "b"), ()) is None
    assert judgement.judge_names(("a", "b"), ("b", "c")) is None
    assert reason(judgement.judge_names(("a",), ("c",))) == "san"
    assert "of nobody" in str(judgement.judge_names((), ("c",)))


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (1001, None),
        (1000, "expires in 17 minutes"),
        (100, "expires in 100 seconds"),
        (0, "has expired"),
        (-5, "has expired"),
    ],
)
def test_a_warning_comes_when_a_quarter_of_the_lifetime_is_left(left: float, said: str | None) -> None:
    told = judgement.warning(LEAF, LEAF.not_after - left)
    assert told is None if said is None else said in str(told)


@pytest.mark.parametrize(("late", "said"), [(7200, "2 hours"), (10 * 86400, "10 days")])
def test_spans_are_said_in_the_unit_that_fits(late: float, said: str) -> None:
    assert said in str(judgement.judge_time(LEAF, LEAF.not_after + late))


@given(st.floats(0, 1e9), st.floats(1, 1e9), st.floats(-1, 1))
def test_rotation_is_due_near_half_of_the_lifetime(begins: float, lifetime: float, jitter: float) -> None:
    due = judgement.rotation_due(begins, begins + lifetime, jitter)
    assert begins + 0.44 * lifetime <= due <= begins + 0.56 * lifetime
