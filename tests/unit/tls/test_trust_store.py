from __future__ import annotations

from pathlib import Path

import pytest

from interceptor.errors import ConfigError, KernelError
from interceptor.tls import trust_store
from interceptor.tls.trust_store import TrustStore


def contents(store: TrustStore) -> dict[str, list[str]]:
    return {name: Path(path).read_text().split() for name, path in store.variables.items()}


def test_the_app_trusts_whom_it_trusted_and_the_mesh_of_the_moment(tmp_path: Path) -> None:
    (tmp_path / "system").write_text("public")
    (tmp_path / "own").write_text("private")
    environment = {"CURL_CA_BUNDLE": str(tmp_path / "own"), "NODE_EXTRA_CA_CERTS": str(tmp_path / "own")}
    system = (str(tmp_path / "missing"), str(tmp_path / "system"))
    with trust_store.kept(environment, system) as store:
        before = contents(store)
        for bundle in (b"mesh", b"mesh newer", b"newest"):
            store.believe(bundle)
            added = bundle.decode().split()
            assert contents(store) == {
                **{name: ["public", *added] for name in trust_store.INSTEAD},
                "CURL_CA_BUNDLE": ["private", *added],
                "NODE_EXTRA_CA_CERTS": ["private", *added],
            }
        assert all(Path(path).stat().st_mode & 0o777 == 0o644 for path in store.variables.values())
    assert before["SSL_CERT_FILE"] == ["public"]
    assert not any(Path(path).exists() for path in store.variables.values())


def test_without_a_system_bundle_the_mesh_is_all(tmp_path: Path) -> None:
    store = TrustStore(tmp_path, {}, ())
    assert set(store.variables) == {*trust_store.INSTEAD, trust_store.BESIDE}
    assert not any(contents(store).values())
    store.believe(b"mesh")
    assert {*map(tuple, contents(store).values())} == {("mesh",)}


def test_what_the_app_believes_and_cannot_be_read_is_named(tmp_path: Path) -> None:
    environment = {"PIP_CERT": str(tmp_path / "nowhere")}
    with pytest.raises(ConfigError, match=r"nowhere: the authorities that the app believes cannot be read"):
        TrustStore(tmp_path, environment, ())


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    store = TrustStore(tmp_path, {}, ())
    for path in set(store.variables.values()):
        Path(path).unlink()
        Path(path).mkdir()
    with pytest.raises(KernelError, match=r"the app's trust store cannot be written \(Is a directory\)"):
        store.believe(b"mesh")
