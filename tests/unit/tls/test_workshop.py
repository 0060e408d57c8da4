from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from interceptor.cli import gateway
from interceptor.errors import ConfigError
from interceptor.model.identity import CertificateFiles
from interceptor.tls import authority, files, workshop
from interceptor.tls.certificates import facts, load, read
from tests.support.identities import HOUR

NOW = float(int(time.time()))
DAY = 24 * HOUR
WANTED = workshop.Wanted("shop", "web", ("web.shop", "*.web.shop"), DAY)


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    workshop.init(tmp_path / "ca", trust_domain="corp.example", lifetime=300 * DAY, now=NOW, renew=False)
    return tmp_path / "ca"


def issued(tmp_path: Path, ca: Path) -> Path:
    directory = tmp_path / "web"
    workshop.issue(directory, ca, WANTED, now=NOW, owner=None)
    return directory


def paths(directory: Path) -> CertificateFiles:
    return CertificateFiles(*(str(directory / name) for name in (files.CERTIFICATE, files.KEY, files.BUNDLE)))


def test_what_is_issued_can_be_used_by_a_proxy(tmp_path: Path, ca: Path) -> None:
    directory = issued(tmp_path, ca)
    material = load(paths(directory), now=NOW, trust_domain="corp.example")
    assert str(material.identity) == "spiffe://corp.example/ns/shop/sa/web"
    assert material.chain[0].dns_names == WANTED.dns_names
    assert material.chain[0].not_after == NOW + DAY
    assert stat.S_IMODE((directory / files.KEY).stat().st_mode) == 0o600
    assert stat.S_IMODE((ca / workshop.ROOT_KEY).stat().st_mode) == 0o600


def test_a_certificate_never_outlives_its_root(tmp_path: Path, ca: Path) -> None:
    workshop.issue(tmp_path / "x", ca, WANTED._replace(lifetime=1000 * DAY), now=NOW, owner=None)
    assert facts(read(tmp_path / "x" / files.CERTIFICATE)[0]).not_after == NOW + 300 * DAY
    with pytest.raises(ConfigError, match="has expired"):
        workshop.issue(tmp_path / "x", ca, WANTED, now=NOW + 301 * DAY, owner=None)


def rotated(directory: Path, ca: Path, now: float, *, everything: bool = False) -> tuple[list[str], float]:
    return workshop.rotate([directory], ca, now=now, everything=everything, owner=None, jitter=lambda: 0.0)


def test_rotation_comes_at_half_of_the_lifetime_and_keeps_the_names(tmp_path: Path, ca: Path) -> None:
    directory = issued(tmp_path, ca)
    old = facts(read(directory / files.CERTIFICATE)[0])
    done, due = rotated(directory, ca, NOW + 11 * HOUR)
    assert done == []
    assert due == NOW + 12 * HOUR
    done, due = rotated(directory, ca, NOW + 13 * HOUR)
    new = facts(read(directory / files.CERTIFICATE)[0])
    assert "was issued anew" in done[0]
    assert (new.uris, new.dns_names, new.lifetime) == (old.uris, old.dns_names, old.lifetime)
    assert new.public_key != old.public_key
    assert due == NOW + 25 * HOUR
    assert len(rotated(directory, ca, NOW + 13 * HOUR, everything=True)[0]) == 1


@pytest.mark.parametrize("lifetime", [10.0, 60.0, 600.0, 90 * DAY])
def test_half_of_the_lifetime_is_that_of_the_lifetime_which_was_asked_for(
    tmp_path: Path, ca: Path, lifetime: float
) -> None:
    workshop.issue(tmp_path / "x", ca, WANTED._replace(lifetime=lifetime), now=NOW, owner=None)
    assert rotated(tmp_path / "x", ca, NOW + 0.49 * lifetime) == ([], NOW + lifetime / 2)
    done, due = rotated(tmp_path / "x", ca, NOW + lifetime / 2)
    assert (len(done), due) == (1, NOW + lifetime)


def test_what_its_root_cut_short_is_rotated_at_half_of_what_is_left(tmp_path: Path, ca: Path) -> None:
    workshop.issue(tmp_path / "x", ca, WANTED._replace(lifetime=200 * DAY), now=NOW, owner=None)
    done, due = rotated(tmp_path / "x", ca, NOW + 150 * DAY)
    assert (len(done), due) == (1, NOW + (150 + 75) * DAY)


def test_a_renewed_authority_is_trusted_beside_the_old_one_before_it_signs(tmp_path: Path, ca: Path) -> None:
    directory = issued(tmp_path, ca)
    old = (directory / files.CERTIFICATE).read_bytes()
    workshop.init(ca, trust_domain="corp.example", lifetime=300 * DAY, now=NOW, renew=True)
    done, _ = rotated(directory, ca, NOW)
    assert done == [f"{directory}: it trusts the authority's new bundle"]
    assert (directory / files.CERTIFICATE).read_bytes() == old
    assert len(load(paths(directory), now=NOW, trust_domain="corp.example").bundle) == 2
    rotated(directory, ca, NOW + 13 * HOUR)
    roots = read(ca / files.BUNDLE)
    assert facts(read(directory / files.CERTIFICATE)[0]).issuer == facts(roots[0]).subject
    workshop.init(ca, trust_domain="corp.example", lifetime=DAY, now=NOW + 301 * DAY, renew=True)
    assert len(read(ca / files.BUNDLE)) == 1  # what has expired is dropped


def test_all_files_change_at_once_and_the_old_set_is_gone(tmp_path: Path, ca: Path) -> None:
    directory = issued(tmp_path, ca)
    (directory / files.BUNDLE).unlink()
    (directory / files.BUNDLE).write_bytes(b"a plain file")
    before = (directory / "..data").readlink()
    workshop.issue(directory, ca, WANTED, now=NOW, owner=None)
    assert (directory / "..data").readlink() != before
    assert not (directory / before).exists()
    assert len(load(paths(directory), now=NOW, trust_domain="corp.example").bundle) == 1


def test_a_write_that_fails_leaves_the_old_files(tmp_path: Path, ca: Path) -> None:
    directory = issued(tmp_path, ca)
    listed = sorted(directory.iterdir())
    with pytest.raises(ConfigError, match="cannot be written"):
        files.write(directory, {"a/b": b""})
    assert sorted(directory.iterdir()) == listed
    with pytest.raises(ConfigError, match="cannot be written"):
        files.write(directory / files.KEY / "x", {"a": b""})


def test_an_authority_is_not_overwritten(ca: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is an authority already"):
        workshop.init(ca, trust_domain="a", lifetime=DAY, now=NOW, renew=False)
    with pytest.raises(ConfigError, match="no authority to renew"):
        workshop.init(tmp_path / "none", trust_domain="a", lifetime=DAY, now=NOW, renew=True)
    with pytest.raises(ConfigError, match="is not a trust domain"):
        workshop.init(tmp_path / "none", trust_domain="A b", lifetime=DAY, now=NOW, renew=False)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"namespace": "a/b"}, "--namespace"),
        ({"service_account": ""}, "--service-account"),
        ({"dns_names": ("Web",)}, "--dns"),
        ({"dns_names": ("a" * 300,)}, "--dns"),
    ],
)
def test_names_that_cannot_be_are_refused(
    tmp_path: Path, ca: Path, changes: dict[str, Any], found: str
) -> None:
    with pytest.raises(ConfigError, match=found):
        workshop.issue(tmp_path / "x", ca, WANTED._replace(**changes), now=NOW, owner=None)


@pytest.mark.parametrize("text", ["", "1", "1d", "-1h", "0s", "9999999999h", "h"])
def test_lifetimes_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--lifetime"):
        workshop.seconds(text)
    assert workshop.seconds("1h30m5s") == 5405


def test_another_programs_authority_is_named_as_unusable(tmp_path: Path, ca: Path) -> None:
    directory = issued(tmp_path, ca)
    for name in (files.BUNDLE, workshop.ROOT_KEY):
        (directory / name).unlink(missing_ok=True)
    (directory / files.BUNDLE).write_bytes((directory / files.CERTIFICATE).read_bytes() * 1)
    (directory / workshop.ROOT_KEY).write_bytes((directory / files.KEY).read_bytes())
    with pytest.raises(ConfigError, match="names no trust domain"):
        workshop.issue(tmp_path / "y", directory, WANTED, now=NOW, owner=None)
    (directory / files.BUNDLE).write_bytes(b"")
    with pytest.raises(ConfigError, match="holds no certificate"):
        workshop.issue(tmp_path / "y", directory, WANTED, now=NOW, owner=None)


def test_the_commands_speak_for_themselves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ca, web = str(tmp_path / "ca"), str(tmp_path / "web")
    owner = f"--owner={os.getuid()}"
    assert gateway.main(["certs", "init", ca]) == 0
    assert gateway.main(["certs", "issue", web, "--authority", ca, "--namespace", "shop", owner]) == 0
    assert "spiffe://cluster.local/ns/shop/sa/default" in capsys.readouterr().out
    assert gateway.main(["certs", "show", web]) == 0
    shown = capsys.readouterr().out
    assert "certificate of spiffe://cluster.local/ns/shop/sa/default: valid until" in shown
    assert "authority of spiffe://cluster.local" in shown
    assert gateway.main(["certs", "show", "--output", "json", f"{web}/tls.crt"]) == 0
    assert '"valid": true' in capsys.readouterr().out
    assert gateway.main(["certs", "rotate", "--authority", ca, "--all", web, owner]) == 0
    assert "was issued anew" in capsys.readouterr().out
    assert gateway.main(["certs", "init", ca]) == 2
    assert gateway.main(["certs", "show", str(tmp_path)]) == 2
    assert gateway.main(["certs", "show", f"{web}/tls.key"]) == 2
    assert "PRIVATE" not in capsys.readouterr().err


def test_roots_of_one_trust_domain_have_names_of_their_own() -> None:
    first, second = (authority.make_root("a", lifetime=DAY, now=NOW) for _ in range(2))
    assert first.certificate != second.certificate
