from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from interceptor.errors import ConfigError
from interceptor.model.identity import CertificateFiles
from interceptor.tls import secrets
from interceptor.tls.authority import Pair
from interceptor.tls.rotation import Keeper
from interceptor.tls.secrets import GivenFiles, Secrets
from tests.support.identities import HOUR, WEB, Root

NAMED = CertificateFiles("sds://default/tls.crt", "sds://default/tls.key", "sds://ROOTCA/ca.crt")


@pytest.fixture(scope="module")
def root() -> Root:
    return Root()


def files(pair: Pair, *roots: Root) -> dict[str, bytes]:
    return {
        "sds://default/tls.crt": pair.certificate,
        "sds://default/tls.key": pair.key,
        "sds://ROOTCA/ca.crt": b"".join(each.pair.certificate for each in roots),
    }


def keeper(held: Secrets, named: CertificateFiles = NAMED) -> Keeper:
    return Keeper(GivenFiles(named, held), trust_domain="cluster.local", wall_clock=time.time)


def test_nobody_is_spoken_to_before_a_secret_comes_and_everybody_after(root: Root) -> None:
    held = Secrets()
    kept = keeper(held)
    assert str(kept.refusal()) == "the control plane has not given sds://default/tls.crt"
    assert kept.current.material.chain == ()
    held.replace(files(root.issue(), root))
    assert (kept.changed, kept.reload()) == (True, True)
    assert kept.refusal() is None
    assert kept.current.material.identity == WEB
    assert set(kept.expiries()) == {"sds://default/tls.crt", "sds://ROOTCA/ca.crt"}
    assert "PRIVATE" not in str(kept.dump())


def test_a_rotation_is_taken_and_the_same_again_is_none(root: Root) -> None:
    held = Secrets()
    first = files(root.issue(), root)
    held.replace(first)
    kept = keeper(held)
    held.replace(dict(first))
    changed = [kept.changed]
    held.replace(files(root.issue(), root))
    old = kept.current
    changed.append(kept.changed)
    assert changed == [False, True]
    assert kept.reload()
    assert kept.current is not old


def test_what_does_not_belong_together_is_refused_and_the_old_stays(
    root: Root, caplog: pytest.LogCaptureFixture
) -> None:
    held = Secrets()
    held.replace(files(root.issue(), root))
    kept = keeper(held)
    old = kept.current
    key = root.issue().key
    held.replace({**files(root.issue(), root), "sds://default/tls.key": key})
    assert not kept.reload()
    assert kept.current is old
    assert "sds://default/tls.crt" in caplog.text
    assert key.decode().splitlines()[1] not in caplog.text


def test_a_secret_that_is_gone_is_said_and_refused(root: Root, caplog: pytest.LogCaptureFixture) -> None:
    held = Secrets()
    held.replace(files(root.issue(), root))
    kept = keeper(held)
    held.replace({})
    assert kept.reload()
    assert kept.refusal() is not None
    assert "handshakes that need it are refused until it comes" in caplog.text


def test_files_stand_beside_secrets(root: Root, tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(root.pair.certificate)
    held = Secrets()
    held.replace(files(root.issue()))
    kept = keeper(held, NAMED._replace(trust_bundle=str(bundle)))
    assert kept.refusal() is None
    assert kept.current.material.bundle_pem == root.pair.certificate
    with pytest.raises(ConfigError, match="has not given it"):
        held.read("sds://other/tls.crt")


def test_secrets_are_judged_before_they_are_taken(root: Root) -> None:
    pair = root.issue()
    good = {"sds://x/tls.crt": pair.certificate, "sds://x/tls.key": pair.key}
    assert secrets.check(good, None) is None
    assert secrets.check(good, "cluster.local") is None
    assert secrets.check({"sds://x/ca.crt": root.pair.certificate}, "cluster.local") is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"tls.key": lambda root: root.issue().key}, "does not belong to"),
        ({"tls.crt": lambda root: root.issue().certificate[:-30]}, "cut off inside a PEM block"),
        ({"tls.key": lambda root: root.issue().key[:-30]}, "no whole private key"),
        ({"tls.crt": lambda _: b""}, "it holds no certificate"),
        ({"tls.crt": lambda root: root.odd(ends=-HOUR).certificate}, "sds://x/tls.crt"),
    ],
)
def test_what_is_wrong_with_a_secret_is_said_without_its_bytes(
    root: Root, change: dict[str, Callable[[Root], bytes]], why: str
) -> None:
    pair = root.issue()
    given = {"sds://x/tls.crt": pair.certificate, "sds://x/tls.key": pair.key}
    for name, make in change.items():
        given[f"sds://x/{name}"] = make(root)
    said = secrets.check(given, None)
    assert said is not None
    assert why in said
    assert pair.key.decode().splitlines()[1] not in said


def test_a_certificate_of_another_trust_domain_is_none_of_ours(root: Root) -> None:
    pair = Root("other").issue(WEB._replace(trust_domain="other"))
    said = secrets.check({"sds://x/tls.crt": pair.certificate, "sds://x/tls.key": pair.key}, "cluster.local")
    assert said is not None
    assert "trust domain" in said
