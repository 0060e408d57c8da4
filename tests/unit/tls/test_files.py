from __future__ import annotations

import os
from pathlib import Path

import pytest

from interceptor.errors import ConfigError
from interceptor.tls.files import BUNDLE, CERTIFICATE, KEY, write

SET = {CERTIFICATE: b"certificate", KEY: b"key", BUNDLE: b"bundle"}


def generations(directory: Path) -> list[str]:
    """The directories that hold a set."""
    return [each.name for each in directory.iterdir() if each.is_dir() and not each.is_symlink()]


def test_a_set_is_behind_one_link_and_the_key_is_for_its_owner(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "tls"
    write(directory, SET)
    assert {name: (directory / name).read_bytes() for name in SET} == SET
    assert {(directory / name).readlink() for name in SET} == {Path(f"..data/{name}") for name in SET}
    assert [(directory / name).stat().st_mode & 0o777 for name in SET] == [0o644, 0o600, 0o644]


def test_a_new_set_takes_the_place_of_the_old_one_as_a_whole(tmp_path: Path) -> None:
    write(tmp_path, SET)
    first = generations(tmp_path)
    names = [(tmp_path / name).lstat().st_ino for name in SET]
    write(tmp_path, {**SET, KEY: b"another"})
    assert (tmp_path / KEY).read_bytes() == b"another"
    assert len(generations(tmp_path)) == 1
    assert generations(tmp_path) != first, "the old one is gone"
    assert [(tmp_path / name).lstat().st_ino for name in SET] == names, "the names were not touched"


def test_plain_files_and_what_a_crash_left_are_replaced(tmp_path: Path) -> None:
    (tmp_path / CERTIFICATE).write_bytes(b"plain")
    (tmp_path / f"..link{KEY}").symlink_to("nowhere")
    write(tmp_path, SET)
    assert {name: (tmp_path / name).read_bytes() for name in SET} == SET
    assert not (tmp_path / f"..link{KEY}").is_symlink()


def test_a_foreign_link_keeps_what_it_leads_to(tmp_path: Path) -> None:
    """A ``..data`` that somebody made himself: it is led elsewhere, and its target is his."""
    (tmp_path / "his").mkdir()
    (tmp_path / "..data").symlink_to("his")
    write(tmp_path, SET)
    assert (tmp_path / "his").is_dir()
    assert (tmp_path / KEY).read_bytes() == b"key"


def test_the_owner_is_given_everything(tmp_path: Path) -> None:
    write(tmp_path, SET, owner=os.getuid())
    assert {(tmp_path / name).stat().st_uid for name in SET} == {os.getuid()}


def test_a_failure_leaves_the_old_set_and_nothing_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, SET)
    before = sorted(each.name for each in tmp_path.iterdir())

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        write(tmp_path, {**SET, KEY: b"another"})
    assert (tmp_path / KEY).read_bytes() == b"key"
    assert sorted(each.name for each in tmp_path.iterdir()) == before


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="name a directory of yours"):
        write(tmp_path / "file" / "tls", SET)
