from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from interceptor.errors import ConfigError
from interceptor.model.identity import CertificateFiles
from interceptor.tls import files
from interceptor.tls.authority import Pair
from interceptor.tls.rotation import REMIND, Keeper, watch
from tests.support.identities import HOUR, Root, write
from tests.support.until import until


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def root() -> Root:
    return Root()


def secret(directory: Path, pair: Pair, *roots: Root) -> CertificateFiles:
    """As Kubernetes mounts it, with a ..data link."""
    bundle = b"".join(each.pair.certificate for each in roots)
    files.write(directory, {files.CERTIFICATE: pair.certificate, files.KEY: pair.key, files.BUNDLE: bundle})
    return CertificateFiles(*(str(directory / name) for name in (files.CERTIFICATE, files.KEY, files.BUNDLE)))


def keeper(paths: CertificateFiles, clock: Callable[[], float] = time.time) -> Keeper:
    return Keeper(paths, trust_domain="cluster.local", wall_clock=clock)


async def test_a_swapped_link_brings_new_contexts_and_the_old_stay_for_who_has_them(
    tmp_path: Path, root: Root, autojump_clock: trio.testing.MockClock
) -> None:
    kept = keeper(secret(tmp_path, root.issue(), root))
    old = kept.current
    looks: list[dict[str, float]] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, lambda: [kept], looks.append)
        await until(lambda: len(looks) > 1)
        assert kept.current is old
        secret(tmp_path, root.issue(), Root(), root)
        await until(lambda: kept.current is not old)
        nursery.cancel_scope.cancel()
    assert kept.current is not old
    assert kept.current.material.chain != old.material.chain
    assert len(kept.current.material.bundle) == 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path, root: (path / "tls.key").write_bytes(root.issue().key),
        lambda path, _: (path / "tls.crt").write_bytes(b""),
        lambda path, _: (path / "ca.crt").write_bytes(b""),
        lambda path, _: (path / "ca.crt").unlink(),
        lambda path, root: (path / "tls.crt").write_bytes(root.odd(ends=-1).certificate),
    ],
    ids=["mismatch", "cut off", "bundle emptied", "bundle gone", "expired"],
)
async def test_what_cannot_be_used_is_refused_once_and_the_old_pair_stays(
    tmp_path: Path, root: Root, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path, Root], None],
    autojump_clock: trio.testing.MockClock,
) -> None:  # fmt: skip
    kept = keeper(write(tmp_path, root.issue(), root))
    old = kept.current
    looks: list[dict[str, float]] = []
    spoil(tmp_path, root)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, lambda: [kept], looks.append)
        await until(lambda: len(looks) > 3)
        nursery.cancel_scope.cancel()
    assert kept.current is old
    [told] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "the old ones stay in use" in told.getMessage()


def test_a_pair_that_is_written_file_by_file_is_taken_when_it_belongs_together(
    tmp_path: Path, root: Root
) -> None:
    kept = keeper(write(tmp_path, root.issue(), root))
    fresh = root.issue()
    (tmp_path / "tls.crt").write_bytes(fresh.certificate)
    assert [kept.changed, kept.reload(), kept.changed] == [True, False, False]
    (tmp_path / "tls.key").write_bytes(fresh.key)
    assert [kept.changed, kept.reload(), kept.changed] == [True, True, False]


def test_bad_files_at_the_start_are_an_error(tmp_path: Path, root: Root) -> None:
    with pytest.raises(ConfigError, match="trust_domain"):
        keeper(write(tmp_path, root.odd(uris=("spiffe://b/ns/a/sa/b",)), root))


def test_expiry_is_told_in_time_and_then_closes(
    tmp_path: Path, root: Root, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    paths = write(tmp_path, root.issue(lifetime=HOUR), root)
    kept = keeper(paths, clock)
    kept.remind()
    assert not caplog.records
    assert kept.warning() is None
    assert kept.refusal() is None
    assert kept.expiries()[str(paths.certificate)] == pytest.approx(HOUR, abs=5)
    clock.now += 0.8 * HOUR
    kept.remind()
    kept.remind()
    assert [("expires in" in record.getMessage()) for record in caplog.records] == [True]
    assert "expires in 12 minutes and was not rotated" in str(kept.warning())
    clock.now += 0.3 * HOUR
    kept.remind()
    kept.remind()
    assert [("has expired" in record.getMessage()) for record in caplog.records] == [False, True]
    assert "has expired" in str(kept.warning())
    clock.now += REMIND
    kept.remind()
    assert len(caplog.records) == 3
    refusal = kept.refusal()
    assert refusal is not None
    assert refusal.reason == "expired"


def test_the_dump_shows_certificates_and_no_key(tmp_path: Path, root: Root) -> None:
    kept = keeper(write(tmp_path, root.issue(dns_names=("a.b",)), root))
    dump = kept.dump()
    assert dump["identity"] == "spiffe://cluster.local/ns/shop/sa/web"
    assert "PRIVATE" not in str(dump)
    assert "{'dns': 'a.b'}" in str(dump)
    assert "cluster.local/ns/shop/sa/web, valid for 60 minutes" in str(kept)
