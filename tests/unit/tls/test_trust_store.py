from __future__ import annotations

from pathlib import Path

import pytest

from interceptor.errors import ConfigError
from interceptor.tls import trust_store


def test_without_a_bundle_the_app_is_left_alone() -> None:
    with trust_store.given(None, {}) as variables:
        assert variables == {}


def test_the_app_trusts_whom_it_trusted_and_the_mesh(tmp_path: Path) -> None:
    (tmp_path / "ours").write_text("mesh")
    (tmp_path / "system").write_text("public")
    (tmp_path / "own").write_text("private")
    environment = {"CURL_CA_BUNDLE": str(tmp_path / "own"), "NODE_EXTRA_CA_CERTS": str(tmp_path / "own")}
    system = (str(tmp_path / "missing"), str(tmp_path / "system"))
    with trust_store.given(str(tmp_path / "ours"), environment, system) as variables:
        contents = {name: Path(path).read_text().split() for name, path in variables.items()}
        assert all(Path(path).stat().st_mode & 0o777 == 0o644 for path in variables.values())
    assert contents == {
        **{name: ["public", "mesh"] for name in trust_store.INSTEAD},
        "CURL_CA_BUNDLE": ["private", "mesh"],
        "NODE_EXTRA_CA_CERTS": ["private", "mesh"],
    }
    assert not any(Path(path).exists() for path in variables.values())


def test_without_a_system_bundle_the_mesh_is_all(tmp_path: Path) -> None:
    (tmp_path / "ours").write_text("mesh")
    with trust_store.given(str(tmp_path / "ours"), {}, ()) as variables:
        assert Path(variables["SSL_CERT_FILE"]).read_text() == "mesh"
        assert Path(variables["NODE_EXTRA_CA_CERTS"]).read_text() == "mesh"


def test_a_bundle_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere: the trust bundle cannot be read"):
        with trust_store.given(str(tmp_path / "nowhere"), {}):
            pass
